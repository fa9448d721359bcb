"""``ckpt:PATTERN``: one's own checkpoints, each with a builder that makes its network. Read with weights only."""

from __future__ import annotations

import glob
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from capmismatch._utils.code import code_hash, files_named_in, own_files_of
from capmismatch._utils.files import hash_file, hash_of
from capmismatch.architectures import build_for, count_parameters
from capmismatch.architectures.registry import builder_of, is_known
from capmismatch.errors import CapmismatchError, InputError, must_count
from capmismatch.sources._networks import expand
from capmismatch.sources._state_dicts import Fitted, WeightsChoice
from capmismatch.sources._weights import fit_weights, hash_checkpoint, with_words
from capmismatch.sources.families import Teacher
from capmismatch.training.prepare import Normalise

_LOADED: dict[str, str] = {}  # the user's files behind builders, and the hash of each as it was read

_Build = Callable[[Path, dict[str, Tensor]], nn.Module]  # of a checkpoint's path and its weights


def load(
    pattern: str,
    *,
    builder: str | Callable[..., nn.Module],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    key: str | None = None,
    prefix: str | None = None,
    seed: int | None = None,
    base: str | Path = ".",
) -> tuple[list[Teacher], None]:
    """Load the teachers whose checkpoints match; each is built and loaded once here, so that errors come early.

    Where every run has a folder of its own, the folders above make one family, and each teacher has the name of the
    part of its path that varies.

    Parameters
    ----------
    pattern : str
        Of files (.pt, .pth, .safetensors), with wildcards (``**`` for any number of folders) and brace lists.
    builder : str or callable
        Makes the network of a checkpoint: a function of the file's stem, or of the teacher's name where all stems are
        the same, as in ``runs/*/model_best.pth`` (and of its path, where it has a parameter `path`); the function's
        name ``"module:function"``; or a registered architecture ``"arch:NAME"`` where ``{stem}`` stands for the file's
        stem and ``{parent}`` for the name of its folder, of which what follows an architecture's name, as in
        ``wrn_40_2_vanilla``, is left out.
    mean : sequence of float, optional
        Subtracted from images in [0, 1], or from other inputs as they are: one number per channel, or one for all.
    std : sequence of float, optional
        What the difference is divided by.
    key : str, optional
        Under which key of the file the weights lie, such as "state_dict_ema"; by default the usual ones, and plain
        weights rather than averaged ones.
    prefix : str, optional
        With what the names of the weights begin, such as "student."; by default that is found out.
    seed : int, optional
        Which training run of the teachers these are, where there are several: one table or call for each, of files with
        the same names in other folders, under one family's name.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.
    """
    if seed is not None:
        must_count(seed, "seed of checkpoints", least=0)
    files = matching(pattern, base)
    named = _names(files)
    same_stem = len(files) > 1 and len({file.stem for file in files}) == 1
    given = {file: name for file, (_, name, _) in zip(files, named, strict=True)} if same_stem else {}
    build = _builder(builder, Path(base), given)
    prepare, choice = Normalise(mean, std), WeightsChoice(key, prefix)
    teachers = []
    for file, (family, name, place) in zip(files, named, strict=True):
        file_hash = hash_checkpoint(file)
        fitted = _fitted(file, name, build, file_hash, choice)
        teachers.append(
            Teacher(
                family=family,
                name=name,
                seed=seed,
                params=count_parameters(fitted.network),
                source=with_words(f"ckpt:{place}", fitted.told),
                weights_hash=choice.hash_with(file_hash),
                preprocessing=repr(prepare),
                module=partial(_network, file, name, build, file_hash, choice),
                prepare=prepare,
                built_by=_code_of(build, file),
            )
        )
    return teachers, None


def matching(pattern: str, base: str | Path) -> list[Path]:
    """The files that match, those with numbers in their order."""
    for patterns in ([pattern], expand(pattern)):  # a file's own name may have braces
        # Only the pattern has wildcards: a study may lie in a folder such as "runs[1]".
        full = [str(Path(glob.escape(str(base)), Path(one).expanduser())) for one in patterns]
        found = dict.fromkeys(file for one in full for file in glob.glob(one, recursive=True))
        paths = [Path(file) for file in sorted(found, key=_by_number)]
        if paths:
            return [path for path in paths if not path.is_dir()] or paths
    raise InputError(f"no checkpoint matches {str(Path(base, pattern))!r}")


def _by_number(name: str) -> list[str | int]:
    """A key that sorts epoch9 before epoch10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _names(files: Sequence[Path]) -> list[tuple[str, str, str]]:
    """Family, teacher and shown place of each file: folder and stem, or for runs in folders what varies in the path."""
    usual = [(file.resolve().parent.name, file.stem, file.name) for file in files]
    folders = Counter(file.parent for file in files)
    are_families = len(set(usual)) == len(files) and max(folders.values()) > 1
    if len(folders) == 1 or are_families:
        return usual
    top = Path(os.path.commonpath([file.absolute().parent for file in files]))
    places = [file.absolute().relative_to(top) for file in files]
    parts = [_varying([*place.parts[:-1], place.stem], places) for place in places]
    separator = "-" if len({"-".join(part) for part in parts}) == len(parts) else "/"
    return [
        (top.resolve().name or "ckpt", separator.join(part), place.as_posix())
        for part, place in zip(parts, places, strict=True)
    ]


def _varying(parts: list[str], places: Sequence[Path]) -> list[str]:
    """The parts of a path that are not the same in all of them; beginning and end, where they differ in depth."""
    every = [[*place.parts[:-1], place.stem] for place in places]
    if len({len(other) for other in every}) == 1:
        return [part for depth, part in enumerate(parts) if len({other[depth] for other in every}) > 1]
    return parts[:-1] if len({other[-1] for other in every}) == 1 and len(parts) > 1 else parts


def _fitted(file: Path, name: str, build: _Build, file_hash: str, choice: WeightsChoice) -> Fitted:
    what = f"the network that the builder made for {name!r}"
    return fit_weights(partial(build, file), file, file_hash, what, choice)


def _network(file: Path, name: str, build: _Build, file_hash: str, choice: WeightsChoice) -> nn.Module:
    return _fitted(file, name, build, file_hash, choice).network


def _builder(builder: str | Callable[..., nn.Module], base: Path, given: dict[Path, str]) -> _Build:
    """From a checkpoint's path and weights to a network: the user's function of the stem, or an architecture.

    `given` says what the function is given instead of the stem.
    """
    if callable(builder):
        return partial(_by_function, builder, given, None)
    module_name, _, name = builder.partition(":")
    if not name:
        raise InputError(f"expected builder like 'module:function' or 'arch:NAME', got {builder!r}")
    if module_name == "arch":
        return partial(_by_architecture, name)
    module = _module(module_name, base.resolve())
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"module {module_name!r} has no function {name!r}; it has {functions}")
    return partial(_by_function, function, given, base.resolve())


@contextmanager
def _imports_beside(base: Path | None) -> Iterator[None]:
    """Let the user's code import modules that lie beside the study file, inside the block."""
    places = [] if base is None else [str(base)]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)


def _by_function(
    function: Callable[..., nn.Module],
    given: dict[Path, str],
    base: Path | None,
    file: Path,
    weights: dict[str, Tensor],
) -> nn.Module:
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a callable without a signature
        parameters = []
    name = given.get(file, file.stem)
    names = () if parameters == ["path"] else (name,)
    try:
        with _imports_beside(base):
            network = function(*names, path=file) if "path" in parameters else function(*names)
    except CapmismatchError:
        raise
    except SystemExit as error:
        told = f"the builder {getattr(function, '__qualname__', function)!r} for {file}, given {name!r}"
        raise InputError(_ends_python(told, "when it is called", error)) from error
    except Exception as error:  # of the user's code: whatever it is, the file is named
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        advice = "" if "path" in parameters else "; a parameter `path` would be given the file's path, too"
        raise InputError(
            f"the builder failed for {file}, given {name!r}: {type(error).__name__}: {reason}{advice}"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"the builder gave {type(network).__name__} for {file.stem!r}, not a torch.nn.Module")
    return network


def _by_architecture(template: str, file: Path, weights: dict[str, Tensor]) -> nn.Module:
    return build_for(_architecture(template, file), weights)


def _code_of(build: _Build, file: Path) -> str:
    """A hash of what makes a checkpoint's network: the user's function, or the architecture's name and own code."""
    assert isinstance(build, partial)
    maker = build.args[0]
    if callable(maker):
        name = getattr(maker, "__qualname__", type(maker).__qualname__)
        files = _files_named_by(maker)
        return hash_of([name, code_hash(maker), *([files] if files else [])])
    name = _architecture(maker, file)
    return hash_of([name, code_hash(builder_of(name))])


def _files_named_by(maker: Callable[..., nn.Module]) -> list[str]:
    """Hashes of the files, such as a table of widths, that the user's code behind a function names."""
    module = sys.modules.get(getattr(maker, "__module__", None) or "")
    place = getattr(module, "__file__", None)
    if place is None:
        return []
    code = Path(place)  # by its file: builders beside a study are not imported under their own names
    return [hash_file(file) for file in files_named_in(own_files_of(code.stem, code.parent).values(), code.parent)]


def _architecture(template: str, file: Path) -> str:
    """The name of an architecture that a template stands for at a checkpoint."""
    names = {"{stem}": file.stem, "{parent}": file.resolve().parent.name}
    name = template
    for placeholder, value in names.items():
        name = name.replace(placeholder, value)
    known = name if name == template else known_part(name)
    by_folder = known_part(template.replace("{stem}", names["{parent}"]))
    if known is None and by_folder is not None:
        raise InputError(
            f"no architecture is named {name!r}, but the folder of {file} is named after {by_folder!r}: builder='arch:"
            f"{template.replace('{stem}', '{parent}')}' takes that name"
        )
    return known or name


def known_part(name: str) -> str | None:
    """The longest beginning, of whole parts, that is an architecture's name: of "vgg8_vanilla" "vgg8"."""
    while not is_known(name):
        if not re.search(r"[-_.]", name):
            return None
        name = re.split(r"[-_.](?!.*[-_.])", name)[0]  # without its last part
    return name


def _module(module_name: str, base: Path) -> ModuleType:
    """A module beside the study file, as it is now, or else an installed one."""
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InputError(f"expected a builder as 'module:function', got the module {module_name!r}")
    beside = base / f"{module_name}.py"
    own = own_files_of(module_name, base)
    _forget_other_files(own)
    try:
        with _imports_beside(base):
            return _imported(module_name, beside)
    except ImportError as error:
        raise InputError(
            f"cannot import the builder's module {module_name!r} (looked in {base} too): {error}"
        ) from None
    except CapmismatchError:
        raise
    except SystemExit as error:
        place = f" ({beside})" if beside.exists() else ""
        told = f"the builder's module {module_name!r}{place}"
        raise InputError(_ends_python(told, "when it is imported", error)) from error
    except Exception as error:  # of the user's code: whatever it is, the module is named
        raise InputError(f"the builder's module {module_name!r} failed: {type(error).__name__}: {error}") from error
    finally:
        _LOADED.update({str(file): hash_file(file) for file in own.values()})


def _ends_python(what: str, when: str, error: SystemExit) -> str:
    """What to say of code that is a script, too."""
    return (
        f"{what} ends Python {when} (SystemExit: {error}), as a script does that reads its command line: put "
        'argparse and sys.exit under `if __name__ == "__main__":`'
    )


def _imported(module_name: str, beside: Path) -> ModuleType:
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


def _forget_other_files(own: Mapping[str, Path]) -> None:
    """Let a builder's imports be read anew where Python holds them of another study, or as they were before an edit."""
    importlib.invalidate_caches()
    held = {name: os.path.realpath(sys.modules[name].__file__ or "") for name in own if name in sys.modules}
    held = {name: file for name, file in held.items() if file in _LOADED}
    if any(file != str(own[name]) or _LOADED[file] != hash_file(own[name]) for name, file in held.items()):
        for name in held:  # all of them: they may have imported each other
            del sys.modules[name]
