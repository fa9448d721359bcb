"""``timm:NAMES``: timm's classifiers, each with the preprocessing of its own data config."""

from __future__ import annotations

import glob
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from capmismatch._utils.files import hash_of
from capmismatch._utils.optional import need
from capmismatch._utils.progress import progress_bar
from capmismatch.architectures import count_parameters
from capmismatch.errors import InputError
from capmismatch.sources._networks import (
    Listed,
    PerImage,
    check_channels,
    listed,
    matching,
    on_meta,
    reason_of,
    smallest_first,
)
from capmismatch.sources._state_dicts import WeightsChoice
from capmismatch.sources._weights import (
    Weights,
    find_file,
    hash_network,
    is_random,
    random_weights,
    weights_from_file,
)
from capmismatch.sources.families import Teacher

FEW = 5  # networks that are listed at once; more get a bar
LOCAL = "local-dir:"


def load(
    pattern: str,
    *,
    weights: str | Path | None = "DEFAULT",
    seed: int = 0,
    key: str | None = None,
    prefix: str | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """Load the classifiers whose names match: ``resnet*.a1_in1k``, ``resnet{18,34}``, ``local-dir:FOLDERS``, ...

    Parameters
    ----------
    pattern : str
        Names, with brace lists and wildcards.
    weights : str, Path or None
        "DEFAULT" for those that timm publishes under that name, downloaded where they are missing; a folder or file
        pattern with one's own (``{name}`` stands for the network's name); or None (in a study file "random") for
        random ones. Folders that timm's `save_for_hf` made hold theirs.
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
    need("timm", "timm", f"timm:{pattern}")
    if pattern.startswith(LOCAL):
        return [_from_folder(folder) for folder in _folders(pattern.removeprefix(LOCAL), base)], None
    choice = WeightsChoice(key, prefix)
    return [_teacher(name, _weights(name, weights, seed, choice, base)) for name in _names(pattern)], None


def describe(pattern: str) -> list[Listed]:
    """Names and sizes, smallest first; nothing is downloaded."""
    need("timm", "timm", f"timm:{pattern}")
    if pattern.startswith(LOCAL):
        names = [f"{LOCAL}{folder}" for folder in _folders(pattern.removeprefix(LOCAL), ".")]
    else:
        names = _names(pattern)
    rows = []
    with progress_bar(names, desc="list", unit="network", show=len(names) > FEW) as bar:
        for name in bar:
            network: Any = on_meta(partial(_create, name))
            rows.append(listed(name, network, _config(network)["input_size"], network.num_classes))
    return smallest_first(rows)


def _names(pattern: str) -> list[str]:
    """With a dot, names of published weights; without, of architectures, each standing for its default weights."""
    import timm

    return matching(pattern, timm.list_models(pretrained=True) if "." in pattern else timm.list_models(), "timm")


def _folders(pattern: str, base: str | Path) -> list[Path]:
    full_pattern = str(Path(glob.escape(str(base)), Path(pattern).expanduser()))
    folders = [Path(path) for path in sorted(glob.glob(full_pattern)) if Path(path, "config.json").is_file()]
    if not folders:
        raise InputError(f"no folder with a config.json, as timm's save_for_hf makes them, matches {full_pattern!r}")
    return folders


def _create(name: str, pretrained: bool = False, classes: int | None = None) -> Any:
    import timm

    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        return timm.create_model(name, pretrained=pretrained, **options).eval()
    except Exception as error:  # of the network, the hub, the file, or a damaged config
        raise InputError(
            f"timm cannot load {name!r}: {reason_of(error)}. Give a folder of weights as weights=, or weights=None for "
            "random ones."
        ) from None


def _config(network: nn.Module) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(network)


def _class_names(network: Any) -> tuple[str, ...] | None:
    """From the config that came with the weights, or ImageNet's by their number, perhaps after a background class."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    names, classes = network.pretrained_cfg.get("label_names"), network.num_classes
    if names is not None and len(names) == classes:
        return tuple(names)
    background = classes == 1001
    subset = infer_imagenet_subset({"num_classes": classes - background})
    if subset is None:
        return None
    imagenet_names = tuple(ImageNetInfo(subset).label_names())
    return ("background",) * background + imagenet_names if len(imagenet_names) == classes - background else None


def _weights(name: str, weights: str | Path | None, seed: int, choice: WeightsChoice, base: str | Path) -> Weights:
    if is_random(weights):
        return random_weights(partial(_create, name), seed)
    if weights == "DEFAULT":
        return _published(name)
    return weights_from_file(partial(_create, name), find_file(str(weights), name, base), f"timm's {name}", choice)


def _published(name: str) -> Weights:
    module = partial(_create, name, True)
    network = module()
    return Weights(module, network, "", hash_network(network))


def _from_folder(folder: Path) -> Teacher:
    teacher = _teacher(folder.name, _published(f"{LOCAL}{folder}"), f"{LOCAL}{folder.name}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return replace(teacher, built_by=hash_of([config.get("architecture"), config.get("model_args")]))


def _teacher(name: str, weights: Weights, address: str | None = None) -> Teacher:
    from timm.data import create_transform

    network: Any = weights.network
    if network.num_classes == 0:
        raise InputError(f"timm's {address or name} has no classification head: its outputs are features, not logits")
    names, config = _class_names(network), _config(network)
    channels = check_channels(config["input_size"][0], f"timm's {name}")
    prepare = PerImage(create_transform(**config, is_training=False), channels)
    return Teacher(
        family="timm",
        name=name,
        seed=weights.seed,
        params=count_parameters(network),
        source=f"timm:{address or name} {weights.source}".rstrip(),
        weights_hash=weights.weights_hash,
        preprocessing=repr(prepare),
        module=weights.module,
        prepare=prepare,
        classes=names,
        natural_order=names is None and weights.seed is None,
    )
