"""Who is there: every process signs in before the group forms, and goes on saying that it lives.

Collectives tell only that they failed, and only after their time-out; the store that the processes
met at tells which of them never came, failed with an error of its own, or fell silent.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import DistStoreError, Store

from nexa.errors import NexaError, UserError, WorkerError
from nexa.worker.identity import Liveness, ProcessIdentity

BEAT_SECONDS = 2.0
_SILENT_SECONDS = 3 * BEAT_SECONDS
_POLL_SECONDS = 0.05
_FAILURE_GRACE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Member:
    """One process as it signed in."""

    rank: int
    world_size: int
    device: str
    process: ProcessIdentity

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.process.host}, process {self.process.pid})"

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; of another machine's nothing is known."""
        return self.process.liveness() is Liveness.GONE

    @classmethod
    def from_text(cls, text: str) -> Member:
        """Read what another process signed in with."""
        values = json.loads(text)
        return cls(**{**values, "process": ProcessIdentity(**values["process"])})


class Presence:
    """The roll of a group, kept in the store the processes met at."""

    def __init__(self, store: Store, member: Member, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._me = member
        self._clock = clock
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._beats: dict[int, tuple[int, float]] = {}
        self.members: dict[int, Member] = {member.rank: member}

    def sign_in(self, timeout: float) -> None:
        """Write this process into the roll and wait until all are there.

        timeout: seconds. Raises WorkerError naming who is missing, who expects another number of
        processes, and which two share a device.
        """
        self._store.set(f"member/{self._me.rank}", json.dumps(asdict(self._me)))
        deadline = self._clock() + timeout
        missing = set(range(self._me.world_size)) - {self._me.rank}
        while missing:
            for rank in sorted(missing):
                if (member := self._read(rank)) is not None:
                    self._check(member)
                    self.members[rank] = member
                    missing.discard(rank)
            if missing and self._clock() > deadline:
                raise WorkerError(
                    f"{_ranks(missing)} of {self._me.world_size} did not come to the meeting within {timeout:g} s; "
                    f"there are {', '.join(map(str, self.present))}",
                    hint="see their logs and their machines; a longer wait: distributed.timeout_seconds",
                )
            if missing:
                time.sleep(_POLL_SECONDS)
        self._check_devices()

    @property
    def present(self) -> list[Member]:
        """Who has signed in, by rank."""
        return [self.members[rank] for rank in sorted(self.members)]

    def _check(self, other: Member) -> None:
        if other.world_size != self._me.world_size:
            raise WorkerError(
                f"{other} expects {other.world_size} processes and {self._me} expects {self._me.world_size}",
                hint="all processes of a run must be started by the same launch",
            )

    def _check_devices(self) -> None:
        taken: dict[tuple[str, str], Member] = {}
        for member in self.present:
            # CPU and MPS are shared.
            if (
                ":" in member.device
                and (other := taken.setdefault((member.process.host, member.device), member)) is not member
            ):
                raise WorkerError(
                    f"{other} and {member} use the same device {member.device}",
                    hint="start one process for each GPU, with LOCAL_RANK set",
                )

    def arrived(self, mark: str, flag: bool = False) -> None:
        """Note that this rank reached a place in the program, with a flag for the others."""
        self._store.set(f"at/{mark}/{self._me.rank}", str(int(flag)))

    def gather(self, mark: str, flag: bool) -> bool:
        """Wait until all have reached a place; see `Ranks.gather`."""
        self.arrived(mark, flag)
        while absent := self.absent_from(mark):
            self._raise_failures(absent)
            self._require_store()
            time.sleep(_POLL_SECONDS)
        return any(self._get(f"at/{mark}/{member.rank}") == "1" for member in self.present)

    def _require_store(self) -> None:
        """Raise WorkerError when the store is gone, without which nobody would be seen to come."""
        try:
            self._store.check([f"member/{self._me.rank}"])
        except (DistStoreError, RuntimeError) as error:
            raise WorkerError(
                f"{self._me} lost the machine that all processes met at: {str(error).strip().splitlines()[0]}",
                hint="it is where rank 0 and its launcher ran; see its log, then: nexa resume",
            ) from error

    def _raise_failures(self, members: Iterable[Member]) -> None:
        """Raise what a member failed with, or that it ended."""
        gone = []
        for member in members:
            # Gone first: one that fails leaves its reason before it ends.
            ended = member.is_gone
            if (failure := self._failure(member)) is not None:
                raise failure
            if ended:
                gone.append(member)
        if gone:
            raise _gone(gone)

    def absent_from(self, mark: str) -> list[Member]:
        """Who has not reached that place."""
        return [member for member in self.present if not self._has(f"at/{mark}/{member.rank}")]

    def start_beating(self) -> None:
        """Say from a thread of its own that this process lives, until `finish`."""
        self._thread = threading.Thread(target=self._beat, name="presence", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_SECONDS if count else 0):
            count += 1
            try:
                self._store.set(f"beat/{self._me.rank}", str(count))
            except (DistStoreError, RuntimeError):
                return

    def fail(self, error: BaseException) -> None:
        """Leave the reason why this rank can't go on, for those that wait for it."""
        known = isinstance(error, NexaError)
        reason = {
            "message": error.message if isinstance(error, NexaError) else f"{type(error).__name__}: {error}",
            "hint": error.hint if isinstance(error, NexaError) else None,
            "known": known,
            "exit_code": error.exit_code if isinstance(error, NexaError) else 1,
        }
        try:
            self._store.set(f"failed/{self._me.rank}", json.dumps(reason))
        except (DistStoreError, RuntimeError):
            return

    def _failure(self, member: Member) -> NexaError | None:
        """The error that a member left. One raised on purpose is the whole group's, in its own words."""
        text = self._get(f"failed/{member.rank}")
        if text is None:
            return None
        reason = json.loads(text)
        if not reason["known"]:
            return WorkerError(f"{member} failed: {reason['message']}", hint=f"its log: logs/*-{member.rank}.log")
        kind = UserError if reason["exit_code"] == UserError.exit_code else WorkerError
        return kind(reason["message"], hint=reason["hint"])

    def finish(self) -> None:
        """Stop beating."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def explain(self, error: BaseException, *, timeout: float) -> NexaError:
        """Say in words why a collective failed: who failed, ended or fell silent.

        timeout: seconds the collective was given. Takes some seconds where nobody has said why.
        """
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        deadline = self._clock() + _FAILURE_GRACE_SECONDS
        others = [member for member in self.present if member.rank != self._me.rank]
        self._watch(others)
        while self._clock() < deadline:
            try:
                self._raise_failures(others)
            except NexaError as failure:
                return failure
            time.sleep(_POLL_SECONDS)
        self._watch(others)
        silent = [member for member in others if not self._beats_on(member)]
        if silent:
            return _silent(silent, timeout)
        return WorkerError(
            f"the processes lost touch: {first_line}",
            hint=f"all of them live, so the network between them is at fault, or a rank took longer than {timeout:g} s "
            "for something the others wait for: distributed.timeout_seconds",
        )

    def _watch(self, members: Iterable[Member]) -> None:
        """Remember each one's count of beats, and since when it has stood there."""
        now = self._clock()
        for member in members:
            count = int(self._get(f"beat/{member.rank}") or 0)
            known = self._beats.get(member.rank)
            if known is None or known[0] != count:
                self._beats[member.rank] = (count, now)

    def _beats_on(self, member: Member) -> bool:
        """Whether the member's count rises within the time in which it must."""
        before = self._beats[member.rank][0]
        deadline = self._clock() + _SILENT_SECONDS
        while self._clock() < deadline:
            self._watch([member])
            if self._beats[member.rank][0] != before:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _read(self, rank: int) -> Member | None:
        text = self._get(f"member/{rank}")
        return None if text is None else Member.from_text(text)

    def _has(self, key: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except (DistStoreError, RuntimeError):
            # The store's host is gone, and with it every answer.
            return False

    def _get(self, key: str) -> str | None:
        if not self._has(key):
            return None
        try:
            return self._store.get(key).decode()
        except (DistStoreError, RuntimeError):
            return None


def join_roll(store: Store, *, rank: int, world_size: int, device: str, timeout: float) -> Presence:
    """Sign this process in and wait for all; see `Presence.sign_in`."""
    store.set_timeout(timedelta(seconds=timeout))
    member = Member(rank=rank, world_size=world_size, device=device, process=ProcessIdentity.current())
    presence = Presence(store, member)
    presence.sign_in(timeout)
    presence.start_beating()
    return presence


def _gone(members: Sequence[Member]) -> WorkerError:
    names = ", ".join(map(str, members))
    return WorkerError(
        f"{names} ended without a word, so the run can't go on",
        hint="killed, often because the machine ran out of memory; see its log and: dmesg",
    )


def _silent(members: Sequence[Member], timeout: float) -> WorkerError:
    names = ", ".join(map(str, members))
    return WorkerError(
        f"{names} fell silent; the others waited {timeout:g} s for it",
        hint="the process is stopped or its machine hangs or is cut off; then: nexa resume",
    )


def _ranks(ranks: Iterable[int]) -> str:
    numbers = sorted(ranks)
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
