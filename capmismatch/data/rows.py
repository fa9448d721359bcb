"""The examples of a data set or bank in order: labels, ids, splits, class names, and the checks that they must pass."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capmismatch.data.class_names import numbered
from capmismatch.errors import InputError, must_be_one_of

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples of a bank, in order; make them with `make_rows`, which checks them.

    Attributes
    ----------
    name : str
        Of the data set.
    labels : ndarray of shape (N,), int64
        Class of each example, in [0, C).
    ids : ndarray of shape (N,), str
        One per example, unique.
    split : ndarray of shape (N,), str
        "train", "val" or "test" for each example.
    classes : tuple of str
        The C names, in the order of the logits' columns.
    inputs_hash : str
        Of the inputs.
    fingerprint : str
        Of the whole data set: inputs, labels, ids, splits, classes; not of its name.
    """

    name: str
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    inputs_hash: str = ""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    @property
    def split_counts(self) -> dict[str, int]:
        """How many examples each split has; splits without any are left out."""
        counts = {name: int((self.split == name).sum()) for name in SPLITS}
        return {name: count for name, count in counts.items() if count}

    def select(self, split: str | None) -> NDArray[np.int64]:
        """Row numbers of a split, or of all rows with None."""
        if split is None:
            return np.arange(len(self.labels))
        must_be_one_of(split, self.split_counts, "split")
        return np.flatnonzero(self.split == split)


def make_rows(
    name: str,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    ids: ArrayLike | None = None,
    split: ArrayLike | None = None,
    inputs_hash: str = "",
    place: str = "labels",
) -> Rows:
    """Check labels, ids, splits and class names against each other, and put a fingerprint on them.

    Parameters
    ----------
    name : str
        Name of the data set.
    labels : array_like of shape (N,)
        Whole numbers in [0, C).
    classes : sequence of str
        The C class names; those that stand twice are numbered, with a warning.
    ids : array_like of shape (N,), optional
        Example ids, unique; row numbers by default.
    split : array_like of shape (N,), optional
        "train", "val" or "test" for each example; all "val" by default.
    inputs_hash : str
        Hash of the inputs; part of the fingerprint.
    place : str
        What the labels are called in messages.

    Returns
    -------
    Rows
        The checked examples.

    Raises
    ------
    InputError
        Names the first row, class, id or split that does not fit.

    Examples
    --------
    >>> make_rows("pets", [0, 1, 1], ["cat", "dog"], split=["val", "val", "test"]).split_counts
    {'val': 2, 'test': 1}
    """
    class_names = _checked_classes(classes, place)
    checked_labels = _checked_labels(labels, len(class_names), place)
    count = len(checked_labels)
    return Rows(
        name,
        checked_labels,
        np.arange(count).astype(str) if ids is None else _checked_ids(ids, count, place),
        np.full(count, "val") if split is None else _checked_split(split, count, place),
        class_names,
        inputs_hash,
    )


def _checked_classes(classes: Sequence[str], place: str) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes)
    if len(names) < 2:
        raise InputError(f"expected at least 2 classes, got {len(names)} ({', '.join(names)}) for {place}")
    distinct = numbered(names)
    if distinct != names:
        twice = sorted({name for name, unique in zip(names, distinct, strict=True) if name != unique})
        warnings.warn(
            f"class names stand twice for {place}, and were numbered from the second on: {twice}", stacklevel=4
        )
    return distinct


def _checked_labels(labels: ArrayLike, classes: int, place: str) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"expected {place} of shape (N,) with N > 0, got shape {array.shape}")
    if array.dtype.kind not in "iufb":
        raise InputError(f"expected whole numbers as {place}, got {array[0]!r} at row 0")
    wrong_rows = np.flatnonzero(~((array >= 0) & (array < classes) & (array == np.floor(array))))
    if len(wrong_rows):
        row = wrong_rows[0]
        raise InputError(f"expected labels in [0, {classes}), got {array[row]} at row {row} of {place}")
    return array.astype(np.int64)


def _checked_ids(ids: ArrayLike, count: int, place: str) -> NDArray[np.str_]:
    array = np.asarray(ids).astype(str)
    if array.shape != (count,):
        raise InputError(f"expected {count} ids, one per example, got shape {array.shape} for {place}")
    unique, uses = np.unique(array, return_counts=True)
    if len(unique) != count:
        raise InputError(f"expected unique ids, got {str(unique[uses > 1][0])!r} more than once for {place}")
    return array


def _checked_split(split: ArrayLike, count: int, place: str) -> NDArray[np.str_]:
    array = np.asarray(split).astype(str)
    if array.shape != (count,):
        raise InputError(f"expected {count} split names, got shape {array.shape} for {place}")
    for name in np.unique(array):
        must_be_one_of(str(name), SPLITS, f"split of {place}")
    return array


def _fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256()
    for text in (rows.inputs_hash, "\0".join(rows.classes), "\0".join(rows.ids), "\0".join(rows.split)):
        digest.update(text.encode())
        digest.update(b"\1")
    digest.update(rows.labels.tobytes())
    return digest.hexdigest()


def stratified_order(labels: NDArray[Any], seed: int) -> NDArray[Any]:
    """An order of the rows of which every stretch holds the classes in about the same shares as the whole."""
    generator = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(position, kind="stable")


def check_logits(logits: NDArray[Any], rows: Rows, place: str) -> None:
    """Raise unless `logits` are finite and of shape (N, C) for these rows."""
    expected = (len(rows.labels), len(rows.classes))
    if logits.ndim != 2 or logits.shape[0] != expected[0]:
        raise InputError(f"expected logits of shape {expected}, got {logits.shape} from {place}")
    if logits.shape[1] != expected[1]:
        raise InputError(f"expected {expected[1]} classes, got {logits.shape[1]} from {place}")
    check_finite(logits, place)


def check_finite(logits: NDArray[Any], place: str, first_row: int = 0) -> None:
    """Raise at the first NaN or infinite logit, naming its row (counted from `first_row`) and class."""
    wrong = np.argwhere(~np.isfinite(logits))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"expected finite logits, got {logits[row, column]} at row {row + first_row}, class {column} of {place}"
        )
