"""What a bank records of a teacher: its names, and when its accuracy is far from the published one."""

from __future__ import annotations

import math

import numpy as np
import pytest

import capmismatch as cm
from capmismatch.data.records import TeacherRecord, keys_named, only_key
from capmismatch.errors import InputError


def findings(published: float | None, correct: int, count: int, before: str = "") -> str:
    record = TeacherRecord("f", "t", published=published, findings=before).with_accuracy(correct, count)
    assert record.accuracy == correct / count
    return record.findings


@pytest.mark.parametrize("sign", [-1, 1])
def test_cm002_from_more_than_three_standard_errors(sign: int) -> None:
    published, count = 0.5, 400  # one standard error is 2.5 points, so three are 7.5 points: 30 of 400 examples
    assert math.isclose(3 * math.sqrt(published * (1 - published) / count), 30 / count)
    assert findings(published, 200 + sign * 29, count) == ""
    assert findings(published, 200 + sign * 31, count) == "CM002"


@pytest.mark.parametrize("sign", [-1, 1])
def test_cm002_from_more_than_a_point_where_examples_are_many(sign: int) -> None:
    published, count = 0.5, 1_000_000  # three standard errors are 0.15 points
    assert findings(published, 500_000 + sign * 9_900, count) == ""
    assert findings(published, 500_000 + sign * 10_100, count) == "CM002"


def test_cm002_needs_a_published_accuracy_and_joins_other_findings() -> None:
    assert findings(None, 0, 100) == ""
    assert findings(0.9, 0, 100, before="CM001") == "CM001,CM002"


RUNS = [
    ("mlp/a-s0", "mlp", "a"),
    ("mlp/a-s1", "mlp", "a"),
    ("cnn/b", "cnn", "b"),
    ("mlp/c", "mlp", "c"),
    ("cnn/c", "cnn", "c"),
]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("b", ["cnn/b"]),
        ("cnn/b", ["cnn/b"]),
        ("a", ["mlp/a-s0", "mlp/a-s1"]),
        ("mlp/a", ["mlp/a-s0", "mlp/a-s1"]),
        ("mlp/a-s1", ["mlp/a-s1"]),
        ("cnn/c", ["cnn/c"]),
    ],
)
def test_what_a_name_stands_for(name: str, keys: list[str]) -> None:
    assert keys_named(name, RUNS) == keys
    if len(keys) == 1:
        assert only_key(name, RUNS) == keys[0]
    else:
        with pytest.warns(UserWarning, match=f"teacher '{name}' has 2 training runs; the first is taken, 'mlp/a-s0'"):
            assert only_key(name, RUNS) == "mlp/a-s0"


def test_names_that_stand_for_none_or_several() -> None:
    with pytest.raises(InputError, match=r"teacher 'c' could be any of \['mlp/c', 'cnn/c'\]: use one of these keys"):
        keys_named("c", RUNS)
    with pytest.raises(InputError, match=r"teacher key must be one of .*; did you mean 'cnn/b'"):
        keys_named("cnn/bb", RUNS)


def test_every_door_takes_every_name_of_a_teacher() -> None:
    bank = cm.bank_from_arrays({"a": 4 * np.eye(4), "b": 9 * np.eye(4)}, [0, 1, 2, 3], family="f")
    for name in ("b", "f/b"):
        assert bank[name].key == "f/b" and np.array_equal(bank.logits(name), 9 * np.eye(4))
        assert cm.soft_labels(bank, name).teacher == "f/b"
        assert set(cm.dark_knowledge(bank, teachers=[name])["teacher"]) == {"b"}
        assert set(cm.example_values(bank, "nll", teachers=name)["teacher"]) == {"b"}
    assert len(cm.probe(bank, taus=4, names="derived_std", progress=False)) == 2  # single values, as users write them
    assert len(cm.rank_stability(bank, "tau_b", progress=False)) == 1
