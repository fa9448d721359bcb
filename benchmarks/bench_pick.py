"""Do choices by evidence, and pilots, keep their promises? Simulated teachers with known truth.

    python benchmarks/bench_pick.py [--families 200]

Prints, for a family that has only probes, what students of other families teach about it: coverage of the accuracies,
P(best) and regret as claimed and as they come true, and the regret of going by size. And, for pilots, the accuracy
points lost by several ways to spend the same budget.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.selection.candidates import measured
from capmismatch.stats.groups import Group, Noise, seed_noise
from capmismatch.stats.posterior import posterior_draws
from capmismatch.study.halving import Rung, halve, ladder

Floats = NDArray[np.float64]


def family(
    rng: np.random.Generator, name: str, slopes: Floats, between: float, teachers: int = 8
) -> tuple[Floats, Group]:
    """True accuracies, and their measurement by three seeds; families differ in how far their students spread."""
    scale = np.exp(0.3 * rng.standard_normal())
    probes = rng.standard_normal((teachers, 3))
    probes = (probes - probes.mean(axis=0)) / probes.std(axis=0)
    true = scale * (probes @ slopes + between * rng.standard_normal(teachers))
    seeds = true[:, None, None] + 0.5 * scale * rng.standard_normal((teachers, 1, 3))
    names = [(name, teacher) for teacher in range(teachers)]
    return true, Group(seeds.mean((1, 2)), seed_noise(seeds), probes, names, [name] * teachers)


def unseen(count: int) -> None:
    """Choices for a family that has only probes."""
    print("New families: others, slopes shared, own, spread beyond; coverage in %; P(best) claimed, true;", end=" ")
    print("points expected to be lost, lost; lost by the largest")
    for others in (1, 3, 6):
        for shared, own, between in ((0.0, 0.0, 0.7), (0.6, 0.0, 0.5), (0.6, 0.3, 0.5), (0.3, 0.5, 0.5)):
            rng, rows = np.random.default_rng(0), []
            for _ in range(count):
                common = shared * rng.standard_normal(3)
                slopes = common + own * rng.standard_normal((others + 1, 3))
                evidence = [family(rng, f"f{i}", slopes[i], between)[1] for i in range(others)]
                true, group = family(rng, "new", slopes[-1], between)
                nothing = np.full(len(true), np.nan)
                group = Group(nothing, Noise(nothing, np.inf), group.features, group.teachers, group.families)
                draws = posterior_draws(group, 1000, rng, evidence).means
                low, high = np.quantile(draws, [0.025, 0.975], axis=0)
                lead, best = true - true.mean(), int(draws.mean(axis=0).argmax())
                rows.append(
                    (
                        100 * ((low <= lead) & (lead <= high)).mean(),
                        (draws.argmax(axis=1) == best).mean(),
                        lead.argmax() == best,
                        (draws.max(axis=1) - draws[:, best]).mean(),
                        lead.max() - lead[best],
                        lead.max() - lead[-1],
                    )
                )
            print(f"  {others} {shared} {own} {between}", np.mean(np.array(rows, float), axis=0).round(2), flush=True)


def spend(rng: np.random.Generator, true: Floats, runs: int, noise: float, early: float) -> dict[str, float]:
    """Points lost by ways to spend `runs` whole runs on teachers of known accuracy.

    Runs of part of the length follow the truth with correlation `early`; seeds do something to all teachers alike.
    """
    count, epochs = len(true), 10
    centred, other = true - true.mean(), true.std() * rng.standard_normal(count)
    means = {True: true, False: early * centred + np.sqrt(1 - early**2) * other}
    own, shared = noise * rng.standard_normal((2, count, 99)), rng.standard_normal(99)

    def train(arms: list[int], length: int, seeds: int) -> pd.DataFrame:
        whole = length == epochs
        values = means[whole][arms, None] + own[int(whole)][arms, :seeds] + shared[:seeds]
        seed, teacher = np.meshgrid(range(seeds), arms)
        rows = {"teacher": teacher.ravel(), "seed": seed.ravel(), "accuracy": values.ravel(), "epochs": length}
        return pd.DataFrame(rows).assign(family="", label="", student="", teacher_seed=0)

    done: list[pd.DataFrame] = []

    def known(rows: pd.DataFrame) -> Group:
        """As a pilot knows its arms; where single seeds say nothing of the noise, it is told."""
        guess = noise**2 if rows["seed"].max() == 0 else np.nan
        units, found, own_noise = measured(rows.assign(n=0.25 / guess))
        place = units.get_level_values("teacher").to_numpy(int)
        values, variances = np.full((2, count), np.nan)
        values[place] = found
        variances[place] = own_noise.variances if np.isnan(guess) else guess
        empty = np.zeros((count, 0))
        return Group(values, Noise(variances, own_noise.free), empty, range(count), ["one"] * count)

    def judge(rung: Rung, arms: list[int]) -> Floats:
        done.append(train(arms, rung.epochs, rung.seeds))
        rows = pd.concat(done).drop_duplicates(["teacher", "seed", "epochs"])
        groups = {length: known(part) for length, part in rows.groupby("epochs")}
        now = groups.pop(rung.epochs)
        draws = posterior_draws(now, 500, rng, list(groups.values())).means
        return np.bincount(draws.argmax(axis=1), minlength=count) / len(draws)

    best = halve(ladder(count, epochs, runs * epochs), judge, range(count))[0]
    evenly = train(list(range(count)), epochs, max(1, runs // count)).groupby("teacher")["accuracy"].mean()
    lost = true.max() - true
    even = int(evenly.to_numpy().argmax())
    return {"pilot": lost[best], "evenly": lost[even], "at random": lost.mean(), "largest": lost[-1]}


def curved(rng: np.random.Generator, teachers: int = 12) -> Floats:
    """Accuracies that rise and fall with size, with a standard deviation of 0.9 points or so."""
    size = np.linspace(-1, 1, teachers)
    return -2 * (size - rng.uniform(-0.8, 0.8)) ** 2 + 0.3 * rng.standard_normal(teachers)


def pilots(count: int) -> None:
    """Ways to spend a budget on 12 teachers."""
    print("Pilots: whole runs, noise of a seed, how far shorter runs follow the truth; points lost")
    for runs in (16, 25, 48):
        for noise in (0.2, 0.4, 0.8):
            for early in (0.0, 0.9):
                losses = []
                for number in range(count):
                    rng = np.random.default_rng(number)
                    losses.append(spend(rng, curved(rng), runs, noise, early))
                means = {way: round(float(np.mean([loss[way] for loss in losses])), 3) for way in losses[0]}
                print(f"  {runs} {noise} {early} {means}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200)
    given = parser.parse_args()
    unseen(given.families)
    pilots(given.families // 2)
