"""capmismatch: why a bigger teacher can teach worse, whether it will, and which teacher to take.

>>> import capmismatch as cm
>>> bank = cm.bank_from_arrays({"small": [[3.0, 1, 0]], "large": [[9.0, 1, 0]]}, labels=[0])
>>> table = cm.probe(bank, taus=[4], names=["derived_std"], progress=False)
>>> table[["teacher", "probe", "value"]].round(4)
  teacher        probe   value
0   small  derived_std  0.0323
1   large  derived_std  0.0121
"""

import lazy_loader

# The names stand in __init__.pyi alone. Each loads when it is first used: torch takes seconds, a bare import must not.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
