"""What tables say of condensed rows: which numbers are exact, and ranks over a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from capmismatch._numerics.condensed import is_kept
from capmismatch._utils.progress import progress_bar
from capmismatch.data.bank import LogitBank
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.example_values import sequence_index
from capmismatch.diagnostics.means import ClusteredMeans, Means, running_means
from capmismatch.diagnostics.restored import UNIFORM
from capmismatch.findings import join_codes
from capmismatch.probes import REGISTRY
from capmismatch.ranks import rank_metrics

ROWS_AT_ONCE = 4096
OF_SQUARES = (
    *("derived_variance", "derived_std", "inherent_variance", "scaled_derived_variance", "effective_wrong"),
    "brier_tau",
)
"""Tempered probes that need the sums at 2 / tau as well as at 1 / tau."""


FEW_SEQUENCES = 10
"""With fewer, finding CM032 is given."""


def marked(
    bank: LogitBank, probe: str, tau: float | None, mean: Mapping[str, float], marks: Mapping[str, object]
) -> dict[str, object]:
    """The columns that a row of the probes table has besides: `marks`, and of texts findings, and `exact` if condensed.

    Parameters
    ----------
    bank : LogitBank
        Of the row.
    probe : str
        Its name.
    tau : float or None
        Its temperature.
    mean : mapping
        Value, se, n and sequences.
    marks : mapping
        Of a teacher that is not usable.
    """
    if not bank.of_texts:
        return dict(marks)
    codes = [*filter(None, str(marks.get("findings", "")).split(","))]
    if probe == "effective_wrong" and mean["value"] > UNIFORM * (len(bank.classes) - 1):
        codes.append("CM030")
    if 0 < mean.get("sequences", 0) < FEW_SEQUENCES:
        codes.append("CM032")
    exact = _is_exact(bank, probe, tau)
    if not exact:
        codes.append("CM029")
    return {**({"exact": exact} if bank.condensed else {}), **marks, "findings": join_codes(codes)}


def _is_exact(bank: LogitBank, probe: str, tau: float | None) -> bool:
    """Whether the sums behind a value were kept."""
    settings = bank.settings if isinstance(bank, TokenBank) else None
    if settings is None or settings.k == settings.vocabulary - 1:
        return True
    if tau is None:
        return REGISTRY[probe].kind != "temperature"  # a temperature is searched between those that are kept
    betas = (1 / tau, 2 / tau) if probe in OF_SQUARES else (1 / tau,)
    return all(is_kept(beta, settings.betas) for beta in betas)


def token_metrics(bank: TokenBank) -> tuple[str, ...]:
    """The metrics of `rank_stability` that condensed rows can tell."""
    settings = bank.settings
    assert settings is not None
    overlaps = [k for k in sorted({1, 3, 5, settings.k}) if k <= settings.k]
    vocabulary = ("vocab_tau_b", "vocab_spearman") if settings.columns > 1 else ()
    return (*vocabulary, "head_tau_b", *(f"top{k}_overlap" for k in overlaps))


def token_ranks(
    bank: TokenBank, metrics: Sequence[str], split: str | None, progress: bool
) -> dict[str, Means | ClusteredMeans]:
    """The mean over rows of each metric, for each pair of teachers."""
    pairs, rows = list(combinations(range(len(bank.teachers)), 2)), bank.select(split)
    clusters = sequence_index(bank, split)
    means = {metric: running_means(len(pairs), clusters) for metric in metrics}
    with progress_bar(total=len(rows), desc="ranks", unit="row", show=progress) as bar:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            groups = None if clusters is None else clusters[start : start + ROWS_AT_ONCE]
            for metric, values in rank_values(bank, metrics, some, bank.keys, pairs).items():
                means[metric].add(values, groups)
            bar.update(len(some))
    return means


def rank_values(
    bank: TokenBank,
    metrics: Sequence[str],
    rows: NDArray[np.int64],
    keys: Sequence[str],
    pairs: Sequence[tuple[int, int]],
) -> dict[str, NDArray[np.float64]]:
    """Metric -> (P, n) of some rows, for pairs of the teachers with these keys."""
    found: dict[str, NDArray[np.float64]] = {}
    names = {"vocab_tau_b": "tau_b", "vocab_spearman": "spearman", "head_tau_b": "tau_b"}
    for column, read in (("vocab", bank.random_columns), ("head", bank.reference_columns)):
        asked = [metric for metric in metrics if metric.startswith(f"{column}_")]
        if asked:
            logits = [torch.from_numpy(read(key, rows)) for key in keys]
            values = rank_metrics(logits, None, [names[metric] for metric in asked], pairs)
            found |= {metric: values[names[metric]].numpy() for metric in asked}
    overlaps = {metric: int(match[1]) for metric in metrics if (match := re.fullmatch(r"top(\d+)_overlap", metric))}
    if overlaps:
        ids = [bank.condensed_rows(key, rows).ids for key in keys]
        for metric, k in overlaps.items():
            found[metric] = np.stack([_overlap(ids[a], ids[b], k) for a, b in pairs])
    return {metric: found[metric] for metric in metrics}


def _overlap(a: NDArray[Any], b: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Share of the first k tokens that are among the first k of the other, (n,); each is there once."""
    both = np.sort(np.concatenate([a[:, :k], b[:, :k]], axis=1), axis=1)
    shared: NDArray[np.float64] = (both[:, 1:] == both[:, :-1]).sum(axis=1) / k
    return shared
