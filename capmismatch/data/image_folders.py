"""Image folders as people have them: which files are images, which class and which part each belongs to.

Folders of classes lie at the top, or below folders that are named as parts ("train", "Valid", "testing").
Tiny-ImageNet's annotations are read. Layouts that leave a doubt are refused by name, and what is left out is counted.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capmismatch.data.class_names import composed, default_order, natural_key
from capmismatch.data.rows import must_be_parts_once, part_of
from capmismatch.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
# Notes and lists beside the images: nobody expects these to be read as one.
NO_IMAGES = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".db", ".ini", ".mat", ".py")
# What systems leave behind; folders with a dot in front besides.
SYSTEM_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__")


@dataclass
class LabelledFiles:
    """Image files with the class and part of each.

    Attributes
    ----------
    files : list of Path
        The images.
    names : list of str
        Class of each.
    parts : list of str or None
        Split of each; None where the folder has no parts.
    left_out : Counter
        What was not read, in words, and how many files.
    """

    files: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    parts: list[str] | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, files: Sequence[Path], names: Sequence[str], part: str | None) -> None:
        """Add images of one part."""
        self.files += files
        self.names += names
        if part is not None:
            self.parts = [*(self.parts or []), *[part] * len(files)]


def find_images(folder: Path) -> LabelledFiles:
    """All images of a folder; a warning counts what lies in it and was left out.

    Parameters
    ----------
    folder : Path
        Holds a folder for each class, perhaps below folders named as parts.

    Returns
    -------
    LabelledFiles
        Files, classes and parts.

    Raises
    ------
    InputError
        Where there is no such folder, a class has no images, or it is unclear which folders are the classes.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    found = LabelledFiles()
    below = _subfolders(folder, found.left_out)
    parts = _part_folders(folder, below, found.left_out)
    _count_strays(folder, found.left_out)
    if not below:
        raise InputError(f"expected a folder of images for each class in {folder}, got no folder")
    if parts:
        for path in parts:
            _read_part(path, found)
        _check_parts(folder, found)
    else:
        _read_classes(folder, below, None, found)
    if found.left_out:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(found.left_out.items()))
        warnings.warn(f"{folder}: left out {counts}; read {len(found.files)} images", stacklevel=5)
    return found


def order_of_classes(names: Iterable[str]) -> tuple[list[str], str]:
    """Classes that nobody has put in order: numbers by value, other names as text; and where trainers differ in that.

    Returns
    -------
    tuple of list of str, and str
        The order; what is in doubt about it, in words, or "".

    Examples
    --------
    >>> order_of_classes(["10", "9", "9"])[0], order_of_classes(["cat", "dog"])
    (['9', '10'], (['cat', 'dog'], ''))
    """
    text = sorted(set(names))
    order = default_order(text)
    natural = sorted(text, key=lambda name: (natural_key(name), name))
    if order != text:
        how = (
            f"numbers, taken by value ({_shown(order)}); torchvision's ImageFolder takes them as text ({_shown(text)})"
        )
    elif order != natural:
        how = f"taken as text ({_shown(order)}), as torchvision's ImageFolder does; timm sorts them ({_shown(natural)})"
    else:
        return order, ""
    return order, f"{how}. Teachers that do not name their outputs must have this order: classes=[...] gives another"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# --- parts -----------------------------------------------------------------------------------------------------------


def _part_folders(folder: Path, below: Sequence[Path], left_out: Counter[str]) -> list[Path]:
    """The folders that are parts; none where the folders are classes, of which one may be called "train"."""
    parts = [path for path in below if part_of(path.name) and not (_holds_images(path) and _is_class_like(path))]
    others = [path for path in below if path not in parts]
    if not parts:
        return []
    with_images = [path.name for path in others if _images_in(path, Counter())]
    if with_images:
        raise InputError(
            f"expected parts or classes in {folder}, got the parts {[path.name for path in parts]} beside "
            f"{with_images}: name a folder that holds only one kind, or move the others away"
        )
    must_be_parts_once([path.name for path in parts], str(folder))
    return parts


def _is_class_like(path: Path) -> bool:
    """Whether a folder named as a part, with images, has classes for siblings rather than parts."""
    return any(part_of(other.name) is None and _holds_images(other) for other in _subfolders(path.parent, Counter()))


def _read_part(path: Path, found: LabelledFiles) -> None:
    """The images of one part, by folders or by its annotations; images without a label are left out and counted."""
    part = part_of(path.name)
    annotations = sorted(path.glob("*_annotations.txt"))
    below = _subfolders(path, Counter())
    if annotations:
        _read_annotated(path, annotations[0], part, found)
    elif not below or (len(below) == 1 and below[0].name.casefold() in ("images", "image", "img", "imgs")):
        unlabelled = _images_in(path, found.left_out)
        if not unlabelled:
            raise InputError(f"expected a folder of images for each class in {path}, got no folder")
        found.left_out[f"images without a label in {path.name}"] += len(unlabelled)
    else:
        _count_strays(path, found.left_out)
        _read_classes(path, _subfolders(path, found.left_out), part, found)


def _read_annotated(path: Path, annotations: Path, part: str | None, found: LabelledFiles) -> None:
    """A part whose images lie together; a file has lines "NAME<tab>CLASS<tab>...", as Tiny-ImageNet's."""
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{annotations} is not readable: {error}") from None
    class_of = {}
    for number, line in enumerate(lines, 1):
        name, *rest = line.split("\t") if "\t" in line else line.split()
        if line.strip() and not rest:
            raise InputError(f"expected a file name and a class in line {number} of {annotations}, got {line!r}")
        if line.strip():
            class_of[name.strip()] = composed(rest[0].strip())
    images = _images_in(path, found.left_out)
    labelled = [file for file in images if file.name in class_of]
    missing = set(class_of) - {file.name for file in images}
    if missing or not labelled:
        named = f"no image {min(missing)!r}" if missing else "no image that it names"
        raise InputError(f"{annotations} names {len(class_of)} images, but there is {named} in {path}")
    found.add(labelled, [class_of[file.name] for file in labelled], part)
    if len(images) > len(labelled):
        found.left_out[f"images without a label in {path.name}"] += len(images) - len(labelled)


def _check_parts(folder: Path, found: LabelledFiles) -> None:
    """Classes that the training part does not have are refused; classes that other parts lack are told."""
    if not found.files:
        counts = ", ".join(f"{count} {what}" for what, count in found.left_out.items())
        raise InputError(f"expected a folder of images for each class in the parts of {folder}, got {counts}")
    classes: dict[str, set[str]] = {}
    for name, part in zip(found.names, found.parts or [], strict=True):
        classes.setdefault(part, set()).add(name)
    if "train" in classes:
        for part, names in classes.items():
            extra = sorted(names - classes["train"])
            if extra:
                raise InputError(
                    f"expected the classes of the training part in {folder}, got {len(extra)} others in {part!r}: "
                    f"{extra[:6]}"
                )
    every = set(found.names)
    lacking = {part: sorted(every - names) for part, names in classes.items() if every - names}
    if lacking:
        told = "; ".join(
            f"{part!r} has no image of {len(names)} classes, {names[:3]} ..." for part, names in lacking.items()
        )
        warnings.warn(f"{folder}: {told}", stacklevel=6)


# --- classes ---------------------------------------------------------------------------------------------------------


def _read_classes(folder: Path, class_folders: Sequence[Path], part: str | None, found: LabelledFiles) -> None:
    _check_level(folder, class_folders)
    for class_folder in class_folders:
        images = _images_in(class_folder, found.left_out)
        if not images:
            raise InputError(f"expected images ({', '.join(ENDINGS)}) in {class_folder}, got none")
        found.add(images, [composed(class_folder.name)] * len(images), part)


def _check_level(folder: Path, class_folders: Sequence[Path]) -> None:
    """Raise where the folders are more likely groups or parts of classes than classes.

    A class may keep its images one level further down, alone or all classes in a folder of the same name ("images").
    """
    below = {
        path: [sub.name for sub in _subfolders(path, Counter()) if _images_in(sub, Counter())]
        for path in class_folders
        if not _holds_images(path)
    }
    inner_names = {name for names in below.values() for name in names}
    all_alike = len(below) == len(class_folders) and len(inner_names) > 1
    for path, names in below.items():
        if len(names) > 1 or (names and (all_alike or any(map(part_of, names)) or len(class_folders) == 1)):
            raise InputError(
                f"expected a folder of images for each class in {folder}, but {path.name!r} holds no image, only the "
                f"folders {names[:6]}: if these are the classes or the parts, name the folder that holds them "
                f"({path}), or bring them to one level"
            )


# --- files -----------------------------------------------------------------------------------------------------------


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and name[:1] != "."


def _subfolders(folder: Path, left_out: Counter[str]) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in folders:
        if _is_hidden(path.name):
            _count_hidden(path, left_out)
    return [path for path in folders if not _is_hidden(path.name)]


def _count_hidden(folder: Path, left_out: Counter[str]) -> None:
    hidden = sum(name.lower().endswith(ENDINGS) for _, _, names in os.walk(folder) for name in names)
    if hidden:
        left_out["hidden images"] += hidden


def _count_strays(folder: Path, left_out: Counter[str]) -> None:
    """Images that lie beside the folders of classes."""
    strays = sum(_is_image(path.name) for path in folder.iterdir() if path.is_file())
    if strays:
        left_out["images in no class folder"] += strays


def _holds_images(folder: Path) -> bool:
    return any(_is_image(path.name) and path.is_file() for path in folder.iterdir())


def _regular(file: Path) -> Path:
    """The file, if there is one to read: a link may lead nowhere, and what is read from a pipe may never come."""
    if not file.is_file():
        what = f"a link to {os.readlink(file)}, which is not there" if file.is_symlink() else "no file"
        raise InputError(f"expected an image at {file}, got {what}: move it away, or mend it")
    return file


def _images_in(folder: Path, left_out: Counter[str]) -> list[Path]:
    """All images at or below a folder, sorted; hidden ones and files of other kinds are counted."""
    images = []
    for place, folders, names in os.walk(folder):
        for name in filter(_is_hidden, folders):
            _count_hidden(Path(place, name), left_out)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            if _is_image(name):
                images.append(_regular(Path(place, name)))
            elif name.startswith("."):
                if name.lower().endswith(ENDINGS):
                    left_out["hidden images"] += 1
            elif not name.lower().endswith(NO_IMAGES):
                left_out[f"{Path(name).suffix.lower() or 'nameless-kind'} files"] += 1
    return sorted(images)
