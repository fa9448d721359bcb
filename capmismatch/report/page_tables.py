"""The tables of the report page: from a study's tidy frames to cells that a person reads and a script sorts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch._utils.text import format_number
from capmismatch.selection.choice import Choice
from capmismatch.selection.rules import COMPANIONS, DERIVED
from capmismatch.stats.matching import resolve_split

TOP_LINKS = 30
"""How many of the strongest links the page shows; the others are in the file."""

_FIRST = (*COMPANIONS, *DERIVED)  # side by side, and ahead of the other columns


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text : str
        What is read.
    key : str
        What it sorts by: a number as text, or the text itself; empty sorts last.
    is_number : bool
        Whether it is a number.
    """

    text: str
    key: str
    is_number: bool


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes
    ----------
    name : str
        Of its heading's id.
    title, caption : str
        Above it.
    columns : list of str
        Its head.
    rows : list of list of Cell
        Its body.
    """

    name: str
    title: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]


def soft_labels(probes: pd.DataFrame, tau: float) -> pd.DataFrame | None:
    """p_y, IV and the derived probes of each teacher at a temperature; None where not all were measured."""
    split = resolve_split(probes["split"], "val", among=None)
    rows = probes[probes["split"].eq(split) & probes["tau"].eq(tau) & probes["probe"].isin(_FIRST)]
    wide = rows.pivot_table(index=["family", "teacher"], columns="probe", values="value", sort=False)
    return wide[list(_FIRST)].reset_index() if set(_FIRST) <= set(wide) else None


def teachers(choice: Choice, probes: pd.DataFrame, tau: float) -> Table:
    """The teachers, best first, with their size, accuracy and soft labels as far as they are known."""
    unit = ["family", "teacher"]
    probes = probes[probes["split"].eq(resolve_split(probes["split"], "val", among=None))]
    frame = probes.groupby(unit, as_index=False).agg(macs=("macs", "first"), runs=("seed", "nunique"))
    accuracies = probes[probes["probe"].eq("accuracy")].groupby(unit)["value"].mean().rename("teacher_accuracy")
    frame = frame.merge(accuracies.reset_index(), on=unit, how="left")
    if (soft := soft_labels(probes, tau)) is not None:
        frame = frame.merge(soft, on=unit, how="left")
    judged = choice.table.drop(columns=list(COMPANIONS), errors="ignore")  # the soft labels hold them, at `tau`
    judged = judged.rename(columns={"accuracy": "student_accuracy"})
    frame = judged[[*unit, "params"]].merge(frame, on=unit).merge(judged.drop(columns="params"), on=unit)
    frame = frame.dropna(axis="columns", how="all")
    return _table("teachers", "Teachers", f"One row per teacher, best first. {_meanings(frame, choice, tau)}.", frame)


def _meanings(frame: pd.DataFrame, choice: Choice, tau: float) -> str:
    """What the columns that the table of teachers has mean."""
    score = f"what the rule '{choice.rule}' goes by"
    if "measured" in frame:
        score = "points of accuracy by which its students are predicted to stand above their mean over the teachers"
    if "student_accuracy" in frame:
        score = "accuracy of its students on the choosing split, shrunken toward what is expected of it"
    meanings = {
        "runs": "runs of the teacher itself",
        "derived_std": f"this and the columns beside it: soft labels at tau={tau:g}",
        "score": f"{score}; low, high: its 95 % interval",
        "p_best": "chance of being the best teacher",
        "regret": "accuracy points expected to be lost by taking it",
        "tie": "too close to the best to call",
        "measured": "whether it has students; others are predicted",
        "student_accuracy": "on the reporting split",
        "gain": "points over plain cross-entropy on the reporting split, with its 95 % interval",
    }
    return "; ".join(f"{name}: {meaning}" for name, meaning in meanings.items() if name in frame)


def students(choice: Choice) -> list[Table]:
    """Each student's own best teacher and setting, and how far settings can be told apart; nothing without results."""
    if choice.students.empty:
        return []
    caption = (
        "The setting and teacher that each student does best with on the choosing split; accuracy, ce (plain "
        "cross-entropy) and gain (points, with its 95 % interval) on the reporting split."
    )
    tables = [_table("students", "Students", caption, choice.students)]
    if not choice.settings.empty:
        caption = (
            "Each setting with its best teacher, on the choosing split; behind: accuracy points below the first, with "
            "their 95 % interval; p_best: chance of being the best setting; tie: too close to the first to call."
        )
        redundant = ["method", "tau", *(["student"] if len(choice.students) == 1 else [])]  # in the label, and above
        settings = choice.settings.drop(columns=redundant, errors="ignore")
        tables.append(_table("settings", "Settings", caption, settings))
    return tables


def rules(choice: Choice) -> Table:
    """Whom simple rules take, and what following them loses."""
    frame = choice.rules.drop(columns="value").dropna(axis="columns", how="all")
    loss = "; regret: the accuracy points that it is expected to lose by that, with its 95 % interval"
    caption = f"Whom each rule would take from the probes alone{loss if 'regret' in frame else ''}."
    return _table("rules", "Rules", caption, frame)


def probes(frame: pd.DataFrame, taus: Iterable[float]) -> list[Table]:
    """The probes without temperature, and those at each temperature; one row per teacher, the mean over its runs."""
    split = resolve_split(frame["split"], "val", among=None)
    frame = frame[frame["split"].eq(split)]
    kinds = [("probes", "Probes without temperature", frame["tau"].isna())]
    kinds += [(f"probes-tau-{tau:g}", f"Probes at tau={tau:g}", frame["tau"].eq(tau)) for tau in taus]
    tables = []
    for name, title, chosen in kinds:
        wide = _wide(frame[chosen], ["family", "teacher"], "probe")
        if len(wide):
            tables.append(_table(name, title, f"One row per teacher, the mean over its runs, on split {split}.", wide))
    return tables


def links(frame: pd.DataFrame) -> Table:
    """The strongest Spearman links, and beside each derived probe those of p_y and IV at its temperature."""
    spearman = frame[frame["metric"].eq("spearman") & frame["value"].notna()]
    spearman = spearman.reset_index(drop=True)
    keys = list(spearman[["student", "label", "tau", "probe"]].itertuples(index=False, name=None))
    position = {key: index for index, key in enumerate(keys)}
    shown: dict[int, None] = {}  # an ordered set
    for index, (student, label, tau, probe) in enumerate(keys[:TOP_LINKS]):
        companions = [position.get((student, label, tau, name), -1) for name in COMPANIONS] if probe in DERIVED else []
        if -1 not in companions:
            shown |= dict.fromkeys([index, *companions])
    columns = [
        "student",
        "label",
        "probe",
        "tau",
        "value",
        "low",
        "high",
        "p",
        "p_adjusted",
        "n",
        "partial_target_prob",
        "partial_accuracy",
        "partial_params",
        "expected_sign",
        "findings",
    ]
    caption = (
        f"The {TOP_LINKS} strongest of {len(spearman)} Spearman correlations of a probe with the students' accuracy "
        "over teachers, with 95 % intervals; derived probes are followed by p_y and the inherent variance at the same "
        "temperature. n: teachers; p_adjusted: corrected for the number of probes; partial_*: with that variable held "
        "fixed; expected_sign: the direction that the probe's source expects, 0 for none."
    )
    return _table("links", "Links", caption, spearman.iloc[list(shown)][[name for name in columns if name in spearman]])


def ranks(frame: pd.DataFrame) -> Table:
    """Agreement of each two teachers, one column per metric; a teacher with itself is the noise floor."""
    wide = _wide(frame, ["family_a", "teacher_a", "family_b", "teacher_b"], "metric")
    if wide["family_a"].eq(wide["family_b"]).all() and wide["family_a"].nunique() == 1:
        wide = wide.drop(columns=["family_a", "family_b"])
    caption = (
        "Mean over examples and pairs of runs. A teacher with itself: runs that differ in the seed, the noise floor."
    )
    return _table("ranks", "Class ranks", caption, wide)


def restored(frame: pd.DataFrame) -> Table:
    """What TS, ATS and ISATS make of each teacher's soft labels, one column per quantity."""
    kinds, apart = [], ""
    if "rows" in frame:
        kinds, apart = ["rows"], " rows: all examples, those that the teacher gets right, or those that it gets wrong."
    wide = _wide(frame.dropna(subset="value"), ["family", "teacher", "method", *kinds], "quantity")
    caption = (
        "Mean over runs. flipped: share of examples whose arg max moved; overtaken: share of those with the target on "
        "top where it no longer is; at_bound: share whose search for tau_other ended on its bound."
    )
    return _table("restored", "Restored variance", caption + apart, wide)


def results(frame: pd.DataFrame) -> Table:
    """Mean and standard deviation of the students' accuracy over runs, a pair of columns per split."""
    keys = ["student", "label", "family", "teacher"]
    by_split = []
    for split, rows in frame.groupby("split", sort=False):
        spread = rows.groupby(keys, sort=False, dropna=False)["accuracy"].agg(["mean", "std", "count"])
        by_split.append(spread.set_axis([f"accuracy_{split}", f"sd_{split}", f"runs_{split}"], axis="columns"))
    caption = (
        "Mean accuracy of the students, its standard deviation over runs, and the number of runs. Rows without a "
        "teacher: plain cross-entropy."
    )
    return _table("results", "Students' results", caption, pd.concat(by_split, axis="columns").reset_index())


def likelihoods(frame: pd.DataFrame) -> Table:
    """Mean of what is measured of language models alone, on the split to report."""
    rows = frame[frame["split"].eq(resolve_split(frame["split"]))]
    names = [name for name in ("nll", "nll_calibrated", "temperature", "bits_per_byte", "kl") if name in rows]
    keys = ["student", "label", "family", "teacher"]
    means = rows.groupby(keys, sort=False, dropna=False)[names].mean().reset_index()
    caption = (
        "Means over runs on the split to report: negative log likelihood of the next token in nats, as it is and at "
        "the one temperature of the student's logits that is best on the validation rows; that temperature; bits for a "
        "byte of text; KL divergence of the student from its teacher in nats. Less is better."
    )
    return _table("likelihoods", "Students' likelihoods", caption, means)


def _wide(frame: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Means over runs, one column per probe, metric or quantity; derived ones only beside p_y and IV."""
    wide = frame.pivot_table(index=keys, columns=column, values="value", sort=False).reset_index()
    names = [name for name in wide if name not in keys]
    if not set(COMPANIONS) <= set(names):
        names = [name for name in names if name not in DERIVED]
    return wide[[*keys, *sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))]]


def _table(name: str, title: str, caption: str, frame: pd.DataFrame) -> Table:
    if "family" in frame and frame["family"].replace("", np.nan).nunique() <= 1:
        frame = frame.drop(columns="family")  # the same in each row
    columns = [_cells(frame.iloc[:, column]) for column in range(frame.shape[1])]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(name, title, caption, [str(column) for column in frame], rows)


def _cells(column: pd.Series) -> list[Cell]:
    if pd.api.types.is_bool_dtype(column):
        return [Cell("yes" if value else "no", str(int(value)), False) for value in column]
    if pd.api.types.is_numeric_dtype(column):
        finite = column[np.isfinite(column)]
        integers = bool((finite == finite.round()).all())  # one format a column, for points to stand below each other
        texts = [format_number(value, padded=True, whole=integers, missing="–") for value in column]
        keys = [repr(float(value)) if np.isfinite(value) else "" for value in column]
        return [Cell(text, key, True) for text, key in zip(texts, keys, strict=True)]
    texts = ["" if pd.isna(value) else str(value) for value in column]
    return [Cell(text, text, False) for text in texts]
