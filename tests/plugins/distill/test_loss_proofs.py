"""The loss is what its formula says: against whole logits in fp64, finite differences and sampling theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from dense import Problem, entries_of, top
from torch.nn import functional

from nexa_distill.loss import OnlineLoss, RecordedLoss, SortedLoss
from nexa_distill.ranking import ranked, ranked_with_places
from nexa_distill.records import RecordSpec
from nexa_distill.sampling import record, uniform
from nexa_torch.loss import fused_head_loss, labelled, linear_cross_entropy, logits_loss

MIXES = [(alpha, temperature) for alpha in (0.0, 0.3, 1.0) for temperature in (1.0, 2.0)]


@pytest.mark.parametrize(("alpha", "temperature"), MIXES)
def test_with_every_token_recorded_it_is_the_dense_loss(alpha, temperature):
    """Proof 1: loss and gradients within 1e-12, with and without the tail bucket, which is then empty."""
    problem = Problem()
    expected = problem.dense(alpha, temperature)
    wanted = problem.gradients(expected)
    for tail in (False, True):
        loss = problem.fused(entries_of(problem.teacher(temperature), tail=tail), alpha, temperature)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for found, want in zip(problem.gradients(loss), wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("tail", [True, False])
def test_gradients_are_those_of_finite_differences(alpha, temperature, tail):
    """Proofs 2 and 9: top-k with and without tail, with T² in the gradient."""
    problem = Problem(n=4, width=3, vocabulary=7)
    entries = top(problem.teacher(temperature), 3, tail=tail)

    def loss(hidden, weight, bias):
        objective = RecordedLoss(problem.targets, entries, alpha=alpha, temperature=temperature)
        return fused_head_loss(hidden, weight, objective, bias=bias, scale=0.5, chunk=3)

    assert torch.autograd.gradcheck(loss, problem.inputs)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_online_gradients_are_those_of_finite_differences(divergence):
    """Forward and reverse KL and the generalised JSD, at a temperature, mixed with cross-entropy."""
    problem = Problem(n=4, width=3, vocabulary=7)

    def loss(hidden, weight, bias):
        objective = OnlineLoss(
            problem.targets, lambda rows: problem.teacher_logits[rows], vocabulary=7,
            alpha=0.4, temperature=1.5, divergence=divergence, jsd_beta=0.3,
        )  # fmt: skip
        return fused_head_loss(hidden, weight, objective, bias=bias, scale=0.5, chunk=3)

    assert torch.autograd.gradcheck(loss, problem.inputs)


def test_sorted_gradients_are_those_of_finite_differences():
    """Universal logit distillation with a teacher of another vocabulary, not matched everywhere."""
    problem = Problem(n=4, width=3, vocabulary=7)
    other = Problem(n=3, vocabulary=9, seed=1).teacher_logits
    matched = np.array([0, 1, 3])

    def loss(hidden, weight, bias):
        objective = SortedLoss(
            problem.targets, lambda rows: other[rows], matched, vocabulary=9, alpha=0.4, temperature=1.5
        )
        return fused_head_loss(hidden, weight, objective, bias=bias, scale=0.5, chunk=3)

    assert torch.autograd.gradcheck(loss, problem.inputs)


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_sorted_probabilities_are_compared_where_both_have_read_the_same(chunk):
    """Σ |q − p| of sorted rows at matched positions, cross-entropy everywhere, whatever the chunks are."""
    problem = Problem()
    other = Problem(n=4, vocabulary=15, seed=1).teacher_logits
    matched = np.array([2, 3, 7, 11])
    objective = SortedLoss(problem.targets, lambda rows: other[rows], matched, vocabulary=13, alpha=0.4)
    loss = fused_head_loss(problem.hidden, problem.weight, objective, bias=problem.bias, scale=1.0, chunk=chunk)
    q = torch.softmax(problem.logits(), -1)[matched].sort(descending=True).values
    p = torch.softmax(other[:, :13], -1).sort(descending=True).values
    expected = 0.6 * functional.cross_entropy(problem.logits(), problem.targets, reduction="sum")
    expected = expected + 0.4 * (functional.pad(q, (0, 2)) - p).abs().sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for found, want in zip(problem.gradients(loss), problem.gradients(expected), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_ranks_are_those_of_a_sort():
    """Of probabilities in fp32 down to the smallest, with ties in their order."""
    generator = torch.Generator().manual_seed(4)
    values = torch.softmax(40 * torch.randn(5, 300, generator=generator), -1)
    values[:, 100:120] = values[:, 100:101]
    wanted = values.sort(dim=-1, stable=True)
    found, places = ranked_with_places(values)
    assert torch.equal(found, wanted.values)
    assert torch.equal(places, wanted.indices)
    assert torch.equal(ranked(values), wanted.values)


def test_jsd_is_between_the_two_kl_divergences():
    """β → 0 gives forward KL's, β → 1 reverse KL's limit: JSD ÷ β → KL(p‖q), JSD ÷ (1 − β) → KL(q‖p)."""
    problem = Problem()

    def value(divergence, beta=0.5):
        objective = OnlineLoss(
            problem.targets, lambda rows: problem.teacher_logits[rows], vocabulary=11, alpha=1.0,
            divergence=divergence, jsd_beta=beta,
        )  # fmt: skip
        return fused_head_loss(*problem.inputs[:2], objective, bias=problem.bias, scale=1.0, chunk=5).item()

    assert value("jsd", 1e-6) / 1e-6 == pytest.approx(value("forward_kl"), rel=1e-3)
    assert value("jsd", 1 - 1e-6) / 1e-6 == pytest.approx(value("reverse_kl"), rel=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(temperature):
    """Proof 3, recorded and online."""
    problem = Problem()
    problem.teacher_logits = problem.logits().detach()
    recorded = problem.fused(entries_of(problem.teacher(temperature)), 1.0, temperature)
    online = OnlineLoss(
        problem.targets, lambda rows: problem.teacher_logits[rows], vocabulary=11, alpha=1.0, temperature=temperature
    )
    for loss in (recorded, fused_head_loss(*problem.inputs[:2], online, bias=problem.bias, scale=1.0, chunk=5)):
        assert abs(loss.item()) < 1e-12
        for gradient in problem.gradients(loss):
            assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("mode", ["sampled", "hybrid"])
def test_the_mean_of_draws_is_the_teacher(mode):
    """Proof 4: mean weights within 4σ of p at every token, and the mean gradient within 4σ of the dense one."""
    draws, repeats = 6, 400
    problem = Problem(n=3, vocabulary=40)
    problem.teacher_logits = problem.teacher_logits.float().double()
    spec = RecordSpec.of(mode, draws=draws, head=4)
    p = problem.teacher()
    n = repeats * len(p)
    document, position = np.arange(n) // 3, np.arange(n) % 3
    logits = problem.teacher_logits.float().repeat(repeats, 1)
    found, _ = record(logits, problem.targets.repeat(repeats), uniform(5, document, position), spec)
    weights = torch.zeros(n, 40, dtype=torch.float64)
    weights[torch.from_numpy(found.rows()), torch.from_numpy(found.ids).long()] = torch.from_numpy(
        found.weights(spec)
    ).double()
    each = weights.view(repeats, 3, 40)
    # A systematic count is one of two neighbours: its variance is at most a quarter.
    sigma = 0.5 / draws / repeats**0.5
    # float16 holds the logarithms of the head to 2⁻¹¹ of their size.
    assert float((each.mean(0) - p).abs().max()) < 4 * sigma + 4e-3 * (mode == "hybrid")
    torch.testing.assert_close(weights.sum(1), torch.ones(n, dtype=torch.float64), rtol=0, atol=2e-6)
    wanted = torch.cat([g.flatten() for g in problem.gradients(problem.dense(1.0, 1.0))])
    mean = problem.gradients(problem.fused(entries_of(each.mean(0)), 1.0, 1.0))
    error = torch.cat([g.flatten() for g in mean]) - wanted
    assert float(error.norm() / wanted.norm()) < 4 * sigma * 40**0.5


def test_the_tail_bucket_never_exceeds_the_dense_divergence():
    """Proof 5: merging tokens can only lose divergence (data-processing inequality), and more entries lose less."""
    problem = Problem(n=30, vocabulary=30)
    dense = problem.dense(1.0, 1.0).item()
    found = [problem.fused(top(problem.teacher(), k), 1.0, 1.0).item() for k in (1, 4, 12, 29)]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(found))
    assert found[-1] <= dense + 1e-12
    assert found[-1] == pytest.approx(dense, rel=1e-9)


def test_accumulated_parts_with_unequal_masks_give_the_whole():
    """Proof 8: eight parts of one position count, each scaled by the count of all, sum to one batch of eight."""
    problem = Problem(n=24)
    entries = entries_of(problem.teacher())
    whole = problem.gradients(problem.fused(entries, 0.5, 1.0) / 24)
    bounds = [0, 1, 3, 4, 9, 10, 16, 23, 24]
    summed = [torch.zeros_like(part) for part in problem.inputs]
    for start, stop in itertools.pairwise(bounds):
        part = entries_of(problem.teacher()[start:stop])
        objective = RecordedLoss(problem.targets[start:stop], part, alpha=0.5)
        loss = fused_head_loss(
            problem.hidden[start:stop], problem.weight, objective, bias=problem.bias, scale=1 / 24, chunk=4
        )
        for total, gradient in zip(summed, torch.autograd.grad(loss, problem.inputs), strict=True):
            total += gradient
    for total, want in zip(summed, whole, strict=True):
        torch.testing.assert_close(total, want, rtol=1e-12, atol=1e-13)


def test_the_temperature_is_squared_in_loss_and_gradient():
    """Proof 9: near uniform distributions T² KL and its gradient do not depend on T (Hinton et al. 2015)."""
    problem = Problem()
    with torch.no_grad():
        problem.hidden.mul_(1e-3)
        problem.bias.mul_(1e-3)
    problem.teacher_logits *= 1e-3
    norms = [
        float(problem.gradients(problem.fused(entries_of(problem.teacher(t)), 1.0, t))[0].norm()) for t in (1.0, 4.0)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_size_of_chunks_does_not_matter(temperature):
    """Proof 10, also through whole logits."""
    problem = Problem()
    entries = top(problem.teacher(temperature), 4)
    losses = [problem.fused(entries, 0.5, temperature, chunk=chunk) for chunk in (1, 5, 12, 100)]
    objective = RecordedLoss(problem.targets, entries, alpha=0.5, temperature=temperature)
    losses.append(logits_loss(problem.logits(), objective, scale=1.0, chunk=5))
    wanted = problem.gradients(losses[0])
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-12, atol=1e-12)
        for found, want in zip(problem.gradients(loss), wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_padding_of_either_vocabulary_gets_nothing_from_the_teacher():
    """Proof 11: the teacher's padded ids are no tokens, and the student's are pushed down."""
    problem = Problem(vocabulary=11)
    tokens = 9
    wide = functional.pad(problem.teacher_logits[:, :tokens], (0, 5), value=3.0)
    objective = OnlineLoss(problem.targets, lambda rows: wide[rows], vocabulary=tokens, alpha=1.0)
    loss = fused_head_loss(*problem.inputs[:2], objective, bias=problem.bias, scale=1.0, chunk=5)
    p = functional.pad(torch.softmax(problem.teacher_logits[:, :tokens], -1), (0, 2))
    wanted = functional.kl_div(torch.log_softmax(problem.logits(), -1), p, reduction="sum")
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    for found, want in zip(problem.gradients(loss), problem.gradients(wanted), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_alpha_0_is_the_engines_own_cross_entropy():
    """A student without a teacher trains as any model."""
    problem = Problem()
    own = linear_cross_entropy(problem.hidden, problem.weight, problem.targets, bias=problem.bias)
    loss = problem.fused(top(problem.teacher(), 3), 0.0, 1.0)
    for found, want in zip(problem.gradients(loss), problem.gradients(own), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_positions_without_a_label_do_not_count():
    """Proof 7: prompts and padding are left out before entries are counted, wherever they stand."""
    problem = Problem(n=12)
    labels = problem.targets.clone()
    labels[[0, 3, 4, 11]] = -100
    kept, hidden, targets = labelled(problem.hidden, labels)
    objective = RecordedLoss(targets, entries_of(problem.teacher()[kept]), alpha=0.5)
    loss = fused_head_loss(hidden, problem.weight, objective, bias=problem.bias, scale=1.0, chunk=5)
    gradient = torch.autograd.grad(loss, problem.hidden)[0]
    assert float(gradient[[0, 3, 4, 11]].abs().max()) == 0.0
    assert float(gradient[kept].abs().min(0).values.max()) > 0.0


def test_a_token_the_student_rules_out_costs_what_it_should():
    """Probabilities below the smallest fp32 number keep their logarithms."""
    hidden = torch.ones(2, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [200.0], [-50.0]], requires_grad=True)
    p = torch.tensor([[0.5, 0.25, 0.25]] * 2)
    objective = RecordedLoss(torch.tensor([0, 2]), entries_of(p), alpha=1.0)
    loss = fused_head_loss(hidden, weight, objective, scale=0.5, chunk=1)
    expected = (p[0] * (p[0].log() + torch.tensor([200.0, 0.0, 250.0]))).sum()
    torch.testing.assert_close(loss, expected)
