"""The notebooks: each runs, draws, is clean in git, and uses only what there is."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from processes import ended, fork

import capmismatch as cm

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
stripped = runpy.run_path(str(FOLDER / "strip.py"))["stripped"]

each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def cells(file: Path, kind: str) -> list[str]:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_nine() -> None:
    assert [file.name[:2] for file in NOTEBOOKS] == [f"{number:02d}" for number in range(9)]


@each
def test_runs_wherever_it_is_copied(file: Path) -> None:
    assert not [code for code in cells(file, "code") if "../" in code]


# --- running them ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks, without the repository around them; teachers trained by one serve the others."""
    folder = tmp_path_factory.mktemp("elsewhere") / "notebooks"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("out"))
    return folder


@pytest.fixture
def needs(file: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a notebook imports, and an environment in which nothing is downloaded."""
    if file.stem == "07_your_own_models":
        pytest.importorskip("timm")
        pytest.importorskip("transformers")
    monkeypatch.setenv("CAPMISMATCH_CACHE", str(place / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS[:1], ids=lambda file: file.stem)
def test_runs_in_a_kernel_and_draws(file: Path, place: Path, needs: None) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(place / file.name, as_version=4)
    where = {"metadata": {"path": str(place)}}
    patience = {"timeout": 600, "startup_timeout": 300}  # for a busy machine; in peace none takes a minute
    client = nbclient.NotebookClient(notebook, kernel_name="python3", resources=where, **patience)
    client.execute()  # raises with the traceback of a cell that fails
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS[1:], ids=lambda file: file.stem)
def test_runs_without_errors_and_draws(file: Path, place: Path, needs: None, tmp_path: Path) -> None:
    """In a fork, by what a kernel runs cells with: a kernel of its own would import everything anew."""
    pytest.importorskip("IPython")
    child = fork(lambda: run_cells(place / file.name), tmp_path / "output", seconds=600)
    assert ended(child) == 0, (tmp_path / "output").read_text()[-3000:]
    assert (tmp_path / "output").read_text().endswith("drew image/png\n")


def run_cells(file: Path) -> None:
    """Run a notebook's cells in its folder, figures shown in line; says whether any was."""
    shells = pytest.importorskip("IPython.core.interactiveshell")  # of the extra "notebook", which tests do not need
    capture_output = pytest.importorskip("IPython.utils.capture").capture_output

    class Shell(shells.InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """Figures in line need no event loop."""

    os.chdir(file.parent)
    unrecorded = pytest.importorskip("traitlets.config").Config({"HistoryManager": {"enabled": False}})
    shell, kinds = Shell.instance(config=unrecorded), set()
    shell.enable_matplotlib("inline")
    for code in cells(file, "code"):
        with capture_output() as shown:
            result = shell.run_cell(code)
        result.raise_error()
        kinds |= {kind for output in shown.outputs for kind in output.data or {}}
    print("drew", *(kind for kind in kinds if kind == "image/png"))


def test_a_style_around_the_first_figure_does_not_hide_the_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook's backend does: it becomes interactive with the first figure, and shows figures only then."""
    monkeypatch.setitem(mpl.rcParams, "interactive", False)
    before = mpl.rcParams["font.size"]
    with cm.figure_style("icml"):
        plt.ion()
        assert mpl.rcParams["font.size"] != before
    assert mpl.is_interactive() and mpl.rcParams["font.size"] == before


# --- as they lie in git ---------------------------------------------------------------------------------------------


@each
def test_is_stripped(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text == stripped(text), f"{file.name} has outputs or metadata that don't belong into git: run `make strip`"


def test_stripping_keeps_sources_ids_and_tags_and_nothing_else() -> None:
    shown = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    code = {"cell_type": "code", "id": "a", "source": ["print(1)"], "outputs": [shown], "execution_count": 7}
    code["metadata"] = {"tags": ["keep"], "editor": "mine"}
    text = {"cell_type": "markdown", "id": "b", "source": ["# é"], "metadata": {"jp": 1}}
    metadata = {"kernelspec": {"name": "my-venv"}, "widgets": {}}
    found = json.loads(stripped(json.dumps({"cells": [code, text], "metadata": metadata, "nbformat": 4})))
    assert found["cells"] == [
        {**code, "outputs": [], "execution_count": None, "metadata": {"tags": ["keep"]}},
        {**text, "metadata": {}},
    ]
    assert found["metadata"]["kernelspec"]["name"] == "python3" and "widgets" not in found["metadata"]


@each
def test_cells_have_ids_that_last(file: Path) -> None:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)  # older formats make ids anew on each saving
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)


@each
def test_names_no_place_on_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.findall(r"""["'`(\s](?:/(?:home|root|tmp|usr|mnt|Users|work)/|[A-Z]:\\\\)""", text)


# --- what they say --------------------------------------------------------------------------------------------------


@each
def test_opens_with_a_title_and_what_one_learns(file: Path) -> None:
    first = cells(file, "markdown")[0]
    assert re.match(r"# \S", first) and "You will" in first


@each
def test_links_lead_somewhere(file: Path) -> None:
    for text in cells(file, "markdown"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (FOLDER / target).exists(), f"{file.name} links to {target}, which there is not"


def test_the_first_leads_to_all_others() -> None:
    text = "\n".join(cells(NOTEBOOKS[0], "markdown"))
    assert all(f"]({file.name})" in text for file in NOTEBOOKS[1:])


@each
def test_uses_public_names_that_exist(file: Path) -> None:
    """Found without running: a name that was renamed breaks here, in the quick tests."""
    for code in cells(file, "code"):
        if code.startswith("%%"):
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and (found := dotted(node)) is not None:
                target: Any = cm
                for name in found.split(".")[1:]:
                    assert not name.startswith("_") and hasattr(target, name), f"{file.name}: there is no {found}"
                    target = getattr(target, name)


def dotted(node: ast.expr) -> str | None:
    """``cm.plots.save`` of an expression that starts at the package, else None."""
    if isinstance(node, ast.Name):
        return "cm" if node.id == "cm" else None
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return None
