"""How a worker that fails says so: its log, and `error.json` for the supervisor. Standard library only."""

from __future__ import annotations

import logging
import time
import traceback
from typing import Any

from nexa.errors import NexaError, WorkerError
from nexa.files import ReservedFile
from nexa.text import redactor
from nexa.worker.place import WorkerPlace

_log = logging.getLogger("nexa.worker")


def reserve_error_file(place: WorkerPlace) -> ReservedFile:
    """Take the disk space of the failure record early. Raises WorkerError when the folder can't be written."""
    try:
        return ReservedFile(place.attempt_dir / "error.json")
    except OSError as error:
        raise WorkerError(
            f"the run folder {place.run_dir} can't be written: {error.strerror or error}",
            hint="free space or permissions there, then resume the run",
        ) from error


def report_failure(place: WorkerPlace, error: BaseException, reserve: ReservedFile | None) -> int:
    """Log the failure and record it for the supervisor; return the exit code."""
    if isinstance(error, NexaError):
        _log.error(str(error))
    else:
        _log.error("%s: %s", type(error).__name__, error, exc_info=error)
    return record_failure(place, error, reserve)


def record_failure(place: WorkerPlace, error: BaseException, reserve: ReservedFile | None) -> int:
    """Write the failure to `error.json`, unless another rank was first; return the exit code."""
    known = isinstance(error, NexaError)
    exit_code = error.exit_code if isinstance(error, NexaError) else 1
    clean = redactor()
    trace = "" if known else "".join(traceback.format_exception(error))
    document: dict[str, Any] = {
        "type": type(error).__name__,
        "message": clean(error.message if isinstance(error, NexaError) else f"{type(error).__name__}: {error}"),
        "hint": clean(error.hint or "") if isinstance(error, NexaError) else None,
        "exit_code": exit_code,
        "rank": place.rank,
        "at": time.time(),
        # The end of a traceback says most; the whole must fit the reserved space.
        "traceback": clean(trace)[-8000:],
    }
    try:
        if reserve is not None:
            reserve.write_once(document)
    except OSError as write_error:
        _log.error("the failure can't be recorded in %s: %s", place.attempt_dir, write_error)
    return exit_code
