"""By what students are compared: their accuracy, or of language models the likelihood of the text.

Everything between reading results and showing a choice goes by one column in which more is better and a hundredth is
the unit of differences. A likelihood gets there as minus a hundredth of its NLL, and back where it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.stats.estimates import Estimate

LEVELS = ("score", "low", "high")


@dataclass(frozen=True)
class Metric:
    """What a choice compares students by.

    Attributes
    ----------
    name : str
        Column of the results, and of the probes.
    word : str
        What it is called in sentences.
    unit : str
        Of differences: gains, regret, intervals.
    tolerance : float
        How much of it does not matter, unless the user says so.
    less_is_better : bool
        Whether a small value is a good one.
    """

    name: str
    word: str
    unit: str
    tolerance: float
    less_is_better: bool = False

    def level(self, value: float, low: float = np.nan, high: float = np.nan) -> str:
        """A value with its interval, as sentences have it.

        Examples
        --------
        >>> ACCURACY.level(0.7123, 0.70, 0.72), NLL.level(3.6123, 3.60, 3.62)
        ('71.2 % [70.0, 72.0]', '3.612 nats [3.600, 3.620]')
        """
        estimate = Estimate(value, low, high)
        return estimate.text(".3f", 1.0, " nats") if self.less_is_better else estimate.percent()

    def difference(self, value: float, low: float, high: float) -> str:
        """A difference with its interval."""
        form = ".3f" if self.less_is_better else ".2f"
        return f"{value:{form}} {self.unit} [{low:{form}}, {high:{form}}]"

    def compared(self, results: pd.DataFrame) -> pd.DataFrame:
        """Results whose accuracy is what is compared: more is better, and a hundredth is a unit.

        Raises
        ------
        InputError
            If the column is missing, or a value of it is no likelihood.
        """
        if not self.less_is_better:
            return results
        require_columns(results, [self.name], "the results table")
        value = results[self.name]
        wrong = results[value.notna() & ~(value.ge(0) & np.isfinite(value))]
        if len(wrong):
            row = wrong.iloc[0]
            raise InputError(
                f"expected {self.word} >= 0 in nats, got {row[self.name]} for student {row['student']!r} and teacher "
                f"{row['teacher']!r} in the results table"
            )
        # The number of examples bounds the noise of a share, not of this.
        return results.assign(accuracy=-value / 100).drop(columns="n", errors="ignore")

    def of_teachers(self, profiles: pd.DataFrame) -> pd.Series | None:
        """What teachers reach themselves, as it is compared; None where it was not probed."""
        if self.name not in profiles:
            return None
        return -profiles[self.name] / 100 if self.less_is_better else profiles[self.name]

    def in_range(self, table: pd.DataFrame, levels: tuple[str, ...]) -> pd.DataFrame:
        """A table whose levels and accuracies, means of draws around them, are such as there may be.

        Examples
        --------
        >>> ACCURACY.in_range(pd.DataFrame({"low": [0.999], "high": [1.001]}), LEVELS).values.tolist()
        [[0.999, 1.0]]
        """
        own = [name for name in (*levels, "accuracy", "ce") if name in table]
        least, most = (-np.inf, 0.0) if self.less_is_better else (0.0, 1.0)
        return table.assign(**{name: table[name].astype(float).clip(least, most) for name in own})

    def shown(self, table: pd.DataFrame, levels: tuple[str, ...] = LEVELS) -> pd.DataFrame:
        """A table of a choice as it is shown: `levels` and accuracies in the metric's own numbers and name."""
        if not self.less_is_better or table.empty:
            return table
        own = [name for name in (*levels, "accuracy", "ce") if name in table]
        shown = table.assign(**{name: -100 * table[name].astype(float) for name in own})
        if {"low", "high"} <= set(own):
            shown = shown.assign(low=shown["high"], high=shown["low"])
        return shown.rename(columns={"accuracy": self.name})


ACCURACY = Metric("accuracy", "accuracy", "points", tolerance=0.3)
NLL = Metric("nll", "NLL", "nats", tolerance=0.01, less_is_better=True)
METRICS = {metric.name: metric for metric in (ACCURACY, NLL)}


def metric_of(name: str) -> Metric:
    """The metric of a name.

    Examples
    --------
    >>> metric_of("nll").unit
    'nats'
    """
    must_be_one_of(name, METRICS, "metric")
    return METRICS[name]
