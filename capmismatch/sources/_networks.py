"""What the sources of published networks share: names with wildcards, sizes without weights, images one by one."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch.architectures import count_macs, count_parameters
from capmismatch.data.lazy_inputs import to_image
from capmismatch.errors import InputError


@dataclass(frozen=True)
class Listed:
    """What is known of a network before any weight is loaded: what `capmismatch.list_teachers` shows.

    Attributes
    ----------
    name : str
        Of the network.
    params : int
        Number of parameters.
    macs : int or None
        Multiply-accumulates for one example; None where they cannot be counted without weights.
    input : tuple of int
        Shape of one prepared example.
    classes : int
        Number of outputs.
    """

    name: str
    params: int
    macs: int | None
    input: tuple[int, ...]
    classes: int


class PerImage:
    """A network's own preprocessing: every image of a batch separately, as RGB, then stacked."""

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, inputs: Any) -> Tensor:
        """A batch of raw images, (n, H, W, C) uint8 or a list of PIL images, as the tensor that the network takes."""
        return torch.stack([self.transform(to_image(image)) for image in inputs])

    def __repr__(self) -> str:
        return re.sub(r"\s+", " ", repr(self.transform))


def reason_of(error: Exception) -> str:
    """Kind and first line of a library's error, without its advice to load a file in a way that may run code.

    Examples
    --------
    >>> reason_of(OSError("no network"))
    'OSError: no network'
    """
    lines = str(error).splitlines()
    if re.search(r"weights[_ -]only|pickle", str(error), re.IGNORECASE):
        lines = ["its weights cannot be read with weights only, and no code from a file is ever run"]
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip()


def expand(pattern: str) -> list[str]:
    """Brace lists written out.

    Examples
    --------
    >>> expand("resnet{18,34}_x{,2}")
    ['resnet18_x', 'resnet18_x2', 'resnet34_x', 'resnet34_x2']
    """
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [name for choice in braces[1].split(",") for name in expand(before + choice.strip() + after)]


def matching(pattern: str, names: Sequence[str], kind: str) -> list[str]:
    """The names that match a pattern with brace lists and wildcards, each once; `kind` is the library, for messages.

    Examples
    --------
    >>> matching("resnet{18,34}*", ["resnet18", "resnet34_a", "vgg11"], "torchvision")
    ['resnet18', 'resnet34_a']
    """
    matches: list[str] = []
    for single in expand(pattern):
        new = _by_wildcard(single, names, kind) if any(sign in single for sign in "*?[") else [single]
        if not set(new) <= set(names):
            near = difflib.get_close_matches(single, names, n=5)
            hint = f"; near it: {near}" if near else ""
            raise InputError(f"no classifier of {kind} is named {single!r}{hint}")
        matches += [name for name in new if name not in matches]
    return matches


def _by_wildcard(pattern: str, names: Sequence[str], kind: str) -> list[str]:
    matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matches:
        raise InputError(f"no classifier of {kind} matches {pattern!r}")
    return matches


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without its weights: the sizes are known, nothing is downloaded."""
    try:
        with torch.device("meta"):
            return build().eval()
    except NotImplementedError:  # regnets compute their widths with tensors: build them with weights, then drop these
        return build().eval().to("meta")


def listed(name: str, network: nn.Module, size: tuple[int, ...], classes: int) -> Listed:
    """The row of one network, which may lie on the meta device."""
    params = count_parameters(network)
    try:
        macs = count_macs(network.requires_grad_(False), size)
    except Exception:  # a network that reads its values cannot run without any: it must not hide all other networks
        macs = None
    return Listed(name, params, macs, size, classes)


def smallest_first(rows: Iterable[Listed]) -> list[Listed]:
    """Sorted by the number of parameters, then by name."""
    return sorted(rows, key=lambda row: (row.params, row.name))
