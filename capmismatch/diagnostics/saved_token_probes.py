r"""What saved token logits tell of teachers: probes at temperature 1, each with bounds.

With h the listed probabilities, m the smallest of them but the label's, :math:`r = 1 - \sum h` the mass of all other
tokens and n how many these are, each of these has at most m. So their sum of squares lies in [r^2 / n, r m], and what
they add to the entropy in [r log(1 / m), r log(n / r)].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch.data.saved_tokens import SavedTokens
from capmismatch.diagnostics.means import mean
from capmismatch.diagnostics.token_tables import FEW_SEQUENCES
from capmismatch.errors import InputError, must_be_a_count, must_be_one_of
from capmismatch.findings import join_codes

CLOSE = 0.01
"""Relative distance of a bound from the middle up to which the middle is given as a value."""

UNTEMPERED = ("accuracy", "nll", "listed_mass")
Floats = NDArray[np.float64]


def saved_token_probes(
    saved: Mapping[str, SavedTokens], params: Mapping[str, int] | None = None, family: str = "tokens"
) -> pd.DataFrame:
    """Measure what saved token logits tell, at temperature 1; nothing is guessed of tokens that are not listed.

    Parameters
    ----------
    saved : mapping of str to SavedTokens
        Each teacher's, at the same positions of the same text.
    params : mapping of str to int, optional
        Each teacher's number of parameters.
    family : str
        Name of the family.

    Returns
    -------
    pandas.DataFrame
        As `capmismatch.probe` gives, for the probes `accuracy`, `nll`, `target_prob`, `non_target_mass`, `entropy`,
        `derived_variance` and `inherent_variance`, and for `listed_mass`, the probability of the listed tokens; with
        two columns more:

        * low, high: bounds of the mean; equal where the file tells all
        * value: their middle, missing where it is more than 1 % away from them
        * exact: whether both are equal
        * findings: {ref}`CM034 <cm034>` of what is bounded, {ref}`CM032 <cm032>` of fewer than ten sequences

    Raises
    ------
    InputError
        Teachers with other positions, labels or vocabularies, or none.

    See Also
    --------
    read_token_logits : The files.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from capmismatch import read_token_logits
    >>> line = {"tokens": [0, 1], "ids": [[1, 0]], "logs": [[-0.2231, -2.3026]]}
    >>> own = {"tokens": "tokens", "ids": "ids", "logprobs": "logs"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.jsonl").write_text(json.dumps(line))
    ...     table = saved_token_probes({"net": read_token_logits(folder, 5, columns=own)})
    >>> table.set_index("probe").loc[["accuracy", "listed_mass"], "value"].round(3).tolist()
    [1.0, 0.9]
    """
    if not isinstance(saved, Mapping) or not all(isinstance(tokens, SavedTokens) for tokens in saved.values()):
        raise InputError("expected a mapping from teachers' names to what read_token_logits gives of each")
    if not saved:
        raise InputError("expected saved token logits of at least one teacher, got none")
    for teacher, size in (params or {}).items():
        must_be_one_of(teacher, saved, "teacher in params")
        must_be_a_count(size, f"params of teacher {teacher!r}")
    first_name, first = next(iter(saved.items()))
    rows = []
    for teacher, tokens in saved.items():
        _must_agree(first_name, first, teacher, tokens)
        clusters = np.unique(tokens.sequences, return_inverse=True)[1]
        for probe, (low, high) in _bounds(tokens).items():
            rows.append(
                {
                    "family": family,
                    "teacher": teacher,
                    "params": (params or {}).get(teacher, np.nan),
                    "macs": np.nan,
                    "split": "val",
                    "seed": 0,
                    "tau": np.nan if probe in UNTEMPERED else 1.0,
                    "probe": probe,
                    **_row(low, high, clusters),
                }
            )
    return pd.DataFrame(rows)


def _must_agree(first_name: str, first: SavedTokens, name: str, other: SavedTokens) -> None:
    if other.vocabulary != first.vocabulary:
        raise InputError(
            f"expected one vocabulary, got {first.vocabulary} tokens of {first_name!r}, {other.vocabulary} of {name!r}"
        )
    if len(other) != len(first):
        raise InputError(
            f"expected the same positions, got {len(first)} of {first_name!r} and {len(other)} of {name!r}"
        )
    differ = (
        (other.labels != first.labels) | (other.sequences != first.sequences) | (other.positions != first.positions)
    )
    if differ.any():
        row = int(np.flatnonzero(differ)[0])
        raise InputError(
            f"expected the same positions, got label {first.labels[row]} of {first_name!r} and {other.labels[row]} of "
            f"{name!r} at position {other.positions[row]} of sequence {other.sequences[row]}: another text, or another "
            "tokenizer"
        )


def _row(low: Floats, high: Floats, clusters: NDArray[np.int64]) -> dict[str, object]:
    bounds = float(low.mean()), float(high.mean())
    exact = bool(np.allclose(low, high, rtol=1e-9, atol=1e-12))
    middle = sum(bounds) / 2
    is_told = exact or (math.isfinite(middle) and (bounds[1] - bounds[0]) / 2 <= CLOSE * abs(middle))
    told = mean((low + high) / 2, clusters) if is_told else {"value": math.nan, "se": math.nan}
    sequences = int(clusters.max()) + 1
    codes = [*([] if exact else ["CM034"]), *(["CM032"] if sequences < FEW_SEQUENCES else [])]
    return {
        "value": told["value"],
        "se": told["se"],
        "n": len(low),
        "low": bounds[0],
        "high": bounds[1],
        "exact": exact,
        "findings": join_codes(codes),
    }


def _bounds(tokens: SavedTokens) -> dict[str, tuple[Floats, Floats]]:
    """Probe -> the least and the largest value that each position can have."""
    listed = np.exp(tokens.log_probs)
    known = ~np.isnan(tokens.label_log_prob)
    in_list = (tokens.ids == tokens.labels[:, None]).any(1)
    extra = np.where(known & ~in_list, np.exp(np.where(known, tokens.label_log_prob, 0.0)), 0.0)
    rest = np.maximum(1 - listed.sum(1) - extra, 0.0)
    others = tokens.vocabulary - (tokens.ids >= 0).sum(1) - (known & ~in_list)
    rest = np.where(others > 0, rest, 0.0)
    # The label may be listed although others are likelier: it bounds nothing.
    bounding = np.isfinite(tokens.log_probs) & (tokens.ids != tokens.labels[:, None])
    smallest = np.where(bounding, listed, np.inf).min(1)
    largest = np.minimum(rest, smallest)  # that any one unlisted token can have
    told = np.where(known, np.exp(np.where(known, tokens.label_log_prob, 0.0)), 0.0)
    target = told, np.where(known, told, largest)
    with np.errstate(divide="ignore"):
        nll = np.where(known, -tokens.label_log_prob, -np.log(largest)), np.where(known, -tokens.label_log_prob, np.inf)
    right = (tokens.ids[:, 0] == tokens.labels).astype(np.float64)
    squares = rest**2 / np.maximum(others, 1), rest * largest
    own = _plogp(listed).sum(1) + _plogp(extra)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = (
            own + np.where(rest > 0, -rest * np.log(largest), 0.0),
            own + np.where(rest > 0, rest * np.log(np.maximum(others, 1) / rest), 0.0),
        )
    return {
        "accuracy": (right, right),
        "nll": nll,
        "target_prob": target,
        "non_target_mass": (1 - target[1], 1 - target[0]),
        "entropy": entropy,
        **_variances(tokens, listed, squares, target),
        "listed_mass": (listed.sum(1), listed.sum(1)),
    }


def _plogp(probs: Floats) -> Floats:
    return -probs * np.log(np.maximum(probs, np.finfo(np.float64).tiny))


def _variances(
    tokens: SavedTokens, listed: Floats, squares: tuple[Floats, Floats], target: tuple[Floats, Floats]
) -> dict[str, tuple[Floats, Floats]]:
    """Bounds of the variance over wrong tokens of their probabilities, as they are (DV) and renormalised (IV)."""
    wrong = np.where(tokens.ids == tokens.labels[:, None], 0.0, listed)
    count = tokens.vocabulary - 1
    head = np.square(wrong).sum(1)
    # A label that is not told takes up to its largest probability out of the rest.
    least = np.maximum(squares[0] - np.where(np.isnan(tokens.label_log_prob), np.square(target[1]), 0.0), 0.0)
    low, high = head + least, head + squares[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = {
            "derived_variance": (
                low / count - np.square(1 - target[0]) / count**2,
                high / count - np.square(1 - target[1]) / count**2,
            ),
            "inherent_variance": (
                low / np.square(1 - target[0]) / count - 1 / count**2,
                high / np.square(1 - target[1]) / count - 1 / count**2,
            ),
        }
    return {name: (np.maximum(lower, 0.0), np.maximum(upper, 0.0)) for name, (lower, upper) in bounds.items()}
