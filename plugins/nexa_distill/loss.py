"""What a student is trained on: (1 − α) × cross-entropy to the data + α × T² × divergence from the teacher.

Both are objectives of the fused output head (`nexa_torch.loss`): computed with their gradients chunk by chunk, so that
neither logits nor gradients of all positions ever exist. With u = logits ÷ T and q = softmax(u), the gradients with
respect to the logits are

    recorded rows     α · T · (m q − t)                       t: weights of the entries, m: their sum
    ... with a tail   α · T · ((1 − r) q + [entry](r q − t))  r = (1 − m) ÷ (1 − Σ q of the entries)
    forward KL        α · T · (q − p)
    reverse KL, JSD   α · T · c · q (s − Σ q s)               s = log q − log p, c = 1; or log q − log mixture, 1 − β

The first is Hinton et al. 2015 (arXiv 1503.02531) with T² where it belongs, in the gradient too; that weights may be
draws and must not be normalised is Anshumann et al. 2025 (arXiv 2503.16870); the generalised Jensen-Shannon divergence
is Agarwal et al. 2024 (arXiv 2306.13649).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nexa_distill.ranking import ranked, ranked_with_places
from nexa_torch.loss import CrossEntropy, Head

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]

_UNDERFLOWN = 1e-30
"""Below this a probability in fp32 may have lost digits, and its logarithm with them."""
_ROUNDINGS = 8
"""A difference of probabilities that is smaller than so many units of rounding says nothing."""


@dataclass(frozen=True, kw_only=True)
class TeacherEntries:
    """Recorded predictions of n positions: entry e says that position rows[e] gives token ids[e] weights[e].

    rows: int64 [E], ascending; ids: int64 [E]; weights: [E]. ends: of each position's entries, int64 [n], on the host.
    tail: what the weights of a position leave of 1 belongs to all other tokens together; else they are all.
    """

    rows: Tensor
    ids: Tensor
    weights: Tensor
    ends: np.ndarray
    tail: bool

    def chunk(self, positions: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(rows counted from the chunk's first, ids, weights) of some positions."""
        first = int(self.ends[positions.start - 1]) if positions.start else 0
        last = int(self.ends[min(positions.stop, len(self.ends)) - 1])
        entries = slice(first, last)
        return self.rows[entries] - positions.start, self.ids[entries], self.weights[entries]


class _Student:
    """Probabilities of a chunk at a temperature, and logarithms of single ones to full precision."""

    def __init__(self, head: Head, hidden: Tensor, temperature: float) -> None:
        self._head, self._hidden, self._temperature = head, hidden, temperature
        logits = head.logits(hidden)
        if temperature != 1.0:
            logits = logits / temperature
        self._in_place = logits.device.type == "cpu"
        self._logits = logits
        # On CPU each row of logits is replaced while it is in the cache.
        self.p = torch.softmax(logits, dim=-1, out=logits) if self._in_place else torch.softmax(logits, dim=-1)
        self._log_sum: Tensor | None = None

    def log_p(self, rows: Tensor, ids: Tensor) -> Tensor:
        """log p of token ids[e] at position rows[e], [E]."""
        if not self._in_place:
            if self._log_sum is None:
                # From the largest probability, at least 1 ÷ vocabulary, which never underflows.
                self._log_sum = self._logits.amax(dim=-1) - self.p.amax(dim=-1).log()
            return self._logits[rows, ids] - self._log_sum[rows]
        p = self.p[rows, ids]
        log_p = p.log()
        if (lost := (p < _UNDERFLOWN).nonzero().squeeze(-1)).numel():
            again, place = torch.unique(rows[lost], return_inverse=True)
            logits = self._head.fresh_logits(self._hidden[again])
            log_p[lost] = torch.log_softmax(logits / self._temperature, dim=-1)[place, ids[lost]]
        return log_p


class RecordedLoss:
    """The objective of recorded predictions.

    targets: int64 [n]. sums: total cross-entropy and divergence so far, in nats; the divergence of draws lacks
    their entropy's bias and is to be compared with itself only.
    """

    def __init__(self, targets: Tensor, teacher: TeacherEntries, *, alpha: float, temperature: float = 1.0) -> None:
        self.targets, self.teacher = targets, teacher
        self.alpha, self.temperature = alpha, temperature
        self.sums: dict[str, Tensor] = {}

    def __call__(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """See `nexa_torch.loss.Objective`."""
        if self.temperature == 1.0 or self.alpha == 1.0:
            return self._at_one_temperature(head, hidden, rows)
        losses, gradient = CrossEntropy(self.targets)(head, hidden, rows)
        _add(self.sums, "ce", losses)
        # The head's buffer is needed again for the other temperature.
        gradient = gradient * (1.0 - self.alpha)
        student = _Student(head, hidden, self.temperature)
        divergence, soft = self._divergence(student, rows, self.alpha * self.temperature)
        return losses * (1.0 - self.alpha) + divergence, gradient.add_(soft)

    def _at_one_temperature(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        student = _Student(head, hidden, self.temperature)
        targets = self.targets[rows]
        here = torch.arange(len(targets), device=targets.device)
        hard = 1.0 - self.alpha
        ce = student.log_p(here, targets).neg_()
        if self.temperature == 1.0:
            _add(self.sums, "ce", ce)
        losses, gradient = self._divergence(student, rows, self.alpha * self.temperature, keep=hard)
        if hard:
            losses = losses + hard * ce
            gradient[here, targets] -= hard
        return losses, gradient

    def _divergence(self, student: _Student, rows: slice, scale: float, *, keep: float = 0.0) -> tuple[Tensor, Tensor]:
        """α T² × divergence of each position, and `scale` × its gradient by u + `keep` × probabilities."""
        of, ids, weights = self.teacher.chunk(rows)
        weights = weights.to(student.p.dtype)
        n, p = len(student.p), student.p
        log_q = student.log_p(of, ids)
        # 0 · log 0 is 0: a draw may not have been made, a log probability may have been rounded to none.
        each = torch.where(weights > 0, weights * (weights.clamp(min=_UNDERFLOWN).log() - log_q), 0.0)
        divergence = each.new_zeros(n).index_add_(0, of, each)
        mass = weights.new_zeros(n).index_add_(0, of, weights)
        q = p[of, ids]
        if self.teacher.tail:
            rest = (1.0 - mass).clamp_(min=0.0)
            left = (1.0 - q.new_zeros(n).index_add_(0, of, q)).clamp_(min=_ROUNDINGS * torch.finfo(q.dtype).eps)
            divergence += torch.where(rest > 0, rest * (rest.clamp(min=_UNDERFLOWN) / left).log(), 0.0)
            ratio = rest / left
            factor = keep + scale * (mass + rest - ratio)
            entries = scale * (ratio[of] * q - weights)
        else:
            factor = keep + scale * mass
            entries = -scale * weights
        _add(self.sums, "kl", divergence)
        # Weights of draws sum to 1, and a pass over the whole chunk can be spared.
        spared = p.device.type == "cpu" and p.dtype == torch.float32
        if not (spared and torch.allclose(factor, torch.ones_like(factor), rtol=0, atol=1e-6)):
            p.mul_(factor.unsqueeze(-1))
        p.view(-1).index_add_(0, of * p.shape[1] + ids, entries)
        return divergence * (self.alpha * self.temperature**2), p


class OnlineLoss:
    """The objective against a whole teacher.

    targets: int64 [n]. teacher: logits of some of the n positions, [rows, teacher's vocabulary]. vocabulary: ids that
    are tokens; of either model's ids the ones beyond are padding, to which the teacher gives nothing. jsd_beta: the
    teacher's part of the mixture.
    """

    def __init__(
        self,
        targets: Tensor,
        teacher: Callable[[slice], Tensor],
        *,
        vocabulary: int,
        alpha: float,
        temperature: float = 1.0,
        divergence: Divergence = "forward_kl",
        jsd_beta: float = 0.5,
    ) -> None:
        self.targets, self.alpha, self.temperature = targets, alpha, temperature
        self._teacher_logits = teacher
        self._vocabulary = vocabulary
        self._divergence = _DIVERGENCES[divergence]
        self._beta = jsd_beta
        self.sums: dict[str, Tensor] = {}

    def __call__(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """See `nexa_torch.loss.Objective`."""
        if self.temperature == 1.0:
            return self._at_one_temperature(head, hidden, rows)
        ce, hard = CrossEntropy(self.targets)(head, hidden, rows)
        _add(self.sums, "ce", ce)
        # The head's buffer is needed again for the other temperature.
        hard = hard * (1.0 - self.alpha)
        log_q = _log_softmax(head.logits(hidden).div_(self.temperature))
        losses, gradient = self._divergence(self._teacher(rows, log_q), log_q, self._beta)
        _add(self.sums, "kl", losses)
        scale = self.alpha * self.temperature
        return (1.0 - self.alpha) * ce + scale * self.temperature * losses, hard.add_(gradient, alpha=scale)

    def _at_one_temperature(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Cross-entropy and divergence from one product with the head."""
        log_q, targets, hard = _log_softmax(head.logits(hidden)), self.targets[rows], 1.0 - self.alpha
        here = torch.arange(len(targets), device=targets.device)
        ce = log_q[here, targets].neg()
        _add(self.sums, "ce", ce)
        losses, gradient = self._divergence(self._teacher(rows, log_q), log_q, self._beta)
        _add(self.sums, "kl", losses)
        gradient.mul_(self.alpha).add_(log_q.exp_(), alpha=hard)
        gradient[here, targets] -= hard
        return hard * ce + self.alpha * losses, gradient

    def _teacher(self, rows: slice, like: Tensor) -> Tensor:
        """Log probabilities of the teacher over the student's ids, to write over; −inf where there is no token."""
        logits = self._teacher_logits(rows)
        width = like.shape[1]
        known = min(self._vocabulary, logits.shape[1], width)
        logits = logits[:, :known].to(like.dtype)
        log_p = _log_softmax(logits / self.temperature if self.temperature != 1.0 else logits.clone())
        return log_p if known == width else functional.pad(log_p, (0, width - known), value=float("-inf"))


def _log_softmax(logits: Tensor) -> Tensor:
    """Log probabilities of each row; on CPU in the memory of the logits."""
    if logits.device.type == "cpu" and logits.is_contiguous():
        return torch.log_softmax(logits, dim=-1, out=logits)
    return torch.log_softmax(logits, dim=-1)


def _forward_kl(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    # 0 · (−∞) is 0 here: the teacher gives padding nothing.
    each = log_p.sub_(log_q).mul_(p).masked_fill_(p == 0, 0.0)
    losses = each.sum(-1)
    return losses, torch.exp(log_q, out=each).sub_(p)


def _reverse_kl(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    # Where the teacher gives nothing, as on padding, the student's share costs as much as the smallest number.
    return _against(log_q, log_p.clamp(min=-80.0))


def _jsd(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    weight = torch.tensor(beta, dtype=log_q.dtype, device=log_q.device)
    mixture = torch.logaddexp(log_p + weight.log(), log_q + (1.0 - weight).log())
    p = log_p.exp()
    of_teacher = torch.where(p > 0, p * (log_p - mixture), 0.0).sum(-1)
    of_student, gradient = _against(log_q, mixture)
    return beta * of_teacher + (1.0 - beta) * of_student, gradient.mul_(1.0 - beta)


def _against(log_q: Tensor, log_other: Tensor) -> tuple[Tensor, Tensor]:
    """Σ q (log q − log other), and q (s − Σ q s) with s = log q − log other."""
    q = log_q.exp()
    s = log_q - log_other
    losses = (q * s).sum(-1)
    return losses, q * (s - losses.unsqueeze(-1))


_DIVERGENCES = {"forward_kl": _forward_kl, "reverse_kl": _reverse_kl, "jsd": _jsd}


class SortedLoss:
    """Universal logit distillation (Boizard et al. 2024, arXiv 2402.12030): Σ |q − p|, both sorted by size.

    For teachers of another tokenizer. targets: int64 [n]. places: which of the n positions are matched with one of the
    teacher's, int64 [m], ascending, on the host; the others have cross-entropy alone. teacher: logits of some of the m
    matches, [matches, teacher's vocabulary]; vocabulary: as of `OnlineLoss`.
    """

    def __init__(
        self,
        targets: Tensor,
        teacher: Callable[[slice], Tensor],
        places: np.ndarray,
        *,
        vocabulary: int,
        alpha: float,
        temperature: float = 1.0,
    ) -> None:
        self.targets, self.alpha, self.temperature = targets, alpha, temperature
        self._teacher_logits, self._places, self._vocabulary = teacher, places, vocabulary
        self.sums: dict[str, Tensor] = {}

    def __call__(self, head: Head, hidden: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """See `nexa_torch.loss.Objective`."""
        ce, hard = CrossEntropy(self.targets)(head, hidden, rows)
        _add(self.sums, "ce", ce)
        losses, gradient = (1.0 - self.alpha) * ce, hard * (1.0 - self.alpha)
        matches = slice(*np.searchsorted(self._places, (rows.start, rows.start + len(ce))).tolist())
        if matches.start < matches.stop:
            places = torch.from_numpy(self._places[matches] - rows.start).to(ce.device)
            distance, by_logits = self._distance(head.logits(hidden[places]), self._teacher_logits(matches))
            _add(self.sums, "uld", distance)
            losses.index_add_(0, places, distance, alpha=self.alpha)
            gradient.index_add_(0, places, by_logits, alpha=self.alpha / self.temperature)
        return losses, gradient

    def _distance(self, logits: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Σ |q − p| of each row, and T × its gradient by the student's logits."""
        q = torch.softmax(logits / self.temperature, dim=-1)
        p = torch.softmax(teacher[:, : self._vocabulary].to(q.dtype) / self.temperature, dim=-1)
        width = max(q.shape[1], p.shape[1])
        own, places = ranked_with_places(functional.pad(q, (0, width - q.shape[1])))
        difference = own.sub_(ranked(functional.pad(p, (0, width - p.shape[1]))))
        losses = difference.abs().sum(-1)
        by_q = torch.empty_like(difference).scatter_(1, places, difference.sign())[:, : q.shape[1]]
        return losses, q * (by_q - (q * by_q).sum(-1, keepdim=True))


def _add(sums: dict[str, Tensor], name: str, losses: Tensor) -> None:
    total = losses.detach().sum()
    sums[name] = sums[name] + total if name in sums else total
