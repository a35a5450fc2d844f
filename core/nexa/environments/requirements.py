"""What a backend's worker needs, spelled out; whether packages meet it; and where two backends contradict."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nexa.discovery import FIRST_PARTY_DISTRIBUTION
from nexa.errors import UserError

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    from nexa.specs import BackendSpec

_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_VERSION = re.compile(r"^Version: (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an environment must have for a backend's worker.

    asker: who asks, in words for messages. requirements: of packages, without those that stand for a
    distribution's own; sorted. python: versions of Python, such as ">=3.10". probes: modules that must be
    importable.
    """

    asker: str
    requirements: tuple[str, ...]
    python: str
    probes: tuple[str, ...]


def needs_of(spec: BackendSpec, distribution: str) -> Needs:
    """What a backend's spec asks for, with the requirements of its own distribution and of Nexa's spelled out.

    distribution: the one that registers the backend. Raises UserError for a requirement that can't be read.
    """
    own = {normal_name(distribution), FIRST_PARTY_DISTRIBUTION}
    asker = f"backend {spec.name}"
    spelled = [line for text in spec.requirements for line in _spell_out(text, own, asker)]
    return Needs(
        asker=asker,
        requirements=tuple(sorted(set(spelled))),
        python=spec.requires_python,
        probes=spec.probes,
    )


def misfits(needs: Needs, installed: Mapping[str, str], python: str) -> list[str]:
    """Why packages do not meet the needs, each in words; empty where they do.

    installed: version of each package, by normalized name. python: version of the interpreter.
    """
    found = []
    if needs.python and not specifiers(needs.python, needs.asker).contains(python, prereleases=True):
        found.append(f"it has Python {python}, {needs.asker} needs {needs.python}")
    for text in needs.requirements:
        requirement = parse(text, needs.asker)
        if requirement.marker is not None and not requirement.marker.evaluate({"python_version": short(python)}):
            continue
        version = installed.get(normal_name(requirement.name))
        if version is None:
            found.append(f"it lacks {requirement.name}{requirement.specifier}")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"it has {requirement.name} {version}, {needs.asker} needs {requirement.specifier}")
    return found


def current_misfits(needs: Needs) -> list[str]:
    """Why the environment of this process does not meet the needs; imports none of their packages."""
    found = misfits(needs, _installed_of(needs), platform.python_version())
    return found + [f"it lacks the module {name}" for name in needs.probes if not found and find_spec(name) is None]


def contradictions(first: Needs, second: Needs) -> list[tuple[str, str]]:
    """Pins of two backends that no version meets, so that the two can't share an environment: of each one's."""
    asked = {normal_name(other.name): other for other in _parsed(second)}
    return [
        (f"{requirement.name}{requirement.specifier}", f"{other.name}{other.specifier}")
        for requirement in _parsed(first)
        if (other := asked.get(normal_name(requirement.name))) is not None
        and not can_meet(requirement.specifier, other.specifier)
    ]


def can_meet(first: SpecifierSet, second: SpecifierSet) -> bool:
    """Whether some version could meet both: one that either names, or one just above or below such a one."""
    from packaging.version import InvalidVersion, Version

    both = first & second
    named = {specifier.version.removesuffix(".*") for specifier in both}
    # Far below all, and for each named version itself, just above and just below it.
    candidates = {"0.0.1"} | {f"{name}{nearby}" for name in named for nearby in ("", ".0.1", ".post1", ".dev0")}
    for candidate in candidates:
        try:
            if both.contains(Version(candidate), prereleases=True):
                return True
        except InvalidVersion:
            continue
    return False


@cache
def parse(text: str, asker: str) -> Requirement:
    """Read a requirement. Raises UserError that names who asks."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise UserError(f"{asker} asks for {text!r}, which is no requirement: {str(error).splitlines()[0]}") from None


def specifiers(text: str, asker: str) -> SpecifierSet:
    """Read versions such as ">=3.10,<3.13". Raises UserError that names who asks."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise UserError(f"{asker} asks for Python {text!r}: {error}") from None


def normal_name(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def short(python: str) -> str:
    """Major and minor version of Python."""
    return ".".join(python.split(".")[:2])


def _parsed(needs: Needs) -> list[Requirement]:
    return [parse(text, needs.asker) for text in needs.requirements]


def _spell_out(text: str, own: set[str], asker: str) -> Iterator[str]:
    """The requirement itself, or what the named distribution requires where it is one of our own."""
    requirement = parse(text, asker)
    name = normal_name(requirement.name)
    if name not in own:
        yield str(requirement)
        return
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"{asker} asks for {text!r}, which is not installed here") from None
    wanted = {"", *requirement.extras}
    for line in lines:
        # Reading a requirement takes long; most lines belong to extras that nobody asks for here.
        named = _EXTRA.search(line)
        if named is not None and named[1] not in wanted:
            continue
        inner = parse(line, name)
        if inner.marker is not None and not any(_holds(inner, extra) for extra in wanted):
            continue
        if normal_name(inner.name) == name:
            # An extra that collects other extras.
            yield from _spell_out(f"{inner.name}[{','.join(sorted(inner.extras))}]", own, asker)
        else:
            yield f"{inner.name}{_extras(inner)}{inner.specifier}"


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _installed_of(needs: Needs) -> dict[str, str]:
    """Versions of those packages that the needs name; asking for few is much quicker than listing all."""
    versions = {}
    for requirement in _parsed(needs):
        try:
            text = metadata.distribution(requirement.name).read_text("METADATA") or ""
        except metadata.PackageNotFoundError:
            continue
        # `metadata.version` would read the whole long description as an e-mail.
        if (version := _VERSION.search(text)) is not None:
            versions[normal_name(requirement.name)] = version[1]
    return versions
