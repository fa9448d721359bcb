"""Pages that are written by the code itself, so that they cannot fall behind it.

======================= ===================================================================================
directive               what it shows
======================= ===================================================================================
``probe-table`` LIST    every probe of REGISTRY, or of FEATURES or PAIRS: formula, source, expected sign
``method-table``        every distillation method: what it is, what a student learns from, options, loss
``finding`` CODE        what a finding means
``settings`` MOD:CLASS  the fields of a dataclass that a study file is read into: key, default, meaning
``commands``            every command of the command line with its options
======================= ===================================================================================
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from inspect import cleandoc
from typing import Any
from unittest.mock import patch

from docutils import nodes
from numpydoc.docscrape import NumpyDocString
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

SIGNS = {1: "+", -1: "−", 0: "open"}


def markdown(text: str) -> str:
    """A docstring's reStructuredText as Markdown: literals stay, names in single backticks become links."""
    text = re.sub(r"``([^`]+)``", "\0\\1\0", " ".join(text.split()))
    text = re.sub(r"(?<![`\w])`([^`]+)`", r"{py:obj}`\1`", text)
    return text.replace("\0", "`").replace("|", r"\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


class ProbeTable(SphinxDirective):
    """Every probe of a list of `capmismatch.probes`."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        from capmismatch import probes

        rows = [
            [
                f"{{py:func}}`{p.name} <capmismatch.probes.{p.name}>`",
                f"`{p.formula}`".replace("|", r"\|"),
                markdown(p.source),
                SIGNS[p.expected_sign],
                "yes" if p.tempered else "no",
            ]
            for p in getattr(probes, self.arguments[0] if self.arguments else "REGISTRY").values()
        ]
        made = self.parse_text_to_nodes(table(["probe", "formula", "source", "sign", "τ"], rows))
        made[0]["classes"].append("wrapped")
        return made


class MethodTable(SphinxDirective):
    """Every distillation method: what it does, on what the student learns, and its loss."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        from capmismatch import list_methods
        from capmismatch.distillation.methods import METHODS
        from capmismatch.losses import LOSSES

        rows = []
        for method in list_methods().to_dict("records"):
            term = getattr(LOSSES.get(METHODS[method["name"]].loss), "term", None)
            function = f"{{py:obj}}`~capmismatch.losses.{term.__name__}`" if term else ""
            options = ", ".join(f"`{option}`" for option in method["options"].split(", ") if option)
            rows.append([f"`{method['name']}`", method["about"], method["learns_from"], options, function])
        made = self.parse_text_to_nodes(table(["method", "what it is", "learns from", "options", "loss"], rows))
        made[0]["classes"].append("wrapped")
        return made


class Finding(SphinxDirective):
    """One finding, by its code."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Quote what `capmismatch.explain` says."""
        from capmismatch import explain

        return self.parse_text_to_nodes(f"> {explain(self.arguments[0]).explanation}")


class Settings(SphinxDirective):
    """The keys of one table of a study file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        module, _, name = self.arguments[0].partition(":")
        kind = getattr(importlib.import_module(module), name)
        meanings = attributes(kind.__doc__ or "")
        rows = []
        for field in dataclasses.fields(kind):
            if field.name not in meanings:
                raise self.error(f"the docstring of {module}.{name} does not say what {field.name!r} is")
            rows.append([f"`{field.name}`", default_of(field), markdown(meanings[field.name])])
        return self.parse_text_to_nodes(table(["key", "default", "meaning"], rows))


def attributes(docstring: str) -> dict[str, str]:
    """Name -> meaning, of the section "Attributes" of a numpydoc docstring; an entry without a meaning is left out."""
    return {
        name: " ".join(line.strip() for line in description)
        for names, _, description in NumpyDocString(cleandoc(docstring))["Attributes"]
        for name in names.split(", ")
        if description
    }


def default_of(field: dataclasses.Field[Any]) -> str:
    """How a study file would write a field's default."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        if value and not isinstance(value, str | int | float | tuple | list | dict):
            return "see below"
    else:
        return "*needed*"
    if value is None or value == {} or dataclasses.is_dataclass(value):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value!r}`".replace("'", '"')


class Commands(SphinxDirective):
    """The command line, as cyclopts describes it.

    Cyclopts' own directive writes reStructuredText in which the stars of ``figures/*.pdf`` are not escaped, so docutils
    takes them for emphasis; from Markdown the page is right.
    """

    def run(self) -> list[nodes.Node]:
        """Make a section for each command."""
        from capmismatch.cli import app

        with patch.object(sys, "argv", ["capmismatch"]):  # or usage lines would say "-m sphinx"
            text = app.generate_docs(output_format="markdown", heading_level=2, usage_name="capmismatch")
        parts = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
        return self.parse_text_to_nodes("\n".join(f"## {part}" for part in parts), allow_section_headings=True)


def resolve_home(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Link a public name that is written with its module: `data.bank.LogitBank` is `capmismatch.LogitBank`."""
    import capmismatch

    module, _, name = node.get("reftarget", "").rpartition(".")
    module = module or node.get("py:module", "")
    if node.get("refdomain") != "py" or name not in capmismatch.__all__ or module not in sys.modules:
        return None
    if getattr(sys.modules[module], name, None) is not getattr(capmismatch, name):
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"capmismatch.{name}", node, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("probe-table", ProbeTable)
    app.add_directive("method-table", MethodTable)
    app.add_directive("finding", Finding)
    app.add_directive("settings", Settings)
    app.add_directive("commands", Commands)
    app.connect("missing-reference", resolve_home)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
