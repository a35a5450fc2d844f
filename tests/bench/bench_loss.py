"""The loss of an output head, forward and backward: Nexa's fused one, plain cross-entropy, transformers' and Liger's.

Time and peak memory above what hidden states and weights take, at a vocabulary of 49k. Target: peak
memory ≤0.5x plain cross-entropy's.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence

import torch
from tests.bench._measure import in_own_process, measure, peak_memory, report
from torch import Tensor
from torch.nn import functional

from nexa_torch.loss import linear_cross_entropy

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _nexa(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, weight, targets, scale=1.0 / len(targets))


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(hidden, weight), targets)


def _transformers(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What a transformers model computes of labels; they are shifted already, so it shifts nothing."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = functional.linear(hidden, weight)
    loss: Tensor = ForCausalLMLoss(logits, labels=None, vocab_size=len(weight), shift_labels=targets)
    return loss


def _torch_fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.linear_cross_entropy(hidden, weight, targets)


def _liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    loss: Tensor = LigerFusedLinearCrossEntropyLoss()(weight, hidden, targets)
    return loss


def losses(device: str) -> dict[str, Loss]:
    """Every loss that runs here, by name."""
    found: dict[str, Loss] = {"nexa": _nexa, "plain": _plain, "transformers": _transformers}
    if hasattr(functional, "linear_cross_entropy"):
        found["torch fused"] = _torch_fused
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        found["liger"] = _liger
    return found


class _Step:
    """One forward and backward pass of a loss over fixed inputs."""

    def __init__(self, loss: Loss, tokens: int, vocabulary: int, width: int, device: str) -> None:
        torch.manual_seed(0)
        self._loss = loss
        self._hidden = torch.randn(tokens, width, device=device, requires_grad=True)
        self._weight = torch.randn(vocabulary, width, device=device).mul_(0.02).requires_grad_()
        self._targets = torch.randint(vocabulary, (tokens,), device=device)

    def __call__(self) -> float:
        self._hidden.grad = self._weight.grad = None
        loss = self._loss(self._hidden, self._weight, self._targets)
        loss.backward()
        return loss.item()


def _peak(name: str, shape: tuple[int, int, int], device: str) -> float:
    """Bytes of one step above what the process held before it, gradients of the inputs included."""
    step = _Step(losses(device)[name], *shape, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        step()
        return float(torch.cuda.max_memory_allocated() - before)
    return peak_memory(step)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times in turn, then each peak in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--onednn", action="store_true", help="route fp32 products on CPU to oneDNN, for all alike")
    options = parser.parse_args(argv)
    if options.onednn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    shape = (options.tokens, options.vocabulary, options.width)
    if "liger" not in losses(options.device):
        print("liger: left out; it needs a CUDA GPU and: pip install liger-kernel")
    candidates = {name: _Step(loss, *shape, options.device) for name, loss in losses(options.device).items()}
    values = {name: step() for name, step in candidates.items()}
    timings = measure(candidates, rounds=options.rounds, warm_up=False)
    title = "tokens × vocabulary × width = " + " × ".join(map(str, shape))
    report(title, timings, candidate="nexa")
    print("\npeak memory of a step, its gradients included  [target: ≤0.5x plain]")
    peaks = {name: in_own_process(_peak, name, shape, options.device) for name in candidates}
    for name, peak in peaks.items():
        against = f"   nexa is {peaks['nexa'] / peak:6.2f}x this" if name != "nexa" else ""
        print(f"  {name:<12}  {peak / 1e6:9.0f} MB   loss {values[name]:.6f}{against}")


if __name__ == "__main__":
    main()
