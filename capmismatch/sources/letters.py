"""``letters:mlp``: a family of multi-layer perceptrons trained here on UCI Letter Recognition, in seconds each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from capmismatch import architectures
from capmismatch._utils.files import hash_of
from capmismatch.architectures import count_parameters
from capmismatch.data.datasets import Dataset, load_dataset
from capmismatch.errors import InputError, must_be_within, must_count
from capmismatch.sources._trained import cache_folder, must_be_widths, trained
from capmismatch.sources.families import Teacher
from capmismatch.training.loop import Recipe, fit
from capmismatch.training.prepare import Normalise

WIDTHS = (12, 24, 48, 96, 192, 384, 768, 1024)
SPLIT = {"train": 2000, "val": 6000, "test": 12000}
PARTNERS = 8  # of each example under mixup
MOST_EPOCHS = 10_000
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
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    weight_decay: float | None = None,
    epochs: int | None = None,
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
    label_smoothing : float
        Share of the label that all classes get in equal parts, in [0, 1): teachers that need a low temperature.
    mixup : float
        The alpha of Beta(alpha, alpha), from which the share of a second example and of its label is drawn; 0 for none.
        Each example has eight such partners.
    weight_decay : float, optional
        Of AdamW; by default 0.01.
    epochs : int, optional
        Fewer than 40 for teachers that are stopped early; 0 for untrained ones, a control.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them. The family is called "mlp", and after what is trained otherwise, such
        as "mlp-smoothed0.1": initial weights and order of rows are the same, so that teachers of one width and seed
        differ in that alone.

    References
    ----------
    Label smoothing: Szegedy et al., arXiv 1512.00567; mixup: Zhang et al., arXiv 1710.09412; early-stopped teachers:
    Cho and Hariharan, arXiv 1910.01348; untrained ones as a control: Mason-Williams et al., arXiv 2510.12615.
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
    way = Way(label_smoothing, mixup, RECIPE.weight_decay if weight_decay is None else weight_decay, epochs)
    weights_folder = Path(base, Path(folder).expanduser()) if folder is not None else cache_folder() / "letters"
    teachers = []
    for width in widths:
        params = count_parameters(build(width))
        for seed in range(seeds):
            recipe = {"width": width, "seed": seed, "data": rows.rows.fingerprint, "recipe": repr(way.recipe)}
            recipe |= way.beside_the_recipe
            file = weights_folder / f"mlp{width}-s{seed}-{hash_of(recipe)}.safetensors"
            teachers.append(
                Teacher(
                    family=way.family,
                    name=f"mlp{width}",
                    seed=seed,
                    params=params,
                    source="letters:mlp",
                    weights_hash=hash_of(recipe),
                    preprocessing="(x - 7) / 3",
                    module=trained(file, f"teacher {width} {seed}", partial(build, width), _trainer(seed, rows, way)),
                    prepare=PREPARE,
                )
            )
    return teachers, None


@dataclass(frozen=True)
class Way:
    """How the teachers of a family are trained; see `load`."""

    label_smoothing: float
    mixup: float
    weight_decay: float
    epochs: int | None

    def __post_init__(self) -> None:
        must_be_within(self.label_smoothing, "label_smoothing", 0.0, 0.99)
        must_be_within(self.mixup, "mixup", 0.0, 100.0)
        if self.epochs is not None:
            must_count(self.epochs, "epochs", least=0, most=MOST_EPOCHS)

    @property
    def recipe(self) -> Recipe:
        """Of the training; where there is none, of that which is left out."""
        return replace(RECIPE, weight_decay=self.weight_decay, epochs=self.epochs or RECIPE.epochs)

    @property
    def is_trained(self) -> bool:
        """Whether there is a training at all."""
        return self.epochs != 0

    @property
    def beside_the_recipe(self) -> dict[str, float]:
        """What decides the weights beside the recipe; nothing of plain teachers, whose hashes stay."""
        more = {"label_smoothing": self.label_smoothing, "mixup": self.mixup}
        return {name: value for name, value in more.items() if value} | ({} if self.is_trained else {"epochs": 0})

    @property
    def family(self) -> str:
        """The family's name."""
        if not self.is_trained:
            return "mlp-untrained"
        usual = RECIPE.weight_decay, RECIPE.epochs
        named = [
            (self.label_smoothing, 0.0, "smoothed"),
            (self.mixup, 0.0, "mixup"),
            (self.weight_decay, usual[0], "decay"),
            (self.recipe.epochs, usual[1], "epochs"),
        ]
        return "-".join(["mlp", *(f"{word}{value:g}" for value, plain, word in named if value != plain)])

    def data(self, rows: Dataset, seed: int) -> tuple[Tensor, Tensor | None]:
        """Views (V, N, 16) of the inputs, and what each is to be taken for, (V, N, C); None for the labels."""
        inputs, labels = torch.from_numpy(rows.inputs), torch.from_numpy(rows.labels)
        if not (self.label_smoothing or self.mixup):
            return inputs[None], None
        classes = len(rows.classes)
        one_hot = nn.functional.one_hot(labels, classes).float()
        target = (1 - self.label_smoothing) * one_hot + self.label_smoothing / classes
        if not self.mixup:
            return inputs[None], target[None]
        draws = np.random.default_rng(seed)
        partner = torch.from_numpy(np.stack([draws.permutation(len(labels)) for _ in range(PARTNERS)]))
        drawn = draws.beta(self.mixup, self.mixup, (PARTNERS, len(labels), 1)).astype(np.float32)
        own = torch.from_numpy(drawn)
        mixed, soft = (own * x + (1 - own) * x[partner] for x in (inputs.float(), target))
        return mixed, soft


class _SoftTargets(nn.Module):
    """Cross-entropy with the second of two labels: the probabilities."""

    def forward(self, logits: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, soft)


def _trainer(seed: int, rows: Dataset, way: Way) -> Callable[[nn.Module], object]:
    def train(network: nn.Module) -> None:
        if not way.is_trained:
            return
        views, soft = way.data(rows, seed)
        labels, criterion = torch.from_numpy(rows.labels), None if soft is None else _SoftTargets()
        fit(
            network,
            views,
            labels,
            way.recipe,
            seed=seed,
            prepare=PREPARE,
            criterion=criterion,
            soft=soft,
            alone=True,
        )

    return train
