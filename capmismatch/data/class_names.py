"""Which of a network's outputs belongs to which class of a data set: names decide, and a doubt is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from capmismatch.data.dataset_readers import is_imagenet
from capmismatch.data.records import are_numbers
from capmismatch.errors import InputError

BACKGROUND = ("background", "__background__")


def match_classes(own: Sequence[str] | None, wanted: Sequence[str], place: str) -> NDArray[np.int64] | None:
    """The network's column for each class of the data set; None where they stand as they are.

    A background class is left out. Names agree where they share a synonym ("tench, Tinca tinca" and "tench"), upper and
    lower case aside. Where either side has numbers or nothing for names, or one has the WordNet ids of ImageNet-1K, the
    place decides.

    Examples
    --------
    >>> match_classes(["background", "dog", "cat"], ["cat", "dog"], "a network")
    array([2, 1])
    >>> match_classes(["tench, Tinca tinca", "Goldfish"], ["tench", "goldfish"], "a network") is None
    True
    """
    if own is None:
        return None
    behind = [number for number, name in enumerate(own) if name.strip().lower() in BACKGROUND]
    if len(own) == len(wanted) + 1 and len(behind) == 1 and not set(_words(own[behind[0]])) & _all_words(wanted):
        columns = np.delete(np.arange(len(own)), behind[0])
        inner = match_classes([own[column] for column in columns.tolist()], wanted, place)
        return columns if inner is None else columns[inner]
    if len(own) != len(wanted):
        raise InputError(f"expected {len(wanted)} classes, as the data set has, got {len(own)} from {place}")
    if list(own) == list(wanted) or are_numbers(own) or are_numbers(wanted):
        return None
    if is_imagenet(own) or is_imagenet(wanted):
        return None
    mine, theirs = [_words(name) for name in own], [_words(name) for name in wanted]
    if all(set(one) & set(other) for one, other in zip(mine, theirs, strict=True)):
        return None
    columns = np.array([_only(other, mine, wanted[row], own, place) for row, other in enumerate(theirs)])
    if len(np.unique(columns)) != len(columns):
        twice = own[int(np.flatnonzero(np.bincount(columns) > 1)[0])]
        raise InputError(f"cannot match the classes of {place} by name: {twice!r} fits several classes of the data set")
    return columns


def _words(name: str) -> list[str]:
    return [word.strip().casefold() for word in name.replace("_", " ").split(",")]


def _all_words(names: Sequence[str]) -> set[str]:
    return {word for name in names for word in _words(name)}


def _only(name: list[str], mine: list[list[str]], wanted: str, own: Sequence[str], place: str) -> int:
    """The one column whose name agrees; where several share a synonym, the one that is spelled alike."""
    found = [column for column, other in enumerate(mine) if set(name) & set(other)]
    exact = [column for column in found if mine[column] == name]
    if len(exact) == 1 or len(found) == 1:
        return (exact or found)[0]
    shown = ", ".join(repr(one) for one in own[:6]) + (", ..." if len(own) > 6 else "")
    told = f"{[own[column] for column in found]} all fit {wanted!r}" if found else f"it has no {wanted!r}"
    raise InputError(
        f"cannot match the classes [{shown}] of {place} with the data set's by name: {told}. If they stand in the data "
        "set's order whatever they are called, load the family with by_position=True"
    )
