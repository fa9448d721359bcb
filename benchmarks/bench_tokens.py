"""Rows over a vocabulary of 49,152 tokens: condensing, and the tables of condensed rows, in processor time.

    python benchmarks/bench_tokens.py [--quick] [--out benchmarks/tokens.csv]

Logits are drawn: a common Zipf-like level of each token and normal noise, which ranks tokens as real models do. The
tables are made of `rows` rows and scaled to a million, as their time is proportional to the rows; how many there were
stands beside it. Times are seconds of all threads of the process, so that what else the machine does weighs little.
`exact` compares probes with those of all logits: the largest error of a row and of a mean, on the scale of what the
probe can reach.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _table import show

import capmismatch as cm
from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.finer_halves import as_halves, from_halves
from capmismatch._numerics.softmax import Softened, take_apart
from capmismatch.data import token_bank
from capmismatch.data.rows import make_rows
from capmismatch.data.token_files import TokenFile
from capmismatch.probes import REGISTRY
from capmismatch.temperature import SoftLabelSpec, soften_parts

VOCABULARY, TEACHERS, MILLION = 49_152, 6, 1_000_000
USUAL = (1.0, 2.0, 4.0, 8.0)
TAUS = (0.5, *USUAL)

Row = dict[str, object]


class Drawn:
    """Logits of one teacher that are made when they are asked for."""

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, rows: int, vocabulary: int, seed: int) -> None:
        self.shape, self.seed = (rows, vocabulary), seed
        self.level = (-1.2 * np.log(np.arange(1, vocabulary + 1))).astype(np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        shared, own = np.random.default_rng([start, 0]), np.random.default_rng([start, self.seed])
        size = (stop - start, self.shape[1])
        noise = 1.6 * shared.standard_normal(size, np.float32) + 1.2 * own.standard_normal(size, np.float32)
        return self.level + noise


def seconds(run: Callable[[], object], turns: int = 1) -> float:
    """The least processor time of some turns."""
    times = []
    for _ in range(turns):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def labels_of(rows: int, vocabulary: int) -> np.ndarray:
    weights = np.arange(1, vocabulary + 1) ** -1.2
    return np.random.default_rng(0).choice(vocabulary, rows, p=weights / weights.sum())


def condensing(rows: int) -> list[Row]:
    """Microseconds a position and thread."""
    found = []
    for vocabulary, k, target in ((VOCABULARY, 64, 150.0), (VOCABULARY, 256, None), (151_936, 64, 450.0)):
        logits, labels = Drawn(rows, vocabulary, 1)[:rows], labels_of(rows, vocabulary)
        cm.condense(logits[:2], labels[:2], k)
        spent = seconds(lambda: cm.condense(logits, labels, k), 3)  # noqa: B023 - called at once
        found.append(_row(f"condense, V={vocabulary}, k={k}", rows, 1e6 * spent / rows, "us a position", target))
    logits, labels = Drawn(rows, VOCABULARY, 1)[:rows], labels_of(rows, VOCABULARY)
    spent = seconds(lambda: cm.token_bank_from_logits({"net": logits}, labels), 3)
    found.append(_row("condense and keep in a bank, k=64, R=64", rows, 1e6 * spent / rows, "us a position", None))
    return found


def exactness(rows: int) -> list[Row]:
    """Largest errors against all logits."""
    logits, labels = Drawn(rows, VOCABULARY, 1)[:rows], labels_of(rows, VOCABULARY)
    condensed, dense = cm.condense(logits, labels), take_apart(torch.from_numpy(logits), torch.from_numpy(labels))
    halves = CondensedParts.of(replace(condensed, below=condensed.below.astype(np.float16)))
    stored_as = CondensedParts.of(replace(condensed, below=from_halves(*as_halves(condensed.below))))
    settings = (
        ("as kept by default, kept taus", stored_as, TAUS, (1e-4, 3e-5)),
        ("as kept by default, taus between", stored_as, (1.5, 3.0, 6.0), (None, 3e-3)),
        ("dtype float32, kept taus", CondensedParts.of(condensed), TAUS, (None, None)),
        ("dtype float16, kept taus", halves, TAUS, (None, None)),
    )
    found = []
    for kind, stored, taus, targets in settings:
        worst = [0.0, 0.0]
        for tau in taus:
            for name in ("target_prob", "scaled_derived_variance", "wrong_entropy"):
                of_both = [REGISTRY[name].compute(Softened.of(rows_of, tau)) for rows_of in (stored, dense)]
                error = of_both[0] - of_both[1]
                worst = [max(worst[0], float(error.abs().max())), max(worst[1], float(error.mean().abs()))]
        for what, value, target in zip(("a row", "a mean"), worst, targets, strict=True):
            found.append(_row(f"error, {kind}, {what}", rows, value, "", target))
    return found


def tiled(bank: cm.TokenBank, rows: int) -> cm.TokenBank:
    """The rows of a small bank again and again."""
    index = np.arange(rows) % len(bank.rows.labels)
    repeated = make_rows("drawn", bank.rows.labels[index], bank.classes, sequences=np.arange(rows) // 64)
    opened = [(replace(r, sha256=""), TokenFile(bank._stored[r.key].take(index))) for r in bank.teachers]
    return token_bank._in_memory(repeated, opened, bank.settings)


def tables(rows: int, seed_rows: int) -> list[Row]:
    """Seconds for a million rows."""
    labels = labels_of(seed_rows, VOCABULARY)
    logits = {f"t{seed}": Drawn(seed_rows, VOCABULARY, seed) for seed in range(1, TEACHERS + 1)}
    params = {name: 10**index for index, name in enumerate(logits, start=6)}
    bank = tiled(cm.token_bank_from_logits(logits, labels, params=params), rows)
    small = bank.subset(n=64)
    names = [name for name, p in REGISTRY.items() if p.kind == "example"]
    measure = lambda one: cm.probe(one, TAUS, names, progress=False)  # noqa: E731
    measure(small)
    scale, found = MILLION / rows, []
    spent = seconds(lambda: measure(bank)) / TEACHERS
    found.append(
        _row(f"{len(names)} probes at {len(TAUS)} temperatures", rows, scale * spent, "s a teacher, 1M rows", 60.0)
    )
    pairs = TEACHERS * (TEACHERS - 1) // 2
    cm.rank_stability(small, ["vocab_tau_b"], progress=False)
    spent = seconds(lambda: cm.rank_stability(bank, ["vocab_tau_b"], progress=False))
    found.append(_row(f"tau-b of {pairs} pairs, 64 columns", rows, scale * spent, "s, 1M rows", 120.0))
    raw = CondensedParts.of(bank.condensed_rows(bank.keys[0], np.arange(rows)))
    spec = SoftLabelSpec("ISATS", 1.0, bounds=(0.5, 2.0), constraint="none", wrong="free")  # every row is searched
    spent = seconds(lambda: soften_parts(spec, raw))
    found.append(_row("ISATS", rows, 1e6 * spent / rows, "us a row", 50.0))
    size = sum(file.nbytes for file in bank._stored.values()) / rows / TEACHERS
    found.append(_row("bytes a position and teacher", rows, size, "bytes", 666.0))
    found.append(_row(f"1M positions of {TEACHERS} teachers", rows, 1e-9 * MILLION * TEACHERS * size, "GB", 4.0))
    return found


def memory(rows: int) -> list[Row]:
    """Growth of the process while a bank is written to disk."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        logits = {"net": Drawn(rows, VOCABULARY, 1)}
        cm.token_bank_from_logits(logits, labels_of(rows, VOCABULARY), path=Path(folder) / "bank")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return [_row("memory while a bank is written", rows, grown, "MB", 1024.0)]


def _row(what: str, rows: int, value: float, unit: str, target: float | None) -> Row:
    held = "" if target is None else "held" if value <= target else "missed"
    return {"what": what, "rows": rows, "value": value, "unit": unit, "target": target, "held": held}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tokens.csv"))
    options = parser.parse_args()
    few = 4 if options.quick else 1
    found = memory(3000 // few) + condensing(400 // few) + exactness(128 // few) + tables(40_000 // few, 500 // few)
    show(pd.DataFrame(found), None if options.quick else options.out)


if __name__ == "__main__":
    main()
