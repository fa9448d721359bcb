from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capmismatch.distillation.methods import Method
from capmismatch.distillation.results import COLUMNS, complete, load_results
from capmismatch.errors import InputError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        file = tmp_path / "mine.csv"
        file.write_text(text)
        return file

    return write


def test_what_is_missing_is_filled_in(write) -> None:
    found = load_results(write("teacher,method,accuracy\nr20,KD,0.7\n"))
    assert list(found.columns) == list(COLUMNS)
    row = found.iloc[0]
    expected = {
        "family": "",
        "teacher": "r20",
        "teacher_seed": 0,
        "student": "student",
        "label": "KD",
        "method": "KD",
        "constraint": "",
        "seed": 0,
        "split": "test",
        "accuracy": 0.7,
    }
    assert {name: row[name] for name in expected} == expected
    for name in ("params", "tau", "tau_other", "tau_student", "weight", "margin", "n"):
        assert math.isnan(row[name]) and found[name].dtype == float


def test_columns_are_renamed_and_extra_ones_kept(write) -> None:
    file = write("model,how,top1,run,lr\nr20,KD,0.71,3,0.1\nr56,KD,0.69,4,0.2\n")
    found = load_results(file, {"model": "teacher", "how": "method", "top1": "accuracy", "run": "seed"})
    assert found["teacher"].tolist() == ["r20", "r56"]
    assert found["seed"].tolist() == [3, 4] and found["accuracy"].tolist() == [0.71, 0.69]
    assert found["lr"].tolist() == [0.1, 0.2] and list(found.columns) == [*COLUMNS, "lr"]


def test_percentages(write) -> None:
    found = load_results(write("teacher,method,accuracy\nr20,KD,71.5\nr20,KD,0\n"), percent=True)
    np.testing.assert_allclose(found["accuracy"], [0.715, 0])


def test_plain_cross_entropy_has_no_teacher(write) -> None:
    file = write(
        "family,teacher,params,method,seed,accuracy\nf,,,CE,0,0.6\nf,r20,270000,CE,1,0.6\nf,r20,270000,KD,0,0.7\n"
    )
    found = load_results(file)
    assert found["family"].tolist() == ["", "", "f"] and found["teacher"].tolist() == ["", "", "r20"]
    assert found["params"].isna().tolist() == [True, True, False]
    assert found["label"].tolist() == ["CE", "CE", "KD"]


@pytest.mark.parametrize("name", ["none", "No teacher"])
def test_no_teacher_has_no_distilled_students(write, name) -> None:
    with pytest.raises(InputError, match=f"method CE.* as teacher, got '{name}'"):
        load_results(write(f"teacher,method,accuracy\nr20,KD,0.7\n{name},KD,0.6\n"))
    assert load_results(write(f"teacher,method,accuracy\nr20,KD,0.7\n{name},CE,0.6\n"))["teacher"].tolist() == [
        "r20",
        "",
    ]


def test_names_stay_text(write) -> None:
    """Teachers called by their depth, and one called NA, are neither numbers nor missing."""
    file = write("depth,method,constraint,accuracy\n20,KD,,0.7\n,CE,,0.6\nNA,ISATS,none,0.5\n")
    found = load_results(file, {"depth": "teacher"})
    assert found["teacher"].tolist() == ["20", "", "NA"]
    assert found["constraint"].tolist() == ["", "", "none"]
    assert found["label"].iloc[2] == "ISATS unconstrained"


def test_labels_tell_settings_apart(write) -> None:
    file = write(
        "teacher,method,tau,tau_other,weight,margin,constraint,accuracy\n"
        "a,KD,2,,,,,0.7\na,KD,4,,0.9,,,0.7\na,ATS,4,2,,,,0.7\na,ISATS,4,,,1,order,0.7\n"
        "a,ReviewKD,,,,,,0.7\na,ReviewKD,2,,,,,0.7\na,KD,4,,,0,,0.7\n"
    )
    assert load_results(file)["label"].tolist() == [
        "KD tau=2",
        "KD tau=4 w=0.9",
        "ATS tau=4 other tau=2",
        "ISATS order m=1 tau=4",
        "ReviewKD",
        "ReviewKD tau=2",
        "KD tau=4 margin=0",
    ]


def test_labels_that_are_given_are_kept(write) -> None:
    file = write("teacher,method,label,accuracy\na,KD,mine,0.7\na,KD,,0.7\n")
    assert load_results(file)["label"].tolist() == ["mine", "KD"]


def test_parquet_comes_back_as_it_was(tmp_path: Path, write) -> None:
    head = "teacher,params,method,tau,seed,split,accuracy,n\n"
    first = load_results(write(head + "a,10,KD,4,1,val,0.7,100\n,,CE,,1,val,0.6,100\n"))
    first.to_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(load_results(tmp_path / "results.parquet"), first)
    pd.testing.assert_frame_equal(complete(first), first)


def test_complete_leaves_its_argument_alone() -> None:
    frame = pd.DataFrame({"teacher": ["a"], "method": ["KD"], "accuracy": [0.5]})
    complete(frame)
    assert list(frame.columns) == ["teacher", "method", "accuracy"]


def test_complete_takes_none_for_what_is_unknown() -> None:
    """So come the rows of a study's own runs: settings that a method does not have are None."""
    fields = ("tau", "tau_other", "tau_student", "weight", "constraint", "margin")
    rows = [
        {"family": family, "teacher": teacher, "params": None, "method": method.name, "accuracy": 0.5}
        | {name: getattr(method, name) for name in fields}
        for family, teacher, method in [
            ("", "", Method("CE")),
            ("f", "t", Method("ISATS", margin=1.0)),
            ("f", "t", Method("DKD")),
        ]
    ]
    found = complete(pd.DataFrame(rows))
    assert found["label"].tolist() == ["CE", "ISATS order m=1 tau=4", "DKD"]
    assert found["constraint"].tolist() == ["", "order", ""]
    assert found["tau"].isna().tolist() == [True, False, True] and found["params"].isna().all()
    assert found["family"].tolist() == ["", "f", "f"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("teacher,accuracy\na,0.5\n", {}, "the results file .*mine.csv lacks the column 'method'; it has"),
        ("teacher,method,accuracy\na,KD,0.5\n", {"columns": {"model": "teacher"}}, "lacks the column 'model'"),
        ("model,teacher,method,accuracy\na,b,KD,1\n", {"columns": {"model": "teacher"}}, "'teacher' twice .* renaming"),
        ("teacher,method,accuracy\n", {}, "expected at least one result"),
        ("", {}, "is not a readable table"),
        (
            "teacher,method,accuracy\na,KD,71\n",
            {},
            r"\[0, 1\] \(else say percent=True, in a study.toml \[results\] percent = true\) as accuracy, got 71",
        ),
        ("teacher,method,accuracy\na,KD,1\na,KD,101\n", {"percent": True}, r"\[0, 100\] as accuracy, got 101 at row 1"),
        ("teacher,method,accuracy\na,KD,good\n", {}, "expected a number as accuracy, got 'good' at row 0"),
        ("teacher,method,accuracy\na,KD,\na,KD,1\n", {}, r"\(leave out .*\) as accuracy, got nothing at row 0 \("),
        ("teacher,method,tau,accuracy\na,KD,four,1\n", {}, "expected a number as tau, got 'four' at row 0"),
        ("teacher,method,seed,accuracy\na,KD,1.5,1\n", {}, "expected a whole number as seed, got 1.5 at row 0"),
        ("teacher,method,seed,accuracy\na,KD,x,1\n", {}, "expected a number as seed, got 'x' at row 0"),
        ("teacher,method,split,accuracy\na,KD,Mine,1\n", {}, r"\(map .*`splits`\) as split, got 'Mine' at row 0"),
        ("teacher,method,accuracy\na,,1\n", {}, "expected the name of a method as method, got nothing at row 0"),
        ("teacher,method,accuracy\na,KD,1\n,KD,1\n", {}, r"but CE have a teacher\) as teacher, got nothing at row 1"),
    ],
)
def test_errors_say_what_and_where(write, text: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_results(write(text), **options)


def test_spaces_around_names_and_the_case_of_methods_do_not_count(write) -> None:
    file = write(
        "teacher , method, split,seed, accuracy\n r20 , kd , Test ,0, 0.7\nr20,KD,test,1,0.7\n , ce,TEST,0,0.6\n"
        "r20,ctkd,test,0,0.7\nr20,ReviewKD,test,0,0.7\n"
    )
    found = load_results(file)
    assert found["teacher"].tolist() == ["r20", "r20", "", "r20", "r20"]
    assert found["method"].tolist() == ["KD", "KD", "CE", "CTKD", "ReviewKD"]
    assert found["label"].tolist() == ["KD", "KD", "CE", "CTKD", "ReviewKD"]
    assert set(found["split"]) == {"test"} and found["seed"].tolist() == [0, 1, 0, 0, 0]


def test_splits_by_other_names(write) -> None:
    names = ["valid", "validation", "Dev", "VAL", "testing", "training", "held out"]
    file = write("teacher,method,split,accuracy\n" + "".join(f"a,KD,{name},0.5\n" for name in names))
    found = load_results(file, splits={"held out": "test"})
    assert found["split"].tolist() == ["val"] * 4 + ["test", "train", "test"]
    with pytest.raises(InputError, match=r"what splits gives for 'held out' must be one of .* not 'tests'"):
        load_results(file, splits={"held out": "tests"})


def test_an_error_names_the_student(write) -> None:
    text = "teacher,student,method,seed,split,accuracy\nr20,cnn,KD,0,val,0.5\nr56,cnn,KD,3,val,\n"
    whose = r"at row 1 \(teacher 'r56', student 'cnn', method 'KD', seed 3, split 'val'\) of the results file"
    with pytest.raises(InputError, match=whose):
        load_results(write(text))


def test_a_file_that_is_missing_or_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no results file"):
        load_results(tmp_path / "none.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="is not a readable table"):
        load_results(tmp_path / "bad.parquet")


@pytest.mark.parametrize("name", ["temperature", "T", "kd_temp", "KD_T", "tau"])
def test_temperatures_are_read_under_their_usual_names(name) -> None:
    rows = pd.DataFrame({"teacher": ["a", "b"], "method": "KD", name: 2, "accuracy": [0.6, 0.7]})
    assert load_results(rows)["label"].tolist() == ["KD tau=2"] * 2
    assert load_results(rows.drop(columns="method"), method="KD")["label"].tolist() == ["KD tau=2"] * 2
    unknown = load_results(rows.drop(columns=[name, "method"]), method="KD")
    assert unknown["label"].tolist() == ["KD"] * 2 and unknown["tau"].isna().all()
    with pytest.raises(InputError, match="one column"):
        load_results(rows.assign(**{"temp": 4, "tau": 2}))


@pytest.mark.parametrize("beside", ["val_acc", "Accuracy"])
def test_a_second_column_of_accuracies_is_refused(beside) -> None:
    rows = pd.DataFrame({"teacher": ["a"], "method": "KD", "accuracy": 0.6, beside: 0.7})
    with pytest.raises(InputError, match=beside):
        load_results(rows)


def test_a_number_of_examples_is_whole() -> None:
    with pytest.raises(InputError, match=r"whole number of examples.* as n, got 100\.5"):
        load_results(pd.DataFrame({"teacher": ["a"], "method": "KD", "accuracy": 0.6, "n": 100.5}))
