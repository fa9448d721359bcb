"""Data sets that are handed in as objects: pairs of arrays, and one data set for each split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from capmismatch.data.class_names import composed
from capmismatch.data.dataset_readers import RawDataset
from capmismatch.data.image_checks import checked_inputs
from capmismatch.data.lazy_inputs import LazyInputs
from capmismatch.data.rows import PARTS, label_array, must_be_parts_once, part_of
from capmismatch.errors import InputError


def is_pair_of_arrays(source: Any) -> bool:
    """Whether an object is ``(X, y)``: inputs (N, ...) and labels (N,); a data set of two examples is no tuple.

    Examples
    --------
    >>> is_pair_of_arrays((np.zeros((3, 2)), [0, 1, 0])), is_pair_of_arrays([(np.zeros(2), 1), (np.zeros(2), 0)])
    (True, False)
    """
    return isinstance(source, tuple) and len(source) == 2 and all(_length(values) is not None for values in source)


def _length(values: Any) -> int | None:
    shape = getattr(values, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(values) if isinstance(values, list | tuple | LazyInputs) else None


def read_arrays(source: tuple[Any, Any], place: str) -> RawDataset:
    """Inputs and labels as arrays, checked."""
    inputs, labels = source
    array = inputs if isinstance(inputs, LazyInputs) else checked_inputs(inputs, place)
    return RawDataset(array, label_array(labels, f"labels of {place}"))


def check_parts(source: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping from splits, in any spelling, to data sets; by our names of the splits.

    Raises
    ------
    InputError
        If a key is no split, or two are the same one.
    """
    parts = {str(name): part_of(str(name)) for name in source}
    unknown = [name for name, part in parts.items() if part is None]
    if unknown or not parts:
        raise InputError(
            f"expected a data set for each split, under names such as {list(PARTS)}, got {list(source)}; arrays go in "
            "as (X, y)"
        )
    must_be_parts_once(parts, "the data sets handed in")
    return {str(part): source[name] for name, part in zip(source, parts.values(), strict=True)}


def join_parts(parts: Mapping[str, RawDataset], place: str) -> RawDataset:
    """Data sets of several splits as one, with ids such as "val/0".

    Parameters
    ----------
    parts : mapping of str to RawDataset
        By split.
    place : str
        What the data set is called, for messages.

    Returns
    -------
    RawDataset
        Inputs as one array where all are arrays of one shape and type, else read row by row.

    Raises
    ------
    InputError
        If the splits name other classes.

    Examples
    --------
    >>> joined = join_parts({name: RawDataset(np.zeros((2, 3)), [0, 1]) for name in ("val", "test")}, "two")
    >>> joined.inputs.shape, joined.ids
    ((4, 3), ['val/0', 'val/1', 'test/0', 'test/1'])
    """
    named = [raw.classes for raw in parts.values() if raw.classes is not None]
    for classes in named:
        if list(map(composed, map(str, classes))) != list(map(composed, map(str, named[0]))):
            raise InputError(
                f"expected the same classes in every split of {place}, got {list(named[0])} and {list(classes)}"
            )
    ids, split, labels = [], [], []
    for name, raw in parts.items():
        own = np.arange(len(raw.labels)) if raw.ids is None else raw.ids
        ids += [f"{name}/{one}" for one in own]
        split += [name] * len(raw.labels)
        labels.append(label_array(raw.labels, f"labels of split {name!r} of {place}"))
        if len(raw.inputs) != len(raw.labels):
            raise InputError(
                f"expected as many inputs as labels in split {name!r} of {place}, got {len(raw.inputs)} and "
                f"{len(raw.labels)}"
            )
    doubt = next((raw.doubt for raw in parts.values() if raw.doubt), "")
    classes = named[0] if named else None
    return RawDataset(_joined_inputs(parts, place), np.concatenate(labels), classes, ids, split, doubt=doubt)


def _joined_inputs(parts: Mapping[str, RawDataset], place: str) -> Any:
    inputs = [raw.inputs for raw in parts.values()]
    if all(isinstance(array, np.ndarray) for array in inputs):
        if len({(array.shape[1:], array.dtype) for array in inputs}) == 1:
            return np.concatenate(inputs)
        raise InputError(
            f"expected inputs of one shape and type in every split of {place}, got "
            f"{[(array.shape[1:], str(array.dtype)) for array in inputs]}"
        )
    starts = np.cumsum([0, *map(len, inputs)])

    def fetch(row: int) -> Any:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return inputs[part][row - int(starts[part]) : row - int(starts[part]) + 1][0]

    return LazyInputs(fetch, np.arange(int(starts[-1])), place)
