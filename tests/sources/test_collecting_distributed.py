"""Several processes of torchrun at one bank: nothing padded, nothing twice, the bytes of one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from processes import launched, run_script

from capmismatch.data.bank import LogitBank

pytestmark = pytest.mark.slow

SCRIPT = textwrap.dedent("""
    import os, sys
    import numpy as np, torch
    from torch import nn
    import capmismatch as cm, capmismatch.sources.collecting as collecting
    from capmismatch.data.rows import make_rows
    from capmismatch.sources.families import Family, Teacher

    torch.set_num_threads(1)
    collecting.SHARD_ROWS = 8
    rank, bad = int(os.environ.get("RANK", 0)), sys.argv[2]
    draws = np.random.default_rng(0)
    inputs = draws.normal(size=(83, 6)).astype(np.float32)  # 11 shards, the last of 3 rows
    if bad == "other data" and rank == 1:
        inputs = inputs + 1
    rows = make_rows("fake", np.arange(83) % 4, list("abcd"), inputs_hash=str(inputs.sum()))

    class Network(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.inner = nn.Linear(6, 4)
        def forward(self, x):
            if len(x) > 1 or rank:
                with open(f"{sys.argv[1]}.{rank}.log", "a") as file:
                    file.write(f"{len(x)}\\n")
            if bad == "rank 1 fails" and rank == 1:
                raise RuntimeError("out of memory")
            return self.inner(x)

    family = Family([
        Teacher(
            "f", f"t{s}", params=s, module=lambda s=s: Network(s), prepare=torch.as_tensor, classes=tuple("dabc")
        )
        for s in (1, 2)
    ])
    bank = cm.collect(family, cm.Dataset(rows, inputs), sys.argv[1], batch_size=5, progress=False)
    bank.verify()
    print("collected", rank)
""")


UNTRAINED = textwrap.dedent("""
    import sys
    import capmismatch as cm, capmismatch.sources.collecting as collecting
    from capmismatch.sources import letters

    collecting.SHARD_ROWS = 8
    letters.RECIPE = letters.Recipe(epochs=1, batch_size=100)
    data = cm.load_dataset("letters", split={"train": 200, "val": 40, "test": 40})
    family = cm.load_family(
        "letters:mlp", widths=[4, 6], seeds=1, train=data.part("train"), folder=f"{sys.argv[1]}-teachers"
    )
    cm.collect(family, data.part("val"), sys.argv[1], progress=False)
""")


def start(bank: Path, bad: str = "", workers: int = 1, text: str = SCRIPT) -> tuple[int, str]:
    """Run the script in processes that have what torchrun gives: the worst status, and all that they print."""
    ends = launched(lambda: run_script(text, bank, bad), bank.with_name(f"{bank.name}-output"), workers)
    return max((abs(status) for status, _ in ends)), "".join(output for _, output in ends)


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank of a single process."""
    folder = tmp_path_factory.mktemp("alone") / "one"
    status, output = start(folder)
    assert status == 0, output
    return folder


def test_two_workers_write_the_bytes_of_one(one: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "script.py"), str(tmp_path / "two"), ""]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert sorted(line for line in ended.stdout.splitlines() if "collected" in line) == ["collected 0", "collected 1"]
    assert contents(tmp_path / "two") == contents(one)
    assert ended.stderr.count("CM001") == 2  # once a teacher, not once a worker
    rows = [np.loadtxt(tmp_path / f"two.{rank}.log").sum() for rank in (0, 1)]
    assert rows == [2 * (5 * 8 + 3), 2 * 5 * 8]  # each shard of each teacher once: 83 rows, none padded


def test_what_fails_in_one_worker_stops_all_and_can_be_resumed(one: Path, tmp_path: Path) -> None:
    status, output = start(tmp_path / "two", "rank 1 fails", 2)
    assert status != 0
    assert re.search(r"worker 1 of 2 failed: InputError: teacher .*out of memory", output)
    assert LogitBank(tmp_path / "two").keys == []
    assert len(list((tmp_path / "two").rglob("shard-*"))) == 6  # the other one's share is kept
    assert start(tmp_path / "two")[0] == 0
    assert contents(tmp_path / "two") == contents(one)


def test_workers_with_different_data_are_refused(tmp_path: Path) -> None:
    status, output = start(tmp_path / "two", "other data", 2)
    assert status != 0
    assert "worker 1 of 2 failed: BankError" in output
    assert not list((tmp_path / "two").rglob("*.safetensors"))


def test_teachers_that_are_trained_on_the_way(tmp_path: Path) -> None:
    """Each process comes to a teacher in its own time; one trains it, alone, and the other waits for the file."""
    one, two = tmp_path / "one", tmp_path / "two"
    for bank, workers in ((one, 1), (two, 2)):
        status, output = start(bank, "", workers, UNTRAINED)
        assert status == 0, output
    assert contents(one) == contents(two)
