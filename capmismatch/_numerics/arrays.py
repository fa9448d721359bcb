"""How arrays that users hand in become checked torch tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import InputError

ArrayLike = Any  # a tensor, an array, or nested lists

LARGEST_LOGIT = 3.4028234663852886e38  # of 32 bits: the squares of what lies beyond overflow


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
    if tensor.numel():
        least, most = torch.aminmax(tensor.detach())  # one cheap pass, NaN if one is; look for the place if it fails
        if not bool((least >= -LARGEST_LOGIT) & (most <= LARGEST_LOGIT)):
            _refuse_first_wild(tensor, place)
    return tensor


def _refuse_first_wild(tensor: Tensor, place: str) -> None:
    """Name the first logit that is no number, or absurdly large."""
    row, column = (int(i) for i in (~(tensor.detach().abs() <= LARGEST_LOGIT)).nonzero()[0])
    value = float(tensor.detach()[row, column])
    where = f"got {value} at row {row}, class {column} of {place}"
    if math.isfinite(value):
        raise InputError(f"expected logits in [-{LARGEST_LOGIT:.2g}, {LARGEST_LOGIT:.2g}], {where}")
    raise InputError(f"expected finite logits, {where}")


def as_labels(labels: ArrayLike, rows: int, num_classes: int, *, place: str = "labels") -> Tensor:
    """Return labels of shape (N,) as int64, checked to lie in [0, C)."""
    tensor = _as_tensor(labels, place)
    if tensor.ndim != 1 or len(tensor) != rows:
        raise InputError(f"expected {rows} {place}, one for each row of the logits, got shape {tuple(tensor.shape)}")
    integers = tensor.to(torch.int64)
    if tensor.is_floating_point() and not bool((integers == tensor).all()):
        row = int((integers != tensor).nonzero()[0])
        got = f"{tensor.dtype} with fractions, {float(tensor[row])} at row {row}"
        raise InputError(f"expected whole numbers as {place}, got {got}")
    check_range(integers, num_classes, place)
    return integers


def check_range(index: Tensor, size: int, place: str, what: str = "labels") -> None:
    """Raise unless all whole numbers lie in [0, size): compiled loops look nothing up outside their arrays."""
    bad = ((index < 0) | (index >= size)).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        raise InputError(f"expected {what} in [0, {size}), got {int(index[row])} at row {row} of {place}")


def as_pair(logits: ArrayLike, labels: ArrayLike, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return checked logits (N, C) and labels (N,) on the logits' device."""
    tensor = as_logits(logits, dtype=dtype)
    return tensor, as_labels(labels, *tensor.shape).to(tensor.device)


def widest_float(tensor: Tensor) -> torch.dtype:
    """float64 wherever the device has it (Apple's MPS does not): probes and searches need its digits."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
