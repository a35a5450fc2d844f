"""No recipe field is accepted by the Axolotl backend and then left out of the YAML that it renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nexa.testing.settings import SettingsContract


class TestAxolotlSettings(SettingsContract):
    plugin_name = "axolotl"
    contexts: ClassVar[Sequence[Mapping[str, Any]]] = [{"adapter.rank": 4}, {"method": "dpo"}]
