"""`python -m nexa_torch.train --task NAME …`: the same as `nexa train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nexa.cli.main import main as nexa


def main(argv: Sequence[str] | None = None) -> int:
    """Run `nexa train` and return its exit code; argv excludes the program's name."""
    return nexa(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
