"""Teachers x students x settings x seeds: which runs a study needs, and running those that are missing.

Every run is a folder ``runs/<hash of its configuration>/`` with ``config.json`` and, once it is done, ``log.jsonl``
(one line an epoch) and ``result.json``. Killed anywhere and started again, only the runs that were under way are lost,
and nothing is run twice, not even by two commands at once. Runs of one teacher are done by one process, which reads
that teacher's logits once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from capmismatch._files import hash_of, locked, remove_temporaries, write_json, write_text
from capmismatch.bank import LogitBank, TeacherRecord
from capmismatch.errors import BankError, CapmismatchError
from capmismatch.methods import Method
from capmismatch.results import SETTING, complete
from capmismatch.training import evaluate, fit

if TYPE_CHECKING:
    from capmismatch.study import Study

FORMAT = 1  # of a run's configuration; a change that alters results must raise it


@dataclass(frozen=True)
class Run:
    """One student to train: which teacher (None for plain cross-entropy), which setting, which seed."""

    student: str
    method: Method
    seed: int
    teacher: TeacherRecord | None


def plan(study: Study, bank: LogitBank) -> list[Run]:
    """Every run of a study, teacher by teacher. Student seed s has the teacher's training run s modulo its runs."""
    settings = study.distillation
    by_teacher: dict[tuple[str, str], list[TeacherRecord]] = defaultdict(list)
    for record in bank.teachers:
        by_teacher[record.family, record.teacher].append(record)
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
    return {
        "format": FORMAT, "student": run.student, "method": asdict(run.method), "seed": run.seed, "teacher": taught,
        "train": study.train_data.rows.fingerprint, "eval": study.eval_data.rows.fingerprint,
        "views": asdict(settings.views), "recipe": asdict(study.recipe), "center": list(settings.center),
        "scale": list(settings.scale),
    }


def distill(study: Study) -> pd.DataFrame:
    """Train every student of a study that has not been trained yet, and return the results table.

    A run that fails is written down and told of in a warning at the end; the others go on.

    Raises
    ------
    CapmismatchError : every run failed, or a worker process was killed
    """
    bank = study.bank
    runs = plan(study, bank)
    folders = [_folder(study, run) for run in runs]
    missing = [run for run, folder in zip(runs, folders, strict=True) if not (folder / "result.json").exists()]
    if any(run.teacher for run in missing):
        count = study.distillation.views.count
        for number in tqdm(range(count), desc="views", unit="view", disable=not study.progress):
            study.view_bank(number)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in missing:
        groups[run.teacher.key if run.teacher else ""].append(run)
    there = len(runs) - len(missing)
    with tqdm(total=len(runs), initial=there, desc="distill", unit="run", disable=not study.progress) as bar:
        if study.workers == 1:
            for group in groups.values():
                _run_group(study, group, lambda: bar.update())
        else:
            _in_processes(study, list(groups.values()), [_folder(study, run) / "result.json" for run in missing], bar)
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


def _folder(study: Study, run: Run) -> Path:
    return study.folder / "runs" / hash_of(config_of(study, run))


def _name(run: Run) -> str:
    taught = f" from {run.teacher.key}" if run.teacher else ""
    return f"{run.student} by {run.method.label}{taught}, seed {run.seed}"


def _table(done: list[tuple[Run, Path]]) -> pd.DataFrame:
    rows = []
    for run, folder in done:
        teacher, result = run.teacher, _result(folder)
        head = {
            "family": teacher.family if teacher else "", "teacher": teacher.teacher if teacher else "",
            "params": teacher.params if teacher else None, "teacher_seed": (teacher.seed or 0) if teacher else 0,
            "student": run.student, "label": run.method.label, "method": run.method.name, "seed": run.seed,
            **{name: getattr(run.method, name) for name in SETTING},
        }  # fmt: skip
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


def _run_group(study: Study, runs: list[Run], after: Callable[[], Any]) -> None:
    data = _StudentData(study)
    for run in runs:
        folder = _folder(study, run)
        try:
            with locked(folder / ".lock"):
                if not (folder / "result.json").exists():  # another command may have done it meanwhile
                    remove_temporaries(folder)
                    _run_one(study, data, run, folder)
        except Exception:  # a failed run is reported at the end; the others go on
            write_text(folder / "error.txt", traceback.format_exc())
        after()


class _StudentData:
    """Tensors that the runs of one process share; the soft labels of the current teacher and method are kept."""

    def __init__(self, study: Study) -> None:
        settings = study.distillation
        self.study, self.views = study, settings.views
        train, held_out = study.train_data, study.eval_data
        self.inputs = torch.from_numpy(np.stack([self.views.make(train.inputs, v) for v in range(self.views.count)]))
        self.labels = torch.from_numpy(train.labels)
        self.eval_inputs = torch.from_numpy(np.ascontiguousarray(held_out.inputs))
        self.eval_labels, self.eval_split = torch.from_numpy(held_out.labels), held_out.rows.split
        self.prepare = Prepare(settings.center, settings.scale)
        self.soft = lru_cache(maxsize=2)(self._soft)

    @lru_cache(maxsize=1)  # noqa: B019 - lives as long as the process
    def _logits(self, key: str) -> Tensor:
        folder = self.study.folder / "bank" / "views"
        banks = (LogitBank(folder / self.views.name(v)) for v in range(self.views.count))
        return torch.from_numpy(np.stack([bank.logits(key).astype(np.float32) for bank in banks]))

    def _soft(self, key: str, method_fields: str) -> Tensor:
        method = Method(**json.loads(method_fields))
        logits = self._logits(key)
        flat = method.soft_labels(logits.flatten(0, 1), self.labels.repeat(len(logits)))
        return flat.float().unflatten(0, logits.shape[:2])


class Prepare:
    """Raw inputs as students take them: images (n, H, W, C) as (n, C, H, W), uint8 in [0, 1]; (x - center) / scale."""

    def __init__(self, center: tuple[float, ...], scale: tuple[float, ...]) -> None:
        self.center, self.scale = torch.tensor(center), torch.tensor(scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Prepare one batch."""
        if x.ndim == 4:
            top = 255 if x.dtype == torch.uint8 else 1
            x = x.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / top
            return (x - self.center.view(1, -1, 1, 1)) / self.scale.view(1, -1, 1, 1)
        return (x.to(torch.float32) - self.center) / self.scale


def _run_one(study: Study, data: _StudentData, run: Run, folder: Path) -> None:
    from capmismatch import architectures

    config = config_of(study, run)
    write_json(folder / "config.json", config)
    (folder / "error.txt").unlink(missing_ok=True)
    # The same initial weights for every method and teacher: differences between settings are paired by seed.
    torch.manual_seed(int(hash_of([run.student, run.seed]), 16) % 2**63)
    shape = data.inputs.shape[2:]
    sizes = {"in_channels": shape[-1]} if len(shape) == 3 else {"in_features": int(np.prod(shape))}
    network = architectures.build(run.student, num_classes=len(study.train_data.classes), **sizes)
    if len(shape) == 3:
        network = network.to(memory_format=torch.channels_last)
    taught: dict[str, Any] = {}
    if run.teacher is not None:
        taught = {
            "criterion": run.method.criterion(),
            "soft": data.soft(run.teacher.key, json.dumps(asdict(run.method), sort_keys=True)),
        }
    lines: list[str] = []

    def log(epoch: int, loss: float) -> None:
        lines.append(json.dumps({"epoch": epoch, "loss": loss}))

    fit(network, data.inputs, data.labels, study.recipe, seed=run.seed, prepare=data.prepare, after_epoch=log, **taught)
    right = (evaluate(network, data.eval_inputs, data.prepare).argmax(1) == data.eval_labels).numpy()
    splits = {}
    for split in np.unique(data.eval_split):
        own = right[data.eval_split == split]
        splits[str(split)] = {"accuracy": float(own.mean()), "n": len(own)}
    write_text(folder / "log.jsonl", "\n".join(lines) + "\n")
    write_json(folder / "result.json", {"splits": splits, "label": run.method.label})


def _in_processes(study: Study, groups: list[list[Run]], expected: list[Path], bar: Any) -> None:
    threads = max(1, (os.cpu_count() or 1) // study.workers)
    context = multiprocessing.get_context("spawn")  # forking a process that has run torch or numba threads can hang
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        study.workers, mp_context=context, initializer=_start_worker, initargs=(study.file, study.folder, threads)
    ) as pool:
        pending: set[Future[None]] = {pool.submit(_work, group) for group in groups}
        waiting = expected
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                left = [file for file in waiting if not file.exists()]
                bar.update(len(waiting) - len(left))
                waiting = left
                for future in done:
                    future.result()
        except BaseException as error:  # Ctrl-C too: don't wait for hours of runs under way
            pool.shutdown(cancel_futures=True, wait=False)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise CapmismatchError(
                    "a worker process was killed, perhaps for want of memory: what is done is kept, "
                    f"{len(waiting)} runs are left; start again, with fewer than {study.workers} workers"
                ) from error
            raise


_worker_study: Study | None = None


def _start_worker(file: Path, folder: Path, threads: int) -> None:
    global _worker_study
    from capmismatch.study import Study

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker_study = Study(file, folder, progress=False)


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on, unseen, and then wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(group: list[Run]) -> None:
    assert _worker_study is not None
    _run_group(_worker_study, group, lambda: None)
