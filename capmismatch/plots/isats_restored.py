"""What temperature scaling, ATS and ISATS make of a teacher's variance, and at what price."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch._numerics.soft_label_spec import WRONG, wrong_words
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
from capmismatch.plots._options import drawing
from capmismatch.plots._save import attach
from capmismatch.plots._style import setting_looks
from capmismatch.stats.matching import rows_of_kind

NEEDS = ("restored",)
CAPTION = (
    "Each teacher's soft labels under plain temperature scaling (TS), ATS and ISATS: the derived standard deviation "
    "and its cost: the target's probability, the share of examples whose most likely class changes, and the share of "
    "targets that a wrong class overtakes. The temperature that ISATS chooses for the wrong classes: median over the "
    "examples, thin lines: 10 % and 90 % quantile. Last, the derived standard deviation of the examples "
    "that the teacher gets right, and of those that it gets wrong."
)
WHAT = "the restored table"
QUANTITIES = ["derived_std", "inherent_variance", "target_prob", "tau_other", "flipped", "overtaken"]
KINDS = ("right", "wrong")
QUANTILES = ["tau_other_q10", "tau_other_q50", "tau_other_q90"]


@drawing(restored="restored")
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
    restored : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, split, seed, method, constraint, margin, tau_target, tau_other, quantity,
        value``; and ``rows``, ``wrong`` of newer tables.
    tau_others : sequence of float, optional
        Temperatures of ATS to draw; by default all, or three spread over them.
    tau_target : float, optional
        Needed where the table has several.
    split : str, optional
        By default the only one, or ``"test"`` where there are several.
    by : str
        Column that holds the size.

    Returns
    -------
    ndarray of Axes
        Six panels, shape (6,): derived std, inherent variance, p_y; the median of the examples' tau_other, with the
        10 % and the 90 % quantile as thin lines (ISATS); the share of examples that get another most likely class, and
        of those whose true class was overtaken. Eight, shape (8,), where the table tells rows apart: the last two hold
        the derived std of the examples that the teacher gets right, and of those that it gets wrong.

    Raises
    ------
    InputError
        If a column or a quantity is missing.

    See Also
    --------
    capmismatch.restored_variance : Makes the table.
    variance_vs_temperature : What plain temperature scaling does at other temperatures.

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
    rows = _select(rows_of_kind(restored), tau_others, tau_target, split, by)
    measured = restored[restored["value"].notna()]  # a teacher that is always right has no wrong rows
    kinds = {kind: rows_of_kind(measured, kind) for kind in KINDS}
    apart = {
        kind: _select(of_kind, tau_others, tau_target, split, by) for kind, of_kind in kinds.items() if len(of_kind)
    }
    sizes = by_size(rows, by)
    places = size_positions(sizes)
    rows = rows.assign(x=rows["label"].map(places))
    looks, styles = _looks(rows)

    axes = panels(len(QUANTITIES) + len(apart), narrowest=1.4)
    for ax, name in zip(axes, QUANTITIES, strict=False):
        if name == "tau_other":
            _draw_temperatures(ax, rows, looks, styles)
        else:
            _draw_quantity(ax, rows[rows["quantity"] == name], looks, styles)
        size_axis(ax, sizes, by)
    for ax, (kind, of_kind) in zip(axes[len(QUANTITIES) :], apart.items(), strict=True):
        of_kind = of_kind[of_kind["quantity"].eq("derived_std")]
        _draw_quantity(ax, of_kind.assign(x=of_kind["label"].map(places)), looks, styles, f"std, {kind} rows")
        size_axis(ax, sizes, by)
    outer_labels_only(axes)
    family_lines, names = family_handles(axes[0], listed(rows["family"]))
    legend_above(axes, look_handles(looks) + family_lines, [*looks, *names], own_figure=True)
    return axes


def _select(
    restored: pd.DataFrame, tau_others: Sequence[float] | None, tau_target: float | None, split: str | None, by: str
) -> pd.DataFrame:
    """Rows to draw, with the teacher's display label as `label` and the method with its settings as `setting`."""
    require_columns(restored, ["family", "teacher", by, "seed", "method", "constraint", "margin"], WHAT)
    require_columns(restored, ["tau_target", "tau_other", "quantity", "value"], WHAT)
    rows = sole(sole(restored, "split", WHAT, split, prefer="test"), "tau_target", WHAT, tau_target)
    ats_taus = listed(rows[rows["method"] == "ATS"]["tau_other"])
    shown = spread_out(ats_taus, 3) if tau_others is None else list(tau_others)
    if missing := [tau for tau in shown if tau not in ats_taus]:
        raise InputError(f"{WHAT} has no ATS rows with tau_other {missing}; it has {ats_taus}")
    rows = rows[(rows["method"] != "ATS") | rows["tau_other"].isin(shown)]
    needed = {*QUANTITIES, *QUANTILES} - {"tau_other"}
    if set(rows.get("rows", [])) == {"wrong"}:
        needed -= {"overtaken"}  # of targets that were on top
    if absent := sorted(needed - set(rows["quantity"])):
        raise InputError(f"{WHAT} has no rows with quantity {absent}; it has {listed(rows['quantity'])}")
    return rows.assign(label=teacher_labels(rows), setting=[_setting(row) for row in rows.to_dict("records")])


def _looks(rows: pd.DataFrame) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The look of each setting, and what a family changes of it."""
    order = rows.sort_values("method", key=lambda method: method.map({"TS": 0, "ATS": 1, "ISATS": 2}), kind="stable")
    looks = setting_looks(dict(zip(order["setting"], order["method"], strict=True)))
    families = listed(rows["family"])
    if len(families) == 1:  # then line styles tell the settings of ATS apart, which their tints do alone otherwise
        return looks, {families[0]: {}}
    return looks, {family: {"linestyle": style} for family, style in family_styles(families).items()}


def _setting(row: Mapping[Hashable, Any]) -> str:
    """The method with the settings that tell it from others of the table."""
    if row["method"] == "ISATS":
        margin = f" m={row['margin']:g}" if np.isfinite(row["margin"]) else ""
        wrong = row.get("wrong")  # older tables do not say: "free" then
        constraint = "unconstrained" if row["constraint"] == "none" else row["constraint"]
        return " ".join(
            [f"ISATS {constraint}{margin}", *wrong_words(wrong if wrong in WRONG else "free")],
        )
    return "TS" if row["method"] == "TS" else f"{row['method']} other tau={row['tau_other']:g}"


def _draw_quantity(ax: Axes, rows: pd.DataFrame, looks: dict, styles: dict, own_name: str = "") -> None:
    """Draw one line per setting and family; `own_name` of the axis says whose rows they are."""
    name = rows["quantity"].iloc[0]
    keys = ["quantity", *(["rows"] if own_name else []), "setting", "family"]
    for (*_, setting, family), table, runs in lines_over_runs(rows, keys):
        run_line(ax, table, runs, name=setting, **{**looks[setting], **styles[family]})
        attach(ax, table)
    value_axis(ax, own_name or symbol(name), rows["value"], percent=name in {"flipped", "overtaken"}, on_top=True)


def _draw_temperatures(ax: Axes, rows: pd.DataFrame, looks: dict, styles: dict) -> None:
    """Draw the median of the temperatures that ISATS chooses, and the outer quantiles as thin lines.

    No band: it would look like an interval of the median, and those of two families would cover each other.
    """
    low, median, high = QUANTILES
    rows = rows[rows["quantity"].isin(QUANTILES) & (rows["method"] == "ISATS")]
    for (setting, family), runs in groups(rows, ["setting", "family"]):
        table = runs.pivot_table(index=["label", "x"], columns="quantity", values="value", aggfunc="mean")
        table = table.reset_index().sort_values("x", ignore_index=True)
        look = {**looks[setting], **styles[family]}
        drawn = table.assign(mean=table[median], low=np.nan)
        run_line(ax, drawn, None, name=setting, **look)
        for quantile in (low, high):
            thin = {**look, "marker": "", "linewidth": 0.6, "alpha": 0.8}
            run_line(ax, drawn.assign(mean=table[quantile]), None, **thin)
        attach(ax, table.assign(setting=setting, family=family).rename_axis(columns=None))
    value_axis(ax, r"$\tau_{other}$, quantiles", rows["value"], on_top=True)
