"""Do the answers of `capmismatch.pick`, and pilots, keep their promises? Simulated tables with a known truth.

    python benchmarks/bench_pick.py [--families 200] [--designs NUMBER ...] [--out FILE] [--workers 1]

Families are those of ``bench_reliability.py``, written as a probes and a results table and given to `capmismatch.pick`:
one or eight settings, one to four seeds of each kind of noise, each student measured on "val" and on "test", so that
both have its seed in common; students without a teacher beside. A teacher matters from a quarter to twice as much as a
seed, which moves accuracies by half a point; examples add 0.3 points to each measurement. Pilots climb the ladders of
`capmismatch.study.halving` with budgets of 16, 25 and 48 whole runs, and stop once the expected regret is below 0.3
points: once for teachers of the same families, once for twelve whose students rise and fall with size, which is not
what the posterior assumes.

Printed, by kind of answer and bin of the claimed P(best): how often it comes true, and the expected regret and the real
one in accuracy points. Then how far the accuracy and the gain to report are from the truth, and what a pilot loses
beside other ways to spend the same runs. Blocks of all designs are made in turns and kept in ``--out``; the same
command goes on from there.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from _reliability import binned, bins, run_blocks
from bench_reliability import SHIPPED, UNEVEN, Floats, Links, Truth, seed_errors

import capmismatch as cm
from capmismatch.selection.candidates import measured
from capmismatch.stats.groups import Group
from capmismatch.stats.posterior import posterior_draws
from capmismatch.study.halving import Judgement, Rung, halve, ladder

HERE = Path(__file__).parent
BLOCK = 10
POINT = 0.005  # accuracy for one standard deviation of the seeds
EXAMPLES, EXAMPLE_NOISE = 10_000, 0.003
TOLERANCE = 0.3
EXTRA = ["reported", "accuracy_error", "accuracy_error_2", "gain_error", "gain_error_2", "gain_covered"]
WAYS = ["pilot", "evenly", "at random", "largest"]
SPENT = "runs spent"


@dataclass(frozen=True)
class Design:
    """What the trials of a simulation have in common: ``runs`` is the budget of a pilot, else 0."""

    kind: str
    evidence: int = 0
    seeds: int = 0
    settings: int = 1
    runs: int = 0
    noise: str = "normal"


DESIGNS = [
    *(Design("results", 0, seeds, settings) for settings in (1, 8) for seeds in (1, 2, 4)),
    *(Design("results", 3, 2, settings) for settings in (1, 8)),
    *(
        Design("results", 0, seeds, settings, noise=noise)
        for noise in UNEVEN
        for settings in (1, 8)
        for seeds in (1, 2, 4)
    ),
    *(Design("evidence", evidence) for evidence in (1, 3, 6)),
    *(Design(kind, runs=runs) for kind in ("pilot", "pilot, curved") for runs in (16, 25, 48)),
]


# Through the public call ----------------------------------------------------------------------------------------------


def probes_of(name: str, truth: Truth) -> pd.DataFrame:
    """The probes table of a family."""
    derived, accuracy, size = truth.features.T
    columns = {"derived_std": (4.0, 0.04 + 0.01 * derived), "accuracy": (np.nan, 0.8 + 0.02 * accuracy)}
    teachers = {"family": name, "teacher": [f"t{i}" for i in range(len(size))], "params": 1e6 * np.exp(size)}
    frames = [pd.DataFrame({**teachers, "probe": probe, "tau": tau, "value": v}) for probe, (tau, v) in columns.items()]
    return pd.concat(frames).assign(split="val", seed=0, se=1e-4)


def results_of(
    rng: np.random.Generator, name: str, truth: Truth, seeds: int, kind: str = "normal"
) -> tuple[pd.DataFrame, float]:
    """The results table of a family, and the true accuracy of students without a teacher."""
    plain = float(truth.means.mean() - rng.exponential())
    rows = [("", "CE", plain)]
    rows += [(f"t{t}", f"KD tau={s + 1}", true) for (s, t), true in np.ndenumerate(truth.means)]
    teacher, label, true = zip(*rows, strict=True)
    errors = seed_errors(rng, kind, (*truth.means.shape, seeds)).reshape(-1, seeds)
    errors = np.concatenate([rng.standard_normal((1, seeds)), errors])
    runs = 0.7 + POINT * (np.array(true)[:, None] + truth.sigma * errors)
    frames = []
    for split in ("val", "test"):  # of the same students; the examples of a split move all of them alike, too
        seen = runs + EXAMPLE_NOISE * (rng.standard_normal(runs.shape) + rng.standard_normal())
        for seed, accuracy in enumerate(seen.T):
            columns = {
                "teacher": teacher,
                "label": label,
                "accuracy": accuracy.clip(0, 1),
                "seed": seed,
                "split": split,
            }
            frames.append(pd.DataFrame(columns))
    results = pd.concat(frames).assign(student="net", teacher_seed=0, n=EXAMPLES)
    results["method"] = np.where(results["teacher"].eq(""), "CE", "KD")
    results["tau"] = np.where(
        results["teacher"].eq(""), np.nan, results["label"].str.extract(r"(\d+)$")[0].astype(float)
    )
    return results.assign(family=np.where(results["teacher"].eq(""), "", name)), 0.7 + POINT * plain


def public_trial(rng: np.random.Generator, design: Design, shipped: Floats) -> list[float]:
    """What `capmismatch.pick` claims and what is true: the columns of `binned`, then `EXTRA`."""
    links = Links.draw(rng)
    evidence = []
    for number in range(design.evidence):
        truth = links.family(rng, 1, shipped)
        evidence.append((probes_of(f"f{number}", truth), results_of(rng, f"f{number}", truth, 3)[0]))
    truth = links.family(rng, design.settings, shipped)
    results, plain = results_of(rng, "new", truth, design.seeds, design.noise) if design.seeds else (None, np.nan)
    choice = cm.pick(probes_of("new", truth), results, evidence=evidence, n_boot=1000, seed=int(rng.integers(2**31)))
    best = int(choice.teacher.removeprefix("t"))
    setting = int(choice.label.removeprefix("KD tau=")) - 1 if results is not None else 0
    points = 100 * POINT * truth.means[setting]
    claims = [choice.p_best, points.argmax() == best, choice.expected_regret, points.max() - points[best]]
    if results is None:
        return [*claims, *[0.0] * len(EXTRA)]
    row = choice.table[choice.table["teacher"].eq(choice.teacher)].iloc[0]
    true = 70 + points[best]
    accuracy, gain = 100 * row["accuracy"] - true, row["gain"] - (true - 100 * plain)
    covered = row["gain_low"] <= true - 100 * plain <= row["gain_high"]
    return [*claims, 1, accuracy, accuracy**2, gain, gain**2, covered]


# Pilots ---------------------------------------------------------------------------------------------------------------


def curved(rng: np.random.Generator, teachers: int = 12) -> Floats:
    """Accuracies that rise and fall with size, with a standard deviation of 0.9 points or so."""
    size = np.linspace(-1, 1, teachers)
    return -2 * (size - rng.uniform(-0.8, 0.8)) ** 2 + 0.3 * rng.standard_normal(teachers)


def pilot_trial(rng: np.random.Generator, design: Design, shipped: Floats) -> tuple[list[float], list[float]]:
    """What a pilot claims at its end and what is true; points lost by `WAYS`, and the whole runs that it spent.

    Seeds move all teachers alike, too. Runs of part of the length follow the truth with a correlation from 0 to 0.9.
    """
    if design.kind == "pilot":
        truth = Links.draw(rng).family(rng, 1, shipped)
        true, noise, probes = 100 * POINT * truth.means[0], 100 * POINT * truth.sigma, truth.features
    else:
        true, noise = curved(rng), float(np.exp(rng.uniform(np.log(0.2), np.log(0.8))))
        probes = np.zeros((len(true), 0))
    epochs, early, count, runs = 10, rng.uniform(0, 0.9), len(true), design.runs
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
    last: list[Floats] = []

    def known(rows: pd.DataFrame) -> Group:
        """As a pilot knows its arms; where single seeds say nothing of the noise, the examples give a third of it."""
        guess = noise**2 / 3 if rows["seed"].max() == 0 else np.nan
        units, found, own_noise = measured(rows.assign(n=0.25 / guess))
        place = pd.Index(units.get_level_values("teacher").astype(int)).get_indexer(range(count))
        values = np.where(place < 0, np.nan, found[place])
        known_noise = own_noise.at(place)
        if not np.isnan(guess):
            known_noise = replace(known_noise, variances=np.where(place < 0, np.nan, guess))
        return Group(values, known_noise, probes, range(count), ["one"] * count)

    def judge(rung: Rung, arms: list[int]) -> Judgement:
        done.append(train(arms, rung.epochs, rung.seeds))
        rows = pd.concat(done).drop_duplicates(["teacher", "seed", "epochs"])
        groups = {length: known(part) for length, part in rows.groupby("epochs")}
        now = groups.pop(rung.epochs)
        last.append(posterior_draws(now, 1000, rng, list(groups.values())).means)
        return Judgement.of(last[-1])

    halve(ladder(count, epochs, runs * epochs), judge, range(count), TOLERANCE)
    lost, final = true.max() - true, Judgement.of(last[-1])
    best = int(final.regret.argmin())  # the highest expectation, as `pick` takes it in the end
    evenly = train(list(range(count)), epochs, max(1, runs // count)).groupby("teacher")["accuracy"].mean()
    trained = pd.concat(done).drop_duplicates(["teacher", "seed", "epochs"])
    losses = [
        lost[best],
        lost[int(evenly.to_numpy().argmax())],
        lost.mean(),
        lost[-1],
        trained["epochs"].sum() / epochs,
    ]
    return [final.chances[best], best == true.argmax(), final.regret[best], lost[best]], losses


# Tables ---------------------------------------------------------------------------------------------------------------


def simulate(number: int, block: int) -> pd.DataFrame:
    """Sums over the trials of a block of one design, by bin of the claimed chance."""
    design, rng = DESIGNS[number], np.random.default_rng([number, block, 1])
    shipped = pd.read_csv(SHIPPED).to_numpy(float)
    if design.runs:
        claims, more = zip(*(pilot_trial(rng, design, shipped) for _ in range(BLOCK)), strict=True)
        names = [*WAYS, SPENT]
    else:
        rows = [public_trial(rng, design, shipped) for _ in range(BLOCK)]
        claims, more, names = [row[:4] for row in rows], [row[4:] for row in rows], EXTRA
    return binned(claims, pd.DataFrame(np.array(more, float), columns=names)).assign(**asdict(design))


def mark() -> float:
    """A claim by which sums of other answers are told."""
    shipped = pd.read_csv(SHIPPED).to_numpy(float)
    return float(np.mean([public_trial(np.random.default_rng([0, k]), DESIGNS[k], shipped)[0] for k in range(3)]))


def reported(sums: pd.DataFrame) -> pd.DataFrame:
    """By noise, seeds and settings: mean error of accuracy and gain to report, in points; the gain's coverage."""
    total = (
        sums[sums["kind"].eq("results")].groupby(["noise", "evidence", "seeds", "settings"], sort=False)[EXTRA].sum()
    )
    n = total.pop("reported")
    table = pd.DataFrame({"n": n.astype(int)})
    for name in ("accuracy_error", "gain_error"):
        table[name] = total[name] / n
        table[f"{name}_se"] = np.sqrt((total[f"{name}_2"] / n - table[name] ** 2) / n)
    return table.assign(gain_covered=total["gain_covered"] / n).reset_index()


def ways(sums: pd.DataFrame) -> pd.DataFrame:
    """By budget: points lost by a pilot and by other ways to spend as many runs, and the runs that the pilot spent."""
    total = sums[sums["runs"].gt(0)].groupby(["kind", "runs"], sort=False)[["n", *WAYS, SPENT]].sum()
    return total.drop(columns="n").div(total["n"], axis=0).assign(n=total["n"]).reset_index()


def main() -> None:
    """Run the blocks that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200, help=f"of each design, in blocks of {BLOCK}")
    parser.add_argument("--designs", type=int, nargs="+", default=range(len(DESIGNS)), help="numbers; by default all")
    parser.add_argument("--out", type=Path, default=HERE / "pick_sums.csv")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    by = [field.name for field in fields(Design)] + ["low", "high"]
    blocks = -(-options.families // BLOCK)
    done = run_blocks(
        simulate, options.designs, blocks, options.out, by=by, mark=round(mark(), 4), workers=options.workers
    )
    for (kind, settings, noise), part in done.groupby(["kind", "settings", "noise"], sort=False):
        print(f"\n{kind}, settings: {settings:g}, noise: {noise}\n{bins(part).round(3).to_string(index=False)}")
    print(f"\nWhat is reported, in points from the truth\n{reported(done).round(3).to_string(index=False)}")
    print(f"\nPoints lost with so many whole runs\n{ways(done).round(3).to_string(index=False)}")


if __name__ == "__main__":
    main()
