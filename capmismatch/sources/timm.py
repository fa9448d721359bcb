"""``timm:NAMES``: timm's classifiers, each with the preprocessing of its own data config."""

from __future__ import annotations

import glob
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from capmismatch._utils.optional import need
from capmismatch.errors import InputError
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

LOCAL = "local-dir:"


def load(
    pattern: str, *, weights: str | Path | None = "DEFAULT", seed: int = 0, base: str | Path = "."
) -> tuple[list[Teacher], None]:
    """The classifiers whose names match, such as ``resnet*.a1_in1k``, ``resnet{18,34}`` or ``local-dir:FOLDERS``.

    Parameters
    ----------
    weights : "DEFAULT" for those that timm publishes under that name, downloaded where they are missing; a folder or
        file pattern with one's own (``{name}`` stands for the network's name); or None (in a study file "random") for
        random ones. Folders that timm's `save_for_hf` made hold theirs.
    seed : of random weights
    """
    need("timm", "timm", f"timm:{pattern}")
    if pattern.startswith(LOCAL):
        return [_from_folder(folder) for folder in _folders(pattern.removeprefix(LOCAL), base)], None
    return [_teacher(name, weights, seed, base) for name in _names(pattern)], None


def describe(pattern: str) -> list[Listed]:
    """Names and sizes, smallest first; nothing is downloaded."""
    need("timm", "timm", f"timm:{pattern}")
    if pattern.startswith(LOCAL):
        names = [f"{LOCAL}{folder}" for folder in _folders(pattern.removeprefix(LOCAL), ".")]
    else:
        names = _names(pattern)
    rows = []
    for name in names:
        network: Any = on_meta(partial(_create, name))
        rows.append(listed(name, network, _config(network)["input_size"], network.num_classes))
    return as_rows(rows)


def _names(pattern: str) -> list[str]:
    """With a dot, names of published weights; without, of architectures, each standing for its default weights."""
    import timm

    return matching(pattern, timm.list_models(pretrained=True) if "." in pattern else timm.list_models(), "timm")


def _folders(pattern: str, base: str | Path) -> list[Path]:
    places = str(Path(glob.escape(str(base)), Path(pattern).expanduser()))
    found = [Path(place) for place in sorted(glob.glob(places)) if Path(place, "config.json").is_file()]
    if not found:
        raise InputError(f"no folder with a config.json, as timm's save_for_hf makes them, matches {places!r}")
    return found


def _create(name: str, pretrained: bool = False, classes: int | None = None) -> Any:
    import timm

    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        return timm.create_model(name, pretrained=pretrained, **options).eval()
    except Exception as error:  # of the network, the hub, the file, or a damaged config
        raise InputError(
            f"timm cannot load {name!r}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. "
            "Give a folder of weights as weights=, or weights=None for random ones."
        ) from None


def _config(network: nn.Module) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    return resolve_model_data_config(network)


def _class_names(network: Any) -> tuple[str, ...] | None:
    """From the config that came with the weights, or ImageNet's by their number, perhaps after a background class."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    given, classes = network.pretrained_cfg.get("label_names"), network.num_classes
    if given is not None and len(given) == classes:
        return tuple(given)
    background = classes == 1001
    subset = infer_imagenet_subset({"num_classes": classes - background})
    if subset is None:
        return None
    names = tuple(ImageNetInfo(subset).label_names())
    return ("background",) * background + names if len(names) == classes - background else None


def _described(network: Any, **fields: Any) -> Teacher:
    from timm.data import create_transform

    prepare = PerImage(create_transform(**_config(network), is_training=False))
    return Teacher(
        family="timm",
        params=count_params(network),
        preprocessing=repr(prepare),
        prepare=prepare,
        classes=_class_names(network),
        **fields,
    )


def _teacher(name: str, weights: str | Path | None, seed: int, base: str | Path) -> Teacher:
    if is_random(weights):
        module = partial(seeded, partial(_create, name), seed)
        network = module()
        return _described(
            network,
            name=name,
            seed=seed,
            source=f"timm:{name} random",
            weights_hash=hash_network(network),
            module=module,
        )
    if weights == "DEFAULT":
        module = partial(_create, name, True)
        network = module()
        return _described(network, name=name, source=f"timm:{name}", weights_hash=hash_network(network), module=module)
    file = find_file(str(weights), name, base)
    weights_hash = hash_file(file)
    classes = count_classes(on_meta(partial(_create, name)), read_state_dict(file), file)
    module = partial(_from_file, name, classes, file, weights_hash)
    return _described(module(), name=name, source=f"timm:{name} {file.name}", weights_hash=weights_hash, module=module)


def _from_file(name: str, classes: int, file: Path, weights_hash: str) -> nn.Module:
    return fit_weights(lambda _: _create(name, classes=classes), file, weights_hash, f"timm's {name}")


def _from_folder(folder: Path) -> Teacher:
    module = partial(_create, f"{LOCAL}{folder}", True)
    network = module()
    return _described(
        network,
        name=folder.name,
        source=f"timm:{LOCAL}{folder.name}",
        weights_hash=hash_network(network),
        module=module,
    )
