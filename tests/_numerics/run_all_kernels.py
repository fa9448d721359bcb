"""Every compiled kernel on hostile input; `test_kernel_bounds` runs this with numba's bounds checking.

Whatever goes in, a call ends in numbers or in an `InputError`, and no kernel looks anything up outside its arrays.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import njit
from numba.core.dispatcher import Dispatcher

from capmismatch import probes, ranks, temperature
from capmismatch._numerics import (
    adaptive_loops,
    condense_loops,
    devices,
    isats_loops,
    rank_flat,
    rank_loops,
    series_loops,
    softmax_loops,
)
from capmismatch._numerics.class_means import AroundClass, mean_by_class
from capmismatch._numerics.condensing import condense
from capmismatch._numerics.isats_problem import Search
from capmismatch._numerics.isats_search import maximise
from capmismatch._numerics.rate_series import series
from capmismatch._numerics.softmax import Softened, class_probabilities, with_class_sums
from capmismatch.errors import InputError

ODD = [
    0.0,
    -0.0,
    1.0,
    np.nan,
    np.inf,
    -np.inf,
    5e-324,
    1e-310,
    1e-38,
    88.0,
    -745.0,
    1e4,
    65504.0,
    3.4e38,
    -1e155,
    1e308,
]
TAUS = [5e-324, 1e-310, 1e-100, 1e-30, 1e-3, 1.0, 4.0, 1e3, 1e100, 1e300, np.inf, np.nan, 0.0, -1.0]
CLASSES = st.sampled_from([1, 2, 3, 5, 70])


@st.composite
def arrays(draw: Any) -> tuple[Any, Any]:
    """Logits (N, C) and labels (N,), mostly odd, with labels that may lie outside."""
    rows, classes = draw(st.integers(0, 4)), draw(CLASSES)
    values = st.one_of(st.floats(-20, 20), st.sampled_from(ODD), st.just(draw(st.sampled_from(ODD))))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16]))
    with np.errstate(over="ignore"):
        logits = draw(hnp.arrays(np.float64, (rows, classes), elements=values)).astype(dtype)
    span = draw(st.sampled_from([(0, classes - 1), (0, classes - 1), (-classes, classes)]))
    return logits, draw(hnp.arrays(np.int64, rows, elements=st.integers(*span)))


def attempt(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with contextlib.suppress(InputError):
        call(*arguments, **options)


taus = st.sampled_from(TAUS)
several = settings(max_examples=60, deadline=None, database=None)


@seed(0)
@several
@given(arrays(), taus, taus, taus, st.sampled_from(["order", "anchor", "none"]), st.sampled_from(["mean", "none"]))
def soft_labels(data: Any, tau: float, low: float, high: float, constraint: str, center: str) -> None:
    logits, labels = data
    attempt(temperature.isats, logits, labels, tau, (low, high), constraint=constraint, center=center)
    attempt(temperature.isats, logits, labels, 4.0, (1.0, 1.0 + 1e-13), constraint=constraint, center=center)
    attempt(temperature.isats, logits, labels, constraint=constraint, center=center)
    attempt(temperature.ats, logits, labels, tau, low, center=center)
    for name in ("derived_std", "entropy", "logit_std", "confidence_gap", "ece", "classwise_ace"):
        attempt(getattr(probes, name), logits, labels, **({"tau": tau} if name in ("derived_std", "entropy") else {}))
    attempt(ranks.affinity_matrix, logits, labels, tau)


@seed(0)
@several
@given(arrays(), taus, taus)
def means_of_classes(data: Any, tau: float, other: float) -> None:
    def compare() -> None:
        softened = [Softened(*data, tau=t) for t in (tau, other, tau / 2)]
        group = softened[0].labels
        classes = data[0].shape[1]
        means = mean_by_class([(softened, group)], torch.zeros((3, classes, classes), dtype=torch.float64))
        for around in AroundClass.of_each(softened, means, group):
            _ = around.divergence, around.squared_distance
        raw = softened[0].raw
        with_class_sums(raw, [tau, other], [(tau, False), (other, True)], group, torch.zeros_like(means))
        series(raw, 1 / tau)
        class_probabilities(softened[0].logits.T.contiguous(), softened[0].logsumexp)

    attempt(compare)


@seed(0)
@several
@given(arrays(), st.integers(0, 3), st.sampled_from([0, 300, 1100]))
def class_ranks(data: Any, k: int, classes: int) -> None:
    logits, labels = data
    if classes:  # so many that words are sorted by bytes; more than 1023, whose counts lie in a tree
        logits = np.tile(logits, (1, classes // logits.shape[1] + 1))
    teachers = [logits, -logits, np.roll(logits, 1, axis=1)]
    names = ["wrong_tau_b", "tau_b", "wrong_spearman", "spearman", f"top{k}_overlap"]
    pairs = [*combinations(range(3), 2), (1, 1)]
    for name in names:
        attempt(ranks.rank_metrics, teachers, labels, [name], pairs)
    attempt(ranks.kendall_tau_b, logits, np.round(logits / 10))


@seed(0)
@several
@given(
    hnp.arrays(np.float64, st.integers(0, 90), elements=st.one_of(st.floats(0, 1), st.sampled_from([*ODD, 1 / 3]))),
    st.sampled_from([-1, 0, 1, 2, 15, 40_000, 2**70]),
)
def calibration_errors(p: Any, bins: int) -> None:
    hit = torch.from_numpy(np.arange(len(p)) % 3 == 0)
    attempt(probes.calibration.adaptive_error, torch.from_numpy(p)[:, None], hit[:, None], bins)
    attempt(probes.calibration.calibration_bins, torch.from_numpy(p), hit.double(), bins)
    share = np.zeros(len(p))  # the kernel itself, without the checks before it
    probes.calibration.adaptive_error_of_logits(
        torch.from_numpy(p)[None],
        torch.zeros(len(p), dtype=torch.float64),
        torch.arange(len(p)),
        torch.tensor([0, len(p) // 2]),
    )
    adaptive_loops.adaptive_class(p, hit.numpy().nonzero()[0], max(1, min(15, len(p))), share, 1 << 14)


@seed(0)
@settings(max_examples=200, deadline=None, database=None)
@given(
    arrays(), st.sampled_from([-1, 0, 2, 3, 64, 80, 2**70]), st.sampled_from(["octaves", "half", [1.0], [1e-5, 3.0]])
)
def rows_of_a_vocabulary(pair: Any, k: int, betas: Any) -> None:
    attempt(condense, *pair, k, betas=betas)


def kernels_alone() -> None:
    """Kernels on what the checks before them keep away."""
    for classes in (1, 2, 3):
        logits, below = np.full((2, classes), np.nan), np.empty((2, classes - 1))
        floats = [np.empty(2) for _ in range(6)]
        target, top, second, mean, std, correct = floats
        labels = np.array([0, classes - 1])
        softmax_loops.take_apart(logits, labels, below, target, top, second, np.empty(2, np.int64), mean, std, correct)
        softmax_loops.row_sums(below, np.ones((1, 2)), *(np.empty((1, 2)) for _ in range(3)), 0, 2)
    ends = [(5e-324, 1.7e308), (1.0, np.nan), (0.0, np.inf), (2.0, 1.0), (1.0, 1.0 + 4e-16), (1e-305, 1e305)]
    lower, upper = (torch.tensor(side, dtype=torch.float64) for side in zip(*ends, strict=True))
    below = torch.tensor([[0.0, -1.0, -3.0]], dtype=torch.float64).expand(len(ends), 3)
    one = torch.ones(len(ends), dtype=torch.float64)
    maximise(Search(one, one, below, 4.0), lower, upper)


def bounds_are_checked() -> None:
    """That a look outside an array ends in an error here: else all of this would show nothing."""
    look = njit(lambda values, place: values[place])
    try:
        look(np.zeros(3), 3)
    except IndexError:
        return
    sys.exit("numba checks no bounds")


def never_called() -> list[str]:
    """Kernels that nothing above has compiled."""
    modules = (softmax_loops, series_loops, adaptive_loops, isats_loops, rank_loops, rank_flat, condense_loops)
    kernels = {f"{m.__name__}.{name}": f for m in modules for name, f in vars(m).items() if isinstance(f, Dispatcher)}
    return [name for name, kernel in kernels.items() if not kernel.overloads]


if __name__ == "__main__":
    torch.set_num_threads(1)
    devices.SMALL = 0  # the compiled loops are the subject, whatever the size
    bounds_are_checked()
    for case in (soft_labels, means_of_classes, class_ranks, calibration_errors, rows_of_a_vocabulary, kernels_alone):
        case()
    if missed := never_called():
        sys.exit(f"not run: {missed}")
