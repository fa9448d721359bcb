"""Progress of a grid of students, from the files that its runs leave: while it runs, from any other process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from capmismatch._utils.files import is_locked
from capmismatch.distillation.runs import Experiment, plan, read_seconds, run_folder
from capmismatch.training.epoch_log import read_log

STATES = ("done", "running", "failed", "waiting")


def status(study: Experiment) -> pd.DataFrame:
    """Count how many students of a study are done, running, failed or waiting.

    Parameters
    ----------
    study : Experiment
        A `Study` whose bank has been collected.

    Returns
    -------
    DataFrame
        One row per teacher and setting, with the columns

        * ``family``, ``teacher``: empty for plain cross-entropy
        * ``label``: of the setting
        * ``runs``: number of runs
        * ``done``, ``running``, ``failed``, ``waiting``: number of runs in each state
        * ``seconds_left``: computing time that the running and waiting runs still need. Their epochs to go are counted
          at the pace of the run itself, else at the mean pace of the runs of this student and setting, of this student,
          or of all. NaN as long as no run has ended an epoch. Failed runs do not count, though the next command tries
          them again.
    """
    rows = []
    for run in plan(study, study.bank):
        state, seconds, share = _progress(run_folder(study, run), study.recipe.epochs)
        rows.append(
            {
                "family": run.teacher.family if run.teacher else "",
                "teacher": run.teacher.teacher if run.teacher else "",
                "label": run.method.label,
                "student": run.student,
                "state": state,
                "seconds": seconds,
                "share": share,
            }
        )
    runs = pd.DataFrame(rows)
    unfinished = runs["state"].isin(["running", "waiting"])
    runs["seconds_left"] = (_expected_seconds(runs) * (1 - runs["share"])).where(unfinished, 0.0)
    states = pd.get_dummies(runs["state"]).reindex(columns=list(STATES), fill_value=False).astype(int)
    grouped = pd.concat([runs, states], axis=1).assign(runs=1).groupby(["family", "teacher", "label"], sort=False)
    counts = grouped[["runs", *STATES]].sum()
    seconds_left = grouped["seconds_left"].agg(lambda values: values.sum(skipna=False))
    return counts.assign(seconds_left=seconds_left).reset_index()


def _expected_seconds(runs: pd.DataFrame) -> pd.Series:
    """Duration of each run: its own, else the mean of its student and setting, of its student, of all."""
    measured = expected = runs["seconds"]
    for keys in (["student", "label"], ["student"]):
        expected = expected.fillna(measured.groupby([runs[key] for key in keys]).transform("mean"))
    return expected.fillna(measured.mean())


def _progress(folder: Path, epochs: int) -> tuple[str, float, float]:
    """A run's state, the seconds that all its epochs take (NaN before the first has ended), and the share done."""
    if (folder / "result.json").exists():
        return "done", read_seconds(folder), 1.0
    lines = read_log(folder / "log.jsonl")
    # The median: the first epoch of a process, which loads what it needs, says little of the others.
    seconds = epochs * float(np.median([line["seconds"] for line in lines])) if lines else np.nan
    share = min(1.0, len(lines) / epochs)
    if is_locked(folder / ".lock"):
        return "running", seconds, share
    return "failed" if (folder / "error.txt").exists() else "waiting", seconds, share
