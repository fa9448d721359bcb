"""Probes of class means where classes have one example: not known, and told of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import capmismatch as cm

SPREAD = ["cmi", "within_class_spread"]


def links_of(labels: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    shape = len(labels), labels.max() + 1
    logits = {f"t{i}": (1 + i) * np.eye(shape[1])[labels] + rng.normal(size=shape) for i in range(6)}
    bank = cm.bank_from_arrays(logits, labels, params={name: 10.0**i for i, name in enumerate(logits, 1)})
    probes = cm.probe(bank, [4.0], split=None, progress=False).assign(split="val")
    results = pd.DataFrame(
        {
            "family": "logits",
            "teacher": list(logits),
            "teacher_seed": 0,
            "student": "s",
            "method": "KD",
            "label": "KD",
            "seed": 0,
            "split": "test",
            "accuracy": 0.5 + 0.01 * np.arange(6) + 0.003 * rng.normal(size=6),
        }
    )
    return probes[probes["probe"].isin(SPREAD)], cm.correlate(probes, results, n_boot=20)


@pytest.mark.parametrize(
    ("labels", "measured", "told"),
    [
        (np.arange(20), 0, True),
        (np.append(np.arange(20), np.zeros(20, dtype=int)), 21, True),
        (np.repeat(np.arange(5), 8), 40, False),
    ],
    ids=["one each", "one class of many", "many each"],
)
def test_examples_that_are_alone_in_their_class_are_left_out(labels: np.ndarray, measured: int, told: bool) -> None:
    probes, links = links_of(labels)
    assert (probes["n"] == measured).all() and (probes["value"].isna() == (measured == 0)).all()
    of_spread = links["probe"].isin(SPREAD)
    assert set(links[of_spread]["probe"]) == set(SPREAD)
    assert links[of_spread]["findings"].str.contains("CM026").eq(told).all()
    assert not links[~of_spread]["findings"].str.contains("CM026").any()
    assert (links[of_spread]["value"].isna() == (measured == 0)).all()
