"""Teachers with their probes, and the groups that a posterior is drawn for: how their students of one kind did."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.selection.links import pack_columns, rows_of
from capmismatch.selection.rules import teacher_probes
from capmismatch.stats import correlations as st
from capmismatch.stats.matching import seed_effects, share_seeds
from capmismatch.stats.posterior import Group, Noise, seed_noise

UNIT = ["family", "teacher"]

FEATURES = ("derived_std", "accuracy", "log_params")
"""Probes from which students are predicted for teachers that have none: few, for teachers are few."""

_DIGITS = 9  # to which the probes of one teacher agree wherever they were read from

Floats = NDArray[np.float64]


def long_and_wide(probes: pd.DataFrame, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A probes table as one row for each teacher and probe, and as teachers by probes with ``params``.

    Raises
    ------
    InputError
        If a column is missing or the split has no rows.
    """
    require_columns(probes, [*UNIT, "params", "split", "tau", "probe", "value", "se"], "the probes table")
    rows = rows_of(probes, split, "the probes table")
    long = teacher_probes(rows[np.isfinite(rows["value"])])
    wide = long.pivot(index=UNIT, columns="probe", values="value")
    wide = wide.reindex(pd.MultiIndex.from_frame(rows[UNIT].drop_duplicates().sort_values(UNIT)))
    wide["params"] = rows.groupby(UNIT)["params"].first()
    return long, wide


@dataclass(frozen=True)
class Candidates:
    """Teachers among which one is chosen.

    Attributes
    ----------
    wide : teachers (index of family and teacher) by probe, with ``params``
    names : the probes that predict
    families : a label for each teacher; equal labels are the same family in whatever table
    """

    wide: pd.DataFrame
    names: tuple[str, ...]
    families: tuple[Hashable, ...]

    @property
    def teachers(self) -> list[Hashable]:
        """What names each teacher in whatever table: the same name with the same probes is the same network."""
        return _identities(self.wide)

    @property
    def lacking(self) -> dict[str, list[tuple[str, str]]]:
        """Probes that predict, with the teachers of which they are not known."""
        unknown = _with_size(self.wide)[list(self.names)].isna()
        return {name.removeprefix("log_"): list(unknown.index[unknown[name]]) for name in self.names}

    def unmeasured(self) -> Group:
        """As they are before they have any student."""
        nothing = np.full(len(self.wide), np.nan)
        return self._group(nothing, Noise(nothing, np.inf))

    def groups(self, rows: pd.DataFrame) -> dict[str, Group]:
        """As their students did in each setting (label), from rows of one student and split; see `measured`.

        Rows of plain cross-entropy take part in what seeds do, and have no group.
        """
        units, means, noise = measured(rows)
        teachers = pd.MultiIndex.from_tuples(self.wide.index, names=UNIT)
        found = {}
        for label in sorted(set(units.get_level_values("label"))):
            place = units.get_indexer(pd.MultiIndex.from_tuples([(*unit, label) for unit in teachers]))
            if (place < 0).all():
                continue
            own = np.where(place < 0, np.nan, means[place])
            variances = np.where(place < 0, np.nan, noise.variances[place])
            found[label] = self._group(own, replace(noise, variances=variances))
        return found

    def _group(self, means: Floats, noise: Noise) -> Group:
        return Group(means, noise, _features(self.wide, self.names), self.teachers, self.families)


def measured(rows: pd.DataFrame) -> tuple[pd.MultiIndex, Floats, Noise]:
    """What each teacher's students reach in each setting, and how noisy that is.

    The noise is pooled over teachers and settings. Where seeds are shared, what a seed does to all students alike
    (initial weights, order of batches) is no noise between them: it is taken out by least squares. On the embedded
    study, seeds that differ by 0.3-1.1 points differ by 0.3-0.5 points once this is done. So the noise is that of
    comparisons, and of a mean over these very seeds; with two or three of them, intervals for a new seed would be wide
    enough for any accuracy.

    Parameters
    ----------
    rows : DataFrame
        Of one student and split.

    Returns
    -------
    units : MultiIndex
        ``family, teacher, label``.
    means : array of shape (n,)
    noise : Noise
        Of these means.

    Raises
    ------
    InputError
        If none has two seeds and the rows do not say the number of examples either.
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
    except InputError:  # named by number there, here as the user knows it
        named = pd.MultiIndex.from_frame(rows[UNIT].drop_duplicates())
        pack_columns(rows, named, ["student", "label"], ["teacher_seed", "seed"], "accuracy", "the results table")
        raise
    means = st.nested_mean(packed.values)[:, 0]
    examples = numbered.groupby(UNIT)["n"].first().to_numpy(float) if "n" in rows else np.full(len(units), np.nan)
    one = 1 / examples  # right or wrong moves the accuracy by this; an accuracy of 0 or 1 is not certain either
    share = means.clip(one, 1 - one)
    least = 1e-9 if np.isnan(one).all() else float(np.nanmin(one))
    noise = seed_noise(packed.values[..., 0], share * (1 - share) * one, paired=paired, least=least)
    if np.isnan(noise.variances).any():
        seeds = "the student seeds of every teacher agree" if noise.alike else "every teacher has a single student seed"
        raise InputError(f"{seeds} and the results table has no column 'n' (examples): the noise is unknown")
    return units, means, replace(noise, shared=shared)


def of_family(wide: pd.DataFrame, family: str) -> pd.DataFrame:
    """The teachers of one family.

    Raises
    ------
    InputError
        If there is none; the message lists the families.
    """
    families = wide.index.get_level_values("family")
    must_be_one_of(family, sorted(set(families)), "family")
    return wide[families == family]


def predictors(wide: pd.DataFrame) -> tuple[str, ...]:
    """Those of `FEATURES` that differ between the teachers."""
    frame = _with_size(wide)
    return tuple(name for name in FEATURES if name in frame and frame[name].nunique() > 1)


def kinships(frames: Sequence[pd.DataFrame]) -> list[list[Hashable]]:
    """A family label for each teacher of each frame; families that share a teacher get the same.

    A name alone does not make a family: that of one data set is another one on the next.
    """
    kin: list[set[Hashable]] = []
    for frame in frames:
        identities = pd.Series(_identities(frame))
        for _, own in identities.groupby(frame.index.get_level_values("family").to_numpy(), sort=False):
            touched = [members for members in kin if members & set(own)]
            kin = [members for members in kin if members not in touched] + [set(own).union(*touched)]
    number = {identity: place for place, members in enumerate(kin) for identity in members}
    return [[number[identity] for identity in _identities(frame)] for frame in frames]


def _identities(wide: pd.DataFrame) -> list[Hashable]:
    probes = wide.reindex(columns=["params", *FEATURES[:2]]).astype(float).round(_DIGITS).fillna(-1.0)
    return [(*unit, *values) for unit, values in zip(wide.index, probes.to_numpy().tolist(), strict=True)]


def _with_size(wide: pd.DataFrame) -> pd.DataFrame:
    return wide.assign(log_params=np.log(wide["params"].where(wide["params"] > 0)))


def _features(wide: pd.DataFrame, names: Sequence[str]) -> Floats:
    """Standardised probes (T, p); what is unknown or constant stands at the mean."""
    frame = _with_size(wide).reindex(columns=list(names)).astype(float)
    spread = frame.std(ddof=0)
    return ((frame - frame.mean()) / spread.where(spread > 0)).fillna(0.0).to_numpy()
