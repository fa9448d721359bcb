"""Results tables as spreadsheets and trackers write them."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from capmismatch.distillation.results import load_results
from capmismatch.errors import InputError

HEAD = "teacher,method,tau,seed,split,accuracy,n\n"


def load(folder, text, name="r.csv", **options):
    file = folder / name
    file.write_text(text, encoding=options.pop("encoding", "utf-8"))
    return load_results(file, **options)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (HEAD + "a,KD,4,0,val,71.3%,500\n", {"percent": True}),
        (HEAD + "a,KD,4,0,val,71.3 %,500\n", {}),
        (HEAD + 'a,KD,"4,0",0,val,"71,3%",500\n', {}),
        (HEAD + "a,KD,4,0,val,0.713,500\n,,,,,,\n", {}),
        (HEAD.replace(",", ";") + "a;KD;4,0;0;val;0,713;500\n", {}),
        (HEAD.replace(",", ";") + "a;KD;4,0;0;val;71,3;500\n", {"percent": True}),
        (HEAD.replace(",", "\t") + "a\tKD\t4\t0\tval\t0.713\t500\n", {}),
        (HEAD + "a,KD,4,0,val,0.713,500\n", {"encoding": "utf-8-sig"}),
        ((HEAD + "a,KD,4,0,val,0.713,500\n").replace(",", "\t"), {"encoding": "utf-16"}),
        ("sep=;\n" + HEAD.replace(",", ";") + "a;KD;4,0;0;val;0,713;500\n", {}),
        ((HEAD + "a,KD,4,0,val,0.713,500\n").replace("\n", "\r\n"), {}),
    ],
)
def test_one_accuracy_however_it_is_written(tmp_path, text, options):
    (row,) = load(tmp_path, text, **options).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.713) and row["n"] == 500 and row["tau"] == 4 and row["seed"] == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ((HEAD + "é,KD,4,0,val,0.7,500\n").encode("latin-1"), "no text in UTF-8 .byte 0xe9.: save it as CSV UTF-8"),
        (gzip.compress((HEAD + "a,KD,4,0,val,0.7,500\n").encode(), mtime=0), "is compressed"),
    ],
)
def test_files_in_another_encoding_are_pointed_at(tmp_path, content, told):
    file = tmp_path / "r.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=told):
        load_results(file)


def test_a_column_that_stands_twice(tmp_path):
    with pytest.raises(InputError, match="each column once, got 'accuracy' twice"):
        load(tmp_path, "teacher,method,accuracy,accuracy\na,KD,0.5,0.9\n")


def test_parquet_by_its_content(tmp_path):
    table = pd.DataFrame({"teacher": ["a"], "method": ["KD"], "accuracy": [0.7]})
    for name in ("r.pq", "r.csv"):
        table.to_parquet(tmp_path / name)
        assert load_results(tmp_path / name)["accuracy"].tolist() == [0.7]


def test_a_column_for_each_split(tmp_path):
    text = "teacher,method,seed,valid_acc,test_acc,n_val,test_n\na,KD,0,0.61,0.62,100,200\nb,KD,1,0.63,,100,200\n"
    table = load(tmp_path, text)
    assert table[["teacher", "split", "accuracy", "n"]].to_numpy().tolist() == [
        ["a", "val", 0.61, 100.0],
        ["a", "test", 0.62, 200.0],
        ["b", "val", 0.63, 100.0],
    ]
    assert list(table.index) == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ("a,KD,4,0,val,0.71,10\nb,KD,4,0,val,0.65,10\n", {"percent": True}, "leave percent=True out"),
        ("a,KD,4,0,val,71,10\nb,KD,4,0,val,0.65,10\n", {"percent": True}, r"0\.65 at row 1 \(teacher 'b'"),
        ("a,KD,4,0,val,0.71,10\nb,KD,4,0,val,65,10\n", {}, "65.0 at row 1"),
        ("a,KD,4,0,val,101%,10\n", {}, r"percentage in \[0, 100\]"),
        ("a,KD,4,0,val,0.7,0\n", {}, "examples, 1 or more, as n, got 0 at row 0"),
        ("a,KD,4,0,val,0.7,-1\n", {}, "as n, got -1"),
        ('a,KD,4,0,val,0.7,"10,000"\n', {}, "a number as n, got '10,000'"),
        ("a,KD,4,inf,val,0.7,10\n", {}, "finite number as seed, got inf"),
        ("a,KD,4,1e20,val,0.7,10\n", {}, "whole number as seed"),
        ("a,KD,inf,0,val,0.7,10\n", {}, "finite number as tau"),
        ("a,KD,4,0,val,0.7,10\n,,,,,,\nb,KD,4,0,val,x,10\n", {}, "'x' at row 2"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, rows, options, told):
    with pytest.raises(InputError, match=told):
        load(tmp_path, HEAD + rows, **options)


def test_thousands_of_examples_are_no_fractions(tmp_path):
    with pytest.raises(InputError, match=r"'10\.000'"):
        load(tmp_path, HEAD.replace(",", ";") + "a;KD;4;0;val;0,7;10.000\n")


def test_a_failed_run_is_taken_with_a_warning(tmp_path):
    rows = "".join(
        f"{name},KD,4,0,val,{accuracy},10\n" for name, accuracy in zip("abcd", (70, 71, 72, 0.1), strict=True)
    )
    with pytest.warns(UserWarning, match="1 of 4 accuracies .* of d;"):
        assert load(tmp_path, HEAD + rows, percent=True)["accuracy"].iloc[3] == pytest.approx(0.001)


def test_two_columns_for_one_split_are_refused(tmp_path):
    with pytest.raises(InputError, match="'val_acc' and 'valid_acc'"):
        load(tmp_path, "teacher,method,val_acc,valid_acc\na,KD,0.6,0.7\n")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            "a,KD,0.70,0.71\nb,KD,0.72,0.73\n",
            "has 4 fields in its rows, its header names 3: .* got 'a' there in line 2",
        ),
        ("a,KD,0,71\nb,KD,0,73\n", "got 'a' there in line 2"),
        ("x,y,a,KD,0.71\n", "has 5 fields"),
        ("1,a,KD,0.71\n3,b,KD,0.73\n", "got 3 there in line 3"),
    ],
)
def test_rows_with_more_fields_than_the_header_are_refused(tmp_path, rows, told):
    with pytest.raises(InputError, match=told):
        load(tmp_path, "teacher,method,accuracy\n" + rows)


def test_a_counter_of_rows_is_no_column(tmp_path):
    table = load(tmp_path, 'teacher;method;accuracy\n"1";20;KD;0,71\n"2";32;KD;0,73\n')
    assert table["teacher"].tolist() == ["20", "32"] and table["accuracy"].tolist() == [0.71, 0.73]


@pytest.mark.parametrize(("column", "value"), [("tau", -4), ("tau_other", 0), ("weight", -0.1), ("margin", -1)])
def test_a_setting_that_no_trainer_has(tmp_path, column, value):
    with pytest.raises(InputError, match=f"as {column}, got {float(value):g}.* at row 0"):
        load(tmp_path, f"teacher,method,accuracy,{column}\na,KD,0.7,{value}\n")


def test_a_column_in_capitals_is_pointed_at(tmp_path):
    with pytest.raises(InputError, match="did you mean 'Teacher'"):
        load(tmp_path, "Teacher,method,accuracy\na,KD,0.7\n")


def test_percent_is_true_false_or_none_and_cells_hold_one_value(tmp_path):
    table = pd.DataFrame({"teacher": ["a"], "method": ["KD"], "accuracy": [0.7]})
    for percent in ("yes", 1, "false"):
        with pytest.raises(InputError, match="percent=True, False or None, got"):
            load_results(table, percent=percent)
    table.assign(accuracy=[[0.7, 0.8]]).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"a number as accuracy.*0\.7.*row 0"):
        load_results(tmp_path / "r.parquet")
