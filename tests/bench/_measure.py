"""How every benchmark measures: candidates and peers take turns, and only ratios of one run count.

A machine's speed drifts, so what is compared alternates round by round: the ratio of two candidates
is the median of their ratios within a round.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate by the clock of its measurement, a value a round."""

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
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every candidate once a round, `rounds` times, in turn.

    prepare: called, untimed, before each call. warm_up: call each once before, untimed. clock: in seconds;
    `time.process_time` counts processor time alone, on a machine that has other work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, call in candidates.items():
            prepare()
            started = clock()
            call()
            if turn >= 0:
                seconds[name].append(clock() - started)
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


def own_memory(key: str) -> int:
    """A line of /proc/self/status, such as VmRSS, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:")) * 1024


def peak_memory(step: Callable[[], object]) -> int:
    """Bytes of resident memory that a call takes at most above what this process holds before it."""
    before = own_memory("VmRSS")
    # Writing 5 starts the mark anew; what the process that started this one used is not counted.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    step()
    return own_memory("VmHWM") - before


def in_own_process(call: Callable[..., float], *arguments: Any) -> float:
    """What a call returns in a process of its own, where nothing else has set a mark of memory before."""
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_answer, args=(answers, call, arguments))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def _answer(answers: multiprocessing.Queue[float], call: Callable[..., float], arguments: tuple[Any, ...]) -> None:
    answers.put(call(*arguments))
