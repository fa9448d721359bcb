"""``lm:gru``: a family of small recurrent language models, trained here on the text of the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from capmismatch import architectures
from capmismatch._utils.files import hash_of
from capmismatch.architectures import count_macs, count_parameters
from capmismatch.data.text_reader import NextTokens, TextOptions, read_text, unseen_windows
from capmismatch.errors import InputError, must_count
from capmismatch.sources._tokenizers import as_ids
from capmismatch.sources._trained import cache_folder, must_be_widths, trained
from capmismatch.sources.families import Teacher
from capmismatch.training.loop import Recipe, fit

WIDTHS = (16, 32, 64, 128, 256)
BATCH = 32
LEARNING_RATE = 0.2  # at a width of 1; falls with the root of the width, as the best rates do: 0.05 for 16 units


def recipe(width: int, epochs: int) -> Recipe:
    """How these teachers are trained: AdamW, one cycle of the learning rate, gradients clipped at norm 1."""
    return Recipe(epochs=epochs, batch_size=BATCH, lr=LEARNING_RATE / math.sqrt(width), clip=1.0)


def load(
    which: str,
    *,
    widths: Sequence[int] = WIDTHS,
    seeds: int = 1,
    epochs: int = 1,
    windows: int | None = None,
    train: NextTokens | None = None,
    folder: str | Path | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """Load one teacher per width and seed; each is trained when first needed, and its weights are stored in `folder`.

    Parameters
    ----------
    which : str
        "gru", the one architecture.
    widths : sequence of int
        Of all layers.
    seeds : int
        Training runs per width.
    epochs : int
        How often each window is seen.
    windows : int, optional
        Train on so many windows, the first of the text that are not held out; all by default.
    train : NextTokens, optional
        Windows to train on; by default the whole King James Bible. In a study all but the validation and test rows.
    folder : str or Path, optional
        Where weights are stored, by default ``$CAPMISMATCH_CACHE`` or ``~/.cache/capmismatch``.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.
    """
    if which != "gru":
        raise InputError(f"the source of language models has one architecture, 'lm:gru', not {'lm:' + which!r}")
    widths = must_be_widths(widths, seeds, "lm:gru")
    must_count(epochs, "epochs", most=10_000)
    text = train if train is not None else unseen_windows(read_text(None, TextOptions()), torch.zeros(0).numpy())
    if windows is not None:
        must_count(windows, "windows of lm:gru", most=len(text.windows))
    used = slice(0, windows)
    data = NextTokens(text.windows[used], text.labels[used], text.vocabulary, text.name)
    weights_folder = Path(base, Path(folder).expanduser()) if folder is not None else cache_folder() / "lm"
    teachers = []
    for width in widths:
        network = build(width, data.vocabulary)
        params, macs = count_parameters(network), count_macs(network, (data.windows.shape[1],)) // data.windows.shape[1]
        for seed in range(seeds):
            name = f"gru{width}"
            made_from = hash_of(
                {"width": width, "seed": seed, "data": data.digest(), "recipe": repr(recipe(width, epochs))}
            )
            file = weights_folder / f"{name}-s{seed}-{made_from}.safetensors"
            teachers.append(
                Teacher(
                    family="gru",
                    name=name,
                    seed=seed,
                    params=params,
                    macs=macs,
                    source="lm:gru",
                    weights_hash=made_from,
                    preprocessing="token ids",
                    module=trained(
                        file,
                        _seed_text(width, seed),
                        _builder(width, data),
                        _trainer(data, recipe(width, epochs), seed),
                    ),
                    prepare=as_ids,
                )
            )
    return teachers, None


def build(width: int, vocabulary: int) -> nn.Module:
    """One layer of `width` units."""
    return architectures.build(f"gru{width}", vocabulary)


def _seed_text(width: int, seed: int) -> str:
    return f"language model {width} {seed}"


def _builder(width: int, data: NextTokens) -> Callable[[], nn.Module]:
    return lambda: build(width, data.vocabulary)


def _trainer(data: NextTokens, how: Recipe, seed: int) -> Callable[[nn.Module], object]:
    views, labels = torch.from_numpy(data.windows)[None], torch.from_numpy(data.labels)
    return lambda network: fit(network, views, labels, how, seed=seed, prepare=as_ids, alone=True)
