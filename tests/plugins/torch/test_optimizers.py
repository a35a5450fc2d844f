"""Every optimizer does what its paper writes, and continues from a checkpoint as if it had never stopped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Run, chat_rows, tiny_recipe
from torch import nn

from nexa.errors import UserError
from nexa.recipe.sections.optimizer import OptimizerSection
from nexa_torch.optimizers import OPTIMIZERS, build_optimizer, registry
from nexa_torch.optimizers.curvature import NeedsCurvature
from nexa_torch.optimizers.weights import evaluation_weights
from nexa_torch.schedules import SCHEDULES

LR, DECAY, STEPS = 0.01, 0.1, 6
Array = Any


class Problem:
    """One float64 matrix and a series of gradients for it."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.start = generator.normal(size=(5, 3))
        self.gradients = generator.normal(size=(STEPS, 5, 3))
        self.sampled = generator.normal(size=(STEPS, 5, 3))

    def run(self, section: OptimizerSection, before: Callable[[int, Any, nn.Parameter], None] | None = None) -> Array:
        """Weights after every step, by the optimizer itself."""
        model = nn.Linear(3, 5, bias=False, dtype=torch.float64)
        model.weight.data = torch.tensor(self.start)
        optimizer = build_optimizer(section, model)
        found = []
        for step, gradient in enumerate(self.gradients):
            if before is not None:
                before(step, optimizer, model.weight)
            model.weight.grad = torch.tensor(gradient)
            optimizer.step()
            with evaluation_weights(optimizer):
                found.append(model.weight.detach().numpy().copy())
        return np.stack(found)


def _section(name: str, **fields: Any) -> OptimizerSection:
    return OptimizerSection(name=name, lr=LR, weight_decay=DECAY, **fields)


def test_adamw_is_the_papers() -> None:
    problem = Problem()
    theta, m, v, wanted = problem.start.copy(), 0.0, 0.0, []
    for t, g in enumerate(problem.gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        theta = theta - LR * DECAY * theta
        theta = theta - LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        wanted.append(theta)
    np.testing.assert_allclose(problem.run(_section("adamw")), wanted, rtol=1e-12)


def test_lion_is_the_papers() -> None:
    problem = Problem()
    theta, m, wanted = problem.start.copy(), np.zeros((5, 3)), []
    for g in problem.gradients:
        direction = np.sign(0.9 * m + 0.1 * g)
        theta = theta - LR * (direction + DECAY * theta)
        m = 0.99 * m + 0.01 * g
        wanted.append(theta)
    np.testing.assert_allclose(problem.run(_section("lion")), wanted, rtol=1e-12)


def test_sophia_is_the_papers() -> None:
    problem, labels, interval = Problem(), 40, 2

    def estimate(step: int, optimizer: Any, weight: nn.Parameter) -> None:
        assert isinstance(optimizer, NeedsCurvature)
        assert optimizer.curvature_due() is (step % interval == 0)
        if optimizer.curvature_due():
            weight.grad = torch.tensor(problem.sampled[step])
            optimizer.update_curvature(labels)

    theta, m, h, wanted = problem.start.copy(), 0.0, 0.0, []
    for t, g in enumerate(problem.gradients):
        m = 0.965 * m + 0.035 * g
        if t % interval == 0:
            h = 0.99 * h + 0.01 * labels * problem.sampled[t] ** 2
        theta = theta - LR * DECAY * theta
        theta = theta - LR * np.clip(m / np.maximum(0.05 * h, 1e-12), -1, 1)
        wanted.append(theta)
    section = _section("sophia", hessian_interval=interval)
    np.testing.assert_allclose(problem.run(section, estimate), wanted, rtol=1e-12)


def test_schedule_free_is_the_papers() -> None:
    """Algorithm 1 of arXiv:2405.15682; what is evaluated is the average x."""
    problem = Problem()
    x = z = problem.start.copy()
    v, weights, wanted = 0.0, 0.0, []
    for t, g in enumerate(problem.gradients, 1):
        y = 0.1 * z + 0.9 * x
        v = 0.95 * v + 0.05 * g * g
        z = z - LR * g / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) - LR * DECAY * y
        weights += LR**2
        x = x + LR**2 / weights * (z - x)
        wanted.append(x)
    np.testing.assert_allclose(problem.run(_section("schedule_free")), wanted, rtol=1e-10)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_sgd_decays_past_the_momentum(momentum: float | None) -> None:
    problem = Problem()
    theta, m, wanted = problem.start.copy(), 0.0, []
    for g in problem.gradients:
        m = (momentum or 0.0) * m + g
        theta = theta * (1 - LR * DECAY) - LR * m
        wanted.append(theta)
    np.testing.assert_allclose(problem.run(_section("sgd", momentum=momentum)), wanted, rtol=1e-12)


def test_adafactor_is_the_papers() -> None:
    problem = Problem()
    theta, row, column, wanted = problem.start.copy(), 0.0, 0.0, []
    for t, g in enumerate(problem.gradients, 1):
        new = t**-0.8
        row = row * (1 - new) + new * (g * g).mean(1, keepdims=True)
        column = column * (1 - new) + new * (g * g).mean(0, keepdims=True)
        update = g / np.sqrt(np.maximum(row * column / np.maximum(row.mean(), 1e-38), 1e-38))
        update /= max(1.0, math.sqrt((update**2).mean()))
        rate = min(LR, 1 / math.sqrt(t)) * max(1e-3, math.sqrt((theta**2).mean()))
        theta = theta * (1 - LR * DECAY) - rate * update
        wanted.append(theta)
    np.testing.assert_allclose(problem.run(_section("adafactor")), wanted, rtol=1e-6)


def _newton_schulz(update: Array) -> Array:
    """Five quintic steps towards the nearest orthogonal matrix (Jordan et al. 2024)."""
    flat = update.T if update.shape[0] > update.shape[1] else update
    flat = flat / np.linalg.norm(flat)
    for _ in range(5):
        gram = flat @ flat.T
        flat = 3.4445 * flat + (-4.7750 * gram + 2.0315 * gram @ gram) @ flat
    return flat.T if update.shape[0] > update.shape[1] else flat


class _Tiny(nn.Module):
    """An embedding, a hidden matrix, a norm and a head that says it is one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.hidden = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_muon_takes_hidden_matrices_only() -> None:
    model = _Tiny()
    optimizer = build_optimizer(_section("muon"), model)
    gradients = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
    optimizer.step()
    keys = {name: set(optimizer.state[parameter]) for name, parameter in model.named_parameters()}
    assert [name for name in keys if keys[name] == {"momentum_buffer"}] == ["hidden.weight"]
    assert all(keys[name] == {"step", "exp_avg", "exp_avg_sq"} for name in keys if name != "hidden.weight")
    gradient = gradients["hidden.weight"].double().numpy()
    update = _newton_schulz(0.05 * gradient * 0.95 + 0.05 * gradient)
    wanted = before["hidden.weight"].numpy() * (1 - LR * DECAY) - LR * 0.2 * math.sqrt(8) * update
    # The iteration runs in bfloat16.
    np.testing.assert_allclose(model.hidden.weight.detach().numpy(), wanted, atol=LR * 0.2 * math.sqrt(8) * 0.05)
    head = before["head.weight"] * (1 - LR * DECAY) - LR * gradients["head.weight"].sign()
    torch.testing.assert_close(model.head.weight.detach(), head, rtol=1e-5, atol=1e-6)


def test_muon_follows_one_schedule_and_reloads() -> None:
    model = _Tiny()
    optimizer = build_optimizer(_section("muon"), model)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    torch.testing.assert_close([parameter.detach() for parameter in model.parameters()], before)


def test_eight_bit_moments_are_close_to_full_ones() -> None:
    pytest.importorskip("bitsandbytes")

    def moved(name: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(128, 64, bias=False)
        start = model.weight.detach().clone()
        optimizer = build_optimizer(_section(name), model)
        for _ in range(20):
            model.weight.grad = torch.randn_like(model.weight)
            optimizer.step()
        if name == "adamw_8bit":
            assert {value.dtype for value in optimizer.state[model.weight].values() if torch.is_tensor(value)} == {
                torch.uint8,
                torch.float32,
            }
        return model.weight.detach() - start

    full, small = moved("adamw"), moved("adamw_8bit")
    assert float((full - small).norm() / full.norm()) < 0.05


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
    inputs, targets = torch.randn(32, 8), torch.randn(32, 8)
    optimizer = build_optimizer(OptimizerSection(name=name, lr=0.02), model)

    def backward() -> float:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        return loss.item()

    first = backward()
    for _ in range(30):
        if isinstance(optimizer, NeedsCurvature) and optimizer.curvature_due():
            backward()
            optimizer.update_curvature(32)
        backward()
        optimizer.step()
    with evaluation_weights(optimizer):
        assert backward() < first


def test_evaluating_changes_nothing() -> None:
    torch.manual_seed(0)
    models = [nn.Linear(8, 8), nn.Linear(8, 8)]
    models[1].load_state_dict(models[0].state_dict())
    for model, evaluates in zip(models, (True, False), strict=True):
        optimizer = build_optimizer(_section("schedule_free"), model)
        generator = torch.Generator().manual_seed(1)
        for step in range(STEPS):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
            # After one step the average is the trained point itself.
            if evaluates and step:
                trained = model.weight.detach().clone()
                with evaluation_weights(optimizer):
                    assert not torch.equal(model.weight, trained)
    assert torch.equal(models[0].weight, models[1].weight)


def test_missing_package_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    words = r"needs the package bitsandbytes\s.*nexa-train\[quantize\].*available.*adamw, lion"
    with pytest.raises(UserError, match=re.compile(words, re.DOTALL)):
        build_optimizer(OptimizerSection(name="adamw_8bit"), nn.Linear(2, 2))


def test_the_reference_names_all() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/optimizers.md").read_text(encoding="utf-8")
    assert [name for name in (*OPTIMIZERS, *SCHEDULES) if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_exact_resume(tmp_path: Path, name: str) -> None:
    """Stopped after two steps and continued: the same losses and the same weights, to the bit."""
    rows = chat_rows(tmp_path)
    recipe = tiny_recipe(
        rows,
        training={"max_steps": 5},
        optimizer={"name": name, "weight_decay": 0.1, "hessian_interval": 2, "scheduler": {"name": "constant"}},
        data={"validation": {"fraction": 0.2}},
        cluster={"threads_per_process": 1},
        torch={"cpu_matmul": "native"},
    )
    whole = Run(tmp_path / "whole", recipe).attempt()
    cut = Run(tmp_path / "cut", recipe)
    logged = cut.folder / "1-0.jsonl"
    first = cut.attempt(stop=lambda: "asked" if logged.read_text().count('"type":"metrics"') >= 3 else None)
    assert first.result.step == 3
    second = cut.attempt()
    assert {**first.series("loss"), **second.series("loss")} == whole.series("loss")
    assert second.checkpoint is not None
    assert whole.checkpoint is not None
    for file in ("model.safetensors", "trainer/optimizer/state.safetensors"):
        assert (second.checkpoint / file).read_bytes() == (whole.checkpoint / file).read_bytes()
