"""The grid of students: which runs there are, that each is run once, and that it is the run one would make by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from capmismatch import architectures, grid
from capmismatch._files import hash_of
from capmismatch.errors import BankError, CapmismatchError
from capmismatch.grid import Prepare, plan
from capmismatch.sources import letters
from capmismatch.study import Study
from capmismatch.training import evaluate, fit

STUDY = """
name = "tiny"
[data]
source = "letters"
split = { train = 260, val = 300, test = 200 }
[[family]]
source = "letters:mlp"
widths = [4, 8]
seeds = 2
[distill]
students = ["mlp5", "mlp6"]
seeds = 3
center = [7]
scale = [3]
recipe = { epochs = 2, batch_size = 50 }
VIEWS
[[distill.methods]]
name = "CE"
[[distill.methods]]
name = "KD"
tau = 2
[[distill.methods]]
name = "DKD"
"""
NOISE = 'views = { kind = "noise", count = 2, sigma = 1.0 }'
IDENTITY = ["teacher", "teacher_seed", "student", "label", "seed", "split"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study folder whose teachers are trained and collected: the others start from its files."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "study.toml").write_text(STUDY.replace("VIEWS", NOISE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))
        study = Study(folder / "study.toml", progress=False)
        study.collect()
        for view in range(2):
            study.view_bank(view)
    return folder


@pytest.fixture(autouse=True)
def quick_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))


def study_in(folder: Path, weights: Path, text: str = STUDY, **options: Any) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(text.replace("VIEWS", NOISE))
    for name in ("bank", "teachers"):
        if not (folder / name).exists():
            (folder / name).symlink_to(weights / name)
    return Study(folder / "study.toml", progress=False, **options)


def results(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(IDENTITY).reset_index(drop=True)


def test_the_plan(tmp_path: Path, weights: Path) -> None:
    study = study_in(tmp_path, weights)
    runs = plan(study, study.bank)
    students, seeds = 2, 3
    assert len(runs) == students * seeds * (1 + 2 * 2)  # CE has no teacher; KD and DKD have two
    assert len({hash_of(grid.config_of(study, run)) for run in runs}) == len(runs)
    keys = [run.teacher.key if run.teacher else None for run in runs]
    assert [key for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key] == [None, *study.bank.keys]
    for run in runs:
        if run.teacher:
            assert run.teacher.seed == run.seed % 2


def test_a_run_is_what_one_would_do_by_hand(tmp_path: Path, weights: Path) -> None:
    study = study_in(tmp_path, weights)
    table = study.distill()
    assert len(table) == 30 * 2
    assert table["n"].map({300: "val", 200: "test"}).equals(table["split"])
    run = next(r for r in plan(study, study.bank) if r.method.name == "KD" and r.seed == 1 and r.student == "mlp6")
    assert run.teacher is not None
    train, held_out = study.train_data, study.eval_data
    views = np.stack([study.distillation.views.make(train.inputs, v) for v in range(2)])
    logits = torch.from_numpy(np.stack([study.view_bank(v).logits(run.teacher.key) for v in range(2)])).double()
    prepare = Prepare((7.0,), (3.0,))
    torch.manual_seed(int(hash_of(["mlp6", 1]), 16) % 2**63)
    network = architectures.build("mlp6", 26, in_features=16)
    fit(network, torch.from_numpy(views), torch.from_numpy(train.labels), study.recipe, seed=1, prepare=prepare,
        criterion=run.method.criterion(), soft=torch.softmax(logits / 2, -1).float())  # fmt: skip
    right = evaluate(network, torch.from_numpy(held_out.inputs), prepare).argmax(1).numpy() == held_out.labels
    for split in ("val", "test"):
        row = table.query("teacher == @run.teacher.teacher and method == 'KD' and student == 'mlp6' and seed == 1")
        wanted = right[held_out.rows.split == split].mean()
        assert row[row["split"] == split]["accuracy"].item() == pytest.approx(wanted, abs=1e-9)


def test_seeds_pair_initial_weights(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: dict[tuple[int, int], set[str]] = {}

    def look(network: torch.nn.Module, *_: Any, seed: int, **__: Any) -> None:
        first = next(iter(network.parameters())).detach()
        starts.setdefault((len(first), seed), set()).add(hash_of(first.tolist()))

    monkeypatch.setattr(grid, "fit", look)
    study_in(tmp_path, weights).distill()
    assert len(starts) == 2 * 3
    assert all(len(one) == 1 for one in starts.values())  # the same for every method and teacher
    assert len(set.union(*starts.values())) == 6  # and another for every student and seed


def test_two_workers_give_the_same_results_and_a_second_call_does_nothing(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = study_in(tmp_path / "one", weights).distill()
    together = study_in(tmp_path / "two", weights, workers=2).distill()
    pd.testing.assert_frame_equal(results(alone), results(together))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run must not be run again")

    monkeypatch.setattr(grid, "fit", refuse)
    again = study_in(tmp_path / "two", weights).distill()
    pd.testing.assert_frame_equal(again, together)


def test_another_setting_runs_only_what_is_new(tmp_path: Path, weights: Path) -> None:
    study_in(tmp_path, weights).distill()
    before = set((tmp_path / "runs").iterdir())
    table = study_in(tmp_path, weights, STUDY.replace("tau = 2", "tau = 8")).distill()
    assert len(set((tmp_path / "runs").iterdir()) - before) == 2 * 3 * 2
    assert set(table["label"]) == {"CE", "KD tau=8", "DKD"} | set(table["label"][table["method"] == "DKD"])


@pytest.mark.filterwarnings("error")
def test_a_failing_run_is_reported_and_the_others_go_on(tmp_path: Path, weights: Path) -> None:
    broken = STUDY.replace('"mlp6"', '"mpl6"')
    study = study_in(tmp_path, weights, broken)
    with pytest.warns(UserWarning, match=r"15 of 30 runs failed; the first, mpl6 by CE, seed 0, with: .*mpl6.*err"):
        table = study.distill()
    assert set(table["student"]) == {"mlp5"}
    assert len(table) == 15 * 2
    errors = list((tmp_path / "runs").glob("*/error.txt"))
    assert len(errors) == 15
    assert "Traceback" in errors[0].read_text()
    with pytest.raises(CapmismatchError, match=r"15 of 15 runs failed; the first, mpl6 by CE"):
        study_in(tmp_path, weights, broken.replace('"mlp5", ', "")).distill()


def test_a_run_that_failed_is_tried_again(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any, seed: int, **__: Any) -> None:
        if seed == 1:
            raise FloatingPointError("the loss became nan")

    with monkeypatch.context() as patch:
        patch.setattr(grid, "fit", diverge)
        with pytest.warns(UserWarning, match="10 of 30 runs failed.*the loss became nan"):
            study_in(tmp_path, weights).distill()
    assert len(study_in(tmp_path, weights).distill()) == 60
    assert not list((tmp_path / "runs").glob("*/error.txt"))


def test_a_full_disk_ends_the_grid_at_once(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To train on, only to find that the result cannot be kept, would be worse."""
    trained = []
    monkeypatch.setattr(grid, "fit", lambda *_, **__: trained.append(1))

    def full(*_: Any) -> None:
        if len(trained) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("capmismatch._files.os.fsync", full)
    with pytest.raises(CapmismatchError, match="No space left on device"):
        study_in(tmp_path, weights).distill()
    assert len(trained) == 3


def test_a_damaged_result_is_named(tmp_path: Path, weights: Path) -> None:
    study_in(tmp_path, weights).distill()
    file = next((tmp_path / "runs").glob("*/result.json"))
    file.write_text(file.read_text()[:20])
    with pytest.raises(BankError, match=r"result.json is damaged .*remove it to train that student anew"):
        study_in(tmp_path, weights).distill()


def test_what_a_run_leaves(tmp_path: Path, weights: Path) -> None:
    study = study_in(tmp_path, weights)
    study.distill()
    run = plan(study, study.bank)[-1]
    folder = tmp_path / "runs" / hash_of(grid.config_of(study, run))
    assert sorted(f.name for f in folder.iterdir()) == [".lock", "config.json", "log.jsonl", "result.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["teacher"]["key"] == run.teacher.key  # type: ignore[union-attr]
    assert config["method"] == json.loads(json.dumps(dataclasses.asdict(run.method)))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert all(np.isfinite(line["loss"]) for line in lines)


# --- kills -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from capmismatch.sources import letters
from capmismatch.study import Study
letters.RECIPE = letters.Recipe(epochs=2, batch_size=100)
if __name__ == "__main__":
    Study(sys.argv[1] + "/study.toml", workers=2, progress=False).distill()
"""


def start(folder: Path) -> int:
    """Run the grid in a process of its own, with a log of the runs; returns its number. (A fork imports nothing.)"""
    child = os.fork()
    if child:
        return child
    status, real = 1, grid.fit

    def fit(*arguments: Any, **options: Any) -> Any:
        with open(folder / "log", "a") as file:
            file.write("run\n")
        time.sleep(0.02)
        return real(*arguments, **options)

    try:
        signal.alarm(100)  # should it ever hang, it does not outlive the test
        grid.fit = fit
        Study(folder / "study.toml", progress=False).distill()
        status = 0
    finally:
        os._exit(status)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{number}/stat").read_text().split(")")[-1].split()[0] != "Z"


def children(parent: int) -> list[int]:
    """Numbers of a process's children, from what Linux tells of every process."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(file.read_text().split(")")[-1].split()[1]) == parent:
                found.append(int(file.parent.name))
    return found


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def finished(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("*/result.json"))


def test_killed_it_goes_on_without_running_anything_twice(tmp_path: Path, weights: Path) -> None:
    wanted = study_in(tmp_path / "whole", weights).distill()
    folder = tmp_path / "a"
    study_in(folder, weights)
    child = start(folder)
    wait_for(lambda: len(finished(folder)) >= 4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = {file: file.stat().st_mtime_ns for file in finished(folder)}
    assert 4 <= len(done) < 30
    table = study_in(folder, weights).distill()
    assert {file: file.stat().st_mtime_ns for file in done} == done
    pd.testing.assert_frame_equal(results(table), results(wanted))
    assert not list(folder.rglob("*/.tmp-*"))


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "a"
    study_in(folder, weights)
    (folder / "run.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(folder / "run.py"), str(folder)])
    wait_for(lambda: len(finished(folder)) > 0 or process.poll() is not None)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    wait_for(lambda: not any(alive(worker) for worker in workers), 10)
    assert len(finished(folder)) < 30


def test_two_commands_at_once_run_nothing_twice(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "a"
    study_in(folder, weights)
    children = [start(folder) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len((folder / "log").read_text().split()) == 30
    assert len(finished(folder)) == 30
