"""One plain training loop, for students and for teachers trained here. Read `fit` from top to bottom.

Everything random (initial weights, order of rows, views drawn, shifts) follows from the seed and the epoch, so the same
seed gives the same numbers on the same machine; also after a kill, from a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch._utils.files import hash_of
from capmismatch.errors import InputError
from capmismatch.training.checkpoint import Checkpoint, RandomNumbers, TrainingState
from capmismatch.training.data_parallel import DataParallel, data_parallel
from capmismatch.training.recipes import OPTIMIZERS, SCHEDULES, Recipe

__all__ = ["OPTIMIZERS", "SCHEDULES", "Checkpoint", "Recipe", "evaluate", "fit"]


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
    device: str = "cpu",
    validate: Callable[[nn.Module], float] | None = None,
    checkpoint: Checkpoint | None = None,
    alone: bool = False,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """Train a network in place.

    Under ``torchrun`` every process takes its shard of each batch (`DistributedDataParallel`; gloo on CPUs, NCCL on
    GPUs), and the result is that of one process but for rounding: losses see the whole batch, and so does batch
    normalisation.

    Parameters
    ----------
    network : torch.nn.Module
        To train. Its initial weights are the caller's.
    views : Tensor, shape (V, N, ...)
        Raw inputs: V stored views of N examples. In every epoch each example is seen in one of its views.
    labels : Tensor of int, shape (N,)
        Classes of the examples. Of windows of text, (N, T): the next token of each position, -100 where none is told.
    recipe : Recipe
        How to train.
    seed : int
        Of the order of rows, the views drawn, and the shifts.
    prepare : callable, default the identity
        Turns a raw batch into what the network takes.
    criterion : torch.nn.Module, optional
        The loss, called with student logits, labels and soft labels. None trains on the labels alone.
    soft : Tensor, shape (V, N, C), optional
        What the criterion takes of the teacher, for each view; of windows (V, N, T, C).
    device : str, default "cpu"
        Where the network goes, such as "cuda". Inputs stay where they are until their batch comes.
    validate : callable, optional
        Gives the score, larger is better, of a network in eval mode, after every epoch. ``keep_best`` of the recipe
        chooses an epoch by it; else it only measures.
    checkpoint : Checkpoint, optional
        Where to save the state of the training every so often, and to go on from if it exists. Remove it once the
        trained network is saved.
    alone : bool, default False
        Train in this process, even under ``torchrun``.
    after_epoch : callable, optional
        Called with the epoch and its mean loss, in the first process.

    Returns
    -------
    torch.nn.Module
        The network, in eval mode.

    Raises
    ------
    FloatingPointError
        The loss of an epoch is not finite.
    BankError
        The checkpoint is damaged, or of another training.
    """
    _check_what_goes_together(criterion, soft, recipe, validate)
    rows = views.shape[1]
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    half_precision = getattr(torch, recipe.autocast or "bfloat16")
    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with data_parallel(device, alone) as parallel, deterministic:
        batches = _Batches(views, labels, soft, prepare, recipe, seed, parallel)
        model = parallel.wrap(network.to(parallel.device).to(memory_format=layout))
        loss_module = nn.Module() if criterion is None else criterion.to(parallel.device)  # it may learn, too
        optimizer = _optimizer([*model.parameters(), *loss_module.parameters()], recipe)
        scheduler = _scheduler(optimizer, recipe, math.ceil(rows / recipe.batch_size))
        scaler = torch.amp.GradScaler(parallel.device.type, enabled=recipe.autocast == "float16")
        state = TrainingState(
            {
                "network": network,
                "criterion": loss_module,
                "optimizer": optimizer,
                "scheduler": scheduler,
                "scaler": scaler,
                "random": RandomNumbers(parallel.device),
            },
            made_from=made_from(recipe, seed, views),
            device=parallel.device,
        )
        if checkpoint is not None:
            state.restore(checkpoint)

        for epoch in range(state.epoch, recipe.epochs):
            state.start_epoch(epoch)
            if callable(set_epoch := getattr(criterion, "set_epoch", None)):
                set_epoch(epoch)
            model.train()
            for x, y, soft_labels in batches.of_epoch(epoch, first=state.step):
                with torch.autocast(parallel.device.type, half_precision, enabled=recipe.autocast is not None):
                    logits = model(x)
                examples = len(y)
                logits = parallel.all_gather(logits.float(), examples)
                logits, y, soft_labels = _told(logits, y, soft_labels)
                if criterion is None:
                    loss = nn.functional.cross_entropy(logits, y)
                else:
                    loss = criterion(logits, y, soft_labels)
                _step(loss, model, optimizer, scaler, recipe.clip)
                scheduler.step()
                state.end_step(loss, examples)
                if checkpoint is not None and parallel.processes.rank == 0 and checkpoint.due():
                    state.save(checkpoint)
            mean_loss = float(state.loss_sum) / rows
            if not math.isfinite(mean_loss):
                raise FloatingPointError(
                    f"the loss became {mean_loss} in epoch {epoch}: lower the learning rate ({recipe.lr:g})"
                )
            if validate is not None:
                score = parallel.processes.on_rank_zero(lambda: validate(network.eval()))
                if recipe.keep_best:
                    state.keep_if_best(score, network)
            parallel.processes.on_rank_zero(lambda: after_epoch(epoch, mean_loss))  # noqa: B023 - called at once
            if recipe.patience and epoch - state.best_epoch >= recipe.patience:
                break
        state.load_best(network)
    return network.eval()


def _check_what_goes_together(criterion: object, soft: object, recipe: Recipe, validate: object) -> None:
    if (criterion is None) != (soft is None):
        raise InputError("expected a criterion and soft labels together, or neither")
    if recipe.keep_best and validate is None:
        raise InputError("keep_best chooses an epoch by its validation score: expected validate, got None")


NO_LABEL = -100
"""The label of positions that nothing is told of, PyTorch's own."""


def _step(
    loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip: float
) -> None:
    """One step down the gradient, which is scaled down to the norm `clip` where that is not 0."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    if clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()


def _told(logits: Tensor, labels: Tensor, soft: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The positions of windows (n, T) that have a label, as rows; other examples are rows already."""
    if labels.ndim == 1:
        return logits, labels, soft
    told = labels != NO_LABEL
    return logits[told], labels[told], None if soft is None else soft[told]


@dataclass
class _Batches:
    """The batches of each epoch, as this process takes them: its shard of the inputs, and all labels."""

    views: Tensor
    labels: Tensor
    soft: Tensor | None
    prepare: Callable[[Tensor], Tensor]
    recipe: Recipe
    seed: int
    parallel: DataParallel

    def __post_init__(self) -> None:
        rows, processes = self.views.shape[1], self.parallel.processes.size
        if 0 < rows % self.recipe.batch_size < processes:
            raise InputError(f"expected a row of the last batch for each of {processes} processes: {rows} rows")

    def of_epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Inputs (shard), labels and soft labels (whole batch) on the device, from the `first` batch on."""
        device, shard = self.parallel.device, self.parallel.shard
        for rows, views, moves in draws_of_epoch(self.views, self.recipe, self.seed, epoch, first):
            raw = self.views[shard(views), shard(rows)].to(device)
            x = ready(raw, None if moves is None else shard(moves), self.prepare, self.recipe)
            soft = None if self.soft is None else self.soft[views, rows].to(device)
            yield x, self.labels[rows].to(device), soft


def made_from(recipe: Recipe, seed: int, views: Tensor) -> str:
    """A hash of what decides a training: a checkpoint of another one is refused."""
    return hash_of([recipe.to_dict(), seed, list(views.shape)])


def draws_of_epoch(
    views: Tensor, recipe: Recipe, seed: int, epoch: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """What is drawn at random for each batch of an epoch, from the `first` batch on; the same however it is trained.

    Parameters
    ----------
    views : Tensor, shape (V, N, ...)
        The raw inputs, of which the shape counts.
    recipe : Recipe
        Its batch size and shift.
    seed : int
        Of the draws.
    epoch : int
        Counted from 0.
    first : int, default 0
        How many batches to leave out.

    Yields
    ------
    rows : Tensor of int, shape (n,)
        Examples of the batch.
    views : Tensor of int, shape (n,)
        In which view each is seen.
    moves : Tensor of int, shape (n, 2), or None
        How far each image is moved, where the recipe has a shift.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    count, rows = views.shape[:2]
    order = torch.randperm(rows, generator=generator)
    view_of_row = torch.randint(count, (rows,), generator=generator)
    for step, batch in enumerate(order.split(recipe.batch_size)):
        moves = _moves(len(batch), recipe.shift, generator) if recipe.shift else None
        if step >= first:  # done before a checkpoint; but its moves are drawn, so that later ones stay the same
            yield batch, view_of_row[batch], moves


def ready(raw: Tensor, moves: Tensor | None, prepare: Callable[[Tensor], Tensor], recipe: Recipe) -> Tensor:
    """Raw inputs of a batch as the network takes them: prepared, moved, and in the recipe's order in memory."""
    x = prepare(raw)
    if moves is not None:
        x = _shifted(x, moves, recipe.shift)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
    return x


def evaluate(network: nn.Module, inputs: Tensor, prepare: Callable[[Tensor], Tensor], batch_size: int = 1000) -> Tensor:
    """Logits of a network in eval mode, always in full precision.

    Parameters
    ----------
    network : torch.nn.Module
        Put in eval mode.
    inputs : Tensor, shape (N, ...)
        Raw inputs.
    prepare : callable
        Turns a raw batch into what the network takes.
    batch_size : int, default 1000
        How many rows to take at once.

    Returns
    -------
    Tensor, shape (N, C)
        On the CPU.
    """
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        # On copies: a network that computes in place would change the inputs.
        return torch.cat([network(prepare(batch.to(device)).clone()).cpu() for batch in inputs.split(batch_size)])


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


def _moves(rows: int, most: int, generator: torch.Generator) -> Tensor:
    """How far each image is moved down and right, (rows, 2) integers in [0, 2 most], where `most` is not at all."""
    return torch.cat([torch.randint(2 * most + 1, (rows, 1), generator=generator) for _ in range(2)], 1)


def _shifted(x: Tensor, moves: Tensor, most: int) -> Tensor:
    """Images (n, C, H, W), each moved by its row of `moves`, and filled up with zeros."""
    if x.ndim != 4:
        raise InputError(f"a shift needs images (n, C, H, W), got a batch of shape {tuple(x.shape)}")
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (most, most, most, most))
    moves = moves.to(x.device)
    lines = moves[:, :1] + torch.arange(height, device=x.device)
    columns = moves[:, 1:] + torch.arange(width, device=x.device)
    images = torch.arange(n, device=x.device)[:, None, None]
    # Indexing puts the channels last in memory, which is the layout that convolutions are quickest in.
    return padded[images, :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
