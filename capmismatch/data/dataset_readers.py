"""Readers of labelled images: folders, torchvision's data sets, Hugging Face's. Each gives a `RawDataset`.

Every reader takes the same steps: locate the files or tables, read inputs and labels, name the classes. What it gives
is checked afterwards, by `capmismatch.data.rows.make_rows`.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._utils.optional import need
from capmismatch.data.class_names import are_imagenet_ids, are_numbers
from capmismatch.data.lazy_inputs import LazyInputs
from capmismatch.data.rows import SPLITS
from capmismatch.errors import InputError, must_be_one_of

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
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
    """

    inputs: Any
    labels: Any
    classes: Any = None
    ids: Any = None
    split: Any = None
    name: str | None = None


# --- image folders ---------------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> RawDataset:
    """Read ``class/image.png``, or ``train|val|test/class/image.png``; ids are the paths below `folder`."""
    class_folders, has_splits = _class_folders(folder)
    files, folders_of_files = _image_files(class_folders)
    classes = sorted({class_folder.name for class_folder in class_folders})
    label_of = {name: label for label, name in enumerate(classes)}
    is_imagenet = are_imagenet_ids(classes) and len(files) == IMAGENET_VALIDATION_SIZE
    return RawDataset(
        inputs=LazyInputs(
            lambda row: _read_image(files[row]),
            np.arange(len(files)),
            folder.name,
            file_stamp(files),
        ),
        labels=[label_of[class_folder.name] for class_folder in folders_of_files],
        classes=classes,
        ids=[file.relative_to(folder).as_posix() for file in files],
        split=[class_folder.parent.name for class_folder in folders_of_files] if has_splits else None,
        name=IMAGENET if is_imagenet else None,
    )


def file_stamp(files: Sequence[Path]) -> Callable[[int], str]:
    """What tells an image of a folder from another: its content; where there are many gigabytes, its size and time."""
    small = sum(file.stat().st_size for file in files) <= HASHED_BYTES

    def stamp(row: int) -> str:
        facts = files[row].stat()
        if small:
            return hashlib.sha256(files[row].read_bytes()).hexdigest()
        return f"{facts.st_size} {facts.st_mtime_ns}"

    return stamp


def _class_folders(folder: Path) -> tuple[list[Path], bool]:
    """The folders named after classes, and whether they lie below folders named after splits."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    class_folders = _subfolders(folder)
    has_splits = bool(class_folders) and {path.name for path in class_folders} <= set(SPLITS)
    if has_splits:
        class_folders = [path for split_folder in class_folders for path in _subfolders(split_folder)]
    if not class_folders:
        raise InputError(f"expected a folder of images for each class in {folder}, got no folder")
    return class_folders, has_splits


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _image_files(class_folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """All images, and the class folder of each."""
    files: list[Path] = []
    folders_of_files: list[Path] = []
    for class_folder in class_folders:
        images = [file for file in sorted(class_folder.rglob("*")) if file.suffix.lower() in ENDINGS]
        if not images:
            raise InputError(f"expected images ({', '.join(ENDINGS)}) in {class_folder}, got none")
        files += images
        folders_of_files += [class_folder] * len(images)
    return files, folders_of_files


def _read_image(file: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{file} is not a readable image: {error}") from None


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
        labels=np.concatenate([raw.labels for raw in raw_parts]),
        classes=raw_parts[0].classes,
        ids=_ids_by_part(parts, counts),
        split=np.repeat(parts, counts),
    )


def _ids_by_part(parts: Sequence[str], counts: Sequence[int]) -> list[str]:
    return [f"{part}/{row}" for part, count in zip(parts, counts, strict=True) for row in range(count)]


# --- map-style data sets ---------------------------------------------------------------------------------------------


def read_map_style(source: Any, name: str) -> RawDataset:
    """Read a map-style data set of (input, label) pairs; images that it holds as one array are taken as that array."""
    lazy = LazyInputs(lambda row: source[row][0], np.arange(len(source)), name)
    array = _array_behind(source, lazy)
    return RawDataset(
        inputs=lazy if array is None else array,
        labels=np.asarray(_labels_of(source)),
        classes=_class_names_of(source),
    )


def _labels_of(source: Any) -> Any:
    labels = getattr(source, "targets", None)
    # `targets` are the labels before `target_transform`: where that is set, only the pairs show the labels.
    if labels is None or len(labels) != len(source) or getattr(source, "target_transform", None) is not None:
        return [int(source[row][1]) for row in range(len(source))]
    return labels


def _class_names_of(source: Any) -> list[str] | None:
    classes = getattr(source, "classes", None)
    if classes is None:
        return None
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

HF_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def read_huggingface(address: str, base: Path) -> RawDataset:
    """Read ``OWNER/NAME`` or a folder, with ``#SPLIT`` for one split; without it all that are train, val or test."""
    place, _, split = address.partition("#")
    need("datasets", "huggingface", f"hf:{address}")
    import datasets

    tables = _load_tables(address, Path(base, Path(place).expanduser()), place)
    if not isinstance(tables, datasets.DatasetDict):
        if split:
            raise InputError(f"'hf:{place}' has no splits to choose {split!r} from")
        return _read_table(tables, address)
    if split:
        must_be_one_of(split, tables, f"split of 'hf:{place}'")
        return _read_table(tables[split], address)
    return _read_splits(tables, address)


def _load_tables(address: str, path: Path, place: str) -> Any:
    """One table, or a mapping from splits to tables: from disk where they lie at `path`, else from the hub."""
    import datasets

    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else place)
    except Exception as error:  # of the library, of the file formats and of the network
        raise InputError(f"cannot read the data set 'hf:{address}': {type(error).__name__}: {error}") from None


def _read_splits(tables: Any, address: str) -> RawDataset:
    """All tables named as a split, one after the other."""
    import datasets

    names = [name for name in tables if name in HF_SPLITS]
    if not names:
        raise InputError(f"expected a split named as one of {list(HF_SPLITS)} in 'hf:{address}', got {list(tables)}")
    counts = [len(tables[name]) for name in names]
    joined = _read_table(datasets.concatenate_datasets([tables[name] for name in names]), address)
    return replace(
        joined, ids=_ids_by_part(names, counts), split=np.repeat([HF_SPLITS[name] for name in names], counts)
    )


def _read_table(table: Any, address: str) -> RawDataset:
    """The one image column and the one class column of a table."""
    import datasets

    image_column = _only_column(table, datasets.Image, address)
    label_column = _only_column(table, datasets.ClassLabel, address)
    names = list(table.features[label_column].names)
    shown_name = re.split(r"[/#]", address)[-1] or address
    return RawDataset(
        inputs=LazyInputs(lambda row: table[row][image_column], np.arange(len(table)), shown_name),
        labels=np.asarray(table[label_column][:]),
        classes=None if are_numbers(names) else names,
    )


def _only_column(table: Any, kind: type, address: str) -> str:
    columns = [column for column, feature in table.features.items() if type(feature) is kind]
    if len(columns) != 1:
        raise InputError(
            f"expected one column of kind {kind.__name__} in 'hf:{address}', got {columns} among "
            f"{list(table.features)}: rename or remove columns, or hand a map-style data set in"
        )
    return columns[0]
