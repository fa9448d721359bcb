from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from capmismatch._numerics.arrays import as_labels, as_logits, as_pair, widest_float
from capmismatch.errors import InputError

ROWS = np.array([[1.5, -2.0, 0.25], [3.0, 0.0, -1.0]])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
        (torch.uint8, torch.float32),
    ],
)
def test_precision_is_kept_and_float32_at_least(given: torch.dtype, expected: torch.dtype) -> None:
    found = as_logits(torch.tensor([[1, 2], [3, 4]]).to(given))
    assert found.dtype == expected
    assert found.tolist() == [[1, 2], [3, 4]]


def test_a_wanted_precision_is_given() -> None:
    assert as_logits(ROWS.tolist(), dtype=torch.float64).dtype == torch.float64
    assert widest_float(torch.zeros(1)) == torch.float64


@pytest.mark.parametrize(
    "view",
    [
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
        lambda rows: rows[::-1, ::-1].copy()[::-1, ::-1],
        lambda rows: np.broadcast_to(rows, rows.shape),
        lambda rows: torch.from_numpy(rows.T.copy()).T,
        lambda rows: rows.tolist(),
    ],
    ids=["fortran", "strided", "reversed", "read-only", "transposed tensor", "list"],
)
def test_any_layout_gives_the_same_numbers(view) -> None:
    np.testing.assert_array_equal(as_logits(view(ROWS)).numpy(), ROWS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_memory_mapped_rows_are_read_and_left_alone(tmp_path: Path, dtype: type) -> None:
    file = tmp_path / "logits.npy"
    np.save(file, ROWS.astype(dtype))
    found = as_logits(np.load(file, mmap_mode="r"))
    found.add_(1)
    np.testing.assert_array_equal(np.load(file), ROWS.astype(dtype))


def test_gradients_pass_through() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    as_logits(logits).sum().backward()
    assert logits.grad is not None and (logits.grad == 1).all()


def test_finite_logits_whose_sum_overflows_are_fine() -> None:
    assert as_logits([[3e38, 3e38], [3e38, 0.0]]).shape == (2, 2)


@pytest.mark.parametrize(
    "labels", [[0, 2], [0.0, 2.0], np.array([0, 2], np.uint8), torch.tensor([0, 2], dtype=torch.int32)]
)
def test_labels_of_any_whole_type(labels) -> None:
    found = as_labels(labels, 2, 3)
    assert found.dtype == torch.int64 and found.tolist() == [0, 2]


def test_no_rows_are_fine() -> None:
    logits, labels = as_pair(np.zeros((0, 3)), [])
    assert logits.shape == (0, 3) and labels.shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_logits([1.0, 2.0]), r"expected logits of shape \(N, C\), got shape \(2,\)"),
        (lambda: as_logits([[1.0]], place="student logits"), "at least 2 classes, got 1 in student logits"),
        (lambda: as_logits([[0.0, 1.0], [2.0, np.nan]]), "finite logits, got nan at row 1, class 1 of logits"),
        (lambda: as_logits([[-np.inf, 1.0]]), "finite logits, got -inf at row 0, class 0"),
        (lambda: as_logits([["a", "b"]]), "expected numbers as logits, got 'a' at row 0, class 0"),
        (lambda: as_logits([[1.0, 2.0], [3.0]]), "expected numbers as logits, got list"),
        (lambda: as_labels(["cat"], 1, 3), "expected numbers as labels, got 'cat' at row 0"),
        (lambda: as_labels([0, 1], 3, 3), r"expected 3 labels, one for each row of the logits, got shape \(2,\)"),
        (lambda: as_labels([[0]], 1, 3), r"expected 1 labels.*got shape \(1, 1\)"),
        (lambda: as_labels([0, 3], 2, 3), r"labels in \[0, 3\), got 3 at row 1 of labels"),
        (lambda: as_labels([-1], 1, 3, place="targets"), r"labels in \[0, 3\), got -1 at row 0 of targets"),
        (lambda: as_labels([0.5], 1, 3), "expected whole numbers as labels, got torch.float32 with fractions"),
        (lambda: as_labels([np.nan], 1, 3), "expected whole numbers as labels"),
    ],
)
def test_errors_say_what_and_where(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "values",
    [
        ROWS + 1j,
        torch.from_numpy(ROWS + 1j),
        [[1.0, 2.0], [3.0, 4j]],
        np.ma.masked_array(ROWS, ROWS > 2),
        np.zeros((2, 3), "M8[s]"),
        np.zeros((2, 3), "m8[s]"),
        ROWS.astype(str),
        [[1e155, 0.0]],
        np.array([[0.0, -1e39]]),
    ],
)
def test_what_would_be_read_in_another_sense_is_refused(values) -> None:
    with pytest.raises(InputError, match=r"as logits|of logits"):
        as_logits(values)


def test_labels_are_plain_numbers() -> None:
    for labels in ([0, 2j], np.ma.masked_array([0, 1], [True, False]), np.array(["0", "1"]), np.zeros(2, "M8[D]")):
        with pytest.raises(InputError, match="as labels"):
            as_labels(labels, 2, 3)


def test_plain_arrays_of_other_kinds_are_read() -> None:
    assert np.array_equal(as_logits(ROWS.astype(">f8")), ROWS)
    assert np.array_equal(as_logits(np.ma.masked_array(ROWS)), ROWS)
    assert np.array_equal(as_logits(pd.DataFrame(ROWS, columns=list("abc"))), ROWS)
    assert as_labels(pd.Series([2, 0], index=[7, 9]), 2, 3).tolist() == [2, 0]
