from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from messages import naming
from torch import Tensor, nn

from capmismatch.distillation.methods import Method
from capmismatch.errors import InputError
from capmismatch.losses import Criterion, CurriculumKD
from capmismatch.training.loop import OPTIMIZERS, SCHEDULES, Recipe, _moves, _scheduler, _shifted, evaluate, fit


def network(inputs: int = 4, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes))


def separable(rows: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Views (1, N, 4) around one corner a class, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    return (3 * torch.eye(4)[labels] + 0.3 * torch.randn(rows, 4, generator=generator))[None], labels


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


RECIPE = Recipe(epochs=3, batch_size=16, lr=0.01)


# ----------------------------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_same_seed_gives_the_same_weights_and_another_one_others(optimizer: str, schedule: str) -> None:
    views, labels = separable()
    recipe = Recipe(epochs=2, batch_size=16, lr=0.01, optimizer=optimizer, schedule=schedule, milestones=(1,))
    first, again, other = (weights(fit(network(), views, labels, recipe, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_randomness_outside_does_not_matter() -> None:
    images = torch.randn(2, 20, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), network(16))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for noise in (1, 2):
        model.load_state_dict(start)
        torch.manual_seed(noise)
        fit(model, images, torch.arange(20) % 3, Recipe(epochs=2, batch_size=8, shift=1), seed=5)
        found.append(weights(model))
    assert same(*found)


def test_the_loss_falls_and_the_classes_are_learnt() -> None:
    views, labels = separable()
    losses: list[float] = []
    model = fit(
        network(),
        views,
        labels,
        Recipe(epochs=20, batch_size=16, lr=0.02),
        seed=0,
        after_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert not model.training
    assert len(losses) == 20 and losses[-1] < 0.1 * losses[0]
    fresh, fresh_labels = separable(seed=1)
    assert (evaluate(model, fresh[0], lambda x: x).argmax(1) == fresh_labels).all()


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows() -> None:
    """With a learning rate of almost nothing it is that of the initial weights, the smaller last batch included."""
    views, labels = separable(rows=10)
    model = network()
    expected = nn.functional.cross_entropy(model(views[0]), labels).item()
    seen: list[tuple[int, float]] = []
    recipe = Recipe(epochs=2, batch_size=4, lr=1e-30, weight_decay=0.0, schedule="constant")
    fit(model, views, labels, recipe, seed=0, after_epoch=lambda *args: seen.append(args))
    assert [epoch for epoch, _ in seen] == [0, 1]
    np.testing.assert_allclose([loss for _, loss in seen], expected, rtol=1e-5)


def test_every_view_is_taught_by_its_own_soft_label() -> None:
    """In view 0 the first input tells the class and in view 1 it tells the opposite, as only the soft labels know.

    A view taken with the other's soft label would teach the opposite; with the labels alone nothing can be learnt.
    """
    sign = torch.tensor([1.0, -1.0]).repeat(32)
    views = torch.stack([torch.stack([sign, torch.zeros(64)], 1), torch.stack([sign, torch.ones(64)], 1)])
    soft = torch.stack([torch.stack([sign > 0, sign < 0], 1), torch.stack([sign < 0, sign > 0], 1)]).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    fit(
        model,
        views,
        torch.zeros(64, dtype=torch.int64),
        Recipe(epochs=60, batch_size=16, lr=0.02),
        seed=0,
        criterion=Method("KD", weight=1.0).criterion(),
        soft=soft,
    )
    for view in (0, 1):
        assert (evaluate(model, views[view], lambda x: x).argmax(1) == soft[view].argmax(1)).all()


def test_what_reaches_network_and_criterion_belongs_together() -> None:
    """Rows, views, labels and soft labels are numbered; each batch has to carry the same numbers throughout."""
    rows, count = 23, 3
    number = torch.arange(rows, dtype=torch.float32)
    views = torch.stack([torch.stack([torch.full((rows,), float(v)), number], 1) for v in range(count)])
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.inputs = torch.zeros(0)

        def forward(self, x: Tensor) -> Tensor:
            self.inputs = x.clone()
            return x * self.weight

    class Recorder(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
            seen.append((model.inputs, labels, soft))
            return logits.sum() * 0

    model = Probe()
    fit(
        model,
        views,
        torch.arange(rows),
        Recipe(epochs=4, batch_size=5),
        seed=3,
        prepare=lambda x: x + 100,
        criterion=Recorder(),
        soft=views + 1000,
    )
    assert len(seen) == 4 * 5
    epochs = [[torch.cat(parts) for parts in zip(*seen[5 * e : 5 * e + 5], strict=True)] for e in range(4)]
    for inputs, labels, soft in epochs:
        torch.testing.assert_close(inputs + 900, soft)
        torch.testing.assert_close(inputs[:, 1] - 100, labels.float())
        assert sorted(labels.tolist()) == list(range(rows))
        assert set((inputs[:, 0] - 100).tolist()) == {0.0, 1.0, 2.0}
    orders = {tuple(labels.tolist()) for _, labels, _ in epochs}
    drawn = {tuple(inputs[labels.argsort(), 0].tolist()) for inputs, labels, _ in epochs}
    assert len(orders) == 4 and len(drawn) == 4


def test_the_criterion_is_told_the_epoch_and_its_parameters_are_learnt() -> None:
    views, labels = separable()
    criterion = Criterion("curriculum_kd")
    epochs: list[int] = []
    tell = criterion.set_epoch
    criterion.set_epoch = lambda epoch: (epochs.append(epoch), tell(epoch))  # type: ignore[method-assign,assignment]
    before = weights(criterion)
    fit(network(), views, labels, RECIPE, seed=0, criterion=criterion, soft=torch.randn(1, 60, 3))
    assert epochs == [0, 1, 2]
    assert isinstance(criterion.term, CurriculumKD) and before and not same(before, weights(criterion))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    views, labels = separable()
    views[0, 7] = math.nan
    with pytest.raises(FloatingPointError, match=naming("nan", "epoch 0", "0.01")):
        fit(network(), views, labels, RECIPE, seed=0)


def test_evaluate_gives_the_logits_of_all_rows_in_eval_mode() -> None:
    views, _ = separable(rows=11)
    model = nn.Sequential(network(), nn.Dropout(0.9)).train()
    found = evaluate(model, views[0], lambda x: 2 * x, batch_size=4)
    torch.testing.assert_close(found, model[0](2 * views[0]).detach())


# ---------------------------------------------------------------------------------------------------------- best epoch


def scored(recipe: Recipe, scores: list[float]) -> tuple[list[Tensor], list[list[Tensor]], int]:
    """Weights at the end and after each epoch of a training whose epochs get given scores, and how often it asked."""
    views, labels = separable()
    seen: list[list[Tensor]] = []

    def validate(model: nn.Module) -> float:
        assert not model.training
        seen.append(weights(model))
        return scores[len(seen) - 1]

    return weights(fit(network(), views, labels, recipe, seed=0, validate=validate)), seen, len(seen)


@pytest.mark.parametrize(
    ("scores", "patience", "best", "asked"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.2], 0, 1, 5),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, 4, 5),
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, 1, 4),  # the last epoch is never trained
        ([0.1, 0.5, 0.4, 0.6, 0.2], 2, 3, 5),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 3, 0, 4),  # the first of equals
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends(scores: list[float], patience: int, best: int, asked: int) -> None:
    recipe = Recipe(epochs=5, batch_size=16, lr=0.05, keep_best=True, patience=patience)
    found, seen, count = scored(recipe, scores)
    assert count == asked
    assert [same(found, epoch) for epoch in seen] == [index == best for index in range(asked)]


def test_looking_at_validation_rows_changes_no_epoch() -> None:
    recipe = Recipe(epochs=3, batch_size=16, lr=0.05)
    views, labels = separable()
    plain = weights(fit(network(), views, labels, recipe, seed=0))
    found, _, _ = scored(dataclasses.replace(recipe, keep_best=True), [1.0, 2.0, 3.0])
    assert same(found, plain)


# ------------------------------------------------------------------------------------------------- precision and layout


def image_network() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_comes_near_full_precision_and_leaves_the_weights_in_it(autocast: str) -> None:
    images, labels = torch.randn(1, 40, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    recipe, seen = Recipe(epochs=3, batch_size=20, lr=1e-3, schedule="constant"), set()

    def losses(recipe: Recipe) -> list[float]:
        model, found = image_network(), list[float]()
        model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        fit(model, images, labels, recipe, seed=0, after_epoch=lambda epoch, loss: found.append(loss))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        return found

    full, half = losses(recipe), losses(dataclasses.replace(recipe, autocast=autocast))
    assert seen == {torch.float32, getattr(torch, autocast)}
    np.testing.assert_allclose(half, full, rtol=0.02)
    assert half != full


def test_the_layout_is_the_recipes() -> None:
    images, labels = torch.randn(1, 40, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    found = {}
    for channels_last in (True, False):
        model, laid_out = image_network(), set()
        model[0].register_forward_pre_hook(
            lambda module, inputs, to=laid_out: to.add(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        recipe = Recipe(epochs=2, batch_size=20, optimizer="sgd", lr=0.02, shift=1, channels_last=channels_last)
        found[channels_last] = weights(fit(model, images, labels, recipe, seed=0))
        assert laid_out == {channels_last}
        assert found[channels_last][0].is_contiguous(memory_format=torch.channels_last) is channels_last
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_does_and_the_same_twice() -> None:
    images, labels = torch.randn(2, 40, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    recipe = Recipe(epochs=2, batch_size=20, optimizer="sgd", lr=0.02, shift=1)
    found = []
    for device in ("cpu", "cuda", "cuda"):
        taught = {"criterion": Criterion("curriculum_kd"), "soft": images[:, :, :, 0, 0]}
        found.append(fit(image_network(), images, labels, recipe, seed=0, device=device, **taught).cpu())
    for one, other in zip(*(weights(model) for model in found[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
    assert same(weights(found[1]), weights(found[2]))


# ------------------------------------------------------------------------------------------------------------ schedules


def rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = _scheduler(optimizer, recipe, steps_per_epoch)
    found = []
    for _ in range(recipe.epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_step_drops_at_its_milestones() -> None:
    found = rates(Recipe(epochs=6, lr=0.5, schedule="step", milestones=(2, 4)), 3)
    np.testing.assert_allclose(found, [0.5] * 6 + [0.05] * 6 + [0.005] * 6)


def test_cosine_falls_towards_zero() -> None:
    found = rates(Recipe(epochs=4, lr=0.5, schedule="cosine"), 5)
    np.testing.assert_allclose(found, [0.25 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


def test_constant_stays() -> None:
    assert set(rates(Recipe(epochs=2, lr=0.5, schedule="constant"), 5)) == {0.5}


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warmup_rises_linearly_to_the_peak(schedule: str) -> None:
    found = rates(Recipe(epochs=5, lr=0.5, schedule=schedule, warmup_epochs=2, milestones=(4,)), 4)
    np.testing.assert_allclose(found[:8], [0.5 * (step + 1) / 8 for step in range(8)])
    assert found[8] == 0.5 and max(found) == 0.5


def test_onecycle_peaks_after_three_tenths() -> None:
    found = rates(Recipe(epochs=10, lr=0.5, schedule="onecycle"), 10)
    assert int(np.argmax(found)) == 29 and max(found) == pytest.approx(0.5)
    assert found[0] == pytest.approx(0.5 / 25) and found[-1] < 1e-4


# ---------------------------------------------------------------------------------------------------------------- shift


def test_shift_moves_whole_images_and_pads_with_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.rand(400, 2, 5, 4, generator=generator)  # no zeros of its own
    moved = _shifted(x, _moves(400, 2, generator), 2)
    assert moved.shape == x.shape
    seen = set()
    for before, after in zip(x, moved, strict=True):
        fits = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                expected = torch.zeros_like(before)
                for row in range(5):
                    for column in range(4):
                        if 0 <= row - down < 5 and 0 <= column - right < 4:
                            expected[:, row, column] = before[:, row - down, column - right]
                if torch.equal(expected, after):
                    fits.append((down, right))
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25


def test_shift_reaches_the_network_and_its_absence_leaves_the_images() -> None:
    images = 1 + torch.rand(1, 30, 1, 4, 4)

    class Zeros(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.zeros = nn.Linear(16, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.zeros += int((x == 0).sum())
            return self.layer(x.flatten(1))

    labels = torch.arange(30) % 2
    still = fit(Zeros(), images, labels, Recipe(epochs=1, batch_size=10), seed=0)
    moved = fit(Zeros(), images, labels, Recipe(epochs=1, batch_size=10, shift=1), seed=0)
    assert still.zeros == 0 and moved.zeros > 0


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recipe(optimizer="adam"), "optimizer must be one of .* not 'adam'; did you mean 'adamw'"),
        (lambda: Recipe(schedule="cosin"), "schedule must be one of .* did you mean 'cosine'"),
        (lambda: Recipe(epochs=0), "expected epochs a whole number >= 1, got 0"),
        (lambda: Recipe(batch_size=2.5), "expected batch_size a whole number >= 1, got 2.5"),  # type: ignore[arg-type]
        (lambda: Recipe(shift=-1), "expected shift a whole number >= 0, got -1"),
        (lambda: Recipe(warmup_epochs=-1), "expected warmup_epochs a whole number >= 0, got -1"),
        (lambda: Recipe(lr=-0.1), "lr must be a positive number, got -0.1"),
        (
            lambda: fit(network(), *separable(), RECIPE, seed=0, soft=torch.zeros(1, 60, 3)),
            "expected a criterion and soft labels together, or neither",
        ),
        (
            lambda: fit(network(), *separable(), dataclasses.replace(RECIPE, keep_best=True), seed=0),
            "keep_best chooses an epoch by its validation score: expected validate, got None",
        ),
        (
            lambda: fit(network(), *separable(), Recipe(shift=1), seed=0),
            r"a shift needs images \(n, C, H, W\), got a batch of shape \(60, 4\)",
        ),
    ],
)
def test_errors_say_what_and_where(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
