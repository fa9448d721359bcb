"""How many cores this process may use, which need not be those of the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


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
    files = [["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]]  # of cgroups v2, v1
    for names in files:
        try:
            allowed, period = " ".join((_CGROUPS / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        if allowed not in ("max", "-1"):
            return int(allowed) / int(period)
    return math.inf
