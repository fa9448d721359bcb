"""The processes that ``torchrun`` starts: how they share work, wait for each other, and pass errors on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from capmismatch._utils.files import locked
from capmismatch.errors import CapmismatchError

# A worker may wait while another computes a shard of a large network; torchrun itself ends a group with a dead worker.
TIMEOUT = timedelta(days=7)
_group_numbers = itertools.count()


class ProcessGroup:
    """Processes that work together; with one process every method just calls the function it is given.

    Parameters
    ----------
    rank : int
        Number of this process, in [0, size).
    size : int
        How many processes there are.
    group : torch.distributed.ProcessGroup, optional
        Through which they exchange Python objects; None takes torch's default group.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    def share(self, count: int) -> range:
        """The numbers below `count` that are this process's work; each number is the work of exactly one process."""
        return range(self.rank, count, self.size)

    def on_rank_zero(self, run: Callable[[], Any]) -> Any:
        """Let the first process call a function, and give its answer to all; all raise if it fails."""
        answers = self.on_all_ranks(run if self.rank == 0 else lambda: None)
        return answers[0]

    def on_all_ranks(self, run: Callable[[], Any]) -> list[Any]:
        """Call a function in every process and wait for all: the answers by rank; all raise if one fails."""
        if self.size == 1:
            return [run()]
        import torch.distributed as dist

        answer, error_here = None, None
        try:
            answer = run()
        except Exception as error:  # the other processes must hear of it, or they would wait for ever
            error_here = error
        message = None if error_here is None else f"{type(error_here).__name__}: {error_here}"
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, (answer, message), self.group)
        if error_here is not None:
            raise error_here
        for rank, (_, message) in enumerate(outcomes):
            if message is not None:
                raise CapmismatchError(f"worker {rank} of {self.size} failed: {message}")
        return [answer for answer, _ in outcomes]

    @contextmanager
    def lock_on_rank_zero(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Let the first process hold a lock file inside the block; the others wait until it does."""
        with ExitStack() as locks:
            self.on_rank_zero(lambda: bool(locks.enter_context(locked(path))))
            yield


def world_size() -> int:
    """How many processes torchrun started, by its variables; 1 without it.

    Raises
    ------
    CapmismatchError
        Where the variables of a launcher are no numbers, or some of them are missing.
    """
    size = _number("WORLD_SIZE", 1, least=1)
    if size > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise CapmismatchError(
                f"WORLD_SIZE={size} says that torchrun started this process, but {', '.join(missing)} is not set: "
                "start it with torchrun, or unset WORLD_SIZE"
            )
        if _number("RANK", 0, least=0) >= size:
            raise CapmismatchError(f"expected RANK in [0, {size}), got {os.environ['RANK']!r} with WORLD_SIZE={size}")
        _number("LOCAL_RANK", 0, least=0)
        _number("MASTER_PORT", 0, least=0, most=65535)
    return size


def _number(name: str, default: int, least: int, most: int = 2**31 - 1) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise CapmismatchError(
            f"expected the environment variable {name} a whole number in [{least}, {most}], got {text[:40]!r}"
        )
    return int(text)


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The processes of this run: those of ``torchrun`` or of an initialised process group; else this one alone."""
    import torch.distributed as dist

    if not dist.is_available() or not (dist.is_initialized() or world_size() > 1):
        yield ProcessGroup()
        return
    initialized_before = dist.is_initialized()
    group = None
    if initialized_before:
        # Another group: the caller's may be NCCL's, which cannot exchange Python objects on the CPU.
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    else:
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        # Another prefix for each group: with the names of an earlier one, workers would find its closed connections.
        prefixed = dist.PrefixStore(f"capmismatch-{next(_group_numbers)}", store)
        dist.init_process_group("gloo", store=prefixed, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)


def local_device(device: str) -> str:
    """The worker's own accelerator where torchrun started several on one machine."""
    if device != "cuda" or not os.environ.get("LOCAL_RANK", "").strip():
        return device
    return f"{device}:{_number('LOCAL_RANK', 0, least=0)}"
