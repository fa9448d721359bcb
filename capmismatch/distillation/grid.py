"""Teachers x students x settings x seeds: running those runs of a study that are missing.

Killed anywhere and started again, a run goes on from its checkpoint to the same results.

Several commands on one folder, on one machine or on several that see it, share the runs: a run is done under its lock,
one that another command holds is left to it and looked at again at the end. So nothing is run twice, and what a killed
command leaves, another goes on with.
"""

from __future__ import annotations

import os
import time
import warnings
from contextlib import closing
from functools import partial
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from capmismatch._utils.files import is_locked
from capmismatch._utils.torchrun import process_group
from capmismatch.distillation.engines import ENGINES, Slots
from capmismatch.distillation.runs import Experiment, Run, is_settled, plan, results_of, run_folder, run_name
from capmismatch.distillation.student_trainer import Notice, Trainer
from capmismatch.errors import CapmismatchError, InputError

PAUSE = 1.0  # seconds between two looks at what other commands are at


def check_students(study: Experiment) -> None:
    """Refuse students and assistants that cannot be built, before hours go into what comes before them.

    Raises
    ------
    InputError : for a name that no architecture has, or inputs that it does not take
    """
    settings, trainer = study.distillation, Trainer(study)
    assistants = (name for method in settings.methods for name in method.assistants)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes only, and no random numbers used up
        for name in dict.fromkeys([*settings.students, *assistants]):
            try:
                trainer.build(name, seed=0)
            except InputError as error:
                raise InputError(f"{study.file.name} asks for the student {name!r}: {error}") from None
            except RuntimeError:  # a builder that reads its tensors' values
                continue


def distill(study: Experiment) -> pd.DataFrame:
    """Train every student of a study that has not been trained yet, and return the results table.

    Where they are trained is the study's `engine` to say: "processes" of this machine, or "ray", a cluster whose
    machines all see the study's folder. Under ``torchrun`` its processes train each student together instead, one
    student after another. A run that fails is written down and told of in a warning at the end; the others go on. Runs
    that other commands are at are waited for at the end, and done here should their command die.

    Raises
    ------
    InputError : the study has no bank yet, names students that cannot be built, or asks for a GPU where there is none
    CapmismatchError : every run failed, or a worker process was killed
    """
    bank = study.bank
    check_students(study)
    runs = plan(study, bank)
    folders = [run_folder(study, run) for run in runs]
    with process_group() as processes:  # the same for all processes of torchrun, whatever other commands do meanwhile
        missing = processes.on_rank_zero(
            lambda: [run for run, folder in zip(runs, folders, strict=True) if not (folder / "result.json").exists()]
        )
    if any(run.teacher for run in missing):
        count = study.distillation.views.count
        for number in tqdm(range(count), desc="views", unit="view", disable=not study.progress):
            study.view_bank(number)
    if missing:
        for run in missing:  # what failed is tried again; an error that comes from now on counts, whoever makes it
            (run_folder(study, run) / "error.txt").unlink(missing_ok=True)
        _train_all(study, missing, already=len(runs) - len(missing))
    done = [(run, folder) for run, folder in zip(runs, folders, strict=True) if (folder / "result.json").exists()]
    failed = [(run, folder) for run, folder in zip(runs, folders, strict=True) if not (folder / "result.json").exists()]
    if failed:
        run, folder = failed[0]
        error = folder / "error.txt"
        reason = error.read_text(encoding="utf-8").strip().splitlines()[-1] if error.exists() else "its process ended"
        message = f"{len(failed)} of {len(runs)} runs failed; the first, {run_name(run)}, with: {reason} (see {error})"
        if not done:
            raise CapmismatchError(message)
        warnings.warn(message, stacklevel=2)
    return results_of(done)


# --- running ---------------------------------------------------------------------------------------------------------


def _train_all(study: Experiment, missing: list[Run], already: int) -> None:
    """Hand the missing runs to the study's engine, and again those that other commands were at and let go of."""
    gpus = 0
    if study.distillation.device.startswith("cuda"):
        gpus = torch.cuda.device_count() or int(study.engine == "ray")  # a cluster may have what is not here
        if not gpus:
            raise InputError(f"[distill] asks for device {study.distillation.device!r}, and there is no GPU here")
    together, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    slots = Slots(study.workers if together == 1 else 1, gpus, study.address)
    told: set[Notice] = set()
    hidden = not study.progress or rank > 0
    with tqdm(total=already + len(missing), initial=already, desc="distill", unit="run", disable=hidden) as bar:
        while missing:
            elsewhere = _one_pass(study, missing, slots, bar, told)
            with process_group() as processes:
                missing = processes.on_rank_zero(partial(_left_by_others, study, elsewhere, bar))


def _one_pass(study: Experiment, runs: list[Run], slots: Slots, bar: Any, told: set[Notice]) -> list[Run]:
    """Train runs, and show each warning of theirs once: those that other commands are at, which are left alone."""
    elsewhere: list[Run] = []
    with closing(ENGINES[study.engine](Trainer(study), runs, slots)) as answers:  # type: ignore[type-var]
        for answer in answers:
            if answer is not None and answer.elsewhere:
                elsewhere.append(answer.run)
            else:
                bar.update()
            elsewhere = _still_elsewhere(study, elsewhere, bar)
            for text, kind in answer.notices if answer is not None else ():
                if (text, kind) not in told:
                    told.add((text, kind))
                    with bar.external_write_mode():
                        warnings.warn(text, kind, stacklevel=4)
    return elsewhere


def _left_by_others(study: Experiment, elsewhere: list[Run], bar: Any) -> list[Run]:
    """Wait until other commands have settled these runs, or let go of one: those that are still to be done then."""
    while elsewhere:
        let_go = [run for run in elsewhere if not is_locked(run_folder(study, run) / ".lock")]
        elsewhere = _still_elsewhere(study, elsewhere, bar)
        if any(run in let_go for run in elsewhere):
            break
        if elsewhere:
            time.sleep(PAUSE)
    return elsewhere


def _still_elsewhere(study: Experiment, runs: list[Run], bar: Any) -> list[Run]:
    """Those of other commands' runs that are not settled yet; the bar counts the others."""
    left = [run for run in runs if not is_settled(run_folder(study, run))]
    bar.update(len(runs) - len(left))
    bar.set_postfix_str(f"{len(left)} running elsewhere" if left else "")
    return left
