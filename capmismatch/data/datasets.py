"""Data sets by name, with stable example ids, class names, and a fixed split.

`load_dataset` takes ``"letters"`` (UCI Letter Recognition, shipped inside the package), ``"npz:FILE"``, image folders,
torchvision's and Hugging Face's data sets, any map-style torch data set handed in, and texts, whose rows tell the next
token.
"""

from __future__ import annotations

import hashlib
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.data.class_names import numbered, place_in
from capmismatch.data.dataset_readers import (
    Columns,
    RawDataset,
    array_of_part,
    read_folder,
    read_huggingface,
    read_map_style,
    read_parts,
    read_torchvision,
)
from capmismatch.data.handed_in import check_parts, is_pair_of_arrays, join_parts, read_arrays
from capmismatch.data.image_checks import checked_inputs
from capmismatch.data.lazy_inputs import LazyInputs, as_array
from capmismatch.data.npz_files import read_npz
from capmismatch.data.rows import SPLITS, Rows, label_array, make_rows, numbered_classes, stratified_order
from capmismatch.data.text_reader import KJV, TextOptions, read_text
from capmismatch.data.token_inputs import TokenInputs, split_windows
from capmismatch.errors import InputError, must_be_one_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and what is known of each row.

    Attributes
    ----------
    rows : Rows
        Labels, ids, splits, class names, fingerprint.
    inputs : ndarray, LazyInputs or TokenInputs
        Of shape (N, ...); images as uint8 (N, H, W, C). ``inputs[rows]`` of a `LazyInputs` is such an array, or a list
        of PIL images where they differ in size. Those of a text are windows of tokens, and its rows positions in them.
    doubt: str
        In which order trainers would put the classes otherwise, in words; "" where it is given or there is no doubt.
    """

    rows: Rows
    inputs: Any
    doubt: str = ""

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
        splits = ", ".join(f"{count} {name}" for name, count in self.rows.split_counts.items())
        kinds = "tokens" if isinstance(self.inputs, TokenInputs) else "classes"
        return f"Dataset({self.name!r}: {len(self)} examples, {len(self.classes)} {kinds}, {splits})"

    def take(self, rows: NDArray[Any], split: str | None = None, name: str | None = None) -> Dataset:
        """The given rows, in the given order, with their ids; `split` renames the split of all of them."""
        index = np.asarray(rows)
        return self._take(index, self.rows.split[index] if split is None else np.full(len(index), split), name)

    def _take(self, index: NDArray[Any], split: NDArray[Any], name: str | None = None) -> Dataset:
        inputs = self.inputs.take(index) if isinstance(self.inputs, LazyInputs | TokenInputs) else self.inputs[index]
        rows = make_rows(
            name or self.name,
            self.labels[index],
            self.classes,
            ids=self.rows.ids[index],
            split=split,
            inputs_hash=_inputs_hash(inputs),
            sequences=_sequences(inputs),
            place=f"labels of {self.name}",
        )
        return Dataset(rows, inputs, self.doubt)

    def part(self, split: str) -> Dataset:
        """The rows of one split."""
        return self.take(self.rows.select(split))

    def with_inputs(self, inputs: Any, name: str) -> Dataset:
        """The same rows with other inputs, such as a stored view."""
        has_none = isinstance(inputs, np.ndarray) and not inputs.size  # rows of saved logits
        inputs = inputs if has_none or isinstance(inputs, TokenInputs) else checked_inputs(inputs, name)
        rows = make_rows(
            name,
            self.labels,
            self.classes,
            ids=self.rows.ids,
            split=self.rows.split,
            inputs_hash=_inputs_hash(inputs),
            sequences=_sequences(inputs),
        )
        return Dataset(rows, inputs, self.doubt)

    def with_classes(self, classes: Sequence[str]) -> Dataset:
        """The same rows with the classes in another order, labels with them, or under other names.

        Parameters
        ----------
        classes : sequence of str
            The names that there are, in the order that labels shall have; or, if it has none of them, new names in the
            order that there is.

        Returns
        -------
        Dataset
            With these classes.

        Raises
        ------
        InputError
            Where the names are neither.

        Examples
        --------
        >>> letters = load_dataset("letters")
        >>> back = letters.with_classes(letters.classes[::-1])
        >>> back.classes[0], int(letters.labels[0] + back.labels[0])
        ('Z', 25)
        """
        names = numbered([str(name) for name in classes])
        place = place_in(self.classes, names)
        if place is None and (len(names) != len(self.classes) or not set(names).isdisjoint(self.classes)):
            odd = sorted(set(names) ^ set(self.classes))
            raise InputError(
                f"expected the {len(self.classes)} classes of {self.name!r} in some order, got {len(names)} names; "
                f"only one side has {odd[:6]}"
            )
        if place is not None and isinstance(self.inputs, TokenInputs):
            raise InputError(f"the tokens of {self.name!r} are in their tokenizer's order, which no other can replace")
        labels = self.labels if place is None else np.argsort(place)[self.labels]
        rows = make_rows(
            self.name,
            labels,
            names,
            ids=self.rows.ids,
            split=self.rows.split,
            inputs_hash=self.rows.inputs_hash,
            sequences=self.rows.sequences,
        )
        return Dataset(rows, self.inputs)

    def resplit(self, split: Mapping[str, float], seed: int = 0) -> Dataset:
        """Split again into "train", "val", "test", stratified by class, by a fixed seed.

        A text is split by whole documents, or blocks of a long one, drawn by the seed: see `split_windows`.

        Parameters
        ----------
        split : mapping of str to int or float
            For each split how many rows (a whole number), or which share of all rows (a float up to 1). Rows that no
            split needs are dropped. Of a text, windows rather than rows.
        seed : int
            Of the shuffle.

        Returns
        -------
        Dataset
            The rows of each split together, in the order of `split`.

        Examples
        --------
        >>> load_dataset("letters").resplit({"val": 0.25, "test": 1000})
        Dataset('letters': 6000 examples, 26 classes, 5000 val, 1000 test)
        """
        if isinstance(self.inputs, TokenInputs):
            rows, names = split_windows(self.inputs, _checked_sizes(split), seed, repr(self.name))
            return self._take(rows, names)
        counts = self._split_sizes(split)
        needed = sum(counts.values())
        if needed > len(self):
            raise InputError(f"the splits {counts} need {needed} rows, data set {self.name!r} has {len(self)}")
        order = stratified_order(self.labels, seed)
        ends = np.cumsum(list(counts.values()))
        index = [np.sort(rows) for rows in np.split(order[: ends[-1]], ends[:-1])]
        return self._take(np.concatenate(index), np.repeat(list(counts), list(counts.values())))

    def _split_sizes(self, split: Mapping[str, float]) -> dict[str, int]:
        """How many rows each split gets. Shares are rounded at their borders: if they sum to 1, every row is used."""
        counts: dict[str, int] = {}
        share_before = 0.0
        for name, size in _checked_sizes(split).items():
            if isinstance(size, int):
                counts[name] = size
            else:
                counts[name] = round((share_before + size) * len(self)) - round(share_before * len(self))
                share_before += size
            if counts[name] == 0:
                raise InputError(f"split {name!r} = {size!r} of the {len(self)} rows of data set {self.name!r} is none")
        return counts


def _checked_sizes(split: Mapping[str, float]) -> dict[str, int | float]:
    """Splits with their sizes, each a count above 0 or a share in (0, 1]."""
    sizes: dict[str, int | float] = {}
    for name, size in split.items():
        must_be_one_of(name, SPLITS, "split")
        if isinstance(size, numbers.Integral) and not isinstance(size, bool) and size > 0:
            sizes[name] = int(size)
        elif isinstance(size, float) and 0 < size <= 1:
            sizes[name] = size
        else:
            raise InputError(f"expected a positive count or a share up to 1.0 for split {name!r}, got {size!r}")
    if not sizes:
        raise InputError(f"expected at least one split of {list(SPLITS)}, got none")
    return sizes


def load_dataset(
    source: Any,
    *,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    root: str | Path | None = None,
    download: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    tokenizer: str | Path | None = None,
    window: int | None = None,
    skip: int | None = None,
    document: str | None = None,
    completion: str | None = None,
    base: str | Path = ".",
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    source : str, tuple, mapping, or map-style torch data set
        One of

        * ``"letters"``
        * ``"npz:FILE"``: holds ``labels`` (N,), one of ``inputs``, ``images``, ``X`` (N, ...), and optionally
          ``classes``, ``ids``, ``split``; or such pairs for each part, as the files of MedMNIST (``train_images``,
          ``train_labels``, ...) and Keras (``x_train``, ``y_train``, ...)
        * ``"folder:PATH"``: one folder of images per class, such as ImageNet's validation folder, perhaps below
          ``train``, ``val``, ``test`` in any spelling; Tiny-ImageNet's annotations are read. Example ids are paths
          below PATH; images may differ in size.
        * ``"torchvision:CIFAR10"`` (its train and test part), ``"torchvision:FashionMNIST/test"``, ...
        * ``"hf:OWNER/NAME"``, ``"hf:FOLDER"``, ``"hf:OWNER/NAME#validation"``: an image classification set of the
          ``datasets`` library
        * ``"text:FILE"``: a text in UTF-8, perhaps packed as .gz; and ``"kjv"``, the King James Bible that comes with
          the package. Its rows are positions whose next token is the label. Needs the extra ``lm``.
        * a map-style torch data set of (input, label) pairs
        * ``(X, y)``: arrays or tensors of inputs (N, ...) and of labels (N,)
        * ``{"val": ..., "test": ...}``: any of these for each split
        * a `Dataset`, which is taken as it is
    split : mapping of str to int or float, optional
        As in `Dataset.resplit`; by default the source's own split, or all rows "val".
    seed : int
        Of that split.
    classes : sequence of str, optional
        Class names, where the source has none; numbers by default. Where it has these names in another order, the order
        of the labels, as in `Dataset.with_classes`.
    name : str, optional
        Name to show; by default the file's stem.
    root : str or Path, optional
        Folder that holds torchvision's data sets; by default `base`.
    download : bool
        Whether torchvision may download what is missing.
    image_column : str, optional
        Which column of a Hugging Face data set holds the images, where its features leave a choice.
    label_column : str, optional
        Which column holds the classes, where its features leave a choice, as the fine and coarse labels of CIFAR-100.
    tokenizer : str or Path, optional
        Of a text: a ``tokenizer.json``, the folder of a model with one, or ``"bpe:512"`` to learn so many byte pairs
        from the text. "kjv" brings its own.
    window : int, optional
        Tokens of a window of text, 64 by default.
    skip : int, optional
        So many positions at the head of each window are no rows, 2 by default.
    document : str, optional
        What parts the documents of a text; by default it is one, cut into blocks of 32 windows for splits.
    completion : str, optional
        In each document only what stands behind the first of these markers is told.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    Dataset
        Inputs, labels, example ids, splits and class names, with a fingerprint.

    Raises
    ------
    InputError
        Where the source is unknown, missing or damaged, or its pieces do not fit each other.

    Examples
    --------
    >>> load_dataset("letters", split={"train": 2000, "val": 6000, "test": 12000})
    Dataset('letters': 20000 examples, 26 classes, 2000 train, 6000 val, 12000 test)
    """
    given: dict[str, Any] = {"tokenizer": None if tokenizer is None else str(tokenizer), "window": window, "skip": skip}
    given |= {"document": document, "completion": completion}
    text = {key: value for key, value in given.items() if value is not None}
    is_text = isinstance(source, str) and source.partition(":")[0] in ("text", KJV)
    if text and not is_text:
        raise InputError(f"{next(iter(text))} is of a text, 'text:FILE' or 'kjv', got it with {source!r}")
    if is_text:
        dataset, split = _text(source, TextOptions(**text), base, split, seed, name), None
        if classes is not None:
            dataset = dataset.with_classes(classes)
    elif isinstance(source, Dataset):
        dataset = source if classes is None else source.with_classes(classes)
    else:
        read = partial(
            _read, base=Path(base), root=root, download=download, columns=Columns(image_column, label_column)
        )
        raw, source_name = read(source, name) if isinstance(source, str) else _handed_in(source, name, read)
        place = source if isinstance(source, str) else source_name
        class_names = classes if raw.classes is None else raw.classes
        dataset = _checked(raw, class_names, name or raw.name or source_name, place)
        if classes is not None and raw.classes is not None:
            dataset = dataset.with_classes(classes)
        elif raw.doubt:
            warnings.warn(f"the classes of {place} are {raw.doubt}", stacklevel=2)
            dataset = replace(dataset, doubt=raw.doubt)
    return dataset if split is None else dataset.resplit(split, seed)


def text_of(source: str, base: str | Path, options: TextOptions | None) -> RawDataset:
    """Read a text as next-token rows, not yet split.

    Parameters
    ----------
    source : str
        ``"text:FILE"`` or ``"kjv"``.
    base : str or Path
        Folder that relative paths start from, of the text and of its tokenizer.
    options : TextOptions or None
        How it becomes rows; None for the defaults.

    Returns
    -------
    RawDataset
        As `capmismatch.data.text_reader.read_text` gives it.
    """
    kind, _, address = source.partition(":")
    if (kind == KJV) == bool(address):
        raise InputError(f"expected a text like 'text:FILE', or 'kjv', got {source!r}")
    path = Path(base, Path(address).expanduser()) if address else None
    return read_text(path, (options or TextOptions()).found_from(base))


def _text(
    source: str, options: TextOptions, base: str | Path, split: Mapping[str, float] | None, seed: int, name: str | None
) -> Dataset:
    """The rows of a text, split before they are checked: it has millions of them."""
    raw = text_of(source, base, options)
    if split is not None:
        rows, names = split_windows(raw.inputs, _checked_sizes(split), seed, repr(raw.name))
        raw = replace(raw, inputs=raw.inputs.take(rows), labels=np.asarray(raw.labels)[rows], split=names)
    return _checked(raw, raw.classes, name or str(raw.name), source)


def _handed_in(source: Any, name: str | None, read: Callable[..., tuple[RawDataset, str]]) -> tuple[RawDataset, str]:
    """What a data set in memory holds, and its name."""
    if isinstance(source, Mapping):
        shown = name or "the splits"
        parts = {
            split: read(part, split)[0] if isinstance(part, str) else _handed_in(part, split, read)[0]
            for split, part in check_parts(source).items()
        }
        return join_parts(parts, shown), "data"
    if is_pair_of_arrays(source):
        return read_arrays(source, name or "the arrays"), "arrays"
    if isinstance(source, Dataset):
        return RawDataset(source.inputs, source.labels, source.classes, source.rows.ids), source.name
    if isinstance(source, list) and is_pair_of_arrays(tuple(source)) and not isinstance(source[0], tuple):
        raise InputError("expected inputs and labels as a tuple, (X, y), got a list of these two: [X, y]")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        source_name = type(source).__name__
        return read_map_style(source, name or source_name), source_name
    loader = "; of a DataLoader give its dataset" if hasattr(source, "dataset") else ""
    raise InputError(
        f"expected {KINDS}, arrays (X, y), a data set for each split, or a map-style torch data set, got "
        f"{type(source).__name__}{loader}"
    )


KINDS = "'letters', 'npz:FILE', 'folder:PATH', 'torchvision:NAME', 'hf:NAME', 'text:FILE', 'kjv'"


def _read(
    source: str, name: str | None, *, base: Path, root: str | Path | None, download: bool, columns: Columns
) -> tuple[RawDataset, str]:
    """What a source holds, and its name."""
    kind, _, address = source.partition(":")
    if kind != "hf" and columns != Columns():
        raise InputError(f"image_column and label_column are of Hugging Face data sets, 'hf:NAME', got {source!r}")
    if kind == "letters" and not address:
        with resources.as_file(resources.files("capmismatch") / "embedded" / "letters.npz") as file:
            return _read_npz(file), "letters"
    path = Path(base, Path(address).expanduser())
    if kind == "npz" and address:
        return _read_npz(path), path.stem
    if kind == "folder" and address:
        return read_folder(path), path.resolve().name
    if kind == "torchvision" and address:
        return read_torchvision(address, Path(base, Path(root or ".").expanduser()), download), address
    if kind == "hf" and address:
        return read_huggingface(address, base, columns), address
    raise InputError(f"expected a data set like {KINDS}, got {source!r}")


INPUT_NAMES = ("inputs", "images", "X")


def _read_npz(path: Path) -> RawDataset:
    wanted = (*INPUT_NAMES, "labels", "classes", "ids", "split")
    arrays, names = read_npz(path, lambda name: name in wanted or array_of_part(name) is not None)
    found = [name for name in INPUT_NAMES if name in arrays]
    if len(found) > 1:
        raise InputError(f"expected one array of inputs in {path}, got {found}: leave one of them in the file")
    inputs_name = next(iter(found), None)
    if inputs_name is None and "labels" not in arrays and any(array_of_part(name) for name in arrays):
        return read_parts(arrays, path)
    if inputs_name is None or "labels" not in arrays:
        raise InputError(
            f"expected arrays 'labels' and one of {list(INPUT_NAMES)} in {path}, or pairs such as 'train_images' and "
            f"'train_labels' or 'x_test' and 'y_test', got {names}"
        )
    inputs, labels = arrays[inputs_name], label_array(arrays["labels"], f"labels of {path}")
    return RawDataset(inputs, labels, arrays.get("classes"), arrays.get("ids"), arrays.get("split"))


def _checked(raw: RawDataset, classes: Any, name: str, source: str) -> Dataset:
    """The data set of what a reader gave; classes without names are numbered."""
    place = f"labels of {source}"
    labels = label_array(raw.labels, place)
    kept = isinstance(raw.inputs, LazyInputs | TokenInputs)
    inputs = raw.inputs if kept else checked_inputs(raw.inputs, source)
    if len(inputs) != len(labels):
        raise InputError(f"expected as many inputs as labels in {source}, got {len(inputs)} and {len(labels)}")
    if classes is None:
        classes = numbered_classes(labels, place)
    rows = make_rows(
        name,
        labels,
        classes,
        ids=inputs.ids if isinstance(inputs, TokenInputs) else raw.ids,
        split=raw.split,
        inputs_hash=_inputs_hash(inputs),
        sequences=_sequences(inputs),
        place=place,
    )
    return Dataset(rows, inputs)


def _sequences(inputs: Any) -> NDArray[np.int64] | None:
    """Which window each row of a text is in; None for other rows."""
    return inputs.sequences if isinstance(inputs, TokenInputs) else None


def _inputs_hash(inputs: Any) -> str:
    """Hash of the inputs: an array's every byte; of lazy ones up to 64 rows, and where there are more, all stamps."""
    if isinstance(inputs, np.ndarray):
        return _array_hash(inputs, len(inputs)).hexdigest()
    if isinstance(inputs, TokenInputs):
        return inputs.digest()
    spread = np.unique(np.linspace(0, len(inputs) - 1, 64).astype(int)) if len(inputs) else np.arange(0)
    sample = inputs.sample(spread) if isinstance(inputs, LazyInputs) and len(inputs) else inputs[spread]
    if isinstance(sample, list):
        digest = hashlib.sha256(f"{len(inputs)} images".encode())
        for image in sample:
            digest.update(_array_hash(as_array(image), 1).digest())
    else:
        digest = _array_hash(sample, len(inputs))
    if isinstance(inputs, LazyInputs) and inputs.stamp is not None and (len(inputs) > len(spread) or inputs.stamp_few):
        digest.update("\0".join(inputs.stamp(row) for row in inputs.rows.tolist()).encode())
    return digest.hexdigest()


def _array_hash(array: NDArray[Any], count: int) -> Any:
    digest = hashlib.sha256(f"{count} {array.dtype} {array.shape[1:]}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest
