"""Teachers x students x settings x seeds: doing those runs of a study that are missing.

A run that was killed goes on from its checkpoint, to the same results.

Several commands can work on one folder, on one machine or on several that see it: each run is done under its lock. A
run that another command holds is left alone and looked at again at the end. So nothing is done twice, and a run whose
command was killed is finished by another.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from capmismatch._utils.files import is_locked
from capmismatch._utils.progress import progress_bar
from capmismatch._utils.torchrun import process_group, world_size
from capmismatch.architectures import count_parameters
from capmismatch.distillation.batched import StackTrainer, bundles
from capmismatch.distillation.engines import ENGINES, Resources
from capmismatch.distillation.runs import Experiment, Run, is_settled, plan, results_of, run_folder
from capmismatch.distillation.student_trainer import CaughtWarning, Outcome, Trainer
from capmismatch.errors import CapmismatchError, InputError

MOST_PARAMETERS = 500_000_000
"""Of a student: far more than any that is taught here."""

PAUSE = 1.0  # seconds between two looks at the runs of other commands


def check_students(study: Experiment) -> None:
    """Refuse students and assistants that cannot be built, before hours go into what comes before them.

    Raises
    ------
    InputError
        A name that no architecture has, or inputs that it does not take.
    """
    config, trainer = study.distillation, Trainer(study)
    if trainer.is_text:
        _check_text(study)
    assistants = (name for method in config.methods for name in method.assistants)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes only, and no random numbers are used up
        for name in dict.fromkeys([*config.students, *assistants]):
            try:
                _check_size(trainer.build(name, seed=0))
            except InputError as error:
                raise InputError(f"{study.file.name} asks for the student {name!r}: {error}") from None
            except RuntimeError:  # a builder that reads its tensors' values
                continue


def _check_size(network: torch.nn.Module) -> None:
    """Refuse a student of a size that was typed by mistake; of lazy layers the size is not known yet."""
    if not any(torch.nn.parameter.is_lazy(parameter) for parameter in network.parameters()):
        size = count_parameters(network)
        if size > MOST_PARAMETERS:
            raise InputError(f"expected at most {MOST_PARAMETERS:,} parameters, got {size:,}")


def _check_text(study: Experiment) -> None:
    """Refuse what students of a text cannot have."""
    config, recipe = study.distillation, study.recipe
    through = next((method.label for method in config.methods if method.assistants), None)
    if through is not None:
        raise InputError(f"assistants between language models are not supported, got the method {through!r}")
    if config.views.kind != "none":
        raise InputError(f"a text has no views of kind {config.views.kind!r}: leave views of [distill] out")
    if recipe.shift:
        raise InputError(f"a shift needs images, got shift={recipe.shift} with a text")


def distill(study: Experiment) -> pd.DataFrame:
    """Train every student of a study that has not been trained yet.

    The study's `engine` says how: "batched" trains students of one shape together, as one stacked computation, in
    processes of this machine; "processes" trains them there one by one; "ray" does so on a cluster whose machines all
    see the study's folder. Without one, students are stacked where that is known to be quicker. Results are the same
    but for rounding, and a run's hash does not tell the engine. Under ``torchrun`` its processes train each student
    together instead, one student after another.
    A failed run is recorded and reported in a warning at the end; the others go on. Runs that other commands hold are
    waited for at the end, and done here if their command dies.

    Parameters
    ----------
    study : Experiment
        A `Study`, whose bank has been collected.

    Returns
    -------
    DataFrame
        The results table, one row per run and split, with the columns of `capmismatch.load_results`.

    Raises
    ------
    InputError
        The study has no bank yet, names students that cannot be built, or asks for a GPU where there is none.
    CapmismatchError
        Every run failed, or a worker process was killed.
    """
    bank = study.bank
    check_students(study)
    runs = [(run, run_folder(study, run)) for run in plan(study, bank)]
    with process_group() as processes:  # the same for all processes of torchrun, whatever other commands do meanwhile
        missing = processes.on_rank_zero(lambda: [run for run, folder in runs if not _is_done(folder)])
    if any(run.teacher for run in missing):
        views = range(study.distillation.views.count)
        with progress_bar(views, desc="views", show=study.progress, unit="view") as bar:
            for number in bar:
                study.view_bank(number)
    if missing:
        for run in missing:  # failed runs are tried again; an error from now on counts, whichever command it comes from
            (run_folder(study, run) / "error.txt").unlink(missing_ok=True)
        _train_all(study, missing, done=len(runs) - len(missing))
    done = [(run, folder) for run, folder in runs if _is_done(folder)]
    failed = [(run, folder) for run, folder in runs if not _is_done(folder)]
    if failed:
        message = f"{len(failed)} of {len(runs)} runs failed; the first, {_describe_failure(*failed[0])}"
        if not done:
            raise CapmismatchError(message)
        warnings.warn(message, stacklevel=2)
    return results_of(done)


def _is_done(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _describe_failure(run: Run, folder: Path) -> str:
    """A failed run's name and the last line of its error."""
    error = folder / "error.txt"
    reason = error.read_text(encoding="utf-8").strip().splitlines()[-1] if error.exists() else "its process ended"
    return f"{run.name}, with: {reason} (see {error})"


def _train_all(study: Experiment, missing: list[Run], done: int) -> None:
    """Train the missing runs, again and again those that other commands held and let go of unfinished."""
    resources = _resources(study)
    rank = int(os.environ["RANK"]) if world_size() > 1 else 0
    shown: set[CaughtWarning] = set()
    hidden = not study.progress or rank > 0
    runs = done + len(missing)
    with progress_bar(desc="distill", show=not hidden, total=runs, initial=done, unit="run") as bar:
        while missing:
            held_elsewhere = _train_each(study, missing, resources, bar, shown)
            with process_group() as processes:
                missing = processes.on_rank_zero(partial(_wait_for_others, study, held_elsewhere, bar))


def _resources(study: Experiment) -> Resources:
    """Workers and GPUs for a study's runs; one worker under torchrun, whose processes share each run."""
    gpus = 0
    if study.distillation.device.startswith("cuda"):
        gpus = torch.cuda.device_count() or int(study.engine == "ray")  # a cluster may have what is not here
        if not gpus:
            raise InputError(f"[distill] asks for device {study.distillation.device!r}, and there is no GPU here")
    return Resources(study.workers if world_size() == 1 else 1, gpus, study.address)


def _train_each(
    study: Experiment, runs: list[Run], resources: Resources, bar: Any, shown: set[CaughtWarning]
) -> list[Run]:
    """Train runs on the study's engine, show each of their warnings once, and return those that other commands hold."""
    held_elsewhere: list[Run] = []
    with closing(_outcomes(study, runs, resources)) as outcomes:
        for outcome in outcomes:
            if outcome is not None and outcome.held_elsewhere:
                held_elsewhere.append(outcome.run)
            else:
                bar.update()
            held_elsewhere = _unsettled(study, held_elsewhere, bar)
            for text, category in outcome.warnings if outcome is not None else ():
                if (text, category) not in shown:
                    shown.add((text, category))
                    with bar.external_write_mode():
                        warnings.warn(text, category, stacklevel=4)
    return held_elsewhere


def _outcomes(study: Experiment, runs: list[Run], resources: Resources) -> Generator[Outcome | None, None, None]:
    """How each run ended, as the engine gets to it; None for a run that took its process down with it."""
    if study.engine in ENGINES or world_size() > 1:
        yield from ENGINES["ray" if study.engine == "ray" else "processes"](Trainer(study), runs, resources)
        return
    tasks = bundles(study, runs, resources.workers, asked=study.engine == "batched")
    for outcomes in ENGINES["processes"](StackTrainer(study), tasks, resources):
        yield from outcomes


def _wait_for_others(study: Experiment, held_elsewhere: list[Run], bar: Any) -> list[Run]:
    """Wait until other commands have settled these runs, or let go of one unfinished; return the unsettled ones."""
    unsettled = held_elsewhere
    while unsettled:
        unlocked = [run for run in unsettled if not is_locked(run_folder(study, run) / ".lock")]
        unsettled = _unsettled(study, unsettled, bar)
        if any(run in unlocked for run in unsettled):
            break
        if unsettled:
            time.sleep(PAUSE)
    return unsettled


def _unsettled(study: Experiment, held_elsewhere: list[Run], bar: Any) -> list[Run]:
    """Those of other commands' runs that have neither ended nor failed; the bar counts the others."""
    unsettled = [run for run in held_elsewhere if not is_settled(run_folder(study, run))]
    bar.update(len(held_elsewhere) - len(unsettled))
    bar.set_postfix_str(f"{len(unsettled)} running elsewhere" if unsettled else "")
    return unsettled
