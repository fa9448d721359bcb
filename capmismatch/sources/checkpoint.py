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

from capmismatch._utils.code import code_hash
from capmismatch._utils.files import hash_of
from capmismatch.architectures import build_for, count_parameters
from capmismatch.architectures.registry import builder_of
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
    """Load the teachers whose checkpoints match; each is built and loaded once here, so that errors come early.

    Parameters
    ----------
    pattern : str
        Of files (.pt, .pth, .safetensors), with wildcards.
    builder : str or callable
        Makes the network of a checkpoint: a function of the file's stem, its name ``"module:function"``, or a
        registered architecture ``"arch:NAME"`` where ``{stem}`` stands for the file's stem.
    mean : sequence of float, optional
        Subtracted from images in [0, 1], or from other inputs as they are: one number per channel, or one for all.
    std : sequence of float, optional
        What the difference is divided by.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.
    """
    # Only the pattern has wildcards: a study may lie in a folder such as "runs[1]".
    full_pattern = str(Path(glob.escape(str(base)), Path(pattern).expanduser()))
    files = [Path(file) for file in sorted(glob.glob(full_pattern), key=_by_number)]
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
                built_by=_code_of(build, file.stem),
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
    module_name, _, name = builder.partition(":")
    if not name:
        raise InputError(f"expected builder like 'module:function' or 'arch:NAME', got {builder!r}")
    if module_name == "arch":
        return partial(_by_name, name)
    module = _module(module_name, base.resolve())
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"module {module_name!r} has no function {name!r}; it has {functions}")
    return partial(_by_stem, function)


def _by_name(name: str, stem: str, weights: dict[str, Tensor]) -> nn.Module:
    return build_for(name.replace("{stem}", stem), weights)


def _code_of(build: _Build, stem: str) -> str:
    """A hash of what makes a checkpoint's network: the user's function, or the architecture's name and own code."""
    assert isinstance(build, partial)
    (maker,) = build.args
    if callable(maker):
        return hash_of([getattr(maker, "__qualname__", type(maker).__qualname__), code_hash(maker)])
    name = maker.replace("{stem}", stem)
    return hash_of([name, code_hash(builder_of(name))])


def _by_stem(function: Callable[[str], nn.Module], stem: str, weights: dict[str, Tensor]) -> nn.Module:
    network = function(stem)
    if not isinstance(network, nn.Module):
        raise InputError(f"the builder gave {type(network).__name__} for {stem!r}, not a torch.nn.Module")
    return network


def _module(module_name: str, base: Path) -> ModuleType:
    """A module beside the study file, as it is now, or else an installed one."""
    beside = base / f"{module_name}.py"
    sys.path.insert(0, str(base))  # the module may import others beside it
    try:
        if not beside.exists():
            return importlib.import_module(module_name)
        # Not by `import`: two studies may each have a "models.py", and a cell may be run again after an edit.
        name = f"capmismatch_builder_{hashlib.sha256(str(beside).encode()).hexdigest()[:16]}"
        spec = importlib.util.spec_from_file_location(name, beside)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        # Compiled here: byte code that Python has cached is told from an edited file by seconds and size alone.
        exec(compile(beside.read_bytes(), beside, "exec"), module.__dict__)
        return module
    except ImportError as error:
        raise InputError(
            f"cannot import the builder's module {module_name!r} (looked in {base} too): {error}"
        ) from None
    finally:
        sys.path.remove(str(base))
