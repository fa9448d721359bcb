"""Slopes of the NLL from a series about one temperature, against mpmath and against rows read at each temperature."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from capmismatch._numerics import devices
from capmismatch._numerics.rate_series import WITHIN, series, slope_near
from capmismatch._numerics.softmax import take_apart
from capmismatch.data.bank import bank_from_arrays
from capmismatch.diagnostics import calibrating
from capmismatch.diagnostics.example_values import values_of
from capmismatch.probes import REGISTRY
from capmismatch.probes.temperatures import slopes_of


def rows(n: int, classes: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, n)
    logits = scale * rng.standard_normal((n, classes))
    logits[np.arange(n), labels] += 2 * scale * rng.random(n)
    return torch.from_numpy(logits), torch.from_numpy(labels)


def exact_slope(f: list[float], y: int, beta: float) -> float:
    """Mean logit under p less the target's."""
    with mpmath.workdps(40):
        e = [mpmath.exp(mpmath.mpf(beta) * (v - max(f))) for v in f]
        return float(sum(p * v for p, v in zip(e, f, strict=True)) / sum(e) - f[y])


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("rate", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("away", [-WITHIN, -0.01, 0.0, 0.07, WITHIN])
def test_slopes_near_a_temperature(rate: float, away: float, loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SMALL", 0 if loops else 1 << 62)
    logits, labels = rows(20, 30)
    raw, at = take_apart(logits, labels), rate * (1 + away)
    gap = (raw.target_logit - raw.max_wrong_logit).numpy()
    found = slope_near(series(raw, rate).numpy(), gap, rate, at)
    exact = [exact_slope(f, y, at) for f, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_allclose(found, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loops", [True, False])
def test_the_series_of_many_classes_and_far_logits(loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SMALL", 0 if loops else 1 << 62)
    logits, labels = rows(6, 1000, 40.0)
    raw = take_apart(logits, labels)
    gap = (raw.target_logit - raw.max_wrong_logit).numpy()
    for away in (-WITHIN, WITHIN):
        found = slope_near(series(raw, 0.5).numpy(), gap, 0.5, 0.5 * (1 + away))
        np.testing.assert_allclose(found, slopes_of(raw, [0.5 * (1 + away)])[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("some", [2048, 40])  # with few rows to look for it, the temperature may lie elsewhere
def test_a_bank_is_calibrated_as_by_rows_read_again(some: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = rows(3000, 5)
    logits = logits.float()
    bank = bank_from_arrays({"a": logits.numpy()}, labels.numpy())
    raw = take_apart(logits, labels)
    slow = REGISTRY["calibration_tau"].compute(lambda rates: slopes_of(raw, rates).numpy())
    monkeypatch.setattr(calibrating, "SOME_ROWS", some)
    probes = [REGISTRY["calibration_tau"]]
    found = values_of(bank, bank.keys[0], [], probes, None, torch.device("cpu"))["calibration_tau", None]
    np.testing.assert_allclose(found, slow, rtol=1e-9, atol=1e-9)
    assert found.mean() == pytest.approx(slow.mean(), rel=1e-12)
