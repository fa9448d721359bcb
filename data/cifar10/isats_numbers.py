"""What ISATS makes of rows that published networks get right, and of wrong ones: the table of docs/concepts/isats.md.

    python data/cifar10/isats_numbers.py

Reads the shipped `bank/` (logits of its validation and test images), tau_target 4, tau_other in [0.5, 8]; writes the
table in Markdown, a range over the networks of a family. Takes a few seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from capmismatch.data.bank import LogitBank
from capmismatch.temperature import ISATSResult, isats

SETTINGS = {
    "`none`": {"constraint": "none"},
    "`order`, margin 0": {"constraint": "order", "margin": 0.0},
    "`order`, margin 1": {"constraint": "order", "margin": 1.0},
    "`anchor`": {"constraint": "anchor"},
}
COLUMNS = ("family", "constraint", "examples at the lower end", "at the upper end", "$p_y$", "a wrong class overtakes")
HEAD = f"| {' | '.join(COLUMNS)} | DV against plain $\\tau = 4$ |"


def numbers(found: ISATSResult, rows: np.ndarray) -> list[float]:
    """At the lower end, at the upper end, p_y, overtaken, DV over DV before: means over some rows."""
    at = {name: getattr(found, name).numpy()[rows] for name in ("tau_other", "target_prob", "flipped")}
    ratio = found.variance.numpy()[rows].mean() / found.variance_before.numpy()[rows].mean()
    ends = [(at["tau_other"] <= 0.5).mean(), (at["tau_other"] >= 8.0).mean()]
    return [*ends, at["target_prob"].mean(), at["flipped"].mean(), ratio]


def span(values: Iterable[float], form: str, unit: str = "") -> str:
    """A range over networks, or the one number that all of them have."""
    low, high = format(min(values), form), format(max(values), form)
    return (low if low == high else f"{low}–{high}") + unit


def line(name: str, setting: str, of_networks: list[list[float]]) -> str:
    """One row of the table."""
    lower, upper, p_y, overtaken, ratio = zip(*of_networks, strict=True)
    percent = [span([100 * share for share in shares], ".0f", " %") for shares in (lower, upper, overtaken)]
    cells = [name, setting, percent[0], percent[1], span(p_y, ".2f"), percent[2], f"×{span(ratio, '.3g')}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, for the right rows and then for the wrong ones."""
    bank = LogitBank(Path(__file__).with_name("bank"))
    labels = bank.rows.labels
    families = dict.fromkeys(record.family for record in bank.teachers)
    warnings.filterwarnings("ignore", message="ISATS without a constraint")
    for kind in ("right", "wrong"):
        print(f"\nRows that the network gets {kind}:\n\n{HEAD}\n|{'---|' * 7}")
        for family in families:
            networks = [record for record in bank.teachers if record.family == family]
            for setting, options in SETTINGS.items():
                made = []
                for record in networks:
                    logits = bank.take(record.key, np.arange(len(labels))).astype(float)
                    rows = (logits.argmax(1) == labels) == (kind == "right")
                    made.append(numbers(isats(logits, labels, 4.0, wrong="free", **options), rows))
                print(line(f"{family}: {networks[0].teacher} to {networks[-1].teacher}", setting, made))


if __name__ == "__main__":
    main()
