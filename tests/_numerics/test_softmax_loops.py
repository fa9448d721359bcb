"""The compiled loops against the same in NumPy, SciPy and tensor operations."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capmismatch import probes
from capmismatch._numerics import devices
from capmismatch._numerics.cached import cached_property
from capmismatch._numerics.class_means import AroundClass
from capmismatch._numerics.softmax import (
    Asymmetric,
    Softened,
    WrongAlone,
    add_to_classes,
    in_octaves,
    take_apart,
    with_class_sums,
)
from capmismatch._numerics.threads import blocks, map_in_threads, run_in_threads
from capmismatch.probes import adaptive_error, calibration

kernels = pytest.importorskip("capmismatch._numerics.softmax_loops")

Array = np.ndarray
STATISTICS = (
    "target_prob",
    "wrong_mass",
    "inherent_variance",
    "wrong_entropy",
    "entropy",
    "confidence",
    "logsumexp",
    "log_odds",
)


def example(rows: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, rows)
    logits = 3 * rng.standard_normal((rows, classes))
    logits[np.arange(rows), labels] += 12 * rng.random(rows)
    logits[: rows // 4] = logits[: rows // 4].round()  # ties
    return torch.from_numpy(logits).to(dtype), torch.from_numpy(labels)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What follows runs without compiled loops."""
    monkeypatch.setattr(devices, "HAS_NUMBA", False)
    return monkeypatch


def exponentials(b: Array, rate: float = 1.0) -> tuple[Array, Array]:
    e, bits, x = kernels.scratch(len(b))
    kernels.exponentials(b, rate, e, bits, x)
    return e, x


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-600, 0)), st.sampled_from([0.125, 0.3, 1.0]))
def test_exponentials_and_those_less_one(b: Array, rate: float) -> None:
    e, x = exponentials(b, rate)
    np.testing.assert_allclose(e, np.exp(rate * b), rtol=1e-15 * (4 + np.abs(rate * b).max()))
    np.testing.assert_allclose(x, np.expm1(rate * b), rtol=2e-15, atol=1e-300)


def test_exponentials_far_below_are_no_more_than_nothing() -> None:
    e, x = exponentials(np.array([-1e308, -1e5, -700.0, 0.0]))
    assert (e >= 0).all() and (e[:3] < 1e-280).all() and e[3] == 1
    assert x.tolist() == [-1, -1, -1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 10, 37, 1000])
def test_rows_taken_apart(plain: pytest.MonkeyPatch, classes: int, dtype: torch.dtype) -> None:
    logits, labels = example(60, classes, dtype)
    slow = take_apart(logits, labels)
    plain.undo()
    quick = take_apart(logits, labels)
    assert quick.compiled and quick.below.dtype == torch.float64
    for name in vars(slow):
        torch.testing.assert_close(getattr(quick, name), getattr(slow, name), rtol=1e-12, atol=1e-13, msg=name)
    for name in ("target_logit", "max_wrong_logit", "second_wrong_logit", "top_wrong_class", "correct", "below"):
        assert torch.equal(getattr(quick, name), getattr(slow, name)), name


@pytest.mark.parametrize("classes", [2, 3, 10, 37, 1000])
def test_sums_at_many_temperatures(plain: pytest.MonkeyPatch, classes: int) -> None:
    """Also where squares replace exponentials, and where each row has a temperature of its own."""
    logits, labels = example(60, classes)
    taus = in_octaves([0.25, 0.5, 1, 2, 3, 4, 6, 8, 64])
    own = torch.linspace(0.5, 8, 60, dtype=torch.float64)
    raw = take_apart(logits, labels)
    slow = [Softened.of(raw, tau) for tau in [*taus, own]]
    slow += [Asymmetric.of_two(raw, 4.0, own, raw.mean_logit), WrongAlone.of(raw, 2.0)]
    for softened in slow:
        softened.sums, softened.probs  # noqa: B018  computed here, without compiled loops
    plain.undo()
    quick = [*Softened.at_each(raw, taus), Softened.of(raw, own)]
    quick += [Asymmetric.of_two(raw, 4.0, own, raw.mean_logit), WrongAlone.of(raw, 2.0)]
    for a, b in zip(quick, slow, strict=True):
        for name in STATISTICS:
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-11, atol=1e-14, msg=name)
        torch.testing.assert_close(a.probs, b.probs, rtol=1e-12, atol=0)


def test_class_means_and_distances_from_them(plain: pytest.MonkeyPatch) -> None:
    logits, labels = example(60, 10)
    raw, taus = take_apart(logits, labels), [4.0, 2.0, 1.0, 3.0]
    found = []
    for compiled in (False, True):
        if compiled:
            plain.undo()
        softened = Softened.at_each(raw, taus)
        means = torch.zeros((4, 10, 10), dtype=torch.float64)
        add_to_classes(softened, labels, means)
        means /= labels.bincount(minlength=10)[:, None]
        around = AroundClass.of_each(softened, means, labels)
        found.append([means, *(values for part in around for values in (part.divergence, part.squared_distance))])
    for slow, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 3, 10, 300])
def test_sums_of_rows_and_classes_in_one_sweep(classes: int) -> None:
    logits, labels = example(60, classes)
    raw, taus = take_apart(logits, labels), [8.0, 4.0, 1.0, 3.0]
    of_classes = [(8.0, False), (3.0, True), (1.0, False), (3.0, False)]
    sums, expected = torch.zeros((2, 4, classes, classes), dtype=torch.float64)
    together = with_class_sums(raw, taus, of_classes, labels, sums)
    apart = Softened.at_each(raw, taus)
    for one, other in zip(together, apart, strict=True):
        for a, b in zip(one.sums, other.sums, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
    for place, (tau, alone) in enumerate(of_classes):
        softened = apart[taus.index(tau)]
        expected[place].index_add_(0, labels, (softened.wrong_alone() if alone else softened).probs)
    torch.testing.assert_close(sums, expected, rtol=1e-13, atol=1e-300)


PROBABILITIES = st.one_of(
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([1e-300, 1e-30, 0.1, 0.1 + 1e-17, 0.5, 1.0]),
    st.integers(1, 5).map(lambda k: k / 5),
)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 120), elements=PROBABILITIES), st.integers(1, 20), st.randoms())
def test_ranges_of_equal_count_are_those_of_a_stable_sort(p: Array, bins: int, random) -> None:
    ranges = min(bins, len(p))
    hit = np.array([random.random() < 0.3 for _ in p])
    found, expected = torch.zeros((2, len(p)), dtype=torch.float64)
    columns = torch.from_numpy(p)[:, None], torch.from_numpy(hit)[:, None]
    calibration._by_loops(*columns, ranges, found)
    calibration._by_tensors(*columns, ranges, expected)
    edges = [r * len(p) // ranges for r in range(ranges + 1)]
    order = np.argsort(p, kind="stable")
    gaps = [np.sum((p - hit)[order[a:b]]) for a, b in pairwise(edges)]
    if min(np.abs(gaps)) > 1e-12:  # else the sign of a sum is that of its rounding
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert float(found.sum()) == pytest.approx(np.abs(gaps) @ (1 / np.diff(edges)) * len(p) / ranges, abs=1e-9)


@pytest.mark.parametrize("kind", ["spread", "constant", "two values"])
def test_adaptive_error_of_many_examples(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rng = np.random.default_rng(0)
    p = {
        "spread": np.exp(-rng.gamma(2.0, 4.0, (5000, 3))),
        "constant": np.full((5000, 3), 0.3),
        "two values": rng.choice([0.1, 0.7], (5000, 3)),
    }[kind]
    hits = torch.from_numpy(rng.random((5000, 3)) < p * 0.8)
    quick = adaptive_error(torch.from_numpy(p), hits)
    monkeypatch.setattr(devices, "HAS_NUMBA", False)
    torch.testing.assert_close(quick, adaptive_error(torch.from_numpy(p), hits), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_adaptive_error_of_logits_is_that_of_their_probabilities(rate: float) -> None:
    rng = np.random.default_rng(1)
    labels = torch.from_numpy(rng.integers(0, 6, 4000))
    logits = torch.from_numpy(3 * rng.standard_normal((4000, 6)) + 4 * np.eye(6)[labels]).float()
    logits[:1000] = logits[:1000].round()  # ties
    lse, by_class = (rate * logits.double()).logsumexp(1), labels.argsort(stable=True)
    begins = torch.searchsorted(labels[by_class], torch.arange(2, 6))
    found = calibration.adaptive_error_of_logits(logits.T[2:5], lse, by_class, begins, rate)
    probs, is_class = (rate * logits.double() - lse[:, None]).exp(), labels[:, None] == torch.arange(6)
    torch.testing.assert_close(found, adaptive_error(probs[:, 2:5], is_class[:, 2:5]), rtol=1e-11, atol=1e-12)


def test_octaves() -> None:
    assert in_octaves([8, 1, 6, 2, 3, 1.0, 5, 4]) == [8, 4, 2, 1, 5, 6, 3]


def test_a_thread_starts_no_more_threads() -> None:
    seen: list[tuple[str, str]] = []

    def outer(part: slice) -> None:
        me = threading.current_thread().name
        run_in_threads(lambda _: seen.append((me, threading.current_thread().name)), blocks(4, 1), 2)

    run_in_threads(outer, blocks(3, 1), 2)
    assert len(seen) == 12 and all(a == b for a, b in seen)


@pytest.mark.parametrize("faulty", ["MainThread", "capmismatch"])
def test_an_error_in_a_thread_is_raised_and_ends_the_work(faulty: str) -> None:
    both, begun = threading.Barrier(2), []

    def work(part: slice) -> None:
        begun.append(part)
        if len(begun) <= 2:
            both.wait(60)  # each thread has a part
        if threading.current_thread().name.startswith(faulty):
            raise KeyError("spoilt")
        time.sleep(0.01)

    with pytest.raises(KeyError, match="spoilt"):
        run_in_threads(work, blocks(1000, 1), 2)
    assert len(begun) < 100
    done: list[slice] = []
    run_in_threads(done.append, blocks(3, 1), 2)
    assert len(done) == 3


def test_nobody_waits_for_the_work_of_others() -> None:
    """Helpers of one call may stand in the queue behind those of others."""
    go, slow = threading.Event(), []
    for _ in range(70):  # more than there are threads
        slow.append(threading.Thread(target=run_in_threads, args=(lambda _: go.wait(60), blocks(2, 1), 2)))
        slow[-1].start()
    done: list[slice] = []
    run_in_threads(done.append, blocks(4, 1), 2)
    assert len(done) == 4 and all(thread.is_alive() for thread in slow)
    go.set()
    for thread in slow:
        thread.join()


def test_parts_are_made_few_ahead_and_in_order() -> None:
    made: list[int] = []

    def work(part: int) -> int:
        made.append(part)
        return -part

    found = map_in_threads(work, range(100), 2)
    assert [next(found) for _ in range(3)] == [0, -1, -2]
    time.sleep(0.05)
    assert 3 <= len(made) <= 3 + 2 * 2
    found.close()
    assert list(map_in_threads(work, range(50), 3)) == [-part for part in range(50)]


def test_work_goes_on_when_the_interpreter_starts_no_more_threads() -> None:
    code = """
import atexit, threading
from capmismatch._numerics.threads import map_in_threads, run_in_threads
def late():
    run_in_threads(lambda part: done.append(part), range(4), 2)
    print(len(done), list(map_in_threads(abs, [-1, 2], 2)))
done = []
run_in_threads(done.append, range(4), 2)
atexit.register(late)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "8 [1, 2]\n" and not printed.stderr


def test_threads_compute_kept_values_side_by_side() -> None:
    both = threading.Barrier(2)

    class Slow:
        @cached_property
        def value(self) -> int:
            both.wait(60)  # never, if one waited for the other
            return 3

    found: list[int] = []
    run_in_threads(lambda _: found.append(Slow().value), blocks(2, 1), 2)
    assert found == [3, 3]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    def work(_: slice) -> None:
        time.sleep(0.01)

    run_in_threads(work, blocks(4, 1), 2)
    child = multiprocessing.get_context("fork").Process(
        target=run_in_threads, args=(work, blocks(4, 1), 2), daemon=True
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_exponentials_keep_their_digits_down_to_the_least_normal_number() -> None:
    b = np.linspace(-708, -650, 1001)
    np.testing.assert_allclose(exponentials(b)[0], np.exp(b), rtol=1e-12)
    assert (exponentials(np.linspace(-1e4, -710, 1001))[0] < 1e-308).all()


@pytest.mark.parametrize("gap", [1.0, 28.0, 69.0, 300.0, 640.0])
@pytest.mark.parametrize("winner", ["target", "wrong", "either"])
def test_confident_rows_against_tensor_operations(monkeypatch: pytest.MonkeyPatch, gap: float, winner: str) -> None:
    """Relative to each number, however small: what is left of certainty is all that these tell."""
    logits, labels = example(80, 7)
    labels %= 4
    other = torch.full_like(labels, 5)
    chosen = {"target": labels, "wrong": other, "either": torch.where(torch.arange(80) % 3 > 0, labels, other)}[winner]
    logits = 0.2 * logits + gap * torch.nn.functional.one_hot(chosen, 7)
    found = {}
    for loops in (True, False):
        monkeypatch.setattr(devices, "HAS_NUMBA", loops)
        names = ("entropy", "wrong_entropy", "cmi", "within_class_spread")
        found[loops] = {(name, tau): getattr(probes, name)(logits, labels, tau) for name in names for tau in (1.0, 3.0)}
    for name, quick in found[True].items():
        torch.testing.assert_close(quick, found[False][name], rtol=1e-11, atol=1e-300, msg=str(name))


def test_threads_change_no_count_and_only_last_digits() -> None:
    """Enough rows for torch to split operations between its threads, at places that are in the middle of vectors."""
    before, found = torch.get_num_threads(), []
    logits, labels = example(70_001, 3)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            softened = Softened(logits, labels)
            found.append([softened.raw.correct, *(getattr(softened, name) for name in STATISTICS)])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    for one, three, name in zip(*found, ("correct", *STATISTICS), strict=True):
        torch.testing.assert_close(three, one, rtol=1e-14, atol=0, msg=name)
