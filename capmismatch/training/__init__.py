"""One plain training loop, its recipes and checkpoints, in one process or several."""

from capmismatch.training.checkpoint import Checkpoint
from capmismatch.training.loop import evaluate, fit
from capmismatch.training.recipes import OPTIMIZERS, SCHEDULES, Recipe

__all__ = ["OPTIMIZERS", "SCHEDULES", "Checkpoint", "Recipe", "evaluate", "fit"]
