"""Ends workers in the middle of things: which moments, with which signal, and waiting for them to come."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nexa.events.reader import EventReader
from nexa.runs.state import run_status
from nexa.runs.store import Run
from nexa.worker.identity import Liveness

SIGNALS = (signal.SIGTERM, signal.SIGKILL)
_POLL_SECONDS = 0.005
_STATUS_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where an undisturbed run was: a phase (training, evaluating, saving, …) at a step, and for how long."""

    phase: str
    step: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One cut to make: `signal` to one worker, `delay` seconds after it reaches a phase at a step."""

    phase: str
    step: int
    signal: signal.Signals
    delay: float


def moments(run: Run) -> list[Moment]:
    """What rank 0 of a finished run did, from its progress events; moments without a step are left out."""
    found = []
    for attempt in run.attempts:
        records = [record for record in EventReader(attempt.events_path).poll() if record["type"] == "progress"]
        for record, following in pairwise(records):
            if record.get("step") is not None and record.get("total_steps") is not None:
                seconds = max(0.0, following["ts"] - record["ts"])
                found.append(Moment(phase=record["phase"], step=record["step"], seconds=seconds))
    return [moment for moment in found if moment.phase not in ("loading", "tokenizing")]


def choose_cuts(candidates: Iterable[Moment], count: int, seed: int, *, first_save: int) -> list[Cut]:
    """`count` cuts at different random moments, in order of steps; both signals take turns, the first at random.

    One cut is in each phase that the run went through, as far as `count` allows; the rest fall anywhere
    behind step `first_save`, since a run without a checkpoint begins anew and shows nothing, and before
    the last step, behind which there is nothing left to do.
    """
    chance = random.Random(seed)
    places = {(moment.step, moment.phase): moment for moment in candidates}
    last = max((step for step, _ in places), default=0)
    pool = [moment for moment in places.values() if first_save < moment.step < last]
    chance.shuffle(pool)
    first_of_phase = list({moment.phase: moment for moment in reversed(pool)}.values())
    chosen = [*first_of_phase, *(moment for moment in pool if moment not in first_of_phase)][:count]
    turn = chance.randrange(len(SIGNALS))
    return [
        Cut(
            phase=moment.phase,
            step=moment.step,
            signal=SIGNALS[(turn + number) % len(SIGNALS)],
            delay=chance.random() * moment.seconds,
        )
        for number, moment in enumerate(sorted(chosen, key=lambda moment: moment.step))
    ]


def make_cut(run: Run, cut: Cut, chance: random.Random) -> bool:
    """Wait until the run's newest attempt reaches the moment, then send the signal to one of its workers.

    Returns False when the run ended before. A moment that the attempt has passed already, because it
    continued from behind it, is taken to be reached.
    """
    attempt = run.attempts[-1]
    reader = EventReader(attempt.events_path)
    next_status = 0.0
    while not _reached(reader.poll(), cut):
        if time.monotonic() >= next_status:
            if not run_status(run).active:
                return False
            next_status = time.monotonic() + _STATUS_SECONDS
        time.sleep(_POLL_SECONDS)
    time.sleep(cut.delay)
    workers = attempt.workers()
    rank = chance.choice(sorted(workers))
    if workers[rank].liveness() is not Liveness.ALIVE or attempt.read("result") is not None:
        return False
    os.kill(workers[rank].pid, cut.signal)
    return True


def _reached(records: Sequence[dict[str, object]], cut: Cut) -> bool:
    """Whether one of the records says that the run is at the cut's moment or behind its step."""
    for record in records:
        step = record.get("step")
        if record.get("type") != "progress" or not isinstance(step, int) or record.get("total_steps") is None:
            continue
        if record.get("phase") in ("loading", "tokenizing"):
            continue
        if step > cut.step or (step == cut.step and record.get("phase") == cut.phase):
            return True
    return False
