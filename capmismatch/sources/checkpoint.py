"""``ckpt:PATTERN``: one's own checkpoints, each with a builder that makes its network. Read with weights only."""

from __future__ import annotations

import glob
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from capmismatch.architectures import count_parameters
from capmismatch.errors import InputError
from capmismatch.sources._weights import fit_weights, hash_file
from capmismatch.sources.families import Teacher
from capmismatch.training.prepare import Normalise

_Build = Callable[[str, dict[str, Tensor]], nn.Module]  # of a checkpoint's stem and its weights


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
                params=count_parameters(network),
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


def _network(file: Path, build: _Build, weights_hash: str) -> nn.Module:
    what = f"the network that the builder made for {file.stem!r}"
    return fit_weights(partial(build, file.stem), file, weights_hash, what)


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
