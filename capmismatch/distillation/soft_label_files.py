"""Soft labels as a file that any trainer can read: made once from a bank, keyed by example id.

A ``.safetensors`` or ``.npz`` file holds

* ``soft_labels`` (V, N, C) float32, or ``soft_logits`` (V, N, C) float16, whose softmax the soft labels are; or
  ``logits`` (V, N, C), for losses that compare logits. V is the number of stored views of the inputs, one for a plain
  bank;
* ``labels`` (N,) int64 and ``ids`` of the examples: (N,) fixed-width unicode in ``.npz``; in ``.safetensors``, which
  has no strings, (N, W) uint8, UTF-8 padded with zeros;
* metadata: class names in the order of the columns, teacher, method and its settings, views, the data set and its
  fingerprint. In ``.safetensors`` as its own metadata; in ``.npz`` as JSON under ``metadata``.

Half precision is for logarithms, centred row by row, as probabilities and plain logarithms tie in it: of 1,000 classes
with normal logits of deviation 4, 370 (probabilities), 736 (logarithms) and 948 (centred) stay distinct at temperature
1, and 909, 576 and 948 at temperature 4. No probability moves by more than about 0.003 for it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from capmismatch._utils.files import replacing
from capmismatch.data.bank import LogitBank
from capmismatch.distillation.methods import SOFT_LABEL_METHODS, Method
from capmismatch.errors import BankError, InputError, must_be_one_of

DTYPES = ("float32", "float16")
ENDINGS = (".safetensors", ".npz")
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # of the probabilities whose logarithm is stored


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """What one teacher says of a data set, by example id.

    Attributes
    ----------
    values : (V, N, C) float32: soft labels, or logits where `method` is None
    ids, labels : (N,) of the examples
    classes : names of the columns
    teacher : key of the teacher in its bank
    method : how the soft labels were made of its logits
    views : names of the V data sets: the stored views of the inputs
    fingerprint : of the first
    """

    values: Tensor
    ids: NDArray[np.str_]
    labels: Tensor
    classes: tuple[str, ...]
    teacher: str
    method: Method | None
    views: tuple[str, ...]
    fingerprint: str = ""

    @cached_property
    def _row(self) -> dict[str, int]:
        return {str(name): row for row, name in enumerate(self.ids)}

    def of(self, ids: Sequence[str], view: int | Tensor = 0) -> Tensor:
        """Rows (n, C) of some examples, in the order asked for, on one view or one view an example (n,).

        Examples
        --------
        >>> from capmismatch import bank_from_arrays
        >>> soft = soft_labels(bank_from_arrays({"net": np.eye(2)}, [0, 1]), method="KD")
        >>> soft.of(["1", "0", "1"]).shape
        torch.Size([3, 2])
        """
        missing = next((name for name in ids if name not in self._row), None)
        if missing is not None:
            raise InputError(f"there are no soft labels of example {missing!r}: ids are {_some(self.ids)}")
        return self.values[view, torch.tensor([self._row[name] for name in ids], dtype=torch.int64)]

    def write(self, file: str | os.PathLike[str], dtype: str = "float32") -> Path:
        """Write the file, atomically; its ending, .safetensors or .npz, says which kind.

        Parameters
        ----------
        file : where
        dtype : "float32", or "float16" for half the size: of logits, or of centred logarithms of the soft labels
        """
        target = Path(file)
        must_be_one_of(target.suffix, ENDINGS, f"the ending of {target.name}")
        must_be_one_of(dtype, DTYPES, "dtype")
        values, name = self.values.numpy(), self._kind
        if dtype == "float16":
            if name == "soft_labels":
                logs = np.log(np.maximum(values, np.float32(SMALLEST)))
                name, values = "soft_logits", logs - logs.mean(-1, keepdims=True)
            with np.errstate(over="ignore"):
                values = values.astype(np.float16)
            if not np.isfinite(values).all():
                raise InputError(f"expected logits that float16 can hold, got some beyond of {self.teacher}")
        arrays = {name: np.ascontiguousarray(values), "labels": self.labels.numpy()}
        with replacing(target) as temporary:
            if target.suffix == ".npz":
                with open(temporary, "wb") as opened:
                    np.savez(opened, allow_pickle=False, ids=self.ids, metadata=json.dumps(self._metadata), **arrays)
            else:
                told = {
                    key: value if isinstance(value, str) else json.dumps(value) for key, value in self._metadata.items()
                }
                temporary.write_bytes(save({**arrays, "ids": _as_bytes(self.ids)}, told))
        return target

    @property
    def _kind(self) -> str:
        return "logits" if self.method is None else "soft_labels"

    @property
    def _metadata(self) -> dict[str, Any]:
        method = None if self.method is None else asdict(self.method)
        return {
            "format": "capmismatch soft labels 1",
            "teacher": self.teacher,
            "classes": list(self.classes),
            "method": method,
            "views": list(self.views),
            "fingerprint": self.fingerprint,
        }

    def __repr__(self) -> str:
        views, rows, classes = self.values.shape
        what = "logits" if self.method is None else f"soft labels ({self.method.label})"
        count = "one view" if views == 1 else f"{views} views"
        return f"{what} of {self.teacher}: {rows} examples, {classes} classes, {count}"


def soft_labels(
    bank: LogitBank | Sequence[LogitBank],
    teacher: str | None = None,
    method: Method | str | None = "KD",
    *,
    split: str | None = None,
) -> SoftLabels:
    """Soft labels of a bank's teacher.

    Parameters
    ----------
    bank : what it said; several banks of the same examples are several views of the inputs
    teacher : its key in the bank, as "mlp/mlp48-s0"; may be left out where there is but one
    method : "KD", "ATS", "ISATS", or such a `Method` with settings of one's own; None gives the logits
    split : "train", "val" or "test"; all rows by default

    Returns
    -------
    SoftLabels

    Raises
    ------
    InputError : an unknown teacher, split or method; banks of other examples; a method that makes no soft labels

    Examples
    --------
    >>> from capmismatch import bank_from_arrays
    >>> bank = bank_from_arrays({"small": np.eye(3), "large": 9 * np.eye(3)}, [0, 1, 2])
    >>> soft_labels(bank, "logits/large", Method("ISATS", tau=2.0))
    soft labels (ISATS order m=1 tau=2) of logits/large: 3 examples, 3 classes, one view
    """
    banks = [bank] if isinstance(bank, LogitBank) else list(bank)
    if not banks:
        raise InputError("expected at least one bank, got none")
    first = banks[0]
    if teacher is None:
        if len(first.keys) != 1:
            raise InputError(f"expected the key of one of {len(first.keys)} teachers: {first.keys}")
        teacher = first.keys[0]
    given = Method(method) if isinstance(method, str) else method
    if given is not None:
        must_be_one_of(given.name, SOFT_LABEL_METHODS, "a method that makes soft labels of a teacher")
        if "rank_weight" in given.options:
            raise InputError("rank_weight needs soft labels and logits: make a file of each, with and without a method")
    rows = first.select(split)
    for other in banks[1:]:
        if not (
            np.array_equal(other.rows.ids, first.rows.ids)
            and np.array_equal(other.rows.labels, first.rows.labels)
            and other.classes == first.classes
        ):
            raise InputError(f"expected views of the same examples, got {first.rows.name!r} and {other.rows.name!r}")
    values = torch.empty(len(banks), len(rows), len(first.classes))
    for view, own in zip(values, banks, strict=True):
        start = 0
        for logits, labels in own.chunks(teacher, split):
            part = torch.from_numpy(logits.astype(np.float32))
            made = part if given is None else given.soft_labels(part, torch.from_numpy(labels))
            view[start : start + len(part)] = made
            start += len(part)
    return SoftLabels(
        values,
        first.rows.ids[rows],
        torch.from_numpy(first.rows.labels[rows]),
        first.classes,
        teacher,
        given,
        tuple(own.rows.name for own in banks),
        first.rows.fingerprint,
    )


def load_soft_labels(file: str | os.PathLike[str]) -> SoftLabels:
    """Read a file that `SoftLabels.write` wrote; soft labels come as probabilities in float32, however they are stored.

    Raises
    ------
    InputError : where there is no such file, or it is of another kind
    BankError : where it is damaged
    """
    source = Path(file)
    must_be_one_of(source.suffix, ENDINGS, f"the ending of {source.name}")
    if not source.exists():
        raise InputError(f"there is no file {source}")
    try:
        arrays, told = (_read_npz if source.suffix == ".npz" else _read_safetensors)(source)
        (name,) = {"soft_labels", "soft_logits", "logits"} & arrays.keys()
        values = torch.from_numpy(arrays[name].astype(np.float32))
        if name == "soft_logits":
            values = torch.softmax(values, -1)
        found = SoftLabels(
            values,
            arrays["ids"],
            torch.from_numpy(arrays["labels"]),
            tuple(told["classes"]),
            told["teacher"],
            None if told["method"] is None else Method(**told["method"]),
            tuple(told["views"]),
            told["fingerprint"],
        )
        expected = (len(found.views), len(found.ids), len(found.classes))
        if values.shape != expected or found.labels.shape != expected[1:2]:
            raise ValueError(f"{name} of shape {tuple(values.shape)} where {expected} was expected")
    except (OSError, EOFError, ValueError, LookupError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise BankError(f"{source} is damaged, or no file of soft labels: {reason}") from None
    return found


def _read_npz(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with np.load(file, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in opened.files}
    return arrays, json.loads(str(arrays.pop("metadata")))


def _read_safetensors(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with safe_open(file, "np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        told = dict(opened.metadata() or {})
    for key in ("classes", "method", "views"):
        told[key] = json.loads(told[key])
    arrays["ids"] = _as_text(arrays["ids"])
    return arrays, told


def _as_bytes(ids: NDArray[np.str_]) -> NDArray[np.uint8]:
    """(N, W) UTF-8, padded with zeros.

    Examples
    --------
    >>> _as_bytes(np.array(["a", "bc"]))
    array([[97,  0],
           [98, 99]], dtype=uint8)
    """
    encoded = np.char.encode(ids, "utf-8")
    return np.frombuffer(encoded.tobytes(), np.uint8).reshape(len(ids), -1)


def _as_text(rows: NDArray[np.uint8]) -> NDArray[np.str_]:
    return np.char.decode(np.ascontiguousarray(rows).view(f"S{rows.shape[1]}")[:, 0], "utf-8")


def _some(ids: NDArray[np.str_]) -> str:
    shown = ", ".join(repr(str(name)) for name in ids[:3])
    return shown if len(ids) <= 3 else f"{shown}, ... ({len(ids)})"
