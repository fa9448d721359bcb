"""From the sums of the simulations to what the docs show: a table, a picture, and the page on statistics.

    python benchmarks/reliability_summary.py [reliability_sums.csv pick_sums.csv]

The sums are those of ``bench_reliability.py`` and ``bench_pick.py``. Writes ``benchmarks/reliability.csv`` (every
kind of claim by bin, and the posterior by noise, evidence, seeds and settings), the picture
``figures/statistics/pick_reliability`` (PDF, PNG and CSV), and three tables of ``docs/concepts/statistics.md``, each
between its marks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _reliability import bins
from bench_pick import reported, ways
from matplotlib.axes import Axes
from summary import between, markdown

from capmismatch import plots

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "concepts" / "statistics.md"
FIGURE = HERE.parent / "figures" / "statistics" / "pick_reliability"
POSTERIOR = "the posterior"
SHOWN = {  # kind -> colour and marker in the picture
    f"{POSTERIOR}, noise normal": ("#0072B2", "o"),
    f"{POSTERIOR}, noise by teacher": ("#56B4E9", "v"),
    f"{POSTERIOR}, noise heavy tails": ("#E69F00", "P"),
    "pick, 1 setting": ("#D55E00", "s"),
    "pick, 8 settings": ("#CC79A7", "D"),
    "pilot": ("#009E73", "^"),
}
FEWEST = 20  # claims in a bin, below which it is not drawn


def kinds(posterior: pd.DataFrame, public: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Blocks by what makes the claim."""
    found = {POSTERIOR: posterior}
    for noise, part in posterior.groupby("noise", sort=False):
        found[f"{POSTERIOR}, noise {noise}"] = part
    for (kind, settings), part in public.astype({"settings": int}).groupby(["kind", "settings"], sort=False):
        name = {"results": f"pick, {settings} setting{'s' * (settings > 1)}", "evidence": "pick by evidence"}
        found[name.get(kind, kind)] = part
    for column in ("evidence", "seeds", "settings"):
        found |= {f"{POSTERIOR}, {column} {value:g}": part for value, part in posterior.groupby(column)}
    return found


def table(blocks: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The reliability table of each kind of claim, one under the other."""
    return pd.concat([bins(part).assign(kind=kind) for kind, part in blocks.items()], ignore_index=True)


def draw(rows: pd.DataFrame) -> Axes:
    """How often claims come true, and expected regret against the real one, bin by bin."""
    with plots.figure_style("default", ratio=0.5):
        _, (left, right) = plt.subplots(1, 2, figsize=(mpl.rcParams["figure.figsize"][0], 3.0), layout="constrained")
        left.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=1)
        left.fill_between([0, 1], [-0.07, 0.93], [0.07, 1.07], color="0.92", linewidth=0, zorder=0)
        limits = rows.loc[rows["kind"].isin(SHOWN) & rows["n"].ge(FEWEST), ["regret", "real_regret"]].replace(0, pd.NA)
        ends = [limits.min(axis=None) / 1.5, limits.max(axis=None) * 1.5]
        right.plot(ends, ends, color="0.6", linewidth=0.8, zorder=1)
        right.fill_between(ends, [end / 1.2 for end in ends], [end / 0.8 for end in ends], color="0.92", zorder=0)
        for number, (kind, (color, marker)) in enumerate(SHOWN.items()):
            part = rows[rows["kind"].eq(kind) & rows["n"].ge(FEWEST)]
            if part.empty:
                continue
            look = {"color": color, "marker": marker, "linestyle": "none", "markersize": 4}
            shift = 0.007 * (number - (len(SHOWN) - 1) / 2)
            left.vlines(part["claimed"] + shift, part["true_low"], part["true_high"], color=color, linewidth=0.8)
            left.plot(part["claimed"] + shift, part["true"], **look, label=kind)
            real = part["real_regret"].where(part["real_regret"].gt(0))
            reach = np.exp((part["ratio_high"] - part["ratio"]) / part["ratio"])
            right.vlines(part["regret"], real / reach, real * reach, color=color, linewidth=0.8)
            right.plot(part["regret"], real, **look)
            columns = ["kind", "claimed", "true", "true_low", "true_high", "n", "regret", "real_regret"]
            plots.attach(left, part[columns])
        left.set(xlim=(0, 1), ylim=(0, 1), xlabel="P(best) as claimed", ylabel="share that comes true")
        right.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="regret as expected", ylabel="real regret")
        left.figure.legend(loc="outside upper center", ncols=3, frameon=False, handletextpad=0.2)
        plots.save(left, FIGURE)
    return left


def claims(rows: pd.DataFrame) -> str:
    """The reliability table of the page: the posterior over all designs, then what people call."""
    shown = []
    by_noise = [kind for kind in dict.fromkeys(rows["kind"]) if kind.startswith(f"{POSTERIOR}, noise")]
    for kind in (
        POSTERIOR,
        *by_noise,
        "pick, 1 setting",
        "pick, 8 settings",
        "pick by evidence",
        "pilot",
        "pilot, curved",
    ):
        for row in rows[rows["kind"].eq(kind) & rows["n"].ge(FEWEST)].itertuples():
            cells = {
                "claim by": kind,
                "bin": f"{row.low:.1f} to {row.high:.1f}",
                "claims": f"{row.n:.0f}",
                "claimed": f"{row.claimed:.2f}",
                "true": f"{row.true:.2f} [{row.true_low:.2f}, {row.true_high:.2f}]",
                "regret expected": f"{row.regret:.3f}",
                "real": f"{row.real_regret:.3f}",
                "ratio": f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]" if row.real_regret else "",
            }
            shown.append(cells)
    return markdown(pd.DataFrame(shown))


def biases(public: pd.DataFrame) -> str:
    """What is reported, in points from the truth: by design, and of all designs with as many settings."""
    designs = reported(public)
    designs["evidence"] = designs["evidence"].astype(int).astype(str) + " families"
    designs["seeds"] = designs["seeds"].astype(int).astype(str)
    found = pd.concat([designs, reported(public.assign(noise="all", evidence="any", seeds="any"))], ignore_index=True)
    cells = {
        "noise": found["noise"],
        "evidence": found["evidence"],
        "seeds": found["seeds"],
        "settings": found["settings"].astype(int),
        "trials": found["n"],
    }
    for name in ("accuracy", "gain"):
        error, se = found[f"{name}_error"], found[f"{name}_error_se"]
        cells[f"{name}, points too high"] = [f"{e:+.2f} ± {1.96 * s:.2f}" for e, s in zip(error, se, strict=True)]
    return markdown(pd.DataFrame(cells))


def main() -> None:
    """Write table, picture and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posterior", type=Path, nargs="?", default=HERE / "reliability_sums.csv")
    parser.add_argument("public", type=Path, nargs="?", default=HERE / "pick_sums.csv")
    options = parser.parse_args()
    posterior, public = pd.read_csv(options.posterior), pd.read_csv(options.public)
    rows = table(kinds(posterior, public))
    rows[["kind", *rows.columns.drop("kind")]].to_csv(HERE / "reliability.csv", index=False, float_format="%.4g")
    draw(rows)
    page = PAGE.read_text(encoding="utf-8")
    trials = posterior.groupby("design")["n"].sum()
    least = f"{int(trials.min()):,} or more of each of {len(trials)} designs"
    head = f"{int(trials.sum()):,} families, {least}, for the posterior"
    page = between(
        page, "claims", f"{head}; {int(public['n'].sum()):,} trials of the calls.\n\n{claims(rows)}", PAGE.name
    )
    page = between(page, "biases", biases(public), PAGE.name)
    if public["runs"].gt(0).any():  # else the table of an earlier run stays
        page = between(page, "pilots", markdown(ways(public).round(2)), PAGE.name)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
