"""`explain`: what a code, a column, a probe, a method or a word means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from capmismatch.distillation.methods import METHODS
from capmismatch.errors import InputError
from capmismatch.findings import FINDINGS, Finding
from capmismatch.vocabulary.lists import list_probes
from capmismatch.vocabulary.pages import COMMON, Entry, columns, glossary


@dataclass(frozen=True)
class Explanation:
    """What a word means; `print` shows it.

    Attributes
    ----------
    word : str
        As it was asked for.
    meanings : tuple of (str, str)
        Where it has a meaning, such as "the glossary" or "column of the table pick", and which.
    """

    word: str
    meanings: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join([self.word, *(f"  {where}: {text}" for where, text in self.meanings)])

    __repr__ = __str__


def explain(word: str) -> Finding | Explanation:
    """What a code, a column of a table, a probe, a method or a word of the glossary means.

    Parameters
    ----------
    word : str
        Such as ``"CM003"``, ``"p_best"``, ``"derived_std"``, ``"ISATS"`` or ``"noise floor"``; capitals, spaces and
        hyphens do not count.

    Returns
    -------
    Finding or Explanation
        Of a code its `Finding`, with `code`, `title` and `explanation`; else an `Explanation` with all its meanings.
        Either is shown as text.

    Raises
    ------
    InputError
        If nothing is called so; the message names the nearest.

    See Also
    --------
    capmismatch.list_probes, capmismatch.list_methods : All of them.

    Examples
    --------
    >>> explain("CM007").title
    'teachers cannot be told apart'
    >>> explain("IV")
    IV
      the glossary: Variance of the softmax over the wrong classes only. DV without the factor (1 - p_y)².
    """
    if not isinstance(word, str):
        raise InputError(f"expected a word to explain, such as 'p_best' or 'CM005', got {word!r}")
    if word.strip().upper() in FINDINGS:
        return FINDINGS[word.strip().upper()]
    meanings = tuple(dict.fromkeys(_meanings(_key(word))))
    if not meanings:
        raise InputError(f"nothing is called {word!r}{_nearest(word)}")
    return Explanation(word, meanings)


def _meanings(key: str) -> Iterator[tuple[str, str]]:
    """Where a word has a meaning, and which; a column that means the same in several tables once."""
    for entry in glossary():
        if key in map(_key, entry.names):
            yield entry.where, entry.text
    for probe in list_probes().to_dict("records"):
        if key == _key(probe["name"]):
            expected = {1: "; expected to help", -1: "; expected to harm"}.get(probe["expected_sign"], "")
            yield "probe", f"{probe['about']} Formula: {probe['formula']}. Source: {probe['source']}{expected}"
    for name, spec in METHODS.items():
        if key == _key(name):
            yield "method", f"{spec.about}; the student learns from {spec.kind}"
    same: dict[str, list[Entry]] = {}
    for entry in columns():
        if key in map(_key, entry.names):
            same.setdefault(entry.text, []).append(entry)
    for text, entries in same.items():
        tables = [entry.where.removeprefix("the table ") for entry in entries if entry.where != COMMON]
        names = entries[0].names
        beside = f" ({', '.join(names)})" if len(names) > 1 else ""
        yield f"column of {', '.join(dict.fromkeys(tables)) or 'many tables'}", f"{text}{beside}"


def _key(word: str) -> str:
    """What words are compared by.

    Examples
    --------
    >>> _key("P(best)") == _key("p_best"), _key("noise-floor") == _key("Noise floor")
    (True, True)
    """
    return re.sub(r"[\W_]+", "", word).casefold()


def _nearest(word: str) -> str:
    """The nearest words that can be explained, as the end of a message."""
    words = [name for entry in (*glossary(), *columns()) for name in entry.names]
    words += [*list_probes()["name"], *METHODS, *FINDINGS]
    by_key = {_key(name): name for name in words}
    near = [by_key[key] for key in difflib.get_close_matches(_key(word), by_key, n=3)]
    named = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{named} Codes, columns, probes, methods and the words of the glossary are explained"
