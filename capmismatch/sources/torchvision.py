"""``torchvision:NAMES``: torchvision's classifiers, each with the transforms that belong to its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models

from capmismatch.architectures import count_parameters
from capmismatch.data.dataset_readers import IMAGENET
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.sources._networks import Listed, PerImage, listed, matching, on_meta, smallest_first
from capmismatch.sources._state_dicts import WeightsChoice
from capmismatch.sources._weights import Weights, find_file, is_random, random_weights, weights_from_file
from capmismatch.sources.families import Teacher


def load(
    pattern: str,
    *,
    weights: str | Path | None = "DEFAULT",
    preset: str = "DEFAULT",
    seed: int = 0,
    key: str | None = None,
    prefix: str | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """Load the classifiers whose names match, such as ``resnet{18,34,50}`` or ``resnet*``.

    Parameters
    ----------
    pattern : str
        Names, with brace lists and wildcards.
    weights : str, Path or None
        Which of torchvision's weights, "DEFAULT" or a name such as "IMAGENET1K_V1", downloaded when the network is
        first run; or a folder or file pattern with one's own (``{name}`` stands for the network's name); or None (in a
        study file "random") for random ones.
    preset : str
        Of one's own or random weights: the torchvision weights whose transforms and class names they go with. A file
        that still has the name under which torchvision publishes it goes with exactly those.
    seed : int
        Of random weights.
    key : str, optional
        Of one's own weights: under which key of the file they lie, such as "state_dict_ema", where it holds several.
    prefix : str, optional
        Of one's own weights: with what their names begin, such as "student.", where the file holds several.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.
    """
    own = _Own(preset, seed, WeightsChoice(key, prefix), base)
    return [_teacher(name, weights, own) for name in _names(pattern)], None


def describe(pattern: str) -> list[Listed]:
    """Names and sizes, smallest first; nothing is downloaded."""
    rows = []
    for name in _names(pattern):
        entry = _published(name, "DEFAULT")
        side = entry.transforms().crop_size[0]
        rows.append(listed(name, on_meta(partial(_build, name)), (3, side, side), len(entry.meta["categories"])))
    return smallest_first(rows)


def _names(pattern: str) -> list[str]:
    return matching(pattern, models.list_models(module=models), "torchvision")


def _published(name: str, which: str) -> Any:
    """The entry of one of torchvision's published weights: their address, transforms, class names and accuracy."""
    entries = models.get_model_weights(name)
    must_be_one_of(which, entries.__members__, f"weights of torchvision:{name}")
    return entries[which]


def _build(name: str, classes: int | None = None) -> nn.Module:
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):  # as their published weights want it; drawing theirs again takes minutes
        options |= {"transform_input": True, "init_weights": False}
    return models.get_model(name, weights=None, **options)


@dataclass(frozen=True)
class _Own:
    """What goes with one's own or random weights."""

    preset: str
    seed: int
    choice: WeightsChoice
    base: str | Path


def _teacher(name: str, choice: str | Path | None, own: _Own) -> Teacher:
    weights, entry, is_published = _weights(name, choice, own)
    names = entry.meta["categories"]
    prepare = PerImage(entry.transforms())
    return Teacher(
        family="torchvision",
        name=name,
        seed=weights.seed,
        params=count_parameters(weights.network),
        source=f"torchvision:{name} {weights.source}",
        weights_hash=weights.weights_hash,
        preprocessing=repr(prepare),
        module=weights.module,
        prepare=prepare,
        classes=tuple(names) if weights.classes in (None, len(names)) else None,
        published=entry.meta["_metrics"][IMAGENET]["acc@1"] / 100 if is_published else None,
        published_on=IMAGENET,
    )


def _weights(name: str, choice: str | Path | None, own: _Own) -> tuple[Weights, Any, bool]:
    """The weights of a network, the published entry that they go with, and whether they are these themselves."""
    build = partial(_build, name)
    if is_random(choice):
        return random_weights(build, own.seed), _published(name, own.preset), False
    entries = models.get_model_weights(name).__members__
    if str(choice) in entries:
        entry = _published(name, str(choice))
        file_name = entry.url.rsplit("/", 1)[-1]  # it holds a hash, with which torchvision checks each download
        return Weights(partial(_download, name, entry), on_meta(build), entry.name, file_name), entry, True
    if not _looks_like_path(str(choice)):
        must_be_one_of(str(choice), entries, f"weights of torchvision:{name}, if no path,")
    file = find_file(str(choice), name, own.base)
    official = next((entry for entry in entries.values() if entry.url.endswith(f"/{file.name}")), None)
    entry = official or _published(name, own.preset)
    return weights_from_file(build, file, f"torchvision's {name}", own.choice), entry, official is not None


def _looks_like_path(text: str) -> bool:
    return any(sign in text for sign in "/\\.*{") or Path(text).exists()


def _download(name: str, entry: Any) -> nn.Module:
    try:
        return models.get_model(name, weights=entry, progress=False).eval()
    except OSError as error:
        raise InputError(
            f"cannot download {entry} from {entry.url}: {error}. Fetch that file elsewhere and give its folder as "
            "weights=, or weights=None for random ones."
        ) from None
