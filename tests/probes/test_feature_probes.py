"""Probes of features against NumPy and SciPy on whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from capmismatch import probes
from capmismatch._numerics.feature_moments import FeatureMoments
from capmismatch.errors import InputError
from capmismatch.probes import FEATURES
from capmismatch.probes.features import FeatureAlignment

Array = np.ndarray


def drawn(rows: int, width: int, classes: int, seed: int = 0) -> tuple[Array, Array]:
    """Features around the means of their classes, one of them the same for all; every class has a row."""
    draws = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), draws.integers(0, classes, rows - classes)])
    features = draws.normal(size=(rows, width)) + 2 * draws.normal(size=(classes, width))[labels]
    features[:, 0] = 1.5
    return features, labels


def class_means(features: Array, labels: Array) -> Array:
    return np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])


def plain_nc1(features: Array, labels: Array) -> float:
    means = class_means(features, labels)
    less = features - means[np.searchsorted(np.unique(labels), labels)]
    between = means - means.mean(axis=0)
    inverse = np.linalg.pinv(between.T @ between / len(means), rcond=1e-10, hermitian=True)
    return float(np.trace(less.T @ less / len(features) @ inverse) / len(means))


def plain_effective_rank(features: Array, labels: Array) -> float:
    sizes = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    return float(np.exp(stats.entropy(sizes[sizes > 1e-9])))


def plain_h_score(features: Array, labels: Array) -> float:
    of_rows = class_means(features, labels)[np.searchsorted(np.unique(labels), labels)]
    return float(np.trace(np.linalg.pinv(np.cov(features.T), rcond=1e-12, hermitian=True) @ np.cov(of_rows.T)))


def plain_logme(features: Array, labels: Array) -> float:
    """The evidence as the density of a normal distribution over all rows, maximised by a simplex."""

    def largest(target: Array) -> float:
        def less(logs: Array) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(len(target)) / beta + features @ features.T / alpha
            return float(-stats.multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)) / len(target)

        return max(-optimize.minimize(less, start, method="Nelder-Mead").fun for start in ([0, 0], [2, 2]))

    return float(np.mean([largest((labels == label).astype(float)) for label in np.unique(labels)]))


def plain_cka(x: Array, y: Array) -> float:
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = (centre @ side @ side.T @ centre for side in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


PLAIN = {
    "nc1": plain_nc1,
    "effective_rank": plain_effective_rank,
    "h_score": plain_h_score,
    "logme": plain_logme,
}


@pytest.mark.parametrize("name", PLAIN)
def test_each_probe_of_features_is_its_formula(name: str) -> None:
    for shape in ((60, 5, 3), (20, 30, 4)):  # more rows than features, and fewer
        features, labels = drawn(*shape)
        given = (features,) if name == "effective_rank" else (features, labels)
        expected = PLAIN[name](features, labels)
        assert getattr(probes, name)(*given) == pytest.approx(expected, rel=2e-5 if name == "logme" else 1e-8)


def test_rows_in_chunks_give_what_all_rows_give() -> None:
    features, labels = drawn(100, 7, 5)
    moments = FeatureMoments(6)  # one more class, of which there is no example
    alike = FeatureAlignment()
    for start in range(0, 100, 13):
        some = slice(start, start + 13)
        moments.add(features[some], labels[some])
        alike.add(features[some], features[some, :3] ** 2)
    assert set(PLAIN) == set(FEATURES)
    for name in PLAIN:
        given = (features,) if name == "effective_rank" else (features, labels)
        assert FEATURES[name].compute(moments) == pytest.approx(getattr(probes, name)(*given), rel=1e-9), name
    assert alike.value == pytest.approx(plain_cka(features, features[:, :3] ** 2), rel=1e-9)


def test_alignment_is_one_up_to_rotation_and_scale_and_less_elsewhere() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)) + 3
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    assert probes.cka(x, 5 * x @ rotation - 2) == pytest.approx(1)
    assert probes.cka(x, x[:, ::-1] ** 3) == pytest.approx(plain_cka(x, x[:, ::-1] ** 3))
    assert np.isnan(probes.cka(x, np.ones((50, 2))))


@pytest.mark.parametrize("offset", [300.0, 1e5])
def test_a_large_common_part_of_the_features_is_no_direction_between_classes(offset: float) -> None:
    features, labels = drawn(100, 4, 3)
    assert probes.nc1(features + offset, labels) == pytest.approx(probes.nc1(features, labels), rel=1e-4)


def test_features_that_are_all_zero_have_the_evidence_of_a_constant() -> None:
    labels = [0] * 30 + [1] * 10
    squares = np.log(2 * np.pi * np.array([0.75, 0.25])) + 1  # of each class its share of ones, with no mean
    assert probes.logme(np.zeros((40, 3)), labels) == pytest.approx(-squares.mean() / 2)


def test_a_classifier_that_collapses_has_less_of_nc1_and_a_lower_rank() -> None:
    labels = np.arange(90) % 3
    noise = np.random.default_rng(0).normal(size=(90, 10))
    loose, tight = (np.eye(3)[labels] @ np.eye(3, 10) + scale * noise for scale in (0.3, 0.01))
    assert probes.nc1(tight, labels) < 0.01 * probes.nc1(loose, labels)
    assert probes.effective_rank(tight) < probes.effective_rank(loose)
    assert probes.logme(tight, labels) > probes.logme(loose, labels)
    assert np.isnan(probes.nc1(noise, np.zeros(90, int)))


def test_what_are_no_features_is_refused() -> None:
    for features, labels, words in (
        ([1.0, 2.0], [0, 1], "shape"),
        ([[1.0], [np.nan]], [0, 1], "finite"),
        ([[1.0], [2.0]], [0], "labels"),
        ([[1.0], [2.0]], [0, -1], "labels"),
    ):
        with pytest.raises(InputError, match=words):
            probes.h_score(features, labels)
    with pytest.raises(InputError, match="same examples"):
        probes.cka([[1.0], [2.0]], [[1.0]])
