"""What the contract tests of every plugin kind share: finding the plugin and checking its spec."""

from __future__ import annotations

import re
from typing import Any, ClassVar, get_args

import pytest

from nexa.plugins import CreatedKind, Kind, PluginHost, get_host, load_target
from nexa.recipe.jsonschema import options_schema
from nexa.recipe.schema import Recipe
from nexa.specs import PluginSpec


class PluginContract:
    """Tests that hold for a plugin of any kind.

    plugin_name: name of the plugin under test; every subclass sets it.
    """

    kind: ClassVar[Kind]
    plugin_name: ClassVar[str]

    @pytest.fixture
    def host(self) -> PluginHost:
        """The host over everything installed."""
        return get_host()

    @pytest.fixture
    def spec(self, host: PluginHost) -> PluginSpec:
        """The plugin's registered spec."""
        return host.spec(self.kind, self.plugin_name)

    def require(self, spec: PluginSpec, capability: str) -> None:
        """Skip the running test unless the plugin declares the capability."""
        if capability not in spec.capabilities:
            pytest.skip(f"{spec.kind} {spec.name!r} does not declare the capability {capability!r}")

    def test_it_is_listed_without_a_problem(self, host: PluginHost, spec: PluginSpec) -> None:
        """`nexa plugins` shows the plugin as ok, under one provider."""
        entries = [entry for entry in host.report() if (entry.kind, entry.name) == (self.kind, self.plugin_name)]
        assert [entry.status for entry in entries] == ["ok"], entries
        assert spec.kind in get_args(Kind)

    def test_its_name_is_no_recipe_section(self, spec: PluginSpec) -> None:
        """A plugin called "data" could never receive its options."""
        assert spec.options_model is None or spec.name not in Recipe.model_fields

    def test_its_options_are_documented(self, host: PluginHost, spec: PluginSpec) -> None:
        """Every option has a description and the options model refuses unknown keys."""
        model = host.options_model(spec.name)
        if spec.options_model is None:
            return
        assert model is load_target(spec.options_model)
        properties: dict[str, Any] = options_schema(model).get("properties", {})
        undescribed = [name for name, field in properties.items() if not _described(field)]
        assert not undescribed, f"options without a docstring or description: {undescribed}"

    def test_its_summary_fits_a_line(self, spec: PluginSpec) -> None:
        """The summary is one short line of `nexa plugins`."""
        assert len(spec.summary) <= 100
        assert not re.search(r"\s{2,}|[\x00-\x1f]", spec.summary)


class CreatedPluginContract(PluginContract):
    """Tests of a plugin whose object the host makes."""

    kind: ClassVar[CreatedKind]

    def test_two_objects_are_independent(self, host: PluginHost) -> None:
        """The factory makes a new object on every call."""
        assert host.create(self.kind, self.plugin_name) is not host.create(self.kind, self.plugin_name)


def _described(field: dict[str, Any]) -> bool:
    return bool(field.get("description")) or "$ref" in field
