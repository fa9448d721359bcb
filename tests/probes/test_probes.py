from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special

from capmismatch import probes
from capmismatch._numerics.softmax import Softened
from capmismatch.errors import InputError
from capmismatch.probes import REGISTRY
from capmismatch.probes.temperatures import matched, slopes_of
from capmismatch.temperature import ats, isats

Array = np.ndarray
NUMBERS = (
    *("ece", "ece_over", "ece_under", "classwise_ace", "ece_tau", "classwise_ace_tau", "calibration_tau"),
)  # one number of all examples; other probes have one each


# Slow formulas, one example at a time: f the logits, y the label, t the temperature, p = softmax(f / t)


def softmax(f: Array, t: float = 1.0) -> Array:
    return special.softmax(np.asarray(f, np.float64) / t)


def wrong(values: Array, y: int) -> Array:
    return np.delete(np.asarray(values, np.float64), y)


def top_two_gap(p: Array) -> float:
    largest, next_one = sorted(p)[:-3:-1]
    return largest - next_one


def relative_entropy(f: Array, y: int, t: float) -> float:
    q = softmax(wrong(f, y), t)
    return special.entr(q).sum() / math.log(len(q)) if len(q) > 1 else math.nan


TEMPERED: dict[str, Callable[[Array, int, float], float]] = {
    "target_prob": lambda f, y, t: softmax(f, t)[y],
    "non_target_mass": lambda f, y, t: wrong(softmax(f, t), y).sum(),
    "derived_average": lambda f, y, t: wrong(softmax(f, t), y).mean(),
    "derived_variance": lambda f, y, t: wrong(softmax(f, t), y).var(),
    "derived_std": lambda f, y, t: wrong(softmax(f, t), y).std(),
    "inherent_variance": lambda f, y, t: softmax(wrong(f, y), t).var(),
    "entropy": lambda f, y, t: special.entr(softmax(f, t)).sum(),
    "wrong_entropy": relative_entropy,
    "scaled_derived_variance": lambda f, y, t: wrong(softmax(f, t), y).var() * (len(f) - 1),
    "nll_tau": lambda f, y, t: -math.log(softmax(f, t)[y]),
    "brier_tau": lambda f, y, t: sum((p - (c == y)) ** 2 for c, p in enumerate(softmax(f, t))),
    "effective_wrong": lambda f, y, t: 1 / (softmax(wrong(f, y), t) ** 2).sum(),
}
PLAIN: dict[str, Callable[[Array, int], float]] = {
    "accuracy": lambda f, y: float(list(f).index(max(f)) == y),
    "nll": lambda f, y: -math.log(softmax(f)[y]),
    "brier": lambda f, y: sum((p - (c == y)) ** 2 for c, p in enumerate(softmax(f))),
    "confidence": lambda f, y: max(softmax(f)),
    "confidence_gap": lambda f, y: top_two_gap(softmax(f)),
    "logit_std": lambda f, y: np.std(f),
    "logit_norm": lambda f, y: math.sqrt(sum((np.asarray(f) - np.mean(f)) ** 2)),
    "mean_logit": lambda f, y: np.mean(f),
    "max_logit": lambda f, y: max(f) - np.mean(f),
    "target_logit": lambda f, y: f[y] - np.mean(f),
    "max_wrong_logit": lambda f, y: max(wrong(f, y)) - np.mean(f),
}


def class_mean(logits: Array, labels: Array, y: int, t: float) -> Array:
    return np.mean([softmax(f, t) for f, label in zip(logits, labels, strict=True) if label == y], axis=0)


def loop_cmi(logits: Array, labels: Array, t: float) -> list[float]:
    means = {y: class_mean(logits, labels, y, t) for y in set(labels.tolist())}
    return [special.rel_entr(softmax(f, t), means[y]).sum() for f, y in zip(logits, labels.tolist(), strict=True)]


def loop_spread(logits: Array, labels: Array, t: float) -> list[float]:
    means = {y: class_mean(logits, labels, y, t) for y in set(labels.tolist())}
    return [((softmax(f, t) - means[y]) ** 2).sum() for f, y in zip(logits, labels.tolist(), strict=True)]


def decimal_softmax(f: Array) -> list[Decimal]:
    """Exponentials to as many digits as the context has."""
    weights = [Decimal(float(x)).exp() for x in f]
    return [w / sum(weights) for w in weights]


def decimal_values(logits: Array, labels: Array) -> dict[str, list[float]]:
    """What spreads within rows and within classes, at tau = 1."""
    with localcontext(Context(prec=50 + int(np.ptp(logits)))):  # squares of 1 - p have 40 digits left
        p = [decimal_softmax(f) for f in logits]
        mean = {
            y: [sum(c) / len(c) for c in zip(*(p[i] for i in np.flatnonzero(labels == y)), strict=True)]
            for y in set(labels.tolist())
        }
        pairs = [[*zip(row, mean[y], strict=True)] for row, y in zip(p, labels.tolist(), strict=True)]
        q = [decimal_softmax(wrong(f, y)) for f, y in zip(logits, labels, strict=True)]
        found = {
            "cmi": [sum(a * (a / m).ln() for a, m in pair) for pair in pairs],
            "within_class_spread": [sum((a - m) ** 2 for a, m in pair) for pair in pairs],
            "entropy": [-sum(a * a.ln() for a in row) for row in p],
            "wrong_entropy": [-sum(a * a.ln() for a in row) / Decimal(len(row)).ln() for row in q],
        }
        return {name: [float(value) for value in values] for name, values in found.items()}


def loop_ece(logits: Array, labels: Array, bins: int = 15) -> tuple[float, float]:
    """The over- and the underconfident part: bin by bin, (low, high] in confidence."""
    confidence = np.array([softmax(f).max() for f in logits])
    right = np.array([np.argmax(f) == y for f, y in zip(logits, labels, strict=True)])
    over = under = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = confidence[inside].mean() - right[inside].mean()
            over += inside.mean() * max(gap, 0)
            under += inside.mean() * max(-gap, 0)
    return over, under


def loop_ace(logits: Array, labels: Array, ranges: int = 15) -> float:
    n, classes = logits.shape
    p = np.array([softmax(f) for f in logits])
    ranges = min(ranges, n)
    total = 0.0
    for c in range(classes):
        order = np.argsort(p[:, c], kind="stable")
        for r in range(ranges):
            inside = order[r * n // ranges : (r + 1) * n // ranges]
            total += abs((labels[inside] == c).mean() - p[inside, c].mean())
    return total / (classes * ranges)


def example(rows: int, classes: int, scale: float = 3.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((rows, classes)) + rng.standard_normal((rows, 1))
    labels = np.where(rng.random(rows) < 0.6, logits.argmax(1), rng.integers(0, classes, rows))
    return logits, labels


def public(name: str) -> Callable[..., torch.Tensor | float]:
    return getattr(probes, name)


def test_every_registered_probe_is_tested_here_and_public() -> None:
    tested = {*TEMPERED, *PLAIN, *NUMBERS, "cmi", "within_class_spread", "log_params"}
    assert set(REGISTRY) == tested
    assert tested <= set(probes.__all__)
    others = {"cmi", "within_class_spread", "ece_tau", "classwise_ace_tau"}
    assert {name for name, p in REGISTRY.items() if p.tempered} == {*TEMPERED, *others}
    for name, p in REGISTRY.items():
        assert p.name == name and p.formula and p.source and p.expected_sign in (-1, 0, 1)
        assert probes.expected_signs()[name] == p.expected_sign


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", TEMPERED)
def test_tempered_probes_against_their_formulas(name: str, tau: float, classes: int) -> None:
    logits, labels = example(40, classes)
    expected = [TEMPERED[name](f, y, tau) for f, y in zip(logits, labels, strict=True)]
    found = public(name)(logits, labels, tau)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_probes_against_their_formulas(name: str, classes: int) -> None:
    logits, labels = example(40, classes)
    expected = [PLAIN[name](f, y) for f, y in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(public(name)(logits, labels), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_cmi_and_spread_against_loops(tau: float) -> None:
    logits, labels = example(60, 5)
    labels[labels == 3] = 2  # a class without examples
    np.testing.assert_allclose(probes.cmi(logits, labels, tau), loop_cmi(logits, labels, tau), rtol=1e-9)
    found = probes.within_class_spread(logits, labels, tau)
    np.testing.assert_allclose(found, loop_spread(logits, labels, tau), rtol=1e-9)
    means = probes.class_means(logits, labels, tau)
    assert means[3].isnan().all()
    np.testing.assert_allclose(means[2], class_mean(logits, labels, 2, tau), rtol=1e-12)


def test_class_means_of_other_examples_are_used_when_given() -> None:
    logits, labels = example(60, 4)
    means = probes.class_means(logits, labels)
    for probe in (probes.cmi, probes.within_class_spread):
        whole = probe(logits, labels)
        np.testing.assert_allclose(probe(logits[:7], labels[:7], means=means), whole[:7], rtol=1e-12)
        assert not np.allclose(probe(logits[:7], labels[:7]), whole[:7])


@pytest.mark.parametrize(("rows", "classes", "scale"), [(200, 4, 2.0), (157, 3, 1.0), (7, 5, 1.0), (1, 3, 1.0)])
def test_calibration_errors_against_loops(rows: int, classes: int, scale: float) -> None:
    logits, labels = example(rows, classes, scale)
    over, under = loop_ece(logits, labels)
    assert probes.ece_over(logits, labels) == pytest.approx(over, abs=1e-12)
    assert probes.ece_under(logits, labels) == pytest.approx(under, abs=1e-12)
    assert probes.ece(logits, labels) == pytest.approx(over + under, abs=1e-12)
    assert probes.classwise_ace(logits, labels) == pytest.approx(loop_ace(logits, labels), abs=1e-12)


def test_calibration_errors_at_a_temperature_against_loops() -> None:
    logits, labels = example(157, 4, 5.0)
    for tau in (1.0, 4.0):
        assert probes.ece_tau(logits, labels, tau) == pytest.approx(sum(loop_ece(logits / tau, labels)), abs=1e-12)
        assert probes.classwise_ace_tau(logits, labels, tau) == pytest.approx(loop_ace(logits / tau, labels), abs=1e-12)


def mean_nll(logits: Array, labels: Array, tau: float) -> float:
    return -float(special.log_softmax(logits / tau, axis=1)[np.arange(len(labels)), labels].mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.floats(0.05, 20), st.integers(0, 10**6))
def test_the_calibrating_temperature_is_scipys(classes: int, scale: float, seed: int) -> None:
    logits, labels = example(300, classes, 3.0, seed)
    logits = scale * logits
    found = probes.calibration_tau(logits, labels)
    oracle = optimize.minimize_scalar(
        lambda log_tau: mean_nll(logits, labels, math.exp(log_tau)),
        bounds=(math.log(1 / 32), math.log(64)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    if math.isnan(found):  # the best lies at an end
        assert min(abs(oracle.x - math.log(1 / 32)), abs(oracle.x - math.log(64))) < 0.05
    else:
        assert mean_nll(logits, labels, found) <= oracle.fun + 1e-12
        assert math.log(found) == pytest.approx(oracle.x, abs=1e-4)


def test_the_calibrating_temperature_is_equivariant_and_knows_its_error() -> None:
    logits, labels = example(600, 5, 4.0)
    found = probes.calibration_tau(logits, labels)
    assert probes.calibration_tau(2.5 * logits, labels) == pytest.approx(2.5 * found, rel=1e-8)
    raw = Softened(logits, labels).raw
    values = REGISTRY["calibration_tau"].compute(lambda rates: slopes_of(raw, rates).numpy())
    assert values.mean() == pytest.approx(found, rel=1e-12)
    rng = np.random.default_rng(0)
    draws = [probes.calibration_tau(logits[rows], labels[rows]) for rows in rng.integers(0, 600, (60, 600))]
    assert values.std() / math.sqrt(600) == pytest.approx(np.std(draws), rel=0.3)  # 60 draws tell it to a tenth


def test_some_teachers_no_temperature_calibrates() -> None:
    logits = example(50, 4)[0]
    right, wrong_ones = logits.argmax(1), logits.argmin(1)
    for f, y in ((logits, right), (logits, wrong_ones), (np.zeros((5, 3)), np.zeros(5, int))):
        assert math.isnan(probes.calibration_tau(f, y))
    with pytest.raises(InputError, match="at least one example"):
        probes.calibration_tau(np.zeros((0, 3)), [])


@pytest.mark.parametrize("name", ["entropy", "derived_std", "nll_tau"])
def test_matching_temperatures_give_the_value_back(name: str) -> None:
    logits, labels = example(80, 6)
    compute = REGISTRY[name].compute
    for tau in (2.5, 4.0, 7.0):
        wanted = float(compute(Softened(logits, labels, tau)).mean())
        found = probes.matching_tau(logits, labels, wanted, name, near=1.1 * tau)
        assert found == pytest.approx(tau, rel=1e-7)
        assert probes.matching_tau(3 * logits, labels, wanted, name, near=3 * tau) == pytest.approx(3 * tau, rel=1e-7)
    assert math.isnan(probes.matching_tau(logits, labels, 100.0, name))
    with pytest.raises(InputError, match="probe must be one of"):
        probes.matching_tau(logits, labels, 1.0, "accuracy")


@pytest.mark.parametrize("factor", [1.005, 1.02, 1.3])  # up to both crossings in one step of the search
def test_of_two_matching_temperatures_the_nearer_one_is_taken(factor: float) -> None:
    """The square of log(tau / 2) is log(factor)^2 at 2 / factor and 2 * factor."""
    for side in (1, -1):
        near = 2 * factor ** (side / 2)
        found = matched(lambda taus: [math.log(tau / 2) ** 2 for tau in taus], math.log(factor) ** 2, near)
        assert found == pytest.approx(2 * factor**side, rel=1e-6)
    assert math.isnan(matched(lambda taus: [*taus], 3.0, 2.0, within=(1.0, 2.5)))
    assert matched(lambda taus: [*taus], 2.4, 2.0, within=(1.0, 2.5)) == pytest.approx(2.4)


def test_calibration_errors_see_the_temperature_and_the_direction() -> None:
    logits, labels = example(300, 4, 4.0)
    cold, hot = (probes.ece_over(logits, labels, 0.2), probes.ece_under(logits, labels, 20.0))
    assert cold == pytest.approx(loop_ece(logits / 0.2, labels)[0], abs=1e-12) and cold > 0.2
    assert hot == pytest.approx(loop_ece(logits / 20, labels)[1], abs=1e-12) and hot > 0.1


def test_calibrated_examples_have_no_calibration_error() -> None:
    """p = (3/4, 1/4) for 40 examples, 30 of the first class, and mirrored: every range has its frequency."""
    f = math.log(3.0)
    logits = np.array([[f, 0.0]] * 60 + [[0.0, f]] * 60)
    labels = np.array([0, 0, 0, 1] * 15 + [1, 1, 1, 0] * 15)
    assert probes.ece(logits, labels) == pytest.approx(0, abs=1e-12)
    assert probes.classwise_ace(logits, labels) == pytest.approx(0, abs=1e-12)
    assert probes.ece(logits, 1 - labels) == pytest.approx(0.5)


def test_reliability_bins_are_open_below_and_closed_above() -> None:
    bins = probes.calibration_bins(torch.tensor([0.2, 0.2001, 0.6, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]), bins=5)
    assert bins["n"].tolist() == [1, 1, 1, 0, 1]
    assert bins["accuracy"][:3].tolist() == [0, 1, 1] and bins["accuracy"][3].isnan()
    np.testing.assert_allclose(bins["confidence"][[0, 1, 2, 4]], [0.2, 0.2001, 0.6, 1.0], rtol=1e-6)
    assert bins["bin_low"][1:].tolist() == bins["bin_high"][:-1].tolist()


@pytest.mark.parametrize("gap", [5.0, 27.6, 60.0, 300.0, 700.0])
def test_digits_are_kept_where_the_target_takes_all_the_mass(gap: float) -> None:
    """1 - p_y is 1e-12 at a gap of 27.6; plain float64 softmax has no digits of it left."""
    f = [gap, 0.3, -0.7, -1.1]
    with mpmath.workdps(400):
        weights = [mpmath.exp(mpmath.mpf(x)) for x in f]
        p = [w / sum(weights) for w in weights]
        rest = p[1:]
        mean = sum(rest) / 3
        expected = {
            "non_target_mass": 1 - p[0],
            "derived_average": mean,
            "derived_std": mpmath.sqrt(sum((x - mean) ** 2 for x in rest) / 3),
            "derived_variance": sum((x - mean) ** 2 for x in rest) / 3,
            "entropy": -sum(x * mpmath.log(x) for x in p),
            "nll": -mpmath.log(p[0]),
            "brier": (1 - p[0]) ** 2 + sum(x**2 for x in rest),
        }
        expected = {name: float(value) for name, value in expected.items()}
    for name, value in expected.items():
        assert float(public(name)([f], [0])[0]) == pytest.approx(value, rel=1e-6 if value > 1e-300 else 1, abs=0), name


@pytest.mark.parametrize("gap", [27.6, 300.0])
def test_digits_are_kept_where_a_wrong_class_takes_all_the_mass(gap: float) -> None:
    with mpmath.workdps(200):
        total = mpmath.exp(gap) + mpmath.exp(1) + 1
        expected = float(mpmath.exp(1) / total), float(mpmath.log(total) - 1)
    logits = np.array([[1.0, gap, 0.0]])
    assert float(probes.target_prob(logits, [0])[0]) == pytest.approx(expected[0], rel=1e-9)
    assert float(probes.nll(logits, [0])[0]) == pytest.approx(expected[1], rel=1e-9)


@pytest.mark.parametrize("gap", [2.3, 12.0, 28.0, 40.0, 69.0, 300.0, 690.0])
@pytest.mark.parametrize("winner", ["target", "wrong", "either"])
def test_digits_are_kept_where_all_of_a_class_are_confident(gap: float, winner: str) -> None:
    """1 - p is down to 1e-300, and differences between examples are in that alone; with a gradient as without."""
    logits, labels = np.random.default_rng(1).normal(size=(8, 5)), np.repeat([0, 1], 4)
    top = {"target": labels, "wrong": np.full(8, 3), "either": np.where(np.arange(8) % 4, labels, 3)}[winner]
    logits[np.arange(8), top] += gap
    for name, expected in decimal_values(logits, labels).items():
        for gradient in (False, True):
            found = public(name)(torch.from_numpy(logits).requires_grad_(gradient), labels).detach()
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-300, err_msg=name)


@pytest.mark.parametrize("distance", [1e-1, 1e-4, 1e-7])
def test_digits_are_kept_where_examples_of_a_class_are_nearly_equal(distance: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 6)).repeat(4, 0) + distance * rng.normal(size=(8, 6))
    for name, expected in decimal_values(logits, np.repeat([0, 1], 4)).items():
        found = public(name)(logits, np.repeat([0, 1], 4))
        np.testing.assert_allclose(found, expected, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("row", [[0.5, -1.0, 2.0, 0.1], [0.5, 2.0, 2.0, 0.1], [9.0, 0.0, 0.0, 0.0]])
def test_gradients_are_those_of_softmax_also_where_logits_are_tied(row: list[float]) -> None:
    logits, labels = torch.tensor([row, row[:1] + row[:0:-1]], dtype=torch.float64, requires_grad=True), [0, 0]
    means = torch.softmax(torch.tensor([[1.0, 0.5, 0.0, -1.0]] * 4, dtype=torch.float64), 1)
    p = torch.softmax(logits, 1)
    expected = {
        "nll": -p[:, 0].log(),
        "entropy": -(p * p.log()).sum(1),
        "cmi": (p * (p / means[0]).log()).sum(1),
        "within_class_spread": (p - means[0]).square().sum(1),
    }
    for name, values in expected.items():
        found = public(name)(logits, labels, **({"means": means} if name in ("cmi", "within_class_spread") else {}))
        torch.testing.assert_close(found, values, rtol=1e-12, atol=0)
        gradients = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, values))
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def inputs(classes: st.SearchStrategy[int], spread: float = 30.0) -> st.SearchStrategy[tuple[Array, Array]]:
    def rows(c: int) -> st.SearchStrategy[tuple[Array, Array]]:
        floats = st.floats(-spread, spread, allow_subnormal=False)
        return st.tuples(
            hnp.arrays(np.float64, (3, c), elements=floats), hnp.arrays(np.int64, 3, elements=st.integers(0, c - 1))
        )

    return classes.flatmap(rows)


@settings(max_examples=60, deadline=None)
@given(inputs(st.integers(2, 7)), st.sampled_from([0.5, 1.0, 4.0]))
def test_identity_of_the_papers(pair: tuple[Array, Array], tau: float) -> None:
    """v(q) = (1 - p_y)^2 v(q~) = (C-1)^2 e(q)^2 v(q~), the left side taken from the naive softmax."""
    logits, labels = pair
    left = np.array([wrong(softmax(f, tau), y).var() for f, y in zip(logits, labels, strict=True)])
    names = ("derived_variance", "inherent_variance", "non_target_mass", "derived_average")
    dv, iv, mass, average = (public(name)(logits, labels, tau).numpy() for name in names)
    np.testing.assert_allclose(dv, left, rtol=1e-9, atol=1e-16)
    np.testing.assert_allclose(dv, mass**2 * iv, rtol=1e-12, atol=0)
    np.testing.assert_allclose(dv, (logits.shape[1] - 1) ** 2 * average**2 * iv, rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(inputs(st.integers(2, 7), spread=15.0), st.sampled_from(["order", "anchor"]))
def test_identity_also_holds_under_ats_and_isats(pair: tuple[Array, Array], constraint: str) -> None:
    logits, labels = pair
    found = isats(logits, labels, constraint=constraint)
    for soft in (ats(logits, labels, 4.0, 2.0).numpy(), found.probs.numpy()):
        for p, y in zip(soft, labels, strict=True):
            rest = wrong(p, y)
            q = rest / rest.sum()
            assert rest.var() == pytest.approx((1 - p[y]) ** 2 * q.var(), rel=1e-6, abs=1e-15)
            assert rest.var() == pytest.approx(len(rest) ** 2 * rest.mean() ** 2 * q.var(), rel=1e-9, abs=1e-15)
    variances = [wrong(p, y).var() for p, y in zip(found.probs.numpy(), labels, strict=True)]
    np.testing.assert_allclose(found.variance, variances, rtol=1e-7, atol=1e-16)


@settings(max_examples=30, deadline=None)
@given(inputs(st.integers(2, 6)), st.floats(-100, 100))
def test_a_constant_on_all_logits_changes_no_probe(pair: tuple[Array, Array], constant: float) -> None:
    logits, labels = pair
    logits = np.round(logits, 2)  # differences far above the rounding of the sum, so that bins and hits stay the same
    for name in {*TEMPERED, *PLAIN, "cmi", "within_class_spread"} - {"mean_logit", "accuracy"}:  # see the next test
        before, after = public(name)(logits, labels), public(name)(logits + constant, labels)
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_power_of_two_on_all_logits_changes_no_discrete_probe() -> None:
    logits, labels = example(200, 4)
    logits = np.round(logits * 1024) / 1024  # adding 64 is exact
    for name in ("accuracy", *NUMBERS):
        np.testing.assert_allclose(public(name)(logits + 64, labels), public(name)(logits, labels), rtol=1e-9)
    before, after = probes.mean_logit(logits, labels), probes.mean_logit(logits + 64, labels)
    np.testing.assert_allclose(after, 64 + before, rtol=1e-12)


PER_EXAMPLE = sorted({*TEMPERED, *PLAIN, "cmi", "within_class_spread"})


@pytest.mark.parametrize("name", [*PER_EXAMPLE, *NUMBERS])
def test_precision_and_layout_of_the_inputs(name: str, tmp_path: Path) -> None:
    """Half-precision logits count as what they are: the result is that of the same numbers in float64."""
    half = example(20, 4)[0].astype(np.float16)
    labels = example(20, 4)[1]
    expected = np.asarray(public(name)(half.astype(np.float64), labels))
    np.save(tmp_path / "half.npy", half)
    forms = {
        "float16": half,
        "float32": half.astype(np.float32),
        "tensor": torch.from_numpy(half),
        "float64 tensor": torch.from_numpy(half.astype(np.float64)),
        "list": half.astype(np.float64).tolist(),
        "memory-mapped": np.load(tmp_path / "half.npy", mmap_mode="r"),
        "strided": np.repeat(half, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray(half),
        "with gradient": torch.from_numpy(half).float().requires_grad_(),
    }
    for form, logits in forms.items():
        found = public(name)(logits, torch.from_numpy(labels))
        if isinstance(found, torch.Tensor):
            assert found.dtype == torch.float64, form
            found = found.detach()
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15, err_msg=form)


def test_two_classes_have_a_single_wrong_one() -> None:
    logits, labels = example(10, 2)
    for name in ("derived_variance", "derived_std", "inherent_variance"):
        assert (public(name)(logits, labels) == 0).all()
    np.testing.assert_allclose(probes.derived_average(logits, labels), probes.non_target_mass(logits, labels))
    assert probes.wrong_entropy(logits, labels).isnan().all()


def test_no_examples_give_no_values() -> None:
    for name in PER_EXAMPLE:
        assert public(name)(np.zeros((0, 3)), []).shape == (0,)


def test_ties_go_to_the_first_class() -> None:
    assert probes.accuracy([[1.0, 1.0], [1.0, 1.0]], [0, 1]).tolist() == [1.0, 0.0]


def test_log_params() -> None:
    assert probes.log_params(270_000) == pytest.approx(math.log10(2.7e5))
    assert math.isnan(probes.log_params(0)) and math.isnan(probes.log_params(math.nan))


def test_public_signatures_are_those_of_pure_functions() -> None:
    for name in (*TEMPERED, *PLAIN):
        assert list(inspect.signature(public(name)).parameters) == ["logits", "labels", "tau"]
        assert public(name).__doc__ and public(name).__name__ == name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probes.target_prob([[1.0, 2.0]], [0], tau=0), "tau must be a positive number, got 0"),
        (lambda: probes.entropy([[1.0, 2.0]], [0], tau=math.inf), "tau must be a positive number, got inf"),
        (lambda: probes.nll([[1.0, 2.0]], [2]), r"labels in \[0, 2\), got 2 at row 0"),
        (lambda: probes.ece(np.zeros((0, 2)), []), "a calibration error needs at least one example, got none"),
        (lambda: probes.classwise_ace(np.zeros((0, 2)), []), "needs at least one example"),
        (lambda: probes.cmi([[1.0, 2.0]], [0], means=np.eye(3)), r"class means of shape \(2, 2\), got \(3, 3\)"),
        (
            lambda: probes.per_example("", "", 0)(type("", (), {"__name__": "nll"})()),
            "a probe named 'nll' exists already",
        ),
    ],
)
def test_errors_say_what_and_where(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_class_of_one_example_has_no_spread() -> None:
    logits, labels = example(30, 3)
    logits, labels = np.vstack([logits, [[9.0, 0.0, 1.0]]]), np.append(np.where(labels == 2, 1, labels), 2)
    for probe in (probes.cmi, probes.within_class_spread):
        found = probe(logits, labels, 2.0).numpy()
        assert np.isnan(found[-1]) and np.isfinite(found[:-1]).all()
        np.testing.assert_array_equal(
            probe(logits, labels, 2.0, probes.class_means(logits, labels, 2.0))[:-1], found[:-1]
        )


def test_debiased_ece_is_nearer_to_the_truth() -> None:
    """Small samples of a calibrated teacher, whose error is 0, and of one that is sure by too much."""
    rng = np.random.default_rng(1)
    for factor in (1.0, 3.0):
        z = rng.normal(1.0, 1.0, 200_000)
        hit = rng.random(len(z)) < 1 / (1 + np.exp(-z))
        logits, labels = np.stack([factor * z, 0 * z], axis=1), np.where(hit, 0, 1)
        truth = probes.ece(logits, labels)
        samples = [rng.integers(0, len(z), 150) for _ in range(200)]
        plain, debiased = (
            np.mean([probes.ece(logits[rows], labels[rows], debiased=kind) for rows in samples]) - truth
            for kind in (False, True)
        )
        assert plain > 0.002 and abs(debiased) < 0.7 * plain


def test_debiased_spread_is_that_of_the_population() -> None:
    """Means over many small samples: the spread without bias, the divergence with less of it."""
    rng = np.random.default_rng(0)
    population = 2 * rng.standard_normal((200_000, 3))
    means = probes.class_means(population, np.zeros(len(population), dtype=int), 1.0).numpy()
    labels = np.repeat(np.arange(3), 4)[:12] * 0
    for probe, within in ((probes.within_class_spread, 0.01), (probes.cmi, 0.1)):
        truth = float(probe(population, np.zeros(len(population), dtype=int), 1.0, np.nan_to_num(means)).mean())
        plain, debiased = [], []
        for _ in range(400):
            rows = population[rng.integers(0, len(population), 12)]
            plain.append(float(probe(rows, labels).mean()))
            debiased.append(float(probe(rows, labels, debiased=True).mean()))
        assert np.mean(plain) < 0.95 * truth
        assert np.mean(debiased) == pytest.approx(truth, rel=within + 0.02)
    with pytest.raises(InputError, match="debiased"):
        probes.cmi(population[:4], labels[:4], means=means, debiased=True)
