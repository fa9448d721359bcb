r"""Condensed rows: what is kept of an example's logits over a large vocabulary, so that its soft labels stay exact.

Every quantity of the softmax at temperature :math:`\tau` that `softmax.Softened` offers follows from a few sums over
the wrong tokens. With f measured from the largest wrong logit, b = 1 / tau, and the k likeliest wrong tokens H,

.. math:: S(b) = \sum_{c \ne y} e^{b f_c} = \sum_{c \in H} e^{b f_c} + e^{t(b)},

S(b), S(2b) and S'(b) give all of them. H and the label's logit are kept token by token; of all other tokens, the tail,
t(b) and its slope at some b, the *betas*. Sums are exact there, and interpolated in between (`condensed`).
`condense` makes such rows; on the CPU with compiled loops (`condense_loops`), elsewhere with tensor operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capmismatch._numerics import devices
from capmismatch._numerics.arrays import ArrayLike, as_labels
from capmismatch._numerics.condense_settings import K, checked_betas
from capmismatch._numerics.plain_arrays import plain_array
from capmismatch._numerics.threads import blocks, run_in_threads
from capmismatch.errors import InputError, must_count

if devices.HAS_NUMBA:
    from capmismatch._numerics import condense_loops as kernels

IGNORED = -100
"""The label of a position that has none: prompts in fine-tuning, padding."""

MOST_PADDED = 1e-4
"""Mean probability that a teacher may give to the columns beyond its vocabulary."""

LARGEST, BEYOND = 1e30, 6e4  # of a finite logit; and how far below the largest wrong one a logit is still told apart
ROWS_AT_ONCE = 256  # that tensor operations work on
SCALARS = ("target", "max_wrong", "second_wrong", "mean", "std")


@dataclass(frozen=True, eq=False)
class Condensed:
    """Rows of logits over a vocabulary, condensed: n rows, k wrong tokens of each, tail sums at G betas.

    Attributes
    ----------
    vocabulary : int
        V, how many tokens there are.
    betas : ndarray of shape (G,)
        Inverse temperatures at which the tail's sums are kept, ascending.
    rows : ndarray of int, shape (n,)
        Which rows of the logits these are: those that have a label.
    labels : ndarray of int, shape (n,)
        Token that follows, in [0, V).
    ids : ndarray of uint16 or uint32, shape (n, k)
        The wrong tokens of the highest logits, the highest first; of equal ones the lower number.
    below : ndarray of float, shape (n, k)
        Their logits less the largest wrong one; <= 0, the first is 0.
    log_sum : ndarray of float32, shape (n, G)
        Logarithm of the sum of exp(beta f) over all wrong tokens but those k, f less the largest wrong logit; -inf
        where there are no others.
    slope : ndarray of float32, shape (n, G)
        Its derivative in beta: the mean of f under exp(beta f).
    target, max_wrong, second_wrong : ndarray of float32, shape (n,)
        Logit of the label, largest and second largest wrong logit.
    mean, std : ndarray of float32, shape (n,)
        Mean and population standard deviation of all logits.
    label_rank : ndarray of uint32, shape (n,)
        How many tokens come before the label; 0 where it is the arg max.
    """

    vocabulary: int
    betas: NDArray[np.float64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    ids: NDArray[Any]
    below: NDArray[Any]
    log_sum: NDArray[np.float32]
    slope: NDArray[np.float32]
    target: NDArray[np.float32]
    max_wrong: NDArray[np.float32]
    second_wrong: NDArray[np.float32]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    label_rank: NDArray[np.uint32]

    def __post_init__(self) -> None:
        """Raise where rows that were not made by `condense` contradict themselves."""
        n, k, betas = len(self.labels), self.below.shape[-1], len(self.betas)
        shapes: dict[str, tuple[int, ...]] = {
            "ids": (n, k),
            "below": (n, k),
            "log_sum": (n, betas),
            "slope": (n, betas),
        }
        shapes |= {name: (n,) for name in ("rows", *SCALARS, "label_rank")}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"expected {name} of shape {shape}, got {getattr(self, name).shape}")
        if not n:
            return
        row = int(self.ids.max(axis=1).argmax())
        if int(self.ids.max()) >= self.vocabulary or int(self.ids.min()) < 0:
            raise InputError(f"expected ids in [0, {self.vocabulary}), got {int(self.ids.max())} at row {row}")
        wrong = np.flatnonzero(
            ~(self.below <= 0).all(axis=1) | (self.below[:, 0] != 0) | np.isnan(self.log_sum).any(axis=1)
        )
        if len(wrong):
            raise InputError(f"expected logits below the largest wrong one, which is 0, and sums, at row {wrong[0]}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def k(self) -> int:
        """How many wrong tokens of each row are kept."""
        return self.ids.shape[1]

    def take(self, index: NDArray[Any] | slice) -> Condensed:
        """Some of the rows."""
        of_rows = [field.name for field in fields(self) if field.name not in ("vocabulary", "betas")]
        return replace(self, **{name: getattr(self, name)[index] for name in of_rows})

    def __repr__(self) -> str:
        rows = "1 row" if len(self) == 1 else f"{len(self)} rows"
        head = f"Condensed({rows} of {self.vocabulary} tokens: the {self.k} likeliest wrong ones"
        return f"{head}, all others at beta {', '.join(f'{beta:.3g}' for beta in self.betas)})"


def condense(
    logits: ArrayLike,
    labels: ArrayLike,
    k: int = K,
    *,
    betas: str | Iterable[float] = "octaves",
    vocabulary: int | None = None,
) -> Condensed:
    r"""Keep of each row of logits what exact soft labels need: the k likeliest wrong tokens, and sums over all others.

    A row of V = 50,000 float16 logits takes 100 kB; condensed with k = 64 it takes about 500 bytes, and every tempered
    probe of `capmismatch.probes.REGISTRY` that looks at one example is a function of it. At temperatures whose inverse
    and its double are among the betas (1, 2, 4, 8 and 0.5 with either setting) nothing is lost; at others the tail's
    sum is interpolated.

    Parameters
    ----------
    logits : array_like, shape (N, V)
        Logits over the vocabulary, in any float type, V >= 3. -inf masks a token, for all rows alike.
    labels : array_like of int, shape (N,)
        The token that follows, in [0, V); -100 marks rows without a label, which are left out.
    k : int, default 64
        How many wrong tokens are kept one by one, 2 or more; at most V - 1 are.
    betas : {"octaves", "half"} or iterable of float, default "octaves"
        Inverse temperatures at which the other tokens' sums are kept: 1/8 to 4 by octaves (6) or half octaves (11,
        more exact in between), or at least two positive numbers.
    vocabulary : int, optional
        How many tokens the tokenizer knows, where the logits have more columns: the padded ones are cut before
        anything is summed.

    Returns
    -------
    Condensed
        Arrays, of the rows that have a label.

    Raises
    ------
    InputError
        NaN, an infinite logit, stand-ins for the logits of tokens that were not kept, a label that is no token or
        masked, k below 2, padded columns that hold more than 1e-4 of the probability.

    See Also
    --------
    capmismatch.token_bank_from_logits : A bank of several teachers' condensed rows.

    Examples
    --------
    >>> logits = np.random.default_rng(0).normal(size=(2, 5000))
    >>> condensed = condense(logits, [7, -100], k=8)
    >>> condensed
    Condensed(1 row of 5000 tokens: the 8 likeliest wrong ones, all others at beta 0.125, 0.25, 0.5, 1, 2, 4)
    >>> everything = np.exp(condensed.below).sum() + np.exp(condensed.log_sum[0, 3])
    >>> wrong = np.delete(logits[0], 7)
    >>> bool(abs(everything - np.exp(wrong - wrong.max()).sum()) < 1e-3)
    True
    """
    must_count(k, "k", least=2)
    values = as_rows(logits, "logits")
    rows, targets = labelled(labels, len(values), token_count(values, vocabulary, "logits"))
    values = values if len(rows) == len(values) else values[rows]
    return condense_labelled(values, rows, targets, k, checked_betas(betas), vocabulary)


def condense_labelled(
    values: Any,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    k: int,
    betas: NDArray[np.float64],
    vocabulary: int | None = None,
    place: str = "logits",
) -> Condensed:
    """Condense what `as_rows` gave, rows of one checked label each; `rows` and `place` say where in an error."""
    width = token_count(values, vocabulary, place)
    condensed = _condense(values[:, :width], rows, labels, k, betas, place)
    if width < values.shape[1]:
        refuse_padded_mass(values[:, width:], log_sum_exp(condensed), condensed.rows, place, width)
    return condensed


def labelled(labels: ArrayLike, rows: int, vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the rows that have a label, and their labels, each in [0, V).

    Examples
    --------
    >>> labelled([3, -100, 1], 3, 5)
    (array([0, 2]), array([3, 1]))
    """
    plain = labels if isinstance(labels, Tensor) else plain_array(labels, "labels", "whole numbers")
    if plain.ndim != 1 or len(plain) != rows:
        raise InputError(f"expected {rows} labels, one for each row of the logits, got shape {tuple(plain.shape)}")
    known = plain != IGNORED
    filled = torch.where(known, plain, 0) if isinstance(plain, Tensor) else np.where(known, plain, 0)
    checked = as_labels(filled, rows, vocabulary).cpu().numpy()
    index = np.flatnonzero(devices.to_numpy(known) if isinstance(known, Tensor) else known)
    return index, checked[index]


def as_rows(logits: ArrayLike, place: str) -> Any:
    """Logits as a tensor off the CPU, else as an array of float32 or float64; not yet checked for finite values."""
    rows: Any
    if isinstance(logits, Tensor) and logits.device.type != "cpu":
        rows = logits.detach()
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    else:
        rows = plain_array(logits, place)
        if rows.dtype.kind == "b":
            raise InputError(f"expected numbers as {place}, got True and False: predictions are no logits")
        if rows.dtype != np.float64:
            rows = rows.astype(np.float32, copy=False)
    if rows.ndim != 2 or rows.shape[1] < 3:
        raise InputError(f"expected {place} of shape (N, V) with V >= 3, got shape {tuple(rows.shape)}")
    return rows


def token_count(values: Any, vocabulary: int | None, place: str) -> int:
    """How many of the columns are tokens; the others are padding."""
    if vocabulary is None:
        return int(values.shape[1])
    must_count(vocabulary, "vocabulary", least=3)
    if vocabulary > values.shape[1]:
        raise InputError(f"expected {vocabulary} columns, one for each token, got {values.shape[1]} in {place}")
    return int(vocabulary)


def _condense(
    values: Any, rows: NDArray[np.int64], labels: NDArray[np.int64], k: int, rates: NDArray[np.float64], place: str
) -> Condensed:
    """Condense checked rows of one label each, with the masked columns left out while the work is done."""
    vocabulary = int(values.shape[1])
    kept = _unmasked(values, rows, place)
    positions = labels
    if kept is not None:
        column = np.full(vocabulary, -1)
        column[kept] = np.arange(len(kept))
        masked = np.flatnonzero(column[labels] < 0)
        if len(masked):
            raise InputError(
                f"expected labels that -inf does not mask in {place}, got {labels[masked[0]]} at row {rows[masked[0]]}"
            )
        values, positions = values[:, kept], column[labels]
    width = int(values.shape[1])
    head = min(k, width - 1)
    by_loops = not isinstance(values, Tensor) and devices.HAS_NUMBA
    run = _by_loops if by_loops else _by_tensors
    ids, below, log_sum, slope, scalars, rank = run(values, positions, head, rates, rows, place)
    if kept is not None:
        ids = kept[ids]
    token = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    arrays = {"below": below, "log_sum": log_sum, "slope": slope, **dict(zip(SCALARS, scalars, strict=True))}
    singles: dict[str, Any] = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
    condensed = Condensed(vocabulary, rates, rows, labels, ids.astype(token), label_rank=rank, **singles)
    _refuse_lists(condensed, place)
    return condensed


def _unmasked(values: Any, rows: NDArray[np.int64], place: str) -> NDArray[np.int64] | None:
    """The columns that no -inf masks; None where there is no -inf."""
    if not len(rows):
        return None
    infinite = devices.to_numpy(torch.isneginf(values[0])) if isinstance(values, Tensor) else np.isneginf(values[0])
    if not infinite.any():
        return None
    tokens = len(infinite)
    if int(infinite.sum()) > min(tokens // 2, tokens - 3):
        raise InputError(
            f"expected the logits of all {tokens} tokens, got -inf for {int(infinite.sum())} of them at row "
            f"{rows[0]} of {place}: a list of the top k cannot be condensed, what the others sum to is lost"
        )
    _must_mask_all(values, infinite, rows, place)
    return np.flatnonzero(~infinite)


def _must_mask_all(values: Any, masked: NDArray[np.bool_], rows: NDArray[np.int64], place: str) -> None:
    """Raise where a row has a logit at a token that -inf masks in the first row."""
    tokens = np.flatnonzero(masked)
    picked = values[:, tokens]
    told = ~(devices.to_numpy(torch.isneginf(picked)) if isinstance(picked, Tensor) else np.isneginf(picked))
    if told.any():
        row, column = (int(number) for number in np.argwhere(told)[0])
        raise InputError(
            f"expected -inf, which masks a token for all rows or for none, got {float(picked[row, column]):g} at row "
            f"{rows[row]}, token {tokens[column]} of {place}, and -inf at row {rows[0]}"
        )


def _in_order(rates: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of rates in which the double of one follows it, whose exponentials need only be squared."""
    mantissa, _ = np.frexp(rates)
    return np.lexsort((rates, mantissa))


def _by_loops(values: NDArray[Any], labels: Any, k: int, rates: Any, rows: Any, place: str) -> tuple[NDArray[Any], ...]:
    n = len(values)
    order = _in_order(rates)
    ids, below, rank = np.empty((n, k), np.int64), np.empty((n, k), np.float32), np.empty(n, np.uint32)
    sums, scalars, odd = np.empty((2, n, len(rates))), np.empty((6, n)), np.empty(n, bool)
    values = np.require(values, requirements=["C", "A", "W"])  # else numba would compile the loops once more

    def run(some: slice) -> None:
        arrays = (array[some] for array in (ids, below, *sums))
        of_rows = scalars[:, some], rank[some], odd[some]
        kernels.condense_rows(values[some], labels[some], rates[order], *arrays, *of_rows)

    run_in_threads(run, blocks(n, 16), torch.get_num_threads())
    _refuse_odd(values, odd, rows, place)
    log_sum, slope = np.empty_like(sums)
    log_sum[:, order], slope[:, order] = sums
    return ids, np.maximum(below, -BEYOND), log_sum, slope, scalars[:5], rank


def _refuse_lists(condensed: Condensed, place: str) -> None:
    """Raise where all tokens beyond the head have one logit, lower than half of the head's: it means "not kept"."""
    others = condensed.vocabulary - 1 - condensed.k
    least, most = condensed.slope[:, 0], condensed.slope[:, -1]
    filled = (
        (most - least <= 1e-6 * np.abs(most))
        & (most < condensed.below[:, (condensed.k - 1) // 2])
        & (len(condensed.betas) > 1)
    )
    if len(condensed) and others > condensed.k and filled.all():
        raise InputError(
            f"expected the logits of all {condensed.vocabulary} tokens, got the same for the {others} tokens beyond "
            f"the {condensed.k} likeliest in every row of {place}: a list of the top k cannot be condensed, what "
            "the others sum to is lost"
        )


def _refuse_odd(values: NDArray[Any], odd: NDArray[np.bool_], rows: NDArray[np.int64], place: str) -> None:
    if not odd.any():
        return
    row = int(np.flatnonzero(odd)[0])
    token = int(np.flatnonzero(~(np.abs(values[row]) <= LARGEST))[0])
    where = f"{values[row, token]:g} at row {rows[row]}, token {token} of {place}"
    if np.isfinite(values[row, token]):
        raise InputError(
            f"expected logits up to {LARGEST:g} in size, got {where}: stand-ins for the logits of other than the top k "
            "tokens cannot be condensed, all are needed"
        )
    hint = ": -inf masks a token for all rows or for none" if np.isneginf(values[row, token]) else ""
    raise InputError(f"expected finite logits, got {where}{hint}")


def _by_tensors(values: Any, labels: Any, k: int, rates: Any, rows: Any, place: str) -> tuple[NDArray[Any], ...]:
    """The same in tensor operations, some rows at a time."""
    parts = [
        _some_by_tensors(values[some], labels[some], k, rates, rows[some], place)
        for some in blocks(len(values), ROWS_AT_ONCE)
    ]
    if not parts:
        empty = np.empty((0, k)), np.empty((0, len(rates)))
        return np.empty((0, k), np.int64), empty[0], empty[1], empty[1], np.empty((5, 0)), np.empty(0, np.uint32)
    ids, below, log_sum, slope, scalars, rank = zip(*parts, strict=True)
    together = [np.concatenate(arrays) for arrays in (ids, below, log_sum, slope)]
    return *together, np.concatenate(scalars, axis=1), np.concatenate(rank)


def _some_by_tensors(values: Any, labels: Any, k: int, rates: Any, rows: Any, place: str) -> tuple[NDArray[Any], ...]:
    wide = (values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))).double()
    odd = ~(wide.abs() <= LARGEST).all(1)
    _refuse_odd(devices.to_numpy(wide), devices.to_numpy(odd), rows, place)
    target_id = torch.from_numpy(labels).to(wide.device)[:, None]
    target = wide.gather(1, target_id)
    wrong = wide.scatter(1, target_id, -torch.inf)
    ordered, order = wrong.sort(dim=1, descending=True, stable=True)
    head, top = ordered[:, :k], ordered[:, :1]
    second = ordered[:, 1]
    before = (wrong > target) | ((wrong == target) & (torch.arange(wide.shape[1], device=wide.device) < target_id))
    tail = ordered[:, k:-1] - top  # the last is the target, at -inf
    log_sum = torch.stack([torch.logsumexp(beta * tail, 1) for beta in rates], 1)
    if tail.shape[1]:
        slope = torch.stack([(torch.softmax(beta * tail, 1) * tail).sum(1) for beta in rates], 1)
    else:
        slope = torch.zeros_like(log_sum)
    scalars = torch.stack([target[:, 0], top[:, 0], second, wide.mean(1), wide.std(1, correction=0)])
    arrays = [devices.to_numpy(tensor) for tensor in (order[:, :k], (head - top).clamp_min(-BEYOND), log_sum, slope)]
    numbers = devices.to_numpy(scalars)
    return *arrays, numbers, devices.to_numpy(before.sum(1)).astype(np.uint32)


def refuse_padded_mass(
    padded: Any, within: NDArray[np.float64], rows: NDArray[np.int64], place: str, vocabulary: int
) -> None:
    """Raise where columns beyond the vocabulary are more than padding; `within` is log sum exp of the others."""
    beyond = torch.as_tensor(np.ascontiguousarray(padded) if not isinstance(padded, Tensor) else padded).double()
    share = torch.sigmoid(torch.logsumexp(beyond, 1).cpu() - torch.from_numpy(within))
    if not len(share):
        return
    if bool(share.isnan().any()):
        row = int(rows[int(share.isnan().nonzero()[0])])
        raise InputError(f"expected finite logits, got NaN or infinity at row {row} of {place}, beyond the vocabulary")
    if float(share.mean()) > MOST_PADDED:
        raise InputError(
            f"expected padding in the {beyond.shape[1]} columns beyond the vocabulary of {vocabulary}, got "
            f"{float(share.mean()):.2g} of the probability there in {place}: they are of another tokenizer"
        )


def log_sum_exp(condensed: Condensed) -> NDArray[np.float64]:
    """Of all logits of a row at the beta next to 1."""
    at = int(np.abs(np.log(condensed.betas)).argmin())
    beta = condensed.betas[at]
    head = np.log(np.exp(beta * condensed.below.astype(np.float64)).sum(1))
    wrong = np.logaddexp(head, condensed.log_sum[:, at]) / beta + condensed.max_wrong
    return np.logaddexp(wrong, condensed.target)
