"""Lists of what there is to choose from: methods and probes, each with its meaning in a line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from capmismatch import probes
from capmismatch.distillation.methods import METHODS, REMEDIES
from capmismatch.errors import InputError


def list_methods(pattern: str = "*") -> pd.DataFrame:
    """The distillation methods, for `Method` and ``[[distill.methods]]`` of a study.

    Parameters
    ----------
    pattern : str, default "*"
        With wildcards, such as ``"*KD"``; capitals do not count.

    Returns
    -------
    DataFrame
        One row per method, with the columns

        * ``name``: for `Method`
        * ``learns_from``: "labels", the teacher's "soft labels", or its "logits"
        * ``about``: how it differs from the others, in a line
        * ``fields``: settings of `Method` that it takes, with their defaults (None: that of the loss)
        * ``options``: what ``options={...}`` takes beside the remedies, which all methods with a teacher share

    Raises
    ------
    InputError
        If no name fits the pattern.

    See Also
    --------
    capmismatch.explain : One of them.

    Examples
    --------
    >>> list_methods("*ats")[["name", "learns_from"]]
        name  learns_from
    0    ATS  soft labels
    1  ISATS  soft labels
    """
    from capmismatch.losses.criterion import options_of

    rows = []
    for name, spec in METHODS.items():
        fields = ", ".join(f"{field}={value!r}" for field, value in spec.fields.items())
        options = options_of(spec.loss) if spec.kind == "logits" else []
        own = ", ".join(option for option in options if option not in ("tau", *REMEDIES))
        rows.append((name, spec.kind, spec.about, fields, own))
    columns = ["name", "learns_from", "about", "fields", "options"]
    return _fitting(pd.DataFrame(rows, columns=columns), pattern, "method")


def list_probes(pattern: str = "*") -> pd.DataFrame:
    """The probes: what can be measured on a teacher before a student is trained.

    Parameters
    ----------
    pattern : str, default "*"
        With wildcards, such as ``"derived*"``; capitals do not count.

    Returns
    -------
    DataFrame
        One row per probe, with the columns

        * ``name``: in tables, and of the function in `capmismatch.probes`
        * ``needs``: "logits", "features" of the teacher, or a "pair" of teacher and student
        * ``about``: what it is, in a line
        * ``formula``, ``source``: as in the documentation
        * ``expected_sign``: 1 if a higher value is expected to help students, -1 if a lower one is, 0 if it is open
        * ``tempered``: whether it depends on the temperature
        * ``by_default``: whether `probe` measures it without being asked

    Raises
    ------
    InputError
        If no name fits the pattern.

    See Also
    --------
    capmismatch.probe : Measures them.
    capmismatch.explain : One of them.

    Examples
    --------
    >>> list_probes("derived_*")[["name", "expected_sign"]]
                   name  expected_sign
    0   derived_average              0
    1  derived_variance              1
    2       derived_std              1
    """
    kinds: dict[str, Mapping[str, Any]] = {"logits": probes.REGISTRY, "features": probes.FEATURES, "pair": probes.PAIRS}
    rows = []
    for needs, entries in kinds.items():
        for name, probe in entries.items():
            line = _first_line(getattr(probes, name, None))
            asked = getattr(probe, "on_request", False) or getattr(probe, "vocabulary", False)
            rows.append(
                (name, needs, line, probe.formula, probe.source, probe.expected_sign, probe.tempered, not asked)
            )
    columns = ["name", "needs", "about", "formula", "source", "expected_sign", "tempered", "by_default"]
    return _fitting(pd.DataFrame(rows, columns=columns), pattern, "probe")


def _first_line(function: object) -> str:
    """The first line of a docstring without its formulas, which stand in a column of their own.

    Examples
    --------
    >>> _first_line(probes.derived_std)
    'Derived standard deviation for each example; tables average it after the root.'
    """
    line = (inspect.getdoc(function) or "").split("\n", 1)[0]
    return re.sub(r"[,:]? :math:`[^`]*`", "", line).replace("`", "")


def _fitting(table: pd.DataFrame, pattern: str, what: str) -> pd.DataFrame:
    """The rows whose name fits the pattern."""
    fits = [fnmatchcase(name.casefold(), pattern.casefold()) for name in table["name"]]
    if not any(fits):
        raise InputError(f"no {what} fits {pattern!r}; there are {list(table['name'])}")
    return table[fits].reset_index(drop=True)
