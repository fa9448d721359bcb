"""Numbers in three bytes, held against themselves."""

from __future__ import annotations

import numpy as np
import pytest

from capmismatch._numerics.finer_halves import as_halves, from_halves


@pytest.mark.parametrize("largest", [1e-6, 1e-3, 1.0, 30.0, 6e4])
def test_three_bytes_are_exact_to_two_to_the_minus_nineteen(largest: float) -> None:
    values = (np.random.default_rng(0).uniform(-1, 1, 20_000) * largest).astype(np.float32)
    half, rest = as_halves(values)
    np.testing.assert_array_equal(half, values.astype(np.float16))
    np.testing.assert_allclose(from_halves(half, rest), values, rtol=2**-19, atol=2**-32)


def test_order_is_kept_and_what_float16_holds_is_exact() -> None:
    values = np.linspace(-9, -7.9, 5000, dtype=np.float32)  # over a power of two, where the last digit doubles
    assert (np.diff(from_halves(*as_halves(values))) > 0).all()
    exact = np.array([0.0, -0.5, -1.0, -2.0, -60_000.0], np.float32)
    half, rest = as_halves(exact)
    assert not rest.any() and from_halves(half, rest).tolist() == exact.tolist()
