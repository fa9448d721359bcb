"""A temperature for each teacher of a bank, at which all have the same entropy, or the same variance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import pandas as pd

from capmismatch._numerics.devices import as_device
from capmismatch._utils.progress import progress_bar
from capmismatch.data.bank import LogitBank
from capmismatch.diagnostics.example_values import kept_rates, means_of
from capmismatch.diagnostics.table_rows import identity, seed_of
from capmismatch.errors import must_be_temperature
from capmismatch.probes import REGISTRY
from capmismatch.probes.temperatures import matched, must_depend_on_tau


def matched_temperatures(
    bank: LogitBank,
    match: str = "entropy",
    *,
    tau: float = 4.0,
    reference: str | None = None,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    r"""Find for each teacher the temperature at which the mean of a probe is that of one teacher at tau.

    If students no longer depend on the teacher's size at these temperatures, mismatch was a matter of temperature. The
    method "MatchKD" of a study trains students at them; joined to the table of `probe`, they are one more probe.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    match : str, default "entropy"
        Name of a probe that depends on tau and has a value for each example, such as "derived_std".
    tau : float, default 4.0
        Temperature > 0 of the reference.
    reference : str, optional
        Name, or key, of the teacher that the others are matched to; by default the smallest, or the first where sizes
        are unknown.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row per teacher, with the columns of `probe`: `probe` is "tau_for_entropy" and the like, `tau` the
        reference's temperature, `value` the teacher's, that nearest to tau by the quotient; NaN where it does not
        reach the mean within a factor of 16, of condensed rows within the temperatures whose sums were kept (with a
        warning). `se` is NaN.

    Raises
    ------
    InputError
        An unknown probe, teacher or split, a temperature that is not positive; of condensed rows, a `tau` whose sums
        were not kept.

    See Also
    --------
    capmismatch.probes.matching_tau : The same of one teacher's logits.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"small": 2 * np.eye(4), "large": 6 * np.eye(4)}, [0, 1, 2, 3])
    >>> matched_temperatures(bank, tau=2.0, progress=False)[["teacher", "probe", "value"]].round(6)
      teacher            probe  value
    0   small  tau_for_entropy    2.0
    1   large  tau_for_entropy    6.0
    """
    must_be_temperature(tau, "tau")
    probe, where = REGISTRY[must_depend_on_tau(match)], as_device(device)
    key = _smallest(bank) if reference is None else bank.key_of(reference)

    def mean_at(teacher: str, taus: Sequence[float]) -> list[float]:
        means = means_of(bank, teacher, taus, [probe], split, where)
        return [means[match, at]["value"] for at in taus]

    wanted, rows = mean_at(key, [tau])[0], []
    slowest, fastest = kept_rates(bank)
    within = (1 / fastest, 1 / slowest if slowest else math.inf)
    with progress_bar(bank.teachers, desc="temperatures", unit="teacher", show=progress) as bar:
        for record in bar:
            same = record.key == key
            found = tau if same else matched(lambda taus: mean_at(record.key, taus), wanted, tau, within)  # noqa: B023
            names = {"split": split or "all", "seed": seed_of(record), "tau": tau, "probe": f"tau_for_{match}"}
            rows.append(identity(record) | names | {"value": found, "se": math.nan, "n": len(bank.select(split))})
    without = [str(row["teacher"]) for row in rows if math.isnan(row["value"])]
    if without and within != (0.0, math.inf):
        low, high = max(within[0], tau / 16), min(within[1], tau * 16)
        warnings.warn(
            f"no temperature in [{low:g}, {high:g}], for which the bank's condensed rows keep sums, gives "
            f"{', '.join(dict.fromkeys(without))} the mean {match} of {key} at tau={tau:g}, {wanted:.4g}: condense "
            "with other betas for a wider range",
            stacklevel=2,
        )
    return pd.DataFrame(rows)


def _smallest(bank: LogitBank) -> str:
    """Key of the teacher with fewest parameters; of the first where not all are known."""
    sizes = {record.key: record.params for record in bank.teachers}
    known = [params for params in sizes.values() if params is not None]
    return min(sizes, key=lambda key: sizes[key] or 0) if len(known) == len(sizes) else next(iter(sizes))
