"""Processes for tests: forks of this one, which have imported everything already. `torchrun` starts its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def fork(
    work: Callable[[], Any],
    output: Path | None = None,
    environment: dict[str, str] | None = None,
    *,
    seconds: int = 300,
) -> int:
    """Call a function in a fork of this process, and return the fork's number.

    What it prints, warns of and raises stands in the file `output`. Its status is 0, or 1 where it raised. It is
    killed after some seconds: should it ever hang, it does not outlive the test.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(seconds)
        if output is not None:
            with output.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            warnings.showwarning = lambda message, category, *_: print(f"{category.__name__}: {message}")
        os.environ.update(environment or {})
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """Wait for a fork: its status, negative the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_script(text: str, *arguments: object) -> None:
    """Run a text as Python runs a script with arguments."""
    sys.argv = ["script.py", *map(str, arguments)]
    exec(compile(text, "script.py", "exec"), {"__name__": "__main__"})


def launched(work: Callable[[], Any], folder: Path, processes: int) -> list[tuple[int, str]]:
    """Call a function in forks with the variables that torchrun sets: status and output of each, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    outputs = [folder / f"output{rank}.txt" for rank in range(processes)]
    children = [
        fork(work, output, shared | sizes | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, output in enumerate(outputs)
    ]
    statuses = [ended(child) for child in children]
    return [(status, output.read_text()) for status, output in zip(statuses, outputs, strict=True)]


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
