"""What this process may use of the machine: its cores, and memory that it has freed."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capmismatch.errors import CapmismatchError

_CGROUPS = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def usable_cores() -> int:
    """Cores that this process may use: its affinity, as a scheduler sets it, and at most its container's quota.

    A quota of one and a half cores counts as two.

    Examples
    --------
    >>> 1 <= usable_cores() <= (os.cpu_count() or 1)
    True
    """
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(affine, _quota())))


def _quota() -> float:
    """Cores' worth of time that Linux allows the container; infinity where there is no limit."""
    versions = [["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]]  # files of cgroups v2, v1
    for names in versions:
        try:
            allowed, period = " ".join((_CGROUPS / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        if allowed not in ("max", "-1"):
            return int(allowed) / int(period)
    return math.inf


def check_thread_settings() -> None:
    """Refuse thread counts in the environment that are none: libraries would take all cores, or fail at first use.

    Raises
    ------
    CapmismatchError
        Naming the variable and its value.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        text = os.environ.get(name, "").strip()
        numbers = text.split(",") if name == "OMP_NUM_THREADS" else [text]  # OpenMP: one for each level of nesting
        if text and not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
            raise CapmismatchError(
                f"expected the environment variable {name} a whole number >= 1, got {text[:40]!r}: correct it, or "
                "unset it"
            )


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside the block: sums in another number of parts are rounded otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory rather than return it to the system; with other C libraries nothing happens.

    Every batch of a network on the CPU allocates the same large arrays. By default glibc maps those of more than
    32 MiB from the system each time, which fills them with zeros page by page: a quarter of the time of a ResNet-56's
    forward pass, an eighth of a ResNet-8's training step. The setting holds for the whole process, which then never
    shrinks, so only the processes that capmismatch starts call this: the command line's and the workers'.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return what `keep_freed_memory` has kept to the system, after a step that needed more than the next ones will."""
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., Any] | None:
    """A function of the C library; None on other systems, and with other libraries, such as musl, that lack it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
