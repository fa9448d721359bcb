"""``torchvision:NAMES``: torchvision's classifiers, each with the transforms that belong to its weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models

from capmismatch.data.dataset_readers import IMAGENET
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.sources._networks import (
    Listed,
    PerImage,
    as_rows,
    count_classes,
    count_params,
    find_file,
    hash_network,
    is_random,
    listed,
    matching,
    on_meta,
    seeded,
)
from capmismatch.sources.checkpoint import fit_weights, hash_file, read_state_dict
from capmismatch.sources.families import Teacher


def load(
    pattern: str,
    *,
    weights: str | Path | None = "DEFAULT",
    preset: str = "DEFAULT",
    seed: int = 0,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """The classifiers whose names match, such as ``resnet{18,34,50}`` or ``resnet*``.

    Parameters
    ----------
    weights : which of torchvision's weights, "DEFAULT" or a name such as "IMAGENET1K_V1", downloaded when the network
        is first run; or a folder or file pattern with one's own (``{name}`` stands for the network's name); or None
        (in a study file "random") for random ones
    preset : of one's own or random weights: the torchvision weights whose transforms and class names they go with. A
        file that still has the name under which torchvision publishes it goes with just those.
    seed : of random weights
    """
    return [_teacher(name, weights, preset, seed, base) for name in _names(pattern)], None


def describe(pattern: str) -> list[Listed]:
    """Names and sizes, smallest first; nothing is downloaded."""
    rows = []
    for name in _names(pattern):
        meta = _weights(name, "DEFAULT")
        side = meta.transforms().crop_size[0]
        rows.append(listed(name, on_meta(partial(_build, name)), (3, side, side), len(meta.meta["categories"])))
    return as_rows(rows)


def _names(pattern: str) -> list[str]:
    return matching(pattern, models.list_models(module=models), "torchvision")


def _weights(name: str, which: str) -> Any:
    kinds = models.get_model_weights(name)
    must_be_one_of(which, kinds.__members__, f"weights of torchvision:{name}")
    return kinds[which]


def _build(name: str, classes: int | None = None) -> nn.Module:
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):  # as their published weights want it; drawing theirs anew takes minutes
        options |= {"transform_input": True, "init_weights": False}
    return models.get_model(name, weights=None, **options)


def _teacher(name: str, weights: str | Path | None, preset: str, seed: int, base: str | Path) -> Teacher:
    members = models.get_model_weights(name).__members__
    run = None
    if is_random(weights):
        entry, run = _weights(name, preset), seed
        module = partial(seeded, partial(_build, name), seed)
        network = module()
        source, weights_hash, params, published = "random", hash_network(network), count_params(network), False
        classes = len(entry.meta["categories"])
    elif str(weights) in members:
        entry = _weights(name, str(weights))
        module = partial(_download, name, entry)
        # torchvision checks each download against the hash in its name
        source, weights_hash, published = entry.name, entry.url.rsplit("/", 1)[-1], True
        params, classes = count_params(on_meta(partial(_build, name))), len(entry.meta["categories"])
    else:
        if not _looks_like_path(str(weights)):
            must_be_one_of(str(weights), members, f"weights of torchvision:{name}, if no path,")
        file = find_file(str(weights), name, base)
        official = next((one for one in members.values() if one.url.endswith(f"/{file.name}")), None)
        entry, published = official or _weights(name, preset), official is not None
        skeleton = on_meta(partial(_build, name))
        weights_hash = hash_file(file)
        classes = count_classes(skeleton, read_state_dict(file), file)
        module = partial(_from_file, name, classes, file, weights_hash)
        source, params = file.name, count_params(module())  # loaded once here, so that errors come early
    names = entry.meta["categories"]
    prepare = PerImage(entry.transforms())
    return Teacher(
        family="torchvision",
        name=name,
        seed=run,
        params=params,
        source=f"torchvision:{name} {source}",
        weights_hash=weights_hash,
        preprocessing=repr(prepare),
        module=module,
        prepare=prepare,
        classes=tuple(names) if len(names) == classes else None,
        published=entry.meta["_metrics"][IMAGENET]["acc@1"] / 100 if published else None,
        published_on=IMAGENET,
    )


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


def _from_file(name: str, classes: int, file: Path, weights_hash: str) -> nn.Module:
    return fit_weights(lambda _: _build(name, classes), file, weights_hash, f"torchvision's {name}")
