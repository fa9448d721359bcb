"""``[distill]`` of a study file: which students are taught, by which settings, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from capmismatch.data.views import Views
from capmismatch.distillation.methods import Method
from capmismatch.errors import InputError, must_be_one_of, must_be_within, must_count

ENGINES = ("processes", "batched", "ray")


@dataclass(frozen=True)
class DistillConfig:
    """``[distill]``: which students, settings and seeds, and how they are trained.

    Attributes
    ----------
    students : tuple of str
        Architectures, see `capmismatch.architectures.names`.
    methods : tuple of Method
        The settings, written as ``[[distill.methods]]``.
    seeds : int
        Training runs per student, teacher and setting. Run s takes the teacher's run s modulo its number of runs.
    views : Views
        Stored views of the training inputs.
    recipe : dict
        Attributes of `capmismatch.training.loop.Recipe`; with a `name`, changes to that of `Recipe.named`.
    device : str
        Where students are trained, "cpu" or "cuda".
    threads : int
        CPU threads of each student's training, however many are trained side by side: results depend on their number in
        the last digit. More pay for large students with few of them at a time.
    engine : str, optional
        How students are trained: "batched" (those of one shape as one stacked computation), "processes" (one by one, in
        processes of this machine) or "ray" (on a cluster). By default stacked where that is known to be quicker. No
        result depends on it but for rounding.
    curves : bool
        Measure validation accuracy (of texts: NLL) after every epoch, for `capmismatch.Study.curves`. No result depends
        on it. Runs that are done stay as they are.
    center, scale : tuple of float
        Raw inputs become (x - center) / scale. Images are brought to [0, 1] first, and take one number per channel.
    """

    students: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: int = 2
    views: Views = field(default_factory=Views)
    recipe: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    engine: str | None = field(default=None, repr=False)  # the table is the same whatever it is made by
    curves: bool = field(default=False, repr=False)
    center: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        must_count(self.seeds, "seeds", most=10_000)
        must_count(self.threads, "threads", most=1_000)
        if self.engine is not None:
            must_be_one_of(self.engine, ENGINES, "engine")
        for name in ("students", "center", "scale"):
            if not getattr(self, name):
                raise InputError(f"expected {name}, at least one, got none")
        for name, least in {"center": -1e30, "scale": 1e-30}.items():
            for number in getattr(self, name):
                must_be_within(number, name, least, 1e30)
        double = next((name for name in self.students if self.students.count(name) > 1), None)
        if double is not None:
            raise InputError(f"expected each of students once, got {double!r} twice")
