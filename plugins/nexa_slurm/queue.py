"""One look at Slurm's queue for everybody: batched, at most six a minute for all processes of a user.

What squeue said is kept in a file of the user's cache folder, under a lock, so that any number of
watching commands ask the controller one question at a time. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nexa import units
from nexa.errors import NexaError
from nexa.scheduler import JobState
from nexa_slurm.commands import run_slurm
from nexa_slurm.login import LoginNode
from nexa_slurm.states import job_state, reason_in_words

INTERVAL_SECONDS = 10.0
QUERIES_PER_MINUTE = 6
MACHINES_SECONDS = 20.0
_LOCK_SECONDS = 30.0
_SEPARATOR = "\x1f"
_COLUMNS = ("job_id", "state", "reason", "nodes", "num_nodes", "partition", "submitted", "started", "limit", "uid")
_FORMAT = _SEPARATOR.join(("%i", "%T", "%r", "%N", "%D", "%P", "%V", "%S", "%l", "%U", "%j", "%k"))


@dataclass(frozen=True, kw_only=True)
class QueuedEntry:
    """One job as squeue shows it; times are Unix seconds, None where Slurm gives none."""

    job_id: str
    state: str
    reason: str
    nodes: str
    num_nodes: int
    partition: str
    submitted_at: float | None
    started_at: float | None
    limit_seconds: float | None
    name: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The queue at `taken_at` (Unix seconds; 0 before the first answer).

    problem: Slurm's words when it last gave no answer, "" when it did; since: when that began.
    ended: what was learned of jobs that left the queue, by id.
    """

    taken_at: float = 0.0
    entries: Mapping[str, QueuedEntry] = field(default_factory=dict)
    problem: str = ""
    since: float = 0.0
    ended: Mapping[str, str] = field(default_factory=dict)


class JobQueue:
    """The user's view of Slurm's queue; `folder` holds the shared file, by default in the user's cache.

    at: the login node that is asked, None for this machine.
    """

    def __init__(self, folder: Path | None = None, at: LoginNode | None = None) -> None:
        self.at = at
        place = os.environ.get("SLURM_CONF", "") if at is None else json.dumps(at.document())
        cluster = hashlib.sha256(place.encode()).hexdigest()[:12]
        self._path = (folder or _cache_folder()) / f"queue-{os.getuid()}-{cluster}.json"

    def snapshot(self, *, newer_than: float = 0.0, uids: Collection[int] = ()) -> Snapshot:
        """The queue as it was at most some seconds ago, asked for again where the rate allows.

        newer_than: moment (Unix seconds) of something the caller did, whose effect it wants to see.
        uids: users whose jobs matter beside this user's.
        """
        users = {os.getuid(), *uids}
        document = self._read()
        if _is_fresh(document, newer_than, users):
            return _snapshot(document)
        with self._locked() as held:
            document = self._read()
            # Another process may have asked while this one waited for the lock.
            if held and not _is_fresh(document, newer_than, users) and _may_ask(document):
                document = _ask(document, users, self.at)
                self._write(document)
        return _snapshot(document)

    def ended(self, job_id: str, ask: Callable[[], str]) -> str:
        """What `ask` says of a job that has left the queue; asked once, and within the rate."""
        document = self._read()
        if job_id in document.get("ended", {}):
            return str(document["ended"][job_id])
        with self._locked() as held:
            document = self._read()
            if not held or not _may_ask(document):
                return ""
            try:
                answer = ask()
            except NexaError:
                answer = ""
            known = {**document.get("ended", {}), job_id: answer}
            newest = dict(list(known.items())[-200:])
            self._write({**document, "ended": newest, "asked": [*_recent(document), time.time()]})
        return answer

    def machines(self, ask: Callable[[], dict[str, str]]) -> dict[str, str]:
        """What `ask` says of the cluster's nodes and partitions, some seconds old, the same for all processes.

        Raises what `ask` raises.
        """
        with self._locked():
            known = self._read().get("machines") or {}
            if time.time() - known.get("taken_at", 0.0) < MACHINES_SECONDS:
                return dict(known["answer"])
            answer = ask()
            self._write({**self._read(), "machines": {"taken_at": time.time(), "answer": answer}})
        return answer

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _write(self, document: Mapping[str, Any]) -> None:
        """Share what is known; a full or read-only disk costs only the sharing."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(document), encoding="utf-8")
            temporary.chmod(0o600)
            temporary.replace(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the lock of all processes of this user; False where it was not to be had in time."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._path.with_suffix(".lock").open("ab")
        except OSError:
            yield True
            return
        with lock:
            yield _try_lock(lock.fileno())


def _try_lock(descriptor: int) -> bool:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError:
            # A file system without locks; the rate is then kept by each process alone.
            return True
        else:
            return True


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexa" / "slurm"


def _recent(document: Mapping[str, Any]) -> list[float]:
    """Moments of the last minute's questions."""
    now = time.time()
    return [moment for moment in document.get("asked", []) if 0 <= now - moment < 60.0]


def _may_ask(document: Mapping[str, Any]) -> bool:
    return len(_recent(document)) < QUERIES_PER_MINUTE


def _is_fresh(document: Mapping[str, Any], newer_than: float, users: Collection[int]) -> bool:
    recent = _recent(document)
    last = recent[-1] if recent else 0.0
    if not set(users) <= set(document.get("users", [])):
        return False
    return last > newer_than and time.time() - last < INTERVAL_SECONDS


def _ask(document: Mapping[str, Any], users: Collection[int], at: LoginNode | None) -> dict[str, Any]:
    """The document after asking squeue; an answer that does not come leaves the entries as they were."""
    asked_at = time.time()
    # Users that others asked about lately stay in, so that watchers of two users do not take turns.
    everybody = sorted({*users, *document.get("users", [])})
    updated = {**document, "asked": [*_recent(document), asked_at], "users": everybody}
    # On another machine this user may have another number.
    whose = f"--user={','.join(map(str, everybody))}" if at is None else "--me"
    argv = ["squeue", "--noheader", "--array", "--states=all", whose, f"--format={_FORMAT}"]
    try:
        text = run_slurm(argv, at=at, SLURM_TIME_FORMAT="%s")
    except NexaError as error:
        words = error.message
        return {**updated, "problem": words, "since": document.get("since") or asked_at}
    entries = {entry.job_id: asdict(entry) for entry in map(_entry, text.splitlines()) if entry is not None}
    return {**updated, "taken_at": asked_at, "entries": entries, "problem": "", "since": 0.0}


def _entry(line: str) -> QueuedEntry | None:
    parts = line.split(_SEPARATOR)
    if len(parts) < len(_COLUMNS) + 2:
        return None
    value = dict(zip(_COLUMNS, parts, strict=False))
    return QueuedEntry(
        job_id=value["job_id"],
        state=value["state"],
        reason=value["reason"],
        nodes=value["nodes"],
        num_nodes=int(value["num_nodes"]) if value["num_nodes"].isdigit() else 1,
        partition=value["partition"],
        submitted_at=_moment(value["submitted"]),
        started_at=_moment(value["started"]),
        limit_seconds=limit_seconds(value["limit"]),
        name=parts[-2],
        comment=parts[-1],
    )


def _moment(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def limit_seconds(text: str) -> float | None:
    """Seconds of Slurm's [DAYS-][HOURS:]MINUTES:SECONDS; None for UNLIMITED and the like."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")):
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds + int(days or "0") * 86400


def _snapshot(document: Mapping[str, Any]) -> Snapshot:
    entries = {job_id: QueuedEntry(**entry) for job_id, entry in document.get("entries", {}).items()}
    snapshot = Snapshot(taken_at=document.get("taken_at", 0.0), entries=entries, ended=document.get("ended", {}))
    return replace(snapshot, problem=document.get("problem", ""), since=document.get("since", 0.0))


def pending_reason(entry: QueuedEntry) -> str:
    """Why a job waits and when Slurm expects to start it, in words."""
    state, words = job_state(entry.state)
    words = words or reason_in_words(entry.reason)
    expected = state is JobState.PENDING and "held" not in words
    if expected and entry.started_at is not None and entry.started_at > time.time():
        words += f"; Slurm expects to start it at {units.clock(entry.started_at)}"
    return words
