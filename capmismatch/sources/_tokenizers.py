"""Whether a language model reads a text as it was cut into tokens: one id has to be one token on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from capmismatch._numerics.condensing import refuse_padded_mass
from capmismatch._numerics.devices import to_numpy
from capmismatch._utils.files import hash_of
from capmismatch._utils.optional import need
from capmismatch.data.datasets import Dataset
from capmismatch.data.token_inputs import TokenInputs
from capmismatch.errors import InputError
from capmismatch.sources._networks import reason_of
from capmismatch.sources.families import Teacher

ELSEWHERE = (
    "Distillation across tokenizers is not supported here; GOLD of TRL aligns spans of text, tokensurgeon of mergekit "
    "replaces a model's tokenizer"
)


def as_ids(windows: object) -> Tensor:
    """Windows of tokens, stored in less, as a network takes them."""
    return torch.as_tensor(windows).long()


def tokenizer_findings(teacher: Teacher, dataset: Dataset) -> list[str]:
    """Compare a language model's tokenizer with the one of a text.

    Compared are the tokens of all ids of the text's vocabulary, and how both cut pieces of the text: tokenizers may
    have the same tokens and cut words otherwise.

    Parameters
    ----------
    teacher : Teacher
        Any; nothing is compared for one that was not trained elsewhere.
    dataset : Dataset
        Its examples.

    Returns
    -------
    list of str
        CM031 where the model has more outputs than there are tokens, CM033 where it brings no tokenizer to compare.

    Raises
    ------
    InputError
        The data set is no text, windows are longer than the model takes, or tokenizers differ; the message names the
        first difference.
    """
    if teacher.tokenizer is None or teacher.outputs is None:
        return []
    inputs = dataset.inputs
    if not isinstance(inputs, TokenInputs):
        raise InputError(
            f"teacher {teacher.key} is a language model: expected a text, such as load_dataset('text:FILE', "
            f"tokenizer=...), got data set {dataset.name!r}"
        )
    width, tokens = inputs.windows.shape[1], len(dataset.classes)
    if teacher.context is not None and width > teacher.context:
        raise InputError(
            f"teacher {teacher.key} takes at most {teacher.context} tokens, the windows of {dataset.name!r} have "
            f"{width}: load the text with window={teacher.context}, or fewer"
        )
    if teacher.outputs < tokens:
        raise InputError(
            f"teacher {teacher.key} has logits of {teacher.outputs} tokens, the text {dataset.name!r} has a tokenizer "
            f"of {tokens}: they encode differently. {ELSEWHERE}"
        )
    codes = ["CM031"] if teacher.outputs > tokens else []
    theirs = teacher.tokenizer()
    if theirs is None or inputs.source is None:
        return [*codes, "CM033"]
    if hash_of(theirs) != hash_of(inputs.source.tokenizer):
        _compare(teacher.key, _read(theirs, teacher.key), _read(inputs.source.tokenizer, dataset.name), dataset.name)
        _compare_cuts(teacher.key, theirs, inputs.source.tokenizer, inputs.source.samples, dataset.name)
    return codes


def padded_columns(teacher: Teacher, dataset: Dataset) -> str:
    """How many outputs of a language model are no tokens of a text, in words; "" for none."""
    padded = 0 if teacher.outputs is None else teacher.outputs - len(dataset.classes)
    return f"{padded} padded columns cut" if padded > 0 else ""


def without_padding(logits: Tensor, tokens: int, teacher: str, data: str) -> Tensor:
    """The logits (n, V) of the tokens alone; what lies beyond them may hold next to no probability."""
    if logits.shape[1] <= tokens or not len(logits):
        return logits
    within = to_numpy(torch.logsumexp(logits[:, :tokens].double(), 1))
    place = f"outputs of teacher {teacher} for {data}"
    refuse_padded_mass(logits[:, tokens:], within, np.arange(len(logits)), place, tokens)
    return logits[:, :tokens]


def _read(text: str, owner: str) -> Any:
    library = need("tokenizers", "lm", "a language model")
    try:
        tokenizer = library.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain exceptions
        raise InputError(f"the tokenizer of {owner} cannot be read: {reason_of(error)}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _compare(teacher: str, theirs: Any, ours: Any, data: str) -> None:
    """Raise at the first id whose token differs."""
    for number in range(1 + max(ours.get_vocab(with_added_tokens=True).values())):
        own, other = ours.id_to_token(number), theirs.id_to_token(number)
        if own != other:
            raise InputError(
                f"teacher {teacher} and the text {data!r} have other tokens: first at id {number}, {other!r} for the "
                f"teacher and {own!r} in the text. {ELSEWHERE}"
            )


def _compare_cuts(teacher: str, theirs: str, ours: str, samples: tuple[str, ...], data: str) -> None:
    """Raise at the first word of the text that both cut into other tokens."""
    pair = [_read(text, owner) for text, owner in ((theirs, teacher), (ours, data))]
    encoded = [tokenizer.encode_batch(list(samples), add_special_tokens=False) for tokenizer in pair]
    for sample, other, own in zip(samples, *encoded, strict=True):
        if other.ids == own.ids:
            continue
        shorter = min(len(other.ids), len(own.ids))
        differ = np.flatnonzero(np.array(other.ids[:shorter]) != np.array(own.ids[:shorter]))
        at = int(differ[0]) if len(differ) else shorter
        place = (own.offsets[at] if at < len(own.ids) else other.offsets[at])[0]
        word = next(iter(sample[place : place + 40].split()), sample[place:])
        ids = [str(one.ids[at]) if at < len(one.ids) else "no token" for one in (other, own)]
        raise InputError(
            f"teacher {teacher} and the text {data!r} encode differently: first at {word!r}, "
            f"{ids[0]} for the teacher and {ids[1]} in the text. {ELSEWHERE}"
        )
