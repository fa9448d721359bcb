"""How a teacher's logits grow with its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from capmismatch.errors import require_columns
from capmismatch.plots._axes import (
    family_handles,
    family_styles,
    legend_above,
    outer_labels_only,
    panels,
    run_line,
    size_axis,
    size_positions,
    symbol,
    value_axis,
)
from capmismatch.plots._common import by_size, lines_over_runs, listed, probe_rows
from capmismatch.plots._options import color_of, drawing
from capmismatch.plots._save import attach

NEEDS = ("probes",)
CAPTION = "Size of the logits against the teacher's size."
STATISTICS = ("target_logit", "max_wrong_logit", "logit_std", "confidence")


@drawing(probes="probes")
def logit_statistics(
    probes: pd.DataFrame, *, statistics: Sequence[str] = STATISTICS, split: str | None = None, by: str = "params"
) -> np.ndarray:
    """Draw target logit, largest wrong logit, logit std and confidence against teacher size, a line for each family.

    Parameters
    ----------
    probes : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, split, seed, tau, probe, value``.
    statistics : sequence of str
        Probes without temperature, one panel each.
    split : str, optional
        By default the only one, or ``"test"`` where there are several.
    by : str
        Column that holds the size.

    Returns
    -------
    ndarray of Axes
        Shape (number of statistics,).

    Raises
    ------
    InputError
        If a column, a probe or the split is missing.

    See Also
    --------
    capmismatch.probe : Makes the table.
    variance_vs_capacity : What the wrong classes' probabilities do.

    Examples
    --------
    >>> probes = pd.DataFrame({"teacher": ["mlp12", "mlp96"], "params": [648.0, 13248.0], "value": [2.0, 3.0]})
    >>> probes = probes.assign(family="mlp", split="test", seed=0, tau=np.nan, probe="logit_std")
    >>> logit_statistics(probes, statistics=["logit_std"])[0].lines[0].get_ydata()
    array([2., 3.])
    """
    require_columns(probes, [by], "the probes table")
    tables = {name: probe_rows(probes, name, split=split) for name in statistics}
    families = listed(next(iter(tables.values()))["family"])
    styles = family_styles(families)

    axes = panels(len(tables))
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        sizes = by_size(rows, by)
        rows = rows.assign(x=rows["label"].map(size_positions(sizes)))
        for (_, family), table, runs in lines_over_runs(rows, ["probe", "family"]):
            run_line(
                ax, table, runs, color=color_of(family, "black"), marker="o", linestyle=styles[family], name=family
            )
            attach(ax, table)
        size_axis(ax, sizes, by)
        value_axis(ax, symbol(name), rows["value"], on_top=True)
    outer_labels_only(axes)
    legend_above(axes, *family_handles(axes[0], families), own_figure=True)
    return axes
