"""Contract test of a backend's settings: no recipe field is accepted and then ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nexa.conformance.settings import audit_settings, ignored
from nexa.plugins import PluginHost
from nexa.recipe.schema import Recipe
from nexa.settings_report import CORE_FIELDS
from nexa.testing.base import PluginContract
from nexa.testing.recipes import tiny_recipe


class SettingsContract(PluginContract):
    """Every recipe field, and every option of the backend, has an effect or an answer that says otherwise.

    overrides: recipe keys that the backend needs on top of `nexa.testing.recipes.tiny_recipe`. contexts: further
    overrides, each of which makes fields count that the recipe leaves idle, such as
    {"data.streaming": True} or {"method": "dpo"}; all fields are changed in each of them.
    """

    kind = "backend"
    overrides: ClassVar[Mapping[str, Any]] = {}
    contexts: ClassVar[Sequence[Mapping[str, Any]]] = ()

    @pytest.fixture
    def recipes(self, tmp_path: Path) -> list[Recipe]:
        """The recipes whose fields are changed one by one."""
        own = {"backend": self.plugin_name, **self.overrides}
        return [
            tiny_recipe(tmp_path / str(number), {**own, **more}) for number, more in enumerate([{}, *self.contexts])
        ]

    def test_effective_is_pure(self, host: PluginHost, recipes: list[Recipe]) -> None:
        """The same recipe gives the same configuration, in JSON values."""
        import json

        backend = host.create("backend", self.plugin_name)
        for recipe in recipes:
            effective = backend.effective(recipe)
            assert json.loads(json.dumps(effective)) == json.loads(json.dumps(backend.effective(recipe)))

    def test_no_setting_is_ignored(self, host: PluginHost, recipes: list[Recipe]) -> None:
        """A field with another value changes what the trainer is given, or the backend's answer for it."""
        backend = host.create("backend", self.plugin_name)
        own = host.options_model(self.plugin_name)
        options = {} if own is None else {self.plugin_name: own}
        changed: set[str] = set()
        for recipe in recipes:
            findings = audit_settings(backend, recipe, options)
            changed |= {finding.path for finding in findings}
            assert ignored(findings) == []
        expected = {*recipes[0].leaf_paths()} - CORE_FIELDS
        expected |= {f"{name}.{field}" for name, model in options.items() for field in model.model_fields}
        assert expected - changed == set(), "fields that no recipe could be changed in; add contexts"

    def test_what_nexa_does_itself_is_not_refused(self, host: PluginHost, recipes: list[Recipe]) -> None:
        """A backend leaves alone what Nexa acts on: names, stores, observers, and the words about a recipe."""
        words = {"run.name", "description", "tags", "meta", "artifacts.store_uri", "artifacts.labels"}
        assert words <= CORE_FIELDS
        answers = host.create("backend", self.plugin_name).settings(recipes[0])
        assert [answer.path for answer in answers if answer.path in words and answer.answer == "refused"] == []
