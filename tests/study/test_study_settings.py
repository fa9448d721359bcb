"""Absurd settings of a study file are refused when it is read, by name and value; launchers' variables too."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from capmismatch._utils.torchrun import world_size
from capmismatch.errors import CapmismatchError, InputError
from capmismatch.study.checking import check_teachers
from capmismatch.study.config import read_study
from capmismatch.study.study import Study
from capmismatch.training.recipes import Recipe
from tests.studies import letters_study

STUDY = """name = "s"
[data]
source = "letters"
split = { train = 200, val = 100 }
[[family]]
source = "letters:mlp"
"""
DISTILL = """[distill]
students = ["mlp8"]
methods = [{ name = "KD" }]
"""

# (table, key): values that no study can mean
ABSURD = {
    ("", "name"): (
        '""',
        '" "',
    ),
    ("data", "seed"): (
        "-1",
        "1.5",
        "true",
    ),
    ("data", "split"): (
        "{ val = -1 }",
        "{ val = nan }",
        "{ val = inf }",
        "{ val = 1.5 }",
        "{ val = 0 }",
        "{ val = 10000000000000 }",
    ),
    ("data", "train_rows"): (
        "0",
        "-5",
        "10000000000000",
    ),
    ("data", "classes"): (
        "[]",
        '["a"]',
        "[1, 2]",
    ),
    ("data", "source"): ('""',),
    ("collect", "batch_size"): (
        "0",
        "-1",
        "2.5",
        "10000000000000",
    ),
    ("collect", "dtype"): (
        '"float64"',
        '""',
    ),
    ("collect", "autocast"): ('"int8"',),
    ("collect", "k"): ("1", "-3", "2.5"),
    ("collect", "betas"): ('"thirds"', "[]", "[-1.0]", "[inf]"),
    ("collect", "columns"): ("-1", "2.5"),
    ("collect", "seed"): ("-1",),
    ("collect", "dense"): ('"yes"', "1"),
    ("probe", "taus"): (
        "[]",
        "[0]",
        "[-1]",
        "[nan]",
        "[inf]",
        "[1e-200]",
        "[1e200]",
        str([1.0] * 1001),
    ),
    ("probe", "names"): ("[]",),
    ("ranks", "tau"): (
        "0",
        "nan",
        "inf",
        "1e-200",
        "1e300",
        '"4"',
    ),
    ("isats", "tau_target"): (
        "0",
        "nan",
        "1e300",
    ),
    ("isats", "tau_other"): (
        "-1",
        "inf",
    ),
    ("isats", "margin"): (
        "-1",
        "nan",
        "inf",
        "1e300",
    ),
    ("isats", "constraint"): ('"ordered"',),
    ("isats", "center"): ('"median"',),
    ("isats", "wrong"): ('"skip"',),
    ("correlate", "n_boot"): (
        "0",
        "-1",
        "1000001",
        "1e6",
    ),
    ("correlate", "seed"): (
        "-1",
        "0.5",
    ),
    ("pick", "student"): ('""',),
    ("pick", "metric"): ('"acc"',),
    ("distill", "seeds"): (
        "0",
        "-1",
        "10001",
        "1.0",
    ),
    ("distill", "threads"): (
        "0",
        "100000",
    ),
    ("distill", "students"): (
        "[]",
        '["mlp8", "mlp8"]',
        '"mlp8"',
    ),
    ("distill", "methods"): (
        "[]",
        "[{}]",
        '[{ name = "KD", tau = 0 }]',
        '[{ name = "KD", tau = 1e300 }]',
        '[{ name = "KD", weight = nan }]',
        *(
            f'[{{ name = "{method}", options = {{ {option} }} }}]'
            for method, option in (
                ("DKD", 'beta = "8"'),
                ("DKD", "beta = -8"),
                ("DKD", "beta = nan"),
                ("DKD", "alpha = 1e308"),
                ("DKD", "kd_weight = 1"),
                ("TopK", "k = 0"),
                ("TopK", 'tail = "cut"'),
                ("DIST", "gamma = inf"),
                ("CTKD", "span = 0"),
                ("CorrKD", "softness = -1"),
                ("NormKD", "n = 0"),
                ("JS", "beta = 2"),
                ("SKD", "lam = 1"),
                ("RKD", "tau = 0"),
                ("KD", "rank_weight = 1e308"),
            )
        ),
    ),
    ("distill", "scale"): (
        "[]",
        "[0]",
        "[-1]",
        "[nan]",
        "[inf]",
    ),
    ("distill", "center"): (
        "[]",
        "[nan]",
        "[inf]",
    ),
    ("distill", "views"): (
        '{ kind = "noise", sigma = nan }',
        '{ kind = "noise", sigma = inf, count = 2 }',
        '{ kind = "noise", sigma = 1, count = 1180591620717411303424 }',
        "{ seed = -1 }",
    ),
}


@pytest.mark.parametrize(("table", "key"), ABSURD)
def test_absurd_values_are_refused_by_name(tmp_path: Path, table: str, key: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY + DISTILL)
    read_study(file)  # as it stands it is fine
    for value in ABSURD[table, key]:
        given: dict[str, Any] = tomllib.loads(STUDY + DISTILL)
        (given.setdefault(table, {}) if table else given)[key] = tomllib.loads(f"value = {value}")["value"]
        file.write_text(_toml(given))
        with pytest.raises(InputError) as caught:
            read_study(file)
        assert key.rstrip("s") in str(caught.value) and "\n" not in str(caught.value)


def _toml(value: Any, top: bool = True) -> str:
    if isinstance(value, dict):
        pairs = [f"{key} = {_toml(item, top=False)}" for key, item in value.items()]
        return "\n".join(pairs) if top else "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item, top=False) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("table", "text", "told"),
    [
        ("pick", 'metric = "nll"', "metric in .pick. of study.toml must be one of .'accuracy'., not 'nll'"),
        (
            "pick",
            'label = "KD tau=9 student tau=1"',
            "label in .pick. of study.toml .* not 'KD tau=9 student tau=1'; did you mean 'KD tau=4 student tau=1'",
        ),
        ("pick", 'student = "mlp9"', "student in .pick. of study.toml .* did you mean 'mlp8'"),
        ("correlate", 'primary = "xx"', "correlate. of study.toml: primary must be one of"),
        ("probe", 'names = ["nll"]\n[correlate]\nprimary = "ece"', "primary must be one of .'nll'., not 'ece'"),
    ],
)
def test_what_a_later_stage_would_not_find_is_told_before(tmp_path: Path, table: str, text: str, told: str) -> None:
    (tmp_path / "study.toml").write_text(STUDY + DISTILL + f"[{table}]\n{text}\n")
    with pytest.raises(InputError, match=told):
        Study(tmp_path / "study.toml", progress=False).check()


def test_a_family_that_the_study_lacks_is_told_before_students(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY + '[pick]\nfamily = "nope"\n')
    study = Study(tmp_path / "study.toml", progress=False)
    with pytest.raises(InputError, match=r"family in .pick. of study.toml must be one of .'mlp'., not 'nope'"):
        check_teachers(study, [("mlp", "mlp4"), ("mlp", "mlp4")])


@pytest.mark.parametrize(("other", "told"), [("nope", "no teacher 'nope'"), ("mlp4", "several teachers 'mlp4'")])
def test_a_second_teacher_that_the_study_lacks_is_told_before_anything_is_collected(
    tmp_path: Path, other: str, told: str
) -> None:
    family = 'source = "letters:mlp"\nwidths = [4]\nseeds = 1\nepochs = 0\n[[family]]\nname = "late"\n'
    methods = ("CE", f'MatchKD\nother = "{other}"')
    text = letters_study(family=family + family.partition("\n[[")[0], methods=methods)
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=told + ".*late/mlp4"):
        Study(tmp_path / "study.toml", progress=False).collect()
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("student", ["mlp99999999", "mlp50000x50000", "cifar_resnet99998", "mlp" + 30 * "9"])
def test_students_of_absurd_size(tmp_path: Path, student: str) -> None:
    (tmp_path / "study.toml").write_text(STUDY + DISTILL.replace("mlp8", student))
    with pytest.raises(InputError, match=f"'{student}'.*(parameters|at most)"):
        Study(tmp_path / "study.toml", progress=False).check()


def test_a_study_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8-sig")
    assert read_study(tmp_path / "study.toml").name == "s"


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"epochs": True},
        {"epochs": 10**9},
        {"batch_size": 0},
        {"lr": float("nan")},
        {"lr": 0.0},
        {"lr": 1e9},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
        {"momentum": 1.5},
        {"shift": -1},
        {"patience": 3},
        {"milestones": (0,)},
        {"milestones": (1.5,)},
        {"schedule": "linear"},
        {"optimizer": "lion"},
        {"autocast": "int8"},
    ],
)
def test_absurd_recipes(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "http"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", "LOCAL_RANK": "gpu"}, "LOCAL_RANK"),
    ],
)
def test_garbage_of_a_launcher(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert world_size() == 1
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CapmismatchError, match=named):
        world_size()
