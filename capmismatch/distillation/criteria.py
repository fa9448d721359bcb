"""Losses that change during a student's training: by epoch, or by whether the teacher agrees with the labels.

Each wraps a `capmismatch.losses.Criterion` and is called like one, in any training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch.errors import InputError
from capmismatch.losses import Criterion
from capmismatch.losses._terms import checked_labels, cross_entropy, single


class EarlyStopped(nn.Module):
    """A criterion that ends the distillation after some epochs: plain cross-entropy, at weight 1, from then on.

    A small student cannot follow its teacher to the end: late in training the distillation term holds the
    cross-entropy back. The epoch comes by `set_epoch`; until that is called, nothing is stopped.

    Parameters
    ----------
    criterion : Criterion or GradientGate
        The loss until then.
    epochs : int
        How many epochs are distilled.

    See Also
    --------
    capmismatch.distillation.remedies.train_with_checkpoints : Stop the teacher early instead.

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
        """Set the epoch, counted from 0."""
        self.criterion.set_epoch(epoch)
        self.stopped = epoch >= self.epochs

    def forward(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of a batch; see `Criterion`."""
        if self.stopped:
            inner = self.criterion.criterion if isinstance(self.criterion, GradientGate) else self.criterion
            student, y, _ = inner.counted(student_logits, labels, teacher_logits)
            return cross_entropy(single(student), checked_labels(y, student, check=False))
        loss: Tensor = self.criterion(student_logits, labels, teacher_logits)
        return loss

    def diagnostics(self) -> dict[str, float]:
        """Return what there is to log beside the loss: the inner criterion's, until that is stopped."""
        return {} if self.stopped else self.criterion.diagnostics()


class GradientGate(nn.Module):
    r"""A criterion that keeps the teacher's part of the loss only in steps where its gradient agrees with the labels'.

    .. math:: g = g_{hard} + [\cos(g_{hard}, g_{soft}) \ge \varphi] \, g_{soft}

    with the gradients of both parts in all of the student's parameters: the cross-entropy and the distillation term (a
    rank term included), each at its weight. The loss's value leaves the teacher's part out while the gate is closed.

    A step costs two backward passes, where the plain criterion takes one: both gradients are computed when the
    criterion is called, and ``backward()`` passes their sum on. The decision does not wait for the device. In
    data-parallel training (where `torch.distributed` is initialised) the gradients are first averaged over all
    processes, so that all decide alike, as one process would. Under float16 autocast small gradients may underflow, as
    a loss scaler comes too late for them: take bfloat16.

    Parameters
    ----------
    criterion : Criterion
        With a `ce_weight` above 0.
    network : torch.nn.Module
        The student that is being trained.
    phi : float, default 0
        The least cosine, in [-1, 1]. At -1 the gate is always open.

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
        # The epoch, its steps, its steps with the gate open, and the sum of its cosines. A buffer, so that a training
        # that goes on from the middle of an epoch goes on counting.
        self.register_buffer("tally", torch.tensor([-1.0, 0.0, 0.0, 0.0]))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0; in a new one the diagnostics start again."""
        self.criterion.set_epoch(epoch)
        if self.tally[0] != epoch:
            self.tally = self.tally.new_tensor([epoch, 0.0, 0.0, 0.0])

    def forward(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of a batch; see `Criterion`. Without gradients (in validation) nothing is gated."""
        hard, soft = self.criterion.parts(student_logits, labels, teacher_logits)
        if not soft.requires_grad:
            return soft + hard
        loss_weights = list(self.criterion.parameters())
        hard_gradients = torch.autograd.grad(hard, self._weights, retain_graph=True, allow_unused=True)
        soft_gradients = torch.autograd.grad(soft, [*self._weights, *loss_weights], allow_unused=True)
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
        loss: Tensor = _WithGradients.apply(value, gradients, *self._weights, *loss_weights)
        return loss

    def diagnostics(self) -> dict[str, float]:
        """Return the share of this epoch's steps with the gate open, and the mean cosine."""
        _, steps, is_open, cosine = self.tally.tolist()
        gate = {"gate_open": is_open / steps, "gate_cosine": cosine / steps} if steps else {}
        return {**self.criterion.diagnostics(), **gate}


Gradient = Tensor | None


def _average_over_processes(gradients: Sequence[Tensor]) -> None:
    """Average gradients in place over the processes of a data-parallel training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()


def _cosine(pairs: Sequence[tuple[Gradient, Gradient]]) -> Tensor:
    """Cosine between two gradients, given as pairs of tensors; 0 where one is 0. Float32, a scalar tensor."""
    sums: list[Tensor | float] = [0.0, 0.0, 0.0]
    for a, b in pairs:
        for index, (x, y) in enumerate(((a, b), (a, a), (b, b))):
            if x is not None and y is not None:
                sums[index] = sums[index] + torch.dot(x.flatten().float(), y.flatten().float())
    dot, a_squared, b_squared = (torch.as_tensor(total) for total in sums)
    # Each root alone: the product of the squares may underflow where neither does.
    return dot / (a_squared.sqrt() * b_squared.sqrt()).clamp_min(torch.finfo(torch.float32).tiny)


def _sum(a: Gradient, b: Gradient, weight: Tensor) -> Gradient:
    """The sum a + weight * b, where None is 0."""
    if a is None or b is None:
        return a if b is None else weight * b
    return a + weight.to(b.dtype) * b


class _WithGradients(torch.autograd.Function):
    """A value whose gradients with respect to some tensors are computed already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Gradient], *of: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Gradient, ...]:
        scale = upstream[0]
        return (None, None, *(None if g is None else scale.to(g.dtype) * g for g in ctx.gradients))
