"""All numbers of the evidence, from the studies of the package: its small tables, the docs' tables and figure.

    python data/evidence/evidence_numbers.py [--teachers] [--quick]

Leaves each family out in turn (`capmismatch.meta`; some minutes of one core). Writes
`capmismatch/embedded/evidence_teachers.parquet` (what `capmismatch.pick` takes of the students of the package, the only
thing with ``--teachers``), `evidence_rules.parquet` (what rules lost), the tables `data/evidence/*.csv`,
`tables.md` and `controls.md`, which the docs include, and the figure `docs/_static/evidence-forest.png`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rivals import added
from scipy.stats import spearmanr

import capmismatch as cm
from capmismatch import plots
from capmismatch._utils.files import write_table, write_text
from capmismatch.selection.candidates import FEATURES, number_of_classes, predictors
from capmismatch.selection.evidence import families_of
from capmismatch.selection.outlook import DEFAULT_PICK, LABEL
from capmismatch.stats.across import mean_over
from capmismatch.study.meta import EVIDENCE, Meta

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EMBEDDED = ROOT / "capmismatch" / "embedded"
PRIMARY = LABEL
PICK = DEFAULT_PICK
RULES = ("evidence", "most accurate", "largest", "lowest nll", "lowest ece", "highest derived_std", "smallest", PICK)
RULES += ("random",)
OTHER_STUDIES = ("mlp", "A", "B")
"""Families of letters and of CIFAR-10."""
JUDGED = [("evidence", rule) for rule in ("most accurate", "largest", "random", "lowest nll", "lowest ece")]
JUDGED += [("lowest nll", "most accurate"), (PICK, "most accurate"), ("highest derived_std", "random")]


def teachers(pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """The small table: see `capmismatch.selection.outlook.teachers_measured`."""
    rows = []
    for probes, results in pairs:
        for table in families_of(probes, results, "val", "test"):
            profiles = table.profiles
            code = tuple(profiles.index.get_level_values("family"))
            groups = table.all_groups(predictors(profiles), code)
            kept = profiles.reindex(columns=["params", *(name for name in FEATURES if not name.startswith("log_"))])
            facts = {"study": code[0], "classes": number_of_classes(profiles)}
            facts |= {"student": table.choosing["student"].iloc[0]}
            for label, group in groups.items():
                students = {"mean": group.means, "variance": group.noise.variances, "free": group.noise.free}
                rows.append(kept.reset_index().assign(**facts, label=label, **students))
    return pd.concat(rows, ignore_index=True).dropna(subset="mean")


def in_words(value: float, low: float, high: float, digits: int = 2) -> str:
    """``0.31 [0.12, 0.50]``."""
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else ""
    return f"{value:.{digits}f}{interval}"


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table."""
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def rules_of(found: Meta, against: str, label: str) -> str:
    """Regret of rules in all families, in those with mismatch and in the others, and less that of another rule."""
    table = found.compared(against)
    table = table[table["label"].eq(label)]
    shown = {}
    for regime, name in (("all", "all families"), ("mismatch", "mismatch"), ("elsewhere", "elsewhere")):
        rows = table[table["regime"].eq(regime)].set_index("rule")
        rows = rows.loc[[rule for rule in RULES if rule in rows.index]]
        if rows.empty:
            continue
        count = f"{name} ({rows['families'].max():.0f})"
        shown[count] = [in_words(*one) for one in rows[["regret", "low", "high"]].to_numpy(float)]
        if regime != "elsewhere":
            less = rows[["less", "less_low", "less_high"]].to_numpy(float)
            shown[f"less “{against}”, {name}"] = [
                "" if rule == against else in_words(*one) for rule, one in zip(rows.index, less, strict=True)
            ]
        names = list(rows.index)
    return markdown(pd.DataFrame({"rule": names, **shown}))


def judged(found: Meta) -> str:
    """What the criterion of families.md counts: one rule less another, in the families of that study alone."""
    of_study = found.choices[~found.choices["family"].isin(OTHER_STUDIES)]
    rows = []
    for name, choices in (("", of_study), (", without DKD", of_study[of_study["method"].ne("DKD")])):
        for rule, against in JUDGED:
            table = replace(found, choices=choices).compared(against)
            table = table[table["label"].eq("all") & table["rule"].eq(rule)].set_index("regime")
            less = table[["less", "less_low", "less_high"]].astype(float)
            shown = {regime: in_words(*less.loc[regime]) for regime in ("all", "mismatch", "elsewhere")}
            rows.append({"rule, less another": f"{rule}, less {against}{name}", **shown})
    return markdown(pd.DataFrame(rows))


def by_setting(found: Meta) -> str:
    """Regret of some rules, setting by setting."""
    table = found.rules[found.rules["regime"].eq("all")]
    wide = {}
    for label, rows in table.groupby("label", sort=False):
        rows = rows.set_index("rule")
        known = [rule for rule in RULES if rule in rows.index]
        wide[label] = {rule: in_words(*rows.loc[rule, ["regret", "low", "high"]].astype(float)) for rule in known}
        wide[label]["families"] = f"{rows['families'].max():.0f}"
    frame = pd.DataFrame(wide).T.reindex(columns=["families", *RULES])
    return markdown(frame.fillna("").rename_axis("setting").reset_index())


def probes_of(found: Meta) -> str:
    """Correlations of probes with students, over families, in the primary setting."""
    rows = found.probes[found.probes["label"].eq(PRIMARY)]
    rows = rows[rows["tau"].isna() | rows["tau"].eq(4)].head(16)
    return markdown(
        pd.DataFrame(
            {
                "probe": rows["probe"],
                "τ": ["" if np.isnan(tau) else f"{tau:g}" for tau in rows["tau"]],
                "rank correlation": [in_words(*one) for one in rows[["value", "low", "high"]].to_numpy(float)],
                "I²": [f"{value:.0%}" for value in rows["heterogeneity"]],
                "families": rows["families"],
            }
        )
    )


def contrasts_of(found: Meta, label: str) -> str:
    """How much more closely probes go with students than accuracy does."""
    rows = found.contrasts(label)
    less = [in_words(*one) for one in rows[["less", "low", "high"]].to_numpy(float)]
    return markdown(
        pd.DataFrame(
            {
                "probe": rows["probe"],
                "mean z": [f"{z:.2f}" for z in rows["z"]],
                "less that of accuracy": ["" if p else text for p, text in zip(rows["p"].isna(), less, strict=True)],
                "p": ["" if np.isnan(p) else f"{p:.3f}" for p in rows["p"]],
            }
        )
    )


def chances_of(found: Meta, carried: bool) -> str:
    """What was claimed of the chosen teachers' chances, and what came true."""
    rows = found.chances(carried)
    return markdown(
        pd.DataFrame(
            {
                "P(best) claimed": [
                    f"{low:g} to {high:g}" for low, high in zip(rows["low"], rows["high"], strict=True)
                ],
                "mean": [f"{value:.2f}" for value in rows["claimed"]],
                "came true": [f"{value:.2f}" for value in rows["came_true"]],
                "choices": rows["choices"],
                "families": rows["families"],
            }
        )
    )


def page(found: Meta) -> str:
    """The tables of the docs."""
    families = len(found.choices[["study", "family"]].drop_duplicates())
    parts = [
        ("rules", f"Points lost, mean over settings; {families} families.", rules_of(found, "most accurate", "all")),
        ("primary", f"The same under {PRIMARY}.", rules_of(found, "most accurate", PRIMARY)),
        ("judged", "What the criterion counts: the families of the study alone, mean over settings.", judged(found)),
        ("settings", "By setting, all families.", by_setting(found)),
        ("probes", f"Rank correlation with students under {PRIMARY}, random effects.", probes_of(found)),
        ("contrasts", "Mixed model z ~ probe + (1 | family), mean over settings.", contrasts_of(found, "all")),
        ("chances", "Chances that the evidence claims.", chances_of(found, False)),
        ("carried", f"The same drawn toward 1/T: {found.carried():.2f} is carried over.", chances_of(found, True)),
    ]
    lines = ["<!-- written by data/evidence/evidence_numbers.py -->"]
    for name, title, table in parts:
        lines += [f"<!-- {name} -->", title, "", table, f"<!-- end of {name} -->"]
    return "\n".join(lines) + "\n"


def controls_of(pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """What each setting is worth over families: against plain students, against the primary setting, and by size."""
    rows = []
    for _, results in pairs:
        tested = results[results["split"].eq("test")]
        taught = tested[tested["teacher"].ne("")]
        if PRIMARY not in set(taught["label"]) or "FLAT tau=4" not in set(taught["label"]):
            continue  # of another study
        plain = tested.loc[tested["teacher"].eq(""), "accuracy"].mean()
        sizes = taught.groupby("teacher")["params"].first().sort_values()
        means = taught.groupby(["label", "teacher"])["accuracy"].mean().unstack("label").reindex(sizes.index)
        for label in means:
            students, primary = means[label], means[PRIMARY]
            rows.append(
                {
                    "setting": label,
                    "over plain students": 100 * (students.mean() - plain),
                    f"over {PRIMARY}": 100 * (students.mean() - primary.mean()),
                    "the same, three largest teachers": 100 * (students - primary).iloc[-3:].mean(),
                    "rank correlation with size": spearmanr(np.arange(len(students)), students).statistic,
                }
            )
    table = pd.DataFrame(rows)
    names = [name for name in table if name != "setting"]
    shown = [
        {"setting": label, **{name: _mean_in_words(of_label[name]) for name in names}}
        for label, of_label in table.groupby("setting")
    ]
    return markdown(pd.DataFrame(shown))


def _mean_in_words(values: pd.Series) -> str:
    over = mean_over(values)
    return "" if np.ptp(values) < 1e-9 else in_words(over.value, over.low, over.high)


def draw(found: Meta) -> None:
    """The forest plot of the docs: the evidence against the most accurate teacher, a mean over settings."""
    forest = found.forest(EVIDENCE, "most accurate")
    of_families = forest[~forest["mean"]].sort_values("value")
    forest = pd.concat([of_families, forest[forest["mean"]]], ignore_index=True)
    names = forest["name"].str.replace(r"^study \d+: ", "", regex=True)
    forest["name"] = names.replace({"mlp": "letters", "A": "CIFAR-10, family A", "B": "CIFAR-10, family B"})
    with plots.figure_style("default"):
        ax = plots.forest(forest, quantity="points lost by the evidence, less those of the most accurate teacher")
        ax.figure.savefig(ROOT / "docs" / "_static" / "evidence-forest.png", dpi=120, bbox_inches="tight")


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="figure and controls alone, from choices.csv and students")
    parser.add_argument("--teachers", action="store_true", help="the small table of teachers alone")
    options = parser.parse_args()
    # Probes that came later are in `rival_numbers.py`: what was written down before the students stays as it was.
    pairs = [(probes[~probes["probe"].isin(added())], results) for probes, results in cm.shipped_evidence()]
    write_text(HERE / "controls.md", "<!-- written by data/evidence/evidence_numbers.py -->\n" + controls_of(pairs))
    if options.quick:
        nothing = pd.DataFrame()
        draw(Meta(nothing, nothing, nothing, pd.read_csv(HERE / "choices.csv"), nothing))
        return
    write_table(EMBEDDED / "evidence_teachers.parquet", teachers(pairs))
    if options.teachers:
        return
    found = cm.meta(pairs, rules={PICK: lambda probes: cm.pick(probes, evidence="none").teacher})
    write_table(EMBEDDED / "evidence_rules.parquet", found.rules.assign(carried=found.carried()))
    for name, table in (
        ("rules", found.compared("most accurate")),
        ("probes", found.probes),
        ("contrasts", found.contrasts("all")),
        ("chances", pd.concat([found.chances(carried).assign(carried=carried) for carried in (False, True)])),
        ("choices", found.choices[found.choices["rule"].isin([*RULES])]),
    ):
        write_text(HERE / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    write_text(HERE / "tables.md", page(found))
    draw(found)
    print(judged(found), found, sep="\n")


if __name__ == "__main__":
    main()
