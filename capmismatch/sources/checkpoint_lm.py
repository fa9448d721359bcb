"""``ckpt-lm:PATTERN``: checkpoints of one's own language models, each with a builder that makes its network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch._utils.files import hash_file, hash_of
from capmismatch.errors import InputError, must_count
from capmismatch.sources import checkpoint
from capmismatch.sources._networks import logits_of
from capmismatch.sources._tokenizers import as_ids
from capmismatch.sources.families import Teacher

KIND = "ckpt-lm"
FILE = "tokenizer.json"


def load(
    pattern: str,
    *,
    builder: str | Callable[..., nn.Module],
    tokenizer: str | None = None,
    context: int | None = None,
    key: str | None = None,
    prefix: str | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """Load the language models whose checkpoints match; each is built, loaded and given one token here.

    Parameters
    ----------
    pattern : str
        Of files, as ``ckpt:`` takes it.
    builder : str or callable
        Makes the network of a checkpoint, as ``ckpt:`` takes it: from token ids (n, T) to logits (n, T, V), or to an
        output with `logits`, or to a tuple that begins with them.
    tokenizer : str, optional
        A ``tokenizer.json``, or the folder of one, to be compared with the text's; by default the one beside a
        checkpoint. Without any the ids are taken to be the text's (finding CM033).
    context : int, optional
        How many tokens the models take at most.
    key, prefix : str, optional
        Which weights of a file are meant, as ``ckpt:`` takes them.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.

    Raises
    ------
    InputError
        No checkpoint matches or fits its network, or a network gives no logits of each position.
    """
    if context is not None:
        must_count(context, "context")
    shared = None if tokenizer is None else _shared_tokenizer(tokenizer, base)
    files = checkpoint.matching(pattern, base)
    plain, _ = checkpoint.load(pattern, builder=builder, key=key, prefix=prefix, base=base)
    teachers = []
    for teacher, file in zip(plain, files, strict=True):
        beside = file.parent / FILE
        own = shared if shared is not None or not beside.is_file() else beside
        assert teacher.module is not None
        module = partial(_network, teacher.module)
        teachers.append(
            replace(
                teacher,
                source=teacher.source.replace("ckpt:", f"{KIND}:", 1),
                preprocessing="token ids",
                module=module,
                prepare=as_ids,
                outputs=_outputs(module(), teacher.key),
                context=context,
                tokenizer=partial(_text_of, own),
                built_by=hash_of([teacher.built_by, None if own is None else hash_file(own)]),
            )
        )
    return teachers, None


def _shared_tokenizer(tokenizer: str, base: str | Path) -> Path:
    given = Path(base, Path(tokenizer).expanduser())
    file = given / FILE if given.is_dir() else given
    if not file.is_file():
        raise InputError(f"expected a {FILE} or its folder as option 'tokenizer' of {KIND}, got {tokenizer!r}")
    return file


def _text_of(file: Path | None) -> str | None:
    return None if file is None else file.read_text(encoding="utf-8")


class _Logits(nn.Module):
    """A language model of the user's own, which may give its logits with other things."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Any:
        given = self.inner(ids)
        if isinstance(given, Sequence) and given:
            return given[0]
        return getattr(given, "logits", given)


def _network(make: Callable[[], nn.Module]) -> nn.Module:
    return _Logits(make()).eval()


def _outputs(network: nn.Module, key: str) -> int:
    """How many tokens a model gives logits of, by one pass over a single token."""
    with torch.inference_mode():
        logits = logits_of(network, torch.zeros((1, 1), dtype=torch.int64), key, "a single token")
    if logits.ndim != 3 or logits.shape[:2] != (1, 1):
        raise InputError(
            f"expected logits (1, 1, V) of a single token from the language model {key}, got shape "
            f"{tuple(logits.shape)}: its builder is to make a network from ids (n, T) to logits (n, T, V)"
        )
    return int(logits.shape[2])
