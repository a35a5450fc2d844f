"""Students: they learn from what was recorded and from teachers in the step, and nothing that does not fit is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from teachers import make_teacher

from nexa.errors import DataError, UserError
from nexa.testing.recipes import tiny_recipe
from nexa_distill.capture import capture
from nexa_distill.checks import find_problems
from nexa_distill.plan import make_plan
from nexa_distill.pruning import kept_blocks
from nexa_torch.backend import TorchBackend
from nexa_torch.data.rows import IGNORED
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.tasks.registry import load_data_module, load_task

CAPTURE = {"distill.capture.shard_tokens": 900, "distill.capture.draws": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where recipes of this module have their data."""
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def make(teacher, folder):
    """Makes a recipe of the method distill over one set of rows."""

    def recipe(**more):
        own = {"method": "distill", "distill.teacher": str(teacher), "data.validation.fraction": 0.2}
        return tiny_recipe(folder / "recipe", {**own, **CAPTURE, **more})

    return recipe


@pytest.fixture(scope="module")
def recorded(make, folder):
    """A dataset of each mode over those rows."""
    folders = {}
    for mode in ("sampled", "top_k", "hybrid"):
        folders[mode] = folder / mode
        capture(make_plan(make(**{"distill.capture.record": mode})), folders[mode], processes=1)
    return folders


def set_up(recipe):
    """The recipe's data module and task, its model built."""
    module = load_data_module(recipe)
    module.prepare_data()
    module.setup()
    task = load_task(recipe, module)
    return module, task, task.build_model()


def train(recipe):
    """Train in this process and return the last figures."""
    module = load_data_module(recipe)
    module.prepare_data()
    module.setup()
    return TrainingEngine(recipe, load_task(recipe, module)).run().metrics


def first_batch(module):
    """The first microbatch."""
    return next(iter(module.train_dataloader(0, 1)[0]))


@pytest.mark.parametrize("mode", ["sampled", "top_k", "hybrid"])
@pytest.mark.parametrize("packing", [True, False])
def test_entries_of_a_batch_are_the_recorded_ones(make, recorded, mode, packing):
    """Proof 7: packed, padded and masked rows find the prediction of each of their labelled positions."""
    recipe = make(**{"distill.dataset": str(recorded[mode]), "data.packing": packing})
    module, _, _ = set_up(recipe)
    rows, dataset = module.data.train, module.recorded.dataset
    indices = [3, 0, 1]
    batch = rows.take(indices)
    labelled = batch.labels.ravel() != IGNORED
    places = rows.places(indices, batch.input_ids.shape[1]).ravel()[labelled]
    found = module.recorded.entries(places, batch.input_ids.ravel()[labelled])
    for position, place in enumerate(places):
        row = int(module.recorded.find(np.array([place]))[0])
        _, single = dataset.read(row, row + 1)
        mine = found["rows"] == position
        assert np.array_equal(found["ids"][mine], single.ids)
        np.testing.assert_array_equal(found["weights"][mine], single.weights(dataset.spec))
    assert found["ends"][-1] == len(found["rows"])


def test_the_order_of_rows_in_a_batch_does_not_matter(make, recorded):
    """Nor how they are divided: the loss of rows together is that of each, weighed by their tokens."""
    recipe = make(**{"distill.dataset": str(recorded["sampled"]), "data.packing": False})
    module, task, model = set_up(recipe)
    from nexa_distill.data import RecordedDataset, collate_recorded

    dataset = RecordedDataset(module.data.train, module.recorded)

    def loss(indices):
        batch = collate_recorded(dataset.__getitems__(indices))
        return task.train_step(batch, model, None)[0].item(), batch["trained_tokens"]

    whole, count = loss([4, 9, 2])
    assert loss([2, 4, 9])[0] == pytest.approx(whole, rel=1e-5)
    parts = [loss([index]) for index in (4, 9, 2)]
    assert sum(value * weight for value, weight in parts) / count == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("mode", ["sampled", "top_k", "hybrid"])
def test_an_offline_student_comes_closer_to_its_teacher(make, recorded, mode):
    """Its divergence falls, and it trains without the teacher."""
    more = {"distill.dataset": str(recorded[mode]), "distill.alpha": 1.0, "optimizer.lr": 1e-2}
    short, long = (train(make(**more, **{"training.max_steps": steps}))["kl"] for steps in (1, 12))
    assert long < short


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"distill.divergence": "reverse_kl", "distill.temperature": 2.0},
        {"distill.divergence": "jsd", "distill.jsd_beta": 0.3},
        {"distill.hidden_weight": 0.5, "distill.attention_weight": 0.5},
    ],
)
def test_an_online_student_comes_closer_to_its_teacher(make, more):
    """By every divergence, and by features."""
    base = {"distill.mode": "online", "distill.alpha": 1.0, "optimizer.lr": 1e-2, **more}
    short, long = (train(make(**base, **{"training.max_steps": steps})) for steps in (1, 8))
    assert long["kl"] < short["kl"]
    assert ("hidden" in long) == ("distill.hidden_weight" in more)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(make, teacher, folder):
    """Proof 3 through the whole task: loss 0 and no gradient."""
    recipe = make(**{"distill.mode": "online", "distill.alpha": 1.0})
    sizes = {"name": str(teacher), "d_model": None, "n_layers": None, "n_heads": None, "tokenizer": None}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=sizes)})
    module, task, model = set_up(recipe)
    loss, _ = task.train_step(first_batch(module), model, None)
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None) < 1e-4


def test_a_pruned_student_keeps_the_blocks_it_should(make, tmp_path):
    """Evenly spread ones, and its checkpoint loads as a model of that size."""
    from transformers import AutoModelForCausalLM

    deep = make_teacher(tmp_path / "deep", layers=4)
    recipe = make(**{"distill.mode": "online", "distill.teacher": str(deep), "distill.student_layers": 2})
    sizes = {"name": str(deep), "d_model": None, "n_layers": None, "n_heads": None, "tokenizer": None}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=sizes)})
    _, task, model = set_up(recipe)
    whole = AutoModelForCausalLM.from_pretrained(deep)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, whole.model.layers[3].mlp.up_proj.weight)
    task.save(model, tmp_path / "saved", dict(model.state_dict()))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.arange(8)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert loaded.config.num_hidden_layers == 2


def test_kept_blocks_are_spread_evenly():
    """The first and the last among them."""
    assert kept_blocks(30, 15)[0] == 0
    assert kept_blocks(30, 15)[-1] == 29
    assert kept_blocks(4, 4) == [0, 1, 2, 3]
    assert kept_blocks(4, 1) == [0]
    with pytest.raises(UserError, match="4 blocks"):
        kept_blocks(4, 5)


def test_a_lora_student_trains(make, recorded, teacher):
    """Only the adapter's weights, on an existing model."""
    from nexa.recipe.sections.model import AdapterSection

    recipe = make(**{"distill.dataset": str(recorded["sampled"])})
    sizes = {"name": str(teacher), "d_model": None, "n_layers": None, "n_heads": None, "tokenizer": None}
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update=sizes), "adapter": AdapterSection(rank=2)}
    )
    assert np.isfinite(train(recipe)["loss"])


def test_every_field_of_the_section_is_answered(make, recorded):
    """Honoured by the method, refused where another method sets it."""
    backend = TorchBackend()
    answers = {answer.path: answer.answer.value for answer in backend.settings(make())}
    own = {path: answer for path, answer in answers.items() if path.startswith("distill.")}
    assert {own.pop(path) for path in list(own) if path.startswith("distill.on_policy.")} == {"refused"}
    assert len(own) > 15
    assert set(own.values()) == {"honoured"}
    other = {answer.path: answer.answer.value for answer in backend.settings(make(method="sft"))}
    assert {other[path] for path in own} == {"refused"}


def _problems(recipe):
    return [(problem.path, problem.message) for problem in find_problems(recipe)]


def test_what_can_not_be_trained_is_told_before(make, recorded, tmp_path):
    """No dataset, none there, another temperature, no teacher, modes of others."""
    assert _problems(make())[0][0] == "distill.dataset"
    assert "no distilled dataset" in _problems(make(**{"distill.dataset": str(tmp_path)}))[0][1]
    hot = make(**{"distill.dataset": str(recorded["sampled"]), "distill.temperature": 2.0})
    assert "captured at 1" in _problems(hot)[0][1]
    assert _problems(make(**{"distill.mode": "online", "distill.teacher": "/none"}))[0][0] == "distill.teacher"
    assert _problems(make(**{"distill.mode": "on_policy"}))[0][0] == "distill.mode"
    assert _problems(make(**{"distill.dataset": str(recorded["sampled"])})) == []


@pytest.mark.parametrize("field", ["divergence", "hidden_weight", "attention_weight", "cross_tokenizer"])
def test_what_needs_the_whole_teacher_is_refused_offline(make, field):
    """By the recipe's own check."""
    value = {"divergence": "jsd", "cross_tokenizer": "uld"}.get(field, 1.0)
    with pytest.raises(ValueError, match=f"{field}: only mode: online"):
        make(**{f"distill.{field}": value})


def test_a_dataset_of_another_template_teacher_or_data_is_refused(make, recorded, tmp_path, teacher):
    """Naming what differs."""
    dataset = {"distill.dataset": str(recorded["sampled"])}

    def refusal(**more):
        module = load_data_module(make(**dataset, **more))
        with pytest.raises((UserError, DataError)) as caught:
            module.setup()
        return str(caught.value)

    template = tmp_path / "other.jinja"
    recipe = make()
    template.write_text(Path(recipe.model.chat_template).read_text() + "\n")
    assert "another chat template" in refusal(**{"model.chat_template": str(template)})
    assert "held_out" in refusal(**{"data.validation.fraction": 0.3})
    assert "answers_only" in refusal(**{"data.train_on": "all"})
    other = make_teacher(tmp_path / "other", seed=9)
    assert "which is not the recipe's" in refusal(**{"distill.teacher": str(other)})
    assert "revision" in refusal(**{"distill.teacher_revision": "v2"})


def test_a_dataset_with_a_lost_shard_or_a_changed_byte_is_refused(make, recorded, tmp_path):
    """Before the first step."""
    for damage, message in (("lose", "is missing"), ("change", "SHA-256")):
        copy = tmp_path / damage
        shutil.copytree(recorded["sampled"], copy)
        shard = copy / json.loads((copy / "distilled_dataset.json").read_text())["shards"][1]["file"]
        if damage == "lose":
            shard.unlink()
        else:
            content = bytearray(shard.read_bytes())
            content[-3] ^= 1
            shard.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_data_module(make(**{"distill.dataset": str(copy)})).setup()


def test_a_teacher_whose_weights_are_not_numbers_is_named(make, tmp_path):
    """Before it spoils the student's first step."""
    broken = make_teacher(tmp_path / "broken", spread=float("nan"))
    recipe = make(**{"distill.mode": "online", "distill.teacher": str(broken)})
    module = load_data_module(recipe)
    module.setup()
    with pytest.raises(UserError, match="values that are not numbers"):
        load_task(recipe, module).build_model()


def test_models_of_other_shapes_can_not_share_features(make, tmp_path):
    """Widths must be equal for hidden states."""
    wide = make_teacher(tmp_path / "wide", width=64)
    recipe = make(**{"distill.mode": "online", "distill.teacher": str(wide), "distill.hidden_weight": 1.0})
    module = load_data_module(recipe)
    module.setup()
    with pytest.raises(UserError, match="hidden_weight compares layers of one width"):
        load_task(recipe, module).build_model()
