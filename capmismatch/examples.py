"""Example banks that are shipped in the package, and the results of their students."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd

from capmismatch.data.bank import LogitBank
from capmismatch.distillation.results import load_results
from capmismatch.errors import InputError, must_be_one_of


@dataclass(frozen=True)
class _Shipped:
    """An example: where its bank lies in ``embedded/``, where its students' results do, and what it is."""

    bank: str
    results: str
    about: str


EXAMPLES = {
    "cifar10": _Shipped(
        "cifar10/bank",
        "cifar10/results.csv",
        "twelve published CIFAR-10 networks in two families, and 194 students of a ResNet-8 that they taught",
    ),
    "letters": _Shipped(
        "letters/bank",
        "letters/results.csv",
        "eight perceptrons that read UCI letters, two training runs of each, on 2,000 examples, and 1,040 students",
    ),
    "cifar10-seeds": _Shipped(
        "cifar10/seeds",
        "",
        "two small CIFAR-10 networks, two training runs of each, on the same images: the noise floor of class ranks",
    ),
}
"""The examples by their names."""


class ExampleBank(LogitBank):
    """A shipped bank; as any other, and with the results of its students, where it has some.

    Parameters
    ----------
    name : str
        Of `list_examples`.

    Attributes
    ----------
    about : str
        What it is.
    """

    def __init__(self, name: str) -> None:
        must_be_one_of(name, EXAMPLES, "example")
        self.name, self.about = name, EXAMPLES[name].about
        super().__init__(_place(EXAMPLES[name].bank))

    @property
    def results(self) -> pd.DataFrame:
        """How well the students did, one row per student and split, as `capmismatch.load_results` gives it.

        Returns
        -------
        DataFrame
            Read again each time.

        Raises
        ------
        InputError
            If the example has no students.
        """
        file = EXAMPLES[self.name].results
        if not file:
            raise InputError(f"the example {self.name!r} has no students: expected one that has, such as 'cifar10'")
        return load_results(_place(file))


def load_example(name: str = "cifar10") -> ExampleBank:
    """Open an example bank; nothing is downloaded.

    Parameters
    ----------
    name : str
        Of `list_examples`.

    Returns
    -------
    ExampleBank
        A `LogitBank`, with ``results`` of students where there are any.

    Raises
    ------
    InputError
        If there is no such example; the message lists those there are.

    See Also
    --------
    capmismatch.diagnose : The first answer from a bank.

    Examples
    --------
    >>> bank = load_example("cifar10")
    >>> len(bank.teachers), len(bank.classes), len(bank.results)
    (12, 10, 388)
    """
    return ExampleBank(name)


def list_examples() -> pd.DataFrame:
    """The example banks that are shipped.

    Returns
    -------
    DataFrame
        One row per example, with the columns

        * ``name``: for `load_example`
        * ``teachers``, ``classes``, ``examples``: how many training runs, classes and rows its bank has
        * ``students``: whether it has results of students
        * ``about``: what it is

    Examples
    --------
    >>> list_examples()[["name", "teachers", "students"]]
                name  teachers  students
    0        cifar10        12      True
    1        letters        16      True
    2  cifar10-seeds         4     False
    """
    rows = []
    for name, shipped in EXAMPLES.items():
        bank = ExampleBank(name)
        sizes = len(bank.teachers), len(bank.classes), len(bank.rows.labels)
        rows.append((name, *sizes, bool(shipped.results), shipped.about))
    return pd.DataFrame(rows, columns=["name", "teachers", "classes", "examples", "students", "about"])


def _place(below: str) -> Path:
    """A path in the installed package, which is a folder: banks are read in place."""
    return Path(str(resources.files("capmismatch"))) / "embedded" / below
