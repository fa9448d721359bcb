"""Whatever a user hands in as numbers, as a plain NumPy array of them; what is no number is refused with its place.

Every door for logits, labels and inputs goes through `plain_array`. It imports no torch, so that banks can use it.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError


def plain_array(values: Any, place: str, wanted: str = "numbers") -> NDArray[Any]:
    """Booleans, integers or floats in this machine's byte order; bfloat16 and float8 become float32.

    Parameters
    ----------
    values : Any
        An array, a tensor (with gradients or not, on any device), a data frame or nested lists. ``|V2``, which is what
        NumPy makes of JAX's bfloat16 in a file, is read as bfloat16.
    place : str
        What the values are, for messages.
    wanted : str
        What was expected, for messages.

    Returns
    -------
    ndarray
        Of a dtype of kind "b", "i", "u" or "f".

    Raises
    ------
    InputError
        Where a value is text, a date, complex, missing, masked or an object; the message names it and its row.

    Examples
    --------
    >>> plain_array(np.array([1.5, 2.0], ">f8"), "logits").dtype == np.float64
    True
    >>> plain_array(["7", "n/a"], "labels", "whole numbers")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected whole numbers as labels, got 'n/a' at row 1
    """
    if hasattr(values, "detach"):
        array = _of_tensor(values, place, wanted)
    else:
        _refuse_masked(values, place, wanted)
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError, OverflowError, NotImplementedError) as error:
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise InputError(f"expected {wanted} as {place}, got {type(values).__name__}: {reason}") from None
    if array.dtype.kind == "O":
        array = _of_objects(array, place, wanted)
    if array.dtype.kind == "V":
        array = _of_small_floats(array, place, wanted)
    if array.dtype.kind not in "biuf":
        index = _first_text(array) if array.dtype.kind in "US" else (0,) * array.ndim
        got = repr(array[index].item()) + at(index) if array.size else f"an array of {array.dtype}"
        raise InputError(f"expected {wanted} as {place}, got {got}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def at(index: tuple[int, ...]) -> str:
    """Where a value stands, in words that end a sentence.

    Examples
    --------
    >>> at((3,)), at((3, 1)), at(())
    (' at row 3', ' at row 3, class 1', '')
    """
    if not index:
        return ""
    rest = "" if len(index) == 1 else f", class {index[1]}" if len(index) == 2 else f", place {tuple(index[1:])}"
    return f" at row {index[0]}{rest}"


def _first_text(array: NDArray[Any]) -> tuple[int, ...]:
    """Where the first text stands that is no number; where all are, the first."""
    for index, value in np.ndenumerate(array):
        try:
            float(value)
        except ValueError:
            return tuple(index)
    return (0,) * array.ndim


def _of_tensor(tensor: Any, place: str, wanted: str) -> NDArray[Any]:
    try:
        tensor = tensor.detach().cpu()
        if any(name in str(tensor.dtype) for name in ("bfloat16", "float8", "float4")):  # NumPy has none of these
            tensor = tensor.float()
        return tensor.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        kind = f"a tensor of {getattr(tensor, 'dtype', 'unknown type')}"
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise InputError(f"expected {wanted} as {place}, got {kind}: {reason}") from None


def _refuse_masked(values: Any, place: str, wanted: str) -> None:
    if isinstance(values, np.ma.MaskedArray):
        masked = np.argwhere(np.ma.getmaskarray(values))
        if len(masked):
            raise InputError(f"expected {wanted} as {place}, got a masked value{at(tuple(masked[0].tolist()))}")


def _of_objects(array: NDArray[Any], place: str, wanted: str) -> NDArray[Any]:
    """Python numbers of several types as one array: whole numbers if all are, else floats."""
    for index, value in np.ndenumerate(array):
        if not isinstance(value, Real | np.bool_):
            shown = repr(value)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise InputError(f"expected {wanted} as {place}, got {shown}{at(index)}")
    for dtype in (np.int64, np.float64):
        try:
            numbers = array.astype(dtype)
        except (OverflowError, ValueError, TypeError):
            continue
        if dtype == np.float64 or bool(np.all(numbers == array)):
            return numbers
    raise InputError(f"expected {wanted} as {place}, got numbers that float64 cannot hold")


def _of_small_floats(array: NDArray[Any], place: str, wanted: str) -> NDArray[Any]:
    """The types that JAX adds to NumPy; in a file they are bytes without a meaning, of which only two can be told."""
    if array.dtype.fields is None and not array.dtype.name.startswith("void"):
        return array.astype(np.float32)
    if array.dtype.fields is None and array.dtype.itemsize == 2:
        return (np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise InputError(
        f"expected {wanted} as {place}, got an array of {array.dtype}, whose bytes may mean anything: save float32"
    )


def listed(values: Any) -> Any:
    """Several values as they are; a single text or number as a list of one, as users write it.

    Examples
    --------
    >>> listed("nll"), listed(4), listed((1, 4))
    (['nll'], [4], (1, 4))
    """
    return [values] if isinstance(values, str | Real) else values
