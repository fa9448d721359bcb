"""The pages of words and of columns, which the documentation shows and `explain` reads: one place for both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple


class Entry(NamedTuple):
    """What a page says of some names.

    Attributes
    ----------
    names : tuple of str
        Words of the glossary that mean the same, or columns that one row of a table's description is about.
    where : str
        "the glossary", or the table, such as "the table pick".
    text : str
        The meaning, without markup.
    """

    names: tuple[str, ...]
    where: str
    text: str


COMMON = "Common columns"
"""The section of `tables.md` to which rows that say "as above" point."""

GLOSSARY = "the glossary"


@cache
def glossary() -> tuple[Entry, ...]:
    """The entries of `glossary.md`.

    Examples
    --------
    >>> next(entry.text for entry in glossary() if "soft label" in entry.names)
    'Probabilities over all classes that a student learns from.'
    """
    body = re.search(r"^```\{glossary\}\n(.*?)^```", _page("glossary.md"), re.MULTILINE | re.DOTALL)
    assert body is not None
    found = []
    for block in body[1].strip().split("\n\n"):
        term, _, meaning = block.partition("\n")
        found.append(Entry(tuple(term.split(", ")), GLOSSARY, plain(meaning)))
    return tuple(found)


@cache
def columns() -> tuple[Entry, ...]:
    """The rows of `tables.md`, one entry per row; those that say "as above" have the meaning of the common columns.

    Examples
    --------
    >>> [entry.text for entry in columns() if "p_best" in entry.names and entry.where == "Choice.table"]
    ['chance of being the best of those compared; NaN by a probe alone']
    """
    sections = re.split(r"^## ", _page("tables.md"), flags=re.MULTILINE)[1:]
    rows = [row for section in sections for row in _rows_of(section)]
    common = {name: entry for entry in rows if entry.where == COMMON for name in entry.names}
    found = []
    for entry in rows:
        points_up = entry.where != COMMON and re.match(r"as (above|in )", entry.text)
        if not points_up:
            found.append(entry)
            continue
        found += [common[name]._replace(where=entry.where) if name in common else entry for name in entry.names]
    return tuple(found)


def _rows_of(section: str) -> Iterator[Entry]:
    """The entries of one section of `tables.md`, which may describe several tables."""
    title, _, body = section.partition("\n")
    where = COMMON if title == COMMON else f"the table {title}"
    for line in body.splitlines():
        if own := re.match(r"`([A-Z]\w+\.\w+)` ", line):
            where = own[1]
        if row := re.match(r"\| (`.*?`) \| (.*) \|$", line):
            yield Entry(tuple(re.findall(r"`(\w+)`", row[1])), where, plain(row[2]))


def plain(text: str) -> str:
    r"""Markdown with roles as a sentence for a terminal.

    Examples
    --------
    >>> plain("What {py:func}`~capmismatch.pick` returns; see {doc}`../concepts/isats` and {ref}`CM010 <cm010>`, $p_y$")
    'What capmismatch.pick returns; see the page isats and CM010, p_y'
    """
    text = re.sub(r"\{py:\w+\}`~?([^`]+)`", r"\1", text)
    text = re.sub(r"\{ref\}`([^<`]+) <[^>]+>`", r"\1", text)
    text = re.sub(r"\{doc\}`(?:[^`]*/)?([^`/]+)`", r"the page \1", text)
    text = re.sub(r"[`$]", "", text.replace("\\|", "|"))
    return " ".join(text.split())


def _page(name: str) -> str:
    return (resources.files("capmismatch") / "vocabulary" / name).read_text(encoding="utf-8")
