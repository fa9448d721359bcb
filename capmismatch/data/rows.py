"""The examples of a data set or bank in order: labels, ids, splits, class names, and the checks that they must pass."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capmismatch._numerics.plain_arrays import at, plain_array
from capmismatch.data.class_names import listed, numbered
from capmismatch.errors import InputError, must_be_one_of

SPLITS = ("train", "val", "test")

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits, in lower case, and the split that each is."""

LARGEST_LOGIT = 1e30
"""Beyond it no network's logits lie, but the stand-ins for "not among the top k" do: the least number of a type."""


def part_of(name: str) -> str | None:
    """The split that a folder, a table or a row is by its name, in any case; None for other names.

    Examples
    --------
    >>> part_of("Valid"), part_of("cats")
    ('val', None)
    """
    return PARTS.get(name.strip().casefold())


def must_be_parts_once(names: Iterable[str], place: str) -> None:
    """Refuse two names of one split, such as "val" and "valid": which rows are meant is not known.

    Raises
    ------
    InputError
        Naming them.

    Examples
    --------
    >>> must_be_parts_once(["train", "Valid", "test"], "photos")
    """
    of_part: dict[str | None, list[str]] = {}
    for name in names:
        of_part.setdefault(part_of(name), []).append(name)
    for part, spelt in of_part.items():
        if len(spelt) > 1:
            raise InputError(f"expected each split once in {place}, got {spelt}, which are all {part!r}")


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
    sequences : ndarray of shape (N,), int64, or None
        Number of the sequence (window, document) that each row is a position of; None where rows are examples of their
        own. Rows of one sequence are alike, so standard errors of means are taken over sequences.
    fingerprint : str
        Of the whole data set: inputs, labels, ids, splits, classes, sequences; not of its name.
    """

    name: str
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    inputs_hash: str = ""
    sequences: NDArray[np.int64] | None = None
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
    sequences: ArrayLike | None = None,
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
        "train", "val" or "test" for each example, or another name of these such as "Valid"; all "val" by default.
    inputs_hash : str
        Hash of the inputs; part of the fingerprint.
    sequences : array_like of shape (N,), optional
        Number of the sequence that each row belongs to, where rows are positions in texts; 0 or more, a sequence in
        one split.
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
    checked_split = np.full(count, "val") if split is None else _checked_split(split, count, place)
    return Rows(
        readable(name, "names of data sets"),
        checked_labels,
        np.arange(count).astype(str) if ids is None else _checked_ids(ids, count, place),
        checked_split,
        class_names,
        inputs_hash,
        None if sequences is None else _checked_sequences(sequences, checked_split, place),
    )


def label_array(labels: Any, place: str) -> NDArray[Any]:
    """Labels (N,) of whole numbers, 0 or more, as any source has them; their largest value is not yet checked.

    Parameters
    ----------
    labels : Any
        An array, tensor or list. (N, 1), as MedMNIST has them, are taken as (N,); floats that are whole, too.
    place : str
        What the labels are called in messages.

    Returns
    -------
    ndarray of shape (N,)
        As handed in, but for byte order and type.

    Raises
    ------
    InputError
        Where a label is text, missing or no whole number, or the shape is another one; the message names the row.

    Examples
    --------
    >>> label_array([[2], [0]], "labels").tolist()
    [2, 0]
    """
    array = plain_array(labels, place, "whole numbers")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) == 0:
        is_one_hot = array.ndim == 2 and len(array) > 0 and bool((((array == 0) | (array == 1)).all(1)).all())
        advice = "; of one-hot labels give labels.argmax(1), several labels an example are not supported"
        raise InputError(
            f"expected {place} of shape (N,) with N > 0, got shape {array.shape}{advice if is_one_hot else ''}"
        )
    whole = np.isfinite(array) & (array == np.floor(array)) if array.dtype.kind == "f" else np.ones(len(array), bool)
    if not whole.all():
        row = int(np.argmin(whole))
        raise InputError(f"expected whole numbers as {place}, got {array[row]} at row {row}")
    return array


def numbered_classes(labels: NDArray[Any], place: str) -> list[str]:
    """The names "0" to "C-1" for labels whose classes nobody has named.

    A label that stands alone far above all others, or classes of which hardly any has an example, are no classes but a
    mark for missing labels (255, 65535, 2^31 - 1, ...): names for all of them would fill the memory.

    Parameters
    ----------
    labels : ndarray of shape (N,)
        From `label_array`.
    place : str
        What the labels are called in messages.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    InputError
        Where the labels can't be numbers of classes.

    Examples
    --------
    >>> numbered_classes(np.array([0, 2]), "labels")
    ['0', '1', '2']
    >>> numbered_classes(np.array([0, 2, 1, 255]), "labels")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected labels that number the classes, got 255 at row 3 of labels, far above ...
    """
    wrong = np.flatnonzero(~(np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels))))
    if len(wrong):
        row, largest = wrong[0], np.max(labels[np.isfinite(labels)], initial=0)
        raise InputError(f"expected labels in [0, {int(largest) + 1}), got {labels[row]} at row {row} of {place}")
    distinct = np.unique(labels)
    largest = int(distinct[-1])
    others_are_complete = len(distinct) > 2 and int(distinct[-2]) == len(distinct) - 2
    is_alone = others_are_complete and largest >= 20 and largest >= 2 * len(distinct)
    if is_alone or (largest >= 1000 and largest >= 20 * len(distinct)):
        row = int(np.flatnonzero(labels == distinct[-1])[0])
        raise InputError(
            f"expected labels that number the classes, got {largest} at row {row} of {place}, far above all "
            f"{len(distinct)} distinct labels: leave out the rows where it stands for a missing label, or give the "
            "names of all classes as classes"
        )
    return [str(number) for number in range(largest + 1)]


def readable(text: Any, place: str) -> str:
    r"""A name or id as text that can be encoded: bytes are read as UTF-8, odd bytes of file names are escaped.

    Examples
    --------
    >>> readable("café".encode(), "classes"), readable("x\udce9.png", "ids"), readable(20, "classes")
    ('café', 'x\\udce9.png', '20')
    >>> readable(float("nan"), "the class names")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected a name, got nan among the class names
    """
    if text is None or type(text).__name__ in ("NAType", "NaTType") or (isinstance(text, float) and text != text):
        raise InputError(f"expected a name, got {text} among {place}")
    if isinstance(text, bytes):
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise InputError(f"expected text in UTF-8, got the bytes {text!r} among {place}") from None
    return str(text).encode("utf-8", "backslashreplace").decode()


def _texts(values: Any, place: str) -> NDArray[np.str_]:
    """Ids or names of splits as an array of text."""
    try:
        array = np.asarray([readable(value, place) for value in values] if isinstance(values, list) else values)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a list of text as {place}, got {type(values).__name__}: {error}") from None
    if array.dtype.kind not in "SO" and not _has_surrogates(array):
        return array.astype(str)
    texts = [readable(value, place) for value in array.ravel().tolist()]
    return np.array(texts, dtype=str).reshape(array.shape)


def _has_surrogates(array: NDArray[Any]) -> bool:
    if array.dtype.kind != "U" or not array.size:
        return False
    codes = np.ascontiguousarray(array).view(np.uint32)
    return bool(((codes >= 0xD800) & (codes < 0xE000)).any())


def _checked_classes(classes: Any, place: str) -> tuple[str, ...]:
    classes = listed(classes, place)
    if isinstance(classes, str | bytes) or not hasattr(classes, "__iter__") or getattr(classes, "ndim", 1) != 1:
        raise InputError(f"expected a list of class names for {place}, got {classes!r}")
    names = tuple(readable(name, f"the class names for {place}") for name in classes)
    blank = next((number for number, name in enumerate(names) if not name.strip()), None)
    if blank is not None:
        raise InputError(f"expected a name, got {names[blank]!r} as class {blank} for {place}")
    if len(names) < 2:
        raise InputError(f"expected at least 2 classes, got {len(names)} ({', '.join(names)}) for {place}")
    distinct = numbered(names)
    if distinct != names:
        twice = sorted({name for name, unique in zip(names, distinct, strict=True) if name != unique})
        warnings.warn(
            f"class names stand twice for {place}, and were numbered from the second on: {twice}", stacklevel=4
        )
    return distinct


def _checked_labels(labels: Any, classes: int, place: str) -> NDArray[np.int64]:
    array = label_array(labels, place)
    wrong_rows = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong_rows):
        row = wrong_rows[0]
        raise InputError(f"expected labels in [0, {classes}), got {array[row]} at row {row} of {place}")
    return array.astype(np.int64)


def _checked_ids(ids: Any, count: int, place: str) -> NDArray[np.str_]:
    array = _texts(ids, f"the ids for {place}")
    if array.shape != (count,):
        raise InputError(f"expected {count} ids, one per example, got shape {array.shape} for {place}")
    unique, uses = np.unique(array, return_counts=True)
    if len(unique) != count:
        raise InputError(f"expected unique ids, got {str(unique[uses > 1][0])!r} more than once for {place}")
    return array


def _checked_split(split: Any, count: int, place: str) -> NDArray[np.str_]:
    array = _texts(split, f"the splits for {place}")
    if array.shape != (count,):
        raise InputError(f"expected {count} split names, got shape {array.shape} for {place}")
    names, name_of_row = np.unique(array, return_inverse=True)
    parts = [part_of(str(name)) for name in names]
    for name, part in zip(names, parts, strict=True):
        if part is None:
            must_be_one_of(str(name), tuple(PARTS), f"split of {place}")
    return array if parts == names.tolist() else np.array(parts, dtype=np.str_)[name_of_row]


def _checked_sequences(sequences: Any, split: NDArray[np.str_], place: str) -> NDArray[np.int64]:
    """Numbers of sequences, each of which lies in one split: its rows know one another."""
    numbers = label_array(sequences, f"the sequences for {place}")
    if numbers.shape != split.shape:
        raise InputError(f"expected {len(split)} sequences, one for each row, got shape {numbers.shape} for {place}")
    wrong_rows = np.flatnonzero(numbers < 0)
    if len(wrong_rows):
        row = wrong_rows[0]
        raise InputError(f"expected numbers of sequences, 0 or more, got {numbers[row]} at row {row} for {place}")
    numbers = numbers.astype(np.int64)
    pairs = np.unique(np.stack([numbers, np.unique(split, return_inverse=True)[1]]), axis=1)
    several = pairs[0][:-1][np.diff(pairs[0]) == 0]
    if len(several):
        raise InputError(f"expected each sequence in one split, got sequence {several[0]} in several for {place}")
    return numbers


def _fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256()
    for text in (rows.inputs_hash, "\0".join(rows.classes), "\0".join(rows.ids), "\0".join(rows.split)):
        digest.update(text.encode())
        digest.update(b"\1")
    digest.update(rows.labels.tobytes())
    if rows.sequences is not None:
        digest.update(b"\1" + rows.sequences.tobytes())
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
    """Raise at the first NaN, infinite or absurdly large logit, naming its row (counted from `first_row`) and class."""
    if not logits.size or (float(logits.max()) <= LARGEST_LOGIT and float(logits.min()) >= -LARGEST_LOGIT):  # no NaN
        return
    row, column = np.argwhere(~(np.abs(logits.astype(np.float64)) <= LARGEST_LOGIT))[0].tolist()
    value, where = logits[row, column], f"{at((row + first_row, column))} of {place}"
    if np.isfinite(value):
        raise InputError(
            f"expected logits up to {LARGEST_LOGIT:g} in size, got {value:g}{where}: stand-ins for the logits of other "
            "than the top k classes cannot be measured, all classes are needed"
        )
    raise InputError(f"expected finite logits, got {value}{where}")
