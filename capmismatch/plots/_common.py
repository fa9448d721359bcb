"""Selecting rows, and the aggregation over runs that a drawing needs. Nothing here draws."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from capmismatch._utils.setting_labels import must_be_a_label, with_current_labels
from capmismatch.errors import InputError, require_columns
from capmismatch.plots._options import note_aliases
from capmismatch.stats.matching import resolve_split
from capmismatch.stats.run_means import mean_over_runs, runs_by_unit


def literal(text: object) -> str:
    r"""Escape a user's text so that matplotlib draws it as it stands, dollar signs and all.

    Examples
    --------
    >>> literal("a_$b$")
    'a_\\$b\\$'
    """
    return str(text).replace("$", r"\$")


def teacher_labels(frame: pd.DataFrame, among: pd.DataFrame | None = None) -> pd.Series:
    """Display label of each row's teacher: its name where that is unique, else ``family/teacher``.

    Parameters
    ----------
    frame : DataFrame
        Has columns ``family`` and ``teacher``.
    among : DataFrame, optional
        The frame in which names must be unique; by default `frame` itself.

    Returns
    -------
    Series of str
        One label per row of `frame`, with its index.

    Examples
    --------
    >>> frame = pd.DataFrame({"family": ["A", "B", "B"], "teacher": ["resnet20", "resnet20", "wrn"]})
    >>> list(teacher_labels(frame))
    ['A/resnet20', 'B/resnet20', 'wrn']
    """
    everyone = (frame if among is None else among)[["family", "teacher"]].drop_duplicates()
    shared = frame["teacher"].isin(everyone["teacher"][everyone["teacher"].duplicated()])
    name = frame["teacher"].astype(str)
    full = frame["family"].astype(str) + "/" + name
    labels = name.where(~shared, full)
    note_aliases({label: (both, alone) for label, both, alone in zip(labels, full, name, strict=True)})
    return labels


def labelled_as(frame: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Rows of the teachers that `reference` has, under the labels it gives them."""
    labels = reference[["family", "teacher", "label"]].drop_duplicates()
    return frame.drop(columns="label", errors="ignore").merge(labels, on=["family", "teacher"])


def listed(values: Any) -> list[Any]:
    """Return the distinct values of a column in order, without NaN, as plain Python objects."""
    distinct = pd.unique(pd.Series(values).dropna()).tolist()
    return sorted(distinct) if all(isinstance(value, int | float) for value in distinct) else distinct


def rows_where(frame: pd.DataFrame, what: str, **values: Any) -> pd.DataFrame:
    """Rows in which each named column has its value, or one of a list of values.

    Raises
    ------
    InputError
        If a column is missing or no row has a value; the message says which values the rows do have.
    """
    require_columns(frame, values, what)
    frame = with_current_labels(frame)
    for column, value in values.items():
        choices = value if isinstance(value, list | tuple) else [value]
        for choice in choices:
            if not _equal(frame[column], choice).any():
                if column == "label":  # one of an earlier version is named
                    must_be_a_label(choice, listed(frame[column]), f"label of {what}")
                raise InputError(f"{what} has no rows with {column} {choice!r}; it has {listed(frame[column])}")
        frame = frame[np.logical_or.reduce([_equal(frame[column], choice) for choice in choices])]
    return frame


def _equal(column: pd.Series, value: Any) -> np.ndarray:
    """Where a column has a value; numbers are compared up to rounding."""
    if isinstance(value, int | float) and pd.api.types.is_numeric_dtype(column):
        return np.isclose(column.to_numpy(float), float(value), rtol=1e-9, atol=0, equal_nan=True)
    return (column == value).to_numpy(bool)


def sole(frame: pd.DataFrame, column: str, what: str, value: Any = None, prefer: Any = None) -> pd.DataFrame:
    """Rows with one value of `column`: `value`, else the only one, else the preferred one.

    Raises
    ------
    InputError
        If the column has several values and none was chosen.
    """
    require_columns(frame, [column], what)
    present = listed(frame[column])
    if value is None and len(present) <= 1:
        return frame
    if value is None and prefer is not None and (preferred := resolve_split(present, prefer, among=None)) in present:
        value = preferred
    if value is None:
        raise InputError(f"{what} has several values of {column}: {present}; choose one with {column}=")
    return rows_where(frame, what, **{column: value})


def probe_rows(
    probes: pd.DataFrame,
    probe: str,
    *,
    tau: float | None = None,
    split: str | None = None,
    what: str = "the probes table",
) -> pd.DataFrame:
    """Rows of one probe at one temperature, with the column ``label``, the teacher's display label, added.

    `tau` is ignored for a probe without temperature and may be left out where there is only one; a `split` left out is
    the only one, or ``"test"`` where there are several.
    """
    require_columns(probes, ["family", "teacher", "seed", "split", "tau", "probe", "value"], what)
    rows = rows_where(sole(probes, "split", what, split, prefer="test"), what, probe=probe)
    if rows["tau"].notna().any():
        rows = sole(rows, "tau", f"{what} for {probe!r}", tau)
    return rows.assign(label=teacher_labels(rows, among=probes))


def probe_taus(probes: pd.DataFrame, probe: str, what: str = "the probes table") -> list[float]:
    """Temperatures at which the table has a probe, in rising order."""
    require_columns(probes, ["tau"], what)
    return listed(rows_where(probes, what, probe=probe)["tau"])


def groups(frame: pd.DataFrame, keys: str | list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Groups of rows in order of first appearance, each with its key (or tuple of keys)."""
    yield from frame.groupby(keys, sort=False, dropna=False)


def over_runs(frame: pd.DataFrame, keys: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean over the runs (seeds) of each group, with the 95 % t interval ``mean ± t * s / sqrt(runs)``.

    Rows count as independent runs. Two runs tell too little for an interval (t is 12.7), so `low` and `high` are NaN
    below three; the figures draw single runs as faint points.

    Returns
    -------
    DataFrame
        The keys, then ``mean, low, high, runs``, groups in order of first appearance.
    """
    table, values = runs_by_unit(frame, keys, value)
    over = mean_over_runs(values)
    half = np.where(over.runs >= 3, over.half_widths, np.nan)
    table = table.assign(mean=over.means, low=over.means - half, high=over.means + half, runs=over.runs)
    return table[table["runs"] > 0].reset_index(drop=True)


def lines_over_runs(
    rows: pd.DataFrame, keys: list[str], value: str = "value"
) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame, pd.DataFrame]]:
    """Split rows into the lines of a figure: for each group, its key, its means along ``x``, and its single runs."""
    means = over_runs(rows, [*keys, "label", "x"], value).sort_values("x", kind="stable")
    tables = dict(groups(means, keys))
    for key, runs in groups(rows, keys):
        if key in tables:  # else no run has a value
            yield key, tables[key].reset_index(drop=True), runs


def ladders(labels: Iterable[str]) -> dict[str, str]:
    """The ladder of each teacher: those whose names differ in one number alone, such as resnet20 and resnet56.

    Of names with several numbers that vary, the one with most values is the step of the ladder. Where no two names of a
    family are alike (small, large) they are one ladder: nothing speaks against it.

    Examples
    --------
    >>> ladders(["resnet8", "resnet20", "wrn16_1", "wrn28_1"])
    {'resnet8': 'resnet#', 'resnet20': 'resnet#', 'wrn16_1': 'wrn#_1', 'wrn28_1': 'wrn#_1'}
    >>> ladders(["small", "large"])
    {'small': '', 'large': ''}
    """
    names = list(dict.fromkeys(map(str, labels)))
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "#", _without_family(name)), []).append(name)
    found: dict[str, str] = {}
    for members in alike.values():
        numbers = np.array([re.findall(r"\d+", _without_family(name)) for name in members])
        if numbers.size == 0:
            found |= {name: name for name in members}
            continue
        step = int(np.argmax([len(set(column)) for column in numbers.T]))
        for name in members:
            alone = _without_family(name)
            place = list(re.finditer(r"\d+", alone))[step]
            found[name] = alone[: place.start()] + "#" + alone[place.end() :]
    if len(set(found.values())) == len(names):
        return dict.fromkeys(names, "")
    return found


def _without_family(label: str) -> str:
    """The teacher's name of a display label."""
    return label.rpartition("/")[2]


def spread_out(values: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the values, the first and the last among them, evenly spaced by position.

    Examples
    --------
    >>> spread_out([1, 2, 3, 4, 5, 6, 7], 4)
    [1, 3, 5, 7]
    """
    if len(values) <= most:
        return list(values)
    return [values[round(index)] for index in np.linspace(0, len(values) - 1, most)]


def families_by_size(frame: pd.DataFrame, by: str = "params") -> dict[str, str]:
    """Family of each teacher (column ``label``), smallest teacher first; in the frame's order without the sizes."""
    family = frame.drop_duplicates("label").set_index("label")["family"]
    order = by_size(frame, by).index if by in frame else family.index
    return {str(label): str(family[label]) for label in order}


def by_size(frame: pd.DataFrame, by: str = "params") -> pd.Series:
    """Size of each teacher (index: the column ``label``), smallest first.

    Where any size is unknown the teachers keep the frame's order and all sizes are NaN: a teacher without a size has
    no honest place on a size axis, and leaving it out would hide it.
    """
    sizes = frame.groupby("label", sort=False)[by].mean()
    return sizes.sort_values(kind="stable") if sizes.notna().all() else sizes * np.nan
