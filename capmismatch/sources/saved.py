"""``logits:FILE.npz`` or ``logits:FOLDER``: logits that were saved before.

The file holds ``labels`` (N,) and ``logits_<name>`` (N, C), optionally ``classes``, ``ids``, ``split``, and for each
name ``params_<name>``, ``macs_<name>``, ``seed_<name>`` (which training run it is) and ``teacher_<name>`` (the
teacher's name, where several runs share one). A folder holds ``family.json`` and one ``<name>.npy`` or
``<name>.safetensors`` per name, with the JSON::

    {"labels": "labels.npy", "classes": ["cat", "dog"], "teachers": {"small": {"params": 1000}, "large": {"seed": 1}}}
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from capmismatch.data.datasets import Dataset, read_npz
from capmismatch.data.rows import Rows, check_logits, make_rows
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.sources.families import Teacher

FIELDS = ("teacher", "seed", "params", "macs")


def load(path: str, *, probabilities: str = "refuse", base: str | Path = ".") -> tuple[list[Teacher], Dataset]:
    """Load the teachers whose logits were saved in a file or folder.

    Parameters
    ----------
    path : str
        Of the .npz, or of the folder with a ``family.json``.
    probabilities : str
        "refuse" makes rows of probabilities an error, "convert" takes their logarithm.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and Dataset
        The teachers, and the data set that their labels make.
    """
    must_be_one_of(probabilities, ("refuse", "convert"), "probabilities")
    full_path = Path(base, Path(path).expanduser())
    family = full_path.name if full_path.is_dir() else full_path.stem
    arrays, head = (_read_folder if full_path.is_dir() else _read_npz)(full_path)
    if not arrays:
        raise InputError(f"no teacher in {full_path}: expected arrays named 'logits_<teacher>'")
    rows = _rows(arrays, head, family, full_path)
    teachers = []
    for name, array in arrays.items():
        logits = _checked_logits(array, rows, probabilities, name, full_path)
        info = _checked_info(head["teachers"].get(name, {}), name, full_path)
        teachers.append(
            Teacher(
                family=family,
                name=str(info.get("teacher", name)),
                seed=info.get("seed"),
                params=info.get("params"),
                macs=info.get("macs"),
                source=f"logits:{full_path.name}",
                weights_hash=hashlib.sha256(np.ascontiguousarray(logits).data).hexdigest(),
                preprocessing="none: saved logits",
                saved=_Stored(rows, logits),
            )
        )
    return teachers, Dataset(rows, np.empty((len(rows.labels), 0), np.float32))


def _rows(arrays: Mapping[str, NDArray[Any]], head: Mapping[str, Any], name: str, path: Path) -> Rows:
    teacher, logits = next(iter(arrays.items()))
    if logits.ndim != 2:
        raise InputError(f"expected logits of shape (N, C) in {path}, got {logits.shape} for teacher {teacher!r}")
    classes = head.get("classes")
    return make_rows(
        name,
        head["labels"],
        classes if classes is not None else [str(column) for column in range(logits.shape[1])],
        ids=head.get("ids"),
        split=head.get("split"),
        inputs_hash="saved logits",
        place=f"labels of {path}",
    )


def _checked_logits(array: NDArray[Any], rows: Rows, probabilities: str, name: str, path: Path) -> NDArray[Any]:
    logits = array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
    check_logits(logits, rows, f"teacher {name!r} in {path}")
    if looks_like_probabilities(logits):
        return _from_probabilities(logits, probabilities, name, path)
    return logits


class _Stored:
    """Gives logits, and the rows that they belong to."""

    def __init__(self, rows: Rows, logits: NDArray[Any]) -> None:
        self.rows, self.logits = rows, logits

    def __call__(self) -> tuple[Rows, NDArray[Any]]:
        return self.rows, self.logits


def _checked_info(info: Any, name: str, path: Path) -> Mapping[str, Any]:
    """What a file says of one teacher: known keys, whole numbers."""
    if not isinstance(info, Mapping):
        raise InputError(f"expected a mapping of {list(FIELDS)} for teacher {name!r} in {path}, got {info!r}")
    for field, value in info.items():
        must_be_one_of(field, FIELDS, f"key of teacher {name!r} in {path}")
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if field != "teacher" and not is_count:
            raise InputError(f"expected a whole number as {field} of teacher {name!r} in {path}, got {value!r}")
    return info


def looks_like_probabilities(values: NDArray[Any], rows: int = 1000) -> bool:
    """Whether the first rows are all in [0, 1] and sum to 1.

    Examples
    --------
    >>> looks_like_probabilities(np.array([[0.25, 0.75]])), looks_like_probabilities(np.array([[2.0, -1.0]]))
    (True, False)
    """
    first = np.asarray(values[:rows], dtype=np.float64)
    return bool((first >= 0).all() and (first <= 1).all() and (np.abs(first.sum(1) - 1) < 1e-2).all())


def _from_probabilities(values: NDArray[Any], choice: str, name: str, path: Path) -> NDArray[np.float32]:
    if choice == "refuse":
        raise InputError(
            f"teacher {name!r} in {path} holds probabilities, not logits: every row lies in [0, 1] and sums to 1. Save "
            "the logits, or load with probabilities='convert' to take the logarithm."
        )
    ties = np.mean([len(np.unique(row)) < len(row) for row in values[:1000]])
    warnings.warn(
        f"teacher {name!r} in {path}: logits were made from probabilities. Zeros and rounding cannot be undone; "
        f"{ties:.0%} of the first rows have equal values among their classes, which weakens class ranks.",
        stacklevel=2,
    )
    smallest = np.finfo(values.dtype).smallest_subnormal
    return np.log(np.maximum(values.astype(np.float64), float(smallest))).astype(np.float32)


def _read_npz(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    of_all = ("labels", "classes", "ids", "split")
    of_one_teacher = tuple(f"{field}_" for field in ("logits", *FIELDS))
    content = read_npz(path, lambda name: name in of_all or name.startswith(of_one_teacher))
    if "labels" not in content:
        raise InputError(f"expected an array 'labels' in {path}, got {sorted(content)}")
    arrays = {name.removeprefix("logits_"): value for name, value in content.items() if name.startswith("logits_")}
    head: dict[str, Any] = {name: content[name] for name in of_all if name in content}
    head["teachers"] = {name: {} for name in arrays}
    for name in content:
        field, _, teacher = name.partition("_")
        if field in FIELDS:
            must_be_one_of(teacher, arrays, f"the teacher of array {name!r} in {path}")
            head["teachers"][teacher][field] = content[name].tolist()
    return arrays, head


def _read_folder(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    manifest = path / "family.json"
    if not manifest.exists():
        raise InputError(f"expected a family.json in {path} that names the labels and the teachers")
    try:
        head = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{manifest} is not JSON: {error}") from None
    if not isinstance(head, Mapping) or "labels" not in head or not isinstance(head.get("teachers"), Mapping):
        raise InputError(f"expected 'labels' and a mapping 'teachers' in {manifest}")
    full = dict(head)
    for name in ("labels", "ids", "split"):
        if isinstance(head.get(name), str):
            full[name] = _read_array(path / head[name])
    arrays = {}
    for teacher in head["teachers"]:
        files = [path / f"{teacher}{ending}" for ending in (".npy", ".safetensors")]
        file = next((file for file in files if file.exists()), None)
        if file is None:
            names = " or ".join(file.name for file in files)
            raise InputError(f"teacher {teacher!r} of {manifest} has no file: expected {names}")
        arrays[teacher] = _read_array(file)
    return arrays, full


def _read_array(file: Path) -> NDArray[Any]:
    if not file.exists():
        raise InputError(f"there is no file {file}")
    try:
        if file.suffix != ".safetensors":
            return np.load(file, allow_pickle=False, mmap_mode="r")
        content = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} is not a readable array: {error}") from None
    if len(content) != 1 and "logits" not in content:
        raise InputError(f"expected one tensor, or one named 'logits', in {file}, got {sorted(content)}")
    return content["logits"] if "logits" in content else next(iter(content.values()))
