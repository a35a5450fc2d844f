"""`python -m nexa.worker RUN_DIR ATTEMPT`: one training process. Standard library only.

Exit codes: 0 completed or stopped in order, 2 the recipe or its data must change, 1 anything else.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from nexa.errors import NexaError, WorkerError
from nexa.files import ReservedFile
from nexa.logs import configure_logging
from nexa.text import redactor
from nexa.worker.output import redirect_to
from nexa.worker.place import WorkerPlace
from nexa.worker.session import WorkerSession

_log = logging.getLogger("nexa.worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker to its end and return its exit code; how it ended is on disk."""
    try:
        place = WorkerPlace.from_command(sys.argv[1:] if argv is None else argv, os.environ)
        redirect_to(place.log_path)
    except NexaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    configure_logging(sys.stderr, run_id=place.run_dir.name, attempt=place.attempt, rank=place.rank)
    reserve: ReservedFile | None = None
    try:
        reserve = _reserve_error_file(place)
        result = WorkerSession(place).run()
    # SystemExit too: a library that calls sys.exit() has not trained anything to its end.
    except BaseException as error:
        return _report_failure(place, error, reserve)
    reserve.release()
    _log.info("%s at step %d", result.state, result.step)
    return 0


def _reserve_error_file(place: WorkerPlace) -> ReservedFile:
    try:
        return ReservedFile(place.attempt_dir / "error.json")
    except OSError as error:
        raise WorkerError(
            f"the run folder {place.run_dir} can't be written: {error.strerror or error}",
            hint="free space or permissions there, then resume the run",
        ) from error


def _report_failure(place: WorkerPlace, error: BaseException, reserve: ReservedFile | None) -> int:
    """Log the failure and record it for the supervisor; return the exit code."""
    known = isinstance(error, NexaError)
    exit_code = error.exit_code if isinstance(error, NexaError) else 1
    if known:
        _log.error(str(error))
    else:
        _log.error("%s: %s", type(error).__name__, error, exc_info=error)
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


if __name__ == "__main__":
    sys.exit(main())
