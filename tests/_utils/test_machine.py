"""Freed memory is kept for the next batch."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from capmismatch._utils import machine
from capmismatch.errors import CapmismatchError

FAULTS = """
import resource, sys
import torch
from capmismatch._utils.machine import keep_freed_memory
if "kept" in sys.argv:
    keep_freed_memory()
def batch():
    large = torch.ones(2**24)  # 64 MiB, freed when this returns
for _ in range(20):  # until the heap has found its size
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_what_is_freed_is_kept() -> None:
    returned, reused = page_faults(), page_faults("kept")
    # Where the kernel gives whole pages of 2 MiB, ten arrays of 64 MiB still take 320.
    assert returned > 300 and reused < 0.1 * returned


RETURNED = """
import re
import torch
from capmismatch._utils.machine import keep_freed_memory, return_freed_memory
def held():  # MiB
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
keep_freed_memory()
large, small = torch.ones(2**26), torch.ones(2**10)  # 256 MiB; what stays lies behind it
del large
before = held()
return_freed_memory()
print(before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_what_is_kept_is_returned_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 200


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_have_no_such_setting(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("not asked")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(machine.ctypes, "CDLL", refuse)
    machine.keep_freed_memory()
    machine.return_freed_memory()


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "x"), ("OMP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "2,-1"), ("NUMBA_NUM_THREADS", "1.5")],
)
def test_numbers_of_threads_that_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    machine.check_thread_settings()
    monkeypatch.setenv(name, value)
    with pytest.raises(CapmismatchError, match=f"{name} a whole number >= 1, got '{value}'"):
        machine.check_thread_settings()
