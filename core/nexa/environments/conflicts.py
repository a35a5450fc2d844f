"""Which backends can't share an environment, and whose pins they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nexa.environments.build import distributions
from nexa.environments.requirements import Needs, can_meet, needs_of, normal_name, pairwise_conflicts, parse
from nexa.environments.store import EnvironmentStore, NamedEnvironment
from nexa.errors import NexaError
from nexa.plugins import get_host


def conflicts(store: EnvironmentStore) -> list[str]:
    """Every pair of pins that no version meets, in words: of backends, and of what was built for them.

    A backend that asks for one package alone ("axolotl==0.13") contradicts through that package's own pins,
    which are known once its environment is built.
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
    found = [*pairwise_conflicts(wanted), *_against_built(store.names(), wanted)]
    return list(dict.fromkeys(found))


def _against_built(built: Sequence[NamedEnvironment], wanted: Sequence[Needs]) -> Iterator[str]:
    """Pins of packages in built environments against what the other backends ask for."""
    for named in built:
        if named.environment is None:
            continue
        pins = [
            (distribution.metadata["Name"], distribution.version, parse(line, distribution.metadata["Name"]))
            for distribution in distributions(named.environment.path)
            for line in distribution.requires or ()
        ]
        for needs in wanted:
            if needs.asker == f"backend {named.backend}":
                continue
            asked = {
                normal_name(other.name): other for other in (parse(text, needs.asker) for text in needs.requirements)
            }
            for owner, version, pin in pins:
                other = asked.get(normal_name(pin.name))
                if other is None or not _applies(pin.marker) or can_meet(pin.specifier, other.specifier):
                    continue
                yield (
                    f"{needs.asker} needs {other.name}{other.specifier}, {owner} {version} in the environment "
                    f"{named.name} needs {pin.name}{pin.specifier}"
                )


def _applies(marker: object) -> bool:
    """Whether a requirement holds without any extra."""
    return marker is None or bool(marker.evaluate({"extra": ""}))  # type: ignore[attr-defined]
