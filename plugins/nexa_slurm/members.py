"""Which run and attempt a task of an array is, from the list that its launch left; read in the job, too."""

from __future__ import annotations

import json
from pathlib import Path

from nexa.errors import NexaError


def member_of(path: Path, task: int) -> tuple[Path, int]:
    """Run folder and attempt of an array's task, from the array's list of members. Raises NexaError."""
    try:
        run_dir, attempt = json.loads(path.read_text(encoding="utf-8"))[task]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NexaError(f"{path} has no member {task} of the array: {error}") from error
    return Path(run_dir), int(attempt)
