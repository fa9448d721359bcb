"""Raw inputs as networks take them: the one normaliser of students, of checkpoints and of the embedded teachers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import InputError

LARGEST_MEAN = 1.5
"""Means and deviations beyond it are not those of images in [0, 1]."""


class Normalise:
    """Raw inputs as a float32 tensor: images as (n, C, H, W), uint8 ones in [0, 1]; then (x - mean) / std.

    Parameters
    ----------
    mean : sequence of float, optional
        One per channel (or feature), or one for all; without it nothing is subtracted.
    std : sequence of float, optional
        As `mean`; both or neither.
    channels_last : bool
        Whether float inputs have their channels last, too, as a student's raw inputs have them. Images then also keep
        that order in memory (faster convolutions, other rounding). By default only uint8 images (n, H, W, C) do.

    Raises
    ------
    InputError
        Where `mean` and `std` do not fit each other.

    Examples
    --------
    >>> Normalise([0.5], [0.25])(np.full((1, 2, 2, 1), 255, np.uint8)).flatten()
    tensor([2., 2., 2., 2.])
    """

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, *, channels_last: bool = False
    ) -> None:
        if (mean is None) != (std is None):
            raise InputError(f"expected both mean and std, or neither, got mean={mean!r}, std={std!r}")
        self.mean, self.std = _numbers(mean, "mean"), _numbers(std, "std")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise InputError(f"expected as many numbers in mean as in std, got {mean!r} and {std!r}")
        if self.std is not None and not bool(((self.std > 0) & self.std.isfinite()).all()):
            raise InputError(f"expected positive std, got {std!r}")
        self.channels_last = channels_last
        limits = [] if self.mean is None or self.std is None else [self.mean, self.std]
        self._is_wide = any(bool((numbers > LARGEST_MEAN).any()) for numbers in limits)
        self._unseen = 4  # how many more batches of float images are looked at

    def __call__(self, inputs: Any) -> Tensor:
        """Prepare one batch, an array or tensor (n, ...)."""
        x = _as_tensor(inputs)
        if x.dtype == torch.uint8 and x.ndim == 3:  # grey images without a channel axis, as MNIST has them
            x = x[..., None]
        self._check_scale(x)
        channel_axis = -1 if self.channels_last else 1
        if x.ndim == 4 and (self.channels_last or x.dtype == torch.uint8):
            x, channel_axis = self._channels_first(x), 1
        x = x.to(torch.float32)
        if self.mean is None or self.std is None:
            return x
        if len(self.mean) not in (1, x.shape[channel_axis]):
            raise InputError(
                f"expected inputs of {len(self.mean)} channels, as mean and std have, got shape {tuple(x.shape)}"
            )
        shape = [1] * x.ndim
        shape[channel_axis] = -1
        return (x - self.mean.to(x.device).view(shape)) / self.std.to(x.device).view(shape)

    def _check_scale(self, x: Tensor) -> None:
        """Raise, or warn, where mean and std are of another scale than the images."""
        if self.mean is None or self.std is None or x.ndim != 4 or not x.numel():
            return
        shown = f"mean={_shown(self.mean)}, std={_shown(self.std)}"
        if x.dtype == torch.uint8:
            if self._is_wide:
                raise InputError(f"expected mean and std of images in [0, 1], got {shown}: divide them by 255")
            return
        if not self._unseen:
            return  # finding least and largest waits for the device: the first batches tell enough
        self._unseen -= 1
        least, largest = float(x.min()), float(x.max())
        if bool((self.mean > LARGEST_MEAN).any()) and 0 <= least < largest <= 1:
            raise InputError(
                f"expected mean and std of images in [0, 1], as these inputs are, got {shown}: divide them by 255"
            )
        if not self._is_wide and bool((self.mean > 0).any()) and least >= 0 and largest > 20:
            warnings.warn(
                f"inputs go up to {largest:g}, and {shown} are for images in [0, 1]: float inputs are taken as they "
                "are, so divide these by 255 or give them as uint8",
                stacklevel=3,
            )

    def _channels_first(self, images: Tensor) -> Tensor:
        """Images (n, H, W, C) as float32 (n, C, H, W), uint8 ones in [0, 1]."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        return x / 255 if images.dtype == torch.uint8 else x

    def __repr__(self) -> str:
        options = []
        if self.mean is not None and self.std is not None:
            options += [f"mean={_shown(self.mean)}", f"std={_shown(self.std)}"]
        if self.channels_last:
            options.append("channels_last=True")
        return f"Normalise({', '.join(options)})"


def _numbers(values: Any, name: str) -> Tensor | None:
    """One number per channel as a tensor; None where there are none."""
    if values is None:
        return None
    array = plain_array(values, name)
    if array.ndim != 1 or not len(array) or not np.isfinite(array.astype(np.float64)).all():
        raise InputError(f"expected a list of finite numbers as {name}, one per channel, got {values!r}")
    return torch.tensor(array.tolist(), dtype=torch.float32)


def _shown(numbers: Tensor) -> list[float]:
    return [round(value, 6) for value in numbers.tolist()]


def _as_tensor(inputs: Any) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, list) and inputs and hasattr(inputs[0], "size"):
        sizes = sorted({getattr(image, "size", None) for image in inputs}, key=str)
        raise InputError(
            f"expected images of one size, got widths and heights {sizes[:4]} in one batch: resize them in the data set"
        )
    return torch.from_numpy(np.array(plain_array(inputs, "the inputs"), order="C"))
