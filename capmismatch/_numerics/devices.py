"""Where numbers are computed: by compiled loops in threads on the CPU, by tensor operations on any other device.

Both give the same: the same integers where ranks are counted, the same to 1e-10 elsewhere. Tensor operations are also
used on the CPU where numba is missing or logits carry a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch.errors import InputError

try:
    import numba  # noqa: F401
except ImportError:
    HAS_NUMBA = False
else:
    HAS_NUMBA = True

ACCELERATOR_FACTOR = 8  # times the logits that suit a thread's cache: an accelerator is slow at small things


def as_device(name: str) -> torch.device:
    """The device of that name, checked to exist and to have float64.

    Parameters
    ----------
    name : str
        Such as "cpu" or "cuda".

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    InputError
        There is no such device, or it has no float64.

    Examples
    --------
    >>> as_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"expected a device with float64, such as 'cpu' or 'cuda', got {name!r}: {reason}") from None
    return device


def to_numpy(values: Tensor) -> NDArray[Any]:
    """Values as an array, wherever they were computed."""
    return values.detach().cpu().numpy()


def uses_loops(device: torch.device) -> bool:
    """Whether compiled loops work on that device."""
    return HAS_NUMBA and device.type == "cpu"


def thread_count(device: torch.device) -> int:
    """Threads that work side by side: as many as torch uses, or one for tensor operations, which start their own."""
    return torch.get_num_threads() if uses_loops(device) else 1


def logits_at_once(logits: int, device: torch.device) -> int:
    """How many logits to work on at a time on that device, from how many suit a thread of the CPU."""
    return logits if device.type == "cpu" else ACCELERATOR_FACTOR * logits
