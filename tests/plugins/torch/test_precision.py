"""Loss scaling follows torch's GradScaler step by step; every precision trains to nearly the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nexa.errors import WorkerError
from nexa_torch.engine.precision import LossScale, Precision, use_tf32
from nexa_torch.loss import linear_cross_entropy

CPU = torch.device("cpu")


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))


def _train(name: str, *, steps: int = 10, max_norm: float | None = 1.0) -> nn.Module:
    model = _model()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    precision = Precision(name, CPU)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randn(8, 16, generator=generator)
        with precision.autocast():
            loss = (model(batch) - batch).float().square().mean()
        precision.backward(loss)
        precision.step(optimizer, parameters, max_norm)
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 3e-2), ("fp16", 2e-3)])
def test_half_precision_stays_close(name: str, tolerance: float) -> None:
    start, full, half = (
        torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (_model(), _train("fp32"), _train(name))
    )
    assert float((half - full).norm() / (full - start).norm()) < tolerance


def test_scale_follows_torchs_scaler() -> None:
    """The same overflows: the same scale after every step, the same steps left out, the same weights."""
    ours_model = _model()
    theirs_model = copy.deepcopy(ours_model)
    ours, theirs = LossScale(growth_interval=3), torch.amp.GradScaler("cpu", growth_interval=3)
    precision = Precision("fp16", CPU)
    precision.scale = ours
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (ours_model, theirs_model)]
    generator = torch.Generator().manual_seed(1)
    for step in range(16):
        batch = torch.randn(8, 16, generator=generator) * (1e12 if step in (0, 4, 11, 12) else 1.0)
        for model, optimizer, own in zip((ours_model, theirs_model), optimizers, (True, False), strict=True):
            loss = (model(batch) * batch).mean()
            optimizer.zero_grad()
            if own:
                precision.backward(loss * (float("inf") if step in (0, 4, 11, 12) else 1.0))
                precision.step(optimizer, list(model.parameters()), None)
            else:
                theirs.scale(loss * (float("inf") if step in (0, 4, 11, 12) else 1.0)).backward()
                theirs.step(optimizer)
                theirs.update()
        assert ours.value == theirs.get_scale()
    assert ours.skipped_steps == 4
    for mine, other in zip(ours_model.parameters(), theirs_model.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_scale_survives_a_checkpoint() -> None:
    precision, other = Precision("fp16", CPU), Precision("fp16", CPU)
    assert precision.scale is not None
    precision.scale.update(overflowed=True)
    precision.scale.update(overflowed=False)
    other.load_state_dict(precision.state_dict())
    assert other.state_dict() == precision.state_dict() == {"value": 32768.0, "skipped_steps": 1, "good_steps": 1}
    assert other.figures() == {"loss_scale": 32768.0, "skipped_steps": 1.0}
    assert Precision("bf16", CPU).state_dict() == {}


def test_overflow_without_end_is_an_error() -> None:
    scale = LossScale(initial=2.0**-24)
    with pytest.raises(WorkerError, match=r"precision=bf16"):
        scale.update(overflowed=True)


def test_fused_head_keeps_small_fp16_gradients() -> None:
    """A mean over many tokens: without care for fp16's range, 1 ÷ tokens would flush gradients to zero."""
    torch.manual_seed(0)
    hidden = torch.randn(512, 32, requires_grad=True)
    weight = (torch.randn(2000, 32) * 0.02).requires_grad_()
    targets = torch.randint(2000, (512,))
    precision = Precision("fp16", CPU)
    assert precision.scale is not None

    def gradients(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        hidden.grad = weight.grad = None
        arithmetic = Precision(name, CPU)
        with arithmetic.autocast():
            loss = linear_cross_entropy(hidden, weight, targets, scale=1e-5, chunk=100)
        arithmetic.backward(loss)
        factor = arithmetic.scale.value if arithmetic.scale is not None else 1.0
        assert hidden.grad is not None
        assert weight.grad is not None
        return hidden.grad / factor, weight.grad / factor

    for half, full in zip(gradients("fp16"), gradients("fp32"), strict=True):
        assert float((half - full).norm() / full.norm()) < 2e-3


def test_both_ways_to_ask_for_tf32_agree() -> None:
    """torch's compiler reads the older setting, its kernels the newer one."""
    try:
        for wanted, old, new in ((True, "high", "tf32"), (False, "highest", "ieee")):
            use_tf32(wanted)
            assert torch.get_float32_matmul_precision() == old
            assert torch.backends.cuda.matmul.fp32_precision == new
            assert torch.backends.cudnn.allow_tf32 is wanted
            assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cudnn.rnn.fp32_precision
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
