"""Several processes at one training: each takes its share of every batch, and the sum is what one would have done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from capmismatch._utils.torchrun import ProcessGroup, local_device, process_group


class Team:
    """The processes that train one network; alone, every method gives back what it is given.

    Attributes
    ----------
    processes : who they are
    device : this process's
    """

    def __init__(self, processes: ProcessGroup, device: torch.device, group: Any = None) -> None:
        self.processes, self.device, self.group = processes, device, group
        self._own_classes: list[tuple[Any, type[nn.Module]]] = []

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to call: for several, one whose gradients are averaged over them, and whose batch normalisation
        sees the rows of all of them. Until `part`, they have the same parameters.
        """
        if self.processes.size == 1:
            return network
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                self._own_classes.append((module, type(module)))
                module.__class__ = _JointBatchNorm  # in place: others may hold on to the network's parameters
                module.group = self.group
        index = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=index, process_group=self.group)

    def part(self) -> None:
        """Give every network's batch normalisation back to itself."""
        for module, own in self._own_classes:
            module.__class__ = own
            del module.group

    def share(self, batch: Tensor) -> Tensor:
        """The part of this process, of what there is one of for every row of a batch."""
        return batch.tensor_split(self.processes.size)[self.processes.rank]

    def whole(self, own: Tensor, rows: int) -> Tensor:
        """The logits of all `rows` of a batch in their order; gradients flow into this process's own.

        Every process can so compute any loss of the whole batch, also one that is no mean over rows.
        """
        if self.processes.size == 1:
            return own
        import torch.distributed as dist

        # The wrapped network takes the mean over processes of what is a sum.
        own.register_hook(lambda gradient: gradient * self.processes.size)
        counts = [len(part) for part in torch.arange(rows).tensor_split(self.processes.size)]
        padded = nn.functional.pad(own.detach(), (0, 0, 0, max(counts) - len(own)))
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded.contiguous(), group=self.group)
        others = [part[:count] for part, count in zip(parts, counts, strict=True)]
        return torch.cat([*others[: self.processes.rank], own, *others[self.processes.rank + 1 :]])


@contextmanager
def together(device: str, alone: bool = False) -> Iterator[Team]:
    """The processes of this run, see `workers`, and a way for their gradients that suits the device; or this one."""
    with nullcontext(ProcessGroup()) if alone else process_group() as processes:
        place = torch.device(local_device(device))
        if processes.size == 1:
            yield Team(processes, place)
            return
        import torch.distributed as dist

        group = dist.new_group(backend="nccl" if place.type == "cuda" else "gloo")
        team = Team(processes, place, group)
        try:
            yield team
        finally:
            team.part()
            dist.destroy_process_group(group)


class _JointBatchNorm(_BatchNorm):
    """Batch normalisation over the rows of all processes, on any device (PyTorch's own needs a GPU)."""

    group: Any

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape (n, C, ...) will do."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (n, C, ...)."""
        if not self.training:
            return super().forward(input)
        x, over = input.float(), [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count, total = self._sum(torch.cat([x.new_tensor([x.numel() / x.shape[1]]), x.sum(over)])).tensor_split([1])
        mean = total / count
        centred = x - mean.view(shape)
        variance = self._sum(centred.square().sum(over)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, factor)
                self.running_var.lerp_(variance * count / (count - 1), factor)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _sum(self, own: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(own, self.group)
        return summed


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, for what each makes of it counts."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        import torch.distributed as dist

        ctx.group, summed = group, own.clone()
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        import torch.distributed as dist

        summed = gradient[0].clone()
        dist.all_reduce(summed, group=ctx.group)
        return summed, None
