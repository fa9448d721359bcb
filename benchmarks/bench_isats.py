"""The search of ISATS against a dense grid in plain torch: speed, and how far each is from the true maximiser.

    python benchmarks/bench_isats.py [--quick] [--out benchmarks/isats.csv]

Both sides take turns on the same rows in one process, and each side's fastest turn counts, so that what else the
machine does weighs little. The grid has 200 points of tau_other, evenly spaced in [0.5, 8], and plain float32 tensor
operations; like ours it looks only where the constraint allows. Ours starts from logits as they are, and ends with
tau_other of every example; `isats` adds the soft labels. The margin is the default.

Errors are against a dense grid in log tau_other, each of whose local maxima is refined by SciPy in double precision, on
50 of the rows, whose maximum mostly lies on an end, and on 50 rows made to have it inside: `inside` tells how many do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _table import show
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, logsumexp

from capmismatch._numerics.soft_label_spec import SoftLabelSpec, margin_of
from capmismatch._numerics.softmax import take_apart
from capmismatch.temperature import CONSTRAINTS, isats, soften_parts

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


def inside(classes: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits for `center="none"` with all wrong ones below 0: most have their maximum between the ends."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, classes, generator=generator) * 3
    labels = torch.randint(classes, (rows,), generator=generator)
    logits -= logits.amax(1, keepdim=True) + 3 * torch.rand(rows, 1, generator=generator)
    logits[torch.arange(rows), labels] = 8 + 8 * torch.rand(rows, generator=generator)
    return logits, labels


def shifted(logits: torch.Tensor, labels: torch.Tensor, constraint: str, center: str) -> torch.Tensor:
    """Logits as the constraint sees them."""
    if constraint == "anchor":
        return logits - logits.gather(1, labels[:, None])
    return logits - logits.mean(1, keepdim=True) if center == "mean" else logits


def dense(
    logits: torch.Tensor, labels: torch.Tensor, constraint: str, center: str = "mean", points: int = 200
) -> torch.Tensor:
    """The peer."""
    f, index = shifted(logits, labels, constraint, center), labels[:, None]
    best, found = torch.full((len(f),), -1.0), torch.full((len(f),), HIGH)
    wrong_classes = f.shape[1] - 1
    on_top = logits.argmax(1) == labels
    scaled_target = f.gather(1, index) / TAU_TARGET
    top_wrong = f.scatter(1, index, -torch.inf).amax(1)
    margin = margin_of(constraint, None)
    for tau in torch.linspace(LOW, HIGH, points):
        p = torch.softmax((f / tau).scatter(1, index, scaled_target), 1).scatter(1, index, 0.0)
        variance = p.square().sum(1) / wrong_classes - (p.sum(1) / wrong_classes) ** 2
        better = variance > best
        if constraint == "order":
            better &= ~on_top | (scaled_target[:, 0] - top_wrong / tau >= margin)
        best, found = torch.where(better, variance, best), torch.where(better, tau, found)
    return found


def allowed(target: float, top: float, margin: float) -> tuple[float, float]:
    """The ends between which the target keeps its margin, or the end that comes nearest, twice."""
    gaps = {end: target - top / end for end in (LOW, HIGH)}
    if max(gaps.values()) < margin:
        nearest = max(gaps, key=lambda end: gaps[end])
        return nearest, nearest
    if min(gaps.values()) >= margin:
        return LOW, HIGH
    edge = top / (target - margin)
    return (edge, HIGH) if gaps[HIGH] >= margin else (LOW, edge)


def truth(logits: torch.Tensor, labels: torch.Tensor, constraint: str, center: str) -> tuple[np.ndarray, np.ndarray]:
    """The slow way, row by row in double precision, and whether the maximum is inside."""
    found = []
    wide = logits.double()
    rows = shifted(wide, labels, constraint, center).numpy()
    for f, y, on_top in zip(rows, labels, wide.argmax(1) == labels, strict=True):
        target, wrong = f[y] / TAU_TARGET, np.delete(f, y)
        ends = (LOW, HIGH)
        if constraint == "order" and on_top:
            ends = allowed(target, wrong.max(), margin_of(constraint, None))

        def height(u: np.ndarray, target: float = target, wrong: np.ndarray = wrong) -> np.ndarray:
            x = wrong / np.exp(u)[:, None]
            total = logsumexp(x, axis=1)
            return 2 * log_expit(total - target) + np.log(np.exp(x - total[:, None]).var(1))

        grid = np.linspace(*np.log(ends), 2000)
        heights = np.pad(height(grid), 1, constant_values=-np.inf)
        peaks = np.flatnonzero((heights[1:-1] >= heights[:-2]) & (heights[1:-1] >= heights[2:]))
        tried = [grid[[0, -1]]]
        for peak in peaks:
            around = grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)]
            if around[0] < around[1]:
                inner = minimize_scalar(lambda u: -height(np.array([u]))[0], bounds=around, options={"xatol": 1e-9})
                tried.append(np.array([inner.x]))
        last = np.concatenate(tried)
        best = int(height(last).argmax())
        found.append((np.exp(last[best]), best > 1))
    taus, inner = zip(*found, strict=True)
    return np.array(taus), np.array(inner)


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
    spec = SoftLabelSpec("ISATS", TAU_TARGET, constraint=constraint, bounds=(LOW, HIGH))
    runs = [
        lambda: soften_parts(spec, take_apart(logits, labels)).tau_other,
        lambda: isats(logits, labels, TAU_TARGET, (LOW, HIGH), constraint=constraint),
        lambda: dense(logits, labels, constraint),
    ]
    search, whole, peer = fastest(runs, turns)
    errors, within = [], 0
    for f, y, center in ((logits[:50], labels[:50], "mean"), (*inside(classes, 50), "none")):
        true, inner = truth(f, y, constraint, center)
        ours = soften_parts(replace(spec, center=center), take_apart(f, y)).tau_other
        errors.append([np.abs(tau.numpy() / true - 1).max() for tau in (ours, dense(f, y, constraint, center))])
        within += int(inner.sum())
    error, dense_error = np.max(errors, 0)
    return {
        "constraint": constraint,
        "size": f"{rows} rows, C={classes}",
        "search_us": 1e6 * search / rows,
        "isats_us": 1e6 * whole / rows,
        "dense_us": 1e6 * peer / rows,
        "ratio": peer / search,
        "ratio_isats": peer / whole,
        "inside": f"{within} of 100",
        "error": error,
        "dense_error": dense_error,
        "target": f">={TARGET_RATIO}x, error <= {TARGET_ERROR:g}",
        "threads": torch.get_num_threads(),
    }


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
