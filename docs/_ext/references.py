"""Three finishing touches on what autodoc makes of docstrings.

* An arXiv number among the references becomes a link.
* Attributes that share an entry (``low, high : float``, as numpydoc allows) get one each, which napoleon needs.
* A dataclass field with a default factory is shown as ``= ...`` in the signature, not as ``=<factory>``.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any

from sphinx.application import Sphinx

FACTORY = re.compile(r"\s*=\s*<factory>")
RULE = re.compile(r"-{3,}")
ARXIV = re.compile(r"(?<!`)arXiv (\d{4}\.\d{4,5})")


def link_arxiv(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place, from its references on."""
    if "References" in lines:
        start = lines.index("References")
        lines[start:] = [ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", line) for line in lines[start:]]


def separate_attributes(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Repeat the type and description of a shared entry under each of its names, in place."""
    if "Attributes" not in lines:
        return
    start = lines.index("Attributes") + 2
    end = next((n for n in range(start, len(lines) - 1) if RULE.fullmatch(lines[n + 1])), len(lines))
    separated: list[str] = []
    position = start
    while position < end:
        described = list(takewhile(lambda line: not line or line.startswith(" "), lines[position + 1 : end]))
        names, colon, kind = lines[position].partition(" : ")
        for attribute in names.split(", ") if colon else [names]:
            separated += [attribute + colon + kind, *described]
        position += 1 + len(described)
    lines[start:end] = separated


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Write the defaults of a dataclass that are made anew as they would be written by hand."""
    return (arguments and FACTORY.sub(" = ...", arguments.replace("~typing.", ""))), result


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon does."""
    app.connect("autodoc-process-docstring", link_arxiv, priority=400)
    app.connect("autodoc-process-docstring", separate_attributes, priority=400)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
