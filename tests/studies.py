"""Small studies to run: perceptrons on letters, and saved logits with a table of students' results."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from capmismatch.study.study import Study

MakeStudy = Callable[..., Study]
"""What the fixture `make_study` of tests/distillation gives: a study from a folder, and from a text if need be."""

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
    views: str = "",
    methods: Iterable[str] = ("CE", "KD"),
    family: str | None = None,
) -> str:
    """The text of a study that trains small perceptrons.

    `rows` are those for training, validation and test; a method is its name, with further lines of TOML where it has
    any ("KD\\ntau = 2"); `family` replaces the perceptrons as teachers.
    """
    train, val, test = rows
    named = (method.partition("\n") for method in methods)
    settings = "".join(f'[[distill.methods]]\nname = "{name}"\n{lines}\n' for name, _, lines in named)
    if family is None:
        family = f'source = "letters:mlp"\nwidths = {list(widths)}\nseeds = {teacher_seeds}'
    stored = f"views = {{ {views} }}\n" if views else ""
    return f"""
name = "tiny"
[data]
source = "letters"
split = {{ train = {train}, val = {val}, test = {test} }}
[[family]]
{family}
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
{stored}{settings}"""


@contextmanager
def sketched_figures() -> Iterator[None]:
    """Save figures as rough PNGs and empty PDFs: each is drawn, but takes no time for layout, fonts and pixels."""

    def sketch(figure: Figure, pictures: Iterable[Path]) -> None:
        figure.set_layout_engine("none")
        for picture in pictures:
            if picture.suffix == ".png":
                figure.savefig(picture, dpi=20)
            else:
                picture.write_bytes(b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capmismatch.plots._save._write_pictures", sketch)
        yield


GRID_STUDY = letters_study(
    rows=(260, 300, 200),
    widths=(4, 8),
    students=("mlp5", "mlp6"),
    seeds=3,
    recipe="epochs = 2, batch_size = 50",
    views='kind = "noise", count = 2, sigma = 1.0',
    methods=("CE", "KD\ntau = 2", "DKD"),
)
"""30 runs: 2 students x 3 seeds x (CE, and KD and DKD from 2 teachers)."""


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
