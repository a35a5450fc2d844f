"""Puts the recipes into built wheels; an editable install reads them from the checkout instead."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RecipesBuildHook(BuildHookInterface):
    """Adds `recipes/` to a wheel as `nexa/_recipes`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["recipes"] = "nexa/_recipes"
