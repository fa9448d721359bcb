"""Validation of inputs, and terms that several losses share. All have finite gradients everywhere.

Every loss has the same joints: validate the options (`must_be_positive`, `must_be_weight`), select the inputs in one
precision (`logits_pair`, `checked_labels`), compute.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from capmismatch._numerics.arrays import as_labels, as_logits
from capmismatch.errors import InputError


def logits_pair(student: Tensor, teacher: Tensor, check: bool = True) -> tuple[Tensor, Tensor]:
    """Return both logits in their common precision (float32 at least), the teacher's without gradient.

    Shapes are always checked, values if `check` is set.
    """
    must_be_tensors({"student logits": student, "teacher logits": teacher})
    s = as_logits(student, place="student logits") if check else single(student)
    t = as_logits(teacher.detach(), place="teacher logits") if check else single(teacher.detach())
    if s.shape != t.shape:
        raise InputError(f"expected teacher logits of the student's shape {tuple(s.shape)}, got {tuple(t.shape)}")
    if len(s) == 0:
        raise InputError("expected at least one example, got student logits of shape (0, C)")
    dtype = torch.promote_types(s.dtype, t.dtype)
    return s.to(dtype), t.to(dtype)


def must_be_tensors(given: Mapping[str, object]) -> None:
    """Raise unless all are tensors: a loss of arrays would have no gradient.

    Examples
    --------
    >>> must_be_tensors({"student logits": [[1.0, 2.0]]})
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected student logits as a torch tensor, got list: torch.as_tensor(...) makes one
    """
    for place, value in given.items():
        if not isinstance(value, Tensor):
            kind = "a NumPy array" if isinstance(value, np.ndarray) else type(value).__name__
            raise InputError(f"expected {place} as a torch tensor, got {kind}: torch.as_tensor(...) makes one")


def single(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 at least: half precision is for storing."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def checked_labels(labels: Tensor, logits: Tensor, check: bool = True) -> Tensor:
    """Return classes (N,) as int64 on the logits' device; that they lie in [0, C) is checked if `check` is set."""
    if not check:
        return labels.to(logits.device, torch.int64)
    return as_labels(labels, *logits.shape).to(logits.device)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy. No label means "ignore", as -100 does in PyTorch by default."""
    return F.cross_entropy(logits, labels, ignore_index=torch.iinfo(torch.int64).min)


def must_be_weight(value: float, name: str) -> None:
    """Raise unless `value` is a finite number >= 0."""
    if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value < float("inf")):
        raise InputError(f"{name} must be a number >= 0, got {value!r}")


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of each row, from log probabilities (N, C); finite even if probabilities underflow to 0."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product in the inputs' precision, also under autocast."""
    device = a.device.type
    if not torch.amp.is_autocast_available(device):
        return a @ b
    with torch.autocast(device, enabled=False):
        return a @ b


def standardize(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Z-score each row by its unbiased standard deviation; return the scores (N, C) and the deviations (N, 1).

    A row that is constant up to rounding has deviation 0, and the scores and gradient of a row of deviation 1.
    """
    resolution = 8 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(1, keepdim=True)
    centered = logits - logits.mean(1, keepdim=True)
    std = centered.std(1, keepdim=True)
    constant = std <= resolution
    return centered / torch.where(constant, 1.0, std), torch.where(constant, 0.0, std)


def pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along `dim`; 0, with gradient 0, where one side is constant up to rounding."""
    return (direction(a, dim) * direction(b, dim)).sum(dim)


def direction(x: Tensor, dim: int) -> Tensor:
    """Centre along `dim` and divide by the norm; 0 where `x` is constant up to rounding."""
    info = torch.finfo(x.dtype)
    # Scaled to 1 first: probabilities may be so small that their squares underflow.
    x = x / x.detach().abs().amax(dim, keepdim=True).clamp_min(info.tiny)
    centered = x - x.mean(dim, keepdim=True)
    norm = torch.linalg.vector_norm(centered, dim=dim, keepdim=True)
    constant = norm <= 8 * info.eps * x.shape[dim] ** 0.5
    return torch.where(constant, 0.0, centered / torch.where(constant, 1.0, norm))
