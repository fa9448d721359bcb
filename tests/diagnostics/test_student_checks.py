"""Students of a bank: what is held against them, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

import capmismatch as cm

CLASSES, ROWS = 8, 900
LABELS = np.random.default_rng(0).permutation(np.arange(ROWS) % CLASSES)
ALIKE = np.random.default_rng(1).normal(size=(CLASSES, CLASSES))  # which wrong classes go with which


def net(seed: int, gain: float, noise: float = 1.0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return gain * (3 * np.eye(CLASSES)[LABELS] + ALIKE[LABELS] + noise * draws.normal(size=(ROWS, CLASSES)))


TEACHERS = {f"net{number}": net(number, 1.0 + 0.2 * number) for number in range(2, 6)}
SOUND = {
    "plain": net(9, 0.4, 2.5),
    "untrained": np.random.default_rng(3).normal(size=(ROWS, CLASSES)) * 0.01,
    "constant": np.tile(np.arange(CLASSES) * 0.1, (ROWS, 1))
    + 1e-3 * np.random.default_rng(4).normal(size=(ROWS, CLASSES)),
}
for seed in range(4):  # untrained networks that see something of the classes
    draws = np.random.default_rng(seed)
    seen = draws.normal(size=(ROWS, 16)) + draws.normal(size=(CLASSES, 16))[LABELS]
    hidden = np.maximum(seen @ draws.normal(size=(16, 30)) / 4, 0)
    SOUND[f"untrained {seed}"] = hidden @ draws.normal(size=(30, CLASSES)) / 5

BROKEN = {
    "columns moved": (net(9, 0.4)[:, np.roll(np.arange(CLASSES), 1)], "CM021"),
    "two columns": (net(9, 0.4)[:, [1, 0, *range(2, CLASSES)]], "CM021"),
    "a teacher's own": (TEACHERS["net3"] * 0.5, "CM021"),
    "probabilities": (np.exp(net(9, 0.4)) / np.exp(net(9, 0.4)).sum(1, keepdims=True), "CM016"),
    "labels": (5.0 * np.eye(CLASSES)[LABELS], "CM019"),
}


def of(logits: np.ndarray, *, teachers: int = 4) -> dict:
    chosen = dict(list(TEACHERS.items())[:teachers])
    params = {name: 1000 * (number + 1) for number, name in enumerate([*chosen, "mine"])}
    bank = cm.bank_from_arrays({**chosen, "mine": logits}, LABELS, students=["mine"], params=params)
    table = cm.check_students(bank)
    assert len(table) == 1 and len(cm.check(bank)) == teachers and cm.check(bank)["usable"].all()
    return table.iloc[0].to_dict()


@pytest.mark.parametrize("name", SOUND)
def test_a_student_may_guess_and_be_weak(name: str) -> None:
    row = of(SOUND[name])
    assert row["usable"] and not {"CM020", "CM021", "CM046"} & set(row["findings"].split(","))
    assert row["student"] == "mine" and row["params"] == 5000
    assert row["accuracy"] == pytest.approx(np.mean(SOUND[name].argmax(1) == LABELS))


@pytest.mark.filterwarnings("ignore:CM016")
@pytest.mark.parametrize("name", BROKEN)
def test_its_columns_and_values_are_those_of_the_teachers(name: str) -> None:
    logits, code = BROKEN[name]
    row = of(logits)
    assert not row["usable"] and row["reason"] and code in row["findings"].split(",")


def test_without_students_there_is_nothing_to_say() -> None:
    assert cm.check_students(cm.bank_from_arrays(TEACHERS, LABELS)).empty
