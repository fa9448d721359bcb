"""Remedies for capacity mismatch: a lasting address for `capmismatch.distillation.remedies` and `.criteria`."""

from capmismatch.distillation.criteria import EarlyStopped, GradientGate
from capmismatch.distillation.remedies import teach_through, train_with_checkpoints

__all__ = ["EarlyStopped", "GradientGate", "teach_through", "train_with_checkpoints"]
