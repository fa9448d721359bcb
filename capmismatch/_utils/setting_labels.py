"""How settings are called in tables, and tables of earlier versions, in which some were called otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from capmismatch.errors import InputError, must_be_one_of

COLUMNS = ("label", "method", "tau", "tau_student")


def student_words(tau: float | None, tau_student: float | None, default: float | None, method: str) -> list[str]:
    """What a label says of the student's temperature.

    "KD" by itself is that of Hinton et al. (2015), with one temperature for teacher and student; any other one is said.
    Of other methods the default is not said.

    Examples
    --------
    >>> student_words(4.0, 4.0, 1.0, "KD"), student_words(4.0, 1.0, 1.0, "KD"), student_words(4.0, 1.0, 1.0, "ATS")
    ([], ['student tau=1'], [])
    """
    unsaid = tau if method == "KD" else default
    return [] if tau_student is None or tau_student == unsaid else [f"student tau={tau_student:g}"]


def current_label(label: str, method: str, tau: float, tau_student: float) -> str:
    """The label of a setting as it is now; those of earlier versions are told by the temperatures beside them.

    Once "KD tau=4" stood for a student at temperature 1, and "ATS tau=4/3" for 4 (true class) and 3 (other classes).

    Examples
    --------
    >>> current_label("KD tau=4", "KD", 4.0, 1.0), current_label("KD tau=4 student tau=4", "KD", 4.0, 4.0)
    ('KD tau=4 student tau=1', 'KD tau=4')
    >>> current_label("KD tau=4", "KD", 4.0, 4.0), current_label("KD tau=4", "KD", 4.0, float("nan"))
    ('KD tau=4', 'KD tau=4')
    >>> current_label("ATS tau=4/3 w=0.9", "ATS", 4.0, 1.0), current_label("ISATS none tau=4", "ISATS", 4.0, 1.0)
    ('ATS tau=4 other tau=3 w=0.9', 'ISATS unconstrained tau=4')
    """
    if method == "ATS":
        return re.sub(r"^ATS tau=([^\s/]+)/([^\s/]+)", r"ATS tau=\1 other tau=\2", label)
    if method == "ISATS":
        return re.sub(r"^ISATS none\b", "ISATS unconstrained", label)
    if method != "KD" or not (tau > 0 and tau_student > 0):
        return label
    said = re.match(rf"KD tau={re.escape(f'{tau:g}')}(?P<student> student tau=\S+)?(?P<rest>( .*)?)$", label)
    if said is None:
        return label
    return " ".join([f"KD tau={tau:g}", *student_words(tau, tau_student, None, "KD")]) + said["rest"]


def must_be_a_label(label: str, labels: Iterable[str], name: str = "label") -> None:
    """Raise unless a setting is among those there are; one that was once called so is named.

    Examples
    --------
    >>> must_be_a_label("KD tau=4", ["DKD", "KD tau=4 student tau=1"])
    Traceback (most recent call last):
    capmismatch.errors.InputError: label must be one of ['DKD', 'KD tau=4 student tau=1'], not 'KD tau=4'; did you \
mean 'KD tau=4 student tau=1'? 'KD tau=4' now means Hinton's, with one temperature for teacher and student
    """
    options = list(labels)
    if label not in options and (tau := re.match(r"KD tau=([\d.]+)", str(label))):
        once = current_label(label, "KD", float(tau[1]), 1.0)
        if once in options:
            raise InputError(
                f"{name} must be one of {options}, not {label!r}; did you mean {once!r}? {label!r} now means Hinton's, "
                "with one temperature for teacher and student"
            )
    must_be_one_of(label, options, name)


def with_current_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of students with the labels of settings as they are now; others stay as they are."""
    if not set(COLUMNS) <= set(frame.columns):
        return frame
    settings = frame[list(COLUMNS)].drop_duplicates()
    renamed = {
        (row["label"], row["tau_student"], row["tau"], row["method"]): current_label(
            row["label"], row["method"], row["tau"], row["tau_student"]
        )
        for row in settings.to_dict("records")
        if isinstance(row["label"], str)
    }
    changed = {key[0] for key, label in renamed.items() if label != key[0]}
    if not changed:
        return frame
    keys = zip(frame["label"], frame["tau_student"], frame["tau"], frame["method"], strict=True)
    by_text = {_text(key): label for key, label in renamed.items()}  # NaN equals nothing, as text it does
    return frame.assign(label=[by_text.get(_text(key), key[0]) for key in keys])


def _text(key: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(map(str, key))
