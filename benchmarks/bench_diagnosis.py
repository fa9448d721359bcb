"""The whole diagnosis of a large family: seconds, processor seconds and peak memory of every stage.

    python benchmarks/bench_diagnosis.py                                    # 10 teachers x 50,000 x 1,000, float16
    python benchmarks/bench_diagnosis.py --teachers 20 --examples 100000    # memory should stay
    python benchmarks/bench_diagnosis.py --device cuda                      # where there is one
    python benchmarks/bench_diagnosis.py --against 80b046f                  # this tree and another commit, in turns
    python benchmarks/bench_diagnosis.py --against 80b046f --examples 5000 --turns 1    # a first look

The bank is synthetic and the same each time: class scores of each example that all teachers share, and noise of their
own. It is written to a temporary folder, and read from there in a process of its own. Times are of one run
after a warm-up on a small bank. Peak memory is the most that the process ever held in a stage, imports and mapped pages
included (read from /proc, so on Linux). The stages are what each function takes by itself; "one pass" makes the same
tables together, as a study that runs does.

``--against REV`` checks out that commit beside this tree and measures both on one bank (20,000 examples unless told
otherwise), each turn in a process of its own, one after the other. Of each side the turn with the least processor time
counts: other work on the machine adds to it, and hardly ever takes from it. It prints ``cpu_ratio`` and ``wall_ratio``:
the other side's over this one's.
"""

from __future__ import annotations

import argparse
import json
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
AGAINST_EXAMPLES = 20_000
WARM_EXAMPLES = 1200  # enough for compiled loops
STAGES: dict[str, Callable[..., object]] = {
    f"all probes at {len(TAUS)} temperatures": partial(cm.probe, taus=TAUS, progress=False),
    "class ranks of all pairs, 7 metrics": partial(cm.rank_stability, metrics=PER_EXAMPLE, progress=False),
    "class affinities of all pairs": partial(cm.rank_stability, metrics=["affinity_tau_b"], progress=False),
    "affinity matrices": cm.affinity,
    "TS, ATS, ISATS restored variance": partial(cm.restored_variance, progress=False),
}


def one_pass(bank: cm.LogitBank, device: str) -> None:
    """All tables together, where the tree can."""
    from capmismatch.diagnostics.one_pass import all_tables

    all_tables(bank, TAUS, device=device, progress=False)


def whole(bank: cm.LogitBank, device: str) -> None:
    """All tables, in the best way that the tree has."""
    try:
        one_pass(bank, device)
    except ImportError:
        for stage in STAGES.values():
            stage(bank, device=device)


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
    one_pass(warm, device)
    print(f"warm-up: {time.perf_counter() - start:.1f} s", flush=True)
    found = []
    for name, stage in [*STAGES.items(), ("one pass", one_pass)]:
        peak_mib()
        wall, processor = time.perf_counter(), time.process_time()
        stage(bank, device=device)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        found.append({"stage": name, "wall_s": wall, "cpu_s": processor, "peak_mib": peak_mib()})
        print(found[-1], flush=True)
    table = pd.DataFrame(found)
    alone = table.iloc[:-1]
    one_by_one = {"stage": "one by one", **alone[["wall_s", "cpu_s"]].sum(), "peak_mib": alone["peak_mib"].max()}
    table = pd.concat([alone, pd.DataFrame([one_by_one]), table.iloc[-1:]], ignore_index=True)
    table.insert(3, "share", table["wall_s"] / one_by_one["wall_s"])
    size = f"{len(bank.teachers)} teachers x {len(bank.rows.labels)} x {len(bank.classes)}"
    return table.assign(size=size, device=device, threads=os.cpu_count(), target="")


def measure_whole(small: Path, large: Path, device: str) -> None:
    """Print seconds and memory of the whole diagnosis by whichever tree is imported."""
    whole(cm.LogitBank(small), device)
    bank = cm.LogitBank(large)
    peak_mib()
    wall, processor = time.perf_counter(), time.process_time()
    whole(bank, device)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    tree = str(Path(cm.__file__).parents[1])
    print(json.dumps({"wall_s": wall, "cpu_s": processor, "peak_mib": peak_mib(), "tree": tree}))


def turn(tree: Path, places: list[Path], device: str) -> dict[str, float]:
    """One measurement of a tree."""
    command = [sys.executable, __file__, "--device", device, "--whole", *map(str, places)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, check=True, env=environment, cwd=tree, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if Path(str(found.pop("tree"))) != tree.resolve():
        raise SystemExit(f"expected the package of {tree} to be measured, got another: is PYTHONPATH obeyed?")
    return found


def against(revision: str, places: list[Path], turns: int, device: str) -> pd.DataFrame:
    """This tree and another commit in turns; a row for each side, ratios with the first."""
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary).resolve() / "tree"
        git = ["git", "-C", str(here), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(there), revision], check=True)
        try:
            sides: dict[str, list[dict[str, float]]] = {"this tree": [], revision: []}
            for number in range(turns):
                order = [("this tree", here), (revision, there)]
                for name, tree in order if number % 2 == 0 else order[::-1]:
                    sides[name].append(turn(tree, places, device))
                    print(name, sides[name][-1], flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(there)], check=True)
    best = {name: min(found, key=lambda one: one["cpu_s"]) for name, found in sides.items()}
    table = pd.DataFrame([{"side": name, **numbers} for name, numbers in best.items()])
    ours, other = best["this tree"], best[revision]
    quickest = {name: min(one["wall_s"] for one in found) for name, found in sides.items()}
    table.loc[0, "cpu_ratio"] = other["cpu_s"] / ours["cpu_s"]
    table.loc[0, "wall_ratio"] = quickest[revision] / quickest["this tree"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, default=10)
    parser.add_argument("--examples", type=int)
    parser.add_argument("--device", default="cpu", help="where to compute; the CSV is named after others than the CPU")
    parser.add_argument("--quick", action="store_true", help="a tenth of the examples")
    parser.add_argument("--folder", type=Path, help="where the banks are written, and kept; by default for a while")
    parser.add_argument("--out", type=Path, help="by default diagnosis.csv beside this file, unless --quick")
    parser.add_argument("--against", metavar="REV", help="a commit to measure in turns with this tree")
    parser.add_argument("--turns", type=int, default=2, help="of each side, with --against")
    parser.add_argument("--whole", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.measure:
        table = measure(*options.measure, options.device)
        table.loc[table.index[-1], "target"] = f"<={TARGET_S} s, <={TARGET_MIB} MiB at 10 x 50000 x 1000"
        show(table, options.out)
        return
    if options.whole:
        measure_whole(*options.whole, options.device)
        return
    examples = options.examples or (AGAINST_EXAMPLES if options.against else 50_000)
    examples = examples // 10 if options.quick else examples
    name = "diagnosis.csv" if options.device == "cpu" else f"diagnosis_{options.device}.csv"
    out = options.out or (None if options.quick else Path(__file__).with_name(name))
    with tempfile.TemporaryDirectory() as temporary:
        places = []
        for count in (WARM_EXAMPLES, examples):
            place = (options.folder or Path(temporary)) / f"{options.teachers}x{count}"
            places.append(place / "bank" if place.exists() else make_bank(place, options.teachers, count))
        if options.against:
            table = against(options.against, places, options.turns, options.device)
            show(table.assign(size=f"{options.teachers} x {examples} x {CLASSES}"), options.out)
            for name in ("cpu_ratio", "wall_ratio"):
                print(f"{name} {table.loc[0, name]:.2f}")
            return
        command = [sys.executable, __file__, "--device", options.device, "--measure", *map(str, places)]
        command += ["--out", str(out)] if out else []
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
