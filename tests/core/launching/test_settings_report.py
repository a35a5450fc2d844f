"""The settings report: a line for every field, and no refusal that a person could miss."""

from __future__ import annotations

from typing import Any

import pytest

from nexa.backend import Answer, SettingAnswer
from nexa.recipe.schema import Recipe
from nexa.settings_report import SettingLine, refused_settings, settings_report

PATHS = Recipe.leaf_paths()


def recipe(**changes: Any) -> Recipe:
    document = {"method": "sft", "model": {"name": "org/model"}, "data": {"remote_uri": "rows.jsonl"}, **changes}
    return Recipe.model_validate(document)


def answers(**special: SettingAnswer) -> list[SettingAnswer]:
    by_path = {answer.path: answer for answer in special.values()}
    return [by_path.get(path, SettingAnswer(path=path, answer=Answer.HONOURED)) for path in PATHS]


def refuse(path: str) -> SettingAnswer:
    return SettingAnswer(path=path, answer=Answer.REFUSED, detail="this trainer can't")


def line(lines: list[SettingLine], path: str) -> SettingLine:
    return next(line for line in lines if line.path == path)


def test_one_line_per_field_in_schema_order() -> None:
    lines = settings_report(recipe(), answers())
    assert tuple(line.path for line in lines) == PATHS
    assert refused_settings(lines, backend="x") == []


def test_leaves_are_the_values_of_sections_and_not_the_sections() -> None:
    assert {"method", "adapter.rank", "optimizer.scheduler.name", "data.validation.fraction", "meta"} <= set(PATHS)
    assert not {"adapter", "optimizer.scheduler", "data", "plugin_options"} & set(PATHS)
    assert len(set(PATHS)) == len(PATHS)


def test_required_fields_count_as_set() -> None:
    lines = settings_report(recipe(), answers())
    assert [line.path for line in lines if line.is_set] == ["method", "model.name", "data.remote_uri"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"training": {"precision": "bf16"}}, "training.precision"),
        ({"optimizer": {"scheduler": "linear"}}, "optimizer.scheduler.name"),
        ({"adapter": {}}, "adapter.rank"),
        ({"samples": {"prompts": ["Hello"]}}, "samples.prompts"),
        ({"data": {"remote_uri": "a", "validation": {"fraction": 0.1}}}, "data.validation.fraction"),
        ({}, "data.remote_uri"),
    ],
)
def test_a_refused_field_that_is_set_is_a_problem(changes: dict[str, Any], path: str) -> None:
    lines = settings_report(recipe(**changes), answers(one=refuse(path)))
    (problem,) = refused_settings(lines, backend="echo")
    assert problem.path == path
    assert "echo" in problem.message
    assert "this trainer can't" in problem.message


@pytest.mark.parametrize("path", ["training.precision", "adapter.rank", "samples.prompts"])
def test_a_refused_field_left_at_its_default_is_none(path: str) -> None:
    lines = settings_report(recipe(training={"precision": "fp32"}), answers(one=refuse(path)))
    assert refused_settings(lines, backend="echo") == []
    assert not line(lines, path).is_set


def test_a_missing_answer_is_a_refusal() -> None:
    given = [answer for answer in answers() if answer.path != "training.seed"]
    assert refused_settings(settings_report(recipe(), given), backend="echo") == []
    (problem,) = refused_settings(settings_report(recipe(training={"seed": 7}), given), backend="echo")
    assert problem.path == "training.seed"
    assert "no answer" in problem.message


def test_a_translated_setting_says_how() -> None:
    translated = SettingAnswer(path="training.seed", answer=Answer.TRANSLATED, detail="seed_everything=42")
    lines = settings_report(recipe(), answers(one=translated))
    assert line(lines, "training.seed").document() == {
        "path": "training.seed",
        "value": 42,
        "is_set": False,
        "answer": "translated",
        "detail": "seed_everything=42",
    }
