"""A look at all that a study file says, before anything runs: each setting is read as its stage would read it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import pandas as pd

from capmismatch.distillation.results import load_results
from capmismatch.distillation.runs import Experiment, unit_named
from capmismatch.errors import CapmismatchError, InputError, must_be_one_of
from capmismatch.selection.metric import METRICS
from capmismatch.study.config import StudyConfig


class Settings(Experiment, Protocol):
    """What is asked of a study: what an experiment has, and all settings of its file."""

    config: StudyConfig

    def pick_options(self) -> dict[str, Any]:
        """What [pick] says, its evidence read."""


def check_settings(study: Settings) -> None:
    """Refuse what a later stage would refuse.

    Parameters
    ----------
    study : Settings
        Of which the settings are looked at: recipe, options of methods, names of probes and rules, ISATS, evidence.

    Raises
    ------
    InputError
        For the first setting that no stage can use; the message says where it stands.
    """
    for place, check in _checks(study):
        try:
            check()
        except CapmismatchError as error:
            text = str(error)
            raise InputError(text if place in text or not place else f"{place} of {study.file.name}: {text}") from None


def _checks(study: Settings) -> Iterator[tuple[str, Callable[[], Any]]]:
    config = study.config
    yield "[collect]", lambda: _device(config.collect.device)
    yield "[collect]", lambda: _students(config)
    yield "[probe]", lambda: _device(config.probe.device)
    yield "[probe]", lambda: _probes(study)
    yield "[correlate]", lambda: _primary(study)
    yield "[isats]", config.isats.specs
    yield "[pick]", lambda: _rule(study)
    if config.distill is not None:
        from capmismatch.distillation.grid import check_students

        distill = config.distill
        yield "[distill]", lambda: _device(distill.device)
        yield "[collect]", lambda: _keeps_all(study)
        yield "", lambda: study.recipe
        for number, method in enumerate(config.distill.methods):
            yield f"[[distill.methods]] number {number + 1}", method.check_loss
        taught = [method.label for method in distill.methods if method.has_teacher]
        yield "[pick]", lambda: check_pick(study, student=distill.students, label=taught)
        yield "", lambda: check_students(study)
        yield "[pick]", lambda: check_pick(study, metric=_metrics(study))


def _device(name: str) -> None:
    """Raise unless torch can hold numbers there: on "meta" it only pretends to."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(f"device {name!r} cannot be used here: {reason}") from None
    if device.type == "meta":
        raise InputError("device 'meta' holds no numbers: expected 'cpu', 'cuda' or another accelerator")


def _probes(study: Settings) -> None:
    from capmismatch.probes import FEATURES, PAIRS, REGISTRY

    for name in study.config.probe.names or ():
        must_be_one_of(name, (*REGISTRY, *FEATURES, *PAIRS), "probe")


def _primary(study: Settings) -> None:
    """Raise where the primary probe is none that is measured."""
    from capmismatch.probes import FEATURES, PAIRS, REGISTRY

    names = study.config.probe.names or (*REGISTRY, *FEATURES, *PAIRS)
    if study.config.correlate.primary is not None:
        must_be_one_of(study.config.correlate.primary, names, "primary")


def _students(config: StudyConfig) -> None:
    if config.collect.students is not None and config.distill is None:
        raise InputError("students are those of [distill], and there is none: name theirs as a [[family]] with role")


def _keeps_all(study: Settings) -> None:
    """Raise where students are to learn from rows that are condensed."""
    if study.config.collect.dense is False:
        raise InputError("students that are trained here learn from all tokens: leave dense = false or [distill] out")


def _metrics(study: Settings) -> list[str]:
    """What is measured on students that are trained here: of classifiers no likelihood."""
    from capmismatch.data.token_inputs import TokenInputs

    return ["accuracy", "nll"] if isinstance(study.train_data.inputs, TokenInputs) else ["accuracy"]


def check_pick(study: Settings, **known: Iterable[str]) -> None:
    """Refuse what [pick] names and the study does not have.

    Parameters
    ----------
    study : Settings
        Whose settings are looked at.
    **known : iterable of str
        By key of [pick], such as `family`, what there is.

    Raises
    ------
    InputError
        For the first that is not there.
    """
    for key, choices in known.items():
        name = getattr(study.config.pick, key)
        if name is not None:
            must_be_one_of(name, sorted(set(choices)), f"{key} in [pick] of {study.file.name}")


def check_teachers(study: Settings, teachers: Iterable[tuple[str, str]]) -> None:
    """Refuse a family in [pick], or a second teacher of a method, that the study does not have.

    Parameters
    ----------
    study : Settings
        Whose settings are looked at.
    teachers : iterable of (str, str)
        Family and name of each teacher; of several runs of one it may stand there several times.

    Raises
    ------
    InputError
        For the first that is not there, or is the name of several.
    """
    units = list(dict.fromkeys(teachers))
    check_pick(study, family=[family for family, _ in units])
    for method in study.config.distill.methods if study.config.distill is not None else ():
        if method.other is not None:
            unit_named(method.other, units, method.label)


class GivenResults(Settings, Protocol):
    """What is asked of a study whose results come from a file."""

    def given_results(self) -> dict[str, Any]:
        """The file of results and how to read it."""


def read_results(study: GivenResults) -> pd.DataFrame:
    """The results table of the file that a study names.

    Parameters
    ----------
    study : GivenResults
        Whose settings name a file of results.

    Returns
    -------
    DataFrame
        As `capmismatch.load_results` makes it.
    """
    options = study.given_results()
    return load_results(options.pop("file"), **options)


def check_pick_of(study: Settings, results: pd.DataFrame) -> None:
    """Refuse what [pick] names and results from a file do not have; a setting may be one of the evidence.

    Parameters
    ----------
    study : Settings
        Whose settings are looked at.
    results : DataFrame
        From `read_results`.

    Raises
    ------
    InputError
        For the first that is not there.
    """
    taught = results[results["teacher"].ne("")]
    check_pick(study, metric=[name for name in METRICS if name in results])
    if not study.config.pick.evidence:
        check_pick(study, student=taught["student"], label=taught["label"])


def check_results(study: GivenResults) -> None:
    """Refuse results from a file that a later stage would refuse; those of students trained here are made later.

    Parameters
    ----------
    study : GivenResults
        Any.

    Raises
    ------
    InputError
        Where the file is missing, or cannot be read as results, or lacks what [pick] names.
    """
    if study.config.results is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage that reads them warns
        check_pick_of(study, read_results(study))


def _rule(study: Settings) -> None:
    from capmismatch.selection.rules import RULES

    must_be_one_of(study.config.pick.rule, ("auto", *RULES), "rule")
    study.pick_options()
