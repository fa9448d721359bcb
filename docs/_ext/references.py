"""Two finishing touches on what autodoc makes of docstrings.

* An arXiv number among the references becomes a link.
* A dataclass field with a default factory is shown as ``= ...`` in the signature, not as ``=<factory>``.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

FACTORY = re.compile(r"\s*=\s*<factory>")
ARXIV = re.compile(r"(?<!`)arXiv (\d{4}\.\d{4,5})")


def link_arxiv(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place, from its references on."""
    if "References" in lines:
        start = lines.index("References")
        lines[start:] = [ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", line) for line in lines[start:]]


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Write the defaults of a dataclass that are made anew as they would be written by hand."""
    return (arguments and FACTORY.sub(" = ...", arguments.replace("~typing.", ""))), result


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon does."""
    app.connect("autodoc-process-docstring", link_arxiv, priority=400)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
