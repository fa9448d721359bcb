"""Weights of networks: reading checkpoints without running code, fitting them in, and telling weights apart by hash."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from capmismatch._utils.files import hash_file, no_device
from capmismatch.errors import InputError
from capmismatch.sources._networks import on_meta
from capmismatch.sources._state_dicts import Fitted, WeightsChoice, fit, read_state_dict

ENDINGS = (".pth", ".pt", ".safetensors", ".bin")


@dataclass(frozen=True)
class Weights:
    """The weights of one network of a library, and how to make the network with them.

    Attributes
    ----------
    module : callable
        Makes the network with these weights, in eval mode.
    network : torch.nn.Module
        That network, or one of the same sizes without weights; made here, so that errors come early.
    source : str
        What these weights are, such as the file's name.
    weights_hash : str
        Tells these weights from all others.
    classes : int or None
        How many classes they tell apart, where that was read from a file.
    seed : int or None
        Of random weights.
    """

    module: Callable[[], nn.Module]
    network: nn.Module
    source: str
    weights_hash: str
    classes: int | None = None
    seed: int | None = None


def random_weights(build: Callable[[], nn.Module], seed: int) -> Weights:
    """Random weights of a network, drawn from a seed."""
    module = partial(seeded, build, seed)
    network = module()
    return Weights(module, network, "random", hash_network(network), seed=seed)


def weights_from_file(build: Callable[..., nn.Module], file: Path, what: str, choice: WeightsChoice) -> Weights:
    """A user's own weights; `build` makes the network, with as many classes as it is told (``classes=``)."""
    file_hash = hash_checkpoint(file)
    last = list(on_meta(build).state_dict())[-1]
    for_weights = partial(_built_for, build, last, file)
    fitted = fit_weights(for_weights, file, file_hash, what, choice)
    return Weights(
        module=partial(_network_of, for_weights, file, file_hash, what, choice),
        network=fitted.network,
        source=with_words(file.name, fitted.told),
        weights_hash=choice.hash_with(file_hash),
        classes=int(fitted.network.state_dict()[last].shape[0]),
    )


def _network_of(
    build: Callable[[dict[str, Tensor]], nn.Module], file: Path, file_hash: str, what: str, choice: WeightsChoice
) -> nn.Module:
    return fit_weights(build, file, file_hash, what, choice).network


def _built_for(build: Callable[..., nn.Module], last: str, file: Path, state: dict[str, Tensor]) -> nn.Module:
    """The network with as many classes as a checkpoint tells apart: the length of its last weights."""
    if last not in state or state[last].ndim == 0:
        raise InputError(f"{file} does not fit: expected a last layer {last!r}, got {sorted(state)[:8]}")
    return build(classes=int(state[last].shape[0]))


def with_words(source: str, told: str) -> str:
    """A source, and in brackets what should be said of it."""
    return f"{source} ({told})" if told else source


def is_random(weights: Any) -> bool:
    """Whether `weights` asks for random ones; a study file, which cannot say None, says "random"."""
    return weights is None or weights == "random"


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network with random weights drawn from a seed; the caller's own random numbers go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def hash_network(network: nn.Module) -> str:
    """SHA-256 of all weights and buffers, by name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def hash_checkpoint(file: Path) -> str:
    """SHA-256 of a checkpoint; the user hears which one can't be read."""
    no_device(file, "a checkpoint")
    try:
        return hash_file(file)
    except OSError as error:
        raise InputError(f"{file} is not a readable checkpoint: {error.strerror}") from None


def find_file(weights: str | Path, name: str, base: str | Path) -> Path:
    """The one checkpoint of a named network, in a folder (``NAME.pth``, ``NAME-abcd1234.pth``) or by a pattern.

    In a pattern ``{name}`` stands for the network's name.
    """
    text = str(Path(weights).expanduser())
    path = Path(base, text)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if _belongs(file, name)]
    else:
        pattern = Path(glob.escape(str(base)), text.replace("{name}", glob.escape(name)))
        files = [Path(file) for file in sorted(glob.glob(str(pattern)))]
    if len(files) != 1:
        count = f"got {[file.name for file in files]}" if files else "got none"
        raise InputError(f"expected one file with the weights of {name!r} at {str(path)!r}, {count}")
    return files[0]


def _belongs(file: Path, name: str) -> bool:
    return file.suffix in ENDINGS and re.fullmatch(re.escape(name) + r"(-[0-9a-f]{8})?", file.stem) is not None


def fit_weights(
    build: Callable[[dict[str, Tensor]], nn.Module], file: Path, file_hash: str, what: str, choice: WeightsChoice
) -> Fitted:
    """Load a checkpoint, known by its hash, into the network that `build` makes for it.

    `build` gets the state dict, whose shapes show the sizes; keys or shapes that do not fit are listed.
    """
    state = read_state_dict(file, choice)
    if hash_checkpoint(file) != file_hash:  # a bank must not record one hash and hold another's logits
        raise InputError(f"{file} has changed since the family was loaded: load the family again")
    return fit(build, state, choice, f"{file} does not fit {what}")
