"""Everything that the Run screen shows of one run, read in one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nexa.errors import NexaError
from nexa.runs.progress import TimeLeft, time_left
from nexa.runs.samples import SampleChange
from nexa.runs.state import RunStatus, State, run_statuses
from nexa.runs.store import Run
from nexa.text import sanitize_line
from nexa.tui.charts.curves import CurveReader, Curves
from nexa.tui.data.events import EventLog, HappenedEvent, Readings

_RECENT_POINTS = 50


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """A run at one moment; text is safe to draw. left: time to its last step, None unless it trains.

    facts: name, recipe, method, backend, scheduler, node. events: newest first. trouble: why the run
    can't be read, "" when it can.
    """

    run_id: str
    now: float
    status: RunStatus
    facts: Mapping[str, str] = field(default_factory=dict)
    curves: Curves = field(default_factory=Curves)
    left: TimeLeft | None = None
    samples: Sequence[SampleChange] = ()
    events: Sequence[HappenedEvent] = ()
    meters: Mapping[int, Readings] = field(default_factory=dict)
    trouble: str = ""


class RunReader:
    """Reads one run again and again; each poll costs what is new."""

    def __init__(self, run: Run, *, clock: Callable[[], float]) -> None:
        self.run = run
        self._clock = clock
        self._curves = CurveReader(run.path / "events")
        self._events = EventLog(run.path / "events")

    def poll(self, weight: float) -> RunSnapshot:
        """The run now, its curves smoothed with this weight of the past; never raises for a damaged run."""
        now = self._clock()
        run_id = sanitize_line(self.run.run_id)
        try:
            status = run_statuses([self.run], now=now)[0]
            facts = self._facts()
        except (NexaError, ValueError, TypeError, KeyError, AttributeError) as error:
            words = sanitize_line(error.message if isinstance(error, NexaError) else repr(error))
            return RunSnapshot(
                run_id=run_id, now=now, status=RunStatus(state=State.FAILED, reason=words), trouble=words
            )
        curves = self._curves.poll(weight)
        self._events.poll()
        return RunSnapshot(
            run_id=run_id,
            now=now,
            status=status,
            facts=facts,
            curves=curves,
            left=self._left(status),
            samples=self._events.samples,
            events=list(reversed(self._events.events)),
            meters=dict(self._events.meters),
        )

    def _facts(self) -> dict[str, str]:
        document: Mapping[str, Any] = self.run.document
        names = ("name", "recipe_name", "method", "backend", "scheduler", "user", "parent")
        facts = {name: sanitize_line(str(document.get(name) or "")) for name in names}
        attempt = self.run.latest_attempt
        identity = attempt.identity("supervisor") if attempt else None
        return {**facts, "node": sanitize_line(identity.host if identity else "")}

    def _left(self, status: RunStatus) -> TimeLeft | None:
        if status.state is not State.RUNNING or status.total_steps is None:
            return None
        return time_left(*self._curves.recent(_RECENT_POINTS), status.total_steps)
