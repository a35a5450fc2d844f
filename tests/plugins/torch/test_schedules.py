"""Learning-rate schedules and optimizers by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from nexa.errors import UserError
from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers import OPTIMIZERS, build_optimizer
from nexa_torch.schedules import SCHEDULES, ScheduleShape, build_scheduler, lr_factor, observe_evaluation

SHAPE = ScheduleShape(total_steps=100, warmup_steps=10, min_lr_ratio=0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_to_the_peak(name: str) -> None:
    rates = [lr_factor(name, step, SHAPE) for step in range(11)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"constant", "inverse_sqrt", "plateau"}))
def test_falls_to_the_floor_at_the_end(name: str) -> None:
    assert lr_factor(name, 100, SHAPE) == pytest.approx(0.1)
    assert min(lr_factor(name, step, SHAPE) for step in range(10, 101)) >= 0.1 - 1e-12


def test_shapes() -> None:
    assert lr_factor("constant", 100, SHAPE) == 1.0
    assert lr_factor("linear", 55, SHAPE) == pytest.approx(0.55)
    assert lr_factor("cosine_warmup", 55, SHAPE) == pytest.approx(0.55)
    assert lr_factor("inverse_sqrt", 40, SHAPE) == pytest.approx(0.5)
    wsd = ScheduleShape(total_steps=100, warmup_steps=10, decay_steps=20)
    assert [lr_factor("wsd", step, wsd) for step in (10, 80, 90, 100)] == [1.0, 1.0, 0.5, 0.0]
    restarts = ScheduleShape(total_steps=100, cycles=2)
    assert lr_factor("cosine_with_restarts", 50, restarts) == 1.0
    assert lr_factor("cosine_with_restarts", 49, restarts) < 0.01


@pytest.mark.parametrize(("shape", "half"), [("linear", 0.5), ("cosine", 0.5), ("1-sqrt", 1 - math.sqrt(0.5))])
def test_wsd_decays_as_told(shape: str, half: float) -> None:
    wsd = ScheduleShape(total_steps=100, warmup_steps=10, decay_steps=20, decay_shape=shape, min_lr_ratio=0.1)
    rates = [lr_factor("wsd", step, wsd) for step in (10, 80, 90, 100)]
    assert rates == pytest.approx([1.0, 1.0, 0.1 + 0.9 * half, 0.1])


@pytest.mark.parametrize(
    ("ours", "theirs", "options", "specific"),
    [
        ("cosine_warmup", "cosine", {}, {}),
        ("cosine_with_restarts", "cosine_with_restarts", {"cycles": 3}, {"num_cycles": 3}),
        ("linear", "linear", {}, {}),
        ("constant", "constant_with_warmup", {}, {}),
        ("inverse_sqrt", "inverse_sqrt", {}, {}),
        ("wsd", "warmup_stable_decay", {"decay_steps": 20}, {"num_decay_steps": 20, "decay_type": "linear"}),
        (
            "wsd",
            "warmup_stable_decay",
            {"decay_steps": 20, "decay_shape": "cosine"},
            {"num_decay_steps": 20, "decay_type": "cosine"},
        ),
        (
            "wsd",
            "warmup_stable_decay",
            {"decay_steps": 20, "decay_shape": "1-sqrt"},
            {"num_decay_steps": 20, "decay_type": "1-sqrt"},
        ),
    ],
)
def test_curves_are_those_of_transformers(
    ours: str, theirs: str, options: dict[str, Any], specific: dict[str, Any]
) -> None:
    """After warm-up; during it ours is one update ahead, since its first update is not lost on rate 0."""
    from transformers import get_scheduler

    steps, warmup = 100, 10
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        theirs, optimizer, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=specific
    )
    shape = ScheduleShape(total_steps=steps, warmup_steps=warmup, **options)
    for step in range(steps):
        rate = scheduler.get_last_lr()[0]
        assert rate == pytest.approx(lr_factor(ours, step if step >= warmup else step - 1, shape) if step else 0.0)
        optimizer.step()
        scheduler.step()


def _plateau(**options: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    return optimizer, build_scheduler("plateau", optimizer, total_steps=100, **options)


def test_plateau_falls_when_the_metric_stalls() -> None:
    optimizer, scheduler = _plateau(warmup_steps=2, patience=1, factor=0.5, min_lr_ratio=0.2)
    rates = []
    for loss in (3.0, 2.0, 2.0, 1.9999, 1.0, 1.0, 1.0, 1.0, 1.0):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        observe_evaluation(scheduler, {"eval_loss": loss})
    # 1.9999 is no real improvement on 2.0.
    assert rates == pytest.approx([1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    observe_evaluation(scheduler, {})
    observe_evaluation(scheduler, {"eval_loss": 1.0})
    observe_evaluation(scheduler, {"eval_loss": 1.0})
    assert scheduler.get_last_lr() == [pytest.approx(0.4)]


def test_plateau_falls_when_torchs_does() -> None:
    optimizer, scheduler = _plateau(patience=2, factor=0.3)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(other, factor=0.3, patience=2)
    generator = torch.Generator().manual_seed(0)
    for loss in torch.rand(40, generator=generator).tolist():
        optimizer.step()
        scheduler.step()
        observe_evaluation(scheduler, {"eval_loss": loss})
        theirs.step(loss)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])


def test_plateau_keeps_its_place() -> None:
    _, scheduler = _plateau(patience=0)
    for loss in (2.0, 3.0):
        observe_evaluation(scheduler, {"eval_loss": loss})
    optimizer, other = _plateau(patience=0)
    other.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert (other.best, other.reduction, other.get_lr()) == (2.0, 0.5, [1.0])
    optimizer.step()
    other.step()
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_plateau_names_the_metrics_there_are() -> None:
    _, scheduler = _plateau(monitor="acuracy")
    with pytest.raises(UserError, match=r"eval_loss, perplexity"):
        observe_evaluation(scheduler, {"eval_loss": 1.0, "perplexity": 2.7})


def test_scheduler_drives_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_scheduler("linear", optimizer, total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 1.5, 1.0, 0.5]


def test_unknown_names_list_the_known() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=r"did you mean 'cosine_warmup'.*wsd"):
        build_scheduler("cosine_warm", optimizer, total_steps=1)
    with pytest.raises(UserError, match=r"did you mean 'adamw'.*sgd"):
        build_optimizer(OptimizerSection(name="adamv"), nn.Linear(2, 2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_on_matrices_only(name: str) -> None:
    embedding, linear, norm = nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4)
    model = nn.ModuleList([embedding, linear, norm])
    optimizer = build_optimizer(OptimizerSection(name=name, weight_decay=0.1), model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(linear.weight)] == 0.1
    plain = [embedding.weight, linear.bias, norm.weight, norm.bias]
    assert [decay[id(parameter)] for parameter in plain] == [0.0] * 4
