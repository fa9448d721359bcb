"""An interactive look into a bank, in a notebook: soft labels by teacher, and what a method makes of them.

`tables` makes the numbers, `figures` draws them, `widgets` holds the controls; each imports only the ones before it.
"""

from capmismatch.explorer.widgets import Explorer, explore

__all__ = ["Explorer", "explore"]
