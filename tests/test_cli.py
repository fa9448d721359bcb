"""The command line, on a study small enough to run all its stages: four saved teachers and students' results as CSV."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from messages import naming
from studies import TEACHERS, letters_study, saved_study, write_study
from torch import nn

from capmismatch import __version__, cli
from capmismatch.distillation.soft_label_files import load_soft_labels
from capmismatch.errors import InputError
from capmismatch.report import gallery
from capmismatch.study.study import STAGES, Study
from capmismatch.study.template import new_study


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
    assert listed[: 4 + len(STAGES)] == ["init", "check", "run", "demo", *STAGES]


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
    [("probe", "collect"), ("ranks", "collect"), ("isats", "collect"), ("correlate", "collect")],
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
    """One after the other they lead to links."""
    words, stages = ["correlate", str(saved_study(tmp_path)), "--folder", str(tmp_path / "else where")], []
    while (outcome := command(*words)).code:
        hint = re.search("run `capmismatch (.*)` first", outcome.err)
        assert hint, outcome.err
        stages.append(shlex.split(hint[1])[0])
        assert command(*shlex.split(hint[1]), "--quiet").code == 0
    assert stages == ["collect", "probe", "distill"] and "spearman" in outcome.out


def test_pick_makes_what_it_needs(tmp_path: Path) -> None:
    study, elsewhere = saved_study(tmp_path), tmp_path / "else where"
    outcome = command("pick", study, "--folder", elsewhere, "--json")
    assert outcome.code == 0 and outcome.err == ""
    choice = json.loads(outcome.out)
    assert (choice["teacher"], choice["rule"], choice["table"][0]["teacher"]) == ("l", "results", "l")
    assert made(elsewhere) >= {"tables/probes.parquet", "tables/results.parquet", "tables/pick.parquet"}
    assert choice["command"] == "" and "names no training rows" in choice["no_command"]  # they are held-out rows alone


def test_pick_takes_a_tolerance(tmp_path: Path) -> None:
    study = saved_study(tmp_path)
    wide, narrow = (json.loads(command("pick", study, "--json", "--tolerance", points).out) for points in ("100", "0"))
    assert [row["within"] for row in wide["table"]] == [1.0] * len(wide["table"])
    assert narrow["table"][-1]["within"] < 1
    assert Study(study).options_of_pick() == {"tolerance": 0.0}, "the report goes by it, too"
    assert_one_line(command("pick", study, "--tolerance", "-1"), "expected a tolerance in points >= 0")


def test_init_names_what_is_not_there_first(tmp_path: Path) -> None:
    study = saved_study(tmp_path)  # is there already
    assert_one_line(command("init", tmp_path / "no.npz", "--out", study), "no.npz: expected a folder of checkpoints")
    students = ("--results", tmp_path / "no.csv", "--out", study)
    assert_one_line(command("init", tmp_path, *students), "no.csv: expected a table of students")


def test_soften_takes_the_command_of_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as printed where there are training rows; else it is said that they are needed."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    sound = {
        f"logits_{name}": gain * np.eye(3)[labels] + rng.normal(size=(300, 3)) for name, gain in (("s", 2), ("l", 3))
    }
    rows = [
        f"{name},KD,4,{seed},{split},{0.7 + 0.01 * seed + 0.1 * (name == 'l')}"
        for name in "sl"
        for seed in range(3)
        for split in ("val", "test")
    ]
    (tmp_path / "students.csv").write_text("\n".join(["teacher,method,tau,seed,split,accuracy", *rows]))
    monkeypatch.chdir(tmp_path)
    np.savez("held out.npz", labels=labels, **sound)
    np.savez("all.npz", labels=labels, split=np.repeat(["train", "val", "test"], 100), **sound)
    np.savez("rows.npz", labels=labels, X=np.zeros((300, 2)), split=np.repeat(["train", "val", "test"], 100))
    np.savez("other.npz", labels=labels, X=np.zeros((300, 2)), ids=[f"new{row}" for row in range(300)])
    for name, data, lacking in (
        ("held out.npz", None, "names no training rows"),
        ("all.npz", None, ""),
        ("held out.npz", "npz:rows.npz", ""),
        ("held out.npz", 'npz:rows.npz"\ntrain = "npz:other.npz', "no saved logits for example 'new0'"),
    ):
        study, options = tmp_path / "my study.toml", ("--results", "students.csv")
        study.unlink(missing_ok=True)
        assert command("init", name, "--out", study, *options).code == 0
        if data is not None:
            study.write_text(study.read_text().replace("# [data] is not needed", f'[data]\nsource = "{data}"\n#'))
        for folder in ((), ("--folder", tmp_path / "else where")):
            outcome = command("pick", study, *folder, "--quiet", "--json")
            assert outcome.code == 0, outcome.err
            choice = json.loads(outcome.out)
            assert choice["command"] or lacking in choice["no_command"]
            assert bool(choice["command"]) is not bool(lacking)
            printed = command("pick", study, *folder, "--quiet").out
            assert (choice["command"] or f"# {choice['no_command']}") in printed
            if lacking:
                continue
            outcome = command(*shlex.split(choice["command"])[1:])
            assert outcome.code == 0, outcome.err
            soft = load_soft_labels("soft.safetensors")
            assert (soft.teacher, soft.ids.tolist()) == (f"{name[:-4]}/l", [str(row) for row in range(100)])
            Path("soft.safetensors").unlink()
        for made_before in ("bank", "tables", "else where"):
            shutil.rmtree(tmp_path / made_before, ignore_errors=True)


def checkpoints(folder: Path) -> None:
    """Two runs as training repositories leave them, with the data and the builder beside."""
    (folder / "my_models.py").write_text(
        "from torch import nn\ndef make(name):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(4, int(name[1:])), nn.ReLU(), nn.Linear(int(name[1:]), 3))\n"
    )
    labels = np.arange(120) % 3
    noise = np.random.default_rng(0).integers(0, 60, (120, 2, 2, 1))
    images = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(folder / "test.npz", images=images, labels=labels)
    for width in (8, 32):
        torch.manual_seed(width)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
        for name in ("last.pth", "model_best.pth"):
            (folder / "runs" / f"w{width}").mkdir(parents=True, exist_ok=True)
            torch.save({"model": network.state_dict()}, folder / "runs" / f"w{width}" / name)


def test_init_and_check_of_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = ("--data", "npz:test.npz", "--builder", "my_models:make")
    assert command("init", "runs", *data).code == 0
    assert 'source = "ckpt:runs/*/model_best.pth"' in Path("study.toml").read_text()
    assert_one_line(command("init", "runs", *data), "study.toml is there already")
    outcome = command("check", "study.toml", "--json")
    look = json.loads(outcome.out)
    assert (outcome.code, look["problems"]) == (0, [])
    assert [(t["teacher"], t["params"]) for t in look["teachers"]] == [("w8", 67), ("w32", 259)]
    assert {note[:5] for note in look["notes"]} >= {"CM036"}
    assert look["cost"][0]["passes"] == 2 * 120 and look["hours"] > 0
    assert not {path.name for path in Path().iterdir()} & {"bank", "tables"}  # nothing is left
    assert command("init", "runs", *data[:2], "--out", "deep/study.toml").code == 0
    text = Path("deep/study.toml").read_text()  # everything there is found from the study's folder
    assert 'source = "npz:../test.npz"' in text and 'source = "ckpt:../runs/*/model_best.pth"' in text


def test_check_tells_all_that_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("teacher,method,accuracy\nother,KD,0.5\n")
    command("init", "runs", "--data", "npz:test.npz", "--builder", "my_models:make", "--results", "mine.csv")
    text = Path("study.toml").read_text()
    Path("study.toml").write_text(text.replace("taus = [1, 2, 4, 8]", 'names = ["nil"]'))
    outcome = command("check", "study.toml", "--quiet")
    assert outcome.code == 2
    assert "did you mean 'nll'" in outcome.out and "no teacher has both logits and results" in outcome.out
    Path("my_models.py").write_text("def make(name):\n    raise OSError('no such network')\n")
    look = json.loads(command("check", "study.toml", "--json").out)
    assert any("the builder failed for" in problem and "given 'w8'" in problem for problem in look["problems"])


def test_check_tells_of_half_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_study(tmp_path, letters_study(rows=(60, 40, 30), widths=(4,), teacher_seeds=1, seeds=3))
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    problems = json.loads(command("check", file, "--json").out)["problems"]
    assert any("WORLD_SIZE=2" in problem and "RANK" in problem for problem in problems)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "0x2", "2_0", "\uff11", "9" * 20, ""])
def test_numbers_of_workers_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    file = write_study(tmp_path, letters_study(rows=(60, 40, 30), widths=(4,), teacher_seeds=1, seeds=3))
    monkeypatch.setenv("CAPMISMATCH_WORKERS", value)
    outcome = command("check", file)
    assert outcome.code != 0 and "Traceback" not in outcome.err
    assert "workers" in (outcome.out + outcome.err).lower()


def test_check_counts_the_students(tmp_path: Path) -> None:
    file = write_study(tmp_path, letters_study(rows=(60, 40, 30), widths=(4,), teacher_seeds=1, seeds=3))
    look = json.loads(command("check", file, "--json", "--workers", "1").out)
    assert look["problems"] == []
    passes = {row["what"]: row["passes"] for row in look["cost"]}
    assert passes == {
        "forward, teachers on held-out rows": 70,
        "forward, teachers on training rows": 60,
        "forward and backward, 6 students mlp5": 6 * 60,
    }
    assert all(row["hours"] >= 0 for row in look["cost"])


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (("a.pt", "b.pt"), "*.pt"),
        (("a/model_best.pth", "a/last.pth", "b/last.pth", "b/model_best.pth"), "*/model_best.pth"),
        (("a/epoch_9.pt", "a/epoch_10.pt", "b/epoch_9.pt", "b/epoch_10.pt"), "*/epoch_10.pt"),
        (("x/a/ckpt/best.pt", "y/b/ckpt/best.pt"), "*/*/*/best.pt"),
    ],
)
def test_init_finds_one_checkpoint_a_run(tmp_path: Path, files: tuple[str, ...], pattern: str) -> None:
    for name in files:
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / name).touch()
    written = new_study(tmp_path / "zoo", tmp_path / "study.toml", builder="m:f", data="letters").read_text()
    assert f'source = "ckpt:zoo/{pattern}"' in written
    tomllib.loads(written)


def test_init_of_logits_needs_no_data(tmp_path: Path) -> None:
    saved_study(tmp_path)
    logits = tmp_path / "teachers.npz"
    written = new_study(logits, tmp_path / "own.toml", results=tmp_path / "results.csv")
    table = tomllib.loads(written.read_text())
    assert table["family"] == [{"source": f"logits:{logits.name}"}] and table["results"] == "results.csv"
    with pytest.raises(InputError, match="expected checkpoints"):
        (tmp_path / "empty").mkdir()
        new_study(tmp_path / "empty", tmp_path / "none.toml")


def test_status_and_teachers_as_json(tmp_path: Path) -> None:
    file = write_study(tmp_path, letters_study(rows=(60, 40, 30), widths=(4,), teacher_seeds=1))
    assert command("collect", file, "--quiet").code == 0
    counts = json.loads(command("status", file, "--json").out)
    assert (counts["done"], counts["runs"], counts["seconds_left"]) == (0, 4, None)
    assert [row["teacher"] for row in counts["rows"]] == ["", "mlp4"]
    code = (
        f"import sys\nfrom capmismatch import cli\ntry:\n    cli.app(['status', {str(file)!r}])\n"
        "except SystemExit:\n    pass\n"
        "sys.exit(str({'torch', 'scipy.stats', 'matplotlib'} & sys.modules.keys() or ''))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "0 of 4 done" in shown.stdout and not shown.stderr.strip(), shown.stderr
    listed = json.loads(command("teachers", "torchvision:resnet{18,34}", "--json").out)
    assert [(row["name"], row["params"]) for row in listed] == [("resnet18", 11689512), ("resnet34", 21797672)]


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
        "pick": " teachers/l, based on ",
        "plot": str(tmp_path / "figures" / "variance_vs_capacity.png"),
        "report": str(tmp_path / "report.html"),
    }
    assert [stage for stage in STAGES if expected[stage] not in shown[stage].out] == []
    of_run = {"tables/report.json"}  # by which it knows that the page need not be written again
    assert made(tmp_path) == made(studied) - of_run
    for file in sorted((tmp_path / "tables").glob("*.parquet")):
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(studied / "tables" / file.name))


def test_several_figures_by_their_names_and_the_teachers_as_latex(studied: Path, tmp_path: Path) -> None:
    both = "capacity_curve,pick_chart"
    drawn = command("plot", studied, "--only", both, "--format", "svg", "--out", tmp_path, "--quiet")
    assert drawn.code == 0, drawn.err
    names = {Path(line).stem for line in drawn.out.split()}
    assert "pick_chart" in names and len(names) > 1
    assert all(name == "pick_chart" or name.startswith("capacity_curve_") for name in names)
    plain = command("latex", studied)
    assert plain.code == 0 and plain.out == command("latex", studied, "teachers").out


def made(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


def test_a_pick_is_written_as_a_page(studied: Path, tmp_path: Path) -> None:
    plain = command("pick", studied)
    for name, start in {"pick.html": "<!doctype html>", "pick.md": "## "}.items():
        outcome = command("pick", studied, "--out", tmp_path / "new" / name)
        assert outcome.out == f"{plain.out}\n{tmp_path / 'new' / name}\n"
        page = (tmp_path / "new" / name).read_text(encoding="utf-8")
        assert page.startswith(start) and " teachers/l, based on " in page and "P(best)" in page
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
    assert command("collect", tmp_path).err == "collect: 4 shards\n"  # nobody watches: a line, no bar
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
