"""The fused head computes what plain cross-entropy computes, loss and gradients, at any chunk size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nexa_torch.loss import IGNORED, linear_cross_entropy

WIDTH, VOCABULARY = 24, 301


def _inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(3, 17, WIDTH, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, generator=generator, requires_grad=True)
    bias = torch.randn(VOCABULARY, dtype=dtype, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (3, 17), generator=generator)
    targets[0, :5] = targets[2] = IGNORED
    return hidden, weight, bias, targets


def _plain(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = functional.linear(hidden, weight, bias).flatten(0, 1)
    return functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_equals_plain_cross_entropy(dtype: torch.dtype, tolerance: float, chunk: int) -> None:
    hidden, weight, bias, targets = _inputs(dtype)
    expected = _plain(hidden, weight, bias, targets) * 0.25
    loss = linear_cross_entropy(hidden, weight, targets, bias=bias, scale=0.25, chunk=chunk)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    wanted = torch.autograd.grad(expected, (hidden, weight, bias))
    found = torch.autograd.grad(loss, (hidden, weight, bias))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_upstream_gradient_is_applied() -> None:
    hidden, weight, bias, targets = _inputs(torch.float64)
    wanted = torch.autograd.grad(3.0 * _plain(hidden, weight, bias, targets), (hidden, weight))
    found = torch.autograd.grad(3.0 * linear_cross_entropy(hidden, weight, targets, bias=bias), (hidden, weight))
    torch.testing.assert_close(found, wanted)


def test_numerical_gradient() -> None:
    hidden, weight, _, targets = _inputs(torch.float64)
    torch.autograd.gradcheck(lambda h: linear_cross_entropy(h, weight.detach(), targets, chunk=5), (hidden,))


def test_frozen_head_gets_no_gradient() -> None:
    hidden, weight, _, targets = _inputs(torch.float32)
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_tied_weight_sums_both_gradients() -> None:
    _, weight, _, targets = _inputs(torch.float64)
    tokens = torch.arange(targets.numel()).reshape(targets.shape)

    def gradient(fused: bool) -> torch.Tensor:
        hidden = functional.embedding(tokens, weight)
        bias = weight.new_zeros(VOCABULARY)
        loss = linear_cross_entropy(hidden, weight, targets) if fused else _plain(hidden, weight, bias, targets)
        return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(gradient(fused=True), gradient(fused=False))


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.eye(2), torch.tensor([1, 1]))
    assert loss.item() == 1000.0


def test_no_label_gives_zero_loss_and_zero_gradients() -> None:
    hidden, weight, _, targets = _inputs(torch.float32)
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_without_gradients_only_the_loss() -> None:
    hidden, weight, bias, targets = _inputs(torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, bias=bias, chunk=4)
    torch.testing.assert_close(loss, _plain(hidden, weight, bias, targets), rtol=1e-5, atol=1e-5)


def test_under_autocast_close_to_fp32() -> None:
    hidden, weight, bias, targets = _inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, bias=bias, chunk=16)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, _plain(hidden, weight, bias, targets), rtol=2e-2, atol=1e-1)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
