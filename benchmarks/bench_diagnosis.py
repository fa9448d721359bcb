"""The diagnosis of a large family, and the search of ISATS against a dense grid; a table and benchmarks/diagnosis.csv.

    python benchmarks/bench_diagnosis.py            # 10 teachers x 50,000 examples x 1,000 classes, float16
    python benchmarks/bench_diagnosis.py --quick    # a hundredth of the examples

The bank is synthetic: one row of class scores a example that all teachers share, plus noise of their own. Times are of
one run after a warm-up on a small bank; peak memory is the process's own, bank files mapped but not counted in advance.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import capmismatch as cm
from capmismatch._isats_search import Search, maximise, order_interval
from capmismatch.temperature import isats

HERE = Path(__file__).parent
TAUS = [1, 2, 4, 6, 8]


def saved_family(folder: Path, teachers: int, rows: int, classes: int) -> Path:
    """Logits of a synthetic family in a folder, float16."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, rows)
    np.save(folder / "labels.npy", labels)
    names = [f"t{i:02d}" for i in range(teachers)]
    files = [np.lib.format.open_memmap(folder / f"{n}.npy", "w+", np.float16, (rows, classes)) for n in names]
    for start in range(0, rows, 5000):
        part = slice(start, min(start + 5000, rows))
        shared = generator.normal(size=(len(labels[part]), classes)).astype(np.float32) * 2
        shared[np.arange(len(shared)), labels[part]] += 9
        for i, file in enumerate(files):
            file[part] = shared + generator.normal(size=shared.shape).astype(np.float32) * (1 + 0.1 * i)
    for file in files:
        file.flush()
    listed = ", ".join(f'"{n}": {{"params": {10_000 * 2**i}}}' for i, n in enumerate(names))
    (folder / "family.json").write_text('{"labels": "labels.npy", "teachers": {' + listed + "}}")
    return folder


def dense(logits: torch.Tensor, labels: torch.Tensor, tau_target: float = 4.0, points: int = 200) -> torch.Tensor:
    """The peer: tau_other on a grid of 200 points, plain torch in float32."""
    f, index = logits - logits.mean(1, keepdim=True), labels[:, None]
    best, found = torch.full((len(f),), -1.0), torch.zeros(len(f))
    wrong_classes = f.shape[1] - 1
    for tau in torch.linspace(0.5, 8, points):
        p = torch.softmax((f / tau).scatter(1, index, f.gather(1, index) / tau_target), 1).scatter(1, index, 0.0)
        mean = p.sum(1) / wrong_classes
        variance = p.square().sum(1) / wrong_classes - mean**2
        better = variance > best
        best, found = torch.where(better, variance, best), torch.where(better, tau, found)
    return found


def search(logits: torch.Tensor, labels: torch.Tensor, constraint: str, tau_target: float = 4.0) -> torch.Tensor:
    """tau_other by the search alone, as the dense grid gives it, without the soft labels."""
    f = logits.double()
    f = f - (f.mean(1, keepdim=True) if constraint == "order" else f.gather(1, labels[:, None]))
    found = Search(f, labels, tau_target)
    lower, upper = torch.full_like(found.target, 0.5), torch.full_like(found.target, 8.0)
    if constraint == "order":
        lower, upper = order_interval(found, f.argmax(1) == labels, 0.0, lower, upper)
    return maximise(found, lower, upper)


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """Least of `times` runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--teachers", type=int, default=10)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    options = parser.parse_args()
    rows = options.rows // 100 if options.quick else options.rows
    table = []

    def note(what: str, ours: float, peer: str = "", peer_s: float = float("nan"), target: str = "") -> None:
        table.append({"benchmark": what, "peer": peer, "ours_s": round(ours, 3), "peer_s": round(peer_s, 3),
                      "ratio": round(peer_s / ours, 1), "target": target})  # fmt: skip
        print(table[-1], flush=True)

    for classes, n in ((10, 20_000), (100, 10_000), (1000, 2000)):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(n, classes, generator=generator) * 3
        labels = torch.randint(classes, (n,), generator=generator)
        logits[torch.arange(n), labels] += 12
        isats(logits[:100], labels[:100])
        for constraint in ("order", "anchor"):
            peer = seconds(lambda f=logits, y=labels: dense(f, y), 3)
            ours = seconds(lambda c=constraint, f=logits, y=labels: search(f, y, c), 3)
            note(f"ISATS search, {constraint}, C={classes}, {n} rows", ours, "dense grid of 200", peer, ">= 10x")
            ours = seconds(lambda c=constraint, f=logits, y=labels: isats(f, y, constraint=c), 3)
            note(f"isats with soft labels, {constraint}, C={classes}", ours, "dense grid of 200", peer)

    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        for place, count in ((small, 200), (large, rows)):
            place.mkdir()
            saved_family(place, options.teachers, count, options.classes)
        banks = [
            cm.collect(cm.load_family(f"logits:{place}"), None, place / "bank", dtype="float16", progress=False)
            for place in (small, large)
        ]
        stages = {
            f"all probes at {len(TAUS)} temperatures": lambda bank: cm.probe(bank, TAUS, progress=False),
            "class ranks of all pairs, 8 metrics": lambda bank: cm.rank_stability(bank, progress=False),
            "affinity matrices": cm.affinity,
            "TS, ATS, ISATS restored variance": lambda bank: cm.restored_variance(bank, progress=False),
        }
        size = f"{options.teachers} x {rows} x {options.classes}"
        total = 0.0
        for name, stage in stages.items():
            stage(banks[0])
            taken = seconds(lambda stage=stage: stage(banks[1]))
            total += taken
            note(f"{name}, {size}", taken)
        note(f"whole diagnosis, {size}", total, target="<= 45 s at 10 x 50000 x 1000")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory {peak:.2f} GiB (target 2 GiB), {torch.get_num_threads()} threads")
    frame = pd.DataFrame(table).assign(peak_gib=round(peak, 2), threads=torch.get_num_threads())
    if not options.quick:
        frame.to_csv(HERE / "diagnosis.csv", index=False)
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
