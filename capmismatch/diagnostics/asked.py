"""What a caller asks of a bank's tables, checked: temperatures and probes, and what they are where nobody says."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

from capmismatch._numerics.plain_arrays import listed
from capmismatch._numerics.soft_label_spec import CLASS_DEFAULTS, TOKEN_DEFAULTS, SoftLabelSpec, compared_specs
from capmismatch.data.bank import LogitBank
from capmismatch.errors import InputError, must_be_one_of, must_be_temperatures
from capmismatch.probes import FEATURES, PAIRS, REGISTRY

TAUS = (1.0, 2.0, 4.0, 8.0)
TOKEN_TAUS = (0.5, 1.0, 2.0)  # of texts: at 4 the effective number of tokens nears the vocabulary's
OF_ALL_COLUMNS = ("spread", "classes")  # kinds of probes that condensed rows cannot tell


def temperatures_of(taus: Iterable[float] | None, bank: LogitBank) -> list[float]:
    """Temperatures, each once; those that suit the bank with None.

    Raises
    ------
    InputError
        No list, too long a list, or a number that is no temperature.
    """
    if taus is None:
        taus = TOKEN_TAUS if bank.of_texts else TAUS
    if isinstance(taus, str | bytes) or not isinstance(taus, Iterable | Real):
        raise InputError(f"expected a list of temperatures as taus, got {taus!r}")
    return list(dict.fromkeys(float(tau) for tau in must_be_temperatures(listed(taus), "taus", least=0)))


def probes_of(names: Iterable[str] | None, bank: LogitBank, *, per_example: bool = False) -> list[str]:
    """Names of probes, each once; with None all that the bank's rows can tell and that suit them.

    Raises
    ------
    InputError
        An unknown probe, one that examples do not have where `per_example` is set, or one that needs all columns of
        condensed rows.
    """
    known = [name for name, p in REGISTRY.items() if not per_example or p.kind != "family"]
    if names is None:
        told = [name for name in known if bank.of_texts or not REGISTRY[name].vocabulary]
        told = [name for name in told if not REGISTRY[name].on_request]
        return [name for name in told if not (bank.condensed and REGISTRY[name].kind in OF_ALL_COLUMNS)]
    chosen = list(dict.fromkeys(listed(names)))
    if not per_example:
        chosen = [name for name in chosen if not _told_elsewhere(name, bank)]
    for name in chosen:
        must_be_one_of(name, known, "probe")
        if REGISTRY[name].kind in OF_ALL_COLUMNS:
            bank.must_keep_all(f"values of the probe {name!r}")
    return chosen


def _told_elsewhere(name: str, bank: LogitBank) -> bool:
    """Whether a probe is of features or of pairs, which a bank has to have."""
    if name in FEATURES:
        if not any(bank.has_features(key) for key in bank.keys):
            raise InputError(f"the probe {name!r} needs features, and the bank has none: collect with features=True")
        return True
    if name in PAIRS:
        if not bank.students:
            raise InputError(
                f"the probe {name!r} compares a teacher with a student, and the bank has none: expected a network with "
                "the role 'student'"
            )
        return True
    return False


def must_measure(names: Iterable[str], temperatures: Iterable[float]) -> None:
    """Raise where nothing would be measured: no probe, or no temperature for probes that all need one.

    Examples
    --------
    >>> must_measure(["derived_std"], [])
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected taus, at least one, as ['derived_std'] need it, got none
    """
    chosen = list(names)
    if not chosen:
        raise InputError("expected names of probes, at least one, got none")
    if not list(temperatures) and all(REGISTRY[name].tempered for name in chosen):
        raise InputError(f"expected taus, at least one, as {chosen} need it, got none")


def specs_of(bank: LogitBank, given: dict[str, Any], **others: Any) -> list[SoftLabelSpec]:
    """TS, ATS and ISATS with the settings that are `given`; where one is None, that which suits the bank.

    Parameters
    ----------
    bank : LogitBank
        Whose rows are softened.
    given : dict
        Any of tau, tau_other, bounds and wrong.
    **others
        Further settings, as `compared_specs` takes them.
    """
    defaults = TOKEN_DEFAULTS if bank.of_texts else CLASS_DEFAULTS
    chosen = {name: default if given.get(name) is None else given[name] for name, default in defaults.items()}
    return compared_specs(**chosen, **others)
