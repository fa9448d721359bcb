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
from safetensors import safe_open

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch._utils.files import no_device
from capmismatch._utils.text import format_percent
from capmismatch.data.datasets import Dataset
from capmismatch.data.logit_checks import NOT_LOGITS, logit_array, looks_like
from capmismatch.data.npz_files import read_npz
from capmismatch.data.rows import Rows, check_logits, make_rows
from capmismatch.errors import CapmismatchError, InputError, must_be_a_count, must_be_one_of
from capmismatch.sources.families import Teacher

FIELDS = ("teacher", "seed", "params", "macs")


def load(path: str, *, probabilities: str = "refuse", base: str | Path = ".") -> tuple[list[Teacher], Dataset]:
    """Load the teachers whose logits were saved in a file or folder.

    Parameters
    ----------
    path : str
        Of the .npz, or of the folder with a ``family.json``.
    probabilities : str
        "refuse" makes rows of probabilities, percentages or sigmoids an error, "convert" takes their logarithm (of
        sigmoids the log-odds), "keep" takes them as they are, with finding CM016.
    base : str or Path
        Folder that relative paths start from.

    Returns
    -------
    tuple of list of Teacher, and Dataset
        The teachers, and the data set that their labels make.
    """
    must_be_one_of(probabilities, ("refuse", "convert", "keep"), "probabilities")
    full_path = Path(base, Path(path).expanduser())
    _check_kind(full_path)
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


def _check_kind(path: Path) -> None:
    """Raise where a file is of a kind that holds logits elsewhere, but not here."""
    if path.is_file() and path.suffix.lower() != ".npz":
        kind = path.suffix or "no ending"
        advice = " (put it into a folder, beside a family.json)" if kind in (".npy", ".safetensors") else ""
        raise InputError(
            f"expected logits as an .npz file, or as a folder with a family.json and one .npy or .safetensors per "
            f"teacher, got {path} of kind {kind!r}{advice}: np.savez('a.npz', labels=..., logits_small=...) makes one"
        )


def _rows(arrays: Mapping[str, NDArray[Any]], head: Mapping[str, Any], name: str, path: Path) -> Rows:
    teacher, logits = next(iter(arrays.items()))
    if logits.ndim != 2:
        raise InputError(f"expected logits of shape (N, C) in {path}, got {logits.shape} for teacher {teacher!r}")
    classes = head.get("classes")
    return make_rows(
        name,
        head["labels"],
        classes if classes is not None else _names_of_columns(logits, path),
        ids=head.get("ids"),
        split=head.get("split"),
        inputs_hash="saved logits",
        place=f"labels of {path}",
    )


MANY_CLASSES = 10_000_000
"""More columns than any classifier has: their names alone would fill the memory."""


def _names_of_columns(logits: NDArray[Any], path: Path) -> list[str]:
    if logits.shape[1] > MANY_CLASSES:
        raise InputError(f"expected logits of shape (N, C) in {path}, got {logits.shape}: {logits.shape[1]:,} classes")
    return [str(column) for column in range(logits.shape[1])]


def _checked_logits(array: NDArray[Any], rows: Rows, probabilities: str, name: str, path: Path) -> NDArray[Any]:
    if array.ndim == 2 and len(array) != len(rows.labels):  # before anything is converted: it may be a huge map
        raise InputError(
            f"expected logits of shape {(len(rows.labels), len(rows.classes))}, got {array.shape} from teacher "
            f"{name!r} in {path}"
        )
    logits = logit_array(array, f"the logits of teacher {name!r} in {path}")
    check_logits(logits, rows, f"teacher {name!r} in {path}")
    kind = looks_like(logits)
    return _from_probabilities(logits, kind, probabilities, name, path) if kind in NOT_LOGITS else logits


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
        if field == "teacher":
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise InputError(f"expected a name as teacher of {name!r} in {path}, got {value!r}")
        elif not isinstance(value, int):
            raise InputError(f"expected a whole number as {field} of teacher {name!r} in {path}, got {value!r}")
        else:
            must_be_a_count(value, f"{field} of teacher {name!r} in {path}")
    return info


FORMS = {
    "probabilities": "most rows lie in [0, 1] and sum to 1",
    "percentages": "most rows lie in [0, 100] and sum to 100",
    "sigmoids": "nearly all values lie in [0, 1]",
}


def _from_probabilities(values: NDArray[Any], kind: str, choice: str, name: str, path: Path) -> NDArray[Any]:
    if choice == "keep":
        return values
    if choice == "refuse":
        raise InputError(
            f"teacher {name!r} in {path} holds {kind}, not logits: {FORMS[kind]}. Save the logits, or load with "
            "probabilities='convert' to take the logarithm."
        )
    ties = np.mean([len(np.unique(row)) < len(row) for row in values[:1000]])
    warnings.warn(
        f"teacher {name!r} in {path}: logits were made from {kind}. Zeros and rounding cannot be undone; "
        f"{format_percent(float(ties))} of the first rows have equal values among their classes, which weakens class "
        "ranks.",
        stacklevel=2,
    )
    smallest = float(np.finfo(values.dtype).smallest_subnormal)
    shares = values.astype(np.float64) / (100 if kind == "percentages" else 1)
    logits = np.log(np.maximum(shares, smallest))
    if kind == "sigmoids":
        logits -= np.log(np.maximum(1 - shares, float(np.finfo(values.dtype).eps) / 2))
    return logits.astype(np.float32)


def _read_npz(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    of_all = ("labels", "classes", "ids", "split")
    of_one_teacher = tuple(f"{field}_" for field in ("logits", *FIELDS))
    content, names = read_npz(path, lambda name: name in of_all or name.startswith(of_one_teacher))
    if "labels" not in content:
        raise InputError(f"expected an array 'labels' in {path}, got {names}")
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
    except (OSError, ValueError, RecursionError) as error:
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
        file = next((file for file in files if len(file.name.encode(errors="replace")) <= 255 and file.exists()), None)
        if file is None:
            names = " or ".join(file.name for file in files)
            raise InputError(f"teacher {teacher!r} of {manifest} has no file: expected {names}")
        arrays[teacher] = _read_array(file)
    return arrays, full


def _read_array(file: Path) -> NDArray[Any]:
    if not file.exists():
        raise InputError(f"there is no file {file}")
    no_device(file, "an array of logits")
    try:
        return _read_safetensors(file) if file.suffix == ".safetensors" else np.load(file, "r", allow_pickle=False)
    except CapmismatchError:
        raise
    except Exception as error:  # of the file's format: a damaged or lying header, an unknown type
        reason = "it holds Python objects, which only pickle could read" if "pickle" in str(error) else str(error)
        raise InputError(f"{file} is not a readable array: {reason}") from None


def _read_safetensors(file: Path) -> NDArray[Any]:
    """Through torch, which knows bfloat16 and float8; only the tensor that is asked for is read."""
    with safe_open(file, "pt") as content:
        names = sorted(content.keys())
        if len(names) != 1 and "logits" not in names:
            raise InputError(f"expected one tensor, or one named 'logits', in {file}, got {names}")
        return plain_array(content.get_tensor("logits" if "logits" in names else names[0]), f"the array in {file}")
