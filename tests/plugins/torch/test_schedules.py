"""Learning-rate schedules and optimizers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nexa.errors import UserError
from nexa.recipe.schema import OptimizerSection
from nexa_torch.optimizers import OPTIMIZERS, build_optimizer
from nexa_torch.schedules import SCHEDULES, ScheduleShape, build_scheduler, lr_factor

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
