"""The bootstrap over examples against SciPy's: seconds, and whether the intervals agree.

    python benchmarks/bench_bootstrap.py [--quick] [--out benchmarks/bootstrap.csv]

Both draw the same number of resamples of the same values, on one thread, SciPy in batches that hold as many numbers at
a time as ours does, and take turns in one process; each side's fastest turn counts. `apart` is the largest difference
between ends of intervals, in standard errors: with other random numbers a thousand resamples differ by a tenth or two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from _table import show
from scipy import stats

from capmismatch.stats import bootstrap

N_BOOT = 1000
SIZES = ((1000, 1), (50_000, 1), (50_000, 10))

Row = dict[str, object]


def turn(run: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(n: int, columns: int, n_boot: int, turns: int) -> Row:
    values = np.random.default_rng(0).exponential(size=(n, columns))
    batch = max(1, bootstrap._CELLS // (n * columns))

    def ours() -> bootstrap.Bootstrap:
        return bootstrap.bootstrap(values, n_boot=n_boot, seed=1)

    def theirs() -> object:
        return stats.bootstrap((values,), np.mean, n_resamples=n_boot, batch=batch, axis=0, method="percentile", rng=2)

    found, expected = ours(), theirs()
    ends = np.stack([found.low, found.high]) - np.stack(expected.confidence_interval)
    own, other = [], []
    for _ in range(turns):
        own.append(turn(ours))
        other.append(turn(theirs))
    (ours_s, ours_cpu), (peer_s, peer_cpu) = np.min(own, axis=0), np.min(other, axis=0)
    return {
        "benchmark": "bootstrap of means",
        "size": f"{n_boot} resamples of {n} examples, {columns} column(s)",
        "peer": f"scipy {scipy.__version__} bootstrap",
        "ours_s": ours_s,
        "ours_cpu_s": ours_cpu,
        "peer_s": peer_s,
        "peer_cpu_s": peer_cpu,
        "ratio": peer_s / ours_s,
        "cpu_ratio": peer_cpu / ours_cpu,
        "apart": np.abs(ends / found.se).max(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer resamples and turns, noisier numbers")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("bootstrap.csv"))
    options = parser.parse_args()
    n_boot, turns = (200, 1) if options.quick else (N_BOOT, 2)
    table = pd.DataFrame([compare(n, columns, n_boot, turns) for n, columns in SIZES])
    show(table, options.out)


if __name__ == "__main__":
    main()
