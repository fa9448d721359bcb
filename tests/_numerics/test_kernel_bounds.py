"""No compiled kernel looks anything up outside its arrays, whatever it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from capmismatch._numerics import devices

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not devices.HAS_NUMBA, reason="needs numba")
def test_no_kernel_leaves_its_arrays(tmp_path: Path) -> None:
    """In a process of its own, as numba decides about bounds when it compiles; its cache does not tell these apart."""
    settings = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("run_all_kernels.py"))],
        capture_output=True,
        text=True,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
