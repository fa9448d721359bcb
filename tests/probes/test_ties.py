"""Numbers that must not hang on last digits: equal probabilities, and confidences on the edge between two bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from capmismatch import bank_from_arrays, probe, probes
from capmismatch._numerics.ties import TIE
from capmismatch.probes import calibration

Array = NDArray[Any]


def softmax(logits: Array) -> Array:
    """To so few digits that equal probabilities are equal."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return np.array([[float(f"{p:.11e}") for p in row] for row in e / e.sum(1, keepdims=True)])


def adaptive(p: Array, labels: Array, bins: int = 15) -> float:
    """By a stable sort: of equal probabilities the earlier row comes first."""
    n, classes = p.shape
    ranges, total = min(bins, n), 0.0
    for c in range(classes):
        order = np.argsort(p[:, c], kind="stable")
        for r in range(ranges):
            rows = order[r * n // ranges : (r + 1) * n // ranges]
            total += abs((labels[rows] == c).mean() - p[rows, c].mean())
    return total / classes / ranges


def expected_error(p: Array, labels: Array, bins: int = 15) -> float:
    """Bins (low, high], by whole numbers."""
    confidence = p.max(1)
    number = np.ceil(np.round(confidence * bins, 9)) - 1
    hit = p.argmax(1) == labels
    return float(sum(abs((hit[number == b] - confidence[number == b]).sum()) for b in range(bins)) / len(p))


def in_table(logits: Array, labels: Array, name: str) -> float:
    return float(probe(bank_from_arrays({"a": logits}, labels), [1.0], [name], progress=False).value[0])


@pytest.mark.parametrize("kind", ["equal", "whole numbers", "quantised", "far from zero"])
@pytest.mark.parametrize(("n", "classes"), [(50, 3), (700, 5), (700, 10)])
def test_ties_of_probabilities(kind: str, n: int, classes: int) -> None:
    rng = np.random.default_rng(n + classes)
    logits = {
        "equal": np.zeros((n, classes)),
        "whole numbers": rng.integers(0, 3, (n, classes)),
        "quantised": np.round(rng.normal(size=(n, classes)) * 2) / 2,
        "far from zero": rng.integers(0, 2, (n, classes)) + 1000,
    }[kind].astype(np.float32)
    labels, p = rng.integers(0, classes, n), softmax(logits.astype(float))
    for name, oracle in (("classwise_ace", adaptive), ("ece", expected_error)):
        for found in (in_table(logits, labels, name), getattr(probes, name)(logits, labels)):
            assert found == pytest.approx(oracle(p, labels), abs=1e-9), name


def error_by(measure: Any, p: Array, hit: Array, bins: int, tie: int) -> Array:
    share = torch.zeros(len(p), dtype=torch.float64)
    measure(torch.from_numpy(p)[:, None], torch.from_numpy(hit)[:, None], bins, share, tie)
    return share.numpy()


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 90), elements=st.sampled_from([0.0, 1e-300, 0.1, 0.25, 1 / 3, 0.5, 1.0])),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_last_digits_change_nothing(p: Array, bins: int, random: Any) -> None:
    """Each number is moved by up to a thousand floats, and the errors are those of equal numbers."""
    hit = np.array([random.random() < 0.4 for _ in p])
    moved = (p.view(np.int64) - np.where(p > 0, [random.randrange(1000) for _ in p], 0)).view(np.float64)
    for measure in (calibration._by_loops, calibration._by_tensors):
        np.testing.assert_allclose(
            error_by(measure, moved, hit, min(bins, len(p)), TIE),
            error_by(calibration._by_tensors, p, hit, min(bins, len(p)), 0),
            atol=1e-9,
        )


def test_without_ties_the_tolerance_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    p, hit = rng.random(5000) ** 4, rng.random(5000) < 0.3
    for measure in (calibration._by_loops, calibration._by_tensors):
        assert np.array_equal(error_by(measure, p, hit, 15, TIE), error_by(measure, p, hit, 15, 0))
