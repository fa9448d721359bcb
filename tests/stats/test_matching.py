from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from capmismatch.errors import InputError
from capmismatch.stats import matching
from capmismatch.stats.matching import (
    nearest_tau,
    resolve_split,
    rows_of_split,
    seed_effects,
    share_seeds,
    splits_present,
)


def test_temperatures_are_near_on_a_log_scale():
    # 2.2 is 1.8 below 4 and 6.1 is 2.1 above it, but 6.1 / 4 = 1.5 is less than 4 / 2.2 = 1.8.
    assert nearest_tau([2.2, 6.1], 4.0) == 6.1
    assert nearest_tau([8.0, 2.0], 4.0) == 8.0  # equally far: the first
    assert nearest_tau(pd.Series([np.nan, 1.0]), 4.0) == 1.0
    assert np.isnan(nearest_tau([np.nan], 4.0))


@pytest.mark.parametrize(
    ("splits", "preferred", "among", "expected"),
    [
        (["val", "test"], "test", ("val", "test"), "test"),
        (["val"], "test", ("val", "test"), "val"),
        (["val", "train"], "test", ("val", "test"), "val"),
        (["train"], "test", ("val", "test"), "test"),
        (["val"], "train", ("val", "test"), "train"),
        (["train"], "val", None, "train"),
        (["train", "fold"], "val", None, "val"),
        ([], "val", None, "val"),
    ],
)
def test_splits_that_may_stand_in_for_another(splits, preferred, among, expected):
    assert resolve_split(splits, preferred, among) == expected


def test_rows_of_a_split_that_is_not_there():
    frame = pd.DataFrame({"split": ["test", "val", "fold"]})
    assert splits_present(frame["split"]) == ["val", "test"]
    with pytest.raises(InputError, match=r"'train'.*\['fold', 'test', 'val'\]"):
        rows_of_split(frame, "train", "the table")


@pytest.mark.parametrize(
    ("teachers", "seeds", "expected"),
    [
        ("abcabc", [0, 0, 0, 1, 1, 1], True),  # two seeds that all share are enough
        ("abcab", [0, 0, 0, 1, 1], True),  # so is one, where some have another
        ("abc", [0, 0, 0], False),  # a single seed has no effect that could be estimated
        ("abab", [0, 0, 1, 1], False),  # two teachers are too few
        ("abcabc", [0, 0, 1, 1, 2, 2], False),  # no seed is shared by all
    ],
)
def test_from_how_many_shared_seeds_on_results_are_paired(teachers, seeds, expected):
    rows = pd.DataFrame({"teacher": list(teachers), "seed": seeds})
    assert share_seeds(rows, ["teacher"]) is expected


@pytest.mark.parametrize(("units", "seeds"), [(5, 30), (30, 6)])
def test_effects_of_many_seeds_are_those_of_least_squares(
    units: int, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"t{u}", s) for u in range(units) for s in range(seeds) if s == 0 or rng.random() < 0.7]
    rows = pd.DataFrame(pairs, columns=["teacher", "seed"]).assign(accuracy=rng.random(len(pairs)))
    dense = seed_effects(rows, ["teacher"])
    monkeypatch.setattr(matching, "MOST_CELLS", 0)
    np.testing.assert_allclose(seed_effects(rows, ["teacher"]), dense, atol=1e-12)
