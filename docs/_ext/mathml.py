"""Formulas as MathML, which browsers draw by themselves: no script, no font and no network on the reader's side.

docutils translates LaTeX to MathML; what it cannot translate is a warning that names the formula.
"""

from __future__ import annotations

import re
from html import escape, unescape
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# docutils knows the delimiters \bigl and \bigr, not the plain \big.
BIG = re.compile(r"\\([bB]igg?)(?![a-zA-Z])\s*(\\?[^\s])")
OPENING = ("(", "[", "\\{", "\\l")
ACCENTS = ("~", "^", "\N{MACRON}", "\N{OVERLINE}", "\N{MODIFIER LETTER MACRON}")
MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)


def to_mathml(tex: str, block: bool) -> str:
    """The ``<math>`` element of a formula, with its LaTeX as the text for who cannot see it."""
    sided = BIG.sub(lambda m: f"\\{m[1]}{'l' if m[2].startswith(OPENING) else 'r'}{m[2]}", tex)
    named = re.compile(r"&(?!lt;|gt;|amp;|quot;)\w+;")  # entities of HTML, which XML does not know
    root = ElementTree.fromstring(named.sub(lambda m: unescape(m[0]), tex2mathml(sided, as_block=block)))
    root.set("alttext", " ".join(tex.split()))
    for element in list(root.iter(f"{{{MATHML}}}munderover")):
        base, below, above = element
        if above.text in ACCENTS:  # docutils takes the index of an accented letter for a limit under it
            element.tag = f"{{{MATHML}}}msub"
            accented = ElementTree.Element(f"{{{MATHML}}}mover", {"accent": "true"})
            accented.extend([base, above])
            element[:] = [accented, below]
    return ElementTree.tostring(root, encoding="unicode")


def _render(self: Any, node: nodes.Element, block: bool) -> str:
    tex = node.astext()
    try:
        return to_mathml(tex, block)
    except MathError as error:
        logger.warning("%s in the formula %r", error, tex, location=node)
        return f"<code>{escape(tex)}</code>"


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(_render(self, node, block=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    self.body.append(f'<div class="math-block">{_render(self, node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
