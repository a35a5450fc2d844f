"""The argument RUN, the same in every command that takes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nexa.runs.state import RunStatus
    from nexa.runs.store import Run, RunStore

_Command = TypeVar("_Command", bound=Callable[..., Any])


def run_argument(function: _Command) -> _Command:
    """Add the argument RUN, given to the command as `reference`."""
    return click.argument("reference", metavar="RUN")(function)


def open_runs() -> RunStore:
    """The user's run store."""
    from nexa.runs.store import RunStore
    from nexa.settings import get_settings

    return RunStore(get_settings().runs_dir)


def open_run(reference: str) -> Run:
    """Find the run that RUN names: an id, the start of one, a name's newest, or `latest`. Raises RunError."""
    return open_runs().open(reference)


def status_document(run: Run, status: RunStatus) -> dict[str, Any]:
    """A run's identity and status as JSON values, the same in every `--json`."""
    return {
        "run_id": run.run_id,
        "name": run.document.get("name"),
        "path": str(run.path),
        "recipe": run.document.get("recipe_name"),
        "method": run.document.get("method"),
        "backend": run.document.get("backend"),
        "scheduler": run.document.get("scheduler"),
        "active": status.active,
        **asdict(status),
        "state": str(status.state),
    }


def exit_code_for(status: RunStatus) -> int:
    """Exit code of a command that waited for a run: 0 completed, 2 when what the user wrote made it fail, else 1."""
    from nexa.runs.state import State

    if status.state is State.COMPLETED:
        return 0
    return 2 if status.state is State.FAILED and status.exit_code == 2 else 1
