"""Training one student of a grid: its inputs, its soft labels, its lock, its files."""

from __future__ import annotations

import json
import traceback
import warnings
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capmismatch import architectures
from capmismatch._utils.files import hash_of, locked, remove_temporaries, write_json, write_text
from capmismatch._utils.torchrun import ProcessGroup, process_group
from capmismatch.data.bank import LogitBank
from capmismatch.distillation.methods import Method
from capmismatch.distillation.remedies import teach_through
from capmismatch.distillation.runs import Experiment, Run, config_of, is_settled, run_folder, run_name
from capmismatch.errors import InputError
from capmismatch.training.epoch_log import EpochLog
from capmismatch.training.loop import Checkpoint, evaluate, fit
from capmismatch.training.prepare import Normalise

Notice = tuple[str, type[Warning]]  # a warning's text and kind


@dataclass(frozen=True)
class Answer:
    """What became of a run: the warnings on its way, and whether another command is at it."""

    run: Run
    notices: list[Notice]
    elsewhere: bool


class Trainer:
    """Trains students of one study, run by run, and keeps what the runs share: inputs, and the latest soft labels.

    Sent to another process, it opens the study there anew.
    """

    def __init__(self, study: Experiment) -> None:
        self.study, self.settings = study, study.distillation
        self.prepare = Normalise(self.settings.center, self.settings.scale, channels_last=True)
        self._logits = lru_cache(maxsize=1)(self._read_logits)
        self._soft = lru_cache(maxsize=2)(self._make_soft)

    def __reduce__(self) -> tuple[Any, ...]:
        return _trainer_of, (self.study,)

    def __call__(self, run: Run) -> Answer:
        """Train one student, unless somebody has or is at it; a failure is written down."""
        folder, state = run_folder(self.study, run), ""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with process_group() as processes, ExitStack() as held:
                try:
                    state = processes.on_rank_zero(lambda: _claim(folder, held))
                    if state == "ours":
                        processes.on_all_ranks(lambda: self._train(run, folder, processes))
                except Exception:  # a failed run is reported at the end; the others go on
                    write_text(folder / "error.txt", traceback.format_exc())
        return Answer(run, [(str(w.message), w.category) for w in told], elsewhere=state == "elsewhere")

    def _train(self, run: Run, folder: Path, processes: ProcessGroup) -> None:
        if processes.rank == 0:
            write_json(folder / "config.json", config_of(self.study, run))
        recipe, taught = self.study.recipe, dict[str, Any]()
        if run.teacher is not None:
            taught["soft"] = self.soft_labels(run)
        network = self.build(run.student, run.seed)
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
        if processes.rank == 0:
            splits = self._accuracies(network, np.arange(len(held_out)))
            result = {"splits": splits, "label": run.method.label, "seconds": log.seconds}
            write_json(folder / "result.json", result)
            checkpoint.remove()

    def build(self, architecture: str, seed: int) -> nn.Module:
        """A network whose initial weights are the same for every method and teacher: settings are paired by seed."""
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
            raise InputError(f"there is no teacher in {run_name(run)}")
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
        method = Method(**json.loads(method_fields))
        logits = teach_through(
            [self.build(assistant, seed) for assistant in method.assistants],
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
def _trainer_of(study: Experiment) -> Trainer:
    """The same trainer for all runs that a process is sent: what they share is loaded once."""
    return Trainer(study)


def _claim(folder: Path, held: ExitStack) -> str:
    """Whose a run is: "elsewhere" while another command holds it, "settled", or "ours", its lock then held."""
    if not held.enter_context(locked(folder / ".lock", wait=False)):
        return "elsewhere"
    remove_temporaries(folder)
    return "settled" if is_settled(folder) else "ours"
