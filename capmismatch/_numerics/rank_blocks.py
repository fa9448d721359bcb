"""Rank metrics over blocks of rows: each block is sorted once a teacher, then measured in a thread of its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._numerics import devices
from capmismatch._numerics.arrays import ArrayLike, as_labels, widest_float
from capmismatch._numerics.cached import cached_property
from capmismatch._numerics.rank_tensors import MAX_CLASSES, Ints, TensorRanks
from capmismatch._numerics.threads import blocks, run_in_threads
from capmismatch.errors import InputError

if devices.HAS_NUMBA:
    from capmismatch._numerics.rank_loops import LoopRanks, Space

Floats = NDArray[np.float64]

METRICS = ("wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top{k}_overlap")

BLOCK_CELLS = 1 << 18  # logits ranked at a time in a thread: up to 8 MB, still in the cache when pairs read the ranks
SMALL_CELLS = 1 << 14  # below this a thread costs more than it saves
DEVICE_CELLS = 1 << 24  # classes in the sequences of all pairs on an accelerator, at some 50 bytes each


class Metric(NamedTuple):
    """One metric: "tau_b", "spearman" or "top_overlap"; over the wrong classes or all; k of the overlap."""

    kind: str
    wrong: bool = False
    k: int = 0

    @classmethod
    def parse(cls, name: str) -> Metric:
        """From a name in tables."""
        if match := re.fullmatch(r"top(\d+)_overlap", name):
            return cls("top_overlap", wrong=True, k=int(match[1]))
        if name not in METRICS:
            raise InputError(f"metrics must be among {list(METRICS)}, not {name!r}")
        return cls(name.removeprefix("wrong_"), wrong=name.startswith("wrong_"))


class Block:
    """One block of rows of all teachers, sorted once; each metric gives (P, n)."""

    def __init__(self, ranks: TensorRanks | LoopRanks, labels: Ints | None, pairs: Ints) -> None:
        self.n, self.classes = ranks.shape
        self.ranks, self.labels, self.pairs = ranks, labels, pairs

    def measure(self, metric: Metric) -> Floats:
        """Value of one metric, NaN where a compared class is."""
        values = getattr(self, metric.kind)(metric)
        nans = self.ranks.nans
        if metric.wrong:  # NaN sorts last: so does a target that is NaN
            nans = nans - (self.target_spans[0] >= self.classes - nans)
        first, second = self.pairs.T
        return np.where((nans[first] == 0) & (nans[second] == 0), values, np.nan)

    def tau_b(self, metric: Metric) -> Floats:
        """Counts over all classes, less what the pairs with the target added."""
        classes, concordance, ties = self.classes, self.concordance, self.ranks.ties
        if metric.wrong:
            _, first, last = self.target_spans
            classes, ties = classes - 1, ties - (last - first - 1)
            concordance = concordance - self.ranks.target_concordance(self._left_out(metric), self.pairs)
        return self._correlation(concordance, classes * (classes - 1) // 2 - ties)

    def spearman(self, metric: Metric) -> Floats:
        """Pearson's correlation of integer ranks."""
        labels, selves = self._left_out(metric), np.repeat(np.arange(len(self.ranks.ties)), 2).reshape(-1, 2)
        together, alone = (self.ranks.rank_products(labels, pairs) for pairs in (self.pairs, selves))
        return self._correlation(together, alone)

    def top_overlap(self, metric: Metric) -> Floats:
        """Share of the top k in both."""
        return self.ranks.shared_top(self._left_out(metric), self.pairs, metric.k) / metric.k

    @cached_property
    def concordance(self) -> Ints:
        """Concordant less discordant pairs over all classes, which both tau-b's share."""
        return self.ranks.concordance(self.pairs)

    @cached_property
    def target_spans(self) -> tuple[Ints, Ints, Ints]:
        """Where each row's target stands: position, first of its tie group, one past the last; (T, n) each."""
        assert self.labels is not None
        return self.ranks.target(self.labels)

    def _left_out(self, metric: Metric) -> Ints:
        return self.labels if metric.wrong and self.labels is not None else np.full(self.n, -1)

    def _correlation(self, together: Ints, alone: Ints) -> Floats:
        """together(a, b) / sqrt(alone(a) alone(b)); 0/0 of a constant row is NaN."""
        size = alone.astype(np.float64)
        first, second = self.pairs.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.clip(together / np.sqrt(size[first] * size[second]), -1.0, 1.0)


def measure(teachers: list[Any], labels: ArrayLike | None, metrics: list[Metric], pairs: Ints) -> Floats:
    """All metrics, (M, P, N), over blocks of rows in threads."""
    n, classes = teachers[0].shape
    targets = None if labels is None else as_labels(labels, n, classes).cpu().numpy()
    for metric in metrics:
        if metric.wrong and targets is None:
            raise InputError(f"expected labels, which {metric.kind} over the wrong classes needs, got None")
        most = classes - metric.wrong
        if metric.kind == "top_overlap" and not 1 <= metric.k <= most:
            raise InputError(f"expected k in [1, {most}], the classes to choose from, got {metric.k}")
    if not 1 <= classes <= MAX_CLASSES:
        raise InputError(f"expected between 1 and {MAX_CLASSES} classes, got {classes}")

    values, device = np.empty((len(metrics), len(pairs), n)), ranking_device(teachers)
    if not len(pairs):
        return values

    loops, threads = devices.uses_loops(device), devices.thread_count(device)
    width = classes * (len(teachers) if loops else max(len(teachers), len(pairs)))  # numbers a row
    most = (BLOCK_CELLS if device.type == "cpu" else DEVICE_CELLS) // width
    rows = max(1, min(most, max(SMALL_CELLS // width, -(-n // threads))))
    mine = threading.local()

    def ranked(block: slice) -> TensorRanks | LoopRanks:
        logits = [of_teacher[block] for of_teacher in teachers]
        if not loops:
            return TensorRanks([as_floats(rows).to(device).contiguous() for rows in logits])
        if not hasattr(mine, "space"):
            dtype = np.result_type(*(as_floats(rows[:0]).cpu().numpy() for rows in logits))  # has room for each
            mine.space = Space((rows, len(teachers), classes), dtype)
        arrays = [as_floats(rows).cpu().numpy() if isinstance(rows, Tensor) else rows for rows in logits]
        return LoopRanks(arrays, mine.space)

    def run(block: slice) -> None:
        of_block = Block(ranked(block), None if targets is None else targets[block], pairs)
        for m, metric in enumerate(metrics):
            values[m, :, block] = of_block.measure(metric)

    run_in_threads(run, blocks(n, rows), threads)
    return values


def ranking_device(teachers: list[Any]) -> torch.device:
    """Where the logits of a teacher are, if it isn't the CPU and knows float64; else the CPU."""
    tensors = [rows for rows in teachers if isinstance(rows, Tensor) and widest_float(rows) == torch.float64]
    return next((rows.device for rows in tensors if rows.device.type != "cpu"), torch.device("cpu"))


def real_numbers(values: ArrayLike, what: str) -> Any:
    """Return the tensor or array that it is, checked to hold real numbers, without a copy."""
    numbers: Any = values.detach().resolve_neg() if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(numbers, Tensor):
        real = not numbers.is_complex() and numbers.dtype != torch.bool
    else:
        real = numbers.dtype.kind in "iu" or (numbers.dtype.kind == "f" and numbers.dtype.itemsize <= 8)
    if not real:
        raise InputError(f"expected real numbers of at most 64 bits in {what}, got dtype {numbers.dtype}")
    return numbers


def as_floats(rows: Any) -> Tensor:
    """As floats of 16, 32 or 64 bits."""
    if not isinstance(rows, Tensor):  # copied: torch takes neither read-only arrays nor another byte order
        native = rows.dtype.newbyteorder("=") if rows.dtype.kind == "f" else np.float64
        rows = torch.from_numpy(np.array(rows, native))
    if not rows.is_floating_point():
        return rows.double()
    return rows if rows.dtype in (torch.float16, torch.float32, torch.float64) else rows.float()  # such as bfloat16


def of_two(a: ArrayLike, b: ArrayLike, labels: ArrayLike | None, metric: Metric) -> Tensor:
    """One metric between the rows of two arrays whose leading axes broadcast."""
    left, right = real_numbers(a, "the first array"), real_numbers(b, "the second array")
    shapes = tuple(left.shape), tuple(right.shape)
    if not all(shapes) or shapes[0][-1] != shapes[1][-1]:
        raise InputError(f"expected two arrays with the same number of classes on the last axis, got shapes {shapes}")
    if metric.wrong and (shapes[0] != shapes[1] or left.ndim != 2):
        raise InputError(f"expected two arrays of the same shape (N, C) beside labels, got shapes {shapes}")
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise InputError(f"expected leading axes that broadcast, got shapes {shapes}") from None
    rows = [_broadcast(side, shape).reshape(int(np.prod(shape[:-1])), shape[-1]) for side in (left, right)]
    return torch.from_numpy(measure(rows, labels, [metric], np.array([[0, 1]]))[0, 0].reshape(shape[:-1]))


def as_teachers(logits: ArrayLike | Sequence[ArrayLike]) -> list[Any]:
    """The logits of each teacher, checked to be of one shape (N, C)."""
    teachers = [real_numbers(rows, f"teacher {t}") for t, rows in enumerate(logits)]
    if not teachers:
        raise InputError("expected logits of at least one teacher, got none")
    for t, rows in enumerate(teachers):
        if rows.ndim != 2 or rows.shape != teachers[0].shape:
            shapes = f"{tuple(rows.shape)} at teacher {t}, {tuple(teachers[0].shape)} at teacher 0"
            raise InputError(f"expected logits of the same shape (N, C) for every teacher, got {shapes}")
    return teachers


def _broadcast(rows: Any, shape: tuple[int, ...]) -> Any:
    return rows.expand(shape) if isinstance(rows, Tensor) else np.broadcast_to(rows, shape)
