"""The map of the code: its paths lead somewhere, its picture shows every room, and the contract knows every room."""

from __future__ import annotations

import ast
import pkgutil
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "capmismatch"
pytest.importorskip("sphinx", reason="the picture is drawn by an extension of Sphinx")
FLOORS: Any = runpy.run_path(str(ROOT / "docs" / "_ext" / "floors.py"))

ROOMS = [room for floor in FLOORS["layers"]() for room in floor]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w*./]+\.pyi?)(?:: (\w+))?`", PAGE)
FILE_ENDINGS = (".toml", ".css", ".egg", ".git", ".yml")
LASTING_ADDRESSES = {"bank", "schedules", "softening"}  # modules that only import from the rooms


def found(path: str) -> list[Path]:
    """Files that a path on the page stands for: it starts at the package, or at the root of the checkout."""
    return [*PACKAGE.rglob(path)] if "*" in path else [p for p in (PACKAGE / path, ROOT / path) if p.exists()]


def test_the_page_names_files_and_what_they_define() -> None:
    assert len(NAMED) > 50
    for path, name in NAMED:
        files = found(path)
        assert files, f"{path} does not exist"
        if name:
            statements = ast.parse(files[0].read_text(encoding="utf-8")).body
            defined = {node.name for node in statements if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assert name in defined, f"{path} defines no {name}"


def test_the_page_names_folders_that_exist() -> None:
    for folder in re.findall(r"`([\w./]+/)`", PAGE):
        assert found(folder), folder
    for path in re.findall(r"`capmismatch/([\w./]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert found(path), path


def test_contributing_names_tables_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`([A-Z_]+)` of `capmismatch/([\w./]+)`|in `capmismatch/([\w./]+)`, its name in `([A-Z]+)` there", text
    )
    assert len(named) >= 6
    for before, path, earlier, after in named:
        source = (PACKAGE / (path or earlier)).read_text(encoding="utf-8")
        assert re.search(rf"^{before or after}\b", source, re.MULTILINE), (path, before or after)


def test_dotted_paths_in_the_docs_lead_somewhere() -> None:
    """Modules and what is in them, by the names that they have now."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "data").rglob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
    pages += [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "examples").rglob("*.py")]
    pages += [*(ROOT / "benchmarks").glob("*.*"), *(ROOT / "docs" / "reference" / "api").glob("*.rst")]
    for page in pages:
        for path in set(re.findall(r"(?<![\w./-])capmismatch(?:\.[A-Za-z_]\w*)+", page.read_text(encoding="utf-8"))):
            assert path.endswith(FILE_ENDINGS) or is_importable(path), f"{page} names {path}"


def is_importable(path: str) -> bool:
    """Whether a dotted path is a module or reached from one by attributes."""
    try:
        pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_contract_knows_every_room() -> None:
    present = {path.parent.name if path.name == "__init__.py" else path.stem for path in PACKAGE.glob("*.py")}
    present |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(ROOMS) == present - LASTING_ADDRESSES - {"capmismatch"}
    assert len(ROOMS) == len(set(ROOMS)) and len(FLOORS["layers"]()) == 7


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_its_purpose_in_one_sentence(room: str) -> None:
    purpose = FLOORS["purpose"](room)
    assert 15 < len(purpose) < 140 and purpose.endswith("."), purpose


def test_rooms_import_from_below() -> None:
    """The reader of imports behind the picture: what it draws agrees with the contract."""
    imported = FLOORS["imported_rooms"](ROOMS)
    floor_of = {room: number for number, floor in enumerate(FLOORS["layers"]()) for room in floor}
    assert "data" in imported["diagnostics"] and "_numerics" in imported["probes"]
    beside = {(room, other) for room in ROOMS for other in imported[room] if floor_of[room] >= floor_of[other]}
    assert beside == {("__main__", "cli")}  # two spellings of one command line


def test_the_picture_shows_every_room_once() -> None:
    picture = FLOORS["picture"]()
    names = re.findall(r"<strong>(\w+)(?:/|\.py)</strong>", picture)
    assert names == ROOMS
    assert "`" not in picture


def test_attributes_that_share_an_entry_get_one_each() -> None:
    separate: Any = runpy.run_path(str(ROOT / "docs" / "_ext" / "references.py"))["separate_attributes"]
    lines = ["Title.", "", "Attributes", "----------", "low, high : float", "    The interval.", "n : int", "    Rows."]
    lines += ["", "Notes", "-----", "a, b : no entry"]
    separate(None, "class", "X", None, None, lines)
    shared = ["low : float", "    The interval.", "high : float", "    The interval."]
    assert lines[4:10] == [*shared, "n : int", "    Rows."]
    assert lines[10:] == ["", "Notes", "-----", "a, b : no entry"]
