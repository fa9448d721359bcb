"""Inputs that are read only when some rows are asked for: an image folder need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.data.image_checks import eight_bits, is_image
from capmismatch.errors import CapmismatchError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class LazyInputs:
    """Rows fetched one by one: an array (n, ...) where all asked for have one shape, else a list of PIL images.

    Where grey and coloured images occur, all are taken as coloured: `sample` settles it once, so that every batch has
    as many channels as the others.

    Parameters
    ----------
    fetch : callable
        From a row number to an array or PIL image.
    rows : ndarray of int
        Which rows, in which order.
    name : str
        Of the data set, for messages.
    stamp : callable, optional
        From a row number to what tells the row from any other, such as a hash of a file; it goes into the data set's
        fingerprint.
    channels : int, optional
        How many channels images have, where that is known; `sample` finds out.
    stamp_few : bool
        Whether the stamp counts, too, where so few rows are there that `sample` reads all.

    Examples
    --------
    >>> inputs = LazyInputs(lambda row: np.full(2, row), np.arange(4), "squares")
    >>> inputs[1:3].tolist(), len(inputs.take([3, 0])), inputs.shape
    ([[1, 1], [2, 2]], 2, (4, 2))
    """

    def __init__(
        self,
        fetch: Callable[[int], Any],
        rows: NDArray[Any],
        name: str,
        stamp: Callable[[int], str] | None = None,
        channels: int | None = None,
        stamp_few: bool = True,
    ) -> None:
        self.fetch, self.rows, self.name, self.stamp, self.channels = fetch, rows, name, stamp, channels
        self.stamp_few = stamp_few

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
        return LazyInputs(self.fetch, self.rows[np.asarray(rows)], self.name, self.stamp, self.channels, self.stamp_few)

    def sample(self, rows: NDArray[Any]) -> Any:
        """As indexing with `rows`; settles, too, how many channels images have: 3 where those of these rows differ."""
        numbers = self.rows[rows]
        arrays = [self._fetched(int(row)) for row in numbers]
        if self.channels is None and arrays and all(is_image(array) for array in arrays):
            counts = {_channels(array) for array in arrays}
            self.channels = counts.pop() if len(counts) == 1 else 3
            arrays = [self._in_channels(array, int(row)) for array, row in zip(arrays, numbers, strict=True)]
        return self._joined(arrays, numbers)

    def _fetched(self, row: int) -> NDArray[Any]:
        """One input as an array, in as many channels as the others."""
        place = f"row {row} of data set {self.name!r}"
        try:
            array = as_array(self.fetch(row), place)
        except CapmismatchError:
            raise
        except Exception as error:  # of a data set handed in, of an image library: whatever it is, the row is named
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise InputError(f"{place} cannot be read: {type(error).__name__}: {reason}") from None
        return self._in_channels(array, row)

    def _in_channels(self, array: NDArray[Any], row: int) -> NDArray[Any]:
        """An image in as many channels as the others, where that is settled."""
        if self.channels is None or not is_image(array) or _channels(array) == self.channels:
            return array
        if self.channels == 3:
            return np.asarray(to_image(array))
        raise InputError(
            f"expected images of {self.channels} channels, as the others of data set {self.name!r} have, got "
            f"{_channels(array)} at row {row}: convert them all alike"
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return np.asarray(self)[index]
        rows = np.atleast_1d(self.rows[index])
        arrays = [self._fetched(int(row)) for row in rows]
        return self._joined(arrays, rows) if arrays else np.empty((0, *self[:1].shape[1:]))

    def _joined(self, arrays: list[NDArray[Any]], rows: NDArray[Any]) -> Any:
        """One array of all, or a list of images where their sizes differ."""
        different = next((i for i, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
        if different is None:
            return np.stack(arrays)
        if all(is_image(array) for array in arrays):
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


def _channels(image: NDArray[Any]) -> int:
    return 1 if image.ndim == 2 else int(image.shape[2])


def as_array(value: Any, place: str = "the inputs") -> NDArray[Any]:
    """An input as an array; a grey PIL image gets a channel axis, as a coloured one has."""
    if hasattr(value, "convert"):
        array = np.asarray(eight_bits(value, place))
        return array[:, :, None] if array.ndim == 2 else array
    return plain_array(value, place, "an image or numbers")


def to_image(value: Any, channels: int = 3) -> Image:
    """A uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or any PIL image, as an RGB image, or a grey one."""
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    if hasattr(value, "convert"):
        return eight_bits(value, "the inputs").convert(mode)
    if not isinstance(value, np.ndarray) or not is_image(value):
        kind = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(
            "expected images: uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or PIL images, got "
            f"{kind}"
        )
    return Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value).convert(mode)
