"""Several processes at one bank, as ``torchrun`` starts them: who does which shard, and waiting for each other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from capmismatch.errors import CapmismatchError

# A worker may wait for another's whole shard of a large network; one that has died is torchrun's to notice.
PATIENCE = timedelta(days=7)
_times = itertools.count()


class ProcessGroup:
    """The processes that collect together; alone, every method is as simple as it can be.

    Attributes
    ----------
    rank, size : this process's number among how many
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    def share(self, count: int) -> range:
        """The shards of this process: every one is somebody's, and nobody's twice."""
        return range(self.rank, count, self.size)

    def on_rank_zero(self, run: Callable[[], Any]) -> Any:
        """Let the first process run something, and give its answer to all; all raise if it fails."""
        answers = self.on_all_ranks(run if self.rank == 0 else lambda: None)
        return answers[0]

    def on_all_ranks(self, run: Callable[[], Any]) -> list[Any]:
        """Run something in every process and wait for all: the answers by rank; all raise if one fails."""
        if self.size == 1:
            return [run()]
        import torch.distributed as dist

        answer, failed = None, None
        try:
            answer = run()
        except Exception as error:  # told to the others, which would wait for ever
            failed = error
        told: list[Any] = [None] * self.size
        reason = None if failed is None else f"{type(failed).__name__}: {failed}"
        dist.all_gather_object(told, (answer, reason), self.group)
        if failed is not None:
            raise failed
        broken = next((rank for rank, (_, reason) in enumerate(told) if reason is not None), None)
        if broken is not None:
            raise CapmismatchError(f"worker {broken} of {self.size} failed: {told[broken][1]}")
        return [answer for answer, _ in told]


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The processes of this run: those of ``torchrun``, or of a process group that is there already; else one."""
    import torch.distributed as dist

    if not dist.is_available() or not (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        yield ProcessGroup()
        return
    mine = not dist.is_initialized()
    if mine:
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        # Names of its own for each time: those of a group that is gone would lead to its closed connections.
        own = dist.PrefixStore(f"capmismatch-{next(_times)}", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=PATIENCE)
    # A group of its own: the caller's may be NCCL's, which has no place for Python objects on the CPU.
    group = None if mine else dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)


def local_device(device: str) -> str:
    """The worker's own accelerator where torchrun started several on one machine."""
    local = os.environ.get("LOCAL_RANK")
    return f"{device}:{local}" if device == "cuda" and local is not None else device
