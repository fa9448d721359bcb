"""A study: its stages hand on what they should, keep what is done, and say what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies import letters_study, saved_study, sketched_figures, write_study

from capmismatch.distillation import student_trainer
from capmismatch.errors import BankError, CapmismatchError, InputError
from capmismatch.sources import letters
from capmismatch.study.study import Study, load_study

LETTERS = letters_study()


def to_pick(study: Study) -> Any:
    """Every stage up to the pick."""
    study.collect()
    study.probe()
    study.ranks()
    study.isats()
    if study.config.distill is not None or study.config.results is not None:
        study.distill()
        study.correlate()
    return study.pick()


@pytest.mark.parametrize("source", ['source = "npz:data.npz"', ""])
def test_a_study_may_fix_the_order_of_classes(tmp_path: Path, source: str) -> None:
    file = saved_study(tmp_path)
    plain = load_study(file, progress=False).collect()
    text = file.read_text().replace('source = "npz:data.npz"', f'{source}\nclasses = ["d", "b", "a", "c"]')
    file.write_text(text)
    shutil.rmtree(tmp_path / "bank")
    bank = load_study(file, progress=False).collect()
    assert bank.rows.classes == ("d", "b", "a", "c")
    order, (key, *_) = [3, 1, 0, 2], bank.keys
    place = {name: row for row, name in enumerate(plain.rows.ids.tolist())}
    rows = [place[name] for name in bank.rows.ids.tolist()]
    np.testing.assert_array_equal(bank.logits(key), plain.logits(key)[rows][:, order])
    assert [order[label] for label in bank.rows.labels] == plain.rows.labels[rows].tolist()


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob(pattern))}


# --- whole studies ---------------------------------------------------------------------------------------------------


def test_a_study_of_saved_logits_and_given_results(tmp_path: Path) -> None:
    study = load_study(saved_study(tmp_path), progress=False)
    choice = to_pick(study)
    assert sorted(f.stem for f in (tmp_path / "tables").glob("*.parquet")) == [
        "affinity",
        "links",
        "pick",
        "probes",
        "ranks",
        "restored",
        "results",
    ]
    assert study.bank.keys == [f"teachers/{name}" for name in ("xs", "s", "m", "l")]
    probes = study.load("probes")
    assert set(probes["split"]) == {"val", "test"}
    accuracy = probes.query("probe == 'accuracy' and teacher == 'm' and split == 'val'")["value"].item()
    bank = study.bank
    assert accuracy == pytest.approx((bank.logits("teachers/m", "val").argmax(1) == bank.labels("val")).mean())
    assert len(study.load("results")) == 16 + 4
    assert set(study.load("links")["student"]) == {"tiny"}
    assert choice.table.iloc[0]["teacher"] == "l"
    pd.testing.assert_frame_equal(study.load("pick"), choice.table)


def test_a_study_whose_results_have_one_split_is_told_to_the_end(tmp_path: Path) -> None:
    file = saved_study(tmp_path)
    results = pd.read_csv(tmp_path / "results.csv").query("split == 'val'")
    results.to_csv(tmp_path / "results.csv", index=False)
    study = Study(file, progress=False)
    with sketched_figures():
        choice = study.run()
    assert choice.table.iloc[0]["teacher"] == "l" and any("'val' only" in risk for risk in choice.risks)
    assert study.load("links")["findings"].str.contains("CM013").all()
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"capacity_curve_tiny", "probe_vs_student_grid", "pick_chart"} <= drawn
    page = (tmp_path / "report.html").read_text()
    assert "Does student accuracy rise, then fall, with teacher size?" in page and "CM013" in page


def test_a_study_without_students_still_picks(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path, results=False), progress=False)
    choice = to_pick(study)
    assert len(choice.table) == 4
    assert not study.has("results")
    with pytest.raises(InputError, match=r"study.toml has no \[distill\]: add students and methods, or name a results"):
        study.distill()


def test_a_study_of_letters_and_a_second_time_without_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))
    file = write_study(tmp_path / "in", LETTERS)
    folder = tmp_path / "out"
    first = to_pick(Study(file, folder, progress=False))
    assert sorted(f.name for f in folder.iterdir()) == ["bank", "runs", "tables", "teachers"]
    assert [f.name for f in (tmp_path / "in").iterdir()] == ["study.toml"]
    assert len(list((folder / "runs").iterdir())) == 2 + 3 * 2
    assert len(first.table) == 3
    patterns = ("bank/**/*.safetensors", "tables/*.parquet", "runs/*/*.json")
    kept = {pattern: files(folder, pattern) for pattern in patterns}
    assert len(kept["bank/**/*.safetensors"]) == 6 + 6  # evaluation rows, and the training rows as they are

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("done already")

    tables = ("probe", "rank_stability", "restored_variance", "affinity")
    places = ("distillation.student_trainer.fit", "sources.letters.fit", "sources.collecting.NetworkRunner.__call__")
    for place in (*places, *(f"diagnostics.tables.{table}" for table in tables)):
        monkeypatch.setattr(f"capmismatch.{place}", refuse)
    second = to_pick(Study(file, folder, progress=False))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert {pattern: files(folder, pattern) for pattern in kept} == kept


def test_changed_settings_remake_the_table_and_only_that(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    to_pick(study)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "tables").iterdir()}
    changed = Study(saved_study(tmp_path, "[probe]\ntaus = [3]"), progress=False)
    to_pick(changed)
    assert set(changed.load("probes")["tau"].dropna()) == {3.0}
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "tables").iterdir()}
    same = {name for name in before if before[name] == after[name]}
    assert {"ranks.parquet", "restored.parquet", "affinity.parquet"} <= same
    assert "probes.parquet" not in same


def test_changed_teachers_remake_every_table(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    to_pick(study)
    draws = np.random.default_rng(9)
    saved_study(tmp_path, logits_xl=draws.normal(size=(40, 4)), params_xl=10_000)
    again = Study(tmp_path / "study.toml", progress=False)
    again.collect()
    assert "xl" in set(again.probe()["teacher"])
    assert "xl" in set(again.isats()["teacher"])
    assert "xl" in set(again.ranks()["teacher_b"])


def test_a_kill_between_table_and_stamp_is_no_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    study.collect()
    study.probe()

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("capmismatch.study.tables.write_json", die)
        Study(saved_study(tmp_path, "[probe]\ntaus = [3]"), progress=False).probe()
    back = Study(saved_study(tmp_path), progress=False).probe()
    assert set(back["tau"].dropna()) == {1.0, 2.0, 4.0, 8.0}


def test_changed_weights_under_an_old_name_are_refused(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    study.collect()
    saved_study(tmp_path, logits_s=np.random.default_rng(5).normal(size=(40, 4)))
    with pytest.raises(BankError, match=r"s/logits.safetensors was collected with weights"):
        Study(tmp_path / "study.toml", progress=False).collect()


# --- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("probe", "there is no bank in .*: run `capmismatch collect .*study.toml` first"),
        ("ranks", "run `capmismatch collect .*study.toml` first"),
        ("isats", "run `capmismatch collect .*study.toml` first"),
        ("correlate", "run `capmismatch collect .*study.toml` first"),
    ],
)
def test_a_stage_before_its_input_names_the_command(tmp_path: Path, stage: str, message: str) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    with pytest.raises(InputError, match=message):
        getattr(study, stage)()


def test_a_table_before_it_is_made_names_the_command(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    study.collect()
    with pytest.raises(InputError, match=r"there is no table 'probes' in .*: run `capmismatch probe .*`"):
        study.correlate()
    study.probe()
    commands = {"results": "distill", "links": "correlate", "restored": "isats", "affinity": "ranks"}
    for table, command in commands.items():
        with pytest.raises(InputError, match=f"no table '{table}' in .*: run `capmismatch {command} .*study.toml`"):
            study.load(table)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    study.collect()
    study.probe()
    file = tmp_path / "tables" / "probes.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    for read in (study.probe, lambda: study.load("probes")):
        with pytest.raises(BankError, match=r"probes.parquet is damaged, remove it to have it made again"):
            read()


def test_families_that_share_a_teachers_name_have_all_their_figures(tmp_path: Path) -> None:
    saved_study(tmp_path)
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "teachers.npz", tmp_path / "other" / "rivals.npz")
    study = Study(
        write_study(
            tmp_path,
            """
        name = "two"
        [[family]]
        source = "logits:teachers.npz"
        [[family]]
        source = "logits:other/rivals.npz"
        [data]
        source = "npz:data.npz"
        [probe]
        taus = [4]
    """,
        ),
        progress=False,
    )
    with sketched_figures():
        study.run()
    drawn = {file.stem for file in (study.folder / "figures").glob("*.png")}
    assert "affinity_map" in drawn
    shown = pd.read_csv(study.folder / "figures" / "affinity_map.csv")
    assert {"rivals/xs", "teachers/l"} <= set(shown["teacher"])  # a name alone would be of either family


def test_results_and_distillation_exclude_each_other(tmp_path: Path) -> None:
    extra = '[distill]\nstudents = ["mlp4"]\n[[distill.methods]]\nname = "KD"'
    with pytest.raises(InputError, match=r"study.toml has both results and \[distill\]"):
        Study(saved_study(tmp_path, extra))


def test_given_results_with_other_column_names(tmp_path: Path) -> None:
    file = saved_study(tmp_path)
    frame = pd.read_csv(tmp_path / "results.csv")
    frame.assign(accuracy=100 * frame["accuracy"]).rename(columns={"accuracy": "top1", "teacher": "net"}).to_csv(
        tmp_path / "mine.csv", index=False
    )
    expected = Study(file, progress=False).distill()
    mapped = '{ file = "mine.csv", columns = { net = "teacher", top1 = "accuracy" }, percent = true }'
    file.write_text(file.read_text().replace('"results.csv"', mapped))
    pd.testing.assert_frame_equal(Study(file, progress=False).distill(), expected)
    text = file.read_text()
    file.write_text(text.replace("percent", "percents"))
    with pytest.raises(InputError, match="did you mean 'percent'"):
        Study(file, progress=False)
    frame.replace({"split": {"test": "held out"}}).to_csv(tmp_path / "mine.csv", index=False)
    file.write_text(text.replace(mapped, '{ file = "mine.csv", splits = { "held out" = "test" } }'))
    pd.testing.assert_frame_equal(Study(file, progress=False).distill(), expected)


def test_a_teacher_that_is_no_longer_named_is_told_of(tmp_path: Path) -> None:
    file = saved_study(tmp_path, results=False)
    Study(file, progress=False).collect()
    with np.load(tmp_path / "teachers.npz") as there:
        np.savez(tmp_path / "teachers.npz", **{key: there[key] for key in there.files if not key.endswith("_xs")})
    with pytest.warns(UserWarning, match=r"no longer names; all stages leave them out: teachers/xs$"):
        assert len(Study(file, progress=False).collect().teachers) == 3
    assert "xs" not in set(Study(file, progress=False).probe()["teacher"])


def test_a_missing_results_file(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    (tmp_path / "results.csv").unlink()
    for stage in (study.distill, study.run, study.pick):
        with pytest.raises(InputError, match=r"there is no results file .*results.csv"):
            stage()
    assert not (tmp_path / "bank").exists()  # nothing ran before


# --- what the file says ----------------------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no study file"):
        Study(tmp_path / "study.toml")
    with pytest.raises(InputError, match="there is no study file"):
        Study(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "study.toml is not TOML"),
        pytest.param("widths = " + "[" * 5000 + "]" * 5000, "nested too deeply", id="nested lists"),
        pytest.param("a" + ".b" * 5000 + " = 1", "nested too deeply", id="nested tables"),
        ("", "study.toml lacks the key 'name'"),
        ("name = 'x'\nfamily = []\ndata = { source = 'letters' }", r"names no family: expected at least one"),
        ("name = 'x'\nfamly = []", "unknown key 'famly' in study.toml; did you mean 'family'"),
        (LETTERS.replace("students", "studnets"), r"in study.toml \[distill\]; did you mean 'students'"),
        (LETTERS.replace("n_boot = 20", "n_boot = 0"), r"\[correlate\]: expected n_boot a whole number >= 1, got 0"),
        (LETTERS.replace('name = "KD"', 'name = "KDD"'), "key 'methods', item 1: method must be one of .*mean 'KD'"),
        (LETTERS.replace('name = "KD"', 'name = "CE"'), r"two \[\[distill.methods\]\] are both 'CE': leave one out"),
        (
            LETTERS.replace("scale = [3]", "views = { kind = 'flap' }"),
            r"\[distill.views\]: kind of views must be one of",
        ),
        (LETTERS.replace('"letters"', '"${NO_SUCH_PLACE}"'), "asks for the environment variable NO_SUCH_PLACE"),
    ],
)
def test_a_file_that_is_wrong_is_told_at_once(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Study(write_study(tmp_path, text))


def test_workers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected workers >= 1, got 0"):
        Study(write_study(tmp_path, LETTERS), workers=0)


@pytest.mark.parametrize(
    ("old", "new", "attribute", "message"),
    [
        ('source = "letters:mlp"', "", "family", r"\[\[family\]\] number 1 of study.toml lacks the key 'source'"),
        ("widths", "widhts", "family", r"number 1 of study.toml: option of 'letters:mlp' .*mean 'widths'"),
        ("train = 300, ", "", "train_data", r"names no training rows: give \[data\] a 'train' source or split"),
        (", val = 400, test = 300", "", "eval_data", r"\[data\] of study.toml leaves no validation or test rows"),
        ("epochs = 1", "epoch = 1", "recipe", r"unknown key 'epoch' in \[distill.recipe\]; did you mean 'epochs'"),
        ("epochs = 1", "epochs = 0", "recipe", r"\[distill.recipe\]: expected epochs a whole number >= 1, got 0"),
        ("[[family]]", 'train = "letters"\n[[family]]', "train_data", "has the training rows twice"),
        ("[[family]]", "train_rows = 3\n[[family]]", "train_data", "has train_rows without a 'train' source"),
    ],
)
def test_what_is_told_when_it_is_needed(tmp_path: Path, old: str, new: str, attribute: str, message: str) -> None:
    study = Study(write_study(tmp_path, LETTERS, **{old: new}))
    with pytest.raises(InputError, match=message):
        getattr(study, attribute)


def test_the_environment_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PLACE", str(tmp_path))
    saved_study(tmp_path)
    file = write_study(tmp_path / "in", (tmp_path / "study.toml").read_text().replace("npz:", "npz:${SOME_PLACE}/"))
    assert len(Study(file).eval_data) == 40


# --- which rows ------------------------------------------------------------------------------------------------------


def data(folder: Path, name: str, rows: int, **arrays: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base: dict[str, Any] = {"X": np.arange(rows)[:, None], "labels": np.arange(rows) % 2, "classes": ["a", "b"]}
    np.savez(folder / f"{name}.npz", **(base | arrays))


ROWS = """
name = "rows"
[data]
source = "npz:eval.npz"
[[family]]
source = "logits:x.npz"
"""


def test_by_default_the_sources_own_split_is_kept(tmp_path: Path) -> None:
    """To split it anew would put its training rows among the test rows."""
    data(tmp_path, "eval", 6, split=["train", "train", "val", "test", "test", "val"])
    study = Study(write_study(tmp_path, ROWS))
    assert study.eval_data.rows.ids.tolist() == ["2", "3", "4", "5"]
    assert study.train_data.rows.ids.tolist() == ["0", "1"]


def test_by_default_a_source_without_split_is_halved_even_if_odd(tmp_path: Path) -> None:
    data(tmp_path, "eval", 7)
    rows = Study(write_study(tmp_path, ROWS)).eval_data.rows
    assert sorted(rows.ids.tolist()) == [str(i) for i in range(7)]
    assert sorted([(rows.split == "val").sum(), (rows.split == "test").sum()]) == [3, 4]


def test_training_rows_of_another_source(tmp_path: Path) -> None:
    data(tmp_path, "eval", 6)
    data(tmp_path, "train", 9, split=["train"] * 6 + ["test"] * 3)
    text = ROWS.replace("[[family]]", 'train = "npz:train.npz"\n[[family]]')
    assert sorted(Study(write_study(tmp_path, text)).train_data.rows.ids.tolist()) == list("012345")
    few = Study(write_study(tmp_path, text.replace("[[family]]", "train_rows = 4\n[[family]]")))
    assert np.bincount(few.train_data.labels).tolist() == [2, 2]
    assert set(few.train_data.rows.ids) < set("012345")
    data(tmp_path, "train", 9, classes=["b", "a"])
    with pytest.raises(InputError, match=r"with the classes \['a', 'b'\], got \['b', 'a'\] from npz:train"):
        _ = Study(write_study(tmp_path, text)).train_data


def test_a_grid_that_fails_altogether_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=1, batch_size=100))
    study = Study(write_study(tmp_path, LETTERS), progress=False)
    study.collect()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr(student_trainer, "fit", fail)
    with pytest.raises(CapmismatchError, match=r"8 of 8 runs failed; .* mlp5 by CE, seed 0, with: .*no such luck"):
        study.distill()
    assert not study.has("results")


def test_links_and_figures_are_kept_while_no_table_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capmismatch.report import gallery
    from capmismatch.selection import links

    study = Study(saved_study(tmp_path), progress=False)
    with sketched_figures():
        study.run()
    figures = study.plot()
    assert figures and all(file.exists() for file in figures)
    monkeypatch.setattr(links, "correlate", lambda *_, **__: pytest.fail("links were made anew"))
    monkeypatch.setattr(gallery, "draw_all", lambda *_: pytest.fail("figures were drawn anew"))
    study.correlate()
    assert study.plot() == figures
    figures[0].unlink()
    with pytest.raises(pytest.fail.Exception, match="figures were drawn anew"):
        study.plot()


def test_a_run_with_nothing_to_do_keeps_choice_tables_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capmismatch.report import page
    from capmismatch.selection import picking

    study = Study(saved_study(tmp_path), progress=False)
    with sketched_figures():
        first = study.run()
    written = tmp_path / "report.html"
    before = {file: file.stat().st_mtime_ns for file in (written, *tmp_path.glob("tables/*.parquet"))}
    monkeypatch.setattr(picking, "pick", lambda *_, **__: pytest.fail("picked anew"))
    monkeypatch.setattr(page, "write_report", lambda *_: pytest.fail("the page was written anew"))
    again = Study(study.file, progress=False)
    assert str(again.run()) == str(again.choice()) == str(first)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    written.write_text(written.read_text(encoding="utf-8") + "<!-- mine -->", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match="the page was written anew"):
        again.run()
    tmp_path.joinpath("tables", "pick.parquet").unlink()
    with pytest.raises(pytest.fail.Exception, match="picked anew"):
        again.run()


def test_a_choice_with_other_options_is_shown_as_made_and_not_kept_for_a_run(tmp_path: Path) -> None:
    study = Study(saved_study(tmp_path), progress=False)
    usual = study.pick()
    assert str(study._kept_choice()) == str(usual)
    asked = study.pick(rule="largest")
    assert str(study.choice()) == str(asked)
    assert study._kept_choice() is None


def test_saved_logits_bring_their_rows(tmp_path: Path) -> None:
    saved_study(tmp_path)
    file = write_study(
        tmp_path,
        """
        name = "saved"
        [[family]]
        source = "logits:teachers.npz"
    """,
    )
    study = Study(file, progress=False)
    study.collect()
    bank = study.bank
    assert sorted(bank.rows.split.tolist()) == ["test"] * 20 + ["val"] * 20
    with np.load(tmp_path / "teachers.npz") as saved:
        rows = bank.rows.ids.astype(int)
        np.testing.assert_allclose(bank.logits("teachers/xs"), saved["logits_xs"][rows].astype(np.float32))
    assert to_pick(study).teacher
    letters = write_study(
        tmp_path,
        """
        name = "letters"
        [[family]]
        source = "letters:mlp"
    """,
    )
    with pytest.raises(InputError, match=r"lacks \[data\] source: only saved logits bring rows of their own"):
        Study(letters, progress=False).collect()
