"""The floors of the package as a picture, drawn from the import contract, so that it cannot fall behind the code.

``{floors}`` reads the layers of the first contract under ``[tool.importlinter]`` in pyproject.toml. Each room shows the
first sentence of its docstring, and the rooms that it imports (`errors` aside, which all may).
"""

from __future__ import annotations

import ast
import re
import tomllib
from html import escape
from pathlib import Path
from typing import Any

import grimp
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PACKAGE = "capmismatch"


def layers(root: Path = ROOT) -> list[list[str]]:
    """Rooms on each floor, top floor first, as the contract lists them."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    return [re.split(r" [|:] ", layer) for layer in contract["layers"]]


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = ROOT / PACKAGE / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", first)[0]


def imported_rooms(rooms: list[str]) -> dict[str, list[str]]:
    """Room -> rooms that its modules import, in the order of the floors."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    imported: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules:
        importer = _room_of(module)
        if importer in imported:
            imported[importer] |= {_room_of(other) for other in graph.find_modules_directly_imported_by(module)}
    common = ("errors", "_version")
    return {
        room: [other for other in rooms if other in imported[room] and other not in (room, *common)] for room in rooms
    }


def _room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def picture() -> str:
    """The floors as HTML: one list of floors, each a list of rooms."""
    floors = layers()
    imports = imported_rooms([room for floor in floors for room in floor])
    rows = []
    for number, floor in zip(range(len(floors), 0, -1), floors, strict=True):
        boxes = "".join(_box(room, imports[room]) for room in floor)
        rows.append(f'<li><span class="floor" aria-label="floor {number}">{number}</span><ul>{boxes}</ul></li>')
    return f'<ol class="floors" reversed>{"".join(rows)}</ol>'


def _box(room: str, imports: list[str]) -> str:
    folder = (ROOT / PACKAGE / room).is_dir()
    name = f"{room}/" if folder else f"{room}.py"
    text = re.sub(r"``(.+?)``", r"<code>\1</code>", escape(purpose(room)))
    listed = f'<p class="imports">imports {", ".join(imports)}</p>' if imports else ""
    return f"<li><strong>{name}</strong><p>{text}</p>{listed}</li>"


class Floors(SphinxDirective):
    """The picture of the floors."""

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        self.env.note_dependency(str(ROOT / "pyproject.toml"))
        return [nodes.raw("", picture(), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("floors", Floors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
