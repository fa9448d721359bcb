"""What a bank knows of each of its teachers, and the key under which it keeps them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote

from capmismatch.errors import InputError
from capmismatch.findings import join_codes


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
