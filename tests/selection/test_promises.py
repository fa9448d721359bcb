"""Small versions of benchmarks/bench_pick.py: do the answers of `pick` come true? Wide bins, generous bounds."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "bench_pick.py"))


def simulated(bench: dict[str, Any], kind: str, blocks: int, **wanted: int) -> pd.DataFrame:
    numbers = [
        number
        for number, design in enumerate(bench["DESIGNS"])
        if design.kind == kind and all(getattr(design, name) == value for name, value in wanted.items())
    ]
    return pd.concat([bench["simulate"](number, block) for number in numbers for block in range(blocks)])


def assert_true(sums: pd.DataFrame) -> None:
    """Claims hold on average within their binomial error, and the confident ones among them."""
    for part in (sums, sums[sums["low"] >= 0.5]):
        n, claimed, true = (part[name].sum() for name in ("n", "claimed", "true"))
        chance = claimed / n
        assert abs(claimed - true) / n < 0.05 + 3 * np.sqrt(chance * (1 - chance) / n)
    gap, spread = (
        sums["regret"].sum() - sums["real_regret"].sum(),
        sums["regret_2"] - 2 * sums["product"] + sums["real_2"],
    )
    assert abs(gap) < 3.5 * np.sqrt(spread.sum())


@pytest.mark.slow  # each trial is a call of `pick`
@pytest.mark.parametrize(("seeds", "settings"), [(1, 1), (2, 8)])
def test_picks_come_true(bench: dict[str, Any], seeds: int, settings: int) -> None:
    sums = simulated(bench, "results", 2, evidence=0, seeds=seeds, settings=settings)
    assert sums["noise"].nunique() == 3
    assert_true(sums)
    report = bench["reported"](sums[sums["noise"].eq("normal")]).iloc[0]
    for name in ("accuracy_error", "gain_error"):
        assert abs(report[name]) < 0.1 + 3 * report[f"{name}_se"]
    assert report["gain_covered"] > 0.8


def test_pilots_come_true(bench: dict[str, Any]) -> None:
    sums = simulated(bench, "pilot", 2, runs=25)
    assert_true(sums)
    assert bench["ways"](sums)["pilot"].iloc[0] < 0.5 * bench["ways"](sums)["at random"].iloc[0]


def test_bins_are_means_with_exact_intervals(bench: dict[str, Any]) -> None:
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    claimed = rng.uniform(0.5, 0.6, 40)
    trials = np.column_stack([claimed, rng.random(40) < claimed, rng.random(40), rng.random(40)])
    both = pd.concat([bench["binned"](trials[:15]), bench["binned"](trials[15:])])
    row = bench["bins"](both).iloc[0]
    interval = binomtest(int(trials[:, 1].sum()), 40).proportion_ci(method="exact")
    assert (row["n"], row["low"], row["high"]) == (40, 0.5, 0.6)
    assert [row["claimed"], row["true"], row["ratio"]] == pytest.approx(
        [claimed.mean(), trials[:, 1].mean(), trials[:, 2].sum() / trials[:, 3].sum()]
    )
    assert (row["true_low"], row["true_high"]) == pytest.approx(tuple(interval))
    ratios = [a.sum() / b.sum() for a, b in (trials[rng.integers(0, 40, 40), 2:].T for _ in range(2000))]
    assert row["ratio_high"] - row["ratio_low"] == pytest.approx(
        np.diff(np.quantile(ratios, [0.025, 0.975]))[0], rel=0.15
    )


def test_blocks_are_made_in_turns_and_add_to_what_was_there(bench: dict[str, Any], tmp_path: Path) -> None:
    out, made = tmp_path / "sums.csv", []

    def rows(number: int, block: int) -> pd.DataFrame:
        made.append((number, block))
        low = [0.1] if block == 0 else [0.1, 0.2]
        return pd.DataFrame({"noise": "normal", "low": low, "n": 1 + number})

    run, keep = bench["run_blocks"], {"by": ["noise", "low"], "mark": 0.3}
    run(rows, [1, 0], 1, out, **keep)
    run(rows, [0], 2, out, **keep)
    done = run(rows, [1, 0], 2, out, **keep)
    assert made == [(1, 0), (0, 0), (0, 1), (1, 1)]
    columns = ["design", "blocks", "low", "n"]
    assert done[columns].to_numpy().tolist() == [[0, 2, 0.1, 2], [0, 2, 0.2, 1], [1, 2, 0.1, 4], [1, 2, 0.2, 2]]
    assert pd.read_csv(out)[columns].to_numpy().tolist() == done[columns].to_numpy().tolist()
    with pytest.raises(ValueError, match="claims have changed"):
        run(rows, [0], 3, out, by=["noise", "low"], mark=0.4)
