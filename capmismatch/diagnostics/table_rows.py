"""Rows of the tables of a bank, from what was measured: names, settings and findings beside the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capmismatch._numerics.soft_label_spec import SoftLabelSpec
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.diagnostics.example_values import Affinities, Column
from capmismatch.diagnostics.means import ClusteredMeans, Means
from capmismatch.diagnostics.restored import restored_rows, shown_settings
from capmismatch.diagnostics.token_tables import marked
from capmismatch.probes import REGISTRY


def seed_of(record: TeacherRecord) -> int:
    """The seed of a teacher's training run; 0 where none is known."""
    return 0 if record.seed is None else record.seed


def identity(record: TeacherRecord) -> dict[str, Any]:
    """Columns that say which teacher a row is of."""
    return {
        "family": record.family,
        "teacher": record.teacher,
        "params": math.nan if record.params is None else float(record.params),
        "macs": math.nan if record.macs is None else float(record.macs),
    }


def probe_rows(
    bank: LogitBank,
    record: TeacherRecord,
    means: dict[Column, dict[str, float]],
    temperatures: Sequence[float],
    chosen: Sequence[str],
    split: str | None,
    marks: dict[str, dict[str, object]],
) -> Iterator[dict[str, Any]]:
    """Rows of the table of `capmismatch.probe` of one teacher, one per probe and temperature."""
    for name in chosen:
        for tau in temperatures if REGISTRY[name].tempered else [None]:
            yield {
                **identity(record),
                "split": split or "all",
                "seed": seed_of(record),
                "tau": math.nan if tau is None else tau,
                "probe": name,
                **means[name, tau],
                **marked(bank, name, tau, means[name, tau], marks.get(record.key, {})),
            }


def rank_table(
    bank: LogitBank, pairs: list[tuple[int, int]], means: Mapping[str, Means | ClusteredMeans], split: str
) -> pd.DataFrame:
    """The table of `capmismatch.rank_stability`: one row per pair of teachers and metric."""
    rows = []
    for pair, (a, b) in enumerate(pairs):
        first, second = bank.teachers[a], bank.teachers[b]
        for metric, of_pairs in means.items():
            rows.append(
                {
                    "family_a": first.family,
                    "teacher_a": first.teacher,
                    "seed_a": seed_of(first),
                    "family_b": second.family,
                    "teacher_b": second.teacher,
                    "seed_b": seed_of(second),
                    "split": split,
                    "metric": metric,
                    **of_pairs.columns(pair),
                }
            )
    return pd.DataFrame(rows)


def affinity_table(bank: LogitBank, tau: float, found: Affinities) -> pd.DataFrame:
    """The table of `capmismatch.affinity`."""
    present, classes, values = found.present, found.classes, found.values
    true, other = (present[:, None] != classes).nonzero()
    families, teachers = (pd.Categorical([getattr(r, name) for r in bank.teachers]) for name in ("family", "teacher"))
    class_names = pd.CategoricalDtype(list(bank.classes))  # text in millions of rows would take longer than all sums
    smallest = np.min_scalar_type(-max(1, len(classes)))  # as categories have it: no copy is made
    codes = (np.tile(index.astype(smallest), len(values)) for index in (present[true], other))
    true_class, other_class = (pd.Categorical.from_codes(each_row, dtype=class_names) for each_row in codes)
    return pd.DataFrame(
        {
            "family": families.repeat(len(true)),
            "teacher": teachers.repeat(len(true)),
            "seed": np.repeat([seed_of(record) for record in bank.teachers], len(true)),
            "tau": tau,
            "true_class": true_class,
            "other_class": other_class,
            "value": values.ravel(),
        },
        copy=False,
    )


def restored_table_rows(
    bank: LogitBank,
    record: TeacherRecord,
    specs: Sequence[SoftLabelSpec],
    split: str | None,
    values: dict[tuple[str, str], NDArray[np.float64]],
    correct: NDArray[np.bool_],
    clusters: NDArray[np.int64] | None,
) -> Iterator[dict[str, Any]]:
    """Rows of the table of `capmismatch.restored_variance` of one teacher."""
    for spec in specs:
        head = {
            **identity(record),
            "split": split or "all",
            "seed": seed_of(record),
            "method": spec.method,
            **shown_settings(spec),
        }
        of_spec = {quantity: column for (method, quantity), column in values.items() if method == spec.method}
        plain = values["TS", "derived_variance"]
        for row in restored_rows(of_spec, correct, plain, clusters, len(bank.classes)):
            yield {**head, **row}
