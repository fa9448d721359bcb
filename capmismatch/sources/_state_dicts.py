"""State dicts as trainers leave them: read without running code, unwrapped, named as the network names its weights."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from capmismatch.errors import InputError

PLAIN = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",  # of DeepSpeed
    "params",
    "weights",
)
AVERAGED = re.compile(r"(?:^|[^a-z])(ema|swa|avg|averaged?|polyak|shadow)(?:[^a-z]|$)", re.IGNORECASE)
# Of torch.compile, FSDP, Lightning Fabric and activation checkpointing, wherever they stand in a name; and of
# DataParallel, which stands first.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_forward_module|_checkpoint_wrapped_module)\.")
PARALLEL = "module."
# Of averaged models, of thop, and of batch norm, whose counters came after many published checkpoints: nothing in eval
# mode reads them.
COUNTERS = ("n_averaged", "total_ops", "total_params", "num_batches_tracked")
BESIDE = ("criterion", "loss", "metric")
MOST_PREFIXES = 8


@dataclass(frozen=True)
class WeightsChoice:
    """Which weights of a checkpoint are meant, where it holds several.

    Attributes
    ----------
    key : str or None
        Under which key of the file they lie, such as "state_dict_ema"; a dot leads further down.
    prefix : str or None
        With what their names begin, such as "student.".
    """

    key: str | None = None
    prefix: str | None = None

    def hash_with(self, file_hash: str) -> str:
        """Tells weights of one file apart: the file's hash, and another one for each choice made."""
        if self == WeightsChoice():
            return file_hash
        return hashlib.sha256(f"{file_hash}\0{self.key}\0{self.prefix}".encode()).hexdigest()


@dataclass(frozen=True)
class StateDict:
    """The tensors of one network, and what should be said of where they come from ("" where there was no choice)."""

    tensors: dict[str, Tensor]
    told: str = ""


@dataclass(frozen=True)
class Fitted:
    """A network with its weights loaded, and what should be said of them."""

    network: nn.Module
    told: str


# --- reading ---------------------------------------------------------------------------------------------------------


class _Inert:
    """Stands for an object of a trainer's settings: nothing of the class that it replaces is run."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict:
    """Stands for a kind of dict: its entries are read into a plain one."""

    def __new__(cls, *_: Any) -> Any:
        return {}


HARMLESS = {
    **dict.fromkeys(("argparse.Namespace", "types.SimpleNamespace"), _Inert),
    **dict.fromkeys((f"numpy.{name}" for name in ("dtype", "ndarray")), _Inert),
    **dict.fromkeys(
        (f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")), _Inert
    ),
    **dict.fromkeys(
        (
            f"pathlib.{module}{name}"
            for module in ("", "_local.")
            for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
        ),
        _Inert,
    ),
    **dict.fromkeys((f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")), _Inert),
    # As the kinds of a defaultdict's or a settings' values.
    **dict.fromkeys((f"builtins.{name}" for name in ("list", "dict", "tuple", "int", "float", "str", "bool")), _Inert),
    "collections.defaultdict": _InertDict,
    **dict.fromkeys(
        (
            f"{module}.AttributeDict"
            for module in (
                "lightning_fabric.utilities.data",
                "lightning.fabric.utilities.data",
                "pytorch_lightning.utilities.parsing",
            )
        ),
        _InertDict,
    ),
}
"""What settings beside the weights are made of, and what is put in its place."""


def _stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """One class for each name of `HARMLESS`: torch's reader knows allowed classes by module and name."""
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for path, kind in HARMLESS.items():
        module, name = path.rsplit(".", 1)
        stand_ins.append(type(name, (kind,), {"__module__": module, "__qualname__": name}))
    return stand_ins


def read_state_dict(file: Path, choice: WeightsChoice | None = None) -> StateDict:
    """Weights of a checkpoint, unwrapped from what trainers put around them. Runs no code from the file."""
    whole, key = _read_checkpoint(file), (choice or WeightsChoice()).key
    content, told = _unwrapped(whole, file) if key is None else _under_key(whole, key, file)
    tensors = (
        {_text(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if _is_dict(content)
        else {}
    )
    if not tensors:
        what = type(content).__name__
        if _is_dict(content):
            kinds = sorted({_kind_of_value(value) for value in content.values()})
            what = f"keys {list(content)[:8]}" + (f" of {', '.join(kinds)}" if kinds else "")
        raise InputError(
            f"{file} holds no state dict: expected a mapping from names to tensors, perhaps under one of "
            f"{list(PLAIN)} or under another key that key= names, got {what}"
        )
    if "n_averaged" in tensors and "averaged" not in told:
        told = f"averaged weights{' ' + told if told else ''}"
    taken, *others = _alike(whole, content)
    others = [name for name in others if repr(name.partition(".")[0]) not in told and repr(name) not in told]
    if others and key is None:
        mine = f"weights {taken!r}" if taken else "the first weights"
        told = f"{told or mine}, not {', '.join(map(repr, others[:4]))}"
    return StateDict(tensors, told)


def _kind_of_value(value: Any) -> str:
    is_array = isinstance(value, _Inert) and type(value).__name__ in ("_reconstruct", "ndarray", "scalar")
    return "NumPy arrays" if is_array else type(value).__name__


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _alike(whole: Any, taken: Mapping[Any, Any]) -> list[str]:
    """Where in a file the weights lie that are taken, and then where others of the same shapes do.

    These are averaged ones, those of the best epoch, or of callbacks.
    """
    wanted = _shapes(taken)
    found: list[str] = [""]

    def look(content: Any, path: str, depth: int) -> None:
        if content is taken:
            found[0] = path
        if content is taken or depth > 4:
            return
        if isinstance(content, list | tuple):
            content = dict(enumerate(content))
        if not _is_dict(content):
            return
        if path and _shapes(content) == wanted:
            found.append(path)
        for name, value in content.items():
            look(value, f"{path}.{_text(name)}".removeprefix("."), depth + 1)

    look(whole, "", 0)
    return found


def _shapes(content: Mapping[Any, Any]) -> Counter[tuple[int, ...]]:
    """Of the tensors in a mapping, without counters and wrappers' own."""
    return Counter(
        tuple(value.shape)
        for name, value in content.items()
        if isinstance(value, Tensor) and not value.is_nested and value.ndim and not _text(name).endswith(COUNTERS)
    )


def _read_checkpoint(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except SafetensorError as error:
        raise InputError(f"{file} is not a readable checkpoint: {error}. Copy or download it again.") from None
    except OSError as error:
        raise InputError(f"{file} is not a readable checkpoint: {error}") from None
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... on hostile or broken files
        # Not torch's own text, which explains how to run the code in the file.
        requested = re.search(r"GLOBAL (\S+)", str(error))
        reason = "it is damaged, or no checkpoint of torch.save. Copy or download it again; where it is whole, save"
        if requested:
            reason = f"it asks for {requested[1]}. Save"
        raise InputError(
            f"{file} cannot be read with weights only, and capmismatch never runs code from a checkpoint: {reason} "
            "its state_dict() instead."
        ) from None


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _count_tensors(value: Any) -> int:
    """How many tensors a mapping holds itself."""
    return sum(isinstance(item, Tensor) for item in value.values()) if _is_dict(value) else 0


def _unwrapped(content: Any, file: Path) -> tuple[Any, str]:
    """The innermost mapping that the usual keys lead to; averaged weights only where there are no plain ones."""
    told, path = "", ""
    for _ in range(4):
        if not _is_dict(content):
            break
        nested = [key for key, value in content.items() if _is_dict(value) and value and isinstance(key, str)]
        plain = [key for key in PLAIN if key in nested and _holds_weights(content[key])]
        averaged = [key for key in nested if AVERAGED.search(key) and _holds_weights(content[key])]
        own = _count_tensors(content)
        if own > 1 and averaged and not plain and own >= max(_most_tensors(content[key]) for key in averaged):
            return content, f"plain weights, not the averaged {path + averaged[0]!r}"
        other = [key for key in nested if _count_tensors(content[key]) > _count_tensors(content)]
        if not (plain or averaged or other or own):  # a trainer's own folder of things
            other = [key for key in nested if _holds_weights(content[key])]
        if not (plain or averaged or other):
            break
        if not (plain or averaged) and len(other) > 1:
            raise InputError(f"{file} holds several state dicts, under {other}: choose one by key=")
        key = (plain or averaged or other)[0]
        if averaged:
            told = f"averaged weights {path + averaged[0]!r}"
            told = f"plain weights {path + key!r}, not the {told.replace(' weights', '', 1)}" if plain else told
        content, path = content[key], f"{path}{key}."
    return content, told


def _holds_weights(value: Any) -> bool:
    return _most_tensors(value) > 0


def _most_tensors(value: Any) -> int:
    """The tensors of a mapping itself, or of the one in it that holds most."""
    items = list(value.values()) if _is_dict(value) else []
    return max([_count_tensors(value), *map(_count_tensors, items)])


def _under_key(content: Any, key: str, file: Path) -> tuple[Any, str]:
    inner = _at(content, key)
    if inner is None:
        keys = [str(name) for name, value in content.items() if _is_dict(value)] if _is_dict(content) else []
        raise InputError(f"{file} holds no weights under the key {key!r}; the mappings in it are {keys[:8]}")
    inner, _ = _unwrapped(inner, file)
    return inner, f"{'averaged ' if AVERAGED.search(key) else ''}weights {key!r}"


def _at(content: Any, key: str) -> Any:
    """What lies under a key, or under several joined by dots."""
    if not _is_dict(content):
        return None
    if _is_dict(content.get(key)):
        return content[key]
    heads = [name for name in content if isinstance(name, str) and key.startswith(f"{name}.")]  # which may have dots
    return next((found for name in heads if (found := _at(content[name], key[len(name) + 1 :])) is not None), None)


# --- names -----------------------------------------------------------------------------------------------------------


def fit(
    build: Callable[[dict[str, Tensor]], nn.Module], state: StateDict, choice: WeightsChoice, message: str
) -> Fitted:
    """The network that `build` makes for some weights, with these loaded under the names that the network has.

    Names are tried as they are, then without what wrappers add, then without a prefix that sets one network's weights
    apart from others (a student's from its teacher's, a model's from its criterion's).

    Parameters
    ----------
    build : callable
        From a state dict, whose shapes show the sizes, to a network.
    state : StateDict
        The weights.
    choice : WeightsChoice
        Its `prefix` leaves only that one to try.
    message : str
        What to say, before the differences, where nothing fits.

    Returns
    -------
    Fitted
        The network in eval mode.

    Raises
    ------
    InputError
        With the differences of the nearest attempt, or where several prefixes fit.
    """
    tries = _Tries(build)
    tensors, told = state.tensors, state.told
    if choice.prefix is not None:
        tensors = _with_prefix(tensors, choice.prefix, message)
        told = f"{told + ', ' if told else ''}prefix {choice.prefix!r}"
    for named in _without_wrappers(tensors):
        network = tries(named)
        if network is not None:
            return Fitted(network, told)
    cleaned = list(_without_wrappers(tensors))[-1]
    fitting = {}
    for prefix in _prefixes(cleaned, tries.needed) if choice.prefix is None else ():
        network = tries(_with_prefix(cleaned, prefix, message))
        if network is not None:
            fitting[prefix] = network
    if len(fitting) > 1:
        raise InputError(f"{message}: weights named {list(fitting)} fit it, choose one by prefix=")
    for prefix, network in fitting.items():
        others = any(not name.startswith(prefix) and not _may_be_left(name) for name in cleaned)
        return Fitted(network, f"{told + ', ' if told else ''}prefix {prefix!r}" if others else told)
    raise tries.error(message)


class _Tries:
    """Attempts to load weights, and what went wrong with the nearest one."""

    def __init__(self, build: Callable[[dict[str, Tensor]], nn.Module]) -> None:
        self.build, self.needed = build, 1
        self.nearest: dict[str, list[str]] | None = None
        self.refusal: InputError | None = None

    def __call__(self, tensors: dict[str, Tensor]) -> nn.Module | None:
        try:
            network = self.build(tensors)
        except InputError as error:
            self.refusal = self.refusal or error
            return None
        expected = network.state_dict()
        self.needed = sum(not name.endswith(COUNTERS) for name in expected)
        differences = _load(network, expected, tensors)
        if not any(differences.values()):
            return network.eval()
        if self.nearest is None or _size(differences) < _size(self.nearest):
            self.nearest = differences
        return None

    def error(self, message: str) -> InputError:
        if self.nearest is None:
            assert self.refusal is not None
            return self.refusal
        lists = [
            f"{title}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
            for title, keys in self.nearest.items()
            if keys
        ]
        return InputError(f"{message}; {'; '.join(lists)}")


def _size(differences: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, differences.values()))


def _load(network: nn.Module, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Load the weights, by the network's own hooks too, which may know other names; what does not fit, in lists."""
    wrong_shapes = [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if expected[name].shape != tensors[name].shape
    ]
    known = {name: value for name, value in tensors.items() if name in expected or not _may_be_left(name)}
    wrong_kinds = {
        name: kind for name in sorted(expected.keys() & known.keys()) if (kind := _kind(known[name], expected[name]))
    }
    fitting = {
        name: value
        for name, value in known.items()
        if name not in expected or (expected[name].shape == value.shape and name not in wrong_kinds)
    }
    try:
        result = network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # shapes of weights that a hook has renamed
        sizes = r"size mismatch for (\S+): .*?\[([\d, ]*)\].*?\[([\d, ]*)\]"
        renamed = [f"{name} ({given}), expected ({wanted})" for name, given, wanted in re.findall(sizes, str(error))]
        return {"missing": [], "unexpected": [], "of another shape": [*wrong_shapes, *(renamed or [str(error)[:200]])]}
    return {
        "missing": sorted(name for name in result.missing_keys if not name.endswith(COUNTERS) and name not in tensors),
        "unexpected": sorted(result.unexpected_keys),
        "of another shape": wrong_shapes,
        "of another kind": [f"{name} ({kind}), expected plain numbers" for name, kind in wrong_kinds.items()],
    }


def _kind(value: Tensor, expected: Tensor) -> str:
    """What weights are instead of numbers that the network could hold as they are; "" where they can be loaded."""
    if value.is_meta:
        return "meta, without values"
    if value.is_quantized or value.layout != torch.strided:
        return "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
    if value.is_complex() and not expected.is_complex():
        return "complex"
    is_whole = not value.is_floating_point() and not value.is_complex()
    return str(value.dtype).removeprefix("torch.") if is_whole and expected.is_floating_point() else ""


def _may_be_left(name: str) -> bool:
    """Whether a tensor is a counter, or of a criterion or metric that stood beside the network."""
    return name.endswith(COUNTERS) or name.split(".", 1)[0].lower().startswith(BESIDE)


def _without_wrappers(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights under the names that they have, then without the names of wrappers."""
    yield tensors
    cleaned = {_clean(name): value for name, value in tensors.items()}
    if len(cleaned) == len(tensors) and cleaned.keys() != tensors.keys():
        yield cleaned


def _clean(name: str) -> str:
    name = WRAPPERS.sub("", name)
    while name.startswith(PARALLEL):
        name = name.removeprefix(PARALLEL)
    return name


def _prefixes(tensors: Mapping[str, Tensor], needed: int) -> list[str]:
    """Beginnings of names, up to three parts, that as many weights share as the network has."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        if not name.endswith(COUNTERS):
            counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(4, len(parts))))
    return [prefix for prefix, count in counts.most_common() if count >= needed][:MOST_PREFIXES]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str, message: str) -> dict[str, Tensor]:
    """The weights whose names begin so, without that."""
    start = prefix if prefix.endswith(".") else f"{prefix}."
    found = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    if not found:
        beginnings = list(dict.fromkeys(name.split(".", 1)[0] for name in tensors))
        raise InputError(f"{message}: no weight begins with {start!r}; they begin with {beginnings[:8]}")
    return found
