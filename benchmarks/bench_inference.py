"""Do comparisons of settings, comparisons with the best, and corrections for many probes keep their promises?

    python benchmarks/bench_inference.py [--studies 200] [--families 1000] [--out benchmarks/inference.csv]

Simulated studies with a known truth; one row each of

* `settings`: how often the intervals of `capmismatch.setting_differences` hold the truth, for these teachers and for
  others; beside it Student's t over teachers with the seeds as given, which is what seed x setting makes too sure;
* `best`: how often the set of likely best teachers holds the best, the interval of a teacher against the best holds
  the truth, and a teacher that is as good as all others is called worse;
* `single`: how often a course of single runs without a peak is called one, whose standard errors are half of what
  another training changes, and how often one of two runs each;
* `probes`: how often any of 76 probes is called a link that is none, and how often a true one is found, by
  Benjamini-Hochberg, by max-T, and as the one probe named beforehand.

What is done is kept in ``--out`` row by row, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from capmismatch.stats import correlations as st
from capmismatch.stats.best import gap_to_best, may_be_best
from capmismatch.stats.peak import peak
from capmismatch.stats.run_means import mean_over_runs
from capmismatch.stats.settings import setting_differences

Floats = NDArray[np.float64]


def settings(studies: int, seeds: int, by_seed: float, by_teacher: float, teachers: int = 12) -> dict[str, float]:
    """Coverage in per cent of four differences a study that are zero; noise in standard deviations of a run."""
    rng, found, t_over_teachers = np.random.default_rng(0), [], []
    names = [[f"m{i}" for i in range(5)], [f"t{i}" for i in range(teachers)], range(seeds)]
    index = pd.MultiIndex.from_product(names, names=["label", "teacher", "seed"])
    for _ in range(studies):
        y = rng.standard_normal((5, teachers, seeds)) + rng.standard_normal((1, teachers, 1))
        y = y + by_seed * rng.standard_normal((5, 1, seeds)) + by_teacher * rng.standard_normal((5, teachers, 1))
        frame = pd.DataFrame({"accuracy": y.ravel()}, index=index).reset_index()
        rows = setting_differences(frame.assign(student="s", split="test"), against="m0")
        apart = y.mean(2) - y[:1].mean(2)
        low, high = stats.ttest_1samp(apart[1:], 0, axis=1).confidence_interval(0.95)
        t_over_teachers.append((low <= 0) & (high >= 0))
        columns = ["low_of_others", "high_of_others", "low", "high"]
        low_others, high_others, low, high = rows[columns].to_numpy(float).T
        found.append(((low_others <= 0) & (high_others >= 0), (low <= 0) & (high >= 0)))
    others, these = 100 * np.mean(found, axis=(0, 2))
    # With teachers that a setting suits differently, the truth for these is not zero.
    result = {"others": others, "t over teachers": 100 * np.mean(t_over_teachers)}
    return result if by_teacher else {**result, "these": these}


def best(families: int, teachers: int, seeds: int, spread: float) -> dict[str, float]:
    """In per cent: the best is in the set, the interval of the gap holds it, equal ones are worse; size of the set."""
    rng, found = np.random.default_rng(0), []
    for _ in range(families):
        true = spread * rng.standard_normal(teachers)
        y = true[:, None] + rng.standard_normal((teachers, seeds)) + rng.standard_normal(seeds)
        noise = mean_over_runs(y - y.mean(0), pool=True, paired=True)
        free = float(noise.free[0])
        likely = may_be_best(y.mean(1), noise.of_means, free)
        _, low, high = gap_to_best(y.mean(1), noise.of_means, free, 0)
        gap = true[0] - true[1:].max()
        found.append((likely[true.argmax()], low <= gap <= high, high < 0 <= gap, likely.mean()))
    return dict(zip(("in the set", "gap held", "falsely worse", "size"), 100 * np.mean(found, axis=0), strict=True))


def single(families: int, course: str, teachers: int = 8) -> dict[str, float]:
    """In per cent: courses without a peak that are called one."""
    rng, called, size = np.random.default_rng(0), [], np.arange(teachers)
    mean = {"flat": 0.0 * size, "saturating": 4 * (1 - np.exp(-size)), "plateau": 4.0 * np.minimum(size, 2)}[course]
    for family in range(families):
        runs = mean[:, None] + rng.standard_normal((teachers, 2))
        alone = peak(size, runs[:, 0], se=np.full(teachers, 0.5), n_boot=500, seed=family)
        called.append((alone.p_value < 0.05, peak(size, runs, n_boot=500, seed=family).p_value < 0.05))
    return dict(zip(("one run", "two runs"), 100 * np.mean(called, axis=0), strict=True))


def probes(families: int, teachers: int, link: float, alike: float) -> dict[str, float]:
    """In per cent: any of 76 probes called a link, by correction; with `link`, the first one is one."""
    rng, found = np.random.default_rng(0), []
    groups = np.zeros(teachers, dtype=np.int64)
    for family in range(families):
        common, own = rng.standard_normal((teachers, 3)), rng.standard_normal((teachers, 76))
        x = np.sqrt(alike) * common @ rng.dirichlet(np.ones(3), 76).T ** 0.5 + np.sqrt(1 - alike) * own
        y = link * stats.zscore(x[:, :1]) + np.sqrt(1 - link**2) * rng.standard_normal((teachers, 1))
        p, p_max = st.permutation_test(x, y, groups, "spearman", seed=family % 5, draws=2000)
        adjusted = st.benjamini_hochberg(p[:, 0])
        found.append(((adjusted < 0.05).any(), (p_max < 0.05).any(), p[0, 0] < 0.05))
        if link:
            found[-1] = (adjusted[0] < 0.05, p_max[0, 0] < 0.05, p[0, 0] < 0.05)
    names = ("Benjamini-Hochberg", "max-T", "named beforehand")
    return dict(zip(names, 100 * np.mean(found, axis=0), strict=True))


def designs(studies: int, families: int) -> Iterator[tuple[str, partial[dict[str, float]]]]:
    """Every row of the table: what it is about, and what computes it."""
    for seeds, by_seed, by_teacher in product((2, 4), (0.0, 0.5, 1.0), (0.0, 1.0)):
        yield "settings", partial(settings, studies, seeds=seeds, by_seed=by_seed, by_teacher=by_teacher)
    for teachers, seeds, spread in product((5, 12), (2, 4), (0.0, 0.5, 2.0)):
        yield "best", partial(best, families, teachers=teachers, seeds=seeds, spread=spread)
    for course in ("flat", "saturating", "plateau"):
        yield "single", partial(single, families, course=course)
    for teachers, link, alike in product((8, 12), (0.0, 0.8, 0.9), (0.0, 0.9)):
        yield "probes", partial(probes, families // 4, teachers=teachers, link=link, alike=alike)


def main() -> None:
    """Compute what is missing of the table, and print it part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--families", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("inference.csv"))
    given = parser.parse_args()
    done = pd.read_csv(given.out).to_dict("records") if given.out.exists() else []
    there = {str(row["design"]) for row in done}
    for part, compute in designs(given.studies, given.families):
        design = ", ".join(
            f"{name} {value if isinstance(value, str) else format(value, 'g')}"
            for name, value in compute.keywords.items()
        )
        name = f"{part}: {design} ({compute.args[0]} drawn)"
        if name in there:
            continue
        done += [{"design": name, "measure": measure, "percent": value} for measure, value in compute().items()]
        pd.DataFrame(done).to_csv(given.out, index=False, float_format="%.1f")
    for part, table in markdown(pd.DataFrame(done)).items():
        print(f"\n{part}, in per cent\n\n{table}")


def markdown(done: pd.DataFrame) -> dict[str, str]:
    """The tables of docs/concepts/statistics.md: name of a part -> its table."""
    tables = {}
    parts = done["design"].str.split(": ", n=1).str
    for part, rows in done.assign(part=parts[0], design=parts[1]).groupby("part", sort=False):
        table = rows.pivot(index="design", columns="measure", values="percent")
        table = table.loc[list(dict.fromkeys(rows["design"])), list(dict.fromkeys(rows["measure"]))]
        head = f"| design | {' | '.join(table.columns)} |\n|{'---|' * (table.shape[1] + 1)}"
        cells = table.map(lambda value: "" if pd.isna(value) else f"{value:.0f}")
        lines = [f"| {design} | {' | '.join(row)} |" for design, row in zip(cells.index, cells.to_numpy(), strict=True)]
        tables[str(part)] = "\n".join([head, *(line.replace("by_", "by ").replace(" drawn)", ")") for line in lines)])
    return tables


if __name__ == "__main__":
    main()
