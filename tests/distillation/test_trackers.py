"""The runs of a study in each tracker, read back with that tracker's own reader."""

from __future__ import annotations

import importlib
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from messages import naming

from capmismatch import cli
from capmismatch.distillation import trackers
from capmismatch.distillation.methods import Method
from capmismatch.distillation.trackers import TRACKERS, _ends_with_exit, read_runs, track
from capmismatch.errors import BankError, InputError

METHOD = Method("DKD", options={"beta": 2.0})
LOSSES = [3.0, 2.5, 2.25]


def leave_run(
    folder: Path,
    key: str,
    losses: list[float],
    *,
    seed: int = 0,
    method: Method = METHOD,
    done: bool = False,
    failed: bool = False,
    resumed: bool = False,
) -> None:
    """What a run leaves: see `capmismatch.distillation.grid`."""
    home = folder / "runs" / key
    home.mkdir(parents=True, exist_ok=True)
    config = {
        "format": 1,
        "student": "mlp24",
        "method": asdict(method),
        "seed": seed,
        "recipe": {"lr": 0.01, "epochs": 3},
        "teacher": None if method.name == "CE" else {"key": "mlp/mlp48-s1", "weights": "abc"},
        "center": [7.0],
    }
    (home / "config.json").write_text(json.dumps(config))
    lines = [{"epoch": epoch, "loss": loss, "tau": 15.5, "seconds": 0.25} for epoch, loss in enumerate(losses)]
    (home / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done:
        splits = {"val": {"accuracy": 0.75, "n": 60}, "test": {"accuracy": 0.5, "n": 60}}
        (home / "result.json").write_text(json.dumps({"splits": splits, "label": method.label}))
    if failed:
        (home / "error.txt").write_text("Traceback ...")


# One run as each tracker tells it: (settings, {metric: [(epoch, value), ...]})
Told = tuple[dict[str, Any], dict[str, list[tuple[int, float]]]]


def from_tensorboard(out: Path) -> dict[str, Told]:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    hparams = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    found = {}
    for home in out.iterdir():
        events = accumulator.EventAccumulator(str(home))
        events.Reload()
        metrics = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        if "final_val_accuracy" in metrics:  # TensorBoard's table of settings wants its metrics once more, at step 0
            metrics |= {tag: metrics[tag][:1] for tag in metrics if tag.startswith("final_")}
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        data = hparams.HParamsPluginData.FromString(content).session_start_info.hparams
        settings = {key: getattr(value, value.WhichOneof("kind")) for key, value in data.items()}
        found[home.name.rpartition(" ")[2]] = (settings, metrics)
    return found


def from_mlflow(out: Path) -> dict[str, Told]:
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=out.resolve().as_uri())
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
            metrics = {name: [(m.step, m.value) for m in values] for name, values in history.items()}
            found[run.data.tags["capmismatch.run"]] = (run.data.params, metrics)
    return found


def records_of(content: bytes) -> Iterator[bytes]:
    """Records of a .wandb file, LevelDB's log format: blocks of 32 KiB; pieces with checksum, length and kind."""
    place, record = 7, b""  # after the file's own header
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for another piece's header
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<4xHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def from_wandb(out: Path) -> dict[str, Told]:
    records = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found = {}
    for file in out.glob("wandb/offline-run-*/run-*.wandb"):
        settings: dict[str, Any] = {}
        metrics: dict[str, list[tuple[int, float]]] = {}
        for record in map(records.Record.FromString, records_of(file.read_bytes())):
            for item in record.run.config.update:
                settings[item.key] = json.loads(item.value_json)
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in values.items():
                if not name.startswith("_"):
                    metrics.setdefault(name, []).append((record.history.step.num, value))
        found[file.stem.removeprefix("run-")] = (settings, metrics)
    return found


READERS: dict[str, Callable[[Path], dict[str, Told]]] = {
    "tensorboard": from_tensorboard,
    "mlflow": from_mlflow,
    "wandb": from_wandb,
}
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # for the reader below


def test_every_tracker_is_tested() -> None:
    assert set(READERS) == set(TRACKERS)


@pytest.mark.parametrize("to", READERS)
@pytest.mark.filterwarnings("ignore")  # of the trackers, about themselves
def test_a_study_under_way_is_followed(to: str, tmp_path: Path) -> None:
    """Tracked after two epochs, again with nothing new, and at the end: everything is there once."""
    pytest.importorskip(PACKAGES[to])
    study, out = tmp_path / "study", tmp_path / "out"
    one, other = "0123456789abcdef", "fedcba9876543210"
    leave_run(study, one, LOSSES[:2])
    first = track(study, to, out)
    assert first[["run", "state", "epochs", "written"]].values.tolist() == [[one, "unfinished", 2, True]]
    assert track(study, to, out)["written"].tolist() == [False]
    leave_run(study, one, LOSSES, done=True)
    leave_run(study, other, LOSSES[:1], method=Method("CE"), failed=True)
    last = track(study, to, out, project="study")
    assert last.set_index("run")["state"].to_dict() == {one: "done", other: "failed"} and last["written"].all()
    assert not track(study, to, out)["written"].any()

    found = READERS[to](out)
    assert set(found) == {one, other}
    settings, metrics = found[one]
    assert metrics["loss"] == list(enumerate(LOSSES))
    assert metrics["tau"] == [(0, 15.5), (1, 15.5), (2, 15.5)]
    assert metrics["final_val_accuracy"] == [(2, 0.75)] and metrics["final_test_accuracy"] == [(2, 0.5)]
    told = {key: str(settings[key]) for key in ("student", "method.name", "recipe.lr", "method.options.beta", "label")}
    assert told == {
        "student": "mlp24",
        "method.name": "DKD",
        "recipe.lr": "0.01",
        "method.options.beta": "2.0",
        "label": "DKD beta=2.0",
    }
    assert found[other][1]["loss"] == [(0, 3.0)] and "final_val_accuracy" not in found[other][1]


@pytest.mark.parametrize("to", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_copy_that_was_killed_is_made_again(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the run was marked as written: the next call leaves one whole copy."""
    pytest.importorskip(PACKAGES[to])
    study, out = tmp_path / "study", tmp_path / "out"
    leave_run(study, "0123456789abcdef", LOSSES, done=True)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if to == "mlflow":
            client = importlib.import_module("mlflow.tracking").MlflowClient
            patch.setattr(client, "set_tag", killed)
        else:
            patch.setattr("capmismatch.distillation.trackers.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            track(study, to, out)
    assert track(study, to, out)["written"].tolist() == [True]
    assert READERS[to](out)["0123456789abcdef"][1]["loss"] == list(enumerate(LOSSES))
    assert len(READERS[to](out)) == 1


def test_names_are_for_people_and_settings_are_flat(tmp_path: Path) -> None:
    leave_run(tmp_path, "b", [], seed=1)
    leave_run(tmp_path, "a", [1.0], method=Method("CE"))
    (tmp_path / "runs" / "begun").mkdir()  # nothing in it yet
    runs = read_runs(tmp_path)
    assert [run.name for run in runs] == ["mlp24 by CE, seed 0", "mlp24 by DKD beta=2.0 from mlp/mlp48-s1, seed 1"]
    assert runs[1].settings["center"] == "[7.0]" and "method.tau" not in runs[1].settings
    assert runs[1].settings["teacher.key"] == "mlp/mlp48-s1"
    assert list(runs[1].metrics()) == []


@pytest.mark.filterwarnings("ignore")
def test_names_of_folders_suit_any_system(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    leave_run(tmp_path, "0123456789abcdef", LOSSES, method=Method("KD", options={"assistants": ["mlp8", "mlp4"]}))
    track(tmp_path, "tensorboard", tmp_path / "out")
    (home,) = (tmp_path / "out").iterdir()
    assert home.name == "mlp24 by KD tau=4 student tau=1 via mlp8 mlp4 from mlp mlp48-s1, seed 0 0123456789abcdef"


@pytest.mark.filterwarnings("ignore")
def test_mlflow_leaves_the_environment_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    leave_run(tmp_path, "0123456789abcdef", LOSSES)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    track(tmp_path, "mlflow", tmp_path / "out")
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ


@pytest.mark.filterwarnings("ignore")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "study.toml").write_text('name = "tiny"\nfamily = [{ source = "logits:saved.npz" }]\n')
    for key, done in (("a" * 16, True), ("b" * 16, True), ("c" * 16, False)):
        leave_run(tmp_path, key, LOSSES, done=done)
    out = tmp_path / "out"
    for _ in range(2):
        cli.app(["track", str(tmp_path), "--to", "mlflow", "--out", str(out)], result_action="return_value")
    first, second = capsys.readouterr().out.splitlines()
    assert [int(number) for number in re.findall(r"\b\d\b", first.partition(str(out))[0])] == [3, 2, 1, 3]
    assert [int(number) for number in re.findall(r"\b\d\b", second.partition(str(out))[0])] == [3, 2, 1, 0]
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=out.as_uri())
    (experiment,) = (e for e in client.search_experiments() if e.name == "tiny")
    states = [run.info.status for run in client.search_runs([experiment.experiment_id])]
    assert sorted(states) == ["FINISHED", "FINISHED", "RUNNING"]


# Errors


@pytest.mark.parametrize("to", READERS)
def test_a_missing_package_is_named_with_its_extra(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_run(tmp_path, "a", LOSSES)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGES[to]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, PACKAGES[to], None)
    with pytest.raises(InputError, match=rf"--to {to} needs {to}.*pip install 'capmismatch\[trackers\]'"):
        track(tmp_path, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=naming("tracker", ["tensorboard", "mlflow", "wandb"], "'neptune'")):
        track(tmp_path, "neptune", tmp_path)
    with pytest.raises(InputError, match=naming("runs", "capmismatch distill")):
        track(tmp_path, "wandb", tmp_path)
    leave_run(tmp_path, "a", LOSSES)
    pytest.importorskip("tensorboard")
    with pytest.raises(InputError, match=naming("folder", "'http://localhost:5000'", "MLflow")):
        track(tmp_path, "tensorboard", "http://localhost:5000")
    for name, content in (("result.json", "{}"), ("config.json", '{"student": "mlp24"}'), ("config.json", "{")):
        (tmp_path / "runs" / "a" / name).write_text(content)
        with pytest.raises(BankError, match=naming(tmp_path / "runs" / "a", "damaged")):
            read_runs(tmp_path)


def test_a_copy_for_wandb_that_was_cut_is_told_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writing process says nothing when the disk is full: what it leaves is looked at."""
    pytest.importorskip("wandb")
    leave_run(tmp_path, "a" * 16, LOSSES, done=True)
    read = Path.read_bytes

    def cut(file: Path) -> bytes:
        return read(file)[:-3] if file.suffix == ".wandb" else read(file)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", cut)
        patch.setattr(trackers, "FLUSH_SECONDS", 0.1)
        with pytest.raises(BankError, match=naming(tmp_path / "out", "incomplete", "completed next time")):
            track(tmp_path, "wandb", tmp_path / "out")
    assert track(tmp_path, "wandb", tmp_path / "out")["written"].all()
    (file,) = (tmp_path / "out").glob("wandb/offline-run-*/run-*.wandb")
    whole = read(file)
    assert _ends_with_exit(whole)
    for length in (0, 3, 7, 9, len(whole) // 2, len(whole) - 1):
        assert not _ends_with_exit(whole[:length])
    assert not track(tmp_path, "wandb", tmp_path / "out")["written"].any()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the size of files are POSIX's")
def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    leave_run(tmp_path / "study", "a" * 16, LOSSES * 400, done=True)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "import torch.utils.tensorboard; from capmismatch.distillation.trackers import track;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048));"
        "from capmismatch.errors import CapmismatchError\n"
        "try: track(sys.argv[1], 'tensorboard', sys.argv[2])\n"
        "except CapmismatchError as error: print('told', error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "study"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("told") and str(tmp_path / "out") in done.stdout
    assert "Traceback" not in done.stderr
