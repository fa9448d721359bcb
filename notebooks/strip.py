"""Make the notebooks beside this file ready for git: ``make strip``, or ``python notebooks/strip.py``.

Outputs, execution counts and what editors leave in the metadata go; sources, cell ids and tags stay.
"""

from __future__ import annotations

import json
from pathlib import Path

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stripped(text: str) -> str:
    """The text of a notebook as it belongs into git; once stripped, it stays as it is."""
    notebook = json.loads(text)
    notebook["metadata"] = METADATA
    for cell in notebook["cells"]:
        cell["metadata"] = {name: value for name, value in cell["metadata"].items() if name == "tags"}
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Strip every notebook that needs it, and say which."""
    for file in sorted(Path(__file__).parent.glob("*.ipynb")):
        before = file.read_text(encoding="utf-8")
        after = stripped(before)
        if after != before:
            file.write_text(after, encoding="utf-8")
            print(f"stripped {file.name}")


if __name__ == "__main__":
    main()
