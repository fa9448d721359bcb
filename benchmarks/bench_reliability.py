"""Does a chance of being the best mean what it says? Simulated families with a known truth, claims in bins.

    python benchmarks/bench_reliability.py [--families 1000] [--out benchmarks/reliability.csv] [--workers 2]

29 designs: evidence of 0, 1, 3 or 6 other families; one to four seeds (none to three, where there is evidence); one or
eight settings. Each family draws its own number of teachers (8 to 12), signal to noise (the spread of the teachers over
that of the seeds, log-uniform from 0.25 to 2), share that probes explain, and probe matrix: that of the twelve shipped
CIFAR-10 teachers, a ladder of sizes, or noise. Single seeds know the noise from the examples alone, which is 0.3 to 1
times the real one. The choice is that of `capmismatch.pick`: the setting and teacher with the highest expectation.

What is done is kept in ``--out`` design by design, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.stats.groups import Group, Noise
from capmismatch.stats.posterior import joint_draws

Floats = NDArray[np.float64]
HERE = Path(__file__).parent
EDGES = np.array([0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
# derived std at tau 4, accuracy and log parameters of the shipped CIFAR-10 teachers on "val", standardised
SHIPPED = HERE / "shipped_features.csv"


@dataclass(frozen=True)
class Design:
    """What the families of a simulation have in common."""

    evidence: int
    seeds: int
    settings: int


DESIGNS = [
    Design(evidence, seeds, settings)
    for evidence, seeds, settings in product((0, 1, 3, 6), (0, 1, 2, 3, 4), (1, 8))
    if (seeds or (evidence and settings == 1)) and not (evidence and seeds == 4)
]


def features(rng: np.random.Generator, teachers: int, shipped: Floats) -> Floats:
    """Standardised probes (T, 3) of a family."""
    kind = rng.integers(3)
    if kind == 0:
        rows = shipped[np.sort(rng.choice(len(shipped), teachers, replace=False))]
    elif kind == 1:
        size = np.linspace(-1, 1, teachers)[:, None]
        rows = size * rng.choice([-1, 1], 3) + 0.3 * rng.standard_normal((teachers, 3))
    else:
        rows = rng.standard_normal((teachers, 3))
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


def family(
    rng: np.random.Generator, name: str, seeds: int, settings: int, slopes: Floats, explained: float, shipped: Floats
) -> tuple[Floats, list[Group]]:
    """True accuracies (S, T), and their measurement in each setting."""
    teachers, sigma = int(rng.integers(8, 13)), np.exp(0.3 * rng.standard_normal())
    spread = sigma * np.exp(rng.uniform(np.log(0.25), np.log(2)))
    x, common = features(rng, teachers, shipped), rng.uniform(0.3, 1)

    def profile(slopes: Floats) -> Floats:
        by_probes = x @ slopes / np.sqrt(3)
        return np.sqrt(explained) * by_probes + np.sqrt(1 - explained) * rng.standard_normal(teachers)

    shared = profile(slopes)
    true = np.stack(
        [np.sqrt(common) * shared + np.sqrt(1 - common) * profile(rng.standard_normal(3)) for _ in range(settings)]
        if settings > 1
        else [shared]
    )
    true = spread * (true + (rng.standard_normal((settings, 1)) if settings > 1 else 0.0))
    count = max(seeds, 1)
    runs = true[:, :, None] + sigma * rng.standard_normal((settings, teachers, count))
    means, free = runs.mean(axis=2), float(settings * teachers * (count - 1))
    variance = ((runs - means[:, :, None]) ** 2).sum() / free / count if free else (sigma * rng.uniform(0.3, 1)) ** 2
    noise = Noise(np.full(teachers, variance if seeds else np.nan), free or np.inf)
    if not seeds:
        means = np.full_like(means, np.nan)
    names = [(name, teacher) for teacher in range(teachers)]
    return true, [Group(row, noise, x, names, [name] * teachers) for row in means]


def trial(rng: np.random.Generator, design: Design, shipped: Floats) -> tuple[float, float, float, float]:
    """P(best) and expected regret as claimed, and as they are; regret over the seeds' standard deviation, about."""
    explained, alike, common = rng.choice([0, 0.3, 0.7]), rng.choice([0, 0.5, 1]), rng.standard_normal(3)

    def slopes() -> Floats:
        return np.sqrt(alike) * common + np.sqrt(1 - alike) * rng.standard_normal(3)

    others = [family(rng, f"other {i}", 3, 1, slopes(), explained, shipped)[1][0] for i in range(design.evidence)]
    true, groups = family(rng, "new", design.seeds, design.settings, slopes(), explained, shipped)
    draws = joint_draws(groups, 600, rng, others).means
    setting, best = np.unravel_index(draws.mean(axis=0).argmax(), true.shape)
    drawn, lead = draws[:, setting], true[setting]
    claimed = float((drawn.argmax(axis=1) == best).mean())
    regret = float((drawn.max(axis=1) - drawn[:, best]).mean())
    return claimed, float(lead.argmax() == best), regret, float(lead.max() - lead[best])


def simulate(number: int, families: int) -> pd.DataFrame:
    """Sums over the families of one design, by bin of the claimed chance."""
    design, rng = DESIGNS[number], np.random.default_rng(number)
    shipped = pd.read_csv(SHIPPED).to_numpy(float)
    rows = np.array([trial(rng, design, shipped) for _ in range(families)])
    frame = pd.DataFrame(rows, columns=["claimed", "true", "regret", "real_regret"])
    place = np.minimum(np.searchsorted(EDGES, frame["claimed"], side="right") - 1, len(EDGES) - 2)
    sums = frame.groupby(place).agg(
        n=("claimed", "size"),
        claimed=("claimed", "sum"),
        true=("true", "sum"),
        regret=("regret", "sum"),
        real_regret=("real_regret", "sum"),
    )
    head = {"evidence": design.evidence, "seeds": design.seeds, "settings": design.settings}
    return sums.assign(low=EDGES[sums.index], high=EDGES[sums.index + 1], **head).reset_index(drop=True)


def bins(sums: pd.DataFrame) -> pd.DataFrame:
    """The reliability table: of all designs together, a row for each bin of the claimed chance.

    Returns
    -------
    DataFrame
        ``low, high, n``; the means ``claimed`` and ``true`` of P(best) with the standard error ``se`` of the latter;
        ``regret`` and ``real_regret``, in units of the seeds' typical standard deviation; ``ratio`` of the two.
    """
    total = sums.groupby(["low", "high"], as_index=False)[["n", "claimed", "true", "regret", "real_regret"]].sum()
    for name in ("claimed", "true", "regret", "real_regret"):
        total[name] /= total["n"]
    total["se"] = np.sqrt(total["true"] * (1 - total["true"]) / total["n"])
    total["ratio"] = total["regret"] / total["real_regret"]
    return total


def main() -> None:
    """Run the designs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE / "reliability.csv")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["evidence", "seeds", "settings"])
    finished = {Design(*row) for row in done[["evidence", "seeds", "settings"]].astype(int).itertuples(index=False)}
    missing = [number for number, design in enumerate(DESIGNS) if design not in finished]
    with ProcessPoolExecutor(options.workers) as pool:
        for sums in pool.map(simulate, missing, [options.families] * len(missing)):
            done = pd.concat([done, sums]) if len(done) else sums
            done.to_csv(options.out, index=False)
            print(sums[["evidence", "seeds", "settings"]].iloc[0].to_dict(), flush=True)
    print("All designs")
    print(bins(done).round(3).to_string(index=False))
    for name in ("evidence", "seeds", "settings"):
        for value, part in done.groupby(name):
            print(f"{name} = {value}")
            print(bins(part).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
