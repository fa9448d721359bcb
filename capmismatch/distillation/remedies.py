r"""Remedies for capacity mismatch that change when, and through whom, a student is taught.

========================== ========================================================= =================================
remedy                     here                                                      source
========================== ========================================================= =================================
early-stopped teacher      `train_with_checkpoints`, then a family of checkpoints    Cho & Hariharan, arXiv 1910.01348
early-stopped distillation `EarlyStopped`; option ``stop_after`` of a method         the same
teacher assistants         `teach_through`; option ``assistants`` of a method        Mirzadeh et al., arXiv 1902.03393
gradient gate              `GradientGate`; option ``gate`` of a method               Zhu & Wang, ICCV 2021
========================== ========================================================= =================================

The criteria wrap a `capmismatch.losses.Criterion` and are called like one, in any training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from capmismatch._utils.files import locked, remove_temporaries, replacing
from capmismatch._utils.torchrun import local_device, workers
from capmismatch.distillation.methods import Method
from capmismatch.errors import BankError, InputError
from capmismatch.losses import Criterion
from capmismatch.losses._terms import checked_labels, cross_entropy, single
from capmismatch.training.loop import Checkpoint, Recipe, evaluate, fit


def train_with_checkpoints(
    network: nn.Module,
    views: Tensor,
    labels: Tensor,
    recipe: Recipe,
    folder: str | Path,
    epochs: Sequence[int],
    *,
    seed: int,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    **options: Any,
) -> list[Path]:
    """Train a network in place and keep its weights after some of the epochs: early-stopped teachers of one run.

    A teacher that was stopped early is less accurate, less confident, and can teach a small student better. The
    checkpoints lie in `folder` as ``epoch005.safetensors``, ... and are a family of their own, each teacher named by
    its epoch: ``load_family("ckpt:FOLDER/epoch*.safetensors", builder=...)``, which takes the ``epoch5.pt``, ... of
    another trainer as well.

    Parameters
    ----------
    network, views, labels, recipe, seed, prepare : as `capmismatch.training.loop.fit` takes them
    folder : where the checkpoints go; its name is the family's
    epochs : after how many epochs to keep the weights, each in [1, recipe.epochs]
    options : `device` and the like of `fit`; `criterion` and `soft` for a teacher that is a student itself

    Returns
    -------
    The files, in the order of their epochs.

    References
    ----------
    Cho & Hariharan, "On the efficacy of knowledge distillation", ICCV 2019, arXiv 1910.01348.

    Examples
    --------
    >>> import tempfile
    >>> x, y = torch.randn(1, 20, 4), torch.arange(20) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = train_with_checkpoints(nn.Linear(4, 2), x, y, Recipe(epochs=10), folder, [2, 10], seed=0)
    ...     [file.name for file in files]
    ['epoch02.safetensors', 'epoch10.safetensors']
    """
    wanted, digits = sorted(set(epochs)), len(str(recipe.epochs))
    bad = next((epoch for epoch in wanted if not (isinstance(epoch, int) and 1 <= epoch <= recipe.epochs)), None)
    if bad is not None or not wanted:
        given = bad if wanted else list(epochs)
        raise InputError(f"expected epochs to keep in [1, {recipe.epochs}], the recipe's, got {given!r}")
    files = {epoch: Path(folder) / f"epoch{epoch:0{digits}d}.safetensors" for epoch in wanted}

    def keep(epoch: int, loss: float) -> None:
        if epoch + 1 in files:
            _write_weights(network, files[epoch + 1])

    fit(network, views, labels, recipe, seed=seed, prepare=prepare, after_epoch=keep, **options)
    return list(files.values())


def teach_through(
    networks: Sequence[nn.Module],
    logits: Tensor,
    method: Method,
    views: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    device: str = "cpu",
    folder: str | Path | None = None,
    **options: Any,
) -> Tensor:
    """Teacher assistants: hand a teacher's knowledge down a chain of networks, each taught by the one before.

    Every network is trained in place on the same stored views, by the same method; its own logits on these views then
    teach the next. In the paper sizes fall along the chain: teacher > assistants > student.

    Parameters
    ----------
    networks : to train, in order; the last may be the student
    logits : (V, N, C) of the first teacher on the views
    method : of every link; the `networks` stand for its own ``assistants``
    views : (V, N, ...) raw inputs
    labels : (N,) integers in [0, C)
    recipe, seed, prepare, device : as `capmismatch.training.loop.fit` takes them
    folder : of this chain alone. Each network's weights are kept there, ``link1.safetensors``, ..., and while it is
        trained a checkpoint. Called again, also after a kill, what is there is taken and not trained again; another
        process that wants the same waits for it
    options : others of `fit`

    Returns
    -------
    (V, N, C) logits of the last network on the views, for whoever comes next; `logits` themselves without networks.

    References
    ----------
    Mirzadeh et al., "Improved knowledge distillation via teacher assistant", AAAI 2020, arXiv 1902.03393.

    Examples
    --------
    >>> x, y = torch.randn(1, 20, 4), torch.arange(20) % 2
    >>> assistant, student, teacher = nn.Linear(4, 2), nn.Linear(4, 2), 4.0 * nn.functional.one_hot(y)[None]
    >>> teach_through([assistant, student], teacher, Method("KD"), x, y, Recipe(epochs=2), seed=0).shape
    torch.Size([1, 20, 2])
    """
    if logits.ndim != 3 or logits.shape[:2] != views.shape[:2]:
        expected = (*views.shape[:2], "C")
        raise InputError(f"expected logits of the teacher on every view, {expected}, got {tuple(logits.shape)}")
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for number, network in enumerate(networks, start=1):
        network.to(local_device(device)).to(memory_format=layout)  # as `fit` leaves it: rounding goes by the layout
        flat = method.soft_labels(logits.flatten(0, 1), labels.repeat(len(logits)))
        train = partial(
            fit,
            network,
            views,
            labels,
            recipe,
            seed=seed,
            prepare=prepare,
            device=device,
            criterion=method.criterion(network, recipe.epochs),
            soft=flat.float().unflatten(0, views.shape[:2]),
            **options,
        )
        if folder is None:
            train()
        else:
            _once(network, train, Path(folder) / f"link{number}.safetensors")
        logits = torch.stack([evaluate(network, view, prepare) for view in views])
    return logits


def _once(network: nn.Module, train: Callable[..., Any], file: Path) -> None:
    """Train a network and keep its weights, from its checkpoint if there is one; or take what was kept before."""

    def lacks() -> bool:
        held.enter_context(locked(file.parent / ".lock"))
        remove_temporaries(file.parent)
        return not file.exists()

    with workers() as crew, ExitStack() as held:
        if crew.first(lacks):
            checkpoint = Checkpoint(file.with_suffix(".checkpoint"))
            train(checkpoint=checkpoint)
            crew.first(lambda: _write_weights(network, file))
            crew.first(checkpoint.remove)
            return
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise BankError(f"{file} is damaged, remove it to train that network anew: {error}") from None
    network.eval()


def _write_weights(network: nn.Module, file: Path) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(file) as temporary:
        temporary.write_bytes(save(weights))


class EarlyStopped(nn.Module):
    """A criterion that ends the distillation after some epochs: plain cross-entropy, at weight 1, from then on.

    A small student cannot follow its teacher to the end: late in training the distillation term holds the
    cross-entropy back. The epoch comes by `set_epoch`; until that is called, nothing is stopped.

    Parameters
    ----------
    criterion : called until then: a `Criterion`, or a `GradientGate` around one
    epochs : how many epochs are taught

    References
    ----------
    Cho & Hariharan, "On the efficacy of knowledge distillation", ICCV 2019, arXiv 1910.01348 (ESKD).

    Examples
    --------
    >>> criterion = EarlyStopped(Criterion("kd"), epochs=10)
    >>> student, labels, teacher = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[4.0, 0.0]])
    >>> for epoch in (9, 10):
    ...     criterion.set_epoch(epoch)
    ...     print(round(float(criterion(student, labels, teacher)), 4))
    1.6669
    0.6931
    """

    def __init__(self, criterion: Criterion | GradientGate, epochs: int) -> None:
        super().__init__()
        if not (isinstance(epochs, int) and epochs >= 1):
            raise InputError(f"expected epochs of distillation a whole number >= 1, got {epochs!r}")
        self.criterion, self.epochs, self.stopped = criterion, epochs, False

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, counted from 0."""
        self.criterion.set_epoch(epoch)
        self.stopped = epoch >= self.epochs

    def forward(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of a batch; see `Criterion`."""
        if self.stopped:
            return cross_entropy(single(student_logits), checked_labels(labels, student_logits, check=False))
        loss: Tensor = self.criterion(student_logits, labels, teacher_logits)
        return loss

    def diagnostics(self) -> dict[str, float]:
        """What there is to log beside the loss: that of the criterion inside, until it is stopped."""
        return {} if self.stopped else self.criterion.diagnostics()


class GradientGate(nn.Module):
    r"""A criterion that keeps the teacher's part of the loss only in steps where it pulls the labels' way.

    .. math:: g = g_{hard} + [\cos(g_{hard}, g_{soft}) \ge \varphi] \, g_{soft}

    with the gradients of both parts in all of the student's parameters: the cross-entropy and the distillation term (a
    rank term included), each at its weight. The loss's value leaves the teacher's part out where the gate is shut.

    A step costs two backward passes, where the plain criterion takes one: both gradients are found when the criterion
    is called, and ``backward()`` hands their sum on. The decision itself waits for nothing, on a GPU either. In data
    parallel training (where `torch.distributed` is initialised) the gradients are averaged over all processes first, so
    that all decide alike, as one would. Under float16 autocast small gradients may underflow, as a loss scaler comes
    too late for them: take bfloat16.

    Parameters
    ----------
    criterion : with a `ce_weight` above 0
    network : the student that is being trained
    phi : the least cosine, in [-1, 1]; at -1 the gate is always open

    References
    ----------
    Zhu & Wang, "Student customized knowledge distillation", ICCV 2021: the teacher teaches while its gradient is
    similar to that of the labels. Du et al., "Adapting auxiliary losses using gradient similarity", arXiv 1812.02224:
    the rule for any auxiliary loss, at phi = 0.

    Examples
    --------
    >>> student = nn.Linear(1, 2, bias=False)
    >>> nn.init.zeros_(student.weight).sum().item()
    0.0
    >>> gate = GradientGate(Criterion("kd"), student)
    >>> x, wrong = torch.ones(1, 1), torch.tensor([[0.0, 9.0]])  # a teacher that is wrong about class 0
    >>> gate(student(x), torch.tensor([0]), wrong).backward()
    >>> gate.diagnostics()["gate_open"], student.weight.grad.flatten().tolist()  # the cross-entropy's alone, times 0.1
    (0.0, [-0.05..., 0.05...])
    """

    tally: Tensor

    def __init__(self, criterion: Criterion, network: nn.Module, phi: float = 0.0) -> None:
        super().__init__()
        if not (isinstance(phi, int | float) and -1 <= phi <= 1):
            raise InputError(f"expected phi, a cosine, in [-1, 1], got {phi!r}")
        if not criterion.ce_weight:
            raise InputError("a gate compares with the cross-entropy: expected a ce_weight above 0, got 0")
        self.criterion, self.phi = criterion, phi
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]  # not parameters of its own
        if not self._weights:
            raise InputError("expected a network with parameters to train, got none")
        # The epoch, and its steps, its steps with the gate open, and the sum of their cosines. A buffer, so that a
        # training that goes on in the middle of an epoch goes on counting.
        self.register_buffer("tally", torch.tensor([-1.0, 0.0, 0.0, 0.0]))

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, counted from 0; in a new one the diagnostics start anew."""
        self.criterion.set_epoch(epoch)
        if self.tally[0] != epoch:
            self.tally = self.tally.new_tensor([epoch, 0.0, 0.0, 0.0])

    def forward(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of a batch; see `Criterion`. Without gradients (in validation) nothing is gated."""
        hard, soft = self.criterion.parts(student_logits, labels, teacher_logits)
        if not soft.requires_grad:
            return soft + hard
        own = list(self.criterion.parameters())
        hard_gradients = torch.autograd.grad(hard, self._weights, retain_graph=True, allow_unused=True)
        soft_gradients = torch.autograd.grad(soft, [*self._weights, *own], allow_unused=True)
        pairs = list(zip(hard_gradients, soft_gradients, strict=False))
        _average_over_processes([gradient for pair in pairs for gradient in pair if gradient is not None])
        cosine = _cosine(pairs)
        is_open = (cosine >= self.phi).to(cosine.dtype)
        with torch.no_grad():
            step = torch.stack([torch.zeros_like(cosine), torch.ones_like(cosine), is_open, cosine])
            self.tally = self.tally.to(cosine.device) + step
            gradients = [_sum(a, b, is_open) for a, b in pairs]
            gradients += [None if g is None else is_open * g for g in soft_gradients[len(self._weights) :]]
            value = hard + is_open * soft
        loss: Tensor = _GradientsGiven.apply(value, gradients, *self._weights, *own)
        return loss

    def diagnostics(self) -> dict[str, float]:
        """Since the epoch began: the share of steps with the gate open, and the mean cosine."""
        _, steps, is_open, cosine = self.tally.tolist()
        found = {"gate_open": is_open / steps, "gate_cosine": cosine / steps} if steps else {}
        return {**self.criterion.diagnostics(), **found}


Gradient = Tensor | None


def _average_over_processes(gradients: Sequence[Tensor]) -> None:
    """Average gradients in place, where several processes share a training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()


def _cosine(pairs: Sequence[tuple[Gradient, Gradient]]) -> Tensor:
    """Cosine between two gradients, given piece by piece; 0 where one of them is 0. Float32, a scalar tensor."""
    sums: list[Tensor | float] = [0.0, 0.0, 0.0]
    for a, b in pairs:
        for place, (left, right) in enumerate(((a, b), (a, a), (b, b))):
            if left is not None and right is not None:
                sums[place] = sums[place] + torch.dot(left.flatten().float(), right.flatten().float())
    dot, a_squared, b_squared = (torch.as_tensor(total) for total in sums)
    # Root by root: the product of the squares may underflow where neither does.
    return dot / (a_squared.sqrt() * b_squared.sqrt()).clamp_min(torch.finfo(torch.float32).tiny)


def _sum(a: Gradient, b: Gradient, weight: Tensor) -> Gradient:
    if a is None or b is None:
        return a if b is None else weight * b
    return a + weight.to(b.dtype) * b


class _GradientsGiven(torch.autograd.Function):
    """A value whose gradients in some tensors are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Gradient], *of: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Gradient, ...]:
        scale = upstream[0]
        return (None, None, *(None if g is None else scale.to(g.dtype) * g for g in ctx.gradients))
