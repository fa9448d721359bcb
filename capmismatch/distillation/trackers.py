"""The runs of a study for TensorBoard, MLflow or Weights & Biases, copied from the files that the runs leave.

Training knows of no tracker. `track` reads ``runs/*/config.json``, ``log.jsonl`` and ``result.json``, of finished
studies and of those under way, and writes what is new since its last call. However often it is called, nothing is
written twice. Nothing is sent anywhere, except to an MLflow server whose address is given.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from capmismatch._utils.files import hash_of, make_folder, write_json
from capmismatch._utils.optional import need
from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import read_result, run_name
from capmismatch.errors import BankError, InputError, must_be_one_of
from capmismatch.training.epoch_log import read_log

FLUSH_SECONDS = 10.0
"""How long Weights & Biases may take to write the end of a run's file."""

MARKER = "capmismatch.json"  # in the folder of a copied run: the stamp of what was copied


@dataclass(frozen=True)
class TrackedRun:
    """One run of a study, as a tracker shows it.

    Attributes
    ----------
    key : str
        Name of the run's folder, the hash of its configuration.
    name : str
        For people, such as "mlp24 by KD tau=4 student tau=1 from mlp/mlp48-s1, seed 1".
    settings : dict
        Its configuration, flat: "student", "method.tau", "recipe.lr", ...; and "label", that of its setting.
    epochs : tuple of dict
        Lines of its log: "epoch", "loss" and what else was logged.
    final : dict of str to float
        "final_val_accuracy" and "final_test_accuracy", once it is done.
    state : str
        "done", "failed" or "unfinished".
    """

    key: str
    name: str
    settings: dict[str, str | int | float | bool]
    epochs: tuple[dict[str, Any], ...]
    final: dict[str, float]
    state: str

    @property
    def stamp(self) -> str:
        """A hash of everything that there is to write."""
        return hash_of(asdict(self))

    def metrics(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield what was logged, by epoch; the final accuracies come with the last epoch."""
        for line in self.epochs:
            yield int(line["epoch"]), {key: float(value) for key, value in line.items() if key != "epoch"}
        if self.final:
            yield int(self.epochs[-1]["epoch"]) if self.epochs else 0, self.final


def track(
    folder: str | os.PathLike[str], to: str, out: str | os.PathLike[str], *, project: str | None = None
) -> pd.DataFrame:
    """Write the runs of a study, each with its configuration, log and accuracies, to where a tracker shows them.

    Parameters
    ----------
    folder : str or path
        Of the study, with ``runs/`` in it.
    to : str
        "tensorboard", "mlflow" or "wandb"; needs the extra ``trackers``.
    out : str or path
        A folder. Look at it with ``tensorboard --logdir OUT``, ``mlflow ui --backend-store-uri OUT`` (recent
        versions ask for ``MLFLOW_ALLOW_FILE_STORE=true``), or ``wandb sync OUT/wandb/offline-run-*``. For MLflow also
        the address of a tracking server or database, such as "http://localhost:5000".
    project : str, optional
        Name of the project or experiment; by default the folder's.

    Returns
    -------
    DataFrame
        One row per run, with the columns

        * ``run``: name of its folder
        * ``name``: for people
        * ``state``: "done", "failed" or "unfinished"
        * ``epochs``: number of epochs so far
        * ``written``: whether there was anything new

    Raises
    ------
    InputError
        An unknown tracker, one that is not installed, or a folder without runs.
    BankError
        A run's files are damaged.
    """
    must_be_one_of(to, TRACKERS, "tracker")
    runs = read_runs(folder)
    rows = []
    try:
        tracker = TRACKERS[to](str(out), project or Path(folder).resolve().name)
        for run in runs:
            new = tracker.stamp(run.key) != run.stamp
            if new:
                tracker.write(run)
            of_run = {"run": run.key, "name": run.name, "state": run.state, "epochs": len(run.epochs)}
            rows.append({**of_run, "written": new})
    # What is half written has no stamp, and is written again. Mypy does not look into a tuple that is unpacked.
    except (OSError, *_errors_of(to)) as error:  # type: ignore[misc]
        problem = getattr(error, "strerror", None) or error
        raise BankError(f"cannot write to {out}: {problem}; what is there is completed next time") from None
    return pd.DataFrame(rows)


def _errors_of(to: str) -> list[type[Exception]]:
    """How a tracker's own library says that it could not write."""
    if to == "mlflow":
        return [need("mlflow.exceptions", "trackers", "--to mlflow").MlflowException]
    return [need("wandb", "trackers", "--to wandb").Error] if to == "wandb" else []


def read_runs(folder: str | os.PathLike[str]) -> list[TrackedRun]:
    """Return all runs that have begun in a study's folder, by name."""
    files = sorted(Path(folder, "runs").glob("*/config.json"))
    if not files:
        raise InputError(f"there are no runs in {Path(folder, 'runs')}: run `capmismatch distill` first")
    return sorted((_read_run(file.parent) for file in files), key=lambda run: (run.name, run.key))


def _read_run(folder: Path) -> TrackedRun:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        done, splits = (folder / "result.json").exists(), {}
        if done:
            splits = read_result(folder)["splits"]
        method, teacher = Method.from_dict(config["method"]), config["teacher"]
        return TrackedRun(
            folder.name,
            run_name(config["student"], method, config["seed"], teacher["key"] if teacher else None),
            {"label": method.label, **_flat(config)},
            tuple(read_log(folder / "log.jsonl")),
            {f"final_{split}_accuracy": float(values["accuracy"]) for split, values in splits.items()},
            "done" if done else "failed" if (folder / "error.txt").exists() else "unfinished",
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"the files of the run in {folder} are damaged: {type(error).__name__}: {error}") from None


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A nested table as a flat one; what is None is left out.

    Examples
    --------
    >>> _flat({"method": {"name": "KD", "tau": 4.0, "margin": None}, "center": [7.0, 2.0]})
    {'method.name': 'KD', 'method.tau': 4.0, 'center': '[7.0, 2.0]'}
    """
    flat: dict[str, str | int | float | bool] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return flat


# --- trackers --------------------------------------------------------------------------------------------------------


class Tracker(Protocol):
    """Where runs are copied to."""

    def __init__(self, out: str, project: str) -> None: ...

    def stamp(self, key: str) -> str | None:
        """Return the stamp of a run's copy; None if there is none, or an incomplete one."""

    def write(self, run: TrackedRun) -> None:
        """Write a copy of a run, in place of an earlier one."""


class _FolderTracker:
    """A tracker that keeps each run in a folder whose name ends with the run's key."""

    pattern = "*"  # of these folders, before the key

    def __init__(self, out: str, project: str) -> None:
        if "://" in out:
            raise InputError(f"expected a folder to write to, got {out!r}: only MLflow takes an address")
        self.out, self.project = make_folder(Path(out)), project

    def _folders(self, key: str) -> list[Path]:
        return sorted(self.out.glob(f"{self.pattern}{key}"))

    def stamp(self, key: str) -> str | None:
        folders = self._folders(key)
        marker = folders[0] / MARKER if len(folders) == 1 else None
        return json.loads(marker.read_text(encoding="utf-8"))["stamp"] if marker and marker.exists() else None

    def _remove(self, key: str) -> None:
        for folder in self._folders(key):
            shutil.rmtree(folder)


class _TensorBoard(_FolderTracker):
    pattern = "* "

    def __init__(self, out: str, project: str) -> None:
        need("tensorboard", "trackers", "--to tensorboard")
        super().__init__(out, project)

    def write(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        unfinished = self.out / f".tmp-{run.key}"
        shutil.rmtree(unfinished, ignore_errors=True)
        with _quiet_when_full(), SummaryWriter(str(unfinished)) as writer:
            for epoch, values in run.metrics():
                for name, value in values.items():
                    writer.add_scalar(name, value, epoch)
            writer.add_hparams(run.settings, dict(run.final), run_name=".")
        write_json(unfinished / MARKER, {"stamp": run.stamp})
        self._remove(run.key)
        name = re.sub(r"[^\w=.,+-]+", " ", run.name)  # fit for a folder on any system
        unfinished.rename(self.out / f"{name} {run.key}")


@contextmanager
def _quiet_when_full() -> Iterator[None]:
    """Leave it to the main thread to say that a disk is full: writing threads and log files show tracebacks first."""
    before, told = threading.excepthook, logging.raiseExceptions

    def show(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            before(args)

    threading.excepthook, logging.raiseExceptions = show, False
    try:
        yield
    finally:
        threading.excepthook, logging.raiseExceptions = before, told


class _Wandb(_FolderTracker):
    pattern = "wandb/offline-run-*-"

    def __init__(self, out: str, project: str) -> None:
        self.wandb = need("wandb", "trackers", "--to wandb")
        super().__init__(out, project)

    def write(self, run: TrackedRun) -> None:
        with _quiet_when_full():
            self._write(run)

    def _write(self, run: TrackedRun) -> None:
        self._remove(run.key)
        options = self.wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_save_requirements=False
        )
        entry = self.wandb.init(
            project=self.project,
            name=run.name,
            id=run.key,
            dir=str(self.out),
            config=run.settings,
            mode="offline",
            settings=options,
            job_type=run.state,
            reinit="finish_previous",
        )
        for epoch, values in run.metrics():
            entry.log(values, step=epoch)
        entry.finish(exit_code=1 if run.state == "failed" else 0)
        folders = self._folders(run.key)
        if len(folders) != 1:
            raise OSError(f"Weights & Biases left {len(folders)} folders for the run {run.key}, expected one")
        # Another process writes the file, now and then after `finish`, and tells nobody where it could not.
        file, deadline = folders[0] / f"run-{run.key}.wandb", time.monotonic() + FLUSH_SECONDS
        while not (whole := file.exists() and _ends_with_exit(file.read_bytes())) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not whole:
            raise OSError(f"Weights & Biases left an incomplete {file.name}; is the disk full?")
        write_json(folders[0] / MARKER, {"stamp": run.stamp})


def _ends_with_exit(content: bytes) -> bool:
    """Whether a .wandb file is whole: pieces of a LevelDB log in blocks of 32 KiB, the last record a run's exit."""
    at, block, head = 7, 32_768, 7  # the file begins with a name, a magic number and a version
    record = b""
    while at < len(content):
        if (room := block - at % block) < head:
            at += room
            continue
        if at + head > len(content):
            return False
        _, size, kind = struct.unpack("<IHB", content[at : at + head])
        at += head + size
        record = content[at - size : at] if kind in (1, 2) else record + content[at - size : at]
    if at != len(content) or not record:
        return False
    messages = need("wandb.proto.wandb_internal_pb2", "trackers", "--to wandb")
    try:
        return messages.Record.FromString(record).WhichOneof("record_type") == "exit"
    except ValueError:  # protobuf's DecodeError is one: the record is cut
        return False


class _Mlflow:
    KEY, STAMP = "capmismatch.run", "capmismatch.stamp"  # tags of an MLflow run
    BATCH = 1000  # metrics that a server takes at once

    def __init__(self, out: str, project: str) -> None:
        tracking = need("mlflow.tracking", "trackers", "--to mlflow")
        self.entities = need("mlflow.entities", "trackers", "--to mlflow")
        self.uri = out if "://" in out else make_folder(Path(out)).resolve().as_uri()
        with self._files_allowed():
            self.client = tracking.MlflowClient(tracking_uri=self.uri)
            experiment = self.client.get_experiment_by_name(project)
            exists = experiment is not None
            self.experiment = experiment.experiment_id if exists else self.client.create_experiment(project)
            self.runs = {run.data.tags[self.KEY]: run for run in self._all_runs() if self.KEY in run.data.tags}

    def _all_runs(self) -> Iterator[Any]:
        """All runs of the experiment, read once: a search for one of them would read every run as well."""
        page = self.client.search_runs([self.experiment])
        yield from page
        while page.token:
            page = self.client.search_runs([self.experiment], page_token=page.token)
            yield from page

    @contextmanager
    def _files_allowed(self) -> Iterator[None]:
        """Set the variable without which recent versions refuse to keep runs in files."""
        name, before = "MLFLOW_ALLOW_FILE_STORE", os.environ.get("MLFLOW_ALLOW_FILE_STORE")
        if self.uri.startswith("file:"):
            os.environ[name] = "true"
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before

    def stamp(self, key: str) -> str | None:
        return self.runs[key].data.tags.get(self.STAMP) if key in self.runs else None

    def write(self, run: TrackedRun) -> None:
        with self._files_allowed():
            self._write(run)

    def _write(self, run: TrackedRun) -> None:
        copy = self.runs.get(run.key)
        if copy is None:
            copy = self.client.create_run(self.experiment, run_name=run.name, tags={self.KEY: run.key})
        run_id = copy.info.run_id
        missing = {key: str(value) for key, value in run.settings.items() if key not in copy.data.params}
        self.client.log_batch(run_id, params=[self.entities.Param(key, value) for key, value in missing.items()])
        # MLflow keeps every value that it was ever given: those of earlier calls must not be given again.
        history = self.client.get_metric_history
        logged = {(name, metric.step) for name in copy.data.metrics for metric in history(run_id, name)}
        new = [
            self.entities.Metric(name, value, 0, epoch)
            for epoch, values in run.metrics()
            for name, value in values.items()
            if (name, epoch) not in logged
        ]
        for start in range(0, len(new), self.BATCH):
            self.client.log_batch(run_id, metrics=new[start : start + self.BATCH])
        status = {"done": "FINISHED", "failed": "FAILED", "unfinished": "RUNNING"}[run.state]
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status)
        self.client.set_tag(run_id, self.STAMP, run.stamp)  # last: an incomplete copy has no stamp


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _Mlflow, "wandb": _Wandb}
