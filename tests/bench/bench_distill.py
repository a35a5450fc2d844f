"""Distillation: size and speed of records, time and memory of the loss.

    python -m tests.bench distill
    python -m tests.bench distill --distillkit FOLDER    a checkout of DistillKit

Records are of made-up predictions, as spread as a language model's are. Targets: bytes a token ≤0.15x DistillKit at
k=128; decoding ≥50x and encoding ≥20x as fast; the fused head ≤1.0x `F.cross_entropy` and ≥3x as fast as TRL's chunked
divergence; loss memory ≤0.1x that of whole logits. The gradient has a bench of its own, `gradient`, and a student's
step `student`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench._measure import in_own_process, measure, peak_memory, ratio, report
from torch import Tensor
from torch.nn import functional

from nexa.recipe.sections.distill import CaptureSection
from nexa_distill.loss import OnlineLoss, RecordedLoss, TeacherEntries
from nexa_distill.records import Predictions, RecordSpec
from nexa_distill.sampling import record, uniform
from nexa_distill.shards import Pieces, Shard, shard_bytes
from nexa_distill.step import ONLINE_PART
from nexa_torch.loss import fused_head_loss

_TOP = 128
_DRAWS = CaptureSection().draws
_CHUNK = 512
_WEAKEST, _SPREAD = 3.0, 4.0
"""How much more the context says than the frequency: from, and up to how much further."""


def teacher_logits(tokens: int, vocabulary: int, *, seed: int = 0) -> Tensor:
    """Logits of a made-up teacher: how frequent a token is (Zipf's law), and what its context says of it.

    The context speaks up enough that the draws find as many tokens as those of SmolLM2-135M do on real text.
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = -torch.log1p(torch.arange(vocabulary, dtype=torch.float32))
    context = torch.randn(tokens, vocabulary, generator=generator)
    strength = _WEAKEST + _SPREAD * torch.rand(tokens, 1, generator=generator)
    return frequency + strength * context


def entries_of(found: Predictions, spec: RecordSpec) -> TeacherEntries:
    """Records as the loss takes them."""
    return TeacherEntries(
        rows=torch.from_numpy(found.rows()),
        ids=torch.from_numpy(found.ids.astype(np.int64)),
        weights=torch.from_numpy(found.weights(spec)),
        ends=np.cumsum(found.entries, dtype=np.int64),
        tail=spec.mode == "top_k",
    )


def sizes_and_speeds(tokens: int, vocabulary: int, rounds: int, distillkit: Path | None) -> None:
    """Bytes a token, and packing and unpacking of records against DistillKit's compression of its top 128."""
    spec = RecordSpec.of("sampled", draws=_DRAWS, head=0)
    logits = teacher_logits(tokens, vocabulary)
    following = torch.zeros(tokens, dtype=torch.long)
    found, quality = record(logits, following, uniform(0, np.zeros(tokens), np.arange(tokens)), spec)
    pieces = Pieces(document=np.array([0]), position=np.array([0]), length=np.array([tokens]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"

        ids, marks = np.zeros(tokens, dtype=np.int64), np.ones(tokens, dtype=bool)

        def encode() -> bytes:
            return shard_bytes(pieces, ids, marks, found, vocabulary=vocabulary)

        path.write_bytes(encode())
        shard = Shard(path)

        def decode() -> TeacherEntries:
            return entries_of(shard.read(0, tokens), spec)

        size = path.stat().st_size / tokens
        candidates: dict[str, Callable[[], object]] = {"nexa encode": encode, "nexa decode": decode}
        peer = _distillkit(distillkit, logits, vocabulary) if distillkit else None
        if peer is not None:
            candidates |= {"distillkit encode": peer[0], "distillkit decode": peer[1]}
        timings = measure(candidates, rounds=rounds, clock=time.process_time)
    print(f"\nrecords of {tokens:,} tokens: {size:.1f} bytes a token, {quality.entries / tokens:.1f} entries")
    for name, timing in timings.items():
        print(f"  {name:<18} {tokens / timing.median:12,.0f} tokens/s")
    if peer is not None:
        print(f"  bytes: {size / peer[2]:.3f}x DistillKit's {peer[2]:.1f}  [target: ≤0.15x]")
        for what, target in (("encode", 20), ("decode", 50)):
            faster = 1 / ratio(timings[f"nexa {what}"], timings[f"distillkit {what}"])
            print(f"  {what}: {faster:.0f}x as fast  [target: ≥{target}x]")


def _distillkit(folder: Path, logits: Tensor, vocabulary: int) -> tuple[Any, Any, float]:
    """Compression, decompression, and bytes a token of DistillKit's own settings for k = 128."""
    sys.path.insert(0, str(folder))
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor

    # The documentation's first recommendation.
    config = DistributionQuantizationConfig(
        d=vocabulary,
        k=_TOP,
        exact_k=16,
        exact_dtype="bfloat16",
        polynomial_terms=[0, 1, 2, 3, 4, "sqrt"],
        term_dtype="float32",
        residual_bins=[],
        delta_encoding=False,
        error_diffusion=False,
    )
    compressor = LogprobCompressor(config)
    values, ids = torch.log_softmax(logits, -1).topk(_TOP, dim=-1)

    def encode() -> Any:
        return compressor.compress_from_sparse(ids, values)

    compressed = encode()
    size = sum(part.numel() * part.element_size() for part in compressed.values()) / len(logits)
    return encode, lambda: compressor.decompress_to_sparse(compressed), size


def head(tokens: int, width: int, vocabulary: int, rounds: int) -> None:
    """Forward and backward of the head: recorded rows, plain cross-entropy, TRL's chunked divergence."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    spec = RecordSpec.of("sampled", draws=_DRAWS, head=0)
    recorded, _ = record(
        teacher_logits(tokens, vocabulary), targets, uniform(0, np.zeros(tokens), np.arange(tokens)), spec
    )
    entries = entries_of(recorded, spec)

    def backward(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), (hidden, weight))

    def nexa() -> Tensor:
        objective = RecordedLoss(targets, entries, alpha=0.9)
        return fused_head_loss(hidden, weight, objective, scale=1 / tokens, chunk=_CHUNK)

    candidates = {
        "nexa": backward(nexa),
        "F.cross_entropy": backward(lambda: functional.cross_entropy(functional.linear(hidden, weight), targets)),
    }
    if importlib.util.find_spec("trl"):
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        other = torch.randn(tokens, width, generator=generator)
        teacher = torch.randn(vocabulary, width, generator=generator)

        def trl() -> Tensor:
            found: Tensor = ChunkedDivergenceFunction.apply(hidden, weight, None, other, teacher, None, 0.0)[0]
            return found.mean()

        candidates["TRL chunked"] = backward(trl)
    timings = measure(candidates, rounds=rounds, clock=time.process_time)
    target = "≤1.0x F.cross_entropy, ≤0.33x TRL, which multiplies with the teacher's head too"
    report(
        f"head of {vocabulary:,} tokens, width {width}, {tokens} positions", timings, candidate="nexa", target=target
    )


def memory(tokens: int, width: int, vocabulary: int) -> None:
    """Peak of forward and backward of the head against whole logits of student and teacher."""
    print(f"\npeak memory of the loss of {tokens:,} positions, gradients of its inputs left out  [target: ≤0.1x dense]")
    peaks = {name: in_own_process(_peak, name, tokens, width, vocabulary) for name in ("recorded", "online", "dense")}
    for name, peak in peaks.items():
        print(f"  {name:<10} {peak / 1e6:8.0f} MB   {peak / peaks['dense']:.3f}x dense")


def _peak(name: str, tokens: int, width: int, vocabulary: int) -> float:
    """Bytes of one step in a process of its own; the teacher's hidden states are there before it."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5).requires_grad_()
    other = torch.randn(vocabulary, width, generator=generator) / width**0.5
    theirs = torch.randn(tokens, width, generator=generator)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    ends = np.arange(1, tokens + 1) * 12
    entries = TeacherEntries(
        rows=torch.arange(tokens).repeat_interleave(12),
        ids=torch.randint(0, vocabulary, (12 * tokens,), generator=generator),
        weights=torch.full((12 * tokens,), 1 / 12),
        ends=ends,
        tail=False,
    )

    def fused(objective: Any, chunk: int = _CHUNK) -> Tensor:
        return fused_head_loss(hidden, weight, objective, scale=1 / tokens, chunk=chunk)

    def whole() -> Tensor:
        q = torch.log_softmax(functional.linear(hidden, weight), -1)
        p = torch.log_softmax(functional.linear(theirs, other), -1)
        kl = functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
        return (0.1 * functional.nll_loss(q, targets, reduction="none") + 0.9 * kl).mean()

    def of_teacher(rows: slice) -> Tensor:
        return functional.linear(theirs[rows], other)

    losses: dict[str, Callable[[], Tensor]] = {
        "recorded": lambda: fused(RecordedLoss(targets, entries, alpha=0.9)),
        "online": lambda: fused(
            OnlineLoss(targets, of_teacher, vocabulary=vocabulary, alpha=0.9), _CHUNK // ONLINE_PART
        ),
        "dense": whole,
    }
    gradients = (hidden.numel() + weight.numel()) * 4
    return peak_memory(lambda: losses[name]().backward()) - gradients


def main(argv: Sequence[str]) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="bench distill", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--distillkit", type=Path, help="checkout of DistillKit, which no package index has")
    options = parser.parse_args(argv)
    sizes_and_speeds(options.tokens, options.vocabulary, options.rounds, options.distillkit)
    head(min(512, options.tokens), options.width, options.vocabulary, options.rounds)
    memory(options.tokens, options.width, options.vocabulary)
