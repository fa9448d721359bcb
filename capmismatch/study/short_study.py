"""A study cut to some of its teachers, settings, seeds and epochs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

from capmismatch.data.bank import LogitBank
from capmismatch.distillation.methods import Method
from capmismatch.sources.families import Family
from capmismatch.study.study import Study
from capmismatch.training.recipes import Recipe


class ShortStudy(Study):
    """A study cut down. It shares the folder of the whole one, and so its bank and its runs.

    Parameters
    ----------
    whole : Study
        Data sets that it has loaded are shared.
    teachers : pairs of family and teacher
    method : the only setting
    seeds, epochs : of the students; the recipe is `shortened`
    students : names
    """

    def __init__(
        self,
        whole: Study,
        teachers: Iterable[tuple[str, str]],
        method: Method,
        *,
        seeds: int,
        epochs: int,
        students: tuple[str, ...],
    ) -> None:
        self.__dict__.update({name: value for name, value in vars(whole).items() if name not in ("family", "recipe")})
        self.whole, self.chosen = whole, frozenset(teachers)
        recipe = shortened(whole.recipe, epochs).to_dict()
        self.config = replace(
            whole.config,
            distill=replace(
                whole.distillation,
                methods=(method,),
                seeds=seeds,
                students=students,
                recipe=recipe,
            ),
        )

    @property
    def bank(self) -> LogitBank:
        """The collected bank, with the chosen teachers alone."""
        bank = self.whole.bank
        bank.teachers = [record for record in bank.teachers if (record.family, record.teacher) in self.chosen]
        return bank

    @cached_property
    def family(self) -> Family:
        """The chosen teachers: only they look at the students' training rows."""
        return Family([teacher for teacher in self.whole.family if (teacher.family, teacher.name) in self.chosen])


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe with fewer epochs; its milestones and warm-up keep their share of them.

    Examples
    --------
    >>> shortened(Recipe(epochs=240, schedule="step", milestones=(150, 180, 210), warmup_epochs=5), 48)
    Recipe(epochs=48, batch_size=100, optimizer='adamw', lr=0.005, schedule='step', milestones=(30, 36, 42), \
warmup_epochs=1, weight_decay=0.01, momentum=0.9, shift=0)
    """
    share = epochs / recipe.epochs
    changes: dict[str, Any] = {
        "milestones": tuple(round(milestone * share) for milestone in recipe.milestones),
        "warmup_epochs": round(recipe.warmup_epochs * share),
    }
    return replace(recipe, epochs=epochs, **changes)
