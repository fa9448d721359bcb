"""What the sources of published networks share: names with wildcards, weights on disk, images one by one."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from capmismatch.architectures import count_macs
from capmismatch.data.lazy_inputs import to_image
from capmismatch.errors import InputError

ENDINGS = (".pth", ".pt", ".safetensors", ".bin")


@dataclass(frozen=True)
class Listed:
    """What is known of a network before any weight is loaded: what `capmismatch.list_teachers` shows."""

    name: str
    params: int
    macs: int | None
    input: tuple[int, ...]
    classes: int


class PerImage:
    """A network's own preprocessing: every image of a batch by itself, as RGB, then stacked."""

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, inputs: Any) -> Tensor:
        """A batch of raw images, (n, H, W, C) uint8 or a list of PIL images, as the tensor that the network takes."""
        return torch.stack([self.transform(to_image(image)) for image in inputs])

    def __repr__(self) -> str:
        return re.sub(r"\s+", " ", repr(self.transform))


def expand(pattern: str) -> list[str]:
    """Brace lists written out.

    Examples
    --------
    >>> expand("resnet{18,34}_x{,2}")
    ['resnet18_x', 'resnet18_x2', 'resnet34_x', 'resnet34_x2']
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [full for choice in found[1].split(",") for full in expand(before + choice.strip() + after)]


def matching(pattern: str, names: Sequence[str], kind: str) -> list[str]:
    """The names that a pattern with brace lists and wildcards means, each once.

    Examples
    --------
    >>> matching("resnet{18,34}*", ["resnet18", "resnet34_a", "vgg11"], "torchvision")
    ['resnet18', 'resnet34_a']
    """
    found: list[str] = []
    for single in expand(pattern):
        if any(sign in single for sign in "*?["):
            hits = [name for name in names if fnmatch.fnmatchcase(name, single)]
            if not hits:
                raise InputError(f"no classifier of {kind} matches {single!r}")
        else:
            if single not in names:
                near = difflib.get_close_matches(single, names, n=5)
                hint = f"; near it: {near}" if near else ""
                raise InputError(f"no classifier of {kind} is named {single!r}{hint}")
            hits = [single]
        found += [name for name in hits if name not in found]
    return found


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without its weights: the sizes are known, nothing is downloaded."""
    try:
        with torch.device("meta"):
            return build().eval()
    except NotImplementedError:  # regnets compute their widths with tensors: build the whole, drop its weights
        return build().eval().to("meta")


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network with random weights drawn from a seed; the caller's own random numbers go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def count_params(network: nn.Module) -> int:
    """How many numbers training fits."""
    return sum(parameter.numel() for parameter in network.parameters())


def listed(name: str, network: nn.Module, size: tuple[int, ...], classes: int) -> Listed:
    """The row of one network, which may lie on the meta device."""
    params = count_params(network)
    try:
        macs = count_macs(network.requires_grad_(False), size)
    except Exception:  # a network that looks at values can't run without any: one such must not hide all others
        macs = None
    return Listed(name, params, macs, size, classes)


def hash_network(network: nn.Module) -> str:
    """SHA-256 of all weights and buffers, by name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def find_file(weights: str | Path, name: str, base: str | Path) -> Path:
    """The one checkpoint of a named network, in a folder (``NAME.pth``, ``NAME-abcd1234.pth``) or by a pattern.

    In a pattern ``{name}`` stands for the network's name.
    """
    text = str(Path(weights).expanduser())
    place = Path(base, text)
    if place.is_dir():
        found = [file for file in sorted(place.iterdir()) if _belongs(file, name)]
    else:
        pattern = Path(glob.escape(str(base)), text.replace("{name}", glob.escape(name)))
        found = [Path(file) for file in sorted(glob.glob(str(pattern)))]
    if len(found) != 1:
        many = f"got {[file.name for file in found]}" if found else "got none"
        raise InputError(f"expected one file with the weights of {name!r} at {str(place)!r}, {many}")
    return found[0]


def _belongs(file: Path, name: str) -> bool:
    return file.suffix in ENDINGS and re.fullmatch(re.escape(name) + r"(-[0-9a-f]{8})?", file.stem) is not None


def count_classes(network: nn.Module, state: dict[str, Tensor], file: Path) -> int:
    """How many classes a checkpoint tells apart: the length of what the network's last layer holds in it."""
    last = list(network.state_dict())[-1]
    if last not in state or state[last].ndim == 0:
        raise InputError(f"{file} does not fit: expected a last layer {last!r}, got {sorted(state)[:8]}")
    return int(state[last].shape[0])


def is_random(weights: Any) -> bool:
    """Whether `weights` asks for random ones; a study file, which cannot say None, says "random"."""
    return weights is None or weights == "random"


def as_rows(found: Iterable[Listed]) -> list[Listed]:
    """Smallest first."""
    return sorted(found, key=lambda row: (row.params, row.name))
