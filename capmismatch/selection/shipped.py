"""The studies whose probes and results come with the package, as evidence for teachers of one's own."""

from __future__ import annotations

from importlib import resources

import pandas as pd

from capmismatch._utils.setting_labels import with_current_labels

STUDIES = ("letters", "cifar10")


def shipped_evidence() -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Load the probes and the students' results of the studies that come with the package.

    Returns
    -------
    list of (DataFrame, DataFrame)
        The probes and the results table of each study: perceptrons on UCI letters (the embedded study, 8 teachers of
        two runs each), and twelve CIFAR-10 networks of two families that others trained.

    See Also
    --------
    capmismatch.pick : Takes them as ``evidence``.
    capmismatch.meta : Leaves each family out in turn.

    Notes
    -----
    ``data/evidence`` in the repository has the script that made the files, and says how the studies were made.

    Examples
    --------
    >>> [len(probes[["family", "teacher"]].drop_duplicates()) for probes, _ in shipped_evidence()]
    [8, 12]
    """
    return [(_table(study, "probes"), _table(study, "results")) for study in STUDIES]


def _table(study: str, name: str) -> pd.DataFrame:
    with (resources.files("capmismatch") / "embedded" / f"{study}_{name}.parquet").open("rb") as file:
        return with_current_labels(pd.read_parquet(file))
