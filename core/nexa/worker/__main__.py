"""`python -m nexa.worker RUN_DIR ATTEMPT`: one training process. Standard library only.

Exit codes: 0 completed or stopped in order, 2 the recipe or its data must change, 1 anything else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nexa.errors import NexaError
from nexa.logs import configure_logging
from nexa.worker.failure import report_failure, reserve_error_file
from nexa.worker.output import redirect_to
from nexa.worker.place import WorkerPlace
from nexa.worker.session import WorkerSession

if TYPE_CHECKING:
    from nexa.files import ReservedFile

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
        reserve = reserve_error_file(place)
        result = WorkerSession(place).run()
    # SystemExit too: a library that calls sys.exit() has not trained anything to its end.
    except BaseException as error:
        return report_failure(place, error, reserve)
    reserve.release()
    _log.info("%s at step %d", result.state, result.step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
