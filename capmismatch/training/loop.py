"""One plain training loop, for students and for teachers trained here. Read it from top to bottom.

Everything random (initial weights, order of rows, views drawn, shifts) follows from the seed and the epoch's number, so
the same seed gives the same numbers on the same machine; also after a kill, from a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch._utils.files import hash_of
from capmismatch.errors import InputError
from capmismatch.training.checkpoint import Checkpoint, RandomNumbers
from capmismatch.training.data_parallel import together
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

    Under ``torchrun`` every process takes its share of each batch (`DistributedDataParallel`; gloo on CPUs, NCCL on
    GPUs), and the result is that of one process but for rounding: losses see the whole batch, and so does batch
    normalisation.

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
    device : where the network goes, such as "cuda"; inputs stay where they are until their batch comes
    validate : network in eval mode -> what to keep the best of; where the recipe says `keep_best`, and only there
    checkpoint : where to leave the state of the training every so often, and to go on from if there is one; remove it
        once what is trained is kept
    alone : train in this process, whatever others there are
    after_epoch : called with the epoch's number and mean loss, in the first process

    Returns
    -------
    The network, in eval mode.

    Raises
    ------
    FloatingPointError : where an epoch's loss is not finite
    BankError : where the checkpoint is damaged, or of another training
    """
    if (criterion is None) != (soft is None):
        raise InputError("expected a criterion and soft labels together, or neither")
    if recipe.keep_best != (validate is not None):
        raise InputError(f"validate and keep_best belong together, got {validate} with keep_best={recipe.keep_best}")
    count, rows = views.shape[:2]
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    half = getattr(torch, recipe.autocast or "bfloat16")
    made_from = hash_of([recipe.told(), seed, list(views.shape)])
    with together(device, alone) as team, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        if rows % recipe.batch_size and rows % recipe.batch_size < team.processes.size:
            raise InputError(
                f"expected a row of the last batch for each of {team.processes.size} processes: {rows} rows"
            )
        model = team.wrap(network.to(team.device).to(memory_format=layout))
        taught = criterion.to(team.device) if criterion is not None else nn.Module()
        optimizer = _optimizer([*model.parameters(), *taught.parameters()], recipe)
        scheduler = _scheduler(optimizer, recipe, math.ceil(rows / recipe.batch_size))
        scaler = torch.amp.GradScaler(team.device.type, enabled=recipe.autocast == "float16")
        best: dict[str, Any] = {}
        parts = {
            "network": network,
            "criterion": taught,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
            "random": RandomNumbers(team.device),
        }
        saved = checkpoint.restore(parts, made_from=made_from) if checkpoint is not None else None
        for epoch in range(saved["epoch"] if saved else 0, recipe.epochs):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(rows, generator=generator)
            drawn = torch.randint(count, (rows,), generator=generator)
            first, total = 0, torch.zeros((), dtype=torch.float64, device=team.device)
            if saved is not None:  # the checkpoint is from the middle of this epoch
                first, total, best = saved["step"], saved["total"].to(team.device), saved["best"]
                generator.set_state(saved["generator"])
                saved = None
            set_epoch = getattr(criterion, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
            model.train()
            for step, batch in list(enumerate(order.split(recipe.batch_size)))[first:]:
                own = team.share(batch)
                x = prepare(views[drawn[own], own].to(team.device))
                if recipe.shift:
                    x = _shifted(x, team.share(_moves(len(batch), recipe.shift, generator)), recipe.shift)
                if x.ndim == 4:
                    x = x.contiguous(memory_format=layout)
                with torch.autocast(team.device.type, half, enabled=recipe.autocast is not None):
                    logits = model(x)
                logits, y = team.whole(logits.float(), len(batch)), labels[batch].to(team.device)
                if criterion is None or soft is None:
                    loss = nn.functional.cross_entropy(logits, y)
                else:
                    loss = criterion(logits, y, soft[drawn[batch], batch].to(team.device))
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                total += loss.detach().double() * len(batch)
                if checkpoint is not None and team.processes.rank == 0 and checkpoint.due():
                    checkpoint.save(
                        parts,
                        made_from=made_from,
                        epoch=epoch,
                        step=step + 1,
                        total=total,
                        generator=generator.get_state(),
                        best=best,
                    )
            mean = float(total) / rows
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"the loss became {mean} in epoch {epoch}: lower the learning rate ({recipe.lr:g})"
                )
            if validate is not None:
                score = team.processes.on_rank_zero(lambda: validate(network.eval()))
                if not best or score > best["score"]:
                    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                    best = {"score": score, "epoch": epoch, "weights": weights}
            team.processes.on_rank_zero(lambda: after_epoch(epoch, mean))  # noqa: B023 - called at once
            if recipe.patience and epoch - best["epoch"] >= recipe.patience:
                break
        if best:
            network.load_state_dict(best["weights"])
    return network.eval()


def evaluate(network: nn.Module, inputs: Tensor, prepare: Callable[[Tensor], Tensor], batch_size: int = 1000) -> Tensor:
    """Logits (N, C), on the CPU, of a network in eval mode on raw inputs (N, ...); always in full precision."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        return torch.cat([network(prepare(batch.to(device))).cpu() for batch in inputs.split(batch_size)])


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
    """How far each image is moved, (rows, 2) in [0, 2 most]: down and right, `most` for not at all."""
    return torch.cat([torch.randint(2 * most + 1, (rows, 1), generator=generator) for _ in range(2)], 1)


def _shifted(x: Tensor, moves: Tensor, most: int) -> Tensor:
    """Images (n, C, H, W), each moved by its row of `moves`, zeros filling in."""
    if x.ndim != 4:
        raise InputError(f"a shift needs images (n, C, H, W), got a batch of shape {tuple(x.shape)}")
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (most, most, most, most))
    moves = moves.to(x.device)
    top = moves[:, :1] + torch.arange(height, device=x.device)
    left = moves[:, 1:] + torch.arange(width, device=x.device)
    rows = torch.arange(n, device=x.device)[:, None, None]
    # Indexing puts the channels last in memory, which is the layout that convolutions are quickest in.
    return padded[rows, :, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
