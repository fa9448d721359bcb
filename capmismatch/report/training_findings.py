"""What learning curves show: whether students were trained to the end."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from capmismatch.errors import InputError
from capmismatch.report.facts import LateGain, Subject
from capmismatch.stats.estimates import Estimate
from capmismatch.stats.late_gains import late_gains


def trained(curves: pd.DataFrame) -> Iterator[tuple[LateGain, tuple[str, ...]]]:
    """What the students of each setting gained in the last part of their training.

    Parameters
    ----------
    curves : DataFrame
        Of `capmismatch.Study.curves`.

    Yields
    ------
    tuple of LateGain and tuple of str
        Facts and findings; none where no run measured its students after each epoch.
    """
    try:
        late = late_gains(curves)
    except InputError:
        return
    in_nats = "val_nll" in curves
    for row in late.to_dict("records"):
        gain = Estimate(float(row["gain"]), float(row["low"]), float(row["high"]), int(row["runs"]))
        subject = Subject(str(row["student"]), str(row["label"]))
        facts = LateGain(subject, gain, int(row["epochs"]), in_nats)
        yield facts, tuple(filter(None, [str(row["findings"])]))
