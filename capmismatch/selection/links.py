"""Which probes of the teachers go together with how well their students do."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.errors import (
    MOST_RESAMPLES,
    InputError,
    must_be_a_table,
    must_be_one_of,
    must_be_temperature,
    must_be_within,
    must_count,
    require_columns,
)
from capmismatch.findings import join_codes
from capmismatch.selection.rules import DEFAULT_TAU, PRIMARY_PROBE
from capmismatch.stats import correlations as st
from capmismatch.stats.differences import WANTED_RELIABILITY, teacher_differences
from capmismatch.stats.estimates import excludes_zero
from capmismatch.stats.matching import (
    UNIT,
    PackedColumns,
    compared,
    level_seeds,
    nearest_tau,
    of_student,
    pack_columns,
    require_results,
    resolve_split,
    rows_of_split,
    runs_as_units,
    shared_teachers,
    students_of,
    warn_unmatched,
    with_families,
    with_teacher,
)
from capmismatch.stats.usable import of_texts, told, usable_tables

__all__ = ["correlate"]

LINK_COLUMNS = (
    *("probe", "tau", "student", "label", "method", "metric", "value", "low", "high", "p", "p_adjusted", "p_max"),
    *("p_overall", "primary", "n", "n_effective"),
    *("partial_accuracy", "partial_params", "partial_accuracy_params", "partial_target_prob", "collinear"),
    *("expected_sign", "ceiling", "findings"),
)
"""Columns of the links table."""

CLASS_MEANS = ("cmi", "within_class_spread")
"""Probes that compare examples with the mean of their class, which a single example is itself."""

CONFIDENCE_BOUND = ("derived_average", "derived_variance", "derived_std")
"""Probes that contain the factor (1 - p_y), and so may restate confidence (finding CM005)."""

CONTROLS = ("accuracy", "params", "target_prob")
"""What links are controlled for."""

COLLINEAR = 0.9
"""Share of a probe's variance over teachers that a control explains, from which on the two are not told apart.

Its variance inflation factor is then 10, the usual bound (Marquardt, Technometrics 1970)."""

_PARTIALS = ("partial_accuracy", "partial_params", "partial_accuracy_params", "partial_target_prob")
_REPLICATES = 250  # bootstrap replicates held in memory at a time


def correlate(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    *,
    split: str = "test",
    probe_split: str = "val",
    within_family: bool | None = None,
    expected_signs: Mapping[str, float] | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    unit: str = "teacher",
    primary: str | None = None,
    primary_tau: float = DEFAULT_TAU,
    mute: Iterable[str] = (),
) -> pd.DataFrame:
    """Link every probe of the teachers to the accuracy of every kind of student.

    The sampling unit is the teacher: its probe is the mean over its training runs, its students' accuracy the mean
    over runs of the mean over student seeds. What a seed does to all students alike is taken out first where some
    teacher lacks some of the seeds. With several families only teachers of the same family are compared, unless most of
    them would have nobody to be compared with. Teachers that have results but no probes, and those that the probes
    table calls unusable (see `capmismatch.check`), are left out, with a warning.

    Parameters
    ----------
    probes : DataFrame
        The probes table: ``family, teacher, params, split, seed, tau, probe, value``; with a column ``student`` its
        rows of pairs count for that student alone, by the name that the results have for it.
    results : DataFrame
        The results table: ``family, teacher, teacher_seed, student, label, method, seed, split, accuracy``. Rows
        without a teacher (plain cross-entropy) are left out.
    split : str
        Split of the students' accuracy. Results that have only the other one of "val" and "test", as other trainers
        leave them, are taken as they are, with finding CM013.
    probe_split : str
        Split on which the probes were measured.
    within_family : bool, optional
        Compare teachers within families only: values and ranks are centred within the family, tau-b counts pairs
        within families, permutations and the bootstrap stay within families, and a family with a single teacher
        drops out. Default: where at least half of the teachers of a link are in families of three or more of them;
        else all are compared with all, with finding CM012 where they are of several families.
    expected_signs : mapping from probe name to +1, -1 or NaN, optional
        The direction in which each probe is expected to help. Default: what the registry of probes says; of language
        models only of accuracy and calibration, as what is expected of the others comes from images.
    n_boot : int
        Bootstrap replicates, 1 or more.
    seed : int
        Of the bootstrap and of Monte Carlo permutations; equal seeds give equal tables.
    unit : {"teacher", "run"}
        ``"run"`` takes every training run as a unit of its own. Runs of one teacher are alike, so its intervals and
        p-values are too sure; use it to describe, not to infer.
    primary : str, optional
        The one probe that the study is about, named before its students are looked at: it pays for no other probe
        (`p_overall`). Default: "derived_std", which `capmismatch.pick` starts from, where it was measured.
    primary_tau : float
        Its temperature; the nearest one in the table is taken.
    mute : iterable of str
        Codes of findings to leave out.

    Returns
    -------
    DataFrame
        The links table, the strongest Spearman correlations first; one row per probe, temperature, student, setting and
        metric:

        - ``probe, tau`` : the probe and its temperature
        - ``student, label, method`` : the student and its setting
        - ``metric`` : "spearman", "pearson" or "kendall" (tau-b)
        - ``value, low, high`` : the correlation and its 95 % interval
        - ``p`` : of no link, this one alone
        - ``p_adjusted, p_max`` : corrected for all probes and temperatures of these students: by the share of false
          ones among those called links, and by the chance of calling any
        - ``p_overall`` : `p_max` corrected for all students and settings as well; of the primary probe for these only
        - ``primary`` : whether this is the primary probe
        - ``n`` : number of teachers
        - ``n_effective`` : how many of a single family would scatter as much
        - ``partial_accuracy, partial_params, partial_accuracy_params, partial_target_prob`` : the same coefficient with
          the teacher's accuracy, log parameters, both of them, or target probability at the same temperature held
          fixed; NaN where it is undefined or unknown, or where so few teachers could only give -1 or 1
        - ``collinear`` : which of "accuracy", "params" and "target_prob" the probe cannot be told apart from with these
          teachers, separated by commas
        - ``expected_sign`` : +1 or -1, or NaN
        - ``ceiling`` : the highest correlation to expect of any probe, the square root of the reliability of the
          teachers' means (`capmismatch.teacher_differences`); NaN with single seeds
        - ``findings`` : codes, separated by commas

    Raises
    ------
    InputError
        If a column is missing, a split has no rows, rows are repeated, no teacher has both probes and results,
        `primary` was not measured, or `n_boot` is below 1.

    See Also
    --------
    capmismatch.pick : Chooses a teacher from the same tables.
    capmismatch.plots.probe_vs_student : Draws one link.
    capmismatch.plots.probe_vs_student_grid : Draws several links.

    Notes
    -----
    **Intervals** (95 %) are taken on Fisher's z scale, ``tanh(atanh(r) +- 1.96 s)``, where ``s^2`` weighs the variance
    from a hierarchical bootstrap (teachers, then runs, then student seeds) with that of normal theory
    (`capmismatch.stats.correlations.fisher_interval`). They are about the correlation of the means as measured, which
    seed noise draws toward zero. Simulated (``benchmarks/bench_coverage.py``) with 1000 families of each of 168 kinds
    (one or two runs, one to four student seeds, no to a strong link, normal or heavy-tailed probes) they cover the
    truth in

    * 93.1-97.8 % for Pearson, whatever the number of teachers;
    * 92.8-99.1 % for Spearman and Kendall with 8 or 12 teachers of one family, or 4 and 8 or 6 and 6 of two, and
      93.0-99.0 % with 6, 96.4 % on average; those above 97 % are mostly of single seeds;
    * 94.3-99.7 % for both with 5: their ranks have only 120 orders, and no interval covers in just 95 %;
    * 88.6-98.5 % for both in two families of 4, lowest for strong links measured well: ranks are coarse there, and
      Spearman's is drawn toward zero.

    Percentile intervals cover in 86.6-99.8 % of the same families, BCa in 79.0-98.2 %.

    **p-values** permute the students' accuracies over teachers: all permutations up to 9!, 10,000 random ones above
    (with one added to both counts). `p_adjusted` is Benjamini-Hochberg's over all probes and temperatures of the same
    student, label and metric, the false discovery rate. `p_max` is Westfall and Young's max-T (1993) with the same
    permutations, the family-wise error: as most probes say the same of teachers in a row, it finds more where a single
    link is strong, and less where many are (times the number of sets of teachers, where probes lack some). `p_overall`
    is `p_max` times the number of students and settings (Bonferroni), and for the primary probe Holm's (1979) over
    students and settings alone. Simulated in ``benchmarks/bench_inference.py``.

    **Findings**: CM003 so few teachers that no order of their ranks has p < 0.05 (fewer than five of one family), or
    that not even a perfect link of a single probe has `p_adjusted` < 0.05; CM004 the interval covers zero; CM005 a
    probe that contains (1 - p_y) whose interval excludes zero, but no longer with p_y at the same temperature held
    fixed, where p_y has a link of its own (normal-theory intervals of the partial correlation and of p_y's); CM006 a
    sign against expectation; CM012 teachers of several families compared with one another; CM013 accuracies of
    another split than `split`; CM014 an undefined coefficient, because the probe or the accuracy is the same for all
    teachers; CM015 teachers' means with a reliability below 0.8; CM026 examples left out that are the only ones of
    their class; CM027 a probe of which the accuracy, the log parameters or p_y explain 90 % over these teachers (by
    ranks, for Pearson by values). See `capmismatch.findings.explain`.

    Examples
    --------
    >>> teachers = [f"resnet{depth}" for depth in (8, 14, 20, 26, 32, 38)]
    >>> probes = pd.DataFrame({"family": "resnet", "teacher": teachers, "params": [1e5, 2e5, 3e5, 4e5, 5e5, 6e5],
    ...     "split": "val", "seed": 0, "tau": 4.0, "probe": "derived_std", "value": [1.0, 2.0, 4.0, 6.0, 5.0, 3.0]})
    >>> results = pd.DataFrame({"family": "resnet", "teacher": teachers, "teacher_seed": 0, "student": "cnn",
    ...     "method": "KD", "label": "KD tau=4", "seed": 0, "split": "test",
    ...     "accuracy": [0.61, 0.62, 0.65, 0.67, 0.66, 0.63]})
    >>> links = correlate(probes, results, expected_signs={"derived_std": 1})
    >>> links[["metric", "value", "p", "n"]].round(3).values.tolist()
    [['spearman', 1.0, 0.003, 6], ['pearson', 0.994, 0.003, 6], ['kendall', 1.0, 0.003, 6]]
    """
    must_be_a_table(probes, "the probes table", "cm.correlate(cm.probe(bank), results)")
    must_be_a_table(results, "the results table", 'results = cm.load_results("students.csv")')
    must_be_one_of(unit, ["teacher", "run"], "unit")
    must_count(n_boot, "n_boot", most=MOST_RESAMPLES)
    must_count(seed, "seed", least=0)
    must_be_temperature(primary_tau, "primary_tau")
    usable, used_results, unusable = usable_tables(probes, results)
    if len(unusable):
        warnings.warn(f"left out of the correlations as not usable: {told(unusable)}", stacklevel=2)
    probes, results = _chosen_rows(usable, results if used_results is None else used_results, probe_split, split)
    moved = bool(results["split"].ne(split).all())
    warn_unmatched(probes, results)
    if unit == "run":
        probes, results = runs_as_units(probes, results)
    teachers = shared_teachers(probes, results)
    signs = _registered_signs(of_texts(probes)) if expected_signs is None else _checked_signs(expected_signs, probes)
    differences = teacher_differences(results, split=str(results["split"].iloc[0]))
    setting, seeds = ["student", "label", "method"], ["teacher_seed", "seed"]
    results = pd.concat([level_seeds(rows, UNIT) for _, rows in results.groupby(setting, dropna=False)])
    y = pack_columns(results, teachers, setting, seeds, "accuracy", "the results table")
    families = pd.factorize(teachers.get_level_values("family"))[0].astype(np.int64)

    frames: list[pd.DataFrame] = []
    for x, of_students in _by_student(probes, y, teachers):
        controls = _controls(x, probes, teachers)
        for rows, of_x, of_y in _blocks(x, of_students):
            rows, groups = compared(rows, families, within_family)
            across = len(np.unique(families[rows])) > len(np.unique(groups))
            values = x.values[rows][..., of_x], of_students.values[rows][..., of_y]
            block = _Block(*values, groups, controls[:, rows][..., of_x])
            keys, number = (x.keys.iloc[of_x], of_students.keys.iloc[of_y]), len(frames)
            for metric in st.METRICS:
                frames.append(
                    _link_rows(block, metric, *keys, n_boot=n_boot, seed=seed).assign(across=across, block=number)
                )
    thin = set(probes["probe"][_left_out(probes) > 0])
    links = pd.concat(frames, ignore_index=True).assign(moved=moved)
    links["thin"] = links["probe"].isin(thin)
    links["primary"] = _is_primary(links, primary, primary_tau)
    reliable = differences[["student", "label", "reliability", "ceiling"]]
    return _finish(links.merge(reliable, on=["student", "label"], how="left"), signs, mute)


def _by_student(
    probes: pd.DataFrame, y: PackedColumns, teachers: pd.MultiIndex
) -> Iterator[tuple[PackedColumns, PackedColumns]]:
    """Columns of the probes with those of the students that they are measured for: all at once without probes of pairs.

    Probes of pairs count for the student that they name alone.
    """
    how = (teachers, ["probe", "tau"], ["seed"], "value", "the probes table")
    paired, taught = set(students_of(probes)) - {""}, y.keys["student"].astype(str)
    unknown = sorted(paired - set(taught))
    if unknown:
        warnings.warn(
            f"left out of the correlations: probes of pairs with {unknown}, students that the results do not have: "
            f"these are {sorted(set(taught))}",
            stacklevel=3,
        )
    if not paired:
        yield pack_columns(of_student(probes), *how), y
        return
    for student in pd.unique(taught):
        columns = np.flatnonzero(taught.eq(student))
        of_y = PackedColumns(y.values[..., columns], y.keys.iloc[columns].reset_index(drop=True))
        yield pack_columns(of_student(probes, str(student)), *how), of_y


@dataclass(frozen=True)
class _Block:
    """Columns that share the same teachers: probes x, accuracies y, group of each teacher, controls (3, n, p)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    groups: NDArray[np.int64]
    controls: NDArray[np.float64]


def _chosen_rows(
    probes: pd.DataFrame, results: pd.DataFrame, probe_split: str, split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probes that are numbers on one split, and accuracies of students with a teacher on the other."""
    require_columns(probes, [*UNIT, "params", "split", "seed", "tau", "probe", "value"], "the probes table")
    columns = [*UNIT, "teacher_seed", "student", "label", "method", "seed", "split", "accuracy"]
    require_results(results, columns)
    split = resolve_split(results["split"], split)
    probes = rows_of_split(probes, probe_split, "the probes table")
    students = with_teacher(rows_of_split(results, split, "the results table"))
    if students.empty:
        raise InputError(f"the results table has no row with a teacher and an accuracy on split {split!r}")
    measured = probes[np.isfinite(probes["value"])]
    students = with_families(students, measured)
    # A probe that no class had the examples for stays, to be told of.
    return probes[np.isfinite(probes["value"]) | _left_out(probes).eq(1)], students


def _left_out(probes: pd.DataFrame) -> pd.Series:
    """Share of a teacher's examples that a probe of class means leaves out, as the only ones of their classes."""
    if "n" not in probes:
        return pd.Series(0.0, index=probes.index)
    every = probes["n"].groupby([probes[name] for name in (*UNIT, "seed")]).transform("max")
    return (1 - probes["n"] / every).where(probes["probe"].isin(CLASS_MEANS), 0.0)


def _registered_signs(texts: bool) -> Mapping[str, float]:
    """What sources expect; of texts only of probes that say how good a teacher is, as the others are of images."""
    from capmismatch.probes import REGISTRY, expected_signs  # here, because the registry loads torch

    return {
        name: sign
        for name, sign in expected_signs().items()
        if not (texts and name in REGISTRY and REGISTRY[name].tempered)
    }


def _checked_signs(signs: Mapping[str, float], probes: pd.DataFrame) -> Mapping[str, float]:
    """The expected directions, with a warning of probes that were not measured."""
    if not isinstance(signs, Mapping):
        raise InputError(f"expected expected_signs as a mapping from probes to +1 or -1, got {signs!r}")
    for name, sign in signs.items():
        if not (isinstance(sign, float) and np.isnan(sign)):
            must_be_within(sign, f"the expected sign of {name!r}", -1, 1)
    measured = sorted(set(probes["probe"]))
    unknown = [name for name in signs if name not in measured]
    if unknown:
        warnings.warn(f"expected_signs has {unknown}, which were not measured: there are {measured}", stacklevel=3)
    return signs


def _controls(x: PackedColumns, probes: pd.DataFrame, teachers: pd.MultiIndex) -> NDArray[np.float64]:
    """What each probe column is controlled for: accuracy, log parameters, p_y at its own temperature, as (3, n, p)."""
    means, name = x.means, x.keys["probe"]
    controls = np.full((3, *means.shape), np.nan)
    accuracy = np.flatnonzero(name.eq("accuracy"))
    if accuracy.size:
        controls[0] = means[:, accuracy[:1]]
    params = probes.groupby(UNIT)["params"].first().reindex(teachers).to_numpy(float)
    controls[1] = np.log(np.where(params > 0, params, np.nan))[:, None]
    taus = x.keys["tau"].to_numpy(float)
    for confidence in np.flatnonzero(name.eq("target_prob")):
        controls[2][:, taus == taus[confidence]] = means[:, [confidence]]
    return controls


def _blocks(
    x: PackedColumns, y: PackedColumns
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Teachers, probe columns and result columns such that every column has every teacher of its block."""
    probed, probed_of = np.unique(np.isfinite(x.means), axis=1, return_inverse=True)
    measured, measured_of = np.unique(np.isfinite(y.means), axis=1, return_inverse=True)
    for i in range(probed.shape[1]):
        for j in range(measured.shape[1]):
            rows = np.flatnonzero(probed[:, i] & measured[:, j])
            yield rows, np.flatnonzero(probed_of == i), np.flatnonzero(measured_of == j)


def _link_rows(
    block: _Block, metric: str, x_keys: pd.DataFrame, y_keys: pd.DataFrame, *, n_boot: int, seed: int
) -> pd.DataFrame:
    """One row for each pair of columns of the block."""
    n = len(block.groups)
    shape = (len(x_keys), len(y_keys))
    links = {name: np.full(shape, np.nan) for name in ("value", "low", "high", "p", "p_max", *_PARTIALS)}
    restates = np.zeros(shape, dtype=bool)
    collinear = np.full(shape, "", dtype=object)
    if n >= 3:
        x, y = st.nested_mean(block.x), st.nested_mean(block.y)
        value = st.correlations(x, y, block.groups, metric)
        replicates = _bootstrap(block, metric, n_boot, seed)
        low, high = st.fisher_interval(value, metric, st.effective_size(block.groups, metric), replicates)
        partials, restates = _partials(x, y, block, metric, value)
        p, p_max = st.permutation_test(x, y, block.groups, metric, seed=seed)
        links = {"value": value, "low": low, "high": high, "p": p, "p_max": p_max}
        links |= dict(zip(_PARTIALS, partials, strict=True))
        collinear[:] = _collinear(x, block, metric, x_keys["probe"].to_numpy())[:, None]
    index = [axis.ravel() for axis in np.indices(shape)]
    pairs = [keys.iloc[rows].reset_index(drop=True) for keys, rows in zip((x_keys, y_keys), index, strict=True)]
    frame = pd.concat(pairs, axis=1)
    for name, values in links.items():
        frame[name] = values.ravel()
    size = st.effective_size(block.groups, metric)
    frame = frame.assign(metric=metric, n=n, n_effective=size, least_p=st.least_p(block.groups))
    return frame.assign(restates=restates.ravel(), collinear=collinear.ravel())


def _collinear(x: NDArray[np.float64], block: _Block, metric: str, names: NDArray[np.object_]) -> NDArray[np.object_]:
    """Names of the controls that explain most of each column (p,) of the probes, itself left out."""
    kind = "pearson" if metric == "pearson" else "spearman"
    of_x = st.unit_vectors(x, block.groups, kind)
    held = [st.unit_vectors(control, block.groups, kind) for control in block.controls]
    explained = np.stack([(of_x * unit).sum(axis=0) ** 2 >= COLLINEAR for unit in held], axis=1)
    return np.array(
        [
            ",".join(c for c, alike in zip(CONTROLS, row, strict=True) if alike and c != name)
            for name, row in zip(names, explained, strict=True)
        ],
        dtype=object,
    )


def _is_primary(links: pd.DataFrame, probe: str | None, tau: float) -> pd.Series:
    """Rows of the probe named beforehand, at the nearest temperature."""
    if probe is not None:
        must_be_one_of(probe, sorted(set(links["probe"])), "primary")
    named = links["probe"].eq(PRIMARY_PROBE if probe is None else probe)
    at = links["tau"].isna()
    if links.loc[named, "tau"].notna().any():
        nearest = nearest_tau(links.loc[named, "tau"].dropna(), tau)
        if nearest != tau and tau != DEFAULT_TAU:
            warnings.warn(f"primary_tau={tau:g} was not measured: tau={nearest:g} is the nearest", stacklevel=3)
        at = links["tau"].eq(nearest)
    return named & at


def _bootstrap(block: _Block, metric: str, n_boot: int, seed: int) -> NDArray[np.float64]:
    """Correlations (n_boot, p, q) with teachers, their runs and their students' seeds redrawn."""
    return np.concatenate([st.correlations(x, y, block.groups, metric) for x, y in resampled(block, n_boot, seed)])


def resampled(block: _Block, n_boot: int, seed: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Means of the probes (b, n, p) and of the accuracies (b, n, q) in bootstrap replicates, some at a time."""
    rng = np.random.default_rng(seed)
    n, runs, seeds = len(block.groups), max(block.x.shape[1], block.y.shape[1]), block.y.shape[2]
    for start in range(0, n_boot, _REPLICATES):
        size = min(_REPLICATES, n_boot - start)
        units = st.stratified_resample(block.groups, size, rng)
        run, within = rng.random((size, n, runs)), rng.random((size, n, runs, seeds))
        x = st.resample_nested(block.x, units, run, within)
        yield x, st.resample_nested(block.y, units, run, within)


def _partials(
    x: NDArray[np.float64], y: NDArray[np.float64], block: _Block, metric: str, value: NDArray[np.float64]
) -> tuple[list[NDArray[np.float64]], NDArray[np.bool_]]:
    """The correlations (p, q) with controls held fixed, one of `_PARTIALS` each; and where a link is p_y's as well.

    That is where p_y has a link, and the column has none once p_y is held fixed. Without the first, a link that only
    few teachers carry would be called confidence wherever holding something fixed costs it its significance.
    """
    of_x, of_y = st.unit_vectors(x, block.groups, metric), st.unit_vectors(y, block.groups, metric)
    # Most columns share one control, but p_y goes with the temperature of the column.
    held = [st.unit_vectors(control, block.groups, metric) for control in block.controls]
    with_x, with_y = [(of_x * unit).sum(axis=0)[:, None] for unit in held], [unit.T @ of_y for unit in held]
    accuracy, params, confidence = (st.partial_correlation(value, *pair) for pair in zip(with_x, with_y, strict=True))
    between = (held[0] * held[1]).sum(axis=0)[:, None]
    both = st.partial_correlation(
        accuracy,
        st.partial_correlation(with_x[1], with_x[0], between),
        st.partial_correlation(with_y[1], with_y[0], between),
    )
    # Where one of the two determines the other, holding it fixed as well changes nothing.
    both = np.where(between**2 > 1 - 1e-9, accuracy, both)
    n, room = (st.effective_size(block.groups, kind) for kind in (metric, "pearson"))
    partials = [
        one if room > 2 + fixed else np.full_like(one, np.nan)
        for one, fixed in ((accuracy, 1), (params, 1), (both, 2), (confidence, 1))
    ]
    lasts = excludes_zero(*st.fisher_interval(confidence, metric, n - 1))
    linked = excludes_zero(*st.fisher_interval(with_y[2], metric, n))
    return partials, linked & ~lasts


def _finish(links: pd.DataFrame, signs: Mapping[str, float], mute: Iterable[str]) -> pd.DataFrame:
    """Add what needs the whole table: corrected p-values, expectations, findings, order."""
    links["p_adjusted"] = links.groupby(["student", "label", "metric"])["p"].transform(
        lambda p: st.benjamini_hochberg(p.to_numpy(float))
    )
    links["expected_sign"] = links["probe"].map(signs).astype(float)
    tested = links[links["p"].notna()].groupby(["student", "label", "metric"])
    keys = pd.MultiIndex.from_frame(links[["student", "label", "metric"]])
    links["p_max"] = np.minimum(links["p_max"] * tested["block"].nunique().reindex(keys).to_numpy(), 1.0)
    tests = links[links["p"].notna()].drop_duplicates(["metric", "student", "label"])
    settings = tests["metric"].value_counts()
    overall = np.minimum(links["p_max"] * links["metric"].map(settings), 1.0)
    named = links.groupby(["metric", "primary"])["p"].transform(lambda p: st.holm(p.to_numpy(float)))
    links["p_overall"] = named.where(links["primary"], overall)
    single_link = links["least_p"] * tested.size().reindex(keys, fill_value=0).to_numpy()
    clear = excludes_zero(links["low"], links["high"])
    flags = {
        "CM003": links["least_p"].ge(0.05) | single_link.ge(0.05),
        "CM004": links["value"].notna() & ~clear,
        "CM005": links["probe"].isin(CONFIDENCE_BOUND) & clear & links["restates"],
        "CM006": (links["value"] * links["expected_sign"]).lt(0),
        "CM012": links["across"] & links["value"].notna(),
        "CM013": links["moved"],
        "CM014": links["value"].isna() & links["n"].ge(3),
        "CM015": links["reliability"].lt(WANTED_RELIABILITY),
        "CM026": links["thin"],
        "CM027": links["collinear"].ne(""),
    }
    marked = pd.DataFrame(flags)
    links["findings"] = [join_codes(marked.columns[row], mute) for row in marked.to_numpy()]
    pair = ["probe", "tau", "student", "label"]
    strength = links["value"].abs().where(links["metric"].eq("spearman"))
    strength = strength.groupby([links[name] for name in pair], dropna=False).transform("max").fillna(-1.0)
    order = links.assign(strength=-strength, rank=links["metric"].map(st.METRICS.index))
    order = order.sort_values(["strength", *pair, "rank"], kind="stable")
    return order[list(LINK_COLUMNS)].reset_index(drop=True)
