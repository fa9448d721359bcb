"""``letters:mlp``: a family of multi-layer perceptrons trained here on UCI Letter Recognition, in seconds each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from capmismatch import architectures
from capmismatch._utils.files import hash_of, locked, replacing
from capmismatch._utils.machine import threads
from capmismatch.architectures import count_parameters
from capmismatch.data.datasets import Dataset, load_dataset
from capmismatch.errors import BankError, InputError, must_count
from capmismatch.sources._weights import hash_network
from capmismatch.sources.families import Teacher
from capmismatch.training.loop import Recipe, fit
from capmismatch.training.prepare import Normalise

WIDTHS = (12, 24, 48, 96, 192, 384, 768, 1024)
SPLIT = {"train": 2000, "val": 6000, "test": 12000}
MOST_UNITS, MOST_SEEDS = 10_000, 1_000  # more would ask for memory and time out of proportion to 16 features
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
    if seeds < 1 or not len(widths):
        raise InputError(f"expected at least one width and one seed, got widths={list(widths)}, seeds={seeds}")
    must_count(seeds, "seeds", most=MOST_SEEDS)
    for width in widths:
        must_count(width, "a width of letters:mlp", most=MOST_UNITS)
    widths = [int(width) for width in widths]  # of an array, too
    rows = train if train is not None else load_dataset("letters", split=SPLIT).part("train")
    if rows.inputs.shape[1:] != (16,) or len(rows.classes) != 26:
        raise InputError(
            f"teachers of letters:mlp take the 16 features of 'letters' and tell 26 classes, got inputs of shape "
            f"{rows.inputs.shape[1:]} and {len(rows.classes)} classes from data set {rows.name!r}"
        )
    weights_folder = Path(base, Path(folder).expanduser()) if folder is not None else cache_folder() / "letters"
    teachers = []
    for width in widths:
        params = count_parameters(build(width))
        for seed in range(seeds):
            recipe = {"width": width, "seed": seed, "data": rows.rows.fingerprint, "recipe": repr(RECIPE)}
            file_name = f"mlp{width}-s{seed}-{hash_of(recipe)}.safetensors"
            teachers.append(
                Teacher(
                    family="mlp",
                    name=f"mlp{width}",
                    seed=seed,
                    params=params,
                    source="letters:mlp",
                    weights_hash=hash_of(recipe),
                    preprocessing="(x - 7) / 3",
                    module=_maker(width, seed, rows, weights_folder / file_name),
                    prepare=PREPARE,
                )
            )
    return teachers, None


def _maker(width: int, seed: int, rows: Dataset, file: Path) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        # The caller's random state is as if nothing had been drawn here.
        with locked(file.with_suffix(".lock")), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(hashlib.sha256(f"teacher {width} {seed}".encode()).hexdigest()[:8], 16))
            network = build(width)
            if not file.exists():
                views = torch.from_numpy(rows.inputs)[None]
                # A second thread would only slow down so small a network; under torchrun each process trains alone.
                with threads(1):
                    fit(network, views, torch.from_numpy(rows.labels), RECIPE, seed=seed, prepare=PREPARE, alone=True)
                with replacing(file) as temporary:
                    about = {"teacher": file.stem, "sha256": hash_network(network)}
                    temporary.write_bytes(save(network.state_dict(), about))
            try:
                network.load_state_dict(load_file(file))
                _check_weights(file, network)
            except (SafetensorError, RuntimeError) as error:
                raise BankError(f"{file} is damaged, remove it to train that teacher anew: {error}") from None
        return network.eval()

    return make


def _check_weights(file: Path, network: nn.Module) -> None:
    """Raise where a file holds other weights than those that were trained for it; files of before do not say."""
    with safe_open(file, "pt") as opened:
        about = opened.metadata() or {}
    if about and (about.get("teacher"), about.get("sha256")) != (file.stem, hash_network(network)):
        raise BankError(f"{file} holds other weights than were trained for it: remove it to train that teacher anew")


def cache_folder() -> Path:
    """Where capmismatch stores weights that it trained outside a study."""
    given = os.environ.get("CAPMISMATCH_CACHE", "").strip()  # empty is as good as not set, and not this folder
    return Path(given).expanduser() if given else Path.home() / ".cache" / "capmismatch"
