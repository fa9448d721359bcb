"""Does a chance of being the best mean what it says? Simulated families with a known truth, claims in bins.

    python benchmarks/bench_reliability.py [--families 1000] [--designs NUMBER ...] [--out FILE] [--workers 1]

51 designs: evidence of 0, 1, 3 or 6 other families; one to four seeds (none to three, where there is evidence); one or
eight settings; seeds that scatter alike, more for some teachers than for others (standard deviations log-normal, by a
factor of 2.2), or with heavy tails (Student's t with 2.5 to 4 degrees of freedom). Each family draws its own number of
teachers (8 to 12), signal to noise (the spread of the teachers over that of the seeds, log-uniform from 0.25 to 2),
share that probes explain, and probe matrix: that of the twelve shipped CIFAR-10 teachers, a ladder of sizes, or noise.
Single seeds know the noise from the examples alone, which is 0.3 to 1 times the real one. The choice is that of
`capmismatch.pick`: the setting and teacher with the highest expectation.

Blocks of the designs are made in turns, and their sums kept in ``--out``, by default ``reliability_sums.csv`` beside
this file; the same command with more families adds to them, unless the posterior's claims have changed since.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from _reliability import binned, bins, run_blocks
from numpy.typing import NDArray

from capmismatch.stats.groups import Group, Noise, seed_noise
from capmismatch.stats.posterior import joint_draws

Floats = NDArray[np.float64]
HERE = Path(__file__).parent
BLOCK = 20
# derived std at tau 4, accuracy and log parameters of the shipped CIFAR-10 teachers on "val", standardised
SHIPPED = HERE / "shipped_features.csv"


@dataclass(frozen=True)
class Design:
    """What the families of a simulation have in common."""

    evidence: int
    seeds: int
    settings: int
    noise: str = "normal"


UNEVEN = ["by teacher", "heavy tails"]
DESIGNS = [
    Design(evidence, seeds, settings)
    for evidence, seeds, settings in product((0, 1, 3, 6), (0, 1, 2, 3, 4), (1, 8))
    if (seeds or (evidence and settings == 1)) and not (evidence and seeds == 4)
]
DESIGNS += [Design(0, seeds, settings, noise) for noise, seeds, settings in product(UNEVEN, (1, 2, 3, 4), (1, 8))]
DESIGNS += [Design(3, seeds, 1, noise) for noise, seeds in product(UNEVEN, (1, 2, 3))]


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


class Truth(NamedTuple):
    """What a simulated family is.

    Attributes
    ----------
    means : (S, T) array of float
        True accuracies of each setting and teacher, in units of the seeds' typical standard deviation.
    features : (T, 3) array of float
        Standardised probes.
    sigma : float
        Standard deviation of this family's seeds.
    """

    means: Floats
    features: Floats
    sigma: float


def true_family(rng: np.random.Generator, settings: int, slopes: Floats, explained: float, shipped: Floats) -> Truth:
    """A family whose accuracies follow the probes to the share `explained`, by slopes of its own setting by setting."""
    teachers, sigma = int(rng.integers(8, 13)), float(np.exp(0.3 * rng.standard_normal()))
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
    level = rng.standard_normal((settings, 1)) if settings > 1 else 0.0
    return Truth(spread * (true + level), x, sigma)


def seed_errors(rng: np.random.Generator, kind: str, shape: tuple[int, int, int]) -> Floats:
    """What seeds do to the students (settings, teachers, seeds), in units of their typical standard deviation."""
    if kind == "heavy tails":
        tail = rng.uniform(2.5, 4)
        return rng.standard_t(tail, shape) / np.sqrt(tail / (tail - 2))
    by_teacher = 0.7 * np.exp(0.8 * rng.standard_normal((shape[1], 1))) if kind == "by teacher" else 1.0
    return by_teacher * rng.standard_normal(shape)


def family(rng: np.random.Generator, name: str, seeds: int, truth: Truth, kind: str) -> list[Group]:
    """Its measurement in each setting."""
    settings, teachers = truth.means.shape
    names = [(name, teacher) for teacher in range(teachers)]
    if not seeds:
        unknown = np.full((settings, teachers), np.nan)
        noise = [Noise(unknown[0], np.inf)] * settings
        return _groups(unknown, noise, truth, names)
    runs = truth.means[:, :, None] + truth.sigma * seed_errors(rng, kind, (settings, teachers, seeds))
    examples = np.full(settings * teachers, (truth.sigma * rng.uniform(0.3, 1)) ** 2)
    found = seed_noise(runs.reshape(-1, 1, seeds), examples)
    place = np.arange(settings * teachers).reshape(settings, teachers)
    return _groups(runs.mean(axis=2), [found.at(of_setting) for of_setting in place], truth, names)


def _groups(means: Floats, noise: list[Noise], truth: Truth, names: list[tuple[str, int]]) -> list[Group]:
    families = [name for name, _ in names]
    return [Group(row, own, truth.features, names, families) for row, own in zip(means, noise, strict=True)]


@dataclass(frozen=True)
class Links:
    """How probes and students go together in the families of one trial."""

    explained: float
    alike: float
    common: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Links:
        """Probes that say nothing to much, by slopes that families share not at all to wholly."""
        return cls(rng.choice([0, 0.3, 0.7]), rng.choice([0, 0.5, 1]), rng.standard_normal(3))

    def family(self, rng: np.random.Generator, settings: int, shipped: Floats) -> Truth:
        """One of these families."""
        slopes = np.sqrt(self.alike) * self.common + np.sqrt(1 - self.alike) * rng.standard_normal(3)
        return true_family(rng, settings, slopes, self.explained, shipped)


def trial(rng: np.random.Generator, design: Design, shipped: Floats) -> tuple[float, float, float, float]:
    """P(best) and expected regret as claimed, and as they are; regret over the seeds' standard deviation, about."""
    links = Links.draw(rng)
    kind = design.noise
    others = [family(rng, f"other {i}", 3, links.family(rng, 1, shipped), kind)[0] for i in range(design.evidence)]
    truth = links.family(rng, design.settings, shipped)
    true, groups = truth.means, family(rng, "new", design.seeds, truth, kind)
    draws = joint_draws(groups, 600, rng, others).means
    setting, best = np.unravel_index(draws.mean(axis=0).argmax(), true.shape)
    drawn, lead = draws[:, setting], true[setting]
    claimed = float((drawn.argmax(axis=1) == best).mean())
    regret = float((drawn.max(axis=1) - drawn[:, best]).mean())
    return claimed, float(lead.argmax() == best), regret, float(lead.max() - lead[best])


def simulate(number: int, block: int) -> pd.DataFrame:
    """Sums over the families of a block of one design, by bin of the claimed chance."""
    design, rng = DESIGNS[number], np.random.default_rng([number, block])
    shipped = pd.read_csv(SHIPPED).to_numpy(float)
    return binned([trial(rng, design, shipped) for _ in range(BLOCK)]).assign(**asdict(design))


def mark() -> float:
    """A claim by which sums of another posterior are told."""
    shipped = pd.read_csv(SHIPPED).to_numpy(float)
    return float(np.mean([trial(np.random.default_rng([0, k]), DESIGNS[k], shipped)[0] for k in (0, 3, 9)]))


def main() -> None:
    """Run the blocks that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=1000, help=f"of each design, in blocks of {BLOCK}")
    parser.add_argument("--designs", type=int, nargs="+", default=range(len(DESIGNS)), help="numbers; by default all")
    parser.add_argument("--out", type=Path, default=HERE / "reliability_sums.csv")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    by = [field.name for field in fields(Design)] + ["low", "high"]
    blocks = -(-options.families // BLOCK)
    done = run_blocks(
        simulate, options.designs, blocks, options.out, by=by, mark=round(mark(), 4), workers=options.workers
    )
    print("All designs")
    print(bins(done).round(3).to_string(index=False))
    for name in ("noise", "evidence", "seeds", "settings"):
        for value, part in done.groupby(name):
            print(f"{name} = {value}")
            print(bins(part).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
