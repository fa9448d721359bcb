"""The allocator of this process: whether freed memory is kept for the next batch."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, rather than give it back to the system; elsewhere nothing happens.

    Every batch of a network on the CPU allocates the same large arrays. By default glibc maps those of more than
    32 MiB from the system each time, which fills them with zeros page by page: a quarter of the time of a ResNet-56's
    forward pass, an eighth of a ResNet-8's training step. It is a setting of the whole process, and the process stays
    as large as it ever was, so it is for processes of our own: the command line's and the workers'.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
