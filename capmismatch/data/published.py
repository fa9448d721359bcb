"""Published results of teachers and students: figures of tables that others printed, each with its source."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import resources

import pandas as pd

from capmismatch.errors import InputError, must_be_one_of

KINDS = ("table", "digitised", "runs")
FILTERS = ("paper", "dataset", "student", "teacher", "method")


def load_published(
    kind: str = "table",
    *,
    paper: str | Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    student: str | Iterable[str] | None = None,
    teacher: str | Iterable[str] | None = None,
    method: str | Iterable[str] | None = None,
    copies: bool = False,
) -> pd.DataFrame:
    """Load published accuracies of distilled students, with the teachers' accuracy and size where they are known.

    Parameters
    ----------
    kind : str, default "table"
        "table": figures of printed tables. "digitised": read off bar charts, to about 0.0002. "runs": single runs with
        their seeds of one study of the capacity gap, in the columns of a results table.
    paper, dataset, student, teacher, method : str or iterable of str, optional
        Keep these alone. Patterns such as "Tian*" are understood; capitals do not count.
    copies : bool, default False
        Whether to keep rows whose figure equals one of an earlier table, and was likely copied from it.

    Returns
    -------
    DataFrame
        For the first two kinds, one row per figure, with the columns

        * ``paper``, ``table``: where it is printed
        * ``dataset``, ``student``, ``teacher``: names as printed; no teacher in rows of plain training, method "CE"
        * ``params``, ``teacher_accuracy``: of the teacher; NaN where unknown
        * ``method``: as printed
        * ``accuracy``: of the student, a share in [0, 1]
        * ``seeds``: how many runs it is a mean over; NaN where the source does not say
        * ``copied``: whether the figure was likely copied from another table
        * ``source``: address at which it was read
        * ``note``: what else is to be known

        For "runs" the columns of `load_results`, with ``dataset``, ``stage`` and ``source``.

    Raises
    ------
    InputError
        An unknown kind, a column to filter by that it lacks, or a filter that no row passes; the message lists the
        choices.

    See Also
    --------
    load_results : Results of your own.

    Notes
    -----
    Facts, not text: cite the paper, not this table. Recipes differ between tables, so compare teachers within one
    table, data set, student and method alone.

    Examples
    --------
    >>> rows = load_published(dataset="CIFAR-100", method="KD", paper="Tian*")
    >>> rows["accuracy"].between(0, 1).all(), rows["source"].str.startswith("https://").all()
    (np.True_, np.True_)
    """
    must_be_one_of(kind, KINDS, "kind")
    name = "published_runs.csv" if kind == "runs" else "published.csv"
    with (resources.files("capmismatch") / "embedded" / name).open(encoding="utf-8") as file:
        frame = pd.read_csv(
            file,
            keep_default_na=False,
            na_values={c: [""] for c in ("params", "seeds", "tau", "weight")} | {"teacher_accuracy": [""]},
        )
    if kind != "runs":
        frame = frame[frame["kind"].eq(kind) & (copies | ~frame["copied"])].drop(columns="kind")
    for column, wanted in zip(FILTERS, (paper, dataset, student, teacher, method), strict=True):
        if wanted is not None:
            frame = _filtered(frame, column, [wanted] if isinstance(wanted, str) else list(wanted))
    return frame.reset_index(drop=True)


def _filtered(frame: pd.DataFrame, column: str, patterns: list[str]) -> pd.DataFrame:
    """The rows in which a column matches one of some patterns."""
    if column not in frame:
        raise InputError(f"published runs have no column {column!r} to filter by; they have {list(frame.columns)}")
    lower = [pattern.lower() for pattern in patterns]
    names = sorted(set(frame[column]))
    fitting = {name for name in names if any(fnmatchcase(name.lower(), pattern) for pattern in lower)}
    if not fitting:
        raise InputError(f"no published result has the {column} {' or '.join(map(repr, patterns))}; there are {names}")
    return frame[frame[column].isin(fitting)]
