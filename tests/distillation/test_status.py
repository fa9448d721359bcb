"""Progress of a grid, read from its files by another process than those that train."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from studies import GRID_STUDY, MakeStudy

from capmismatch import cli, plots
from capmismatch._utils.files import locked
from capmismatch._utils.text import duration
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.errors import BankError
from capmismatch.study.study import Study
from capmismatch.training.epoch_log import EpochLog, read_log

TEXT = GRID_STUDY.replace("epochs = 2", "epochs = 4").replace("seeds = 3", "seeds = 2")
LABELS = ["CE", "KD tau=2 student tau=1", "DKD", "KD tau=2 student tau=1", "DKD"]  # 4 runs each
CE, KD = ("CE", ""), ("KD tau=2 student tau=1", "mlp4")
TEACHERS = ["", "mlp4", "mlp4", "mlp8", "mlp8"]


@pytest.fixture
def study(tmp_path: Path, make_study: MakeStudy) -> Study:
    """Two students by plain training and, by two methods, from two teachers; two seeds each: 20 runs."""
    return make_study(tmp_path, TEXT)


def folders(study: Study, method: str, student: str) -> list[Path]:
    """Folders of the runs of a student by a method, from the first teacher."""
    runs = [run for run in plan(study, study.bank) if (run.method.name, run.student) == (method, student)]
    return [run_folder(study, run) for run in runs][:2]


def finish(folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"splits": {}, "seconds": seconds}))


def start(folder: Path, *seconds: float) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"epoch": epoch, "loss": 1.0, "seconds": s}) for epoch, s in enumerate(seconds)]
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", ""),
        ("result.json", "[]"),
        ("result.json", '{"seconds": "x"}'),
        ("log.jsonl", "{x}\n"),
        ("log.jsonl", '{"epoch": 0}\n'),
        ("log.jsonl", '{"epoch": 0, "seconds": null}\n'),
    ],
)
def test_damaged_files_are_named(study: Study, name: str, text: str) -> None:
    folder = folders(study, "KD", "mlp6")[0]
    folder.mkdir(parents=True)
    (folder / name).write_text(text)
    with pytest.raises(BankError, match=f"{name} is damaged"):
        study.status()


def test_nothing_has_begun(study: Study) -> None:
    table = study.status()
    assert table.columns.tolist() == [
        "family",
        "teacher",
        "label",
        "runs",
        "done",
        "running",
        "failed",
        "waiting",
        "seconds_left",
    ]
    assert table["label"].tolist() == LABELS and table["teacher"].tolist() == TEACHERS
    assert table["runs"].tolist() == table["waiting"].tolist() == [4] * 5
    assert table["seconds_left"].isna().all()  # nobody knows yet


def test_every_run_counts_once_by_its_state(study: Study) -> None:
    """A run takes as long as its own epochs say, else as the runs most like it."""
    ce6_going, ce6_failed = folders(study, "CE", "mlp6")
    finish(folders(study, "CE", "mlp5")[0], 8.0)
    start(ce6_going, 5.0)  # 15 s are left: three more epochs
    start(ce6_failed, 1.0)
    (ce6_failed / "error.txt").write_text("a traceback")
    start(folders(study, "KD", "mlp5")[0], 2.0, 2.0)  # half way: 4 s are left, 8 s for the other
    hold = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(ce6_going / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        table = study.status().set_index(["label", "teacher"])
        holder.communicate("\n")
    states = ["done", "running", "failed", "waiting"]
    assert table.loc[CE, states].tolist() == [1, 1, 1, 1]
    assert table.loc[KD, states].tolist() == [0, 0, 0, 4]
    assert table.loc[CE, "seconds_left"] == pytest.approx(15 + 8)
    # no run of mlp6 by KD has begun: the mean of mlp6, of 20 s (5 s per epoch) and 4 s (1 s per epoch)
    assert table.loc[KD, "seconds_left"] == pytest.approx(4 + 8 + 2 * (20 + 4) / 2)
    table = study.status().set_index(["label", "teacher"])
    assert table.loc[CE, states].tolist() == [1, 0, 1, 2]  # the lock is free again


def test_a_slow_first_epoch_is_not_taken_for_the_pace(study: Study) -> None:
    start(folders(study, "KD", "mlp5")[0], 60.0, 2.0, 2.0)  # of four epochs
    table = study.status().set_index(["label", "teacher"])
    assert table.loc[KD, "seconds_left"] == pytest.approx(2.0 + 3 * 4 * 2.0)


def test_a_finished_study_needs_no_more_time(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.distill()
    table = study.status()
    assert table["done"].tolist() == [4] * 5 and (table["seconds_left"] == 0).all()
    for folder in (study.folder / "runs").iterdir():
        result = json.loads((folder / "result.json").read_text())
        spent = sum(line["seconds"] for line in read_log(folder / "log.jsonl"))
        assert 0 < spent <= result["seconds"] < 60
    cli.status(study.file)
    shown = capsys.readouterr().out
    assert re.search(r"^20 of 20 .* 0 s$", shown, re.MULTILINE)
    assert [line.split()[0] for line in shown.splitlines()[:1]] == ["family"]
    cli.status(study.file, by="method")
    assert "KD tau=2 student tau=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(float("nan"), "not known yet"), (0.4, "0 s"), (61, "1 min"), (3599, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# ------------------------------------------------------------------------------------------------------------- the log


def test_lines_are_there_as_epochs_end(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "log.jsonl")
    for epoch in range(3):
        log.write(epoch, loss=0.5)
        assert len(read_log(tmp_path / "log.jsonl")) == epoch + 1
    assert log.seconds >= sum(line["seconds"] for line in read_log(tmp_path / "log.jsonl"))


def test_a_run_that_goes_on_drops_what_it_trains_again(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    whole = [f'{{"epoch": {epoch}, "loss": {3 - epoch}.0, "seconds": 1.0}}\n' for epoch in (0, 1)]
    file.write_text("".join([*whole, '{"epoch": 2, "lo']))
    assert [line["epoch"] for line in read_log(file)] == [0, 1]
    log = EpochLog(file)
    log.write(1, loss=2.5)
    log.write(2, loss=1.5)
    assert [(line["epoch"], line["loss"]) for line in read_log(file)] == [(0, 3.0), (1, 2.5), (2, 1.5)]
    assert log.seconds >= 1.0


def test_looking_waits_for_nobody(study: Study) -> None:
    folder = folders(study, "CE", "mlp5")[0]
    folder.mkdir(parents=True)
    with locked(folder / ".lock"):
        pass
    assert study.status()["running"].sum() == 0


@pytest.mark.parametrize(
    ("by", "labels"), [("teacher", ["no teacher", "mlp4", "mlp8"]), ("method", ["CE", "KD tau=2 student tau=1", "DKD"])]
)
def test_the_figure_draws_what_status_gives(study: Study, by: str, labels: list[str]) -> None:
    ax = plots.study_progress(study.status(), by=by)
    drawn = plots.drawn_data(ax)
    assert drawn["label"].tolist() == labels and drawn["runs"].tolist() == drawn["waiting"].tolist() == [4, 8, 8]
