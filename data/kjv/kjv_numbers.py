"""Tables of the studies of the King James Bible: ``python data/kjv/kjv_numbers.py FOLDER...``, one for each study."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from scipy import stats

from capmismatch.study.tables import load_table


def likelihoods(results: pd.DataFrame, column: str = "nll") -> pd.DataFrame:
    """Mean test NLL in nats of each student, by setting (rows) and teacher (columns, by size); "" is plain training."""
    rows = results[results["split"] == "test"].sort_values("params", na_position="first")
    means = rows.groupby(["student", "label", "teacher"], sort=False)[column].mean()
    return means.unstack("teacher")[list(rows["teacher"].unique())]


def seed_noise(results: pd.DataFrame) -> pd.Series:
    """Standard deviation over seeds of the test NLL in nats, pooled over teachers, of each student and setting."""
    rows = results[results["split"] == "test"]
    spread = rows.groupby(["student", "label", "teacher"])["nll"].var()
    return spread.groupby(["student", "label"]).mean() ** 0.5


def least_difference(results: pd.DataFrame) -> pd.DataFrame:
    """What two teachers' mean test NLL must differ by to be told apart, in nats, of each student and setting.

    The noise is what is left of teachers and seeds, each with an effect of its own; the difference is at 95 %, for one
    pair that was named before, by Student's t. A student seed is taught by one of a teacher's training runs, so their
    difference is part of the noise.
    """
    rows = results[(results["split"] == "test") & results["teacher"].ne("")]
    found = {}
    for key, group in rows.groupby(["student", "label"], sort=False):
        values = group.pivot_table(index="teacher", columns="seed", values="nll")
        rest = values.sub(values.mean(axis=1), axis=0).sub(values.mean() - values.to_numpy().mean(), axis=1)
        teachers, seeds = values.shape
        free = (teachers - 1) * (seeds - 1)
        noise = (rest.to_numpy() ** 2).sum() / free
        found[key] = {
            "deviation": noise**0.5,
            "least difference": stats.t.ppf(0.975, free) * (2 * noise / seeds) ** 0.5,
            "degrees of freedom": free,
        }
    return pd.DataFrame(found).T


def with_size(probes: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Spearman's correlation over teachers' runs of some probes with the number of parameters, by temperature."""
    rows = probes[probes["probe"].isin(names) & (probes["split"] == "val")]
    links = {
        key: stats.spearmanr(group["params"], group["value"]).statistic for key, group in rows.groupby(["probe", "tau"])
    }
    return pd.Series(links).unstack()


def link(results: pd.DataFrame, probes: pd.DataFrame, names: list[str], tau: float = 1.0) -> pd.DataFrame:
    """Spearman's correlation over teachers of some probes at `tau` with the students' test NLL, by setting."""
    rows = probes[probes["probe"].isin(names) & (probes["split"] == "val")]
    rows = rows[rows["tau"].isna() | (rows["tau"] == tau)]
    teachers = rows.pivot_table(index="teacher", columns="probe", values="value")
    nll = likelihoods(results).drop(columns="", errors="ignore").dropna(how="all")
    return pd.DataFrame(
        {
            name: {
                key: stats.spearmanr(teachers[name].reindex(row.index), row).statistic for key, row in nll.iterrows()
            }
            for name in teachers
        }
    )


def main(folders: list[str]) -> None:
    """Print every table of each study."""
    pd.set_option("display.width", 200)
    for folder in map(Path, folders):
        results, probes = load_table(folder, "results"), load_table(folder, "probes")
        names = ["nll", "derived_std", "inherent_variance", "entropy"]
        for title, table in [
            ("test NLL, nats", likelihoods(results)),
            ("the same, calibrated", likelihoods(results, "nll_calibrated")),
            ("test accuracy", likelihoods(results, "accuracy")),
            ("KL to the teacher, nats", likelihoods(results, "kl")),
            ("deviation over seeds, nats", seed_noise(results)),
            ("least difference of two teachers, nats", least_difference(results)),
            ("probes with size, Spearman", with_size(probes, names)),
            ("probes with the students' NLL, Spearman", link(results, probes, names)),
        ]:
            print(f"\n{folder.name}: {title}\n{table.round(3).to_string()}")


if __name__ == "__main__":
    main(sys.argv[1:])
