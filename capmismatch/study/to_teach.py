"""Which networks a study collects beside its teachers, because they are to be taught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from capmismatch.distillation.runs import Experiment

if TYPE_CHECKING:
    from capmismatch.sources.families import Teacher


def networks_to_teach(study: Experiment, how: str | None, given: Iterable[Teacher]) -> list[Teacher]:
    """Students of ``[[family]]`` tables, and those of ``[distill]`` where ``[collect] students`` asks for them.

    Parameters
    ----------
    study : Experiment
        Whose students they are.
    how : str or None
        "untrained", "plain", or None for none of ``[distill]``.
    given : iterable of Teacher
        Those of the tables.

    Returns
    -------
    list of Teacher
        With the role "student".
    """
    if how is None:
        return list(given)
    from capmismatch.study.students import students_to_teach  # here, because it loads torch

    return [*given, *students_to_teach(study, how)]
