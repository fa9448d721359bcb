"""Sphinx configuration. ``make docs`` builds the pages into ``docs/_build/html``; no network is needed.

Notebooks are shown without outputs, so that a build is quick; ``DOCS_EXECUTE=1 make docs`` runs them first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import matplotlib
import nbformat
from nbclient import NotebookClient
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

import capmismatch  # noqa: E402

project = "capmismatch"
author = "The capmismatch authors"
project_copyright = f"{author}, Apache-2.0"
version = release = capmismatch.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "floors",  # these lie in _ext
    "from_code",
    "mathml",
    "references",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# --- notebooks: they lie beside docs/, and Sphinx reads only what lies below it ---------------------------------------


def show(notebook: Path, at: Path) -> None:
    """Copy a notebook below docs/, run before where that is asked for."""
    text = notebook.read_text(encoding="utf-8")
    if os.environ.get("DOCS_EXECUTE") == "1":
        cells = nbformat.reads(text, as_version=4)
        NotebookClient(cells, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
        text = nbformat.writes(cells)
    if not at.exists() or at.read_text(encoding="utf-8") != text:  # untouched where it is the same: builds stay quick
        at.write_text(text, encoding="utf-8")


originals = {notebook.name: notebook for notebook in sorted((ROOT / "notebooks").glob("*.ipynb"))}
(HERE / "notebooks").mkdir(exist_ok=True)
for copy in (HERE / "notebooks").glob("*.ipynb"):
    if copy.name not in originals:
        copy.unlink()
for name, notebook in originals.items():
    show(notebook, HERE / "notebooks" / name)

# --- text -------------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # would be fetched from the network

# --- docstrings -------------------------------------------------------------------------------------------------------

default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# autodoc reads the text of defaults in the source, which lacks the options that all figures share; without
# `__wrapped__` it takes all of them from the signature.
for figure in map(vars(capmismatch.plots).get, capmismatch.plots.__all__):
    if hasattr(figure, "__wrapped__"):
        del figure.__wrapped__
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# --- pages ------------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"capmismatch {release}"
# Formulas are MathML, for which browsers want a font with a table of mathematics: few systems have one, matplotlib has.
html_static_path = ["_static", str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf"))]
html_css_files = ["capmismatch.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5a8a", "color-brand-content": "#0b5a8a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
    "top_of_page_buttons": [],
}
pygments_style = "default"
pygments_dark_style = "github-dark"


def setup(app: Sphinx) -> None:
    """Show CSV as it is: Pygments has no lexer for it."""
    app.add_lexer("csv", TextLexer)
