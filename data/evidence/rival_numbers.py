"""What the rival probes are worth over the shipped families: exploratory, as nobody named them before the students.

    python data/evidence/rival_numbers.py [--page]

Writes `data/evidence/rivals.csv` (every probe, at tau 4 where it has one, and setting), `rival_rules.csv`, and
`rivals.md`, which the README has; ``--page`` the latter alone, from both. The rules that the study of families had
written down before, and the default, are in `evidence_numbers.py` and stay as they are.

A probe's direction is the one that its entry expects; where that is undecided it is learnt from the other families, for
each family anew, so that none gets to choose its sign by its own students.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from evidence_numbers import PRIMARY, ROOT, in_words, markdown
from rivals import UNTRAINED, added
from scipy.stats import t as student_t

import capmismatch as cm
from capmismatch._utils.files import make_folder, write_table, write_text
from capmismatch.probes import PAIRS, expected_signs
from capmismatch.stats.across import mean_over, pooled_correlation

HERE = Path(__file__).parent
AGAINST = "derived_std"
KNOWN = ("accuracy", "nll", "brier", "ece", "classwise_ace", "params", AGAINST)
TAU = 4.0
FEWEST = 10  # families, for a setting to be compared
UNIT = ["study", "family"]
NEW_RULES = {
    "lowest nll_tau": ("nll_tau", -1),
    "lowest brier_tau": ("brier_tau", -1),
    "lowest ece_tau": ("ece_tau", -1),
    "lowest classwise_ace_tau": ("classwise_ace_tau", -1),
    "lowest calibration_tau": ("calibration_tau", -1),
    "highest class_variance": ("class_variance", 1),
}
SHOWN_RULES = (
    *NEW_RULES,
    *("highest h_score", "highest logme", "highest cka", "highest gradient_cosine"),
    *("lowest kl", "lowest rsr", "lowest wrong_rsr", "lowest grace", "size ratio 2.5"),
)
BESIDE = ("most accurate", "lowest nll", "highest derived_std", "random")


def by_rule(probe: str, sign: int, probes: pd.DataFrame) -> str:
    """The teacher with the highest or lowest mean of a probe on validation rows, at tau 4 where it has one."""
    rows = probes[probes["probe"].eq(probe) & probes["split"].eq("val")]
    means = rows[rows["tau"].isna() | rows["tau"].eq(TAU)].groupby("teacher")["value"].mean()
    return str((sign * means).idxmax())


def of_study(pair: tuple[pd.DataFrame, pd.DataFrame], start: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Correlations of each probe, family and setting; and what each rule takes and loses. One study at a time."""
    rules = {name: partial(by_rule, *rule) for name, rule in NEW_RULES.items()}
    pair, start = (_at_tau(pair[0]), pair[1]), _at_tau(start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one study is few
        found = cm.meta([pair], evidence=False, rules=rules)
        before = start[start["family"].isin(set(pair[0]["family"]))].assign(se=np.nan)
        at_start = cm.meta([(before, pair[1])], evidence=False).correlations if len(before) else found.correlations[:0]
    at_start = at_start[at_start["probe"].isin([name for name in PAIRS if not name.startswith("size")])]
    linked = pd.concat([found.correlations, at_start.assign(probe=at_start["probe"] + f", {UNTRAINED}")])
    return linked, found.choices


def _at_tau(probes: pd.DataFrame) -> pd.DataFrame:
    """Rows of a probes table without a temperature, or at `TAU`."""
    return probes[probes["tau"].isna() | probes["tau"].eq(TAU)]


def of_all(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same of all shipped studies; what is done lies in a folder."""
    start = pd.read_parquet(HERE / f"{UNTRAINED}.parquet")
    parts = []
    make_folder(folder)
    for number, pair in enumerate(cm.shipped_evidence(), 1):
        files = [folder / f"{kind}-{number}.parquet" for kind in ("links", "choices")]
        if not all(file.exists() for file in files):
            for file, table in zip(files, of_study(pair, start), strict=True):
                write_table(file, table.assign(study=f"study {number}"))
        parts.append([pd.read_parquet(file) for file in files])
    linked, choices = (pd.concat(of_kind, ignore_index=True) for of_kind in zip(*parts, strict=True))
    return linked, choices


def probes_table(linked: pd.DataFrame) -> pd.DataFrame:
    """Pooled over families, with the difference to the derived std, by probe and setting."""
    rows = []
    every = pd.concat([linked, linked.assign(label="all")])
    for label, of_label in every.groupby("label", sort=False):
        z = np.arctanh(of_label["value"].clip(-0.999, 0.999))
        wide = of_label.assign(z=z).pivot_table(index=UNIT, columns="probe", values=["z", "teachers"])
        if label != "all" and len(wide) < FEWEST:
            continue
        rival = _turned(wide["z", AGAINST], AGAINST)
        for probe in wide["z"]:
            pooled = pooled_correlation(np.tanh(wide["z", probe]), wide["teachers", probe])
            turned = _turned(wide["z", probe], str(probe))
            less = mean_over((turned - rival).dropna())
            row = {"label": label, "probe": probe, "value": pooled.value, "low": pooled.low, "high": pooled.high}
            row["p"] = _p(np.arctanh(pooled.value), np.arctanh(pooled.high), pooled.families)
            row |= {"heterogeneity": pooled.heterogeneity, "families": pooled.families, "z": turned.mean()}
            row |= {"more": less.value, "more_low": less.low, "more_high": less.high}
            rows.append(row | {"p_more": _p(less.value, less.high, less.units)})
    return pd.DataFrame(rows)


def _turned(z: pd.Series, probe: str) -> pd.Series:
    """Fisher's z with the sign that is expected, else with that of the other families' mean."""
    sign = expected_signs().get(probe.removesuffix(", untrained"), 0)
    if probe == "params":
        sign = 1
    if sign:
        return sign * z
    others = (z.sum() - z) / max(z.notna().sum() - 1, 1)
    return np.sign(others) * z


def _p(value: float, high: float, units: int) -> float:
    """Two-sided p of a value with a 95 % t interval over units."""
    if units < 2 or not np.isfinite(high) or high <= value:
        return np.nan
    error = (high - value) / student_t.ppf(0.975, units - 1)
    return float(2 * student_t.sf(abs(value) / error, units - 1))


def adjusted(p: pd.Series) -> pd.Series:
    """Benjamini and Hochberg's adjusted p-values; NaN is left out."""
    known = p.dropna().sort_values()
    scaled = known * len(known) / np.arange(1, len(known) + 1)
    return scaled[::-1].cummin()[::-1].clip(upper=1).reindex(p.index)


def rules_table(choices: pd.DataFrame) -> pd.DataFrame:
    """Regret of the rules over families, and less that of two others, for all settings and the primary one."""
    rows = []
    for label, cells in (("all", choices), (PRIMARY, choices[choices["label"].eq(PRIMARY)])):
        family = cells.groupby([*UNIT, "rule"])["regret"].mean().unstack("rule")
        for rule in (*SHOWN_RULES, *BESIDE):
            regret = mean_over(family[rule])
            row = {"label": label, "rule": rule, "regret": regret.value, "low": regret.low, "high": regret.high}
            row["families"] = regret.units
            for name, against in (("accurate", "most accurate"), ("std", "highest derived_std")):
                less = mean_over((family[rule] - family[against]).dropna())
                row |= {name: less.value, f"{name}_low": less.low, f"{name}_high": less.high}
                row[f"{name}_p"] = np.nan if rule == against else _p(less.value, less.high, less.units)
            rows.append(row)
    return pd.DataFrame(rows)


def page(table: pd.DataFrame, rules: pd.DataFrame) -> str:
    """The tables of the README."""
    parts = [
        ("rivals", f"Rank correlation with students under {PRIMARY}, random effects.", links(table)),
        ("by setting", f"Closer to the students than {AGAINST}, setting by setting.", closest(table)),
        ("rules", "Points lost by rules of these probes.", regrets(rules)),
    ]
    lines = ["<!-- written by data/evidence/rival_numbers.py -->"]
    for name, title, text in parts:
        lines += [f"<!-- {name} -->", title, "", text, f"<!-- end of {name} -->"]
    return "\n".join(lines) + "\n"


def links(at: pd.DataFrame) -> str:
    """Probes that came later, and those to compare with, under the primary setting."""
    new = [*added(), *at.loc[at["probe"].str.endswith(UNTRAINED), "probe"].unique()]
    rows = at[at["label"].eq(PRIMARY) & at["probe"].isin([*new, *KNOWN])].copy()
    is_new = rows["probe"].isin(new)
    rows.loc[is_new, "adjusted"] = adjusted(rows.loc[is_new, "p"])
    rows = rows.sort_values("value", key=abs, ascending=False)
    return markdown(
        pd.DataFrame(
            {
                "probe": [f"*{name}*" if name in KNOWN else name for name in rows["probe"]],
                "rank correlation": [in_words(*one) for one in rows[["value", "low", "high"]].to_numpy(float)],
                "adjusted p": ["" if np.isnan(p) else f"{p:.3f}" for p in rows["adjusted"]],
                "I²": [f"{value:.0%}" for value in rows["heterogeneity"]],
                "families": rows["families"].astype(int),
            }
        )
    )


def closest(at: pd.DataFrame) -> str:
    """By setting the three new probes that go with the students most closely, and how much more than derived std."""
    new = [*added(), *at.loc[at["probe"].str.endswith(UNTRAINED), "probe"].unique()]
    rows = at[at["probe"].isin(new)].copy()
    rows["adjusted"] = adjusted(rows["p_more"])
    shown = []
    for label, of_label in rows.groupby("label", sort=False):
        rival = at[at["label"].eq(label) & at["probe"].eq(AGAINST)].iloc[0]
        best = of_label.sort_values("z", ascending=False).head(3)
        words = [
            f"{name} {in_words(more, low, high)}, p = {p:.3f}"
            for name, more, low, high, p in best[["probe", "more", "more_low", "more_high", "adjusted"]].to_numpy()
        ]
        beat = of_label[of_label["adjusted"].lt(0.05) & of_label["more"].gt(0)]
        row = {
            "setting": label,
            f"z of {AGAINST}": f"{rival['z']:.2f}",
            "closest: z more, adjusted p": "; ".join(words),
        }
        shown.append(row | {"shown to be closer": f"{len(beat)} of {len(of_label)}"})
    return markdown(pd.DataFrame(shown))


def regrets(rules: pd.DataFrame) -> str:
    """Points lost by rules, and less those of the most accurate teacher and of the highest derived std."""
    rows = rules[rules["label"].eq("all")].copy()
    primary = rules[rules["label"].eq(PRIMARY)].set_index("rule")
    is_new = rows["rule"].isin(SHOWN_RULES)
    for name in ("accurate", "std"):
        rows[f"{name}_adjusted"] = adjusted(rows.loc[is_new, f"{name}_p"]).reindex(rows.index)
    rows = rows.sort_values("regret")

    def words(row: pd.Series, name: str) -> str:
        if np.isnan(row[f"{name}_p"]):
            return ""
        p = row[f"{name}_adjusted"]
        return in_words(row[name], row[f"{name}_low"], row[f"{name}_high"]) + ("" if np.isnan(p) else f", p = {p:.2f}")

    return markdown(
        pd.DataFrame(
            {
                "rule": [f"*{rule}*" if rule in BESIDE else rule for rule in rows["rule"]],
                "mean over settings": [in_words(*one) for one in rows[["regret", "low", "high"]].to_numpy(float)],
                "less “most accurate”": [words(row, "accurate") for _, row in rows.iterrows()],
                "less “highest derived_std”": [words(row, "std") for _, row in rows.iterrows()],
                PRIMARY: [
                    in_words(*primary.loc[rule, ["regret", "low", "high"]].astype(float)) for rule in rows["rule"]
                ],
            }
        )
    )


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="the page alone, from the two tables")
    parser.add_argument("--folder", type=Path, default=ROOT / "studies" / "rivals" / "numbers")
    options = parser.parse_args()
    if not options.page:
        linked, choices = of_all(options.folder)
        probes_table(linked).to_csv(HERE / "rivals.csv", index=False, float_format="%.5g")
        rules_table(choices).to_csv(HERE / "rival_rules.csv", index=False, float_format="%.5g")
    text = page(pd.read_csv(HERE / "rivals.csv"), pd.read_csv(HERE / "rival_rules.csv"))
    write_text(HERE / "rivals.md", text)
    print(text)


if __name__ == "__main__":
    main()
