from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from capmismatch._numerics import devices

torch.set_num_threads(1)  # the tests' tensors are small: threads would only wait for each other
devices.SMALL = 0  # and so small that compiled loops would never be tried


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers, give out the files with the slowest tests first: none is left alone with one at the end."""
    if not hasattr(config, "workerinput"):
        return
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def real_data() -> Path:
    """The folder of CIFAR-10 images, checkpoints and logits; a test that asks for it is skipped where it is missing."""
    folder = Path(os.environ.get("CAPMISMATCH_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"no cifar10/ in {folder}: set CAPMISMATCH_REAL_DATA to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def _close_figures():
    """A figure that a test or an example leaves open is not the next one's: some count those that are open."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")  # not imported for tests that draw nothing
    if pyplot is not None:
        pyplot.close("all")
