from __future__ import annotations

import numpy as np
import pytest

from capmismatch.data.views import KINDS, Views
from capmismatch.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2), dtype=np.uint8)
ROWS = np.random.default_rng(1).integers(0, 16, (2000, 16)).astype(np.uint8)


def test_plain_views_are_the_inputs() -> None:
    views = Views()
    assert (views.kind, views.count) == ("none", 1)
    np.testing.assert_array_equal(views.make(ROWS, 0), ROWS)
    assert views.name(0) == "plain"


def test_flip_mirrors_the_width() -> None:
    views = Views("flip")
    assert views == Views("flip", count=2)
    np.testing.assert_array_equal(views.make(IMAGES, 0), IMAGES)
    mirrored = views.make(IMAGES, 1)
    for n, row, column, channel in np.ndindex(*IMAGES.shape):
        assert mirrored[n, row, column, channel] == IMAGES[n, row, 5 - 1 - column, channel]
    assert mirrored.dtype == np.uint8 and mirrored.flags.c_contiguous
    np.testing.assert_array_equal(views.make(mirrored, 1), IMAGES)


def test_noise_is_fixed_by_seed_and_number() -> None:
    views = Views("noise", count=3, sigma=0.5, seed=7)
    first = views.make(ROWS, 2)
    np.testing.assert_array_equal(first, views.make(ROWS, 2))
    np.testing.assert_array_equal(first, Views("noise", count=9, sigma=0.5, seed=7).make(ROWS, 2))
    for other in (views.make(ROWS, 1), Views("noise", count=3, sigma=0.5, seed=8).make(ROWS, 2)):
        assert not np.array_equal(first, other)


def test_noise_has_its_deviation_and_leaves_the_inputs_alone() -> None:
    before = ROWS.copy()
    noise = Views("noise", count=1, sigma=0.5).make(ROWS, 0) - ROWS
    np.testing.assert_array_equal(ROWS, before)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 0.5) < 0.02


def test_names_differ_where_the_views_do() -> None:
    made = [(Views(), 0), (Views("flip"), 0), (Views("flip"), 1)]
    made += [
        (Views("noise", count=2, sigma=sigma, seed=seed), number)
        for sigma in (0.5, 1.0)
        for seed in (0, 1)
        for number in (0, 1)
    ]
    assert len({views.name(number) for views, number in made}) == len(made)
    assert {views.kind for views, _ in made} == set(KINDS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Views("flop"), "kind of views must be one of .* not 'flop'; did you mean 'flip'"),
        (lambda: Views(count=2), r"1 of kind 'none', 2 of 'flip'\), got 2 of kind 'none'"),
        (lambda: Views("flip", count=3), "got 3 of kind 'flip'"),
        (lambda: Views("noise", count=0, sigma=1.0), "count of views >= 1.*got 0 of kind 'noise'"),
        (lambda: Views("noise", count=2), "sigma > 0 belongs to views of kind 'noise', got sigma=0.0 with 'noise'"),
        (lambda: Views("flip", sigma=1.0), "sigma > 0 belongs to views of kind 'noise', got sigma=1.0 with 'flip'"),
        (lambda: Views("flip").make(IMAGES, 2), r"expected a view in \[0, 2\), got 2"),
        (lambda: Views("flip").make(ROWS, 1), r"need images \(n, H, W, C\), got shape \(2000, 16\)"),
    ],
)
def test_errors_say_what_and_where(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
