"""From a teacher's logits to the entries of its record.

Draws are systematic (Madow 1949): with F the distribution function over the vocabulary and one uniform number u a row,
token j gets floor(N·F(j) + u) − floor(N·F(j−1) + u) of N draws. Its mean is N·p(j), as of independent draws, and its
variance is at most a quarter, of a whole count or not. u is a hash of seed, document and place, so it is the same
whatever is computed together; probabilities are rounded to multiples of 2⁻⁴⁰ whose sums are exact in fp64, so the sum
does not depend on its order, and thus not on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nexa.errors import WorkerError
from nexa_distill.records import Predictions, RecordSpec

_UNIT = float(1 << 40)
_ROWS_AT_A_TIME = 64


@dataclass(kw_only=True)
class Quality:
    """What records keep, as sums over `rows` recorded rows.

    kept: probability of the recorded tokens. lost: −log of it, the KL divergence (nats) of the recorded tokens' own
    distribution from the teacher. largest_tail: largest probability that one row leaves out. loss: the teacher's
    cross-entropy, nats. entries: recorded entries.
    """

    rows: int = 0
    kept: float = 0.0
    lost: float = 0.0
    largest_tail: float = 0.0
    loss: float = 0.0
    entries: int = 0

    def add(self, other: Quality) -> None:
        """Add another part's sums."""
        for name in ("rows", "kept", "lost", "loss", "entries"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_tail = max(self.largest_tail, other.largest_tail)


def uniform(seed: int, document: np.ndarray, position: np.ndarray) -> np.ndarray:
    """A number 0 ≤ u < 1 of 53 bits for each place of a document: a hash (SplitMix64), float64 [n]."""
    with np.errstate(over="ignore"):
        state = _mix(np.full(len(document), seed, dtype=np.int64).view(np.uint64))
        state = _mix(state ^ document.astype(np.int64).view(np.uint64))
        state = _mix(state ^ position.astype(np.int64).view(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@torch.no_grad()
def record(logits: Tensor, following: Tensor, u: np.ndarray, spec: RecordSpec) -> tuple[Predictions, Quality]:
    """Records of n positions.

    logits: fp32 [n, vocabulary]; following: int64 [n], the token behind each; u: float64 [n], from `uniform`.
    Raises WorkerError where a logit is not a number.
    """
    parts, quality = [], Quality()
    for start in range(0, len(logits), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        part, kept = _record(logits[rows], following[rows], u[rows], spec)
        parts.append(part)
        quality.add(kept)
    return Predictions.join(parts), quality


def _record(logits: Tensor, following: Tensor, u: np.ndarray, spec: RecordSpec) -> tuple[Predictions, Quality]:
    logits = logits.float()
    log_sum = torch.logsumexp(logits, dim=-1, keepdim=True)
    if not torch.isfinite(log_sum).all():
        raise WorkerError("the teacher's logits are not numbers")
    truth = logits.gather(1, following.unsqueeze(1)).sub_(log_sum).squeeze(1)
    plain = spec.temperature == 1.0
    log_p = logits.sub(log_sum) if plain else torch.log_softmax(logits / spec.temperature, dim=-1)
    p = log_p.exp()
    left = (p.double() * _UNIT).round_()
    head_ids = torch.topk(log_p, spec.head, dim=-1).indices.sort(dim=-1).values if spec.head else None
    if head_ids is not None:
        left.scatter_(1, head_ids, 0.0)
    drawn = _draw(left, u, spec.draws) if spec.draws else torch.zeros_like(left, dtype=torch.bool)
    rows, ids = drawn.nonzero(as_tuple=True)
    counts = drawn[rows, ids]
    kept = p.new_zeros(len(p)).index_add_(0, rows, p[rows, ids])
    head_log_p = p.new_zeros(0)
    if head_ids is not None:
        head_log_p = log_p.gather(1, head_ids)
        kept += head_log_p.exp().sum(-1)
        rows, ids, counts = _with_head(head_ids, rows, ids, counts)
    kept = kept.clamp(max=1.0)
    entries = torch.bincount(rows, minlength=len(p))
    predictions = Predictions(
        entries=entries.to(torch.uint8).cpu().numpy(),
        ids=ids.to(torch.int32).cpu().numpy(),
        counts=counts.to(torch.uint8).cpu().numpy(),
        head_log_p=head_log_p.flatten().cpu().numpy(),
        truth_log_p=truth.cpu().numpy(),
    )
    return predictions, Quality(
        rows=len(p),
        kept=float(kept.double().sum()),
        lost=float(-kept.double().log().sum()),
        largest_tail=float(1.0 - kept.min()),
        loss=float(-truth.double().sum()),
        entries=len(ids),
    )


def _draw(mass: Tensor, u: np.ndarray, draws: int) -> Tensor:
    """How often each token is drawn, [n, vocabulary]; mass: whole numbers in fp64, in any unit."""
    sums = mass.cumsum(dim=-1)
    total = sums[:, -1:].clone()
    shift = (torch.from_numpy(u).to(total.device).unsqueeze(1) * total).floor_()
    # A row whose head has everything leaves nothing to draw from.
    steps = sums.mul_(draws).add_(shift).div_(total.clamp(min=1.0)).floor_()
    return torch.diff(steps, dim=-1, prepend=torch.zeros_like(steps[:, :1])).clamp_(min=0.0)


def _with_head(head_ids: Tensor, rows: Tensor, ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries with each row's exact ones, of count 0, before its drawn ones."""
    n, k = head_ids.shape
    head_rows = torch.arange(n, device=rows.device).repeat_interleave(k)
    all_rows = torch.cat([head_rows, rows])
    order = torch.sort(all_rows, stable=True).indices
    all_ids = torch.cat([head_ids.flatten(), ids])
    all_counts = torch.cat([counts.new_zeros(n * k), counts])
    return all_rows[order], all_ids[order], all_counts[order]
