"""Does a quantity rise and then fall as teachers grow, and where is its peak?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from capmismatch._utils.text import format_percent
from capmismatch.errors import InputError
from capmismatch.stats.best import may_be_best
from capmismatch.stats.courses import course_of, ordered_runs
from capmismatch.stats.run_means import mean_over_runs

__all__ = ["Peak", "peak", "peak_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Peak:
    """Where a quantity over teachers of growing size peaks, and how sure that is.

    Attributes
    ----------
    teacher : str
        The teacher with the highest mean.
    probability : dict from teacher to float
        How often each teacher has the highest mean when runs are redrawn; in order of size, sums to 1. The observed
        winner looks likelier here than it is.
    likely : tuple of str
        Teachers among which the true peak lies with a confidence of 95 %, by size: those that no other is shown to be
        higher than (`capmismatch.stats.best.may_be_best`).
    p_value : float
        Of a rise followed by a fall, against every course without one (flat, monotone, fall then rise).
    rise, fall : float
        Slopes up to and after the best turning point, in standard errors; both positive where there is a peak.
    paired : bool
        Whether what a run does to all teachers alike was taken out of the noise.
    single : bool
        Whether no teacher has two runs. The noise is then that of the examples (`se`), and everything here is about
        these very networks: trained again, they differ by more (finding CM028).
    """

    teacher: str
    probability: dict[str, float]
    likely: tuple[str, ...]
    p_value: float
    rise: float
    fall: float
    paired: bool = False
    single: bool = False

    @property
    def interior(self) -> bool:
        """Whether the highest teacher is neither the smallest nor the largest."""
        return self.teacher not in (next(iter(self.probability)), next(reversed(self.probability)))

    def __repr__(self) -> str:
        """A few lines of text."""
        shape = "rises, then falls" if self.p_value < 0.05 else "a rise followed by a fall is not established"
        chances = [f"{name} {format_percent(chance)}" for name, chance in self.probability.items() if chance >= 0.005]
        single = "\n  single runs: what another training would change is not known (CM028)" if self.single else ""
        return (
            f"Peak at {self.teacher}: {shape} (p = {self.p_value:.3g}; rise {self.rise:.1f}, fall {self.fall:.1f} "
            f"standard errors)\n  the peak is one of {', '.join(self.likely)} (95 % confidence)\n"
            f"  highest in redrawn runs: {', '.join(chances)}{single}"
        )


def peak(
    size: ArrayLike,
    values: Sequence[ArrayLike] | Floats,
    *,
    se: ArrayLike | None = None,
    teachers: Sequence[str] | None = None,
    paired: bool = False,
    n_boot: int = 10_000,
    seed: int = 0,
) -> Peak:
    r"""Test whether a quantity rises and then falls with teacher size, and say where it peaks.

    The statement is about these teachers: would they, trained again, still show a rise and then a fall? Where no
    teacher has two runs, nothing tells what another training would change, and the statement is about these very
    networks and other examples: `Peak.single`.

    Parameters
    ----------
    size : array of shape (T,)
        Size of each teacher (parameters or their logarithm; only the order counts).
    values : T arrays, or one of shape (T,) or (T, S)
        The quantity for each teacher, one number for each run (or student seed); NaN is left out.
    se : array of shape (T,), optional
        Standard errors of the teachers' means. Needed where no teacher has two runs; else the runs' own pooled
        variance counts. Those of the examples leave out what training adds: where that is twice as much, up to a third
        of flat or saturating courses come out with p < 0.05.
    teachers : T names, optional
        Default: "0", "1", ... in the order given.
    paired : bool
        Whether run s of every teacher shares something, such as the seed of its students, so that a good run is good
        for all teachers. What the runs have in common (the columns' means) is then no noise: it lifts a course as a
        whole and bends it nowhere. Needs the same number of runs, two or more, of every teacher.
    n_boot : int
        Draws for the p-value and for the probabilities. The latter redraw the means with the noise of the runs
        (pooled over teachers, for two or three runs of one teacher say little); near-equal teachers make the
        observed winner look likelier than it is.
    seed : int
        Equal seeds draw equally.

    Returns
    -------
    Peak
        Where it peaks, and how sure that is.

    Raises
    ------
    InputError
        With fewer than three teachers, equal sizes, a teacher without values, no measure of noise, or `paired` runs of
        which some teacher lacks one.

    Notes
    -----
    For an interior teacher k let ``rise_k`` be the slope over the teachers up to k, ``fall_k`` minus the slope over
    those from k on (weighted least squares on the rank of the size), both in standard errors. The statistic is
    :math:`T = \max_k \min(\mathrm{rise}_k, \mathrm{fall}_k)`: the weaker half at the best turning point. A course
    without an interior peak falls up to some teacher m and rises from there (monotone ones included), so no
    ``rise_k`` with k <= m and no ``fall_k`` with k > m has a positive mean, and T stays below the largest noise
    among those. The p-value is the largest over m of the chance that this noise, with the pooled variance drawn too,
    reaches T: at most 5 % of peakless courses come out below 0.05.

    Simulated with 7 and 12 teachers of three runs each (``benchmarks/bench_coverage.py``), it calls 0-5 % of flat,
    straight, saturating, stepwise and U-shaped courses a peak. A quadratic whose slopes at the ends differ in sign
    (Lind & Mehlum, 2010) calls up to 99 % of saturating courses one; two lines with a break (Simonsohn, 2018) are in
    `capmismatch.stats.two_lines`.

    The pooled variance has ``sum_t (runs_t - 1)`` degrees of freedom, ``(T - 1)(runs - 1)`` with `paired` runs: that
    of teachers by runs once both means are taken out.

    Examples
    --------
    >>> runs = [[0.60, 0.61], [0.65, 0.64], [0.70, 0.71], [0.66, 0.67], [0.62, 0.61]]
    >>> hill = peak([1, 2, 4, 8, 16], runs, teachers=["xs", "s", "m", "l", "xl"])
    >>> hill.teacher, hill.p_value < 0.05
    ('m', True)
    """
    names, runs, order = ordered_runs(size, values, teachers)
    means = np.array([run.mean() for run in runs])
    variances, free = _noise(runs, None if se is None else np.asarray(se, dtype=float)[order], paired)

    rises, falls = _slopes(variances), _slopes(variances[::-1])[::-1, ::-1]
    rng = np.random.default_rng(seed)
    # A pooled variance is itself uncertain: Student's t rather than the normal.
    scale = np.sqrt(free / rng.chisquare(free, n_boot)) if np.isfinite(free) else np.ones(n_boot)
    noise = rng.standard_normal((n_boot, len(means))) * np.sqrt(variances) * scale[:, None]
    weaker = np.minimum(rises @ means, falls @ means)
    turn = int(np.argmax(weaker))
    reached = _largest_noise(noise @ rises.T, noise @ falls.T) >= weaker[turn]
    p_value = (1 + reached.sum(axis=0).max()) / (1 + n_boot)
    top = np.bincount(np.argmax(means + noise, axis=1), minlength=len(means)) / n_boot
    probability = {name: float(chance) for name, chance in zip(names, top, strict=True)}
    teacher = names[int(np.argmax(means))]
    may_be = may_be_best(means, variances, free)
    likely = tuple(name for name, possible in zip(names, may_be, strict=True) if possible)
    slopes = float(rises[turn] @ means), float(falls[turn] @ means)
    return Peak(teacher, probability, likely, float(p_value), *slopes, paired, single=bool(np.isinf(free)))


def peak_of(
    frame: pd.DataFrame, *, value: str = "value", paired: bool = False, n_boot: int = 10_000, seed: int = 0
) -> Peak:
    """`peak` of one quantity over the teachers of one family, from rows of a probes or results table.

    Parameters
    ----------
    frame : DataFrame
        ``teacher, params`` and `value`, filtered to one quantity: one family, split, probe and temperature, or one
        family, split, student and label. Rows with equal ``teacher_seed`` are one run where a teacher has several,
        else each row is a run.
    value : str
        Column to look at: ``"value"`` of probes, ``"accuracy"`` of results. Standard errors come from the column
        ``se`` or, for accuracies, from ``n`` (binomial); they count only where no teacher has two runs.
    paired : bool
        See `peak`. Runs are paired by ``teacher_seed`` and ``seed``; they are not where some teacher lacks a run that
        another one has.
    n_boot, seed : int
        See `peak`.

    Returns
    -------
    Peak
        Where it peaks, and how sure that is.

    Raises
    ------
    InputError
        If columns are missing or the rows mix quantities, and as `peak`.

    Examples
    --------
    >>> frame = pd.DataFrame({"family": "f", "teacher": list("abcde"), "params": [1, 2, 4, 8, 16],
    ...     "value": [0.1, 0.2, 0.3, 0.2, 0.1], "se": 0.01})
    >>> peak_of(frame).teacher
    'c'
    """
    course = course_of(frame, value, paired)
    return peak(
        course.params,
        course.values,
        se=course.errors,
        teachers=course.names,
        paired=course.paired,
        n_boot=n_boot,
        seed=seed,
    )


def _slopes(variances: Floats) -> Floats:
    """Contrasts (T-2, T) that give the slope over the first two, three, ... T-1 teachers in standard errors."""
    n = len(variances)
    rows = np.zeros((n - 2, n))
    for row, last in zip(rows, range(1, n - 1), strict=True):
        weight = 1 / variances[: last + 1]
        rank = np.arange(last + 1)
        row[: last + 1] = weight * (rank - np.average(rank, weights=weight))
    return rows / np.sqrt((rows**2 * variances).sum(axis=1, keepdims=True))


def _largest_noise(rises: Floats, falls: Floats) -> Floats:
    """Largest of the first m rises and of the falls after them, for m = 0 ... T-2: (B, T-2) twice to (B, T-1)."""
    nothing = np.full((len(rises), 1), -np.inf)
    before = np.maximum.accumulate(np.hstack([nothing, rises]), axis=1)
    after = np.maximum.accumulate(np.hstack([nothing, falls[:, ::-1]]), axis=1)[:, ::-1]
    return np.maximum(before, after)


def _noise(runs: list[Floats], se: Floats | None, paired: bool) -> tuple[Floats, float]:
    """Variance of each teacher's mean, and the degrees of freedom behind it; infinite where `se` gives it."""
    counts = [len(run) for run in runs]
    values = np.full((len(runs), max(counts)), np.nan)
    for row, run in zip(values, runs, strict=True):
        row[: len(run)] = run
    if paired:
        if min(counts) < max(counts) or min(counts) < 2:
            raise InputError(f"paired runs need two or more of every teacher, as many of each, got {counts}")
        values = values - values.mean(axis=0)
    pooled = mean_over_runs(values, pool=True, paired=paired)
    if pooled.free[0] and pooled.variances[0] > 0:
        return pooled.of_means, float(pooled.free[0])
    if se is None:
        raise InputError("no teacher has two runs that differ; give standard errors `se` of the means")
    if not (np.isfinite(se) & (se > 0)).all():
        raise InputError(f"expected positive standard errors, got {se.tolist()}")
    return se**2, np.inf
