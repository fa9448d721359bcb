"""The answer of `pick`: which teacher, why, and at what risk; as text, HTML and Markdown."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field

import pandas as pd

from capmismatch._utils.text import short
from capmismatch.findings import explain
from capmismatch.selection.rules import COMPANIONS

_WIDTH = 100
STUDENT_COLUMNS = (
    *("student", "label", "method", "tau", "family", "teacher", "p_best"),
    *("accuracy", "ce", "gain", "gain_low", "gain_high"),
)
"""Columns of `Choice.students`."""

SETTING_COLUMNS = (
    *("student", "label", "method", "tau", "family", "teacher"),
    *("score", "behind", "low", "high", "p_best", "tie"),
)
"""Columns of `Choice.settings`."""

_GROUNDS = {
    "results": "its students' results",
    "evidence": "the evidence of other students",
    "pilot": "a pilot",
}
_TEACHER_COLUMNS = ["family", "teacher", "params", "score", "low", "high", *COMPANIONS, "p_best", "regret", "tie"]


@dataclass(frozen=True, repr=False)
class Choice:
    """A teacher to distil from, and what speaks for and against it.

    Attributes
    ----------
    teacher, family : str
        The choice.
    rule : str
        What it was made by: ``"results"``, ``"evidence"``, ``"pilot"``, or the name of a rule; `grounds` says it in
        words.
    student, label, method : str or None
        The student and its setting; None where there are no results, or where several students differ. By evidence, the
        setting that did best there on average. How sure it is: see `settings`.
    tau : float or None
        The teacher's temperature in that setting, or that at which the probe of the rule was taken.
    table : DataFrame
        One row a teacher, best first: ``family, teacher, params, score, low, high, p_best, regret, tie, ...``.
        `score` is the probe, the shrunken validation accuracy (with results), or the points of accuracy by which
        students are predicted to stand above their mean over the teachers (by evidence); `low` and `high` are its 95 %
        interval, `p_best` the chance of being the best teacher and `regret` the accuracy points expected to be lost
        by taking it (NaN by a probe alone). Intervals of accuracies serve to compare teachers: they are for the mean
        over these seeds, and leave out what a seed does to all students alike, so that those of new seeds may lie
        outside. Where `score` is a derived probe, ``target_prob`` and
        ``inherent_variance`` stand beside it, as far as they were measured.
    rules : DataFrame
        ``rule, family, teacher, value, regret, low, high``: whom each rule takes, and the accuracy points lost on
        the test split by following it. By a probe alone, what that probe says of the teacher (``score``, ``tie`` and
        the probes beside it) instead; by evidence also ``elsewhere``, the points that the rule lost there.
    students : DataFrame
        One row a student, empty without results: ``student, label, method, tau, family, teacher, p_best, accuracy,
        ce, gain, gain_low, gain_high``: its own best teacher, that teacher's test accuracy, and the gain over
        cross-entropy in points.
    settings : DataFrame
        One row a student and setting, best first: ``student, label, method, tau, family, teacher, score, behind, low,
        high, p_best, tie``: the setting's best teacher and its estimated accuracy, the points that it lies behind the
        best setting with their 95 % interval (within seeds), the chance of being the best setting, and whether that
        interval covers zero. Empty where a single setting was looked at. By evidence, the mean over the students there,
        without `student`, `family` and `teacher`.
    reasons, risks : list of str
        In words, with numbers.
    findings : list of str
        Codes; see `capmismatch.findings.explain`.
    trust : DataFrame
        ``probe, points, low, high``, by evidence: the accuracy points that a standard deviation of the probe within the
        family is worth.
    rungs : DataFrame
        What a pilot did; see `capmismatch.pilot`.
    """

    teacher: str
    family: str
    rule: str
    student: str | None
    label: str | None
    method: str | None
    tau: float | None
    table: pd.DataFrame
    rules: pd.DataFrame
    students: pd.DataFrame
    reasons: list[str]
    risks: list[str]
    findings: list[str]
    trust: pd.DataFrame = field(default_factory=pd.DataFrame)
    rungs: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def grounds(self) -> str:
        """What the choice was made by, in words."""
        return _GROUNDS.get(self.rule, f"the rule '{self.rule}'")

    @property
    def title(self) -> str:
        """The choice in one line."""
        setting = [] if self.student is None else [f"student {self.student}"]
        setting += [] if self.label is None else [self.label]
        return f"Take teacher {self.family}/{self.teacher} by {self.grounds}" + (
            f" ({', '.join(setting)})" if setting else ""
        )

    def _sections(self) -> list[tuple[str, pd.DataFrame | list[str]]]:
        notes = [f"{code} {explain(code).title}" for code in self.findings]
        tables: list[tuple[str, pd.DataFrame | list[str]]] = [
            ("Why", self.reasons),
            ("Risks", self.risks),
            ("Findings", notes),
            ("Teachers", _known(self.table[[name for name in _TEACHER_COLUMNS if name in self.table]])),
            ("Students", self.students[["student", "label", "teacher", "accuracy", "gain", "gain_low", "gain_high"]]),
            ("Settings", _compared(self.settings)),
            ("Rules", _known(self.rules.drop(columns="family"))),
            ("Trust", self.trust),
            ("Rungs", _rungs(self.rungs)),
        ]
        return [(name, content) for name, content in tables if len(content)]

    def __repr__(self) -> str:
        """A page of text, 100 columns wide."""
        lines = textwrap.wrap(self.title, _WIDTH)
        for name, content in self._sections():
            lines += ["", name]
            if isinstance(content, pd.DataFrame):
                text = content.to_string(
                    index=False, float_format=short, na_rep="-", max_colwidth=26, line_width=_WIDTH
                )
                lines += text.split("\n")
            else:
                for item in content:
                    lines += textwrap.wrap(item, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        parts = [f"<h3>{html.escape(self.title)}</h3>"]
        for name, content in self._sections():
            parts.append(f"<h4>{name}</h4>")
            if isinstance(content, pd.DataFrame):
                parts.append(content.to_html(index=False, float_format=short, na_rep="-", escape=True, border=0))
            else:
                parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in content) + "</ul>")
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """The page as Markdown, with pipe tables."""
        parts = [f"## {_cell(self.title)}"]
        for name, content in self._sections():
            if isinstance(content, pd.DataFrame):
                rows = [list(content.columns), ["---"] * content.shape[1], *content.to_numpy(dtype=object).tolist()]
                body = "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)
            else:
                body = "\n".join(f"- {_plain(item)}" for item in content)
            parts.append(f"### {name}\n\n{body}")
        return "\n\n".join(parts) + "\n"


def _rungs(arms: pd.DataFrame) -> pd.DataFrame:
    """One row a rung of a pilot: its arms, and which of them was likeliest the best."""
    if arms.empty:
        return arms
    by = ["stage", "rung", "epochs", "seeds"]
    best = arms.loc[arms.groupby(by, sort=False)["p_best"].idxmax()]
    counts = arms.groupby(by, sort=False)["kept"].agg(arms="size", kept="sum").reset_index()
    return counts.merge(best[[*by, "teacher", "label", "p_best"]], on=by)


def _compared(settings: pd.DataFrame) -> pd.DataFrame:
    """Settings for the page: all of a single student, those that are tied of several."""
    if "student" in settings:
        one = settings["student"].nunique() <= 1
        settings = settings.drop(columns="student") if one else settings[settings["tie"]]
    return settings.drop(columns=["method", "tau", "family"], errors="ignore")


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that hold nothing, as all that takes results does where there are none."""
    return frame.dropna(axis="columns", how="all")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return short(value)
    return _plain(str(value)).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Names that look like tags are shown, not obeyed."""
    return html.escape(text, quote=False)
