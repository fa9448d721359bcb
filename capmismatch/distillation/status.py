"""How far a grid of students has come, from the files that its runs leave: while it runs, from any other process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from capmismatch._utils.files import is_locked
from capmismatch.distillation.runs import Experiment, plan, run_folder
from capmismatch.training.epoch_log import read_log

STATES = ("done", "running", "failed", "waiting")


def status(study: Experiment) -> pd.DataFrame:
    """How many students of a study are done, running, failed or waiting.

    Parameters
    ----------
    study : with a bank

    Returns
    -------
    DataFrame, one row a teacher and setting: family, teacher, label, runs, the number of runs in each state (done,
    running, failed, waiting), and seconds_left, the computing time that its running and waiting runs still need:
    epochs to go by the pace of the run itself, else by the mean of the runs of this student and setting, of this
    student, of all. NaN as long as no run has ended an epoch. Failed runs are tried again by the next command; their
    time is not counted.
    """
    epochs = study.recipe.epochs
    rows = []
    for run in plan(study, study.bank):
        folder = run_folder(study, run)
        state, seconds, share = _look(folder, epochs)
        teacher = run.teacher
        rows.append(
            {
                "family": teacher.family if teacher else "",
                "teacher": teacher.teacher if teacher else "",
                "label": run.method.label,
                "student": run.student,
                "state": state,
                "seconds": seconds,
                "share": share,
            }
        )
    runs = pd.DataFrame(rows)
    known, expected = runs["seconds"], runs["seconds"]
    for keys in (["student", "label"], ["student"], []):
        means = known.groupby([runs[key] for key in keys]).transform("mean") if keys else known.mean()
        expected = expected.fillna(means)
    open_runs = runs["state"].isin(["running", "waiting"])
    runs["seconds_left"] = (expected * (1 - runs["share"])).where(open_runs, 0.0)
    states = pd.get_dummies(runs["state"]).reindex(columns=list(STATES), fill_value=False).astype(int)
    grouped = pd.concat([runs, states], axis=1).assign(runs=1).groupby(["family", "teacher", "label"], sort=False)
    counts = grouped[["runs", *STATES]].sum()
    left = grouped["seconds_left"].agg(lambda values: values.sum(skipna=False))
    return counts.assign(seconds_left=left).reset_index()


def _look(folder: Path, epochs: int) -> tuple[str, float, float]:
    """A run's state, the seconds that it takes as a whole (NaN where nobody knows), and how much of it is done."""
    result: dict[str, Any] = {}
    if (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return "done", float(result.get("seconds", np.nan)), 1.0
    lines = read_log(folder / "log.jsonl")
    # The median: the first epoch of a process, which loads what it needs, says little of the others.
    seconds = epochs * float(np.median([line["seconds"] for line in lines])) if lines else np.nan
    share = min(1.0, len(lines) / epochs)
    if is_locked(folder / ".lock"):
        return "running", seconds, share
    return "failed" if (folder / "error.txt").exists() else "waiting", seconds, share
