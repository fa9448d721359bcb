"""The door for inputs, images above all: which arrays and pictures are taken, and in which form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.plain_arrays import at, plain_array
from capmismatch.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = (1, 3, 4)
GREY_MODES = ("1", "LA", "La")
COLOUR_MODES = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa")
LAYOUT = "images as uint8 (N, H, W, C) with 1, 3 or 4 channels"


def eight_bits(image: Image, place: str) -> Image:
    """A PIL image as grey ("L"), "RGB" or "RGBA"; palettes, CMYK and the like become "RGB".

    Raises
    ------
    InputError
        Where the image has more than 8 bits a channel: PIL would cut them off at white.

    Examples
    --------
    >>> from PIL import Image
    >>> eight_bits(Image.new("P", (2, 2)), "a.png").mode, eight_bits(Image.new("1", (2, 2)), "b.png").mode
    ('RGB', 'L')
    """
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode in COLOUR_MODES:
        return image.convert("RGB")
    raise InputError(
        f"expected an image of 8 bits a channel, got one of mode {image.mode!r} (16 bits, 32 bits or floats) in {place}"
        ": scale it to 0 to 255 first"
    )


def is_image(array: NDArray[Any]) -> bool:
    """Whether an array is one uint8 image, with or without a channel axis."""
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS))


def checked_inputs(inputs: Any, place: str) -> NDArray[Any]:
    """An array of inputs (N, ...) as data sets hold them: plain numbers, images as uint8 (N, H, W, C).

    Grey uint8 images (N, H, W), as the files of MNIST have them, get their channel axis.

    Parameters
    ----------
    inputs : Any
        As `plain_array` takes them.
    place : str
        Of what, for messages.

    Returns
    -------
    ndarray of shape (N, ...)
        In this machine's byte order.

    Raises
    ------
    InputError
        Where a value is no finite number, or images lie in another order or have another type.

    Examples
    --------
    >>> checked_inputs(np.zeros((5, 28, 28), np.uint8), "digits").shape
    (5, 28, 28, 1)
    """
    array = plain_array(inputs, f"inputs of {place}")
    if array.ndim == 0:
        raise InputError(f"expected inputs of shape (N, ...) in {place}, got one number, {array.item()!r}")
    if array.ndim >= 2 and len(array) and not array.size:
        raise InputError(f"expected inputs of one number or more in {place}, got shape {array.shape}")
    if array.dtype == np.uint8:
        return _checked_images(array, place)
    if array.dtype.kind in "iu" and array.ndim >= 3:
        raise InputError(
            f"expected {LAYOUT}, or floats, got {array.dtype} of shape {array.shape} in {place}: nobody can say what "
            "scale it has. Convert values from 0 to 255 by .astype('uint8'); what are no images, by .astype('float32')"
        )
    if array.dtype.kind == "f":
        check_finite_inputs(array, place)
    return array


def _checked_images(array: NDArray[Any], place: str) -> NDArray[Any]:
    if array.ndim == 3:
        return array[..., None]
    if array.ndim == 4 and array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS:
        raise InputError(
            f"expected {LAYOUT}, got shape {array.shape} in {place}, which has its channels first: give "
            "images.transpose(0, 2, 3, 1)"
        )
    return array


def check_finite_inputs(array: NDArray[Any], place: str, rows: int = 4096) -> None:
    """Raise at the first NaN or infinite input, naming its row."""
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        if not np.isfinite(block).all():
            index = np.argwhere(~np.isfinite(block))[0].tolist()
            value, row = block[tuple(index)], start + index[0]
            raise InputError(f"expected finite inputs, got {value}{at((row,))} of {place}")
