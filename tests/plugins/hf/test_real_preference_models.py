"""SmolLM2 135M learns from the recipes' own data, with each method; minutes of a CPU, so `make soak` runs it."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
from running import Finished, Run

from nexa.recipe.load import load_recipe
from nexa_hf.run import run_training

pytestmark = pytest.mark.soak
RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model converted once for all of them."""
    return tmp_path_factory.mktemp("cache")


def train(name: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> Finished:
    """A shipped recipe in this process, cut short."""
    monkeypatch.setenv("NEXA_CACHE_DIR", str(cache))
    changes = [f"training.max_steps={steps}", "training.eval_every_steps=null", "data.validation.max_documents=8"]
    recipe = load_recipe(RECIPES / f"{name}.yaml", overrides=[*changes, "samples.max_new_tokens=12"]).recipe
    return Run(folder, recipe.document(), train=run_training).attempt()


def series(finished: Finished, key: str) -> list[float]:
    # A microbatch of KTO may hold answers of one kind alone, which have no margin.
    return [event["values"][key] for event in finished.of("metrics") if key in event["values"]]


@pytest.mark.parametrize(
    ("name", "rising"), [("dpo", "rewards/margins"), ("kto", "rewards/margins"), ("reward", "margin")]
)
def test_the_better_answers_come_to_win(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, rising: str
) -> None:
    finished = train(name, tmp_path, cache, monkeypatch, steps=10)
    margins = series(finished, rising)
    assert mean(margins[-3:]) > mean(margins[:3]) + 0.1
    evaluations = [event["values"]["eval_loss"] for event in finished.of("eval")]
    assert evaluations[-1] < evaluations[0]


def test_orpo_learns_to_write_the_better_answers(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = train("orpo", tmp_path, cache, monkeypatch, steps=10)
    losses = series(finished, "nll_loss")
    assert mean(losses[-3:]) < mean(losses[:3])
    assert mean(series(finished, "log_odds_chosen")[-3:]) > mean(series(finished, "log_odds_chosen")[:3])


def test_grpo_raises_the_reward_of_the_models_own_answers(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = train("grpo", tmp_path, cache, monkeypatch, steps=24)
    rewards = series(finished, "reward")
    assert mean(rewards[-6:]) > mean(rewards[:6])
    assert {"rewards/exact-answer/mean", "rewards/length/mean"} <= set(finished.of("metrics")[0]["values"])
