"""Class names: which of a teacher's outputs belongs to which class of a data set. Names decide; doubt is an error."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError

BACKGROUND = ("background", "__background__")
# SHA-256 of the 1000 WordNet ids of ILSVRC 2012 in sorted order, which is the order of every published model's outputs.
IMAGENET_WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def are_numbers(names: Sequence[str]) -> bool:
    """Whether class names are only their numbers, "0" to "C-1": what a data set without names gets."""
    return list(names) == [str(number) for number in range(len(names))]


def are_imagenet_ids(names: Sequence[str]) -> bool:
    """Whether class names are the WordNet ids of ImageNet-1K in their usual order."""
    return len(names) == 1000 and hashlib.sha256("\n".join(names).encode()).hexdigest() == IMAGENET_WNIDS


def match_classes(
    outputs: Sequence[str], classes: Sequence[str], teacher: str, advice: str = ""
) -> NDArray[np.int64] | None:
    """Find the column of each class of a data set among a teacher's outputs.

    A background class among the outputs is left out. Two names agree where they share a synonym ("tench, Tinca tinca"
    and "tench"), upper and lower case aside. The order decides, not the names, where either side has only numbers for
    names or has the WordNet ids of ImageNet-1K.

    Parameters
    ----------
    outputs : sequence of str
        Names of the teacher's outputs, in the order of its columns.
    classes : sequence of str
        Names of the data set's classes, in label order.
    teacher : str
        What the outputs belong to, for messages.
    advice : str, optional
        What the user can do where the names do not match; ends the message.

    Returns
    -------
    ndarray of shape (C,), int64, or None
        Column of each class; None where the outputs stand in the order of the classes already.

    Raises
    ------
    InputError
        Where the numbers of classes differ, or where a name is missing or ambiguous.

    Examples
    --------
    >>> match_classes(["background", "dog", "cat"], ["cat", "dog"], "a network")
    array([2, 1])
    >>> match_classes(["tench, Tinca tinca", "Goldfish"], ["tench", "goldfish"], "a network") is None
    True
    """
    columns = _foreground(outputs, classes)
    names = [outputs[column] for column in columns]
    if len(names) != len(classes):
        raise InputError(f"expected {len(classes)} classes, as the data set has, got {len(outputs)} from {teacher}")
    if _agree_in_order(names, classes):
        return None if len(columns) == len(outputs) else columns
    try:
        return columns[_columns_by_name(names, classes)]
    except InputError as error:
        raise InputError(f"cannot match the classes {_shown(names)} of {teacher} by name: {error}{advice}") from None


def _foreground(outputs: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The columns of the outputs without a background class, if there is one that the data set does not have."""
    columns = np.arange(len(outputs))
    background = [column for column, name in enumerate(outputs) if name.strip().lower() in BACKGROUND]
    if len(background) != 1 or len(outputs) != len(classes) + 1:
        return columns
    synonyms = _synonyms(outputs[background[0]])
    if any(synonyms & _synonyms(name) for name in classes):
        return columns
    return np.delete(columns, background[0])


def _agree_in_order(names: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether each output stands at the place of its class, or the names cannot tell."""
    if any(are_numbers(side) or are_imagenet_ids(side) for side in (names, classes)):
        return True
    return all(_synonyms(name) & _synonyms(class_name) for name, class_name in zip(names, classes, strict=True))


def _columns_by_name(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The one output of each class, whatever the order."""
    by_word: dict[str, set[int]] = defaultdict(set)
    for column, name in enumerate(names):
        for word in _words(name):
            by_word[word].add(column)
    columns = np.array([_column_of(class_name, names, by_word) for class_name in classes])
    repeated = np.flatnonzero(np.bincount(columns) > 1)
    if len(repeated):
        raise InputError(f"{names[repeated[0]]!r} fits several classes of the data set")
    return columns


def _column_of(class_name: str, names: Sequence[str], by_word: Mapping[str, set[int]]) -> int:
    """The one output that shares a synonym with the class; of several the one that lists the same synonyms."""
    words = _words(class_name)
    matches = sorted({column for word in words for column in by_word.get(word, ())})
    exact = [column for column in matches if _words(names[column]) == words]
    if len(exact) == 1:
        return exact[0]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise InputError(f"it has no {class_name!r}")
    raise InputError(f"{[names[column] for column in matches]} all fit {class_name!r}")


def _words(name: str) -> list[str]:
    return [word.strip().casefold() for word in name.replace("_", " ").split(",")]


def _synonyms(name: str) -> set[str]:
    return set(_words(name))


def _shown(names: Sequence[str]) -> str:
    return "[" + ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "") + "]"
