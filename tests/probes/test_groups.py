"""Parts of the variance: between classes, between groups of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from capmismatch import bank_from_arrays, class_relations, probe, probes
from capmismatch.errors import InputError
from capmismatch.ranks import affinity_matrix

RNG = np.random.default_rng(0)
CLASSES = 7
LABELS = np.arange(90) % CLASSES
LOGITS = (2 * RNG.standard_normal((90, CLASSES)) + 3 * np.eye(CLASSES)[LABELS]).astype(np.float32)
GROUPS = [0, 0, 1, 1, 1, 2, 0]


def softmax(tau: float) -> np.ndarray:
    return special.softmax(LOGITS.astype(float) / tau, axis=1)


def test_the_variance_of_class_means_and_what_examples_add_are_the_whole() -> None:
    p = softmax(2.0)
    expected = [np.delete(p[y == LABELS].mean(0), y).var() for y in LABELS]
    found = probes.class_variance(LOGITS, LABELS, 2.0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    around = []
    for row, y in zip(p, LABELS, strict=True):
        deviation = np.delete(row - p[y == LABELS].mean(0), y)
        around.append(deviation.var())
    whole = probes.derived_variance(LOGITS, LABELS, 2.0).numpy()
    assert found.mean() + np.mean(around) == pytest.approx(whole.mean(), rel=1e-10)  # the law of total variance


def test_between_and_within_groups_are_the_whole() -> None:
    expected, within = [], []
    for row, y in zip(softmax(3.0), LABELS, strict=True):
        parts = [[row[c] for c in range(CLASSES) if c != y and GROUPS[c] == g] for g in range(3)]
        wrong = np.concatenate(parts)
        expected.append(sum(len(part) * (np.mean(part) - wrong.mean()) ** 2 for part in parts if part) / len(wrong))
        within.append(sum(len(part) * np.var(part) for part in parts if part) / len(wrong))
    found = probes.group_variance(LOGITS, LABELS, GROUPS, 3.0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-16)
    whole = probes.derived_variance(LOGITS, LABELS, 3.0).numpy()
    np.testing.assert_allclose(found + within, whole, rtol=1e-9)
    own = probes.group_variance(LOGITS, LABELS, range(CLASSES), 3.0).numpy()
    np.testing.assert_allclose(own, whole, rtol=1e-9)  # each class a group of its own
    assert probes.group_variance(LOGITS, LABELS, [4] * CLASSES, 3.0).abs().max() < 1e-18  # one group


def test_groups_that_are_there_are_found() -> None:
    shared = np.array(GROUPS)
    logits = 2 * (shared[LABELS][:, None] == shared) + 0.3 * RNG.standard_normal(LOGITS.shape)
    logits[np.arange(90), LABELS] += 3
    affinity = affinity_matrix(logits, LABELS, 4.0).numpy()
    assert probes.find_groups(affinity, 3).tolist() == GROUPS
    assert probes.find_groups(affinity, 1).tolist() == [0] * CLASSES
    affinity[2] = np.nan  # a class without examples is known by the others'
    assert probes.find_groups(affinity, 3).tolist() == GROUPS
    bank = bank_from_arrays({"a": logits, "b": 3 * logits}, LABELS)
    found, given = (class_relations(bank, [4], groups=groups, progress=False) for groups in (3, GROUPS))
    pd.testing.assert_frame_equal(found, given)
    named = {str(c): "xyz"[g] for c, g in enumerate(GROUPS)}
    pd.testing.assert_frame_equal(class_relations(bank, [4], groups=named, progress=False), given)


def test_the_table_has_the_means_and_joins_that_of_probes() -> None:
    bank = bank_from_arrays(
        {"a": LOGITS, "b": 2 * LOGITS + 0.3 * RNG.standard_normal(LOGITS.shape)}, LABELS, params={"a": 10, "b": 20}
    )
    table = class_relations(bank, [1, 4], groups=GROUPS, progress=False)
    plain = probe(bank, [1, 4], ["derived_variance"], progress=False)
    assert list(table.columns) == list(plain.columns)
    wide = table.pivot(index=["teacher", "tau"], columns="probe", values="value")
    derived = plain.set_index(["teacher", "tau"])["value"]
    np.testing.assert_allclose(wide["class_variance"] + wide["example_variance"], derived, rtol=1e-10)
    of_a = probes.group_variance(LOGITS, LABELS, GROUPS, 4.0).mean()
    assert wide.loc[("a", 4.0), "group_variance"] == pytest.approx(float(of_a), rel=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bank: class_relations(bank, groups=[0, 1], progress=False), "each of 7 classes, got"),
        (lambda bank: class_relations(bank, groups=[-1] * 7, progress=False), "each of 7 classes, got"),
        (lambda bank: class_relations(bank, groups={"0": "x"}, progress=False), "no group of class '1'"),
        (lambda bank: class_relations(bank, groups=9, progress=False), "expected count a whole number"),
        (lambda bank: class_relations(bank, [], progress=False), "expected taus, at least one"),
        (lambda bank: probes.find_groups([[0.0, -1.0], [0.0, 0.0]], 1), "affinities >= 0"),
        (lambda bank: probes.find_groups([[0.0, 1.0]], 1), r"shape \(C, C\)"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(bank_from_arrays({"a": LOGITS}, LABELS))


def test_a_number_of_groups_may_be_numpys() -> None:
    rng = np.random.default_rng(0)
    bank = bank_from_arrays({"a": rng.normal(size=(40, 4))}, np.arange(40) % 4)
    tables = [class_relations(bank, [4], groups=count, progress=False) for count in (2, np.int64(2))]
    pd.testing.assert_frame_equal(*tables)
