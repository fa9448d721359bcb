"""Data sets by name, with stable example ids, class names, and a fixed split.

`load_dataset` takes ``"letters"`` (UCI Letter Recognition, shipped inside the package), ``"npz:FILE"``, image folders,
torchvision's and Hugging Face's data sets, or any map-style torch data set handed in.
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

from capmismatch.data.dataset_readers import RawDataset, read_folder, read_huggingface, read_map_style, read_torchvision
from capmismatch.data.lazy_inputs import LazyInputs, as_array
from capmismatch.data.rows import SPLITS, Rows, make_rows, stratified_order
from capmismatch.errors import InputError, must_be_one_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and what is known of each row.

    Attributes
    ----------
    rows : labels, ids, splits, class names, fingerprint
    inputs : (N, ...) array; or `LazyInputs`, whose ``inputs[rows]`` is such an array, or a list of PIL images where
        they differ in size
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
        inputs = self.inputs.take(index) if isinstance(self.inputs, LazyInputs) else self.inputs[index]
        new = make_rows(
            name or self.name,
            self.labels[index],
            self.classes,
            ids=self.rows.ids[index],
            split=split,
            inputs_hash=_inputs_hash(inputs),
            place=f"labels of {self.name}",
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
        order = stratified_order(self.labels, seed)
        ends = np.cumsum(list(counts.values()))
        index = [np.sort(part) for part in np.split(order[: ends[-1]], ends[:-1])]
        return self._taken(np.concatenate(index), np.repeat(list(counts), list(counts.values())))


def load_dataset(
    source: Any,
    *,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    root: str | Path | None = None,
    download: bool = False,
    base: str | Path = ".",
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    source : one of

        * ``"letters"``
        * ``"npz:FILE"``: holds ``labels`` (N,), one of ``inputs``, ``images``, ``X`` (N, ...), and optionally
          ``classes``, ``ids``, ``split``
        * ``"folder:PATH"``: one folder of images a class, such as ImageNet's validation folder, perhaps below
          ``train``, ``val``, ``test``. Example ids are paths below PATH; images may differ in size.
        * ``"torchvision:CIFAR10"`` (its train and test part), ``"torchvision:FashionMNIST/test"``, ...
        * ``"hf:OWNER/NAME"``, ``"hf:FOLDER"``, ``"hf:OWNER/NAME#validation"``: an image classification set of the
          ``datasets`` library
        * a map-style torch data set of (input, label) pairs

    split : as in `Dataset.resplit`; by default the source's own split, or all rows "val"
    seed : of that split
    classes : class names, where the source has none; numbers by default
    name : to be shown; by default the file's stem
    root : folder that holds torchvision's data sets; by default `base`
    download : whether torchvision may download what is missing
    base : folder that relative paths start from

    Examples
    --------
    >>> load_dataset("letters", split={"train": 2000, "val": 6000, "test": 12000})
    Dataset('letters': 20000 examples, 26 classes, 2000 train, 6000 val, 12000 test)
    """
    if isinstance(source, str):
        found, own = _read(source, Path(base), root, download)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        own = type(source).__name__
        found = read_map_style(source, name or own)
    else:
        raise InputError(f"expected {KINDS} or a map-style torch data set, got {type(source).__name__}")
    data = _dataset(found, found.classes if classes is None else classes, name or found.name or own, str(source))
    return data if split is None else data.resplit(split, seed)


KINDS = "'letters', 'npz:FILE', 'folder:PATH', 'torchvision:NAME', 'hf:NAME'"


def _read(source: str, base: Path, root: str | Path | None, download: bool) -> tuple[RawDataset, str]:
    """What lies at a source, and its name."""
    kind, _, rest = source.partition(":")
    if kind == "letters" and not rest:
        with resources.as_file(resources.files("capmismatch") / "embedded" / "letters.npz") as file:
            return _read_npz(file), "letters"
    path = Path(base, Path(rest).expanduser())
    if kind == "npz" and rest:
        return _read_npz(path), path.stem
    if kind == "folder" and rest:
        return read_folder(path), path.resolve().name
    if kind == "torchvision" and rest:
        return read_torchvision(rest, Path(base, Path(root or ".").expanduser()), download), rest
    if kind == "hf" and rest:
        return read_huggingface(rest, base), rest
    raise InputError(f"expected a data set like {KINDS}, got {source!r}")


INPUT_NAMES = ("inputs", "images", "X")


def _read_npz(path: Path) -> RawDataset:
    found = read_npz(path, lambda key: key in (*INPUT_NAMES, "labels", "classes", "ids", "split"))
    key = next((key for key in INPUT_NAMES if key in found), None)
    if key is None or "labels" not in found:
        raise InputError(f"expected arrays 'labels' and one of {list(INPUT_NAMES)} in {path}, got {sorted(found)}")
    inputs, labels = found[key], found["labels"]
    if len(inputs) != len(labels):
        raise InputError(f"expected as many inputs as labels in {path}, got {len(inputs)} and {len(labels)}")
    return RawDataset(inputs, labels, found.get("classes"), found.get("ids"), found.get("split"))


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


def _dataset(found: RawDataset, classes: Any, name: str, place: str) -> Dataset:
    labels = np.asarray(found.labels)
    if classes is None:
        largest = np.nanmax(labels) if labels.size and labels.dtype.kind in "iuf" else 1
        classes = [str(c) for c in range(int(largest) + 1)]
    rows = make_rows(
        name,
        labels,
        classes,
        ids=found.ids,
        split=found.split,
        inputs_hash=_inputs_hash(found.inputs),
        place=f"labels of {place}",
    )
    return Dataset(rows, found.inputs)


def _inputs_hash(inputs: Any) -> str:
    """Hash of the inputs: all of an array; of lazy ones 64 evenly spaced rows, and what is known of all of them."""
    if isinstance(inputs, np.ndarray):
        return _array_hash(inputs, len(inputs)).hexdigest()
    spread = np.unique(np.linspace(0, len(inputs) - 1, 64).astype(int)) if len(inputs) else np.arange(0)
    part = inputs[spread]
    if isinstance(part, list):
        digest = hashlib.sha256(f"{len(inputs)} images".encode())
        for image in part:
            digest.update(_array_hash(as_array(image), 1).digest())
    else:
        digest = _array_hash(part, len(inputs))
    if isinstance(inputs, LazyInputs) and inputs.stamp is not None:
        digest.update("\0".join(inputs.stamp(row) for row in inputs.rows.tolist()).encode())
    return digest.hexdigest()


def _array_hash(array: NDArray[Any], count: int) -> Any:
    digest = hashlib.sha256(f"{count} {array.dtype} {array.shape[1:]}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest
