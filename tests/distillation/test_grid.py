"""The grid of students: which runs there are, that each is run once, and that it is the run one would make by hand."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from messages import naming
from processes import ended, fork
from studies import GRID_STUDY, MakeStudy

from capmismatch import architectures
from capmismatch._utils import progress
from capmismatch._utils.files import hash_of
from capmismatch.distillation import engines, grid, student_trainer
from capmismatch.distillation import runs as grid_runs
from capmismatch.distillation.remedies import teach_through
from capmismatch.distillation.runs import plan
from capmismatch.errors import BankError, CapmismatchError, InputError
from capmismatch.study.study import Study
from capmismatch.training.epoch_log import read_log
from capmismatch.training.loop import Recipe, evaluate, fit
from capmismatch.training.prepare import Normalise

IDENTITY = ["teacher", "teacher_seed", "student", "label", "seed", "split"]


def results(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(IDENTITY).reset_index(drop=True)


def test_the_plan(tmp_path: Path, make_study: MakeStudy) -> None:
    study = make_study(tmp_path)
    runs = plan(study, study.bank)
    students, seeds = 2, 3
    assert len(runs) == students * seeds * (1 + 2 * 2)  # CE has no teacher; KD and DKD have two
    assert len({hash_of(grid_runs.config_of(study, run)) for run in runs}) == len(runs)
    keys = [run.teacher.key if run.teacher else None for run in runs]
    assert [key for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key] == [None, *study.bank.keys]
    for run in runs:
        if run.teacher:
            assert run.teacher.seed == run.seed % 2


def test_a_run_is_what_one_would_do_by_hand(tmp_path: Path, make_study: MakeStudy) -> None:
    study = make_study(tmp_path)
    table = study.distill()
    assert len(table) == 30 * 2
    assert table["n"].map({300: "val", 200: "test"}).equals(table["split"])
    run = next(r for r in plan(study, study.bank) if r.method.name == "KD" and r.seed == 1 and r.student == "mlp6")
    assert run.teacher is not None
    train, held_out = study.train_data, study.eval_data
    views = np.stack([study.distillation.views.make(train.inputs, v) for v in range(2)])
    logits = torch.from_numpy(np.stack([study.view_bank(v).logits(run.teacher.key) for v in range(2)])).double()
    prepare = Normalise([7.0], [3.0], channels_last=True)
    torch.manual_seed(int(hash_of(["mlp6", 1]), 16) % 2**63)
    network = architectures.build("mlp6", 26, in_features=16)
    fit(
        network,
        torch.from_numpy(views),
        torch.from_numpy(train.labels),
        study.recipe,
        seed=1,
        prepare=prepare,
        criterion=run.method.criterion(),
        soft=torch.softmax(logits / 2, -1).float(),
    )
    right = evaluate(network, torch.from_numpy(held_out.inputs), prepare).argmax(1).numpy() == held_out.labels
    for split in ("val", "test"):
        row = table.query("teacher == @run.teacher.teacher and method == 'KD' and student == 'mlp6' and seed == 1")
        wanted = right[held_out.rows.split == split].mean()
        assert row[row["split"] == split]["accuracy"].item() == pytest.approx(wanted, abs=1e-9)


def test_seeds_pair_initial_weights(tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: dict[tuple[int, int], set[str]] = {}

    def look(network: torch.nn.Module, *_: Any, seed: int, **__: Any) -> None:
        first = next(iter(network.parameters())).detach()
        starts.setdefault((len(first), seed), set()).add(hash_of(first.tolist()))

    monkeypatch.setattr(student_trainer, "fit", look)
    make_study(tmp_path).distill()
    assert len(starts) == 2 * 3
    assert all(len(one) == 1 for one in starts.values())  # the same for every method and teacher
    assert len(set.union(*starts.values())) == 6  # and another for every student and seed


Done = tuple[Path, pd.DataFrame, list[warnings.WarningMessage]]
WARNS = GRID_STUDY + '[[distill.methods]]\nname = "ISATS"\nconstraint = "none"\n'
"""With a method that warns of each teacher: its search ends on its bound."""


@pytest.fixture(scope="module")
def both_ways(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Done]:
    """By the number of workers: folder, results and warnings of one and the same grid."""
    done = {}
    for workers in (1, 2):
        folder = tmp_path_factory.mktemp(f"workers{workers}")
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            table = make_study(folder, WARNS, workers=workers).distill()
        done[workers] = folder, table, shown
    return done


def test_two_workers_give_the_same_results_and_a_second_call_does_nothing(
    both_ways: dict[int, Done],
    make_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (_, alone, _), (folder, together, _) = both_ways[1], both_ways[2]
    pd.testing.assert_frame_equal(results(alone), results(together))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run must not be run again")

    monkeypatch.setattr(student_trainer, "fit", refuse)
    again = make_study(folder, WARNS).distill()
    pd.testing.assert_frame_equal(again, together)


def test_another_setting_runs_only_what_is_new(tmp_path: Path, make_study: MakeStudy) -> None:
    make_study(tmp_path).distill()
    before = set((tmp_path / "runs").iterdir())
    table = make_study(tmp_path, GRID_STUDY.replace("tau = 2", "tau = 8")).distill()
    assert len(set((tmp_path / "runs").iterdir()) - before) == 2 * 3 * 2
    assert set(table["label"]) == {"CE", "KD tau=8 student tau=1", "DKD"} | set(
        table["label"][table["method"] == "DKD"]
    )


@pytest.mark.filterwarnings("error")
def test_a_failing_run_is_reported_and_the_others_go_on(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = student_trainer.fit

    def fail_for_mlp6(network: torch.nn.Module, *arguments: Any, **options: Any) -> torch.nn.Module:
        if len(next(network.parameters())) == 6:
            raise FloatingPointError("the loss became nan in epoch 1")
        return real(network, *arguments, **options)

    monkeypatch.setattr(student_trainer, "fit", fail_for_mlp6)
    study = make_study(tmp_path)
    with pytest.warns(UserWarning, match=r"15 of 30 runs failed; the first, mlp6 by CE, seed 0, with: .* nan .*err"):
        table = study.distill()
    assert set(table["student"]) == {"mlp5"}
    assert len(table) == 15 * 2
    errors = list((tmp_path / "runs").glob("*/error.txt"))
    assert len(errors) == 15
    assert "Traceback" in errors[0].read_text()
    with pytest.raises(CapmismatchError, match=naming("15 of 15", "mlp6 by CE")):
        make_study(tmp_path, GRID_STUDY.replace('"mlp5", ', "")).distill()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (('"mlp6"', '"mpl6"'), r"study.toml asks for the student 'mpl6': no architecture is named .* near it: .*mlp"),
        (('"mlp6"', '"cifar_resnet8"'), r"the student 'cifar_resnet8': an option .* not 'in_features'"),
        (("tau = 2", 'options = { assistants = ["mpl9"] }'), r"the student 'mpl9': no architecture is named"),
    ],
)
def test_students_that_cannot_be_built_are_refused_before_anything_is_done(
    tmp_path: Path, make_study: MakeStudy, wrong: tuple[str, str], message: str
) -> None:
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=message):
        make_study(tmp_path / "a", GRID_STUDY.replace(*wrong)).distill()
    assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "a" / "runs").exists()
    (tmp_path / "study.toml").write_text(GRID_STUDY.replace(*wrong))
    with pytest.raises(InputError, match=message):
        Study(tmp_path / "study.toml", progress=False).run()
    assert not (tmp_path / "bank").exists()


def test_a_run_that_failed_is_tried_again(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any, seed: int, **__: Any) -> None:
        if seed == 1:
            raise FloatingPointError("the loss became nan")

    with monkeypatch.context() as patch:
        patch.setattr(student_trainer, "fit", diverge)
        with pytest.warns(UserWarning, match="10 of 30 runs failed.*the loss became nan"):
            make_study(tmp_path).distill()
    assert len(make_study(tmp_path).distill()) == 60
    assert not list((tmp_path / "runs").glob("*/error.txt"))


def test_a_full_disk_ends_the_grid_at_once(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To train on, only to find that the result cannot be kept, would be worse."""
    trained = []
    monkeypatch.setattr(student_trainer, "fit", lambda *_, **__: trained.append(1))

    def full(*_: Any) -> None:
        if len(trained) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("capmismatch._utils.files.os.fsync", full)
    with pytest.raises(CapmismatchError, match="No space left on device"):
        make_study(tmp_path).distill()
    assert len(trained) == 3


def test_hashes_of_runs_do_not_change(tmp_path: Path, make_study: MakeStudy) -> None:
    """What is not used is not told: a study that was begun without an option goes on with its runs."""
    study = make_study(tmp_path)
    config = grid_runs.config_of(study, plan(study, study.bank)[-1])
    assert sorted(config) == [
        "center",
        "eval",
        "format",
        "method",
        "recipe",
        "scale",
        "seed",
        "student",
        "teacher",
        "train",
        "views",
    ]
    assert sorted(config["recipe"]) == [
        "batch_size",
        "epochs",
        "lr",
        "milestones",
        "momentum",
        "optimizer",
        "schedule",
        "shift",
        "warmup_epochs",
        "weight_decay",
    ]
    used = make_study(tmp_path, GRID_STUDY.replace("recipe = {", 'device = "cuda"\nrecipe = { keep_best = true,'))
    config = grid_runs.config_of(used, plan(used, used.bank)[-1])
    assert config["device"] == "cuda" and config["recipe"]["keep_best"] is True


def test_a_recipe_by_name(tmp_path: Path, make_study: MakeStudy) -> None:
    plain, named = "recipe = { epochs = 2, batch_size = 50 }", 'recipe = { name = "cifar240", epochs = 24, lr = 1 }'
    recipe = make_study(tmp_path, GRID_STUDY.replace(plain, named)).recipe
    assert recipe == Recipe.named("cifar240", epochs=24, lr=1.0)
    for wrong, message in {
        '{ name = "cifar" }': r"recipe must be one of \['cifar240', 'cifar5'\], not 'cifar'",
        '{ name = "cifar5", epoch = 3 }': r"unknown key 'epoch' in \[distill.recipe\]; did you mean 'epochs'",
    }.items():
        with pytest.raises(InputError, match=message):
            _ = make_study(tmp_path, GRID_STUDY.replace(plain, f"recipe = {wrong}")).recipe


def test_the_best_epoch_by_validation_is_what_is_tested(tmp_path: Path, make_study: MakeStudy) -> None:
    text = GRID_STUDY.replace("epochs = 2, batch_size = 50", "epochs = 6, batch_size = 50, lr = 0.1, keep_best = true")
    table = make_study(tmp_path, text).distill()
    lasts = 0
    for folder in (tmp_path / "runs").iterdir():
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        result = json.loads((folder / "result.json").read_text())["splits"]
        assert result["val"]["accuracy"] == max(line["val_accuracy"] for line in lines)
        lasts += lines[-1]["val_accuracy"] == result["val"]["accuracy"]
    assert len(table) == 60 and lasts < 30


def test_a_best_epoch_needs_rows_to_choose_on(tmp_path: Path, make_study: MakeStudy) -> None:
    text = GRID_STUDY.replace("val = 300, test = 200", "test = 500").replace(
        "epochs = 2", "epochs = 2, keep_best = true"
    )
    (tmp_path / "study.toml").write_text(text)
    study = Study(tmp_path / "study.toml", progress=False)
    study.collect()
    with pytest.raises(CapmismatchError, match=naming("keep_best", "[distill.recipe]", "'val'")):
        study.distill()


def test_assistants_stand_between_teacher_and_student(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GRID_STUDY.replace('name = "DKD"', 'name = "KD"\ntau = 2\noptions = { assistants = ["mlp7"] }')
    study, given = make_study(tmp_path, text), {}
    real = student_trainer.fit

    def look(network: torch.nn.Module, *arguments: Any, **options: Any) -> torch.nn.Module:
        given.setdefault(len(next(network.parameters())), []).append(options.get("soft"))
        return real(network, *arguments, **options)

    chains: list[str] = []

    def taught(*arguments: Any, **options: Any) -> torch.nn.Module:
        chains.append(options["device"])
        return fit(*arguments, **options)

    monkeypatch.setattr(student_trainer, "fit", look)
    monkeypatch.setattr("capmismatch.distillation.remedies.fit", taught)
    study.distill()
    assert chains == [study.distillation.device] * 2 * 3  # once a teacher and seed, for both students
    assert len(list((tmp_path / "assistants").glob("*/link1.safetensors"))) == 6
    trainer = student_trainer.Trainer(study)
    for run in plan(study, study.bank):
        if run.method.assistants and run.teacher and (run.seed, run.student) == (2, "mlp5"):
            handed = teach_through(
                [trainer.build("mlp7", 2)],
                trainer._logits(run.teacher.key),
                run.method,
                trainer.inputs,
                trainer.labels,
                study.recipe,
                seed=2,
                prepare=trainer.prepare,
            )
            expected = torch.softmax(handed.double() / 2, -1).float()
            assert sum(soft is not None and torch.allclose(soft, expected) for soft in given[5]) == 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_warning_is_shown_once(both_ways: dict[int, Done], workers: int) -> None:
    shown = both_ways[workers][2]
    texts = [str(warning.message) for warning in shown if "lower bound" in str(warning.message)]
    assert texts and len(texts) == len(set(texts))
    assert all(issubclass(warning.category, UserWarning) for warning in shown)


def test_no_gpu_no_grid(tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    study = make_study(tmp_path, GRID_STUDY.replace("center = [7]", 'center = [7]\ndevice = "cuda"'))
    with pytest.raises(InputError, match=naming("[distill]", "'cuda'")):
        study.distill()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "rai"}, "engine must be one of .* not 'rai'; did you mean 'ray'"),
        ({"address": "auto"}, "an address belongs to the engine 'ray', got 'auto' with 'processes'"),
    ],
)
def test_engines_are_named(tmp_path: Path, make_study: MakeStudy, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_study(tmp_path, **options)


def test_a_damaged_result_is_named(tmp_path: Path, make_study: MakeStudy) -> None:
    make_study(tmp_path).distill()
    file = next((tmp_path / "runs").glob("*/result.json"))
    file.write_text(file.read_text()[:20])
    with pytest.raises(BankError, match=naming("result.json", "damaged", "remove")):
        make_study(tmp_path).distill()


def test_what_a_run_leaves(tmp_path: Path, make_study: MakeStudy) -> None:
    study = make_study(tmp_path)
    study.distill()
    run = plan(study, study.bank)[-1]
    folder = tmp_path / "runs" / hash_of(grid_runs.config_of(study, run))
    assert sorted(f.name for f in folder.iterdir()) == [".lock", "config.json", "log.jsonl", "result.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["teacher"]["key"] == run.teacher.key  # type: ignore[union-attr]
    assert config["method"] == json.loads(json.dumps(run.method.to_dict()))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert all(np.isfinite(line["loss"]) for line in lines)


# --- kills -----------------------------------------------------------------------------------------------------------


def start(folder: Path, *, saving_often: bool = False, workers: int = 1) -> int:
    """Run the grid in a fork, alone there with a log of the runs; returns its number."""
    real = student_trainer.fit

    def fit(*arguments: Any, **options: Any) -> Any:
        with open(folder / "log", "a") as file:
            file.write(f"{os.getpid()} {options['checkpoint'].file.parent.name}\n")
        time.sleep(0.02)
        return real(*arguments, **options)

    def distill() -> None:
        if workers == 1:
            student_trainer.fit = fit
        if saving_often:
            student_trainer.Checkpoint = functools.partial(student_trainer.Checkpoint, seconds=0)
        Study(folder / "study.toml", progress=False, workers=workers).distill()

    return fork(distill)


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL


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


LONG = GRID_STUDY.replace("epochs = 2", "epochs = 60").replace("seeds = 3", "seeds = 1").replace('"mlp5", ', "")
"""5 runs that take a while, to be killed in the middle of one."""


@pytest.fixture(scope="module")
def whole(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Folder and results of the long runs, done in one go."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, make_study(folder, LONG).distill()


def losses_of(folder: Path, run: str) -> list[float]:
    return [line["loss"] for line in read_log(folder / "runs" / run / "log.jsonl")]


def finished(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("*/result.json"))


def test_killed_it_goes_on_without_running_anything_twice(tmp_path: Path, make_study: MakeStudy) -> None:
    wanted = make_study(tmp_path / "whole").distill()
    folder = tmp_path / "a"
    make_study(folder)
    child = start(folder)
    wait_for(lambda: len(finished(folder)) >= 4)
    kill(child)
    done = {file: file.stat().st_mtime_ns for file in finished(folder)}
    assert 4 <= len(done) < 30
    table = make_study(folder).distill()
    assert {file: file.stat().st_mtime_ns for file in done} == done
    pd.testing.assert_frame_equal(results(table), results(wanted))
    assert not list(folder.rglob("*/.tmp-*"))


def test_killed_in_the_middle_of_a_run_it_goes_on_from_its_checkpoint(
    tmp_path: Path, make_study: MakeStudy, whole: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    make_study(folder, LONG)
    child = start(folder, saving_often=True)
    wait_for(lambda: [log for log in folder.glob("runs/*/log.jsonl") if len(log.read_text().splitlines()) > 20])
    kill(child)
    (checkpoint,) = folder.glob("runs/*/checkpoint.safetensors")
    assert not (checkpoint.parent / "result.json").exists()
    first: list[int] = []
    real = student_trainer.EpochLog.write

    def write(self: Any, epoch: int, **values: Any) -> None:
        if self.file.parent == checkpoint.parent:
            first.append(epoch)
        real(self, epoch, **values)

    monkeypatch.setattr(student_trainer.EpochLog, "write", write)
    table = make_study(folder, LONG).distill()
    assert first[0] >= 20 and first == list(range(first[0], 60))
    pd.testing.assert_frame_equal(results(table), results(whole[1]))
    assert not list(folder.glob("runs/*/checkpoint.safetensors"))

    assert losses_of(folder, checkpoint.parent.name) == losses_of(whole[0], checkpoint.parent.name)


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, make_study: MakeStudy) -> None:
    folder = tmp_path / "a"
    make_study(folder)
    child = start(folder, workers=2)
    wait_for(lambda: len(finished(folder)) > 0 or not alive(child), 200)
    workers = children(child)
    kill(child)
    assert len(workers) >= 2
    wait_for(lambda: not any(alive(worker) for worker in workers), 10)
    assert len(finished(folder)) < 30


@pytest.mark.slow
def test_ray_gives_the_same_results_though_a_worker_is_killed(
    tmp_path: Path, make_study: MakeStudy, whole: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of a Ray of two CPUs, one of which dies in the middle of a run: another does that run."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(engines, "usable_cores", lambda: 2)
    folder = tmp_path / "ray"
    study = make_study(folder, LONG, workers=2, engine="ray")
    killed: list[Path] = []

    def begun() -> list[Path]:
        logs = [log for log in folder.glob("runs/*/log.jsonl") if len(log.read_text().splitlines()) > 2]
        return [log.parent for log in logs if not (log.parent / "result.json").exists()]

    def kill_one() -> None:
        while not killed and not all_done.is_set():
            for run in begun():
                holders = [pid for pid in workers_of_ray() if str(run / ".lock") in open_files(pid)]
                if holders and not (run / "result.json").exists():
                    os.kill(holders[0], signal.SIGKILL)
                    killed.append(run)
                    return
            time.sleep(0.02)  # a look takes time from the workers

    all_done = threading.Event()
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        table = study.distill()
    finally:
        all_done.set()
        killer.join()
    assert len(killed) == 1 and (killed[0] / "result.json").exists()
    pd.testing.assert_frame_equal(results(table), results(whole[1]))
    assert not ray.is_initialized()


def workers_of_ray() -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(b"ray::_run_with_threads"):
                found.append(int(file.parent.name))
    return found


def open_files(process: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return found


def begun(folder: Path) -> list[tuple[int, str]]:
    """Which process has begun which run, in order."""
    if not (folder / "log").exists():
        return []
    return [(int(line.split()[0]), line.split()[1]) for line in (folder / "log").read_text().splitlines()]


def test_two_commands_at_once_share_the_runs(tmp_path: Path, make_study: MakeStudy) -> None:
    wanted = make_study(tmp_path / "whole").distill()
    folder = tmp_path / "a"
    study = make_study(folder)
    children = [start(folder) for _ in range(2)]
    assert [ended(child) for child in children] == [0, 0]
    runs = begun(folder)
    assert len(runs) == len({name for _, name in runs}) == 30
    assert min(sum(who == child for who, _ in runs) for child in children) >= 5  # neither waits for the other
    assert len(finished(folder)) == 30
    pd.testing.assert_frame_equal(results(study.distill()), results(wanted))


def test_one_command_goes_on_with_what_another_leaves_that_is_killed(
    tmp_path: Path, make_study: MakeStudy, whole: tuple[Path, pd.DataFrame]
) -> None:
    folder = tmp_path / "a"
    study = make_study(folder, LONG)
    killed = start(folder, saving_often=True)
    wait_for(lambda: any(len(read_log(log)) > 3 for log in folder.glob("runs/*/log.jsonl")))
    other = start(folder)
    wait_for(lambda: other in {who for who, _ in begun(folder)})
    kill(killed)
    assert ended(other) == 0
    runs = begun(folder)
    left = [name for who, name in runs if who == killed][-1]  # where it was killed
    assert runs[-1] == (other, left) and len(runs) == 6  # at the end, and nothing else twice
    assert losses_of(folder, left) == losses_of(whole[0], left)
    pd.testing.assert_frame_equal(results(study.distill()), results(whole[1]))


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_what_runs_elsewhere_is_told_and_waited_for(
    tmp_path: Path, make_study: MakeStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    study = make_study(tmp_path)
    study.progress = True
    folder = grid_runs.run_folder(study, plan(study, study.bank)[4])
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    end = threading.Timer(1.5 * grid.PAUSE, lambda: (wait_for(lambda: len(finished(tmp_path)) == 29), holder.kill()))
    end.start()
    try:
        table = study.distill()
    finally:
        end.join()
        holder.communicate()
    assert len(table) == 60
    shown = capsys.readouterr().err
    assert "29/30" in shown and "1 running elsewhere" in shown and "30/30" in shown


def test_what_fails_elsewhere_is_not_tried_again(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once this command has begun: it was its turn too."""
    study = make_study(tmp_path)
    runs = plan(study, study.bank)
    trained: list[int] = []

    def fail_elsewhere(*_: Any, seed: int, **__: Any) -> None:
        trained.append(seed)
        other = grid_runs.run_folder(study, runs[-1])
        other.mkdir(parents=True, exist_ok=True)
        (other / "error.txt").write_text("FloatingPointError: the loss became nan")

    monkeypatch.setattr(student_trainer, "fit", fail_elsewhere)
    with pytest.warns(UserWarning, match=r"1 of 30 runs failed; .* with: FloatingPointError: the loss became nan"):
        study.distill()
    assert len(trained) == 29
