from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming
from scipy import special, stats
from torch import Tensor
from torch.nn import functional as F

from capmismatch import losses, temperature
from capmismatch.errors import InputError
from capmismatch.losses import LOSSES, Criterion, CurriculumKD

Array = np.ndarray
Term = Callable[[Tensor, Tensor, Tensor], Tensor]

# Every term as a function of (student, teacher, labels), with temperatures that the formulas below repeat.
TERMS: dict[str, Term] = {
    "kd": lambda s, t, y: losses.kd(s, t, tau=3.0),
    "soft_cross_entropy": lambda s, t, y: losses.soft_cross_entropy(
        s, torch.softmax(t.to(torch.promote_types(t.dtype, torch.float32)) / 4, 1), 1.5
    ),
    "ats": lambda s, t, y: losses.ats(s, t, y, tau_target=4.0, tau_other=2.5, tau_student=1.5),
    "isats": lambda s, t, y: losses.isats(s, t, y, tau_target=3.0, tau_student=1.5),
    "dkd": lambda s, t, y: losses.dkd(s, t, y, tau=2.0, alpha=0.7, beta=3.0),
    "norm_kd": lambda s, t, y: losses.norm_kd(s, t, n=1.7),
    "standardized_kd": lambda s, t, y: losses.standardized_kd(s, t, tau=1.7),
    "dist": lambda s, t, y: losses.dist(s, t, tau=2.0, beta=0.6, gamma=1.4),
    "correlation_kd": lambda s, t, y: losses.correlation_kd(s, t, tau=2.0, beta=0.6, gamma=1.4, softness=0.3),
    "rank_kd": lambda s, t, y: losses.rank_kd(s, t, steepness=0.3),
    "curriculum_kd": lambda s, t, y: losses.curriculum_kd(
        s, t, torch.tensor(0.2, dtype=torch.float64), low=2.0, span=5.0
    ),
    "reverse_kl": lambda s, t, y: losses.reverse_kl(s, t, tau=1.5),
    "js": lambda s, t, y: losses.js(s, t, tau=1.5, beta=0.3),
    "skewed_kl": lambda s, t, y: losses.skewed_kl(s, t, tau=1.5, lam=0.2),
    "skewed_reverse_kl": lambda s, t, y: losses.skewed_reverse_kl(s, t, tau=1.5, lam=0.2),
    "topk_kl": lambda s, t, y: losses.topk_kl(s, t, tau=1.5, k=2),
    "dtkd": lambda s, t, y: losses.dtkd(s, t, tau=3.0, alpha=0.7, beta=0.4),
    "ttm": lambda s, t, y: losses.ttm(s, t, tau=4.0),
    "wttm": lambda s, t, y: losses.wttm(s, t, tau=4.0),
    "nkd": lambda s, t, y: losses.nkd(s, t, y, tau=1.5, gamma=0.7),
    "pld": lambda s, t, y: losses.pld(s, t, y, tau=1.5),
    "abkd": lambda s, t, y: losses.abkd(s, t, tau=1.5, alpha=0.8, beta=0.3),
    "wkd": lambda s, t, y: losses.wkd(s, t, y, tau=2.0, gamma=3.0, sharpness=0.7, epsilon=0.1, iterations=8),
    "mlkd": lambda s, t, y: losses.mlkd(s, t, (1.5, 3.0), alpha=0.7, beta=0.4, gamma=2.0),
}
ZERO_AT_THE_TEACHER = (
    *("kd", "dkd", "norm_kd", "standardized_kd", "dist", "correlation_kd", "curriculum_kd"),
    *("reverse_kl", "js", "skewed_kl", "skewed_reverse_kl", "topk_kl", "dtkd", "abkd", "mlkd"),
)


def test_every_loss_is_tested() -> None:
    assert set(TERMS) == set(LOSSES)


# Slow formulas, row by row in float64, written from the papers


def softmax(f: Array) -> Array:
    return special.softmax(np.asarray(f, dtype=np.float64))


def kl(p: Array, q: Array) -> float:
    return float(special.rel_entr(p, q).sum())


def cross_entropy(p: Array, q: Array) -> float:
    return -float(sum(p_c * math.log(q_c) for p_c, q_c in zip(p, q, strict=True)))


def slow_kd(s: Array, t: Array, y: Array) -> float:
    return np.mean([9 * kl(softmax(b / 3), softmax(a / 3)) for a, b in zip(s, t, strict=True)])


def slow_soft_cross_entropy(s: Array, t: Array, y: Array) -> float:
    return np.mean([1.5**2 * cross_entropy(softmax(b / 4), softmax(a / 1.5)) for a, b in zip(s, t, strict=True)])


def slow_ats(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b, label in zip(s, t, y, strict=True):
        b = b - b.mean()
        scaled = np.array([f / (4.0 if c == label else 2.5) for c, f in enumerate(b)])
        total += 1.5**2 * cross_entropy(softmax(scaled), softmax(a / 1.5))
    return total / len(s)


def slow_isats(s: Array, t: Array, y: Array) -> float:
    q = temperature.isats(t, y, tau_target=3.0).probs.numpy()
    return np.mean([1.5**2 * cross_entropy(b, softmax(a / 1.5)) for a, b in zip(s, q, strict=True)])


def slow_dkd(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b, label in zip(s, t, y, strict=True):
        p_s, p_t = softmax(a / 2), softmax(b / 2)
        tckd = kl(np.array([p_t[label], 1 - p_t[label]]), np.array([p_s[label], 1 - p_s[label]]))
        rest_s, rest_t = np.delete(p_s, label), np.delete(p_t, label)
        nckd = kl(rest_t / rest_t.sum(), rest_s / rest_s.sum())
        total += 4 * (0.7 * tckd + 3.0 * nckd)
    return total / len(s)


def slow_norm_kd(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b in zip(s, t, strict=True):
        tau_s, tau_t = 1.7 * np.std(a, ddof=1), 1.7 * np.std(b, ddof=1)
        total += tau_t**2 * kl(softmax(b / tau_t), softmax(a / tau_s))
    return total / len(s)


def slow_standardized_kd(s: Array, t: Array, y: Array) -> float:
    z_s, z_t = (stats.zscore(f, axis=1, ddof=1) for f in (s, t))
    return np.mean([1.7**2 * kl(softmax(b / 1.7), softmax(a / 1.7)) for a, b in zip(z_s, z_t, strict=True)])


def slow_dist(s: Array, t: Array, y: Array) -> float:
    p_s, p_t = special.softmax(s / 2, axis=1), special.softmax(t / 2, axis=1)
    between = np.mean([stats.pearsonr(a, b)[0] for a, b in zip(p_s, p_t, strict=True)])
    within = np.mean([stats.pearsonr(a, b)[0] for a, b in zip(p_s.T, p_t.T, strict=True)])
    return 4 * (0.6 * (1 - between) + 1.4 * (1 - within))


def slow_correlation_kd(s: Array, t: Array, y: Array) -> float:
    def ranks(f: Array) -> list[float]:
        z = (f - f.mean()) / np.std(f, ddof=1)
        return [sum(1 / (1 + math.exp(-(a - b) / 0.3)) for b in z) for a in z]

    linear = np.mean([stats.pearsonr(softmax(a / 2), softmax(b / 2))[0] for a, b in zip(s, t, strict=True)])
    order = np.mean([stats.pearsonr(ranks(a), ranks(b))[0] for a, b in zip(s, t, strict=True)])
    return 0.6 * (1 - linear) + 1.4 * (1 - order)


def slow_rank_kd(s: Array, t: Array, y: Array) -> float:
    classes = s.shape[1]
    total = 0.0
    for a, b in zip(s, t, strict=True):
        for c in range(classes):
            for j in range(c):
                total += math.tanh(0.3 * (b[c] - b[j]) * (a[c] - a[j]))
    return 1 - total / len(s) / (classes * (classes - 1) / 2)


def slow_curriculum_kd(s: Array, t: Array, y: Array) -> float:
    tau = 2 + 5 / (1 + math.exp(-0.2))
    return np.mean([tau**2 * kl(softmax(b / tau), softmax(a / tau)) for a, b in zip(s, t, strict=True)])


def slow_reverse_kl(s: Array, t: Array, y: Array) -> float:
    return np.mean([1.5**2 * kl(softmax(a / 1.5), softmax(b / 1.5)) for a, b in zip(s, t, strict=True)])


def slow_js(s: Array, t: Array, y: Array) -> float:
    """Agarwal et al., arXiv 2306.13649, equation 1: beta KL(P || M) + (1-beta) KL(Q || M), M = beta P + (1-beta) Q."""
    total = 0.0
    for a, b in zip(s, t, strict=True):
        q, p = softmax(a / 1.5), softmax(b / 1.5)
        m = 0.3 * p + 0.7 * q
        total += 0.3 * kl(p, m) + 0.7 * kl(q, m)
    return 1.5**2 * total / len(s)


def slow_skewed_kl(s: Array, t: Array, y: Array) -> float:
    """Ko et al., arXiv 2402.03898, equation 3: KL(p, alpha p + (1-alpha) q)."""
    pairs = [(softmax(b / 1.5), softmax(a / 1.5)) for a, b in zip(s, t, strict=True)]
    return np.mean([1.5**2 * kl(p, 0.2 * p + 0.8 * q) for p, q in pairs])


def slow_skewed_reverse_kl(s: Array, t: Array, y: Array) -> float:
    pairs = [(softmax(b / 1.5), softmax(a / 1.5)) for a, b in zip(s, t, strict=True)]
    return np.mean([1.5**2 * kl(q, 0.8 * p + 0.2 * q) for p, q in pairs])


def slow_topk_kl(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b in zip(s, t, strict=True):
        q, p = softmax(a / 1.5), softmax(b / 1.5)
        top = np.argsort(p)[-2:]
        total += kl(np.append(p[top], 1 - p[top].sum()), np.append(q[top], 1 - q[top].sum()))
    return 1.5**2 * total / len(s)


def slow_dtkd(s: Array, t: Array, y: Array) -> float:
    """The authors' code on centred logits, whose largest are positive."""
    total = 0.0
    for a, b in zip(s - s.mean(1, keepdims=True), t - t.mean(1, keepdims=True), strict=True):
        tau_s, tau_t = (2 * f.max() / (a.max() + b.max()) * 3.0 for f in (a, b))
        total += 0.7 * tau_s * tau_t * kl(softmax(b / tau_t), softmax(a / tau_s))
        total += 0.4 * 9 * kl(softmax(b / 3), softmax(a / 3))
    return total / len(s)


def slow_ttm(s: Array, t: Array, y: Array) -> float:
    powers = [softmax(b) ** 0.25 for b in t]
    return np.mean([kl(power / power.sum(), softmax(a)) for a, power in zip(s, powers, strict=True)])


def slow_wttm(s: Array, t: Array, y: Array) -> float:
    powers = [softmax(b) ** 0.25 for b in t]
    return np.mean([power.sum() * kl(power / power.sum(), softmax(a)) for a, power in zip(s, powers, strict=True)])


def slow_nkd(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b, label in zip(s, t, y, strict=True):
        total -= softmax(b)[label] * math.log(softmax(a)[label])
        rest = [softmax(np.delete(f, label) / 1.5) for f in (b, a)]
        total += 0.7 * 1.5**2 * cross_entropy(*rest)
    return total / len(s)


def slow_pld(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b, label in zip(s, t, y, strict=True):
        left = [label, *sorted((c for c in range(len(a)) if c != label), key=lambda c: -b[c])]
        weights = softmax(b / 1.5)
        while left:
            total += weights[left[0]] * (special.logsumexp(a[left]) - a[left[0]])
            left.pop(0)
    return total / len(s)


def slow_abkd(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for a, b in zip(s, t, strict=True):
        q, p = softmax(a / 1.5), softmax(b / 1.5)
        total -= ((p**0.8 * q**0.3) - 0.8 / 1.1 * p**1.1 - 0.3 / 1.1 * q**1.1).sum() / (0.8 * 0.3)
    return total / len(s)


def transport_of(a: Array, b: Array, cost: Array, epsilon: float, iterations: int) -> float:
    """Sinkhorn as in the authors' code, of one pair of distributions over the wrong classes."""
    kernel, u = np.exp(-cost / epsilon), np.full(len(a), 1 / len(a))
    for _ in range(iterations):
        v = b / (kernel.T @ u + 1e-8)
        u = a / (kernel @ v + 1e-8)
    return float((u[:, None] * kernel * v * cost).sum())


def slow_wkd(s: Array, t: Array, y: Array) -> float:
    distance = 1 - np.corrcoef((t - t.mean(1, keepdims=True)).T)
    cost = np.maximum(1 - np.exp(-0.7 * distance), 0) + 1e-8
    total = 0.0
    for a, b, label in zip(s, t, y, strict=True):
        total -= softmax(b)[label] * math.log(softmax(a)[label])
        wrong = np.delete(np.arange(len(a)), label)
        own, theirs = softmax(a[wrong] / 2), softmax(b[wrong] / 2)
        total += 3.0 * transport_of(own, theirs, cost[np.ix_(wrong, wrong)], 0.1, 8)
    return total / len(s)


def slow_mlkd(s: Array, t: Array, y: Array) -> float:
    total = 0.0
    for tau in (1.5, 3.0):
        q, p = special.softmax(s / tau, axis=1), special.softmax(t / tau, axis=1)
        total += 0.7 * tau**2 * np.mean([kl(b, a) for a, b in zip(q, p, strict=True)])
        total += 0.4 * np.square(p @ p.T - q @ q.T).sum() / len(s)
        total += 2.0 * np.square(p.T @ p - q.T @ q).sum() / s.shape[1]
    return total


def batch(rows: int = 6, classes: int = 5, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = np.random.default_rng(seed)
    s, t = (torch.from_numpy(random.normal(0, scale, (rows, classes))) for _ in range(2))
    return s, t, torch.from_numpy(random.integers(0, classes, rows))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(("rows", "classes"), [(6, 5), (3, 17), (4, 3)])
def test_agrees_with_the_slow_formula(name: str, rows: int, classes: int) -> None:
    s, t, y = batch(rows, classes, seed=rows)
    expected = globals()[f"slow_{name}"](s.numpy(), t.numpy(), y.numpy())
    assert TERMS[name](s, t, y).item() == pytest.approx(expected, rel=1e-10)
    assert TERMS[name](s.float(), t.float(), y).item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("name", TERMS)
def test_gradient(name: str) -> None:
    s, t, y = batch(4, 4, seed=1)
    s.requires_grad_()
    t.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: TERMS[name](logits, t.detach(), y), (s,))
    TERMS[name](s, t, y).backward()
    assert t.grad is None  # the teacher is fixed


@pytest.mark.parametrize("name", ZERO_AT_THE_TEACHER)
def test_zero_with_zero_gradient_at_the_teacher(name: str) -> None:
    s, _, y = batch(seed=2)
    s.requires_grad_()
    loss = TERMS[name](s, s.detach().clone(), y)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert s.grad.abs().max().item() < 1e-12


def test_least_of_the_cross_entropies_is_the_entropy_of_the_soft_labels() -> None:
    _, t, y = batch(seed=3)
    for q, loss in [
        (temperature.ats(t, y, 4.0, 3.0), losses.ats),
        (temperature.isats(t, y, 4.0).probs, losses.isats),
    ]:
        s = q.log().requires_grad_()
        value = loss(s, t, y)
        value.backward()
        assert value.item() == pytest.approx(torch.special.entr(q).sum(1).mean().item())
        assert s.grad.abs().max().item() < 1e-12


# Temperature factors and relations between the losses


def test_kd_is_torchs_kl_div() -> None:
    s, t, _ = batch(9, 7)
    for tau in (1.0, 4.0):
        expected = tau**2 * F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")
        torch.testing.assert_close(losses.kd(s, t, tau), expected)


def test_kd_at_a_high_temperature_compares_centred_logits() -> None:
    s, t, _ = batch(9, 7)
    difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    expected = difference.square().sum(1).mean() / (
        2 * 7
    )  # Hinton et al., section 2.1: the factor tau^2 keeps the scale
    torch.testing.assert_close(losses.kd(s, t, tau=1e4), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(losses.dist(s, t, 2.0) * 4, losses.dist(2 * s, 2 * t, 4.0))


def test_cross_entropy_is_kd_plus_entropy() -> None:
    s, t, _ = batch()
    q = torch.softmax(t / 4, 1)
    entropy = torch.special.entr(q).sum(1).mean()
    torch.testing.assert_close(losses.soft_cross_entropy(s, q, tau_student=4.0), losses.kd(s, t, 4.0) + 16 * entropy)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.floats(0.1, 8), st.floats(0.5, 8), st.integers(0, 10**6))
def test_dkd_puts_kd_together(classes: int, scale: float, tau: float, seed: int) -> None:
    s, t, y = batch(1, classes, scale, seed)
    rest = 1 - torch.softmax(t / tau, 1)[0, y[0]].item()
    torch.testing.assert_close(
        losses.dkd(s, t, y, tau, alpha=1.0, beta=rest), losses.kd(s, t, tau), rtol=1e-7, atol=1e-10
    )


def test_norm_kd_is_standardized_kd_weighted_by_the_teachers_variance() -> None:
    s, t, _ = batch(1, 6)
    torch.testing.assert_close(losses.norm_kd(s, t, 2.5), t.var() * losses.standardized_kd(s, t, 2.5))


# Divergences of language models. Equal to TRL's ``GKDTrainer.generalized_jsd_loss`` and to DistiLLM's ``losses.py``,
# which both mean over the tokens that count, at temperature 1 and on these logits, worked out from the formulas.

GOLDEN_STUDENT, GOLDEN_TEACHER = [2.0, 0.0, -1.0, 0.5], [0.5, 1.0, -2.0, 3.0]


def test_divergences_on_golden_logits() -> None:
    s, t = (torch.tensor([row], dtype=torch.float64) for row in (GOLDEN_STUDENT, GOLDEN_TEACHER))
    q, p = (softmax(np.array(row)) for row in (GOLDEN_STUDENT, GOLDEN_TEACHER))
    m = 0.5 * p + 0.5 * q
    for found, expected in [
        (losses.js(s, t, beta=0.0), kl(p, q)),
        (losses.js(s, t, beta=1.0), kl(q, p)),
        (losses.js(s, t), 0.5 * kl(p, m) + 0.5 * kl(q, m)),
        (losses.reverse_kl(s, t), kl(q, p)),
        # DistiLLM's code: minus the sum of p log m, which is the divergence but for the teacher's entropy
        (losses.skewed_kl(s, t), cross_entropy(p, 0.1 * p + 0.9 * q) - cross_entropy(p, p)),
        (losses.skewed_reverse_kl(s, t), float((q * np.log(q) - q * np.log(0.9 * p + 0.1 * q)).sum())),
        (losses.topk_kl(s, t, k=2, tail="renormalise"), kl(p[[3, 1]] / p[[3, 1]].sum(), q[[3, 1]])),
        (losses.topk_kl(s, t, k=2, tail="both"), kl(p[[3, 1]] / p[[3, 1]].sum(), q[[3, 1]] / q[[3, 1]].sum())),
    ]:
        assert found.item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(1, 12), st.floats(0.5, 4), st.integers(0, 10**6))
def test_the_divergences_bounds_and_limits(classes: int, k: int, tau: float, seed: int) -> None:
    s, t, _ = batch(classes=classes, seed=seed)
    kd, reverse, topk = losses.kd(s, t, tau), losses.reverse_kl(s, t, tau), losses.topk_kl(s, t, tau, k)
    assert topk.item() <= kd.item() + 1e-12  # what is put into one class tells no more than what is apart
    if k >= classes - 1:  # a bucket of one class is that class
        torch.testing.assert_close(topk, kd)
    torch.testing.assert_close(losses.reverse_kl(t, s, tau), kd)
    torch.testing.assert_close(losses.skewed_kl(s, t, tau, lam=0.0), kd)
    torch.testing.assert_close(losses.skewed_reverse_kl(s, t, tau, lam=0), reverse)
    assert losses.js(s, t, tau).item() <= tau**2 * math.log(2) + 1e-12
    assert losses.skewed_kl(s, t, tau).item() <= tau**2 * math.log(10) + 1e-12
    near = losses.js(s / 4, t / 4, beta=1e-6) / 1e-6
    torch.testing.assert_close(near, losses.kd(s / 4, t / 4, tau=1.0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["reverse_kl", "js", "skewed_kl", "skewed_reverse_kl", "topk_kl"])
def test_rows_that_do_not_count_leave_no_trace(name: str) -> None:
    s, t, y = batch()
    mask = torch.tensor([True, False, True, True, False, True])
    broken = torch.where(mask[:, None], t, torch.nan)
    s.requires_grad_()
    loss = getattr(losses, name)(s, broken, mask=mask)
    loss.backward()
    torch.testing.assert_close(loss, getattr(losses, name)(s[mask], t[mask]))
    assert not s.grad[~mask].any() and bool(s.grad[mask].any())
    sequences = (x.reshape(2, 3, *x.shape[1:]) for x in (s, torch.where(mask, y, -100), broken))
    found = Criterion(name, ce_weight=0.3, ignore_index=-100)(*sequences)
    torch.testing.assert_close(found, 0.3 * F.cross_entropy(s[mask], y[mask]) + loss)


# Rivals: what their authors' code gives beside the formulas above, and where they meet other losses


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.floats(0.5, 4), st.integers(0, 10**6))
def test_rivals_meet_what_they_generalise(classes: int, tau: float, seed: int) -> None:
    s, t, y = batch(classes=classes, seed=seed)
    close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-9)
    close(tau**2 * losses.abkd(s, t, tau, alpha=1.0, beta=0.0), losses.kd(s, t, tau))
    close(tau**2 * losses.abkd(s, t, tau, alpha=0.0, beta=1.0), losses.reverse_kl(s, t, tau))
    p, q = torch.softmax(t / tau, 1), torch.softmax(s / tau, 1)
    close(losses.abkd(s, t, tau, alpha=1.0, beta=1.0), (p - q).square().sum(1).mean() / 2)
    near = losses.abkd(s / 4, t / 4, alpha=0.01, beta=0.6)
    torch.testing.assert_close(near, losses.abkd(s / 4, t / 4, alpha=0.0, beta=0.6), rtol=0.05, atol=1e-6)
    close(losses.dtkd(t.flip(1), t, tau, alpha=1.0, beta=0.0), losses.kd(t.flip(1), t, tau))  # both are as sure
    close(losses.ttm(s, t, tau), losses.soft_cross_entropy(s, p) - torch.special.entr(p).sum(1).mean())
    close(losses.ttm(s, t, 1.0), losses.wttm(s, t, 1.0))
    close(losses.mlkd(s, t, [tau], beta=0, gamma=0), losses.kd(s, t, tau))
    sure = 1e3 * F.one_hot(y, classes).double()
    close(losses.pld(s, sure, y), F.cross_entropy(s, y))
    close(losses.nkd(s, sure, y, gamma=0.0), F.cross_entropy(s, y))


# What the authors' code gave, in float64, of `batch(6, 7)` with centred rows: value, and our call. Read and run:
# JinYu1998/DTKD 9ebaa97 (MIT), zkxufo/TTM fe457b3 (MIT), yzd-v/cls_KD 1e5d48f (Apache-2.0), ghwang-s/abkd df81318 (its
# `standard_classification`: MIT), JiamingLv/WKD 214cf88 and Jin-Ying/Multi-Level-Logit-Distillation 5ee473f (none).
AUTHORS: dict[str, tuple[float, Term]] = {
    "dtkd": (22.7979913912165, lambda s, t, y: losses.dtkd(s, t, center="none")),
    "ttm": (1.94086714883112, lambda s, t, y: losses.ttm(s, t)),
    "wttm": (6.22800939121266, lambda s, t, y: losses.wttm(s, t)),
    "nkd": (5.80855411233429, lambda s, t, y: losses.nkd(s, t, y)),
    "abkd": (0.301169862580593, lambda s, t, y: losses.abkd(s, t)),
    "mlkd": (28.1331816713333, lambda s, t, y: losses.mlkd(s, t)),
    "wkd": (44.6492090203713, lambda s, t, y: losses.wkd(s, t, y, cost=golden_cost())),
}


def golden_cost() -> Tensor:
    return torch.from_numpy(np.abs(np.random.default_rng(1).normal(0, 0.2, (7, 7))))


@pytest.mark.parametrize("name", AUTHORS)
def test_is_what_the_authors_code_gave(name: str) -> None:
    s, t, y = batch(6, 7)
    value, term = AUTHORS[name]
    assert term(s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True), y).item() == pytest.approx(value, rel=1e-12)


def test_dtkd_without_centring_is_the_authors() -> None:
    s, t, _ = batch(classes=7)
    total = 0.0
    for a, b in zip(s.numpy(), t.numpy(), strict=True):
        assert a.max() > 0 < b.max()
        tau_s, tau_t = (2 * f.max() / (a.max() + b.max()) * 4 for f in (a, b))
        total += 3 * tau_s * tau_t * kl(softmax(b / tau_t), softmax(a / tau_s)) + 16 * kl(
            softmax(b / 4), softmax(a / 4)
        )
    assert losses.dtkd(s, t, center="none").item() == pytest.approx(total / len(s), rel=1e-12)
    with pytest.raises(InputError, match=naming("student", "row 0", "center='mean'")):
        losses.dtkd(-s.abs(), t, center="none")


def test_wkd_by_a_given_cost_is_the_authors() -> None:
    """Their code takes the target's row and column out of each example's matrix; here all rows share one."""
    s, t, y = batch(classes=6)
    cost = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for a, b, label in zip(s.numpy(), t.numpy(), y.numpy(), strict=True):
        wrong = np.delete(np.arange(6), label)
        own, theirs = softmax(a[wrong] / 2), softmax(b[wrong] / 2)
        total += 5 * transport_of(own, theirs, cost.numpy()[np.ix_(wrong, wrong)] + 1e-8, 0.05, 10)
        total -= softmax(b)[label] * math.log(softmax(a)[label])
    found = losses.wkd(s, t, y, tau=2.0, gamma=5.0, cost=cost)
    assert found.item() == pytest.approx(total / len(s), rel=1e-10)


def test_ats_at_equal_temperatures_is_temperature_scaling() -> None:
    s, t, y = batch()
    expected = losses.soft_cross_entropy(s, torch.softmax(t / 3, 1))
    torch.testing.assert_close(losses.ats(s, t, y, tau_target=3.0, tau_other=3.0), expected)


def test_ats_and_isats_hand_their_options_on() -> None:
    s, t, y = batch(scale=5)
    t = t + 3.0
    q = temperature.ats(t, y, 4.0, 3.0, center="none")
    torch.testing.assert_close(losses.ats(s, t, y, center="none"), losses.soft_cross_entropy(s, q))
    for options in ({"constraint": "anchor"}, {"margin": 0.5, "bounds": (1.0, 3.0), "center": "none"}):
        q = temperature.isats(t, y, 4.0, **options).probs
        torch.testing.assert_close(losses.isats(s, t, y, **options), losses.soft_cross_entropy(s, q))


def test_isats_has_the_defaults_of_the_temperature_module() -> None:
    here, there = (inspect.signature(f).parameters for f in (losses.isats, temperature.isats))
    shared = ("tau_target", "bounds", "constraint", "center", "margin")
    assert all(here[name].default == there[name].default for name in shared)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_steep_rank_kd_and_hard_correlation_kd_are_scipys(classes: int, seed: int) -> None:
    s, t, _ = batch(3, classes, seed=seed)
    kendall = np.mean([stats.kendalltau(a, b)[0] for a, b in zip(s, t, strict=True)])
    spearman = np.mean([stats.spearmanr(a, b)[0] for a, b in zip(s, t, strict=True)])
    assert losses.rank_kd(s, t, steepness=1e12).item() == pytest.approx(1 - kendall, abs=1e-6)
    assert losses.correlation_kd(s, t, beta=0.0, softness=1e-9).item() == pytest.approx(1 - spearman, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(TERMS)), st.floats(-50, 50), st.integers(0, 10**6))
def test_a_constant_added_to_a_row_changes_nothing(name: str, shift: float, seed: int) -> None:
    s, t, y = batch(seed=seed)
    rows = shift * torch.arange(len(s), dtype=s.dtype)[:, None]
    torch.testing.assert_close(TERMS[name](s + rows, t - rows, y), TERMS[name](s, t, y), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["norm_kd", "standardized_kd"])
def test_scale_of_the_student_is_free(name: str) -> None:
    s, t, y = batch()
    scales = torch.tensor([0.1, 1.0, 2.0, 5.0, 10.0, 100.0], dtype=s.dtype)[:, None]
    torch.testing.assert_close(TERMS[name](scales * s, t, y), TERMS[name](s, t, y))


# Saturated and constant logits, precision

HARD = {
    "saturated": ([[200.0, 0.0, 0.0, 0.0]], [[300.0, 0.0, -1.0, 2.0]]),
    "saturated on another class": ([[0.0, 200.0, 0.0, 0.0]], [[300.0, 0.0, -1.0, 2.0]]),
    "enormous": ([[1e6, -1e6, 0.0, 3.0]], [[-1e6, 1e6, 1.0, 0.0]]),
    "constant student": ([[0.1, 0.1, 0.1, 0.1]], [[3.0, 0.0, -1.0, 2.0]]),
    "constant teacher": ([[3.0, 0.0, -1.0, 2.0]], [[7.3, 7.3, 7.3, 7.3]]),
    "both constant": ([[0.0, 0.0, 0.0, 0.0]], [[1e4, 1e4, 1e4, 1e4]]),
    "constant but for rounding": ([[0.1, 0.1, 0.10000001, 0.1]], [[1e4, 1e4, 1e4, 1.0000001e4]]),
    "equal rows": ([[3.0, 0.0, -1.0, 2.0]] * 3, [[2.0, 0.5, -1.0, 2.0]] * 3),
    "a mixed batch": ([[200.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]], [[0.0, 1.0, 2.0, 3.0]] * 3),
}
COLD: dict[str, Term] = {
    **TERMS,
    "kd at 1": lambda s, t, y: losses.kd(s, t, tau=1.0),
    "dkd at 1": lambda s, t, y: losses.dkd(s, t, y, tau=1.0),
    "dist at 1": lambda s, t, y: losses.dist(s, t, tau=1.0),
    "correlation_kd at 1": lambda s, t, y: losses.correlation_kd(s, t, tau=1.0),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", COLD)
def test_finite_value_and_gradient(name: str, label: int, case: str) -> None:
    student, teacher = (torch.tensor(rows) for rows in HARD[case])
    student.requires_grad_()
    loss = COLD[name](student, teacher, torch.full((len(student),), label))
    loss.backward()
    assert math.isfinite(loss.item()) and loss.item() >= -1e-5
    assert bool(torch.isfinite(student.grad).all())
    assert student.grad.abs().max().item() < 1e7


def test_dkd_keeps_its_digits_where_the_softmax_saturates() -> None:
    student, teacher = (torch.tensor(rows) for rows in HARD["saturated"])
    # log(1 - p_y) is logsumexp(wrong) - logsumexp(all): -198.9 for the student, about -297.8 for the teacher.
    wrong = kl(softmax(np.array([0.0, -1.0, 2.0])), np.full(3, 1 / 3))
    assert losses.dkd(student, teacher, torch.tensor([0]), tau=1.0).item() == pytest.approx(8 * wrong, rel=1e-5)
    target = losses.dkd(teacher, student, torch.tensor([1]), tau=1.0, beta=0.0).item()
    assert target == pytest.approx(0.0, abs=1e-5)  # both leave nothing to class 1
    asked = losses.dkd(student, torch.zeros(1, 4), torch.tensor([1]), tau=1.0, beta=0.0).item()
    assert asked == pytest.approx(0.25 * (200 + math.log(0.25)) + 0.75 * math.log(0.75), rel=1e-5)


def test_dist_sees_classes_of_tiny_probability() -> None:
    s, t, y = batch(rows=8)
    s, t = (
        s - 60 * F.one_hot(torch.tensor(2), 5),
        t - 60 * F.one_hot(torch.tensor(2), 5),
    )  # p around 1e-26, its square 0
    expected = slow_dist(s.numpy() * 2, t.numpy() * 2, y.numpy())
    assert losses.dist(s.float(), t.float(), tau=1.0, beta=2.4, gamma=5.6).item() == pytest.approx(expected, rel=1e-4)


def test_constant_logits_have_the_documented_terms() -> None:
    varied, constant = torch.tensor([[3.0, 0.0, -1.0, 2.0]]), torch.full((1, 4), 0.1)
    assert losses.norm_kd(varied, constant).item() == 0.0
    z = torch.from_numpy(stats.zscore(varied.numpy(), axis=1, ddof=1))
    expected = losses.kd(torch.zeros(1, 4), z, tau=2.0)
    torch.testing.assert_close(losses.standardized_kd(constant, varied), expected)
    constant.requires_grad_()
    losses.standardized_kd(constant, varied).backward()
    torch.testing.assert_close(constant.grad, 2 * (torch.full((1, 4), 0.25) - torch.softmax(z / 2, 1)))
    constant.grad = None
    loss = losses.dist(constant, varied, tau=1.0)
    loss.backward()
    assert loss.item() == 2.0 and not constant.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TERMS)
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    s, t, y = batch(seed=4)
    s, t = s.to(dtype).requires_grad_(), t.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = TERMS[name](s, t, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, TERMS[name](s.float(), t.float(), y), rtol=1e-6, atol=1e-7)
    loss.backward()
    assert s.grad.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = Criterion("kd")(s, y, t)
    torch.testing.assert_close(loss, Criterion("kd")(s.float(), y, t.float()), rtol=1e-6, atol=1e-7)


def test_mixed_precision_takes_the_wider() -> None:
    s, t, y = batch()
    assert all(term(s.half(), t, y).dtype == torch.float64 for name, term in TERMS.items() if name == "kd")
    assert losses.dkd(s, t.float(), y.int()).dtype == torch.float64


# Curriculum temperature


def test_curriculum_reverses_the_temperatures_gradient_alone() -> None:
    s, t, _ = batch(scale=6)
    s.requires_grad_()

    def value(theta: float) -> float:
        return losses.kd(s, t, 2 + 5 / (1 + math.exp(-theta))).item()

    slope = (value(0.2 + 1e-5) - value(0.2 - 1e-5)) / 2e-5
    plain = torch.autograd.grad(losses.kd(s, t, 2 + 5 / (1 + math.exp(-0.2))), s)[0]
    for strength in (0.0, 0.3, 1.0):
        theta = torch.tensor([0.2], dtype=s.dtype, requires_grad=True)
        loss = losses.curriculum_kd(s, t, theta, strength, low=2.0, span=5.0)
        gradient_s, gradient_theta = torch.autograd.grad(loss, (s, theta))
        assert loss.item() == pytest.approx(value(0.2))
        assert gradient_theta.item() == pytest.approx(-strength * slope, rel=1e-6)
        torch.testing.assert_close(gradient_s, plain)


def test_curriculum_strength_rises_along_a_cosine() -> None:
    strengths = [losses.curriculum_strength(epoch, 4) for epoch in range(6)]
    assert strengths == pytest.approx([(1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1, 1, 1])


def test_curriculum_module_learns_to_oppose() -> None:
    s, t, y = (x.float() if x.is_floating_point() else x for x in batch(scale=6))
    criterion = Criterion("curriculum_kd", low=2.0, span=6.0, ramp_epochs=4)
    term = criterion.term
    assert isinstance(term, CurriculumKD) and [p.shape for p in criterion.parameters()] == [()]
    assert term.strength == 1.0
    criterion.set_epoch(1)
    assert term.strength == pytest.approx(0.5)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1)
    before = criterion(s, y, t)
    before.backward()
    optimizer.step()
    assert criterion(s, y, t).item() > before.item()
    assert 2.0 < term.tau.item() < 8.0


# Criterion


@pytest.mark.parametrize("name", LOSSES)
def test_criterion_adds_the_cross_entropy(name: str) -> None:
    s, t, y = batch()
    entry = LOSSES[name]
    third = torch.softmax(t, 1) if name == "soft_cross_entropy" else t
    function = getattr(losses, name)
    extra = (torch.tensor(1.0),) if name == "curriculum_kd" else (y,) if entry.needs_labels else ()
    term = function(s, third, *extra)
    expected = entry.ce_weight * F.cross_entropy(s, y) + entry.kd_weight * term
    torch.testing.assert_close(Criterion(name)(s, y, third), expected)
    torch.testing.assert_close(Criterion(name, ce_weight=0, kd_weight=2)(s, y, third), 2 * term)


def test_needs_labels_is_what_the_functions_say() -> None:
    for name, entry in LOSSES.items():
        assert entry.needs_labels == ("labels" in inspect.signature(getattr(losses, name)).parameters), name


def test_criterion_hands_options_on() -> None:
    s, t, y = batch()
    expected = F.cross_entropy(s, y) + losses.dkd(s, t, y, tau=2.0, beta=3.0)
    torch.testing.assert_close(Criterion("dkd", tau=2.0, beta=3.0)(s, y, t), expected)
    assert repr(Criterion("dkd", tau=2.0)).startswith("Criterion('dkd', ce_weight=1.0, kd_weight=1.0, tau=2.0")


def test_criterion_adds_the_rank_term_to_any_other() -> None:
    s, t, y = batch()
    expected = Criterion("dist")(s, y, t) + 0.3 * losses.rank_kd(s, t)
    torch.testing.assert_close(Criterion("dist", rank_weight=0.3)(s, y, t), expected)


def test_soft_labels_come_with_logits_for_the_rank_term() -> None:
    s, t, y = batch()
    q = torch.softmax(t / 4, 1)
    expected = Criterion("soft_cross_entropy")(s, y, q) + 0.3 * losses.rank_kd(s, t)
    found = Criterion("soft_cross_entropy", rank_weight=0.3)(s, y, torch.stack([q, t], 1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_sum_of_its_parts(name: str) -> None:
    s, t, y = batch()
    third = torch.softmax(t, 1) if name == "soft_cross_entropy" else t
    hard, soft = Criterion(name, ce_weight=0.7)(s, y, third), Criterion(name, ce_weight=0.0)(s, y, third)
    parts = Criterion(name, ce_weight=0.7).parts(s, y, third)
    torch.testing.assert_close(parts[0], 0.7 * F.cross_entropy(s, y))
    torch.testing.assert_close(parts[1], soft)
    torch.testing.assert_close(sum(parts), hard)


def test_diagnostics_tell_the_temperature() -> None:
    assert Criterion("kd").diagnostics() == {}
    assert Criterion("curriculum_kd").diagnostics()["tau"] == pytest.approx(1 + 20 / (1 + math.exp(-1)))


# Looking at values


@pytest.mark.parametrize("name", LOSSES)
def test_later_batches_have_the_same_value_and_the_same_errors(name: str) -> None:
    """After the first batch only failures are looked into; what comes of it must not tell the difference."""
    s, t, y = batch()
    third = torch.softmax(t, 1) if name == "soft_cross_entropy" else t
    criterion = Criterion(name, ce_weight=0.5)  # where labels do not count, later ones are not looked at
    first = criterion(s, y, third)
    assert not criterion._check_next
    torch.testing.assert_close(criterion(s, y, third), first, rtol=0, atol=0)
    bad, broken = s.clone(), third.clone()
    bad[3, 1] = broken[2, 0] = float("nan")
    label = y.clone()
    label[4] = 5
    for inputs, message in (
        ((bad, y, third), "expected finite logits, got nan at row 3, class 1 of student logits"),
        ((s, y, broken), "expected finite logits, got nan at row 2, class 0"),
        ((s, label, third), r"expected labels in \[0, 5\), got 5 at row 4"),
        ((s, label - 6, third), r"expected labels in \[0, 5\), got -"),
        ((s, torch.full_like(y, -100), third), r"expected labels in \[0, 5\), got -100 at row 0"),
    ):
        with pytest.raises(InputError, match=message):
            criterion(*inputs)
    with pytest.raises(InputError, match="shape"):
        criterion(s, y, third[:, :3])


def test_every_epoch_begins_with_a_look() -> None:
    s, t, y = batch()
    criterion = Criterion("soft_cross_entropy")
    criterion(s, y, torch.softmax(t, 1))
    criterion(s, y, t)  # logits for soft labels: finite, and nobody looks
    criterion.set_epoch(1)
    with pytest.raises(InputError, match=naming("soft labels", "sum to 1")):
        criterion(s, y, t)


def test_values_are_waited_for_in_the_first_batch_alone() -> None:
    """On the meta device there are no values: whoever looks at one fails."""
    s, y = torch.zeros(6, 5, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta")
    for name in set(LOSSES) - {"ats", "isats"}:  # they search in every batch
        criterion = Criterion(name).to("meta")
        criterion._check_next = False
        assert criterion(s, y, s).shape == ()


def test_compiled_graphs_are_whole() -> None:
    s, t, y = (x.float() if x.is_floating_point() else x for x in batch())
    for name in ("kd", "dkd", "dist", "curriculum_kd", "js", "topk_kl", "dtkd", "nkd", "pld", "wkd", "mlkd"):
        torch.compiler.reset()  # the graphs of few criterions are kept
        compiled = torch.compile(Criterion(name), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(s, y, t), Criterion(name)(s, y, t))


def test_warm_up() -> None:
    s, t, y = batch()
    criterion = Criterion("dkd", ce_weight=0)
    full = losses.dkd(s, t, y)
    torch.testing.assert_close(criterion(s, y, t), full)  # nobody told the epoch
    for epoch, share in ((0, 1 / 20), (9, 0.5), (19, 1.0), (200, 1.0)):
        criterion.set_epoch(epoch)
        torch.testing.assert_close(criterion(s, y, t), share * full)
    steady = Criterion("dkd", ce_weight=0, warmup_epochs=0)
    steady.set_epoch(0)
    torch.testing.assert_close(steady(s, y, t), full)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"soft_cross_entropy"}))
def test_a_linear_student_learns(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    teacher = 3 * x @ torch.randn(6, 4)
    y = teacher.argmax(1)
    student, criterion = torch.nn.Linear(6, 4), Criterion(name)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for _ in range(320 if name in ("mlkd", "wkd") else 80):  # whose other parts weigh more at few classes
        optimizer.zero_grad()
        criterion(student(x), y, teacher).backward()
        optimizer.step()
    assert (student(x).argmax(1) == y).double().mean().item() > 0.85


# Errors

LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.kd(LOGITS, torch.zeros(2, 4)), r"teacher logits of the student's shape \(2, 3\), got \(2, 4\)"),
        (lambda: losses.kd(LOGITS[:0], LOGITS[:0]), r"at least one example"),
        (lambda: losses.kd(LOGITS[0], LOGITS[0]), r"expected student logits of shape \(N, C\), got shape \(3,\)"),
        (lambda: losses.kd(LOGITS, LOGITS / 0), r"expected finite logits, got nan at row 0, class 0 of teacher logits"),
        (lambda: losses.kd(LOGITS, LOGITS, tau=0), r"tau must be a positive number, got 0"),
        (lambda: losses.dkd(LOGITS, LOGITS, LABELS + 1), r"expected labels in \[0, 3\), got 3 at row 1"),
        (lambda: losses.dkd(LOGITS, LOGITS, LABELS, alpha=-1), r"alpha must be a number >= 0, got -1"),
        (lambda: losses.dkd(LOGITS, LOGITS, LABELS, beta=-1), r"beta must be a number >= 0"),
        (lambda: losses.dist(LOGITS, LOGITS, gamma=float("nan")), r"gamma must be a number >= 0, got nan"),
        (lambda: losses.norm_kd(LOGITS, LOGITS, n=-1), r"n must be a positive number"),
        (lambda: losses.rank_kd(LOGITS, LOGITS, steepness=0), r"steepness must be a positive number"),
        (lambda: losses.correlation_kd(LOGITS, LOGITS, softness=0), r"softness must be a positive number"),
        (lambda: losses.ats(LOGITS, LOGITS, LABELS, tau_other=0), r"tau_other must be a positive number"),
        (lambda: losses.isats(LOGITS, LOGITS, LABELS, constraint="oder"), r"constraint must be one of"),
        (lambda: losses.soft_cross_entropy(LOGITS, LOGITS + 1), r"sum to 1, got least entry 1 and sum 3 at row 0"),
        (
            lambda: losses.soft_cross_entropy(LOGITS, torch.tensor([[1.0, 0, 0], [2, -1, 0]])),
            r"least entry -1 .* row 1",
        ),
        (
            lambda: losses.soft_cross_entropy(LOGITS, torch.ones(2, 2) / 2),
            r"one shape \(N, C\), got \(2, 3\) and \(2, 2\)",
        ),
        (
            lambda: losses.curriculum_kd(LOGITS, LOGITS, torch.zeros(2)),
            r"theta to be a scalar tensor, got shape \(2,\)",
        ),
        (lambda: losses.curriculum_kd(LOGITS, LOGITS, torch.zeros(()), strength=-1), r"strength must be a number >= 0"),
        (lambda: losses.js(LOGITS, LOGITS, beta=1.5), r"beta must be a number in \[0, 1\], got 1.5"),
        (lambda: losses.skewed_kl(LOGITS, LOGITS, lam=-0.1), r"lam must be a number in \[0, 1\], got -0.1"),
        (lambda: losses.skewed_reverse_kl(LOGITS, LOGITS, lam=1.0), r"lam must be below 1"),
        (lambda: losses.topk_kl(LOGITS, LOGITS, k=0), r"expected k a whole number >= 1, got 0"),
        (lambda: losses.topk_kl(LOGITS, LOGITS, tail="cut"), r"tail must be one of \['bucket', .*\], not 'cut'"),
        (lambda: losses.reverse_kl(LOGITS, LOGITS, mask=LABELS), r"mask of bool and shape \(2,\), .* got torch.int64"),
        (lambda: losses.reverse_kl(LOGITS, LOGITS, mask=LABELS < 0), r"at least one example"),
        (lambda: losses.abkd(LOGITS, LOGITS, alpha=0, beta=0), r"alpha or beta must be above 0"),
        (lambda: losses.abkd(LOGITS, LOGITS, alpha=1e-4), r"alpha must be 0, or a number in \[0.01, 10\], got 0.0001"),
        (lambda: losses.mlkd(LOGITS, LOGITS, taus=[]), r"taus of mlkd, 1 to 100 temperatures, got \[\]"),
        (lambda: losses.mlkd(LOGITS, LOGITS, taus=[2, 0]), r"each of taus must be a positive number, got 0"),
        (lambda: losses.wkd(LOGITS, LOGITS, LABELS, cost=torch.zeros(2, 2)), r"cost of shape \(3, 3\), got \(2, 2\)"),
        (lambda: losses.wkd(LOGITS, LOGITS, LABELS, cost=-torch.ones(3, 3)), r"costs >= 0, got -1"),
        (lambda: losses.wkd(LOGITS, LOGITS, LABELS, iterations=0), r"expected iterations a whole number .*, got 0"),
        (lambda: losses.nkd(LOGITS, LOGITS, LABELS, gamma=-1), r"gamma must be a number >= 0, got -1"),
        (lambda: losses.pld(LOGITS, LOGITS, LABELS + 1), r"expected labels in \[0, 3\), got 3 at row 1"),
        (lambda: losses.ttm(LOGITS, LOGITS, tau=0), r"tau must be a positive number, got 0"),
        (lambda: losses.dtkd(LOGITS, LOGITS, center="median"), r"center must be one of"),
        (lambda: Criterion("kd", mask=LABELS), r"an option of kd must be one of"),
        (
            lambda: Criterion("js", ignore_index=0)(LOGITS, 0 * LABELS, LOGITS),
            r"expected a row that counts, got the label 0 in all 2",
        ),
        (lambda: Criterion("kdd"), r"the loss must be one of \['kd', .*\], not 'kdd'; did you mean 'kd'"),
        (lambda: Criterion("kd", taus=2), r"an option of kd must be one of \['tau'\], not 'taus'; did you mean 'tau'"),
        (lambda: Criterion("kd", labels=LABELS), r"an option of kd must be one of"),
        (lambda: Criterion("kd", ce_weight=-0.1), r"ce_weight must be a number >= 0, got -0.1"),
        (
            lambda: Criterion("soft_cross_entropy", rank_weight=1.0)(LOGITS, LABELS, LOGITS),
            r"soft labels and logits of shape \(2, 2, 3\), as rank_weight needs both, got \(2, 3\)",
        ),
        (lambda: Criterion("kd").set_epoch(-1), r"epoch must be a whole number >= 0, got -1"),
        (lambda: Criterion("kd")(LOGITS, LABELS - 1, LOGITS), r"expected labels in \[0, 3\), got -1 at row 0"),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("tail", ["bucket", "renormalise", "both"])
def test_lists_give_what_the_teachers_logits_give(tail):
    generator = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(5, 9, generator=generator) for _ in range(2))
    student.requires_grad_()
    logs, ids = torch.log_softmax(teacher, 1).topk(4, dim=1)
    loss = losses.listed_kl(student, ids, logs, tail)
    (gradient,) = torch.autograd.grad(loss, student)
    whole = losses.topk_kl(student, teacher, k=4, tail=tail)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(whole, student)[0], atol=1e-6)
    # shorter lists, filled up, and rows that do not count
    filled = [torch.cat([ids, torch.zeros_like(ids[:, :2])], 1), torch.cat([logs, torch.full((5, 2), -torch.inf)], 1)]
    none = torch.zeros(1, 6).long(), torch.full((1, 6), -torch.inf)
    empty = [torch.cat(pair) for pair in zip(filled, none, strict=True)]
    longer = torch.cat([student, student[:1]])
    again = losses.listed_kl(longer, *empty, tail, mask=torch.tensor([True] * 5 + [False]))
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.isfinite(torch.autograd.grad(again, student)[0]).all()


def test_full_lists_are_plain_distillation():
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(3, 6, generator=generator, requires_grad=True) for _ in range(2))
    logs, ids = torch.log_softmax(teacher.detach(), 1).topk(6, dim=1)
    loss = losses.listed_kl(student, ids, logs)
    assert loss.item() == pytest.approx(losses.kd(student, teacher.detach(), 1.0).item(), rel=1e-5)
    assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()
    assert losses.listed_kl(student, ids, logs, mask=torch.zeros(3, dtype=torch.bool)).item() == 0
    double = [tensor.detach().double() for tensor in (student, teacher)]
    wide, listed = torch.log_softmax(double[1], 1).topk(4, dim=1)
    assert losses.listed_kl(double[0], listed, wide).item() == pytest.approx(
        losses.topk_kl(*double, k=4).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("ids", "logs", "message"),
    [
        ([[0, 9]], [[-1.0, -2.0]], r"expected ids in \[0, 6\), got \[0, 9\].*in row 0"),
        ([[0, 1]], [[0.0, -0.1]], "at most 1 in sum"),
        ([[0, 1]], [[math.nan, -2.0]], "without NaN"),
        ([[0, 1]], [[-math.inf, -math.inf]], "mask rows that have none"),
        ([[0, 1, 2]], [[-1.0, -2.0]], r"lists of ids and log probabilities \(N, K\)"),
    ],
)
def test_lists_of_no_distribution_are_refused(ids, logs, message):
    with pytest.raises(InputError, match=message):
        losses.listed_kl(torch.zeros(1, 6), torch.tensor(ids), torch.tensor(logs))


@pytest.mark.parametrize("name", LOSSES)
def test_arrays_are_refused_by_name(name: str) -> None:
    student, labels = torch.eye(3), torch.arange(3)
    with pytest.raises(InputError, match=naming("student logits", "NumPy")):
        Criterion(name)(student.numpy(), labels, student)
    if name == "curriculum_kd":
        return
    term = LOSSES[name].term
    other = "soft labels" if name == "soft_cross_entropy" else "teacher logits"
    with pytest.raises(InputError, match=naming(other, "NumPy")):
        term(student, student.numpy(), labels) if LOSSES[name].needs_labels else term(student, student.numpy())
