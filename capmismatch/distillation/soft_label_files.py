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
1, and 909, 576 and 948 at temperature 4. It changes no probability by more than about 0.003.

*Soft labels* here are values for a trainer; softening, by a temperature, is `capmismatch.temperature`. ``labels`` are
the classes of the examples.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
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
from capmismatch.distillation.methods import PREPARED, SOFT_LABEL_METHODS, Method
from capmismatch.errors import BankError, InputError, must_be_one_of

DTYPES = ("float32", "float16")
ENDINGS = (".safetensors", ".npz")
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # of the probabilities whose logarithm is stored


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """One teacher's soft labels, or logits, for a data set, by example id.

    Attributes
    ----------
    values : Tensor, shape (V, N, C)
        Soft labels, or logits if `method` is None; float32.
    ids : array of str, shape (N,)
        Of the examples.
    labels : Tensor of int, shape (N,)
        Classes of the examples.
    classes : tuple of str
        Class names, in the order of the columns.
    teacher : str
        Key of the teacher in its bank.
    method : Method or None
        How the soft labels were made of its logits.
    views : tuple of str
        Names of the V data sets: the stored views of the inputs.
    fingerprint : str
        Of the first data set.
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

    def of(self, ids: Sequence[str] | Sequence[int] | Tensor, view: int | Tensor = 0) -> Tensor:
        """Return the rows of some examples.

        Parameters
        ----------
        ids : sequence of str or int
            The examples, in any order; a number is the id that it makes as text.
        view : int or Tensor of int, shape (n,), default 0
            One view, or one for each example.

        Returns
        -------
        Tensor, shape (n, C)
            The rows, in the order of `ids`.

        Examples
        --------
        >>> from capmismatch import bank_from_arrays
        >>> soft = soft_labels(bank_from_arrays({"net": np.eye(2)}, [0, 1]), method="KD")
        >>> soft.of(["1", "0", "1"]).shape, soft.of([1, 0]).shape
        (torch.Size([3, 2]), torch.Size([2, 2]))
        """
        plain = ids.tolist() if hasattr(ids, "tolist") else ids
        names = [str(name) for name in plain]
        missing = next((name for name in names if name not in self._row), None)
        if missing is not None:
            raise InputError(f"there are no soft labels of example {missing!r}: ids are {_some(self.ids)}")
        return self.values[view, torch.tensor([self._row[name] for name in names], dtype=torch.int64)]

    def write(self, file: str | os.PathLike[str], dtype: str = "float32") -> Path:
        """Write the file, atomically.

        Parameters
        ----------
        file : str or path
            Its ending, .safetensors or .npz, says which kind.
        dtype : str, default "float32"
            "float16" takes half the size: of logits, or of centred logarithms of the soft labels.

        Returns
        -------
        Path
            The file.

        See Also
        --------
        load_soft_labels : Read the file.
        """
        target = Path(file)
        must_be_one_of(target.suffix, ENDINGS, f"the ending of {target.name}")
        must_be_one_of(dtype, DTYPES, "dtype")
        name, values = self._half_precision() if dtype == "float16" else (self._array_name, self.values.numpy())
        arrays = {name: np.ascontiguousarray(values), "labels": self.labels.numpy()}
        with replacing(target) as temporary:
            if target.suffix == ".npz":
                with open(temporary, "wb") as opened:
                    np.savez(opened, allow_pickle=False, ids=self.ids, metadata=json.dumps(self._metadata), **arrays)
            else:
                metadata = {
                    key: value if isinstance(value, str) else json.dumps(value) for key, value in self._metadata.items()
                }
                temporary.write_bytes(save({**arrays, "ids": _as_bytes(self.ids)}, metadata))
        return target

    def _half_precision(self) -> tuple[str, NDArray[np.float16]]:
        """Name and values of the array in float16: logits, or centred logarithms of the soft labels."""
        name, values = self._array_name, self.values.numpy()
        if name == "soft_labels":
            logs = np.log(np.maximum(values, np.float32(SMALLEST)))
            name, values = "soft_logits", logs - logs.mean(-1, keepdims=True)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise InputError(f"expected logits that float16 can hold, got some beyond of {self.teacher}")
        return name, half

    @property
    def _array_name(self) -> str:
        return "logits" if self.method is None else "soft_labels"

    @property
    def _metadata(self) -> dict[str, Any]:
        method = None if self.method is None else self.method.to_dict()
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
        kind = "logits" if self.method is None else f"soft labels ({self.method.soft_label_name})"
        count = "one view" if views == 1 else f"{views} views"
        return f"{kind} of {self.teacher}: {rows} examples, {classes} classes, {count}"


def soft_labels(
    bank: LogitBank | Sequence[LogitBank],
    teacher: str | None = None,
    method: Method | str | None = "KD",
    *,
    split: str | None = None,
    held_out: LogitBank | None = None,
) -> SoftLabels:
    """Make soft labels of a bank's logits.

    Parameters
    ----------
    bank : LogitBank or sequence of LogitBank
        The logits. Several banks of the same examples are several views of the inputs.
    teacher : str, optional
        Its name, ``family/name``, or key in the bank, such as "mlp/mlp48-s0"; of several training runs the name takes
        the first, with a warning. May be left out if there is only one.
    method : Method or str or None, default "KD"
        "KD", "ATS", "ISATS" or "CalKD", or such a `Method`, also "MatchKD" or "ClassKD". None gives the logits.
    split : str, optional
        "train", "val" or "test"; all rows by default.
    held_out : LogitBank, optional
        Whose "val" rows tell the temperature of CalKD and MatchKD; by default those of `bank`.

    Returns
    -------
    SoftLabels
        With one view per bank.

    Raises
    ------
    InputError
        An unknown teacher, split or method; banks of other examples; a method that makes no soft labels; no "val" rows
        where the method needs them.

    See Also
    --------
    load_soft_labels : Read soft labels from a file.
    capmismatch.Method : The settings.
    capmismatch.temperature : The formulas.

    Notes
    -----
    The class means of ClassKD are over the rows of the file, in all views, as those of a study are over its training
    rows. Of a second teacher with several training runs it is the run of the teacher's own seed, else the first.

    Examples
    --------
    >>> from capmismatch import bank_from_arrays
    >>> bank = bank_from_arrays({"small": np.eye(3), "large": 9 * np.eye(3)}, [0, 1, 2])
    >>> soft_labels(bank, "logits/large", Method("ISATS", tau=2.0))
    soft labels (ISATS order m=1 tau=2) of logits/large: 3 examples, 3 classes, one view
    """
    banks = _views_of_the_same(bank)
    first = banks[0]
    key = first.key_of(teacher) if teacher is not None else _only_key(first)
    setting = _checked(Method(method) if isinstance(method, str) else method)
    rows = first.select(split)
    more = {} if setting is None else _beside_the_rows(setting, banks, key, split, held_out)
    values = torch.empty(len(banks), len(rows), len(first.classes))
    for view, view_bank in zip(values, banks, strict=True):
        start = 0
        for logits, labels in view_bank.chunks(key, split):
            chunk = torch.from_numpy(logits.astype(np.float32))
            end = start + len(chunk)
            view[start:end] = chunk if setting is None else setting.soft_labels(chunk, torch.from_numpy(labels), **more)
            start = end
    return SoftLabels(
        values,
        first.rows.ids[rows],
        torch.from_numpy(first.rows.labels[rows]),
        first.classes,
        key,
        setting,
        tuple(view_bank.rows.name for view_bank in banks),
        first.rows.fingerprint,
    )


def _beside_the_rows(
    method: Method, banks: Sequence[LogitBank], key: str, split: str | None, held_out: LogitBank | None
) -> dict[str, Any]:
    """What a method's soft labels are made of beside a row's own logits; nothing for most."""
    if method.name not in PREPARED:
        return {}
    if method.share is not None:
        return {"class_means": _class_means(banks, _second(banks[0], key, method), method.tau or 1.0, split)}
    known = banks[0] if held_out is None else held_out
    rows = known.select("val") if "val" in known.rows.split else np.empty(0, dtype=np.int64)
    if not len(rows):
        raise InputError(
            f"{method.label} needs 'val' rows to find the teacher's temperature on, and {known.rows.name!r} has none: "
            "give a bank that has some as held_out"
        )
    logits, labels = (known.take(known.key_of(key), rows), known.labels("val"))
    more: dict[str, Any] = {"held_out": (torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels))}
    if method.match is not None:
        other = known.take(_second(known, key, method), rows)
        more["other"] = torch.from_numpy(other.astype(np.float32))
    return more


def _second(bank: LogitBank, key: str, method: Method) -> str:
    """Key of a method's second teacher in a bank: the run of the first one's seed, where it has one."""
    if method.other is None:
        return key
    keys = bank.keys_of(method.other)
    own = [other for other in keys if bank[other].seed == bank[key].seed]
    return (own or keys)[0]


def _class_means(banks: Sequence[LogitBank], key: str, tau: float, split: str | None) -> Tensor:
    """Mean soft labels of each class over the rows of all views, (C, C); NaN of a class without rows."""
    classes = len(banks[0].classes)
    sums, counts = torch.zeros(classes, classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    for bank in banks:
        for logits, labels in bank.chunks(key, split):
            of_rows = torch.from_numpy(labels)
            sums.index_add_(0, of_rows, torch.softmax(torch.from_numpy(logits.astype(np.float64)) / tau, 1))
            counts += torch.bincount(of_rows, minlength=classes)
    return sums / counts[:, None]


def _views_of_the_same(bank: LogitBank | Sequence[LogitBank]) -> list[LogitBank]:
    """The banks, at least one, all of the same examples and classes."""
    banks = [bank] if isinstance(bank, LogitBank) else list(bank)
    if not banks:
        raise InputError("expected at least one bank, got none")
    first = banks[0]
    for other in banks[1:]:
        if not (
            np.array_equal(other.rows.ids, first.rows.ids)
            and np.array_equal(other.rows.labels, first.rows.labels)
            and other.classes == first.classes
        ):
            raise InputError(f"expected views of the same examples, got {first.rows.name!r} and {other.rows.name!r}")
    return banks


def _only_key(bank: LogitBank) -> str:
    """The key of a bank's only teacher."""
    if len(bank.keys) != 1:
        raise InputError(f"expected the key of one of {len(bank.keys)} teachers: {bank.keys}")
    return bank.keys[0]


def _checked(method: Method | None) -> Method | None:
    """A method that makes soft labels of one array, (N, C)."""
    if method is not None:
        known = (*SOFT_LABEL_METHODS, *PREPARED)
        must_be_one_of(method.name, known, "a method that makes soft labels of a teacher")
        if "rank_weight" in method.options:
            raise InputError("rank_weight needs soft labels and logits: make a file of each, with and without a method")
    return method


def load_soft_labels(file: str | os.PathLike[str]) -> SoftLabels:
    """Read a file that `SoftLabels.write` wrote.

    Parameters
    ----------
    file : str or path
        Ending in .safetensors or .npz.

    Returns
    -------
    SoftLabels
        In float32. Soft labels are probabilities, however they are stored.

    Raises
    ------
    InputError
        There is no such file, or it is of another kind.
    BankError
        The file is damaged.

    See Also
    --------
    soft_labels : Make soft labels of a bank.
    """
    source = Path(file)
    must_be_one_of(source.suffix, ENDINGS, f"the ending of {source.name}")
    if not source.exists():
        raise InputError(f"there is no file {source}")
    try:
        arrays, metadata = (_read_npz if source.suffix == ".npz" else _read_safetensors)(source)
        (name,) = {"soft_labels", "soft_logits", "logits"} & arrays.keys()
        values = torch.from_numpy(arrays[name].astype(np.float32))
        if name == "soft_logits":
            values = torch.softmax(values, -1)
        soft = SoftLabels(
            values,
            arrays["ids"],
            torch.from_numpy(arrays["labels"]),
            tuple(metadata["classes"]),
            metadata["teacher"],
            None if metadata["method"] is None else Method.from_dict(metadata["method"]),
            tuple(metadata["views"]),
            metadata["fingerprint"],
        )
        expected = (len(soft.views), len(soft.ids), len(soft.classes))
        if values.shape != expected or soft.labels.shape != expected[1:2]:
            raise ValueError(f"{name} of shape {tuple(values.shape)} where {expected} was expected")
    except (OSError, EOFError, ValueError, LookupError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise BankError(f"{source} is damaged, or no file of soft labels: {reason}") from None
    return soft


def _read_npz(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with np.load(file, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in opened.files}
    return arrays, json.loads(str(arrays.pop("metadata")))


def _read_safetensors(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with safe_open(file, "np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        metadata: dict[str, Any] = dict(opened.metadata() or {})
    for key in ("classes", "method", "views"):
        metadata[key] = json.loads(metadata[key])
    arrays["ids"] = _as_text(arrays["ids"])
    return arrays, metadata


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
