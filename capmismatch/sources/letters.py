"""``letters:mlp``: a family of multi-layer perceptrons trained here on UCI Letter Recognition, in seconds each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from capmismatch import architectures
from capmismatch._utils.files import hash_of
from capmismatch.architectures import count_parameters
from capmismatch.data.datasets import Dataset, load_dataset
from capmismatch.errors import InputError
from capmismatch.sources._trained import cache_folder, must_be_widths, trained
from capmismatch.sources.families import Teacher
from capmismatch.training.loop import Recipe, fit
from capmismatch.training.prepare import Normalise

WIDTHS = (12, 24, 48, 96, 192, 384, 768, 1024)
SPLIT = {"train": 2000, "val": 6000, "test": 12000}
RECIPE = Recipe(epochs=40, batch_size=250)
PREPARE = Normalise([7.0], [3.0])  # of the 16 features, 0 to 15


def build(width: int) -> nn.Module:
    """Two hidden layers of `width` units, 16 features in, 26 letters out."""
    return architectures.build(f"mlp{width}x{width}", 26, in_features=16)


def load(
    which: str,
    *,
    widths: Sequence[int] = WIDTHS,
    seeds: int = 2,
    train: Dataset | None = None,
    folder: str | Path | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """Load one teacher per width and seed; each is trained when first needed, and its weights are stored in `folder`.

    Parameters
    ----------
    which : str
        "mlp", the one architecture.
    widths : sequence of int
        Of both hidden layers.
    seeds : int
        Training runs per width.
    train : Dataset, optional
        Rows to train on; by default the 2,000 of the embedded study.
    folder : str or Path, optional
        Where weights are stored, by default ``$CAPMISMATCH_CACHE`` or ``~/.cache/capmismatch``.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.
    """
    if which != "mlp":
        raise InputError(f"the letters source has one architecture, 'letters:mlp', not {'letters:' + which!r}")
    widths = must_be_widths(widths, seeds, "letters:mlp")
    rows = train if train is not None else load_dataset("letters", split=SPLIT).part("train")
    if rows.inputs.shape[1:] != (16,) or len(rows.classes) != 26:
        raise InputError(
            f"teachers of letters:mlp take the 16 features of 'letters' and predict 26 classes, got inputs of shape "
            f"{rows.inputs.shape[1:]} and {len(rows.classes)} classes from data set {rows.name!r}"
        )
    weights_folder = Path(base, Path(folder).expanduser()) if folder is not None else cache_folder() / "letters"
    teachers = []
    for width in widths:
        params = count_parameters(build(width))
        for seed in range(seeds):
            recipe = {"width": width, "seed": seed, "data": rows.rows.fingerprint, "recipe": repr(RECIPE)}
            file = weights_folder / f"mlp{width}-s{seed}-{hash_of(recipe)}.safetensors"
            teachers.append(
                Teacher(
                    family="mlp",
                    name=f"mlp{width}",
                    seed=seed,
                    params=params,
                    source="letters:mlp",
                    weights_hash=hash_of(recipe),
                    preprocessing="(x - 7) / 3",
                    module=trained(file, f"teacher {width} {seed}", partial(build, width), _trainer(seed, rows)),
                    prepare=PREPARE,
                )
            )
    return teachers, None


def _trainer(seed: int, rows: Dataset) -> Callable[[nn.Module], object]:
    def train(network: nn.Module) -> None:
        views, labels = torch.from_numpy(rows.inputs)[None], torch.from_numpy(rows.labels)
        fit(network, views, labels, RECIPE, seed=seed, prepare=PREPARE, alone=True)

    return train
