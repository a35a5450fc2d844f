"""Whether the installed packages are those this backend was made for; their metadata is read, none is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from nexa.errors import Problem

NEEDED: Mapping[str, tuple[str, str]] = {
    "torch": ("2.11", "3"),
    "transformers": ("5.17", "6"),
    "trl": ("1.16", "2"),
    "peft": ("0.21", "1"),
    "accelerate": ("1.15", "2"),
    "datasets": ("5.0", "6"),
}
"""Distribution → first version that fits, and the first that no longer does."""


def package_problems(needed: Mapping[str, tuple[str, str]] = NEEDED) -> Iterator[Problem]:
    """A problem for each package that is missing or does not fit, with the line to type."""
    for name, (first, end) in needed.items():
        line = f"type: pip install '{name}>={first},<{end}'"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Problem(
                path="backend",
                message=f"the hf backend needs the package {name}",
                hint=f"type: pip install 'nexa-train[hf]', or {line.removeprefix('type: ')}",
            )
            continue
        if not _parts(first) <= _parts(found) < _parts(end):
            yield Problem(
                path="backend",
                message=f"{name} {found} is installed and the hf backend needs at least {first} and less than {end}",
                hint=line,
            )


def _parts(text: str) -> tuple[int, ...]:
    """The numbers of a release: "2.13.0+cpu" is (2, 13, 0)."""
    release = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in release.group().split(".")) if release else ()
