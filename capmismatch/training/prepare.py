"""Raw inputs as networks take them: the one normaliser of students, of checkpoints and of the embedded teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capmismatch.errors import InputError


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
        if mean is not None and std is not None and len(mean) != len(std):
            raise InputError(f"expected as many numbers in mean as in std, got {list(mean)!r} and {list(std)!r}")
        if std is not None and not all(0 < value < float("inf") for value in std):
            raise InputError(f"expected positive std, got {list(std)!r}")
        self.mean = None if mean is None else torch.tensor(list(mean), dtype=torch.float32)
        self.std = None if std is None else torch.tensor(list(std), dtype=torch.float32)
        self.channels_last = channels_last

    def __call__(self, inputs: Any) -> Tensor:
        """Prepare one batch, an array or tensor (n, ...)."""
        x = _as_tensor(inputs)
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

    def _channels_first(self, images: Tensor) -> Tensor:
        """Images (n, H, W, C) as float32 (n, C, H, W), uint8 ones in [0, 1]."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        return x / 255 if images.dtype == torch.uint8 else x

    def __repr__(self) -> str:
        options = []
        if self.mean is not None and self.std is not None:
            mean, std = ([round(value, 6) for value in numbers.tolist()] for numbers in (self.mean, self.std))
            options += [f"mean={mean}", f"std={std}"]
        if self.channels_last:
            options.append("channels_last=True")
        return f"Normalise({', '.join(options)})"


def _as_tensor(inputs: Any) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, list):
        sizes = sorted({image.size for image in inputs})
        raise InputError(
            f"expected images of one size, got widths and heights {sizes[:4]} in one batch: resize them in the data set"
        )
    return torch.from_numpy(np.array(inputs, order="C"))
