"""What a study shows, in plain sentences computed from its tables; each number with its interval, null results included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from capmismatch._peak import Peak, peak_of
from capmismatch._statistics import fisher_interval
from capmismatch.correlate import FEW_TEACHERS
from capmismatch.errors import InputError, require_columns

__all__ = ["COMPANIONS", "DERIVED", "TOPICS", "Statement", "statements"]

COMPANIONS = ("target_prob", "inherent_variance")
"""What always stands beside a derived probe: DV = (1 - p_y)^2 IV, so that alone it may only restate confidence."""

DERIVED = ("derived_std", "derived_variance")
"""Probes that are told only together with `COMPANIONS`."""

TOPICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "students": ("Do students do better, then worse, as teachers grow?", ("results",)),
    "variance": ("Does the variance over the wrong classes rise, then fall?", ("probes",)),
    "ranks": ("Do teachers of different size order the wrong classes alike?", ("ranks",)),
    "restored": ("What do ATS and ISATS restore, and at what price?", ("restored",)),
    "links": ("Which probes of a teacher track its students' accuracy?", ("links",)),
    "gain": ("How much does each method gain over plain cross-entropy?", ("results",)),
    "large": ("Do the largest teachers teach better with ISATS than with plain soft labels?", ("results",)),
}
"""Topic -> the question that its statements answer, and the tables they are computed from; in the order of telling."""

MANY_AT_BOUND = 0.25
"""From this share of examples on, a search that ends on its bound carries finding CM008."""

WORDS = {"target_prob": "p_y", "inherent_variance": "inherent variance", "derived_variance": "derived variance",
         "derived_std": "derived std"}  # fmt: skip

_DRAWS = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Statement:
    """One thing a study shows.

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
        Any of ``probes, ranks, restored, results, links``.
    tau : float
        Temperature of interest; the nearest of the probes' temperatures is taken.
    probe_split, split : str
        Split of the probes, and of the students' accuracies.

    Returns
    -------
    list of Statement
        In the order of `TOPICS`.

    Raises
    ------
    InputError
        If a table lacks a column, or the results have no rows on `split`.

    Notes
    -----
    Intervals have 95 %. *Means of a teacher* (probes, accuracies, restored quantities): Student's t with the variance
    of runs pooled over the teachers of the family, or the standard error over examples where no teacher has two runs.
    *Peaks*: `capmismatch._peak.peak`. *Class ranks*: percentiles of a bootstrap over teachers. *Links*: as in
    `capmismatch.correlate`; with a variable held fixed by normal theory on Fisher's z scale. *Differences between
    methods*: accuracies of the same student seed are subtracted and averaged over teachers, then Student's t over
    seeds; the teachers are taken as given.

    Examples
    --------
    >>> rows = [("", "CE", 0, 0.60), ("", "CE", 1, 0.62), ("s", "KD", 0, 0.65), ("s", "KD", 1, 0.67)]
    >>> results = pd.DataFrame(rows, columns=["teacher", "method", "seed", "accuracy"]).assign(
    ...     family="f", label=lambda t: t["method"], student="cnn", params=1e5, tau=4.0, split="test", n=1000)
    >>> [s.text for s in statements({"results": results}) if s.topic == "gain"]
    ['Student cnn, KD: +5.00 points [+5.00, +5.00] over plain cross-entropy, averaged over 1 teacher (2 seeds): a gain.']
    """
    told: dict[str, Callable[[], Iterator[Statement]]] = {
        "students": lambda: _students(_taught(tables["results"], split)),
        "variance": lambda: _variance(tables["probes"], tau, probe_split),
        "ranks": lambda: _ranks(tables["ranks"]),
        "restored": lambda: _restored(tables["restored"]),
        "links": lambda: _links(tables["links"], tau),
        "gain": lambda: _gain(tables["results"], split),
        "large": lambda: _large(_taught(tables["results"], split)),
    }
    there = [topic for topic, (_, needs) in TOPICS.items() if all(table in tables for table in needs)]
    return [statement for topic in there for statement in told[topic]()]


# One function a topic --------------------------------------------------------------------------------------------------


def _students(taught: pd.DataFrame) -> Iterator[Statement]:
    told, established = [], 0
    for (_, student, label), rows in taught.groupby(["family", "student", "label"], sort=False):
        setting = f"{_prefix(taught, rows)}student {student}, {label}"
        try:
            found = peak_of(rows, value="accuracy")
        except InputError as error:
            told.append(Statement("students", f"{_start(setting)}: cannot be told, {error}."))
            continue
        established += found.p_value < 0.05
        course = _course(rows, "accuracy")
        heights = _join([f"{_percent(course.loc[t])} with {t}" for t in _ends(course, found)])
        told.append(Statement("students", f"{_start(setting)}: accuracy {_shape(found)} {heights}.", _few(course)))
    yield Statement(
        "students",
        f"A rise followed by a fall is established (p < 0.05, not corrected for their number) in {established} of the "
        f"{len(told)} combinations of student and method.",
    )
    yield from told


def _variance(probes: pd.DataFrame, tau: float, split: str) -> Iterator[Statement]:
    require_columns(probes, ["family", "teacher", "params", "split", "tau", "probe", "value"], "the probes table")
    measured = probes[probes["split"].eq(split) & probes["probe"].isin([*DERIVED, *COMPANIONS]) & probes["value"].notna()]
    missing = [name for name in COMPANIONS if name not in set(measured["probe"])]
    if missing or not measured["probe"].isin(DERIVED).any():
        lacking = " and ".join(missing) or "derived_std and derived_variance"
        yield Statement("variance", f"Not told: on the split {split!r} the probes lack {lacking}.")
        return
    taus = measured["tau"].unique()
    tau = float(taus[np.argmin(np.abs(taus - tau))])
    measured = measured[measured["tau"].eq(tau)]
    for _, family in measured.groupby("family", sort=False):
        course = {name: _course(rows, "value") for name, rows in family.groupby("probe")}
        for probe in DERIVED:
            if probe not in course:
                continue
            name = _start(f"{_prefix(measured, family)}{WORDS[probe]}") + f" at tau={tau:g}"
            try:
                found = peak_of(family[family["probe"].eq(probe)])
            except InputError as error:
                yield Statement("variance", f"{name}: cannot be told, {error}.")
                continue
            ends = _ends(course[probe], found)
            values = {p: _join([f"{_value(course[p].loc[t])} at {t}" for t in ends]) for p in (probe, *COMPANIONS)}
            beside = "; ".join(f"{WORDS[p]} is {values[p]}" for p in COMPANIONS)
            text = f"{name} {_shape(found)} {values[probe]}. Beside it, {beside}."
            yield Statement("variance", text, _few(course[probe]))


def _ranks(ranks: pd.DataFrame) -> Iterator[Statement]:
    require_columns(ranks, ["family_a", "teacher_a", "family_b", "teacher_b", "metric", "value"], "the ranks table")
    rows = ranks[ranks["metric"].eq("wrong_tau_b") & ranks["family_a"].eq(ranks["family_b"])]
    rows = rows.rename(columns={"family_a": "family"})
    for _, family in rows.groupby("family", sort=False):
        names = pd.unique(pd.concat([family["teacher_a"], family["teacher_b"]]))  # the table's rows go by size
        if len(names) < 2:
            continue
        alike = family.groupby(["teacher_a", "teacher_b"])["value"].mean().unstack()
        alike = alike.reindex(index=names, columns=names).to_numpy(float)
        alike = np.fmax(alike, alike.T)
        spans = {"neighbours in size": (1, 1), "any two different teachers": (1, len(names))}
        means = [f"{_value(_pair_mean(alike, *span))} between {pairs}" for pairs, span in spans.items()]
        means.append(f"{_number(alike[0, -1])} between the smallest and the largest ({names[0]} and {names[-1]})")
        text = (
            f"{_start(_prefix(rows, family) + 'Kendall')}'s tau-b over the wrong classes of an example is on average "
            f"{_join(means)}; 1 is the same order, 0 is chance."
        )
        floor = _pair_mean(alike, 0, 0)
        if np.isnan(floor["mean"]):
            text += " No teacher has two runs: there is no noise floor to hold this against."
            spans = {}
        else:
            text += f" Runs of one teacher that differ only in the seed, the noise floor, reach {_value(floor)}."
        for pairs, span in spans.items():
            lost = _pair_mean(alike, *span, below_floor=True)
            found = _verdict(lost, "size changes the order more than a seed does",
                             "size changes the order less than a seed does", "no more is shown than what a seed does")  # fmt: skip
            text += f" For {pairs} the mean lies {_value(lost)} below the floor of the same teachers: {found}."
        yield Statement("ranks", text, () if len(names) >= FEW_TEACHERS else ("CM003",))
    if rows["teacher_a"].eq(rows["teacher_b"]).all():
        yield Statement("ranks", "Not told: the table has no wrong_tau_b between two teachers of one family.")


def _restored(restored: pd.DataFrame) -> Iterator[Statement]:
    require_columns(restored, ["family", "teacher", "params", "method", "quantity", "value"], "the restored table")
    for _, family in restored.dropna(subset="value").groupby("family", sort=False):
        course = {key: _course(rows, "value") for key, rows in family.groupby(["quantity", "method"])}
        told = ("derived_variance", "derived_std", *COMPANIONS)
        methods = [m for m in ("TS", "ATS", "ISATS") if all((quantity, m) in course for quantity in told)]
        if "TS" not in methods:
            yield Statement("restored", f"Not told: the table lacks one of {', '.join(told)} under TS.")
            continue
        plain = course["derived_variance", "TS"]["mean"]
        smallest, top, largest = plain.index[0], plain.idxmax(), plain.index[-1]

        def across(quantity: str, tell: Callable[[pd.Series], str], teacher: str, among: list[str]) -> str:
            values = [f"{tell(course[quantity, m].loc[teacher])} under {m}" for m in among if (quantity, m) in course]  # noqa: B023
            return _join(values)

        for size, teacher in dict.fromkeys([("smallest", smallest), ("largest", largest)]):
            parts = [f"{WORDS[quantity]} is {across(quantity, _value, teacher, methods)}" for quantity in told]
            if moved := across("flipped", _percent, teacher, methods[1:]):
                parts.append(f"the arg max moves for {moved}")
            codes: tuple[str, ...] = ()
            if ("at_bound", "ISATS") in course:
                bound = course["at_bound", "ISATS"].loc[teacher]
                parts.append(f"the ISATS search ends on its bound for {_percent(bound)}")
                codes = ("CM008",) if bound["mean"] >= MANY_AT_BOUND else ()
            where = f"{_prefix(restored, family)}{size} teacher, {teacher}"
            yield Statement("restored", f"{_start(where)}: {'; '.join(parts)}.", codes)
        shares = []
        for quantity in told:
            peak = course[quantity, "TS"].loc[top]
            shares.append(f"{WORDS[quantity]} {across(quantity, lambda row, p=peak: _times(row, p), largest, methods)}")
        yield Statement(
            "restored",
            f"{_start(_prefix(restored, family) + 'largest')} teacher, {largest}, against {top}, which has the highest "
            f"derived variance under TS: {'; '.join(shares)}.",
        )


def _links(links: pd.DataFrame, tau: float) -> Iterator[Statement]:
    wanted = ["probe", "tau", "student", "label", "metric", "value", "low", "high", "p_adjusted", "n", "findings"]
    require_columns(links, [*wanted, "partial_target_prob", "partial_accuracy"], "the links table")
    spearman = links[links["metric"].eq("spearman") & links["value"].notna()]
    closest, derived, significant, lasting = [], [], 0, 0
    for (student, label), rows in spearman.groupby(["student", "label"], sort=False):
        best = rows.loc[rows["value"].abs().idxmax()]
        clear = best["p_adjusted"] < 0.05
        significant += clear
        text = (
            f"Student {student}, {label}: of {len(rows)} probes and temperatures {_named(best)} tracks accuracy over "
            f"{best['n']} teachers most closely, Spearman {_value(best, 'value')}, {'' if clear else 'not '}significant "
            f"when corrected for all of them (p = {best['p_adjusted']:.2g})."
        )
        beside = _beside(rows, best["tau"])
        if best["probe"] not in DERIVED or beside:
            text += f" Beside it: {beside}." if best["probe"] in DERIVED else ""
            closest.append(Statement("links", text, _codes(best)))
        variance = rows[rows["probe"].eq("derived_variance")]
        if variance.empty:
            continue
        link = variance.loc[(variance["tau"] - tau).abs().idxmin()]
        if not (beside := _beside(rows, link["tau"])):
            continue
        held = {name: _held(link, column) for name, column in
                {"p_y": "partial_target_prob", "the teacher's accuracy": "partial_accuracy"}.items()}  # fmt: skip
        survives = {name: _excludes_zero(row) for name, row in held.items()}
        if not _excludes_zero(link):
            end = "its interval covers zero: no link is shown that could survive"
        elif all(survives.values()):
            end = "it survives both"
            lasting += 1
        else:
            end = f"it does not survive {_join([name for name, lasts in survives.items() if not lasts])}"
        fixed = _join([f"{_value(row)} given {name}" for name, row in held.items()])
        derived.append(Statement("links", f"Student {student}, {label}: the link of {_named(link)} is {_value(link, 'value')}, "
                                          f"{fixed}: {end}. Beside it: {beside}.", _codes(link)))  # fmt: skip
    if not closest:
        yield Statement("links", "Not told: the links table has no Spearman correlation.")
        return
    yield Statement(
        "links",
        f"In {significant} of {len(closest)} combinations of student and method some probe's link is significant (p < 0.05) "
        f"when corrected for the number of probes; in {lasting} of {len(derived)} the derived variance near tau={tau:g} is "
        "linked to accuracy and stays so given p_y, and given the teacher's accuracy.",
    )
    yield from closest
    yield from derived


def _gain(results: pd.DataFrame, split: str) -> Iterator[Statement]:
    taught = _taught(results, split)
    plain = results[results["split"].eq(split) & results["method"].eq("CE") & results["accuracy"].notna()]
    if plain.empty:
        yield Statement("gain", "Not told: the results have no student taught by plain cross-entropy (method CE).")
        return
    for (_, student, label), rows in taught.groupby(["family", "student", "label"], sort=False):
        with_teachers = _by_seed(rows)
        alone = plain[plain["student"].eq(student)].groupby("seed")["accuracy"].mean()
        gained = _difference(with_teachers.mean(axis=1), alone)
        found = _verdict(gained, "a gain", "a loss", "no difference is shown, the interval covers zero")
        setting = _start(f"{_prefix(taught, rows)}student {student}, {label}")
        yield Statement("gain", f"{setting}: {_points(gained)} over plain cross-entropy, averaged over "
                                f"{_count(with_teachers.shape[1], 'teacher')} {_seeds(gained)}: {found}.")  # fmt: skip


def _large(taught: pd.DataFrame) -> Iterator[Statement]:
    compared = False
    for (_, student), rows in taught.groupby(["family", "student"], sort=False):
        sizes = rows.groupby("teacher")["params"].first().sort_values(kind="stable").dropna()
        large = sizes.index[-ceil(len(sizes) / 3):] if len(sizes) else sizes.index  # fmt: skip
        rows = rows[rows["teacher"].isin(large)]
        plain = rows[rows["method"].eq("KD")]
        for label, asymmetric in rows[rows["method"].eq("ISATS")].groupby("label", sort=False):
            same = plain[plain["tau"].isin(asymmetric["tau"])]
            if same.empty:
                continue
            compared = True
            beside = _by_seed(same[same["label"].eq(same["label"].iloc[0])])
            apart = _difference(_by_seed(asymmetric).mean(axis=1), beside.mean(axis=1))
            found = _verdict(apart, "ISATS is better", "plain soft labels are better",
                             "no difference is shown, the interval covers zero")  # fmt: skip
            setting = _start(f"{_prefix(taught, rows)}student {student}, largest teachers ({_join(list(large))})")
            yield Statement("large", f"{setting}: {label} less {same['label'].iloc[0]} is {_points(apart)} "
                                     f"{_seeds(apart)}: {found}.")  # fmt: skip
    if not compared:
        yield Statement("large", "Not told: no student was taught both by KD and by ISATS at one temperature.")


# Numbers ---------------------------------------------------------------------------------------------------------------


def _taught(results: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of students that had a teacher, on one split."""
    require_columns(results, ["family", "teacher", "params", "student", "label", "method", "tau", "seed", "split",
                              "accuracy"], "the results table")  # fmt: skip
    if not results["split"].eq(split).any():
        raise InputError(f"the results table has no rows for the split {split!r}; it has {sorted(results['split'].unique())}")
    return results[results["split"].eq(split) & results["method"].ne("CE") & results["accuracy"].notna()]


def _course(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean, low and high of each teacher of one family, by size; the variance of its runs is pooled over teachers."""
    unit = ["teacher", "teacher_seed"] if "teacher_seed" in frame and frame["teacher_seed"].nunique() > 1 else None
    runs = frame.groupby(unit)[value].mean() if unit else frame.set_index("teacher")[value]
    by_teacher = runs.groupby(level="teacher")
    course = pd.DataFrame({"mean": by_teacher.mean(), "count": by_teacher.count()})
    free = int((course["count"] - 1).sum())
    if free > 0:
        pooled = float(((runs - by_teacher.transform("mean")) ** 2).sum()) / free
        half = stats.t.ppf(0.975, free) * np.sqrt(pooled / course["count"])
    elif "se" in frame:
        half = stats.norm.ppf(0.975) * frame.groupby("teacher")["se"].mean()
    elif "n" in frame:
        half = stats.norm.ppf(0.975) * np.sqrt(course["mean"] * (1 - course["mean"]) / frame.groupby("teacher")["n"].first())
    else:
        half = np.nan
    course = course.assign(low=course["mean"] - half, high=course["mean"] + half)
    course["params"] = frame.groupby("teacher")["params"].first()
    return course.sort_values("params", kind="stable")


def _pair_mean(alike: Floats, nearest: int, furthest: int, *, below_floor: bool = False) -> pd.Series:
    """Mean over pairs of teachers some places apart, or how far it lies below their own diagonals; teachers redrawn."""
    place = np.arange(len(alike))
    apart = place[None] - place[:, None]
    if below_floor:
        floor = np.diag(alike)
        alike = (floor[:, None] + floor[None]) / 2 - alike
    first, second = np.nonzero((apart >= nearest) & (apart <= furthest) & np.isfinite(alike))
    if not len(first):
        return _interval(np.nan, np.nan, np.nan)
    counts = np.random.default_rng(0).multinomial(len(alike), np.full(len(alike), 1 / len(alike)), size=_DRAWS)
    weights = np.where(first == second, counts[:, first], counts[:, first] * counts[:, second])
    total = weights.sum(axis=1)
    draws = (weights @ alike[first, second])[total > 0] / total[total > 0]
    ends = np.quantile(draws, [0.025, 0.975]) if len(alike) > 2 else (np.nan, np.nan)
    return _interval(alike[first, second].mean(), *ends)


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each seed (rows) with each teacher (columns); seeds that lack a teacher are left out."""
    return rows.pivot_table(index="seed", columns="teacher", values="accuracy").dropna()


def _difference(left: pd.Series, right: pd.Series) -> pd.Series:
    """Mean difference paired by seed, with Student's t interval and the number of seeds."""
    apart = (left - right).dropna()
    half = np.nan
    if len(apart) > 1:
        half = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
    return _interval(apart.mean(), apart.mean() - half, apart.mean() + half, seeds=len(apart))


def _times(row: pd.Series, base: pd.Series) -> str:
    """How many times the mean of `base` that of `row` is; the two intervals are joined on the log scale."""
    if row["mean"] <= 0 or base["mean"] <= 0:
        return "undefined"
    half = np.hypot(*((part["high"] - part["mean"]) / part["mean"] for part in (row, base)))
    ratio = row["mean"] / base["mean"]
    same = row.equals(base)
    return "x1" if same else "x" + _value(_interval(ratio, ratio * np.exp(-half), ratio * np.exp(half)))


def _held(link: pd.Series, column: str) -> pd.Series:
    """A partial correlation with normal theory's interval; one variable fewer than there are teachers."""
    value = np.array(link[column], dtype=float)
    low, high = fisher_interval(value, "spearman", int(link["n"]) - 1)
    return _interval(float(value), float(low), float(high))


def _interval(mean: float, low: float, high: float, **more: float) -> pd.Series:
    return pd.Series({"mean": mean, "low": low, "high": high, **more})


def _excludes_zero(row: pd.Series) -> bool:
    return bool(row["low"] > 0 or row["high"] < 0)


# Words -----------------------------------------------------------------------------------------------------------------


def _shape(found: Peak) -> str:
    """Whether it rises and falls, and among which teachers the peak lies with a chance of 95 %; heights are to follow."""
    rises = "rises, then falls as teachers grow"
    if found.p_value >= 0.05:
        rises = "shows no established rise followed by a fall as teachers grow"
    chance = pd.Series(found.probability).sort_values(ascending=False, kind="stable")
    likely = chance.index[: int((chance.cumsum() < 0.95).sum()) + 1]
    among = [teacher for teacher in found.probability if teacher in likely]
    where = among[0] if len(among) == 1 else f"one of {_join(among)}"
    return f"{rises} (p = {found.p_value:.2g}); the highest is {where} with a chance of {chance[likely].sum():.0%}:"


def _ends(course: pd.DataFrame, found: Peak) -> list[str]:
    """The smallest, the highest and the largest teacher, each once, by size."""
    told = {course.index[0], found.teacher, course.index[-1]}
    return [teacher for teacher in course.index if teacher in told]


def _few(course: pd.DataFrame) -> tuple[str, ...]:
    return ("CM003",) if len(course) < FEW_TEACHERS else ()


def _verdict(row: pd.Series, above: str, below: str, neither: str) -> str:
    if np.isnan(row["low"]):
        return "too few to give an interval, so nothing is established"
    return above if row["low"] > 0 else below if row["high"] < 0 else neither


def _beside(rows: pd.DataFrame, tau: float) -> str:
    """The links of p_y and of the inherent variance at a temperature; empty where one is missing."""
    found = [rows[rows["probe"].eq(probe) & rows["tau"].eq(tau)] for probe in COMPANIONS]
    if any(rows.empty for rows in found):
        return ""
    return _join([f"{WORDS[row['probe'].iloc[0]]} {_value(row.iloc[0], 'value')}" for row in found])


def _named(link: pd.Series) -> str:
    return str(link["probe"]) + ("" if np.isnan(link["tau"]) else f" at tau={link['tau']:g}")


def _codes(link: pd.Series) -> tuple[str, ...]:
    return tuple(code for code in str(link["findings"]).split(",") if code.startswith("CM"))


def _prefix(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The family, where the frame has several."""
    return f"family {rows['family'].iloc[0]}, " if frame["family"].nunique() > 1 else ""


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _seeds(row: pd.Series) -> str:
    return f"({_count(int(row['seeds']), 'seed')})"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _value(row: pd.Series, name: str = "mean") -> str:
    return _with_interval(row, name, _number)


def _percent(row: pd.Series) -> str:
    return _with_interval(row, "mean", lambda value: f"{100 * value:.1f} %")


def _points(row: pd.Series) -> str:
    value, bracket = _with_interval(row, "mean", lambda value: f"{100 * value:+.2f}"), " points"
    return value.replace(" [", f"{bracket} [") if " [" in value else value + bracket


def _with_interval(row: pd.Series, name: str, tell: Callable[[float], str]) -> str:
    if np.isnan(row[name]):
        return "unknown"
    bounds = "" if np.isnan(row["low"]) else f" [{tell(row['low'])}, {tell(row['high'])}]"
    return tell(row[name]) + bounds
