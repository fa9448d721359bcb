"""Students of one shape as one stack against one by one: the letters students of the embedded study.

    python benchmarks/bench_batched.py [--teachers 8] [--alone 40] [--rounds 1] [--out benchmarks/batched.csv]

Both sides do runs of one study, with the bank collected beforehand, by the same command in this process on one thread:
soft labels, training, measuring, and the files of each run are all counted. Beside wall time stands processor time, in
which other work on the machine counts for less. As the lone side is slow, it does every n-th of the runs alone. Then
the results of these runs are compared.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from importlib import resources
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np
import pandas as pd
import torch
from _table import show

from capmismatch._utils.machine import keep_freed_memory
from capmismatch.distillation.batched import StackTrainer, bundles
from capmismatch.distillation.runs import Run, plan, results_of, run_folder
from capmismatch.distillation.student_trainer import Trainer
from capmismatch.study.study import Study

TARGET = 10.0
WIDTHS = "[12, 24, 48, 96, 160, 256, 448, 768]"
MEASURED = ("accuracy", "fidelity", "kl", "train_accuracy")


def write_study(folder: Path, teachers: int) -> Study:
    """The embedded study with some of its teachers, its bank collected."""
    text = (resources.files("capmismatch") / "embedded" / "study.toml").read_text(encoding="utf-8")
    widths = ", ".join(WIDTHS.strip("[]").split(", ")[:teachers])
    (folder / "study.toml").write_text(text.replace(WIDTHS, f"[{widths}]"))
    study = Study(folder / "study.toml", progress=False)
    study.collect()
    for view in range(study.distillation.views.count):
        study.view_bank(view)
    return study


def seconds() -> tuple[float, float]:
    """Wall and processor time so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def one_by_one(study: Study, runs: list[Run]) -> None:
    """Train runs alone, as the engine "processes" does."""
    trainer = Trainer(study)
    for run in runs:
        trainer(run)


def stacked(study: Study, runs: list[Run]) -> None:
    """Train runs as the engine "batched" does."""
    trainer = StackTrainer(study)
    for bundle in bundles(study, runs, 1, asked=True):
        trainer(bundle)


def results(study: Study, runs: list[Run]) -> pd.DataFrame:
    """What the runs left; then their folders are removed."""
    folders = [run_folder(study, run) for run in runs]
    table = results_of(list(zip(runs, folders, strict=True)))
    for folder in folders:
        for file in folder.iterdir():
            file.unlink()
    return table


def compare(study: Study, alone: int, rounds: int) -> list[dict[str, object]]:
    """Both sides by turns; the quickest turn of each counts."""
    runs = plan(study, study.bank)
    some = runs[:: max(1, len(runs) // alone)]
    one_by_one(study, some[:1])  # whatever loads or compiles when first used
    results(study, some[:1])
    times: dict[str, list[np.ndarray]] = {"alone": [], "stacked": []}
    tables = {}
    for _ in range(rounds):
        for name, work, which in (("alone", one_by_one, some), ("stacked", stacked, runs)):
            before = np.array(seconds())
            work(study, which)
            times[name].append((np.array(seconds()) - before) / len(which))
            tables[name] = results(study, which)
    identity = ["family", "teacher", "teacher_seed", "student", "label", "seed", "split"]
    both = tables["alone"].merge(tables["stacked"], on=identity, suffixes=("", "_stacked"))
    apart = max(float((both[name] - both[f"{name}_stacked"]).abs().max()) for name in MEASURED)
    (alone_wall, alone_cpu), (wall, cpu) = (np.min(times[name], axis=0) for name in ("alone", "stacked"))
    size = f"{len(runs)} students in stacks, {len(some)} of them alone"
    common = {"size": size, "apart": apart}
    return [
        {"benchmark": "processor seconds a run", "ours": cpu, "other": alone_cpu, "ratio": alone_cpu / cpu}
        | {"target": f">={TARGET:g}"}
        | common,
        {"benchmark": "wall seconds a run", "ours": wall, "other": alone_wall, "ratio": alone_wall / wall, "target": ""}
        | common,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, default=8, help="of the embedded study, the smallest first")
    parser.add_argument("--alone", type=int, default=40, help="runs to do one by one, about")
    parser.add_argument("--rounds", type=int, default=1, help="turns of both sides")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("batched.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame(compare(write_study(Path(folder), options.teachers), options.alone, options.rounds))
    show(table, options.out)


if __name__ == "__main__":
    main()
