"""Which backends can't share an environment, and whose pins they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from nexa.environments.build import distributions
from nexa.environments.requirements import Needs, can_meet, contradictions, needs_of, normal_name, parse
from nexa.environments.store import EnvironmentStore, NamedEnvironment
from nexa.errors import NexaError
from nexa.plugins import get_host


def conflicts(store: EnvironmentStore) -> list[str]:
    """Every two backends that can't share an environment, with the pins of each that no version meets; in words.

    Where two do not contradict each other by what they ask for themselves, one can still contradict a package
    that was built for the other.
    """
    host = get_host()
    wanted = []
    for spec in host.specs("backend"):
        try:
            distribution = host.provider_of("backend", spec.name).distribution
            wanted.append(needs_of(host.spec("backend", spec.name), distribution))
        except NexaError:
            # A broken plugin has a finding of its own.
            continue
    found = {}
    for first, second in itertools.combinations(wanted, 2):
        if pins := contradictions(first, second):
            found[frozenset((first.asker, second.asker))] = _sentence(first.asker, second.asker, pins)
    for named in store.names():
        for needs in wanted:
            pair = frozenset((needs.asker, f"backend {named.backend}"))
            if len(pair) == 2 and pair not in found and (sentence := _against_built(named, needs)):
                found[pair] = sentence
    return list(found.values())


def _against_built(named: NamedEnvironment, needs: Needs) -> str:
    """What a backend asks for against the pins of the first package in a built environment; "" where all is well."""
    if named.environment is None:
        return ""
    asked = {normal_name(other.name): other for other in (parse(text, needs.asker) for text in needs.requirements)}
    for distribution in distributions(named.environment.path):
        owner = f"{distribution.metadata['Name']} {distribution.version}"
        pins = []
        for pin in (parse(line, owner) for line in distribution.requires or ()):
            other = asked.get(normal_name(pin.name))
            if other is not None and _applies(pin.marker) and not can_meet(pin.specifier, other.specifier):
                pins.append((f"{other.name}{other.specifier}", f"{pin.name}{pin.specifier}"))
        if pins:
            return _sentence(needs.asker, f"{owner} in the environment {named.name}", pins)
    return ""


def _sentence(first: str, second: str, pins: Sequence[tuple[str, str]]) -> str:
    ours, theirs = (", ".join(side) for side in zip(*pins, strict=True))
    return f"{first} needs {ours}; {second} needs {theirs}"


def _applies(marker: object) -> bool:
    """Whether a requirement holds without any extra."""
    return marker is None or bool(marker.evaluate({"extra": ""}))  # type: ignore[attr-defined]
