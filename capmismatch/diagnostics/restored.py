"""Rows of the table of restored variance: the soft labels of one teacher, of right and of wrong rows apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch.diagnostics.means import mean
from capmismatch.findings import join_codes

UNIFORM = 0.1
"""Share of the wrong classes that are effectively alike, from which on a soft label says nothing of them."""


def shown_settings(spec: SoftLabelSpec) -> dict[str, Any]:
    """The settings in the columns of `restored_variance`, blank where the method does not read them."""
    searched = spec.method == "ISATS"
    return {
        "constraint": spec.constraint if searched else "",
        "margin": spec.margin if searched else math.nan,
        "wrong": spec.wrong if searched else "",
        "tau_target": float(spec.tau),
        "tau_other": {"TS": spec.tau, "ATS": spec.tau_other, "ISATS": math.nan}[spec.method],
    }


def restored_rows(
    values: dict[str, NDArray[np.float64]],
    correct: NDArray[np.bool_],
    plain: NDArray[np.float64],
    clusters: NDArray[np.int64] | None = None,
    classes: int = 0,
) -> Iterator[dict[str, Any]]:
    """Quantity, value, se and n of one teacher's soft labels by kind of rows, from the (n,) values of its examples.

    `plain` is the derived variance of each example under TS: where the right rows lose some of it, a finding says so.
    `clusters` (n,) number the sequences that rows belong to, `classes` are all classes.
    """
    for kind, chosen in {"all": np.ones_like(correct), "right": correct, "wrong": ~correct}.items():
        of_kind = {quantity: column[chosen] for quantity, column in values.items()}
        groups = None if clusters is None else clusters[chosen]
        for quantity, column in of_kind.items():
            lost = kind == "right" and quantity == "derived_variance" and _is_lower(column, plain[chosen], groups)
            flat = quantity == "effective_wrong" and is_uniform(column, classes)
            codes = join_codes([*(["CM025"] if lost else []), *(["CM030"] if flat else [])])
            yield {"quantity": quantity, "rows": kind, **mean(column, groups), "findings": codes}
        right = correct[chosen]
        overtaken = of_kind["flipped"][right]
        yield {
            "quantity": "overtaken",
            "rows": kind,
            **mean(overtaken, None if groups is None else groups[right]),
            "findings": "",
        }
        if "tau_other_mean" not in of_kind:
            continue
        tau_other = of_kind["tau_other_mean"]
        for name, level in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9)):
            reached = float(np.quantile(tau_other, level)) if len(tau_other) else math.nan
            quantile = {"value": reached, "se": math.nan, "n": len(tau_other)}
            yield {"quantity": f"tau_other_{name}", "rows": kind, **quantile, "findings": ""}


def is_uniform(effective_wrong: NDArray[np.float64], classes: int) -> bool:
    """Whether the median effective number of wrong classes exceeds a tenth of them (finding CM030)."""
    return bool(len(effective_wrong)) and float(np.median(effective_wrong)) > UNIFORM * (classes - 1)


def _is_lower(values: NDArray[np.float64], plain: NDArray[np.float64], clusters: NDArray[np.int64] | None) -> bool:
    """Whether the mean over the same examples is lower, by more than two standard errors of the difference."""
    less = mean(plain - values, clusters)
    return bool(less["value"] > 2 * less["se"])  # no examples, or one: NaN, and nothing is said
