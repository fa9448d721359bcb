"""Collecting logits against bare forward passes of the same network and batches, and the memory that it takes.

    python benchmarks/bench_collect.py [--quick] [--out benchmarks/collect.csv]

Both sides take turns on the same rows in one process, and each side's fastest turn counts, so that what else the
machine does weighs little. The bare side only calls the network: on batches prepared beforehand, or preparing each as
collecting does. Collecting is all of `capmismatch.collect`: shards, hashes, the count of operations, the joined file.
Memory is the most that a process of its own ever held, imports included (read from /proc, so on Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _table import show

from capmismatch import architectures
from capmismatch.data.datasets import Dataset
from capmismatch.data.rows import make_rows
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import Family, Teacher
from capmismatch.training.prepare import Normalise

THREADS = 1
BATCH = 256
TARGET_RATIO = 1.03
TARGET_MIB = 1536
MEMORY = """
import sys, tempfile
import numpy as np, torch
from torch import nn
from capmismatch.data.rows import make_rows
from capmismatch.sources.collecting import collect
from capmismatch.data.datasets import Dataset
from capmismatch.sources.families import Family, Teacher
torch.set_num_threads(1)
rows = int(sys.argv[1])
if rows:
    inputs = np.random.default_rng(0).standard_normal((rows, 16), np.float32)
    names = [f"class {c}" for c in range(1000)]
    data = Dataset(make_rows("wide", np.arange(rows) % 1000, names, inputs_hash="x"), inputs)
    teacher = Teacher("wide", "net", module=lambda: nn.Linear(16, 1000), prepare=torch.as_tensor)
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
        collect(Family([teacher]), data, folder, progress=False)
# Not getrusage: on Linux its ru_maxrss outlives exec, so a child would report what its parent once held.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
"""

Row = dict[str, object]


def fastest(runs: list[Callable[[], object]], turns: int) -> list[float]:
    """Seconds of each run's fastest turn, the runs taking turns."""
    best = [np.inf] * len(runs)
    for _ in range(turns):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def against_bare(name: str, rows: int, turns: int) -> list[Row]:
    torch.manual_seed(0)
    network = architectures.build(name, num_classes=10).eval()
    prepare = Normalise([0.5] * 3, [0.25] * 3)
    images = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    batches = [images[start : start + BATCH] for start in range(0, rows, BATCH)]
    ready = [prepare(batch) for batch in batches]
    data = Dataset(make_rows("images", np.arange(rows) % 10, [str(c) for c in range(10)], inputs_hash="x"), images)
    family = Family([Teacher("bench", name, module=lambda: network, prepare=prepare)])

    @torch.inference_mode()
    def bare() -> list[torch.Tensor]:
        return [network(batch) for batch in ready]

    @torch.inference_mode()
    def prepared_alike() -> list[torch.Tensor]:
        return [network(prepare(batch)) for batch in batches]

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return collect(family, data, folder, batch_size=BATCH, progress=False).logits(f"bench/{name}")

    np.testing.assert_allclose(ours(), torch.cat(bare()).numpy(), rtol=0, atol=1e-4)
    alone, alike, collected = fastest([bare, prepared_alike, ours], turns)
    size = f"{name}, {rows} images of 32x32, batches of {BATCH}, {THREADS} thread"
    return [
        {
            "benchmark": what,
            "size": size,
            "collect_s": collected,
            "bare_s": seconds,
            "value": collected / seconds,
            "unit": "ratio",
            "target": f"<={TARGET_RATIO:g}",
        }
        for what, seconds in (("against forward passes alone", alone), ("against preparing and forward passes", alike))
    ]


def memory(counts: list[int], folder: str | None) -> list[Row]:
    found: list[Row] = []
    for rows in counts:
        start = time.perf_counter()
        command = [sys.executable, "-c", MEMORY, str(rows), folder or tempfile.gettempdir()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        size = f"{rows} examples x 1000 classes, float32 ({rows * 4000 / 2**20:.0f} MiB of logits)"
        found.append(
            {
                "benchmark": "peak memory",
                "size": size if rows else "imports alone",
                "collect_s": time.perf_counter() - start,
                "bare_s": np.nan,
                "value": float(done.stdout),
                "unit": "MiB",
                "target": f"<={TARGET_MIB:g}",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns, noisier numbers")
    parser.add_argument("--folder", help="where the large bank is written for a while; by default the temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("collect.csv"))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows, turns = (2000, 3) if options.quick else (10_000, 5)
    found = against_bare("cifar_resnet20", rows, turns)
    found += memory([0, 25_000, 200_000] if options.quick else [0, 25_000, 50_000, 100_000, 200_000], options.folder)
    table = pd.DataFrame(found)
    show(table, options.out)


if __name__ == "__main__":
    main()
