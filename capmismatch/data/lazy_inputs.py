"""Inputs that are read only when some rows are asked for: an image folder need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class LazyInputs:
    """Rows fetched one by one: an array (n, ...) where all asked for have one shape, else a list of PIL images.

    Parameters
    ----------
    fetch : callable
        From a row number to an array or PIL image.
    rows : ndarray of int
        Which rows, in which order.
    name : str
        Of the data set, for messages.
    stamp : callable, optional
        From a row number to what is known of the row without reading it, such as a file's size; it goes into the data
        set's fingerprint.

    Examples
    --------
    >>> inputs = LazyInputs(lambda row: np.full(2, row), np.arange(4), "squares")
    >>> inputs[1:3].tolist(), len(inputs.take([3, 0])), inputs.shape
    ([[1, 1], [2, 2]], 2, (4, 2))
    """

    def __init__(
        self, fetch: Callable[[int], Any], rows: NDArray[Any], name: str, stamp: Callable[[int], str] | None = None
    ) -> None:
        self.fetch, self.rows, self.name, self.stamp = fetch, rows, name, stamp

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's, if all rows have the first one's shape."""
        return (len(self), *self[:1].shape[1:])

    @property
    def ndim(self) -> int:
        """As an array's."""
        return len(self.shape)

    def take(self, rows: Any) -> LazyInputs:
        """Some of the rows, still lazy; nothing is read."""
        return LazyInputs(self.fetch, self.rows[np.asarray(rows)], self.name, self.stamp)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return np.asarray(self)[index]
        rows = np.atleast_1d(self.rows[index])
        arrays = [as_array(self.fetch(int(row))) for row in rows]
        if not arrays:
            return np.empty((0, *self[:1].shape[1:]))
        different = next((i for i, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
        if different is None:
            return np.stack(arrays)
        if all(_is_image(array) for array in arrays):
            return [to_image(array) for array in arrays]
        raise InputError(
            f"expected inputs of one shape in {self.name}, got {arrays[0].shape} at row {rows[0]} and "
            f"{arrays[different].shape} at row {rows[different]}: resize them in the data set (only uint8 images may "
            "differ)"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        inputs = self[:]
        if isinstance(inputs, list):
            raise InputError(
                f"the images of data set {self.name!r} differ in size: they cannot be one array, as students and views "
                "take them; resize them first"
            )
        return inputs if dtype is None else inputs.astype(dtype)


def as_array(value: Any) -> NDArray[Any]:
    """An input as an array; a grey PIL image gets a channel axis, as a coloured one has."""
    array = np.asarray(value)
    return array[:, :, None] if hasattr(value, "convert") and array.ndim == 2 else array


def _is_image(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)))


def to_image(value: Any) -> Image:
    """A uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or any PIL image, as an RGB image."""
    from PIL import Image

    if hasattr(value, "convert"):
        return value.convert("RGB")
    if not _is_image(value):
        raise InputError(
            f"expected images: uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or PIL images, got "
            f"{value.dtype} of shape {value.shape}"
        )
    return Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value).convert("RGB")
