"""Pilots: what they cost, that they go on after a kill, choose on validation rows, and find good teachers."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import runpy
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from studies import letters_study

from capmismatch.cli import app
from capmismatch.distillation import grid, student_trainer
from capmismatch.distillation import runs as grid_runs
from capmismatch.distillation.methods import Method
from capmismatch.errors import InputError
from capmismatch.sources import letters
from capmismatch.study.halving import Judgement, Rung, cost, halve, ladder, least_budget, new_runs
from capmismatch.study.pilot import RUNG_COLUMNS, PairChances, pilot
from capmismatch.study.pilot_plan import LeftOut, PilotPlan, make_plan, settings_of
from capmismatch.study.pilot_runs import FinishedRuns
from capmismatch.study.short_study import short_study, shortened
from capmismatch.study.study import Study
from capmismatch.training.recipes import Recipe

STUDY = letters_study(
    rows=(260, 400, 200),
    widths=(4, 8, 12, 16),
    teacher_seeds=1,
    taus=(4,),
    students=("mlp5", "mlp6"),
    seeds=4,
    recipe="epochs = 4, batch_size = 50",
    methods=("CE", "KD", "ATS"),
)


@pytest.fixture(autouse=True)
def quick_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))


@pytest.fixture(scope="module")
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


TEACHERS = [("mlp", f"mlp{width}") for width in (4, 8, 12, 16)]


def planned(study: Study, budget: Any, taus: tuple[float, ...] = (), finished: FinishedRuns | None = None) -> PilotPlan:
    """A plan for all four teachers."""
    return make_plan(study, budget, TEACHERS, study.distillation.students, settings_of(study, taus), finished)


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


@given(some.lists(some.integers(0, 4), min_size=1, max_size=6), some.integers(1, 9), some.data())
def test_runs_that_are_there_cost_nothing(there: list[int], epochs: int, data: some.DataObject) -> None:
    """The most that any choice of arms can cost, and rungs of whole length as soon as an arm has a whole run."""
    arms = len(there)
    least = least_budget(arms, epochs, finished=there)
    rungs = ladder(arms, epochs, data.draw(some.floats(1.0, 4.0)) * least, finished=there)
    if any(there):
        assert {rung.epochs for rung in rungs} == {epochs}
    most = 0
    for order in itertools.permutations(range(arms)):
        spent, have = 0, {(arm, epochs, seed) for arm in range(arms) for seed in range(there[arm])}
        for rung in rungs:
            wanted = {(arm, rung.epochs, seed) for arm in order[: rung.arms] for seed in range(rung.seeds)}
            spent, have = spent + rung.epochs * len(wanted - have), have | wanted
        most = max(most, spent)
    assert cost(rungs, there) == most <= max(least, cost(rungs))


def test_a_small_budget_is_refused_with_the_least() -> None:
    with pytest.raises(InputError, match="budget of at least 240 epochs to compare 8, got 239"):
        ladder(8, 30, 239)
    assert cost(ladder(8, 30, 240)) == least_budget(8, 30) == 240


def test_a_judgement_is_chances_and_expected_losses() -> None:
    draws = np.random.default_rng(0).standard_normal((500, 4)) + np.arange(4)
    chances, regret = Judgement.of(draws)
    best = [max(row) for row in draws]
    for arm in range(4):
        assert regret[arm] == pytest.approx(np.mean([m - row[arm] for m, row in zip(best, draws, strict=True)]))
        assert chances[arm] == pytest.approx(np.mean([row[arm] == m for m, row in zip(best, draws, strict=True)]))


def test_halving_keeps_the_likeliest_and_stops_when_little_is_lost() -> None:
    rungs, seen = ladder(8, 10, 140), []

    def judge(rung: Rung, arms: list[int]) -> Judgement:
        seen.append((rung, list(arms)))
        return Judgement(np.array([0.3, 0.25, 0.2, 0.1, 0.06, 0.05, 0.04, 0.0])[::-1], np.full(8, 0.4))

    assert halve(rungs, judge, range(8), 0.3) == [7, 6]
    assert [arms for _, arms in seen] == [list(range(8)), [7, 6, 5, 4], [7, 6]]

    hopeless = Judgement(np.array([0.5, 0.5, 0.0, 0.0]), np.full(4, 0.4))
    assert halve([Rung(4, 5, 1), Rung(4, 5, 2)], lambda *_: hopeless, range(4), 0.3) == [0, 1]
    trained: list[Rung] = []

    def judged(chance: float, regret: float) -> Callable[[Rung, list[int]], Judgement]:
        def judge(rung: Rung, _: list[int]) -> Judgement:
            trained.append(rung)
            rest = (1 - chance) / 3
            return Judgement(np.array([rest, chance, rest, rest]), np.array([0.9, regret, 0.9, 0.9]))

        return judge

    def climbed(chance: float, regret: float, tolerance: float, seeds: int = 2) -> int:
        trained.clear()
        halve([Rung(4, 5, seeds), Rung(2, 5, 4)], judged(chance, regret), range(4), tolerance)
        return len(trained)

    assert climbed(0.4, 0.29, tolerance=0.3) == 1  # whichever is the best, little is lost
    assert climbed(0.97, 0.31, tolerance=0.3) == 2  # likely the best, but much is lost where it is not
    assert climbed(0.97, 0.0, tolerance=0.0) == 2
    assert climbed(0.97, 0.01, tolerance=0.3, seeds=1) == 2  # a single seed proves nothing


def test_a_shortened_recipe_keeps_its_shape() -> None:
    recipe = Recipe(epochs=40, schedule="step", milestones=(20, 30), warmup_epochs=4, lr=0.1)
    half = shortened(recipe, 20)
    assert (half.epochs, half.milestones, half.warmup_epochs, half.lr) == (20, (10, 15), 2, 0.1)
    assert shortened(recipe, 40) == recipe


# --- plan and cost ---------------------------------------------------------------------------------------------------


def test_the_plan_tells_what_it_costs(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    plan = planned(study, "50%")
    runs = 2 * 4 * (1 + 2 * 4)  # students, seeds, and one of CE and of two settings by four teachers
    assert plan.whole_grid == runs * 4 * 260
    assert plan == planned(study, runs / 2)
    there = [plan.by_teacher[-1].seeds] * 2  # the teachers that are left have been taught by the first setting
    ceiling = cost(plan.by_teacher) + cost(plan.by_setting, there) + 2 * 4
    assert plan.passes == 2 * 260 * ceiling <= plan.whole_grid / 2
    assert plan.measured == 2 * 600 * (sum(new_runs(plan.by_teacher)) + sum(new_runs(plan.by_setting, there)) + 2)
    assert plan.teacher_passes == plan.finished == 0 and not plan.left_out
    text = str(plan)
    assert text.startswith(
        "Pilot: 4 teachers, students mlp5 and mlp6.\nTeachers, with 'KD tau=4 student tau=1': 4 for 4 epochs with "
    )
    assert f"Maximum cost: {plan.passes:,} forward and backward passes of students (" in text
    labels = [method.label for method in planned(study, "90%", (2, 4)).settings]
    assert labels == [
        "KD tau=4 student tau=1",
        "ATS tau=4 other tau=3",
        "KD tau=2 student tau=1",
        "ATS tau=2 other tau=3",
    ]
    views = STUDY.replace("seeds = 4", "seeds = 4\nviews = { kind = 'noise', count = 3, sigma = 1.0 }")
    assert planned(study_in(tmp_path / "views", taught, views), "50%").teacher_passes == 3 * 4 * 260


def test_a_small_budget_compares_less_and_says_what_it_leaves_out(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught, STUDY.replace('["mlp5", "mlp6"]', '["mlp5"]').replace("seeds = 4", "seeds = 2"))
    said, spent = [], 0
    for runs in np.arange(2, 19, 0.5):  # up to the whole grid
        plan = planned(study, runs)
        assert spent <= plan.passes <= runs * 4 * 260  # more for more, and never more than was said
        spent = plan.passes
        said += [plan.left_out] if plan.left_out not in said else []
        assert len(plan.teachers) == 4 or plan.by_teacher == (Rung(len(plan.teachers), 4, 1),)
    ats = LeftOut(("ATS tau=4 other tau=3",), enough=2 / 3)
    single = replace(ats, second_seeds=True)
    no_baseline = {"plain_seeds": 2, "baseline": True}
    assert said == [
        replace(single, **no_baseline, teachers=tuple(TEACHERS[2:])),
        replace(single, **no_baseline, teachers=tuple(TEACHERS[3:])),
        replace(single, **no_baseline),
        replace(single, plain_seeds=1),
        replace(ats, **no_baseline),
        ats,
        LeftOut(enough=2 / 3),
    ]
    assert str(said[0]) == (
        "Left out because of the budget: the setting 'ATS tau=4 other tau=3'; plain cross-entropy; second seeds, so "
        "probabilities are rough; mlp/mlp12 and mlp/mlp16, which the probes rank last. A budget of 66.7% covers "
        "everything."
    )
    assert not planned(study, "66.7%").left_out and planned(study, "66.6%").left_out


def test_whole_runs_come_before_more_seeds(tmp_path: Path, taught: Path) -> None:
    """A stage has no shorter rungs while the other has more than it needs."""
    study = study_in(tmp_path, taught)
    for budget in np.arange(6, 150, 2.5):
        plan = planned(study, f"{budget}%", (2, 8))
        if min(rung.epochs for rung in [*plan.by_teacher, *plan.by_setting]) < 4:
            least = least_budget(4, 4, full_length=True) + least_budget(12, 4, finished=[2, 2]) + 2 * 4
            assert 2 * least > budget / 100 * 72 * 4


def test_finished_runs_cost_nothing(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    both = {(teacher, "KD tau=4 student tau=1", student): 2 for teacher in TEACHERS[2:] for student in ("mlp5", "mlp6")}
    plan = planned(study, "20%", finished=FinishedRuns(both))
    assert plan.finished == 8 and "8 finished students of the study are reused at no cost." in str(plan)
    assert {rung.epochs for rung in plan.by_teacher} == {4}  # whole runs compare with whole ones only
    assert plan.passes == 2 * 260 * (cost(plan.by_teacher, [2, 2]) + 2 * 4) <= 0.2 * plan.whole_grid
    assert len(plan.teachers) == 4 > len(planned(study, "10%").teachers)
    everything = {
        (teacher, method.label, student): 4
        for student in ("mlp5", "mlp6")
        for method in study.distillation.methods
        for teacher in (TEACHERS if method.name != "CE" else [("", "")])
    }
    assert planned(study, 0.1, finished=FinishedRuns(everything)).passes == 0
    assert not planned(study, 0.1, finished=FinishedRuns(everything)).left_out


@pytest.mark.parametrize("budget", ["much", "0%", -3, "nan"])
def test_no_budget(tmp_path: Path, taught: Path, budget: Any) -> None:
    with pytest.raises(InputError, match=r"expected a budget such as '20%' of the grid or 12 \(whole runs\), got "):
        pilot(study_in(tmp_path, taught), budget, tell=silent)


def test_pilot_errors(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    least = r"budget of at least '5.6%' or 4 \(whole runs\) for 2 teachers and 2 students, got '5%'"
    with pytest.raises(InputError, match=least):
        pilot(study, "5%", tell=silent)
    assert planned(study, "5.6%") == planned(study, 4)  # what it says will do
    with pytest.raises(InputError, match="family must be one of"):
        pilot(study, "50%", family="vgg", tell=silent)
    with pytest.raises(InputError, match="student must be one of"):
        pilot(study, "50%", student="mlp7", tell=silent)
    plain = STUDY[: STUDY.index('[[distill.methods]]\nname = "KD"')]
    with pytest.raises(InputError, match=r"needs a .* with a teacher; the study has plain cross-entropy alone"):
        pilot(study_in(tmp_path / "plain", taught, plain), "50%", tell=silent)
    assert not finished(tmp_path)


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
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
    assert first.groupby("rung").size().tolist() == [4, 2] and first["label"].eq("KD tau=4 student tau=1").all()
    assert rungs[rungs["stage"].eq("settings")]["label"].nunique() == 2
    finalists = set(first[first["kept"] & first["rung"].eq(2)]["teacher"])
    assert set(rungs[rungs["stage"].eq("settings")]["teacher"]) == finalists
    assert choice.rule == "pilot" and choice.label in {"KD tau=4 student tau=1", "ATS tau=4 other tau=3"}
    assert len(choice.table) == 4 and choice.table["p_best"].sum() == pytest.approx(1)
    assert np.isfinite(choice.table["gain"]).all()  # plain cross-entropy was trained beside
    assert re.match(r"A pilot of \d rungs of teachers and \d rungs of settings: \d+ students, ", choice.reasons[0])
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "tables" / "pilot.parquet"), rungs)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "tables" / "pick.parquet"), choice.table)
    kept = Study(folder / "study.toml").choice()
    assert repr(kept) == repr(choice) and kept.risks == choice.risks and kept.findings == choice.findings
    for page in (repr(choice), choice._repr_html_(), choice.to_markdown()):
        assert "Rungs" in page and "P(best)" in page
    assert "based on a pilot" in repr(choice)


def test_it_costs_what_it_says(whole: tuple[Path, Any, list[str]]) -> None:
    folder, choice, told = whole
    configs = [json.loads((file.parent / "config.json").read_text()) for file in finished(folder)]
    spent = sum(config["recipe"]["epochs"] for config in configs) * 260
    most = int(re.search(r"Maximum cost: ([\d,]+) forward and backward", told[0])[1].replace(",", ""))  # type: ignore[index]
    assert spent <= most
    assert f": {len(configs)} students, {spent:,} forward and backward passes" in choice.reasons[0]


def test_again_it_trains_nothing_and_says_the_same(
    whole: tuple[Path, Any, list[str]], taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, choice, _ = whole
    monkeypatch.setattr(student_trainer, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = pilot(study_in(folder, taught), "45%", n_boot=200, tell=silent)
    assert repr(again) == repr(choice)


def test_whole_length_runs_are_those_of_the_grid(whole: tuple[Path, Any, list[str]], taught: Path) -> None:
    folder, choice, _ = whole
    study = study_in(folder, taught)
    record = study.bank.teachers[0]
    short = short_study(study, [(record.family, record.teacher)], Method("KD"), seeds=1, epochs=4, students=("mlp5",))
    run = grid_runs.plan(short, short.bank)[0]
    assert len(grid_runs.plan(short, short.bank)) == 1
    assert grid_runs.config_of(short, run) == grid_runs.config_of(study, run)
    assert (grid_runs.run_folder(study, run) / "result.json").exists() == choice.rungs["epochs"].eq(4).any()
    assert study.recipe.epochs == 4 and len(study.bank.teachers) == 4


def test_other_processes_train_by_the_recipe_of_the_rung(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    record = study.bank.teachers[0]
    short = short_study(study, [(record.family, record.teacher)], Method("KD"), seeds=1, epochs=2, students=("mlp5",))
    there = pickle.loads(pickle.dumps(student_trainer.Trainer(short))).study
    run = grid_runs.plan(short, short.bank)[0]
    assert there.recipe == short.recipe != study.recipe
    assert there.bank.keys == short.bank.keys == [record.key] and len(there.family) == len(short.family) == 1
    assert grid_runs.run_folder(there, run) == grid_runs.run_folder(short, run)


def test_a_short_study_is_a_copy_that_shares_what_is_loaded(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    short = short_study(study, TEACHERS[:2], Method("KD"), seeds=1, epochs=2, students=("mlp5",))
    assert short.train_data is study.train_data and short.eval_data is study.eval_data
    assert [teacher.name for teacher in short.family] == ["mlp4", "mlp8"] and len(study.family) == 4
    assert (short.recipe.epochs, study.recipe.epochs) == (2, 4)
    assert (short.file, short.folder, short.workers) == (study.file, study.folder, study.workers)


def test_only_validation_rows_choose(whole: tuple[Path, Any, list[str]], taught: Path, tmp_path: Path) -> None:
    folder, choice, _ = whole
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "pilot.json").write_text((folder / "tables" / "pilot.json").read_text())
    for file in finished(folder):
        result = json.loads(file.read_text())
        result["splits"]["test"]["accuracy"] = 1 - result["splits"]["test"]["accuracy"]
        copy = tmp_path / "runs" / file.parent.name / file.name
        copy.parent.mkdir(parents=True)
        copy.write_text(json.dumps(result))
        shutil.copy(file.parent / "config.json", copy.parent)
    upset = pilot(study_in(tmp_path, taught), "45%", n_boot=200, tell=silent)
    pd.testing.assert_frame_equal(upset.rungs, choice.rungs)
    columns = ["teacher", "score", "low", "high", "p_best", "tie"]
    pd.testing.assert_frame_equal(upset.table[columns], choice.table[columns])
    assert not upset.table["gain"].equals(choice.table["gain"])


def test_killed_it_goes_on(whole: tuple[Path, Any, list[str]], taught: Path, tmp_path: Path) -> None:
    folder, choice, _ = whole
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
    again = pilot(study_in(tmp_path, taught), "45%", n_boot=200, tell=silent)
    assert repr(again).replace(str(tmp_path), "") == repr(choice).replace(str(folder), "")  # commands name the study
    assert {file: file.stat().st_mtime_ns for file in done} == done


def told_passes(plan: str) -> int:
    return int(re.search(r"Maximum cost: ([\d,]+) forward and backward", plan)[1].replace(",", ""))  # type: ignore[index]


def spent_passes(folders: set[Path]) -> int:
    configs = [json.loads((file.parent / "config.json").read_text()) for file in folders]
    return 260 * sum(config["recipe"]["epochs"] for config in configs)


def test_a_fifth_of_a_small_study_is_enough(tmp_path: Path, taught: Path) -> None:
    small = STUDY.replace('["mlp5", "mlp6"]', '["mlp5"]').replace("seeds = 4", "seeds = 2")
    told: list[str] = []
    study = study_in(tmp_path, taught, small)
    choice = pilot(study, "20%", n_boot=200, tell=told.append)
    wide = study.load("probes")
    wide = wide[wide["split"].eq("val")]
    of_probe = {name: wide[wide["probe"].eq(name)].set_index("teacher")["value"] for name in ("accuracy", "nll")}
    std = wide[wide["probe"].eq("derived_std") & wide["tau"].eq(4)].set_index("teacher")["value"]
    named = {std.idxmax(), "mlp16", of_probe["accuracy"].idxmax(), of_probe["nll"].idxmin()}  # by rules people go by
    worst_first = of_probe["nll"].sort_values(ascending=False).index
    last = next(teacher for teacher in worst_first if teacher not in named)
    assert spent_passes({*finished(tmp_path)}) == told_passes(told[0]) <= 0.2 * 18 * 4 * 260
    left_out = re.search("Left out .*", told[0])[0]  # type: ignore[index]
    assert f"; mlp/{last}, which the probes rank last." in left_out and choice.risks[0] == left_out
    assert last not in set(choice.rungs["teacher"]) and len(choice.table) == 4
    assert (
        choice.reasons[1]
        == "Only 'KD tau=4 student tau=1' was tried: probabilities are those of the teachers in that setting."
    )
    assert choice.teacher in set(choice.rungs["teacher"])


def test_finished_students_are_used_and_not_trained_shorter(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    half = [("mlp", "mlp12"), ("mlp", "mlp16")]
    grid.distill(short_study(study, half, Method("KD"), seeds=2, epochs=4, students=("mlp5", "mlp6")))
    before, told = {*finished(tmp_path)}, list[str]()
    choice = pilot(study, "30%", taus=(2, 8), n_boot=200, tell=told.append)
    new = {*finished(tmp_path)} - before
    assert len(before) == 8 and "8 finished students of the study are reused at no cost." in told[0]
    assert spent_passes(new) <= told_passes(told[0])
    assert f": {len(new)} students, {spent_passes(new):,} " in choice.reasons[0]
    assert choice.reasons[0].endswith("; 8 students finished before.")
    assert choice.rungs["epochs"].eq(4).all() and not any("full runs" in risk for risk in choice.risks)
    # All seeds that are there take part, also where the rung asks for one.
    first = choice.rungs[choice.rungs["rung"].eq(1) & choice.rungs["teacher"].eq("mlp16")].iloc[0]
    rows = [json.loads(file.read_text())["splits"]["val"]["accuracy"] for file in before]
    keys = [json.loads((file.parent / "config.json").read_text())["teacher"]["key"] for file in before]
    mean = np.mean([row for row, key in zip(rows, keys, strict=True) if "mlp16" in key])
    assert first["seeds"] == 1 and first["accuracy"] == pytest.approx(mean)
    again = pilot(study_in(tmp_path, taught), "30%", taus=(2, 8), n_boot=200, tell=told.append)
    assert told[1] == told[0] and repr(again) == repr(choice)  # its own runs are no gifts
    more = list[str]()
    pilot(study_in(tmp_path, taught), "31%", taus=(2, 8), n_boot=200, tell=more.append)  # to another pilot they are
    assert int(re.search(r"(\d+) finished", more[0])[1]) > 8  # type: ignore[index]


def test_settings_do_not_train_again_what_teachers_were_compared_by(tmp_path: Path, taught: Path) -> None:
    study = study_in(tmp_path, taught)
    choice = pilot(study, "60%", taus=(2, 8), n_boot=200, tell=silent)
    pairs = choice.rungs[choice.rungs["stage"].eq("settings")]
    configs = [json.loads((file.parent / "config.json").read_text()) for file in finished(tmp_path)]
    assert pairs["label"].nunique() == 6 and pairs["epochs"].eq(4).all()
    short = {config["method"]["tau"] for config in configs if config["recipe"]["epochs"] < 4}
    assert short <= {4.0}  # at most those of the first rung of teachers


def test_the_chances_of_the_pair_and_of_the_setting_are_told(whole: tuple[Path, Any, list[str]]) -> None:
    _, choice, _ = whole
    pairs = choice.rungs[choice.rungs["stage"].eq("settings")]
    assert choice.reasons[1].startswith(f"Of {pairs['rung'].eq(1).sum()} pairs of teacher and setting, mlp/")
    chances = {
        ("mlp", "mlp8", "KD tau=4 student tau=1"): 0.17,
        ("mlp", "mlp4", "KD tau=4 student tau=1"): 0.1,
        ("mlp", "mlp8", "ATS"): 0.73,
    }
    chosen, likeliest = ("mlp", "mlp8", "KD tau=4 student tau=1"), ("mlp", "mlp8", "ATS")
    sure = PairChances.of(chosen, chances)
    assert sure == PairChances(chosen, 3, 0.17, likeliest, 0.73, pytest.approx(0.27))
    for number in ("17 %", "73 %", "27 %"):
        assert number in str(sure)
    assert PairChances.of(likeliest, chances) == PairChances(likeliest, 3, 0.73, likeliest, 0.73, 0.73)
    assert str(PairChances.of(likeliest, chances)).count("73 %") == 2
    dropped = PairChances.of(("mlp", "mlp16", "KD tau=4 student tau=1"), chances)
    assert dropped.chance is None and "dropped before" in str(dropped)


def test_one_setting_and_one_family_member_less(tmp_path: Path, taught: Path) -> None:
    one = STUDY[: STUDY.index('[[distill.methods]]\nname = "ATS"')].replace(
        'students = ["mlp5", "mlp6"]', 'students = ["mlp5"]'
    )
    choice = pilot(study_in(tmp_path, taught, one), 9, n_boot=200, tell=silent)
    assert choice.rungs["stage"].unique().tolist() == ["teachers"] and choice.label == "KD tau=4 student tau=1"


def test_evidence_spares_teachers(tmp_path: Path, taught: Path) -> None:
    """Students elsewhere of these very teachers rule most of them out before anything is trained."""
    study = study_in(tmp_path, taught)
    probes, draws = study.load("probes"), np.random.default_rng(0)
    quality = {"mlp4": 0.1, "mlp8": 0.4, "mlp12": 0.9, "mlp16": 0.2}
    rows = [
        (
            "mlp",
            teacher,
            0,
            student,
            "KD tau=4 student tau=1",
            "KD",
            4.0,
            seed,
            split,
            mean + 1e-3 * draws.standard_normal(),
            400,
        )
        for teacher, mean in quality.items()
        for student in "ab"
        for seed in range(3)
        for split in ("val", "test")
    ]
    columns = ["family", "teacher", "teacher_seed", "student", "label", "method", "tau", "seed", "split", "accuracy"]
    columns.append("n")
    told: list[str] = []
    choice = pilot(study, "60%", n_boot=200, evidence=[(probes, pd.DataFrame(rows, columns=columns))], tell=told.append)
    assert "mlp4" not in set(choice.rungs["teacher"])
    assert not told[0].startswith("Pilot: 4 teachers")


def test_the_command_tells_first(
    whole: tuple[Path, Any, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, folder = whole[2], tmp_path / "copy"
    shutil.copytree(whole[0], folder, symlinks=True)  # by more draws it may go another way, and train
    app(["pick", str(folder), "--pilot", "45%", "--workers", "1", "--quiet"], result_action="return_value")
    assert capsys.readouterr().out.startswith(f"{told[0]}\n\n")
    with pytest.raises(InputError, match="--label cannot be used with --pilot"):
        app(["pick", str(folder), "--pilot", "45%", "--label", "KD tau=4 student tau=1"], result_action="return_value")
    with pytest.raises(InputError, match="--tau needs --pilot"):
        app(["pick", str(folder), "--tau", "2"], result_action="return_value")


# --- is it worth it? -------------------------------------------------------------------------------------------------


def test_a_pilot_loses_less_than_guessing_and_no_more_than_spending_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 teachers that rise and fall with size, a budget of 25 whole runs; a small version of the benchmark."""
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    bench = runpy.run_path(str(benchmarks / "bench_pick.py"))
    number = bench["DESIGNS"].index(bench["Design"]("pilot, curved", runs=25))
    mean = bench["ways"](pd.concat([bench["simulate"](number, block) for block in range(2)])).iloc[0]
    assert mean["pilot"] < 0.25 * mean["at random"] and mean["pilot"] < 0.25 * mean["largest"]
    assert mean["pilot"] < 1.5 * mean["evenly"] + 0.05 and mean["runs spent"] <= 25
