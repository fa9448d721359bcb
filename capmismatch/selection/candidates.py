"""The teachers to choose among: their probes, which one each simple rule takes, and their students' results."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.selection.rules import DEFAULT_TAU, OF_WRONG_CLASSES, RULES
from capmismatch.stats.groups import Group, Noise, errors_of_seed_effects, seed_noise
from capmismatch.stats.matching import (
    UNIT,
    nearest_tau,
    of_student,
    pack_columns,
    require_single_rows,
    rows_of_split,
    seed_effects,
    share_seeds,
)
from capmismatch.stats.run_means import mean_over_runs, runs_by_unit
from capmismatch.stats.usable import usable_tables

FEATURES = ("derived_std", "accuracy", "log_params")
"""Probes from which students are predicted for teachers without any: few probes, because teachers are few."""

AT_ONCE = 64  # draws of whole sequences: a count for each of them is held

_DIGITS = 9  # to which the probes of one teacher agree between tables

Floats = NDArray[np.float64]


# From the probes table to teachers by probe ---------------------------------------------------------------------------


def read_probes(probes: pd.DataFrame, split: str, student: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The probes of one split, as measurements and as one profile per usable teacher.

    Probes that are zero by definition (see `zero_by_definition`) are left out.

    Parameters
    ----------
    probes : DataFrame
        The probes table.
    split : str
        The split to read.
    student : str, optional
        Whose pairs with the teachers count; by default the means over all students that the table has.

    Returns
    -------
    measurements : DataFrame
        One row per teacher and probe; the columns are those of `mean_probes`.
    profiles : DataFrame
        One row per teacher (index ``family, teacher``), one column per probe, and ``params``.

    Raises
    ------
    InputError
        If a column is missing, the split has no rows, no teacher is usable, or a row is there twice.
    """
    require_columns(probes, [*UNIT, "params", "split", "tau", "probe", "value", "se"], "the probes table")
    rows = rows_of_split(usable_tables(probes)[0], split, "the probes table")
    if rows["params"].lt(0).any():
        wrong = rows[rows["params"].lt(0)].iloc[0]
        raise InputError(
            f"expected params >= 0, got {wrong['params']:g} for teacher {wrong['teacher']!r} in the probes table"
        )
    if "seed" in rows:  # a copy of a row is no second training run
        quantity = [*UNIT, "probe", "tau", *(name for name in ["student"] if name in rows)]
        require_single_rows(rows[rows["seed"].notna()], quantity, ["seed"], "the probes table")
    rows = of_student(rows, student)
    rows = rows[~rows["probe"].isin(zero_by_definition(rows))]
    measurements = mean_probes(rows[np.isfinite(rows["value"])])
    profiles = measurements.pivot(index=UNIT, columns="probe", values="value")
    profiles = profiles.reindex(pd.MultiIndex.from_frame(rows[UNIT].drop_duplicates().sort_values(UNIT)))
    profiles["params"] = rows.groupby(UNIT)["params"].first()
    return measurements, profiles


def zero_by_definition(probes: pd.DataFrame) -> list[str]:
    """Probes of how the wrong classes differ, where there is one wrong class: all of them are zero for every teacher.

    Examples
    --------
    >>> table = pd.DataFrame({"probe": ["derived_std", "derived_std", "nll"], "value": [0.0, 0.0, 0.0]})
    >>> zero_by_definition(table)
    ['derived_std']
    """
    of_wrong = probes[probes["probe"].isin(OF_WRONG_CLASSES)]
    if len(of_wrong) < 2 or not of_wrong["value"].dropna().eq(0).all() or of_wrong["value"].isna().all():
        return []
    return sorted(set(of_wrong["probe"]))


def number_of_classes(profiles: pd.DataFrame) -> float:
    """How many classes there are, by e(q) = (1 - p_y) / (C - 1) of the teachers; NaN where that is not known.

    Examples
    --------
    >>> number_of_classes(pd.DataFrame({"target_prob": [0.6, 0.7], "derived_average": [0.1, 0.075]}))
    5.0
    """
    if not {"target_prob", "derived_average"} <= set(profiles):
        return math.nan
    return float(np.round(1 + ((1 - profiles["target_prob"]) / profiles["derived_average"]).median()))


def mean_probes(probes: pd.DataFrame) -> pd.DataFrame:
    """Mean of each teacher and probe over runs, at the temperature at which teachers are compared.

    Parameters
    ----------
    probes : DataFrame
        Rows of the probes table, of one split.

    Returns
    -------
    DataFrame
        One row per teacher and probe:

        - ``family, teacher, probe`` : str
        - ``tau`` : that nearest to `DEFAULT_TAU`; NaN for a probe without temperature
        - ``value`` : mean over runs
        - ``se`` : standard error by examples and runs together; the mean squared standard error over examples (which
          all runs share) plus the squared `run_se`
        - ``run_se`` : standard error by runs alone, their variance pooled over the teachers; 0 with single runs
    """
    taus = probes[["probe", "tau"]].drop_duplicates().groupby("probe", observed=True)["tau"]
    at = probes["probe"].map({probe: nearest_tau(of_probe, DEFAULT_TAU) for probe, of_probe in taus}).astype(float)
    # NaN != NaN, hence the second half: probes without temperature.
    compared = probes[probes["tau"].eq(at) | (probes["tau"].isna() & at.isna())]
    key = [*UNIT, "probe"]
    compared = compared.sort_values(key, kind="stable")
    table, values = runs_by_unit(compared, key, "value")
    over_runs = mean_over_runs(values, pool=pd.factorize(table["probe"])[0])
    by_key = compared.groupby(key, sort=False)
    by_runs = np.nan_to_num(over_runs.of_means)
    by_examples = _means_by_code(compared["se"].to_numpy(float) ** 2, np.asarray(by_key.ngroup(), dtype=np.int64))
    variance = np.nan_to_num(by_examples) + by_runs
    has_error = np.isfinite(by_examples) | (by_runs > 0)
    return table.assign(
        tau=by_key["tau"].first().to_numpy(float),
        value=over_runs.means,
        se=np.sqrt(np.where(has_error, variance, np.nan)),
        run_se=np.sqrt(by_runs),
    )


def _means_by_code(values: Floats, codes: NDArray[np.int64]) -> Floats:
    """The mean of the values of each code without NaN; NaN where all are. A call for each group takes far longer.

    Examples
    --------
    >>> _means_by_code(np.array([1.0, 3.0, np.nan, np.nan]), np.array([0, 0, 0, 1]))
    array([ 2., nan])
    """
    groups, there = int(codes.max(initial=-1)) + 1, ~np.isnan(values) & (codes >= 0)
    sums, counts = (np.bincount(codes[there], weights, groups) for weights in (values[there], None))
    return np.divide(sums, counts, out=np.full(groups, np.nan), where=counts > 0)


def of_family(profiles: pd.DataFrame, family: str) -> pd.DataFrame:
    """The teachers of one family.

    Raises
    ------
    InputError
        If there is none; the message lists the families.
    """
    families = profiles.index.get_level_values("family")
    must_be_one_of(family, sorted(set(families)), "family")
    return profiles[families == family]


def rule_choices(profiles: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Whom every rule takes, and the rules left out because their probe is missing.

    Parameters
    ----------
    profiles : DataFrame
        Teachers (index ``family, teacher``) by probe, with ``params``.

    Returns
    -------
    choices : DataFrame
        One row per rule: ``rule``, the ``family, teacher`` that it takes, and the ``value`` of its probe there.
    missing : list of str
        Names of the rules left out, but for those whose probes are measured on request alone.
    """
    rows, missing = [], []
    for rule in RULES.values():
        column = profiles[rule.probe].dropna() if rule.probe in profiles else pd.Series(dtype=float)
        if column.empty:
            missing += [] if rule.on_request else [rule.name]
            continue
        family, teacher = column.index[int(np.argmax(rule.sign * column.to_numpy()))]
        rows.append((rule.name, family, teacher, float(column[family, teacher])))
    return pd.DataFrame(rows, columns=["rule", *UNIT, "value"]), missing


def probe_draws(values: pd.DataFrame, measurements: pd.DataFrame, probe: str, n_boot: int, seed: int) -> pd.DataFrame:
    """Draws of a probe's mean for each teacher: a bootstrap over examples, with the noise of runs added.

    Parameters
    ----------
    values : DataFrame
        The table of `capmismatch.example_values`, with the probe at the temperature at which teachers are compared.
    measurements : DataFrame
        As `read_probes` returns them.
    probe : str
        Which probe.
    n_boot, seed : int
        Number of draws; equal seeds resample equal examples.

    Returns
    -------
    DataFrame
        One row per draw, one column per teacher (``family, teacher``).

    Raises
    ------
    InputError
        If a teacher lacks the probe at that temperature, or teachers have different examples.
    """
    from capmismatch.stats.bootstrap import bootstrap  # here, because it loads torch

    require_columns(values, [*UNIT, "tau", "probe", "id", "value"], "the table of example values")
    teachers = measurements[measurements["probe"].eq(probe)]
    tau = float(teachers["tau"].iloc[0])
    rows = values[values["probe"].eq(probe) & (values["tau"].eq(tau) | (values["tau"].isna() & math.isnan(tau)))]
    rows = rows.astype(dict.fromkeys(UNIT, str))
    sequence = rows.groupby("id")["sequence"].first() if "sequence" in rows else None
    by_example = rows.groupby(["id", *UNIT])["value"].mean().unstack(UNIT)
    by_example = by_example.reindex(columns=pd.MultiIndex.from_frame(teachers[UNIT].astype(str)))
    missing = by_example.columns[by_example.isna().any()] if len(by_example) else by_example.columns
    if len(missing):
        raise InputError(
            f"the table of example values lacks {probe!r} at tau {tau:g} on some examples of {'/'.join(missing[0])}: "
            "expected those of every teacher, on validation rows"
        )
    if sequence is None or sequence.isna().any():
        resampled = bootstrap(by_example.to_numpy(), n_boot=n_boot, seed=seed).replicates
    else:
        resampled = _over_sequences(by_example, sequence, n_boot, seed)
    run_noise = np.random.default_rng(seed).standard_normal(resampled.shape) * teachers["run_se"].to_numpy()
    return pd.DataFrame(resampled + run_noise, columns=pd.MultiIndex.from_frame(teachers[UNIT]))


def _over_sequences(by_example: pd.DataFrame, sequence: pd.Series, n_boot: int, seed: int) -> Floats:
    """Means (n_boot, T) of examples that are drawn by whole sequences, because those of one are alike."""
    of_example = by_example.groupby(sequence.reindex(by_example.index).to_numpy())
    sums, counts = of_example.sum().to_numpy(float), of_example.size().to_numpy(float)
    generator, draws = np.random.default_rng(seed), []
    for start in range(0, n_boot, AT_ONCE):
        shares = np.full(len(counts), 1 / len(counts))
        times = generator.multinomial(len(counts), shares, min(AT_ONCE, n_boot - start))
        draws.append((times @ sums) / (times @ counts)[:, None])
    means: Floats = np.concatenate(draws)
    return means


# From teachers and rows of results to groups for the posterior --------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """Teachers among which one is chosen.

    Attributes
    ----------
    profiles : DataFrame
        Teachers (index ``family, teacher``) by probe, with ``params``.
    predictors : tuple of str
        The probes from which students are predicted.
    families : tuple of Hashable
        A code for each teacher's family; equal codes are the same family in whatever table.
    """

    profiles: pd.DataFrame
    predictors: tuple[str, ...]
    families: tuple[Hashable, ...]

    @classmethod
    def of(cls, profiles: pd.DataFrame) -> Candidates:
        """The teachers of one table, by themselves."""
        return cls(profiles, predictors(profiles), tuple(family_codes([profiles])[0]))

    @cached_property
    def identities(self) -> list[Hashable]:
        """What identifies each teacher in whatever table: the same name with the same probes is the same network."""
        return _identities(self.profiles)

    @cached_property
    def features(self) -> Floats:
        """Standardised probes (T, p)."""
        return _features(self.profiles, self.predictors)

    @property
    def missing_probes(self) -> dict[str, list[tuple[str, str]]]:
        """The predictors, each with the teachers for which it is unknown."""
        unknown = _with_size(self.profiles)[list(self.predictors)].isna()
        return {name.removeprefix("log_"): list(unknown.index[unknown[name]]) for name in self.predictors}

    def unmeasured(self) -> Group:
        """The teachers before they have any student."""
        nothing = np.full(len(self.profiles), np.nan)
        return self.group(nothing, Noise(nothing, np.inf))

    def groups(self, rows: pd.DataFrame) -> dict[str, Group]:
        """What their students reached in each setting (label), from rows of one student and split; see `measured`.

        Rows of plain cross-entropy serve to estimate what seeds do, and have no group.
        """
        return self.groups_of(*measured(rows))

    def groups_of(self, units: pd.MultiIndex, means: Floats, noise: Noise) -> dict[str, Group]:
        """What their students reached in each setting, from what `measured` gives of them."""
        groups = {}
        for label in sorted(set(units.get_level_values("label"))):
            names = [(*teacher, label) for teacher in self.profiles.index]
            position = units.get_indexer(pd.MultiIndex.from_tuples(names))
            if (position < 0).all():
                continue
            groups[label] = self.group(np.where(position < 0, np.nan, means[position]), noise.at(position))
        return groups

    def group(self, means: Floats, noise: Noise) -> Group:
        """The teachers with what their students reached on average, and how noisy that is."""
        return Group(means, noise, self.features, self.identities, self.families)


def measured(rows: pd.DataFrame) -> tuple[pd.MultiIndex, Floats, Noise]:
    """What each teacher's students reach in each setting, and how noisy that is.

    The noise is pooled over teachers and settings. Where seeds are shared, what a seed does to all students alike
    (initial weights, order of batches) is no noise between them, and is taken out by least squares. On the embedded
    study, seeds that differ by 0.3-1.1 points differ by 0.3-0.5 points once this is done. So the noise is that of
    comparisons, and of a mean over these very seeds; with two or three of them, intervals for a new seed would be wide
    enough for any accuracy.

    Parameters
    ----------
    rows : DataFrame
        Results of one student and split.

    Returns
    -------
    units : MultiIndex
        ``family, teacher, label``.
    means : array of shape (n,)
        Mean accuracies, shares in [0, 1].
    noise : Noise
        How noisy these means are.

    Raises
    ------
    InputError
        If none has two seeds and the rows do not give the number of examples either.
    """
    by = [*UNIT, "label"]
    paired = share_seeds(rows, by)
    shared = np.nan
    if paired:
        effects = seed_effects(rows, by)
        shared = float(effects.groupby(rows["seed"]).first().std())
        rows = rows.assign(accuracy=rows["accuracy"] - effects)
    units = pd.MultiIndex.from_frame(rows[by].drop_duplicates().sort_values(by))
    numbered = rows.assign(family="", teacher=units.get_indexer(pd.MultiIndex.from_frame(rows[by])), label="")
    index = pd.MultiIndex.from_product([[""], range(len(units))], names=UNIT)
    try:
        packed = pack_columns(numbered, index, ["student"], ["teacher_seed", "seed"], "accuracy", "the results table")
    except InputError:  # that message names units by number; this one by the names that the user knows
        named = pd.MultiIndex.from_frame(rows[UNIT].drop_duplicates())
        pack_columns(rows, named, ["student", "label"], ["teacher_seed", "seed"], "accuracy", "the results table")
        raise
    means = packed.means[:, 0]
    examples = numbered.groupby(UNIT)["n"].first().to_numpy(float) if "n" in rows else np.full(len(units), np.nan)
    step = 1 / examples  # of the accuracy, by one example; an accuracy of 0 or 1 is not certain either
    share = means.clip(step, 1 - step)
    least = 1e-9 if np.isnan(step).all() else float(np.nanmin(step))
    noise = seed_noise(packed.values[..., 0], share * (1 - share) * step, paired=paired, least=least)
    if np.isnan(noise.variances).any():
        seeds = "the student seeds of every teacher agree" if noise.alike else "every teacher has a single student seed"
        raise InputError(f"{seeds} and the results table has no column 'n' (examples): the noise is unknown")
    errors = _errors_of_seeds(numbered, noise) if paired and np.isfinite(noise.free) else None
    return units, means, replace(noise, shared=shared, seeds=errors)


def _errors_of_seeds(rows: pd.DataFrame, noise: Noise) -> Floats | None:
    """How errors of the seeds' effects move the means of units, where some unit lacks some seed (`Noise.seeds`)."""
    counts = pd.crosstab(rows["teacher"], rows["seed"]).to_numpy()
    runs = rows.groupby("teacher")["teacher_seed"].nunique().to_numpy()
    number = runs if runs.max() > 1 else counts.sum(axis=1)
    return errors_of_seed_effects(counts, float((noise.variances * number).mean()))


def predictors(profiles: pd.DataFrame) -> tuple[str, ...]:
    """Those of `FEATURES` that differ between the teachers."""
    frame = _with_size(profiles)
    return tuple(name for name in FEATURES if name in frame and frame[name].nunique() > 1)


def family_codes(tables: Sequence[pd.DataFrame]) -> list[list[Hashable]]:
    """A family code for each teacher of each table of profiles; families that share a teacher get the same code.

    A name alone does not identify a family: on another data set the same name is another family.
    """
    families: list[set[Hashable]] = []
    for profiles in tables:
        identities = pd.Series(_identities(profiles))
        names = profiles.index.get_level_values("family").to_numpy()
        for _, members in identities.groupby(names, sort=False):
            overlapping = [family for family in families if family & set(members)]
            families = [family for family in families if family not in overlapping]
            families.append(set(members).union(*overlapping))
    code = {identity: number for number, family in enumerate(families) for identity in family}
    return [[code[identity] for identity in _identities(profiles)] for profiles in tables]


def _identities(profiles: pd.DataFrame) -> list[Hashable]:
    probes = profiles.reindex(columns=["params", *FEATURES[:2]]).astype(float).round(_DIGITS).fillna(-1.0)
    return [(*unit, *values) for unit, values in zip(profiles.index, probes.to_numpy().tolist(), strict=True)]


def _with_size(profiles: pd.DataFrame) -> pd.DataFrame:
    return profiles.assign(log_params=np.log(profiles["params"].where(profiles["params"] > 0)))


def _features(profiles: pd.DataFrame, names: Sequence[str]) -> Floats:
    """Standardised probes (T, p); unknown or constant ones are at the mean."""
    frame = _with_size(profiles).reindex(columns=list(names)).astype(float)
    spread = frame.std(ddof=0)
    return ((frame - frame.mean()) / spread.where(spread > 0)).fillna(0.0).to_numpy()
