"""An interactive look into a bank, in a notebook: soft labels by teacher, and what a method makes of them.

`tables` holds the numbers, `figures` their pictures, `widgets` the controls; each knows only the ones before.
"""

from capmismatch.explorer.widgets import Explorer, explore

__all__ = ["Explorer", "explore"]
