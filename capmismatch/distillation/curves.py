"""Learning curves of students: what each run logged epoch by epoch, as one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from capmismatch.distillation.runs import Experiment, Run, plan, run_folder
from capmismatch.training.epoch_log import read_log

SCORES = ("val_accuracy", "val_nll")
"""What a run may have measured after each epoch, of classes and of texts."""

COLUMNS = ("family", "teacher", "params", "teacher_seed", "student", "label", "method", "seed", "epoch", "loss")


def learning_curves(study: Experiment) -> pd.DataFrame:
    """What the runs of a study logged after each epoch.

    Parameters
    ----------
    study : Experiment
        A `Study` whose students are trained here, done or under way.

    Returns
    -------
    DataFrame
        One row per run and epoch, with the columns

        * ``family, teacher, params, teacher_seed, student, label, method, seed``: as in the results table
        * ``epoch``: counted from 1
        * ``loss``: mean training loss of the epoch, in the method's own unit: it compares epochs, not methods
        * ``val_accuracy`` (in [0, 1]), of texts ``val_nll`` (nats): of the student after the epoch, on validation rows;
          NaN for runs that did not measure it, see ``curves`` of `DistillConfig`
    """
    rows = [row for run in plan(study, study.bank) for row in _rows_of(study, run)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *SCORES]).astype({"params": float})
    return table.drop(columns="val_accuracy" if table["val_nll"].notna().any() else "val_nll")


def _rows_of(study: Experiment, run: Run) -> list[dict[str, Any]]:
    """A row for each epoch that a run has logged."""
    lines = read_log(run_folder(study, run) / "log.jsonl")
    return [
        run.columns
        | {"epoch": line["epoch"] + 1, "loss": line.get("loss", np.nan)}
        | {name: line.get(name, np.nan) for name in SCORES}
        for line in lines
    ]
