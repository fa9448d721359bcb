"""Teachers x students x settings x seeds: which runs a study needs, and running those that are missing.

Every run is a folder ``runs/<hash of its configuration>/`` with ``config.json``, ``log.jsonl`` (one line an epoch, as
it ends), every now and then a checkpoint, and, once it is done, ``result.json`` instead. Killed anywhere and started
again, it goes on from the checkpoints to the same results.

Several commands on one folder, on one machine or on several that see it, share the runs: a run is done under its lock,
one that another command holds is left to it and looked at again at the end. So nothing is run twice, and what a killed
command leaves, another goes on with.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import warnings
from collections import defaultdict
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from capmismatch._utils.commands import command
from capmismatch._utils.files import hash_of, is_locked, locked, remove_temporaries, write_json, write_text
from capmismatch._utils.torchrun import Workers, workers
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.distillation.engines import ENGINES, Slots
from capmismatch.distillation.methods import Method
from capmismatch.distillation.results import SETTING, complete
from capmismatch.errors import BankError, CapmismatchError, InputError
from capmismatch.training.epoch_log import EpochLog
from capmismatch.training.loop import Checkpoint, evaluate, fit
from capmismatch.training.prepare import Prepare

if TYPE_CHECKING:
    from capmismatch.study.study import Study

Notice = tuple[str, type[Warning]]  # a warning's text and kind

FORMAT = 1  # of a run's configuration; a change that alters results must raise it
PAUSE = 1.0  # seconds between two looks at what other commands are at


@dataclass(frozen=True)
class Run:
    """One student to train: which teacher (None for plain cross-entropy), which setting, which seed."""

    student: str
    method: Method
    seed: int
    teacher: TeacherRecord | None


@dataclass(frozen=True)
class Answer:
    """What became of a run: the warnings on its way, and whether another command is at it."""

    run: Run
    notices: list[Notice]
    elsewhere: bool


def plan(study: Study, bank: LogitBank) -> list[Run]:
    """Every run of a study, teacher by teacher. Student seed s has the teacher's training run s modulo its runs."""
    settings = study.distillation
    by_teacher: dict[tuple[str, str], list[TeacherRecord]] = defaultdict(list)
    for record in bank.teachers:
        by_teacher[record.family, record.teacher].append(record)
    if not by_teacher and any(method.name != "CE" for method in settings.methods):
        collect = command("collect", study.file, study.folder)
        raise InputError(f"there is no teacher in {bank.path}: run `{collect}` to the end")
    runs = []
    for method in settings.methods:
        taught = list(by_teacher.values()) if method.name != "CE" else [[None]]
        for own in taught:
            for student in settings.students:
                runs += [Run(student, method, seed, own[seed % len(own)]) for seed in range(settings.seeds)]
    return sorted(runs, key=lambda run: bank.keys.index(run.teacher.key) if run.teacher else -1)


def config_of(study: Study, run: Run) -> dict[str, Any]:
    """All that decides a run's result; its hash names the run's folder."""
    settings = study.distillation
    taught, by = None, run.teacher
    if by is not None:
        taught = {"key": by.key, "weights": by.weights_hash, "preprocessing": by.preprocessing}
    device = {} if settings.device == "cpu" else {"device": settings.device}
    return {
        "format": FORMAT,
        "student": run.student,
        "method": asdict(run.method),
        "seed": run.seed,
        "teacher": taught,
        "train": study.train_data.rows.fingerprint,
        "eval": study.eval_data.rows.fingerprint,
        "views": asdict(settings.views),
        "recipe": study.recipe.told(),
        "center": list(settings.center),
        "scale": list(settings.scale),
        **device,
    }


def check_students(study: Study) -> None:
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
                trainer._build(name, seed=0)
            except InputError as error:
                raise InputError(f"{study.file.name} asks for the student {name!r}: {error}") from None
            except RuntimeError:  # a builder that reads its tensors' values
                continue


def distill(study: Study) -> pd.DataFrame:
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
    with workers() as crew:  # the same for all processes of torchrun, whatever other commands do meanwhile
        missing = crew.first(
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
        message = f"{len(failed)} of {len(runs)} runs failed; the first, {_name(run)}, with: {reason} (see {error})"
        if not done:
            raise CapmismatchError(message)
        warnings.warn(message, stacklevel=2)
    return _table(done)


def run_folder(study: Study, run: Run) -> Path:
    """Where a run leaves its files."""
    return study.folder / "runs" / hash_of(config_of(study, run))


def _name(run: Run) -> str:
    taught = f" from {run.teacher.key}" if run.teacher else ""
    return f"{run.student} by {run.method.label}{taught}, seed {run.seed}"


def _table(done: list[tuple[Run, Path]]) -> pd.DataFrame:
    rows = []
    for run, folder in done:
        teacher, result = run.teacher, _result(folder)
        head = {
            "family": teacher.family if teacher else "",
            "teacher": teacher.teacher if teacher else "",
            "params": teacher.params if teacher else None,
            "teacher_seed": (teacher.seed or 0) if teacher else 0,
            "student": run.student,
            "label": run.method.label,
            "method": run.method.name,
            "seed": run.seed,
            **{name: getattr(run.method, name) for name in SETTING},
        }
        rows += [{**head, "split": split, **values} for split, values in result["splits"].items()]
    return complete(pd.DataFrame(rows))


def _result(folder: Path) -> dict[str, Any]:
    file = folder / "result.json"
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not result["splits"]:
            raise ValueError("no splits")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"{file} is damaged ({error}): remove it to train that student anew") from None
    return result


# --- running ---------------------------------------------------------------------------------------------------------


def _train_all(study: Study, missing: list[Run], already: int) -> None:
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
            with workers() as crew:
                missing = crew.first(partial(_left_by_others, study, elsewhere, bar))


def _one_pass(study: Study, runs: list[Run], slots: Slots, bar: Any, told: set[Notice]) -> list[Run]:
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


def _left_by_others(study: Study, elsewhere: list[Run], bar: Any) -> list[Run]:
    """Wait until other commands have settled these runs, or let go of one: those that are still to be done then."""
    while elsewhere:
        let_go = [run for run in elsewhere if not is_locked(run_folder(study, run) / ".lock")]
        elsewhere = _still_elsewhere(study, elsewhere, bar)
        if any(run in let_go for run in elsewhere):
            break
        if elsewhere:
            time.sleep(PAUSE)
    return elsewhere


def _still_elsewhere(study: Study, runs: list[Run], bar: Any) -> list[Run]:
    """Those of other commands' runs that are not settled yet; the bar counts the others."""
    left = [run for run in runs if not _settled(run_folder(study, run))]
    bar.update(len(runs) - len(left))
    bar.set_postfix_str(f"{len(left)} running elsewhere" if left else "")
    return left


def _settled(folder: Path) -> bool:
    """Whether a run is done, or has failed since the latest command began."""
    # Listed, not asked for by name: a client of NFS may go on believing for a minute that there is no such file.
    return folder.exists() and not {"result.json", "error.txt"}.isdisjoint(os.listdir(folder))


class Trainer:
    """Trains students of one study, run by run, and keeps what the runs share: inputs, and the latest soft labels.

    Sent to another process, it opens the study there anew.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.settings = study, study.distillation
        self.prepare = Prepare(self.settings.center, self.settings.scale)
        self._logits = lru_cache(maxsize=1)(self._read_logits)
        self._soft = lru_cache(maxsize=2)(self._make_soft)

    def __reduce__(self) -> tuple[Any, ...]:
        # The recipe too: that of a pilot's rung is shorter than the file's.
        return _trainer, (self.study.file, self.study.folder, json.dumps(self.study.recipe.told()))

    def __call__(self, run: Run) -> Answer:
        """Train one student, unless somebody has or is at it; a failure is written down."""
        folder, state = run_folder(self.study, run), ""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with workers() as crew, ExitStack() as held:
                try:
                    state = crew.first(lambda: _claim(folder, held))
                    if state == "ours":
                        crew.gather(lambda: self._train(run, folder, crew))
                except Exception:  # a failed run is reported at the end; the others go on
                    write_text(folder / "error.txt", traceback.format_exc())
        return Answer(run, [(str(w.message), w.category) for w in told], elsewhere=state == "elsewhere")

    def _train(self, run: Run, folder: Path, crew: Workers) -> None:
        if crew.rank == 0:
            write_json(folder / "config.json", config_of(self.study, run))
        recipe, taught = self.study.recipe, dict[str, Any]()
        if run.teacher is not None:
            taught["soft"] = self.soft_labels(run)
        network = self._build(run.student, run.seed)
        if run.teacher is not None:
            taught["criterion"] = run.method.criterion(network, recipe.epochs)
        log, checkpoint = EpochLog(folder / "log.jsonl"), Checkpoint(folder / "checkpoint.safetensors")
        scores: dict[str, float] = {}
        held_out = self.study.eval_data.rows.split
        if recipe.keep_best and not (held_out == "val").any():
            raise InputError("keep_best of [distill.recipe] needs 'val' rows to choose on, and there are none")

        def validate(network: nn.Module) -> float:
            scores["val_accuracy"] = self._accuracies(network, np.flatnonzero(held_out == "val"))["val"]["accuracy"]
            return scores["val_accuracy"]

        def after_epoch(epoch: int, loss: float) -> None:
            log.write(epoch, loss=loss, **scores, **(taught["criterion"].diagnostics() if taught else {}))

        fit(
            network,
            self.inputs,
            self.labels,
            recipe,
            seed=run.seed,
            prepare=self.prepare,
            device=self.settings.device,
            validate=validate if recipe.keep_best else None,
            checkpoint=checkpoint,
            after_epoch=after_epoch,
            **taught,
        )
        if crew.rank == 0:
            splits = self._accuracies(network, np.arange(len(held_out)))
            result = {"splits": splits, "label": run.method.label, "seconds": log.seconds}
            write_json(folder / "result.json", result)
            checkpoint.remove()

    def _build(self, architecture: str, seed: int) -> nn.Module:
        """A network whose initial weights are the same for every method and teacher: settings are paired by seed."""
        from capmismatch import architectures

        torch.manual_seed(int(hash_of([architecture, seed]), 16) % 2**63)
        shape = self.study.train_data.inputs.shape[1:]
        sizes = {"in_channels": shape[-1]} if len(shape) == 3 else {"in_features": int(np.prod(shape))}
        return architectures.build(architecture, num_classes=len(self.study.train_data.classes), **sizes)

    def _accuracies(self, network: nn.Module, rows: NDArray[Any]) -> dict[str, dict[str, Any]]:
        """Accuracy and number of rows of each split, over some held-out rows."""
        held_out = self.study.eval_data.take(rows)
        logits = evaluate(network, torch.from_numpy(held_out.inputs), self.prepare)
        right, split = logits.argmax(1).numpy() == held_out.labels, held_out.rows.split
        return {str(s): {"accuracy": float(right[split == s].mean()), "n": int((split == s).sum())} for s in set(split)}

    def soft_labels(self, run: Run) -> Tensor:
        """(V, N, C) what the run's teacher, or the last of its assistants, says of every view; see `Method`."""
        if run.teacher is None:
            raise InputError(f"there is no teacher in {_name(run)}")
        # Teachers are the same for every seed and student, and so are the assistants of a seed for every student.
        shared = replace(run, student="", seed=run.seed if run.method.assistants else 0)
        method = json.dumps(asdict(run.method), sort_keys=True)
        return self._soft(run.teacher.key, method, shared.seed, hash_of(config_of(self.study, shared)))

    @cached_property
    def inputs(self) -> Tensor:
        """(V, N, ...) raw inputs, the stored views."""
        views, train = self.settings.views, self.study.train_data
        return torch.from_numpy(np.stack([views.make(train.inputs, number) for number in range(views.count)]))

    @cached_property
    def labels(self) -> Tensor:
        """(N,) their labels."""
        return torch.from_numpy(self.study.train_data.labels)

    def _read_logits(self, key: str) -> Tensor:
        folder, views = self.study.folder / "bank" / "views", self.settings.views
        banks = (LogitBank(folder / views.name(number)) for number in range(views.count))
        return torch.from_numpy(np.stack([bank.logits(key).astype(np.float32) for bank in banks]))

    def _make_soft(self, key: str, method_fields: str, seed: int, chain: str) -> Tensor:
        from capmismatch.distillation.remedies import teach_through

        method = Method(**json.loads(method_fields))
        logits = teach_through(
            [self._build(assistant, seed) for assistant in method.assistants],
            self._logits(key),
            method,
            self.inputs,
            self.labels,
            replace(self.study.recipe, keep_best=False, patience=0),
            seed=seed,
            prepare=self.prepare,
            device=self.settings.device,
            folder=self.study.folder / "assistants" / chain,
        )
        flat = method.soft_labels(logits.flatten(0, 1), self.labels.repeat(len(logits)))
        return flat.float().unflatten(0, logits.shape[:2])


@lru_cache(maxsize=1)
def _trainer(file: Path, folder: Path, recipe: str) -> Trainer:
    from capmismatch.study.study import Study

    study = Study(file, folder, progress=False)
    study.config = replace(study.config, distill=replace(study.distillation, recipe=json.loads(recipe)))
    return Trainer(study)


def _claim(folder: Path, held: ExitStack) -> str:
    """Whose a run is: "elsewhere" while another command holds it, "settled", or "ours", its lock then held."""
    if not held.enter_context(locked(folder / ".lock", wait=False)):
        return "elsewhere"
    remove_temporaries(folder)
    return "settled" if _settled(folder) else "ours"
