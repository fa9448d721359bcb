"""The whole diagnosis of a large family: seconds, processor seconds and peak memory of every stage.

    python benchmarks/bench_diagnosis.py                                    # 10 teachers x 50,000 x 1,000, float16
    python benchmarks/bench_diagnosis.py --teachers 20 --examples 100000    # memory should stay
    python benchmarks/bench_diagnosis.py --device cuda                      # where there is one

The bank is synthetic and the same each time: class scores of each example that all teachers share, and noise of their
own. It is written to a temporary folder, and read from there in a process of its own. Times are of one run
after a warm-up on a small bank. Peak memory is the most that the process ever held in a stage, imports and mapped pages
included (read from /proc, so on Linux).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _table import show

import capmismatch as cm

TAUS = [1, 2, 4, 6, 8]
CLASSES = 1000
TARGET_S, TARGET_MIB = 45, 2048
PER_EXAMPLE = ["wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top3_overlap", "top5_overlap"]
STAGES: dict[str, Callable[..., object]] = {
    f"all probes at {len(TAUS)} temperatures": partial(cm.probe, taus=TAUS, progress=False),
    "class ranks of all pairs, 7 metrics": partial(cm.rank_stability, metrics=PER_EXAMPLE, progress=False),
    "class affinities of all pairs": partial(cm.rank_stability, metrics=["affinity_tau_b"], progress=False),
    "affinity matrices": cm.affinity,
    "TS, ATS, ISATS restored variance": partial(cm.restored_variance, progress=False),
}


def make_bank(folder: Path, teachers: int, examples: int) -> Path:
    """A synthetic float16 bank."""
    given = folder / "logits"
    given.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, examples)
    np.save(given / "labels.npy", labels)
    names = [f"t{i:02d}" for i in range(teachers)]
    shape = (examples, CLASSES)
    files = [np.lib.format.open_memmap(given / f"{name}.npy", "w+", np.float16, shape) for name in names]
    for start in range(0, examples, 2000):
        part = slice(start, min(start + 2000, examples))
        shared = 2 * rng.standard_normal((part.stop - start, CLASSES), dtype=np.float32)
        shared[np.arange(len(shared)), labels[part]] += 9
        for i, file in enumerate(files):
            file[part] = shared + (1 + 0.1 * i) * rng.standard_normal(shared.shape, dtype=np.float32)
    del files
    listed = ", ".join(f'"{name}": {{"params": {10_000 * 2**i}}}' for i, name in enumerate(names))
    (given / "family.json").write_text('{"labels": "labels.npy", "teachers": {' + listed + "}}")
    cm.collect(cm.load_family(f"logits:{given}"), None, folder / "bank", dtype="float16", progress=False)
    for name in names:
        (given / f"{name}.npy").unlink()
    return folder / "bank"


def peak_mib() -> float:
    """The most memory held since the last call."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")  # the next peak starts here
    return int(status["VmHWM"].split()[0]) / 1024


def measure(small: Path, large: Path, device: str) -> pd.DataFrame:
    """One row a stage, and their total."""
    warm, bank = cm.LogitBank(small), cm.LogitBank(large)
    start = time.perf_counter()
    for stage in STAGES.values():
        stage(warm, device=device)
    print(f"warm-up: {time.perf_counter() - start:.1f} s", flush=True)
    found = []
    for name, stage in STAGES.items():
        peak_mib()
        wall, processor = time.perf_counter(), time.process_time()
        stage(bank, device=device)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        found.append({"stage": name, "wall_s": wall, "cpu_s": processor, "peak_mib": peak_mib()})
        print(found[-1], flush=True)
    table = pd.DataFrame(found)
    whole = {"stage": "whole diagnosis", **table[["wall_s", "cpu_s"]].sum(), "peak_mib": table["peak_mib"].max()}
    table = pd.concat([table, pd.DataFrame([whole])], ignore_index=True)
    table.insert(3, "share", table["wall_s"] / whole["wall_s"])
    size = f"{len(bank.teachers)} teachers x {len(bank.rows.labels)} x {len(bank.classes)}"
    return table.assign(size=size, device=device, threads=os.cpu_count(), target="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, default=10)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--device", default="cpu", help="where to compute; the CSV is named after others than the CPU")
    parser.add_argument("--quick", action="store_true", help="a tenth of the examples")
    parser.add_argument("--folder", type=Path, help="where the banks are written, and kept; by default for a while")
    parser.add_argument("--out", type=Path, help="by default diagnosis.csv beside this file, unless --quick")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.measure:
        table = measure(*options.measure, options.device)
        table.loc[table.index[-1], "target"] = f"<={TARGET_S} s, <={TARGET_MIB} MiB at 10 x 50000 x 1000"
        show(table, options.out)
        return
    examples = options.examples // 10 if options.quick else options.examples
    name = "diagnosis.csv" if options.device == "cpu" else f"diagnosis_{options.device}.csv"
    out = options.out or (None if options.quick else Path(__file__).with_name(name))
    with tempfile.TemporaryDirectory() as temporary:
        places = []
        for count in (200, examples):
            place = (options.folder or Path(temporary)) / f"{options.teachers}x{count}"
            places.append(place / "bank" if place.exists() else make_bank(place, options.teachers, count))
        command = [sys.executable, __file__, "--device", options.device, "--measure", *map(str, places)]
        command += ["--out", str(out)] if out else []
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
