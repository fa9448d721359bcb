"""Learning curves: what runs measure after each epoch, and the tables and pages made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import studies

from capmismatch.errors import CapmismatchError, InputError
from capmismatch.stats.late_gains import late_gains
from capmismatch.study.study import Study

EPOCHS = 4


def text(curves: str = "true", engine: str = "processes", **options: object) -> str:
    study = studies.letters_study(recipe=f"epochs = {EPOCHS}, batch_size = 100", **options)  # type: ignore[arg-type]
    return study.replace("[distill]\n", f'[distill]\ncurves = {curves}\nengine = "{engine}"\n')


def study_of(folder: Path, content: str) -> Study:
    folder.mkdir()
    (folder / "study.toml").write_text(content)
    study = Study(folder / "study.toml", progress=False)
    study.collect()
    return study


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = study_of(tmp_path_factory.mktemp("curves") / "measured", text())
    study.distill()
    return study


def test_the_last_epoch_is_what_the_results_say(measured: Study) -> None:
    curves, results = measured.load("curves"), measured.load("results")
    run = ["teacher", "teacher_seed", "student", "label", "seed"]
    last = curves[curves["epoch"].eq(EPOCHS)].set_index(run)["val_accuracy"]
    val = results[results["split"].eq("val")].set_index(run)["accuracy"]
    pd.testing.assert_series_equal(last.sort_index(), val.sort_index(), check_names=False)
    assert curves.groupby(run)["epoch"].apply(list).map(lambda epochs: epochs == [1, 2, 3, 4]).all()
    assert curves["val_accuracy"].gt(0).all() and curves["loss"].gt(0).all() and "val_nll" not in curves


@pytest.mark.parametrize("engine", ["processes", "batched"])
def test_no_result_depends_on_it(measured: Study, tmp_path: Path, engine: str) -> None:
    plain = study_of(tmp_path / "plain", text("false", engine))
    results = plain.distill()
    columns = ["teacher", "label", "seed", "split", "accuracy"]
    pd.testing.assert_frame_equal(results[columns], measured.load("results")[columns], atol=0.004)
    assert plain.curves()["val_accuracy"].isna().all() and plain.curves()["loss"].notna().all()
    assert sorted(p.name for p in (plain.folder / "runs").iterdir()) == sorted(
        p.name for p in (measured.folder / "runs").iterdir()
    )


def test_stacks_measure_the_same(measured: Study, tmp_path: Path) -> None:
    stacked = study_of(tmp_path / "stacked", text(engine="batched"))
    stacked.distill()
    assert "batched" in (next((stacked.folder / "runs").iterdir()) / "result.json").read_text()
    one, other = stacked.load("curves"), measured.load("curves")
    pd.testing.assert_frame_equal(one, other, check_exact=False, atol=0.004)


def test_curves_of_runs_that_are_under_way(measured: Study, tmp_path: Path) -> None:
    study = study_of(tmp_path / "started", text())
    assert study.curves().empty
    study.distill()
    folder = next((study.folder / "runs").iterdir())
    (folder / "result.json").unlink()
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(lines[:2]))
    assert len(study.curves()) == len(measured.load("curves")) - 2
    assert json.loads(lines[0])["epoch"] == 0


def test_measuring_needs_rows_to_measure_on(tmp_path: Path) -> None:
    study = study_of(tmp_path / "none", text(rows=(300, 0, 700)).replace("val = 0, ", ""))
    with pytest.raises(CapmismatchError, match=r"curves of \[distill\].*'val'"):
        study.distill()


def test_curves_must_be_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="curves"):
        study_of(tmp_path / "wrong", text('"yes"'))


def test_the_report_answers_whether_students_were_trained_to_the_end(measured: Study) -> None:
    with studies.sketched_figures():
        measured.run()
    assert (measured.folder / "figures" / "learning_curves.png").exists()
    page = (measured.folder / "report.html").read_text(encoding="utf-8")
    found = late_gains(measured.load("curves"))
    assert "Were the students trained to the end?" in page
    assert ("CM057" in page) == found["findings"].ne("").any()
    assert all(f"{gain:+.2f} points" in page for gain in found["gain"])
