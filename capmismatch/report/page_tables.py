"""The tables of the report page: from a study's tidy frames to cells that a person reads and a script sorts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from capmismatch._utils.text import format_number
from capmismatch.selection.choice import Choice
from capmismatch.selection.rules import COMPANIONS, DERIVED
from capmismatch.stats.matching import resolve_split, students_of

TOP_LINKS = 30
"""How many of the strongest links the page shows; the others are in the file."""

_FIRST = (*COMPANIONS, *DERIVED)  # side by side, and ahead of the other columns


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes
    ----------
    name : str
        In the table's file.
    header : str
        On the page, with its unit.
    meaning : str
        Shown where the pointer rests on the header.
    """

    name: str
    header: str
    meaning: str


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
    columns : list of Column
        Its head.
    rows : list of list of Cell
        Its body.
    """

    name: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]


class Form(NamedTuple):
    """How a column's numbers are written: times `scale`, with `decimals`; None for four significant digits."""

    unit: str = ""
    scale: float = 1.0
    decimals: int | None = None
    is_chance: bool = False  # estimated from draws: never 0 or 100


PERCENT, POINTS, SIGNED = Form(" (%)", 100, 2), Form(" (points)", 1, 2), Form("", 1, 2)
DIGITS, CHANCE, NATS = Form(), Form(" (%)", 100, 0, is_chance=True), Form(" (nats)", 1, 3)

COLUMNS: dict[str, tuple[str, str, Form]] = {
    "teacher": ("teacher", "The teacher; its family too where names are not unique.", DIGITS),
    "params": ("params", "Number of parameters.", DIGITS),
    "macs": ("macs", "Multiply-accumulate operations of one forward pass of one example.", DIGITS),
    "runs": ("runs", "Training runs of the teacher itself, with different seeds.", DIGITS),
    "p_best": ("P(best)", "Probability of being the best of these.", CHANCE),
    "regret": ("regret", "Expected regret: accuracy points lost against the best teacher.", POINTS),
    "regret_low": ("regret at least", "Lower end of the 95 % interval of the regret.", POINTS),
    "tie": ("tie", "Not significantly worse than the best. It may still be worse.", DIGITS),
    "measured": ("measured", "Whether it has student results; without them its value is predicted.", DIGITS),
    "teacher_accuracy": ("own accuracy", "Accuracy of the teacher itself on the validation split.", PERCENT),
    "accuracy": ("accuracy", "Test accuracy of the students.", PERCENT),
    "ce": ("CE accuracy", "Test accuracy of the same student with plain cross-entropy.", PERCENT),
    "gain": ("gain", "Test accuracy minus that of plain cross-entropy, in points.", POINTS),
    "behind": ("behind", "Validation accuracy points behind the first.", POINTS),
    "elsewhere": ("elsewhere", "Mean regret of the rule in the evidence, in accuracy points.", POINTS),
    "n": ("teachers", "Number of teachers.", DIGITS),
    "p": ("p", "p-value of no correlation, uncorrected.", Form("", 1, 4)),
    "p_adjusted": ("adjusted p", "p-value, corrected for the number of probes.", Form("", 1, 4)),
    "p_max": ("max-T p", "The same, by how often the largest of all probes is as large.", Form("", 1, 4)),
    "p_overall": ("overall p", "p-value, corrected for students and settings as well.", Form("", 1, 4)),
    "ceiling": ("ceiling", "Highest correlation to expect of any probe, given the noise of seeds.", SIGNED),
    "collinear": ("collinear with", "What explains 90 % or more of the probe over these teachers.", DIGITS),
    "expected_sign": ("expected sign", "Direction that the probe's source expects; 0 for none.", DIGITS),
    "partial_target_prob": ("given p_y", "The correlation with p_y held fixed.", SIGNED),
    "partial_accuracy": ("given own accuracy", "The correlation with the teacher's accuracy held fixed.", SIGNED),
    "partial_params": ("given params", "The correlation with the number of parameters held fixed.", SIGNED),
    "target_prob": ("p_y", "Mean probability of the target class.", DIGITS),
    "inherent_variance": (
        "inherent variance",
        "IV: variance of the wrong classes' probabilities, scaled to sum 1.",
        DIGITS,
    ),
    "derived_variance": (
        "derived variance",
        "DV = (1 - p_y)^2 IV: variance of the wrong classes' probabilities.",
        DIGITS,
    ),
    "derived_std": ("derived std", "Square root of the derived variance of an example, averaged.", DIGITS),
    "findings": ("findings", "Codes of warnings about the number.", DIGITS),
}
"""Column -> header, meaning, and how its numbers are written. A table may say otherwise of its own."""


def of_frame(frame: pd.DataFrame) -> Table:
    """Any frame, with headers and units of the columns that are known."""
    return _table("table", "", "", frame)


def teachers(choice: Choice, probes: pd.DataFrame | None) -> Table:
    """The teachers, best first: how good, how sure, how large; with what the probes say of them."""
    unit, frame = ["family", "teacher"], choice.table
    if probes is not None:
        probes = probes[probes["split"].eq(resolve_split(probes["split"], "val", among=None))]
        own = probes.groupby(unit, as_index=False).agg(macs=("macs", "first"), runs=("seed", "nunique"))
        accuracies = probes[probes["probe"].eq("accuracy")].groupby(unit)["value"].mean().rename("teacher_accuracy")
        frame = frame.merge(own.merge(accuracies.reset_index(), on=unit, how="left"), on=unit, how="left")
    frame = frame.dropna(axis="columns", how="all")
    head, form, meaning = _score(frame, choice)
    if "measured" in frame and frame["measured"].all():
        frame = frame.drop(columns="measured")
    first = [*unit, "score", "p_best", "regret", "within", "tie", "params"]
    frame = frame[[*(name for name in first if name in frame), *(name for name in frame if name not in first)]]
    within = f"Probability that its regret is at most {choice.comparison.tolerance:g} {choice.metric.unit}."
    special = {
        "score": (head, meaning, form),
        "within": (f"within {choice.comparison.tolerance:g}", within, CHANCE),
        "accuracy": ("test accuracy", "Test accuracy of its students.", PERCENT),
        **_by_likelihood(choice),
    }
    return _table("teachers", "Teachers", "One row per teacher, best first, with 95 % intervals.", frame, special)


def _score(frame: pd.DataFrame, choice: Choice) -> tuple[str, Form, str]:
    """Header, form and meaning of the score."""
    if "accuracy" in frame:
        meaning = "Validation accuracy of its students, shrunk toward the prediction of the model."
        return "student accuracy", PERCENT, meaning
    if choice.metric.less_is_better:
        return (
            "student NLL",
            NATS,
            "Validation NLL of its students, shrunk toward the prediction of the model.",
        )
    if "measured" in frame:
        return (
            "predicted",
            POINTS,
            "Predicted accuracy of its students, in points above the mean over teachers.",
        )
    return "score", DIGITS, f"The probe of the rule '{choice.rule}'."


def students(choice: Choice) -> list[Table]:
    """Each student's own best teacher and setting, and how far settings can be told apart; nothing without results."""
    if choice.students.empty:
        return []
    caption = (
        "The best setting and teacher of each student, chosen on validation accuracies; shown are test accuracies and "
        "gain."
    )
    special = _by_likelihood(choice)
    caption = caption.replace("accuracies", "likelihoods") if special else caption
    tables = [_table("students", "Students", caption, choice.students, special)]
    if not choice.settings.empty:
        caption = "Each setting with its best teacher, on validation rows, with 95 % intervals."
        redundant = ["method", "tau", *(["student"] if len(choice.students) == 1 else [])]  # in the label, and above
        settings = choice.settings.drop(columns=redundant, errors="ignore")
        score = ("accuracy", "Estimated validation accuracy with that teacher.", PERCENT)
        if special:
            score = ("NLL", "Estimated validation NLL with that teacher.", NATS)
        tables.append(_table("settings", "Settings", caption, settings, {"score": score, **special}))
    return tables


def rules(choice: Choice) -> Table:
    """The teachers that simple rules take, and the regret of that."""
    frame = choice.rules.drop(columns="value").dropna(axis="columns", how="all")
    caption = "The teacher that each rule takes, from the probes alone."
    if choice.basis.seeds is not None and not choice.basis.missing.split:
        caption += " Regret is on test rows; that of the teachers above is on validation rows."
    return _table("rules", "Rules", caption, frame, _by_likelihood(choice))


def _by_likelihood(choice: Choice) -> dict[str, tuple[str, str, Form]]:
    """What columns of a choice mean where students are compared by likelihood; nothing where by accuracy."""
    if not choice.metric.less_is_better:
        return {}
    return {
        "nll": ("test NLL", "Negative log likelihood of the students on test rows.", NATS),
        "ce": ("CE", "NLL with plain cross-entropy, without a teacher.", NATS),
        "gain": ("gain", "Test NLL below that of plain cross-entropy.", NATS),
        "regret": ("regret", "Expected regret: NLL lost against the best teacher.", NATS),
        "regret_low": ("regret at least", "Lower end of the 95 % interval of the regret.", NATS),
        "behind": ("behind", "NLL above that of the first.", NATS),
    }


def probes(frame: pd.DataFrame, taus: Iterable[float]) -> list[Table]:
    """The probes without temperature, and those at each temperature; one row per teacher, the mean over its runs."""
    split = resolve_split(frame["split"], "val", among=None)
    frame = frame[frame["split"].eq(split)]
    students = students_of(frame)  # what a pair says of one student is nothing about another
    frame = frame.assign(probe=frame["probe"].where(students.eq(""), frame["probe"] + " of " + students))
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
        "p_max",
        "p_overall",
        "ceiling",
        "n",
        "partial_target_prob",
        "partial_accuracy",
        "partial_params",
        "collinear",
        "expected_sign",
        "findings",
    ]
    caption = (
        f"The {TOP_LINKS} strongest of {len(spearman)} Spearman correlations of a probe with student accuracy over "
        "teachers, with 95 % intervals. Each derived probe is followed by p_y and the inherent variance at the same "
        "temperature."
    )
    special = {"value": ("Spearman", "Rank correlation with the students' accuracy over teachers.", SIGNED)}
    table = spearman.iloc[list(shown)][[name for name in columns if name in spearman]]
    return _table("links", "Links", caption, table, special)


def ranks(frame: pd.DataFrame) -> Table:
    """Agreement of each two teachers, one column per metric; a teacher with itself is the noise floor."""
    wide = _wide(frame, ["family_a", "teacher_a", "family_b", "teacher_b"], "metric")
    if wide["family_a"].eq(wide["family_b"]).all() and wide["family_a"].nunique() == 1:
        wide = wide.drop(columns=["family_a", "family_b"])
    caption = "Mean over examples and pairs of runs. A teacher with itself: runs with different seeds, the noise floor."
    return _table("ranks", "Class ranks", caption, wide)


def restored(frame: pd.DataFrame) -> Table:
    """What TS, ATS and ISATS make of each teacher's soft labels, one column per quantity."""
    kinds, apart = [], ""
    if "rows" in frame:
        kinds, apart = ["rows"], " rows: all examples, those that the teacher gets right, or those that it gets wrong."
    wide = _wide(frame.dropna(subset="value"), ["family", "teacher", "method", *kinds], "quantity")
    caption = (
        "Mean over runs. flipped: share of examples whose most likely class changes; overtaken: share of examples "
        "where the target is no longer the most likely class; at_bound: share whose search for tau_other ends on its "
        "bound."
    )
    return _table("restored", "Restored variance", caption + apart, wide)


def results(frame: pd.DataFrame) -> Table:
    """Mean and standard deviation of the students' accuracy over runs, a pair of columns per split."""
    keys = ["student", "label", "family", "teacher"]
    by_split = []
    for split, rows in frame.groupby("split", sort=False):
        spread = rows.groupby(keys, sort=False, dropna=False)["accuracy"].agg(["mean", "std", "count"])
        by_split.append(spread.set_axis([f"accuracy_{split}", f"sd_{split}", f"runs_{split}"], axis="columns"))
    caption = "Mean over runs and standard deviation (SD). Rows without a teacher: plain cross-entropy."
    splits = list(frame["split"].unique())
    special = {f"accuracy_{split}": (f"{split} accuracy", "Mean over runs.", PERCENT) for split in splits}
    deviation = "Standard deviation over runs, in accuracy points."
    special |= {f"sd_{split}": (f"{split} SD", deviation, Form(" (points)", 100, 2)) for split in splits}
    special |= {f"runs_{split}": (f"{split} runs", "Number of runs.", DIGITS) for split in splits}
    table = pd.concat(by_split, axis="columns").reset_index()
    return _table("results", "Students' results", caption, table, special)


def likelihoods(frame: pd.DataFrame) -> Table:
    """Mean of what is measured of language models alone, on test rows."""
    rows = frame[frame["split"].eq(resolve_split(frame["split"]))]
    names = [name for name in ("nll", "nll_calibrated", "temperature", "bits_per_byte", "kl") if name in rows]
    keys = ["student", "label", "family", "teacher"]
    means = rows.groupby(keys, sort=False, dropna=False)[names].mean().reset_index()
    caption = (
        "Means over runs on test rows: negative log likelihood of the next token in nats, as it is and at "
        "the one temperature of the student's logits that is best on the validation rows; that temperature; bits per "
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


def _table(
    name: str,
    title: str,
    caption: str,
    frame: pd.DataFrame,
    special: Mapping[str, tuple[str, str, Form]] | None = None,
) -> Table:
    """A frame as a page's table; an interval follows the value that it belongs to, in one column."""
    if "family" in frame and frame["family"].replace("", np.nan).nunique() <= 1:
        frame = frame.drop(columns="family")  # the same in each row
    about = COLUMNS | dict(special or {})
    columns, cells = [], []
    for column in (str(name) for name in frame if name not in INTERVALS):
        header, meaning, form = about.get(column, (column, "", DIGITS))
        columns.append(Column(column, header + form.unit, meaning))
        cells.append(_cells(frame[column], form))
        low, high = _interval_of(column, frame)
        if low:
            columns.append(Column(low, "95 % interval", f"95 % interval of “{header}”, in its unit."))
            cells.append(_intervals(frame[low], frame[high], form))
    return Table(name, title, caption, columns, [list(row) for row in zip(*cells, strict=True)])


INTERVALS = ("low", "high", "gain_low", "gain_high")
"""Columns that hold the ends of an interval."""


def _interval_of(column: str, frame: pd.DataFrame) -> tuple[str, str]:
    """The columns that hold the ends of a column's 95 % interval; empty names where it has none."""
    if column == "gain" and "gain_low" in frame:
        return "gain_low", "gain_high"
    owner = next((name for name in ("behind", "regret", "value", "score") if name in frame), "")
    if "score" in frame and "behind" not in frame:
        owner = "score"
    return ("low", "high") if column == owner and {"low", "high"} <= set(frame) else ("", "")


def _intervals(low: pd.Series, high: pd.Series, form: Form) -> list[Cell]:
    return [
        Cell(f"[{_written(a, form)}, {_written(b, form)}]", repr(float(a)), True)
        if np.isfinite(a) and np.isfinite(b)
        else Cell("–", "", True)
        for a, b in zip(low, high, strict=True)
    ]


def _written(value: float, form: Form) -> str:
    if form.decimals is None:
        return format_number(value, padded=True, whole=False)
    if form.is_chance and not 0.01 <= value <= 0.99:
        return ">99" if value > 0.5 else "<1"
    return f"{form.scale * value:.{form.decimals}f}"


def _cells(column: pd.Series, form: Form) -> list[Cell]:
    if pd.api.types.is_bool_dtype(column):
        return [Cell("yes" if value else "no", str(int(value)), False) for value in column]
    if not pd.api.types.is_numeric_dtype(column):
        texts = ["" if pd.isna(value) else str(value) for value in column]
        return [Cell(text, text, False) for text in texts]
    finite = column[np.isfinite(column)]
    whole = form.decimals is None and bool((finite == finite.round()).all())  # one format a column: points line up
    return [
        Cell("–", "", True)
        if not np.isfinite(value)
        else Cell(
            format_number(value, padded=True, whole=True) if whole else _written(value, form), repr(float(value)), True
        )
        for value in column
    ]
