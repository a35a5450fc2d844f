"""What to type to install a missing library: the extra of a distribution that requires it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from nexa.discovery import FIRST_PARTY_DISTRIBUTION

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_COLLECTIVE = frozenset({"all", "dev", "docs", "demo"})


def extras_of(distribution: str = FIRST_PARTY_DISTRIBUTION) -> dict[str, tuple[str, ...]]:
    """Return the packages each extra of an installed distribution requires; empty if not installed.

    Extras that collect others or serve developers are left out.
    """
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        requirement, extra = _REQUIREMENT.match(line), _EXTRA.search(line)
        if requirement and extra and extra[1] not in _COLLECTIVE:
            found.setdefault(extra[1], []).append(_normal(requirement[1]))
    return {extra: tuple(packages) for extra, packages in found.items()}


def pip_line(extra: str, distribution: str = FIRST_PARTY_DISTRIBUTION) -> str:
    """Return the command that installs an extra."""
    return f"pip install '{distribution}[{extra}]'"


def extra_named(name: str) -> str | None:
    """Return the command that installs Nexa's extra of this name, or None when there is none."""
    return pip_line(name) if name in extras_of() else None


def install_hint(error: BaseException, distribution: str) -> str | None:
    """Return what to type after an import failed: for a missing module, the smallest extra that has it.

    `distribution` is the plugin's own; its extras are searched before Nexa's.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = _normal(error.name.partition(".")[0])
    for owner in dict.fromkeys((distribution, FIRST_PARTY_DISTRIBUTION)):
        having = {extra: packages for extra, packages in extras_of(owner).items() if module in packages}
        if having:
            return pip_line(min(having, key=lambda extra: (len(having[extra]), len(extra))), owner)
    return f"install the package that provides the module {error.name!r} into this environment"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
