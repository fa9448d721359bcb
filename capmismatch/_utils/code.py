"""A hash of the user's own code behind a function or class, so that what other code made is not taken for its work.

Followed are the functions, classes and constants that the code names, as far as they are the user's: installed packages
and Python itself count by their names alone. Comments and layout do not count.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from capmismatch._utils.files import hash_of

_INSTALLED = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(__file__).resolve().parent.parent,
        *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)
_BY_NAME = {"import_module", "__import__"}
"""Functions that import a module by its name."""

_LONGEST_NAME = 255

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MEMBERS = (FunctionType, staticmethod, classmethod, property, type, *_PLAIN, tuple, list, dict)


def code_hash(made_by: Any) -> str:
    """A hash of the user's code behind a function or class; empty where none of it is the user's.

    Parameters
    ----------
    made_by : callable
        Function, class, method or `functools.partial`.

    Returns
    -------
    str
        Sixteen hexadecimal digits, or "".

    Examples
    --------
    >>> code_hash(dict)
    ''
    """
    walk = _Walk()
    name = walk.follow(made_by)
    return hash_of([name, walk.parts]) if walk.parts else ""


def own_files_of(module: str, base: Path) -> dict[str, Path]:
    """The user's files that a module is made of: its own, and those of all that it imports. Nothing is run.

    Parameters
    ----------
    module : str
        Its name, as it is imported.
    base : Path
        Folder in which modules are looked for first.

    Returns
    -------
    dict from str to Path
        By the names of the modules, links resolved. Installed packages are left out, and modules whose names are put
        together only as the code runs.
    """
    searched = dict.fromkeys(os.path.realpath(place) for place in (str(base), *sys.path))
    places = [place for place in searched if not _is_installed(place)]
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        parts = pending.pop().split(".")
        for name in (".".join(parts[: depth + 1]) for depth in range(len(parts))):  # packages first
            file = None if name in found else _own_file(name, places)
            if file is not None:
                found[name] = file
                pending += _imports(name, file)
    return dict(sorted(found.items()))


def files_named_in(code: Iterable[Path], base: Path) -> list[Path]:
    """The files that code names by a text written in it, such as the "sizes.json" that a builder opens. Nothing is run.

    Parameters
    ----------
    code : iterable of Path
        Files of Python code.
    base : Path
        Folder in which names are looked for, after the folder of the code itself.

    Returns
    -------
    list of Path
        Those that are there, links resolved, each once. A name that is put together as the code runs is not known.
    """
    found: dict[Path, None] = {}
    for file in code:
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):  # told by whoever runs it
            continue
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for name in sorted(text for text in texts if 0 < len(text) <= _LONGEST_NAME and text.isprintable()):
            places = (os.path.realpath(os.path.join(folder, name)) for folder in (file.parent, base))
            there = next((Path(place) for place in places if os.path.isfile(place) and not place.endswith(".py")), None)
            if there is not None:
                found[there] = None
    return list(found)


def _own_file(module: str, places: list[str]) -> Path | None:
    """The file of a module; None where it is none of the user's."""
    stems = [os.path.join(place, *module.split(".")) for place in places if all(module.split("."))]
    files = (os.path.realpath(stem + ending) for stem in stems for ending in (f"{os.sep}__init__.py", ".py"))
    return next((Path(file) for file in files if os.path.isfile(file) and not _is_installed(file)), None)


def _imports(module: str, file: Path) -> Iterator[str]:
    """Names of the modules, and of what may be modules, that a file imports anywhere in its text."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # told by whoever runs it
        return
    package = module.split(".") if file.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*source, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and _name_of(node.func) in _BY_NAME and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str):
                yield ".".join([*package, name.lstrip(".")]) if name.startswith(".") else name


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_installed(place: str) -> bool:
    of_packages = {"site-packages", "dist-packages"} & set(Path(place).parts)
    return bool(of_packages) or f"{place}{os.sep}".startswith(_INSTALLED)


class _Walk:
    """Goes through code by the names that it uses, and gathers the text of what is the user's."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.followed: list[Any] = []
        self.within: list[int] = []  # containers that hold what is being followed

    def follow(self, thing: Any) -> str:
        """A short description of a thing; the user's functions and classes in it are gathered."""
        if isinstance(thing, _PLAIN):
            return repr(thing)
        if isinstance(thing, list | tuple | set | frozenset | dict):
            if id(thing) in self.within:
                return "..."
            self.within.append(id(thing))
            text = self._container(thing)
            self.within.pop()
            return text
        if isinstance(thing, functools.partial):
            return f"partial {self.follow([thing.func, thing.args, thing.keywords])}"
        if isinstance(thing, MethodType):
            return f"{self.follow(thing.__func__)} of {self.follow(thing.__self__)}"
        return self._code(thing if isinstance(thing, FunctionType | type) else type(thing))

    def _container(self, thing: Any) -> str:
        if isinstance(thing, list | tuple):
            return f"{type(thing).__name__}[{', '.join(map(self.follow, thing))}]"
        if isinstance(thing, set | frozenset):
            return f"set[{', '.join(sorted(map(self.follow, thing)))}]"
        return f"dict[{', '.join(f'{self.follow(key)}: {self.follow(thing[key])}' for key in thing)}]"

    def _code(self, thing: Any) -> str:
        if not _is_own(thing):
            return f"{thing.__module__}.{thing.__qualname__}"
        for number, other in enumerate(self.followed):
            if other is thing:
                return f"{thing.__qualname__} {number}"
        self.followed.append(thing)  # before its parts: a function may name itself
        name, place = f"{thing.__qualname__} {len(self.followed) - 1}", len(self.parts)
        self.parts.append(None)
        self.parts[place] = [name, _text(thing), [self.follow(part) for part in _parts_of(thing)]]
        return name


def _is_own(thing: Any) -> bool:
    """Whether a function or class is neither Python's, nor of an installed package, nor of this one."""
    module = sys.modules.get(thing.__module__ or "")
    if thing.__module__ == "__main__":
        return True
    file = getattr(module, "__file__", None)
    if file is None:  # built in, or a module that was made by hand
        return module is not None and not hasattr(module, "__spec__")
    return not str(Path(file).resolve()).startswith(_INSTALLED)


def _text(thing: Any) -> str:
    """The source of a function or class without comments and layout; of one without source, its byte code."""
    try:
        source = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return "".join(_byte_code(code) for code in _codes(thing))
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:  # a lambda in the middle of something
        return source


def _byte_code(code: CodeType) -> str:
    constants = [item for item in code.co_consts if not isinstance(item, CodeType)]
    return f"{code.co_code.hex()} {code.co_names} {constants!r}"


def _codes(thing: Any) -> Iterator[CodeType]:
    """The code objects of a function and of the functions within it, or of a class's methods."""
    if isinstance(thing, type):
        for value in vars(thing).values():
            function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else None
            if isinstance(function, FunctionType):
                yield from _codes(function)
        return
    pending = [thing.__code__ if isinstance(thing, FunctionType) else thing]
    while pending:
        code = pending.pop()
        yield code
        pending += [item for item in code.co_consts if isinstance(item, CodeType)]


def _parts_of(thing: Any) -> Iterator[Any]:
    """What the code of a function or class names: globals, values of enclosing functions, defaults, members, bases."""
    if isinstance(thing, type):
        yield from (base for base in thing.__bases__ if base is not object)
        for name, value in vars(thing).items():
            if not name.startswith("__") or isinstance(value, FunctionType):
                yield from _member(value)
        return
    if hasattr(thing, "__wrapped__"):
        yield thing.__wrapped__
    yield thing.__defaults__
    yield thing.__kwdefaults__
    for cell in thing.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from _named(thing)


def _member(value: Any) -> Iterator[Any]:
    if isinstance(value, property):
        yield from (part for part in (value.fget, value.fset) if part is not None)
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, _MEMBERS):
        yield value


def _named(function: FunctionType) -> Iterator[Any]:
    """Globals that a function names, and, of modules of the user's among them, what it names in those."""
    names = sorted({name for code in _codes(function) for name in code.co_names})
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            file = getattr(value, "__file__", None)
            if file is not None and not str(Path(file).resolve()).startswith(_INSTALLED):
                yield from (getattr(value, other) for other in names if hasattr(value, other))
        elif name in function.__globals__:
            yield name
            if name != "__file__":  # where code lies is no part of it: studies are copied and moved
                yield value
    if _BY_NAME & set(names):
        yield from _imported_by_name(function)


def _imported_by_name(function: FunctionType) -> Iterator[str]:
    """The text, without comments and layout, of the user's modules that a function imports by a name written in it."""
    texts = sorted({item for code in _codes(function) for item in code.co_consts if isinstance(item, str)})
    for name in texts:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file is not None and not _is_installed(os.path.realpath(file)):
            with suppress(OSError, SyntaxError, ValueError):
                yield ast.unparse(ast.parse(Path(file).read_bytes()))
