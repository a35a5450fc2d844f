"""Contract tests of a reward: the better answer scores higher, odd ones do no harm, nothing heavy is imported."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from nexa.plugins import PluginHost, load_target
from nexa.recipe.jsonschema import options_schema
from nexa.recipe.sections.rollouts import RewardSection
from nexa.reward import Completion
from nexa.rewards import WeightedReward, load_rewards
from nexa.specs import PluginSpec
from nexa.testing.base import CreatedPluginContract

_HEAVY_MODULES = ("torch", "transformers", "trl", "peft", "datasets")
_ODD_TEXTS = ("", " ", "\n", "\x00\x1b[31m\u202e", "☃" * 2000, "{", "-", "1e999", "[" * 5000)
_LIGHT_IMPORT = """
import sys
from nexa.plugins import load_target
load_target(sys.argv[1])
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


class RewardContract(CreatedPluginContract):
    """Every test a reward must pass.

    options: as in a recipe. better, worse: two answers of which the first scores higher.
    """

    kind = "reward"
    options: ClassVar[Mapping[str, Any]] = {}
    better: ClassVar[Completion]
    worse: ClassVar[Completion]

    @pytest.fixture
    def reward(self) -> WeightedReward:
        """The reward under test as a recipe's, made with its options."""
        (reward,) = load_rewards([RewardSection(name=self.plugin_name, options=dict(self.options))])
        return reward

    def test_two_objects_are_independent(self, host: PluginHost) -> None:
        """The factory makes a new object on every call."""
        section = RewardSection(name=self.plugin_name, options=dict(self.options))
        first, second = load_rewards([section, section])
        assert first.reward is not second.reward

    def test_its_options_are_documented(self, host: PluginHost, spec: PluginSpec) -> None:
        """Every option has a description, and unknown ones are refused."""
        model = host.options_of(self.kind, self.plugin_name)
        if model is None:
            assert not self.options
            return
        assert spec.options_model is not None
        assert model is load_target(spec.options_model)
        fields = options_schema(model).get("properties", {})
        undescribed = [name for name, field in fields.items() if not field.get("description") and "$ref" not in field]
        assert not undescribed, f"options without a docstring or description: {undescribed}"
        with pytest.raises(ValidationError):
            model.model_validate({**self.options, "an option that does not exist": 1})

    def test_the_better_answer_scores_higher(self, reward: WeightedReward) -> None:
        """That is what a reward is for."""
        better, worse = reward.score(self.better), reward.score(self.worse)
        assert better is not None
        assert worse is not None
        assert better > worse

    def test_the_same_answer_has_the_same_score(self, reward: WeightedReward) -> None:
        """Exact resume needs it."""
        assert reward.score(self.better) == reward.score(self.better)

    @pytest.mark.parametrize("text", _ODD_TEXTS, ids=range(len(_ODD_TEXTS)))
    def test_odd_answers_have_a_score(self, reward: WeightedReward, text: str) -> None:
        """An untrained model writes anything."""
        score = reward.score(
            Completion(text=text, messages=self.better.messages, row=self.better.row, place=self.better.place)
        )
        assert score is None or math.isfinite(score)

    def test_it_leaves_the_row_as_it_is(self, reward: WeightedReward) -> None:
        """All rewards and all answers share a row."""
        row = copy.deepcopy(dict(self.better.row))
        reward.score(self.better)
        assert dict(self.better.row) == row

    def test_its_module_imports_no_training_library(self, spec: PluginSpec) -> None:
        """A reward may be used by any backend, in any environment."""
        answer = subprocess.run(
            [sys.executable, "-c", _LIGHT_IMPORT, spec.factory, *_HEAVY_MODULES],
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == []
