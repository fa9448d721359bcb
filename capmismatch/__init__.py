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

from capmismatch._version import __version__

if TYPE_CHECKING:  # what editors and type checkers see; at run time each loads when it is first used
    from capmismatch import architectures, losses, plots, probes, ranks, temperature
    from capmismatch.data.bank import LogitBank, bank_from_arrays
    from capmismatch.data.datasets import Dataset, load_dataset
    from capmismatch.data.views import Views
    from capmismatch.diagnostics.dark_knowledge import dark_knowledge
    from capmismatch.diagnostics.tables import (
        affinity,
        example_values,
        probe,
        rank_stability,
        reliability,
        restored_variance,
    )
    from capmismatch.distillation.grid import distill
    from capmismatch.distillation.methods import Method
    from capmismatch.distillation.results import load_results
    from capmismatch.distillation.soft_label_files import SoftLabels, load_soft_labels, soft_labels
    from capmismatch.distillation.trackers import track
    from capmismatch.errors import BankError, CapmismatchError, InputError
    from capmismatch.explorer import explore
    from capmismatch.findings import explain
    from capmismatch.plots import figure_style
    from capmismatch.selection.links import correlate
    from capmismatch.selection.picking import Choice, pick
    from capmismatch.sources.collecting import collect
    from capmismatch.sources.families import Family, Teacher, list_teachers, load_family
    from capmismatch.stats.bootstrap import Bootstrap, bootstrap
    from capmismatch.stats.peak import Peak, peak_of
    from capmismatch.study.pilot import pilot
    from capmismatch.study.study import Study, load_study
    from capmismatch.training.loop import Recipe

_HOMES = {
    "Peak": "stats.peak",
    "peak_of": "stats.peak",
    "LogitBank": "data.bank",
    "bank_from_arrays": "data.bank",
    "collect": "sources.collecting",
    "correlate": "selection.links",
    "Dataset": "data.datasets",
    "load_dataset": "data.datasets",
    "affinity": "diagnostics.tables",
    "example_values": "diagnostics.tables",
    "probe": "diagnostics.tables",
    "rank_stability": "diagnostics.tables",
    "reliability": "diagnostics.tables",
    "restored_variance": "diagnostics.tables",
    "Recipe": "training.loop",
    "BankError": "errors",
    "CapmismatchError": "errors",
    "InputError": "errors",
    "dark_knowledge": "diagnostics.dark_knowledge",
    "explore": "explorer",
    "Family": "sources.families",
    "Teacher": "sources.families",
    "list_teachers": "sources.families",
    "load_family": "sources.families",
    "explain": "findings",
    "distill": "distillation.grid",
    "Method": "distillation.methods",
    "Choice": "selection.picking",
    "pick": "selection.picking",
    "pilot": "study.pilot",
    "figure_style": "plots",
    "load_results": "distillation.results",
    "SoftLabels": "distillation.soft_label_files",
    "load_soft_labels": "distillation.soft_label_files",
    "soft_labels": "distillation.soft_label_files",
    "track": "distillation.trackers",
    "Bootstrap": "stats.bootstrap",
    "bootstrap": "stats.bootstrap",
    "Study": "study.study",
    "load_study": "study.study",
    "Views": "data.views",
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
