"""What the studies of the package say of teachers without students: chances, expected loss, and how unlike they are.

The studies come as one small table of teachers (`teachers_measured`), so that a first guess need not read all their
probes and students. `capmismatch.shipped_evidence` has those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from capmismatch._utils.text import join
from capmismatch.selection.candidates import FEATURES, Candidates, family_codes, number_of_classes
from capmismatch.selection.rules import DEFAULT_RULE
from capmismatch.selection.students import draw_summary
from capmismatch.stats.groups import Group, Noise
from capmismatch.stats.posterior import posterior_draws

LABEL = "KD tau=4 student tau=1"
"""The setting that is spoken of where none is asked for."""

DEFAULT_PICK = "pick, probes alone"
"""The name, among the rules that were left out in turn, of what `pick` takes by its default rule."""

UNIT_OF_STUDY = ["study", "family", "student"]
LIMITS = {
    "classes": ("{:,.0f} classes", 1.0),
    "largest": ("a largest teacher of {:,.0f} parameters", 2.0),
    "range": ("teachers that differ {:.3g}-fold in size", 2.0),
    "accuracy": ("a best teacher of {:.1%} accuracy", 1.0),
}
"""What families are compared by: how it is told, and by how many times outside the range it may lie."""


@dataclass(frozen=True)
class Outlook:
    """What is expected of students of teachers that have none yet, by the studies of the package.

    Attributes
    ----------
    table : DataFrame
        One row per teacher, best first: ``family, teacher, params``, ``score`` (points by which its students are
        predicted to stand above their mean over the teachers) with ``low, high``, ``p_best`` (drawn toward one over the
        number of teachers as far as claims did not come true in families left out, see `carried`), ``regret``,
        ``within``.
    label : str
        The setting of the students there.
    families : int
        How many families taught it.
    losses : DataFrame
        What each rule lost there, in families left out: rows of `rules_left_out` for this setting.
    unlike : tuple of str
        In what these teachers lie outside of all that was measured, in words; empty where they do not.
    """

    table: pd.DataFrame
    label: str
    families: int
    losses: pd.DataFrame
    unlike: tuple[str, ...]

    @classmethod
    def of(cls, candidates: Candidates, label: str | None, tolerance: float, n_boot: int, seed: int) -> Outlook | None:
        """The outlook of some teachers; None where the package has no students.

        Parameters
        ----------
        candidates : Candidates
            The teachers.
        label : str, optional
            The setting; `LABEL` by default, and where no study has it: `unlike` then says so.
        tolerance : float
            Accuracy points that do not matter.
        n_boot, seed : int
            Draws of the posterior, and their seed.
        """
        rows, asked = teachers_measured(), LABEL if label is None else label
        told = unlike(candidates.profiles)
        if asked not in set(rows["label"]):
            told.append(f"the setting {asked!r} (measured: {join(sorted(set(rows['label'])))})")
            asked = LABEL
        rows = rows[rows["label"].eq(asked)]
        groups = _groups(rows, candidates)
        if not groups:
            return None
        draws = posterior_draws(candidates.unmeasured(), n_boot, np.random.default_rng(seed), groups).means
        table = candidates.profiles["params"].reset_index().assign(**draw_summary(draws, tolerance))
        table[["score", "low", "high"]] *= 100
        table["p_best"] = 1 / len(table) + carried() * (table["p_best"] - 1 / len(table))
        table = table.drop(columns="tie").sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
        losses = rules_left_out()
        return cls(
            table=table,
            label=asked,
            families=rows[["study", "family"]].drop_duplicates().shape[0],
            losses=losses[losses["label"].eq(asked) & losses["regime"].eq("all")].reset_index(drop=True),
            unlike=tuple(told),
        )

    def loss(self, rule: str) -> pd.Series | None:
        """The row of `losses` of a rule, or of what `pick` takes by its default rule; None where it was not tried."""
        rows = self.losses[self.losses["rule"].eq(DEFAULT_PICK if rule == DEFAULT_RULE else rule)]
        return rows.iloc[0] if len(rows) else None


@cache
def teachers_measured() -> pd.DataFrame:
    """The teachers of the package's studies, one row per student, setting and teacher.

    Returns
    -------
    DataFrame
        ``study, kind, classes, family, student, label``; ``teacher, params`` and the probes of `FEATURES`; ``mean``
        accuracy of its students on validation rows, ``variance`` of that mean, and ``free``, its degrees of freedom.
    """
    return _embedded("evidence_teachers.parquet")


@cache
def rules_left_out() -> pd.DataFrame:
    """`capmismatch.study.meta.Meta.rules` of the package's studies, each family left out in turn."""
    return _embedded("evidence_rules.parquet")


@cache
def carried() -> float:
    """How much of the claimed chances came true in families left out: see `capmismatch.study.meta.Meta.carried`."""
    return float(rules_left_out()["carried"].iloc[0])


def _embedded(name: str) -> pd.DataFrame:
    with (resources.files("capmismatch") / "embedded" / name).open("rb") as file:
        return pd.read_parquet(file)


def _groups(rows: pd.DataFrame, candidates: Candidates) -> list[Group]:
    """The teachers of the package as evidence for some others."""
    tables = [of_student.set_index(["family", "teacher"]) for _, of_student in rows.groupby(UNIT_OF_STUDY, sort=True)]
    probes = [name for name in FEATURES if not name.startswith("log_")]
    profiles = [table[["params", *probes]].dropna(axis=1, how="all") for table in tables]
    codes = family_codes([candidates.profiles, *profiles])[1:]
    groups = []
    for table, profile, code in zip(tables, profiles, codes, strict=True):
        noise = Noise(table["variance"].to_numpy(float), float(table["free"].iloc[0]))
        of_study = Candidates(profile, candidates.predictors, tuple(code))
        groups.append(of_study.group(table["mean"].to_numpy(float), noise))
    return groups


def unlike(profiles: pd.DataFrame) -> list[str]:
    """In what some teachers lie outside of all families that were measured.

    Parameters
    ----------
    profiles : DataFrame
        The teachers (index ``family, teacher``) by probe, with ``params``.

    Returns
    -------
    list of str
        Such as ``"1,000 classes (measured: 3 to 26)"``.
    """
    measured = pd.DataFrame([_facts(of_study) for _, of_study in teachers_measured().groupby(["study", "family"])])
    here, told = _facts(profiles), []
    for name, (words, times) in LIMITS.items():
        low, high = measured[name].min(), measured[name].max()
        if not low / times <= here[name] <= high * times and np.isfinite(here[name]):
            number = words.split("{")[1].split("}")[0]
            ends = " to ".join(f"{{{number}}}".format(end) for end in (low, high))
            told.append(f"{words.format(here[name])} (measured: {ends})")
    return told


def _facts(teachers: pd.DataFrame) -> dict[str, float]:
    """Numbers that tell what kind of family some teachers are."""
    sizes = teachers["params"].astype(float)
    return {
        "classes": float(teachers["classes"].iloc[0]) if "classes" in teachers else number_of_classes(teachers),
        "largest": float(sizes.max()),
        "range": float(sizes.max() / sizes.min()),
        "accuracy": float(teachers["accuracy"].max()) if "accuracy" in teachers else np.nan,
    }
