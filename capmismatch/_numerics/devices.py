"""Where numbers are computed: by compiled loops in threads on the CPU, by tensor operations on any other device.

Both give the same: the same integers where ranks are counted, the same to 1e-12 elsewhere. Tensor operations are also
used on the CPU where numba is missing or has no place for what it compiles, where logits carry a gradient, and where
there are so few logits that compiling, or only loading what was compiled, would take longer than they do. Only the
search of ISATS is always that of the loops, as its two forms agree to 1e-8 alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import warnings
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch.errors import InputError

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

SMALL = 1 << 18  # logits at a time below which tensor operations answer before compiled loops are there
ACCELERATOR_FACTOR = 8  # times the logits that suit a thread's cache: an accelerator is slow at small things


def _keeps_compiled() -> bool:
    """Whether numba has a folder for what it compiles: beside this file, in the user's home, or NUMBA_CACHE_DIR."""
    try:
        numba.njit(cache=True)(_keeps_compiled)  # looks for the folder, as it will for the kernels beside this file
    except RuntimeError:
        return False
    return True


def _private_folder() -> str:
    """A temporary folder that nobody else may write to, as what lies there is run; the same one for the next process.

    Examples
    --------
    >>> os.path.isdir(_private_folder())
    True
    """
    if hasattr(os, "getuid"):
        folder = os.path.join(tempfile.gettempdir(), f"capmismatch-numba-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        status = os.lstat(folder)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return folder
    return tempfile.mkdtemp(prefix="capmismatch-numba-")


def _say(message: str) -> None:
    """Warn in one line: a line of code would be that of the import, and tell nothing."""
    warnings.warn_explicit(message, RuntimeWarning, "capmismatch", 1)


def _can_compile() -> bool:
    """Whether kernels can be compiled and kept, in a temporary folder where the installation may not be written to."""
    if numba is None:
        return False
    if _keeps_compiled():
        return True
    try:
        folder = _private_folder()
    except OSError:
        folder = ""
    if folder:
        before = os.environ.get("NUMBA_CACHE_DIR")
        os.environ["NUMBA_CACHE_DIR"] = folder  # also for the processes that this one starts
        numba.config.reload_config()
        if _keeps_compiled():
            _say(
                f"compiled loops are kept in {folder}, as numba may write neither beside the installation nor in a "
                "home folder; the environment variable NUMBA_CACHE_DIR names another place"
            )
            return True
        if before is None:
            del os.environ["NUMBA_CACHE_DIR"]
        else:
            os.environ["NUMBA_CACHE_DIR"] = before
        numba.config.reload_config()
    _say(
        "there is no folder in which numba may keep compiled loops: tensor operations take their place, more slowly; "
        "the environment variable NUMBA_CACHE_DIR names one"
    )
    return False


HAS_NUMBA = _can_compile()


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


def uses_loops(device: torch.device, logits: int | None = None, small: int = 1) -> bool:
    """Whether compiled loops work on that device, and so many logits at a time are worth it, `SMALL` x `small`."""
    return HAS_NUMBA and device.type == "cpu" and (logits is None or logits >= small * SMALL)


def thread_count(device: torch.device) -> int:
    """Threads that work side by side: as many as torch uses, or one for tensor operations, which start their own."""
    return torch.get_num_threads() if uses_loops(device) else 1


def logits_at_once(logits: int, device: torch.device) -> int:
    """How many logits to work on at a time on that device, from how many suit a thread of the CPU."""
    return logits if device.type == "cpu" else ACCELERATOR_FACTOR * logits
