"""Logits as language models give them: frequent tokens are likely everywhere, some are likely here."""

from __future__ import annotations

import numpy as np

WINDOW = 10


def text_logits(rows=200, vocabulary=5000, teachers=("small", "middle", "large"), seed=0):
    """Each teacher's logits (rows, V), float32, and labels; larger teachers are nearer to what these come from."""
    rng = np.random.default_rng(seed)
    common = -1.2 * np.log(np.arange(1, vocabulary + 1))
    truth = common + 2.0 * rng.standard_normal((rows, vocabulary))
    gumbel = rng.gumbel(size=truth.shape)
    labels = (truth + gumbel).argmax(1)
    logits = {}
    for index, name in enumerate(teachers):
        noise = 1.5 / (index + 1)
        logits[name] = (truth + noise * rng.standard_normal(truth.shape)).astype(np.float32)
    return logits, labels


def windows(rows):
    """Number of the sequence of each row."""
    return np.arange(rows) // WINDOW
