"""What the temperature does to the wrong-class probabilities of a small and of a large teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from capmismatch.errors import InputError, require_columns
from capmismatch.plots._axes import (
    legend_above,
    look_handles,
    outer_labels_only,
    panels,
    run_line,
    symbol,
    tau_axis,
    value_axis,
)
from capmismatch.plots._common import (
    families_by_size,
    groups,
    labelled_as,
    lines_over_runs,
    listed,
    over_runs,
    probe_rows,
    probe_taus,
    rows_where,
    sole,
)
from capmismatch.plots._labels import names_on
from capmismatch.plots._options import drawing
from capmismatch.plots._save import attach
from capmismatch.plots._style import teacher_looks
from capmismatch.stats.matching import rows_of_kind

NEEDS = ("probes", "restored")
CAPTION = (
    "Mean and standard deviation of the wrong classes' probabilities against temperature, for a small and a large "
    "teacher. Hollow marks: ATS, at its temperature of the wrong classes. Dotted: the level that ISATS reaches."
)
QUANTITIES = ["derived_average", "derived_std", "inherent_variance", "target_prob"]
RESTORED, COUPLED_TABLE = "the restored table", "the table of coupled ATS"
STYLES: dict[str, dict[str, Any]] = {
    "TS": {"linestyle": "-"},
    # ATS may have been measured at one temperature alone, where a line would not be seen
    "ATS": {"linestyle": (0, (4, 1.5)), "marker": "s", "markerfacecolor": "white"},
    "ISATS": {"linestyle": (0, (1, 1))},
    "coupled": {"linestyle": "-.", "marker": "d", "markerfacecolor": "white"},
}
COUPLED = (1.25, 0.75)  # of tau, for the target's logit and for the others: ATS with one temperature to turn
COUPLED_NAME = f"ATS {COUPLED[0]:g}τ, {COUPLED[1]:g}τ"


@drawing(probes="probes", restored="restored")
def variance_vs_temperature(
    probes: pd.DataFrame,
    *,
    teachers: Sequence[str] | None = None,
    restored: pd.DataFrame | None = None,
    coupled: pd.DataFrame | None = None,
    split: str | None = None,
    by: str = "params",
) -> np.ndarray:
    """Draw mean and std of the wrong-class probabilities, IV and p_y against temperature.

    Parameters
    ----------
    probes : DataFrame, Study or Diagnosis
        Columns ``family, teacher, params, split, seed, tau, probe, value``, at several temperatures.
    teachers : sequence of str, optional
        Display labels (``"resnet20"``, or ``"A/resnet20"`` where families share the name); by default the smallest
        and the largest.
    restored : DataFrame, optional
        A table of restored variance. Its ATS rows are drawn dashed, with hollow marks, against ``tau_other``, and its
        ISATS rows, whose ``tau_other`` differs from example to example, as dotted levels. Needs one ``tau_target``.
    coupled : DataFrame, optional
        A table of restored variance at several temperatures, whose ATS rows have ``tau_target`` = 1.25 tau and
        ``tau_other`` = 0.75 tau; they are drawn against tau, as a line of their own: ATS, the forerunner of ISATS
        (arXiv 2210.04427), with its two temperatures coupled. It is made by ``pd.concat([restored_variance(bank,
        1.25 * tau, tau_other=0.75 * tau) for tau in taus])``; rows of other methods and temperatures are left out.
    split : str, optional
        By default the only one, or ``"test"`` where there are several.
    by : str
        Column that tells the smallest and the largest teacher.

    Returns
    -------
    ndarray of Axes
        Four panels, shape (4,): derived average, derived std, inherent variance, p_y.

    Raises
    ------
    InputError
        If a column, probe, split or teacher is missing, or `coupled` has no row with such temperatures.

    See Also
    --------
    capmismatch.probe : Makes the table of probes.
    capmismatch.restored_variance : Makes the table of restored variance.
    variance_vs_capacity : The same quantities against teacher size.

    Examples
    --------
    >>> names = ["derived_average", "derived_std", "inherent_variance", "target_prob"]
    >>> probes = pd.DataFrame([(name, tau, 0.1 / tau) for name in names for tau in (1.0, 4.0)],
    ...                       columns=["probe", "tau", "value"])
    >>> probes = probes.assign(family="mlp", teacher="mlp12", params=648.0, split="test", seed=0)
    >>> variance_vs_temperature(probes)[1].lines[0].get_ydata()
    array([0.1  , 0.025])
    """
    tables, everyone, chosen = _select(probes, teachers, split, by)
    reference = tables["derived_std"]
    restored_rows = None if restored is None else _restored_rows(restored, reference, chosen, split)
    coupled_rows = None if coupled is None else _coupled_rows(coupled, reference, chosen, split)

    axes = panels(len(QUANTITIES))
    looks = {label: look for label, look in teacher_looks(everyone).items() if label in chosen}
    x_name = r"temperature $\tau$" if restored_rows is None else r"$\tau$ or $\tau_{other}$"
    shown = names_on(axes[0], everyone)
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        _draw_plain(ax, rows, looks, shown)
        if restored_rows is not None:
            _draw_restored(ax, restored_rows[restored_rows["quantity"] == name], looks)
        if coupled_rows is not None:
            _draw_coupled(ax, coupled_rows[coupled_rows["quantity"] == name], looks)
        value_axis(ax, symbol(name), rows["value"], on_top=True)
        tau_axis(ax, listed(rows["tau"]), x_name)
    outer_labels_only(axes)
    handles, labels = look_handles(looks), [shown[label] for label in looks]
    if restored_rows is not None:
        methods = [method for method in STYLES if method in {"TS", *restored_rows["method"]}]
        points = restored_rows[restored_rows["method"] == "ATS"]["tau_other"].nunique() < 2
        alone = {"ATS": {"linestyle": ""}} if points else {}  # as it is drawn: a mark without a line
        handles += look_handles(
            {method: {"color": "0.3", **STYLES[method], **alone.get(method, {})} for method in methods}
        )
        labels += methods
    if coupled_rows is not None:
        handles += look_handles({"coupled": {"color": "0.3", **STYLES["coupled"]}})
        labels.append(COUPLED_NAME)
    legend_above(axes, handles, labels, own_figure=True)
    return axes


def _select(
    probes: pd.DataFrame, teachers: Sequence[str] | None, split: str | None, by: str
) -> tuple[dict[str, pd.DataFrame], dict[str, str], list[str]]:
    """Rows of each quantity for the chosen teachers, the family of every teacher by size, and the chosen ones."""
    require_columns(probes, [by], "the probes table")
    tables = {
        name: pd.concat([probe_rows(probes, name, tau=tau, split=split) for tau in probe_taus(probes, name)])
        for name in QUANTITIES
    }
    everyone = families_by_size(tables["derived_std"], by)
    chosen = list(teachers or dict.fromkeys([next(iter(everyone)), next(reversed(everyone))]))
    return (
        {name: rows_where(table, "the probes table", label=chosen) for name, table in tables.items()},
        everyone,
        chosen,
    )


def _restored_rows(
    restored: pd.DataFrame, reference: pd.DataFrame, chosen: list[str], split: str | None
) -> pd.DataFrame:
    """Rows of the restored table for the chosen teachers, at its one temperature of the target."""
    columns = ["family", "teacher", "seed", "method", "tau_target", "tau_other", "quantity", "value"]
    require_columns(restored, columns, RESTORED)
    rows = sole(sole(rows_of_kind(restored), "split", RESTORED, split, prefer="test"), "tau_target", RESTORED)
    return rows_where(labelled_as(rows, reference), RESTORED, label=chosen)


def _coupled_rows(coupled: pd.DataFrame, reference: pd.DataFrame, chosen: list[str], split: str | None) -> pd.DataFrame:
    """ATS rows whose temperatures are coupled, for the chosen teachers, with their tau."""
    columns = ["family", "teacher", "seed", "method", "tau_target", "tau_other", "quantity", "value"]
    require_columns(coupled, columns, COUPLED_TABLE)
    rows = sole(rows_of_kind(coupled), "split", COUPLED_TABLE, split, prefer="test")
    of_target, of_others = COUPLED
    fits = np.isclose(rows["tau_other"] * of_target, rows["tau_target"] * of_others, rtol=1e-6)
    rows = rows[rows["method"].eq("ATS") & fits]
    if rows.empty:
        raise InputError(f"{COUPLED_TABLE} has no ATS rows with tau_target = 1.25 tau and tau_other = 0.75 tau")
    rows = rows.assign(tau=(rows["tau_target"] / of_target).round(9))
    return rows_where(labelled_as(rows, reference), COUPLED_TABLE, label=chosen)


def _draw_coupled(ax: Axes, rows: pd.DataFrame, looks: dict) -> None:
    """Draw ATS with coupled temperatures as a line per teacher against tau."""
    for (label,), runs in groups(rows, ["label"]):
        table = over_runs(runs, ["quantity", "label", "method", "tau"]).sort_values("tau", ignore_index=True)
        ax.plot(table["tau"], table["mean"], color=looks[label]["color"], **STYLES["coupled"])
        attach(ax, table.rename(columns={"quantity": "probe", "tau": "x"}).assign(method="coupled ATS"))


def _draw_plain(ax: Axes, rows: pd.DataFrame, looks: dict, shown: dict[str, str]) -> None:
    """Draw a line per teacher against the temperature."""
    for _, table, runs in lines_over_runs(rows.assign(x=rows["tau"]), ["probe", "family", "teacher"]):
        label = table["label"].iloc[0]
        run_line(ax, table, runs, name=shown[label], **looks[label])
        attach(ax, table.assign(method="TS"))


def _draw_restored(ax: Axes, rows: pd.DataFrame, looks: dict) -> None:
    """Draw ATS as a line against the temperature of the wrong classes, and ISATS as levels."""
    for (label, method), runs in groups(rows[rows["method"] != "TS"], ["label", "method"]):
        color, style = looks[label]["color"], STYLES[str(method)]
        keys = ["quantity", "label", "method", "constraint", "margin", "wrong", "tau_other"]
        table = over_runs(runs, [key for key in keys if key in runs]).sort_values("tau_other", ignore_index=True)
        table = table.rename(columns={"quantity": "probe", "tau_other": "x"})
        if method == "ATS":
            ax.plot(table["x"], table["mean"], color=color, **style)
        else:
            for level in table["mean"]:
                ax.axhline(level, color=color, **style)
        attach(ax, table)
