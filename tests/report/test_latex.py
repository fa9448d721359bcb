"""Tables as LaTeX: what is escaped, what is bold, and which tables there are."""

from __future__ import annotations

import pandas as pd
import pytest
import tables

import capmismatch as cm
from capmismatch.errors import InputError
from capmismatch.report.latex import escaped

FRAME = pd.DataFrame(
    {
        "teacher": ["a_1", "b&c", "$d$"],
        "params": [1200.0, 56000.0, 700000.0],
        "accuracy": [0.7123, 0.7345, float("nan")],
        "regret": [1.5, 0.25, 0.25],
    }
)


def rows_of(text):
    return [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]


def test_numbers_units_and_the_best():
    text = cm.to_latex(FRAME, caption="50 % of them", label="tab:mine")
    assert rows_of(text) == [
        ["teacher", "params", r"accuracy (\%)", "regret (points)"],
        [r"a\_1", "1,200", "71.23", "1.50"],
        [r"b\&c", "56,000", r"\textbf{73.45}", r"\textbf{0.25}"],
        [r"\$d\$", "700,000", "--", r"\textbf{0.25}"],
    ]
    assert r"\begin{tabular}{lrrr}" in text and r"\caption{50 \% of them}" in text and r"\label{tab:mine}" in text
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    assert r"\textbf" not in cm.to_latex(FRAME, bold=False)
    assert rows_of(cm.to_latex(FRAME, columns=["accuracy", "teacher"]))[1] == ["71.23", r"a\_1"]
    with pytest.raises(InputError, match="'accuracy'"):
        cm.to_latex(FRAME, columns=["top1"])
    assert escaped("KD τ=4 <1 ~^\\") == (
        r"KD $\tau$=4 \textless{}1 \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_teachers_of_one_name_keep_their_families():
    frame = FRAME.assign(teacher=["net", "net", "other"], family=["A", "B", "B"])
    assert [row[0] for row in rows_of(cm.to_latex(frame, columns=["teacher", "regret"]))[1:]] == [
        "A/net",
        "B/net",
        "other",
    ]


def test_tables_of_a_choice_and_of_a_source():
    probes = tables.probes_table(splits=("val", "test"))
    results = tables.results_table()
    choice = cm.pick(probes, results, n_boot=50)
    best = rows_of(cm.to_latex(choice, columns=["teacher", "score"]))[1]
    assert best[0] == choice.teacher and best[2].startswith("[")
    assert len(rows_of(cm.to_latex(choice, "rules"))) == 1 + len(choice.rules)
    with pytest.raises(InputError, match="'links'"):
        cm.to_latex(choice, "links")

    class Source:
        def __init__(self):
            self.choice = choice

        def plot_table(self, name):
            return {"probes": probes, "results": results}.get(name)

    assert "own accuracy" in cm.to_latex(Source())
    assert len(rows_of(cm.to_latex(Source(), "results"))) > len(tables.MLPS)
    for source, table in ((Source(), "ranks"), (3, "teachers")):
        with pytest.raises(InputError):
            cm.to_latex(source, table)


@pytest.mark.parametrize(
    ("rule", "values", "lowest"),
    [("lowest nll", "score", True), ("smallest", "score", True), ("largest", "score", False), (None, "regret", True)],
)
def test_the_best_of_a_choice_follows_its_rule(rule, values, lowest):
    probes = tables.probes_table(splits=("val", "test"))
    if rule is None:
        choice = cm.pick(probes, tables.results_table(), n_boot=50)
    else:
        choice = cm.pick(probes, rule=rule, evidence="none")
    text = cm.to_latex(choice, columns=["teacher", values])
    bold = [row[0] for row in rows_of(text)[1:] if r"\textbf" in row[1]]
    table = choice.table
    best = table[values].min() if lowest else table[values].max()
    assert bold == [name.replace("_", r"\_") for name in table["teacher"][table[values].eq(best)]]
    assert rule is None or bold == [choice.teacher.replace("_", r"\_")]


def test_students_compared_by_likelihood_have_the_lowest_bold():
    results = tables.results_table().assign(nll=lambda table: 3 - table["accuracy"])
    choice = cm.pick(tables.probes_table(splits=("val", "test")), results, metric="nll", n_boot=50)
    for table in ("teachers", "settings"):
        rows = rows_of(cm.to_latex(choice, table, columns=["score"]))[1:]
        numbers = [float(row[0].removeprefix(r"\textbf{").rstrip("}")) for row in rows]
        assert next(number for number, row in zip(numbers, rows, strict=True) if "textbf" in row[0]) == min(numbers)


def test_a_single_column_and_what_has_none():
    assert rows_of(cm.to_latex(FRAME, columns="teacher"))[0] == ["teacher"]
    for frame, columns in ((FRAME, []), (FRAME[:0], None), (pd.DataFrame(), None)):
        with pytest.raises(InputError):
            cm.to_latex(frame, columns=columns)
    results = tables.results_table()
    results = results[results["label"].isin(["KD tau=4", "CE"])]
    one = cm.pick(tables.probes_table(splits=("val", "test")), results, n_boot=50)
    with pytest.raises(InputError, match="only 'KD tau=4'"):
        cm.to_latex(one, "settings")
