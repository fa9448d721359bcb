"""Stored views: fixed augmented copies of the training inputs, so that a teacher has to run on each only once.

A view is made from raw inputs by a seeded rule, described by its parameters (kind, strength, seed, number) and made
again where it is needed; the teachers' logits on it are collected into a separate bank. Students then draw, for every
example and epoch, one of the views, with the soft label that belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError, must_be_one_of, must_be_within, must_count

KINDS = ("none", "noise", "flip")


@dataclass(frozen=True)
class Views:
    """Which stored views of the training inputs there are.

    Attributes
    ----------
    kind : str
        "none" (the inputs themselves), "noise" (plus Gaussian noise) or "flip" (view 0 as is, view 1 mirrored).
    count : int
        How many views; "none" has 1, "flip" has 2.
    sigma : float
        Standard deviation of the noise, in units of the raw inputs.
    seed : int
        Of the noise.
    """

    kind: str = "none"
    count: int = 1
    sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        must_be_one_of(self.kind, KINDS, "kind of views")
        must_count(self.seed, "seed of views", least=0)
        if self.kind == "flip" and self.count in (1, 2):
            object.__setattr__(self, "count", 2)
        most = {"none": 1, "flip": 2}.get(self.kind, self.count)
        if not 1 <= self.count <= min(most, 10_000):
            raise InputError(
                f"expected count of views >= 1 (1 of kind 'none', 2 of 'flip'), got {self.count} of kind {self.kind!r}"
            )
        must_be_within(self.sigma, "sigma of views", 0.0, 1e30)
        if (self.sigma > 0) != (self.kind == "noise"):
            raise InputError(f"sigma > 0 belongs to views of kind 'noise', got sigma={self.sigma!r} with {self.kind!r}")

    def name(self, number: int) -> str:
        """Name of the folder of a view's bank: kind, strength, seed and number."""
        return {"none": "plain", "flip": f"flip-{number}"}.get(
            self.kind, f"{self.kind}-{self.sigma:g}-seed{self.seed}-{number:03d}"
        )

    def make(self, inputs: NDArray[Any], number: int) -> NDArray[Any]:
        """Make one view of raw inputs; every call gives the same numbers.

        Parameters
        ----------
        inputs : ndarray of shape (n, ...)
            Raw inputs; of kind "flip" images (n, H, W, C).
        number : int
            Which view, in [0, count).

        Returns
        -------
        ndarray of the shape of `inputs`
            The view: float32 of kind "noise", else in the dtype of `inputs`.

        Examples
        --------
        >>> Views("noise", count=2, sigma=1.0).make(np.zeros((1, 2)), 1).round(2)
        array([[ 0.46, -2.16]], dtype=float32)
        """
        if not 0 <= number < self.count:
            raise InputError(f"expected a view in [0, {self.count}), got {number}")
        if self.kind == "noise":
            generator = np.random.default_rng([self.seed, number])
            noise = generator.standard_normal(inputs.shape, np.float32)
            return inputs.astype(np.float32) + np.float32(self.sigma) * noise
        if self.kind == "flip" and number == 1:
            if inputs.ndim != 4:
                raise InputError(f"views of kind 'flip' need images (n, H, W, C), got shape {inputs.shape}")
            return np.ascontiguousarray(inputs[:, :, ::-1])
        return inputs
