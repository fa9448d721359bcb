"""The short answers of the report: counts and names, from facts whose answer is known."""

from __future__ import annotations

import pytest

from capmismatch.report.facts import (
    ClassSpread,
    Gain,
    IsatsGain,
    LateGain,
    LinkCounts,
    ProbeCourse,
    RankAgreement,
    Restored,
    Shape,
    StudentCourse,
    StudentCourses,
    Subject,
    TeacherDifferences,
    Unknown,
)
from capmismatch.report.headlines import HEADLINES, headline
from capmismatch.report.narrative import TOPICS
from capmismatch.stats.estimates import Estimate

WHO = Subject("cnn", "KD tau=4")
UP, DOWN, FLAT, ALONE = (
    Estimate(0.04, 0.03, 0.05, 4),
    Estimate(-0.02, -0.03, -0.01, 4),
    Estimate(0.0, -0.1, 0.1, 4),
    Estimate(0.1),
)


def agreement(floor: bool, below: Estimate = UP) -> RankAgreement:
    means = {"neighbours": Estimate(0.81), "any": Estimate(0.7)}
    return RankAgreement(
        "wrong_tau_b", "", means, "s", "l", 0.6, Estimate(0.86), {"neighbours": below} if floor else {}
    )


def spread(difference: Estimate, lower: int) -> ClassSpread:
    return ClassSpread(4.0, "", "big", "small", "small", {"small": 0.05, "big": 0.04}, difference, lower, ("a",), ())


def test_every_headline_belongs_to_a_question():
    assert set(HEADLINES) < set(TOPICS)
    assert headline("logits", []) == ""


@pytest.mark.parametrize("topic", HEADLINES)
def test_what_is_not_known_has_no_headline_of_its_own(topic):
    assert headline(topic, [Unknown("plain")]) == ""


@pytest.mark.parametrize(
    ("topic", "facts", "numbers"),
    [
        ("students", [StudentCourses(8, 5, 8, 4)], ["5 of 8"]),
        ("students", [StudentCourses(1, 1, 1, 1)], ["Yes:"]),
        ("students", [StudentCourses(3, 0, 3, 0)], ["no significant peak"]),
        ("students", [StudentCourses(1, 0, 0, 0), StudentCourse(WHO, None, "few")], ["Unknown"]),
        ("variance", [ProbeCourse("derived_std", 4, "", Shape(0.01, "b", ("b", "c")), "", {})], ["b or c"]),
        (
            "variance",
            [ProbeCourse("derived_std", 4, "F", Shape(0.3, "b", ("b",)), "", {})],
            ["family F", "no significant peak"],
        ),
        ("ranks", [agreement(True)], ["0.81", "0.86", "agree less than two runs"]),
        ("ranks", [agreement(True, FLAT)], ["agree about as well as two runs"]),
        ("ranks", [agreement(True, Estimate(0.05))], ["0.81 against 0.86", "too few runs for an interval"]),
        ("ranks", [agreement(False)], ["0.81", "no teacher has two runs"]),
        ("ranks", [agreement(True), agreement(True, FLAT)], ["less than", "about as well as"]),
        ("classes", [spread(UP, 1)], ["No:", "big", "small", "3 of 4"]),
        ("classes", [spread(DOWN, 3)], ["Yes:", "big", "small", "3 of 4"]),
        ("classes", [spread(FLAT, 2)], ["do not differ significantly"]),
        ("variance", [ProbeCourse("derived_std", 4, "", Shape(0.01, "b", ("b",), True), "", {})], ["single runs"]),
        ("teachers", [TeacherDifferences(8, 1, "seeds")], ["1 of 8", "do not differ"]),
        ("teachers", [TeacherDifferences(8, 0, "seeds")], ["do not differ"]),
        ("teachers", [TeacherDifferences(8, 8, "seeds")], ["Yes"]),
        ("links", [LinkCounts(8, 1, 0, "derived_std", 4.0, 8, 2, 0)], ["1 of 8", "derived std does in 2 of 8", "in 0"]),
        ("links", [LinkCounts(8, 1, 0, "", 4.0, 0, 0, 0)], ["1 of 8"]),
        ("gain", [Gain(WHO, UP, 3), Gain(WHO, DOWN, 3), Gain(WHO, FLAT, 3)], ["1 gain", "1 lose", "1 show", "+4.00"]),
        ("trained", [LateGain(WHO, UP, 30), LateGain(WHO, DOWN, 30)], ["1 of 2", "+0.04 points"]),
        ("trained", [LateGain(WHO, FLAT, 30)], ["no students gained"]),
        ("gain", [Gain(WHO, ALONE, 3)], ["1 combination", "too few runs"]),
        ("large", [IsatsGain(WHO, "KD", ("l",), DOWN)], ["1 combination", "do worse"]),
    ],
)
def test_headlines_hold_the_numbers(topic, facts, numbers):
    text = headline(topic, facts)
    assert all(number in text for number in numbers), text
    assert text.endswith(".") and len(text.split()) <= 45


def test_what_isats_restores_is_told_of_the_largest_teacher_alone():
    def restored(size: str, variance: float) -> Restored:
        quantities = {
            "derived_variance": {"TS": Estimate(0.001), "ISATS": Estimate(variance)},
            "target_prob": {"TS": Estimate(0.6), "ISATS": Estimate(0.45)},
        }
        return Restored("", size, f"{size} one", quantities, {}, None)

    text = headline("restored", [restored("largest", 0.003), restored("smallest", 0.009)])
    assert "largest one, by 3," in text and "0.60 to 0.45" in text and "smallest" not in text
