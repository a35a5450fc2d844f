"""Runs benchmarks: `python -m tests.bench [NAME [OPTION ...]]`; without a name, all that need no peer's files."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from nexa_torch.backend import CPU_ENVIRONMENT


def main(argv: list[str]) -> int:
    """Run one benchmark with its options, or each of them with none."""
    names = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    if argv and argv[0] not in names:
        print(f"there is no benchmark {argv[0]!r}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    # As in a worker; read when torch is first imported. Peers inherit it.
    for variable, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for name in argv[:1] or names:
        print(f"\n== {name}", flush=True)
        import_module(f"tests.bench.bench_{name}").main(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
