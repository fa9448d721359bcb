"""One plain training loop, for students and for teachers trained here. Read it from top to bottom.

Everything random (initial weights, order of rows, views drawn, shifts) follows from the seed and the epoch's number, so
the same seed gives the same numbers on the same machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch.errors import InputError, must_be_one_of, must_be_positive

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "step", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size : the last, smaller batch of an epoch is used too
    optimizer : "adamw" or "sgd" (Nesterov momentum)
    lr : peak learning rate
    schedule : "onecycle" (PyTorch's, up for 30 % of the steps, then down; it moves the momentum, AdamW's first beta,
        between 0.95 and 0.85 meanwhile), "cosine", "step" (times 0.1 at each of `milestones`), "constant"; all but the
        first rise linearly over `warmup_epochs`
    milestones : epochs at which "step" drops
    weight_decay, momentum : as the optimiser takes them
    shift : images are moved by up to this many pixels each way, zeros filling in; the teacher does not see it
    """

    epochs: int = 30
    batch_size: int = 100
    optimizer: str = "adamw"
    lr: float = 5e-3
    schedule: str = "onecycle"
    milestones: tuple[int, ...] = ()
    warmup_epochs: int = 0
    weight_decay: float = 0.01
    momentum: float = 0.9
    shift: int = 0

    def __post_init__(self) -> None:
        must_be_one_of(self.optimizer, OPTIMIZERS, "optimizer")
        must_be_one_of(self.schedule, SCHEDULES, "schedule")
        for name, least in {"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "shift": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"expected {name} a whole number >= {least}, got {value!r}")
        must_be_positive(self.lr, "lr")


def fit(
    network: nn.Module,
    views: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    criterion: nn.Module | None = None,
    soft: Tensor | None = None,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """Train a network in place.

    Parameters
    ----------
    network : to train; its initial weights are the caller's
    views : (V, N, ...) raw inputs, V stored views of N examples; every example draws one of them anew in every epoch
    labels : (N,) integers
    recipe : see `Recipe`
    seed : of the order of rows, the views drawn, and the shifts
    prepare : raw batch -> what the network takes
    criterion : called with student logits, labels and soft labels; None trains on the labels alone
    soft : (V, N, C) what the criterion takes of the teacher, for each view
    after_epoch : called with the epoch's number and mean loss

    Returns
    -------
    The network, in eval mode.

    Raises
    ------
    FloatingPointError : where an epoch's loss is not finite
    """
    if (criterion is None) != (soft is None):
        raise InputError("expected a criterion and soft labels together, or neither")
    count, rows = views.shape[:2]
    learnt = [*network.parameters(), *(criterion.parameters() if criterion is not None else [])]
    optimizer = _optimizer(learnt, recipe)
    steps_per_epoch = math.ceil(rows / recipe.batch_size)
    scheduler = _scheduler(optimizer, recipe, steps_per_epoch)
    network.train()
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(rows, generator=generator)
        drawn = torch.randint(count, (rows,), generator=generator)
        set_epoch = getattr(criterion, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
        total = 0.0
        for batch in order.split(recipe.batch_size):
            x = prepare(views[drawn[batch], batch])
            if recipe.shift:
                x = _shifted(x, recipe.shift, generator)
            logits, y = network(x), labels[batch]
            if criterion is None or soft is None:
                loss = nn.functional.cross_entropy(logits, y)
            else:
                loss = criterion(logits, y, soft[drawn[batch], batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += float(loss.detach()) * len(batch)
        if not math.isfinite(total):
            loss_was = f"the loss became {total / rows} in epoch {epoch}"
            raise FloatingPointError(f"{loss_was}: lower the learning rate ({recipe.lr:g})")
        after_epoch(epoch, total / rows)
    return network.eval()


def evaluate(network: nn.Module, inputs: Tensor, prepare: Callable[[Tensor], Tensor], batch_size: int = 1000) -> Tensor:
    """Logits (N, C) of a network in eval mode on raw inputs (N, ...)."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(prepare(batch)) for batch in inputs.split(batch_size)])


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    momentum = recipe.momentum
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=momentum, weight_decay=recipe.weight_decay, nesterov=momentum > 0
    )


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Any:
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=total)
    warmup = recipe.warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if recipe.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        if recipe.schedule == "step":
            return 0.1 ** sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Images (n, C, H, W), each moved by up to `most` pixels in both directions, zeros filling in."""
    if x.ndim != 4:
        raise InputError(f"a shift needs images (n, C, H, W), got a batch of shape {tuple(x.shape)}")
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (most, most, most, most))
    top = torch.randint(2 * most + 1, (n, 1), generator=generator) + torch.arange(height)
    left = torch.randint(2 * most + 1, (n, 1), generator=generator) + torch.arange(width)
    # Indexing puts the channels last in memory, which is the layout that convolutions are quickest in.
    return padded[torch.arange(n)[:, None, None], :, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
