"""How far a grid is, told from its files by another process than those that train."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from capmismatch import cli, plots
from capmismatch._utils.files import locked
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.study.study import Study
from capmismatch.training.epoch_log import EpochLog, read_log

STUDY = """
name = "tiny"
[data]
source = "npz:rows.npz"
split = { train = 40, val = 30, test = 30 }
[[family]]
source = "logits:family.npz"
[distill]
students = ["mlp5", "mlp6"]
seeds = 2
recipe = { epochs = 4, batch_size = 20 }
[[distill.methods]]
name = "CE"
[[distill.methods]]
name = "KD"
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two students by plain training and from one teacher, two seeds each: 8 runs."""
    draws = np.random.default_rng(0)
    labels = np.arange(100) % 4
    np.savez(tmp_path / "rows.npz", labels=labels, X=draws.normal(size=(100, 6)).astype(np.float32))
    (tmp_path / "study.toml").write_text(STUDY)
    study = Study(tmp_path / "study.toml", progress=False)
    rows = study.eval_data.rows
    np.savez(
        tmp_path / "family.npz",
        labels=rows.labels,
        ids=rows.ids,
        classes=rows.classes,
        logits_one=draws.normal(size=(len(rows.labels), 4)),
    )
    study.collect()
    return study


def folders(study: Study, **wanted: object) -> list[Path]:
    """Folders of the runs of a student or a method."""
    runs = [
        run
        for run in plan(study, study.bank)
        if run.student == wanted.get("student", run.student) and run.method.name == wanted["method"]
    ]
    return [run_folder(study, run) for run in runs]


def finish(folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"splits": {}, "seconds": seconds}))


def start(folder: Path, *seconds: float) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"epoch": epoch, "loss": 1.0, "seconds": s}) for epoch, s in enumerate(seconds)]
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines))


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
    assert table["label"].tolist() == ["CE", "KD tau=4"] and table["teacher"].tolist() == ["", "one"]
    assert table["runs"].tolist() == table["waiting"].tolist() == [4, 4]
    assert table["seconds_left"].isna().all()  # nobody knows yet


def test_every_state_is_told_and_counted_once(study: Study) -> None:
    """The time of the others is that of the runs most like them; a run's own pace goes before."""
    ce6_going, ce6_failed = folders(study, method="CE", student="mlp6")
    finish(folders(study, method="CE", student="mlp5")[0], 8.0)
    start(ce6_going, 5.0)  # 15 s are left: three more epochs
    start(ce6_failed, 1.0)
    (ce6_failed / "error.txt").write_text("a traceback")
    start(folders(study, method="KD", student="mlp5")[0], 2.0, 2.0)  # half way: 4 s are left, 8 s for the other
    hold = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(ce6_going / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        table = study.status().set_index("label")
        holder.communicate("\n")
    states = ["done", "running", "failed", "waiting"]
    assert table.loc["CE", states].tolist() == [1, 1, 1, 1]
    assert table.loc["KD tau=4", states].tolist() == [0, 0, 0, 4]
    assert table.loc["CE", "seconds_left"] == pytest.approx(15 + 8)
    # mlp6 by KD has no run like it: the mean of mlp6, of 20 s (5 s an epoch) and 4 s (1 s an epoch)
    assert table.loc["KD tau=4", "seconds_left"] == pytest.approx(4 + 8 + 2 * (20 + 4) / 2)
    assert study.status().set_index("label").loc["CE", states].tolist() == [1, 0, 1, 2]  # the process has let go


def test_a_slow_first_epoch_is_not_taken_for_the_pace(study: Study) -> None:
    start(folders(study, method="KD")[0], 60.0, 2.0, 2.0)  # of four epochs
    table = study.status().set_index("label")
    assert table.loc["KD tau=4", "seconds_left"] == pytest.approx(2.0 + 3 * 4 * 2.0)


def test_a_finished_study_needs_no_more_time(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    rows = study.train_data.rows  # of which the teacher's logits are wanted now
    with np.load(study.folder / "family.npz") as file:
        saved = dict(file)
    more = {"labels": rows.labels, "ids": rows.ids, "logits_one": np.ones((len(rows.labels), 4))}
    joined = {name: np.concatenate([saved[name], values]) for name, values in more.items()}
    np.savez(study.folder / "family.npz", classes=saved["classes"], **joined)
    study = Study(study.file, progress=False)
    study.distill()
    table = study.status()
    assert table["done"].tolist() == [4, 4] and (table["seconds_left"] == 0).all()
    for folder in (study.folder / "runs").iterdir():
        result = json.loads((folder / "result.json").read_text())
        spent = sum(line["seconds"] for line in read_log(folder / "log.jsonl"))
        assert 0 < spent <= result["seconds"] < 60
    cli.status(study.file)
    shown = capsys.readouterr().out
    assert "8 of 8 done; time left, 1 at a time: 0 s" in shown
    assert [line.split()[0] for line in shown.splitlines()[:1]] == ["family"]
    cli.status(study.file, by="method")
    assert "KD tau=4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(float("nan"), "not known yet"), (0.4, "0 s"), (61, "1 min"), (3599, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert cli._duration(seconds) == said


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
    folder = folders(study, method="CE")[0]
    folder.mkdir(parents=True)
    with locked(folder / ".lock"):
        pass
    assert study.status()["running"].sum() == 0


@pytest.mark.parametrize(("by", "labels"), [("teacher", ["no teacher", "one"]), ("method", ["CE", "KD tau=4"])])
def test_the_figure_draws_what_status_gives(study: Study, by: str, labels: list[str]) -> None:
    ax = plots.study_progress(study.status(), by=by)
    drawn = plots.drawn_data(ax)
    assert drawn["label"].tolist() == labels and drawn["runs"].tolist() == drawn["waiting"].tolist() == [4, 4]
    plt.close(ax.figure)
