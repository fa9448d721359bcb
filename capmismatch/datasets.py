"""Data sets by name, with stable example ids, class names, and a fixed split.

`load_dataset` takes ``"letters"`` (UCI Letter Recognition, shipped inside the package), ``"npz:FILE"``, or any map-style
torch data set handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.bank import SPLITS, Rows, make_rows
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
        inputs = self.inputs[index]
        parts = self.rows.split[index] if split is None else np.full(len(index), split)
        new = make_rows(
            name or self.name, self.labels[index], self.classes, ids=self.rows.ids[index], split=parts,
            inputs_hash=_inputs_hash(inputs),
        )
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
        split : part -> how many rows, or which share of all rows (a float up to 1); rows left over are dropped
        seed : of the shuffle

        Examples
        --------
        >>> load_dataset("letters").resplit({"val": 0.25, "test": 1000})
        Dataset('letters': 6000 examples, 26 classes, 5000 val, 1000 test)
        """
        counts = {}
        for part, size in split.items():
            must_be_one_of(part, SPLITS, "split")
            whole = isinstance(size, int) and not isinstance(size, bool)
            counts[part] = int(size) if whole else round(float(size) * len(self))
            if counts[part] <= 0 or (not whole and size > 1):
                raise InputError(f"expected a positive count or a share up to 1.0 for split {part!r}, got {size!r}")
        if sum(counts.values()) > len(self):
            raise InputError(f"the splits {counts} need {sum(counts.values())} rows, data set {self.name!r} has {len(self)}")
        order = _stratified_order(self.labels, seed)
        index, parts, start = [], [], 0
        for part, count in counts.items():
            chosen = np.sort(order[start : start + count])
            index.append(chosen)
            parts.append(np.full(count, part))
            start += count
        taken = self.take(np.concatenate(index))
        return replace(taken, rows=make_rows(
            self.name, taken.labels, self.classes, ids=taken.rows.ids, split=np.concatenate(parts),
            inputs_hash=_inputs_hash(taken.inputs),
        ))


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
    source : "letters", "npz:FILE", or a map-style torch data set of (input, label) pairs. The npz holds ``labels`` (N,),
        one of ``inputs``, ``images``, ``X`` (N, ...), and optionally ``classes``, ``ids``, ``split``.
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
            path = Path(base, rest).expanduser()
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
    with open_npz(path) as file:
        names = list(file)
        key = next((key for key in INPUT_NAMES if key in names), None)
        if key is None or "labels" not in names:
            raise InputError(f"expected arrays 'labels' and one of {list(INPUT_NAMES)} in {path}, got {names}")
        inputs, labels = file[key], file["labels"]
        given = classes if classes is not None else file["classes"].tolist() if "classes" in names else None
        ids = file["ids"] if "ids" in names else None
        split = file["split"] if "split" in names else None
    if len(inputs) != len(labels):
        raise InputError(f"expected as many inputs as labels in {path}, got {len(inputs)} and {len(labels)}")
    return _dataset(inputs, labels, given, name, ids, split, str(path))


def open_npz(path: Path) -> Any:
    """Open an .npz without pickle, with an error that names the file."""
    if not path.exists():
        raise InputError(f"there is no file {path}")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable .npz: {error}") from None


def _from_map_style(source: Any, name: str, classes: Sequence[str] | None) -> Dataset:
    labels = getattr(source, "targets", None)
    if labels is None or len(labels) != len(source):
        labels = [int(source[i][1]) for i in range(len(source))]
    given = classes if classes is not None else getattr(source, "classes", None)
    return _dataset(_MapInputs(source), np.asarray(labels), given, name, None, None, name)


class _MapInputs:
    """Inputs of a map-style data set, fetched when asked for."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return np.stack([np.asarray(self.source[int(row)][0]) for row in np.atleast_1d(np.asarray(rows))])


def _dataset(inputs: Any, labels: Any, classes: Any, name: str, ids: Any, split: Any, place: str) -> Dataset:
    labels = np.asarray(labels)
    if classes is None:
        classes = [str(c) for c in range(int(labels.max()) + 1 if len(labels) else 0)]
    rows = make_rows(
        name, labels, classes, ids=ids, split=split, inputs_hash=_inputs_hash(inputs), place=f"labels of {place}"
    )
    return Dataset(rows, inputs)


def _inputs_hash(inputs: Any) -> str:
    """Hash of the inputs: all of an array, or of 64 evenly spaced rows of a data set that has to fetch each."""
    array = inputs if isinstance(inputs, np.ndarray) else inputs[np.unique(np.linspace(0, len(inputs) - 1, 64).astype(int))]
    digest = hashlib.sha256(f"{len(inputs)} {array.dtype} {array.shape[1:]}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
