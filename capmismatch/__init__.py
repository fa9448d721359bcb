"""capmismatch: why a bigger teacher can teach worse, whether it will, and which teacher to take.

>>> import capmismatch as cm
>>> bank = cm.bank_from_arrays({"small": [[3.0, 1, 0]], "large": [[9.0, 1, 0]]}, labels=[0])
>>> table = cm.probe(bank, taus=[4], names=["derived_std"], progress=False)
>>> table[["teacher", "probe", "value"]].round(4)
  teacher        probe   value
0   small  derived_std  0.0323
1   large  derived_std  0.0121
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see; at run time each loads when it is first used
    from capmismatch import architectures, losses, plots, probes, ranks, temperature
    from capmismatch._peak import Peak, peak_of
    from capmismatch.bank import LogitBank, bank_from_arrays
    from capmismatch.collecting import collect
    from capmismatch.correlating import correlate
    from capmismatch.datasets import Dataset, load_dataset
    from capmismatch.diagnose import affinity, example_values, probe, rank_stability, reliability, restored_variance
    from capmismatch.errors import BankError, CapmismatchError, InputError
    from capmismatch.examples import dark_knowledge
    from capmismatch.explorer import explore
    from capmismatch.families import Family, Teacher, list_teachers, load_family
    from capmismatch.findings import explain
    from capmismatch.grid import distill
    from capmismatch.methods import Method
    from capmismatch.picking import Choice, pick
    from capmismatch.piloting import pilot
    from capmismatch.plots import figure_style
    from capmismatch.resampling import Bootstrap, bootstrap
    from capmismatch.results import load_results
    from capmismatch.softening import SoftLabels, load_soft_labels, soft_labels
    from capmismatch.study import Study, load_study
    from capmismatch.trackers import track
    from capmismatch.training import Recipe
    from capmismatch.views import Views

_HOMES = {
    "Peak": "_peak",
    "peak_of": "_peak",
    "LogitBank": "bank",
    "bank_from_arrays": "bank",
    "collect": "collecting",
    "correlate": "correlating",
    "Dataset": "datasets",
    "load_dataset": "datasets",
    "affinity": "diagnose",
    "example_values": "diagnose",
    "probe": "diagnose",
    "rank_stability": "diagnose",
    "reliability": "diagnose",
    "restored_variance": "diagnose",
    "Recipe": "training",
    "BankError": "errors",
    "CapmismatchError": "errors",
    "InputError": "errors",
    "dark_knowledge": "examples",
    "explore": "explorer",
    "Family": "families",
    "Teacher": "families",
    "list_teachers": "families",
    "load_family": "families",
    "explain": "findings",
    "distill": "grid",
    "Method": "methods",
    "Choice": "picking",
    "pick": "picking",
    "pilot": "piloting",
    "figure_style": "plots",
    "load_results": "results",
    "SoftLabels": "softening",
    "load_soft_labels": "softening",
    "soft_labels": "softening",
    "track": "trackers",
    "Bootstrap": "resampling",
    "bootstrap": "resampling",
    "Study": "study",
    "load_study": "study",
    "Views": "views",
}
_MODULES = ("architectures", "losses", "plots", "probes", "ranks", "temperature")

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used: torch takes seconds, a bare import must not."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"capmismatch.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"capmismatch.{name}")
    else:
        raise AttributeError(f"module 'capmismatch' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
