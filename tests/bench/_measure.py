"""How every benchmark measures: candidates and peers take turns, and only ratios of one run count.

A machine's speed drifts, so what is compared alternates round by round: the ratio of two candidates
is the median of their ratios within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one candidate, a value a round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The least disturbed round."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The round in the middle."""
        return statistics.median(self.seconds)


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
    warm_up: bool = True,
) -> dict[str, Timing]:
    """Time every candidate once a round, `rounds` times, in turn.

    prepare: called, untimed, before each call. warm_up: call each once before, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, call in candidates.items():
            prepare()
            started = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


def ratio(candidate: Timing, peer: Timing) -> float:
    """The candidate's time over the peer's: median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(candidate.seconds, peer.seconds, strict=True))


def report(title: str, timings: Mapping[str, Timing], *, candidate: str, target: str = "") -> None:
    """Print minimum and median of each candidate, and the ratio of one of them to each other."""
    print(f"\n{title}" + (f"  [target: {target}]" if target else ""))
    width = max(map(len, timings))
    for name, timing in timings.items():
        line = f"  {name:<{width}}  min {timing.minimum:9.3f} s   median {timing.median:9.3f} s"
        if name != candidate:
            line += f"   {candidate} is {ratio(timings[candidate], timing):6.2f}x this"
        print(line)
