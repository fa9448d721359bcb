"""Many networks of one shape, trained as one: `fit` for a whole stack, each network with its own draws.

A small network leaves a core idle most of the time: a step of a perceptron takes longer to start than to compute. Here
the weights of K networks are one tensor with K slices (`torch.func.stack_module_state`), `torch.func.vmap` runs all of
them at once, and one optimiser moves them, element by element as it would move each. Initial weights, order of rows,
views and shifts are those of `capmismatch.training.loop.fit` with the same seed, and so is the result, but for rounding
(sums may be taken in another order). A checkpoint is the one that `fit` would have left: either goes on from it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from capmismatch.errors import InputError
from capmismatch.training.checkpoint import Checkpoint, RandomNumbers, TrainingState
from capmismatch.training.loop import _optimizer, _scheduler, draws_of_epoch, made_from, ready
from capmismatch.training.recipes import Recipe


class StackLoss(Protocol):
    """The losses of a stack of networks."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0."""

    def __call__(self, logits: Tensor, rows: Tensor, views: Tensor) -> Tensor:
        """Losses (K,) of a batch: logits (K, n, C), with examples and views, (K, n) each."""


class Stack:
    """Networks of one shape as one: a call takes a batch for each, (K, n, ...), and gives logits (K, n, C).

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        With equal layers. Their weights are copied.
    device : str or torch.device, default "cpu"
        Where the copies go.

    Examples
    --------
    >>> networks = [nn.Linear(2, 3) for _ in range(5)]
    >>> stack, x = Stack(networks), torch.randn(5, 4, 2)
    >>> logits = stack(x)
    >>> logits.shape, bool(torch.allclose(logits[1], networks[1](x[1]), atol=1e-6))
    (torch.Size([5, 4, 3]), True)
    """

    def __init__(self, networks: Sequence[nn.Module], device: str | torch.device = "cpu") -> None:
        states = [network.state_dict() for network in networks]
        trained = {name for name, _ in networks[0].named_parameters()}
        stacked = {name: torch.stack([state[name].to(device) for state in states]) for name in states[0]}
        self.parameters = {name: tensor.requires_grad_() for name, tensor in stacked.items() if name in trained}
        self.buffers = {name: tensor for name, tensor in stacked.items() if name not in trained}
        self._names = tuple(stacked)
        self._template = copy.deepcopy(networks[0]).to("meta")
        self._layers = list(self._template.named_children()) if _is_perceptron(networks[0]) else None

    def __len__(self) -> int:
        return len(self._first)

    @property
    def _first(self) -> Tensor:
        return next(iter(self.parameters.values()))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._first.device

    def train(self, mode: bool = True) -> Stack:
        """Put all networks in training mode, or in evaluation mode."""
        self._template.train(mode)
        return self

    def eval(self) -> Stack:
        """Put all networks in evaluation mode."""
        return self.train(False)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (K, n, C) of a batch for each network, (K, n, ...)."""
        return self._vmapped(0)(self.parameters, self.buffers, x) if self._layers is None else self._dense(x)

    def of_shared(self, x: Tensor) -> Tensor:
        """Logits (K, n, C) of one batch, (n, ...), which all networks see."""
        if self._layers is None:
            return self._vmapped(None)(self.parameters, self.buffers, x)
        return self._dense(x.expand(len(self), *x.shape))

    def _dense(self, x: Tensor) -> Tensor:
        """As `__call__`, by one batched matrix product for each layer of a perceptron."""
        assert self._layers is not None
        for name, layer in self._layers:
            if isinstance(layer, nn.Linear):
                x = torch.baddbmm(self.parameters[f"{name}.bias"][:, None], x, self.parameters[f"{name}.weight"].mT)
            elif isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            else:
                x = layer(x)
        return x

    def _vmapped(self, batched: int | None) -> Callable[..., Tensor]:
        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = functional_call(self._template, (parameters, buffers), (x,))
            return result

        return vmap(call, in_dims=(0, 0, batched))

    def part(self, start: int, stop: int) -> Stack:
        """Some of the networks, as a stack that shares their weights, in eval mode."""
        some = copy.copy(self)
        some.parameters = {name: tensor[start:stop] for name, tensor in self.parameters.items()}
        some.buffers = {name: tensor[start:stop] for name, tensor in self.buffers.items()}
        return some.eval()

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """The state of one network, as views of the stack's."""
        return {name: self._tensor(name)[index].detach() for name in self._names}

    def _tensor(self, name: str) -> Tensor:
        return self.parameters[name] if name in self.parameters else self.buffers[name]

    def load_state_dict(self, index: int, state: dict[str, Tensor]) -> None:
        """Give one network a state."""
        for name, tensor in self.state_dict(index).items():
            tensor.copy_(state[name])


def _is_perceptron(network: nn.Module) -> bool:
    """Whether a network is plain layers in a row: linear ones with a bias, and functions of single numbers."""
    kinds = (nn.Linear, nn.Flatten, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)
    if type(network) is not nn.Sequential:
        return False
    layers = list(network)
    linear = [layer for layer in layers if type(layer) is nn.Linear]
    flat = all((layer.start_dim, layer.end_dim) == (1, -1) for layer in layers if type(layer) is nn.Flatten)
    return flat and all(type(layer) in kinds for layer in layers) and all(layer.bias is not None for layer in linear)


@dataclass
class Member:
    """One network of a stack that is being trained, and where it stands.

    Attributes
    ----------
    seed : int
        Of its draws.
    state : TrainingState
        As `fit` keeps it for a network alone.
    checkpoint : Checkpoint or None
        Where its state is saved every so often.
    error : str
        Why its training ended early; empty while all is well.
    ended : bool
        Whether it needs no further epochs: it has failed, or its patience is over.
    """

    seed: int
    state: TrainingState
    checkpoint: Checkpoint | None = None
    error: str = ""
    ended: bool = False


def member(
    network: nn.Module, views: Tensor, recipe: Recipe, seed: int, device: str, checkpoint: Checkpoint | None = None
) -> Member:
    """Begin the training of one network of a stack, or go on from its checkpoint.

    Parameters
    ----------
    network : torch.nn.Module
        With its initial weights.
    views : Tensor, shape (V, N, ...)
        Raw inputs, as `fit_stack` takes them.
    recipe : Recipe
        How it is trained.
    seed : int
        Of all its draws.
    device : str
        Where it is trained.
    checkpoint : Checkpoint, optional
        Where to save its state, and to go on from if it exists.

    Returns
    -------
    Member
        For `fit_stack`.

    Raises
    ------
    BankError
        The checkpoint is damaged, or of another training.
    """
    at = torch.device(device)
    network.to(at)
    optimizer = _optimizer(list(network.parameters()), recipe)
    state = TrainingState(
        {
            "network": network,
            "criterion": nn.Module(),
            "optimizer": optimizer,
            "scheduler": _scheduler(optimizer, recipe, math.ceil(views.shape[1] / recipe.batch_size)),
            "scaler": torch.amp.GradScaler(at.type, enabled=False),
            "random": RandomNumbers(at),
        },
        made_from=made_from(recipe, seed, views),
        device=at,
    )
    if checkpoint is not None:
        state.restore(checkpoint)
    return Member(seed, state, checkpoint)


def fit_stack(
    members: Sequence[Member],
    views: Tensor,
    recipe: Recipe,
    loss: StackLoss,
    *,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    validate: Callable[[Stack], Sequence[float]] | None = None,
    after_epoch: Callable[[int, int, float], None] = lambda index, epoch, loss: None,
) -> Stack:
    """Train all networks of a stack; see `capmismatch.training.loop.fit`, which trains one.

    Parameters
    ----------
    members : sequence of Member
        The networks, all as far as each other: at the same epoch and step.
    views : Tensor, shape (V, N, ...)
        Raw inputs: V stored views of N examples.
    recipe : Recipe
        How to train. Without autocast.
    loss : StackLoss
        The losses, in the order of `members`.
    prepare : callable, default the identity
        Turns a raw batch into what the networks take.
    validate : callable, optional
        Gives the scores of all networks of a stack in eval mode, after every epoch; see `fit`.
    after_epoch : callable, optional
        Called for each network that is still trained with its number, the epoch and its mean loss.

    Returns
    -------
    Stack
        The networks, in eval mode; those whose `Member.error` says so have not been trained to the end.

    Raises
    ------
    InputError
        The members are not at the same place, or the recipe asks for autocast.
    """
    places = {(m.state.epoch, m.state.step) for m in members}
    if len(places) != 1 or recipe.autocast is not None:
        raise InputError(f"expected members at one epoch and step, without autocast, got {places}, {recipe.autocast}")
    ((first_epoch, first_step),) = places
    device, rows = members[0].state.device, views.shape[1]
    stack, optimizer, scheduler = _stacked(members, recipe, math.ceil(rows / recipe.batch_size), device)
    seeds = list(dict.fromkeys(m.seed for m in members))
    of_seed = torch.tensor([seeds.index(m.seed) for m in members], device=device)
    sums = torch.stack([m.state.loss_sum for m in members])
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(first_epoch, recipe.epochs):
            step = first_step if epoch == first_epoch else 0
            if step == 0:
                sums = torch.zeros_like(sums)
            loss.set_epoch(epoch)
            stack.train()
            for x, batch, seen in _batches(views, recipe, seeds, epoch, step, prepare, device):
                logits = stack(x.index_select(0, of_seed)).float()
                losses = loss(logits, batch.index_select(0, of_seed), seen.index_select(0, of_seed))
                optimizer.zero_grad(set_to_none=True)
                losses.sum().backward()
                optimizer.step()
                scheduler.step()
                step += 1
                sums += losses.detach().double() * batch.shape[1]
                _save_due(members, stack, optimizer, scheduler, (epoch, step, sums))
            _end_epoch(members, stack, recipe, epoch, (sums / rows).tolist(), validate, after_epoch)
            if all(m.ended for m in members):
                break
    for index, m in enumerate(members):
        m.state.load_best(_Slice(stack, index))  # type: ignore[arg-type]
    return stack.eval()


def _batches(
    views: Tensor,
    recipe: Recipe,
    seeds: Sequence[int],
    epoch: int,
    first: int,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Prepared inputs (S, n, ...) of each seed for every batch, with their examples and views, (S, n) each."""
    flat, count = views.flatten(0, 1), views.shape[1]
    for draws in zip(*(draws_of_epoch(views, recipe, seed, epoch, first) for seed in seeds), strict=True):
        batch, seen = torch.stack([rows for rows, _, _ in draws]), torch.stack([seen for _, seen, _ in draws])
        moves = torch.cat([moves for _, _, moves in draws if moves is not None]) if recipe.shift else None
        raw = flat.index_select(0, (seen * count + batch).flatten()).to(device)
        yield ready(raw, moves, prepare, recipe).unflatten(0, batch.shape), batch.to(device), seen.to(device)


def _stacked(
    members: Sequence[Member], recipe: Recipe, steps_per_epoch: int, device: torch.device
) -> tuple[Stack, torch.optim.Optimizer, Any]:
    """The members' networks as a stack, with the optimiser and scheduler that go on from theirs."""
    states = [m.state.modules for m in members]
    stack = Stack([state["network"] for state in states], device)  # type: ignore[misc]
    optimizer = _optimizer(list(stack.parameters.values()), recipe)  # type: ignore[arg-type]
    scheduler = _scheduler(optimizer, recipe, steps_per_epoch)
    saved = [state["optimizer"].state_dict() for state in states]
    if saved[0]["state"]:
        merged = {
            number: {name: _merged([one["state"][number][name] for one in saved]) for name in saved[0]["state"][number]}
            for number in saved[0]["state"]
        }
        optimizer.load_state_dict({**saved[0], "state": merged})
        scheduler.load_state_dict(states[0]["scheduler"].state_dict())
    return stack, optimizer, scheduler


def _merged(values: list[Any]) -> Any:
    """The members' values of one entry of an optimiser's state; numbers of steps are the same for all."""
    return torch.stack(values) if isinstance(values[0], Tensor) and values[0].ndim else values[0]


class _Slice:
    """One network of a stack, as something with a state."""

    def __init__(self, stack: Stack, index: int) -> None:
        self._stack, self._index = stack, index

    def state_dict(self) -> dict[str, Tensor]:
        return self._stack.state_dict(self._index)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._stack.load_state_dict(self._index, state)


@dataclass
class _OptimizerSlice:
    """The part of a stack's optimiser that belongs to one network, as the state of an optimiser of its own."""

    whole: dict[str, Any]
    index: int

    def state_dict(self) -> dict[str, Any]:
        state = {
            number: {name: value[self.index] if _is_stacked(value) else value for name, value in entries.items()}
            for number, entries in self.whole["state"].items()
        }
        return {**self.whole, "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("a member goes on from an optimiser of its own")


def _is_stacked(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _save_due(
    members: Sequence[Member],
    stack: Stack,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    place: tuple[int, int, Tensor],
) -> None:
    """Write the checkpoints of members where it is time to; all at once, so that they go on together."""
    due = [m for m in members if m.checkpoint is not None and not m.ended]
    if not due or not due[0].checkpoint.due():  # type: ignore[union-attr]
        return
    whole, (epoch, step, sums) = optimizer.state_dict(), place
    for index, m in enumerate(members):
        if m.ended or m.checkpoint is None:
            continue
        state = m.state
        parts = {"network": _Slice(stack, index), "optimizer": _OptimizerSlice(whole, index), "scheduler": scheduler}
        state.epoch, state.step, state.loss_sum = epoch, step, sums[index]
        mine, state.modules = state.modules, {**state.modules, **parts}
        state.save(m.checkpoint)
        state.modules = mine


def _end_epoch(
    members: Sequence[Member],
    stack: Stack,
    recipe: Recipe,
    epoch: int,
    mean_losses: Sequence[float],
    validate: Callable[[Stack], Sequence[float]] | None,
    after_epoch: Callable[[int, int, float], None],
) -> None:
    """What follows an epoch for each member, in the order in which `fit` does it."""
    scores = validate(stack.eval()) if validate is not None else None
    for index, (m, mean_loss) in enumerate(zip(members, mean_losses, strict=True)):
        if m.ended:
            continue
        if not math.isfinite(mean_loss):
            m.ended = True
            m.error = f"the loss became {mean_loss} in epoch {epoch}: lower the learning rate ({recipe.lr:g})"
            continue
        m.state.epoch = epoch
        if scores is not None and recipe.keep_best:
            m.state.keep_if_best(scores[index], _Slice(stack, index))  # type: ignore[arg-type]
        after_epoch(index, epoch, mean_loss)
        m.ended = bool(recipe.patience) and epoch - m.state.best_epoch >= recipe.patience
