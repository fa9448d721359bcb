"""Progress bars for those who watch: in a terminal or a notebook; a log gets a line instead of a bar."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COMPILING = "compiling kernels, once (about 20 s)"
"""What a wait for numba is called."""


def is_watched() -> bool:
    """Whether bars are seen as they move: standard error is a terminal, or this is a notebook."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    in_notebook = interactive is not None and "IPKernelApp" in getattr(interactive, "config", {})
    return in_notebook or sys.stderr.isatty()


@contextmanager
def progress_bar(iterable: Any = None, *, desc: str, show: bool = True, **options: Any) -> Iterator[Any]:
    """A bar for a stage; where nobody watches, a line as it begins. It tells of compiling, which is a wait of its own.

    Parameters
    ----------
    iterable : iterable, optional
        What the bar goes through.
    desc : str
        Name of the stage.
    show : bool
        Whether to show anything.
    **options : Any
        Of `tqdm.tqdm`, such as ``total`` and ``unit``.

    Yields
    ------
    tqdm
        The bar.

    Examples
    --------
    >>> with progress_bar(range(3), desc="probe", show=False) as bar:
    ...     sum(bar)
    3
    """
    from tqdm.auto import tqdm

    watched = is_watched()
    with tqdm(iterable, desc=desc, disable=not (show and watched), **options) as bar:
        if show and not watched:
            total = options.get("total", len(iterable) if hasattr(iterable, "__len__") else None)
            say(desc if total is None else f"{desc}: {_counted(int(total), options.get('unit', 'step'))}")
        with telling_of_compiling(show):
            yield bar


def _counted(number: int, unit: str) -> str:
    """A number of units, in the plural where there are several.

    Examples
    --------
    >>> _counted(1, "batch"), _counted(3, "batch"), _counted(2, "teacher")
    ('1 batch', '3 batches', '2 teachers')
    """
    return f"{number} {unit}{'' if number == 1 else 'es' if unit.endswith('ch') else 's'}"


def say(line: str) -> None:
    """A line on standard error."""
    print(line, file=sys.stderr, flush=True)


_telling = threading.Lock()


@contextmanager
def telling_of_compiling(show: bool = True) -> Iterator[None]:
    """Tell that numba compiles as soon as it does; what it finds compiled on disk is no wait.

    Parameters
    ----------
    show : bool
        Whether to tell anything.
    """
    if not show or not _telling.acquire(blocking=False):  # one of several, one within another, is enough
        yield
        return
    try:
        listener = _listener()
        if listener is None:
            yield
            return
        from numba.core import event

        event.register("numba:compile", listener)
        try:
            yield
        finally:
            event.unregister("numba:compile", listener)
            listener.close()
    finally:
        _telling.release()


def _listener() -> Any:
    """What numba calls as it begins and ends to compile a function; None without numba."""
    try:
        from numba.core import event
    except ImportError:
        return None
    from tqdm.auto import tqdm

    class Listener(event.Listener):
        """A bar of compiled functions, made when the first begins."""

        def __init__(self) -> None:
            self.bar: Any = None

        def on_start(self, event: Any) -> None:
            if self.bar is None:
                watched = is_watched()
                kernels = _uncompiled()
                self.bar = tqdm(desc=COMPILING, total=kernels, unit="kernel", leave=False, disable=not watched)
                if not watched:
                    say(COMPILING)

        def on_end(self, event: Any) -> None:
            if self.bar is not None:
                self.bar.update(1)

        def close(self) -> None:
            if self.bar is not None:
                self.bar.close()

    return Listener()


def _uncompiled() -> int | None:
    """How many of the loaded kernels are not compiled in this process yet; None where that is not known."""
    modules = [module for name, module in sys.modules.items() if name.startswith("capmismatch.") and "loops" in name]
    kernels = {id(value): value for module in modules for value in vars(module).values() if hasattr(value, "overloads")}
    return sum(not kernel.overloads for kernel in kernels.values()) or None
