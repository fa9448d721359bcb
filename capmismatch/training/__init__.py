"""One plain training loop, its recipes and checkpoints, in one process or several."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from capmismatch.training.recipes import OPTIMIZERS, SCHEDULES, Recipe

if TYPE_CHECKING:
    from capmismatch.training.checkpoint import Checkpoint
    from capmismatch.training.loop import evaluate, fit

__all__ = ["OPTIMIZERS", "SCHEDULES", "Checkpoint", "Recipe", "evaluate", "fit"]

_LOADED_WHEN_USED = {"Checkpoint": "checkpoint", "evaluate": "loop", "fit": "loop"}  # with torch, which takes seconds


def __getattr__(name: str) -> Any:
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_USED[name]}"), name)
