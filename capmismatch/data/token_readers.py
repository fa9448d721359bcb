"""Readers of saved token logits: DistillKit, vLLM, axolotl, llama.cpp, and tables with columns of one's own.

The format is told by columns, keys or the first bytes, never by a file's ending. In all of them labels are one ahead of
the position that tells them, but each has its own way to say so:

* DistillKit: list i of a sequence is of the token i + 1, and the last list is of none;
* vLLM and axolotl: list i is of the token i itself, and the first is none (axolotl: lists end with the tokens);
* llama.cpp: of each chunk of T tokens, lists of the tokens from T // 2 + 1 on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capmismatch.data.saved_tokens import SavedSequence, SavedTokens, assembled
from capmismatch.data.token_inputs import NO_LABEL
from capmismatch.errors import InputError, must_be_one_of, must_count

PREFIX = "token-logits:"
MAGIC = b"_logits_"  # of llama-perplexity --kl-divergence-base
PARQUET = b"PAR1"
RAW = ("input_ids", "token_ids", "top_values")
PACKED = ("input_ids", "compressed_logprobs", "bytepacked_indices")
LEGACY = "packed_indices"
PACKED_DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
OWN = ("tokens", "ids", "logprobs")
KEPT = 256
LOSSY = "whose polynomials lose what is asked here: unpack them with DistillKit, and save token_ids and top_values"


def read_token_logits(
    path: str | os.PathLike[str],
    vocabulary: int | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    k: int = KEPT,
    packed: Mapping[str, Any] | None = None,
) -> SavedTokens:
    """Read saved token logits of one teacher, whatever wrote them.

    Parameters
    ----------
    path : str or Path
        A file, or a folder of such files, read in the order of the numbers in their names; ``token-logits:PATH`` is
        the same. Known are

        * DistillKit: Parquet with ``input_ids``, ``token_ids``, ``top_values``; or packed, with ``input_ids``,
          ``compressed_logprobs``, ``bytepacked_indices``, where all values were kept (``exact_k`` = ``k``);
        * vLLM: JSON lines with ``prompt_token_ids`` and ``prompt_logprobs``, at the top or in ``choices``;
        * axolotl: Parquet or JSON lines with ``input_ids``, ``logprobs`` and perhaps ``target_token_ids``;
        * llama.cpp: the file of ``llama-perplexity --kl-divergence-base``;
        * Parquet or JSON lines with columns of one's own, as DistillKit's.
    vocabulary : int, optional
        V, the tokenizer's size; needed but for llama.cpp, whose file tells it.
    columns : mapping of str to str, optional
        One's own columns: ``{"tokens": ..., "ids": ..., "logprobs": ...}``, lists for each sequence of its tokens, and
        at each position of the likeliest next tokens and their log-probabilities.
    k : int, default 256
        Of llama.cpp, whose file lists all tokens: how many are kept.
    packed : mapping, optional
        Of DistillKit's packed form, whose files do not tell them: its ``logprob_compressor``, such as
        ``{"d": 49152, "k": 64, "exact_k": 64, "exact_dtype": "float32", "delta_encoding": False}``.

    Returns
    -------
    SavedTokens
        Its `findings` hold CM034 where unlisted tokens have a probability.

    Raises
    ------
    InputError
        A missing, cut or unknown file, packed logits, ids beyond the vocabulary, or probabilities above 1 in sum; the
        message names file, sequence and position.

    See Also
    --------
    saved_token_probes : What such files tell of several teachers.

    Examples
    --------
    >>> import tempfile
    >>> line = {"prompt_token_ids": [4, 2], "prompt_logprobs": [None, {"2": {"logprob": -0.1, "rank": 1}}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.jsonl")
    ...     _ = file.write_text(json.dumps(line))
    ...     saved = read_token_logits(file, vocabulary=10)
    >>> saved.labels.tolist(), saved.label_log_prob.tolist(), saved.findings
    ([2], [-0.1], ('CM034',))
    """
    place = Path(str(path).removeprefix(PREFIX)).expanduser()
    if vocabulary is not None:
        must_count(vocabulary, "vocabulary", least=3)
    must_count(k, "k", least=2)
    for name in columns or {}:
        must_be_one_of(name, OWN, "a key of columns")
    missing = [name for name in OWN if name not in columns] if columns is not None else []
    if missing:
        raise InputError(f"columns lacks {missing}: expected names of the columns with {', '.join(OWN)}")
    files = _files(place)
    kinds = {file: _kind(file, columns) for file in files}
    if len(set(kinds.values())) > 1:
        raise InputError(f"expected files of one format in {place}, got {sorted(set(kinds.values()))}")
    kind = kinds[files[0]]
    form = None
    if kind == "distillkit-packed":
        form = Packed.of(packed, vocabulary, place)
        vocabulary = form.vocabulary
    if kind == "llama.cpp":
        vocabulary = _llama_vocabulary(files, vocabulary)
    elif vocabulary is None:
        raise InputError(f"{place} does not say its vocabulary: give vocabulary, the tokenizer's size")

    def sequences() -> Iterator[SavedSequence]:
        for file in files:
            yield from _llama(file, k) if kind == "llama.cpp" else _of_records(file, kind, columns, form)

    return assembled(str(place), kind, vocabulary, sequences())


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    hidden = (".", "_")
    left_out = (".yaml", ".yml", ".md")  # a compression config, a card
    files = [file for file in place.glob("*") if file.is_file() and not file.name.startswith(hidden)]
    files = [file for file in files if file.suffix not in left_out and file.name != "dataset_info.json"]
    if not files:
        raise InputError(f"there are no saved token logits at {place}")
    return sorted(files, key=_number)


def _number(file: Path) -> tuple[int, str]:
    """By the number in the name: data_2 stands before data_10."""
    digits = "".join(sign for sign in file.stem if sign.isdigit())
    return int(digits or 0), file.name


def _kind(file: Path, columns: Mapping[str, str] | None) -> str:
    with open(file, "rb") as opened:
        start = opened.read(len(MAGIC))
    if start == MAGIC:
        return "llama.cpp"
    names = _parquet(file).schema_arrow.names if start[:4] == PARQUET else next(_json_lines(file), {})
    return _kind_of(set(names), columns, file)


def _kind_of(names: set[str], columns: Mapping[str, str] | None, file: Path) -> str:
    if columns is not None:
        missing = [name for name in columns.values() if name not in names]
        if missing:
            raise InputError(f"expected columns {sorted(columns.values())} in {file}, got {sorted(names)}")
        return "columns"
    if LEGACY in names:
        raise InputError(f"{file} holds DistillKit's earlier packed logits, {LOSSY}")
    if set(PACKED) <= names:
        return "distillkit-packed"
    if set(RAW) <= names:
        return "distillkit"
    if "prompt_logprobs" in names or "choices" in names:
        return "vllm"
    if "logprobs" in names:
        if "input_ids" not in names:
            raise InputError(
                f"{file} has logprobs, as axolotl reads them, but no input_ids: which tokens they stand for"
            )
        return "axolotl"
    if not names:
        raise InputError(f"{file} is empty")
    raise InputError(
        f"{file} is of no known format, it has {sorted(names)}: give columns={{'tokens': ..., 'ids': ..., "
        "'logprobs': ...}"
    )


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is cut or damaged: {error}") from None


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8") as opened:
        try:
            for number, line in enumerate(opened, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise InputError(f"expected an object on line {number} of {file}, got {type(record).__name__}")
                yield record
        except UnicodeDecodeError:
            raise InputError(f"{file} is of no known format: neither text, Parquet, nor a file of llama.cpp") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{file} is cut or damaged at line {number}: {error}") from None


def _records(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as opened:
        is_parquet = opened.read(4) == PARQUET
    if not is_parquet:
        yield from _json_lines(file)
        return
    try:
        for batch in _parquet(file).iter_batches(batch_size=64):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is cut or damaged: {error}") from None


def index_bits(vocabulary: int) -> int:
    """Bits of a token in DistillKit's packed form, by its own single-precision logarithm.

    Examples
    --------
    >>> index_bits(49_152), index_bits(65_536), index_bits(65_537)
    (16, 16, 17)
    """
    return int(np.ceil(np.log2(np.float32(vocabulary))))


@dataclass(frozen=True)
class Packed:
    """How DistillKit packed the lists of a file.

    Attributes
    ----------
    vocabulary : int
        How many tokens there are.
    width : int
        Tokens of a list.
    dtype : str
        Of a value.
    is_delta : bool
        Whether each value but the first is the difference from the one before.
    """

    vocabulary: int
    width: int
    dtype: str
    is_delta: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, vocabulary: int | None, place: Path) -> Packed:
        """What DistillKit's `logprob_compressor` says; its defaults are those of DistillKit."""
        if settings is None:
            raise InputError(
                f"{place} holds DistillKit's packed logits, and not how they were packed: give packed, its "
                "logprob_compressor"
            )
        missing = [name for name in ("d", "k", "exact_k") if name not in settings]
        if missing:
            raise InputError(f"packed lacks {missing}: expected DistillKit's logprob_compressor")
        for name in ("d", "k", "exact_k"):
            must_count(settings[name], f"{name} of packed", least=3 if name == "d" else 1)
        dtype = settings.get("exact_dtype", "float32")
        must_be_one_of(dtype, PACKED_DTYPES, "exact_dtype of packed")
        if settings["exact_k"] != settings["k"]:
            raise InputError(
                f"{place} holds DistillKit's packed logits with {settings['exact_k']} of {settings['k']} values exact, "
                f"{LOSSY}"
            )
        if vocabulary not in (None, settings["d"]):
            raise InputError(f"expected a vocabulary of {vocabulary}, got d = {settings['d']} in packed")
        return cls(int(settings["d"]), int(settings["k"]), dtype, bool(settings.get("delta_encoding", True)))

    def read(self, record: Mapping[str, Any]) -> SavedSequence:
        """A sequence with its lists unpacked."""
        bits = index_bits(self.vocabulary)
        values = _bytes_of(record["compressed_logprobs"], self.width * np.dtype(PACKED_DTYPES[self.dtype]).itemsize)
        ids = _bytes_of(record["bytepacked_indices"], -(-self.width * bits // 8))
        logs = values.view(PACKED_DTYPES[self.dtype])
        if self.dtype == "bfloat16":  # the upper half of a float32
            logs = (logs.astype("<u4") << 16).view("<f4")
        logs = np.cumsum(logs.astype(np.float64), 1) if self.is_delta else logs.astype(np.float64)
        stream = np.unpackbits(ids, axis=1)[:, : self.width * bits].reshape(len(ids), self.width, bits)
        tokens = stream.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
        return _ahead(record["input_ids"], tokens.tolist(), logs.tolist())


def _bytes_of(lists: Sequence[Sequence[int]], width: int) -> NDArray[np.uint8]:
    wrong = next((place for place, one in enumerate(lists) if len(one) != width), None)
    if wrong is not None:
        raise InputError(f"expected {width} packed bytes of each list, got {len(lists[wrong])} at {wrong}")
    return np.array(lists, np.uint8).reshape(len(lists), width)


def _of_records(
    file: Path, kind: str, columns: Mapping[str, str] | None, packed: Packed | None
) -> Iterator[SavedSequence]:
    read: Callable[[dict[str, Any]], SavedSequence] = {
        "distillkit": lambda record: _ahead(*(record[name] for name in RAW)),
        "columns": lambda record: _ahead(*(record[(columns or {})[name]] for name in OWN)),
        "vllm": _vllm,
        "axolotl": _axolotl,
        **({} if packed is None else {"distillkit-packed": packed.read}),
    }[kind]
    for number, record in enumerate(_records(file)):
        try:
            yield read(record)
        except InputError as error:
            raise InputError(f"sequence {number} of {file}: {error}") from None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"sequence {number} of {file} is no sequence of {kind}: {reason}") from None


def _same_lengths(ids: Sequence[Sequence[int]], logs: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """The log-probabilities, NaN where a table has none."""
    if len(ids) != len(logs):
        raise InputError(f"expected as many lists of ids as of log-probabilities, got {len(ids)} and {len(logs)}")
    for place, (some, values) in enumerate(zip(ids, logs, strict=True)):
        if len(some) != len(values):
            raise InputError(f"expected as many ids as log-probabilities, got {len(some)}, {len(values)} at {place}")
    return [[np.nan if value is None else float(value) for value in values] for values in logs]


def _ahead(tokens: Sequence[int], ids: Sequence[Sequence[int]], logs: Sequence[Sequence[float]]) -> SavedSequence:
    """List i is of token i + 1; a list of what follows the last token has no label."""
    _must_have_tokens(tokens)
    logs = _same_lengths(ids, logs)
    if len(ids) not in (len(tokens), len(tokens) - 1):
        raise InputError(f"expected {len(tokens) - 1} or {len(tokens)} lists of next tokens, got {len(ids)}")
    count = len(tokens) - 1
    return SavedSequence(_told(tokens[1:], logs), ids[:count], logs[:count])


def _must_have_tokens(tokens: Sequence[int]) -> None:
    if not len(tokens):
        raise InputError("expected tokens in every sequence, got none: an empty document")


def _told(labels: Sequence[int], logs: Sequence[Sequence[float]]) -> list[int]:
    """The labels of lists that hold something: positions that were masked have a list of -inf."""
    return [
        label if any(value != -np.inf for value in values) else NO_LABEL
        for label, values in zip(labels, logs, strict=False)
    ]


def _token(name: str | int) -> int:
    """A token's number, as itself, as a key of JSON, or as servers name it.

    Examples
    --------
    >>> _token(7), _token("7"), _token("token_id:7")
    (7, 7, 7)
    """
    number = str(name).removeprefix("token_id:")
    if not number.isdecimal():
        raise InputError(f"expected the number of a token, such as 123 or 'token_id:123', got {name!r}")
    return int(number)


def _vllm(record: dict[str, Any]) -> SavedSequence:
    """List i is of token i, the first is none; the label stands in the list, perhaps behind rank k."""
    if "choices" in record:
        (record,) = record["choices"]
    tokens, lists = record["prompt_token_ids"], record["prompt_logprobs"]
    if lists is None:
        raise InputError("expected lists of log-probabilities, got none: ask vLLM for prompt_logprobs")
    _must_have_tokens(tokens)
    if len(tokens) != len(lists):
        raise InputError(f"expected a list for each of {len(tokens)} tokens, got {len(lists)}")
    if lists[0]:
        raise InputError("expected none for the first token, which nothing precedes")
    labels, ids, logs, own = [], [], [], []
    for place, (label, entries) in enumerate(zip(tokens[1:], lists[1:], strict=True), start=1):
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise InputError(f"expected an object for each listed token of token {place}, got {entries!r:.60}")
        told = {_token(token): float(entry["logprob"]) for token, entry in entries.items()}
        head = [token for token in told if token != label or not _is_extra(label, told, entries)]
        labels.append(label)
        ids.append(head)
        logs.append([told[token] for token in head])
        own.append(told.get(label, np.nan))
    return SavedSequence(labels, ids, logs, own)


def _is_extra(label: int, told: Mapping[int, float], entries: Mapping[str, Any]) -> bool:
    """Whether the label stands in its list only because vLLM always tells it: behind all others, by rank if told."""
    ranks = {_token(token): entry.get("rank") for token, entry in entries.items()}
    rank = ranks[label]
    return len(told) > 1 and told[label] <= min(told.values()) and (rank is None or rank > len(told))


def _axolotl(record: dict[str, Any]) -> SavedSequence:
    """Lists end with the tokens, and list i is of the token in its place; no list is of the first token."""
    tokens, lists = list(record["input_ids"]), [row or [] for row in record["logprobs"]]
    _must_have_tokens(tokens)
    mask = record.get("labels") or tokens
    if len(mask) != len(tokens):
        raise InputError(f"expected a label for each of {len(tokens)} tokens, got {len(mask)}")
    if len(lists) > len(tokens):
        raise InputError(f"expected at most {len(tokens)} lists, got {len(lists)}")
    if "target_token_ids" in record and record["target_token_ids"] is not None:
        ids, logs = [row or [] for row in record["target_token_ids"]], lists
    else:
        ids = [[_token(entry["token"]) for entry in row] for row in lists]
        logs = [[float(entry["logprob"]) for entry in row] for row in lists]
    logs = _same_lengths(ids, logs)
    first = len(tokens) - len(lists)
    labels = [
        NO_LABEL if mask[place] == NO_LABEL or place == 0 else tokens[place] for place in range(first, len(tokens))
    ]
    return SavedSequence(_told(labels, logs), ids, logs)


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def _numbers(opened: BinaryIO, file: Path, dtype: str, count: int) -> NDArray[Any]:
    wanted, left = np.dtype(dtype).itemsize * count, file.stat().st_size - opened.tell()
    if left < wanted:  # found out before memory is asked for: a damaged head may ask for any amount
        raise InputError(f"{file} is cut: expected {count} numbers ({dtype}) more at its end, got {left} bytes")
    return np.frombuffer(opened.read(wanted), dtype)


def _llama_head(opened: BinaryIO, file: Path) -> tuple[int, int, int]:
    opened.seek(len(MAGIC))
    context, vocabulary, chunks = (int(value) for value in _numbers(opened, file, "<i4", 3))
    if context < 4 or vocabulary < 3 or chunks < 1:
        raise InputError(f"{file} is damaged: context {context}, vocabulary {vocabulary}, chunks {chunks}")
    return context, vocabulary, chunks


def _llama_vocabulary(files: Sequence[Path], given: int | None) -> int:
    sizes = set()
    for file in files:
        with open(file, "rb") as opened:
            sizes.add(_llama_head(opened, file)[1])
    if len(sizes) > 1:
        raise InputError(f"expected files of one vocabulary, got {sorted(sizes)}")
    (own,) = sizes
    if given not in (None, own):
        raise InputError(f"expected a vocabulary of {given}, got {own} in {files[0]}")
    return own


def _llama(file: Path, k: int) -> Iterator[SavedSequence]:
    """Log-probabilities of all tokens in 16 bits, from 16 below the largest logit; lower ones are lost."""
    with open(file, "rb") as opened:
        context, vocabulary, chunks = _llama_head(opened, file)
        tokens = _numbers(opened, file, "<i4", context * chunks).reshape(chunks, context)
        first = context // 2
        width = 2 * ((vocabulary + 1) // 2) + 4
        for chunk in tokens:
            labels = chunk[first + 1 :]
            rows = _numbers(opened, file, "<u2", width * len(labels)).reshape(len(labels), width)
            scales = np.ascontiguousarray(rows[:, :4]).view("<f4").astype(np.float64)
            steps = rows[:, 4 : 4 + vocabulary].astype(np.float64)
            logs = np.where(steps > 0, scales[:, :1] * steps + scales[:, 1:], -np.inf)
            kept = np.argsort(-logs, axis=1, kind="stable")[:, :k]
            inside = (labels >= 0) & (labels < vocabulary)
            own = logs[np.arange(len(labels)), np.where(inside, labels, 0)]
            own = np.where(inside & np.isfinite(own), own, np.nan)
            yield SavedSequence(labels.tolist(), list(kept), list(np.take_along_axis(logs, kept, 1)), own.tolist())
        if opened.read(1):
            raise InputError(f"{file} is damaged: expected its end after {chunks} chunks, got more bytes")
