"""What sources expect of every probe, whichever list it is in."""

from __future__ import annotations

from capmismatch.probes._registry import REGISTRY
from capmismatch.probes.features import FEATURES
from capmismatch.probes.pairs import PAIRS


def expected_signs() -> dict[str, int]:
    """The expected sign of every probe's link with student accuracy, those of features and pairs included.

    Returns
    -------
    dict of str to int
        Probe -> +1, -1, or 0 where the field is undecided.

    Examples
    --------
    >>> expected_signs()["derived_variance"], expected_signs()["ece"]
    (1, -1)
    """
    return (
        {name: probe.expected_sign for name, probe in REGISTRY.items()}
        | {name: probe.expected_sign for name, probe in FEATURES.items()}
        | {name: probe.expected_sign for name, probe in PAIRS.items()}
    )
