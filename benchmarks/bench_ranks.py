"""Class ranks against SciPy: speed per pair of rows, growth with the classes, and what compiling costs the first call.

    python benchmarks/bench_ranks.py [--quick] [--out benchmarks/ranks.csv]

Both sides take turns on the same rows in one process, and each side's fastest turn counts, so that what else the
machine does weighs little. SciPy's `kendalltau(axis=-1)` gets fewer rows, and its results are checked against ours.
Ours runs on two threads, SciPy on the one that it uses.
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

import numpy as np
import pandas as pd
import scipy
import torch
from scipy.stats import kendalltau

from capmismatch import ranks

THREADS = 2
TEACHERS = 6
PEER = f"scipy {scipy.__version__} kendalltau(axis=-1)"
TARGETS = {10: 2000.0, 100: 200.0, 1000: 40.0}
DIAGNOSIS_TARGET_S = 25.0
COMPILE_TARGET_S = 10.0
EVERY_METRIC = ["wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top5_overlap"]
FIRST_CALL = """
import time, numpy as np
from capmismatch import ranks
logits = np.ones((2, 8, 10), "float32")
start = time.perf_counter()
ranks.rank_metrics(logits, np.zeros(8, int), {metrics})
print(time.perf_counter() - start)
"""

Row = dict[str, object]


def fastest(runs: list[Callable[[], object]], turns: int) -> list[float]:
    """Seconds of each run's fastest turn, the runs taking turns, after one turn to warm up."""
    best = [np.inf] * len(runs)
    for turn in range(turns + 1):
        for i, run in enumerate(runs):
            time.sleep(0.003)  # a thread that has rested is scheduled at once, also on a busy machine
            start = time.perf_counter()
            run()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def family(rng: np.random.Generator, rows: int, classes: int, dtype: str, teachers: int = TEACHERS) -> np.ndarray:
    """Logits that share half of their variance, so that tau-b is about a third."""
    shared = rng.standard_normal((1, rows, classes), dtype=np.float32)
    return (2 * (shared + rng.standard_normal((teachers, rows, classes), dtype=np.float32))).astype(dtype)


def result(benchmark: str, size: str, ours: float, peer: float = np.nan, target: str = "") -> Row:
    return {
        "benchmark": benchmark,
        "size": size,
        "peer": "none" if np.isnan(peer) else PEER,
        "ours_s": ours,
        "peer_s": peer,
        "ratio": peer / ours,
        "target": target,
        "machine threads": THREADS,
    }


def compare(logits: np.ndarray, peer_rows: int, turns: int) -> tuple[float, float]:
    """Seconds per pair of rows, ours over all pairs of teachers and SciPy's over as many rows as it gets."""
    pairs = list(itertools.combinations(range(TEACHERS), 2))
    left, right = (np.stack([logits[pair[side], 0] for pair in pairs]).astype(np.float64) for side in (0, 1))
    left, right = (np.resize(side, (peer_rows, side.shape[1])) for side in (left, right))
    expected = kendalltau(left, right, axis=-1).statistic
    np.testing.assert_allclose(ranks.kendall_tau_b(left, right).numpy(), expected, rtol=0, atol=1e-12)
    ours, peer = fastest(
        [lambda: ranks.rank_metrics(logits, metrics=["tau_b"]), lambda: kendalltau(left, right, axis=-1)], turns
    )
    return ours / (len(pairs) * logits.shape[1]), peer / peer_rows


def against_scipy(rng: np.random.Generator, quick: bool) -> list[Row]:
    found = []
    for (classes, target), dtype in itertools.product(TARGETS.items(), ("float32", "float16")):
        logits = family(rng, 20_000 // classes, classes, dtype)
        ours, peer = compare(logits, peer_rows=15, turns=20 if quick else 400)
        size = f"C={classes} {dtype}, per pair of rows, {TEACHERS} teachers, with sorting"
        found.append(result("tau_b", size, ours, peer, f">={target:g}x"))
    return found


def growth(rng: np.random.Generator, quick: bool) -> list[Row]:
    """Time over C log2 C stays about the same where the count is O(C log C)."""
    found = []
    for classes in (8_000, 16_000, 32_000):
        ours, peer = compare(family(rng, 4, classes, "float32"), peer_rows=2, turns=3 if quick else 15)
        unit = 1e9 * ours / (classes * np.log2(classes))
        size = f"C={classes} float32, per pair of rows ({unit:.2f} ns per C log2 C)"
        found.append(result("tau_b, many classes", size, ours, peer))
    return found


def diagnosis(rng: np.random.Generator, quick: bool) -> list[Row]:
    """All pairs of 10 teachers over ImageNet's 50,000 x 1000, half precision: a part of the rows, scaled up."""
    rows, classes = 200, 1000
    logits = family(rng, rows, classes, "float16", teachers=10)
    labels = rng.integers(classes, size=rows)
    found = []
    for metrics in (EVERY_METRIC[:1], EVERY_METRIC):
        run = [lambda metrics=metrics: ranks.rank_metrics(logits, labels, metrics)]
        (seconds,) = fastest(run, turns=5 if quick else 40)
        start = time.process_time()
        run[0]()
        processor = (time.process_time() - start) * 50_000 / rows
        size = (
            f"45 pairs x 50000 rows x C=1000 float16, {len(metrics)} metric(s), scaled up from {rows} rows "
            f"({processor:.0f} processor seconds)"
        )
        found.append(result("diagnosis", size, seconds * 50_000 / rows, target=f"<={DIAGNOSIS_TARGET_S:g} s"))
    return found


def first_call() -> list[Row]:
    """In fresh processes: with an empty compilation cache, then with what that left."""
    found = []
    for metrics in (EVERY_METRIC[:1], EVERY_METRIC):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("compiles", "from cache"):
                command = [sys.executable, "-c", FIRST_CALL.format(metrics=metrics)]
                environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                target = f"<={COMPILE_TARGET_S:g} s" if state == "compiles" else ""
                size = f"{len(metrics)} metric(s), {state}"
                found.append(result("first call", size, float(done.stdout), target=target))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns, noisier numbers")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("ranks.csv"))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    found = [row for bench in (against_scipy, growth, diagnosis) for row in bench(rng, options.quick)]
    table = pd.DataFrame(found + first_call())
    table.to_csv(options.out, index=False, float_format="%.4g")
    with pd.option_context("display.width", 250, "display.max_columns", None, "display.max_colwidth", None):
        print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
