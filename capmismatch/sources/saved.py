"""``logits:FILE.npz`` or ``logits:FOLDER``: logits that were saved before.

The file holds ``labels`` (N,) and ``logits_<teacher>`` (N, C), optionally ``classes``, ``ids``, ``split``,
``params_<teacher>`` and ``seed_<teacher>``. A folder holds ``family.json`` and one ``<teacher>.npy`` or
``<teacher>.safetensors`` a teacher, with the JSON::

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

from capmismatch.bank import check_logits, make_rows
from capmismatch.datasets import Dataset, open_npz
from capmismatch.errors import InputError
from capmismatch.families import Teacher


def load(place: str, *, probabilities: str = "refuse", base: str | Path = ".") -> tuple[list[Teacher], Dataset]:
    """The teachers saved at `place`, and the data set that their labels make.

    ``probabilities="convert"`` takes the logarithm where rows are probabilities; "refuse" (default) is an error then.
    """
    if probabilities not in ("refuse", "convert"):
        raise InputError(f"probabilities must be 'refuse' or 'convert', not {probabilities!r}")
    path = Path(base, place).expanduser()
    if path.is_dir():
        arrays, head = _read_folder(path)
    else:
        arrays, head = _read_npz(path)
    if not arrays:
        raise InputError(f"no teacher in {path}: expected arrays named 'logits_<teacher>'")
    first = next(iter(arrays.values()))
    if first.ndim != 2:
        raise InputError(f"expected logits of shape (N, C) in {path}, got {first.shape} for teacher {next(iter(arrays))!r}")
    classes = head.get("classes")
    rows = make_rows(
        path.stem, head["labels"], classes if classes is not None else [str(c) for c in range(first.shape[1])],
        ids=head.get("ids"), split=head.get("split"), inputs_hash="saved logits", place=f"labels of {path}",
    )
    teachers = []
    for name, raw in arrays.items():
        logits = raw if raw.dtype in (np.float16, np.float32) else raw.astype(np.float32)
        check_logits(logits, rows, f"teacher {name!r} in {path}")
        if looks_like_probabilities(logits):
            logits = _from_probabilities(logits, probabilities, name, path)
        info = head["teachers"].get(name, {})
        teachers.append(
            Teacher(
                family=path.stem, name=str(info.get("teacher", name)), seed=info.get("seed"), params=info.get("params"),
                macs=info.get("macs"), source=f"logits:{path.name}",
                weights_hash=hashlib.sha256(np.ascontiguousarray(logits).data).hexdigest(),
                preprocessing="none: saved logits", saved=lambda logits=logits: (rows, logits),
            )
        )
    return teachers, Dataset(rows, np.empty((len(rows.labels), 0), np.float32))


def looks_like_probabilities(values: NDArray[Any], rows: int = 1000) -> bool:
    """Whether the first rows are all in [0, 1] and sum to 1.

    Examples
    --------
    >>> looks_like_probabilities(np.array([[0.25, 0.75]])), looks_like_probabilities(np.array([[2.0, -1.0]]))
    (True, False)
    """
    part = np.asarray(values[:rows], dtype=np.float64)
    return bool((part >= 0).all() and (part <= 1).all() and (np.abs(part.sum(1) - 1) < 1e-2).all())


def _from_probabilities(values: NDArray[Any], choice: str, name: str, path: Path) -> NDArray[np.float32]:
    if choice == "refuse":
        raise InputError(
            f"teacher {name!r} in {path} holds probabilities, not logits: every row lies in [0, 1] and sums to 1. Save the "
            "logits, or load with probabilities='convert' to take the logarithm."
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
    with open_npz(path) as file:
        names = list(file)
        if "labels" not in names:
            raise InputError(f"expected an array 'labels' in {path}, got {names}")
        try:
            content = {name: file[name] for name in names}
        except ValueError as error:
            raise InputError(f"{path} holds objects that only pickle could read, which capmismatch does not: {error}") from None
    arrays = {name.removeprefix("logits_"): value for name, value in content.items() if name.startswith("logits_")}
    head: dict[str, Any] = {name: content[name] for name in ("labels", "classes", "ids", "split") if name in content}
    head["teachers"] = {
        teacher: {field: int(content[f"{field}_{teacher}"]) for field in ("params", "macs", "seed") if f"{field}_{teacher}" in content}
        for teacher in arrays
    }
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
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise InputError(f"teacher {teacher!r} of {manifest} has no file: expected {files[0].name} or {files[1].name}")
        arrays[teacher] = _read_array(found)
    return arrays, full


def _read_array(file: Path) -> NDArray[Any]:
    if not file.exists():
        raise InputError(f"there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            content = load_file(file)
            if len(content) != 1 and "logits" not in content:
                raise InputError(f"expected one tensor, or one named 'logits', in {file}, got {sorted(content)}")
            return content["logits"] if "logits" in content else next(iter(content.values()))
        return np.load(file, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not a readable array: {error}") from None
