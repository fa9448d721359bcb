"""How arrays that users hand in become checked torch tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import InputError

ArrayLike = Any  # a tensor, an array, or nested lists


def _as_tensor(values: ArrayLike, place: str) -> Tensor:
    """A dense tensor of real numbers; floats in lists count as torch's default type, as `torch.as_tensor` has them."""
    if isinstance(values, Tensor):
        if values.is_complex() or values.layout != torch.strided or values.is_quantized:
            kind = values.layout if values.layout != torch.strided else values.dtype
            raise InputError(f"expected numbers as {place}, got a tensor of {kind}")
        return values
    array = plain_array(values, place)
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = array.copy()  # memory-mapped or reversed rows: torch takes neither
    try:
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"expected numbers as {place}, got {type(values).__name__}: {error}") from None
    is_list = not hasattr(values, "dtype") and not hasattr(values, "dtypes")
    return tensor.to(torch.get_default_dtype()) if is_list and tensor.is_floating_point() else tensor


def as_logits(logits: ArrayLike, *, dtype: torch.dtype | None = None, place: str = "logits") -> Tensor:
    """Return finite logits of shape (N, C), C >= 2, in `dtype` (by default their own type, float32 at least)."""
    tensor = _as_tensor(logits, place)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    tensor = tensor.to(dtype or torch.promote_types(tensor.dtype, torch.float32))
    if tensor.ndim != 2:
        raise InputError(f"expected {place} of shape (N, C), got shape {tuple(tensor.shape)}")
    if tensor.shape[1] < 2:
        raise InputError(f"expected at least 2 classes, got {tensor.shape[1]} in {place}")
    if not bool(torch.isfinite(tensor.detach().sum())):  # a sum is one cheap pass; look for the place only if it fails
        bad = (~torch.isfinite(tensor)).nonzero()
        if len(bad):
            row, column = (int(i) for i in bad[0])
            value = float(tensor[row, column])
            raise InputError(f"expected finite logits, got {value} at row {row}, class {column} of {place}")
    return tensor


def as_labels(labels: ArrayLike, rows: int, num_classes: int, *, place: str = "labels") -> Tensor:
    """Return labels of shape (N,) as int64, checked to lie in [0, C)."""
    tensor = _as_tensor(labels, place)
    if tensor.ndim != 1 or len(tensor) != rows:
        raise InputError(f"expected {rows} {place}, one for each row of the logits, got shape {tuple(tensor.shape)}")
    integers = tensor.to(torch.int64)
    if tensor.is_floating_point() and not bool((integers == tensor).all()):
        raise InputError(f"expected whole numbers as {place}, got {tensor.dtype} with fractions")
    bad = ((integers < 0) | (integers >= num_classes)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise InputError(f"expected labels in [0, {num_classes}), got {int(integers[row])} at row {row} of {place}")
    return integers


def as_pair(logits: ArrayLike, labels: ArrayLike, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return checked logits (N, C) and labels (N,) on the logits' device."""
    tensor = as_logits(logits, dtype=dtype)
    return tensor, as_labels(labels, *tensor.shape).to(tensor.device)


def widest_float(tensor: Tensor) -> torch.dtype:
    """float64 wherever the device has it (Apple's MPS does not): probes and searches need its digits."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
