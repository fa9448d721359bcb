"""A guard against becoming slower: ratios within one run, held against stored ones.

    python benchmarks/bench_quick.py            # prints ratios, stored ones and what fell; ends with 1 if anything did
    python benchmarks/bench_quick.py --store    # keeps the ratios of now in benchmarks/quick.csv

Each ratio is the processor time of a plain way of computing something (SciPy, tensor operations) over that of ours, on
the same data, in turns in one process; the fastest turn of each side counts. A ratio hardly depends on the machine's
speed, but somewhat on its caches and vector instructions, so a fall counts from `FALL` on, which is beyond the noise of
a machine with other work on it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

from capmismatch import ranks
from capmismatch._numerics import devices
from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch._numerics.softmax import Softened, in_octaves, take_apart
from capmismatch.data.bank import bank_from_arrays
from capmismatch.diagnostics import one_pass, tables
from capmismatch.probes import adaptive_error
from capmismatch.temperature import soften_parts

STORED = Path(__file__).with_name("quick.csv")
FALL = 0.65  # of the stored ratio
SECONDS = 8.0  # of turns for each ratio
TAUS = in_octaves([1, 2, 4, 6, 8])


def cpu(run: Callable[[], object]) -> float:
    """Processor seconds of one call in this thread."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def ratio(ours: Callable[[], object], other: Callable[[], object], share: float = 1.0) -> float:
    """Least processor time of the other side over that of ours, of which `share` is as much work."""
    ours()
    other()
    until, found = time.perf_counter() + SECONDS, []
    while len(found) < 3 or (time.perf_counter() < until and len(found) < 50):
        found.append((cpu(ours), cpu(other)))
    mine, theirs = np.min(found, axis=0)
    return float(theirs / share / mine)


def without_loops(run: Callable[[], object]) -> Callable[[], object]:
    """The same call by tensor operations."""

    def plain() -> object:
        before, devices.HAS_NUMBA = devices.HAS_NUMBA, False
        try:
            return run()
        finally:
            devices.HAS_NUMBA = before

    return plain


def tau_b(rng: np.random.Generator, classes: int) -> float:
    """All pairs of 6 teachers against SciPy on a few rows of one pair."""
    rows, few = max(20, 200_000 // classes), 5
    logits = rng.standard_normal((6, rows, classes), dtype=np.float32)
    share = few / (rows * 15)
    return ratio(
        lambda: ranks.rank_metrics(logits, metrics=["tau_b"]),
        lambda: kendalltau(logits[0, :few], logits[1, :few], axis=-1),
        share,
    )


def of_rows(rng: np.random.Generator) -> dict[str, float]:
    """Loops over rows against the same in tensor operations, at 1000 classes."""
    logits = torch.from_numpy(4 * rng.standard_normal((300, 1000), dtype=np.float32))
    labels = torch.from_numpy(rng.integers(0, 1000, 300))
    raw, spec = take_apart(logits, labels), SoftLabelSpec("ISATS")
    probabilities = torch.from_numpy(rng.dirichlet(np.ones(40), 5000))
    is_class = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, 40, 5000)), 40) > 0
    runs: dict[str, Callable[[], object]] = {
        "rows taken apart": lambda: take_apart(logits, labels),
        "sums at 5 temperatures": lambda: Softened.at_each(raw, TAUS),
        "ISATS": lambda: soften_parts(spec, raw),
        "adaptive calibration error": lambda: adaptive_error(probabilities, is_class),
    }
    return {name: ratio(run, without_loops(run)) for name, run in runs.items()}


def together(rng: np.random.Generator) -> float:
    """The four tables one by one against one pass."""
    labels = rng.integers(0, 100, 4000)
    shared = 2 * rng.standard_normal((4000, 100)) + 6 * np.eye(100)[labels]
    logits = {f"t{i}": (shared + rng.standard_normal(shared.shape)).astype(np.float16) for i in range(4)}
    bank = bank_from_arrays(logits, labels)

    def one_by_one() -> None:
        tables.probe(bank, TAUS, progress=False)
        tables.rank_stability(bank, progress=False)
        tables.affinity(bank)
        tables.restored_variance(bank, progress=False)

    return ratio(lambda: one_pass.all_tables(bank, TAUS, progress=False), one_by_one)


def main() -> None:
    """Measure, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="keep the ratios of now")
    options = parser.parse_args()
    torch.set_num_threads(1)
    devices.SMALL = 0
    rng = np.random.default_rng(0)
    found = {f"tau-b at C={classes}, over SciPy": tau_b(rng, classes) for classes in (10, 100, 1000)}
    found |= {f"{name}, over tensors": value for name, value in of_rows(rng).items()}
    found["one pass, over one by one"] = together(rng)
    table = pd.DataFrame({"ratio": found})
    if options.store or not STORED.exists():
        table.round(3).to_csv(STORED, index_label="what")
        print(table.round(2).to_string())
        return
    table["stored"] = pd.read_csv(STORED, index_col="what")["ratio"]
    table["fell"] = np.where(table["ratio"] < FALL * table["stored"], "FELL", "")
    print(table.round(2).to_string())
    if (table["fell"] != "").any():
        sys.exit(
            f"some ratios are below {FALL:g} of those stored: run it again on a quiet machine before you believe it"
        )


if __name__ == "__main__":
    main()
