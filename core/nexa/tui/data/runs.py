"""All runs of a folder with their status, kept up to date at little cost.

One poll asks anew only about runs that may change: those not ended, those not yet known, and in turn
a share of the ended ones, since any of them may be resumed from another terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexa.errors import NexaError
from nexa.runs.progress import seconds_left
from nexa.runs.state import ENDED, RunStatus, State, run_statuses
from nexa.runs.store import Run, RunStore
from nexa.text import sanitize_line

_ENDED_SHARE = 250
_NEW_SHARE = 250
# Some file systems keep times to the second, and two changes within one look like one.
_TIME_GRAIN_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """What a list of runs shows of one; all text is safe to draw.

    state: None until it was read. node: host of its supervisor. eta_seconds: None unless training.
    attempts: how many were begun. search: lower-case text that a filter looks in.
    """

    run_id: str
    name: str = ""
    recipe: str = ""
    state: State | None = None
    reason: str = ""
    step: int | None = None
    total_steps: int | None = None
    eta_seconds: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    node: str = ""
    created_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    search: str = field(default="", repr=False)

    @property
    def active(self) -> bool:
        """Whether the run may still change by itself."""
        return self.state is None or self.state not in ENDED


@dataclass(frozen=True, kw_only=True)
class RunList:
    """Rows, newest first. pending: how many of them were not read yet."""

    rows: Sequence[RunRow]
    pending: int = 0


class RunCatalog:
    """Reads the rows of a run store; for one thread at a time.

    clock: unix seconds. statuses: how runs are judged, `run_statuses` unless a test says otherwise.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        clock: Callable[[], float],
        statuses: Callable[..., Sequence[RunStatus]] = run_statuses,
    ) -> None:
        self._store = store
        self._clock = clock
        self._statuses = statuses
        self._runs: dict[str, Run] = {}
        self._rows: dict[str, RunRow] = {}
        self._names: list[str] = []
        self._unfinished: set[str] = set()
        self._listed_at: tuple[int, int] | None = None
        self._next_ended = 0

    def poll(self) -> RunList:
        """Bring the list up to date. Raises UserError when the folder can't be read."""
        self._list()
        now = self._clock()
        due = list(dict.fromkeys((*self._new(), *self._active(), *self._some_ended())))
        for run_id, row in zip(due, self._read([self._runs[run_id] for run_id in due], now), strict=True):
            self._rows[run_id] = row
        rows = [self._rows.get(run_id) or _unread(run_id) for run_id in self._names]
        return RunList(rows=rows, pending=len(self._names) - len(self._rows))

    def _list(self) -> None:
        """Find the runs, unless the folder is as it was."""
        try:
            status = self._store.root.stat()
        except FileNotFoundError:
            self._names, self._rows, self._listed_at = [], {}, None
            return
        except OSError as error:
            raise NexaError(f"runs in {self._store.root} can't be read: {error.strerror}") from error
        stamp = (status.st_mtime_ns, status.st_ino)
        settled = self._clock() - status.st_mtime > _TIME_GRAIN_SECONDS
        if stamp == self._listed_at and settled and not self._unfinished:
            return
        self._listed_at = stamp
        known = self._runs
        found: dict[str, Run] = {}
        self._unfinished = set()
        for name in sorted((path.name for path in self._store.root.iterdir()), reverse=True):
            path = self._store.root / name
            if name in known:
                found[name] = known[name]
            elif (path / "run.json").is_file():
                found[name] = Run(path)
            elif self._clock() - _mtime(path) < _TIME_GRAIN_SECONDS:
                # A launch at this moment writes run.json last.
                self._unfinished.add(name)
        self._runs = found
        self._names = list(found)
        self._rows = {name: row for name, row in self._rows.items() if name in found}

    def _new(self) -> Iterator[str]:
        unread = (name for name in self._names if name not in self._rows)
        for _, name in zip(range(_NEW_SHARE), unread, strict=False):
            yield name

    def _active(self) -> Iterator[str]:
        return (name for name, row in self._rows.items() if row.active)

    def _some_ended(self) -> Iterator[str]:
        """The next share of ended runs that have changed since they were read."""
        ended = [name for name, row in self._rows.items() if not row.active]
        if not ended:
            return
        begin = self._next_ended % len(ended)
        self._next_ended = begin + _ENDED_SHARE
        for name in ended[begin : begin + _ENDED_SHARE]:
            # A resume adds a folder to attempts/.
            if len(self._runs[name].attempts) != self._rows[name].attempts:
                yield name

    def _read(self, runs: Sequence[Run], now: float) -> list[RunRow]:
        if not runs:
            return []
        try:
            return [make_row(run, status) for run, status in zip(runs, self._statuses(runs, now=now), strict=True)]
        except (NexaError, ValueError, TypeError, KeyError, AttributeError, OSError):
            # One damaged run must not hide the others.
            return [self._read_one(run, now) for run in runs]

    def _read_one(self, run: Run, now: float) -> RunRow:
        try:
            return make_row(run, self._statuses([run], now=now)[0])
        except (NexaError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            words = error.message if isinstance(error, NexaError) else f"its files are damaged: {error!r}"
            return RunRow(
                run_id=run.run_id,
                name=sanitize_line(run.run_id),
                state=State.FAILED,
                reason=sanitize_line(words),
                attempts=len(run.attempts),
                search=run.run_id.lower(),
            )


def make_row(run: Run, status: RunStatus) -> RunRow:
    """The row of a run with this status. Raises RunError for a damaged run.json."""
    document: dict[str, Any] = run.document
    attempt = run.latest_attempt
    identity = attempt.identity("supervisor") if attempt else None
    name, recipe = sanitize_line(str(document.get("name"))), sanitize_line(str(document.get("recipe_name")))
    node, reason = sanitize_line(identity.host if identity else ""), sanitize_line(status.reason)
    left = seconds_left(status.step, status.total_steps, status.metrics.get("step_seconds"))
    return RunRow(
        run_id=sanitize_line(run.run_id),
        name=name,
        recipe=recipe,
        state=status.state,
        reason=reason,
        step=status.step,
        total_steps=status.total_steps,
        eta_seconds=left if status.state is State.RUNNING else None,
        loss=status.metrics.get("loss"),
        tokens_per_second=status.metrics.get("tokens_per_second"),
        node=node,
        created_at=status.created_at,
        ended_at=status.ended_at,
        attempts=attempt.number if attempt else 0,
        search=" ".join((run.run_id, name, recipe, status.state, node, reason)).lower(),
    )


def matching(rows: Sequence[RunRow], query: str) -> list[RunRow]:
    """Rows in which every word of `query` occurs; a word that begins with "-" must not occur."""
    words = query.lower().split()
    wanted = [word for word in words if not word.startswith("-") or word == "-"]
    unwanted = [word[1:] for word in words if word.startswith("-") and word != "-"]
    return [
        row
        for row in rows
        if all(word in row.search for word in wanted) and not any(word in row.search for word in unwanted)
    ]


def _unread(run_id: str) -> RunRow:
    safe = sanitize_line(run_id)
    # `YYYYMMDD-HHMMSS-<name>-<suffix>`
    return RunRow(run_id=safe, name=safe[16:].rpartition("-")[0] or safe, search=safe.lower())


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
