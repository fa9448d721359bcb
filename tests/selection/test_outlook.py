"""Before any student: what the package's studies say, what is unlike them, and which teachers are never taken."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from capmismatch.errors import InputError
from capmismatch.selection.outlook import LABEL, rules_left_out, teachers_measured
from capmismatch.selection.picking import pick
from capmismatch.selection.shipped import shipped_evidence

SIZES = [2e4, 5e4, 1e5, 2e5]
ACCURACY = [0.70, 0.80, 0.90, 0.85]
CLASSES = 10


def probes(accuracy: list[float] = ACCURACY, sizes: list[float] = SIZES, classes: int = CLASSES) -> pd.DataFrame:
    """Teachers t0, t1, ..., the smallest first, with what tells the number of classes."""
    base = pd.DataFrame({"family": "f", "teacher": [f"t{i}" for i in range(len(sizes))], "params": sizes})
    base = base.assign(split="val", seed=0, se=1e-3)
    sure = np.linspace(0.3, 0.5, len(sizes))
    values = {
        ("accuracy", np.nan): accuracy,
        ("derived_std", 4.0): np.linspace(0.02, 0.05, len(sizes)),
        ("target_prob", 4.0): sure,
        ("derived_average", 4.0): (1 - sure) / (classes - 1),
    }
    return pd.concat([base.assign(probe=name, tau=tau, value=value) for (name, tau), value in values.items()])


def plain_students(accuracy: float) -> pd.DataFrame:
    rows = {"family": "", "teacher": "", "teacher_seed": 0, "student": "tiny", "label": "CE", "method": "CE"}
    return pd.DataFrame([rows | {"tau": np.nan, "seed": s, "split": "val", "accuracy": accuracy} for s in range(2)])


def test_without_students_the_packages_studies_give_an_outlook() -> None:
    choice = pick(probes())
    assert choice.outlook["p_best"].sum() == pytest.approx(1)
    assert choice.outlook["p_best"].max() < 0.5  # of what is claimed, little is carried over to another family
    assert set(choice.outlook["teacher"]) == {"t0", "t1", "t2", "t3"}
    assert choice.outlook["regret"].ge(0).all() and choice.outlook["score"].is_monotonic_decreasing
    assert choice.unlike == () and choice.grade == "none"  # an outlook is no student
    assert sum("families" in reason for reason in choice.reasons) == 1
    for evidence in ("none", []):
        bare = pick(probes(), evidence=evidence)
        assert bare.outlook.empty and bare.teacher == choice.teacher


def test_what_was_never_measured_is_called_so() -> None:
    huge = pick(probes(sizes=[size * 1e4 for size in SIZES]))
    assert len(huge.unlike) == 1 and "parameters" in huge.unlike[0]
    many = pick(probes(classes=1000))
    assert len(many.unlike) == 1 and many.unlike[0].startswith("1,000 classes")
    assert any("unlike anything measured" in risk for risk in many.risks)
    assert "CM048" in many.findings and "CM048" not in pick(probes(classes=1000), mute=["CM048"]).findings
    strange = pick(probes(), label="magic")
    assert len(strange.unlike) == 1 and "'magic'" in strange.unlike[0] and len(strange.outlook)


def test_teachers_that_guess_or_are_below_a_plain_student_are_not_taken() -> None:
    for rule in ("auto", "smallest"):
        choice = pick(probes([0.1, 0.8, 0.9, 0.85]), rule=rule)
        assert choice.teacher != "t0" and any("f/t0" in risk and "chance" in risk for risk in choice.risks)
        assert "CM049" in choice.findings
    choice = pick(probes(), plain_students(0.82), rule="smallest")
    assert choice.teacher == "t2" and choice.table["teacher"].tolist()[-2:] == ["t0", "t1"]
    assert pick(probes(), plain_students(0.6), rule="smallest").teacher == "t0"
    assert pick(probes(), plain_students(0.95), rule="smallest").teacher == "t0"  # none is fit: the rule stands


def test_words_for_evidence() -> None:
    by_evidence = pick(probes(), evidence="shipped", n_boot=20)
    assert by_evidence.rule == "evidence" and by_evidence.outlook.empty
    with pytest.raises(InputError, match="evidence"):
        pick(probes(), evidence="all")


def test_the_small_tables_are_of_the_studies_that_are_shipped() -> None:
    """The small table of teachers has the means of the students that `shipped_evidence` has."""
    measured = teachers_measured()
    results = pd.concat([table for _, table in shipped_evidence()])
    students = results[results["teacher"].ne("") & results["split"].eq("val")]
    students = students[students["label"].eq(LABEL)]
    means = students.groupby(["family", "student", "teacher", "teacher_seed"])["accuracy"].mean()
    means = means.groupby(["family", "student", "teacher"]).mean()
    mine = measured[measured["label"].eq(LABEL)].set_index(["family", "student", "teacher"])["mean"]
    assert len(mine) == len(means)
    centred = [values - values.groupby(level=[0, 1]).mean() for values in (mine, means)]
    assert (centred[0] - centred[1].reindex(mine.index)).abs().max() < 0.01  # seeds' effects are taken out of one
    assert {"all", "mismatch"} <= set(rules_left_out()["regime"])
