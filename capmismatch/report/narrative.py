"""What a study shows, computed from its tables: facts with their intervals, null results included.

`statements` gives numbers and codes (`capmismatch.report.facts`); `capmismatch.report.sentences` words them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pandas as pd

from capmismatch._numerics.soft_label_spec import SOFT_METHODS
from capmismatch.data.bank_checks import tell_checks
from capmismatch.errors import InputError, require_columns
from capmismatch.report.class_findings import class_spreads
from capmismatch.report.facts import (
    ClosestLink,
    Facts,
    Gain,
    IsatsGain,
    Link,
    LinkCounts,
    LogitCheck,
    Means,
    ProbeCourse,
    RankAgreement,
    Restored,
    RestoredByRows,
    RestoredRatios,
    Shape,
    StudentCourse,
    StudentCourses,
    Subject,
    TeacherDifference,
    TeacherDifferences,
    Unknown,
    VarianceLink,
)
from capmismatch.report.sentences import sentence
from capmismatch.report.training_findings import trained
from capmismatch.selection.candidates import zero_by_definition
from capmismatch.selection.rules import COMPANIONS, DERIVED
from capmismatch.stats.correlations import FEW_TEACHERS
from capmismatch.stats.differences import WANTED_RELIABILITY, teacher_differences
from capmismatch.stats.estimates import Estimate, against_best, by_seed, course, held_fixed, pair_mean, times
from capmismatch.stats.matching import nearest_tau, rows_of_kind, rows_of_split
from capmismatch.stats.peak import Peak, peak_of
from capmismatch.stats.peaks import disagree
from capmismatch.stats.settings import PLAIN, compare, run_noise
from capmismatch.stats.two_lines import TwoLines, two_lines_of
from capmismatch.stats.usable import of_usable_teachers

__all__ = ["TOPICS", "Statement", "statements"]

TOPICS: dict[str, tuple[str, str]] = {
    "teachers": ("Do the teachers differ at all?", "results"),
    "students": ("Does student accuracy rise, then fall, with teacher size?", "results"),
    "variance": ("Does the variance over the wrong classes rise, then fall, with teacher size?", "probes"),
    "ranks": ("Do teachers of different sizes order the wrong classes alike?", "ranks"),
    "classes": ("Does the largest teacher tell the wrong classes of a class apart less?", "affinity"),
    "restored": ("What do ATS and ISATS restore, and at what cost?", "restored"),
    "links": ("Which probes of a teacher correlate with student accuracy?", "links"),
    "trained": ("Were the students trained to the end?", "curves"),
    "gain": ("What does each method gain over plain cross-entropy?", "results"),
    "large": ("Do the largest teachers teach better with ISATS than with plain soft labels?", "results"),
    "logits": ("Are there problems with the teachers' logits?", "checks"),
}
"""Topic -> the question that its statements answer, and the table they come from; in the report's order."""

MANY_AT_BOUND = 0.25
"""From this share of examples on, a search for a temperature that ends on its bound carries finding CM008."""

FEW = ("CM003",)
"""The code of statements about too few teachers."""

SINGLE = ("CM028",)
"""The code of statements about the course of single runs."""

ORDERS = ("affinity_tau_b", "wrong_tau_b", "vocab_tau_b")
"""Metrics of how alike teachers order classes: of each class's mean soft label, and of each example."""

QUANTITIES = ("derived_variance", *COMPANIONS)
"""What ATS and ISATS are judged by, always together."""


@dataclass(frozen=True)
class Statement:
    """One thing that a study shows.

    Attributes
    ----------
    topic : str
        A key of `TOPICS`.
    facts : dataclass
        One of those in `capmismatch.report.facts`: the numbers with their intervals, and whose they are.
    codes : tuple of str
        Findings that bear on it, see `capmismatch.findings.explain`.
    """

    topic: str
    facts: Facts
    codes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Its sentences."""
        return sentence(self.facts)


def statements(
    tables: Mapping[str, pd.DataFrame], *, tau: float = 4.0, probe_split: str = "val", split: str = "test"
) -> list[Statement]:
    """Say what a study's tables show; topics whose table is absent are left out.

    Parameters
    ----------
    tables : mapping from name to DataFrame
        Any of ``probes, ranks, affinity, restored, results, curves, links``, and ``checks`` of
        `capmismatch.data.bank_checks.check_bank`.
    tau : float
        Temperature of interest; the nearest one in the table is taken.
    probe_split : str
        Split of the probes.
    split : str
        Split of the students' accuracies.

    Returns
    -------
    list of Statement
        In the order of `TOPICS`.

    Raises
    ------
    InputError
        If a table lacks a column, or rows for its split.

    Notes
    -----
    Intervals have 95 %. *Means of a teacher* (probes, accuracies, restored quantities): Student's t with the variance
    of runs pooled over the teachers of the family, or the standard error over examples where no teacher has two runs.
    *Rise, fall and peak*: `capmismatch.stats.peak.peak`, of accuracies with what a run does to all teachers alike taken
    out where they share their runs. *Class ranks*: a jackknife over teachers with Student's t.
    *Links*: as in `capmismatch.selection.links`; with a variable held fixed by normal theory on Fisher's z scale, for
    as many teachers of a single family as scatter alike. *Teachers against the best*: `capmismatch.stats.best`.
    *Differences between methods*, and gains: `capmismatch.stats.settings`, one model of the noise of all settings of a
    student and family; the teachers are taken as given.

    Examples
    --------
    >>> rows = [("", "CE", 0, 0.60), ("", "CE", 1, 0.62), ("s", "KD", 0, 0.65), ("s", "KD", 1, 0.68)]
    >>> results = pd.DataFrame(rows, columns=["teacher", "method", "seed", "accuracy"]).assign(
    ...     family="f", label=lambda t: t["method"], student="cnn", params=1e5, tau=4.0, split="test", n=1000)
    >>> (gain,) = [s for s in statements({"results": results}) if s.topic == "gain"]
    >>> round(gain.facts.gain.value, 3), gain.facts.gain.n, gain.facts.teachers
    (0.055, 2, 1)
    >>> gain.text
    'Student cnn, KD: +5.50 points [-0.85, +11.85] over plain cross-entropy, mean over 1 teacher and 2 seeds: no
    significant difference: the interval covers zero.'
    """
    topics: dict[str, Callable[[pd.DataFrame], Iterator[Statement]]] = {
        "teachers": lambda results: _teachers(_with_teacher(results, split), split),
        "students": lambda results: _students(_with_teacher(results, split)),
        "variance": lambda probes: _variance(probes, tau, probe_split),
        "ranks": _ranks,
        "classes": _classes,
        "restored": _restored,
        "links": lambda links: _links(links, tau),
        "trained": lambda curves: (Statement("trained", *found) for found in trained(curves)),
        "gain": lambda results: _gain(results, split),
        "large": lambda results: _large(_with_teacher(results, split)),
        "logits": _logits,
    }
    tables = of_usable_teachers(tables)
    return [
        statement
        for topic, (_, table) in TOPICS.items()
        if table in tables
        for statement in topics[topic](tables[table])
    ]


# Students' accuracy ---------------------------------------------------------------------------------------------------


def _teachers(results: pd.DataFrame, split: str) -> Iterator[Statement]:
    facts = [
        TeacherDifference(
            Subject(str(row["student"]), str(row["label"])),
            float(row["F"]),
            int(row["df1"]),
            int(row["df2"]),
            float(row["p"]),
            Estimate(float(row["reliability"]), float(row["low"]), float(row["high"]), int(row["teachers"])),
            float(row["ceiling"]),
            float(row["seeds_for_80"]),
            str(row["error"]),
        )
        for _, row in teacher_differences(results, split=split).iterrows()
    ]
    tested = [of_setting for of_setting in facts if of_setting.known]
    if not tested:
        yield Statement("teachers", Unknown("runs"))
        return
    errors = " and of ".join(sorted({of_setting.error for of_setting in tested}))
    yield Statement("teachers", TeacherDifferences(len(tested), sum(of_setting.shown for of_setting in tested), errors))
    for of_setting in tested:
        weak = of_setting.reliability.value < WANTED_RELIABILITY
        yield Statement("teachers", of_setting, ("CM015",) if weak else ())


def _students(results: pd.DataFrame) -> Iterator[Statement]:
    courses = [
        (_student_course(_subject(results, rows), rows), rows["teacher"].nunique())
        for _, rows in results.groupby(["family", "student", "label"], sort=False)
    ]
    paired = [facts.both_ends_worse for facts, _ in courses if facts.both_ends_worse is not None]
    peaked = sum(facts.shape is not None and facts.shape.established for facts, _ in courses)
    yield Statement("students", StudentCourses(len(courses), peaked, len(paired), sum(paired)))
    for facts, teachers in courses:
        yield Statement("students", facts, _course_codes(teachers, facts.shape))


def _course_codes(teachers: int, shape: Shape | None) -> tuple[str, ...]:
    """Findings on a course over teachers."""
    codes = [*(FEW if teachers < FEW_TEACHERS else ())]
    if shape is not None:
        codes += SINGLE if shape.single else ()
        codes += ("CM051",) if disagree(shape.p_value, shape.two_lines) else ()
    return tuple(codes)


def _student_course(subject: Subject, rows: pd.DataFrame) -> StudentCourse:
    means, seeds = course(rows, "accuracy"), by_seed(rows)
    try:
        peak = peak_of(rows, value="accuracy", paired=True)
        shape = _shape(peak, two_lines_of(rows, value="accuracy", paired=True))
    except InputError as error:
        return StudentCourse(subject, None, str(error))
    accuracy = {teacher: means[teacher] for teacher in _ends(means, peak)}
    ends = [next(iter(means)), next(reversed(list(means)))]
    if len(seeds) < 2 or not set(ends) <= set(seeds):
        return StudentCourse(subject, shape, accuracy=accuracy)
    best = str(seeds.mean().idxmax())
    gaps = {end: against_best(seeds, end) for end in ends}
    return StudentCourse(
        subject,
        shape,
        accuracy=accuracy,
        gaps={end: gap for end, gap in gaps.items() if end != best},
        best_end=best if best in gaps else "",
        both_ends_worse=all(gap.high < 0 for gap in gaps.values()),
    )


def _gain(results: pd.DataFrame, split: str) -> Iterator[Statement]:
    with_teacher = _with_teacher(results, split)
    plain = results[results["split"].eq(split) & results["method"].eq("CE")]
    if plain.empty:
        yield Statement("gain", Unknown("plain"))
        return
    for (family, student, _), rows in with_teacher.groupby(["family", "student", "label"], sort=False):
        baseline = plain[plain["student"].eq(str(student))].assign(teacher="", label=PLAIN)
        peers = with_teacher[with_teacher["family"].eq(str(family)) & with_teacher["student"].eq(str(student))]
        gain, _, _ = compare(rows, baseline, run_noise(pd.concat([peers, baseline])))
        yield Statement("gain", Gain(_subject(with_teacher, rows), gain, rows["teacher"].nunique()))


def _large(results: pd.DataFrame) -> Iterator[Statement]:
    gains = [
        gain for _, rows in results.groupby(["family", "student"], sort=False) for gain in _isats_gains(results, rows)
    ]
    if not gains:
        yield Statement("large", Unknown("isats"))
    for gain in gains:
        yield Statement("large", gain)


def _isats_gains(results: pd.DataFrame, rows: pd.DataFrame) -> Iterator[IsatsGain]:
    """Each setting of ISATS against each with plain soft labels at its temperatures, for one family and student."""
    sizes = rows.groupby("teacher")["params"].first().dropna().sort_values(kind="stable")
    largest = [str(teacher) for teacher in sizes.index[len(sizes) - ceil(len(sizes) / 3) :]]
    noise, rows = run_noise(rows), rows[rows["teacher"].isin(largest)]
    temperatures = [name for name in ("tau", "tau_student") if name in rows]
    for _, isats in rows[rows["method"].eq("ISATS")].groupby("label", sort=False):
        plain = rows[rows["method"].eq("KD")]
        for temperature in temperatures:
            plain = plain[plain[temperature].isin(isats[temperature])]
        for plain_label, symmetric in plain.groupby("label", sort=False):
            gain, _, _ = compare(isats, symmetric, noise)
            yield IsatsGain(_subject(results, isats), str(plain_label), tuple(largest), gain)


# Teachers' soft labels ------------------------------------------------------------------------------------------------


def _variance(probes: pd.DataFrame, tau: float, split: str) -> Iterator[Statement]:
    require_columns(probes, ["family", "teacher", "params", "split", "tau", "probe", "value"], "the probes table")
    measured = rows_of_split(probes, split, "the probes table").dropna(subset="value")
    measured = measured[measured["probe"].isin([*DERIVED, *COMPANIONS])]
    names = set(measured["probe"])
    if not names.issuperset(COMPANIONS) or names.isdisjoint(DERIVED):
        lacking = [name for name in COMPANIONS if name not in names] or DERIVED
        yield Statement("variance", Unknown("probes", tuple(lacking)))
        return
    if zero := zero_by_definition(measured):
        yield Statement("variance", Unknown("two classes", tuple(zero)), ("CM014",))
        return
    measured = measured[measured["tau"].eq(nearest_tau(measured["tau"], tau))]
    for _, rows in measured.groupby("family", sort=False):
        means = {str(probe): course(of_probe, "value") for probe, of_probe in rows.groupby("probe")}
        for probe in [name for name in DERIVED if {name, *COMPANIONS} <= means.keys()]:
            facts = _probe_course(probe, rows, means, _family(measured, rows))
            yield Statement("variance", facts, _course_codes(len(means[probe]), facts.shape))


def _probe_course(probe: str, rows: pd.DataFrame, means: Mapping[str, Means], family: str) -> ProbeCourse:
    """How a derived probe changes with size, beside p_y and the inherent variance of the same teachers."""
    peak, shape, why_unknown = None, None, ""
    try:
        of_probe = rows[rows["probe"].eq(probe)]
        peak = peak_of(of_probe)
        shape = _shape(peak, two_lines_of(of_probe))
    except InputError as error:
        why_unknown = str(error)
    ends = _ends(means[probe], peak)
    of_ends = {name: {teacher: means[name][teacher] for teacher in ends} for name in (probe, *COMPANIONS)}
    return ProbeCourse(probe, float(rows["tau"].iloc[0]), family, shape, why_unknown, of_ends)


def _ranks(ranks: pd.DataFrame) -> Iterator[Statement]:
    require_columns(ranks, ["family_a", "teacher_a", "family_b", "teacher_b", "metric", "value"], "the ranks table")
    within = ranks[ranks["metric"].isin(ORDERS) & ranks["family_a"].eq(ranks["family_b"])]
    within = within.rename(columns={"family_a": "family"})
    rows = within[within["metric"].isin(["wrong_tau_b", "vocab_tau_b"])]
    if len(rows) and rows["value"].isna().all():
        yield Statement("ranks", Unknown("order"), ("CM014",))
        return
    if rows["teacher_a"].eq(rows["teacher_b"]).all():
        yield Statement("ranks", Unknown("pairs"))
    for _, of_family in within.groupby("family", sort=False):
        names = pd.unique(pd.concat([of_family["teacher_a"], of_family["teacher_b"]]))  # the table's rows go by size
        for metric in ORDERS:
            measured = of_family[of_family["metric"].eq(metric)]
            if len(names) > 1 and measured["value"].notna().any():
                facts = _rank_agreement(metric, measured, [str(name) for name in names], _family(within, of_family))
                yield Statement("ranks", facts, FEW if len(names) < FEW_TEACHERS else ())


def _classes(affinity: pd.DataFrame) -> Iterator[Statement]:
    several = affinity["family"].nunique() > 1
    for family, facts in class_spreads(affinity):
        if facts is None:
            yield Statement("classes", Unknown("classes"))
        else:
            yield Statement("classes", replace(facts, family=family if several else ""))


def _rank_agreement(metric: str, rows: pd.DataFrame, names: list[str], family: str) -> RankAgreement:
    means = rows.groupby(["teacher_a", "teacher_b"])["value"].mean().unstack()
    square = means.reindex(index=names, columns=names).to_numpy(float)
    agreement = np.fmax(square, square.T)
    distances = {"neighbours": [1], "any": list(range(1, len(names)))}
    floor = pair_mean(agreement, [0])
    below_floor = {
        pairs: pair_mean(agreement, steps, below_floor=True)
        for pairs, steps in distances.items()
        if not np.isnan(floor.value)
    }
    return RankAgreement(
        metric,
        family,
        {pairs: pair_mean(agreement, steps) for pairs, steps in distances.items()},
        names[0],
        names[-1],
        float(agreement[0, -1]),
        floor,
        below_floor,
    )


def _restored(restored: pd.DataFrame) -> Iterator[Statement]:
    require_columns(restored, ["family", "teacher", "params", "method", "quantity", "value"], "the restored table")
    zero = zero_by_definition(restored.rename(columns={"quantity": "probe"}))
    if zero:
        yield Statement("restored", Unknown("two classes", tuple(zero)), ("CM014",))
        return
    everything = restored.dropna(subset="value")
    restored = rows_of_kind(everything)
    for family_name, rows in restored.groupby("family", sort=False):
        means = {
            (str(quantity), str(method)): course(of_method, "value")
            for (quantity, method), of_method in rows.groupby(["quantity", "method"])
        }
        methods = [name for name in SOFT_METHODS if all((q, name) in means for q in QUANTITIES)]
        if "TS" not in methods or rows["params"].isna().any():  # without sizes there is no largest teacher
            yield Statement("restored", Unknown("restored", QUANTITIES))
            continue
        plain, family = means["derived_variance", "TS"], _family(restored, rows)
        smallest, largest = next(iter(plain)), next(reversed(list(plain)))
        for size, teacher in {"largest": largest, "smallest": smallest}.items():
            facts = _restored_of(teacher, size, means, methods, family)
            often = facts.at_bound is not None and facts.at_bound.value >= MANY_AT_BOUND
            yield Statement("restored", facts, ("CM008",) if often else ())
            yield from _restored_by_rows(everything[everything["family"].eq(family_name)], teacher, size, family)
        highest = max(plain, key=lambda teacher: plain[teacher].value)
        ratios = {
            quantity: {
                method: times(means[quantity, method][largest], means[quantity, "TS"][highest]) for method in methods
            }
            for quantity in QUANTITIES
        }
        yield Statement("restored", RestoredRatios(family, largest, highest, ratios))


def _restored_of(
    teacher: str, size: str, means: Mapping[tuple[str, str], Means], methods: list[str], family: str
) -> Restored:
    """One teacher's quantities by method, and their price."""
    return Restored(
        family,
        size,
        teacher,
        {quantity: {method: means[quantity, method][teacher] for method in methods} for quantity in QUANTITIES},
        {method: means["flipped", method][teacher] for method in methods if ("flipped", method) in means},
        means["at_bound", "ISATS"][teacher] if ("at_bound", "ISATS") in means else None,
    )


def _restored_by_rows(restored: pd.DataFrame, teacher: str, size: str, family: str) -> Iterator[Statement]:
    """Where one teacher's derived variance comes from; nothing where the table does not tell rows apart."""
    rows = restored[restored["teacher"].eq(teacher) & restored["quantity"].eq("derived_variance")]
    means = {
        kind: {
            method: course(of_method, "value")[teacher]
            for method in SOFT_METHODS
            if len(of_method := of_kind[of_kind["method"].eq(method)])
        }
        for kind in ("right", "wrong")
        if len(of_kind := rows_of_kind(rows, kind))
    }
    if any("TS" not in of_kind or len(of_kind) < 2 for of_kind in means.values()) or len(means) < 2:
        return
    ratios = {
        kind: {method: _over(mean, of_kind["TS"].value) for method, mean in of_kind.items() if method != "TS"}
        for kind, of_kind in means.items()
    }
    examples = {kind: rows_of_kind(rows, kind)["n"].mean() for kind in means}
    shares = {
        method: wrong.value * examples["wrong"] / sum(means[kind][method].value * examples[kind] for kind in means)
        for method, wrong in means["wrong"].items()
    }
    cells = list(rows_of_kind(rows, "right")["findings"].astype(str)) if "findings" in rows else []
    found = sorted({code for cell in cells for code in _names(cell)})
    yield Statement("restored", RestoredByRows(family, size, teacher, ratios, shares), tuple(found))


def _over(mean: Estimate, plain: float) -> Estimate:
    """A mean in units of another, which is of the same examples: the interval is not joined with the other's."""
    if not plain > 0:
        return Estimate(np.nan)
    return Estimate(mean.value / plain, mean.low / plain, mean.high / plain, mean.n)


def _logits(checks: pd.DataFrame) -> Iterator[Statement]:
    for text, *codes in tell_checks(checks):
        yield Statement("logits", LogitCheck(text), tuple(codes))


# Links of probes and students -----------------------------------------------------------------------------------------


def _links(links: pd.DataFrame, tau: float) -> Iterator[Statement]:
    columns = ["probe", "tau", "student", "label", "metric", "value", "low", "high", "n", "findings"]
    tested = ["p_adjusted", "p_max", "p_overall", "primary", "n_effective", "collinear", "ceiling"]
    require_columns(links, [*columns, *tested, "partial_target_prob", "partial_accuracy"], "the links table")
    spearman = links[links["metric"].eq("spearman") & links["value"].notna()]
    closest: list[tuple[ClosestLink, pd.Series]] = []
    of_variance: list[tuple[VarianceLink, pd.Series]] = []
    overall = 0
    for (student, label), rows in spearman.groupby(["student", "label"], sort=False):
        subject, rows = Subject(str(student), str(label)), _with_companions(rows)
        if rows.empty:
            continue
        best = rows.iloc[int(rows["value"].abs().argmax())]
        companions = _companions(rows, best) if best["probe"] in DERIVED else ()
        closest.append((ClosestLink(subject, len(rows), _link(best), companions), best))
        overall += bool(rows["p_overall"].lt(0.05).any())
        if (row := _row_of_variance(rows, tau)) is not None:
            of_variance.append((_variance_link(subject, row, rows), row))
    if not closest:
        yield Statement("links", Unknown("links"))
        return
    variance = [facts for facts, _ in of_variance]
    yield Statement(
        "links",
        LinkCounts(
            combinations=len(closest),
            significant=sum(facts.link.significant for facts, _ in closest),
            overall=overall,
            probe=variance[0].link.probe if variance else "",
            tau=variance[0].link.tau if variance else np.nan,
            with_variance=len(variance),
            linked=sum(facts.link.significant for facts in variance),
            surviving=sum(facts.survives for facts in variance),
        ),
    )
    with_rows: list[tuple[ClosestLink | VarianceLink, pd.Series]] = [*closest, *of_variance]
    for facts, row in with_rows:
        yield Statement("links", facts, _names(row["findings"]))


def _row_of_variance(rows: pd.DataFrame, tau: float) -> pd.Series | None:
    """The derived probe that a setting's students are held against: the primary one, else the derived variance."""
    primary = rows[rows["primary"].astype(bool) & rows["probe"].isin(DERIVED)]
    if len(primary):
        return primary.iloc[0]
    variance = rows[rows["probe"].eq("derived_variance")]
    return variance[variance["tau"].eq(nearest_tau(variance["tau"], tau))].iloc[0] if len(variance) else None


def _variance_link(subject: Subject, row: pd.Series, rows: pd.DataFrame) -> VarianceLink:
    partial = {
        name: held_fixed(row[f"partial_{name}"], row["n"], row["n_effective"]) for name in ("target_prob", "accuracy")
    }
    confidence = rows[rows["probe"].eq("target_prob") & rows["tau"].eq(row["tau"])].iloc[0]
    alike = "accuracy" in _names(confidence["collinear"])
    return VarianceLink(subject, _link(row), partial, _companions(rows, row), _names(row["collinear"]), alike)


def _names(cell: object) -> tuple[str, ...]:
    """What a cell lists, separated by commas."""
    return tuple(name for name in str(cell).split(",") if name)


def _with_companions(rows: pd.DataFrame) -> pd.DataFrame:
    """The links of one setting, less those of derived probes whose companions were not measured."""
    return rows[[row["probe"] not in DERIVED or bool(_companions(rows, row)) for _, row in rows.iterrows()]]


def _companions(rows: pd.DataFrame, row: pd.Series) -> tuple[Link, ...]:
    """The links of p_y and of the inherent variance at the temperature of a link; empty where one is missing."""
    same_tau = rows[rows["tau"].eq(row["tau"])].set_index("probe", drop=False)
    if not all(probe in same_tau.index for probe in COMPANIONS):
        return ()
    return tuple(_link(pd.Series(same_tau.loc[probe])) for probe in COMPANIONS)


def _link(row: pd.Series) -> Link:
    correlation = Estimate(float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]))
    numbers = {name: float(row[name]) for name in ("p_adjusted", "p_max", "p_overall", "ceiling")}
    return Link(str(row["probe"]), float(row["tau"]), correlation, primary=bool(row["primary"]), **numbers)


# Rows and subjects ----------------------------------------------------------------------------------------------------


def _with_teacher(results: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of students that had a teacher, on one split."""
    columns = ["family", "teacher", "params", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    require_columns(results, columns, "the results table")
    rows = rows_of_split(results, split, "the results table")
    return rows[rows["method"].ne("CE") & rows["accuracy"].notna()]


def _shape(peak: Peak, lines: TwoLines) -> Shape:
    """Whether there is a rise and a fall, and the teachers among which the peak lies with a confidence of 95 %."""
    return Shape(peak.p_value, peak.teacher, peak.likely, peak.single, lines.p_value)


def _ends(means: Means, peak: Peak | None = None) -> list[str]:
    """The smallest, the highest and the largest teacher, each once."""
    names = list(means)
    chosen = {names[0], names[-1], peak.teacher if peak else None}
    return [teacher for teacher in names if teacher in chosen]


def _subject(frame: pd.DataFrame, rows: pd.DataFrame) -> Subject:
    first = rows.iloc[0]
    return Subject(str(first["student"]), str(first["label"]), _family(frame, rows))


def _family(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The family of the rows where the frame has several; else nothing."""
    return str(rows["family"].iloc[0]) if frame["family"].nunique() > 1 else ""
