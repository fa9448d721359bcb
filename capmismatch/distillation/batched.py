"""The engine "batched": the students of a grid that have one shape are trained as one stack.

Each run keeps its folder, lock, log, checkpoint and result, as if it had been trained alone; either way goes on with
what the other left. The hash of a run does not tell the engine, since the result is the same but for rounding;
``result.json`` does.
"""

from __future__ import annotations

import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capmismatch._utils.files import write_json, write_text
from capmismatch._utils.machine import threads
from capmismatch.distillation.methods import SOFT_LABEL_METHODS
from capmismatch.distillation.runs import Experiment, Run, config_of, run_folder
from capmismatch.distillation.stacking import GroupLoss, is_dense, reason_against, reason_against_method
from capmismatch.distillation.student_trainer import Outcome, Trainer, claim
from capmismatch.training.checkpoint import Checkpoint
from capmismatch.training.epoch_log import EpochLog
from capmismatch.training.stacked import Member, Stack, fit_stack, member

MOST = 192
"""Students in one stack: more are hardly quicker, and each holds an open lock file."""

FEWEST = 32
"""Students of one shape from which the engine is chosen by itself: with fewer there is little to gain."""

SOFT_BYTES = 2**29
"""Memory for soft labels of the stacks that are trained one after another; about twice as much is in use."""

TRIED_ROWS = 4
MEASURED_ROWS = 256
MEASURED_TOGETHER = 16

Bundle = tuple[Run, ...]
"""Runs that share soft labels, all of their students: one task of the engine. A single run is trained alone."""


def bundles(study: Experiment, runs: Sequence[Run], workers: int, *, asked: bool) -> list[Bundle]:
    """Part the runs of a grid into tasks.

    Parameters
    ----------
    study : Experiment
        A `Study`.
    runs : sequence of Run
        The runs that are missing, those of one teacher one after another, as `plan` lists them.
    workers : int
        Processes that will share the tasks.
    asked : bool
        Whether the engine was asked for. Then runs that cannot be stacked are told in a warning, each reason once;
        else only runs are stacked for which that is known to be quicker.

    Returns
    -------
    list of Bundle
        Of one run each where it is trained alone.
    """
    against = _Reasons(study, asked)
    of_student: dict[str, int] = defaultdict(int)
    stackable = [not against(run) for run in runs]
    for run, is_stackable in zip(runs, stackable, strict=True):
        of_student[run.student] += is_stackable
    least = 2 if asked else FEWEST
    together = [run for run, fits in zip(runs, stackable, strict=True) if fits and of_student[run.student] >= least]
    stacked = set(map(id, together))
    alone = [(run,) for run in runs if id(run) not in stacked]
    for reason, names in against.told.items():
        warnings.warn(f"trained one by one, not in stacks: {', '.join(sorted(names))}: {reason}", stacklevel=3)
    return [*_parted(study, together, workers), *alone]


class _Reasons:
    """Why runs are not stacked; each student and each setting is tried once."""

    def __init__(self, study: Experiment, asked: bool) -> None:
        self._asked, self._trainer, self._recipe = asked, Trainer(study), study.recipe
        self._of_student = lru_cache(maxsize=None)(self._student)
        self._of_method: dict[str, str] = {}
        self.told: dict[str, set[str]] = defaultdict(set)

    def __call__(self, run: Run) -> str:
        method = run.method
        if method.label not in self._of_method:
            classes = len(self._trainer.study.train_data.classes)
            self._of_method[method.label] = reason_against_method(method, self._recipe.epochs, classes)
        reasons = {run.student: self._of_student(run.student), method.label: self._of_method[method.label]}
        for name, reason in reasons.items():
            if reason and self._asked:
                self.told[reason].add(name)
        return next(filter(None, reasons.values()), "")

    def _student(self, name: str) -> str:
        trainer = self._trainer
        if trainer.is_text:
            return "a text's rows are windows, which stacks do not know"
        networks = [trainer.build(name, seed) for seed in range(2)]
        if not self._asked and not is_dense(networks[0]):
            return "only networks without convolutions are known to be quicker in stacks"
        inputs = torch.from_numpy(trainer.study.train_data.inputs[:TRIED_ROWS])
        return reason_against(networks, trainer.prepare(inputs), self._recipe)


def _parted(study: Experiment, runs: Sequence[Run], workers: int) -> Iterator[Bundle]:
    """Bundles of at most `MOST` runs of a student, with soft labels that fit into memory, enough for all workers."""
    if not runs:
        return
    train, views = study.train_data, study.distillation.views.count
    size = 4 * views * len(train.labels) * len(train.classes)  # of one array of soft labels
    arrays = max(1, SOFT_BYTES // size)
    trainer = Trainer(study)
    shares: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        shares["" if run.teacher is None else trainer.shared_run(run).digest].append(run)
    fullest = max(_of_each_student(runs))
    parts = max(ceil(fullest / MOST), ceil(len(shares) / arrays))
    most = ceil(fullest / (ceil(parts / workers) * workers))  # as many bundles for each worker
    bundle: list[Run] = []
    held = 0
    for share in shares.values():
        for part in (share[start : start + most] for start in range(0, len(share), most)):
            if bundle and (max(_of_each_student([*bundle, *part])) > most or held >= arrays):
                yield tuple(bundle)
                bundle, held = [], 0
            bundle += part
            held += part[0].teacher is not None
    yield tuple(bundle)


def _of_each_student(runs: Sequence[Run]) -> list[int]:
    """How many runs each student has."""
    counts: dict[str, int] = defaultdict(int)
    for run in runs:
        counts[run.student] += 1
    return list(counts.values())


class StackTrainer:
    """Trains bundles of a study's runs. Sent to another process, it opens the study there anew."""

    def __init__(self, study: Experiment) -> None:
        self.study = study
        self.trainer = Trainer(study)

    def __reduce__(self) -> tuple[Any, ...]:
        return _stack_trainer_of, (self.study,)

    def __call__(self, bundle: Bundle) -> list[Outcome]:
        """Train runs: one alone, several as a stack for each student."""
        if len(bundle) == 1:
            return [self.trainer(bundle[0])]
        students = dict.fromkeys(run.student for run in bundle)
        made: dict[str, Tensor] = {}
        return [
            outcome
            for student in students
            for outcome in self._train_stack([run for run in bundle if run.student == student], made)
        ]

    def _train_stack(self, runs: list[Run], made: dict[str, Tensor]) -> list[Outcome]:
        """Train those runs of one student that are neither done nor held by another command."""
        states: dict[str, str] = {}
        with warnings.catch_warnings(record=True) as caught, ExitStack() as locks:
            warnings.simplefilter("always")
            with threads(self.trainer.config.threads):
                claimed = []
                for run in runs:
                    states[run.name] = claim(run_folder(self.study, run), locks)
                    if states[run.name] == "claimed":
                        claimed.append(run)
                self._train_claimed(claimed, made)
        told = [(str(w.message), w.category) for w in caught]
        return [
            Outcome(run, told if number == 0 else [], held_elsewhere=states[run.name] == "held elsewhere")
            for number, run in enumerate(runs)
        ]

    def _train_claimed(self, runs: list[Run], made: dict[str, Tensor]) -> None:
        """Train runs whose locks are held: together those that are equally far. A failure of one stays its own."""
        by_place: dict[tuple[int, int], list[tuple[Run, Member, Tensor | None]]] = defaultdict(list)
        for run in sorted(runs, key=lambda run: GroupLoss.sort_key(run.method)):
            with _failures_of([run], self._folder):
                write_json(self._folder(run) / "config.json", config_of(self.study, run))
                self.trainer.check_keep_best()
                given = None if run.teacher is None else self._given(run, made)
                network = self.trainer.build(run.student, run.seed)
                checkpoint = Checkpoint(self._folder(run) / "checkpoint.safetensors")
                one = member(
                    network, self.trainer.inputs, self.study.recipe, run.seed, self.trainer.config.device, checkpoint
                )
                by_place[one.state.epoch, one.state.step].append((run, one, given))
        for group in by_place.values():
            with _failures_of([run for run, _, _ in group], self._folder):
                self._fit(group)

    def _folder(self, run: Run) -> Path:
        return run_folder(self.study, run)

    def _given(self, run: Run, made: dict[str, Tensor]) -> Tensor:
        """What a run's student is given of its teacher: one object for all runs that are given the same."""
        key = self._key_of_given(run)
        if key not in made:
            made[key] = self.trainer.make_soft_labels(self.trainer.shared_run(run))
        return made[key]

    def _key_of_given(self, run: Run) -> str:
        """Equal for runs that are given the same: several settings may take the same soft labels, or the logits."""
        method, teacher = run.method, run.teacher
        if teacher is None or method.assistants or "rank_weight" in method.options:
            return self.trainer.shared_run(run).digest
        if method.name in SOFT_LABEL_METHODS:
            return repr((teacher.key, method.soft_label_spec))
        if method.spec.kind == "soft labels":
            return self.trainer.shared_run(run).digest
        return repr((teacher.key, method.spec.kind))

    def _fit(self, group: Sequence[tuple[Run, Member, Tensor | None]]) -> None:
        """Train a stack and write what each of its runs leaves."""
        trainer, recipe = self.trainer, self.study.recipe
        runs, members = [run for run, _, _ in group], [one for _, one, _ in group]
        logs = [EpochLog(self._folder(run) / "log.jsonl") for run in runs]
        loss = GroupLoss(
            [run.method for run in runs],
            [given for _, _, given in group],
            trainer.labels,
            len(self.study.train_data.classes),
            recipe.epochs,
            trainer.config.device,
        )
        scores: list[float] = []

        def validate(stack: Stack) -> list[float]:
            scores[:] = self._validate(stack)
            return scores

        def after_epoch(index: int, epoch: int, mean_loss: float) -> None:
            more = {"val_accuracy": scores[index]} if scores else {}
            logs[index].write(epoch, loss=mean_loss, **more)

        stack = fit_stack(
            members,
            trainer.inputs,
            recipe,
            loss,
            prepare=trainer.prepare,
            validate=validate if recipe.keep_best or trainer.config.curves else None,
            after_epoch=after_epoch,
        )
        for start in range(0, len(runs), MEASURED_TOGETHER):
            part = range(start, min(start + MEASURED_TOGETHER, len(runs)))
            logits = torch.cat([self._logits(stack, part, inputs) for inputs in trainer.measured_inputs], 1)
            for index, of_student in zip(part, logits, strict=True):
                if members[index].error:
                    write_text(self._folder(runs[index]) / "error.txt", f"FloatingPointError: {members[index].error}\n")
                    continue
                trainer.write_result(runs[index], of_student, logs[index].seconds, engine="batched")
                members[index].checkpoint.remove()  # type: ignore[union-attr]

    def _validate(self, stack: Stack) -> list[float]:
        """Accuracies of all students of a stack on the validation rows."""
        logits = self._logits(stack, range(len(stack)), self.trainer.validation_inputs)
        right = logits.argmax(2) == self.trainer.validation_labels
        return [float(share) for share in right.double().mean(1)]

    def _logits(self, stack: Stack, part: range, inputs: Tensor) -> Tensor:
        """Logits (k, N, C) of some students of a stack, on the CPU."""
        some = stack.part(part.start, part.stop)
        with torch.inference_mode():
            chunks = [
                some.of_shared(self.trainer.prepare(rows.to(stack.device)).clone()).cpu()
                for rows in inputs.split(MEASURED_ROWS)
            ]
        return torch.cat(chunks, 1)


class _failures_of:
    """What goes wrong inside the block is recorded in the folders of some runs; the others go on."""

    def __init__(self, runs: Sequence[Run], folder: Callable[[Run], Path]) -> None:
        self._runs, self._folder = runs, folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        text = "".join(traceback.format_exception(error))
        for run in self._runs:
            if not (self._folder(run) / "result.json").exists():
                write_text(self._folder(run) / "error.txt", text)
        return True


@lru_cache(maxsize=1)
def _stack_trainer_of(study: Experiment) -> StackTrainer:
    """The same trainer for all bundles that a process is given: what they share is loaded once."""
    return StackTrainer(study)
