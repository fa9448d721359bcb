"""Small studies to run: perceptrons on letters, and saved logits with a table of students' results."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEACHERS = ("xs", "s", "m", "l")
"""Of `saved_study`, by size; the largest teaches best."""


def letters_study(
    *,
    rows: tuple[int, int, int] = (300, 400, 300),
    widths: Iterable[int] = (4, 8, 16),
    teacher_seeds: int = 2,
    taus: Iterable[float] = (1, 4),
    students: Iterable[str] = ("mlp5",),
    seeds: int = 2,
    recipe: str = "epochs = 1, batch_size = 100",
    methods: Iterable[str] = ("CE", "KD"),
) -> str:
    """The text of a study that trains small perceptrons; `rows` are those for training, validation and test."""
    train, val, test = rows
    settings = "".join(f'[[distill.methods]]\nname = "{name}"\n' for name in methods)
    return f"""
name = "tiny"
[data]
source = "letters"
split = {{ train = {train}, val = {val}, test = {test} }}
[[family]]
source = "letters:mlp"
widths = {list(widths)}
seeds = {teacher_seeds}
[probe]
taus = {list(taus)}
[correlate]
n_boot = 20
[distill]
students = {json.dumps(list(students))}
seeds = {seeds}
center = [7]
scale = [3]
recipe = {{ {recipe} }}
{settings}"""


def write_study(folder: Path, text: str, **replaced: str) -> Path:
    """Write a study file, some of its text replaced."""
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.toml"
    file.write_text(textwrap.dedent(text))
    return file


def saved_study(folder: Path, extra: str = "", *, results: bool = True, n_boot: int = 20, **arrays: Any) -> Path:
    """Write a study of four teachers' saved logits of 40 examples, and results of students with and without them."""
    draws = np.random.default_rng(0)
    labels = np.arange(40) % 4
    content: dict[str, Any] = {"labels": labels, "classes": list("abcd")}
    students = [("", "", "CE", np.nan, 0.55)]
    for number, name in enumerate(TEACHERS):
        content[f"logits_{name}"] = draws.normal(size=(40, 4)) + (1 + number) * np.eye(4)[labels]
        content[f"params_{name}"] = 10 * 4**number
        students.append(("teachers", name, "KD", 4, 0.6 + 0.05 * number))
    rows = [
        (family, teacher, "tiny", method, tau, seed, split, mean + 0.01 * draws.normal(), 100)
        for family, teacher, method, tau, mean in students
        for seed in range(2)
        for split in ("val", "test")
    ]
    columns = ["family", "teacher", "student", "method", "tau", "seed", "split", "accuracy", "n"]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "teachers.npz", **(content | arrays))
    np.savez(folder / "data.npz", X=np.zeros((40, 1)), labels=labels, classes=list("abcd"))
    pd.DataFrame(rows, columns=columns).to_csv(folder / "results.csv", index=False)
    return write_study(
        folder,
        f"""
        name = "saved"
        question = "Which of four saved teachers?"
        {'results = "results.csv"' if results else ""}
        [data]
        source = "npz:data.npz"
        [[family]]
        source = "logits:teachers.npz"
        {extra}
        [correlate]
        n_boot = {n_boot}
    """,
    )
