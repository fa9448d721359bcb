"""The numbers of README.md about teachers, links and methods, in the words and tables that it quotes.

    capmismatch run data/cifar10/analysis.toml --folder studies/cifar10-analysis
    python data/cifar10/study_numbers.py studies/cifar10-analysis

Without the folder, only what the shipped results tell: do teachers differ, which method, temperature and margin.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

import capmismatch as cm

HERE = Path(__file__).parent
NAMES = {
    "KD tau=4 student tau=1": "KD, tau 4",
    "KD tau=2 student tau=1": "KD, tau 2",
    "ISATS anchor tau=4": "ISATS, anchor",
    "DKD": "DKD",
    "ISATS order m=1 tau=4": "ISATS, order, margin 1",
    "ATS tau=4 other tau=3": "ATS, tau 4 and 3",
    "ISATS order m=0 tau=4": "ISATS, order, margin 0",
    "ISATS unconstrained tau=4": "ISATS, no constraint",
}
"""Label of a setting -> what README.md calls it, in the order of its table of links."""

FOUR = "KD tau=4 student tau=1"
QUOTED = (
    *(("spearman", probe, tau) for probe in ("derived_std", "derived_variance") for tau in (1, 2, 4, 8)),
    *(("pearson", "derived_variance", tau) for tau in (1, 2, 4)),
    *(
        ("pearson", probe, tau)
        for probe, tau in (("nll", None), ("brier", None), ("cmi", 1), ("within_class_spread", 1))
    ),
    *(("spearman", probe, None) for probe in ("ece_over", "ece", "accuracy", "classwise_ace")),
    ("spearman", "entropy", 1),
    ("spearman", "logit_std", None),
    *(("spearman", probe, 4) for probe in ("inherent_variance", "target_prob", "cmi")),
)
"""Links that README.md quotes for KD at both temperatures: coefficient, probe, temperature."""


def results(name: str = "results.csv") -> pd.DataFrame:
    """The shipped results, without those on validation."""
    table = cm.load_results(HERE / name)
    return table[table["split"].eq("test")]


def interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    """``value [low, high]``."""
    return "{:{form}} [{:{form}}, {:{form}}]".format(value, low, high, form=form)


def teachers() -> Iterator[str]:
    """Whether teachers differ, and what the means of two seeds are worth."""
    for name in ("results.csv", "second.csv"):
        yield f"\nDo the teachers of {name} differ? Label, F, p, reliability, ceiling, seeds for 0.8"
        for row in cm.teacher_differences(results(name)).itertuples():
            reliability = interval(row.reliability, row.low, row.high)
            numbers = f"F({row.df1}, {row.df2}) = {row.F:.2f}, p = {row.p:.2f}, {reliability}, {row.ceiling:.2f}"
            yield f"{NAMES[row.label]}: {numbers}, {row.seeds_for_80:g}"


def methods(name: str = "results.csv") -> Iterator[str]:
    """The table of methods: accuracy, gain over plain cross-entropy, difference to KD at tau 4."""
    table = results(name)
    means = table.groupby("label")["accuracy"].mean()
    pairs = [cm.setting_differences(table, against=label).set_index("label") for label in ("CE", FOUR)]
    yield f"| setting | accuracy | gain | against KD, tau 4 | for other teachers |\n|{'---|' * 5}"
    for label in means.drop("CE").sort_values(ascending=False).index:
        cells = [NAMES[label], f"{means[label]:.4f}".lstrip("0"), _points(pairs[0].loc[label])]
        if label == FOUR:
            cells += ["", ""]
        else:
            row = pairs[1].loc[label]
            cells += [_points(row), _points(row, "_of_others")]
        yield f"| {' | '.join(cells)} |"


def default() -> Iterator[str]:
    """Is the default of ISATS, order with margin 1, ahead of the others?"""
    table = cm.setting_differences(results(), against="ISATS order m=1 tau=4")
    first = table.iloc[0]
    yield f"A run: {100 * first['run_sd']:.2f} points; seed x setting: {100 * first['seed_setting_sd']:.2f} points"
    yield f"(p = {first['p_seed_setting']:.4f}). The default, order with margin 1, less"
    for row in table[table["label"].ne("CE")].to_dict("records"):
        less = {"value": -row["value"], "low": -row["high"], "high": -row["low"]}
        yield f"  {NAMES[row['label']]}: {_points(less)}"


def sizes() -> Iterator[str]:
    """Points that a teacher of ten times the parameters brings, least squares within families."""
    by_teacher = results()[lambda t: t["method"].ne("CE")].pivot_table(
        index=["family", "teacher", "params"], columns="label", values="accuracy"
    )
    lines = {label: 100 * by_teacher[label] for label in ("KD tau=2 student tau=1", FOUR, "ATS tau=4 other tau=3")}
    lines |= {
        f"from {FOUR} to {label}": 100 * (by_teacher[label] - by_teacher[FOUR])
        for label in ("ATS tau=4 other tau=3", "ISATS order m=1 tau=4")
    }
    for name, points in lines.items():
        frame = points.rename("points").reset_index().assign(size=lambda t: np.log10(t["params"]))
        fitted = smf.ols("points ~ C(family) + size", frame).fit()
        yield f"  {name}: {interval(fitted.params['size'], *fitted.conf_int().loc['size'], '+.1f')} points a tenfold"


def links(folder: Path) -> Iterator[str]:
    """The table of links by setting, and the links that the text quotes."""
    found = pd.read_parquet(folder / "tables" / "links.parquet")
    spearman = found[found["metric"].eq("spearman")].set_index(["label", "probe", "tau"]).sort_index()
    yield "| setting | larger teachers | highest derived std at tau 4 | ceiling |\n|---|---|---|---|"
    for label, name in NAMES.items():
        both = [spearman.loc[(label, "log_params")].iloc[0], spearman.loc[(label, "derived_std", 4.0)]]
        cells = [interval(row["value"], row["low"], row["high"], "+.2f") for row in both]
        yield f"| {name} | {' | '.join(cells)} | {both[1]['ceiling']:.2f} |"
    for metric, probe, tau in QUOTED:
        for label in (FOUR, "KD tau=2 student tau=1"):
            at = found["tau"].isna() if tau is None else found["tau"].eq(tau)
            row = found[at & found["metric"].eq(metric) & found["probe"].eq(probe) & found["label"].eq(label)].iloc[0]
            tested = f"p adjusted {row['p_adjusted']:.3f}, max-T {row['p_max']:.3f}, overall {row['p_overall']:.3f}"
            given = f"given p_y {row['partial_target_prob']:.2f}; goes with {row['collinear'] or 'none'}"
            value = interval(row["value"], row["low"], row["high"])
            yield f"  {NAMES[label]}, {metric}, {probe} at {tau}: {value}, {tested}; {given}"
    strongest = found.sort_values("p_adjusted").groupby("label").first()
    significant = ", ".join(NAMES[label] for label in strongest.index[strongest["p_adjusted"] < 0.05])
    yield f"  Settings with a probe that is significant when corrected (any coefficient): {significant}"


def second(folder: Path) -> Iterator[str]:
    """The other student: links, and how alike its teachers' order is."""
    probes, other = pd.read_parquet(folder / "tables" / "probes.parquet"), results("second.csv")
    found = cm.correlate(probes, other)
    found = found[found["metric"].eq("spearman")].set_index(["label", "probe", "tau"]).sort_index()
    means = [t.groupby(["label", "family", "teacher"])["accuracy"].mean() for t in (results(), other)]
    for label in ("ATS tau=4 other tau=3", FOUR, "ISATS order m=1 tau=4"):
        rows = [found.loc[(label, "log_params")].iloc[0], found.loc[(label, "derived_std", 4.0)]]
        cells = [interval(row["value"], row["low"], row["high"], "+.2f") for row in rows]
        alike = means[0][label].corr(means[1][label], method="spearman")
        yield f"| {NAMES[label]} | {' | '.join(cells)} | {alike:.2f} |"


def _points(row: pd.Series | dict[str, float], of: str = "") -> str:
    value, low, high = (100 * row[name] for name in ("value", f"low{of}", f"high{of}"))
    text = interval(value, low, high, "+.2f") if not of else f"[{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def main() -> None:
    """Print everything."""
    parts = [teachers(), methods(), default(), sizes(), methods("second.csv")]
    if len(sys.argv) > 1:
        parts += [links(Path(sys.argv[1])), second(Path(sys.argv[1]))]
    for part in parts:
        print("\n".join(part), end="\n\n")


if __name__ == "__main__":
    main()
