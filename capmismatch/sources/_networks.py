"""What the sources of published networks share: names with wildcards, sizes without weights, images one by one."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch.architectures import count_macs, count_parameters
from capmismatch.data.lazy_inputs import to_image
from capmismatch.data.token_inputs import TokenBatch
from capmismatch.errors import CapmismatchError, InputError


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
    """A network's own preprocessing: every image of a batch separately, as RGB, or grey for one channel."""

    def __init__(self, transform: Callable[[Any], Tensor], channels: int = 3) -> None:
        self.transform, self.channels = transform, channels

    def __call__(self, inputs: Any) -> Tensor:
        """A batch of raw images, (n, H, W, C) uint8 or a list of PIL images, as the tensor that the network takes."""
        return torch.stack([self.transform(to_image(image, self.channels)) for image in inputs])

    def __repr__(self) -> str:
        return ("grey " if self.channels == 1 else "") + re.sub(r"\s+", " ", repr(self.transform))


def check_channels(channels: int, place: str) -> int:
    """The number of channels of a network's images, 1 or 3; others cannot be made from grey or coloured ones."""
    if channels not in (1, 3):
        raise InputError(f"expected a network for grey or RGB images, got {place} for images of {channels} channels")
    return channels


def prepared(prepare: Callable[[Any], Tensor], raw: Any, teacher: str, data: str) -> Tensor:
    """A batch as the network takes it; whatever goes wrong is told with the teacher and the data.

    Windows of text are token ids, whatever a teacher would make of other inputs.
    """
    if isinstance(raw, TokenBatch):
        return torch.from_numpy(raw.windows).long()
    try:
        return prepare(raw)
    except Exception as error:  # of the preprocessing of some library, or of Normalise, which knows no teacher
        reason = str(error) if isinstance(error, CapmismatchError) else reason_of(error)
        raise InputError(f"cannot prepare {_shape(raw)} of {data} for teacher {teacher}: {reason}") from None


def logits_of(network: Callable[[Any], Any], batch: Any, teacher: str, data: str) -> Tensor:
    """The logits of a prepared batch, as float32; whatever the network raises is told with teacher, data and shape.

    The batch is a tensor, or a list or mapping of several. The network gets a copy: one that computes in place would
    change what the next network sees, or the data themselves.
    """
    try:
        logits = network(_copied(batch))
    except torch.OutOfMemoryError:
        raise InputError(
            f"teacher {teacher} needs more memory than there is for a batch of {_rows_of(batch)} rows of {data}: give "
            "a smaller batch_size"
        ) from None
    except Exception as error:
        raise InputError(
            f"teacher {teacher} cannot take the inputs of {data}, {_told(batch)}: {reason_of(error)}. {_advice(batch)}"
        ) from error
    if not isinstance(logits, Tensor):
        raise InputError(f"expected a tensor of logits from teacher {teacher}, got {type(logits).__name__}")
    if logits.is_complex():
        raise InputError(f"expected real logits from teacher {teacher}, got {logits.dtype}")
    return logits.float()


def _copied(batch: Any) -> Any:
    """A batch with memory of its own."""
    if isinstance(batch, Mapping):
        return {name: _copied(value) for name, value in batch.items()}
    return [_copied(value) for value in batch] if isinstance(batch, list) else batch.clone()


def _rows_of(batch: Any) -> int:
    while not isinstance(batch, Tensor):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(batch)


def _told(batch: Any) -> str:
    """What a network was given, in words."""
    if isinstance(batch, Mapping):
        return f"the arguments {list(batch)}"
    if isinstance(batch, list):
        return f"{len(batch)} arguments"
    return f"prepared as {batch.dtype} of shape {tuple(batch.shape)}"


def _advice(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return "Images are taken as uint8 (N, H, W, C), floats as (N, C, H, W)"
    if isinstance(batch, Mapping):
        return "All of a batch but its labels goes to the network by name: let the loader give pairs (inputs, labels)"
    return "The last item of a batch is its labels, all others go to the network: let the loader give (inputs, labels)"


def at_rows(logits: Tensor, raw: Any, teacher: str, data: str) -> Tensor:
    """The logits (n, C) of the rows of a batch: of windows of text at the positions that are rows, else as they are."""
    if not isinstance(raw, TokenBatch):
        return logits
    if logits.ndim != 3 or logits.shape[:2] != raw.windows.shape:
        raise InputError(
            f"expected logits of every position of a text, {(*raw.windows.shape, 'V')}, got shape "
            f"{tuple(logits.shape)} from teacher {teacher} on {data}"
        )
    return logits.flatten(0, 1)[torch.from_numpy(raw.flat).to(logits.device)]


def _shape(raw: Any) -> str:
    return f"inputs of shape {tuple(raw.shape)}" if hasattr(raw, "shape") else f"{len(raw)} inputs"


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
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


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
