"""The documentation: it builds without a warning or the network, its links lead somewhere, and nothing is left out."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator
from functools import cache
from html import unescape
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import yaml

import capmismatch as cm
from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch.cli import app
from capmismatch.distillation.methods import METHODS
from capmismatch.distillation.next_tokens import SCORES
from capmismatch.distillation.results import OUTCOMES
from capmismatch.findings import FINDINGS
from capmismatch.plots._style import VENUES
from capmismatch.probes import FEATURES, PAIRS, REGISTRY
from capmismatch.report import gallery
from capmismatch.sources.families import SOURCES
from capmismatch.study import config
from capmismatch.vocabulary.pages import COMMON, columns

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "notebooks"} & set(path.relative_to(DOCS).parts))
HELPERS = {
    "FigureStyle",
    "attach",
    "drawn_data",
    "figure_style",
    "file_name",
    "save",
}  # of capmismatch.plots, which draw nothing


def text_of(page: str) -> str:
    """A page with what it includes from the package."""
    text = (DOCS / page).read_text(encoding="utf-8")
    included = re.fullmatch(r"```\{include\} (\S+)\n```\n", text)
    return ((DOCS / page).parent / included[1]).read_text(encoding="utf-8") if included else text


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# --- what must be told of ---------------------------------------------------------------------------------------------


def test_every_figure_has_a_section() -> None:
    page = text_of("reference/figures.md")
    for name in {*cm.plots.__all__} - HELPERS | {*gallery.FIGURES}:
        own = section(page, name)
        assert "**table**" in own, name
        assert "**columns**" in own or name == "probe_vs_student_grid", name
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == {*cm.plots.__all__} - HELPERS


def test_every_probe_leads_to_its_formula_and_figures() -> None:
    table = section(text_of("reference/figures.md"), "From a probe to its figures")
    rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip("` ") for row in rows) == sorted(REGISTRY)
    for name, formula, *figures in rows:
        assert formula.strip(), name
        assert {*re.findall(r"`(\w+)`", "".join(figures))} <= {*cm.plots.__all__}, name


def test_figures_name_columns_that_their_tables_have() -> None:
    tables = text_of("reference/tables.md")
    for own in re.split(r"^## ", text_of("reference/figures.md"), flags=re.MULTILINE)[1:]:
        named = re.search(r"\*\*columns\*\*: (.*?)(?=^\*|\Z)", own, re.MULTILINE | re.DOTALL)
        links = re.findall(r"tables\.md#([\w-]+)", own)
        if named is None or not links:
            continue
        there = " ".join(section(tables, link.replace("-", " ")) for link in links)
        columns = re.findall(r"`(\w+)`", named[1])
        missing = [name for name in columns if f"`{name}`" not in there and name not in METHODS]
        assert columns and not missing, f"{own.splitlines()[0]}: {missing}"


def test_every_finding_has_a_section_with_its_title() -> None:
    found = dict(re.findall(r"^## (CM\d+): (.+)$", text_of("concepts/findings.md"), re.MULTILINE))
    assert found == {code: finding.title for code, finding in FINDINGS.items()}


def test_every_method_is_explained() -> None:
    assert "```{method-table}" in text_of("concepts/distillation.md")
    assert cm.list_methods().query("about != ''")["name"].tolist() == [*METHODS]


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Every table, made from a small bank and small results."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    sharp = {f"t{i}": (1 + i) * np.eye(4)[labels] + rng.normal(size=(120, 4)) for i in range(4)}
    split = np.tile(["val", "test"], 60)
    bank = cm.bank_from_arrays(sharp, labels, params={name: 10**i for i, name in enumerate(sharp, 2)}, split=split)
    frames = [cm.probe(bank, taus=[1, 4], split=part, progress=False) for part in ("val", "test")]
    probes = pd.concat(frames, ignore_index=True)
    results = _results(list(sharp), rng)
    choice, first = cm.pick(probes, results, n_boot=50), cm.pick(probes, rule="highest derived_std")
    other = cm.pick(probes.assign(family="other"), evidence=[(probes, results)], n_boot=50)
    return {
        "probes": probes,
        "ranks": cm.rank_stability(bank, progress=False),
        "affinity": cm.affinity(bank),
        "restored": cm.restored_variance(bank, progress=False),
        "results": results,
        "links": cm.correlate(probes, results, n_boot=50),
        "pick": pd.concat(
            [
                *(c.table for c in (choice, first, other)),
                choice.students,
                choice.settings,
                first.outlook,
                *(c.rules for c in (choice, first, other)),
                other.trust,
            ]
        ),
        "example values": cm.example_values(bank, ["nll"]),
        "reliability": cm.reliability(bank),
        "dark knowledge": cm.dark_knowledge(bank),
    }


def _results(teachers: list[str], rng: np.random.Generator) -> pd.DataFrame:
    from capmismatch.distillation.results import complete

    rows = [
        {
            "family": "logits",
            "teacher": teacher,
            "method": "KD" if teacher else "CE",
            "tau": 4.0 if teacher else np.nan,
            "student": "s",
            "seed": seed,
            "split": split,
            "accuracy": 0.5 + 0.1 * rng.random(),
            "n": 60,
        }
        for teacher in [*teachers, ""]
        for seed in (0, 1)
        for split in ("val", "test")
    ]
    return complete(pd.DataFrame(rows))


# Where a teacher is not usable, and of texts
SOMETIMES = {  # where a teacher is not usable, the data are a text, or the bank has a student
    "probes": {"usable", "findings", "reason", "exact", "student"},
    "example values": {"sequence"},
    "results": {*SCORES, *OUTCOMES, *(f"train_{name}" for name in OUTCOMES)},
}


def test_every_column_of_every_table_is_explained(tables: dict[str, pd.DataFrame]) -> None:
    page = text_of("reference/tables.md")
    for name, frame in tables.items():
        told = section(page, name)
        missing = [column for column in frame.columns if f"`{column}`" not in told]
        assert not missing, f"{name}: {missing}"
        cells = re.findall(r"^\| (`.*?) \|", told, re.MULTILINE)
        explained = {column for cell in cells for column in re.findall(r"`(\w+)`", cell)}
        assert explained <= {*frame.columns} | SOMETIMES.get(name, set()), f"{name}: {explained - {*frame.columns}}"


def test_other_tables_are_explained(tables: dict[str, pd.DataFrame]) -> None:
    from capmismatch.study.pilot import RUNG_COLUMNS

    bank, probes, results = cm.load_example("letters"), tables["probes"], tables["results"]
    families = [(frame.assign(family=name) for frame in (probes, results)) for name in "abc"]
    changed = [
        (own, taught.assign(accuracy=taught["accuracy"] * (1 - 0.01 * i))) for i, (own, taught) in enumerate(families)
    ]
    meta = cm.meta(changed, n_boot=20)
    lists = [cm.list_examples(), cm.list_methods(), cm.list_probes(), cm.list_teachers("letters:mlp")]
    others = {
        "checks": [cm.check(bank)],
        "differences": [cm.probe_differences(bank, [4], names=["nll"])],
        "probes": [cm.matched_temperatures(bank, progress=False), cm.class_relations(bank, [4], progress=False)],
        "peaks": [cm.peaks(results), cm.peaks(probes)],
        "teacher differences": [cm.teacher_differences(results)],
        "setting differences": [cm.setting_differences(results)],
        "pareto_front": [cm.pareto_front(probes, results)],
        "published": [cm.load_published()],
        "lists": lists,
        "Choice.rungs": [pd.DataFrame(columns=[*RUNG_COLUMNS])],
        "Meta.rules": [meta.rules, meta.compared()],
        "Meta.probes": [meta.probes],
        "Meta.choices": [meta.choices],
        "Meta.correlations": [meta.correlations],
        "Meta.chances": [meta.chances()],
        "Meta.contrasts": [meta.contrasts()],
        "Choice.settings": [cm.pick(probes, results, n_boot=50).settings],
        "Choice.outlook": [cm.pick(probes).outlook],
    }
    for name, frames in others.items():
        own = {f"the table {name}", name}
        told = {column for entry in columns() if entry.where in own for column in entry.names}
        common = {column for entry in columns() if entry.where == COMMON for column in entry.names}
        missing = {column for frame in frames for column in frame.columns} - told - common
        assert told, name
        assert not missing, f"{name}: {missing}"


def test_every_quantity_and_metric_is_told(tables: dict[str, pd.DataFrame]) -> None:
    page = text_of("reference/tables.md")
    for name, column in (("restored", "quantity"), ("ranks", "metric")):
        told = section(page, name)
        for value in tables[name][column].unique():
            assert f"`{value}`" in told, f"{name}: {value}"


def test_every_option_of_every_source_is_told() -> None:
    page = section(text_of("reference/study-toml.md"), "[[family]]")
    for kind, module in SOURCES.items():
        parameters = list(inspect.signature(importlib.import_module(module).load).parameters)[1:]
        options = {*parameters} - {"base", "train", "folder"}  # which a study gives by itself
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}:"))
        assert options == {*re.findall(r"`(\w+)`", row.split("|")[2])}, kind


def test_every_table_of_a_study_file_has_a_section() -> None:
    page = text_of("reference/study-toml.md")
    for field in dataclasses.fields(config.StudyConfig):
        if field.name not in ("name", "family", "results", "question"):
            assert f"study.config:{field.name.capitalize()}Config" in section(page, f"[{field.name}]")


def test_venues_have_the_sizes_that_are_told() -> None:
    row = r"^\| `(\w+)` \| ([\d.]+) in \| ([\d.]+) in \| ([\w ]+) \| (\d+) pt \| (\d+) pt \|$"
    rows = re.findall(row, text_of("howto/papers.md"), re.MULTILINE)
    told = {name: (float(column), float(text), fonts, *map(int, sizes)) for name, column, text, fonts, *sizes in rows}
    fonts = {name: " or ".join(v.fonts[:2]) or v.family.removesuffix("-serif") for name, v in VENUES.items()}
    assert told == {name: (v.column, v.text, fonts[name], v.size, v.small) for name, v in VENUES.items()}


def test_both_papers_are_cited() -> None:
    for place in ("10.1007/s11704-025-41434-w", "2405.13078", "2210.04427"):
        assert place in text_of("reference/bibliography.md")


def test_every_arxiv_number_of_the_code_is_in_the_bibliography() -> None:
    """But for those of architectures, whose page gives them, and of details."""
    told = text_of("reference/bibliography.md")
    files = [*(ROOT / "capmismatch" / "losses").glob("*.py"), *(ROOT / "capmismatch" / "probes").glob("*.py")]
    others = ("temperature.py", "ranks.py", "distillation/remedies.py", "distillation/criteria.py")
    files += [ROOT / "capmismatch" / name for name in others]
    numbers = {n for f in files for n in re.findall(r"arXiv (\d{4}\.\d{5})", f.read_text(encoding="utf-8"))}
    assert numbers - {"1409.1556"} <= {*re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", told)} | {"1409.7495"}


# --- what is told must be true ----------------------------------------------------------------------------------------


@cache
def command_help() -> str:
    return app.generate_docs(output_format="markdown", usage_name="capmismatch")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in [*blocks(text, "sh"), *blocks(text, "bash")]:
        start = r"^\s*(?:torchrun .*-m capmismatch\.cli|capmismatch) (\w+)(.*)$"
        for name, rest in re.findall(start, block.replace("\\\n", " "), re.MULTILINE):
            own = re.search(rf"^#+ capmismatch {name}$(.*?)(?=^#+ capmismatch |\Z)", command_help(), re.M | re.S)
            assert own, f"{page.name}: there is no command {name!r}"
            for option in re.findall(r"(--[a-z-]+)", rest.split(" #")[0]):
                assert option in own[1], f"{page.name}: capmismatch {name} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_toml_yaml_and_scripts_are_well_formed(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, "toml"):
        tomllib.loads(block)
    for block in blocks(text, "yaml"):
        manifest = yaml.safe_load(block)
        assert manifest["apiVersion"] == "ray.io/v1" and manifest["kind"] == "RayJob"
        cluster = manifest["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):  # all see the study, with the same image
            (container,) = group["template"]["spec"]["containers"]
            claimed = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == claimed
    for block in blocks(text, "bash"):
        script = tmp_path / "script"
        script.write_text(block, encoding="utf-8")
        if shutil.which("bash"):
            assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0


RUN = """
import os, sys, tempfile, pathlib
import matplotlib
matplotlib.use("agg")
for page in sys.argv[1:]:
    os.chdir(tempfile.mkdtemp(dir=os.environ["PLACE"]))
    parts = pathlib.Path(page).read_text(encoding="utf-8").split("\\n```python\\n")[1:]
    names = {"__name__": "__main__"}
    for part in parts:
        exec(compile(part.split("\\n```")[0], page, "exec"), names)
    print(len(parts), page)
"""


@pytest.mark.slow
def test_python_on_the_pages_runs(tmp_path: Path) -> None:
    pages = [str(page) for page in PAGES if blocks(page.read_text(encoding="utf-8"), "python")]
    assert len(pages) >= 5
    env = {**os.environ, "PLACE": str(tmp_path), "OMP_NUM_THREADS": "1", "CAPMISMATCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", RUN, *pages], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


# --- the built pages --------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page offers as targets, links to, and loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values: dict[str, Any] = dict(attrs)
        if values.get("id"):
            self.ids.add(values["id"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        loads = values.get("src") or (values.get("href") if tag == "link" else None)
        if loads:
            self.loads.append(loads)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built with warnings as errors."""
    if find_spec("sphinx") is None or find_spec("myst_nb") is None or find_spec("furo") is None:
        pytest.skip("the pages are built with the extra 'docs'")
    folder = tmp_path_factory.mktemp("docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-b",
        "html",
        "--fail-on-warning",
        "--keep-going",
        "-d",
        str(folder / "doctrees"),
        str(DOCS),
        str(folder / "html"),
    ]
    env = {name: value for name, value in os.environ.items() if name != "DOCS_EXECUTE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "html"


def pages_of(folder: Path) -> Iterator[tuple[Path, Page]]:
    for file in sorted(folder.rglob("*.html")):
        yield file, Page(file)


@pytest.mark.slow
def test_links_lead_somewhere(built: Path) -> None:
    pages = dict(pages_of(built))
    assert len(pages) > 30
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(unescape(link))
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file.resolve()
            assert target.exists(), f"{file.name} links to {link}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].ids, f"{file.name} links to {link}"


@pytest.mark.slow
def test_pages_load_nothing_from_the_network(built: Path) -> None:
    for file, page in pages_of(built):
        for loaded in page.loads:
            assert not urlsplit(loaded).netloc, f"{file.name} loads {loaded}"
            path = urlsplit(loaded).path
            assert path.startswith("data:") or not path or (file.parent / unquote(path)).exists(), f"{file}: {loaded}"
    for sheet in built.glob("_static/**/*.css"):
        assert not re.search(r"url\(\s*[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_formulas_are_drawn_by_the_browser(built: Path) -> None:
    page = (built / "concepts" / "soft-labels.html").read_text(encoding="utf-8")
    assert page.count("<math ") > 20 and "MathJax" not in page
    sheet = (built / "_static" / "capmismatch.css").read_text(encoding="utf-8")
    font = re.search(r"@font-face.*?url\(\"(.+?)\"\)", sheet)
    assert font and (built / "_static" / font[1]).exists()


@pytest.mark.slow
def test_every_public_name_is_documented(built: Path) -> None:
    packed = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    listed = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    wanted = {f"capmismatch.{name}" for name in cm.__all__}
    for module in (cm.losses, cm.probes, cm.plots, cm.architectures):
        wanted |= {f"{module.__name__}.{name}" for name in module.__all__} - {"capmismatch.plots.figure_style"}
    registries = {f"capmismatch.probes.{name}" for name in ("REGISTRY", "FEATURES", "PAIRS")}
    wanted -= {"capmismatch.losses.LOSSES", *registries}  # told of in their modules
    for module in (cm.temperature, cm.ranks):
        functions = inspect.getmembers(module, inspect.isfunction)
        own = {name for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}
        wanted |= {f"{module.__name__}.{name}" for name in own.intersection(getattr(module, "__all__", own))}
    missing = sorted(wanted - listed)
    assert not missing


@pytest.mark.slow
def test_pages_written_by_the_code_hold_all_of_it(built: Path) -> None:
    def plain(page: str) -> str:
        return unescape(re.sub(r"<[^>]+>", "", (built / page).read_text(encoding="utf-8")))

    commands = plain("reference/cli.html")
    for name in re.findall(r"^#+ capmismatch (\w+)$", command_help(), re.MULTILINE):
        assert f"capmismatch {name}" in commands
    assert "-m sphinx" not in commands
    probes = plain("concepts/probes.html")
    for probe in (*REGISTRY.values(), *FEATURES.values(), *PAIRS.values()):
        assert probe.name in probes and probe.formula in probes, probe.name
    methods = plain("concepts/distillation.html")
    for name, about in cm.list_methods()[["name", "about"]].itertuples(index=False):
        assert name in methods and re.sub(r"\W+", " ", about) in re.sub(r"\W+", " ", methods), name
    codes = plain("concepts/findings.html")
    for finding in FINDINGS.values():
        assert re.sub(r"\W+", " ", finding.explanation) in re.sub(r"\W+", " ", codes), finding.code
    keys = plain("reference/study-toml.html")
    for kind in (*vars(config).values(), cm.Method, cm.Recipe, cm.Views):
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind is not SoftLabelSpec:
            for field in dataclasses.fields(kind):
                assert re.search(rf"\b{field.name}\b", keys), f"{kind.__name__}.{field.name}"


@pytest.mark.slow
def test_every_notebook_is_shown(built: Path) -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (built / "notebooks" / f"{notebook.stem}.html").exists(), notebook.name
