"""Names that are known for fields whose schema takes any text: installed plugins and their methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.plugins import PluginHost


def known_names(host: PluginHost) -> Mapping[str, Sequence[str]]:
    """Choices by dotted key, from the plugins that can be used; loads every plugin."""
    backends = host.specs("backend")
    methods = dict.fromkeys(method for spec in backends for method in getattr(spec, "methods", ()))
    return {
        "method": tuple(methods),
        "backend": tuple(spec.name for spec in backends),
        "scheduler": tuple(spec.name for spec in host.specs("scheduler")),
    }
