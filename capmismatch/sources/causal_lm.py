"""``hf-lm:OWNER/NAME`` or ``hf-lm:./FOLDERS``: causal language models of transformers, from safetensors alone.

``hf-lm:./FILES.gguf`` reads GGUF, the format of llama.cpp, through transformers: weights are dequantised.
"""

from __future__ import annotations

import json
from functools import partial
from glob import escape, glob
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch._utils.files import hash_file, hash_of
from capmismatch._utils.optional import need
from capmismatch.architectures import count_parameters
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.sources._networks import Listed, expand, on_meta, reason_of, smallest_first
from capmismatch.sources._tokenizers import as_ids
from capmismatch.sources.families import Teacher
from capmismatch.sources.huggingface import settings_hash

KIND = "hf-lm"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GGUF = ".gguf"
DTYPES = ("float32", "bfloat16")


def load(
    where: str, *, revision: str | None = None, dtype: str = "float32", base: str | Path = "."
) -> tuple[list[Teacher], None]:
    """Load the language model of a repository or local folder; brace lists name several, wildcards local folders.

    Weights are hashed, not loaded, until the first pass. The head runs in float32: in half precision, half of the
    likeliest tokens would tie with their neighbours.

    Parameters
    ----------
    where : str
        ``OWNER/NAME``, or the path of folders that `save_pretrained` made, or of GGUF files, beginning with ``.``,
        ``/`` or ``~``.
    revision : str, optional
        Branch, tag or commit of a repository.
    dtype : {"float32", "bfloat16"}
        Of all layers below the head.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.

    Raises
    ------
    InputError
        No folder or file matches, a model has no safetensors, needs code from its repository, or is no causal language
        model; a GGUF file without the package gguf.
    """
    need("transformers", "huggingface", f"{KIND}:{where}")
    must_be_one_of(dtype, DTYPES, "dtype")
    return [_teacher(place, revision, dtype) for place in _places(where, base)], None


def describe(where: str) -> list[Listed]:
    """Names and sizes from the configuration alone, smallest first."""
    need("transformers", "huggingface", f"{KIND}:{where}")
    rows = []
    for place in _places(where, "."):
        config = _config(place, None)
        params, outputs = _size(place, config)
        rows.append(Listed(_name(place), params, None, (_context(config) or 0,), outputs))
    return smallest_first(rows)


def _places(where: str, base: str | Path) -> list[str | Path]:
    if not where.startswith((".", "/", "~")):
        if where.endswith(GGUF):
            raise InputError(f"a GGUF file is read from a folder: download {where!r}, and give its path from . or / on")
        return list(expand(where))
    places: list[str | Path] = []
    for single in expand(where):
        pattern = str(Path(escape(str(base)), Path(single).expanduser()))
        folders = [path for path in map(Path, sorted(glob(pattern))) if _holds_model(path)]
        if not folders:
            raise InputError(
                f"no folder with a config.json, as save_pretrained makes them, and no {GGUF} file matches {pattern!r}"
            )
        places += [folder for folder in folders if folder not in places]
    return places


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path.suffix == GGUF and path.is_file())


def _is_gguf(place: str | Path) -> bool:
    return isinstance(place, Path) and place.suffix == GGUF


def _name(place: str | Path) -> str:
    if isinstance(place, Path):
        return place.stem if _is_gguf(place) else place.resolve().name
    return place


def _read(place: str | Path, read: Any, revision: str | None, **options: Any) -> Any:
    where: dict[str, Any] = {"local_files_only": True} if isinstance(place, Path) else {"revision": revision or "main"}
    folder = place
    if isinstance(place, Path) and _is_gguf(place):
        need("gguf", "gguf", f"{KIND}:{place}")
        folder, where["gguf_file"] = place.parent, place.name
    try:
        return read(str(folder), trust_remote_code=False, **where, **options)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, and those of the file formats
        raise InputError(f"transformers cannot load '{KIND}:{place}': {reason_of(error)}") from None


def _config(place: str | Path, revision: str | None) -> Any:
    from transformers import AutoConfig

    return _read(place, AutoConfig.from_pretrained, revision)


def _file(place: str | Path, name: str, revision: str | None) -> Path | None:
    """A file of a folder, or of a repository, which is fetched once; None where there is none."""
    if isinstance(place, Path):
        return place / name if (place / name).is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            place,
            name,
            revision=revision or "main",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=True,
        )
    except Exception as error:
        raise InputError(f"transformers cannot load '{KIND}:{place}': {reason_of(error)}") from None
    return None if found is None else Path(found)


def _weights_hash(place: str | Path, revision: str | None) -> str:
    """Hash of the files that hold the weights."""
    if isinstance(place, Path) and _is_gguf(place):
        return hash_file(place)
    single = _file(place, WEIGHTS, revision)
    if single is not None:
        return hash_file(single)
    index = _file(place, INDEX, revision)
    if index is None:
        raise InputError(
            f"'{KIND}:{place}' has no {WEIGHTS}: weights are read from safetensors alone, as other formats may run "
            "code. Save the model with save_pretrained"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is damaged: {reason_of(error)}") from None
    files = {name: _file(place, str(name), revision) for name in names}
    missing = next((name for name, file in files.items() if file is None), None)
    if missing is not None:
        raise InputError(f"'{KIND}:{place}' lacks {missing}, which its {INDEX} names")
    return hash_of([hash_file(file) for file in files.values() if file is not None])


def _size(place: str | Path, config: Any) -> tuple[int, int]:
    """Number of parameters and outputs, from the configuration."""
    from transformers import AutoModelForCausalLM

    try:
        network: Any = on_meta(partial(AutoModelForCausalLM.from_config, config, trust_remote_code=False))
    except Exception as error:  # no such architecture, or one whose code lies in the repository
        raise InputError(
            f"transformers has no causal language model for '{KIND}:{place}': {reason_of(error)}"
        ) from None
    return count_parameters(network), int(network.get_output_embeddings().weight.shape[0])


def _context(config: Any) -> int | None:
    """Tokens that the model can take; None where its configuration says nothing."""
    tokens = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(tokens) if isinstance(tokens, int) and tokens > 0 else None


class _FullPrecisionHead(nn.Module):
    """The last layer in float32, whatever runs below it, autocast or not."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.inner = nn.Linear(head.weight.shape[1], head.weight.shape[0], bias=head.bias is not None, device="meta")
        self.inner.weight = nn.Parameter(head.weight.detach().float(), requires_grad=False)
        if head.bias is not None:
            self.inner.bias = nn.Parameter(head.bias.detach().float(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """Some models ask their head for its dtype."""
        return self.inner.weight

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.inner(hidden.float())


class _Logits(nn.Module):
    """A causal language model that maps ids (B, T) to logits (B, T, V) alone; what follows the head is its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        inner.set_output_embeddings(_FullPrecisionHead(inner.get_output_embeddings()))
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(input_ids=ids, use_cache=False).logits


def _network(place: str | Path, revision: str | None, dtype: str, weights_hash: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    if _weights_hash(place, revision) != weights_hash:
        raise InputError(
            f"the weights of '{KIND}:{place}' have changed since the family was loaded: load the family again"
        )
    model, loaded = _read(
        place,
        AutoModelForCausalLM.from_pretrained,
        revision,
        dtype=getattr(torch, dtype),
        **({} if _is_gguf(place) else {"use_safetensors": True}),
        output_loading_info=True,
    )
    missing = sorted(map(str, loaded["missing_keys"]))
    if missing:  # transformers draws them at random, with no more than a warning
        raise InputError(f"'{KIND}:{place}' holds no weights for {', '.join(missing[:8])}")
    return _Logits(model).eval()


def _tokenizer(place: str | Path, revision: str | None) -> str | None:
    """The JSON of the model's tokenizer; None where it brings none that the tokenizers library can read.

    That of a GGUF file is made again from its pieces, which takes minutes for a large vocabulary: a ``tokenizer.json``
    beside the file goes before it.
    """
    if isinstance(place, Path) and _is_gguf(place):
        beside = place.parent / "tokenizer.json"
        return beside.read_text(encoding="utf-8") if beside.is_file() else _made_again(place, revision)
    file = _file(place, "tokenizer.json", revision)
    if file is not None:
        return file.read_text(encoding="utf-8")
    if _file(place, "tokenizer_config.json", revision) is None:  # transformers would make one up from the model's kind
        return None
    return _made_again(place, revision)


def _made_again(place: str | Path, revision: str | None) -> str | None:
    """The tokenizer as transformers makes it of what a model brings."""
    from transformers import AutoTokenizer

    tokenizer = _read(place, AutoTokenizer.from_pretrained, revision)
    return tokenizer.backend_tokenizer.to_str() if getattr(tokenizer, "is_fast", False) else None


def _teacher(place: str | Path, revision: str | None, dtype: str) -> Teacher:
    config = _config(place, revision)
    params, outputs = _size(place, config)
    weights_hash = _weights_hash(place, revision)
    return Teacher(
        family=KIND,
        name=_name(place),
        params=params,
        source=f"{KIND}:{_name(place)}" + (f"@{revision}" if revision else ""),
        weights_hash=weights_hash,
        preprocessing="token ids" if dtype == "float32" else f"token ids, {dtype} below the head",
        module=partial(_network, place, revision, dtype, weights_hash),
        prepare=as_ids,
        built_by=settings_hash(config),
        tokenizer=partial(_tokenizer, place, revision),
        outputs=outputs,
        context=_context(config),
    )
