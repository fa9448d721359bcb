"""What ``[distill]`` of a study file says: which students are taught, how, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from capmismatch.data.views import Views
from capmismatch.distillation.methods import Method


@dataclass(frozen=True)
class DistillConfig:
    """``[distill]``: which students, settings, seeds, and how they are trained.

    Attributes
    ----------
    students : names of architectures, see `capmismatch.architectures.names`
    methods : settings, see `capmismatch.distillation.methods.Method`; written as ``[[distill.methods]]``
    seeds : training runs a setting; run s takes the teacher's run s modulo its number of runs
    views : stored views of the training inputs, see `capmismatch.data.views.Views`
    recipe : see `capmismatch.training.loop.Recipe`; with a `name`, that of `Recipe.named` and what stands beside it
    device : where students are trained, "cpu" or "cuda"
    center, scale : raw inputs become (x - center) / scale; images are brought to [0, 1] first, and take one number a
        channel
    """

    students: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: int = 2
    views: Views = field(default_factory=Views)
    recipe: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    center: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
