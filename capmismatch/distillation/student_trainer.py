"""Training one student of a grid: its inputs, its soft labels, its lock, its files."""

from __future__ import annotations

import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capmismatch import architectures
from capmismatch._utils.files import hash_of, locked, remove_temporaries, write_json, write_text
from capmismatch._utils.machine import return_freed_memory, threads
from capmismatch._utils.torchrun import ProcessGroup, process_group
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.token_inputs import NO_LABEL, TokenInputs
from capmismatch.distillation.methods import PREPARED
from capmismatch.distillation.next_tokens import TeacherRows, as_token_ids, mean_nll, next_token_scores
from capmismatch.distillation.remedies import teach_through
from capmismatch.distillation.runs import Experiment, Run, config_of, is_settled, run_folder
from capmismatch.distillation.scoring import MeasuredRows, TeacherOutputs
from capmismatch.errors import BankError, InputError
from capmismatch.training.epoch_log import EpochLog
from capmismatch.training.loop import Checkpoint, evaluate, fit
from capmismatch.training.prepare import Normalise

CaughtWarning = tuple[str, type[Warning]]  # text and category

OUTPUT_BYTES = 2**28
"""Memory for teachers' outputs on the rows that students are measured on."""

LOGITS_AT_A_TIME = 2**22
"""Of a text's rows, when soft labels are made: the intermediate arrays of all rows would be several times as large."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    run : Run
        Done or failed, unless another command holds it.
    warnings : list of CaughtWarning
        What was warned of meanwhile.
    held_elsewhere : bool
        Whether another command is working on it.
    """

    run: Run
    warnings: list[CaughtWarning]
    held_elsewhere: bool


@dataclass(frozen=True)
class SharedRun:
    """A run reduced to what decides its soft labels, as a key of a cache: equal if the hashes are."""

    digest: str
    run: Run = field(compare=False)


class Trainer:
    """Trains students of one study, run by run, and keeps what the runs share: inputs, and the latest soft labels.

    Sent to another process, it opens the study there again.
    """

    def __init__(self, study: Experiment) -> None:
        self.study, self.config = study, study.distillation
        self.is_text = isinstance(study.train_data.inputs, TokenInputs)
        normalise = Normalise(self.config.center, self.config.scale, channels_last=True)
        self.prepare: Callable[[Tensor], Tensor] = as_token_ids if self.is_text else normalise
        self._logits = lru_cache(maxsize=1)(self._read_logits)
        self._soft_labels = lru_cache(maxsize=2)(self.make_soft_labels)
        self._opened_views: tuple[list[int], list[LogitBank]] = [], []
        self._outputs: OrderedDict[str, TeacherOutputs] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _trainer_of, (self.study,)

    def __call__(self, run: Run) -> Outcome:
        """Train one student, unless it is done or another command is working on it. A failure is recorded."""
        folder, state = run_folder(self.study, run), ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with process_group() as processes, threads(self.config.threads), ExitStack() as locks:
                try:
                    state = processes.on_rank_zero(lambda: claim(folder, locks))
                    if state == "claimed":
                        processes.on_all_ranks(lambda: self._train(run, folder, processes))
                except Exception:  # a failed run is reported at the end; the others go on
                    write_text(folder / "error.txt", traceback.format_exc())
        return Outcome(run, [(str(w.message), w.category) for w in caught], held_elsewhere=state == "held elsewhere")

    def _train(self, run: Run, folder: Path, processes: ProcessGroup) -> None:
        """Train one student and write its files; its lock is held."""
        if processes.rank == 0:
            write_json(folder / "config.json", config_of(self.study, run))
        recipe = self.study.recipe
        self.check_keep_best()
        soft = self.soft_labels(run) if run.teacher is not None else None
        network = self.build(run.student, run.seed)
        criterion = run.method.criterion(network, recipe.epochs) if run.teacher is not None else None
        log, checkpoint = EpochLog(folder / "log.jsonl"), Checkpoint(folder / "checkpoint.safetensors")
        scores: dict[str, float] = {}

        def after_epoch(epoch: int, loss: float) -> None:
            log.write(epoch, loss=loss, **scores, **(criterion.diagnostics() if criterion is not None else {}))

        fit(
            network,
            self.inputs,
            self.labels,
            recipe,
            seed=run.seed,
            prepare=self.prepare,
            criterion=criterion,
            soft=soft,
            device=self.config.device,
            validate=partial(self._validate, scores) if recipe.keep_best or self.config.curves else None,
            checkpoint=checkpoint,
            after_epoch=after_epoch,
        )
        if processes.rank == 0:
            if self.is_text:
                splits = self._scores(network, run)
                result = {"splits": splits, "label": run.method.label, "seconds": log.seconds}
                write_json(folder / "result.json", result)
            else:
                logits = torch.cat([evaluate(network, inputs, self.prepare) for inputs in self.measured_inputs])
                self.write_result(run, logits, log.seconds)
            checkpoint.remove()

    def _validate(self, scores: dict[str, float], network: nn.Module) -> float:
        """How good a network is on the validation rows; higher is better. `scores` takes it in by its name."""
        if self.is_text:
            rows = np.flatnonzero(self.study.eval_data.rows.split == "val")
            scores["val_nll"] = mean_nll(network, self.study.eval_data, rows)
            return -scores["val_nll"]
        right = evaluate(network, self.validation_inputs, self.prepare).argmax(1) == self.validation_labels
        scores["val_accuracy"] = float(right.double().mean())
        return scores["val_accuracy"]

    def plain(self, architecture: str, seed: int) -> nn.Module:
        """A network that is trained on the labels alone, as a run of the method CE trains it; nothing is written."""
        self.check_keep_best()
        recipe, network = self.study.recipe, self.build(architecture, seed)
        with threads(self.config.threads):
            fit(
                network,
                self.inputs,
                self.labels,
                recipe,
                seed=seed,
                prepare=self.prepare,
                device=self.config.device,
                validate=partial(self._validate, {}) if recipe.keep_best else None,
            )
        return network.eval()

    def check_keep_best(self) -> None:
        """Refuse to choose an epoch, or to measure each, where there are no rows to do it on."""
        asked = {
            "keep_best of [distill.recipe]": self.study.recipe.keep_best,
            "curves of [distill]": self.config.curves,
        }
        for name in (name for name, is_set in asked.items() if is_set):
            if not (self.study.eval_data.rows.split == "val").any():
                raise InputError(f"{name} needs 'val' rows to measure each epoch on, and there are none")

    def write_result(self, run: Run, logits: Tensor, seconds: float, **more: Any) -> None:
        """Write what is left of a run that is done: its student is measured by its logits on `measured_inputs`."""
        teacher = None if run.teacher is None else self.teacher_outputs(run.teacher.key)
        splits = self.measured.measure(logits, teacher)
        result = {"splits": splits, "label": run.method.label, "seconds": seconds, **more}
        write_json(run_folder(self.study, run) / "result.json", result)

    def build(self, architecture: str, seed: int) -> nn.Module:
        """Build a network. Its initial weights are the same for all settings and teachers, so that seeds pair them."""
        torch.manual_seed(int(hash_of([architecture, seed]), 16) % 2**63)
        classes, shape = len(self.study.train_data.classes), self.study.train_data.inputs.shape[1:]
        if self.is_text:
            return architectures.build(architecture, num_classes=classes)
        sizes = {"in_channels": shape[-1]} if len(shape) == 3 else {"in_features": int(np.prod(shape))}
        return architectures.build(architecture, num_classes=classes, **sizes)

    @cached_property
    def validation_inputs(self) -> Tensor:
        """Raw inputs of the validation rows, on which an epoch is chosen."""
        data = self.study.eval_data
        return torch.from_numpy(np.asarray(data.take(np.flatnonzero(data.rows.split == "val")).inputs))

    @cached_property
    def validation_labels(self) -> Tensor:
        """Classes of the validation rows."""
        data = self.study.eval_data
        return torch.from_numpy(data.labels[data.rows.split == "val"])

    @cached_property
    def measured_inputs(self) -> tuple[Tensor, Tensor]:
        """Raw inputs that students are measured on: held-out rows, then training rows in their first stored view."""
        return torch.from_numpy(np.asarray(self.study.eval_data.inputs)[self._held_out_order]), self.inputs[0]

    @cached_property
    def _held_out_order(self) -> NDArray[np.int64]:
        """The held-out rows, split by split."""
        return np.argsort(self.study.eval_data.rows.split, kind="stable")

    @cached_property
    def measured(self) -> MeasuredRows:
        """Classes of `measured_inputs`, and where the rows of each split lie."""
        held_out = self.study.eval_data
        names, starts = np.unique(held_out.rows.split[self._held_out_order], return_index=True)
        ends = [*starts[1:], len(held_out)]
        splits = {str(name): slice(int(a), int(b)) for name, a, b in zip(names, starts, ends, strict=True)}
        splits["train"] = slice(len(held_out), len(held_out) + len(self.labels))
        return MeasuredRows(torch.cat([torch.from_numpy(held_out.labels[self._held_out_order]), self.labels]), splits)

    def teacher_outputs(self, key: str) -> TeacherOutputs:
        """A teacher's logits on `measured_inputs`; those of as many teachers are kept as fit into `OUTPUT_BYTES`."""
        if key not in self._outputs:
            self._outputs[key] = self._read_teacher_outputs(key)
            while sum(outputs.bytes for outputs in self._outputs.values()) > OUTPUT_BYTES and len(self._outputs) > 1:
                self._outputs.popitem(last=False)
        return self._outputs[key]

    def _read_teacher_outputs(self, key: str) -> TeacherOutputs:
        held_out = self.study.bank.logits(key)[self._held_out_order].astype(np.float32)
        return TeacherOutputs(torch.cat([torch.from_numpy(held_out), self._logits(key)[0]]))

    def _scores(self, network: nn.Module, run: Run) -> dict[str, dict[str, float]]:
        """All that is measured of a student of a text, on each split."""
        teacher: TeacherRows | None = None
        if run.teacher is not None:
            bank, key = self.study.bank, run.teacher.key
            teacher = partial(bank.take, key)
        return next_token_scores(network, self.study.eval_data, teacher)

    def soft_labels(self, run: Run) -> Tensor:
        """Return what the run's student is given of its teacher, or of the last assistant; see `Method`.

        Of shape (V, N, C), or of windows of text (1, N, T, C).
        """
        if run.teacher is None:
            raise InputError(f"there is no teacher in {run.name}")
        made = self._soft_labels(self.shared_run(run))
        return_freed_memory()
        return made

    def shared_run(self, run: Run) -> SharedRun:
        """What a run has in common with all others that are given the same soft labels."""
        # Teachers are the same for every seed and student, and so are the assistants of a seed for every student.
        shared = replace(run, student="", seed=run.seed if run.method.assistants else 0)
        return SharedRun(hash_of(config_of(self.study, shared)), shared)

    @cached_property
    def inputs(self) -> Tensor:
        """Raw inputs, (V, N, ...): the stored views."""
        views, train = self.config.views, self.study.train_data
        if isinstance(train.inputs, TokenInputs):
            return torch.from_numpy(train.inputs.windows)[None]
        return torch.from_numpy(np.stack([views.make(train.inputs, number) for number in range(views.count)]))

    @cached_property
    def labels(self) -> Tensor:
        """Classes of the examples, (N,); next tokens of windows, (N, T)."""
        train = self.study.train_data
        if isinstance(train.inputs, TokenInputs):
            return torch.from_numpy(train.inputs.on_windows(train.labels, NO_LABEL))
        return torch.from_numpy(train.labels)

    def _read_logits(self, key: str) -> Tensor:
        """A teacher's logits on the stored views, (V, N, C)."""
        return torch.from_numpy(np.stack([bank.logits(key).astype(np.float32) for bank in self._view_banks()]))

    def _view_banks(self) -> list[LogitBank]:
        """The banks of the stored views; opened once, as long as nobody writes to them."""
        folder, views = self.study.folder / "bank" / "views", self.config.views
        folders = [folder / views.name(number) for number in range(views.count)]
        stamp = [path.stat().st_mtime_ns for folder in folders for path in (folder, *folder.iterdir())]
        if self._opened_views[0] != stamp:
            self._opened_views = stamp, [LogitBank(folder) for folder in folders]
        return self._opened_views[1]

    def _check_views(self, teacher: TeacherRecord) -> None:
        """Raise where the stored views' logits are of another network than the bank's; earlier banks say less."""
        for bank in self._view_banks():
            stored = bank[teacher.key]
            other_code = stored.built_by and teacher.built_by and stored.built_by != teacher.built_by
            if stored.weights_hash != teacher.weights_hash or other_code:
                raise BankError(
                    f"{bank.path} has logits of another network {teacher.key} than the study's bank: remove its folder "
                    "there to collect again"
                )

    def make_soft_labels(self, shared: SharedRun) -> Tensor:
        """Make what the students of some runs are given of their teacher, (V, N, C); see `soft_labels`."""
        method, seed, teacher = shared.run.method, shared.run.seed, shared.run.teacher
        assert teacher is not None
        self._check_views(teacher)
        if self.is_text:
            return self._soft_labels_of_text(shared.run)
        logits = teach_through(
            [self.build(assistant, seed) for assistant in method.assistants],
            self._logits(teacher.key),
            method,
            self.inputs,
            self.labels,
            replace(self.study.recipe, keep_best=False, patience=0),
            seed=seed,
            prepare=self.prepare,
            device=self.config.device,
            folder=self.study.folder / "assistants" / shared.digest,
        )
        views = len(logits)
        options: dict[str, Any] = {}
        other = shared.run.other
        if method.name in ("CalKD", "MatchKD"):
            options["held_out"] = self._held_out(teacher.key), torch.from_numpy(self.study.bank.labels("val"))
            options |= {} if other is None else {"other": self._held_out(other.key)}
        elif other is not None:
            self._check_views(other)
            options["other"] = self._read_logits(other.key).flatten(0, 1)
        if method.name == "SHUFFLE":
            options["rows"] = torch.arange(len(self.labels)).repeat(views)
        flat = method.soft_labels(logits.flatten(0, 1), self.labels.repeat(views), **options)
        return flat.float().unflatten(0, logits.shape[:2])

    def _held_out(self, key: str) -> Tensor:
        """A teacher's logits on the validation rows."""
        bank = self.study.bank
        rows = bank.select("val")
        if not len(rows):
            raise InputError("a temperature for each teacher needs 'val' rows to find it on, and there are none")
        return torch.from_numpy(bank.take(key, rows).astype(np.float32))

    def _soft_labels_of_text(self, run: Run) -> Tensor:
        """Soft labels (1, S, T, C), or (1, S, T, 2, C), of windows, zeros where nothing is told."""
        method, teacher, other, train = run.method, run.teacher, run.other, self.study.train_data
        assert isinstance(train.inputs, TokenInputs) and teacher is not None
        if method.name in PREPARED:
            raise InputError(f"{method.label} is for classes: of texts take KD at a tau of your own")
        if other is not None:
            self._check_views(other)
        bank, text, labels = self._view_banks()[0], train.inputs, torch.from_numpy(train.labels)
        windows = torch.empty(0)
        step = max(1, LOGITS_AT_A_TIME // len(train.classes))
        for start in range(0, len(labels), step):
            rows = np.arange(start, min(start + step, len(labels)))
            numbers, logits = torch.from_numpy(rows), _float32(bank.take(teacher.key, rows))
            options: dict[str, Any] = {} if other is None else {"other": _float32(bank.take(other.key, rows))}
            if method.name == "SHUFFLE":
                options["rows"] = numbers
            soft = method.soft_labels(logits, labels[numbers], **options).float()
            if not start:
                windows = soft.new_zeros((*text.windows.shape, *soft.shape[1:]))
            windows[torch.from_numpy(text.window[rows]), torch.from_numpy(text.position[rows])] = soft
        return windows[None]


def _float32(stored: NDArray[Any]) -> Tensor:
    return torch.from_numpy(stored.astype(np.float32))


@lru_cache(maxsize=1)
def _trainer_of(study: Experiment) -> Trainer:
    """The same trainer for all runs that a process is given: what they share is loaded once."""
    return Trainer(study)


def claim(folder: Path, locks: ExitStack) -> Literal["held elsewhere", "settled", "claimed"]:
    """Claim a run: unless another command holds it, or it is settled, its lock is held from now on."""
    if not locks.enter_context(locked(folder / ".lock", wait=False)):
        return "held elsewhere"
    remove_temporaries(folder)
    return "settled" if is_settled(folder) else "claimed"
