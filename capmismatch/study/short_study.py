"""A study cut to some of its teachers, students, seeds and epochs, and to one setting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from capmismatch.distillation.methods import Method
from capmismatch.study.study import Study
from capmismatch.training.recipes import Recipe


def short_study(
    study: Study,
    teachers: Iterable[tuple[str, str]],
    method: Method,
    *,
    seeds: int,
    epochs: int,
    students: tuple[str, ...],
) -> Study:
    """Cut a study down. The short one shares the folder of the whole one, and so its bank and its runs.

    Parameters
    ----------
    study : Study
        With ``[distill]``.
    teachers : iterable of pairs of family and teacher
        Those that teach; only they look at the students' training rows.
    method : Method
        The only setting.
    seeds : int
        Training runs of each student.
    epochs : int
        Of the recipe, which is `shortened`.
    students : tuple of str
        Names of architectures.

    Returns
    -------
    Study
        As `Study.with_settings` makes it.
    """
    recipe = shortened(study.recipe, epochs).to_dict()
    settings = replace(study.distillation, methods=(method,), seeds=seeds, students=students, recipe=recipe)
    return study.with_settings(settings, teachers)


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe with fewer epochs; its milestones and warm-up keep their share of them.

    Parameters
    ----------
    recipe : Recipe
        The whole one.
    epochs : int
        Of the shorter one.

    Returns
    -------
    Recipe
        The shorter one.

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
