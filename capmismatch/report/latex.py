"""Tables of a study as LaTeX for a paper, with the rules of booktabs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from capmismatch.errors import InputError, must_be_one_of
from capmismatch.report import page_tables
from capmismatch.report.page_tables import Cell, Table
from capmismatch.selection.choice import Choice
from capmismatch.selection.rules import RULES

OF_CHOICE = ("teachers", "students", "settings", "rules")
OF_STAGES = ("links", "ranks", "restored", "results")
SPECIAL = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "τ": r"$\tau$",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
}
"""Characters that LaTeX takes for something else, and what to write."""

BETTER = {
    **dict.fromkeys(("accuracy", "p_best", "gain", "within"), 1),
    **dict.fromkeys(("regret", "nll", "behind", "kl", "ece", "brier"), -1),
}
"""Column -> 1 where larger is better, -1 where smaller is. A score has the direction of its choice."""


def to_latex(
    source: Any,
    table: str = "teachers",
    *,
    columns: str | Sequence[str] | None = None,
    bold: bool = True,
    caption: str = "",
    label: str = "",
) -> str:
    r"""A table as LaTeX with the rules of booktabs: numbers as on the report page, units in the head, the best bold.

    Parameters
    ----------
    source : Choice, Diagnosis, Study or DataFrame
        What it is a table of; a DataFrame is itself the table.
    table : {"teachers", "students", "settings", "rules", "links", "ranks", "restored", "results"}
        Which one; of a Choice the first four.
    columns : str or sequence of str, optional
        Names of columns, in their order, or a single one; by default all. Intervals come with the numbers that they
        belong to.
    bold : bool
        Whether the best accuracy, P(best), regret and the like of the table are bold: the highest or the lowest. A
        score has the direction of the choice's rule or metric; that of a DataFrame, which has none, is not bold.
    caption, label : str, optional
        With either, the table stands in an environment ``table``.

    Returns
    -------
    str
        LaTeX, which ends with a line break.

    Raises
    ------
    InputError
        If the source is none of these, is empty or lacks the table, or a column is not in it.

    See Also
    --------
    capmismatch.plots.save : Figures as PDF or SVG.

    Examples
    --------
    >>> frame = pd.DataFrame({"teacher": ["mlp_12", "mlp_96"], "accuracy": [0.7123, 0.7345]})
    >>> print(to_latex(frame))
    \begin{tabular}{lr}
    \toprule
    teacher & accuracy (\%) \\
    \midrule
    mlp\_12 & 71.23 \\
    mlp\_96 & \textbf{73.45} \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    whole, choice = _table_of(source, table)
    shown = _chosen(whole, [columns] if isinstance(columns, str) else columns)
    best = _best(shown, BETTER if choice is None else BETTER | {"score": _direction(choice)}) if bold else set()
    numbers = [all(row[place].is_number for row in shown.rows) for place in range(len(shown.columns))]
    lines = [
        r"\begin{tabular}{" + "".join("r" if number else "l" for number in numbers) + "}",
        r"\toprule",
        " & ".join(escaped(column.header) for column in shown.columns) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(shown.rows):
        cells = [
            rf"\textbf{{{escaped(cell.text)}}}" if (number, place) in best else escaped(cell.text)
            for place, cell in enumerate(row)
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption or label:
        about = [rf"\caption{{{escaped(caption)}}}"] if caption else []
        about += [rf"\label{{{label}}}"] if label else []
        lines = [r"\begin{table}", r"\centering", *about, *lines, r"\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""A text of a user as LaTeX prints it.

    Examples
    --------
    >>> escaped("a_b & 5 %")
    'a\\_b \\& 5 \\%'
    """
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda found: SPECIAL[found[0]], text)


def _table_of(source: Any, name: str) -> tuple[Table, Choice | None]:
    """The table, and the choice that it is of."""
    if isinstance(source, pd.DataFrame):
        if source.empty:
            raise InputError(f"expected a table with rows and columns, got a DataFrame of shape {source.shape}")
        return page_tables.of_frame(source), None
    if isinstance(source, Choice):
        must_be_one_of(name, OF_CHOICE, "table")
        return _of_choice(source, name, None), source
    if not hasattr(source, "plot_table"):
        raise InputError(f"expected a Choice, a Diagnosis, a Study or a DataFrame, got {type(source).__name__}")
    must_be_one_of(name, [*OF_CHOICE, *OF_STAGES], "table")
    if name in OF_CHOICE:
        choice = source.choice() if callable(source.choice) else source.choice
        if choice is None:
            raise InputError(f"there is no choice, and so no table {name!r}: {source.no_choice}")
        return _of_choice(choice, name, source.plot_table("probes")), choice
    frame = source.plot_table(name)
    if frame is None:
        raise InputError(f"this {type(source).__name__} has no table {name!r}")
    if frame.empty:
        raise InputError(f"the table {name!r} of this {type(source).__name__} has no rows")
    return getattr(page_tables, name)(frame), None


def _of_choice(choice: Choice, name: str, probes: pd.DataFrame | None) -> Table:
    made = {
        "teachers": lambda: [page_tables.teachers(choice, probes)],
        "rules": lambda: [page_tables.rules(choice)],
        "students": lambda: page_tables.students(choice),
        "settings": lambda: page_tables.students(choice),
    }[name]()
    found = next((one for one in made if one.name == name), None)
    if found is None:
        why = "it needs student results" if choice.students.empty else f"it compares no settings, only {choice.label!r}"
        raise InputError(f"this choice has no table {name!r}: {why}")
    return found


def _direction(choice: Choice) -> int:
    """1 where a larger score is better, else -1: of students by the metric, of a probe alone by the rule."""
    if choice.metric.less_is_better:
        return -1
    by_probe = not {"accuracy", "measured"} & set(choice.table)
    return RULES[choice.rule].sign if by_probe and choice.rule in RULES else 1


def _chosen(table: Table, columns: Sequence[str] | None) -> Table:
    """The table with some of its columns, each followed by its interval."""
    if columns is None:
        return table
    names = [column.name for column in table.columns]
    if not columns:
        raise InputError(f"expected at least one column, got none; the table has {names}")
    for name in columns:
        must_be_one_of(name, names, "column")
    places = []
    for name in columns:
        place = names.index(name)
        places.append(place)
        following = place + 1
        if following < len(names) and names[following] in page_tables.INTERVALS and names[following] not in columns:
            places.append(following)
    rows = [[row[place] for place in places] for row in table.rows]
    if "teacher" in columns and "family" in names and "family" not in columns:
        rows = _with_families(
            table, rows, names.index("family"), names.index("teacher"), places.index(names.index("teacher"))
        )
    return Table(table.name, table.title, table.caption, [table.columns[place] for place in places], rows)


def _with_families(table: Table, rows: list[list[Cell]], family: int, teacher: int, place: int) -> list[list[Cell]]:
    """The rows with family/name as a teacher's name where several families have it."""
    both = {(row[family].text, row[teacher].text) for row in table.rows}
    counts = Counter(name for _, name in both)
    for chosen, row in zip(rows, table.rows, strict=True):
        if counts[row[teacher].text] > 1:
            name = f"{row[family].text}/{row[teacher].text}"
            chosen[place] = Cell(name, name, False)
    return rows


def _best(table: Table, better: Mapping[str, int]) -> set[tuple[int, int]]:
    """Row and column of each best number, where there is one to compare it with."""
    best = set()
    for place, column in enumerate(table.columns):
        sign = better.get(column.name, 0)
        values = [_value(row[place]) for row in table.rows]
        known = [sign * value for value in values if value is not None]
        if sign and len(known) > 1:
            best |= {
                (row, place) for row, value in enumerate(values) if value is not None and sign * value == max(known)
            }
    return best


def _value(cell: Cell) -> float | None:
    return float(cell.key) if cell.is_number and cell.key else None
