"""Perceptrons on letters that are trained otherwise: smoothed, mixed, decayed, stopped early, not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import capmismatch as cm
from capmismatch.data.datasets import Dataset, load_dataset
from capmismatch.diagnostics.smoothing import looks_smoothed
from capmismatch.errors import InputError
from capmismatch.sources import letters
from capmismatch.sources._trained import initial

SPLIT = {"train": 1600, "val": 600, "test": 100}


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return load_dataset("letters", split=SPLIT)


def weights(teachers: list[letters.Teacher]) -> dict[str, torch.Tensor]:
    return teachers[0].module().state_dict()


def test_plain_teachers_keep_their_files_and_others_have_their_own(tmp_path: Path, rows: Dataset) -> None:
    train = rows.part("train")
    ways = [{}, {"label_smoothing": 0.1}, {"mixup": 0.4}, {"weight_decay": 1.0}, {"epochs": 3}, {"epochs": 0}]
    families = [letters.load("mlp", widths=[8], seeds=1, train=train, folder=tmp_path, **way)[0] for way in ways]
    names = [teachers[0].family for teachers in families]
    assert names == ["mlp", "mlp-smoothed0.1", "mlp-mixup0.4", "mlp-decay1", "mlp-epochs3", "mlp-untrained"]
    assert len({teachers[0].weights_hash for teachers in families}) == len(ways)
    recipe = {"width": 8, "seed": 0, "data": train.rows.fingerprint, "recipe": repr(letters.RECIPE)}
    assert families[0][0].weights_hash == letters.hash_of(recipe)  # as before there were others
    plain = {"label_smoothing": 0.0, "mixup": 0.0, "weight_decay": letters.RECIPE.weight_decay, "epochs": 40}
    again = letters.load("mlp", widths=[8], seeds=1, train=train, folder=tmp_path, **plain)[0]
    assert again[0].weights_hash == families[0][0].weights_hash and again[0].family == "mlp"


def test_untrained_teachers_are_where_the_trained_ones_start(tmp_path: Path, rows: Dataset) -> None:
    teachers = letters.load("mlp", widths=[8], seeds=1, train=rows.part("train"), folder=tmp_path, epochs=0)[0]
    start = initial("teacher 8 0", lambda: letters.build(8)).state_dict()
    for name, value in weights(teachers).items():
        torch.testing.assert_close(value, start[name], rtol=0, atol=0)


def test_what_teachers_are_taught(rows: Dataset) -> None:
    train = rows.part("train")
    labels = torch.from_numpy(train.labels)
    inputs, soft = letters.Way(0.1, 0.0, 0.01, None).data(train, 0)
    assert inputs.shape == (1, 1600, 16) and soft is not None
    torch.testing.assert_close(soft[0].sum(1), torch.ones(1600))
    torch.testing.assert_close(soft[0].gather(1, labels[:, None])[:, 0], torch.full((1600,), 0.9 + 0.1 / 26))
    mixed, soft = letters.Way(0.0, 0.4, 0.01, None).data(train, 0)
    assert mixed.shape == (letters.PARTNERS, 1600, 16) and soft is not None
    own = soft.gather(2, labels.expand(len(soft), -1)[..., None])[..., 0]
    assert (soft > 0).sum(2).max() == 2 and 0.4 < own.mean() < 0.65  # half, and the pairs of one class
    x = torch.from_numpy(train.inputs).float()
    at = (soft[0] > 0).sum(1).eq(2).nonzero()[0, 0]
    partners = labels.eq(int(soft[0, at].scatter(0, labels[at], 0.0).argmax()))
    between = own[0, at] * x[at] + (1 - own[0, at]) * x[partners]
    assert torch.isclose(between, mixed[0, at], atol=1e-4).all(1).any()  # of one of that class's examples
    assert letters.Way(0.0, 0.0, 0.01, None).data(train, 0)[1] is None


def test_smoothed_teachers_are_found(tmp_path: Path, rows: Dataset) -> None:
    found = {}
    for way in ({}, {"label_smoothing": 0.1}):
        family = cm.load_family("letters:mlp", widths=[96], seeds=1, folder=tmp_path, train=rows.part("train"), **way)
        bank = cm.collect(family, rows, tmp_path / str(len(way)), progress=False)
        found[len(way)] = cm.check(bank)["findings"].iloc[0]
        assert cm.check(bank)["usable"].all()
    assert "CM046" not in found[0] and "CM046" in found[1]


@pytest.mark.parametrize(
    ("top", "right", "expected"), [(0.93, 1.0, True), (1.0, 1.0, False), (0.93, 0.95, False), (0.93, None, False)]
)
def test_who_is_right_and_not_sure_looks_smoothed(top: float, right: float | None, expected: bool) -> None:
    count = 400 if right is not None else 100  # a quarter of 100 is too few to tell
    hit = np.arange(count) >= (1 - (right or 1.0)) * count
    confidence = np.where(hit, np.linspace(top - 0.4, top, count), top)
    assert looks_smoothed(confidence, hit) is expected


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"mixup": -0.1}, "mixup"),
        ({"epochs": -1}, "expected epochs a whole number >= 0"),
        ({"epochs": 1.5}, "expected epochs a whole number"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_ways_that_mean_nothing_are_refused(way: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        letters.load("mlp", widths=[8], **way)
