"""Tables of the studies of the King James Bible, and the answers to plan.md.

``python data/kjv/kjv_numbers.py [STUDY...]``: folders of studies, or names of those whose tables are here, by default
"short", "long" and "demo".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

import capmismatch as cm
from capmismatch.distillation.results import load_results
from capmismatch.study.tables import load_table

HERE = Path(__file__).parent
KD, ISATS = "KD tau=1 w=1", "ISATS order m=1 wrong=plain tau=1 w=1"


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


def named_difference(results: pd.DataFrame, one: str, other: str, cells: int = 24) -> pd.DataFrame:
    """Mean test NLL with a teacher named before less that with another, in nats, with 95 % intervals, of each cell.

    A cell is a student with a loss. "all" says whether the interval leaves 0 out for all `cells` at once (Bonferroni).
    """
    means, noise = likelihoods(results), least_difference(results)
    found = {}
    for key, row in noise.iterrows():
        free, half = row["degrees of freedom"], row["least difference"]
        wider = stats.t.ppf(1 - 0.025 / cells, free) / stats.t.ppf(0.975, free)
        value = means.loc[key, one] - means.loc[key, other]
        found[key] = {"difference": value, "low": value - half, "high": value + half, "all": abs(value) > wider * half}
    return pd.DataFrame(found).T


def of_students(results: pd.DataFrame, label: str, one: str, other: str, students: tuple[str, str]) -> pd.Series:
    """`named_difference` of one student less that of another, with one loss; degrees of freedom by Satterthwaite."""
    both = [named_difference(results, one, other).loc[(student, label)] for student in students]
    noise = [least_difference(results).loc[(student, label)] for student in students]
    seeds = results["seed"].nunique()
    variances = np.array([2 * row["deviation"] ** 2 / seeds for row in noise])
    free = variances.sum() ** 2 / (variances**2 / [row["degrees of freedom"] for row in noise]).sum()
    value = float(both[1]["difference"] - both[0]["difference"])
    half = float(stats.t.ppf(0.975, free) * variances.sum() ** 0.5)
    return pd.Series({"difference": value, "low": value - half, "high": value + half})


def by_seed(results: pd.DataFrame, teachers: list[str] | None = None) -> pd.DataFrame:
    """Test NLL of each student, loss (rows) and seed, the mean over teachers; plain training has none."""
    rows = results[results["split"] == "test"]
    rows = rows if teachers is None else rows[rows["teacher"].isin([*teachers, ""])]
    return rows.groupby(["student", "label", "seed"], sort=False)["nll"].mean().unstack("seed")


def over_seeds(values: pd.Series) -> pd.Series:
    """Mean of one value a seed, with its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5
    return pd.Series({"mean": values.mean(), "low": values.mean() - half, "high": values.mean() + half})


def gains(results: pd.DataFrame, label: str, teacher: str) -> pd.DataFrame:
    """Test NLL of plain training less that with a teacher by a loss, of each student (rows) and seed, in nats."""
    nll = by_seed(results, [teacher])
    return nll.xs("CE", level="label") - nll.xs(label, level="label")


def rise_with_size(probes: pd.DataFrame, names: list[str], draws: int = 2000) -> pd.DataFrame:
    """`with_size` with 95 % intervals, by drawing the sizes again, with both training runs of each.

    Sizes that are drawn twice tie, which lowers a correlation: the upper end may lie below the value.
    """
    rows = probes[probes["probe"].isin(names) & (probes["split"] == "val")]
    runs = rows.pivot_table(index=["params", "seed"], columns=["probe", "tau"], values="value")
    sizes, generator = runs.index.get_level_values("params"), np.random.default_rng(0)
    of_size = [np.flatnonzero(sizes == size) for size in sizes.unique()]
    drawn = []
    for _ in range(draws):
        index = np.concatenate([of_size[at] for at in generator.integers(0, len(of_size), len(of_size))])
        if len(set(sizes[index])) > 1:
            drawn.append(_spearman(sizes.to_numpy(float)[index], runs.to_numpy()[index]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    value = _spearman(sizes.to_numpy(float), runs.to_numpy())
    return pd.DataFrame({"value": value, "low": low, "high": high}, index=runs.columns)


def _spearman(x: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x with each column."""
    ranks = stats.rankdata(np.column_stack([x, columns]), axis=0)
    return np.corrcoef(ranks.T)[0, 1:]


def picks(results: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """What `cm.pick(metric="nll")` takes in each cell, and what that loses on the test windows, in nats."""
    means, found = likelihoods(results), {}
    for student, label in means.index:
        if label == "CE":
            continue
        own = results[(results["student"] == student) & results["label"].isin([label, "CE"])]
        choice = cm.pick(probes, own, metric="nll", student=student, label=label)
        every = means.loc[(student, label)].fillna(means.loc[(student, "CE")])
        found[student, label] = {
            "taken": "none" if choice.takes_none else choice.teacher,
            "P(best)": choice.p_best,
            "expected regret": choice.expected_regret,
            "regret": every["" if choice.takes_none else choice.teacher] - every.min(),
            "best on test": every.idxmin() or "none",
        }
    return pd.DataFrame(found).T


def answers(results: pd.DataFrame, probes: pd.DataFrame) -> dict[str, pd.DataFrame | pd.Series]:
    """What plan.md asks of one budget, by question."""
    nll = by_seed(results)
    students = list(results["student"].unique())
    isats = {
        student: over_seeds(nll.loc[(student, ISATS)] - nll.loc[(student, KD)])
        for student in students
        if (student, ISATS) in nll.index
    }
    found: dict[str, pd.DataFrame | pd.Series] = {
        "1. gru192 less gru16, nats": named_difference(results, "gru192", "gru16"),
        "2. gru192 less gru64, nats": named_difference(results, "gru192", "gru64"),
        "4. gain over plain training, KD at 1 with gru64, by seed": gains(results, KD, "gru64"),
        "5. ISATS less KD at 1, mean over teachers": pd.DataFrame(isats).T,
        "6. probes with size": rise_with_size(probes, ["derived_std", "inherent_variance"]),
        "7. picks": picks(results, probes),
    }
    if len(students) == 2:
        found["3. gru192 less gru64 of the larger student less that of the smaller, KD at 1"] = of_students(
            results, KD, "gru192", "gru64", (students[0], students[1])
        )
    return dict(sorted(found.items()))


def read(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and probes of a study: its folder, or the name of one whose tables are here."""
    if Path(name).is_dir():
        return load_table(Path(name), "results"), load_table(Path(name), "probes")
    return load_results(HERE / f"{name}.csv"), pd.read_csv(HERE / f"{name}-probes.csv")


def main(names: list[str]) -> None:
    """Print every table of each study; of "short" and "long" also what plan.md asks."""
    pd.set_option("display.width", 200, "display.max_columns", 20)
    gain = {}
    for name in names:
        results, probes = read(name)
        quantities = ["nll", "derived_std", "inherent_variance", "entropy"]
        tables = {
            "test NLL, nats": likelihoods(results),
            "the same, calibrated": likelihoods(results, "nll_calibrated"),
            "test accuracy": likelihoods(results, "accuracy"),
            "KL to the teacher, nats": likelihoods(results, "kl"),
            "deviation over seeds, nats": seed_noise(results),
            "least difference of two teachers, nats": least_difference(results),
            "probes with size, Spearman": with_size(probes, quantities),
            "probes with the students' NLL, Spearman": link(results, probes, quantities),
        }
        if "gru192" in set(results["teacher"]):
            tables |= answers(results, probes)
            gain[name] = gains(results, KD, "gru64")
        for title, table in tables.items():
            print(f"\n{Path(name).name}: {title}\n{table.round(4).to_string()}")
    if len(gain) == 2:
        short, long = gain.values()
        both = (long - short).dropna(how="all")
        shrunk = pd.DataFrame({student: over_seeds(row.dropna()) for student, row in both.iterrows()}).T
        print(f"\n4. gain at the second budget less that at the first, nats\n{shrunk.round(4).to_string()}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["short", "long", "demo"])
