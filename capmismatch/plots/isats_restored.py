"""What temperature scaling, ATS and ISATS make of a teacher's variance, and at what price."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import (
    family_handles,
    family_styles,
    legend_above,
    look_handles,
    outer_labels_only,
    panels,
    run_line,
    size_axis,
    size_positions,
    symbol,
    value_axis,
)
from capmismatch.plots._common import (
    by_size,
    groups,
    lines_over_runs,
    listed,
    sole,
    spread_out,
    teacher_labels,
)
from capmismatch.plots._save import attach
from capmismatch.plots._style import setting_looks

NEEDS = ("restored",)
CAPTION = (
    "What plain temperature scaling (TS), ATS and ISATS make of each teacher's soft labels: the derived standard "
    "deviation, and its price in the target's probability, in examples whose arg max moves and in targets that a wrong "
    "class overtakes. The temperature that ISATS chooses for the wrong classes: median over the examples, with a band "
    "from the 10 % to the 90 % quantile."
)
WHAT = "the restored table"
QUANTITIES = ["derived_std", "inherent_variance", "target_prob", "tau_other", "flipped", "overtaken"]


def isats_restored(
    restored: pd.DataFrame,
    *,
    tau_others: Sequence[float] | None = None,
    tau_target: float | None = None,
    split: str | None = None,
    by: str = "params",
) -> np.ndarray:
    """Draw the restored variance of each teacher beside IV, p_y, the chosen temperatures and the changed decisions.

    Parameters
    ----------
    restored
        Columns ``family, teacher, params, split, seed, method, constraint, margin, tau_target, tau_other, quantity,
        value``.
    tau_others
        Temperatures of ATS to draw; by default all, or three spread over them.
    tau_target
        Needed where the table has several.
    split
        By default the only one, or ``"test"`` where there are several.
    by
        Column that holds the size.

    Returns
    -------
    ndarray of Axes
        Six panels, shape (6,): derived std, inherent variance, p_y; the median of the examples' tau_other with a band
        from the 10 % to the 90 % quantile (ISATS); the share of examples whose arg max moved, and whose target was
        overtaken.

    Raises
    ------
    InputError
        If a column or a quantity is missing.

    Examples
    --------
    >>> names = ["derived_std", "inherent_variance", "target_prob", "flipped", "overtaken"]
    >>> names += ["tau_other_q10", "tau_other_q50", "tau_other_q90"]
    >>> restored = pd.DataFrame({"quantity": names, "value": 0.1}).assign(family="mlp", teacher="mlp12", params=648.0)
    >>> restored = restored.assign(split="test", seed=0, method="ISATS", constraint="order", margin=1.0)
    >>> axes = isats_restored(restored.assign(tau_target=4.0, tau_other=np.nan))
    >>> axes[0].figure.legends[0].get_texts()[0].get_text()
    'ISATS order m=1'
    """
    require_columns(restored, ["family", "teacher", by, "seed", "method", "constraint", "margin"], WHAT)
    require_columns(restored, ["tau_target", "tau_other", "quantity", "value"], WHAT)
    rows = sole(sole(restored, "split", WHAT, split, prefer="test"), "tau_target", WHAT, tau_target)
    given = rows[rows["method"] == "ATS"]["tau_other"]
    shown = spread_out(listed(given), 3) if tau_others is None else list(tau_others)
    if missing := [tau for tau in shown if tau not in set(given)]:
        raise InputError(f"{WHAT} has no ATS rows with tau_other {missing}; it has {listed(given)}")
    rows = rows[(rows["method"] != "ATS") | rows["tau_other"].isin(shown)]
    needed = {*QUANTITIES, "tau_other_q10", "tau_other_q50", "tau_other_q90"} - {"tau_other"}
    if absent := sorted(needed - set(rows["quantity"])):
        raise InputError(f"{WHAT} has no rows with quantity {absent}; it has {listed(rows['quantity'])}")
    rows = rows.assign(label=teacher_labels(rows), setting=[_setting(row) for row in rows.to_dict("records")])
    sizes = by_size(rows, by)
    rows = rows.assign(x=rows["label"].map(size_positions(sizes)))

    axes = panels(len(QUANTITIES), narrowest=1.4)
    order = rows.sort_values("method", key=lambda method: method.map({"TS": 0, "ATS": 1, "ISATS": 2}), kind="stable")
    looks = setting_looks(dict(zip(order["setting"], order["method"], strict=True)))
    families = listed(rows["family"])
    # with one family the line style tells the settings of ATS apart, which their tints do alone otherwise
    styles = {family: {"linestyle": style} for family, style in family_styles(families).items()}
    styles = styles if len(families) > 1 else {families[0]: {}}
    for ax, name in zip(axes, QUANTITIES, strict=True):
        if name == "tau_other":
            _draw_temperatures(ax, rows, looks, styles)
        else:
            some = rows[rows["quantity"] == name]
            for (_, setting, family), table, runs in lines_over_runs(some, ["quantity", "setting", "family"]):
                run_line(ax, table, runs, **{**looks[setting], **styles[family]})
                attach(ax, table)
            value_axis(ax, symbol(name), some["value"], percent=name in {"flipped", "overtaken"}, on_top=True)
        size_axis(ax, sizes, by)
    outer_labels_only(axes)
    more, names = family_handles(axes[0], families)
    legend_above(axes[0], look_handles(looks) + more, [*looks, *names], own=True)
    return axes


def _setting(row: Mapping[Hashable, Any]) -> str:
    if row["method"] == "ISATS":
        margin = f" m={row['margin']:g}" if np.isfinite(row["margin"]) else ""
        return f"ISATS {row['constraint']}{margin}"
    return "TS" if row["method"] == "TS" else f"{row['method']} other={row['tau_other']:g}"


def _draw_temperatures(ax: Axes, rows: pd.DataFrame, looks: dict, styles: dict) -> None:
    quantiles = ["tau_other_q10", "tau_other_q50", "tau_other_q90"]
    some = rows[rows["quantity"].isin(quantiles) & (rows["method"] == "ISATS")]
    for (setting, family), runs in groups(some, ["setting", "family"]):
        table = runs.pivot_table(index=["label", "x"], columns="quantity", values="value", aggfunc="mean")
        table = table.reset_index().sort_values("x", ignore_index=True)
        look = {**looks[setting], **styles[family]}
        ax.plot(table["x"], table["tau_other_q50"], **look)
        band = {"color": look["color"], "alpha": 0.18, "linewidth": 0}
        ax.fill_between(table["x"], table["tau_other_q10"], table["tau_other_q90"], **band)
        attach(ax, table.assign(setting=setting, family=family).rename_axis(columns=None))
    value_axis(ax, r"chosen $\tau_{other}$", some["value"], on_top=True)
