"""Readers of labelled images: folders, torchvision's data sets, Hugging Face's. Each gives a `RawDataset`.

Every reader takes the same steps: locate the files or tables, read inputs and labels, name the classes. What it gives
is checked afterwards, by `capmismatch.data.rows.make_rows`.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch._utils.files import hash_file
from capmismatch._utils.optional import need
from capmismatch.data.class_names import are_imagenet_ids, are_numbers, composed, listed
from capmismatch.data.image_checks import checked_inputs, eight_bits
from capmismatch.data.image_folders import find_images, order_of_classes
from capmismatch.data.lazy_inputs import LazyInputs, as_array
from capmismatch.data.rows import PARTS, label_array, must_be_parts_once, part_of
from capmismatch.errors import CapmismatchError, InputError, must_be_one_of

IMAGENET = "ImageNet-1K"
IMAGENET_VALIDATION_SIZE = 50_000
HASHED_BYTES = 8 << 30  # a folder of up to so many bytes is read whole for its fingerprint: it is read to be collected


@dataclass(frozen=True)
class RawDataset:
    """Inputs and labels as a source holds them, not yet checked; None where the source does not say.

    Attributes
    ----------
    inputs : array or LazyInputs
        Of shape (N, ...).
    labels : array_like of shape (N,)
        Class numbers.
    classes : sequence of str or None
        Class names, in label order.
    ids : array_like of shape (N,) or None
        Example ids.
    split : array_like of shape (N,) or None
        "train", "val" or "test" for each example.
    name : str or None
        Of the data set.
    doubt : str
        What may be wrong with the order of the classes, in words; told unless the user gives the order.
    """

    inputs: Any
    labels: Any
    classes: Any = None
    ids: Any = None
    split: Any = None
    name: str | None = None
    doubt: str = ""


# --- image folders ---------------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> RawDataset:
    """Read ``class/image.png``, or ``train|val|test/class/image.png``; ids are the paths below `folder`."""
    found = find_images(folder)
    files = found.files
    classes, doubt = order_of_classes(found.names)
    label_of = {name: label for label, name in enumerate(classes)}
    is_imagenet = are_imagenet_ids(classes) and len(files) == IMAGENET_VALIDATION_SIZE
    return RawDataset(
        inputs=LazyInputs(
            lambda row: _read_image(files[row]),
            np.arange(len(files)),
            folder.name,
            file_stamp(files),
        ),
        labels=[label_of[name] for name in found.names],
        classes=classes,
        ids=[file.relative_to(folder).as_posix() for file in files],
        split=found.parts,
        name=IMAGENET if is_imagenet else None,
        doubt=doubt,
    )


def file_stamp(files: Sequence[Path]) -> Callable[[int], str]:
    """What tells an image of a folder from another: its content; where there are many gigabytes, its size and time."""
    small = sum(file.stat().st_size for file in files) <= HASHED_BYTES

    def stamp(row: int) -> str:
        facts = files[row].stat()
        if small:
            return hash_file(files[row])
        return f"{facts.st_size} {facts.st_mtime_ns}"

    return stamp


def _read_image(file: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return eight_bits(opened, str(file)).convert("RGB")
    except CapmismatchError:
        raise
    except Exception as error:  # PIL's decoders raise many kinds, and its own for images of absurd size
        raise InputError(f"{file} is not a readable image: {error}") from None


# --- arrays of parts -------------------------------------------------------------------------------------------------

OF_INPUTS, OF_LABELS = ("images", "inputs", "x", "data"), ("labels", "y", "targets")


def array_of_part(name: str) -> tuple[str, str] | None:
    """The part and what an array of it holds, "inputs" or "labels", by its name; None for other names.

    Examples
    --------
    >>> array_of_part("valid_images"), array_of_part("y_test"), array_of_part("x_mean")
    (('valid', 'inputs'), ('test', 'labels'), None)
    """
    first, _, last = name.casefold().partition("_")
    for part, what in ((first, last), (last, first)):
        if part_of(part) and what in (*OF_INPUTS, *OF_LABELS):
            return part, "inputs" if what in OF_INPUTS else "labels"
    return None


def read_parts(arrays: Mapping[str, NDArray[Any]], path: Path) -> RawDataset:
    """Read pairs of arrays, one for each part, as MedMNIST's and Keras' files have them."""
    found: dict[str, dict[str, str]] = {}
    for name in arrays:
        if (known := array_of_part(name)) is not None:
            before = found.setdefault(known[0], {}).setdefault(known[1], name)
            if before != name:
                raise InputError(f"{path} has both {before!r} and {name!r}: expected one array of {known[1]} a part")
    parts = sorted(found, key=lambda part: list(PARTS).index(part))
    for part in parts:
        if len(found[part]) != 2:
            raise InputError(f"expected inputs and labels of part {part!r} in {path}, got {[*found[part].values()]}")
    must_be_parts_once(parts, str(path))
    inputs = [checked_inputs(arrays[found[part]["inputs"]], f"{found[part]['inputs']} of {path}") for part in parts]
    labels = [label_array(arrays[found[part]["labels"]], f"{found[part]['labels']} of {path}") for part in parts]
    for part, some, of_some in zip(parts, inputs, labels, strict=True):
        if len(some) != len(of_some):
            raise InputError(
                f"expected as many inputs as labels of {part!r} in {path}, got {len(some)}, {len(of_some)}"
            )
        if (some.shape[1:], some.dtype) != (inputs[0].shape[1:], inputs[0].dtype):
            raise InputError(
                f"expected inputs of one shape and type in {path}, got {inputs[0].dtype} of {inputs[0].shape[1:]} in "
                f"{parts[0]!r} and {some.dtype} of {some.shape[1:]} in {part!r}"
            )
    counts = [len(some) for some in labels]
    return RawDataset(
        inputs=np.concatenate(inputs),
        labels=np.concatenate(labels),
        classes=arrays.get("classes"),
        ids=_ids_by_part(parts, counts),
        split=np.repeat([str(part_of(part)) for part in parts], counts),
    )


# --- torchvision -----------------------------------------------------------------------------------------------------


def read_torchvision(address: str, root: Path, download: bool) -> RawDataset:
    """Read ``NAME`` (its train and test part), ``NAME/train``, ``NAME/test``, or ``NAME/PART`` for other parts."""
    name, _, part = address.partition("/")
    factory, selector = _torchvision_factory(name)
    parts = _torchvision_parts(name, part, selector)
    raw_parts = [_read_torchvision_part(name, factory, selector, one, root, download) for one in parts]
    return raw_parts[0] if len(raw_parts) == 1 else _joined_parts(name, parts, raw_parts)


def _torchvision_factory(name: str) -> tuple[Any, str]:
    """The class of a torchvision data set, and its argument that selects a part: "train" or "split"."""
    from torchvision import datasets

    names = [
        key
        for key, value in vars(datasets).items()
        if inspect.isclass(value) and issubclass(value, datasets.VisionDataset)
    ]
    must_be_one_of(name, names, "torchvision data set")
    factory = getattr(datasets, name)
    selector = next((key for key in ("train", "split") if key in _arguments(factory)), None)
    if selector is None:
        raise InputError(f"torchvision's {name} has no parts to choose from: make it yourself and hand it in")
    return factory, selector


def _arguments(factory: Any) -> list[str]:
    return list(inspect.signature(factory.__init__).parameters)


def _torchvision_parts(name: str, part: str, selector: str) -> list[str]:
    """The parts to read: the one asked for, else train and test where the data set has just these."""
    if selector == "train":
        must_be_one_of(part, ("", "train", "test"), f"part of torchvision:{name}")
    elif not part:
        raise InputError(f"expected a part such as 'torchvision:{name}/test' or '/val', got 'torchvision:{name}'")
    return [part] if part else ["train", "test"]


def _read_torchvision_part(name: str, factory: Any, selector: str, part: str, root: Path, download: bool) -> RawDataset:
    options: dict[str, Any] = {selector: part == "train" if selector == "train" else part}
    if "download" in _arguments(factory):
        options["download"] = download
    try:
        source = factory(root=str(root), **options)
    except (RuntimeError, OSError, ValueError) as error:
        advice = "" if download else "; give root=, the folder that holds it, or download=True"
        raise InputError(f"cannot read torchvision's {name} in {root}: {error}{advice}") from None
    return read_map_style(source, name)


def _joined_parts(name: str, parts: Sequence[str], raw_parts: Sequence[RawDataset]) -> RawDataset:
    """The parts one after the other; their names are the split."""
    inputs: Any = [raw.inputs for raw in raw_parts]
    if not all(isinstance(array, np.ndarray) for array in inputs):
        raise InputError(f"the parts of torchvision's {name} cannot be joined: name one, as 'torchvision:{name}/test'")
    counts = [len(raw.labels) for raw in raw_parts]
    return RawDataset(
        inputs=np.concatenate(inputs),
        labels=np.concatenate([label_array(raw.labels, f"labels of torchvision's {name}") for raw in raw_parts]),
        classes=raw_parts[0].classes,
        ids=_ids_by_part(parts, counts),
        split=np.repeat(parts, counts),
    )


def _ids_by_part(parts: Sequence[str], counts: Sequence[int]) -> list[str]:
    return [f"{part}/{row}" for part, count in zip(parts, counts, strict=True) for row in range(count)]


# --- map-style data sets ---------------------------------------------------------------------------------------------


MOST_ROWS = 1_000_000_000
"""No data set of single inputs has more rows; the numbers of so many take 8 GB."""


def read_map_style(source: Any, name: str) -> RawDataset:
    """Read a map-style data set of (input, label) pairs; images that it holds as one array are taken as that array."""

    def fetch(row: int) -> Any:
        return _pair(source, row, name)[0]

    if len(source) > MOST_ROWS:
        raise InputError(f"expected a data set of up to {MOST_ROWS:,} rows, got {len(source):,} from {name!r}")
    lazy = LazyInputs(fetch, np.arange(len(source)), name, _content_of(fetch, name), stamp_few=False)
    labels = _labels_of(source, name)
    array = _array_behind(source, lazy)
    return RawDataset(
        inputs=lazy if array is None else array,
        labels=labels,
        classes=_class_names_of(source, name),
    )


def _pair(source: Any, row: int, name: str) -> Any:
    """Input and label of one row."""
    try:
        pair = source[row]
    except Exception as error:  # of the data set that was handed in: whatever it is, the row is named
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise InputError(f"row {row} of data set {name!r} cannot be read: {type(error).__name__}: {reason}") from None
    if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) < 2:
        keys = f" with the keys {list(pair)}" if isinstance(pair, Mapping) else ""
        raise InputError(
            f"expected pairs (input, label), got {type(pair).__name__}{keys} at row {row} of data set {name!r}: "
            "hand in a data set that gives (input, label)"
        )
    return pair


def _content_of(fetch: Callable[[int], Any], name: str) -> Callable[[int], str]:
    """What tells an input of a data set from another where nothing but the input itself does."""

    @cache  # every part that is taken of the data set asks again
    def stamp(row: int) -> str:
        array = as_array(fetch(row), f"row {row} of data set {name!r}")
        digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    return stamp


def _labels_of(source: Any, name: str) -> Any:
    labels = getattr(source, "targets", None)
    # `targets` are the labels before `target_transform`: where that is set, only the pairs show the labels.
    if (
        labels is None
        or np.ndim(labels) == 0
        or len(labels) != len(source)
        or getattr(source, "target_transform", None) is not None
    ):
        return [_one_label(_pair(source, row, name)[1], row, name) for row in range(len(source))]
    return labels


def _one_label(value: Any, row: int, name: str) -> float:
    """A label of a pair: a number, or an array or tensor of one, as MedMNIST's sets give."""
    place = f"the label of row {row} of data set {name!r}"
    label = plain_array(value, place, "a whole number")
    if label.size != 1:
        raise InputError(
            f"expected a whole number as {place}, got {label.tolist()[:10]} of shape {label.shape}: several labels an "
            "example are not supported"
        )
    return label.item()


def _class_names_of(source: Any, name: str) -> list[str] | None:
    """The names of the classes by label; where a data set numbers them as well, both must agree."""
    classes = listed(getattr(source, "classes", None), f"data set {name!r}")
    if classes is None:
        return None
    numbers = getattr(source, "class_to_idx", None)
    for number, value in enumerate(classes):
        if isinstance(numbers, Mapping) and isinstance(value, str) and numbers.get(value, number) != number:
            raise InputError(
                f"expected one order of classes in data set {name!r}, got {value!r} at place {number} of `classes` and "
                f"as label {numbers[value]} in `class_to_idx`: make them agree, or take either away"
            )
    # ImageNet's are tuples of synonyms.
    return [value if isinstance(value, str) else ", ".join(map(str, value)) for value in classes]


def _array_behind(source: Any, lazy: LazyInputs) -> NDArray[Any] | None:
    """The uint8 images that CIFAR and MNIST hold in memory, where the pairs show exactly these."""
    data: Any = getattr(source, "data", None)
    has_transform = any(getattr(source, name, None) is not None for name in ("transform", "transforms"))
    if has_transform or not hasattr(data, "__array__") or len(data) != len(source):
        return None
    array = np.asarray(data)
    array = array[..., None] if array.ndim == 3 else array
    is_the_same = array.dtype == np.uint8 and len(array) and np.array_equal(array[:1], lazy[:1])
    return array if is_the_same else None


# --- Hugging Face ----------------------------------------------------------------------------------------------------

LABEL_COLUMNS = ("label", "labels", "target", "targets", "class", "class_label")
"""Names of columns of plain numbers or texts that are taken as labels without being asked for."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold images and labels; None where its features tell.

    Attributes
    ----------
    image : str or None
        Column of the images.
    label : str or None
        Column of the classes.
    """

    image: str | None = None
    label: str | None = None


def read_huggingface(address: str, base: Path, columns: Columns | None = None) -> RawDataset:
    """Read ``OWNER/NAME`` or a folder, with ``#SPLIT`` for one split; without it all that are train, val or test."""
    place, _, split = address.partition("#")
    need("datasets", "huggingface", f"hf:{address}")
    import datasets

    tables = _load_tables(address, Path(base, Path(place).expanduser()), place)
    wanted = columns or Columns()
    if not isinstance(tables, datasets.DatasetDict):
        if split:
            raise InputError(f"'hf:{place}' has no splits to choose {split!r} from")
        return _read_table(tables, address, wanted, None)
    if split:
        must_be_one_of(split, tables, f"split of 'hf:{place}'")
        return _read_table(tables[split], address, wanted, None)
    return _read_splits(tables, address, wanted)


def _load_tables(address: str, path: Path, place: str) -> Any:
    """One table, or a mapping from splits to tables: from disk where they lie at `path`, else from the hub."""
    import datasets

    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else place)
    except Exception as error:  # of the library, of the file formats and of the network
        raise InputError(f"cannot read the data set 'hf:{address}': {type(error).__name__}: {error}") from None


def _read_splits(tables: Any, address: str, columns: Columns) -> RawDataset:
    """All tables named as a split, one after the other."""
    import datasets

    names = [name for name in tables if part_of(name)]
    if not names:
        raise InputError(f"expected a split named as one of {list(PARTS)} in 'hf:{address}', got {list(tables)}")
    must_be_parts_once(names, f"'hf:{address}'")
    joined = datasets.concatenate_datasets([tables[name] for name in names])
    return _read_table(joined, address, columns, {name: len(tables[name]) for name in names})


def _read_table(table: Any, address: str, columns: Columns, parts: Mapping[str, int] | None) -> RawDataset:
    """The image column and the label column of a table, without the rows that have no label.

    `parts` tells which splits the table was joined from, and how many rows each has.
    """
    import datasets

    image_column = _image_column(table, columns.image, address)
    label_column = _label_column(table, columns.label, address)
    values = table[label_column][:]
    feature = table.features[label_column]
    names: list[str] | None
    if type(feature) is datasets.ClassLabel:
        labels, names, doubt = values, list(feature.names), ""
    else:
        labels, names, doubt = _labels_of_values(values, f"column {label_column!r} of hf:{address}")
    splits = np.repeat(list(parts), list(parts.values())) if parts else None
    kept = _labelled_rows(labels, splits, f"hf:{address}")
    _check_images(table, image_column, address)
    ids = np.array(_ids_by_part(list(parts), list(parts.values())) if parts else np.arange(len(table)).astype(str))
    shown_name = re.split(r"[/#]", address)[-1] or address
    return RawDataset(
        inputs=LazyInputs(
            lambda row: table[row][image_column],
            kept,
            shown_name,
            _stamp_of_table(table, image_column),
            stamp_few=False,
        ),
        labels=label_array([labels[row] for row in kept], f"labels of hf:{address}"),
        classes=None if names is None or are_numbers(names) else names,
        ids=ids[kept],
        split=None if splits is None else [part_of(name) for name in splits[kept]],
        doubt=doubt,
    )


def _stamp_of_table(table: Any, column: str) -> Callable[[int], str]:
    """What tells an image of a table from another: its bytes, undecoded, or the file that it lies in."""
    undecoded = table.with_format("arrow")

    @cache
    def stamp(row: int) -> str:
        image = undecoded[row].column(column)[0].as_py()
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        return hashlib.sha256(content).hexdigest()

    return stamp


def _labels_of_values(values: Sequence[Any], place: str) -> tuple[list[Any], list[str] | None, str]:
    """Labels of a column of plain values: whole numbers as they are, texts as the names of classes."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int) for value in known):
        return list(values), None, ""
    odd = next(((row, value) for row, value in enumerate(values) if not isinstance(value, str | None)), None)
    if odd is not None:
        raise InputError(
            f"expected one class, as a whole number or text, at every row of {place}, got {odd[1]!r} at row {odd[0]}"
        )
    classes, doubt = order_of_classes(map(composed, known))
    label_of = {name: label for label, name in enumerate(classes)}
    return [None if value is None else label_of[composed(value)] for value in values], classes, doubt


def _labelled_rows(labels: Sequence[int | None], splits: NDArray[Any] | None, place: str) -> NDArray[np.int64]:
    """The rows with a label; others (null, or -1 as the hub marks them) are counted in a warning."""
    has_label = np.array([label is not None and label != -1 for label in labels], dtype=bool)
    if not has_label.any():
        raise InputError(f"expected labels in {place}, got {len(has_label)} rows without one")
    if not has_label.all():
        where = splits if splits is not None else np.full(len(has_label), "the data set")
        counts = [
            f"{(~has_label[where == part]).sum()} of {(where == part).sum()} in {part}"
            for part in dict.fromkeys(where[~has_label].tolist())
        ]
        warnings.warn(f"{place}: left out rows without a label: {', '.join(counts)}", stacklevel=6)
    return np.flatnonzero(has_label)


def _check_images(table: Any, column: str, address: str) -> None:
    if table.data.column(column).null_count:
        undecoded = table.with_format("arrow")[column]
        row = next((row for row, value in enumerate(undecoded) if not value.is_valid), None)
        if row is not None:
            raise InputError(
                f"expected an image at every row of column {column!r} of 'hf:{address}', got none at row {row}"
            )


def _image_column(table: Any, wanted: str | None, address: str) -> str:
    import datasets

    columns = [column for column, feature in table.features.items() if type(feature) is datasets.Image]
    return _only_column(table, columns, wanted, "Image", "image_column", address)


def _label_column(table: Any, wanted: str | None, address: str) -> str:
    """The one column of classes; else the one plain column that is named like labels; else the one asked for."""
    import datasets

    columns = [column for column, feature in table.features.items() if type(feature) is datasets.ClassLabel]
    plain = [column for column, feature in table.features.items() if type(feature) is datasets.Value]
    if wanted in plain:
        return str(wanted)
    if not columns:
        columns = [column for column in plain if column.casefold() in LABEL_COLUMNS]
    return _only_column(table, columns, wanted, "ClassLabel", "label_column", address)


def _only_column(table: Any, columns: Sequence[str], wanted: str | None, kind: str, option: str, address: str) -> str:
    if wanted is not None:
        must_be_one_of(wanted, columns, f"{option} of 'hf:{address}'")
        return wanted
    if len(columns) != 1:
        raise InputError(
            f"expected one column of kind {kind} in 'hf:{address}', got {list(columns)} among {list(table.features)}: "
            f"choose one by {option}=, or hand a map-style data set in"
        )
    return columns[0]
