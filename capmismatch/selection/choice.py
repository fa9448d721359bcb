"""The answer of `pick`: which teacher, by what numbers; and how it is shown as text, HTML and Markdown."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch._utils.text import format_number
from capmismatch.findings import explain
from capmismatch.selection import cautions
from capmismatch.selection import reasons as sentences
from capmismatch.selection.cells import cell, in_units, plain, rung_summary, shown_settings, without_empty
from capmismatch.selection.choice_parts import GAIN, Basis, Comparison, PilotRecord, Setting
from capmismatch.selection.first_guess import SmallestPilot
from capmismatch.selection.handover import OF_TABLES, HandOver
from capmismatch.selection.metric import LEVELS, Metric
from capmismatch.selection.reasons import AHEAD, CLEAR, LEANING
from capmismatch.selection.rules import COMPANIONS, RULES
from capmismatch.stats.correlations import FEW_TEACHERS

_WIDTH = 100

_TEACHER_COLUMNS = [
    *("family", "teacher", "params", "score", "low", "high"),
    *COMPANIONS,
    *("p_best", "regret", "within", "tie"),
]

SURE_WITHIN = 0.9
"""Chance of losing no more than the tolerance from which on a teacher counts as good enough."""


# Numbers and codes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Choice(HandOver):
    """A teacher to distil from, and what speaks for and against it.

    It holds numbers and codes alone; sentences (`title`, `reasons`, `risks`) and pages are made when they are shown.

    Attributes
    ----------
    teacher, family : str
        The teacher chosen, and its family.
    rule : str
        What it was chosen by: ``"results"``, ``"evidence"``, ``"pilot"``, or the name of a rule.
    setting : Setting
        The student and its setting, also as attributes of the choice (`student`, `label`, `method`, `tau`). By
        evidence, the setting that did best there on average. How sure it is: see `settings`.
    comparison : Comparison
        The tables, also as attributes of the choice (`table`, `rules`, `students`, `settings`).
    basis : Basis
        What was missing, what the seeds say of the noise, and what the evidence is.
    findings : list of str
        Codes; see `capmismatch.findings.explain`.
    pilot : PilotRecord or None
        What a pilot did.
    source : str
        The study file or the bank's folder whose teachers these are, for `command`; "" where they are of tables.
    soften_options : tuple of str
        Further words of `command`.
    no_command : str
        Why there is no `command`: it would have no training rows; else "".

    See Also
    --------
    capmismatch.pick : Makes a choice.
    capmismatch.plots.pick_chart : Draws its table.
    """

    teacher: str
    family: str
    rule: str
    setting: Setting
    comparison: Comparison
    basis: Basis
    findings: list[str]
    pilot: PilotRecord | None = None
    source: str = ""
    soften_options: tuple[str, ...] = ()
    no_command: str = OF_TABLES

    @property
    def student(self) -> str | None:
        """The student; None without results, or where there are several."""
        return self.setting.student

    @property
    def label(self) -> str | None:
        """The setting; None without results and evidence, or where it differs between students."""
        return self.setting.label

    @property
    def method(self) -> str | None:
        """The method of that setting."""
        return self.setting.method

    @property
    def tau(self) -> float | None:
        """The teacher's temperature in that setting, or that at which the probe of the rule was taken."""
        return self.setting.tau

    @property
    def metric(self) -> Metric:
        """By what students are compared. By "nll", accuracies of the tables are NLLs, and points are nats."""
        return self.comparison.metric

    @property
    def table(self) -> pd.DataFrame:
        """The teachers, best first.

        Returns
        -------
        DataFrame
            One row per teacher:

            - ``family, teacher, params`` : the teacher and its number of parameters
            - ``score`` : its probe; with results the shrunken accuracy on validation rows; by evidence the
              points of accuracy by which its students are predicted to stand above their mean over the teachers
            - ``low, high`` : 95 % interval of the score. Intervals of accuracies serve to compare teachers: they are
              for the mean over these seeds, and leave out what a seed does to all students alike, so that accuracies of
              new seeds may lie outside
            - ``p_best`` : chance of being the best teacher; NaN by a probe alone
            - ``regret`` : accuracy points expected to be lost by taking it; NaN by a probe alone
            - ``within`` : chance of losing no more than the tolerance by taking it; NaN by a probe alone
            - ``tie`` : whether the 95 % interval of its difference from the best covers zero: not shown to be worse,
              which does not mean as good
            - ``target_prob, inherent_variance`` : beside a score that is a derived probe, where they were measured
            - ``measured`` : with results or evidence, whether it has students in this setting
            - ``accuracy`` : with results, estimated accuracy on test rows, drawn toward the peers as the
              score is: the mean of the seeds by which a teacher was chosen would be too high
            - ``gain, gain_low, gain_high`` : with results, points over plain cross-entropy there, and their 95 %
              interval; NaN where some student lacks plain cross-entropy
        """
        return self.metric.shown(self.comparison.teachers)

    def plot_table(self, name: str) -> pd.DataFrame | None:
        """The table from which `capmismatch.plots` draws this: "pick"; None by any other name."""
        if name != "pick":
            return None
        table, rule = self.table, RULES.get(self.rule)
        by_probe = {} if rule is None or "measured" in table else {"probe": rule.probe, "tau": self.tau}
        table.attrs.update({"student": self.student, "label": self.label, **by_probe})
        return table

    @property
    def rules(self) -> pd.DataFrame:
        """The teacher that each rule takes, and its regret.

        Returns
        -------
        DataFrame
            One row per rule:

            - ``rule`` : its name
            - ``family, teacher`` : the teacher that it takes
            - ``value`` : the rule's probe of that teacher
            - ``regret, low, high`` : accuracy points lost by following it on test rows, and their 95 %
              interval; NaN by a probe alone
            - ``elsewhere`` : by evidence, the points that it lost there
            - ``score, tie, target_prob, inherent_variance`` : by a probe alone, how that teacher stands in `table`
        """
        return self.comparison.rules

    @property
    def students(self) -> pd.DataFrame:
        """Every student with its own best teacher; empty without results.

        Returns
        -------
        DataFrame
            One row per student:

            - ``student, label, method, tau`` : the student and its best setting
            - ``family, teacher, p_best`` : its best teacher, and the chance of being that
            - ``accuracy, ce`` : accuracy with that teacher and with plain cross-entropy, on test rows
            - ``gain, gain_low, gain_high`` : points over plain cross-entropy, and their 95 % interval
            - ``regret, regret_low`` : points that its own best teacher is ahead of the chosen one, and the lower end of
              their 95 % interval
        """
        return self.metric.shown(self.comparison.students)

    @property
    def settings(self) -> pd.DataFrame:
        """How settings compare, each by its best teacher; empty where a single setting was looked at.

        Returns
        -------
        DataFrame
            One row per student and setting, best first (by evidence one per setting, the mean over students, without
            ``student``, ``family`` and ``teacher``):

            - ``student, label, method, tau`` : the student and the setting
            - ``family, teacher`` : the setting's best teacher
            - ``score`` : estimated accuracy with that teacher
            - ``behind, low, high`` : points behind the best setting, and their 95 % interval within seeds
            - ``p_best`` : chance of being the best setting
            - ``tie`` : whether that interval covers zero
        """
        return self.metric.shown(self.comparison.settings, levels=("score",))

    @property
    def outlook(self) -> pd.DataFrame:
        """What the studies of the package predict of these teachers; empty with results or evidence of one's own.

        Returns
        -------
        DataFrame
            One row per teacher, best first: ``family, teacher, params``, ``score`` (points by which its students are
            predicted to stand above their mean over the teachers) with ``low, high``, ``p_best``, ``regret`` (points
            expected to be lost) and ``within`` (the chance of losing no more than the tolerance).
        """
        return pd.DataFrame() if self.basis.outlook is None else self.basis.outlook.table

    @property
    def unlike(self) -> tuple[str, ...]:
        """In what these teachers lie outside of all that the package's studies measured, in words."""
        return () if self.basis.outlook is None else self.basis.outlook.unlike

    @property
    def trust(self) -> pd.DataFrame:
        """How far the evidence trusts each probe; empty in other choices.

        Returns
        -------
        DataFrame
            One row per probe:

            - ``probe`` : its name
            - ``points, low, high`` : accuracy points for one standard deviation of the probe within the family, and
              their 95 % interval
        """
        return pd.DataFrame() if self.basis.evidence is None else self.basis.evidence.trust

    @property
    def rungs(self) -> pd.DataFrame:
        """What a pilot did, one row per arm and rung (see `capmismatch.pilot`); empty in other choices."""
        return pd.DataFrame() if self.pilot is None else self.pilot.rungs

    @property
    def p_best(self) -> float:
        """Chance that the chosen teacher is the best of these, in [0, 1]; NaN by a probe alone."""
        return float(self._row["p_best"])

    @property
    def expected_regret(self) -> float:
        """Accuracy points expected to be lost against the best of these teachers, >= 0; NaN by a probe alone."""
        return float(self._row["regret"])

    @property
    def grade(self) -> str:
        """How sure the choice is.

        Returns
        -------
        str
            "clear" (P(best) of 0.8 or more, and by their F test the teachers differ), "leaning" (0.5 or more, and twice
            that of any other), "toss-up", or "none" where no student speaks, where there is one teacher alone, or where
            none is worth taking.
        """
        if pd.isna(self._row["p_best"]) or len(self.table) < 2 or self.takes_none:
            return "none"
        clear = self.p_best >= CLEAR and not sentences.no_difference(self.basis.differences)
        others = self.table.loc[self.table.index != self._row.name, "p_best"]
        leaning = self.p_best >= max(LEANING, AHEAD * others.max())
        return "clear" if clear else "leaning" if leaning else "toss-up"

    @property
    def takes_none(self) -> bool:
        """Whether plain cross-entropy is shown to do better than the best teacher: then none is worth taking."""
        return bool(self._row.get("gain_high", np.nan) < 0)

    @property
    def cheapest(self) -> str | None:
        """The smallest teacher that loses no more than the tolerance with a chance of 90 %, or None."""
        row = self._cheapest
        return None if row is None else str(row["teacher"])

    @property
    def smallest_pilot(self) -> SmallestPilot | None:
        """By a probe alone, the fewest students that would tell which rule is right; None in other choices."""
        if not pd.isna(self._row["p_best"]) or len(self.table) < 2:
            return None
        tau = self.setting.first_tau or self.tau
        return SmallestPilot.of(self.table, self.rules, (self.family, self.teacher), tau)

    @property
    def _cheapest(self) -> pd.Series | None:
        enough = self._good_enough.dropna(subset="params")
        return enough.iloc[int(enough["params"].argmin())] if len(enough) else None

    @property
    def _good_enough(self) -> pd.DataFrame:
        """The teachers that lose no more than the tolerance with a chance of 90 %; none where none is worth taking."""
        return self.table[self.table["within"].ge(SURE_WITHIN) & (not self.takes_none)]

    @property
    def _row(self) -> pd.Series:
        """The chosen teacher's row of the table."""
        chosen = self.table["teacher"].eq(self.teacher) & self.table["family"].eq(self.family)
        return self.table[chosen].iloc[0]

    # Sentences

    @property
    def verdict(self) -> str:
        """How the title begins: "Take teacher", "Leaning to teacher", "Toss-up:", "First guess:", or why it is none."""
        if self.takes_none:
            return "Take no teacher:"
        if len(self.table) < 2:
            return "Nothing to compare:"
        return sentences.VERDICTS[self.grade]

    @property
    def grounds(self) -> str:
        """What the choice is based on, in words."""
        return sentences.grounds(self.rule)

    @property
    def title(self) -> str:
        """The choice in one line."""
        setting = [] if self.student in (None, "student") else [f"student {self.student}"]
        setting += [] if self.label is None else [self.label]
        where = f" ({', '.join(setting)})" if setting else ""
        if self.takes_none:
            worse = "do worse than plain cross-entropy"
            students = f"students of {self.family}/{self.teacher} {worse}{where}"
            return f"Take no teacher, based on {self.grounds}: {students}"
        if len(self.table) < 2:
            return f"{self.verdict} {self.family}/{self.teacher} is the only teacher{where}"
        if self.grade == "none":
            smallest, spread = sentences.smallest_of(self.table, self._row), sentences.spread_in_short(self.rules)
            return f"{self.verdict} {self.family}/{self.teacher}{smallest}, based on {self.grounds}{spread}"
        unshown = sentences.no_difference(self.basis.differences)
        return f"{self.verdict} {self.family}/{self.teacher}, based on {self.grounds}{where}{unshown}"

    @property
    def reasons(self) -> list[str]:
        """What speaks for the choice, in words with numbers."""
        table, row, basis = self.table, self._row, self.basis
        by_numbers: list[str] = []
        if basis.seeds is not None:
            by_numbers += [
                sentences.estimate(table, row, self.metric, basis.missing.split),
                *sentences.settings(self.students, self.settings, self.metric, basis.missing.split),
                *sentences.differences(basis.differences),
                *sentences.ties(table, row, self.metric),
                *sentences.cheapest_within(self._good_enough, row, self.comparison.tolerance, self.metric),
                *sentences.gain(table, row, self.metric, basis.missing.split),
                *sentences.rule_costs(self.rules, self.metric, basis.missing.split),
                *sentences.from_elsewhere(basis.evidence),
            ]
        elif basis.evidence is not None:
            by_numbers += [
                sentences.predicted(table, row),
                *sentences.ties(table, row),
                *sentences.cheapest_within(self._good_enough, row, self.comparison.tolerance),
                *sentences.trusted(basis.evidence),
                *sentences.losses_elsewhere(basis.evidence),
                *sentences.setting_elsewhere(str(self.label), self.settings, basis.evidence),
            ]
        else:
            by_numbers += [
                *sentences.ranking(table, RULES[self.rule], self.tau),
                *sentences.cheapest(table[table["tie"]], row),
                *cautions.outlook(basis.outlook, row, self.rule),
                *sentences.spread_of_rules(self.rules, table),
                *(sentences.rivals(self.rules, row, RULES[self.rule]) if len(table) > 1 else []),
            ]
        before = () if self.pilot is None else self.pilot.reasons
        left_out = sentences.left_out(basis.missing.rules, basis.missing.two_classes)
        return [*before, *by_numbers, *left_out]

    @property
    def risks(self) -> list[str]:
        """What speaks against it, in words with numbers."""
        table, row, basis, missing = self.table, self._row, self.basis, self.basis.missing
        by_numbers: list[str] = []
        if basis.seeds is not None:
            predicted = list(table.loc[~table["measured"], ["family", "teacher"]].itertuples(index=False, name=None))
            by_numbers += [
                *sentences.result_risks(table, row, basis.seeds, self.metric, missing.split),
                *sentences.setting_risks(self.settings),
                *cautions.different_teachers(self.students, row, self.metric),
                *sentences.missing_probes(missing.probes, among=predicted),
                *sentences.one_split_risk(missing.split),
            ]
        elif basis.evidence is not None:
            by_numbers += [
                *sentences.evidence_risks(table, row, basis.evidence),
                *sentences.missing_probes(missing.probes),
                *sentences.setting_risks(self.settings),
            ]
        else:
            by_numbers += [
                sentences.prior_risk(self.smallest_pilot),
                *sentences.without_probe(missing.teachers, RULES[self.rule], self.tau),
                *sentences.confidence_risk(table, RULES[self.rule]),
            ]
        left_out = [*sentences.unusable(missing.unusable), *cautions.repeated(missing.repeated)]
        left_out += [*cautions.same_students(missing.same_students)]
        left_out += [*cautions.unknown_temperature(self.taught_by["name"] if self._lacks_tau else "")]
        left_out += [*cautions.unknown(missing.unknown), *cautions.outlying(basis.outliers)]
        left_out += [*cautions.unfit(missing.unfit), *cautions.unlike(self.unlike)]
        before = (*left_out, *(() if self.pilot is None else self.pilot.risks))
        few = [sentences.few(len(table))] if len(table) < FEW_TEACHERS else []
        return [*before, *by_numbers, *few, *sentences.edge_risk(table, row)]

    # Pages

    def shown_teachers(self) -> pd.DataFrame:
        """The table of the teachers with units in the headers, as pages show it.

        Returns
        -------
        DataFrame
            One row per teacher, best first: names, sizes, and text.
        """
        table = without_empty(self.table[[name for name in _TEACHER_COLUMNS if name in self.table]])
        levels = LEVELS if self.basis.seeds is not None else ()
        points = LEVELS if self.basis.evidence is not None and not levels else ()
        return self._in_units(table, levels, [*points, "regret"])

    def _in_units(
        self, table: pd.DataFrame, levels: Sequence[str] = (), differences: Sequence[str] = ()
    ) -> pd.DataFrame:
        tolerance = self.comparison.tolerance
        return in_units(table, self.metric, levels=levels, differences=differences, tolerance=tolerance)

    def _sections(self) -> list[tuple[str, pd.DataFrame | list[str]]]:
        notes = [f"{code} {explain(code).title}" for code in self.findings]
        own, by_rules = self.metric.name, ["regret", "low", "high", "elsewhere"]
        tables: list[tuple[str, pd.DataFrame | list[str]]] = [
            ("Why", self.reasons),
            ("Risks", self.risks),
            ("Findings", notes),
            ("Teachers", self.shown_teachers()),
            ("Students", self._in_units(self.students[["student", "label", "teacher", own, *GAIN]], [own], GAIN)),
            ("Settings", self._in_units(shown_settings(self.settings), ["score"], ["behind", "low", "high"])),
            ("Rules", self._in_units(without_empty(self.rules.drop(columns="family")), [], by_rules)),
            ("Trust", self.trust),
            ("Rungs", self._in_units(rung_summary(self.rungs))),
        ]
        return [(name, content) for name, content in tables if len(content)]

    def __repr__(self) -> str:
        """A page of text, 100 columns wide."""
        lines = textwrap.wrap(self.title, _WIDTH)
        for name, content in self._sections():
            lines += ["", name]
            if isinstance(content, pd.DataFrame):
                text = content.to_string(
                    index=False, float_format=format_number, na_rep="-", max_colwidth=26, line_width=_WIDTH
                )
                lines += text.split("\n")
            else:
                for item in content:
                    lines += textwrap.wrap(item, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
        lines += ["", "Next", *(f"  {line}" for line in self._next)] if self._next else []
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """The page as HTML, for notebooks."""
        parts = [f"<h3>{html.escape(self.title)}</h3>"]
        for name, content in self._sections():
            parts.append(f"<h4>{name}</h4>")
            if isinstance(content, pd.DataFrame):
                parts.append(
                    content.to_html(index=False, float_format=format_number, na_rep="-", escape=True, border=0)
                )
            else:
                parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in content) + "</ul>")
        if self._next:
            parts.append(f"<h4>Next</h4>\n<pre>{html.escape(chr(10).join(self._next))}</pre>")
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """The page as Markdown, with pipe tables."""
        parts = [f"## {cell(self.title)}"]
        for name, content in self._sections():
            if isinstance(content, pd.DataFrame):
                rows = [list(content.columns), ["---"] * content.shape[1], *content.to_numpy(dtype=object).tolist()]
                body = "\n".join("| " + " | ".join(cell(value) for value in row) + " |" for row in rows)
            else:
                body = "\n".join(f"- {plain(item)}" for item in content)
            parts.append(f"### {name}\n\n{body}")
        if self._next:
            parts.append("### Next\n\n" + "\n\n".join(f"    {line}" for line in self._next))
        return "\n\n".join(parts) + "\n"
