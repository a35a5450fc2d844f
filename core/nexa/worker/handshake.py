"""What a worker in another environment makes sure of before it starts. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nexa
from nexa.errors import NexaError, UserError, WorkerError
from nexa.files import ReservedFile
from nexa.logs import configure_logging
from nexa.worker.failure import report_failure, reserve_error_file
from nexa.worker.place import WorkerPlace, read_plan


def shake_hands(argv: Sequence[str]) -> int:
    """Compare this environment with what the plan of a run expects; return 0, or the exit code to end with.

    argv: run folder and attempt. What does not fit is in the run's folder when this returns, for the
    supervisor to read.
    """
    try:
        place = WorkerPlace.from_command(argv, os.environ)
    except NexaError as error:
        print(f"nexa: {error}", file=sys.stderr)
        return error.exit_code
    reserve: ReservedFile | None = None
    try:
        reserve = reserve_error_file(place)
        require_fit(read_plan(place.run_dir, place.attempt))
    except NexaError as error:
        configure_logging(sys.stderr, run_id=place.run_dir.name, attempt=place.attempt, rank=place.rank)
        return report_failure(place, error, reserve)
    reserve.release()
    return 0


def require_fit(plan: Mapping[str, Any]) -> None:
    """Raise WorkerError where this is not the Nexa of the plan, UserError where a module is missing."""
    launch, expected = plan["launch"], plan.get("nexa_version")
    if expected is not None and expected != nexa.__version__:
        raise WorkerError(
            f"the run was planned by Nexa {expected}, the worker found Nexa {nexa.__version__} in "
            f"{Path(nexa.__file__).parent}",
            hint="continue the run with the Nexa that is installed now: nexa resume",
        )
    missing = [name for name in launch.get("probes", ()) if not _is_there(name)]
    if missing:
        raise UserError(
            f"{describe(launch)} lacks {', '.join(missing)}, which backend {plan['recipe'].get('backend')} needs",
            hint=_remedy(launch),
        )


def describe(launch: Mapping[str, Any]) -> str:
    """The environment of a launch in words."""
    container, environment = launch.get("container"), launch.get("environment") or {}
    if container:
        return f"the image {container['image']}"
    if environment.get("name"):
        return f"the environment {environment['name']}"
    return f"the environment of {launch['python']}"


def _remedy(launch: Mapping[str, Any]) -> str:
    if launch.get("container"):
        return "choose an image that has it, or leave environment.container out"
    return "see which environments fit: nexa env list"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
