"""What a bank records of a teacher: when its accuracy is far from the published one."""

from __future__ import annotations

import math

import pytest

from capmismatch.data.records import TeacherRecord


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
