"""Class names: which of a teacher's outputs belongs to which class of a data set. Names decide; doubt is an error."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, KeysView, Mapping, Sequence, Set
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError

BACKGROUND = ("background", "__background__")
_Key = TypeVar("_Key", bound=Hashable)
# SHA-256 of the 1000 WordNet ids of ILSVRC 2012 in sorted order, which is the order of every published model's outputs.
IMAGENET_WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def are_numbers(names: Sequence[str]) -> bool:
    """Whether class names are only their numbers, "0" to "C-1": what a data set without names gets."""
    return list(names) == [str(number) for number in range(len(names))]


def are_imagenet_ids(names: Sequence[str]) -> bool:
    """Whether class names are the WordNet ids of ImageNet-1K in their usual order."""
    return len(names) == 1000 and hashlib.sha256("\n".join(names).encode()).hexdigest() == IMAGENET_WNIDS


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): file systems and editors write an accented letter in two ways."""
    return unicodedata.normalize("NFC", name)


def natural_key(name: str) -> list[str | int]:
    """Sorts names as timm sorts class folders: numbers within them by value, upper and lower case alike.

    Examples
    --------
    >>> sorted(["b10", "Apple", "b9"], key=natural_key)
    ['Apple', 'b9', 'b10']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def default_order(names: Iterable[str]) -> list[str]:
    """The order of classes that nobody has put in order: plain numbers by value, other names as text.

    Examples
    --------
    >>> default_order(["10", "9", "2"]), default_order(["b", "a10", "a9"])
    (['2', '9', '10'], ['a10', 'a9', 'b'])
    """
    distinct = sorted(set(names))
    values = _values(distinct)
    return distinct if values is None else sorted(distinct, key=int)


def listed(classes: Any, place: str) -> Any:
    """Class names in the order of their labels; of a mapping, the order is that of its numbers, on either side.

    Parameters
    ----------
    classes : Any
        What was handed in: a list of names, ``{0: "cat", 1: "dog"}`` or ``{"cat": 0, "dog": 1}``.
    place : str
        What the classes are of, for messages.

    Returns
    -------
    Any
        A list of the names; what is neither a mapping nor an iterator as it is.

    Raises
    ------
    InputError
        For a set, whose order changes from one process to the next; for a mapping whose numbers are not 0 to C - 1.

    Examples
    --------
    >>> listed({"dog": 1, "cat": 0}, "pets"), listed({1: "dog", 0: "cat"}, "pets")
    (['cat', 'dog'], ['cat', 'dog'])
    """
    if isinstance(classes, Set) and not isinstance(classes, KeysView):
        shown = f"{type(classes).__name__} of {sorted(map(str, classes))[:5]}"
        raise InputError(f"expected a list of class names for {place}, in the order of the labels, got a {shown}")
    if not isinstance(classes, Mapping):
        return list(classes) if isinstance(classes, Iterator | KeysView) else classes
    for number_of in ({name: number for number, name in classes.items()}, dict(classes)):
        numbers = list(number_of.values())
        whole = all(isinstance(number, Integral) and not isinstance(number, bool) for number in numbers)
        if whole and len(numbers) == len(classes) and sorted(numbers) == list(range(len(numbers))):
            return sorted(number_of, key=lambda name: int(number_of[name]))
    raise InputError(
        f"expected the classes of {place} numbered from 0 to {len(classes) - 1}, got {dict(list(classes.items())[:5])}"
    )


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that stand several times told apart by a number from the second on.

    Examples
    --------
    >>> numbered(["crane", "maillot", "crane"])
    ('crane', 'maillot', 'crane (2)')
    """
    taken, result = set(names), []
    seen: set[str] = set()
    for name in names:
        unique, number = name, 2
        while unique in seen or (unique != name and unique in taken):
            unique, number = f"{name} ({number})", number + 1
        seen.add(unique)
        result.append(unique)
    return tuple(result)


def place_in(order: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The place of each of `names` in `order`; None where these are not the same names in some order.

    Examples
    --------
    >>> place_in(["cat", "dog"], ["dog", "cat"]), place_in(["cat", "dog"], ["dog", "cow"])
    ([1, 0], None)
    """
    place = {composed(name): number for number, name in enumerate(order)}
    wanted = [composed(name) for name in names]
    return [place[name] for name in wanted] if sorted(place) == sorted(wanted) and len(place) == len(order) else None


def match_classes(
    outputs: Sequence[str], classes: Sequence[str], teacher: str, advice: str = ""
) -> NDArray[np.int64] | None:
    """Find the column of each class of a data set among a teacher's outputs.

    A background class among the outputs is left out. Names decide: equal names first (in Unicode's composed form; then
    whatever the case, and whatever the order of synonyms), then a synonym between commas ("tench, Tinca tinca" and
    "tench") that only one name on either side has. Numbers are names where both sides have the same ones. Where either
    side has only numbers for names, or the WordNet ids of ImageNet-1K, and the other has not, the order decides.

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
    >>> match_classes(["0", "1", "2"], ["0", "2", "1"], "a network")
    array([0, 2, 1])
    """
    columns = _foreground(outputs, classes)
    names = [outputs[column] for column in columns]
    if len(names) != len(classes):
        raise InputError(f"expected {len(classes)} classes, as the data set has, got {len(outputs)} from {teacher}")
    try:
        columns = columns[_columns_of(names, classes)]
    except InputError as error:
        raise InputError(f"cannot match the classes {_shown(names)} of {teacher} by name: {error}{advice}") from None
    in_order = np.array_equal(columns, np.arange(len(outputs)))
    return None if in_order else columns


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


def _columns_of(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The one output of each class, by name where there are names, else by place."""
    in_place = np.arange(len(classes))
    outputs, classes = numbered(names), numbered(classes)
    found = _equal_names(outputs, classes)
    if len(found) == len(classes):
        return _without_doubt(found, names, in_place)
    own, wanted = _values(outputs), _values(classes)
    if own is not None and wanted is not None:
        return _columns_by_value(own, wanted)
    if any(are_numbers(side) or are_imagenet_ids(side) for side in (outputs, classes)):
        return in_place
    agree = all(_synonyms(name) & _synonyms(wanted) for name, wanted in zip(outputs, classes, strict=True))
    fits = {label: {column} for label, column in found.items()} | _unique_synonyms(outputs, classes, found)
    if agree and all(label in columns for label, columns in fits.items()):
        return in_place
    return _without_doubt(_one_for_each(fits, outputs, classes), names, in_place)


def _equal_names(outputs: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """From a class to the output of the same name, where both have it once, by ever weaker senses of "the same"."""
    found: dict[int, int] = {}
    for sense in SAME_NAME:
        left = [column for column in range(len(outputs)) if column not in set(found.values())]
        output_of = _once({column: [sense(outputs[column])] for column in left})
        class_of = _once({label: [sense(name)] for label, name in enumerate(classes) if label not in found})
        found |= {label: output_of[name] for name, label in class_of.items() if name in output_of}
    return found


def _unique_synonyms(outputs: Sequence[str], classes: Sequence[str], found: Mapping[int, int]) -> dict[int, set[int]]:
    """From a class without an equal name to the outputs that alone share a synonym with it alone."""
    taken = set(found.values())
    output_of = _once({column: _synonyms(name) for column, name in enumerate(outputs) if column not in taken})
    class_of = _once({label: _synonyms(name) for label, name in enumerate(classes) if label not in found})
    fits: dict[int, set[int]] = defaultdict(set)
    for word, label in class_of.items():
        if word in output_of:
            fits[label].add(output_of[word])
    return dict(fits)


def _one_for_each(fits: Mapping[int, set[int]], outputs: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """The one output of each class, or an error that names the first class that has none or several."""
    for label, class_name in enumerate(classes):
        near = sorted(
            fits.get(label) or (c for c, name in enumerate(outputs) if _synonyms(name) & _synonyms(class_name))
        )
        if label not in fits and not near:
            raise InputError(f"it has no {class_name!r}")
        if label not in fits or len(near) > 1:
            raise InputError(f"{[outputs[column] for column in near]} all fit {class_name!r}")
    found = {label: next(iter(columns)) for label, columns in fits.items()}
    columns = list(found.values())
    repeated = next((column for column in columns if columns.count(column) > 1), None)
    if repeated is not None:
        raise InputError(f"{outputs[repeated]!r} fits several classes of the data set")
    return found


def _without_doubt(found: Mapping[int, int], names: Sequence[str], in_place: NDArray[np.int64]) -> NDArray[np.int64]:
    """The columns by class; names that stand twice cannot tell which of them is which, unless all stand in place."""
    columns = np.array([found[label] for label in range(len(found))])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and not np.array_equal(columns, in_place):
        raise InputError(f"{twice!r} stands twice, and the order differs")
    return columns


def _columns_by_value(own: Sequence[int], wanted: Sequence[int]) -> NDArray[np.int64]:
    """Numbers are names where both sides have the same ones; other numbers stand for places where both ascend."""
    if sorted(own) == sorted(wanted):
        place = {value: column for column, value in enumerate(own)}
        return np.array([place[value] for value in wanted])
    if list(own) != sorted(own) or list(wanted) != sorted(wanted):
        raise InputError("they are other numbers than the data set's, and not in ascending order")
    return np.arange(len(wanted))


def _values(names: Sequence[str]) -> list[int] | None:
    """The numbers that names stand for, such as 7 for "07"; None unless all are distinct plain numbers."""
    if not names or not all(re.fullmatch(r"[0-9]{1,18}", name) for name in names):
        return None
    values = [int(name) for name in names]
    return values if len(set(values)) == len(values) else None


def _once(words_of: Mapping[int, Iterable[_Key]]) -> dict[_Key, int]:
    """From a word to the place that has it, of words that one place alone has."""
    places: dict[_Key, set[int]] = defaultdict(set)
    for place, words in words_of.items():
        for word in words:
            places[word].add(place)
    return {word: next(iter(of)) for word, of in places.items() if len(of) == 1}


def _folded(name: str) -> str:
    return " ".join(composed(name).replace("_", " ").casefold().split())


def _words(name: str) -> list[str]:
    return [word.strip() for word in _folded(name).split(",")]


def _synonyms(name: str) -> frozenset[str]:
    return frozenset(_words(name))


SAME_NAME: tuple[Callable[[str], Hashable], ...] = (composed, _folded, _synonyms)


def _shown(names: Sequence[str]) -> str:
    return "[" + ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "") + "]"
