"""Weights of networks: reading checkpoints without running code, fitting them in, and telling weights apart by hash."""

from __future__ import annotations

import glob
import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from capmismatch.errors import InputError
from capmismatch.sources._networks import on_meta

ENDINGS = (".pth", ".pt", ".safetensors", ".bin")
WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


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


def weights_from_file(build: Callable[..., nn.Module], file: Path, what: str) -> Weights:
    """A user's own weights; `build` makes the network, with as many classes as it is told (``classes=``)."""
    weights_hash = hash_file(file)
    classes = count_classes(on_meta(build), read_state_dict(file), file)
    module = partial(_built_from_file, partial(build, classes=classes), file, weights_hash, what)
    return Weights(module, module(), file.name, weights_hash, classes)


def _built_from_file(build: Callable[[], nn.Module], file: Path, weights_hash: str, what: str) -> nn.Module:
    return fit_weights(lambda _: build(), file, weights_hash, what)


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


def hash_file(file: Path) -> str:
    """SHA-256 of a checkpoint."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
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


def count_classes(network: nn.Module, state: dict[str, Tensor], file: Path) -> int:
    """How many classes a checkpoint tells apart: the length of what the network's last layer holds in it."""
    last = list(network.state_dict())[-1]
    if last not in state or state[last].ndim == 0:
        raise InputError(f"{file} does not fit: expected a last layer {last!r}, got {sorted(state)[:8]}")
    return int(state[last].shape[0])


def fit_weights(build: Callable[[dict[str, Tensor]], nn.Module], file: Path, weights_hash: str, what: str) -> nn.Module:
    """Load a checkpoint, known by its hash, into the network that `build` makes for it.

    `build` gets the state dict, whose shapes show the sizes; keys or shapes that do not fit are listed.
    """
    weights = read_state_dict(file)
    if hash_file(file) != weights_hash:  # a bank must not record one hash and hold another's logits
        raise InputError(f"{file} has changed since the family was loaded: load the family again")
    network = build(weights)
    _check_fit(network.state_dict(), weights, f"{file} does not fit {what}")
    network.load_state_dict(weights, strict=False)
    return network.eval()


def _check_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], message: str) -> None:
    """Raise, with a list, where keys or shapes differ."""
    # Counters of batch norms came after many published checkpoints; nothing in eval mode reads them.
    missing = [key for key in sorted(expected.keys() - weights.keys()) if not key.endswith("num_batches_tracked")]
    wrong_shapes = [
        f"{key} {tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & weights.keys())
        if expected[key].shape != weights[key].shape
    ]
    differences = {
        "missing": missing,
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": wrong_shapes,
    }
    if any(differences.values()):
        lists = [
            f"{title}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
            for title, keys in differences.items()
            if keys
        ]
        raise InputError(f"{message}; {'; '.join(lists)}")


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint, unwrapped from what trainers put around them. Runs no code from the file."""
    content = _read_checkpoint(file)
    if isinstance(content, dict):
        wrapped = (content[key] for key in WRAPPINGS if isinstance(content.get(key), dict))
        content = next(wrapped, content)
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        what = f"keys {list(content)[:8]}" if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{file} holds no state dict: expected a mapping from names to tensors, perhaps under one of "
            f"{list(WRAPPINGS)}, got {what}"
        )
    return {_without_prefixes(str(key)): value for key, value in content.items()}


def _read_checkpoint(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable checkpoint: {error}") from None
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... on hostile or broken files
        # Not torch's own text, which explains how to run the code in the file.
        requested = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {requested[1]}" if requested else "it is damaged, or no checkpoint of torch.save"
        raise InputError(
            f"{file} cannot be read with weights only, and capmismatch never runs code from a checkpoint: {reason}. "
            "Save its state_dict() instead."
        ) from None


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key
