"""Data sets by name, with stable example ids, class names, and a fixed split.

`load_dataset` takes ``"letters"`` (UCI Letter Recognition, shipped inside the package), ``"npz:FILE"``, or any
map-style torch data set handed in.
"""

from __future__ import annotations

import hashlib
import numbers
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._records import SPLITS, Rows, make_rows
from capmismatch.errors import InputError, must_be_one_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and what is known of each row.

    Attributes
    ----------
    rows : labels, ids, splits, class names, fingerprint
    inputs : (N, ...) array, or anything with ``len`` and ``inputs[row_numbers]`` giving such an array
    """

    rows: Rows
    inputs: Any

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.rows.name

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return self.rows.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.rows.classes

    def __len__(self) -> int:
        return len(self.rows.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{int((self.rows.split == s).sum())} {s}" for s in SPLITS if (self.rows.split == s).any())
        return f"Dataset({self.name!r}: {len(self)} examples, {len(self.classes)} classes, {counts})"

    def take(self, rows: NDArray[Any], split: str | None = None, name: str | None = None) -> Dataset:
        """The given rows, in the given order, keeping their ids; `split` renames the split of all of them."""
        index = np.asarray(rows)
        return self._taken(index, self.rows.split[index] if split is None else np.full(len(index), split), name)

    def _taken(self, index: NDArray[Any], split: NDArray[Any], name: str | None = None) -> Dataset:
        inputs = self.inputs[index]
        new = make_rows(
            name or self.name, self.labels[index], self.classes, ids=self.rows.ids[index], split=split,
            inputs_hash=_inputs_hash(inputs), place=f"labels of {self.name}",
        )  # fmt: skip
        return Dataset(new, inputs)

    def part(self, split: str) -> Dataset:
        """The rows of one split."""
        present = [name for name in SPLITS if (self.rows.split == name).any()]
        must_be_one_of(split, present, "split")
        return self.take(np.flatnonzero(self.rows.split == split))

    def with_inputs(self, inputs: NDArray[Any], name: str) -> Dataset:
        """The same rows seen through other inputs: a stored view."""
        rows = make_rows(
            name, self.labels, self.classes, ids=self.rows.ids, split=self.rows.split, inputs_hash=_inputs_hash(inputs)
        )
        return Dataset(rows, inputs)

    def resplit(self, split: Mapping[str, float], seed: int = 0) -> Dataset:
        """Split anew into "train", "val", "test", stratified by class, by a fixed seed.

        Parameters
        ----------
        split : part -> how many rows (a whole number), or which share of all rows (a float up to 1); rows left over
            are dropped
        seed : of the shuffle

        Examples
        --------
        >>> load_dataset("letters").resplit({"val": 0.25, "test": 1000})
        Dataset('letters': 6000 examples, 26 classes, 5000 val, 1000 test)
        """
        counts: dict[str, int] = {}
        shared = 0.0  # shares are rounded at their borders, so that shares that sum to 1 use every row once
        for part, size in split.items():
            must_be_one_of(part, SPLITS, "split")
            if isinstance(size, numbers.Integral) and not isinstance(size, bool) and size > 0:
                counts[part] = int(size)
            elif isinstance(size, float) and 0 < size <= 1:
                counts[part] = round((shared + size) * len(self)) - round(shared * len(self))
                shared += size
            else:
                raise InputError(f"expected a positive count or a share up to 1.0 for split {part!r}, got {size!r}")
            if counts[part] == 0:
                raise InputError(f"split {part!r} = {size!r} of the {len(self)} rows of data set {self.name!r} is none")
        if not counts:
            raise InputError(f"expected at least one split of {list(SPLITS)}, got none")
        needed = sum(counts.values())
        if needed > len(self):
            raise InputError(f"the splits {counts} need {needed} rows, data set {self.name!r} has {len(self)}")
        order = _stratified_order(self.labels, seed)
        ends = np.cumsum(list(counts.values()))
        index = [np.sort(part) for part in np.split(order[: ends[-1]], ends[:-1])]
        return self._taken(np.concatenate(index), np.repeat(list(counts), list(counts.values())))


def _stratified_order(labels: NDArray[Any], seed: int) -> NDArray[Any]:
    """An order of the rows of which every stretch holds the classes in about the same shares as the whole."""
    generator = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(position, kind="stable")


def load_dataset(
    source: Any,
    *,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    base: str | Path = ".",
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    source : "letters", "npz:FILE", or a map-style torch data set of (input, label) pairs. The npz holds ``labels``
        (N,), one of ``inputs``, ``images``, ``X`` (N, ...), and optionally ``classes``, ``ids``, ``split``.
    split : as in `Dataset.resplit`; by default the source's own split, or all rows "val"
    seed : of that split
    classes : class names, where the source has none; numbers by default
    name : to be shown; by default the file's stem
    base : folder that relative paths start from

    Examples
    --------
    >>> load_dataset("letters", split={"train": 2000, "val": 6000, "test": 12000})
    Dataset('letters': 20000 examples, 26 classes, 2000 train, 6000 val, 12000 test)
    """
    if isinstance(source, str):
        kind, _, rest = source.partition(":")
        if kind == "letters" and not rest:
            with resources.as_file(resources.files("capmismatch") / "embedded" / "letters.npz") as file:
                found = _from_npz(file, name or "letters", classes)
        elif kind == "npz" and rest:
            path = Path(base, Path(rest).expanduser())
            found = _from_npz(path, name or path.stem, classes)
        else:
            raise InputError(f"expected a data set like 'letters' or 'npz:FILE', got {source!r}")
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        found = _from_map_style(source, name or type(source).__name__, classes)
    else:
        raise InputError(f"expected 'letters', 'npz:FILE' or a map-style torch data set, got {type(source).__name__}")
    return found if split is None else found.resplit(split, seed)


INPUT_NAMES = ("inputs", "images", "X")


def _from_npz(path: Path, name: str, classes: Sequence[str] | None) -> Dataset:
    found = read_npz(path, lambda key: key in (*INPUT_NAMES, "labels", "classes", "ids", "split"))
    key = next((key for key in INPUT_NAMES if key in found), None)
    if key is None or "labels" not in found:
        raise InputError(f"expected arrays 'labels' and one of {list(INPUT_NAMES)} in {path}, got {sorted(found)}")
    inputs, labels = found[key], found["labels"]
    if len(inputs) != len(labels):
        raise InputError(f"expected as many inputs as labels in {path}, got {len(inputs)} and {len(labels)}")
    given = found.get("classes") if classes is None else classes
    return _dataset(inputs, labels, given, name, found.get("ids"), found.get("split"), str(path))


def read_npz(path: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """The wanted arrays of an .npz, read without pickle, with errors that name the file."""
    if not path.exists():
        raise InputError(f"there is no file {path}")
    name = ""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it holds a single array")
        found = {}
        with file:
            for name in filter(wanted, file.files):
                found[name] = file[name]
        return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if name and "allow_pickle" in str(error):
            raise InputError(
                f"array {name!r} of {path} holds Python objects that only pickle could read, which capmismatch does "
                "not: save numbers or strings"
            ) from None
        raise InputError(f"{path} is not a readable .npz: {error}") from None


def _from_map_style(source: Any, name: str, classes: Sequence[str] | None) -> Dataset:
    labels = getattr(source, "targets", None)
    # `targets` are the labels before `target_transform`: then only the pairs themselves tell what the label is.
    if labels is None or len(labels) != len(source) or getattr(source, "target_transform", None) is not None:
        labels = [int(source[i][1]) for i in range(len(source))]
    given = classes if classes is not None else getattr(source, "classes", None)
    return _dataset(_MapInputs(source, name), np.asarray(labels), given, name, None, None, name)


class _MapInputs:
    """Inputs of a map-style data set, fetched when asked for."""

    def __init__(self, source: Any, name: str) -> None:
        self.source, self.name = source, name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        arrays = [np.asarray(self.source[int(row)][0]) for row in numbers]
        odd = next((i for i, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
        if odd is not None:
            raise InputError(
                f"expected inputs of one shape in {self.name}, got {arrays[0].shape} at row {numbers[0]} and "
                f"{arrays[odd].shape} at row {numbers[odd]}: resize them in the data set"
            )
        return np.stack(arrays)


def _dataset(inputs: Any, labels: Any, classes: Any, name: str, ids: Any, split: Any, place: str) -> Dataset:
    labels = np.asarray(labels)
    if classes is None:
        largest = np.nanmax(labels) if labels.size and labels.dtype.kind in "iuf" else 1
        classes = [str(c) for c in range(int(largest) + 1)]
    rows = make_rows(
        name, labels, classes, ids=ids, split=split, inputs_hash=_inputs_hash(inputs), place=f"labels of {place}"
    )
    return Dataset(rows, inputs)


def _inputs_hash(inputs: Any) -> str:
    """Hash of the inputs: all of an array, or of 64 evenly spaced rows of a data set that has to fetch each."""
    spread = np.unique(np.linspace(0, len(inputs) - 1, 64).astype(int)) if len(inputs) else np.arange(0)
    array = inputs if isinstance(inputs, np.ndarray) else inputs[spread]
    digest = hashlib.sha256(f"{len(inputs)} {array.dtype} {array.shape[1:]}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
