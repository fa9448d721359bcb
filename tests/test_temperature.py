from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special

from capmismatch._numerics import devices, isats_search
from capmismatch.errors import InputError
from capmismatch.temperature import CENTERS, CONSTRAINTS, ISATSResult, ats, isats, soften

Array = np.ndarray
GRID = 20_000


# The slow way: float64, one example at a time


def softmax(f: Array) -> Array:
    return special.softmax(np.asarray(f, np.float64))


def centered(f: Array, center: str) -> Array:
    return f - np.mean(f) if center == "mean" else np.asarray(f, np.float64)


def two_temperatures(f: Array, y: int, tau_target: float, tau_other: float) -> Array:
    return softmax([value / (tau_target if c == y else tau_other) for c, value in enumerate(f)])


def log_variance(target: float, wrong: Array, origin: float, tau_other: Array) -> Array:
    """log v(q) at every tau_other, `target` being the target's logit over its temperature; -inf where v(q) = 0.

    The wrong logits are those less `origin`, which is kept apart: taking it off first would round their differences.
    Equal ones are computed once and counted.
    """
    levels, counts = np.unique(wrong, return_counts=True)
    x = (levels - levels[-1])[None, :] / tau_other[:, None]
    # Differences through expm1, so that nearly equal wrong logits keep their digits.
    less_one = np.expm1(x)
    log_sum = np.log((less_one + 1) @ counts)  # the largest of the powers is 1
    deviation = (less_one - (less_one @ counts / len(wrong))[:, None]) / np.exp(log_sum)[:, None]
    log_odds = target - (levels[-1] - origin) / tau_other - log_sum
    with np.errstate(divide="ignore"):
        return -2 * np.logaddexp(0, log_odds) + np.log(deviation**2 @ counts / len(wrong))


def prepared(f: Array, y: int, tau_target: float, constraint: str, center: str) -> tuple[float, Array, float]:
    """The target's logit over its temperature, the wrong logits, and what is taken off them."""
    origin = f[y] if constraint == "anchor" else f.mean() if center == "mean" else 0.0
    return (f[y] - origin) / tau_target, np.delete(f, y), origin


def dense_best(target: float, wrong: Array, origin: float, low: float, high: float) -> tuple[float, float]:
    """The arg max and maximum of log v(q) over a dense grid, refined twice around its best point."""
    for _ in range(3):
        grid = np.exp(np.linspace(math.log(low), math.log(high), GRID if high / low > 1.01 else 200))
        values = log_variance(target, wrong, origin, grid)
        best = int(values.argmax())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(grid[best]), float(values[best])


def feasible(target: float, top: float, margin: float, low: float, high: float) -> tuple[float, float]:
    """Where target - top / tau_other >= margin; the nearest end where nowhere. The gap is monotone in tau_other."""
    gap = {end: target - top / end for end in (low, high)}
    if max(gap.values()) < margin:
        nearest = high if top > 0 else low  # the gap grows with tau_other if top > 0, also where that rounds away
        return nearest, nearest
    if min(gap.values()) >= margin:
        return low, high
    edge = top / (target - margin)
    return (edge, high) if gap[high] >= margin else (low, edge)


def check_row(found: ISATSResult, row: int, f: Array, y: int, case: dict) -> None:
    tau_target, (low, high), constraint, margin = case["tau_target"], case["bounds"], case["constraint"], case["margin"]
    target, wrong, origin = prepared(f, y, tau_target, constraint, case["center"])
    inner = (low, high)
    had_it_on_top = int(np.argmax(f)) == y
    only_rounding = case["center"] == "mean" and np.ptp(f) == 0  # is what sets equal logits apart from their mean
    if constraint == "order" and had_it_on_top and not only_rounding:
        inner = feasible(target, wrong.max() - origin, margin, low, high)
    tau_other = float(found.tau_other[row])
    assert inner[0] * (1 - 1e-12) <= tau_other <= inner[1] * (1 + 1e-12)
    assert bool(found.at_bound[row]) == (tau_other in (low, high))
    if found.constrained[row]:
        assert not found.at_bound[row] and tau_other == pytest.approx(inner[0] if inner[0] > low else inner[1])

    best, height = dense_best(target, wrong, origin, *inner)
    own = log_variance(target, wrong, origin, np.array([tau_other]))[0]
    if height > -math.inf:
        assert own >= height - 1e-9
        nearby = log_variance(target, wrong, origin, best * np.array([1 - 1e-3, 1 + 1e-3]))
        sharp = all(inner[0] < best * (1 + side * 1e-3) < inner[1] for side in (-1, 1)) and max(nearby) < height - 1e-10
        if sharp:
            # A dense grid finds a maximum of curvature k only to sqrt(eps / k); the derivative tells it better.
            assert log_variance_slope(target, wrong, origin, tau_other * (1 - 1e-6)) > 0
            assert log_variance_slope(target, wrong, origin, tau_other * (1 + 1e-6)) < 0
    assert float(found.variance[row]) == pytest.approx(math.exp(own), rel=1e-8, abs=1e-300)


def log_variance_slope(target: float, wrong: Array, origin: float, tau: float) -> float:
    """d log v(q) / d tau in extended precision: v(q) is summed over p itself, differentiated with mpmath."""
    import mpmath

    with mpmath.workdps(60):
        w, t = [mpmath.mpf(float(x)) - mpmath.mpf(float(origin)) for x in wrong], mpmath.mpf(float(target))

        def log_v(tau_other: mpmath.mpf) -> mpmath.mpf:
            e = [mpmath.exp(x / tau_other) for x in w]
            total = mpmath.exp(t) + sum(e)
            p = [x / total for x in e]
            mean = sum(p) / len(p)
            return mpmath.log(sum((x - mean) ** 2 for x in p))

        return float(mpmath.diff(log_v, mpmath.mpf(tau)))


def numbers(classes: st.SearchStrategy[int], elements: st.SearchStrategy) -> st.SearchStrategy[tuple[Array, int]]:
    return classes.flatmap(lambda c: st.tuples(hnp.arrays(np.float64, c, elements=elements), st.integers(0, c - 1)))


def example(rows: int = 30, classes: int = 6, scale: float = 4.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((rows, classes))
    return logits, np.where(rng.random(rows) < 0.7, logits.argmax(1), rng.integers(0, classes, rows))


# ------------------------------------------------------------------------------------------------------ soften and ats


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0, 50.0])
def test_soften_is_the_softmax_at_a_temperature(tau: float) -> None:
    logits, labels = example()
    expected = [softmax(f / tau) for f in logits]
    np.testing.assert_allclose(soften(logits, tau=tau), expected, rtol=1e-12)
    np.testing.assert_array_equal(soften(logits, labels, tau), soften(logits, None, tau))


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize(("tau_target", "tau_other"), [(4.0, 2.0), (1.0, 3.0), (0.5, 0.5)])
def test_ats_against_its_formula(tau_target: float, tau_other: float, center: str) -> None:
    logits, labels = example()
    logits += 3.0
    expected = [
        two_temperatures(centered(f, center), y, tau_target, tau_other) for f, y in zip(logits, labels, strict=True)
    ]
    np.testing.assert_allclose(ats(logits, labels, tau_target, tau_other, center=center), expected, rtol=1e-12)


@pytest.mark.parametrize("center", CENTERS)
def test_ats_with_equal_temperatures_is_soften(center: str) -> None:
    logits, labels = example()
    np.testing.assert_allclose(ats(logits, labels, 3.0, 3.0, center=center), soften(logits, tau=3.0), rtol=1e-12)


def test_which_soft_labels_see_a_constant_on_all_logits() -> None:
    logits, labels = example()
    moved = logits + np.linspace(-8, 8, len(logits))[:, None]
    np.testing.assert_allclose(soften(moved, tau=4.0), soften(logits, tau=4.0), rtol=1e-11)
    np.testing.assert_allclose(ats(moved, labels), ats(logits, labels), rtol=1e-11)
    assert not np.allclose(ats(moved, labels, center="none"), ats(logits, labels, center="none"), rtol=0.1)
    for constraint in ("order", "anchor"):
        for name in ("probs", "variance", "target_prob"):
            before, after = (getattr(isats(f, labels, constraint=constraint), name) for f in (logits, moved))
            np.testing.assert_allclose(after, before, rtol=1e-6)
    raw = [isats(f, labels, center="none").variance for f in (logits, moved)]
    assert not np.allclose(*raw, rtol=0.1)


@settings(max_examples=60, deadline=None)
@given(
    numbers(st.integers(3, 8), st.integers(-40, 40).map(lambda n: n / 4)),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.sampled_from([0.5, 2.0, 8.0]),
)
def test_the_order_of_wrong_classes_never_changes(row: tuple[Array, int], tau_target: float, tau_other: float) -> None:
    f, y = row
    before = np.sign(np.subtract.outer(np.delete(f, y), np.delete(f, y)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soft = [
            soften(f[None], tau=tau_target),
            ats(f[None], [y], tau_target, tau_other),
            *(isats(f[None], [y], tau_target, constraint=constraint).probs for constraint in CONSTRAINTS),
        ]
    for p in soft:
        rest = np.delete(p[0].numpy(), y)
        with np.errstate(divide="ignore"):
            after = np.subtract.outer(np.log(rest), np.log(rest))
        after = np.where(np.abs(after) < 1e-9, 0, np.sign(after))  # equal logits may differ in the last bit
        np.testing.assert_array_equal(after[rest > 1e-300][:, rest > 1e-300], before[rest > 1e-300][:, rest > 1e-300])


@pytest.mark.parametrize(
    "soft",
    [
        lambda f: soften(f, tau=2.0),
        lambda f: ats(f, [0, 2], 4.0, 2.0),
        lambda f: ats(f, [0, 2], 4.0, 2.0, center="none"),
    ],
)
def test_soften_and_ats_are_differentiable(soft: Callable[[torch.Tensor], torch.Tensor]) -> None:
    logits = torch.from_numpy(example(2, 4)[0]).requires_grad_()
    assert torch.autograd.gradcheck(soft, (logits,))


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision_of_the_soft_labels(given_dtype: torch.dtype, expected: torch.dtype) -> None:
    logits, labels = example(8, 4)
    logits = torch.from_numpy(logits).to(given_dtype)
    found = isats(logits, labels)
    for probs in (soften(logits), ats(logits, labels), found.probs):
        assert probs.dtype == expected
        torch.testing.assert_close(probs.sum(1), torch.ones(8, dtype=expected))
    exact = isats(logits.double(), labels)
    for name in ("tau_other", "variance", "variance_before", "target_prob"):
        assert getattr(found, name).dtype == torch.float64
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-12, atol=0)


# --------------------------------------------------------------------------------------------------------------- isats

CASES = [
    {"constraint": "order", "margin": 0.0, "bounds": (0.5, 8.0), "tau_target": 4.0, "center": "mean"},
    {"constraint": "order", "margin": 1.0, "bounds": (0.5, 8.0), "tau_target": 4.0, "center": "mean"},
    {"constraint": "order", "margin": 0.3, "bounds": (0.05, 50.0), "tau_target": 1.0, "center": "none"},
    {"constraint": "anchor", "margin": 0.0, "bounds": (0.5, 8.0), "tau_target": 4.0, "center": "mean"},
    {"constraint": "anchor", "margin": 0.0, "bounds": (2.0, 2.5), "tau_target": 4.0, "center": "mean"},
    {"constraint": "none", "margin": 0.0, "bounds": (0.5, 8.0), "tau_target": 4.0, "center": "none"},
    {"constraint": "none", "margin": 0.0, "bounds": (0.01, 100.0), "tau_target": 2.0, "center": "mean"},
]
ROWS = st.one_of(
    numbers(st.integers(2, 8), st.floats(-20, 20, allow_subnormal=False)),
    numbers(st.integers(2, 8), st.integers(-3, 3).map(float)),  # ties, constant rows
    numbers(st.integers(2, 5), st.floats(-1e4, 1e4, allow_subnormal=False)),  # huge
    numbers(st.integers(3, 5), st.floats(-1e-5, 1e-5, allow_subnormal=False)),  # tiny spread
    numbers(st.integers(20, 40), st.sampled_from([-60.0, -30.0, -29.0, -2.0, 0.0, 1.0])),  # clusters
)


@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_isats_finds_the_maximum_of_a_dense_grid(case: dict, row: tuple[Array, int]) -> None:
    f, y = row
    check_row(isats(f[None], [y], **case), 0, f, y, case)


@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_isats_on_a_batch_is_isats_row_by_row(case: dict) -> None:
    logits, labels = example(40, 7)
    whole = isats(logits, labels, **case)
    for row in range(0, 40, 8):
        check_row(whole, row, logits[row], labels[row], case)
        single = isats(logits[row : row + 1], labels[row : row + 1], **case)
        for field in fields(ISATSResult):
            a, b = getattr(whole, field.name)[row], getattr(single, field.name)[0]
            torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


def test_what_the_fields_mean() -> None:
    logits, labels = example(60, 6)
    found = isats(logits, labels, 4.0)
    for i, (f, y) in enumerate(zip(logits, labels, strict=True)):
        p = two_temperatures(f - f.mean(), y, 4.0, float(found.tau_other[i]))
        np.testing.assert_allclose(found.probs[i], p, rtol=1e-10)
        assert float(found.target_prob[i]) == pytest.approx(p[y], rel=1e-10)
        assert float(found.variance[i]) == pytest.approx(np.delete(p, y).var(), rel=1e-9)
        before = np.delete(softmax(f / 4), y).var()
        assert float(found.variance_before[i]) == pytest.approx(before, rel=1e-9)
        if f.argmax() == y:  # the target stays on top, or ties with the next
            assert not found.flipped[i] and p[y] >= p.max() * (1 - 1e-9)
        else:
            assert bool(found.flipped[i]) == (p.argmax() != f.argmax())
    assert found.constrained.any() and not (found.constrained & found.at_bound).any()


def test_order_keeps_the_margin_wherever_it_can() -> None:
    logits, labels = example(300, 6, scale=8.0)
    rows = logits - logits.mean(1, keepdims=True)
    for margin in (0.0, 0.5, 2.0):
        found = isats(logits, labels, 4.0, margin=margin)
        reached = 0
        for f, y, tau_other in zip(rows, labels, found.tau_other.tolist(), strict=True):
            if f.argmax() != y:
                continue
            top = np.delete(f, y).max()
            most = max(f[y] / 4 - top / end for end in (0.5, 8.0))
            gap = f[y] / 4 - top / tau_other
            assert gap >= min(margin, most) - 1e-9
            reached += most >= margin
        assert reached > 50


def test_a_target_that_no_temperature_can_keep_on_top_is_told_as_flipped() -> None:
    """f_y / 4 < f_c / 2 for every tau_other up to 2: the nearest one is taken, and the arg max moves all the same."""
    found = isats([[5.0, 4.0, -9.0]], [0], 4.0, bounds=(0.5, 2.0), center="none")
    assert found.tau_other.tolist() == [2.0]
    assert found.at_bound.tolist() == [True] and found.constrained.tolist() == [False]
    assert int(found.probs.argmax()) == 1
    assert found.flipped.tolist() == [True]


def test_misclassified_examples_are_not_constrained() -> None:
    logits, labels = example(100, 6)
    labels = np.where(logits.argmax(1) == labels, (labels + 1) % 6, labels)
    with pytest.warns(UserWarning, match="ISATS without a constraint"):
        free = isats(logits, labels, constraint="none")
    bound = isats(logits, labels, constraint="order", margin=1.0)
    torch.testing.assert_close(bound.tau_other, free.tau_other)
    assert not bound.constrained.any()


def test_anchor_ignores_the_target_temperature_and_the_centring() -> None:
    logits, labels = example()
    found = isats(logits, labels, 4.0, constraint="anchor")
    other = isats(logits, labels, 1.5, constraint="anchor", center="none")
    torch.testing.assert_close(found.tau_other, other.tau_other)
    torch.testing.assert_close(found.probs, other.probs)
    on_top = logits.argmax(1) == labels
    flattest = [softmax((f - f[y]) / 8)[y] for f, y in zip(logits, labels, strict=True)]
    assert (found.target_prob.numpy() >= np.array(flattest) - 1e-12)[on_top].all()


def test_the_unconstrained_search_warns_when_it_degenerates() -> None:
    logits, labels = example(50, 6)
    with pytest.warns(UserWarning, match=r"lower bound \(tau_other = 0.5\) for \d+% of the examples.*'order' or"):
        found = isats(logits, labels, constraint="none")
    assert (found.tau_other == 0.5).double().mean() > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        isats(logits, labels, constraint="order")
        isats(logits - 100, labels, constraint="none", center="none")  # all wrong logits negative: no reason to


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_no_examples_give_empty_fields(constraint: str) -> None:
    found = isats(np.zeros((0, 5), np.float32), [], constraint=constraint)
    for field in fields(ISATSResult):
        assert getattr(found, field.name).shape == ((0, 5) if field.name == "probs" else (0,))
    assert repr(found) == "ISATSResult(0 examples, 5 classes)"


@pytest.mark.parametrize("row", [[0.0] * 4, [3.0, 0.0, 0.0, 0.0], [1e4, -1e4, 0.0, 1e4], [0.0, 1e-12, 0.0, 0.0]])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_odd_rows_give_probabilities(row: list[float], constraint: str) -> None:
    found = isats(np.array([row]), [0], constraint=constraint)
    for field in fields(ISATSResult):
        assert torch.isfinite(getattr(found, field.name)).all()
    assert float(found.probs.sum()) == pytest.approx(1)
    assert 0.5 <= float(found.tau_other) <= 8.0


def test_isats_has_no_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    found = isats(logits, [0, 1, 2, 0])
    assert not any(getattr(found, field.name).requires_grad for field in fields(ISATSResult))


def test_repr_of_two_classes_has_no_ratio_of_zeros() -> None:
    found = isats([[2.0, 0.0], [0.0, 1.0]], [0, 0])
    assert "variance 0," in repr(found) and "nan" not in repr(found)


def test_repr_tells_the_essentials() -> None:
    shown = repr(isats(*example(50, 6)))
    assert shown.startswith("ISATSResult(50 examples, 6 classes: tau_other ")
    assert "at_bound" in shown and "variance x" in shown and "flipped" in shown


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, y: soften(f, tau=0), "tau must be a positive number, got 0"),
        (lambda f, y: ats(f, y, -1.0), "tau_target must be a positive number, got -1.0"),
        (lambda f, y: ats(f, y, 4.0, math.nan), "tau_other must be a positive number, got nan"),
        (lambda f, y: ats(f, y, center="median"), r"center must be one of \['mean', 'none'\], not 'median'"),
        (lambda f, y: isats(f, y, math.inf), "tau_target must be a positive number, got inf"),
        (lambda f, y: isats(f, y, constraint="oder"), "constraint must be one of .* not 'oder'; did you mean 'order'"),
        (lambda f, y: isats(f, y, center="mode"), r"center must be one of \['mean', 'none'\], not 'mode'"),
        (lambda f, y: isats(f, y, bounds=(8.0, 0.5)), r"two numbers with 0 < low < high, got \(8.0, 0.5\)"),
        (lambda f, y: isats(f, y, bounds=(1.0, 2.0, 3.0)), r"bounds must be two numbers \(low, high\), got"),
        (lambda f, y: isats(f, y, margin=-1.0), "margin must be a number >= 0, got -1.0"),
        (lambda f, y: isats(f, y, constraint="anchor", margin=1.0), "belongs to constraint 'order', got margin=1.0"),
        (lambda f, y: isats(f, [9]), r"labels in \[0, 3\), got 9 at row 0"),
    ],
)
def test_errors_say_what_and_where(call: Callable, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call([[1.0, 2.0, 3.0]], [0])


# ----------------------------------------------------------------------------------------------------------- real data


@pytest.fixture
def cifar(real_data: Path) -> tuple[dict[str, Array], Array]:
    with np.load(real_data / "cifar10" / "teachers_a_test_logits.npz") as file:
        names = [f"resnet{depth}" for depth in (20, 32, 44, 56)]
        return {name: file[f"logits_{name}"] for name in names}, file["labels"]


@pytest.mark.real_data
def test_spread_of_public_cifar_teachers_falls_with_their_size(cifar: tuple[dict[str, Array], Array]) -> None:
    logits, labels = cifar
    index = np.arange(len(labels))
    found = {"std": [], "iv": [], "accuracy": []}
    for f in logits.values():
        p = soften(f.astype(np.float64), tau=4.0).numpy()
        keep = np.ones_like(p, dtype=bool)
        keep[index, labels] = False
        rest = p[keep].reshape(len(p), -1)
        found["std"].append(rest.std(1).mean())
        found["iv"].append((rest / rest.sum(1, keepdims=True)).var(1).mean())
        found["accuracy"].append((f.argmax(1) == labels).mean())
    assert len(labels) == 9806
    np.testing.assert_allclose(found["std"], [3.142e-2, 2.903e-2, 2.750e-2, 2.665e-2], atol=0.6e-5)
    np.testing.assert_allclose(found["iv"], [2.32e-2, 1.83e-2, 1.64e-2, 1.57e-2], atol=0.6e-4)
    np.testing.assert_allclose(found["accuracy"], [0.9167, 0.9254, 0.9305, 0.9331], atol=0.6e-4)


@pytest.mark.real_data
def test_the_unconstrained_search_flips_most_examples_and_order_none(cifar: tuple[dict[str, Array], Array]) -> None:
    logits, labels = cifar
    for name, f in logits.items():
        right = f.argmax(1) == labels
        with pytest.warns(UserWarning, match="ISATS without a constraint"):
            free = isats(f[right], labels[right], 4.0, constraint="none")
        assert 0.70 < float(free.flipped.double().mean()) < 0.87, name
        for margin, (least, most) in {0.0: (8, 20), 1.0: (3, 10)}.items():
            kept = isats(f[right], labels[right], 4.0, constraint="order", margin=margin)
            assert not kept.flipped.any()
            gain = float(kept.variance.mean() / kept.variance_before.mean())
            assert least < gain < most, (name, margin, gain)


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_compiled_and_batched_search_agree(monkeypatch, constraint, classes):
    generator = np.random.default_rng(classes)
    logits = generator.normal(size=(300, classes)) * np.exp(generator.normal(size=(300, 1)) * 2)
    labels = generator.integers(0, classes, 300)
    logits[:20] = logits[:20].round()  # ties, and rows with all wrong logits equal
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = isats(logits, labels, constraint=constraint)
        monkeypatch.setattr(devices, "HAS_NUMBA", False)
        batched = isats(logits, labels, constraint=constraint)
    torch.testing.assert_close(compiled.variance, batched.variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(compiled.tau_other, batched.tau_other, rtol=1e-8, atol=0)


# Two maxima of nearly equal height: wrong logits, each so many times, and the target's.
NEAR_TIES = [
    ([0.0, -1.4, -21.0], [1, 7, 51], 4.99),
    ([0.0, -1.0, -15.0], [1, 7, 51], 3.98),
]


@pytest.fixture(params=["loops", "tensors"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "tensors":
        monkeypatch.setattr(devices, "HAS_NUMBA", False)
    return request.param


def best_of_all_maxima(target: float, wrong: Array, low: float, high: float) -> tuple[float, float]:
    """The arg max and maximum of log v(q): every local maximum of a dense grid is refined, and the ends are tried."""
    grid = np.exp(np.linspace(math.log(low), math.log(high), 4000))
    values = np.pad(log_variance(target, wrong, 0.0, grid), 1, constant_values=-np.inf)
    peaks = np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:]))
    found = [(values[1], low), (values[-2], high)]
    for peak in peaks[np.argsort(values[1:-1][peaks])][-20:]:  # a level stretch has one at each of its points
        ends = grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)]
        inner = optimize.minimize_scalar(
            lambda u: -log_variance(target, wrong, 0.0, np.exp([u]))[0], bounds=np.log(ends), options={"xatol": 1e-10}
        )
        found.append((-inner.fun, math.exp(inner.x)))
    height, tau_other = max(found)
    return tau_other, height


@pytest.mark.parametrize("constraint", ["order", "none"])
@pytest.mark.parametrize("bounds", [(0.5, 8.0), (0.5, 3.4), (3.0, 8.0)])
@pytest.mark.parametrize("row", NEAR_TIES, ids=["-1.4", "-1.0"])
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_the_higher_of_two_maxima(backend: str, row: tuple, bounds: tuple[float, float], constraint: str) -> None:
    levels, counts, target = row
    wrong = np.repeat(levels, counts)
    found = isats(
        np.append(wrong, target)[None], [len(wrong)], 4.0, bounds, constraint=constraint, center="none", margin=0.0
    )
    tau_other, height = best_of_all_maxima(target / 4, wrong, *bounds)
    assert float(found.tau_other[0]) == pytest.approx(tau_other, rel=1e-6)
    assert float(found.variance[0]) == pytest.approx(math.exp(height), rel=1e-10)


@functools.cache
def near_ties(seed: int, rows: int) -> list[tuple[Array, float]]:
    """Wrong logits in clusters, and a target at which the maximum is about to jump from one tau_other to another."""
    generator = np.random.default_rng(seed)
    taus, found = np.geomspace(0.5, 8.0, 120), []
    while len(found) < rows:
        levels = generator.integers(2, 6)
        gaps = np.exp(generator.uniform(-1.5, 3.5, levels - 1))
        counts = np.append(1, np.exp(generator.uniform(0, np.log(300), levels - 1)).astype(int))
        wrong = np.repeat(np.append(0.0, -np.cumsum(gaps)), counts) + generator.choice([0.0, -0.3, 0.1])
        levels, counts = np.unique(wrong, return_counts=True)
        log_sum = special.logsumexp(levels / taus[:, None], axis=1, b=counts)
        log_d = log_variance(-1e4, wrong, 0.0, taus)

        def best(target: float, log_sum: Array = log_sum, log_d: Array = log_d) -> int:
            return int((log_d - 2 * np.logaddexp(0, target - log_sum)).argmax())

        targets = np.linspace(-6.0, 10.0, 100)
        for low, high in itertools.pairwise(targets):
            if abs(best(low) - best(high)) > 15:
                while high - low > 1e-3:
                    middle = (low + high) / 2
                    low, high = (middle, high) if abs(best(low) - best(middle)) < 8 else (low, middle)
                found += [(wrong, 4 * low), (wrong, 4 * high)]
    return found


@functools.cache
def heights_of_near_ties(seed: int) -> list[float]:
    """The highest of all maxima of each row of `near_ties`."""
    return [best_of_all_maxima(target / 4, wrong, 0.5, 8.0)[1] for wrong, target in near_ties(seed, 100)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_no_maximum_is_missed_where_two_are_about_as_high(backend: str, seed: int) -> None:
    for (wrong, target), height in zip(near_ties(seed, 100), heights_of_near_ties(seed), strict=True):
        found = isats(np.append(wrong, target)[None], [len(wrong)], constraint="none", center="none")
        own = log_variance(target / 4, wrong, 0.0, found.tau_other.numpy())[0]
        assert own >= height - 1e-9


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_wider_bounds_never_lower_the_variance(backend: str, constraint: str) -> None:
    rows = [*near_ties(2, 30), *((np.repeat(v, n), target) for v, n, target in NEAR_TIES)]
    for wrong, target in rows:
        logits, label = np.append(wrong, target)[None], [len(wrong)]
        nested = [(2.0, 2.5), (1.0, 2.5), (1.0, 3.4), (0.5, 3.4), (0.5, 8.0), (0.05, 100.0)]
        variances = [
            float(isats(logits, label, bounds=bounds, constraint=constraint, center="none", margin=0.0).variance[0])
            for bounds in nested
        ]
        assert (np.diff(variances) >= -1e-11 * np.array(variances[1:])).all()


@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_both_searches_take_the_same_end_of_a_level_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(20_000, 5)) * np.exp(generator.normal(size=(20_000, 1)) * 2)
    labels = generator.integers(0, 5, 20_000)
    compiled = isats(logits, labels, bounds=(0.05, 100.0), constraint="none")
    monkeypatch.setattr(devices, "HAS_NUMBA", False)
    batched = isats(logits, labels, bounds=(0.05, 100.0), constraint="none")
    torch.testing.assert_close(compiled.tau_other, batched.tau_other, rtol=1e-8, atol=0)
    assert torch.equal(compiled.at_bound, batched.at_bound)


def test_search_does_not_depend_on_threads_or_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(700, 12)) * 4, generator.integers(0, 12, 700)
    whole = isats(logits, labels).tau_other
    monkeypatch.setattr(isats_search, "BLOCK_LOGITS", 77)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(isats(logits, labels).tau_other, whole)


LOW_HIGH = [(1e-305, 1e305), (5e-324, 1.7e308), (1e-101, 1.0), (1.0, 1e101)]


@pytest.mark.parametrize("bounds", LOW_HIGH)
def test_bounds_beyond_what_doubles_can_divide_by_are_refused(bounds) -> None:
    with pytest.raises(InputError, match="bounds"):
        isats([[1.0, 0.0, -1.0]], [0], bounds=bounds)


@pytest.mark.parametrize("tau", [5e-324, 1e-310, 1e101, 0.0, -1.0, math.inf, math.nan, "4"])
def test_temperatures_beyond_what_doubles_can_divide_by_are_refused(tau) -> None:
    for call in (soften, ats, isats):
        with pytest.raises(InputError, match="tau"):
            call([[1.0, 0.0, -1.0]], [0], tau)


@pytest.mark.parametrize("tau", [1e-100, 1e-45, 1e-30, 1e30, 1e100])
def test_extreme_temperatures_give_probabilities(tau) -> None:
    """Also where single precision is too narrow for logits over them."""
    logits = torch.tensor([[3e38, -3e38, 0.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    for probs in (soften(logits, None, tau), ats(logits, [0, 0, 1], tau, tau), isats(logits, [0, 0, 1], tau).probs):
        assert probs.dtype == torch.float32
        torch.testing.assert_close(probs.sum(1), torch.ones(3))
    first = 1.0 if tau <= 1.0 else 1 / 3
    assert float(soften(logits, None, tau)[1, 0]) == pytest.approx(first)


@pytest.mark.parametrize("bounds", [(1.0, 1.0 + 1e-13), (1e-100, 1e100), (1.0, 1.0 + 4e-16)])
def test_very_narrow_and_very_wide_bounds(bounds) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 5))
    found = isats(logits, np.arange(50) % 5, bounds=bounds)
    assert bool(((found.tau_other >= bounds[0]) & (found.tau_other <= bounds[1])).all())
    assert bool(torch.isfinite(found.probs).all())


def test_settings_of_another_type_are_refused_by_value():
    f, y = np.eye(3), np.arange(3)
    for bounds in ("12", ("1", "2"), (True, 2)):
        with pytest.raises(InputError, match="bounds must be two numbers"):
            isats(f, y, bounds=bounds)
    with pytest.raises(InputError, match="center must be one of"):
        isats(f, y, center=np.arange(3.0))
