"""What is shipped, what it needs, and how its modules are cut; who may import whom is a contract in pyproject.toml."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import capmismatch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "capmismatch"
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}
# Import name -> distribution that brings it, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "cycler": "matplotlib",
    "markupsafe": "jinja2",
    "packaging": "pytest",
    "IPython": "jupyterlab",
}


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read_environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def third_party(files: list[Path], ours: set[str]) -> set[str]:
    """Distributions that Python files import, at module level or later."""
    imported: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in imported - set(sys.stdlib_module_names) - ours - {"capmismatch"}}


def bounds(requirements: list[str]) -> dict[str, str]:
    parsed = [Requirement(text) for text in requirements]
    return {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in parsed}


# --- what it needs --------------------------------------------------------------------------------------------------


def test_conda_and_pip_name_the_same_dependencies() -> None:
    project = read_pyproject()["project"]
    wanted = bounds([*project["dependencies"], *project["optional-dependencies"]["notebook"]])
    wanted |= {"python": project["requires-python"], "pip": ""}
    listed = read_environment()["dependencies"]
    assert bounds([item for item in listed if isinstance(item, str)]) == wanted
    assert [item for item in listed if not isinstance(item, str)] == [{"pip": ["--editable ."]}]


def test_conda_uses_conda_forge_alone() -> None:
    assert set(read_environment()["channels"]) == {"conda-forge", "nodefaults"}


def test_every_import_is_a_dependency() -> None:
    """And every dependency is imported, but for those that others load."""
    project = read_pyproject()["project"]
    extras = project["optional-dependencies"]
    chosen = [name for extra in ("venues", "notebook", "timm", "huggingface", "lm", "xarray") for name in extras[extra]]
    declared = set(bounds([*project["dependencies"], *chosen]))
    third = third_party([*PACKAGE.rglob("*.py")], ours=set())
    assert third <= declared, f"not in pyproject.toml: {sorted(third - declared)}"
    by_name = {"pyarrow", "xarray", "tokenizers"}  # pandas loads the first, `need` the others
    unused = declared - third - by_name - set(bounds(extras["notebook"]))
    assert not unused, f"in pyproject.toml, imported nowhere: {sorted(unused)}"


def test_the_tests_need_only_the_dev_extra() -> None:
    project = read_pyproject()["project"]
    extras = project["optional-dependencies"]
    chosen = [name for extra in ("dev", "venues", "timm", "huggingface", "lm", "xarray") for name in extras[extra]]
    declared = set(bounds([*project["dependencies"], *chosen]))
    files = [*(ROOT / "tests").rglob("*.py")]
    third = third_party(files, ours={"tests", *(file.stem for file in files)})
    assert third <= declared, f"not in the extras of pyproject.toml: {sorted(third - declared)}"


# --- licence, citation, names ---------------------------------------------------------------------------------------


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert read_pyproject()["project"]["license"] == "Apache-2.0"


def test_citation_names_this_version_and_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (capmismatch.__version__, "Apache-2.0")
    references = citation["references"]
    assert "10.1007/s11704-025-41434-w" in {reference.get("doi") for reference in references}
    cited = {item["value"] for reference in references for item in reference.get("identifiers", [])}
    assert {"arXiv:2405.13078", "arXiv:2210.04427"} <= cited


def test_versions_agree() -> None:
    assert read_pyproject()["project"]["version"] == capmismatch.__version__


@cache
def tracked() -> list[Path]:
    """Files of the project: those that git knows, or else all of them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for path in (ROOT / name for name in listed.stdout.split("\0") if name) if path.is_file()]


MACHINE_PATH = re.compile(r"(?<![\w~.}$/-])/(?:home|root|Users|work|mnt|scratch|tmp)/|\b[A-Z]:\\Users\b")
PRIVATE_HOST = re.compile(r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}\b|--?(?:extra-)?index-url")
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")  # in halves, so as not to find itself


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PRIVATE_HOST, UNFINISHED], ids=["path", "host", "unfinished"])
def test_files_name_no_machine_and_leave_nothing_for_later(pattern: re.Pattern[str]) -> None:
    texts = (".py", ".md", ".toml", ".yml", ".cff", ".ipynb", ".html", ".csv", ".sh", "")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        if path.suffix in texts
        for match in [pattern.search(path.read_text(encoding="utf-8"))]
        if match
    ]
    assert not found


def test_nothing_large_is_tracked() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked() if path.stat().st_size > 2_000_000}
    assert not large


# --- the wheel ------------------------------------------------------------------------------------------------------


def has_setuptools() -> bool:
    """Whether the one here is new enough to build without downloading another."""
    wanted = Requirement(next(iter(read_pyproject()["build-system"]["requires"])))
    try:
        return Version(version("setuptools")) in wanted.specifier
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from: setuptools would leave build/ in the checkout, and take in what an earlier one left."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(PACKAGE, source / "capmismatch", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    built = subprocess.run(
        [*command, "--no-build-isolation"] if has_setuptools() else command, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        described = content.read(metadata).decode()
    there = {str(path.relative_to(source)) for path in (source / "capmismatch").rglob("*") if path.is_file()}
    assert there <= names, f"not in the wheel: {sorted(there - names)}"
    embedded = {
        f"embedded/{name}" for name in ("letters.npz", "study.toml", "kjv.txt.gz", "kjv-bpe512.json", "lm.toml")
    }
    assert {f"capmismatch/{name}" for name in (*embedded, "py.typed")} <= names
    assert any(name.startswith("capmismatch/report/templates/") for name in names)
    assert not {name for name in names if name.startswith(("tests/", "notebooks/", "benchmarks/", "data/"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in described


@pytest.mark.slow
def test_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    shown = subprocess.run([site / "bin" / "capmismatch", "demo", "--help"], **options).stdout
    assert "embedded study" in shown
    code = "import capmismatch as cm; print(cm.__file__); print(cm.load_dataset('letters'))"
    place, data = subprocess.run([sys.executable, "-c", code], **options).stdout.splitlines()
    assert Path(place).is_relative_to(site)
    assert "20000 examples, 26 classes" in data


# --- modules --------------------------------------------------------------------------------------------------------


MODULES = {str(path.relative_to(ROOT)): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_small_and_say_what_they_are(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= 600, f"{name} has {lines} lines: split it by subject"
    assert ast.get_docstring(ast.parse(text)), f"{name} has no docstring"
