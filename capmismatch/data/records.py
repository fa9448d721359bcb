"""What a bank knows of each of its teachers, and the key under which it keeps them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from capmismatch.errors import InputError, must_be_one_of
from capmismatch.findings import join_codes


@dataclass(frozen=True)
class TeacherRecord:
    """What a bank knows of one teacher.

    Attributes
    ----------
    family : str
        Name of the family.
    teacher : str
        Name of the teacher within it.
    seed : int or None
        Number of the training run, where several runs of one teacher are known.
    params : int or None
        Number of parameters; None where unknown.
    macs : int or None
        Multiply-accumulates for one example; None where unknown.
    source : str
        Where the teacher comes from, such as "torchvision:resnet18".
    weights_hash : str
        Of the weights behind the logits.
    preprocessing : str
        How inputs were prepared for the network.
    dtype : str
        Of the stored logits, "float32" or "float16".
    accuracy : float
        Over all rows of the bank, in [0, 1].
    order : int
        Position in its family as loaded.
    sha256 : str
        Of the stored logits' bytes.
    options : str
        How the network was run, where that is not plain float32 on the CPU, and how its columns were mapped.
    published : float or None
        The accuracy that its source claims for this data set, where that was compared.
    findings : str
        Codes, comma-separated; see `capmismatch.explain`.
    built_by : str
        Hash of what makes the network besides its weights: the builder's code, a configuration; "" where nothing does,
        or where it was collected before this was kept.
    role : str
        "" of a teacher; "student" of a network that is to be taught: it is measured beside each teacher, and is never
        a candidate, a peer of the teachers, or a point of a curve over their sizes.
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
    built_by: str = ""
    role: str = ""

    @property
    def key(self) -> str:
        """Unique in a bank: family/teacher, and -s<seed> where the seed is known."""
        return teacher_key(self.family, self.teacher, self.seed)

    @property
    def header(self) -> dict[str, Any]:
        """The fields as a bank's file stores them; fields added in later versions are left out while they are empty."""
        later = ("options", "published", "findings", "built_by", "role")
        return {name: value for name, value in asdict(self).items() if name not in later or value}

    def with_accuracy(self, correct: int, count: int) -> TeacherRecord:
        """The record with its accuracy, and with finding CM002 where that is far from the published one.

        Far is more than one percentage point and more than three standard errors of the published share among `count`
        examples.

        Parameters
        ----------
        correct : int
            How many examples the teacher classifies correctly.
        count : int
            Of how many.

        Returns
        -------
        TeacherRecord
            A copy with `accuracy` and `findings` filled in.

        Examples
        --------
        >>> record = TeacherRecord("resnet", "resnet18", published=0.7)
        >>> [record.with_accuracy(correct, 10_000).findings for correct in (7000, 6800)]
        ['', 'CM002']
        """
        accuracy, findings = correct / count, self.findings
        if self.published is not None:
            standard_error = (self.published * (1 - self.published) / count) ** 0.5
            if abs(accuracy - self.published) > max(0.01, 3 * standard_error):
                findings = join_codes([*filter(None, findings.split(",")), "CM002"])
        return replace(self, accuracy=accuracy, findings=findings)


STUDENT = "student"
"""Role of a network in a bank that is to be taught."""


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


def keys_named(name: str, runs: Iterable[tuple[str, str, str]], what: str = "teacher key") -> list[str]:
    """The training runs that a name stands for, by their keys.

    Parameters
    ----------
    name : str
        A key, which stands for itself; ``family/teacher``; or a teacher's name that no other family has.
    runs : iterable of (key, family, teacher)
        The runs there are.
    what : str
        What an error calls the name.

    Returns
    -------
    list of str
        One key, or those of all runs of a teacher that has several.

    Raises
    ------
    InputError
        If there is no such teacher, or several families have one of that name.

    Examples
    --------
    >>> runs = [("mlp/mlp8-s0", "mlp", "mlp8"), ("mlp/mlp8-s1", "mlp", "mlp8"), ("cnn/w4", "cnn", "w4")]
    >>> keys_named("w4", runs), keys_named("mlp/mlp8", runs), keys_named("mlp/mlp8-s1", runs)
    (['cnn/w4'], ['mlp/mlp8-s0', 'mlp/mlp8-s1'], ['mlp/mlp8-s1'])
    """
    known = list(runs)
    keys = [key for key, _, _ in known]
    if name in keys:
        return [name]
    named = [run for run in known if name in (f"{run[1]}/{run[2]}", teacher_key(run[1], run[2], None))]
    named = named or [run for run in known if name == run[2]]
    if not named:
        must_be_one_of(name, keys, what)
    if len({run[1:] for run in named}) > 1:
        units = list(dict.fromkeys(f"{family}/{teacher}" for _, family, teacher in named))
        raise InputError(f"teacher {name!r} could be any of {units}: use one of these keys")
    return [key for key, _, _ in named]


def only_key(name: str, runs: Iterable[tuple[str, str, str]], what: str = "teacher key", stacklevel: int = 3) -> str:
    """The run that a name stands for where one is needed: the first of a teacher's runs, which a warning tells.

    Parameters
    ----------
    name : str
        As `keys_named` takes it.
    runs : iterable of (key, family, teacher)
        The runs there are.
    what : str
        What an error calls the name.
    stacklevel : int
        Of the warning.

    Returns
    -------
    str
        Its key.
    """
    first, *others = keys_named(name, runs, what)
    if others:
        warnings.warn(
            f"teacher {name!r} has {len(others) + 1} training runs; the first is taken, {first!r}. The others: "
            f"{', '.join(map(repr, others))}",
            stacklevel=stacklevel,
        )
    return first


def _escaped(name: str, what: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"expected a name for the {what}, got {name!r}")
    return _quoted(str(name))


@lru_cache(4096)
def _quoted(name: str) -> str:
    text = quote(name, safe=" +=@", errors="backslashreplace")
    if text.startswith("."):  # "." and ".." are folders already, and other names with a dot are hidden files
        text = "%2E" + text[1:]
    return re.sub(r"-(s-?\d+)$", r"%2D\1", text)  # else "mlp48-s1" could be run 1 of "mlp48"


def names_of_students(students: Sequence[str] | str, arrays: Iterable[str]) -> list[str]:
    """Which of the networks are students."""
    if isinstance(students, Mapping):
        raise InputError(
            f"expected students as names among the logits, got a mapping of {list(students)}: put their logits beside "
            f"those of the teachers, and name them, students={list(map(str, students))}"
        )
    names = [students] if isinstance(students, str) else list(map(str, students))
    for name in names:
        must_be_one_of(name, arrays, "each of students, by its name in logits,")
    return names
