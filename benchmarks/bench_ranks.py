"""Class ranks against SciPy: speed a pair of rows, growth with the classes, memory, and what the first call costs.

    python benchmarks/bench_ranks.py [--quick] [--out benchmarks/ranks.csv]

Both sides take turns on the same rows in one process (ours, SciPy, ours, ...), and each side's fastest turn counts, so
that what else the machine does weighs little. Ours runs on two threads, SciPy on the one that it uses; beside the ratio
of wall times stands that of processor times, in which other work on the machine and the second thread do not count.
SciPy's `kendalltau(axis=-1)` gets fewer rows, and its results are checked against ours.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
import torch
from _table import show
from scipy.stats import kendalltau

from capmismatch import ranks

THREADS = 2
TEACHERS = 6
LOGITS = 1_000_000  # of each; fewer, and what is timed is how soon the second thread wakes
PEER = f"scipy {scipy.__version__} kendalltau(axis=-1)"
TARGETS = {10: 2000.0, 100: 200.0, 1000: 40.0}
MANY_CLASSES = (8_000, 16_000, 32_000, 64_000)
DIAGNOSIS_TARGET_S = 25.0
FIRST_TARGET_S = 10.0
EVERY_METRIC = ["wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top5_overlap"]
FIRST_CALL = """
import time, numpy as np
from capmismatch import ranks
logits = np.ones((2, 8, 10), "float32")
wall, processor = time.perf_counter(), time.process_time()
{call}
print(time.perf_counter() - wall, time.process_time() - processor)
"""
PEAK = """
import sys, numpy as np, torch
from capmismatch import ranks
torch.set_num_threads(2)
def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024
ranks.pairwise_tau_b(np.ones((2, 2, 2000), "float32"))
logits = np.random.default_rng(0).standard_normal((6, 4, int(sys.argv[1])), dtype=np.float32)
before = peak()
ranks.pairwise_tau_b(logits)
print(peak() - before)
"""

Row = dict[str, object]


class Seconds(NamedTuple):
    """Of one turn: on the clock, and of the processors."""

    wall: float
    processor: float

    def __truediv__(self, parts: float) -> Seconds:
        return Seconds(self.wall / parts, self.processor / parts)


def fastest(runs: list[Callable[[], object]], turns: int) -> list[Seconds]:
    """Each run's fastest turn, the runs taking turns, after one turn to warm up."""
    taken: list[list[Seconds]] = [[] for _ in runs]
    for _ in range(turns + 1):
        for run, own in zip(runs, taken, strict=True):
            time.sleep(0.003)  # a thread that has rested is scheduled at once, also on a busy machine
            wall, processor = time.perf_counter(), time.process_time()
            run()
            own.append(Seconds(time.perf_counter() - wall, time.process_time() - processor))
    return [Seconds(*(min(part) for part in zip(*own[1:], strict=True))) for own in taken]


def family(rng: np.random.Generator, rows: int, classes: int, dtype: str, teachers: int = TEACHERS) -> np.ndarray:
    """Logits that share half of their variance, so that tau-b is about a third."""
    shared = rng.standard_normal((1, rows, classes), dtype=np.float32)
    return (2 * (shared + rng.standard_normal((teachers, rows, classes), dtype=np.float32))).astype(dtype)


def result(benchmark: str, size: str, ours: Seconds, peer: Seconds | None = None, target: str = "") -> Row:
    wall, processor = peer or (np.nan, np.nan)
    return {
        "benchmark": benchmark,
        "size": size,
        "peer": PEER if peer else "",
        "ours_s": ours.wall,
        "ours_cpu_s": ours.processor,
        "peer_s": wall,
        "peer_cpu_s": processor,
        "ratio": wall / ours.wall,
        "cpu_ratio": processor / ours.processor,
        "target": target,
    }


def compare(logits: np.ndarray, peer_rows: int, turns: int) -> tuple[Seconds, Seconds]:
    """Seconds a pair of rows, ours over all pairs of teachers and SciPy's over as many rows as it gets."""
    pairs = list(itertools.combinations(range(TEACHERS), 2))
    left, right = (np.stack([logits[pair[side], 0] for pair in pairs]).astype(np.float64) for side in (0, 1))
    left, right = (np.resize(side, (peer_rows, side.shape[1])) for side in (left, right))
    expected = kendalltau(left, right, axis=-1).statistic
    found = ranks.rank_metrics(logits, metrics=["tau_b"])["tau_b"][:peer_rows, 0]
    np.testing.assert_allclose(found.numpy(), expected[: len(pairs)], rtol=0, atol=1e-12)
    ours, peer = fastest(
        [lambda: ranks.rank_metrics(logits, metrics=["tau_b"]), lambda: kendalltau(left, right, axis=-1)], turns
    )
    return ours / (len(pairs) * logits.shape[1]), peer / peer_rows


def against_scipy(rng: np.random.Generator, quick: bool) -> list[Row]:
    found = []
    for (classes, target), dtype in itertools.product(TARGETS.items(), ("float32", "float16")):
        logits = family(rng, LOGITS // classes, classes, dtype)
        ours, peer = compare(logits, peer_rows=15, turns=5 if quick else 60)
        size = f"C={classes} {dtype}, a pair of rows of {TEACHERS} teachers, with sorting"
        found.append(result("tau-b", size, ours, peer, f">={target:g}x"))
    return found


def growth(rng: np.random.Generator, quick: bool) -> list[Row]:
    """Processor time over C log2 C stays about the same where the count is O(C log C); so does memory over C."""
    found = []
    for classes in MANY_CLASSES:
        ours, peer = compare(family(rng, 4, classes, "float32"), peer_rows=2, turns=3 if quick else 20)
        unit = 1e9 * ours.processor / (classes * np.log2(classes))
        peak = float(subprocess.run([sys.executable, "-c", PEAK, str(classes)], capture_output=True, check=True).stdout)
        size = f"C={classes} float32, a pair of rows; {unit:.2f} ns a C log2 C, {peak:.0f} MiB beyond 6 x 4 rows"
        found.append(result("tau-b, many classes", size, ours, peer))
    return found


def diagnosis(rng: np.random.Generator, quick: bool) -> list[Row]:
    """All pairs of 10 teachers over ImageNet's 50,000 x 1000, half precision: a part of the rows, scaled up."""
    rows, classes = 200, 1000
    logits = family(rng, rows, classes, "float16", teachers=10)
    labels = rng.integers(classes, size=rows)
    found = []
    for metrics in (EVERY_METRIC[:1], EVERY_METRIC):
        run = [lambda metrics=metrics: ranks.rank_metrics(logits, labels, metrics)]
        (ours,) = fastest(run, turns=5 if quick else 40)
        size = f"45 pairs x 50000 rows x C=1000 float16, {len(metrics)} metric(s), scaled up from {rows} rows"
        found.append(result("diagnosis", size, ours / (rows / 50_000), target=f"<={DIAGNOSIS_TARGET_S:g} s"))
    return found


def first_call() -> list[Row]:
    """In fresh processes: with an empty compilation cache, then with what that left."""
    calls = {
        "pairwise_tau_b": "ranks.pairwise_tau_b(logits)",
        "rank_metrics, every metric": f"ranks.rank_metrics(logits, np.zeros(8, int), {EVERY_METRIC})",
    }
    found = []
    for name, call in calls.items():
        with tempfile.TemporaryDirectory() as cache:
            for state in ("compiles", "from cache"):
                command = [sys.executable, "-c", FIRST_CALL.format(call=call)]
                environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                ours = Seconds(*map(float, done.stdout.split()))
                found.append(result("first call", f"{name}, {state}", ours, target=f"<={FIRST_TARGET_S:g} s"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns, noisier numbers")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("ranks.csv"))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    found = [row for bench in (against_scipy, growth, diagnosis) for row in bench(rng, options.quick)]
    table = pd.DataFrame(found + first_call()).assign(threads=THREADS)
    show(table, options.out, hidden=["peer"])


if __name__ == "__main__":
    main()
