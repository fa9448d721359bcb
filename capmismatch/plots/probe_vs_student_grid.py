"""Several probes against the accuracy of the students, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from capmismatch.errors import InputError
from capmismatch.plots._axes import panels
from capmismatch.plots.probe_vs_student import probe_vs_student, teacher_points


def probe_vs_student_grid(
    probes: pd.DataFrame,
    results: pd.DataFrame,
    *,
    chosen: Sequence[str],
    tau: float | None = None,
    **options: Any,
) -> np.ndarray:
    """Draw `probe_vs_student` for several probes as small multiples with one accuracy axis, without names.

    Parameters
    ----------
    probes, results
        As for `probe_vs_student`.
    chosen
        The probes, one panel each.
    tau
        Temperature of the probes that have one.
    options
        Passed on: ``student, label, split, links, names``.

    Returns
    -------
    ndarray of Axes
        Shape (number of probes,).

    Examples
    --------
    >>> teachers = pd.DataFrame({"family": "mlp", "teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0]})
    >>> probes = teachers.assign(split="test", seed=0, tau=np.nan)
    >>> probes = pd.concat([probes.assign(probe="nll", value=[0.9, 0.5]), probes.assign(probe="ece", value=[0.1, 0.2])])
    >>> results = teachers.assign(student="mlp12", method="KD", label="KD", split="test", accuracy=[0.75, 0.77])
    >>> [ax.get_xlabel() for ax in probe_vs_student_grid(probes, results, chosen=["nll", "ece"])]
    ['nll', 'ece']
    """
    if not chosen:
        raise InputError("expected at least one probe in chosen, got none")
    student, label, split = options.get("student"), options.get("label"), options.get("split", "test")
    for probe in chosen:  # fail before a figure is open
        teacher_points(probes, results, probe, tau, student, label, split)
    axes = panels(len(chosen), sharex=False)
    for ax, probe in zip(axes, chosen, strict=True):
        probe_vs_student(probes, results, probe=probe, tau=tau, ax=ax, **{"names": False, **options})
        label = ax.get_ylabel()
        ax.set_ylabel("")
        if ax is not axes[0]:
            ax.sharey(axes[0])
        ax.tick_params(labelleft=ax.get_subplotspec().is_first_col())
    axes[0].figure.supylabel(label)
    return axes
