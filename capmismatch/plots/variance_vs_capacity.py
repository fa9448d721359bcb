"""The variance over the wrong classes against teacher size, with what it may merely restate beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, must_be_one_of, require_columns
from capmismatch.plots._axes import (
    RING,
    family_handles,
    family_styles,
    legend_above,
    look_handles,
    mark_peak,
    outer_labels_only,
    panels,
    run_line,
    size_axis,
    size_positions,
    symbol,
    value_axis,
)
from capmismatch.plots._common import by_size, lines_over_runs, listed, probe_rows, probe_taus, spread_out
from capmismatch.plots._options import drawing
from capmismatch.plots._save import attach
from capmismatch.plots._style import tau_looks

NEEDS = ("probes",)
CAPTION = (
    "How derived standard deviation, inherent variance and the target's probability change with the teacher's size, by "
    "temperature. DV = (1 - p_y)^2 IV: read the three together. Rings mark peaks that come before the largest teacher."
)
WHAT = "the probes table"
QUANTITIES = ["derived_std", "derived_variance", "inherent_variance", "target_prob", "derived_average"]


@drawing(probes="probes")
def variance_vs_capacity(
    probes: pd.DataFrame,
    *,
    ax: Axes | None = None,
    quantity: str | None = None,
    taus: Sequence[float] | None = None,
    split: str | None = None,
    by: str = "params",
) -> Axes | np.ndarray:
    """Draw the variance of the wrong-class probabilities against teacher size, a line for each temperature.

    DV = (1 - p_y)^2 IV, so a rise and fall of DV may only restate confidence: without `ax` three panels show `quantity`
    (the derived std by default), the inherent variance, and p_y. With `ax` one quantity is drawn, and it must be
    named; the others belong beside it. Rings mark peaks that come before the largest teacher.

    Parameters
    ----------
    probes : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, split, seed, tau, probe, value``.
    ax : Axes, optional
        Where to draw a single quantity; by default a new figure with three.
    quantity : {"derived_std", "derived_variance", "inherent_variance", "target_prob", "derived_average"}, optional
        What to draw, or what to draw first; needed with `ax`.
    taus : sequence of float, optional
        Temperatures to draw; by default all, or four spread over them.
    split : str, optional
        By default the only one, or ``"test"`` where there are several.
    by : str
        Column that holds the size.

    Returns
    -------
    Axes or ndarray of Axes
        The given Axes, or the three panels, shape (3,).

    Raises
    ------
    InputError
        If a column, probe, temperature or split is missing, or `ax` comes without `quantity`.

    See Also
    --------
    capmismatch.probe : Makes the table.
    variance_vs_temperature : The same quantities against temperature.
    capacity_curve : What becomes of the students.

    Examples
    --------
    >>> probes = pd.DataFrame({"probe": ["derived_std", "inherent_variance", "target_prob"], "value": [0.1, 0.02, 0.7]})
    >>> probes = probes.assign(family="mlp", teacher="mlp12", params=648.0, split="test", seed=0, tau=4.0)
    >>> [ax.get_title(loc="left") for ax in variance_vs_capacity(probes)]
    ['std of wrong $p$', 'inherent variance (IV)', '$p_y$']
    """
    if ax is not None and quantity is None:
        raise InputError(f"expected quantity= (one of {QUANTITIES}) along with ax: one Axes shows one quantity")
    first = quantity or "derived_std"
    quantities = [first] if ax is not None else list(dict.fromkeys([first, "inherent_variance", "target_prob"]))
    tables, labels = _select(probes, quantities, taus, split, by)

    axes = np.array([ax]) if ax is not None else panels(len(quantities))
    looks = tau_looks(labels)
    families = listed(tables[first]["family"])
    ringed = False
    for panel, (name, rows) in zip(axes, tables.items(), strict=True):
        ringed |= _draw(panel, rows, looks, families, by)
        value_axis(panel, symbol(name), rows["value"], on_top=ax is None)
    if ax is None:
        outer_labels_only(axes)
    family_lines, names = family_handles(axes[0], families)
    rings = {"peak before the largest teacher": RING} if ringed else {}
    handles = look_handles(looks) + family_lines + look_handles(rings)
    every = len(probe_taus(probes, first))
    some = f"{len(looks)} of {every} temperatures" if taus is None and len(looks) < every else None
    legend_above(axes, handles, [*looks, *names, *rings], own_figure=ax is None, title=some)
    return axes if ax is None else ax


def _select(
    probes: pd.DataFrame, quantities: list[str], taus: Sequence[float] | None, split: str | None, by: str
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Rows of each quantity at the chosen temperatures, and the temperatures' labels."""
    require_columns(probes, ["family", "teacher", by, "split", "seed", "tau", "probe", "value"], WHAT)
    for name in quantities:
        must_be_one_of(name, QUANTITIES, "quantity")
    chosen = spread_out(probe_taus(probes, quantities[0]), 4) if taus is None else [float(tau) for tau in taus]
    tables = {
        name: pd.concat([probe_rows(probes, name, tau=tau, split=split) for tau in chosen]) for name in quantities
    }
    return tables, [_name(tau) for tau in chosen]


def _name(tau: float) -> str:
    """What a temperature is called in the legend."""
    return f"τ={tau:g}"


def _draw(ax: Axes, rows: pd.DataFrame, looks: dict, families: list[str], by: str) -> bool:
    """Draw one quantity: a line per temperature and family, with rings at peaks; returns whether there is any."""
    ringed = False
    sizes = by_size(rows, by)
    styles = family_styles(families)
    rows = rows.assign(x=rows["label"].map(size_positions(sizes)))
    for (_, tau, family), table, runs in lines_over_runs(rows, ["probe", "tau", "family"]):
        look = {**looks[_name(tau)], "linestyle": styles[family]}
        run_line(ax, table, runs, name=_name(tau), **look)
        ringed |= bool(mark_peak(ax, table, look["color"]))
        attach(ax, table)
    size_axis(ax, sizes, by)
    return ringed
