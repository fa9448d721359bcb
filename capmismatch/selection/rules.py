"""Simple rules that name a teacher from its probes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

DEFAULT_RULE = "highest derived_std"
"""What `pick` goes by when it has no student results.

The variance of a teacher's probabilities over the wrong classes rises and falls with capacity and goes together with
its students' accuracy in the journal paper (arXiv 2405.13078, which plots the square root). Measured with twelve
CIFAR-10 teachers (``data/cifar10``), it is a cheap rule for plain KD. Accuracy points lost, with 95 % intervals:

============= ============== ============== ============== ====================
rule          KD, tau 2      KD, tau 4      ATS            ISATS, unconstrained
============= ============== ============== ============== ====================
this one      0.0 [0.0, 0.4] 0.2 [0.0, 1.1] 0.5 [0.0, 1.5] 5.0 [3.7, 6.4]
most accurate 1.7 [0.5, 3.0] 0.8 [0.0, 1.9] 0.4 [0.0, 1.4] 2.2 [1.0, 3.4]
largest       2.0 [0.7, 3.4] 0.7 [0.0, 1.8] 0.3 [0.0, 1.1] 1.5 [0.1, 3.0]
============= ============== ============== ============== ====================

"Take the smallest" takes the same teacher there, so that study cannot tell the two apart. Where the method shapes the
variance itself, the rule is no guide. Where there are results, `pick` goes by them and shows what it would have cost.
"""

DEFAULT_TAU = 4.0
"""Temperature at which tempered probes are compared, where the table has it; else the nearest there is."""


COMPANIONS = ("target_prob", "inherent_variance")
"""What always stands beside a derived probe: DV = (1 - p_y)^2 IV, so that alone it may only restate confidence."""

DERIVED = ("derived_std", "derived_variance")
"""Probes that are told only together with `COMPANIONS`."""

NAMES = {
    "target_prob": "p_y",
    "inherent_variance": "inherent variance",
    "derived_variance": "derived variance",
    "derived_std": "derived std",
    "accuracy": "the teacher's accuracy",
    "params": "parameters",
}
"""What sentences call these probes."""

RELEVANT = ("largest", "most accurate", DEFAULT_RULE)
"""What people do without a diagnosis, and the prior: the rules that reasons speak of; all are in the table."""


@dataclass(frozen=True)
class Rule:
    """Take the teacher with the highest (`sign` +1) or lowest (-1) value of a probe."""

    name: str
    probe: str
    sign: int


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("largest", "params", 1),
        Rule("smallest", "params", -1),
        Rule("most accurate", "accuracy", 1),
        *(Rule(f"lowest {probe}", probe, -1) for probe in ("nll", "brier", "ece", "classwise_ace", "target_prob")),
        *(
            Rule(f"highest {probe}", probe, 1)
            for probe in ("derived_std", "derived_variance", "inherent_variance", "entropy", "wrong_entropy", "cmi")
        ),
    )
}
"""Every rule by its name."""


def nearest_tau(taus: pd.Series) -> float:
    """The temperature nearest to the default on a log scale; NaN where the probe has none.

    Examples
    --------
    >>> nearest_tau(pd.Series([1.0, 3.0, 8.0]))
    3.0
    """
    known = taus.dropna().unique()
    return float(known[np.argmin(np.abs(np.log(known / DEFAULT_TAU)))]) if len(known) else float("nan")


def teacher_probes(probes: pd.DataFrame) -> pd.DataFrame:
    """One row for each teacher and probe at the temperature it is compared at.

    Parameters
    ----------
    probes : DataFrame
        Rows of the probes table of one split.

    Returns
    -------
    DataFrame
        ``family, teacher, probe, tau, value, se``: mean over runs; `se` joins the mean squared standard error over
        examples (runs share the examples) with the spread of runs, pooled over teachers, over the number of runs.
    """
    at = probes.groupby("probe")["tau"].transform(nearest_tau)
    # NaN != NaN, hence the second half: probes without temperature.
    chosen = probes[probes["tau"].eq(at) | (probes["tau"].isna() & at.isna())]
    key = ["family", "teacher", "probe"]
    runs = chosen.groupby(key, sort=True)["value"].agg(["mean", "var", "count"])
    runs["tau"] = chosen.groupby(key)["tau"].first()
    runs["examples"] = chosen.groupby(key)["se"].apply(lambda se: (se**2).mean())
    free = (runs["count"] - 1).groupby("probe").transform("sum")
    squares = (runs["var"].fillna(0) * (runs["count"] - 1)).groupby("probe").transform("sum")
    spread = (squares / free.where(free > 0)).fillna(0) / runs["count"]
    variance = runs["examples"].fillna(0) + spread
    runs["se"] = np.sqrt(variance.where(runs["examples"].notna() | (spread > 0)))
    runs["run_se"] = np.sqrt(spread)
    return runs.rename(columns={"mean": "value"}).reset_index()[[*key, "tau", "value", "se", "run_se"]]


def rule_choices(values: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What every rule takes, and the rules left out because their probe is missing.

    Parameters
    ----------
    values : DataFrame
        Teachers (index of family and teacher) by probe, with a column ``params``.

    Returns
    -------
    choices : DataFrame
        ``rule, family, teacher, value``.
    missing : list of str
    """
    rows, missing = [], []
    for rule in RULES.values():
        column = values[rule.probe].dropna() if rule.probe in values else pd.Series(dtype=float)
        if column.empty:
            missing.append(rule.name)
            continue
        family, teacher = column.index[int(np.argmax(rule.sign * column.to_numpy()))]
        rows.append((rule.name, family, teacher, float(column[family, teacher])))
    return pd.DataFrame(rows, columns=["rule", "family", "teacher", "value"]), missing
