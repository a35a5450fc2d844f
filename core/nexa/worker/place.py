"""Which worker this process is: run, attempt and rank, and the plan it follows. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.errors import UserError, WorkerError
from nexa.files import read_json

PLAN_SCHEMA = 1
"""Format of `plan.json`."""


@dataclass(frozen=True, kw_only=True)
class LauncherRanks:
    """Which of several processes this one is, as told by the launcher (torchrun) that started them all.

    local_rank and local_world_size count on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> LauncherRanks | None:
        """Read what torchrun sets; None where no launcher did. Raises UserError for values that can't be."""
        if not {"RANK", "WORLD_SIZE"} <= set(environment):
            return None
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        given = {name: environment[name] for name in names if name in environment}
        shown = ", ".join(f"{name}={value}" for name, value in given.items())
        if not all(value.isdigit() for value in given.values()):
            raise UserError(f"a launcher's variables must be whole numbers: {shown}")
        world = int(given["WORLD_SIZE"])
        ranks = cls(
            rank=int(given["RANK"]),
            local_rank=int(given.get("LOCAL_RANK", given["RANK"])),
            world_size=world,
            local_world_size=int(given.get("LOCAL_WORLD_SIZE", world)),
        )
        local = ranks.local_world_size
        if ranks.rank >= world or not local or ranks.local_rank >= local or world % local:
            raise UserError(
                f"a launcher's variables contradict one another: {shown}",
                hint="start every process by torchrun, or unset them to train in one process",
            )
        return ranks

    @property
    def num_nodes(self) -> int:
        """Number of machines."""
        return self.world_size // self.local_world_size


@dataclass(frozen=True, kw_only=True)
class WorkerPlace:
    """One worker of one attempt; 0 ≤ rank < world_size, local_rank counts on this machine."""

    run_dir: Path
    attempt: int
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def from_command(cls, argv: Sequence[str], environment: Mapping[str, str]) -> WorkerPlace:
        """Read RUN_DIR and ATTEMPT from the command line, the ranks from what torchrun sets.

        Raises UserError for anything else.
        """
        if len(argv) != 2 or not argv[1].isdigit():
            raise UserError("a worker is started with a run folder and an attempt", hint="nexa launch does that")
        run_dir = Path(argv[0])
        if not (run_dir / "attempts" / argv[1]).is_dir():
            raise UserError(f"{run_dir} has no attempt {argv[1]}", hint="start runs with: nexa launch")
        return cls(
            run_dir=Path(os.path.abspath(run_dir)),  # noqa: PTH100 - a link in the path stays as the user wrote it
            attempt=int(argv[1]),
            rank=int(environment.get("RANK", "0")),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            world_size=int(environment.get("WORLD_SIZE", "1")),
        )

    @property
    def attempt_dir(self) -> Path:
        """`attempts/<number>/`."""
        return self.run_dir / "attempts" / str(self.attempt)

    @property
    def events_path(self) -> Path:
        """This worker's own event file."""
        return self.run_dir / "events" / f"{self.attempt}-{self.rank}.jsonl"

    @property
    def log_path(self) -> Path:
        """This worker's own log."""
        return self.run_dir / "logs" / f"{self.attempt}-{self.rank}.log"


def plan_path(run_dir: Path, attempt: int) -> Path:
    """The plan that an attempt follows: of the newest attempt up to it that has one of its own, else the run's."""
    for number in range(attempt, 0, -1):
        own = run_dir / "attempts" / str(number) / "plan.json"
        if own.is_file():
            return own
    return run_dir / "plan.json"


def read_plan(run_dir: Path, attempt: int) -> dict[str, Any]:
    """Return the plan that an attempt of a run follows. Raises WorkerError when this Nexa can't read it."""
    path = plan_path(run_dir, attempt)
    plan = read_json(path)
    if plan is None:
        raise WorkerError(f"{path} is missing or damaged")
    if plan.get("schema") != PLAN_SCHEMA:
        raise WorkerError(
            f"the plan has format {plan.get('schema')}, the worker's Nexa reads {PLAN_SCHEMA}",
            hint="install the same nexa-train in the worker's environment as on the launching machine",
        )
    return plan
