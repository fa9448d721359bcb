"""What is measured on students, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from capmismatch.distillation.scoring import MeasuredRows, TeacherOutputs


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (20.0, -50.0), (0.01, 1000.0)])
def test_fidelity_and_divergence(scale: float, shift: float) -> None:
    draws = np.random.default_rng(0)
    student, teacher = (scale * draws.normal(size=(2, 60, 7)) + shift).astype(np.float32)
    labels = draws.integers(7, size=60)
    splits = {"val": slice(0, 25), "train": slice(25, 60)}
    measured = MeasuredRows(torch.from_numpy(labels), splits).measure(
        torch.from_numpy(student), TeacherOutputs(torch.from_numpy(teacher))
    )
    for split, rows in splits.items():
        s, t = student[rows].astype(float), teacher[rows].astype(float)
        assert measured[split]["n"] == len(s)
        assert measured[split]["accuracy"] == np.mean(s.argmax(1) == labels[rows])
        assert measured[split]["fidelity"] == np.mean(s.argmax(1) == t.argmax(1))
        for name, tau in (("kl", 1.0), ("kl_tau4", 4.0)):
            wanted = entropy(softmax(t / tau, 1), softmax(s / tau, 1), axis=1).mean()
            assert measured[split][name] == pytest.approx(wanted, rel=1e-4, abs=2e-4 * scale)


def test_without_a_teacher_and_with_oneself() -> None:
    logits = torch.randn(9, 4)
    rows = MeasuredRows(logits.argmax(1), {"test": slice(0, 9)})
    assert rows.measure(logits) == {"test": {"accuracy": 1.0, "n": 9}}
    own = rows.measure(logits, TeacherOutputs(logits))["test"]
    assert own["fidelity"] == 1.0
    assert own["kl"] == pytest.approx(0.0, abs=1e-6)
