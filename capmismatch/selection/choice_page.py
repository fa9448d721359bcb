"""A choice as a file of its own, HTML or Markdown."""

from __future__ import annotations

import html
from pathlib import Path

from capmismatch._utils.files import write_text
from capmismatch.errors import InputError
from capmismatch.selection.choice import Choice

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def check_page(path: Path) -> None:
    """Raise an error unless the file's ending says what to write."""
    if path.suffix not in (".html", ".md"):
        raise InputError(f"expected a file that ends in .html or .md, got {str(path)!r}")


def write_page(choice: Choice, path: Path) -> Path:
    """Write a choice to a page of its own, HTML or Markdown by the ending of the file; return the file."""
    check_page(path)
    page = choice.to_markdown()
    if path.suffix == ".html":
        page = _PAGE.format(title=html.escape(choice.title), body=choice._repr_html_())
    write_text(path, page)
    return path
