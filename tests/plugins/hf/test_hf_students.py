"""Method distill of this backend: the losses of Nexa's own engine, and what the recipe says is what happens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_running import hashes, hf_run, one_thread

from nexa.errors import NexaError
from nexa.recipe.schema import Recipe
from nexa.testing.recipes import tiny_recipe
from nexa_distill.capture import capture
from nexa_distill.plan import make_plan
from nexa_hf.backend import HfBackend
from nexa_torch.run import run_training as run_own

sys.path.append(str(Path(__file__).parents[1] / "distill"))

ROWS = 48
"""Training rows of a recipe whose steps take all of them."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small teacher."""
    from teachers import make_teacher

    return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def make(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a recipe of the method over one set of rows, each step over all of them."""
    folder = tmp_path_factory.mktemp("students")

    def recipe(**more: Any) -> Any:
        own = {
            "method": "distill",
            "backend": "hf",
            "distill.teacher": str(teacher),
            "distill.mode": "online",
            "data.packing": False,
            "data.max_documents": ROWS,
            "data.local_cache_root": str(folder / "cache"),
            "training": {"max_steps": 3, "microbatch_size_per_gpu": 12, "global_batch_size": ROWS, "seed": 7},
            "optimizer": {"lr": 1e-3, "weight_decay": 0.0, "scheduler": {"name": "constant"}},
        }
        return tiny_recipe(folder / "recipe", {**own, **more})

    return recipe


@pytest.fixture(scope="module")
def dataset(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions recorded over those rows, at temperature 2."""
    folder = tmp_path_factory.mktemp("recorded")
    capture(make_plan(make(**HOT)), folder, processes=1)
    return folder


HOT = {"distill.temperature": 2.0, "distill.mode": "offline", "distill.capture.draws": 20}


def run(folder: Path, recipe: Any, **more: Any) -> Any:
    """A finished run of a recipe."""
    one_thread()
    return hf_run(folder, recipe.document()).attempt(**more)


def own_run(folder: Path, recipe: Any) -> Any:
    """The same with Nexa's own engine."""
    from running import Run

    return Run(folder, {**recipe.document(), "backend": "torch"}, train=run_own).attempt()


@pytest.mark.parametrize(
    "more",
    [
        {"DATASET": True, **HOT},
        {"distill.divergence": "jsd", "distill.jsd_beta": 0.3, "distill.temperature": 2.0},
        {"distill.divergence": "reverse_kl", "distill.hidden_weight": 0.5, "adapter.rank": 2},
    ],
    ids=["offline", "online", "features"],
)
def test_losses_are_those_of_the_own_engine(make: Any, dataset: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """Step by step, to rounding: same rows, same predictions, same loss, same figures beside it."""
    if more.pop("DATASET", False):
        more = {**more, "distill.dataset": str(dataset)}
    if "adapter.rank" in more:
        more = {**more, "model.name": make().distill.teacher, **dict.fromkeys(SIZES)}
    recipe = make(**more)
    there, here = run(tmp_path / "hf", recipe), own_run(tmp_path / "own", recipe)
    for name in ("loss", "ce", "kl", *(["hidden"] if "distill.hidden_weight" in more else [])):
        ours, theirs = there.series(name), here.series(name)
        assert ours.keys() == theirs.keys() == {1, 2, 3}
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=2e-5, abs=1e-7), name


SIZES = ("model.d_model", "model.n_layers", "model.n_heads")


ON_POLICY = {
    "distill.mode": "on_policy",
    "distill.divergence": "jsd",
    "distill.jsd_beta": 0.3,
    "distill.temperature": 2.0,
    "distill.on_policy.share": 0.5,
    "rollouts.max_completion_length": 7,
    "rollouts.temperature": 0.8,
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The microbatches that are trained on, as the loss gets them."""
    from nexa_hf.trainers.distill import DistillTrainer

    found: list[dict[str, Any]] = []
    plain = DistillTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        found.append(dict(inputs))
        return plain(self, model, inputs, *rest, **more)

    monkeypatch.setattr(DistillTrainer, "compute_loss", compute_loss)
    return found


def dense_loss(recipe: Recipe, network: Any, teacher: Any, batches: list[dict[str, Any]]) -> float:
    """(1 − α) CE + α T² JSD_β with whole logits, over all labels of a step; on the student's answers α is 1."""
    distill = recipe.distill
    total, count = 0.0, 0
    for batch in batches:
        labels = batch["shift_labels"]
        chosen = labels != -100
        logits, of_teacher = (
            model(input_ids=batch["input_ids"]).logits[chosen].double() for model in (network, teacher)
        )
        p, q = ((part / distill.temperature).softmax(-1) for part in (of_teacher, logits))
        mixture = distill.jsd_beta * p + (1 - distill.jsd_beta) * q
        jsd = distill.jsd_beta * (p * (p / mixture).log()) + (1 - distill.jsd_beta) * (q * (q / mixture).log())
        alpha = 1.0 if batch.get("by_student") else distill.alpha
        ce = torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="sum")
        total += float((1 - alpha) * ce + alpha * distill.temperature**2 * jsd.sum())
        count += int(chosen.sum())
    return total / count


def test_the_first_loss_on_the_students_answers_is_the_formulas(
    make: Any, teacher: Path, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    """Temperature, divergence and normalisation over all microbatches of the step, written or not."""
    from transformers import AutoModelForCausalLM

    from nexa_hf.methods import find_method

    recipe = make(**ON_POLICY, **{"training.max_steps": 1, "training.microbatch_size_per_gpu": 6})
    loss = run(tmp_path / "run", recipe).series("loss")[1]
    written = [batch for batch in seen if batch.get("by_student")]
    assert 0 < len(written) < len(seen) == 8
    for batch in written:
        assert ((batch["shift_labels"] != -100).sum(1) <= 7).all()
        assert (batch["shift_labels"] != -100).any(1).all()
    method = find_method("distill")
    student = method.build(recipe, method.load(recipe, lambda *progress: None), None).network.eval()
    with torch.no_grad():
        expected = dense_loss(recipe, student, AutoModelForCausalLM.from_pretrained(teacher), seen)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_resumed_run_writes_the_same_answers(make: Any, tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    """Stopped after a step between two records, with the teacher writing too: same figures, same weights."""
    training = {"max_steps": 4, "microbatch_size_per_gpu": 4, "global_batch_size": 12, "seed": 7, "log_every_steps": 2}
    recipe = make(**{**ON_POLICY, "distill.on_policy.others": "teacher", "training": training})
    whole = run(tmp_path / "whole", recipe)
    assert sum(batch.get("by_student", False) for batch in seen) not in (0, len(seen))
    one_thread()
    stopped = hf_run(tmp_path / "stopped", recipe.document())
    first = stopped.attempt(stop=lambda: "enough" if len(seen) >= 21 else None)
    assert first.result.step == 3
    second = stopped.attempt()
    for name in ("loss", "kl", "ce"):
        assert {**first.series(name), **second.series(name)} == whole.series(name)
    assert second.checkpoint is not None
    assert hashes(second.checkpoint) == hashes(whole.checkpoint)


def test_the_share_and_the_others_say_who_writes(make: Any, tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    """None by the student with share 0, and the data as it is unless the teacher writes."""
    base = {**ON_POLICY, "distill.on_policy.share": 0.0, "training.max_steps": 1}
    run(tmp_path / "data", make(**base))
    run(tmp_path / "teacher", make(**base, **{"distill.on_policy.others": "teacher"}))
    of_data, of_teacher = seen[:4], seen[4:]
    assert not any(batch.get("by_student") for batch in seen)
    assert max(int((batch["shift_labels"] != -100).sum(1).max()) for batch in of_data) > 7
    assert max(int((batch["shift_labels"] != -100).sum(1).max()) for batch in of_teacher) <= 7


def refusal(recipe: Recipe) -> str:
    """The first problem of a recipe, or what its run is refused with."""
    return next((f"{problem.path}: {problem.message}" for problem in HfBackend().check(recipe)), "")


def test_what_can_not_be_done_is_told_before(make: Any, tmp_path: Path) -> None:
    """No prompts, no room for answers, no teacher, text to be trained on by another method."""
    assert "no prompt" in refusal(make(**ON_POLICY, **{"data.train_on": "all"}))
    assert "method: sft" in refusal(make(**{"distill.mode": "sequence"}))
    assert "distill.teacher" in refusal(make(**ON_POLICY, **{"distill.teacher": "/none"}))
    assert "cross_tokenizer" in refusal(make(**{"distill.cross_tokenizer": "uld"}))
    with pytest.raises(NexaError, match=r"more than the 256 that the teacher takes"):
        run(tmp_path / "long", make(**{**ON_POLICY, "rollouts.max_completion_length": 250}))


def test_every_field_is_answered(make: Any) -> None:
    """What writes answers is honoured on policy alone, and nothing sits in silence."""
    answers = {
        mode: {answer.path: answer.answer.value for answer in HfBackend().settings(make(**more))}
        for mode, more in (("online", {}), ("on_policy", ON_POLICY))
    }
    for path in ("rollouts.max_completion_length", "distill.on_policy.share"):
        assert (answers["online"][path], answers["on_policy"][path]) == ("refused", "honoured")
    assert answers["on_policy"]["data.packing"] == "honoured"
    assert answers["on_policy"]["rollouts.rewards"] == "refused"
    assert {answers["on_policy"][f"distill.{name}"] for name in ("alpha", "temperature", "jsd_beta")} == {"honoured"}
