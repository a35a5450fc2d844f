"""Health check of the images: `health.py modules NAME...` finds modules, `health.py http URL` asks a server."""

import importlib.util
import sys
import urllib.request


def modules(*names: str) -> bool:
    """Whether every module is installed; none is imported, so that the check costs no GPU memory."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def http(url: str) -> bool:
    """Whether a server on this machine answers that it is well."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200


if __name__ == "__main__":
    checks = {"modules": modules, "http": http}
    sys.exit(0 if checks[sys.argv[1]](*sys.argv[2:]) else 1)
