"""Where images with labels lie: folders, torchvision's data sets, Hugging Face's. Each reader gives a `Found`."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Found:
    """Inputs and labels as a source has them; None where it says nothing."""

    inputs: Any
    labels: Any
    classes: Any = None
    ids: Any = None
    split: Any = None
    name: str | None = None


# --- image folders ---------------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> Found:
    """``class/image.png``, or ``train|val|test/class/image.png``; ids are the paths below `folder`."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    below = _subfolders(folder)
    split_up = bool(below) and {path.name for path in below} <= set(SPLITS)
    homes = [home for part in below for home in _subfolders(part)] if split_up else below
    if not homes:
        raise InputError(f"expected a folder of images for each class in {folder}, got no folder")
    classes = sorted({home.name for home in homes})
    files = [(home, file) for home in homes for file in sorted(home.rglob("*")) if file.suffix.lower() in ENDINGS]
    full = {home for home, _ in files}
    empty = next((home for home in homes if home not in full), None)
    if empty is not None:
        raise InputError(f"expected images ({', '.join(ENDINGS)}) in {empty}, got none")
    ids = [file.relative_to(folder).as_posix() for _, file in files]
    number = {name: index for index, name in enumerate(classes)}
    places = [file for _, file in files]
    whole = are_imagenet_ids(classes) and len(files) == 50_000  # the validation set
    return Found(
        LazyInputs(
            lambda row: _read_image(places[row]),
            np.arange(len(files)),
            folder.name,
            lambda row: str(places[row].stat().st_size),
        ),
        [number[home.name] for home, _ in files],
        classes,
        ids,
        [home.parent.name for home, _ in files] if split_up else None,
        IMAGENET if whole else None,
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_image(file: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{file} is not a readable image: {error}") from None


# --- torchvision -----------------------------------------------------------------------------------------------------


def read_torchvision(rest: str, root: Path, download: bool) -> Found:
    """``NAME`` (its train and test part), ``NAME/train``, ``NAME/test``, or ``NAME/PART`` for any part that it has."""
    from torchvision import datasets

    name, _, part = rest.partition("/")
    kinds = [n for n, v in vars(datasets).items() if inspect.isclass(v) and issubclass(v, datasets.VisionDataset)]
    must_be_one_of(name, kinds, "torchvision data set")
    kind = getattr(datasets, name)
    takes = inspect.signature(kind.__init__).parameters
    options: dict[str, Any] = {"download": download} if "download" in takes else {}
    flag = "train" if "train" in takes else "split"
    if flag not in takes:
        raise InputError(f"torchvision's {name} has no parts to choose from: make it yourself and hand it in")
    if flag == "train":
        must_be_one_of(part, ("", "train", "test"), f"part of torchvision:{name}")
    elif not part:
        raise InputError(f"expected a part such as 'torchvision:{name}/test' or '/val', got 'torchvision:{name}'")
    parts = [part] if part else ["train", "test"]
    found = []
    for which in parts:
        try:
            made = kind(root=str(root), **{flag: which == "train" if flag == "train" else which}, **options)
        except (RuntimeError, OSError, ValueError) as error:
            hint = "" if download else "; give root=, the folder that holds it, or download=True"
            raise InputError(f"cannot read torchvision's {name} in {root}: {error}{hint}") from None
        found.append(read_map_style(made, name))
    if len(found) == 1:
        return found[0]
    inputs: Any = [one.inputs for one in found]
    if not all(isinstance(one, np.ndarray) for one in inputs):
        raise InputError(f"the parts of torchvision's {name} cannot be joined: name one, as 'torchvision:{name}/test'")
    counts = [len(one.labels) for one in found]
    ids = [f"{which}/{row}" for which, count in zip(parts, counts, strict=True) for row in range(count)]
    labels = np.concatenate([one.labels for one in found])
    return Found(np.concatenate(inputs), labels, found[0].classes, ids, np.repeat(parts, counts))


def read_map_style(source: Any, name: str) -> Found:
    """A map-style data set of (input, label) pairs; what it keeps as one array is taken as that array."""
    labels = getattr(source, "targets", None)
    # `targets` are the labels before `target_transform`: then only the pairs themselves tell what the label is.
    if labels is None or len(labels) != len(source) or getattr(source, "target_transform", None) is not None:
        labels = [int(source[i][1]) for i in range(len(source))]
    lazy = LazyInputs(lambda row: source[row][0], np.arange(len(source)), name)
    classes = getattr(source, "classes", None)
    if classes is not None:  # ImageNet's are tuples of synonyms
        classes = [value if isinstance(value, str) else ", ".join(map(str, value)) for value in classes]
    inputs = _array_behind(source, lazy)
    return Found(lazy if inputs is None else inputs, np.asarray(labels), classes)


def _array_behind(source: Any, lazy: LazyInputs) -> NDArray[Any] | None:
    """The uint8 images that CIFAR and MNIST keep in memory, where the pairs show just these."""
    data: Any = getattr(source, "data", None)
    transforms = (getattr(source, name, None) for name in ("transform", "transforms"))
    if not hasattr(data, "__array__") or len(data) != len(source) or any(t is not None for t in transforms):
        return None
    array = np.asarray(data)
    array = array[..., None] if array.ndim == 3 else array
    same = array.dtype == np.uint8 and len(array) and np.array_equal(array[:1], lazy[:1])
    return array if same else None


# --- Hugging Face ----------------------------------------------------------------------------------------------------

HF_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def read_huggingface(rest: str, base: Path) -> Found:
    """``OWNER/NAME`` or a folder, and ``#SPLIT`` for one of its splits; all that are train, val or test without it."""
    datasets = need("datasets", "huggingface", f"hf:{rest}")
    found: Any
    place, _, part = rest.partition("#")
    path = Path(base, Path(place).expanduser())
    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(str(path) if path.is_dir() else place)
    except Exception as error:  # the library raises its own kinds, and those of the file formats and of the network
        raise InputError(f"cannot read the data set 'hf:{rest}': {type(error).__name__}: {error}") from None
    if not isinstance(found, datasets.DatasetDict):  # a table without splits
        if part:
            raise InputError(f"'hf:{place}' has no splits to choose {part!r} from")
        return _of_table(found, rest)
    if part:
        must_be_one_of(part, found, f"split of 'hf:{place}'")
        return _of_table(found[part], rest)
    names = [name for name in found if name in HF_SPLITS]
    if not names:
        raise InputError(f"expected a split named as one of {list(HF_SPLITS)} in 'hf:{rest}', got {list(found)}")
    whole = datasets.concatenate_datasets([found[name] for name in names])
    split = np.repeat([HF_SPLITS[name] for name in names], [len(found[name]) for name in names])
    ids = [f"{name}/{row}" for name in names for row in range(len(found[name]))]
    joined = _of_table(whole, rest)
    return Found(joined.inputs, joined.labels, joined.classes, ids, split)


def _of_table(table: Any, rest: str) -> Found:
    """The one image column and the one class column of a table."""
    import datasets

    kinds: dict[type, list[str]] = {datasets.Image: [], datasets.ClassLabel: []}
    for column, feature in table.features.items():
        if type(feature) in kinds:
            kinds[type(feature)].append(column)
    for kind, columns in kinds.items():
        if len(columns) != 1:
            raise InputError(
                f"expected one column of kind {kind.__name__} in 'hf:{rest}', got {columns} among "
                f"{list(table.features)}: rename or remove columns, or hand a map-style data set in"
            )
    (image,), (label,) = kinds.values()
    names = list(table.features[label].names)
    return Found(
        LazyInputs(lambda row: table[row][image], np.arange(len(table)), re.split(r"[/#]", rest)[-1] or rest),
        np.asarray(table[label][:]),
        None if are_numbers(names) else names,
    )
