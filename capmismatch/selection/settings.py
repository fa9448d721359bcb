"""Which setting does best: methods and temperatures, each with its best teacher, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.stats.posterior import Group, Noise, posterior_draws

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """One split: draws (n_boot, T) of the candidates' accuracies, their measured means (T,) and how noisy these are."""

    draws: Floats
    means: Floats
    noise: Noise

    @classmethod
    def of(cls, group: Group, evidence: Sequence[Group], n_boot: int, rng: np.random.Generator) -> Split:
        """Draws for a group, with what the evidence teaches."""
        return cls(posterior_draws(group, n_boot, rng, evidence).means, group.means, group.noise)


@dataclass(frozen=True)
class Settings:
    """The settings that one student was taught in, each judged by what its best teacher reaches.

    That teacher is the one with the highest estimate, so that a setting is not better for having many that might be.
    What a seed does to all students alike is not in the draws: settings are compared within seeds.

    Attributes
    ----------
    labels : S names
    teachers : each setting's best teacher, by its place among the candidates
    draws : (n_boot, S) of that teacher's accuracy
    """

    labels: tuple[str, ...]
    teachers: tuple[int, ...]
    draws: Floats

    @classmethod
    def of(cls, splits: Mapping[str, Split]) -> Settings:
        """From every setting's students on the split to choose on."""
        scores = [np.where(np.isfinite(own.means), own.draws.mean(axis=0), -np.inf) for own in splits.values()]
        teachers = [int(score.argmax()) for score in scores]
        drawn = [own.draws[:, teacher] for own, teacher in zip(splits.values(), teachers, strict=True)]
        return cls(tuple(splits), tuple(teachers), np.stack(drawn, axis=1))

    @property
    def best(self) -> str:
        """The setting with the highest estimate."""
        return self.labels[int(self.draws.mean(axis=0).argmax())]

    def table(self) -> pd.DataFrame:
        """One row a setting, best first; empty where there is nothing to compare.

        Returns
        -------
        DataFrame
            ``label, place, score, behind, low, high, p_best, tie``: the estimated accuracy of its best teacher (at
            `place`), the points that it lies behind the best setting, with their 95 % interval, and the chance of
            being the best.

        Examples
        --------
        >>> drawn = np.array([[0.60, 0.61, 0.50], [0.62, 0.60, 0.51], [0.63, 0.62, 0.52]])
        >>> Settings(("KD", "ATS", "DKD"), (0, 0, 1), drawn).table()[["label", "behind", "p_best", "tie"]].round(2)
          label  behind  p_best    tie
        0    KD    0.00    0.67   True
        1   ATS    0.67    0.33   True
        2   DKD   10.67    0.00  False
        """
        score = self.draws.mean(axis=0)
        behind = 100 * (self.draws[:, [int(score.argmax())]] - self.draws)
        low, high = np.quantile(behind, [0.025, 0.975], axis=0)
        table = pd.DataFrame(
            {
                "label": self.labels,
                "place": self.teachers,
                "score": score,
                "behind": behind.mean(axis=0),
                "low": low,
                "high": high,
                "p_best": chances(self.draws),
                "tie": low <= 0,
            }
        )
        table = table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
        return table if len(table) > 1 else table[:0]


def on_average(parts: Sequence[Settings]) -> Settings | None:
    """Settings over several students; None where one that is best for some student was not tried with every other."""
    shared = set(parts[0].labels).intersection(*(part.labels for part in parts))
    if not shared >= {part.best for part in parts}:
        return None
    labels = tuple(label for label in parts[0].labels if label in shared)
    drawn = [part.draws[:, [part.labels.index(label) for label in labels]] for part in parts]
    return Settings(labels, (-1,) * len(labels), np.mean(drawn, axis=0))


def chances(draws: Floats) -> Floats:
    """The share of draws (n_boot, S) in which each is the highest."""
    return np.bincount(draws.argmax(axis=1), minlength=draws.shape[1]) / len(draws)
