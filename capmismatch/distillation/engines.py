"""Where the runs of a grid are done: in processes of this machine, or on a Ray cluster.

An engine calls ``work(task)`` for every task, somewhere, and yields the outcomes as they come; None for a task that
took its process down with it. It knows nothing of studies: `work` itself writes what a task leaves to disk.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from capmismatch._utils.machine import keep_freed_memory, return_freed_memory, usable_cores
from capmismatch._utils.optional import need
from capmismatch.errors import CapmismatchError

Work = Callable[[Any], Any]


@dataclass(frozen=True)
class Resources:
    """What one machine has to offer.

    Attributes
    ----------
    workers : int
        Tasks side by side. Each gets its share of the cores as threads.
    gpus : int
        GPUs that the tasks share; 0 where they run on the CPU.
    address : str or None
        Of a Ray cluster. None starts one here.
    """

    workers: int = 1
    gpus: int = 0
    address: str | None = None

    @property
    def threads(self) -> int:
        """Threads per task."""
        return max(1, usable_cores() // self.workers)


def processes(work: Work, tasks: Sequence[Any], resources: Resources) -> Iterator[Any]:
    """Run tasks in `resources.workers` processes of this machine; with one worker, in this process."""
    if resources.workers == 1:
        yield from map(work, tasks)
        return
    return_freed_memory()  # this process has probed teachers and only waits now; its workers need the memory
    context = multiprocessing.get_context("spawn")  # forking a process that has run torch or numba threads can hang
    earlier_children = set(multiprocessing.active_children())
    numbers = context.SimpleQueue()
    for number in range(resources.workers):
        numbers.put(number)
    with ProcessPoolExecutor(
        resources.workers, mp_context=context, initializer=_start_worker, initargs=(numbers, resources)
    ) as pool:
        done = 0
        try:
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                yield future.result()
                done += 1
        except BaseException as error:  # Ctrl-C too: don't wait for hours of runs under way
            pool.shutdown(cancel_futures=True, wait=False)
            for process in set(multiprocessing.active_children()) - earlier_children:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise CapmismatchError(
                    "a worker process was killed, perhaps for want of memory: what is done is kept, "
                    f"{len(tasks) - done} runs are left; start again, with fewer than {resources.workers} workers"
                ) from error
            raise


def _start_worker(numbers: Any, resources: Resources) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(resources.threads)
    number = numbers.get()
    if resources.gpus:
        torch.cuda.set_device(number % resources.gpus)


def _end_with_parent() -> None:
    """End this worker with its parent: if that is killed, it would go on training, and then wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ray(work: Work, tasks: Sequence[Any], resources: Resources) -> Iterator[Any]:
    """Run tasks on a Ray cluster; a task whose worker dies is started again elsewhere, up to three times.

    A task takes its share of the cluster's smallest machine, so that each machine runs `resources.workers` or more of
    them side by side. All machines must see the files that `work` reads and writes under the same paths. A cluster that
    the caller has joined already is used, and left running.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = need("ray", "ray", "the engine 'ray'")
    started_here = not cluster.is_initialized()
    if started_here:
        cpus = resources.threads * resources.workers
        local = {} if resources.address else {"num_cpus": cpus, "include_dashboard": False}
        try:
            cluster.init(address=resources.address, log_to_driver=False, logging_level="error", **local)
        except Exception as error:  # Ray raises no class of its own here
            cluster.shutdown()
            hint = "" if resources.address else " (it gives its parts 15 s, too short where all cores are busy)"
            raise CapmismatchError(f"Ray does not start{hint}: {error}") from error
    cpus, gpus = _share([node["Resources"] for node in cluster.nodes() if node["Alive"]], resources)
    run = cluster.remote(num_cpus=cpus, num_gpus=gpus)(_run_with_threads)
    pending = [run.remote(work, task, cpus) for task in tasks]
    try:
        while pending:
            (done,), pending = cluster.wait(pending, num_returns=1)
            try:
                yield cluster.get(done)
            except (cluster.exceptions.WorkerCrashedError, cluster.exceptions.OutOfMemoryError):
                yield None
    finally:
        for task in pending:
            cluster.cancel(task, force=True)
        if started_here:
            cluster.shutdown()


def _share(machines: Sequence[Mapping[str, float]], resources: Resources) -> tuple[int, float]:
    """CPUs and GPUs per task, by the smallest machine of a cluster; by this one where none has joined yet."""
    suitable = [machine for machine in machines if machine.get("GPU" if resources.gpus else "CPU")]
    cpus = min((int(machine.get("CPU", 0)) for machine in suitable), default=resources.threads * resources.workers)
    gpus = min((machine["GPU"] for machine in suitable), default=resources.gpus) if resources.gpus else 0
    share = gpus / resources.workers
    return max(1, cpus // resources.workers), share if share < 1 else int(share)


def _run_with_threads(work: Work, task: Any, threads: int) -> Any:
    keep_freed_memory()
    torch.set_num_threads(threads)
    return work(task)


ENGINES: dict[str, Callable[[Work, Sequence[Any], Resources], Iterator[Any]]] = {"processes": processes, "ray": ray}
