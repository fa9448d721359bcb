"""The examples of a data set or bank in order: labels, ids, splits, class names, and the checks that they must pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capmismatch.errors import InputError, must_be_one_of

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples of a bank, in order.

    Attributes
    ----------
    name : of the data set
    labels : (N,) int64
    ids : (N,) str, unique
    split : (N,) str, "train", "val" or "test"
    classes : names, in the order of the logits' columns
    inputs_hash : of the inputs
    fingerprint : of the whole data set: inputs, labels, ids, splits, classes
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
    """Check labels, ids, splits and class names against each other, and put a fingerprint on them."""
    y = np.asarray(labels)
    if y.ndim != 1 or len(y) == 0:
        raise InputError(f"expected {place} of shape (N,) with N > 0, got shape {y.shape}")
    if y.dtype.kind not in "iufb":
        raise InputError(f"expected whole numbers as {place}, got {y[0]!r} at row 0")
    names = tuple(str(c) for c in classes)
    if len(names) < 2:
        raise InputError(f"expected at least 2 classes, got {len(names)} ({', '.join(names)}) for {place}")
    if len(set(names)) != len(names):
        double = next(c for c in names if names.count(c) > 1)
        raise InputError(f"expected distinct class names, got {double!r} twice for {place}")
    bad = np.flatnonzero(~((y >= 0) & (y < len(names)) & (y == np.floor(y))))
    if len(bad):
        raise InputError(f"expected labels in [0, {len(names)}), got {y[bad[0]]} at row {bad[0]} of {place}")
    identity = np.arange(len(y)).astype(str) if ids is None else np.asarray(ids).astype(str)
    if identity.shape != y.shape:
        raise InputError(f"expected {len(y)} ids, one an example, got shape {identity.shape} for {place}")
    unique, count = np.unique(identity, return_counts=True)
    if len(unique) != len(identity):
        raise InputError(f"expected unique ids, got {str(unique[count > 1][0])!r} more than once for {place}")
    parts = np.full(len(y), "val") if split is None else np.asarray(split).astype(str)
    if parts.shape != y.shape:
        raise InputError(f"expected {len(y)} split names, got shape {parts.shape} for {place}")
    for part in np.unique(parts):
        must_be_one_of(str(part), SPLITS, f"split of {place}")
    return Rows(name, y.astype(np.int64), identity, parts, names, inputs_hash)


def _fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256()
    for piece in (rows.inputs_hash, "\0".join(rows.classes), "\0".join(rows.ids), "\0".join(rows.split)):
        digest.update(piece.encode())
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
    """Raise at the first NaN or infinite logit, naming its row and class."""
    bad = np.argwhere(~np.isfinite(logits))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"expected finite logits, got {logits[row, column]} at row {row + first_row}, class {column} of {place}"
        )
