"""The command line, on a study small enough to run all its stages: four saved teachers and students' results as CSV."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from messages import naming
from studies import TEACHERS, saved_study

from capmismatch import __version__, cli
from capmismatch.errors import InputError
from capmismatch.report import gallery
from capmismatch.study.study import STAGES, Study


class Outcome:
    """What one command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def command(*words: str | Path) -> Outcome:
    """Run a command as the entry point does, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["capmismatch", *map(str, words)])
        try:
            with warnings.catch_warnings():  # Cyclopts warns once a session of what is meant here: the words of argv
                warnings.filterwarnings("ignore", "Cyclopts application invoked without tokens")
                cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module", autouse=True)
def few_figures() -> Iterator[None]:
    """Figures have tests of their own, and drawing all of them takes most of the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        few = {name: gallery.FIGURES[name] for name in ("variance_vs_capacity", "pick_chart")}
        patch.setattr(gallery, "FIGURES", few)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file that no test runs or changes."""
    return saved_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a study that `capmismatch run` has run, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    saved_study(folder)
    return folder, command("run", folder / "study.toml", "--quiet")


@pytest.fixture
def studied(first: tuple[Path, Outcome]) -> Path:
    return first[0]


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_stage_without_loading_torch() -> None:
    code = (
        "import sys\nfrom capmismatch import cli\ntry:\n    cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'matplotlib', 'numba', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert shown.returncode == 0, shown.stderr
    listed = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert listed[: 2 + len(STAGES)] == ["run", "demo", *STAGES]


def test_every_stage_has_a_method_of_the_same_name() -> None:
    assert all(callable(getattr(Study, stage)) for stage in STAGES)


def test_version() -> None:
    assert command("--version").out.strip() == __version__


def test_the_package_runs_as_a_module() -> None:
    line = [sys.executable, "-m", "capmismatch"]
    shown = subprocess.run([*line, "--version"], capture_output=True, text=True)
    assert (shown.returncode, shown.stdout.strip(), shown.stderr) == (0, __version__, "")
    failed = subprocess.run([*line, "probe", "no/such/study.toml"], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: there is no study file")


# --- errors -----------------------------------------------------------------------------------------------------------


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_missing_study_file(tmp_path: Path) -> None:
    assert_one_line(command("probe", tmp_path / "nowhere.toml"), "there is no study file", "nowhere.toml")


def test_unknown_key_is_told_with_the_nearest(tmp_path: Path) -> None:
    study = saved_study(tmp_path)
    study.write_text(f"{study.read_text()}[probe]\ntau = [4]\n")
    assert_one_line(command("probe", study), "'tau'", "did you mean 'taus'?")


def test_what_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("name = \n")
    assert_one_line(command("run", tmp_path), "is not TOML", "line 1")


@pytest.mark.parametrize(
    ("stage", "needs"),
    [("probe", "collect"), ("ranks", "collect"), ("isats", "collect"), ("correlate", "collect"), ("pick", "collect")],
)
def test_stage_before_its_input_names_the_stage_to_run(
    study: Path, stage: str, needs: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(study.parent)
    assert_one_line(command(stage, study, "--quiet"), f"run `capmismatch {needs} {study.name}` first")
    elsewhere = ("--folder", tmp_path / "else where")
    hint = f"run `capmismatch {needs} study.toml --folder '{tmp_path / 'else where'}'` first"
    assert_one_line(command(stage, "study.toml", *elsewhere, "--quiet"), hint)
    monkeypatch.chdir(tmp_path)
    assert_one_line(command(stage, study, "--quiet"), f"run `capmismatch {needs} {study}` first")


def test_commands_that_errors_name_work_as_they_stand(tmp_path: Path) -> None:
    """One after the other they lead to a pick."""
    words, stages = ["pick", str(saved_study(tmp_path)), "--folder", str(tmp_path / "else where")], []
    while (outcome := command(*words)).code:
        hint = re.search("run `capmismatch (.*)` first", outcome.err)
        assert hint, outcome.err
        stages.append(shlex.split(hint[1])[0])
        assert command(*shlex.split(hint[1]), "--quiet").code == 0
    assert stages == ["collect", "probe"] and "First guess: " in outcome.out


def test_evidence_that_is_no_study_and_runs_that_are_not_there(study: Path, studied: Path, tmp_path: Path) -> None:
    outcome = command("pick", studied, "--evidence", tmp_path)
    assert_one_line(outcome, "no table 'probes'", "expected the folder of a study that has run")
    outcome = command("pick", studied, "--evidence", study.parent)
    assert_one_line(outcome, f"run `capmismatch probe {study}` first")
    outcome = command("track", study, "--to", "tensorboard", "--out", tmp_path)
    assert_one_line(outcome, f"run `capmismatch distill {study}` first")


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert_one_line(command("demo", tmp_path / "taken"), "cannot make the folder", "taken")


@pytest.mark.parametrize("words", [["--fodler", "x"], ["--workers", "0"]])
def test_wrong_option_is_named(study: Path, words: list[str]) -> None:
    outcome = command("run", study, *words)
    assert outcome.code != 0
    assert words[0].replace("fodler", "folder") in outcome.err
    assert "Traceback" not in outcome.err
    assert made(study.parent) == {"study.toml", "teachers.npz", "data.npz", "results.csv"}


def test_interrupt_says_how_to_go_on(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Study) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "probe", interrupt)
    outcome = command("probe", study)
    assert outcome.code == 130
    assert outcome.err.startswith("stopped") and outcome.err.count("\n") == 1  # no traceback


@pytest.mark.parametrize("words", [["correlate"], ["collect", "--quiet"], ["pick"]])
def test_a_reader_that_has_seen_enough_is_no_error(studied: Path, words: list[str]) -> None:
    """As after ``| head``: before anything is written, and with output that the pipe still held."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "capmismatch", words[0], str(studied), *words[1:]]
    try:
        ended = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_other_broken_pipes_keep_their_traceback(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Study) -> None:
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr(Study, "probe", broken)
    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        command("probe", study)


def test_unforeseen_errors_keep_their_traceback(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors that are raised on purpose are shortened; a bug must show where it is."""
    monkeypatch.setattr(Study, "probe", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("probe", study)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_run_prints_teachers_choice_and_where_things_are(first: tuple[Path, Outcome]) -> None:
    folder, outcome = first
    assert (outcome.code, outcome.err) == (0, "")
    assert "saved: Which of four saved teachers?" in outcome.out
    table = outcome.out.split("Teachers\n")[1].splitlines()
    assert table[0].split()[:2] == ["family", "teacher"]
    assert [line.split()[1] for line in table[1:5]] == list(TEACHERS)
    assert any(re.search(naming("teachers/l", "tiny", "KD tau=4"), line) for line in outcome.out.splitlines())
    for name in ("report.html", "figures", "tables"):
        assert str(folder / name) in outcome.out
        assert (folder / name).exists()


def test_second_run_keeps_what_is_done(first: tuple[Path, Outcome]) -> None:
    folder, outcome = first
    names = ("bank/teachers/xs/logits.safetensors", *(f"tables/{t}.parquet" for t in ("probes", "ranks", "restored")))
    before = [(folder / name).stat().st_mtime_ns for name in names]
    again = command("run", folder, "--quiet")
    assert (again.code, again.err) == (0, "")
    assert [(folder / name).stat().st_mtime_ns for name in names] == before
    assert again.out.partition("Done in")[0] == outcome.out.partition("Done in")[0]


def test_stages_one_by_one_leave_the_same_as_run(studied: Path, tmp_path: Path) -> None:
    study = saved_study(tmp_path)
    shown = {stage: command(stage, study, "--quiet") for stage in STAGES}
    codes = {stage: (outcome.code, outcome.err) for stage, outcome in shown.items()}
    assert codes == dict.fromkeys(STAGES, (0, ""))
    expected = {
        "collect": "4 teachers",
        "probe": "accuracy",
        "ranks": "wrong_tau_b",
        "isats": "derived_variance",
        "distill": "KD tau=4",
        "correlate": "spearman",
        "pick": " teachers/l by ",
        "plot": str(tmp_path / "figures" / "variance_vs_capacity.png"),
        "report": str(tmp_path / "report.html"),
    }
    assert [stage for stage in STAGES if expected[stage] not in shown[stage].out] == []
    assert made(tmp_path) == made(studied)
    for file in sorted((tmp_path / "tables").glob("*.parquet")):
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(studied / "tables" / file.name))


def made(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


def test_a_pick_is_written_as_a_page(studied: Path, tmp_path: Path) -> None:
    plain = command("pick", studied)
    for name, start in {"pick.html": "<!doctype html>", "pick.md": "## "}.items():
        outcome = command("pick", studied, "--out", tmp_path / "new" / name)
        assert outcome.out == f"{plain.out}\n{tmp_path / 'new' / name}\n"
        page = (tmp_path / "new" / name).read_text(encoding="utf-8")
        assert page.startswith(start) and " teachers/l by " in page and "p_best" in page
    assert_one_line(command("pick", studied, "--out", tmp_path / "pick.pdf"), "ends in .html or .md", "pick.pdf")


def test_results_of_one_split_are_shown(tmp_path: Path) -> None:
    study = saved_study(tmp_path)
    pd.read_csv(tmp_path / "results.csv").query("split == 'val'").to_csv(tmp_path / "results.csv", index=False)
    outcome = command("distill", study, "--quiet")
    assert outcome.code == 0 and "xs" in outcome.out


def test_long_tables_are_cut(studied: Path) -> None:
    shown = command("ranks", studied, "--quiet").out.splitlines()
    assert shown[-1].startswith("... ") and shown[-1].endswith(" more rows")
    rows = len(pd.read_parquet(studied / "tables" / "ranks.parquet"))
    assert rows == len(shown) - 2 + int(shown[-1].split()[1])


def test_progress_is_shown_unless_quiet(tmp_path: Path) -> None:
    saved_study(tmp_path)
    assert "collect" in command("collect", tmp_path).err
    assert command("probe", tmp_path, "--quiet").err == ""


def test_results_go_to_another_folder(tmp_path: Path) -> None:
    saved_study(tmp_path)
    before = made(tmp_path)
    outcome = command("collect", tmp_path, "--folder", tmp_path / "elsewhere", "--quiet")
    assert outcome.code == 0
    assert {name for name in made(tmp_path) - before if not name.startswith("elsewhere/bank/")} == set()
    assert json.loads((tmp_path / "elsewhere" / "bank" / "bank.json").read_text())


def test_demo_lays_down_the_embedded_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is laid down and handed on, and an edited one is kept; the study itself is run by the tests of study."""
    opened = []

    def stop(self: Study) -> None:
        opened.append(self)
        raise InputError("far enough")

    monkeypatch.setattr(Study, "run", stop)
    assert_one_line(command("demo", tmp_path / "new" / "demo", "--workers", "1"), "far enough")
    file = tmp_path / "new" / "demo" / "study.toml"
    assert (opened[0].file, opened[0].folder, opened[0].workers) == (file.resolve(), file.parent.resolve(), 1)
    file.write_text(file.read_text().replace('name = "letters"', 'name = "mine"'))
    command("demo", file.parent)
    assert opened[1].config.name == "mine"
    monkeypatch.chdir(tmp_path)
    command("demo", "--lm")
    assert (opened[2].config.name, opened[2].folder) == ("kjv", tmp_path / "demo-lm")
