"""Docstrings that give a parameter's description where numpydoc has its type, spelt out for napoleon.

``name : a description`` becomes the name with the description below it; so does a "Returns" that is a plain sentence.
This file goes once no docstring needs it: `tests/docs/test_docstrings.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import Any

from sphinx.application import Sphinx

ENTRIES = ("Parameters", "Attributes", "Raises", "Other Parameters")
WRAPPED = 88  # a first line of an entry that is longer was broken for its length; a type never is that long
RULE = re.compile(r"-{3,}")


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place."""
    out: list[str] = []
    for section, body in _sections(lines):
        if section == "Returns" and not any(line.startswith(" ") for line in body[2:]):
            body = ["", "", f":returns: {' '.join(filter(None, body[2:]))}", ""]  # two blanks end napoleon's section
        if section in ENTRIES:
            body = [new for number, line in enumerate(body) for new in _entry(line, body[number + 1 :], section)]
        out += body
    lines[:] = out


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The parts of a docstring, each with its title (empty for the first) and its lines, title and rule among them."""
    starts = [n for n, line in enumerate(lines[:-1]) if line[:1].strip() and RULE.fullmatch(lines[n + 1])]
    for start, end in pairwise([0, *starts, len(lines)] if not starts or starts[0] else [*starts, len(lines)]):
        yield (lines[start] if start in starts else ""), lines[start:end]


def _entry(line: str, rest: list[str], section: str) -> list[str]:
    entry = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*) : (.+)$", line)
    if not entry or not _describes(line, rest):
        return [line]
    if section == "Attributes":  # napoleon takes one name at a time here; only the last gets the lines that follow
        following = takewhile(lambda after: after.startswith(" "), rest)
        shared = [f"    {text.strip()}" for text in following]
        *first, last = entry[1].split(", ")
        return [*(new for name in first for new in (name, f"    {entry[2]}", *shared)), last, f"    {entry[2]}"]
    return [entry[1], f"    {entry[2]}"]


def _describes(line: str, rest: list[str]) -> bool:
    """Whether what follows the colon is a description, not a type with the description below it."""
    body = next((after for after in rest if after.strip()), "")
    return not body.startswith(" ") or body.lstrip().startswith("* ") or len(line) > WRAPPED


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon does."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
