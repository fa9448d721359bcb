"""Which runs of a grid can be trained as one stack, and the losses of a stack: for the engine "batched".

Runs go together where their students have one architecture. Some cannot be stacked: a network that draws random numbers
(dropout), one that `torch.func.vmap` cannot run, half precision, a loss that learns or looks at each network's
gradients. `reason_against` says which and why, after it has tried two small networks; the grid trains those one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from capmismatch.distillation.criteria import EarlyStopped
from capmismatch.distillation.methods import Method
from capmismatch.training.loop import Recipe
from capmismatch.training.stacked import Stack

TOLERANCE = 1e-4
"""Relative: two networks or losses that differ by more are not the same computation."""

DENSE = (nn.Linear, nn.Flatten, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.LayerNorm, nn.Identity)
"""Layers of networks for which a stack is known to be quicker on any device: see benchmarks/README.md."""

_NO_TEACHER, _SOFT = "labels", "soft labels"


def is_dense(network: nn.Module) -> bool:
    """Whether a network is made of matrix products alone, without convolutions.

    Examples
    --------
    >>> is_dense(nn.Sequential(nn.Linear(2, 3), nn.ReLU())), is_dense(nn.Sequential(nn.Conv2d(3, 4, 3)))
    (True, False)
    """
    leaves = [module for module in network.modules() if not list(module.children())]
    return all(isinstance(module, DENSE) for module in leaves)


def reason_against(networks: Sequence[nn.Module], x: Tensor, recipe: Recipe) -> str:
    """Why networks of one shape cannot be trained as a stack; empty where they can.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        Two or more, of one architecture. Their buffers change.
    x : Tensor, shape (n, ...)
        A few prepared inputs.
    recipe : Recipe
        How they would be trained.

    Returns
    -------
    str
        In words, for a message.
    """
    if recipe.autocast is not None:
        return f"autocast={recipe.autocast!r} scales the gradients of each student by itself"
    if not any(True for _ in networks[0].parameters()):
        return "it has no parameters to train"
    try:
        stack = Stack(networks).train()
        before = torch.get_rng_state()
        with torch.no_grad():
            alone = torch.stack([network.train()(x) for network in networks])
            if not torch.equal(before, torch.get_rng_state()):
                return "it draws random numbers, such as dropout's"
            together = stack.of_shared(x)
    except Exception as error:
        return f"torch.func.vmap cannot run it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    states = [network.state_dict() for network in networks]
    buffers = [(states[i][name], stack.state_dict(i)[name]) for i in range(len(networks)) for name in stack.buffers]
    return "" if all(_same(a, b) for a, b in [(alone, together), *buffers]) else "a stack of it computes something else"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=TOLERANCE, atol=TOLERANCE)


def reason_against_method(method: Method, epochs: int, classes: int) -> str:
    """Why the loss of a setting cannot be taken for a stack; empty where it can.

    Examples
    --------
    >>> reason_against_method(Method("KD"), 10, 3), reason_against_method(Method("CTKD"), 10, 3)
    ('', 'its loss has parameters or counts of its own')
    """
    if not method.has_teacher or _is_merged(method):
        return ""
    if "gate" in method.options:
        return "its gate looks at the gradients of each student"
    criterion = method.criterion(None, epochs)
    if criterion.state_dict():
        return "its loss has parameters or counts of its own"
    plain = criterion.criterion if isinstance(criterion, EarlyStopped) else criterion
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, classes, generator=generator) for _ in range(2))
    labels = torch.arange(10).reshape(2, 5) % classes
    given = torch.softmax(teacher, 2) if method.spec.kind == _SOFT else teacher
    if method.spec.kind == _SOFT and "rank_weight" in method.options:
        given = torch.stack([given, teacher], 2)
    try:
        alone = torch.stack([plain(*one) for one in zip(student, labels, given, strict=True)])
        together = vmap(lambda *one: _sum(plain, *one))(student, labels, given)
    except Exception as error:
        return f"torch.func.vmap cannot run its loss: {str(error).splitlines()[0] if str(error) else error!r}"
    return "" if _same(alone, together) else "a stack of its losses computes something else"


def _sum(criterion: Any, student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    hard, soft = criterion.parts(student, labels, teacher, check=False)
    return hard + soft


def _is_merged(method: Method) -> bool:
    """Whether the loss is one cross-entropy with a mixture of the teacher's soft labels and the label."""
    return method.spec.kind == _SOFT and method.tau_student == 1 and _has_plain_options(method)


def _has_plain_options(method: Method) -> bool:
    return set(method.options) <= {"stop_after", "assistants"}


class _CrossEntropy(torch.autograd.Function):
    r"""Cross-entropy with given probabilities at a temperature, :math:`\tau^2 H(q, p_\tau)`: a mean over rows (K,).

    One softmax serves both passes: the gradient is tau (p - q)/n where q sums to 1, as soft labels, labels and their
    mixtures do.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, tau: float) -> Tensor:
        log_p = torch.log_softmax(logits if tau == 1 else logits / tau, -1)
        ctx.save_for_backward(log_p, target)
        ctx.tau = tau
        members, rows, classes = logits.shape
        flat = (members, rows * classes)
        total = torch.bmm(log_p.reshape(flat)[:, None], target.reshape(flat)[:, :, None])
        return total[:, 0, 0] * (-(tau**2) / rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        log_p, target = ctx.saved_tensors
        scale = gradients[0] * (ctx.tau / log_p.shape[1])
        return log_p.exp().sub_(target).mul_(scale[:, None, None]), None, None


@dataclass
class _Targets:
    """What a block of networks is given for each example: rows of one table, each network's from an offset of its own.

    Attributes
    ----------
    table : Tensor, shape (M, ...)
        All that the networks are given, one after another.
    offset : Tensor of int, shape (k, 1)
        Where a network's part begins.
    stride : Tensor of int, shape (k, 1)
        Rows of a view; 0 where all views have the same.
    """

    table: Tensor
    offset: Tensor
    stride: Tensor

    def of(self, rows: Tensor, views: Tensor) -> Tensor:
        """The targets (k, n, ...) of a batch."""
        index = self.offset + views * self.stride + rows
        return self.table.index_select(0, index.flatten()).unflatten(0, index.shape)


class GroupLoss:
    """The losses of a stack of students, each by its own setting.

    Settings whose loss is one cross-entropy (CE; KD, ATS, ISATS and the controls at ``tau_student = 1``) share a table
    of mixtures of soft labels and labels; the others are taken setting by setting, by `torch.func.vmap`.

    Parameters
    ----------
    methods : sequence of Method
        Of each student. Students whose losses are merged come first, those of one other setting one after another, as
        `sort_key` sorts them.
    given : sequence of Tensor or None
        What each student is given of its teacher, (V, N, ...); the same object where it is the same.
    labels : Tensor of int, shape (N,)
        Classes of the examples.
    classes : int
        How many there are.
    epochs : int
        Of the training.
    device : str
        Where losses are taken.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        given: Sequence[Tensor | None],
        labels: Tensor,
        classes: int,
        epochs: int,
        device: str = "cpu",
    ) -> None:
        self.labels, self.device = labels.to(device), torch.device(device)
        self._epochs, self._stopped = epochs, [_last_epoch(method, epochs) for method in methods]
        merged = [index for index, method in enumerate(methods) if not method.has_teacher or _is_merged(method)]
        self._merged = slice(0, len(merged))
        self._mixed = self._mixtures([methods[i] for i in merged], [given[i] for i in merged], classes)
        self._whole = (self._mixed.offset.clone(), self._mixed.stride.clone())
        self._blocks: list[tuple[slice, Any, _Targets]] = []
        start = len(merged)
        while start < len(methods):
            end = start
            while end < len(methods) and methods[end] == methods[start]:
                end += 1
            block = slice(start, end)
            self._blocks.append((block, methods[start].criterion(None, epochs), self._as_given(given[block])))
            start = end

    @staticmethod
    def sort_key(method: Method) -> tuple[bool, str]:
        """By what students of a stack have to be sorted."""
        merged = not method.has_teacher or _is_merged(method)
        return not merged, "" if merged else repr(method)

    def _mixtures(self, methods: Sequence[Method], given: Sequence[Tensor | None], classes: int) -> _Targets:
        """The table of mixtures: the labels alone, then each mixture of soft labels with them."""
        hard = nn.functional.one_hot(self.labels, classes).float()
        count = len(hard)
        distinct: dict[tuple[int, Any], Tensor] = {}
        for method, soft in zip(methods, given, strict=True):
            if soft is not None:
                distinct.setdefault((id(soft), method.weight), soft)
        starts, total = {}, count
        for key, soft in distinct.items():
            starts[key], total = total, total + soft.shape[0] * count
        table = torch.empty(total, classes, device=self.device)  # filled in place: it may be most of the memory
        table[:count] = hard
        for (_, weight), soft in distinct.items():
            part = table[starts[id(soft), weight] :][: soft.shape[0] * count]
            torch.mul(soft.to(self.device).flatten(0, 1), weight, out=part)
            part.unflatten(0, soft.shape[:2]).add_(hard, alpha=1 - weight)
        offsets = [0 if soft is None else starts[id(soft), m.weight] for m, soft in zip(methods, given, strict=True)]
        strides = [0 if soft is None else count for soft in given]
        return _Targets(table, self._column(offsets), self._column(strides))

    def _as_given(self, given: Sequence[Tensor | None]) -> _Targets:
        """The table of what the students of a block are given, each once."""
        distinct = {id(one): one for one in given if one is not None}
        starts, total = {}, 0
        for key, one in distinct.items():
            starts[key], total = total, total + one.shape[0] * one.shape[1]
        table = torch.cat([one.flatten(0, 1) for one in distinct.values()]).to(self.device)
        return _Targets(
            table, self._column([starts[id(one)] for one in given]), self._column([len(self.labels)] * len(given))
        )

    def _column(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)[:, None]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0."""
        for _, criterion, _ in self._blocks:
            criterion.set_epoch(epoch)
        stopped = torch.tensor([epoch >= last for last in self._stopped[self._merged]], dtype=torch.bool)
        keep = ~stopped.to(self.device)[:, None]
        self._mixed.offset, self._mixed.stride = self._whole[0] * keep, self._whole[1] * keep

    def __call__(self, logits: Tensor, rows: Tensor, views: Tensor) -> Tensor:
        """Losses (K,) of a batch; see `capmismatch.training.stacked.StackLoss`."""
        losses = []
        if self._merged.stop:
            here = self._merged
            target = self._mixed.of(rows[here], views[here])
            losses.append(_CrossEntropy.apply(logits[here], target, 1.0))
        for here, criterion, targets in self._blocks:
            labels = self.labels[rows[here]]
            stopped = isinstance(criterion, EarlyStopped) and criterion.stopped
            if stopped:
                losses.append(vmap(nn.functional.cross_entropy)(logits[here], labels))
                continue
            plain = criterion.criterion if isinstance(criterion, EarlyStopped) else criterion
            given = targets.of(rows[here], views[here])
            losses.append(vmap(lambda *one: _sum(plain, *one))(logits[here], labels, given))  # noqa: B023 - at once
        return torch.cat(losses)


def _last_epoch(method: Method, epochs: int) -> int:
    """The epoch from which the student has the labels alone."""
    return max(1, round(method.options["stop_after"] * epochs)) if "stop_after" in method.options else epochs
