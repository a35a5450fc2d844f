"""A run over a stream: several passes, resumed in the middle of a window, equal to one that was never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from running import Run, chat_rows, tiny_recipe

from nexa.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_CACHE_DIR", str(tmp_path / "cache"))


def test_resumed_stream_equals_an_unbroken_one_on_another_machine_too(tmp_path: Path) -> None:
    """The checkpoint alone says where to enter the source: what stands before is not read again."""
    document = tiny_recipe(
        chat_rows(tmp_path, 60),
        data={"streaming": True, "stream_window": 20},
        training={"max_steps": 12, "microbatch_size_per_gpu": 2},
    )
    whole = Run(tmp_path / "whole", document).attempt()
    assert whole.result.step == 12
    run = Run(tmp_path / "cut", document)
    log = tmp_path / "cut" / "1-0.jsonl"
    first = run.attempt(stop=lambda: "test" if log.exists() and log.read_text().count('"metrics"') >= 9 else None)
    assert 0 < first.result.step < 12
    shutil.rmtree(tmp_path / "cache")
    second = run.attempt()
    made = sorted(int(path.stem) for path in (tmp_path / "cache" / "streams").glob("*/????????.json"))
    assert made[0] == 0, "the first window gives the figures"
    assert made[1] > 1
    assert made[1:] == [*range(made[1], made[-1] + 1)]
    assert second.result.step == 12
    joined = {**first.series("loss"), **second.series("loss")}
    assert joined == whole.series("loss")


def test_stream_without_an_end_is_refused(tmp_path: Path) -> None:
    from nexa_torch.checks import find_problems

    document = tiny_recipe(chat_rows(tmp_path), data={"streaming": True}, training={"max_steps": None})
    (problem,) = [p for p in find_problems(Run(tmp_path / "run", document).recipe) if p.path == "data.streaming"]
    assert "training.max_steps" in str(problem)


def test_data_module_of_other_rows(tmp_path: Path) -> None:
    from nexa_torch import TextDataModule, TokenizedDataModule

    recipe = Run(tmp_path / "run", tiny_recipe(chat_rows(tmp_path), data={"format": "messages"})).recipe
    with pytest.raises(UserError, match=r"(?s)TextDataModule takes no rows of format 'messages'.*data\.format to text"):
        TextDataModule(recipe)
    data = recipe.data.model_copy(update={"format": "auto"})
    module = TokenizedDataModule(recipe.model_copy(update={"data": data}))
    assert module.recipe.data.format == "tokens"
