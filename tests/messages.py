"""What a message must name, whatever the words around it."""

from __future__ import annotations

import re


def naming(*names: object) -> str:
    """A pattern for ``pytest.raises(match=...)``: these stand in the message in this order.

    >>> re.search(naming("links", ["a"], 3), "expected 'links' to hold ['a'], got 3") is not None
    True
    """
    return "(?s)" + ".*".join(rf"(?<!\w){re.escape(str(name))}(?!\w)" for name in names)
