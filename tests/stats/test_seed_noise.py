"""Groups of teachers and their noise: what errors of the seeds' effects do to means."""

from __future__ import annotations

import numpy as np
import pytest

from capmismatch.stats.groups import _errors_by_units, errors_of_seed_effects


def contrasts(errors: np.ndarray) -> np.ndarray:
    """Variances of all differences between units."""
    covariance = errors @ errors.T
    own = np.diag(covariance)
    return own[:, None] + own - 2 * covariance


@pytest.mark.parametrize(("units", "seeds"), [(5, 3), (6, 6), (9, 8)])
def test_matrices_of_units_and_of_seeds_tell_the_same_of_differences(units, seeds):
    counts = (np.random.default_rng(units).random((units, seeds)) < 0.7).astype(int)
    counts[:, 0] = counts[0] = 1
    by_seeds, by_units = errors_of_seed_effects(counts, 1.7), _errors_by_units(counts / 1.0, 1.7)
    assert contrasts(by_units) == pytest.approx(contrasts(by_seeds), abs=1e-12)


def test_many_seeds_take_no_matrix_of_seeds():
    counts = (np.random.default_rng(0).random((11, 20_000)) < 0.9).astype(int)
    errors = errors_of_seed_effects(counts, 1.0)
    assert errors is not None and errors.shape[0] == 11 and errors.shape[1] <= 11
    assert errors_of_seed_effects(np.ones((4, 20_000), int), 1.0) is None
