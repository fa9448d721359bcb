"""Images of a bank's examples, from a data set, an array or a list."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.data.datasets import Dataset
from capmismatch.data.lazy_inputs import as_array
from capmismatch.data.rows import Rows
from capmismatch.errors import InputError


class Images:
    """The image of each row of a bank, where there is one.

    Parameters
    ----------
    images : Dataset, ndarray or sequence
        A `Dataset`, whose rows are found by their ids; or an array (N, H, W), (N, H, W, 1), (N, H, W, 3) or
        (N, H, W, 4), or a sequence of N arrays or PIL images, one for each row of the bank.
    rows : Rows
        The bank's.

    Raises
    ------
    InputError
        If the data set shares no example with the bank, there is not one image for each row, or they are no images.

    Examples
    --------
    >>> from capmismatch.data.bank import make_rows
    >>> Images(np.zeros((2, 8, 8, 1)), make_rows("two", [0, 1], ["cat", "dog"]))[1].shape
    (8, 8)
    """

    def __init__(self, images: Any, rows: Rows) -> None:
        count = len(rows.ids)
        if isinstance(images, Dataset):
            indices = {str(name): index for index, name in enumerate(images.rows.ids)}
            self.inputs, self.indices = images.inputs, [indices.get(str(name)) for name in rows.ids]
            if not any(index is not None for index in self.indices):
                raise InputError(
                    f"expected images of the bank's examples ('{rows.ids[0]}' ...), got data set {images.name!r} "
                    f"('{images.rows.ids[0]}' ...), which has none of them"
                )
        else:
            self.inputs, self.indices = images, list(range(count))
            if len(images) != count:
                raise InputError(f"expected an image for each of the bank's {count} rows, got {len(images)}")
        self[next(row for row, index in enumerate(self.indices) if index is not None)]  # are they images at all?

    def __getitem__(self, row: int) -> NDArray[Any] | None:
        """The image of a row, (H, W) or (H, W, 3 or 4), as matplotlib draws it; None where there is none."""
        index = self.indices[row]
        if index is None:
            return None
        image = as_array(self.inputs[index : index + 1][0])
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
            raise InputError(
                f"expected images of shape (H, W) or (H, W, 1, 3 or 4), got shape {image.shape} at row {row}"
            )
        if image.dtype != np.uint8:  # matplotlib draws floats in [0, 1]; normalised inputs are not
            low, high = float(image.min()), float(image.max())
            image = image if low >= 0 and high <= 1 else (image - low) / max(high - low, 1e-12)
        return image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
