"""Distillation: size and speed of records, time of the loss, and how right its gradient is.

    python -m tests.bench distill
    python -m tests.bench distill --distillkit FOLDER    a checkout of DistillKit

Records are of made-up predictions, as spread as a language model's are. Targets: bytes a token ≤0.15x DistillKit at
k=128; decoding ≥50x and encoding ≥20x as fast; the fused head ≤1.0x `F.cross_entropy` and ≥3x as fast as TRL's chunked
divergence; angle to the dense gradient ≤0.25x that of normalised top-k.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench._measure import measure, ratio, report
from torch import Tensor
from torch.nn import functional

from nexa_distill.loss import RecordedLoss, TeacherEntries
from nexa_distill.records import Predictions, RecordSpec
from nexa_distill.sampling import record, uniform
from nexa_distill.shards import Pieces, Shard, shard_bytes
from nexa_torch.loss import fused_head_loss

_TOP = 128
_WEAKEST, _SPREAD = 3.0, 4.0
"""How much more the context says than the frequency: from, and up to how much further."""


def teacher_logits(tokens: int, vocabulary: int, *, seed: int = 0) -> Tensor:
    """Logits of a made-up teacher: how frequent a token is (Zipf's law), and what its context says of it.

    The context speaks up enough that 50 draws find 15 to 20 tokens; those of an 8B model on web text find about 12
    (arXiv 2503.16870).
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
    spec = RecordSpec.of("sampled", draws=50, head=0)
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
        timings = measure(candidates, rounds=rounds)
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
    spec = RecordSpec.of("sampled", draws=50, head=0)
    recorded, _ = record(
        teacher_logits(tokens, vocabulary), targets, uniform(0, np.zeros(tokens), np.arange(tokens)), spec
    )
    entries = entries_of(recorded, spec)

    def backward(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), (hidden, weight))

    def nexa() -> Tensor:
        objective = RecordedLoss(targets, entries, alpha=0.9)
        return fused_head_loss(hidden, weight, objective, scale=1 / tokens, chunk=512)

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
    timings = measure(candidates, rounds=rounds)
    target = "≤1.0x F.cross_entropy, ≤0.33x TRL, which multiplies with the teacher's head too"
    report(
        f"head of {vocabulary:,} tokens, width {width}, {tokens} positions", timings, candidate="nexa", target=target
    )


def gradients(tokens: int, vocabulary: int) -> None:
    """Angle and length of the gradient by the hidden states' head, against the dense one, averaged over a batch."""
    width = 64
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = (torch.randn(vocabulary, width, generator=generator, dtype=torch.float64) / 8).requires_grad_()
    logits = teacher_logits(tokens, vocabulary)
    p = torch.softmax(logits.double(), -1)
    q = torch.softmax(functional.linear(hidden, weight), -1).detach()
    dense = (q - p).T @ hidden
    targets = torch.zeros(tokens, dtype=torch.long)
    spec = RecordSpec.of("sampled", draws=50, head=0)
    found, quality = record(logits, targets, uniform(0, np.zeros(tokens), np.arange(tokens)), spec)
    entries = round(quality.entries / tokens)
    values, ids = p.topk(entries, -1)
    normalised = torch.zeros_like(p).scatter_(1, ids, values / values.sum(-1, keepdim=True))
    bucket = record(logits, targets, np.zeros(tokens), RecordSpec.of("top_k", draws=0, head=entries))[0]

    def of(recorded: TeacherEntries) -> Tensor:
        objective = RecordedLoss(targets, recorded, alpha=1.0)
        return torch.autograd.grad(fused_head_loss(hidden, weight, objective, scale=1.0, chunk=512), weight)[0]

    candidates = {
        "sampled": of(entries_of(found, spec)),
        "top-k with its tail": of(entries_of(bucket, RecordSpec.of("top_k", draws=0, head=entries))),
        "top-k normalised": (q - normalised).T @ hidden,
    }
    print(f"\ngradient of {tokens:,} positions to the dense one, {entries} entries each  [target: ≤0.25x normalised]")
    angles = {}
    for name, gradient in candidates.items():
        cosine = (gradient * dense).sum() / gradient.norm() / dense.norm()
        angles[name] = math.degrees(math.acos(min(1.0, cosine.item())))
        length = (gradient.norm() / dense.norm()).item()
        print(
            f"  {name:<20} angle {angles[name]:6.2f}°, length {length:.3f}x, "
            f"angle {angles[name] / max(1e-9, _degrees(candidates['top-k normalised'], dense)):.2f}x normalised"
        )


def _degrees(gradient: Tensor, dense: Tensor) -> float:
    cosine = (gradient * dense).sum() / gradient.norm() / dense.norm()
    return math.degrees(math.acos(min(1.0, cosine.item())))


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
    gradients(options.tokens, min(options.vocabulary, 8192))
