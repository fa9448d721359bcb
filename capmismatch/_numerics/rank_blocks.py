r"""How two rows of logits become a rank correlation: sorted once per teacher, then counted in integers.

This module cuts the rows into blocks, gives each to a thread, and makes metrics of the counts. The counts come from
`rank_flat` and `rank_loops` (compiled, on the CPU) or `rank_tensors` (on any other device): the same integers.

**One row, step by step.** Two teachers, five classes, and class 0 is the label:

========================  =============  ===============  ======================================================
of each class             teacher A      teacher B        meaning
========================  =============  ===============  ======================================================
logits                    3 1 2 2 0      5 1 3 0 2        classes 2 and 3 are tied in A
``position``              4 1 3 2 0      4 1 3 0 2        where the class stands in ascending order
``first``                 4 1 2 2 0      4 1 3 0 2        where its group of tied classes starts
``last``                  5 2 4 4 1      5 2 4 1 3        one past the end of that group
``mid``                   4 -2 1 1 -4    4 -2 2 -4 0      first + last - C: twice the average rank, centred
========================  =============  ===============  ======================================================

and of the row as a whole

=================  ===================================================================================================
``order``          the class at each position: 4 1 3 2 0 in A, 3 1 4 2 0 in B. NaN come last. Tied classes stand in
                   descending class index, so that reading from the end breaks ties by ascending class index.
``ties``           pairs of tied classes: 1 in A, 0 in B
``nans``           classes whose logit is NaN: none here
=================  ===================================================================================================

>>> a, b = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]]), torch.tensor([[5.0, 1.0, 3.0, 0.0, 2.0]])
>>> ranks = TensorRanks([a, b])
>>> ranks.order[:, 0].tolist(), ranks.ties[:, 0].tolist()
([[4, 1, 3, 2, 0], [3, 1, 4, 2, 0]], [1, 0])
>>> ranks.mid[:, 0].tolist()
[[4, -2, 1, 1, -4], [4, -2, 2, -4, 0]]

*All classes.* Walk A's order, 4 1 3 2 0, and write down B's positions: 2 1 0 3 4. Every pair that stands in descending
order there is discordant: (2, 1), (2, 0), (1, 0), so Q = 3. Of the 10 pairs one is tied in A, so P = 10 - 1 - 3 = 6,
and tau-b is (P - Q) / sqrt((10 - 1) (10 - 0)) = 3 / sqrt(90). P - Q is called ``concordance``:

>>> ranks.concordance(np.array([[0, 1]])).item()
3

*Wrong classes only.* The label stands above all 4 others in both: these pairs add 4 to the concordance
(``target_concordance``, from the signs of differences of ``mid``) and are subtracted; 6 pairs are left, of which A ties
one. So tau-b is (3 - 4) / sqrt((6 - 1) (6 - 0)). No row is sorted a second time:

>>> ranks.target_concordance(np.array([0]), np.array([[0, 1]])).item()
4
>>> of_two(a, b, None, Metric("tau_b")), of_two(a, b, [0], Metric("tau_b", wrong=True))
(tensor([0.3162], dtype=torch.float64), tensor([-0.1826], dtype=torch.float64))

Spearman's rho is Pearson's correlation of ``mid``, and the top-k overlap compares the ends of ``order``.
"""

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
from capmismatch._numerics.plain_arrays import plain_array
from capmismatch._numerics.rank_tensors import FEW_CLASSES, MAX_CLASSES, Ints, TensorRanks
from capmismatch._numerics.threads import blocks, run_in_threads
from capmismatch.errors import InputError

if devices.HAS_NUMBA:
    from capmismatch._numerics.rank_flat import MOST_CLASSES, FlatRanks, FlatSpace
    from capmismatch._numerics.rank_loops import LoopRanks, Space

Floats = NDArray[np.float64]

METRICS = ("wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top{k}_overlap")

BLOCK_CELLS = 1 << 19  # logits ranked at a time in a thread: up to 16 MB; of fewer, calls take longer than sums
SMALL_TIMES = 4  # as many logits as elsewhere before loops are worth compiling: those of several teachers come together
SMALL_CELLS = 1 << 14  # with fewer, a thread costs more than it saves
DEVICE_CELLS = 1 << 24  # classes in the sequences of all pairs on an accelerator, at some 50 bytes each


class Metric(NamedTuple):
    """One metric.

    Attributes
    ----------
    kind : str
        "tau_b", "spearman" or "top_overlap": the method of `Block` that computes it.
    wrong : bool
        Whether over the wrong classes only.
    k : int
        Of the overlap.
    """

    kind: str
    wrong: bool = False
    k: int = 0

    @classmethod
    def parse(cls, name: str) -> Metric:
        """The metric that has this name in tables."""
        if not isinstance(name, str):
            raise InputError(f"metrics must be among {list(METRICS)}, not {name!r}")
        if match := re.fullmatch(r"top(\d+)_overlap", name):
            return cls("top_overlap", wrong=True, k=int(match[1]))
        if name not in METRICS:
            raise InputError(f"metrics must be among {list(METRICS)}, not {name!r}")
        return cls(name.removeprefix("wrong_"), wrong=name.startswith("wrong_"))


class Block:
    """One block of rows of all teachers, sorted once; each metric gives (P, n) for P pairs of teachers."""

    def __init__(self, ranks: TensorRanks | LoopRanks | FlatRanks, labels: Ints | None, pairs: Ints) -> None:
        self.n, self.classes = ranks.shape
        self.ranks, self.labels, self.pairs = ranks, labels, pairs

    def measure(self, metric: Metric) -> Floats:
        """Value of one metric; NaN where a compared class is NaN."""
        values = getattr(self, metric.kind)(metric)
        nans = self.ranks.nans
        if metric.wrong:  # NaN sorts last, and so does a target that is NaN
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
    """All metrics of all pairs of teachers, (M, P, N), over blocks of rows in threads."""
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

    work = n * classes * (len(teachers) if classes <= FEW_CLASSES else max(len(teachers), len(pairs)))
    loops = devices.uses_loops(device, work, SMALL_TIMES)
    threads = devices.thread_count(device) if loops else 1
    width = classes * (len(teachers) if loops else max(len(teachers), len(pairs)))  # numbers a row
    most = (BLOCK_CELLS if device.type == "cpu" else DEVICE_CELLS) // width
    rows = max(1, min(most, max(SMALL_CELLS // width, -(-n // threads))))
    of_thread = threading.local()

    def ranked(block: slice) -> TensorRanks | LoopRanks | FlatRanks:
        logits = [of_teacher[block] for of_teacher in teachers]
        if not loops:
            return TensorRanks([as_floats(rows).to(device).contiguous() for rows in logits])
        if not hasattr(of_thread, "space"):
            dtype = np.result_type(*(as_floats(rows[:0]).cpu().numpy() for rows in logits))  # wide enough for each
            of_thread.space = _space((rows, len(teachers), classes), dtype)
        arrays = [as_floats(rows).cpu().numpy() if isinstance(rows, Tensor) else rows for rows in logits]
        return _ranked(arrays, of_thread.space)

    def run(block: slice) -> None:
        of_block = Block(ranked(block), None if targets is None else targets[block], pairs)
        for m, metric in enumerate(metrics):
            values[m, :, block] = of_block.measure(metric)

    run_in_threads(run, blocks(n, rows), threads)
    return values


def _space(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Space | FlatSpace:
    """Memory for compiled loops, of the kind that suits the number of classes."""
    flat = FEW_CLASSES <= shape[2] <= MOST_CLASSES
    return FlatSpace(shape, dtype) if flat else Space(shape, dtype)


def _ranked(logits: list[NDArray[Any]], space: Space | FlatSpace) -> LoopRanks | FlatRanks:
    return FlatRanks(logits, space) if isinstance(space, FlatSpace) else LoopRanks(logits, space)


def ends_and_ranks(logits: NDArray[Any]) -> tuple[Ints, Ints]:
    """Of each row (n, C): the last two classes in ascending order, and of each class twice its average rank, centred.

    Examples
    --------
    >>> ends, twice = ends_and_ranks(np.array([[3.0, 1.0, 2.0, 2.0, 0.0]]))
    >>> ends.tolist(), twice.tolist()
    ([[2, 0]], [[4, -2, 1, 1, -4]])
    """
    n, classes = logits.shape
    if not devices.uses_loops(torch.device("cpu"), logits.size):
        of_tensors = TensorRanks([as_floats(logits)])
        return of_tensors.order[0, :, -2:].numpy(), of_tensors.mid[0].numpy()
    ends, twice = np.empty((n, min(2, classes)), np.int64), np.empty((n, classes), np.int64)
    rows = max(1, (BLOCK_CELLS >> 3) // classes)
    space = _space((rows, 1, classes), logits.dtype)
    for block in blocks(n, rows):
        ranks = _ranked([logits[block]], space)
        ends[block], twice[block] = ranks.order[:, 0, -2:], ranks.mid[:, 0]
    return ends, twice


def ranking_device(teachers: list[Any]) -> torch.device:
    """Where the logits are ranked: on the first accelerator with float64 that holds any of them, else on the CPU."""
    tensors = [rows for rows in teachers if isinstance(rows, Tensor) and widest_float(rows) == torch.float64]
    return next((rows.device for rows in tensors if rows.device.type != "cpu"), torch.device("cpu"))


def real_numbers(values: ArrayLike, what: str) -> Any:
    """The tensor or array itself, without a copy, checked to hold real numbers."""
    numbers: Any = values.detach().resolve_neg() if isinstance(values, Tensor) else plain_array(values, what)
    if isinstance(numbers, Tensor):
        if numbers.layout != torch.strided:
            raise InputError(f"expected numbers in {what}, got a tensor of {numbers.layout}: make it dense")
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
