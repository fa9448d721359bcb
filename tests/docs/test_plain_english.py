"""What readers see is plain English: README.md, the documentation, and the sentences that the program writes."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "capmismatch"
BUILT = {"_build", "notebooks", "api"}
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if not BUILT & set(page.relative_to(ROOT).parts)]
PAGES = [ROOT / "README.md", *DOCS, *sorted(PACKAGE.rglob("*.html")), *sorted(PACKAGE.rglob("*.md"))]
SOURCES = sorted(PACKAGE.rglob("*.py"))

IDIOMS = {
    r"\bcheap\b(?! \()": "low regret, or small",
    r"\btold\b(?! apart)": "shown, said, predicted",
    r"\btells?\b(?! .{0,40}\bapart\b)": "shows, says, predicts",
    r"\btold apart from\b": "separated from, significant",
    r"\bheed\b": "check",
    r"\bhence\b": "therefore, so",
    r"\bakin\b": "similar",
    r"\banew\b": "again",
    r"\bwhom\b": "which",
    r"\bgo(es)? together with\b": "correlates with",
    r"\bwhat of a teacher\b": "which probes",
    r"\b(choosing|reporting) split\b|\bsplit to (choose|report)\b": "validation, test",
    r"\b(?:an?|one) (row|column|line|point|folder|panel|bar|core|file|page|token|seed|run|kilobyte) an? \w+\b": (
        "one ... per ..."
    ),
    r"\bdealt out\b": "assigned round-robin",
    r"\bgo(es)? on where\b": "resumes",
    r"\bread off\b": "computed from",
    r"\bwith a chance of\b": "with a probability of",
    r"\bsays nothing of\b": "says nothing about",
    r"(?<!Wasserstein distance )\brivals?\b": "baseline",  # but in that title
    r"\bno established\b": "not significant",
    r"\bamiss\b": "no problems",
    r"\bsurest\b|\bas sure (as|of)\b|\bsure of nothing\b": "confident",
    r"\botherwise than\b": "differently from",
    r"\bfrom afar\b": "extrapolated",
    r"\bis the sign\b": "signs are",
}
"""Private idiom -> what the field says instead."""


def idioms_in(text: str) -> list[str]:
    """What a text has of `IDIOMS`, each with its surroundings and the better words."""
    flat = " ".join(re.sub(r"\s*\n", " ", text).split())
    return [
        f"...{flat[max(0, match.start() - 30) : match.end() + 30]}...: say {better!r}"
        for idiom, better in IDIOMS.items()
        for match in re.finditer(idiom, flat, re.IGNORECASE)
    ]


def sentences_of(source: Path) -> str:
    """The strings of a module that have several words and are no docstrings; those of commands are their help."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    statements = (
        node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
    docstrings = set() if source.name == "cli.py" else {id(statement.value) for statement in statements}
    return "\n".join(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings and node.value.count(" ") > 1
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain(page: Path) -> None:
    prose = re.sub(
        r"^```(?:py|python|\{code-block\} python)\n.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert not idioms_in(prose)


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_prose_of_notebooks_is_plain(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert not idioms_in(prose)


def test_the_sentences_of_the_program_are_plain() -> None:
    found = {str(source.relative_to(ROOT)): idioms_in(sentences_of(source)) for source in SOURCES}
    assert not {source: idioms for source, idioms in found.items() if idioms}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("it was a cheap rule,\nwhich is told later", 2),
        ("by one student's row a pair; heed CM005", 1),
        ("one point a pair of runs, a folder a student", 2),
        ("teachers cannot be told apart", 0),
        ("one row per pair; it correlates with accuracy", 0),
    ],
)
def test_idioms_are_found(text: str, count: int) -> None:
    assert len(idioms_in(text)) == count
