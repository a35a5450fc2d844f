"""`python start.py MODULE … RUN_DIR ATTEMPT`: run a module as `python -m` does, in another environment.

It puts the folder that holds the worker's part of Nexa in front of the path, and never the current folder,
where a file could shadow a library's module; before anything else it says in plain words what the
environment lacks. Standard library only, and readable by every Python 3: an old one shall hear that it is old.
"""

import os
import sys

OLDEST = (3, 10)


def main() -> None:
    """Become the module that is named first."""
    code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    # Python puts this script's own folder in front, unless PYTHONSAFEPATH is set and known to it.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    if code not in sys.path:
        sys.path.insert(0, code)
    if sys.version_info < OLDEST:
        # Such a Python can't read the rest of Nexa, so this can't be recorded in the run's folder from here.
        place = (sys.executable, *sys.version_info[:2], *OLDEST)
        sys.exit("nexa: {} is Python {}.{}; a worker needs {}.{} or newer".format(*place))
    del sys.argv[0]
    from nexa.worker.handshake import shake_hands

    exit_code = shake_hands(sys.argv[-2:])
    if exit_code == 0:
        import runpy

        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
