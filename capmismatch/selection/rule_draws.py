"""How sure a probe's order of the teachers is: its means on resampled examples, the same ones for every teacher."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from capmismatch.errors import InputError, require_columns
from capmismatch.selection.candidates import UNIT
from capmismatch.stats.bootstrap import bootstrap


def rule_draws(values: pd.DataFrame, long: pd.DataFrame, probe: str, n_boot: int, seed: int) -> pd.DataFrame:
    """Draws (n_boot, T) of a probe's mean for each teacher: a bootstrap over examples, and over runs where there are.

    Parameters
    ----------
    values : as `capmismatch.example_values` gives them, with the probe at the temperature that it is compared at
    long : one row a teacher and probe: family, teacher, probe, tau, and run_se, the standard error by runs alone
    probe : its name

    Raises
    ------
    InputError
        If a teacher lacks the probe at that temperature, or teachers are of different examples.
    """
    require_columns(values, [*UNIT, "tau", "probe", "id", "value"], "the table of example values")
    teachers = long[long["probe"].eq(probe)]
    tau = float(teachers["tau"].iloc[0])
    rows = values[values["probe"].eq(probe) & (values["tau"].eq(tau) | (values["tau"].isna() & math.isnan(tau)))]
    rows = rows.astype(dict.fromkeys(UNIT, str))
    wide = rows.groupby(["id", *UNIT])["value"].mean().unstack(UNIT)
    wide = wide.reindex(columns=pd.MultiIndex.from_frame(teachers[UNIT].astype(str)))
    missing = wide.columns[wide.isna().any()] if len(wide) else wide.columns
    if len(missing):
        raise InputError(
            f"the table of example values lacks {probe!r} at tau {tau:g} on some examples of {'/'.join(missing[0])}: "
            "expected those of every teacher, on the split to choose on"
        )
    drawn = bootstrap(wide.to_numpy(), n_boot=n_boot, seed=seed).replicates
    noise = np.random.default_rng(seed).standard_normal(drawn.shape) * teachers["run_se"].to_numpy()
    return pd.DataFrame(drawn + noise, columns=pd.MultiIndex.from_frame(teachers[UNIT]))
