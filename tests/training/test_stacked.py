"""A stack of networks against each trained alone: weights, buffers, checkpoints that either goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from capmismatch.errors import InputError
from capmismatch.training.checkpoint import Checkpoint
from capmismatch.training.loop import Recipe, evaluate, fit
from capmismatch.training.stacked import Stack, fit_stack, member

SEEDS = (0, 1, 1, 5)
VIEWS = torch.randn(3, 230, 4, generator=torch.Generator().manual_seed(0))
LABELS = (VIEWS[0, :, 0] > 0).long() + (VIEWS[0, :, 1] > 0).long()


class Loss:
    """Cross-entropy; raises `KeyboardInterrupt` in one of its calls, as a kill would."""

    def __init__(self, killed_in: int | None = None) -> None:
        self.calls, self.killed_in = 0, killed_in

    def set_epoch(self, epoch: int) -> None:
        pass

    def __call__(self, logits: Tensor, rows: Tensor, views: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.killed_in:
            raise KeyboardInterrupt
        return vmap(nn.functional.cross_entropy)(logits, LABELS[rows])


def perceptron(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def with_buffers(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@pytest.mark.parametrize("build", [perceptron, with_buffers])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "lr": 0.1, "schedule": "cosine", "warmup_epochs": 1}])
def test_a_stack_trains_each_network_as_alone(build: type[nn.Module], changes: dict[str, object]) -> None:
    recipe = Recipe(**{"epochs": 4, "batch_size": 50, **changes})  # type: ignore[arg-type]
    losses: dict[int, list[float]] = {}
    stack = fit_stack(
        [member(build(seed), VIEWS, recipe, seed, "cpu") for seed in SEEDS],
        VIEWS,
        recipe,
        Loss(),
        after_epoch=lambda index, epoch, loss: losses.setdefault(index, []).append(loss),
    )
    for index, seed in enumerate(SEEDS):
        alone: list[float] = []
        network = fit(build(seed), VIEWS, LABELS, recipe, seed=seed, after_epoch=lambda _, x: alone.append(x))  # noqa: B023
        assert largest_difference(network.state_dict(), stack.state_dict(index)) < 1e-5
        assert losses[index] == pytest.approx(alone, rel=1e-5)
        together = stack.of_shared(VIEWS[0])[index].detach()
        torch.testing.assert_close(together, evaluate(network, VIEWS[0], lambda x: x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("go_on", ["alone", "stacked"])
def test_killed_it_goes_on_from_checkpoints_that_are_those_of_lone_trainings(tmp_path: Path, go_on: str) -> None:
    recipe = Recipe(epochs=4, batch_size=50)  # 5 steps an epoch
    checkpoints = [Checkpoint(tmp_path / f"{seed}.safetensors", seconds=0) for seed in range(2)]

    def members() -> list[object]:
        return [member(perceptron(seed), VIEWS, recipe, seed, "cpu", checkpoints[seed]) for seed in range(2)]

    with pytest.raises(KeyboardInterrupt):
        fit_stack(members(), VIEWS, recipe, Loss(killed_in=9))  # type: ignore[arg-type]
    assert [checkpoint.peek() for checkpoint in checkpoints] == [(1, 3)] * 2
    whole = [fit(perceptron(seed), VIEWS, LABELS, recipe, seed=seed).state_dict() for seed in range(2)]
    if go_on == "alone":
        networks = [
            fit(perceptron(seed), VIEWS, LABELS, recipe, seed=seed, checkpoint=checkpoints[seed]) for seed in range(2)
        ]
        states = [network.state_dict() for network in networks]
    else:
        loss = Loss()
        stack = fit_stack(members(), VIEWS, recipe, loss)  # type: ignore[arg-type]
        assert loss.calls == 4 * 5 - 8
        states = [stack.state_dict(index) for index in range(2)]
    assert max(map(largest_difference, whole, states)) < 1e-5


def test_each_network_keeps_its_best_epoch_and_stops_by_its_own_patience() -> None:
    recipe = Recipe(epochs=6, batch_size=50, keep_best=True, patience=2)
    courses = ([1.0, 3.0, 2.0, 2.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    epochs: list[list[int]] = [[], []]
    calls = iter(range(6))

    def validate(_: Stack) -> Sequence[float]:
        epoch = next(calls)
        return [course[epoch] for course in courses]

    members = [member(perceptron(seed), VIEWS, recipe, seed, "cpu") for seed in range(2)]
    stack = fit_stack(
        members,
        VIEWS,
        recipe,
        Loss(),
        validate=validate,
        after_epoch=lambda index, epoch, _: epochs[index].append(epoch),
    )
    assert epochs == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]  # the first stops before its 9
    scores = iter(courses[0])
    alone = fit(perceptron(0), VIEWS, LABELS, recipe, seed=0, validate=lambda _: next(scores))
    assert largest_difference(alone.state_dict(), stack.state_dict(0)) < 1e-5


def test_a_network_that_diverges_leaves_the_others_alone() -> None:
    recipe = Recipe(epochs=3, batch_size=50)
    broken = perceptron(1)
    with torch.no_grad():
        broken[0].weight.fill_(float("nan"))  # type: ignore[index]
    members = [member(network, VIEWS, recipe, 0, "cpu") for network in (perceptron(0), broken)]
    stack = fit_stack(members, VIEWS, recipe, Loss())
    assert [bool(m.error) for m in members] == [False, True]
    alone = fit(perceptron(0), VIEWS, LABELS, recipe, seed=0)
    assert largest_difference(alone.state_dict(), stack.state_dict(0)) < 1e-5


def test_members_have_to_be_at_one_place(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=50)
    ahead = member(perceptron(0), VIEWS, recipe, 0, "cpu")
    ahead.state.epoch = 1
    with pytest.raises(InputError):
        fit_stack([ahead, member(perceptron(1), VIEWS, recipe, 1, "cpu")], VIEWS, recipe, Loss())
