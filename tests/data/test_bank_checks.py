from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from capmismatch.data.bank import bank_from_arrays
from capmismatch.data.bank_checks import check_bank, tell_checks


@pytest.fixture
def logits():
    return 3 * np.random.default_rng(0).standard_normal((400, 10))


def checked(logits, labels=None):
    labels = np.arange(len(logits)) % 10 if labels is None else labels
    return check_bank(bank_from_arrays({"net": logits}, labels)).iloc[0]


def test_sound_logits_carry_nothing(logits):
    row = checked(logits)
    assert row["findings"] == "" and row["tied"] == 0 and abs(row["drift"]) < 0.1
    checks = check_bank(bank_from_arrays({"a": logits, "b": logits + 0.01}, np.arange(400) % 10))
    ((sentence,),) = tell_checks(checks)  # one sentence, without a code
    assert "2 runs" in sentence


@pytest.mark.parametrize(("shift", "codes"), [(0.2, ""), (-0.5, "CM011"), (0.5, "CM011")])
def test_drift_is_the_mean_logit_over_the_spread(logits, shift, codes):
    moved = logits - logits.mean() + shift
    row = checked(moved)
    assert row["findings"] == codes
    assert row["drift"] == pytest.approx(shift / np.mean([np.std(example) for example in moved]))


def test_ties_count_wrong_classes_alone(logits):
    centred = logits - logits.mean(axis=1, keepdims=True)
    centred[:40, 3] = centred[:40, 4]  # in 40 of 400 examples classes 3 and 4 tie; in 8 of them one is the target
    assert checked(centred)["tied"] == pytest.approx(32 / 400)
    assert checked(centred)["findings"] == "CM010"
    assert checked(np.round(logits, 3))["findings"] == ""


def test_half_precision_probabilities_are_seen_as_both(logits):
    soft = np.exp(8 * logits)
    soft = (soft / soft.sum(axis=1, keepdims=True)).astype(np.float16)
    converted = np.log(np.maximum(soft.astype(float), 6e-8))
    assert checked(converted)["findings"] == "CM009,CM010,CM011"


def test_equal_logits_have_no_drift():
    assert checked(np.full((20, 10), 4.0))["drift"] == 0


def test_sentences_name_the_worst(logits):
    checks = check_bank(bank_from_arrays({"a": logits + 1, "b": logits - 2, "c": logits}, np.arange(400) % 10))
    ((text, code),) = tell_checks(checks)
    worst = abs((logits - 2).mean()) / logits.std(axis=1).mean()
    assert code == "CM011"
    assert all(fact in text for fact in ("2 of 3 runs", f"{worst:.2f}", "b seed 0"))


def test_what_collecting_found_is_kept(logits):
    bank = bank_from_arrays({"a": logits}, np.arange(400) % 10)
    bank.teachers = [replace(record, findings="CM001,CM002") for record in bank.teachers]
    checks = check_bank(bank)
    assert checks["findings"].tolist() == ["CM001,CM002"]
    assert [code for _, code in tell_checks(checks)] == ["CM001", "CM002"]
    assert "1 of 1 run" in next(tell_checks(checks))[0]
