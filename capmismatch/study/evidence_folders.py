"""The evidence that a study file or a command names: folders of other studies, or the studies of the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from capmismatch.errors import must_be_one_of
from capmismatch.selection.shipped import shipped_evidence
from capmismatch.study.tables import load_table, table_hashes

Pairs = list[tuple[pd.DataFrame, pd.DataFrame]]
WORDS = ("shipped", "none")
"""What stands for no folder: the studies of the package, and no evidence at all."""


def read_evidence(named: Sequence[str], base: Path) -> Pairs | str | None:
    """Evidence as `capmismatch.pick` takes it.

    Parameters
    ----------
    named : sequence of str
        Folders of studies, or one of `WORDS`; "shipped" may stand beside folders.
    base : Path
        Where relative folders start.

    Returns
    -------
    list of pairs of tables, str or None
        None where nothing is named.
    """
    if not named:
        return None
    if len(named) == 1 and named[0] in WORDS:
        return named[0]
    pairs: Pairs = []
    for name in named:
        if name == "shipped":
            pairs += shipped_evidence()
        else:
            folder = base / Path(name).expanduser()
            pairs.append((load_table(folder, "probes"), load_table(folder, "results")))
    return pairs


def hashes_of(named: Sequence[str], base: Path) -> list[dict[str, str]]:
    """Hashes of the tables in the folders that are named."""
    return [table_hashes(base / Path(name).expanduser()) for name in named if name not in WORDS]


def as_given_pairs(evidence: Iterable[tuple[pd.DataFrame, pd.DataFrame]] | str | None) -> Pairs:
    """The pairs that evidence stands for."""
    if isinstance(evidence, str):
        must_be_one_of(evidence, WORDS, "evidence")
        return shipped_evidence() if evidence == "shipped" else []
    return [] if evidence is None else list(evidence)
