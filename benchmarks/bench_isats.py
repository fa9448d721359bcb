"""The search of ISATS against a dense grid in plain torch: speed, and how far each is from the true maximiser.

    python benchmarks/bench_isats.py [--quick] [--out benchmarks/isats.csv]

Both sides take turns on the same rows in one process, and each side's fastest turn counts, so that what else the
machine does weighs little. The grid has 200 points of tau_other, evenly spaced in [0.5, 8], and plain float32 tensor
operations; like ours it looks only where the constraint allows. Ours starts from logits as they are, and ends with
tau_other of every example; `isats` adds the soft labels. Errors are against bounded minimisation by SciPy in double
precision, from the best of 200 points, on some of the rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _table import show
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, logsumexp

from capmismatch._softened import take_apart
from capmismatch.temperature import CONSTRAINTS, ISATSSetting, isats

TAU_TARGET, LOW, HIGH = 4.0, 0.5, 8.0
TARGET_RATIO, TARGET_ERROR = 10, 1e-6
SIZES = {10: 20_000, 100: 10_000, 1000: 2000}

Row = dict[str, object]


def example(classes: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose target stands out, as a trained network's does."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator) * 3
    labels = torch.randint(classes, (rows,), generator=generator)
    logits[torch.arange(rows), labels] += 12
    return logits, labels


def shifted(logits: torch.Tensor, labels: torch.Tensor, constraint: str) -> torch.Tensor:
    """Logits as the constraint sees them."""
    origin = logits.gather(1, labels[:, None]) if constraint == "anchor" else logits.mean(1, keepdim=True)
    return logits - origin


def dense(logits: torch.Tensor, labels: torch.Tensor, constraint: str, points: int = 200) -> torch.Tensor:
    """The peer."""
    f, index = shifted(logits, labels, constraint), labels[:, None]
    best, found = torch.full((len(f),), -1.0), torch.full((len(f),), HIGH)
    wrong_classes = f.shape[1] - 1
    on_top = logits.argmax(1) == labels
    scaled_target = f.gather(1, index) / TAU_TARGET
    top_wrong = f.scatter(1, index, -torch.inf).amax(1)
    for tau in torch.linspace(LOW, HIGH, points):
        p = torch.softmax((f / tau).scatter(1, index, scaled_target), 1).scatter(1, index, 0.0)
        variance = p.square().sum(1) / wrong_classes - (p.sum(1) / wrong_classes) ** 2
        better = variance > best
        if constraint == "order":
            better &= ~on_top | (scaled_target[:, 0] >= top_wrong / tau)
        best, found = torch.where(better, variance, best), torch.where(better, tau, found)
    return found


def truth(logits: torch.Tensor, labels: torch.Tensor, constraint: str) -> np.ndarray:
    """The slow way, row by row in double precision."""
    found = []
    wide = logits.double()
    for f, y, on_top in zip(shifted(wide, labels, constraint).numpy(), labels, wide.argmax(1) == labels, strict=True):
        target, wrong = f[y] / TAU_TARGET, np.delete(f, y)
        low = LOW
        if constraint == "order" and on_top and wrong.max() > 0:
            low = min(max(LOW, wrong.max() / target), HIGH)

        def height(u: np.ndarray, target: np.ndarray = target, wrong: np.ndarray = wrong) -> np.ndarray:
            x = wrong / np.exp(u)[:, None]
            total = logsumexp(x, axis=1)
            return 2 * log_expit(total - target) + np.log(np.exp(x - total[:, None]).var(1))

        grid = np.linspace(np.log(low), np.log(HIGH), 200)
        best = int(height(grid).argmax())
        ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        inner = minimize_scalar(lambda u: -height(np.array([u]))[0], bounds=ends, options={"xatol": 1e-9})
        last = np.array([inner.x, *ends])
        found.append(np.exp(last[height(last).argmax()]))
    return np.array(found)


def fastest(runs: list[Callable[[], object]], turns: int) -> list[float]:
    """Seconds of each run's fastest turn, the runs taking turns, after one turn to warm up."""
    best = [np.inf] * len(runs)
    for turn in range(turns + 1):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def compare(classes: int, rows: int, constraint: str, turns: int) -> Row:
    logits, labels = example(classes, rows)
    setting = ISATSSetting(TAU_TARGET, (LOW, HIGH), constraint, "mean", 0.0)
    runs = [
        lambda: setting.search(take_apart(logits, labels)).tau_other,
        lambda: isats(logits, labels, TAU_TARGET, (LOW, HIGH), constraint=constraint),
        lambda: dense(logits, labels, constraint),
    ]
    search, whole, peer = fastest(runs, turns)
    some = slice(0, 50)
    true = truth(logits[some], labels[some], constraint)
    errors = [np.abs(tau_other[some].numpy() / true - 1).max() for tau_other in (runs[0](), runs[2]())]
    return {
        "constraint": constraint, "size": f"{rows} rows, C={classes}", "search_us": 1e6 * search / rows,
        "isats_us": 1e6 * whole / rows, "dense_us": 1e6 * peer / rows, "ratio": peer / search,
        "ratio_isats": peer / whole, "error": errors[0], "dense_error": errors[1],
        "target": f">={TARGET_RATIO}x, error <= {TARGET_ERROR:g}", "threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns, noisier numbers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("isats.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    turns, part = (1, 10) if options.quick else (5, 1)
    found = [compare(c, rows // part, constraint, turns) for c, rows in SIZES.items() for constraint in CONSTRAINTS]
    table = pd.DataFrame(found)
    show(table, None if options.quick else options.out)


if __name__ == "__main__":
    main()
