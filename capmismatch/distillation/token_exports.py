"""A teacher's likeliest next tokens as files that language-model trainers read: made once from a bank of a text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save

from capmismatch._numerics.condense_settings import K
from capmismatch._numerics.condensed import is_kept
from capmismatch._numerics.condensing import log_sum_exp
from capmismatch._utils.files import replacing, write_text
from capmismatch._utils.optional import need
from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import Dataset
from capmismatch.data.token_bank import TokenBank
from capmismatch.data.token_inputs import NO_LABEL, TokenInputs
from capmismatch.data.token_readers import index_bits
from capmismatch.errors import InputError, must_be_one_of, must_count

FORMATS = ("distillkit", "distillkit-packed", "axolotl", "trl", "safetensors")
ROWS_AT_ONCE = 4096
WINDOWS_PER_FILE = 4096

_IDS, _ID_LISTS = pa.list_(pa.int64()), pa.list_(pa.list_(pa.int64()))
_VALUES, _BYTES = pa.list_(pa.list_(pa.float32())), pa.list_(pa.list_(pa.uint8()))
RAW = {"input_ids": pa.list_(pa.uint64()), "token_ids": _ID_LISTS, "top_values": _VALUES}
PACKED = {"input_ids": pa.list_(pa.uint64()), "compressed_logprobs": _BYTES, "bytepacked_indices": _BYTES}
AXOLOTL = {
    **{"input_ids": _IDS, "attention_mask": _IDS, "labels": _IDS},
    **{"target_token_ids": _ID_LISTS, "target_logprobs": _VALUES, "target_mask": _ID_LISTS},
}

Lists = tuple[NDArray[np.int64], NDArray[np.float32]]


def export_tokens(
    bank: LogitBank,
    text: Dataset,
    path: str | os.PathLike[str],
    format: str,
    *,
    teacher: str | None = None,
    split: str | None = None,
    k: int | None = None,
) -> dict[str, Any]:
    """Write a teacher's log-probabilities of the likeliest next tokens, at temperature 1, as a trainer reads them.

    Each list holds k wrong tokens and the label, the likeliest first, so that no label is missing. Probabilities are
    those of the whole vocabulary: what the list lacks of 1 belongs to all other tokens. Other temperatures are the
    trainer's to apply, and none can do so exactly from a list.

    Parameters
    ----------
    bank : LogitBank
        Of the text; dense or condensed.
    text : Dataset
        The text that the bank was collected on, as `load_dataset` gave it.
    path : str or Path
        A folder; a file for "safetensors".
    format : {"distillkit", "distillkit-packed", "axolotl", "trl", "safetensors"}
        * "distillkit": Parquet files ``data_N.parquet``, a window a row: `input_ids`, and for each token but the last
          `token_ids` and `top_values` of the next; lists of -inf where a position is no row.
        * "distillkit-packed": the same packed, `compressed_logprobs` in single precision and `bytepacked_indices`, with
          ``distillkit.yaml``, the settings that DistillKit has to be given. No polynomials, which would lose much.
        * "axolotl": Parquet files of tokenised windows with what its trainer takes, `target_token_ids`,
          `target_logprobs` and `target_mask`; list i is of the token i + 1. It takes lists for whole distributions, so
          they are renormalised: the student learns nothing of what they lacked.
        * "trl": a data set of Hugging Face, to be read with ``datasets.load_from_disk``: the same with `labels`,
          -100 where a position is no row, and `logprobs`.
        * "safetensors": `ids`, `log_probs` (N, k + 1), `labels`, `windows` and `positions` (N,).
    teacher : str, optional
        Its name or key, where there are several.
    split : str, optional
        "train", "val" or "test"; all rows by default.
    k : int, optional
        How many wrong tokens; by default all that a condensed bank keeps, or 64.

    Returns
    -------
    dict
        What also stands in the files' metadata: teacher, `k`, `tau`, `rows`, `vocabulary`, `label_listed`, and
        `mass_mean`, `mass_1_percent`: the mean probability of the lists, and that below which 1 % of them lie;
        `renormalised`, whether the lists were made to sum to 1.

    Raises
    ------
    InputError
        An unknown format or teacher, the bank of another text, a k that the bank does not keep.

    See Also
    --------
    read_token_logits : Reads DistillKit's format, among others.
    """
    must_be_one_of(format, FORMATS, "format")
    inputs = text.inputs
    if not isinstance(inputs, TokenInputs):
        raise InputError(f"expected the text of the bank, got data set {text.name!r}, which has no tokens")
    if text.rows.fingerprint != bank.rows.fingerprint:
        raise InputError(f"expected the text that the bank was collected on, got another one, {text.name!r}")
    if teacher is None and len(bank.keys) != 1:
        raise InputError(f"expected the key of one of {len(bank.keys)} teachers: {bank.keys}")
    key = bank.keys[0] if teacher is None else bank.key_of(teacher)
    width = _width(bank, k)
    rows = np.asarray(bank.select(split), np.int64)
    if not len(rows):
        raise InputError(f"expected rows of split {split!r}, got none")
    parts = [_lists(bank, key, rows[low : low + ROWS_AT_ONCE], width) for low in range(0, len(rows), ROWS_AT_ONCE)]
    ids, logs = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    mass = np.exp(logs.astype(np.float64)).sum(1)
    told = {
        "format": "capmismatch token lists 1",
        "teacher": key,
        "k": width,
        "tau": 1.0,
        "rows": len(rows),
        "vocabulary": len(bank.classes),
        "label_listed": True,
        "mass_mean": float(mass.mean()),
        "mass_1_percent": float(np.quantile(mass, 0.01)),
        "renormalised": format == "axolotl",
        "fingerprint": bank.rows.fingerprint,
    }
    if format == "safetensors":
        _write_tensors(Path(path), inputs, text.labels, rows, (ids, logs), told)
        return told
    sequences = _sequences(inputs, text.labels, rows, (ids, logs))
    if format == "trl":
        _write_data_set(Path(path), sequences, told)
    else:
        packed = partial(_packed, bits=index_bits(len(bank.classes)))
        forms: dict[str, tuple[dict[str, pa.DataType], Callable[[dict[str, Any]], dict[str, Any]]]] = {
            "distillkit": (RAW, _raw),
            "distillkit-packed": (PACKED, packed),
            "axolotl": (AXOLOTL, _of_axolotl),
        }
        columns, record = forms[format]
        _write_parquet(Path(path), columns, map(record, sequences), told)
        if format == "distillkit-packed":
            write_text(Path(path) / "distillkit.yaml", _settings_of_packed(len(bank.classes), width + 1))
    return told


def _width(bank: LogitBank, k: int | None) -> int:
    """How many wrong tokens a list holds."""
    if k is not None:
        must_count(k, "k", least=1)
    if not isinstance(bank, TokenBank) or bank.settings is None:
        return min(K if k is None else k, len(bank.classes) - 1)
    if k is not None and k > bank.settings.k:
        raise InputError(f"expected k of at most {bank.settings.k}, as many tokens as the bank keeps of a row, got {k}")
    if not is_kept(1.0, bank.settings.betas):
        raise InputError(f"the bank keeps no sums at temperature 1, but at betas {bank.settings.betas}")
    return bank.settings.k if k is None else k


def _lists(bank: LogitBank, key: str, rows: NDArray[np.int64], k: int) -> Lists:
    """(n, k + 1) tokens and log-probabilities, the likeliest first."""
    labels = bank.rows.labels[rows]
    if isinstance(bank, TokenBank) and bank.condensed:
        condensed = bank.condensed_rows(key, rows)
        total = log_sum_exp(condensed)
        wrong = condensed.below[:, :k].astype(np.float64) + (condensed.max_wrong - total)[:, None]
        ids, own = condensed.ids[:, :k].astype(np.int64), condensed.target - total
    else:
        logits = bank.take(key, rows).astype(np.float64)
        logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        own = logs[np.arange(len(rows)), labels]
        logs[np.arange(len(rows)), labels] = -np.inf
        ids = np.argsort(-logs, axis=1, kind="stable")[:, :k]
        wrong = np.take_along_axis(logs, ids, 1)
    ids, logs = np.c_[labels, ids], np.c_[own, wrong]
    order = np.argsort(-logs, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(logs, order, 1).astype(np.float32)


def _sequences(
    inputs: TokenInputs, labels: NDArray[np.int64], rows: NDArray[np.int64], lists: Lists
) -> Iterator[dict[str, Any]]:
    """Each window up to its last row, with the label of that row behind it, and a list for each token but the last."""
    ids, logs = lists
    window, position = inputs.window[rows], inputs.position[rows]
    width = ids.shape[1]
    order = np.lexsort((position, window))
    for own in np.split(order, np.flatnonzero(np.diff(window[order])) + 1):
        number = window[own[0]]
        last = int(own[-1])
        length = int(position[last]) + 1
        next_ids = np.tile(np.arange(width), (length, 1))
        next_logs = np.full((length, width), -np.inf, np.float32)
        told = np.full(length + 1, NO_LABEL, np.int64)
        next_ids[position[own]], next_logs[position[own]] = ids[own], logs[own]
        told[position[own] + 1] = labels[rows[own]]
        yield {
            "input_ids": [*inputs.windows[number, :length].tolist(), int(labels[rows[last]])],
            "labels": told.tolist(),
            "token_ids": next_ids.tolist(),
            "logprobs": next_logs.tolist(),
        }


def _raw(sequence: dict[str, Any]) -> dict[str, Any]:
    return {**{name: sequence[name] for name in ("input_ids", "token_ids")}, "top_values": sequence["logprobs"]}


def _packed(sequence: dict[str, Any], bits: int) -> dict[str, Any]:
    """DistillKit's packed form of a sequence: each list's values, then its ids as one stream of bits."""
    logs = np.array(sequence["logprobs"], "<f4")
    ids = np.array(sequence["token_ids"], np.int64)
    stream = (ids[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(len(ids), -1)
    return {
        "input_ids": sequence["input_ids"],
        "compressed_logprobs": logs.view(np.uint8).tolist(),
        "bytepacked_indices": np.packbits(stream, axis=1).tolist(),
    }


def _settings_of_packed(vocabulary: int, width: int) -> str:
    return (
        "# settings of DistillKit for the packed lists beside this file\n"
        f"logprob_compressor:\n  d: {vocabulary}\n  k: {width}\n  exact_k: {width}\n  exact_dtype: float32\n"
        "  polynomial_terms: null\n  residual_bins: []\n  delta_encoding: false\n  error_diffusion: false\n"
    )


def _of_axolotl(sequence: dict[str, Any]) -> dict[str, Any]:
    """A tokenised sequence as axolotl's trainer takes it: its list i is of the logits at i, so of the token i + 1."""
    logs = np.array(sequence["logprobs"], np.float64)
    told = np.asarray(np.isfinite(logs).any(1))
    logs[told] -= np.logaddexp.reduce(logs[told], axis=1, keepdims=True)
    width, length = logs.shape[1], len(sequence["input_ids"])
    mask = np.repeat(told[:, None].astype(np.int64), width, 1)
    return {
        "input_ids": sequence["input_ids"],
        "attention_mask": [1] * length,
        "labels": sequence["labels"],
        "target_token_ids": [*sequence["token_ids"], list(range(width))],
        "target_logprobs": [*logs.tolist(), [-np.inf] * width],
        "target_mask": [*mask.tolist(), [0] * width],
    }


def _write_parquet(
    folder: Path, columns: dict[str, pa.DataType], records: Iterator[dict[str, Any]], told: dict[str, Any]
) -> None:
    schema = pa.schema(columns, {"capmismatch": json.dumps(told)})
    if next(folder.glob("*.parquet"), None) is not None:
        raise InputError(f"{folder} holds Parquet files, with which these would be read: give another folder")
    batch: list[dict[str, Any]] = []

    def write(number: int) -> None:
        with replacing(folder / f"data_{number}.parquet") as temporary:
            pq.write_table(pa.Table.from_pylist(batch, schema), temporary)
        batch.clear()

    number = 0
    for record in records:
        batch.append(record)
        if len(batch) == WINDOWS_PER_FILE:
            write(number)
            number += 1
    if batch:
        write(number)


def _write_data_set(folder: Path, sequences: Iterator[dict[str, Any]], told: dict[str, Any]) -> None:
    datasets = need("datasets", "huggingface", "a data set for TRL")
    features = datasets.Features.from_arrow_schema(
        pa.schema(
            {
                "input_ids": pa.list_(pa.int64()),
                "labels": pa.list_(pa.int64()),
                "token_ids": pa.list_(pa.list_(pa.int64())),
                "logprobs": pa.list_(pa.list_(pa.float32())),
            }
        )
    )
    info = datasets.DatasetInfo(description=json.dumps(told), features=features)
    datasets.Dataset.from_list(list(sequences), features=features, info=info).save_to_disk(str(folder))


def _write_tensors(
    file: Path,
    inputs: TokenInputs,
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    lists: Lists,
    told: dict[str, Any],
) -> None:
    tensors = {
        "ids": lists[0].astype(np.int32),
        "log_probs": lists[1],
        "labels": labels[rows].astype(np.int64),
        "windows": inputs.number[inputs.window[rows]],
        "positions": inputs.position[rows],
    }
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    with replacing(file) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata))
