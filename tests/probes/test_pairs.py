"""Probes of a pair against loops, and gradients of the last layer against PyTorch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import capmismatch as cm
from capmismatch import probes
from capmismatch._numerics import last_layer
from capmismatch.errors import InputError
from capmismatch.probes import PAIRS, expected_signs

Array = np.ndarray
ROWS, CLASSES, WIDTH = 40, 5, 3


@pytest.fixture(scope="module")
def pair() -> dict[str, Array]:
    draws = np.random.default_rng(0)
    features = draws.normal(size=(ROWS, WIDTH))
    layer = draws.normal(size=(WIDTH + 1, CLASSES))
    return {
        "teacher": 2 * draws.normal(size=(ROWS, CLASSES)),
        "student": last_layer.with_ones(features) @ layer,
        "labels": draws.integers(0, CLASSES, ROWS),
        "features": features,
    }


def gradients(pair: dict[str, Array], tau: float, hard: bool) -> Array:
    """(N, C (D + 1)) gradients of each example's cross-entropy, by PyTorch: of the soft label, or the label."""
    found = []
    for row in range(ROWS):
        layer = nn.Linear(WIDTH, CLASSES).double()
        logits = layer(torch.from_numpy(pair["features"][row]))
        # The student's logits are given: the layer is moved there, its gradient does not depend on where it is.
        logits = logits + torch.from_numpy(pair["student"][row]) - logits.detach()
        target = torch.softmax(torch.from_numpy(pair["teacher"][row]) / tau, 0)
        if hard:
            loss = nn.functional.cross_entropy(logits, torch.tensor(pair["labels"][row]))
        else:
            loss = -tau * (target * torch.log_softmax(logits / tau, 0)).sum()
        loss.backward()
        found.append(np.concatenate([layer.weight.grad.numpy(), layer.bias.grad.numpy()[:, None]], axis=1).ravel())
    return np.array(found)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_cosine_is_that_of_mean_gradients(pair, tau: float) -> None:
    soft, hard = (gradients(pair, tau, kind).mean(axis=0) for kind in (False, True))
    expected = soft @ hard / np.linalg.norm(soft) / np.linalg.norm(hard)
    found = probes.gradient_cosine(pair["teacher"], pair["student"], pair["labels"], pair["features"], tau)
    assert found == pytest.approx(expected)
    sure = 50 * np.eye(CLASSES)[pair["labels"]]  # a teacher that says the label alone asks what the labels ask
    assert probes.gradient_cosine(sure, pair["student"], pair["labels"], pair["features"]) == pytest.approx(1)


def plain_grace(rows: Array) -> float:
    """The same splits, written out: eigenvalues drawn toward their mean, an inverse, a trace."""
    rows = rows / math.sqrt(rows.shape[1])
    draws, traces = np.random.default_rng(0), []
    for _ in range(last_layer.SPLITS):
        held = np.zeros(len(rows), bool)
        held[draws.permutation(len(rows))[: round(0.1 * len(rows))]] = True
        train = rows[~held] / np.linalg.norm(rows[~held], axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(train.T @ train / len(train))
        values = (1 - 1e-3) * values + 1e-3 * values.mean()
        inverse = vectors @ np.diag(1 / values) @ vectors.T
        traces.append(np.trace(inverse @ (rows[held].T @ rows[held]) / held.sum()))
    return float(np.mean(traces))


def test_grace_is_the_trace_over_held_out_gradients(pair) -> None:
    found = probes.grace(pair["teacher"], pair["student"], pair["features"], 2.0)
    assert found == pytest.approx(plain_grace(gradients(pair, 2.0, hard=False)), rel=1e-8)


def test_wide_gradients_are_projected_on_random_signs(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "SKETCH", 8)  # fewer than the 20 numbers of a gradient
    draws = np.random.default_rng(0)
    signs = [draws.choice([-1.0, 1.0], (count, 8)) for count in (CLASSES, WIDTH + 1)]
    whole = np.einsum("cj,dj->jcd", *signs).reshape(8, -1)  # each row the signs of one projection, written out
    expected = gradients(pair, 1.0, hard=False) @ whole.T / math.sqrt(CLASSES * (WIDTH + 1))
    sketch = last_layer.GradientSketch(CLASSES, WIDTH + 1)
    soft = special.softmax(pair["student"], 1) - special.softmax(pair["teacher"], 1)
    np.testing.assert_allclose(sketch(soft, last_layer.with_ones(pair["features"])), expected, atol=1e-12)
    assert probes.grace(pair["teacher"], pair["student"], pair["features"]) > 0


def test_ranks_and_surprise_over_the_wrong_classes_by_a_loop(pair) -> None:
    above = below = 0.0
    for t, s, label in zip(pair["teacher"] / 2, pair["student"] / 2, pair["labels"], strict=True):
        wrong = [c for c in range(CLASSES) if c != label]
        said, own = special.softmax(t[wrong]), special.log_softmax(s[wrong])
        for c in range(CLASSES - 1):
            above += said[c] * (1 + sum(own > own[c]))
            below -= said[c] * own[c]
    found = probes.wrong_rsr(pair["teacher"], pair["student"], pair["labels"], 2.0)
    assert found == pytest.approx(above / below)
    assert math.isnan(probes.wrong_rsr([[1.0, 2]], [[1.0, 2]], [0]))


def test_divergences_are_those_of_scipy(pair) -> None:
    p, q = (special.softmax(pair[side] / 3, 1) for side in ("teacher", "student"))
    given = pair["teacher"], pair["student"], 3.0
    np.testing.assert_allclose(probes.kl(*given), special.rel_entr(p, q).sum(1))
    np.testing.assert_allclose(probes.reverse_kl(*given), special.rel_entr(q, p).sum(1))
    mixed = special.rel_entr(p, 0.3 * p + 0.7 * q).sum(1)
    np.testing.assert_allclose(probes.skewed_kl(*given, skew=0.3), mixed)


def test_divergences_of_far_logits_are_not_bounded_by_what_a_float_holds() -> None:
    teacher, student = np.array([[2000.0, 0, 0]]), np.array([[0.0, 900, 0]])  # exp(-2000) is 0
    assert probes.kl(teacher, student) == pytest.approx(900)
    assert probes.reverse_kl(teacher, student) == pytest.approx(2000)
    assert probes.kl(teacher / 2, student / 2, 0.05) == pytest.approx(9000)
    assert probes.skewed_kl(teacher, student) == pytest.approx(math.log(10))
    assert probes.skewed_kl(teacher, student, skew=0) == pytest.approx(900)
    bank = cm.bank_from_arrays({"teacher": teacher, "student": student}, [0])
    assert cm.pair_probes(bank, "student", [1.0], ["kl", "reverse_kl"])["value"].tolist() == pytest.approx([900, 2000])


def test_a_ratio_of_rank_to_no_surprise_is_unknown() -> None:
    sure = 2000 * np.eye(3)
    assert math.isnan(probes.rsr(sure, sure))
    bank = cm.bank_from_arrays({"teacher": sure, "student": sure}, [0, 1, 2])
    row = cm.pair_probes(bank, "student", [1.0], ["rsr"]).iloc[0]
    assert math.isnan(row["value"]) and row["n"] == 0


def test_gradients_of_sure_networks_keep_their_digits() -> None:
    teacher, student = [[50.0, 0.0]], [[40.0, 0.0]]  # both probabilities are 1 in floating point
    assert probes.gradient_cosine(teacher, student, [0], [[1.0]]) == pytest.approx(1)
    assert probes.gradient_cosine(student, teacher, [0], [[1.0]]) == pytest.approx(-1)


def test_the_size_gap_is_least_at_two_and_a_half_times_the_student() -> None:
    gaps = [probes.size_gap(size, 100) for size in (50, 250, 1250)]
    assert gaps == pytest.approx([math.log(5), 0, math.log(5)])
    assert math.isnan(probes.size_gap(math.nan, 100)) and math.isnan(probes.size_ratio(100, 0))


def test_each_probe_of_a_pair_is_public_and_has_a_sign() -> None:
    assert all(callable(getattr(probes, name)) for name in PAIRS)
    assert {name: expected_signs()[name] for name in ("grace", "rsr", "gradient_cosine", "kl")} == {
        "grace": -1,
        "rsr": -1,
        "gradient_cosine": 1,
        "kl": 0,
    }


def test_what_does_not_fit_is_refused(pair) -> None:
    with pytest.raises(InputError, match="one shape"):
        probes.kl(pair["teacher"], pair["student"][:, 1:])
    with pytest.raises(InputError, match="tau"):
        probes.kl(pair["teacher"], pair["student"], 0)
    with pytest.raises(InputError, match="features of 40"):
        probes.grace(pair["teacher"], pair["student"], pair["features"][1:])
    with pytest.raises(InputError, match="labels"):
        probes.wrong_rsr(pair["teacher"], pair["student"], np.full(ROWS, CLASSES))
