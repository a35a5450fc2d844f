"""What the standard library of Python 3.10 lacks, for workers in other environments. Standard library only."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):  # noqa: UP036 - Nexa itself needs 3.11, its workers 3.10
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):  # noqa: UP042
        """Members are texts, and print as such."""

        __str__ = str.__str__


__all__ = ["StrEnum"]
