"""One pass against the four functions, each by itself; few logits against compiled loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from capmismatch._numerics import devices
from capmismatch.data.bank import LogitBank, bank_from_arrays
from capmismatch.diagnostics import example_values
from capmismatch.diagnostics.one_pass import all_tables
from capmismatch.diagnostics.tables import affinity, probe, rank_stability, restored_variance

TAUS = [1, 2, 3, 8]
RESTORED = {"tau_target": 2.0, "tau_other": 3.0}


def bank_of(classes: int, teachers: int = 3, dtype: str = "float16") -> LogitBank:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes - 1, 90)  # the last class has no example
    shared = rng.normal(size=(90, classes)) + 3 * np.eye(classes)[labels]
    logits = {f"t{i}": (2 * shared + rng.normal(size=shared.shape)).round(2).astype(dtype) for i in range(teachers)}
    split = np.where(np.arange(90) % 3 == 0, "test", "val")
    return bank_from_arrays(logits, labels, params={f"t{i}": 10**i for i in range(1, teachers)}, split=split)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=1e-12, atol=1e-15, check_exact=False)


def one_by_one(bank: LogitBank, tau: float = 5.0) -> list[pd.DataFrame]:
    return [
        probe(bank, TAUS, progress=False),
        rank_stability(bank, tau=tau, progress=False),
        affinity(bank, tau),
        restored_variance(bank, **RESTORED, progress=False),
    ]


@pytest.mark.parametrize("rows", [1000, 7])  # the latter: classes have more rows than a block
@pytest.mark.parametrize("classes", [3, 70])
def test_one_pass_gives_what_the_functions_give(classes: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_values, "GROUP_LOGITS", rows * classes)
    bank = bank_of(classes)
    found = all_tables(bank, TAUS, tau=5.0, restored=RESTORED, progress=False)
    for one, other in zip(found, one_by_one(bank), strict=True):
        same(one, other)


def test_a_single_teacher_has_no_ranks() -> None:
    bank = bank_of(5, teachers=1)
    found = all_tables(bank, TAUS, progress=False)
    assert found.ranks is None
    same(found.affinity, affinity(bank))


@pytest.mark.parametrize("classes", [3, 70])
def test_few_logits_are_answered_by_tensors_to_the_same_numbers(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of(classes, dtype="float32")
    compiled = one_by_one(bank)
    monkeypatch.setattr(devices, "SMALL", 1 << 18)
    for one, other in zip(one_by_one(bank), compiled, strict=True):
        same(one, other)
