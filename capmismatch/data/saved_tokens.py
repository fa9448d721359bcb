"""Log-probabilities of the likeliest tokens, as servers and trainers save them: one table whatever the format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch._utils.text import format_percent
from capmismatch.data.token_inputs import NO_LABEL
from capmismatch.errors import InputError

MOST_MASS = 1e-3
"""By how much the probabilities of a position may exceed 1: half precision rounds."""


@dataclass(frozen=True, eq=False)
class SavedSequence:
    """One sequence of a file: for each position the likeliest next tokens.

    Attributes
    ----------
    labels : sequence of int
        The token that follows each position; -100 where it is not to be told.
    ids : sequence of sequence of int
        The listed tokens of each position.
    log_probs : sequence of sequence of float
        Their log-probabilities; -inf fills up lists.
    label_log_probs : sequence of float, optional
        Log-probability of each label that the list itself does not hold; NaN where unknown.
    """

    labels: Sequence[int]
    ids: Sequence[Sequence[int]]
    log_probs: Sequence[Sequence[float]]
    label_log_probs: Sequence[float] | None = None


@dataclass(frozen=True, eq=False)
class SavedTokens:
    """What a file of saved token logits tells of one teacher, at temperature 1.

    Attributes
    ----------
    name : str
        Of the file or folder.
    format : str
        "distillkit", "vllm", "axolotl", "llama.cpp" or "columns".
    vocabulary : int
        V, how many tokens there are.
    labels : ndarray of int, shape (N,)
        The token that follows each position.
    sequences : ndarray of int, shape (N,)
        Number of the sequence in the file.
    positions : ndarray of int, shape (N,)
        Where in its sequence the position is.
    ids : ndarray of int, shape (N, k)
        The likeliest tokens, the likeliest first; -1 where a list is shorter.
    log_probs : ndarray of float64, shape (N, k)
        Their log-probabilities; -inf where a list is shorter.
    label_log_prob : ndarray of float64, shape (N,)
        Of the label, wherever it stands; NaN where the file does not tell it.
    """

    name: str
    format: str
    vocabulary: int
    labels: NDArray[np.int64]
    sequences: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    label_log_prob: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def k(self) -> int:
        """Length of the longest list."""
        return self.ids.shape[1]

    @property
    def mass(self) -> NDArray[np.float64]:
        """(N,) probability of the listed tokens together, at most 1."""
        return np.minimum(np.exp(self.log_probs).sum(1), 1.0)

    @property
    def findings(self) -> tuple[str, ...]:
        """CM034 where a token that is not listed has a probability: what asks for it can only be bounded."""
        return ("CM034",) if bool((self.mass < 1 - MOST_MASS).any()) else ()

    def __repr__(self) -> str:
        without = float(np.isnan(self.label_log_prob).mean())
        return (
            f"SavedTokens of {self.name!r} ({self.format}): {len(self)} positions in "
            f"{len(np.unique(self.sequences))} sequences, the {self.k} likeliest of {self.vocabulary} tokens with "
            f"{format_percent(float(self.mass.mean()), digits=1)} of the probability; "
            f"{format_percent(without, digits=1)} of the labels are unknown"
        )


def assembled(name: str, kind: str, vocabulary: int, sequences: Iterable[SavedSequence]) -> SavedTokens:
    """One table of all sequences, checked.

    Raises
    ------
    InputError
        An id beyond the vocabulary, twice in one list, probabilities above 1 in sum, NaN, or no position at all.
    """
    labels, owners, places, ids, logs, own = [], [], [], [], [], []
    for number, sequence in enumerate(sequences):
        told = sequence.label_log_probs
        for place, label in enumerate(sequence.labels):
            if label == NO_LABEL:
                continue
            where = f"at position {place} of sequence {number} in {name}"
            labels.append(_whole([label], f"the label {where}")[0])
            owners.append(number)
            places.append(place)
            ids.append(_whole(sequence.ids[place], f"ids {where}"))
            logs.append(np.asarray(sequence.log_probs[place], np.float64))
            own.append(np.nan if told is None else float(told[place]))
    if not labels:
        raise InputError(f"expected positions with a label in {name}, got none")
    width = max(len(row) for row in ids)
    table = SavedTokens(
        name,
        kind,
        vocabulary,
        np.array(labels, np.int64),
        np.array(owners, np.int64),
        np.array(places, np.int64),
        _filled(ids, width, -1, np.int64),
        _filled(logs, width, -np.inf, np.float64),
        np.array(own, np.float64),
    )
    return _checked(table)


def _whole(values: Any, place: str) -> NDArray[np.int64]:
    """Numbers of tokens (k,), of which tables may have made floats."""
    array = plain_array(values, place, "numbers of tokens")
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and not bool((array == np.floor(array)).all())):
        raise InputError(f"expected numbers of tokens as {place}, got {array.tolist()[:8]}")
    return array.astype(np.int64)


def _filled(rows: list[NDArray[Any]], width: int, fill: float, dtype: Any) -> NDArray[Any]:
    array = np.full((len(rows), width), fill, dtype)
    for number, row in enumerate(rows):
        array[number, : len(row)] = row
    return array


def _checked(table: SavedTokens) -> SavedTokens:
    logs = table.log_probs

    def refuse(bad: Any, what: str, got: NDArray[Any]) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"expected {what}, got {got[row]} at position {table.positions[row]} of sequence "
                f"{table.sequences[row]} in {table.name}"
            )

    refuse(np.isnan(logs).any(1) | (logs == np.inf).any(1), "finite log-probabilities", logs.max(1))
    refuse(~np.isfinite(logs).any(1), "at least one listed token", logs.max(1))
    within = f"ids in [0, {table.vocabulary})"
    ids = np.where(np.isfinite(logs), table.ids, -1)
    refuse((ids >= table.vocabulary).any(1), within, ids.max(1))
    refuse((np.isfinite(logs) & (ids < 0)).any(1), within, table.ids.min(1))
    refuse((table.labels >= table.vocabulary) | (table.labels < 0), f"labels in [0, {table.vocabulary})", table.labels)
    order = np.argsort(ids, 1, kind="stable")
    ascending = np.take_along_axis(ids, order, 1)
    refuse(((np.diff(ascending, axis=1) == 0) & (ascending[:, 1:] >= 0)).any(1), "each token once", ascending.max(1))
    listed = ids == table.labels[:, None]
    in_list = listed.any(1)
    own = np.where(in_list, np.where(listed, logs, -np.inf).max(1), table.label_log_prob)
    refuse(own > MOST_MASS, "log-probabilities, at most 0", own)
    mass = np.exp(logs).sum(1) + np.where(in_list | np.isnan(own), 0.0, np.exp(own))
    refuse(mass > 1 + MOST_MASS, "probabilities that sum to at most 1", mass)
    by_size = np.lexsort((ids, -logs), axis=1)
    return SavedTokens(
        table.name,
        table.format,
        table.vocabulary,
        table.labels,
        table.sequences,
        table.positions,
        np.take_along_axis(ids, by_size, 1),
        np.take_along_axis(logs, by_size, 1),
        own,
    )
