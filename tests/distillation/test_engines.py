"""Engines run every task once and hand on what ends them; what a grid does with them is tested in test_grid.py."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import naming

from capmismatch._utils import machine
from capmismatch.distillation import engines
from capmismatch.distillation.engines import ENGINES, Resources, processes
from capmismatch.errors import CapmismatchError, InputError


def square(task: int) -> tuple[int, int, int]:
    time.sleep(0.05)  # so that one worker cannot be through before the other has started
    return task**2, os.getpid(), torch.get_num_threads()


def fail(task: int) -> int:
    if task == 2:
        raise OSError("disk full")
    return task


def die(task: int) -> int:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return task


def write(task: Path) -> None:
    time.sleep(0.3)
    task.write_text("done")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are forks of this process, and so import nothing; how they start otherwise is not the subject."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(engines.multiprocessing, "get_context", lambda _: fork)


def test_one_worker_is_this_process() -> None:
    answers = list(processes(square, range(5), Resources(workers=1)))
    assert [answer for answer, _, _ in answers] == [0, 1, 4, 9, 16]
    assert {process for _, process, _ in answers} == {os.getpid()}


@pytest.mark.slow
def test_workers_share_the_tasks_and_the_cores() -> None:
    resources = Resources(workers=2)
    answers = list(processes(square, range(40), resources))
    assert sorted(answer for answer, _, _ in answers) == [task**2 for task in range(40)]
    workers = {process for _, process, _ in answers}
    assert len(workers) == 2 and os.getpid() not in workers
    assert {threads for _, _, threads in answers} == {resources.threads}


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 2, 4), (8, 3, 2), (2, 8, 1), (1, 1, 1)])
def test_threads(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int) -> None:
    monkeypatch.setattr(engines, "usable_cores", lambda: cores)
    assert Resources(workers).threads == threads


LARGE, SMALL, NO_CPUS, WITH_GPUS = {"CPU": 64.0}, {"CPU": 16.0}, {"CPU": 0.0}, {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "share"),
    [
        ([LARGE, SMALL, NO_CPUS], 8, 0, (2, 0)),  # a head without CPUs runs no task
        ([LARGE, SMALL], 32, 0, (1, 0)),
        ([NO_CPUS], 2, 0, (6, 0)),  # nobody has joined yet: as this machine
        ([LARGE, WITH_GPUS], 8, 1, (4, 0.5)),  # the head, without a GPU, has asked for what others have
        ([WITH_GPUS], 2, 4, (16, 2)),
        ([LARGE], 2, 1, (6, 0.5)),
    ],
)
def test_a_task_of_ray_takes_its_share_of_the_clusters_smallest_machine(
    monkeypatch: pytest.MonkeyPatch, machines: list[dict[str, float]], workers: int, gpus: int, share: tuple[int, float]
) -> None:
    monkeypatch.setattr(engines, "usable_cores", lambda: 12)
    assert engines._share(machines, Resources(workers, gpus)) == share


AFFINE = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
COUNT = "from capmismatch._utils.machine import usable_cores\nprint(usable_cores())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinities")
def test_cores_are_those_of_the_affinity() -> None:
    shown = subprocess.run([sys.executable, "-c", AFFINE + COUNT], capture_output=True, text=True, check=True).stdout
    assert int(shown) == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "9900000 100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({}, 6),
    ],
)
def test_cores_keep_to_a_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert machine.usable_cores() == cores


def test_what_a_task_raises_ends_the_engine(forked: None) -> None:
    with pytest.raises(OSError, match="disk full"):
        list(processes(fail, range(20), Resources(workers=2)))


def test_a_dead_worker_is_an_error(forked: None) -> None:
    with pytest.raises(CapmismatchError, match=naming("killed", "runs are left")):
        list(processes(die, range(6), Resources(workers=2)))


def test_whoever_stops_listening_stops_the_work(forked: None, tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(20)]
    answers = processes(write, files, Resources(workers=2))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    time.sleep(0.7)
    assert 1 <= len(list(tmp_path.iterdir())) <= 4


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """There need be no GPU here: what a worker does as it starts is called in this process."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)

    class Numbers:
        left = [0, 1, 2, 3]  # noqa: RUF012

        def get(self) -> int:
            return self.left.pop(0)

    numbers = Numbers()
    for _ in range(4):
        engines._start_worker(numbers, Resources(workers=4, gpus=2))
    assert chosen == [0, 1, 0, 1]


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *rest: Any) -> Any:
        if name == "ray":
            raise ModuleNotFoundError("no ray", name="ray")
        return real(name, *rest)

    monkeypatch.setattr("capmismatch._utils.optional.importlib.import_module", lambda name: without_ray(name))
    with pytest.raises(InputError, match=naming("'ray'", "pip install 'capmismatch[ray]'")):
        list(ENGINES["ray"](square, [1], Resources()))
