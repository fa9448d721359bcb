"""A training that is killed, with the signal that nobody can catch, goes on to the very same weights."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import naming
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from capmismatch.errors import BankError
from capmismatch.losses import Criterion
from capmismatch.training.loop import Checkpoint, Recipe, evaluate, fit

ROWS, CLASSES = 50, 3


class Network(nn.Module):
    """All that has a state of its own: convolutions, batch normalisation, and dropout, which draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


def train(
    checkpoint: Checkpoint | None, recipe: Recipe, *, taught: bool = False, die_at: int | None = None
) -> tuple[dict[str, Tensor], list[tuple[int, float]]]:
    """Weights, parameters of the criterion among them, and the loss of each epoch; die in the given step."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, ROWS, 3, 6, 6, generator=generator)
    labels = torch.arange(ROWS) % CLASSES
    torch.manual_seed(1)
    network, criterion = Network(), Criterion("curriculum_kd") if taught else None
    options: dict[str, Any] = {"soft": 3 * torch.randn(2, ROWS, CLASSES, generator=generator)} if taught else {}
    if recipe.keep_best:
        options["validate"] = lambda network: -float(evaluate(network, views[0], lambda x: x).square().mean())
    steps, losses = 0, []

    def prepare(x: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if network.training and steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    fit(
        network,
        views,
        labels,
        recipe,
        seed=4,
        prepare=prepare,
        criterion=criterion,
        checkpoint=checkpoint,
        after_epoch=lambda *args: losses.append(args),
        **options,
    )
    learnt = {} if criterion is None else {f"criterion.{k}": v for k, v in criterion.state_dict().items()}
    return {**network.state_dict(), **learnt}, losses


def in_a_child(*args: Any, save_to: Path | None = None, **options: Any) -> int:
    """Train in a process of its own, which may well be killed; returns its number. (A fork imports nothing.)"""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(100)  # should it ever hang, it does not outlive the test
        weights, _ = train(*args, **options)
        if save_to is not None:
            save_file({name: value.contiguous() for name, value in weights.items()}, save_to)
        status = 0
    finally:
        os._exit(status)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SGD = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-3}
STEPS = 4  # an epoch, of 16, 16, 16 and 2 rows


@pytest.mark.parametrize(
    ("options", "taught"),
    [
        ({"optimizer": "adamw", "schedule": "onecycle", "shift": 1}, False),
        ({**SGD, "schedule": "onecycle", "shift": 1}, True),
        ({**SGD, "schedule": "step", "milestones": (2,), "warmup_epochs": 1}, True),
        ({"optimizer": "adamw", "schedule": "cosine", "channels_last": False}, True),
        ({**SGD, "schedule": "constant", "autocast": "float16"}, False),
        ({"optimizer": "adamw", "keep_best": True, "patience": 2, "lr": 0.1}, False),
    ],
)
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_bits(
    tmp_path: Path, options: dict[str, Any], taught: bool
) -> None:
    recipe = Recipe(epochs=4, batch_size=16, **options)
    wanted, losses = train(None, recipe, taught=taught)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    for die_at in (3, STEPS + 2, 2):  # the third step of the first epoch; then, counted from there, the next one; ...
        child = in_a_child(checkpoint, recipe, taught=taught, die_at=die_at)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found, later = train(checkpoint, recipe, taught=taught)
    assert same(found, wanted)
    assert later and later == losses[-len(later) :]
    assert len(later) < len(losses)


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Also while it writes: whoever kills does not wait for the end of a step."""
    recipe = Recipe(epochs=12, batch_size=16, shift=1)
    wanted, _ = train(None, recipe)
    file, kills, status = tmp_path / "state.safetensors", 0, 1
    for attempt in range(60):
        child = in_a_child(Checkpoint(file, seconds=0), recipe, save_to=tmp_path / "end.safetensors")
        time.sleep(0.01 + 0.007 * attempt)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        kills += 1
    assert status == 0 and kills >= 2
    assert same(load_file(tmp_path / "end.safetensors"), wanted)


def test_savings_wait_for_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("capmismatch.training.checkpoint.time.monotonic", lambda: now)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", seconds=10)
    part = {"network": nn.Linear(1, 1)}
    now = 9.0
    assert not checkpoint.due()
    now = 10.0
    assert checkpoint.due()
    checkpoint.save(part, made_from="x")
    assert not checkpoint.due()
    now = 20.0
    assert checkpoint.due()


def test_a_checkpoint_changes_nothing_and_stays_until_it_is_removed(tmp_path: Path) -> None:
    recipe, checkpoint = Recipe(epochs=2, batch_size=16), Checkpoint(tmp_path / "a" / "state.safetensors", seconds=0)
    wanted, _ = train(None, recipe)
    assert same(train(checkpoint, recipe)[0], wanted)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["state.safetensors"]
    assert same(train(checkpoint, recipe)[0], wanted)  # with nothing left to train
    checkpoint.remove()
    checkpoint.remove()
    assert not list((tmp_path / "a").iterdir())


def test_what_comes_back_is_what_was_kept(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    assert checkpoint.restore({}, made_from="x") is None
    shared = torch.arange(6.0).reshape(2, 3)
    by_number = {0: shared.T, "a": shared}
    place = {"numbers": [1, 0.1, None, True], "by number": by_number, "empty": {}, "scalar": shared[0, 1]}
    checkpoint.save({}, made_from="x", **place)
    found = checkpoint.restore({}, made_from="x")
    assert found is not None and found.keys() == place.keys()
    assert (found["numbers"], found["empty"]) == (place["numbers"], {})
    torch.testing.assert_close(found["by number"], place["by number"], rtol=0, atol=0)
    assert found["scalar"] == 1.0 and found["scalar"].shape == ()


@pytest.mark.parametrize("change", [{"seed": 5}, {"recipe": Recipe(epochs=3, batch_size=16)}])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    options: dict[str, Any] = {"recipe": Recipe(epochs=2, batch_size=16), "seed": 4}
    views, labels = torch.randn(1, ROWS, 3, 6, 6), torch.arange(ROWS) % CLASSES
    fit(Network(), views, labels, checkpoint=checkpoint, **options)
    with pytest.raises(BankError, match=naming("state.safetensors", "another training")):
        fit(Network(), views, labels, checkpoint=checkpoint, **{**options, **change})


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    file.write_bytes(b"no tensors")
    with pytest.raises(BankError, match=naming("state.safetensors", "damaged", "remove")):
        train(Checkpoint(file), Recipe(epochs=1))
