"""Pilots: what they cost, that they go on after a kill, choose on validation rows, and find good teachers."""

from __future__ import annotations

import json
import os
import pickle
import re
import runpy
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from capmismatch import grid
from capmismatch._halving import Rung, cost, halve, ladder, least_budget
from capmismatch._pilot_plan import make_plan
from capmismatch._short_study import ShortStudy, shortened
from capmismatch.cli import app
from capmismatch.errors import InputError
from capmismatch.methods import Method
from capmismatch.piloting import RUNG_COLUMNS, pilot
from capmismatch.recipes import Recipe
from capmismatch.sources import letters
from capmismatch.study import Study

STUDY = """
name = "tiny"
[data]
source = "letters"
split = { train = 260, val = 400, test = 200 }
[[family]]
source = "letters:mlp"
widths = [4, 8, 12, 16]
seeds = 1
[probe]
taus = [4]
[distill]
students = ["mlp5", "mlp6"]
seeds = 4
center = [7]
scale = [3]
recipe = { epochs = 4, batch_size = 50 }
[[distill.methods]]
name = "CE"
[[distill.methods]]
name = "KD"
[[distill.methods]]
name = "ATS"
"""


@pytest.fixture(autouse=True)
def quick_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was probed: the others start from its files."""
    folder = tmp_path_factory.mktemp("pilot")
    (folder / "study.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))
        study = Study(folder / "study.toml", progress=False)
        study.collect()
        study.probe()
        study.view_bank(0)
    return folder


def study_in(folder: Path, taught: Path, text: str = STUDY) -> Study:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(text)
    for name in ("bank", "teachers", "tables/probes.parquet"):
        if not (folder / name).exists():
            (folder / name).symlink_to(taught / name)
    return Study(folder / "study.toml", progress=False)


def finished(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("*/result.json"))


def silent(_: str) -> None:
    pass


# --- ladders ---------------------------------------------------------------------------------------------------------


@given(some.integers(1, 40), some.integers(1, 200), some.floats(1.0, 5.0))
def test_a_ladder_halves_grows_and_keeps_to_its_budget(arms: int, epochs: int, more: float) -> None:
    budget = more * least_budget(arms, epochs)
    rungs = ladder(arms, epochs, budget)
    spent, before = 0, Rung(arms, 0, 0)
    for rung in rungs:
        assert 1 <= rung.arms <= before.arms and epochs / 2 <= rung.epochs <= epochs
        assert rung.seeds == 1 or rung.epochs == epochs  # longer first
        assert rung.epochs * rung.seeds > before.epochs * before.seeds
        new = rung.seeds - (before.seeds if before.epochs == rung.epochs else 0)
        spent, before = spent + rung.arms * new * rung.epochs, rung
    assert spent == cost(rungs) <= budget
    assert rungs[0].arms == arms
    assert rungs[-1].arms <= 2 and rungs[-1].epochs == epochs and rungs[-1].seeds >= 2


def test_a_small_budget_is_refused_with_the_least() -> None:
    with pytest.raises(InputError, match="budget of at least 240 epochs to compare 8, got 239"):
        ladder(8, 30, 239)
    assert cost(ladder(8, 30, 240)) == least_budget(8, 30) == 240


def test_halving_keeps_the_likeliest_and_stops_when_sure() -> None:
    rungs, seen = ladder(8, 10, 140), []

    def judge(rung: Rung, arms: list[int]) -> np.ndarray:
        seen.append((rung, list(arms)))
        return np.array([0.3, 0.25, 0.2, 0.1, 0.06, 0.05, 0.04, 0.0])[::-1]

    assert halve(rungs, judge, range(8)) == [7, 6]
    assert [arms for _, arms in seen] == [list(range(8)), [7, 6, 5, 4], [7, 6]]

    hopeless = np.array([0.5, 0.5, 0.0, 0.0])
    assert halve([Rung(4, 5, 1), Rung(4, 5, 2)], lambda *_: hopeless, range(4)) == [0, 1]
    trained: list[Rung] = []
    sure = np.array([0.02, 0.97, 0.01, 0.0])

    def certain(rung: Rung, _: list[int]) -> np.ndarray:
        trained.append(rung)
        return sure

    left = halve([Rung(4, 5, 2), Rung(2, 5, 4)], certain, range(4))
    assert left[0] == 1 and trained == [Rung(4, 5, 2)]
    trained.clear()
    halve([Rung(4, 5, 1), Rung(2, 5, 2)], certain, range(4))
    assert len(trained) == 2  # a single seed proves nothing


def test_a_shortened_recipe_keeps_its_shape() -> None:
    recipe = Recipe(epochs=40, schedule="step", milestones=(20, 30), warmup_epochs=4, lr=0.1)
    half = shortened(recipe, 20)
    assert (half.epochs, half.milestones, half.warmup_epochs, half.lr) == (20, (10, 15), 2, 0.1)
    assert shortened(recipe, 40) == recipe


# --- plan and cost ---------------------------------------------------------------------------------------------------


def test_the_plan_tells_what_it_costs(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    teachers = [("mlp", f"mlp{width}") for width in (4, 8, 12, 16)]
    plan = make_plan(study, "50%", teachers, ("mlp5", "mlp6"), ())
    runs = 2 * 4 * (1 + 2 * 4)  # students, seeds, and one of CE and of two settings by four teachers
    assert plan.whole_grid == runs * 4 * 260
    assert plan == make_plan(study, runs / 2, teachers, ("mlp5", "mlp6"), ())
    ceiling = cost(plan.by_teacher) + cost(plan.by_setting) + 2 * 4
    assert plan.passes == 2 * 260 * ceiling <= plan.whole_grid / 2
    assert plan.teacher_passes == 0
    text = str(plan)
    assert text.startswith("Pilot: 4 teachers, students mlp5 and mlp6.\nTeachers, by 'KD tau=4': 4 for 4 epochs with ")
    assert f"Cost at most: {plan.passes:,} forward and backward passes of students (" in text
    more = make_plan(study, "90%", teachers, ("mlp5",), (2, 4))
    assert [method.label for method in more.settings] == ["KD tau=4", "ATS tau=4/3", "KD tau=2", "ATS tau=2/3"]
    views = STUDY.replace("seeds = 4", "seeds = 4\nviews = { kind = 'noise', count = 3, sigma = 1.0 }")
    noisy = make_plan(study_in(tmp_path / "views", taught, views), "50%", teachers[:3], ("mlp5",), ())
    assert noisy.teacher_passes == 3 * 3 * 260


@pytest.mark.parametrize("budget", ["much", "0%", -3, "nan"])
def test_no_budget(tmp_path: Path, taught: Path, budget: Any) -> None:
    with pytest.raises(InputError, match=r"expected a budget such as '20%' of the grid or 12 \(whole runs\), got "):
        pilot(study_in(tmp_path, taught), budget, tell=silent)


def test_pilot_errors(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    least = r"at least 28 whole runs \(38.9% of the grid's 72\) for 4 teachers, 2 students and 2 settings, got '10%'"
    with pytest.raises(InputError, match=least):
        pilot(study, "10%", tell=silent)
    with pytest.raises(InputError, match="family must be one of"):
        pilot(study, "50%", family="vgg", tell=silent)
    with pytest.raises(InputError, match="student must be one of"):
        pilot(study, "50%", student="mlp7", tell=silent)
    plain = STUDY[: STUDY.index('[[distill.methods]]\nname = "KD"')]
    with pytest.raises(InputError, match=r"needs a .* with a teacher; the study has plain cross-entropy alone"):
        pilot(study_in(tmp_path / "plain", taught, plain), "50%", tell=silent)
    assert not finished(tmp_path)


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, taught: Path) -> tuple[Path, Any, list[str]]:
    """A pilot that ran through: its folder, choice, and what it told."""
    folder = tmp_path_factory.mktemp("whole")
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))
        choice = pilot(study_in(folder, taught), "45%", n_boot=200, tell=told.append)
    return folder, choice, told


def test_a_pilot_from_end_to_end(whole: tuple[Path, Any, list[str]], taught: Path) -> None:
    folder, choice, told = whole
    assert len(told) == 1 and told[0].startswith("Pilot: 4 teachers")
    rungs = choice.rungs
    assert list(rungs.columns) == list(RUNG_COLUMNS)
    assert rungs["stage"].unique().tolist() == ["teachers", "settings"]
    first = rungs[rungs["stage"].eq("teachers")]
    assert first.groupby("rung").size().tolist() == [4, 2] and first["label"].eq("KD tau=4").all()
    assert rungs[rungs["stage"].eq("settings")]["label"].nunique() == 2
    finalists = set(first[first["kept"] & first["rung"].eq(2)]["teacher"])
    assert set(rungs[rungs["stage"].eq("settings")]["teacher"]) == finalists
    assert choice.rule == "pilot" and choice.label in {"KD tau=4", "ATS tau=4/3"}
    assert len(choice.table) == 4 and choice.table["p_best"].sum() == pytest.approx(1)
    assert np.isfinite(choice.table["gain"]).all()  # plain cross-entropy was trained beside
    assert re.match(r"A pilot of \d rungs of teachers and \d rungs of settings: \d+ students, ", choice.reasons[0])
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "tables" / "pilot.parquet"), rungs)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "tables" / "pick.parquet"), choice.table)
    for page in (repr(choice), choice._repr_html_(), choice.to_markdown()):
        assert "Rungs" in page and "p_best" in page
    assert "by a pilot" in repr(choice)


def test_it_costs_what_it_says(whole: tuple[Path, Any, list[str]]) -> None:
    folder, choice, told = whole
    configs = [json.loads((file.parent / "config.json").read_text()) for file in finished(folder)]
    spent = sum(config["recipe"]["epochs"] for config in configs) * 260
    most = int(re.search(r"at most: ([\d,]+) forward and backward", told[0])[1].replace(",", ""))  # type: ignore[index]
    assert spent <= most
    assert f": {len(configs)} students, {spent:,} forward and backward passes" in choice.reasons[0]


def test_again_it_trains_nothing_and_says_the_same(
    whole: tuple[Path, Any, list[str]], taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, choice, _ = whole
    monkeypatch.setattr(grid, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = pilot(study_in(folder, taught), "45%", n_boot=200, tell=silent)
    assert repr(again) == repr(choice)


def test_whole_length_runs_are_those_of_the_grid(whole: tuple[Path, Any, list[str]], taught: Path) -> None:
    folder, choice, _ = whole
    study = study_in(folder, taught)
    record = study.bank.teachers[0]
    short = ShortStudy(study, [(record.family, record.teacher)], Method("KD"), seeds=1, epochs=4, students=("mlp5",))
    run = grid.plan(short, short.bank)[0]
    assert len(grid.plan(short, short.bank)) == 1
    assert grid.config_of(short, run) == grid.config_of(study, run)
    assert (grid.run_folder(study, run) / "result.json").exists() == choice.rungs["epochs"].eq(4).any()
    assert study.recipe.epochs == 4 and len(study.bank.teachers) == 4


def test_other_processes_train_by_the_recipe_of_the_rung(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    record = study.bank.teachers[0]
    short = ShortStudy(study, [(record.family, record.teacher)], Method("KD"), seeds=1, epochs=2, students=("mlp5",))
    there = pickle.loads(pickle.dumps(grid.Trainer(short))).study
    run = grid.plan(short, short.bank)[0]
    assert there.recipe == short.recipe != study.recipe
    assert grid.run_folder(there, run) == grid.run_folder(short, run)


def test_only_validation_rows_choose(whole: tuple[Path, Any, list[str]], taught: Path, tmp_path: Path) -> None:
    folder, choice, _ = whole
    for file in finished(folder):
        result = json.loads(file.read_text())
        result["splits"]["test"]["accuracy"] = 1 - result["splits"]["test"]["accuracy"]
        copy = tmp_path / "runs" / file.parent.name / file.name
        copy.parent.mkdir(parents=True)
        copy.write_text(json.dumps(result))
    upset = pilot(study_in(tmp_path, taught), "45%", n_boot=200, tell=silent)
    pd.testing.assert_frame_equal(upset.rungs, choice.rungs)
    columns = ["teacher", "score", "low", "high", "p_best", "tie"]
    pd.testing.assert_frame_equal(upset.table[columns], choice.table[columns])
    assert not upset.table["gain"].equals(choice.table["gain"])


def test_killed_it_goes_on(whole: tuple[Path, Any, list[str]], taught: Path, tmp_path: Path) -> None:
    _, choice, _ = whole
    study = study_in(tmp_path, taught)
    child = os.fork()
    if not child:
        try:
            signal.alarm(100)  # should it ever hang, it does not outlive the test
            pilot(study, "45%", n_boot=200, tell=silent)
        finally:
            os._exit(0)
    end = time.monotonic() + 60
    while len(finished(tmp_path)) < 5 and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = {file: file.stat().st_mtime_ns for file in finished(tmp_path)}
    assert len(done) >= 5 and not (tmp_path / "tables" / "pilot.parquet").exists()
    assert repr(pilot(study_in(tmp_path, taught), "45%", n_boot=200, tell=silent)) == repr(choice)
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_one_setting_and_one_family_member_less(tmp_path: Path, taught: Path) -> None:
    one = STUDY[: STUDY.index('[[distill.methods]]\nname = "ATS"')].replace('students = ["mlp5", "mlp6"]',
                                                                          'students = ["mlp5"]')  # fmt: skip
    choice = pilot(study_in(tmp_path, taught, one), 9, n_boot=200, tell=silent)
    assert choice.rungs["stage"].unique().tolist() == ["teachers"] and choice.label == "KD tau=4"


def test_evidence_spares_teachers(tmp_path: Path, taught: Path) -> None:
    """Students elsewhere of these very teachers rule most of them out before anything is trained."""
    study = study_in(tmp_path, taught)
    probes, draws = study.load("probes"), np.random.default_rng(0)
    quality = {"mlp4": 0.1, "mlp8": 0.4, "mlp12": 0.9, "mlp16": 0.2}
    rows = [
        ("mlp", teacher, 0, student, "KD tau=4", "KD", 4.0, seed, split, mean + 1e-3 * draws.standard_normal(), 400)
        for teacher, mean in quality.items() for student in "ab" for seed in range(3) for split in ("val", "test")
    ]  # fmt: skip
    columns = ["family", "teacher", "teacher_seed", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    columns.append("n")
    told: list[str] = []
    choice = pilot(study, "60%", n_boot=200, evidence=[(probes, pd.DataFrame(rows, columns=columns))], tell=told.append)
    assert "mlp4" not in set(choice.rungs["teacher"])
    assert not told[0].startswith("Pilot: 4 teachers")


def test_the_command_tells_first(
    whole: tuple[Path, Any, list[str]], taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, choice, told = whole
    study_in(folder, taught)
    app(["pick", str(folder), "--pilot", "45%", "--quiet"], result_action="return_value")
    assert capsys.readouterr().out.startswith(f"{told[0]}\n\n{choice.title}\n")
    with pytest.raises(InputError, match="--label does not go with --pilot"):
        app(["pick", str(folder), "--pilot", "45%", "--label", "KD tau=4"], result_action="return_value")
    with pytest.raises(InputError, match="--tau belongs to --pilot"):
        app(["pick", str(folder), "--tau", "2"], result_action="return_value")


# --- is it worth it? -------------------------------------------------------------------------------------------------


def test_a_pilot_loses_less_than_guessing_and_no_more_than_spending_evenly() -> None:
    """12 teachers that rise and fall with size, noise of half their spread; a budget of 25 whole runs."""
    bench, losses = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "bench_pick.py")), []
    for number in range(15):
        rng = np.random.default_rng(number)
        losses.append(bench["spend"](rng, bench["curved"](rng), runs=25, noise=0.4, early=0.5))
    mean = pd.DataFrame(losses).mean()
    assert mean["pilot"] < 0.25 * mean["at random"] and mean["pilot"] < 0.25 * mean["largest"]
    assert mean["pilot"] < 1.3 * mean["evenly"]
