"""One docstring dialect: numpydoc, with a type for each parameter.

Everything that has a section of parameters is held to it; what users call (`capmismatch`'s names and those of its
public modules) must have the sections, too. ``pytest tests/docs/test_docstrings.py -k selection`` asks one room.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import capmismatch as cm

# Of any docstring: unknown parameters, wrong order, no type, no description; sections unknown or in another order.
EVERYWHERE = {"GL06", "GL07", "PR02", "PR03", "PR04", "PR07", "RT03"}
# Of what users call, besides: parameters missing, no section of what is returned.
PUBLIC = EVERYWHERE | {"PR01", "RT01"}
PUBLIC_MODULES = ("architectures", "losses", "plots", "probes", "ranks", "temperature")
MODULES = sorted(info.name for info in pkgutil.walk_packages(cm.__path__, "capmismatch."))


def public_objects() -> set[int]:
    """Identities of the functions and classes that users call."""
    names = [getattr(cm, name) for name in cm.__all__]
    for module in (getattr(cm, name) for name in PUBLIC_MODULES):
        defined = [key for key, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        exported = getattr(module, "__all__", [key for key in defined if not key.startswith("_")])
        names += [getattr(module, key) for key in exported]
    return {id(thing) for thing in names if callable(thing)}


def members(module: Any) -> Iterator[tuple[str, Any]]:
    """Functions, classes and public methods that a module defines: dotted name and object."""
    for name, thing in vars(module).items():
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ != module.__name__:
            continue
        yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            for key, method in vars(thing).items():
                if inspect.isfunction(method) and not key.startswith("_"):
                    yield f"{module.__name__}.{name}.{key}", method


def _long_types(docstring: str) -> list[str]:
    """What stands in the place of a type and is too long to be one; a list of choices in braces may be long."""
    sections = NumpyDocString(docstring)
    kinds = [parameter.type for section in ("Parameters", "Attributes") for parameter in sections[section]]
    return [kind for kind in kinds if len(kind) > 80 and not kind.startswith("{")]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_are_numpydoc(name: str) -> None:
    module, public = importlib.import_module(name), public_objects()
    complaints = []
    for path, thing in members(module):
        text = inspect.getdoc(thing) or ""
        if id(thing) not in public and "\nParameters\n---" not in text and "\nReturns\n---" not in text:
            continue
        wanted = PUBLIC if id(thing) in public and not inspect.isclass(thing) else EVERYWHERE
        complaints += [f"{path}: {code} {why}" for code, why in validate(path)["errors"] if code in wanted]
        complaints += [f"{path}: {kind!r} is no type but a description" for kind in _long_types(text)]
    assert not complaints, "\n".join(complaints)
