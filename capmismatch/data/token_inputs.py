"""Text as rows: windows of tokens, and for each row the position in a window whose next token is to be told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError, must_count

NO_LABEL = -100
"""The label of positions that are no rows, as PyTorch's cross-entropy knows it."""


class TokenBatch(NamedTuple):
    """Some rows: the windows that they lie in, and where.

    Attributes
    ----------
    windows : ndarray of shape (w, W)
        Token ids.
    flat : ndarray of shape (n,)
        The row's place among the w * W positions, window after window.
    """

    windows: NDArray[np.int32]
    flat: NDArray[np.int64]


@dataclass(frozen=True)
class TextSource:
    """What the tokens of a text came from, by which the tokenizers of teachers are compared.

    Attributes
    ----------
    tokenizer : str
        The tokenizer's JSON.
    samples : tuple of str
        Pieces of the text.
    """

    tokenizer: str
    samples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """The inputs of next-token rows. A network maps windows (w, W) to logits (w, W, V); rows are positions of them.

    Attributes
    ----------
    windows : ndarray of shape (S, W), int32
        Token ids, filled up with 0 behind the end of a document.
    number : ndarray of shape (S,), int64
        Number of each window in the whole text.
    document : ndarray of shape (S,), int64
        Which document, or block of a long one, each window is of: splits never part one.
    start : ndarray of shape (S,), int64
        Where in its document each window begins, in tokens.
    window : ndarray of shape (N,), int64
        The window of each row, as its place in `windows`.
    position : ndarray of shape (N,), int64
        Where in that window the row is.
    size : ndarray of shape (N,), int64
        Length of the row's label in bytes of the text.
    source : TextSource or None
        Tokenizer and samples of the text.
    """

    windows: NDArray[np.int32]
    number: NDArray[np.int64]
    document: NDArray[np.int64]
    start: NDArray[np.int64]
    window: NDArray[np.int64]
    position: NDArray[np.int64]
    size: NDArray[np.int64]
    source: TextSource | None = None
    ndim: int = field(default=2, init=False)

    def __len__(self) -> int:
        return len(self.window)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and tokens of a window."""
        return len(self), self.windows.shape[1]

    @property
    def sequences(self) -> NDArray[np.int64]:
        """(N,) number of each row's window in the whole text: rows of one window are no independent draws."""
        return self.number[self.window]

    @property
    def ids(self) -> NDArray[np.str_]:
        """(N,) "document:offset" of each row, counted in tokens."""
        return np.array(
            [
                f"{document}:{offset}"
                for document, offset in zip(
                    self.document[self.window].tolist(), (self.start[self.window] + self.position).tolist(), strict=True
                )
            ]
        )

    def __getitem__(self, rows: Any) -> TokenBatch:
        window, position = self.window[rows], self.position[rows]
        used, place = np.unique(window, return_inverse=True)
        return TokenBatch(self.windows[used], place * self.windows.shape[1] + position)

    def take(self, rows: Any) -> TokenInputs:
        """Some of the rows, in the given order, with the windows that they lie in."""
        index = np.asarray(rows)
        used, place = np.unique(self.window[index], return_inverse=True)
        return TokenInputs(
            self.windows[used],
            self.number[used],
            self.document[used],
            self.start[used],
            place.astype(np.int64),
            self.position[index],
            self.size[index],
            self.source,
        )

    def on_windows(self, values: NDArray[Any], fill: Any) -> NDArray[Any]:
        """Values of the rows, (N, ...), as an array (S, W, ...) with `fill` at positions that are no rows."""
        array = np.full((*self.windows.shape, *values.shape[1:]), fill, values.dtype)
        array[self.window, self.position] = values
        return array

    def digest(self) -> str:
        """Hash of the windows and of the rows' places in them."""
        digest = hashlib.sha256(f"tokens {self.windows.shape} {len(self)}".encode())
        for array in (self.windows, self.number, self.document, self.start, self.window, self.position, self.size):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        windows, length = self.windows.shape
        return f"TokenInputs({len(self)} rows in {windows} windows of {length} tokens)"


class Document(NamedTuple):
    """One encoded text.

    Attributes
    ----------
    tokens : ndarray of shape (n,)
        Token ids.
    sizes : ndarray of shape (n,)
        Bytes of the text that each stands for.
    counts : ndarray of shape (n,), bool
        Which of them are to be told.
    """

    tokens: NDArray[np.int64]
    sizes: NDArray[np.int64]
    counts: NDArray[np.bool_]


def cut_windows(
    documents: Sequence[Document], window: int, skip: int, block: int, place: str
) -> tuple[TokenInputs, NDArray[np.int64]]:
    """Cut documents into windows of tokens, the label of each position being the next token.

    Parameters
    ----------
    documents : sequence of Document
        No window reaches from one into the next.
    window : int
        Tokens of a window.
    skip : int
        The first positions of each window are no rows: they are told with too little before them.
    block : int
        A longer document is parted after so many windows, for splits; 0 keeps documents whole.
    place : str
        What the text is called in messages.

    Returns
    -------
    inputs : TokenInputs
        The rows, in the order of the text.
    labels : ndarray of shape (N,), int64
        Their next tokens.

    Raises
    ------
    InputError
        Where a document has no tokens, or none has a row.
    """
    must_count(window, "window", least=2, most=1 << 20)
    must_count(skip, "skip", least=0, most=window - 1)
    windows: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    sizes: list[NDArray[np.int64]] = []
    owners, numbers = [], []
    for number, document in enumerate(documents):
        count = len(document.tokens) - 1  # the last token has none after it
        if count < 0:
            raise InputError(f"expected tokens in every document of {place}, got none in document {number}")
        if count == 0:
            continue
        padding = -count % window
        parts = [
            np.pad(document.tokens[:-1], (0, padding)),
            np.pad(
                np.where(document.counts[1:], document.tokens[1:], NO_LABEL), (0, padding), constant_values=NO_LABEL
            ),
            np.pad(document.sizes[1:], (0, padding)),
        ]
        for pieces, values in zip((windows, labels, sizes), parts, strict=True):
            pieces.append(values.reshape(-1, window))
        owners.append(np.full(len(windows[-1]), number))
        numbers.append(np.arange(len(windows[-1])))
    if not windows:
        raise InputError(f"expected a document of two tokens or more in {place}, got none")
    label, owner, offset = np.concatenate(labels), np.concatenate(owners), np.concatenate(numbers)
    label[:, :skip] = NO_LABEL
    has_rows = (label != NO_LABEL).any(1)
    if not has_rows.any():
        raise InputError(f"expected tokens to predict in {place}, got none: all are masked, or among the first {skip}")
    label, owner, offset = label[has_rows], owner[has_rows], offset[has_rows]
    row_window, row_position = np.nonzero(label != NO_LABEL)
    inputs = TokenInputs(
        np.concatenate(windows)[has_rows].astype(np.int32),
        np.flatnonzero(has_rows),
        _blocks(owner, offset, block),
        offset * window,
        row_window,
        row_position,
        np.concatenate(sizes)[has_rows][row_window, row_position].astype(np.int64),
    )
    return inputs, label[row_window, row_position]


def _blocks(owner: NDArray[np.int64], offset: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Number of the document, or of the block of one, that each window is of."""
    part = offset // block if block else np.zeros_like(offset)
    _, number = np.unique(np.stack([owner, part], 1), axis=0, return_inverse=True)
    return number.reshape(-1).astype(np.int64)


def split_windows(
    inputs: TokenInputs, sizes: dict[str, int | float], seed: int, place: str
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Divide rows among splits, whole documents (or blocks) at a time, drawn by a fixed seed.

    Parameters
    ----------
    inputs : TokenInputs
        The rows.
    sizes : dict of str to int or float
        For each split how many windows, or which share of all. A number is kept exactly: the last document of a split
        is cut, and what is left of it goes to none. A share is kept up to a document.
    seed : int
        Of the draw.
    place : str
        What the data set is called in messages.

    Returns
    -------
    rows : ndarray of int
        The rows that a split has, those of each split together, in the order of the text.
    split : ndarray of str
        The split of each.

    Raises
    ------
    InputError
        Where there are too few windows, or a split gets none.
    """
    total = len(inputs.windows)
    documents, first = np.unique(inputs.document, return_index=True)
    ends = np.append(first[1:], total)
    order = iter(np.random.default_rng(seed).permutation(len(documents)).tolist())
    rows, names = [], []
    for name, size in sizes.items():
        wanted = round(size * total) if isinstance(size, float) else size
        chosen: list[int] = []
        while len(chosen) < wanted:
            number = next(order, None)
            if number is None:
                if isinstance(size, float) and chosen:
                    break
                raise InputError(
                    f"the splits {sizes} need more than the {total} windows of {place}, in {len(documents)} documents "
                    "or blocks that are kept whole"
                )
            chosen += range(first[number], ends[number])
        if not isinstance(size, float):
            chosen = chosen[:wanted]
        index = np.flatnonzero(np.isin(inputs.window, chosen))
        rows.append(index)
        names.append(np.full(len(index), name))
    return np.concatenate(rows), np.concatenate(names)
