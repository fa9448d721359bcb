"""``ckpt:PATTERN``: one's own checkpoints, each with a builder that makes its network. Read with weights only."""

from __future__ import annotations

import glob
import hashlib
import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from capmismatch.errors import InputError
from capmismatch.sources.families import Teacher
from capmismatch.training.prepare import Normalise

WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")
_Build = Callable[[str, dict[str, Tensor]], nn.Module]  # of a checkpoint's stem and its weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def load(
    pattern: str,
    *,
    builder: str | Callable[[str], nn.Module],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """The teachers whose checkpoints match `pattern`; each is built and loaded once here, so that errors come early."""
    # Only the pattern has wildcards: a study may lie in a folder such as "runs[1]".
    places = str(Path(glob.escape(str(base)), Path(pattern).expanduser()))
    files = [Path(file) for file in sorted(glob.glob(places), key=_by_number)]
    if not files:
        raise InputError(f"no checkpoint matches {str(Path(base, pattern))!r}")
    build = _builder(builder, Path(base))
    prepare = Normalise(mean, std)
    teachers = []
    for file in files:
        weights_hash = hash_file(file)
        network = _network(file, build, weights_hash)
        teachers.append(
            Teacher(
                family=file.resolve().parent.name,
                name=file.stem,
                params=sum(p.numel() for p in network.parameters()),
                source=f"ckpt:{file.name}",
                weights_hash=weights_hash,
                preprocessing=repr(prepare),
                module=partial(_network, file, build, weights_hash),
                prepare=prepare,
            )
        )
    return teachers, None


def _by_number(name: str) -> list[str | int]:
    """A key that sorts epoch9 before epoch10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def hash_file(file: Path) -> str:
    """SHA-256 of a checkpoint."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file} is not a readable checkpoint: {error.strerror}") from None


def _network(file: Path, build: _Build, weights_hash: str) -> nn.Module:
    what = f"the network that the builder made for {file.stem!r}"
    return fit_weights(partial(build, file.stem), file, weights_hash, what)


def fit_weights(build: Callable[[dict[str, Tensor]], nn.Module], file: Path, weights_hash: str, what: str) -> nn.Module:
    """Load a checkpoint, known by its hash, into the network that `build` makes for it.

    `build` gets the state dict, for the sizes that it tells; keys or shapes that do not fit are listed.
    """
    weights = read_state_dict(file)
    if hash_file(file) != weights_hash:  # a bank must not record one hash and hold another's logits
        raise InputError(f"{file} has changed since the family was loaded: load the family again")
    network = build(weights)
    own = network.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    # Counters of batch norms came after many published checkpoints; nothing in eval mode reads them.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    odd = [
        f"{key} {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    if missing or extra or odd:
        parts = [
            f"{title}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            for title, names in (("missing", missing), ("unexpected", extra), ("of another shape", odd))
            if names
        ]
        raise InputError(f"{file} does not fit {what}; {'; '.join(parts)}")
    network.load_state_dict(weights, strict=False)
    return network.eval()


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint, unwrapped from what trainers put around them. Runs no code from the file."""
    try:
        if file.suffix == ".safetensors":
            found: Any = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read is an error below
                found = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable checkpoint: {error}") from None
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... on hostile or broken files
        # Not torch's own text, which tells the reader how to run the code in the file.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "it is damaged, or no checkpoint of torch.save"
        raise InputError(
            f"{file} cannot be read with weights only, and capmismatch never runs code from a checkpoint: {reason}. "
            "Save its state_dict() instead."
        ) from None
    for wrapping in WRAPPINGS:
        if isinstance(found, dict) and isinstance(found.get(wrapping), dict):
            found = found[wrapping]
            break
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        what = f"keys {list(found)[:8]}" if isinstance(found, dict) else type(found).__name__
        raise InputError(
            f"{file} holds no state dict: expected a mapping from names to tensors, perhaps under one of "
            f"{list(WRAPPINGS)}, got {what}"
        )
    return {_bare(str(key)): value for key, value in found.items()}


def _bare(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _builder(builder: str | Callable[[str], nn.Module], base: Path) -> _Build:
    """From a checkpoint's stem and weights to a network: the user's function of the stem, or an architecture."""
    if callable(builder):
        return partial(_by_stem, builder)
    place, _, rest = builder.partition(":")
    if not rest:
        raise InputError(f"expected builder like 'module:function' or 'arch:NAME', got {builder!r}")
    if place == "arch":
        from capmismatch import architectures

        return lambda stem, weights: architectures.build_for(rest.replace("{stem}", stem), weights)
    module = _module(place, base.resolve())
    function = getattr(module, rest, None)
    if not callable(function):
        names = [name for name in vars(module) if callable(getattr(module, name)) and not name.startswith("_")]
        raise InputError(f"module {place!r} has no function {rest!r}; it has {names}")
    return partial(_by_stem, function)


def _by_stem(function: Callable[[str], nn.Module], stem: str, weights: dict[str, Tensor]) -> nn.Module:
    network = function(stem)
    if not isinstance(network, nn.Module):
        raise InputError(f"the builder gave {type(network).__name__} for {stem!r}, not a torch.nn.Module")
    return network


def _module(place: str, base: Path) -> ModuleType:
    """A module beside the study file, as it is now, or else an installed one."""
    beside = base / f"{place}.py"
    sys.path.insert(0, str(base))  # what that module imports may lie beside it too
    try:
        if not beside.exists():
            return importlib.import_module(place)
        # Not by `import`: two studies may each have a "models.py", and a cell may be run again after an edit.
        name = f"capmismatch_builder_{hashlib.sha256(str(beside).encode()).hexdigest()[:16]}"
        spec = importlib.util.spec_from_file_location(name, beside)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    except ImportError as error:
        raise InputError(f"cannot import the builder's module {place!r} (looked in {base} too): {error}") from None
    finally:
        sys.path.remove(str(base))
