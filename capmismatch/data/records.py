"""What a bank knows of its teachers and of its examples, and the checks that both must pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capmismatch.errors import InputError, must_be_one_of
from capmismatch.findings import join_codes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TeacherRecord:
    """What a bank knows of one teacher.

    Attributes
    ----------
    family, teacher, seed : identity; `seed` numbers the training runs of one teacher, None where only one is known
    params, macs : None where unknown
    source, weights_hash, preprocessing : where the logits come from
    dtype : of the stored logits
    accuracy : over all rows of the bank
    order : place in its family as loaded
    sha256 : of the stored logits' bytes
    options : how the network was run, where that is not plain float32 on the CPU, and how its columns were mapped
    published : the accuracy that its source claims for this data set, where that was compared
    findings : codes, comma-separated; see `capmismatch.explain`
    """

    family: str
    teacher: str
    seed: int | None = None
    params: int | None = None
    macs: int | None = None
    source: str = ""
    weights_hash: str = ""
    preprocessing: str = ""
    dtype: str = "float32"
    accuracy: float = float("nan")
    order: int = 0
    sha256: str = ""
    options: str = ""
    published: float | None = None
    findings: str = ""

    @property
    def key(self) -> str:
        """Unique in a bank: family/teacher, and -s<seed> where the seed is known."""
        return teacher_key(self.family, self.teacher, self.seed)

    @property
    def header(self) -> dict[str, Any]:
        """What a file says of the teacher; fields that came later stand there only where they tell something."""
        return {k: v for k, v in asdict(self).items() if k not in ("options", "published", "findings") or v}

    def scored(self, right: int, count: int) -> TeacherRecord:
        """With its accuracy over all rows, and finding CM002 where that is far from the published one.

        Far is more than a percentage point, and more than three standard errors of a share of `count` examples.
        """
        accuracy, findings = right / count, self.findings
        if self.published is not None:
            doubt = max(0.01, 3 * (self.published * (1 - self.published) / count) ** 0.5)
            if abs(accuracy - self.published) > doubt:
                findings = join_codes([*filter(None, findings.split(",")), "CM002"])
        return replace(self, accuracy=accuracy, findings=findings)


def teacher_key(family: str, teacher: str, seed: int | None) -> str:
    """The name under which a bank keeps a teacher, and its folder there: odd characters are escaped as in a URL.

    Different teachers have different keys, and no key leaves the bank's folder.

    Examples
    --------
    >>> teacher_key("mlp", "mlp48", 1)
    'mlp/mlp48-s1'
    >>> teacher_key("mlp", "mlp48-s1", None), teacher_key("..", "a/b", None)
    ('mlp/mlp48%2Ds1', '%2E./a%2Fb')
    """
    run = "" if seed is None else f"-s{seed}"
    return f"{_escaped(family, 'family')}/{_escaped(teacher, 'teacher')}{run}"


def _escaped(name: str, what: str) -> str:
    if not name:
        raise InputError(f"expected a name for the {what}, got ''")
    text = quote(name, safe=" +=@")
    if text.startswith("."):  # "." and ".." are folders of their own, and other dot files hide
        text = "%2E" + text[1:]
    return re.sub(r"-(s-?\d+)$", r"%2D\1", text)  # else "mlp48-s1" could be the run 1 of "mlp48"


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples of a bank, in order.

    Attributes
    ----------
    name : of the data set
    labels : (N,) int64
    ids : (N,) str, unique
    split : (N,) str, "train", "val" or "test"
    classes : names, in the order of the logits' columns
    inputs_hash : of the inputs
    fingerprint : of the whole data set: inputs, labels, ids, splits, classes
    """

    name: str
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    inputs_hash: str = ""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", _fingerprint(self))


def make_rows(
    name: str,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    ids: ArrayLike | None = None,
    split: ArrayLike | None = None,
    inputs_hash: str = "",
    place: str = "labels",
) -> Rows:
    """Check labels, ids, splits and class names against each other, and put a fingerprint on them."""
    y = np.asarray(labels)
    if y.ndim != 1 or len(y) == 0:
        raise InputError(f"expected {place} of shape (N,) with N > 0, got shape {y.shape}")
    if y.dtype.kind not in "iufb":
        raise InputError(f"expected whole numbers as {place}, got {y[0]!r} at row 0")
    names = tuple(str(c) for c in classes)
    if len(names) < 2:
        raise InputError(f"expected at least 2 classes, got {len(names)} ({', '.join(names)}) for {place}")
    if len(set(names)) != len(names):
        double = next(c for c in names if names.count(c) > 1)
        raise InputError(f"expected distinct class names, got {double!r} twice for {place}")
    bad = np.flatnonzero(~((y >= 0) & (y < len(names)) & (y == np.floor(y))))
    if len(bad):
        raise InputError(f"expected labels in [0, {len(names)}), got {y[bad[0]]} at row {bad[0]} of {place}")
    identity = np.arange(len(y)).astype(str) if ids is None else np.asarray(ids).astype(str)
    if identity.shape != y.shape:
        raise InputError(f"expected {len(y)} ids, one an example, got shape {identity.shape} for {place}")
    unique, count = np.unique(identity, return_counts=True)
    if len(unique) != len(identity):
        raise InputError(f"expected unique ids, got {str(unique[count > 1][0])!r} more than once for {place}")
    parts = np.full(len(y), "val") if split is None else np.asarray(split).astype(str)
    if parts.shape != y.shape:
        raise InputError(f"expected {len(y)} split names, got shape {parts.shape} for {place}")
    for part in np.unique(parts):
        must_be_one_of(str(part), SPLITS, f"split of {place}")
    return Rows(name, y.astype(np.int64), identity, parts, names, inputs_hash)


def _fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256()
    for piece in (rows.inputs_hash, "\0".join(rows.classes), "\0".join(rows.ids), "\0".join(rows.split)):
        digest.update(piece.encode())
        digest.update(b"\1")
    digest.update(rows.labels.tobytes())
    return digest.hexdigest()


def stratified_order(labels: NDArray[Any], seed: int) -> NDArray[Any]:
    """An order of the rows of which every stretch holds the classes in about the same shares as the whole."""
    generator = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(position, kind="stable")


def check_logits(logits: NDArray[Any], rows: Rows, place: str) -> None:
    """Raise unless `logits` are finite and of shape (N, C) for these rows."""
    expected = (len(rows.labels), len(rows.classes))
    if logits.ndim != 2 or logits.shape[0] != expected[0]:
        raise InputError(f"expected logits of shape {expected}, got {logits.shape} from {place}")
    if logits.shape[1] != expected[1]:
        raise InputError(f"expected {expected[1]} classes, got {logits.shape[1]} from {place}")
    check_finite(logits, place)


def check_finite(logits: NDArray[Any], place: str, first_row: int = 0) -> None:
    """Raise at the first NaN or infinite logit, naming its row and class."""
    bad = np.argwhere(~np.isfinite(logits))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"expected finite logits, got {logits[row, column]} at row {row + first_row}, class {column} of {place}"
        )
