"""``hf:OWNER/NAME`` or ``hf:./FOLDERS``: image classifiers of transformers, each with its own image processor."""

from __future__ import annotations

import glob
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from capmismatch._utils.files import hash_of
from capmismatch._utils.optional import need
from capmismatch.architectures import count_parameters
from capmismatch.data.lazy_inputs import to_image
from capmismatch.errors import InputError
from capmismatch.sources._networks import Listed, check_channels, expand, listed, on_meta, reason_of, smallest_first
from capmismatch.sources._weights import hash_network
from capmismatch.sources.families import Teacher


def load(where: str, *, revision: str | None = None, base: str | Path = ".") -> tuple[list[Teacher], None]:
    """Load the classifier of a repository (brace lists name several), or those in local folders that match a pattern.

    Parameters
    ----------
    where : str
        ``OWNER/NAME``, or the path of folders that `save_pretrained` made, beginning with ``.``, ``/`` or ``~``.
    revision : str, optional
        Branch, tag or commit of a repository.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.
    """
    need("transformers", "huggingface", f"hf:{where}")
    return [_teacher(place, revision) for place in _places(where, base)], None


def describe(where: str) -> list[Listed]:
    """Names and sizes from the configuration alone, smallest first."""
    transformers = need("transformers", "huggingface", f"hf:{where}")
    rows = []
    for place in _places(where, "."):
        config = _read(place, transformers.AutoConfig.from_pretrained, None)
        network = on_meta(partial(_Logits.of, transformers.AutoModelForImageClassification.from_config, config))
        image = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
        processor = _read(place, transformers.AutoImageProcessor.from_pretrained, None)
        size = tuple(_Processor(processor, _channels(config, place))([image]).shape[1:])
        rows.append(listed(_name(place), network, size, config.num_labels))
    return smallest_first(rows)


def _places(where: str, base: str | Path) -> list[str | Path]:
    if not where.startswith((".", "/", "~")):
        return list(expand(where))
    pattern = str(Path(glob.escape(str(base)), Path(where).expanduser()))
    folders = [Path(path) for path in sorted(glob.glob(pattern)) if Path(path, "config.json").is_file()]
    if not folders:
        raise InputError(f"no folder with a config.json, as save_pretrained makes them, matches {pattern!r}")
    return list(folders)


def _name(place: str | Path) -> str:
    return place.resolve().name if isinstance(place, Path) else place


def _read(place: str | Path, read: Any, revision: str | None) -> Any:
    options = {"local_files_only": True} if isinstance(place, Path) else {"revision": revision or "main"}
    try:
        return read(str(place), trust_remote_code=False, **options)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, and those of the file formats
        raise InputError(f"transformers cannot load 'hf:{place}': {reason_of(error)}") from None


class _Logits(nn.Module):
    """A classifier of transformers that gives its logits alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        return self.inner(pixels).logits

    @classmethod
    def of(cls, make: Any, *arguments: Any) -> _Logits:
        return cls(make(*arguments))


def _channels(config: Any, place: str | Path) -> int:
    """How many channels the network's images have; 3 where its configuration says nothing."""
    return check_channels(getattr(config, "num_channels", 3), f"'hf:{place}'")


class _Processor:
    """The image processor that came with the weights, on RGB images, or grey ones for a network of one channel."""

    def __init__(self, processor: Any, channels: int = 3) -> None:
        self.processor, self.channels = processor, channels

    def __call__(self, inputs: Any) -> Tensor:
        images: list[Any] = [to_image(image, self.channels) for image in inputs]
        options: dict[str, Any] = {}
        if self.channels == 1:  # processors take grey images as arrays with a channel axis alone
            images, options = [np.array(image)[None] for image in images], {"input_data_format": "channels_first"}
            options["do_convert_rgb"] = False
        return self.processor(images=images, return_tensors="pt", **options)["pixel_values"]

    def __repr__(self) -> str:
        config = json.loads(self.processor.to_json_string())
        settings = {name: value for name, value in config.items() if value is not None}
        grey = "grey " if self.channels == 1 else ""
        return f"{grey}{type(self.processor).__name__} {json.dumps(settings, sort_keys=True)}"


def _network(place: str | Path, revision: str | None, weights_hash: str | None = None) -> nn.Module:
    from transformers import AutoModelForImageClassification

    # In full precision, whatever the file was saved in: `collect` decides how it runs.
    read = partial(AutoModelForImageClassification.from_pretrained, dtype=torch.float32, output_loading_info=True)
    model, loaded = _read(place, read, revision)
    missing = sorted(map(str, loaded["missing_keys"]))
    if missing:  # transformers draws them at random, with no more than a warning
        raise InputError(
            f"'hf:{place}' holds no weights for {', '.join(missing[:8])}: a backbone without its classification head "
            "is no classifier. Fine-tune it, and save that"
        )
    network = _Logits(model).eval()
    if weights_hash is not None and hash_network(network) != weights_hash:
        raise InputError(f"the weights of 'hf:{place}' have changed since the family was loaded: load the family again")
    return network


def _teacher(place: str | Path, revision: str | None) -> Teacher:
    from transformers import AutoImageProcessor

    network: Any = _network(place, revision)
    names = network.inner.config.id2label
    classes = tuple(str(names[number]) for number in sorted(names))
    unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(classes))
    prepare = _Processor(
        _read(place, AutoImageProcessor.from_pretrained, revision), _channels(network.inner.config, place)
    )
    weights_hash = hash_network(network)
    return Teacher(
        family="hf",
        name=_name(place),
        params=count_parameters(network),
        source=f"hf:{_name(place)}" + (f"@{revision}" if revision else ""),
        weights_hash=weights_hash,
        preprocessing=repr(prepare),
        module=partial(_network, place, revision, weights_hash),
        prepare=prepare,
        classes=None if unnamed else classes,
        built_by=settings_hash(network.inner.config),
    )


def settings_hash(config: Any) -> str:
    """A hash of a configuration without the names of its classes, which may change, or what decides nothing."""
    left_out = (
        "_name_or_path",
        "transformers_version",
        "id2label",
        "label2id",
        "dtype",
        "torch_dtype",
        "architectures",
    )
    return hash_of(
        {key: value for key, value in json.loads(config.to_json_string(False)).items() if key not in left_out}
    )
