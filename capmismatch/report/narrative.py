"""What a study shows, in sentences computed from its tables; each number with its interval, null results included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd

from capmismatch._numerics.soft_label_spec import SOFT_METHODS
from capmismatch._utils.text import count, join, start
from capmismatch.data.bank_checks import tell_checks
from capmismatch.errors import InputError, require_columns
from capmismatch.selection.rules import COMPANIONS, DERIVED, NAMES
from capmismatch.stats.correlations import FEW_TEACHERS
from capmismatch.stats.estimates import (
    Estimate,
    against_best,
    by_seed,
    course,
    difference,
    held_fixed,
    pair_mean,
    times,
)
from capmismatch.stats.matching import nearest_tau, rows_of_split
from capmismatch.stats.peak import Peak, peak_of

__all__ = ["TOPICS", "Statement", "statements"]

TOPICS: dict[str, tuple[str, str]] = {
    "students": ("Do students do better, then worse, as teachers grow?", "results"),
    "variance": ("Does the variance over the wrong classes rise, then fall, as teachers grow?", "probes"),
    "ranks": ("Do teachers of different size order the wrong classes alike?", "ranks"),
    "restored": ("What do ATS and ISATS restore, and at what price?", "restored"),
    "links": ("Which probes of a teacher track its students' accuracy?", "links"),
    "gain": ("What does each method gain over plain cross-entropy?", "results"),
    "large": ("Do the largest teachers teach better with ISATS than with plain soft labels?", "results"),
    "logits": ("Are the teachers' logits fit to be measured?", "checks"),
}
"""Topic -> the question that its statements answer, and the table they are computed from; in the order of telling."""

MANY_AT_BOUND = 0.25
"""From this share of examples on, a search for a temperature that ends on its bound carries finding CM008."""


@dataclass(frozen=True)
class Statement:
    """One thing that a study shows.

    Attributes
    ----------
    topic : str
        A key of `TOPICS`.
    text : str
        Sentences, with the numbers and their intervals.
    codes : tuple of str
        Findings that bear on it, see `capmismatch.findings.explain`.
    """

    topic: str
    text: str
    codes: tuple[str, ...] = ()


def statements(
    tables: Mapping[str, pd.DataFrame], *, tau: float = 4.0, probe_split: str = "val", split: str = "test"
) -> list[Statement]:
    """Tell what a study's tables show; topics whose table is absent are left out.

    Parameters
    ----------
    tables : mapping from name to DataFrame
        Any of ``probes, ranks, restored, results, links``, and ``checks`` of `capmismatch.data.bank_checks.check_bank`.
    tau : float
        Temperature of interest; the nearest that there is is taken.
    probe_split, split : str
        Split of the probes, and of the students' accuracies.

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
    *Links*: as in `capmismatch.selection.links`; with a variable held fixed by normal theory on Fisher's z scale.
    *Differences* between teachers or methods: accuracies of the same student seed are subtracted (and averaged over
    teachers), then Student's t over seeds; the teachers are taken as given.

    Examples
    --------
    >>> rows = [("", "CE", 0, 0.60), ("", "CE", 1, 0.62), ("s", "KD", 0, 0.65), ("s", "KD", 1, 0.68)]
    >>> results = pd.DataFrame(rows, columns=["teacher", "method", "seed", "accuracy"]).assign(
    ...     family="f", label=lambda t: t["method"], student="cnn", params=1e5, tau=4.0, split="test", n=1000)
    >>> [s.text for s in statements({"results": results}) if s.topic == "gain"]
    ['Student cnn, KD: +5.50 points [-0.85, +11.85] over plain cross-entropy, mean over 1 teacher and 2 seeds: no
    difference is shown, the interval covers zero.']
    """
    told: dict[str, Callable[[pd.DataFrame], Iterator[Statement]]] = {
        "students": lambda results: _students(_taught(results, split)),
        "variance": lambda probes: _variance(probes, tau, probe_split),
        "ranks": _ranks,
        "restored": _restored,
        "links": lambda links: _links(links, tau),
        "gain": lambda results: _gain(results, split),
        "large": lambda results: _large(_taught(results, split)),
        "logits": _logits,
    }
    there = [(topic, table) for topic, (_, table) in TOPICS.items() if table in tables]
    return [statement for topic, table in there for statement in told[topic](tables[table])]


# One function a topic -------------------------------------------------------------------------------------------------


def _students(taught: pd.DataFrame) -> Iterator[Statement]:
    told, tested, paired = list[Statement](), 0, list[bool]()
    for _, rows in taught.groupby(["family", "student", "label"], sort=False):
        name, means, seeds = _setting(taught, rows), course(rows, "accuracy"), by_seed(rows)
        try:
            found = peak_of(rows, value="accuracy", paired=True)
        except InputError as error:
            told.append(Statement("students", f"{name}: a rise and fall cannot be told, {error}.", _few(means)))
            continue
        tested += found.p_value < 0.05
        heights = join([f"{means[teacher].percent()} with {teacher}" for teacher in _ends(means, found)])
        text = f"{name}: accuracy {_shape(found)}. It is {heights}."
        if len(seeds) > 1 and {(small := next(iter(means))), (large := next(reversed(means)))} <= set(seeds):
            apart, best = {end: against_best(seeds, end) for end in (small, large)}, seeds.mean().idxmax()
            paired.append(all(gap.high < 0 for gap in apart.values()))
            verdicts = [
                f"{gap.points()} with {end} ({gap.verdict('better', 'worse', 'no difference is shown')})"
                for end, gap in apart.items()
                if end != best
            ]
            text += f" Paired by seed, against the teacher that is best on the other seeds: {join(verdicts)}."
            text += f" {best} is itself the best on average." if best in apart else ""
        told.append(Statement("students", text, _few(means)))
    of = count(len(told), "combination")
    summary = f"A rise followed by a fall is shown in {tested} of {of} of student and method (p < 0.05, uncorrected)."
    if paired:
        summary += (
            " Compared seed by seed, both the smallest and the largest teacher are worse than the best in "
            f"{sum(paired)} of {len(paired)}."
        )
    yield Statement("students", summary)
    yield from told


def _variance(probes: pd.DataFrame, tau: float, split: str) -> Iterator[Statement]:
    require_columns(probes, ["family", "teacher", "params", "split", "tau", "probe", "value"], "the probes table")
    measured = rows_of_split(probes, split, "the probes table").dropna(subset="value")
    measured = measured[measured["probe"].isin([*DERIVED, *COMPANIONS])]
    there = set(measured["probe"])
    if not there.issuperset(COMPANIONS) or there.isdisjoint(DERIVED):
        lacking = join([name for name in COMPANIONS if name not in there] or list(DERIVED))
        yield Statement("variance", f"Not told: the probes lack {lacking}, and these are only told together.")
        return
    measured = measured[measured["tau"].eq(nearest_tau(measured["tau"], tau))]
    for _, family in measured.groupby("family", sort=False):
        means = {str(probe): course(rows, "value") for probe, rows in family.groupby("probe")}
        for probe in [name for name in DERIVED if name in means and all(c in means for c in COMPANIONS)]:
            title = start(f"{_prefix(measured, family)}{NAMES[probe]} at tau={family['tau'].iloc[0]:g}")
            try:
                found = peak_of(family[family["probe"].eq(probe)])
                shape, ends = f" {_shape(found)}.", _ends(means[probe], found)
            except InputError as error:
                shape, ends = f": a rise and fall cannot be told, {error}.", _ends(means[probe])
            values = [
                f"{NAMES[name]} is {join([f'{means[name][end].text()} for {end}' for end in ends])}"
                for name in (probe, *COMPANIONS)
            ]
            yield Statement("variance", f"{title}{shape} {start('; '.join(values))}.", _few(means[probe]))


def _ranks(ranks: pd.DataFrame) -> Iterator[Statement]:
    require_columns(ranks, ["family_a", "teacher_a", "family_b", "teacher_b", "metric", "value"], "the ranks table")
    rows = ranks[ranks["metric"].eq("wrong_tau_b") & ranks["family_a"].eq(ranks["family_b"])]
    rows = rows.rename(columns={"family_a": "family"})
    if rows["teacher_a"].eq(rows["teacher_b"]).all():
        yield Statement("ranks", "Not told: the table has no wrong_tau_b between two teachers of one family.")
    for _, family in rows.groupby("family", sort=False):
        names = pd.unique(pd.concat([family["teacher_a"], family["teacher_b"]]))  # the table's rows go by size
        if len(names) < 2:
            continue
        means = family.groupby(["teacher_a", "teacher_b"])["value"].mean().unstack()
        square = means.reindex(index=names, columns=names).to_numpy(float)
        alike = np.fmax(square, square.T)
        pairs = {"neighbours in size": [1], "any two different teachers": list(range(1, len(names)))}
        parts = [f"{pair_mean(alike, apart).text()} between {which}" for which, apart in pairs.items()]
        parts.append(f"{float(alike[0, -1]):.3g} between the smallest and the largest ({names[0]} and {names[-1]})")
        text = (
            f"{start(_prefix(rows, family) + 'Kendall')}'s tau-b over the wrong classes of an example is on average "
            f"{join(parts)}; 1 is the same order, 0 is chance."
        )
        codes = () if len(names) >= FEW_TEACHERS else ("CM003",)
        floor = pair_mean(alike, [0])
        if np.isnan(floor.value):
            text += " No teacher has two runs: there is no noise floor to hold this against."
            yield Statement("ranks", text, codes)
            continue
        text += f" Runs of one teacher that differ only in the seed, the noise floor, reach {floor.text()}."
        for which, apart in pairs.items():
            lost = pair_mean(alike, apart, below_floor=True)
            verdict = lost.verdict(
                "size changes the order more than a seed does",
                "size changes the order less than a seed does",
                "no more change is shown than a seed makes",
            )
            text += f" Between {which} it lies {lost.text()} below the floor of the same teachers: {verdict}."
        yield Statement("ranks", text, codes)


def _restored(restored: pd.DataFrame) -> Iterator[Statement]:
    require_columns(restored, ["family", "teacher", "params", "method", "quantity", "value"], "the restored table")
    told = ("derived_variance", *COMPANIONS)
    for _, family in restored.dropna(subset="value").groupby("family", sort=False):
        means = {
            (str(quantity), str(method)): course(rows, "value")
            for (quantity, method), rows in family.groupby(["quantity", "method"])
        }
        methods = [m for m in SOFT_METHODS if all((quantity, m) in means for quantity in told)]
        if "TS" not in methods or family["params"].isna().any():  # without sizes there is no largest teacher
            yield Statement("restored", f"Not told: the table lacks sizes of teachers, or {join([*told])} under TS.")
            continue
        plain = means["derived_variance", "TS"]
        top, largest = max(plain, key=lambda teacher: plain[teacher].value), next(reversed(plain))
        for size, teacher in {"largest": largest, "smallest": next(iter(plain))}.items():
            parts = [
                f"{NAMES[q]} is {join([f'{means[q, m][teacher].text()} under {m}' for m in methods])}" for q in told
            ]
            moved = [f"{means['flipped', m][teacher].percent()} under {m}" for m in methods if ("flipped", m) in means]
            parts += [f"the arg max moves for {join(moved)}"] if moved else []
            codes: tuple[str, ...] = ()
            if ("at_bound", "ISATS") in means:
                bound = means["at_bound", "ISATS"][teacher]
                parts.append(f"the search of ISATS ends on its bound for {bound.percent()} of examples")
                codes = ("CM008",) if bound.value >= MANY_AT_BOUND else ()
            name = start(f"{_prefix(restored, family)}{size} teacher, {teacher}")
            yield Statement("restored", f"{name}: {'; '.join(parts)}.", codes)
        shares = []
        for q in told:
            ratios = {m: times(means[q, m][largest], means[q, "TS"][top]).text() for m in methods}
            shares.append(f"{NAMES[q]} is {join([f'{ratio} times under {m}' for m, ratio in ratios.items()])}")
        name = start(f"{_prefix(restored, family)}largest teacher, {largest}")
        text = f"{name}, against the one with the highest derived variance under TS, {top}: {'; '.join(shares)}."
        yield Statement("restored", text)


def _links(links: pd.DataFrame, tau: float) -> Iterator[Statement]:
    wanted = ["probe", "tau", "student", "label", "metric", "value", "low", "high", "p_adjusted", "n", "findings"]
    require_columns(links, [*wanted, "partial_target_prob", "partial_accuracy"], "the links table")
    spearman = links[links["metric"].eq("spearman") & links["value"].notna()]
    closest, derived, significant, lasting = [], [], 0, 0
    for (student, label), rows in spearman.groupby(["student", "label"], sort=False):
        # A derived probe whose companions were not measured is not told.
        rows = rows[[row["probe"] not in DERIVED or bool(_beside(rows, row)) for _, row in rows.iterrows()]]
        if rows.empty:
            continue
        best = rows.iloc[int(rows["value"].abs().argmax())]
        clear = bool(best["p_adjusted"] < 0.05)
        significant += clear
        beside = f" Beside it: {_beside(rows, best)}." if best["probe"] in DERIVED else ""
        name = f"Student {student}, {label}"
        closest.append(
            Statement(
                "links",
                f"{name}: of {count(len(rows), 'probe')} and temperatures {_named(best)} tracks accuracy most "
                f"closely over {count(best['n'], 'teacher')}, Spearman {_correlation(best)}, {'' if clear else 'not '}"
                f"significant when corrected for all of them (p = {best['p_adjusted']:.2g}).{beside}",
                _codes(best),
            )
        )
        variance = rows[rows["probe"].eq("derived_variance")]
        if variance.empty:
            continue
        link = variance.iloc[int((variance["tau"] - tau).abs().argmin())]
        held = {
            given: held_fixed(link[f"partial_{column}"], link["n"])
            for given, column in {"p_y": "target_prob", "the teacher's accuracy": "accuracy"}.items()
        }
        lost = [given for given, estimate in held.items() if not estimate.excludes_zero]
        verdict = "it survives both" if not lost else f"it cannot be told apart from {join(lost)}"
        if not (link["low"] > 0 or link["high"] < 0):
            verdict = "its interval covers zero, so there is no established link that could survive"
        else:
            lasting += not lost
        fixed = join([f"{estimate.text('.2f')} given {given}" for given, estimate in held.items()])
        text = f"{name}: the link of {_named(link)} is {_correlation(link)}; {fixed}: {verdict}."
        derived.append(Statement("links", f"{text} Beside it: {_beside(rows, link)}.", _codes(link)))
    if not closest:
        yield Statement("links", "Not told: the links table has no Spearman correlation that may be told.")
        return
    yield Statement(
        "links",
        f"In {significant} of {count(len(closest), 'combination')} of student and method some probe's link is "
        f"significant (p < 0.05) when corrected for the number of probes; in {lasting} of {len(derived)} the derived "
        f"variance near tau={tau:g} is linked to accuracy and stays so given p_y, and given the teacher's accuracy.",
    )
    yield from [*closest, *derived]


def _gain(results: pd.DataFrame, split: str) -> Iterator[Statement]:
    taught = _taught(results, split)
    plain = results[results["split"].eq(split) & results["method"].eq("CE")]
    if plain.empty:
        yield Statement("gain", "Not told: the results have no student taught by plain cross-entropy (method CE).")
        return
    for (_, student, _), rows in taught.groupby(["family", "student", "label"], sort=False):
        seeds = by_seed(rows)
        alone = plain[plain["student"].eq(str(student))].groupby("seed")["accuracy"].mean()
        gained = difference(seeds.mean(axis=1), alone)
        verdict = gained.verdict("a gain", "a loss", "no difference is shown, the interval covers zero")
        yield Statement(
            "gain",
            f"{_setting(taught, rows)}: {gained.points()} over plain cross-entropy, "
            f"mean over {count(seeds.shape[1], 'teacher')} and {count(gained.n, 'seed')}: {verdict}.",
        )


def _large(taught: pd.DataFrame) -> Iterator[Statement]:
    told = []
    for (_, student), rows in taught.groupby(["family", "student"], sort=False):
        sizes = rows.groupby("teacher")["params"].first().dropna().sort_values(kind="stable")
        large = [str(teacher) for teacher in sizes.index[len(sizes) - ceil(len(sizes) / 3) :]]
        rows = rows[rows["teacher"].isin(large)]
        for label, asymmetric in rows[rows["method"].eq("ISATS")].groupby("label", sort=False):
            plain = rows[rows["method"].eq("KD")]
            for temperature in [name for name in ("tau", "tau_student") if name in rows]:
                plain = plain[plain[temperature].isin(asymmetric[temperature])]
            for plain_label, symmetric in plain.groupby("label", sort=False):
                apart = difference(by_seed(asymmetric).mean(axis=1), by_seed(symmetric).mean(axis=1))
                verdict = apart.verdict("ISATS is better", "plain soft labels are better", "no difference is shown")
                told.append(
                    Statement(
                        "large",
                        f"{start(_prefix(taught, rows) + 'student')} {student}, largest third of the teachers "
                        f"({join(large)}): {label} less {plain_label} is {apart.points()}, mean over "
                        f"{count(apart.n, 'seed')}: {verdict}.",
                    )
                )
    nothing = Statement("large", "Not told: no student was taught both by KD and by ISATS at the same temperatures.")
    yield from told or [nothing]


def _logits(checks: pd.DataFrame) -> Iterator[Statement]:
    for text, *codes in tell_checks(checks):
        yield Statement("logits", text, tuple(codes))


# Rows and words -------------------------------------------------------------------------------------------------------


def _taught(results: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of students that had a teacher, on one split."""
    wanted = ["family", "teacher", "params", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    require_columns(results, wanted, "the results table")
    rows = rows_of_split(results, split, "the results table")
    return rows[rows["method"].ne("CE") & rows["accuracy"].notna()]


def _shape(found: Peak) -> str:
    """Whether there is a rise and a fall, and the teachers among which the peak lies with a chance of 95 %."""
    shape = "rises, then falls," if found.p_value < 0.05 else "shows no established rise followed by a fall"
    chance = pd.Series(found.probability).sort_values(ascending=False, kind="stable")
    likely = set(chance.index[: int((chance.cumsum() < 0.95).sum()) + 1])
    among = [teacher for teacher in found.probability if teacher in likely]
    where = among[0] if len(among) == 1 else f"one of {join(among)}"
    return f"{shape} as teachers grow (p = {found.p_value:.2g}); the peak is {where} (95 % interval)"


def _ends(means: Mapping[str, Estimate], found: Peak | None = None) -> list[str]:
    """The smallest, the highest and the largest teacher, each once."""
    told = {next(iter(means)), next(reversed(list(means))), found.teacher if found else None}
    return [teacher for teacher in means if teacher in told]


def _few(means: Mapping[str, Estimate]) -> tuple[str, ...]:
    return ("CM003",) if len(means) < FEW_TEACHERS else ()


def _beside(rows: pd.DataFrame, link: pd.Series) -> str:
    """The links of p_y and of the inherent variance at the temperature of a link; empty where one is missing."""
    at = rows[rows["tau"].eq(link["tau"])].set_index("probe")
    if not all(probe in at.index for probe in COMPANIONS):
        return ""
    return join([f"{NAMES[probe]} {_correlation(pd.Series(at.loc[probe]))}" for probe in COMPANIONS])


def _correlation(link: pd.Series) -> str:
    return Estimate(link["value"], link["low"], link["high"]).text(".2f")


def _named(link: pd.Series) -> str:
    return NAMES.get(link["probe"], link["probe"]) + ("" if np.isnan(link["tau"]) else f" at tau={link['tau']:g}")


def _codes(link: pd.Series) -> tuple[str, ...]:
    return tuple(code for code in str(link["findings"]).split(",") if code)


def _setting(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return start(f"{_prefix(frame, rows)}student {first['student']}, {first['label']}")


def _prefix(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The family, where the frame has several."""
    return f"family {rows['family'].iloc[0]}, " if frame["family"].nunique() > 1 else ""
