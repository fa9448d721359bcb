from __future__ import annotations

import dataclasses

import pytest

from capmismatch._utils.files import hash_of
from capmismatch.errors import InputError
from capmismatch.training.recipes import NAMED, Recipe


def test_the_recipe_of_the_papers() -> None:
    recipe = Recipe.named("cifar240")
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer, recipe.lr) == (240, 128, "sgd", 0.05)
    assert (recipe.schedule, recipe.milestones) == ("step", (150, 180, 210))
    assert (recipe.weight_decay, recipe.momentum) == (5e-4, 0.9)
    assert recipe.warmup_epochs > 0


def test_the_short_recipe_is_short() -> None:
    assert Recipe.named("cifar5").epochs == 5


@pytest.mark.parametrize("name", NAMED)
def test_changes_win(name: str) -> None:
    assert Recipe.named(name, lr=0.3).lr == 0.3
    assert dataclasses.replace(Recipe.named(name), lr=0.3) == Recipe.named(name, lr=0.3)


def test_fewer_epochs_move_the_drops_along_unless_they_are_given() -> None:
    assert Recipe.named("cifar240", epochs=24).milestones == (15, 18, 21)
    assert Recipe.named("cifar240", epochs=480).warmup_epochs == 2 * Recipe.named("cifar240").warmup_epochs
    assert Recipe.named("cifar240", epochs=24, milestones=(20,)).milestones == (20,)


def test_later_options_are_left_out_at_their_defaults() -> None:
    """Runs and teachers are named by hashes of recipes: a new option must not rename what was trained without it."""
    recipe = Recipe(epochs=40, batch_size=250)
    assert repr(recipe) == (
        "Recipe(epochs=40, batch_size=250, optimizer='adamw', lr=0.005, schedule='onecycle', milestones=(), "
        "warmup_epochs=0, weight_decay=0.01, momentum=0.9, shift=0)"
    )
    assert hash_of(recipe.to_dict()) == "03a228108d0bf37c"
    used = Recipe(keep_best=True, patience=3, autocast="bfloat16", channels_last=False)
    stated = {"keep_best": True, "patience": 3, "autocast": "bfloat16", "channels_last": False}
    assert stated.items() <= used.to_dict().items()
    assert eval(repr(used)) == used


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recipe.named("cifar24"), "recipe must be one of .* not 'cifar24'; did you mean 'cifar240'"),
        (lambda: Recipe(patience=2), "patience waits for a better epoch: set keep_best too, got patience=2"),
        (lambda: Recipe(keep_best=True, patience=-1), "expected patience a whole number >= 0, got -1"),
        (lambda: Recipe(autocast="half"), "autocast must be one of .* not 'half'"),
    ],
)
def test_errors_say_what_and_where(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
