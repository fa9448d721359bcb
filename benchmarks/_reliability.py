"""What simulations of claims share: trials in bins of the claimed chance, sums that later runs add to, and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta, norm

from capmismatch._utils.files import replacing

Floats = NDArray[np.float64]
EDGES = np.array([0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
OUTCOMES = ["claimed", "true", "regret", "real_regret"]
SQUARES = ["regret_2", "real_2", "product"]  # sums of squares and products, for the interval of the ratio
SUMS = ["n", *OUTCOMES, *SQUARES]
INTERVAL = 0.95
SAME = 0.01  # claims of the same trial, made by the same posterior on another machine


def binned(trials: Sequence[Sequence[float]], more: pd.DataFrame | None = None) -> pd.DataFrame:
    """Sums by bin of the claimed chance.

    Parameters
    ----------
    trials : sequence of (claimed, true, regret, real_regret)
        P(best) as claimed, whether it came true, and expected and real regret.
    more : DataFrame, optional
        Other numbers of each trial, to be summed too.

    Returns
    -------
    DataFrame
        ``low, high, n`` and the sums of the outcomes, of their squares and of their product.
    """
    frame = pd.DataFrame(np.array(trials, float), columns=OUTCOMES)
    frame["regret_2"], frame["real_2"] = frame["regret"] ** 2, frame["real_regret"] ** 2
    frame["product"] = frame["regret"] * frame["real_regret"]
    frame = frame if more is None else frame.join(more)
    place = np.minimum(np.searchsorted(EDGES, frame["claimed"], side="right") - 1, len(EDGES) - 2)
    sums = frame.groupby(place).sum()
    sums.insert(0, "n", frame.groupby(place).size())
    sums.insert(0, "high", EDGES[sums.index + 1])
    sums.insert(0, "low", EDGES[sums.index])
    return sums.reset_index(drop=True)


def bins(sums: pd.DataFrame) -> pd.DataFrame:
    """The reliability table: all designs together, a row for each bin of the claimed chance.

    Parameters
    ----------
    sums : DataFrame
        Of `binned`, one under the other.

    Returns
    -------
    DataFrame
        ``low, high, n``; the means ``claimed`` and ``true`` of P(best), with the exact binomial interval of the latter;
        the means ``regret`` and ``real_regret``, their ``ratio``, and its interval by the delta method.
    """
    total = sums.groupby(["low", "high"], as_index=False)[SUMS].sum()
    n, hits = total["n"], total["true"].round()
    tail = (1 - INTERVAL) / 2
    table = total[["low", "high", "n"]].assign(claimed=total["claimed"] / n, true=total["true"] / n)
    table["true_low"] = pd.Series(beta.ppf(tail, hits, n - hits + 1)).fillna(0.0)
    table["true_high"] = pd.Series(beta.ppf(1 - tail, hits + 1, n - hits)).fillna(1.0)
    table["regret"], table["real_regret"] = total["regret"] / n, total["real_regret"] / n
    table["ratio"] = ratio = total["regret"] / total["real_regret"].where(total["real_regret"].gt(0))
    square = total["regret_2"] - 2 * ratio * total["product"] + ratio**2 * total["real_2"]
    half = norm.ppf(1 - tail) * np.sqrt(square.clip(lower=0)) / total["real_regret"]
    return table.assign(ratio_low=ratio - half, ratio_high=ratio + half)


def run_blocks(
    simulate: Callable[[int, int], pd.DataFrame],
    designs: Sequence[int],
    blocks: int,
    out: Path,
    *,
    by: Sequence[str],
    mark: float,
    workers: int = 1,
) -> pd.DataFrame:
    """Blocks of all designs in turns, so that a run that is cut short is balanced; adds to the sums that `out` has.

    Parameters
    ----------
    simulate : callable
        Gives the sums of a block of a design, by bin.
    designs : sequence of int
        Which to make; earlier ones first.
    blocks : int
        How many of each there are to be in the end.
    out : Path
        A CSV file of sums by design and bin, with the columns ``design`` and ``blocks`` (how many are in).
    by : sequence of str
        Columns of what `simulate` gives that are not summed.
    mark : float
        Some claim of today. Sums of claims that were made otherwise are not added to.
    workers : int
        Number of processes.

    Returns
    -------
    DataFrame
        The sums, of all designs in the file.

    Raises
    ------
    ValueError
        If the claims have changed since `out` was begun.
    """
    done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=["design", "blocks", "mark"])
    if (done["mark"] - mark).abs().gt(SAME).any():
        raise ValueError(f"claims have changed since {out} was begun (a mark of {mark}, then {done['mark'].iloc[0]})")
    there = done.groupby("design")["blocks"].first().to_dict()
    missing = [(number, block) for block in range(blocks) for number in designs if block >= there.get(number, 0)]
    if not missing:
        return done
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        made = (map if pool is None else pool.map)(simulate, *zip(*missing, strict=True))
        for (number, block), rows in zip(missing, made, strict=True):
            more = pd.concat([done[done["design"].eq(number)], rows.assign(design=number)])
            total = more.drop(columns=["blocks", "mark"], errors="ignore").groupby(["design", *by], as_index=False)
            total = total.sum(min_count=1).assign(blocks=block + 1, mark=mark)
            done = pd.concat([done[done["design"].ne(number)], total]).sort_values(["design", *by])
            with replacing(out) as temporary:
                done.to_csv(temporary, index=False, float_format="%.7g")
    return done
