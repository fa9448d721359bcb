"""Raw inputs as networks take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from capmismatch.errors import InputError
from capmismatch.training.prepare import Normalise

DRAWS = np.random.default_rng(0)
IMAGES = DRAWS.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]


def test_uint8_images_are_scaled_and_get_their_channels_first() -> None:
    expected = ((IMAGES / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    for channels_last in (False, True):
        x = Normalise(MEAN, STD, channels_last=channels_last)(IMAGES)
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
        assert x.is_contiguous(memory_format=torch.channels_last) == channels_last
        torch.testing.assert_close(Normalise(MEAN, STD, channels_last=channels_last)(torch.from_numpy(IMAGES)), x)


def test_float_inputs_have_their_channels_where_channels_last_says() -> None:
    noisy = IMAGES.astype(np.float32) + 0.25
    first = Normalise(MEAN, STD)(noisy.transpose(0, 3, 1, 2))
    last = Normalise(MEAN, STD, channels_last=True)(noisy)
    np.testing.assert_array_equal(first.numpy(), last.numpy())
    np.testing.assert_allclose(last.numpy(), ((noisy - MEAN) / STD).transpose(0, 3, 1, 2), rtol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_number_stands_for_all_features_to_the_last_bit(channels_last: bool) -> None:
    features = DRAWS.integers(0, 16, (50, 16))
    by_hand = (torch.from_numpy(features).to(torch.float32) - 7) / 3
    assert torch.equal(Normalise([7.0], [3.0], channels_last=channels_last)(features), by_hand)


def test_without_numbers_only_the_type_changes() -> None:
    features = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(Normalise()(features).numpy(), features.astype(np.float32))


@pytest.mark.parametrize(
    ("mean", "std", "shape"), [(MEAN, STD, (2, 4)), ([0.0] * 2, [1.0] * 2, (2, 3, 8, 8))], ids=["features", "images"]
)
def test_other_numbers_of_channels_are_refused(mean: Any, std: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=rf"{len(mean)} channels.*{shape[0]}, {shape[1]}"):
        Normalise(mean, std)(np.zeros(shape))


def test_it_names_its_numbers() -> None:
    assert repr(Normalise(MEAN, STD)) == "Normalise(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])"
    assert repr(Normalise(channels_last=True)) == "Normalise(channels_last=True)"
