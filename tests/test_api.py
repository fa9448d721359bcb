"""The public names, and that what README.md says is so."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import capmismatch as cm
from capmismatch import cli, findings
from capmismatch.distillation import methods
from capmismatch.study import study

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "examples/README.md")
}
README = PAGES["README.md"]

# Names that are functions; the classes, modules and __version__ beside them are told apart by their own tests.
FUNCTIONS = (
    "affinity",
    "bank_from_arrays",
    "collect",
    "correlate",
    "dark_knowledge",
    "diagnose",
    "distill",
    "explain",
    "figure_style",
    "list_examples",
    "load_dataset",
    "load_example",
    "load_family",
    "load_results",
    "load_study",
    "fit",
    "make_rows",
    "pick",
    "probe",
    "rank_stability",
    "reliability",
    "restored_variance",
    "teach_through",
    "train_with_checkpoints",
)
MODULES = ("architectures", "losses", "plots", "probes", "ranks", "temperature")


def python(code: str) -> str:
    """Run code in a process of its own, where nothing has been imported yet."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in cm.__all__ if name != "__version__"])
def test_public_names_are_there_and_explained(name: str) -> None:
    value = getattr(cm, name)
    assert len(inspect.getdoc(value) or "") > 20
    if not isinstance(value, types.ModuleType):
        assert value.__module__.startswith("capmismatch")


def test_all_is_what_there_is() -> None:
    assert len(set(cm.__all__)) == len(cm.__all__)
    assert set(cm.__all__) >= {*FUNCTIONS, *MODULES, "__version__"}
    assert set(cm.__all__) <= set(dir(cm))
    with pytest.raises(AttributeError, match="probes_of"):
        cm.probes_of  # noqa: B018


def test_import_is_light() -> None:
    heavy = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "scipy", "numba", "jinja2")
    assert python(f"import sys, capmismatch; print({{*{heavy}}} & sys.modules.keys() or 'light')") == "light"


def test_no_public_function_is_called_like_a_module() -> None:
    """Such a module would take the function's place in the package as soon as anything imports it."""
    modules = {info.name for info in pkgutil.iter_modules(cm.__path__)}
    assert modules & set(cm.__all__) == set(MODULES)


def test_each_name_is_said_once_in_the_stub() -> None:
    """``import x as x`` is how a stub says that a name is public."""
    stub = Path(cm.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    pairs = re.findall(r"^from \.\S* import (\w+) as (\w+)$", stub, re.MULTILINE)
    assert sorted(pairs) == [(name, name) for name in sorted(cm.__all__)]
    assert stub.count("import") == len(pairs)


# --- the verbs, one after the other -----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Six saved teachers of 90 examples and five classes; their accuracy grows with size, their students' peaks."""
    generator = np.random.default_rng(1)
    labels = np.arange(90) % 5
    shared = generator.normal(size=(90, 5)) + 2 * np.eye(5)[labels]
    arrays: dict[str, Any] = {"labels": labels, "X": np.zeros((90, 1)), "split": np.repeat(["val", "test"], 45)}
    lines = ["family,net,method,tau,seed,split,top1"]
    for size in range(1, 7):
        own = generator.normal(size=shared.shape)
        arrays[f"logits_net{size}"] = (size * shared + own).astype(np.float32)
        arrays[f"params_net{size}"] = np.array(100 * size)
        for split in ("val", "test"):
            top1 = [70 - abs(size - 4) + 0.1 * seed * size for seed in range(2)]
            lines += [f"saved,net{size},KD,4,{seed},{split},{value}" for seed, value in enumerate(top1)]
    lines += [f",,CE,,{seed},{split},{60 + seed}" for split in ("val", "test") for seed in range(2)]
    np.savez(tmp_path / "saved.npz", **arrays)
    (tmp_path / "students.csv").write_text("\n".join(lines))
    return tmp_path


def test_the_verbs_fit_together(saved: Path) -> None:
    family = cm.load_family("logits:saved.npz", base=saved)
    data = cm.load_dataset("npz:saved.npz", base=saved)
    bank = cm.collect(family, data, saved / "bank", progress=False)
    probes = cm.probe(bank, taus=[1, 4], progress=False)
    ranks = cm.rank_stability(bank, progress=False)
    restored = cm.restored_variance(bank, progress=False)
    results = cm.load_results(saved / "students.csv", {"net": "teacher", "top1": "accuracy"}, percent=True)
    links = cm.correlate(probes, results, n_boot=100)
    choice = cm.pick(probes, results, n_boot=100)
    axes = cm.plots.variance_vs_capacity(probes)
    drawn = cm.plots.drawn_data(axes)

    assert bank.keys == [f"saved/net{size}" for size in range(1, 7)]
    accuracy = probes[probes["probe"].eq("accuracy")]["value"]
    assert list(accuracy) == [
        pytest.approx((bank.logits(key, "val").argmax(1) == bank.labels("val")).mean()) for key in bank.keys
    ]
    assert ranks.groupby("metric").size().eq(15).all()  # pairs of six
    assert set(restored["method"]) == {"TS", "ATS", "ISATS"}
    assert links["n"].eq(6).all()
    assert isinstance(choice, cm.Choice) and (choice.teacher, choice.label) == ("net4", "KD tau=4")
    assert set(drawn["label"]) == set(probes["teacher"])
    for table in (probes, ranks, restored, results, links, choice.table, drawn):
        assert isinstance(table, pd.DataFrame) and len(table)


def test_a_family_brings_its_own_data(saved: Path) -> None:
    family = cm.load_family("logits:saved.npz", base=saved)
    own = cm.collect(family, None, saved / "own", progress=False)
    given = cm.collect(family, cm.load_dataset("npz:saved.npz", base=saved), saved / "given", progress=False)
    pd.testing.assert_frame_equal(cm.probe(own, progress=False), cm.probe(given, progress=False))


# --- README.md --------------------------------------------------------------------------------------------------------


def blocks(kind: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def named_blocks(kind: str) -> dict[str, str]:
    """Files that the page shows: a block after a line that ends with the file's name and a colon."""
    return dict(re.findall(rf"`([\w.]+)`:\n\n```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


def assert_alike(printed: str, shown: str) -> None:
    """The same words, and the same numbers but for the last digits, which depend on the machine."""
    number = r"-?\d[\d,]*(?:\.\d+)?"
    wanted, got = ([float(n.replace(",", "")) for n in re.findall(number, text)] for text in (shown, printed))
    words = [re.sub(rf"{number}|[ ]+", " ", text).split() for text in (shown, printed)]
    assert words[0] == words[1]
    assert got == pytest.approx(wanted, abs=1.5)  # chances in percent; accuracies differ by less


def test_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPMISMATCH_CACHE", str(tmp_path / "cache"))
    ((name, table),) = named_blocks("csv").items()
    Path(name).write_text(table)
    names: dict[str, Any] = {}
    first, second = blocks("python")
    exec(compile(first, "README.md, first block", "exec"), names)
    (shown,) = blocks("text")
    assert_alike(capsys.readouterr().out, shown)
    exec(compile(second, "README.md, second block", "exec"), names)
    assert Path("report.html").stat().st_size > 100_000
    assert names["choice"].teacher == "mlp48"
    assert names["links"]["n"].eq(3).all() and "CM003" in names["choice"].findings


@pytest.mark.slow
def test_study_of_the_readme_runs(tmp_path: Path) -> None:
    ((name, text),) = named_blocks("toml").items()
    (tmp_path / name).write_text(text)
    choice = cm.load_study(tmp_path / name, progress=False).run()
    assert choice.student == "mlp16" and len(choice.table) == 3
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 12  # "twelve students"
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"bank", "runs", "tables", "figures", "report.html", "teachers"}
    named = set(re.findall(r"`(?:tables/)?(\w+\.parquet)`", README))
    assert named == {path.name for path in (tmp_path / "tables").glob("*.parquet")}


def test_every_key_of_a_study_file_is_explained() -> None:
    rows = dict(re.findall(r"^\| (top|`\[+\w[\w.]*\]+`) \| (.*) \|$", README, re.MULTILINE))
    for name, hint in typing.get_type_hints(study.StudyConfig).items():
        part = next((kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)), None)
        if part is not None:
            told = set(re.findall(r"`(\w+)`", rows[f"`[{name}]`"]))
            assert {field.name for field in dataclasses.fields(part)} <= told, name
        else:
            assert f"`[[{name}]]`" in rows or f"`{name}`" in rows["top"], name
    told = set(re.findall(r"\w+", rows["`[[distill.methods]]`"]))
    assert {field.name for field in dataclasses.fields(cm.Method)} | set(methods.METHODS) <= told


def test_every_stage_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `.*` \| .* \|$", README.split("| stage |")[1].split("\n\n")[0], re.MULTILINE)
    assert tuple(rows) == study.STAGES


def test_findings_that_can_occur_are_explained() -> None:
    given: set[str] = set()
    for path in (ROOT / "capmismatch").rglob("*.py"):
        if path.name != "findings.py":
            given |= set(re.findall(r"[\"'](CM\d{3})[\"']", path.read_text(encoding="utf-8")))
    assert set(re.findall(r"^\| (CM\d{3}) \|", README, re.MULTILINE)) == given
    assert given <= findings.FINDINGS.keys()


@pytest.mark.parametrize("page", PAGES)
def test_pages_point_at_what_exists(page: str) -> None:
    """Commands, targets of make, links, files and names of the package."""
    text = PAGES[page]
    shell = "\n".join(blocks("sh", text)) + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\s*make (\w+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for verb in re.findall(r"^\s*capmismatch (\w+)", shell, re.MULTILINE):
        assert verb in cli.app, verb
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for path in re.findall(r"(?:^|[\s`])((?:tests|capmismatch|data)/[\w/.]+)", shell):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\bcm\.([\w.]+)", text):
        value: Any = cm
        for part in name.strip(".").split("."):
            value = getattr(value, part)


def test_the_study_of_cifar10_is_explained_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPMISMATCH_REAL_DATA", str(tmp_path))
    config = cm.load_study(ROOT / "data" / "cifar10" / "study.toml").config
    assert config.distill is not None and config.distill.students == ("resnet8x1",)
    assert config.data.train_rows == 10_000 and "10,000" in PAGES["data/README.md"]
    names = re.findall(r"\b(?:resnet|wrn)\d+(?:_\d)?(?=[,\s])", PAGES["data/README.md"])
    built = [option["builder"] for option in config.family]
    sizes = [
        sum(p.numel() for p in cm.architectures.build(builder.removeprefix("arch:").format(stem=stem)).parameters())
        for stems, builder in zip((names[:4], names[4:9], names[9:]), built, strict=True)
        for stem in stems
    ]
    assert len(sizes) == 12 and min(sizes) > 50_000
