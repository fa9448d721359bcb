"""Faults that leave a teacher's accuracy as it is, or better: repeated rows, known labels, noise for wrong classes."""

from __future__ import annotations

import numpy as np
import pytest

from capmismatch.data.bank import bank_from_arrays
from capmismatch.diagnostics.checks import check
from capmismatch.diagnostics.leaked_labels import knows_part, noise_for_wrong_classes
from capmismatch.diagnostics.mixed_rows import mixed_up, standardised
from capmismatch.diagnostics.repeated_rows import earlier_ones, last_rows, other_examples, repeated_block

N, CLASSES = 1200, 10


def family(seed=0, teachers=6, n=N, classes=CLASSES):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    shared = 2 * np.eye(classes)[labels] + rng.normal(size=(n, classes))
    logits = {
        f"t{k}": shared + noise * rng.normal(size=shared.shape) for k, noise in enumerate(np.linspace(1, 0.3, teachers))
    }
    return rng, labels, {name: values.astype(np.float32) for name, values in logits.items()}


def unusable(logits, labels, **broken):
    checks = check(bank_from_arrays(logits | broken, labels)).set_index("teacher")
    return {name: checks.loc[name, "findings"] for name in checks.index[~checks["usable"]]}


def test_sound_teachers_have_none_of_these_faults():
    for seed in range(3):
        _, labels, logits = family(seed)
        assert unusable(logits, labels) == {}


@pytest.mark.parametrize("batch", [16, 64])
@pytest.mark.parametrize("name", ["t0", "t4"])
def test_a_last_batch_that_is_repeated_or_filled_up(batch, name):
    _, labels, logits = family()
    own = logits[name]
    repeated = np.concatenate([own[:-batch], own[-2 * batch : -batch]])
    filled = np.concatenate([own[:-batch], np.tile(own[-batch - 1], (batch, 1))])
    assert unusable(logits, labels, **{name: repeated}) == {name: "CM021"}
    assert unusable(logits, labels, **{name: filled}) == {name: "CM021"}


def test_a_batch_that_all_teachers_repeat_is_told_by_its_labels():
    _, labels, logits = family()
    same = {name: np.concatenate([own[:-64], own[-128:-64]]) for name, own in logits.items()}
    assert set(unusable(same, labels)) == set(logits)


def test_images_that_are_there_twice_are_no_fault():
    _, labels, logits = family()
    twice = np.r_[np.arange(N - 64), np.arange(N - 128, N - 64)]
    assert unusable({name: own[twice] for name, own in logits.items()}, labels[twice]) == {}


def test_rows_of_few_values_repeat_anywhere_and_are_no_block():
    rng, labels, logits = family()
    coarse = np.round(logits["t3"][:, :2] + 1.5 * rng.normal(size=(N, 2)))
    earlier = earlier_ones(coarse)
    assert (earlier >= 0).mean() > 0.5
    assert repeated_block(earlier, other_examples(earlier, labels, [])) is None
    dead = np.where((np.arange(N) % 3 > 0)[:, None], logits["t3"], 0.5)  # a third of the rows is one vector
    earlier = earlier_ones(dead)
    assert repeated_block(earlier, other_examples(earlier, labels, [])) is None


def test_few_rows_of_a_large_bank_are_held_in_memory():
    assert len(last_rows(10**7, 10)) == 20_000 and len(last_rows(10**7, 10_000)) == 256
    assert last_rows(10**7, 10)[-1] == 10**7 - 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_labels_of_some_examples_in_the_logits(share):
    rng, labels, logits = family()
    own = logits["t2"]
    known = rng.random(N) < share
    leaked = np.where(known[:, None], own + 3 * own.std() * np.eye(CLASSES)[labels], own).astype(np.float32)
    found = unusable(logits, labels, t2=leaked)
    assert set(found) == {"t2"} and "CM019" in found["t2"]


def test_training_rows_beside_held_out_ones_are_no_leak():
    rng = np.random.default_rng(0)
    splits = np.where(np.arange(1600) % 2, "val", "train")
    shared = rng.normal(size=1600)
    margins = {name: shared + 0.5 * rng.normal(size=1600) for name in "abcde"}
    margins["c"] = margins["c"] + 6 * (splits == "train")  # it alone learnt its training rows by heart
    assert knows_part(margins, splits) == {}
    assert list(knows_part(margins, np.full(1600, "val"))) == ["c"]


@pytest.mark.parametrize("made_of", ["labels", "predictions"])
@pytest.mark.parametrize("classes", [10, 40])
def test_one_hot_rows_and_noise(made_of, classes):
    rng, labels, logits = family(classes=classes)
    answers = labels if made_of == "labels" else logits["t3"].argmax(axis=1)
    made = (6 * np.eye(classes)[answers] + rng.normal(size=(N, classes))).astype(np.float32)
    found = unusable(logits, labels, t3=made)
    assert set(found) == {"t3"}
    assert "CM019" in found["t3"] or made_of == "predictions"  # of these errors alone may tell, too (CM021)


def test_nothing_is_told_of_two_teachers_or_few_classes():
    _, labels, logits = family(teachers=2)
    rows = {name: standardised(values) for name, values in logits.items()}
    tops = {name: values.argmax(axis=1) for name, values in logits.items()}
    assert noise_for_wrong_classes(rows, tops, labels) == []
    assert noise_for_wrong_classes({name: one[:, :4] for name, one in rows.items()}, tops, labels) == []
    assert knows_part({name: one[:, 0].astype(float) for name, one in rows.items()}, np.full(N, "val")) == {}


@pytest.mark.parametrize("classes", [2, 3])
def test_weak_teachers_of_two_or_three_uneven_classes_are_sound(classes):
    rng = np.random.default_rng(1)
    labels = rng.choice(classes, 2000, p=[0.6, *np.full(classes - 1, 0.4 / (classes - 1))])
    shared = np.eye(classes)[labels] + 0.7 * rng.normal(size=(2000, classes))
    logits = {name: (shared + rng.normal(size=shared.shape)).astype(np.float32) for name in "abcdef"}
    assert unusable(logits, labels) == {}
    rows = {name: standardised(values) for name, values in logits.items()}
    assert mixed_up("abcdef", rows, dict.fromkeys("abcdef", np.ones(2000))) == {}
