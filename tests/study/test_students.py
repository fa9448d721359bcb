"""A study whose bank holds its students and features: from study.toml to links and rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import capmismatch as cm
from capmismatch.data.bank import LogitBank
from capmismatch.errors import InputError
from capmismatch.probes import FEATURES, PAIRS
from capmismatch.study.inspection import inspect_study
from capmismatch.study.study import Study, load_study
from tests.studies import letters_study, write_study

ASKED = '\n[collect]\nfeatures = true\nstudents = "plain"\n'


def small(folder: Path, extra: str = "", **options: object) -> Study:
    text = letters_study(widths=(4, 8, 16), teacher_seeds=1, **options) + extra
    return load_study(write_study(folder, text))


def test_a_study_with_its_students_in_the_bank_runs_to_links_and_rules(tmp_path: Path) -> None:
    study = small(tmp_path, ASKED)
    study.progress = False
    study.collect()
    study.probe()
    study.distill()
    study.correlate()
    choice = study.pick()
    bank = LogitBank(tmp_path / "bank")
    assert [record.key for record in bank.students] == ["students/mlp5"] and bank.has_features("students/mlp5")
    assert choice.table["teacher"].tolist() and "mlp5" not in set(choice.table["teacher"])
    table = study.load("probes")
    assert set(PAIRS) | set(FEATURES) < set(table["probe"])
    assert set(table.loc[table["probe"].isin(PAIRS), "student"]) == {"mlp5"}
    # The student in the bank is the one that the method CE has trained from the same start.
    plain = study.load("results").query("method == 'CE' and seed == 0").set_index("split")["accuracy"]
    for split in ("val", "test"):
        right = bank.logits("students/mlp5", split).argmax(1) == bank.labels(split)
        assert right.mean() == pytest.approx(plain[split])
    links = study.load("links")
    assert {"kl", "grace", "cka", "logme"} <= set(links["probe"])
    assert {"lowest grace", "size ratio 2.5", "highest logme"} <= set(choice.rules["rule"])
    rules = cm.meta([study], evidence=False).rules
    assert {"lowest kl", "size ratio 2.5"} <= set(rules["rule"])
    again = pd.read_parquet(tmp_path / "tables" / "probes.parquet")
    study.probe()
    pd.testing.assert_frame_equal(again, study.load("probes"))


def test_features_and_students_are_asked_for_without_touching_what_is_there(tmp_path: Path) -> None:
    study = small(tmp_path)
    study.progress = False
    study.collect()
    before = {file: file.read_bytes() for file in tmp_path.glob("bank/mlp/*/logits.safetensors")}
    manifest = (tmp_path / "bank" / "collected.json").read_text()
    table = study.probe()
    assert "student" not in table and not set(FEATURES) & set(table["probe"])
    more = small(tmp_path, '\n[collect]\nstudents = "untrained"\n')
    more.progress = False
    with pytest.raises(InputError, match="run `capmismatch collect"):
        more.load("probes")
    more.collect()
    assert {file: file.read_bytes() for file in before} == before
    untrained = LogitBank(tmp_path / "bank")
    start = untrained.logits("students/mlp5")
    assert np.abs(start).max() < 5 and untrained.students[0].source == "untrained student"
    assert set(more.probe()["probe"]) >= {"kl", "rsr"}
    back = small(tmp_path)
    back.progress = False
    back.collect()
    assert back.bank.students == [] and (tmp_path / "bank" / "collected.json").read_text() == manifest


def test_students_of_other_trainers_are_a_family_with_a_role(tmp_path: Path) -> None:
    text = letters_study(widths=(4, 8, 16), teacher_seeds=1) + ASKED.replace('students = "plain"\n', "")
    text += '\n[[family]]\nsource = "letters:mlp"\nname = "mine"\nwidths = [6]\nseeds = 1\nrole = "student"\n'
    study = load_study(write_study(tmp_path, text))
    study.progress = False
    bank = study.collect()
    assert [record.key for record in bank.students] == ["mine/mlp6-s0"]
    assert set(study.probe()["student"].dropna()) == {"mlp6"}
    assert [record.teacher for record in study.training_banks()[0].teachers] == ["mlp4", "mlp8", "mlp16"]
    assert not study.training_banks()[0].students and not study.training_banks()[0].has_features("mlp4")
    look = inspect_study(study)
    assert look.teachers["teacher"].tolist() == ["mlp4", "mlp8", "mlp16", "mlp6 (student)"]
    assert not any("mine/mlp6" in note for note in look.notes) and not look.problems


def test_wrong_requests_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="students must be one of"):
        small(tmp_path / "a", '\n[collect]\nstudents = "taught"\n')
    alone = load_study(
        write_study(
            tmp_path / "b",
            'name = "x"\n[data]\nsource = "letters"\nsplit = { val = 50 }\n[collect]\nstudents = "plain"\n'
            '[[family]]\nsource = "letters:mlp"\nwidths = [4]\n',
        )
    )
    with pytest.raises(InputError, match=r"\[distill\]"):
        alone.check()
    only = load_study(
        write_study(
            tmp_path / "c",
            'name = "x"\n[data]\nsource = "letters"\nsplit = { train = 99, val = 50 }\n'
            '[[family]]\nsource = "letters:mlp"\nwidths = [4]\nrole = "student"\n',
        )
    )
    with pytest.raises(InputError, match="students alone"):
        len(only.family)
    with pytest.raises(InputError, match="role must be one of"):
        cm.load_family("letters:mlp", widths=[4], seeds=1, folder=tmp_path, role="pupil")
