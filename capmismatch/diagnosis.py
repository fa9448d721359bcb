"""One call from logits or networks to the first answer, without a study.

Nothing heavy is imported here: what takes seconds to load is loaded once the call has shown that it is alive.
"""

from __future__ import annotations

import base64
import html
import io
import os
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capmismatch._utils.progress import say
from capmismatch._utils.text import count, format_chance, format_count, format_number
from capmismatch.errors import CapmismatchError, InputError

if TYPE_CHECKING:
    import pandas as pd

    from capmismatch.data.bank import LogitBank
    from capmismatch.selection.choice import Choice

__all__ = ["Diagnosis", "diagnose"]

WIDTH = 100
SHOWN_TEACHERS = 6
"""Rows of the table of teachers that a diagnosis shows; all are in ``choice.table``."""

PICTURE_INCHES = 6.5


def diagnose(
    source: Any,
    labels: Any = None,
    *,
    results: Any = None,
    params: Mapping[str, int] | None = None,
    progress: bool = True,
) -> Diagnosis:
    """From logits or networks to the first answer, in one call: which teacher, how sure, and why.

    Parameters
    ----------
    source : LogitBank, mapping, Family, str or path
        A bank, or its folder; the logits (N, C) of each teacher by its name; networks in memory by their names, which
        are run once, side by side; or what `load_family` gives.
    labels : array_like, data set or loader, optional
        With logits: labels (N,), integers in [0, C). With networks: a `torch.utils.data.DataLoader`, whose batches are
        handed to them as they are; or ``(X, y)``, a map-style data set, or anything else that `load_dataset` takes,
        with images as uint8 (N, H, W, C). Rows of a split "train" are left out where there are others.
    results : DataFrame, str or path, optional
        How well students did, as `load_results` takes it. Accuracies that are all above 1 are taken for percentages.
    params : mapping of str to int, optional
        Numbers of parameters, by teacher; those of networks are counted.
    progress : bool
        Whether to show bars.

    Returns
    -------
    Diagnosis
        The choice and the tables behind it; a page of it in a notebook, a few lines in a terminal.

    Raises
    ------
    InputError
        Where the pieces do not fit each other, or something else than these is given; the message says what would do.

    See Also
    --------
    capmismatch.load_study : The same for a folder of teachers, with stages that are kept, students and a pilot.
    capmismatch.pick : The choice alone, from the tables.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 10, 200)
    >>> logits = {f"net{size}": size * np.eye(10)[labels] + rng.normal(size=(200, 10)) for size in (2, 3, 4)}
    >>> diagnosis = diagnose(logits, labels, params={"net2": 1_000, "net3": 5_000, "net4": 20_000}, progress=False)
    >>> diagnosis.choice.teacher, diagnosis.choice.grade, diagnosis.findings
    ('net4', 'none', ['CM003', 'CM025', 'CM046', 'CM048'])
    """
    if progress and "torch" not in sys.modules:
        say("diagnose: loading torch and the rest, a few seconds")
    bank = _bank(source, labels, params, progress)
    students = None if results is None else _results(results)
    return _diagnosed(bank, students, progress)


# From what is given to a bank -----------------------------------------------------------------------------------------


def _bank(source: Any, labels: Any, params: Mapping[str, int] | None, progress: bool) -> LogitBank:
    """The bank of what was given, with the sizes that were given."""
    from capmismatch.data.bank import LogitBank, bank_from_arrays
    from capmismatch.data.opening import open_bank
    from capmismatch.sources.families import Family

    if isinstance(source, str | os.PathLike):
        source = open_bank(source)
    if isinstance(source, LogitBank):
        if labels is not None:
            raise InputError("expected no labels with a bank, which has its own")
        return source if params is None else _sized(source, params)
    if isinstance(source, Mapping) and not any(map(_is_network, source.values())):
        if labels is None:
            raise InputError("expected labels with logits: cm.diagnose({'small': logits, ...}, labels)")
        return bank_from_arrays(source, _plain_labels(labels), params=params)
    if isinstance(source, Mapping | Family):
        if labels is None:
            raise InputError(
                "expected data with networks: a loader, (X, y) or a data set: cm.diagnose({'small': net}, loader)"
            )
        bank = _run(source, labels, progress)
        return bank if params is None else _sized(bank, params)
    raise InputError(
        "expected a bank, its folder, {'small': logits, ...}, {'small': network, ...} or a family, got "
        f"{type(source).__name__}"
    )


def _is_network(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _plain_labels(labels: Any) -> Any:
    """Labels of logits: as they are, or those of ``(X, y)`` or of a data set."""
    from capmismatch.data.datasets import Dataset
    from capmismatch.data.handed_in import is_pair_of_arrays

    if isinstance(labels, Dataset):
        return labels.labels
    if is_pair_of_arrays(labels) and getattr(labels[0], "ndim", 0) > 0:
        return labels[1]
    return labels


def _run(source: Any, data: Any, progress: bool) -> LogitBank:
    """The logits of networks on a loader or a data set."""
    import numpy as np

    from capmismatch.data.datasets import load_dataset
    from capmismatch.sources.families import Family, load_family
    from capmismatch.sources.in_memory import collect_in_memory, is_loader, run_on_batches

    if is_loader(data):
        if isinstance(source, Family):
            raise InputError(
                "expected a data set with a family, whose teachers each prepare their own inputs, got a loader: give "
                "its data set, or networks by their names, {'small': network}"
            )
        return run_on_batches(source, data, progress=progress)
    dataset = load_dataset(data)
    held_out = np.flatnonzero(dataset.rows.split != "train")
    if 0 < len(held_out) < len(dataset):
        dataset = dataset.take(held_out)
    family = source if isinstance(source, Family) else load_family(source)
    return collect_in_memory(family, dataset, progress=progress)


def _sized(bank: LogitBank, params: Mapping[str, int]) -> LogitBank:
    """A bank whose teachers have these numbers of parameters."""
    from capmismatch.errors import must_be_a_count, must_be_sizes

    must_be_sizes(params)
    size_of: dict[str, int] = {}
    for name, size in params.items():
        must_be_a_count(size, f"params of teacher {name!r}")
        size_of |= dict.fromkeys(bank.keys_of(str(name)), int(size))
    return bank.resized(size_of)


def _results(results: Any) -> pd.DataFrame:
    from capmismatch.distillation.results import load_results

    return load_results(results, percent=None)


# From a bank to tables ------------------------------------------------------------------------------------------------


def _diagnosed(bank: LogitBank, results: pd.DataFrame | None, progress: bool) -> Diagnosis:
    """All tables of a bank, and the choice that they allow."""
    import pandas as pd

    from capmismatch.diagnostics.checks import check
    from capmismatch.diagnostics.tables import probe, rank_stability, restored_variance
    from capmismatch.selection.links import correlate
    from capmismatch.stats.matching import splits_present

    splits = splits_present(bank.rows.split)
    if not splits:
        raise InputError(f"expected validation or test rows in the bank of {bank.rows.name!r}, got only 'train'")
    frames = [probe(bank, split=split, progress=progress and split == splits[0]) for split in splits]
    probes = pd.concat(frames, ignore_index=True)
    ranks = rank_stability(bank, split=splits[0], progress=progress) if len(bank.teachers) > 1 else None
    restored = restored_variance(bank, split=splits[0], progress=progress)
    links, no_links = None, ""
    if results is not None:
        try:
            links = correlate(probes, results, probe_split=splits[0])
        except InputError as error:  # the other tables stand without them
            no_links = str(error)
    choice, no_choice = _chosen(bank, probes, results, splits[0])
    return Diagnosis(bank, results, probes, ranks, restored, links, choice, check(bank), no_choice, no_links)


def _chosen(
    bank: LogitBank, probes: pd.DataFrame, results: pd.DataFrame | None, split: str
) -> tuple[Choice | None, str]:
    """The choice, or why there is none."""
    from dataclasses import replace

    from capmismatch.selection.picking import pick
    from capmismatch.study.rule_values import rule_values

    try:
        values = rule_values(bank, probes, "auto", split, "cpu") if results is None else None
        choice = pick(probes, results, values=values, split=split)
    except InputError as error:
        return None, str(error)
    if bank.path is None:
        return choice, ""
    if "train" not in set(bank.rows.split):
        why = f"soft labels need the teacher's logits of training rows: the bank in {bank.path} has none"
        return replace(choice, no_command=why), ""
    return replace(
        choice, source=str(bank.path), soften_options=("--split", "train"), no_command=choice.without_tau
    ), ""


# The answer -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found: a choice, and the tables behind it.

    Attributes
    ----------
    bank : LogitBank
        The teachers' logits.
    results : DataFrame or None
        The students' results.
    probes : DataFrame
        As `capmismatch.probe` gives it, on validation and test rows.
    ranks : DataFrame or None
        As `capmismatch.rank_stability` gives it; None for a single teacher.
    restored : DataFrame
        As `capmismatch.restored_variance` gives it.
    links : DataFrame or None
        As `capmismatch.correlate` gives it; None without results, or where they allow none (`no_links`).
    choice : Choice or None
        As `capmismatch.pick` makes it; None where none can be made (`no_choice`).
    checks : DataFrame
        As `capmismatch.check` gives it.
    no_choice, no_links : str
        Why there is no choice, or there are no links; else "".

    See Also
    --------
    diagnose : Makes one.
    """

    bank: LogitBank
    results: pd.DataFrame | None
    probes: pd.DataFrame
    ranks: pd.DataFrame | None
    restored: pd.DataFrame
    links: pd.DataFrame | None
    choice: Choice | None
    checks: pd.DataFrame
    no_choice: str = ""
    no_links: str = ""
    _pictures: dict[str, bytes] = field(default_factory=dict, init=False, compare=False)

    @property
    def findings(self) -> list[str]:
        """What to beware of, as codes; `capmismatch.explain` tells what each means.

        Returns
        -------
        list of str
            Those of the choice, of the teachers' logits, and of the restored variance, sorted.
        """
        cells = [*self.checks["findings"], *self.restored["findings"]]
        cells += [record.findings for record in self.bank.teachers]
        codes = {code for cell in cells for code in str(cell).split(",") if code}
        return sorted(codes | set(self.choice.findings if self.choice else []))

    def plot_table(self, name: str) -> pd.DataFrame | None:
        """A table for a figure of `capmismatch.plots`; None where there is none."""
        from capmismatch.report.gallery import plot_table

        return plot_table(_Tables(self, Path()), name)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as one HTML page that needs no network.

        Parameters
        ----------
        path : str or path
            Such as "report.html"; an earlier page is replaced whole, or not at all.

        Returns
        -------
        Path
            Of the page.
        """
        from capmismatch._utils.files import write_text
        from capmismatch.report.gallery import draw_all
        from capmismatch.report.page import write_report

        target = Path(path)
        if target.suffix not in (".html", ".htm"):
            raise InputError(f"expected a file that ends in .html, got {str(target)!r}")
        with tempfile.TemporaryDirectory() as folder:
            tables = _Tables(self, Path(folder))
            drawn = draw_all(tables)
            tables.note(drawn)
            page = write_report(tables).read_text(encoding="utf-8")
        write_text(target, page)
        return target

    def figures(self, folder: str | os.PathLike[str], venue: str | None = None) -> list[Path]:
        """Draw every figure that the tables allow: PDF, PNG, and the CSV of what it shows.

        Parameters
        ----------
        folder : str or path
            Where they go.
        venue : str, optional
            Whose sizes and fonts they have, as `capmismatch.figure_style` takes it.

        Returns
        -------
        list of Path
            The PNGs.
        """
        from capmismatch.report.gallery import draw_all

        return draw_all(_Tables(self, Path(folder)), Path(folder), venue or "default")

    # What is shown

    @property
    def answer(self) -> str:
        """The answer in one sentence, with how sure it is."""
        choice = self.choice
        if choice is None:
            unusable = f"none of the {count(len(self.checks), 'teacher')} is usable"
            return f"No teacher can be picked: {self.no_choice if self.checks['usable'].any() else unusable}"
        if choice.takes_none or len(choice.table) < 2:
            return choice.title
        if choice.grade == "none":
            return (
                f"{choice.title}. There are no student results: this ranks teachers by a probe, it is not a measurement"
            )
        loss = f"expected regret {choice.expected_regret:.2f} points"
        return f"{choice.title}; P(best) {format_chance(choice.p_best)}, {loss}"

    @property
    def _about(self) -> str:
        """What was looked at, in a line."""
        splits = ", ".join(f"{number} {name}" for name, number in self.bank.rows.split_counts.items())
        students = "" if self.results is None else f"; {self._used_results} student results"
        return f"{count(len(self.bank.teachers), 'teacher')} on {self.bank.rows.name!r}: {splits}{students}"

    @property
    def _used_results(self) -> int:
        """Rows of the results whose teacher is in the bank, or that have none."""
        from capmismatch.stats.matching import with_families

        assert self.results is not None
        known = set(zip(self.probes["family"], self.probes["teacher"], strict=True))
        rows = with_families(self.results, self.probes)
        plain = rows["teacher"].fillna("").eq("")
        return sum(
            bool(none) or unit in known
            for none, unit in zip(plain, zip(rows["family"], rows["teacher"], strict=True), strict=True)
        )

    @property
    def _notes(self) -> list[str]:
        """The teachers that are left out, and each finding with its title."""
        from capmismatch.findings import explain

        out = self.checks[~self.checks["usable"]]
        left = [f"left out: {row.family}/{row.teacher}: {row.reason}" for row in out.itertuples()]
        links = [f"no links: {self.no_links}"] if self.no_links not in ("", self.no_choice) else []
        return [*left, *links, *(f"{code} {explain(code).title}" for code in self.findings)]

    @property
    def _teachers(self) -> pd.DataFrame:
        """The first teachers of the choice's table, with the columns that matter most."""
        import pandas as pd

        if self.choice is None:
            return pd.DataFrame()
        table = self.choice.shown_teachers().head(SHOWN_TEACHERS)
        names = table.pop("family") + "/" + table["teacher"]
        sizes = {"params": [format_count(size) for size in table["params"]]} if "params" in table else {}
        within = [name for name in map(str, table) if name.startswith("P(within")]
        return table.assign(teacher=names, **sizes).drop(columns=within)

    @property
    def _next(self) -> list[str]:
        """Lines to copy."""
        lines = [
            'diagnosis.report("report.html")  # everything on one page',
            'diagnosis.figures("figures")     # PDF, PNG and CSV of each figure',
        ]
        if self.choice is not None and not self.choice.takes_none:
            lines += [*self._softening(self.choice), self.choice.loss]
        return lines

    def _softening(self, choice: Choice) -> list[str]:
        """Lines that write the teacher's soft labels of training rows: the bank's, or those that are to be given."""
        if "train" in set(self.bank.rows.split):
            return ['diagnosis.choice.soften(diagnosis.bank, split="train").write("soft.safetensors")']
        family = "" if choice.family == "logits" else f", family={choice.family!r}"
        return [
            "# soft labels need the teacher's logits of the rows that the student is trained on, and their labels:",
            f"teacher = {{{choice.teacher!r}: logits}}",
            f'training = cm.bank_from_arrays(teacher, labels, split=["train"] * len(labels){family})',
            'diagnosis.choice.soften(training).write("soft.safetensors")',
        ]

    def __repr__(self) -> str:
        lines = textwrap.wrap(self.answer + ".", WIDTH)
        lines += ["", self._about]
        table = self._teachers
        if len(table):
            text = table.to_string(index=False, line_width=WIDTH, float_format=format_number)
            lines += ["", *text.split("\n")]
            more = len(self.choice.table) - len(table) if self.choice is not None else 0
            lines += [f"... {more} more in diagnosis.choice.table"] if more else []
        for note in self._notes:
            lines += textwrap.wrap(note, WIDTH, initial_indent="  ! ", subsequent_indent="    ")
        lines += ["", *(f"  {line}" for line in self._next)]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """The answer, the teachers, the two pictures that matter, and what to beware of, for notebooks."""
        parts = [f"<h3>{html.escape(self.answer)}</h3>", f"<p>{html.escape(self._about)}</p>"]
        for name, picture in self.pictures.items():
            data = base64.b64encode(picture).decode("ascii")
            parts.append(f'<img alt="{name}" style="max-width: 100%" src="data:image/png;base64,{data}">')
        table = self._teachers
        if len(table):
            parts.append(table.to_html(index=False, escape=True, border=0, float_format=format_number))
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self._notes)
        parts += [f"<ul>{notes}</ul>"] if notes else []
        return "\n".join([*parts, f"<pre>{html.escape(chr(10).join(self._next))}</pre>"])

    @property
    def pictures(self) -> dict[str, bytes]:
        """The two figures that matter most, as PNG: what students do (or variance against size), and the choice."""
        if not self._pictures:
            self._pictures.update(_drawn(self))
        return self._pictures


def _drawn(diagnosis: Diagnosis) -> dict[str, bytes]:
    import matplotlib.pyplot as plt
    import numpy as np

    from capmismatch import plots
    from capmismatch.report.gallery import drawings

    pictures = {}
    with tempfile.TemporaryDirectory() as folder, plots.figure_style("default", width=PICTURE_INCHES, ratio=0.5):
        student, label = (
            (None, None) if diagnosis.choice is None else (diagnosis.choice.student, diagnosis.choice.label)
        )
        known: dict[str, Callable[[], Any]] = drawings(_Tables(diagnosis, Path(folder), label=label))
        curves = [name for name in known if name.startswith("capacity_curve")]
        first = [name for name in (f"capacity_curve_{student}", *curves, "variance_vs_capacity") if name in known]
        for name in [*first[:1], *(["pick_chart"] if "pick_chart" in known else [])]:
            before = set(plt.get_fignums())
            try:
                axes = known[name]()
            except InputError as error:  # one that these tables cannot fill does not cost the other
                warnings.warn(f"{name} left out: {error}", stacklevel=3)
                continue
            buffer = io.BytesIO()
            np.ravel(axes)[0].figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
            pictures[name] = buffer.getvalue()
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
    return pictures


class _Tables:
    """A diagnosis as figures and page read a study: `capmismatch.report.study_folder.StudyFolder`."""

    file: Path | None = None
    progress: bool = False
    config: Any

    def __init__(self, diagnosis: Diagnosis, folder: Path, *, label: str | None = None) -> None:
        from capmismatch.study.config import StudyConfig

        self.diagnosis, self.folder, self.label = diagnosis, folder, label
        given = None if diagnosis.results is None else "handed in"
        self.config = StudyConfig(diagnosis.bank.rows.name, (), results=given)  # otherwise the defaults

    @property
    def bank(self) -> LogitBank:
        """The bank of the diagnosis."""
        return self.diagnosis.bank

    def has(self, table: str) -> bool:
        """Whether there is such a table."""
        return self._table(table) is not None

    def load(self, table: str) -> pd.DataFrame:
        """One of the tables."""
        found = self._table(table)
        if found is None:
            raise InputError(f"the diagnosis has no table {table!r}")
        if table == "results" and self.label is not None:  # that setting alone, beside plain training
            return found[found["label"].eq(self.label) | found["method"].eq("CE")]
        return found

    @cached_property
    def _affinity(self) -> pd.DataFrame:
        from capmismatch.diagnostics.tables import affinity

        return affinity(self.bank, split=str(self.diagnosis.restored["split"].iloc[0]))

    def _table(self, name: str) -> pd.DataFrame | None:
        diagnosis = self.diagnosis
        if name == "affinity":
            return self._affinity
        if name == "pick":
            return None if diagnosis.choice is None else diagnosis.choice.table
        known = ("probes", "ranks", "restored", "results", "links")
        return getattr(diagnosis, name) if name in known else None

    def choice(self) -> Choice:
        """The choice of the diagnosis."""
        if self.diagnosis.choice is None:
            raise CapmismatchError(self.diagnosis.no_choice)
        return self.diagnosis.choice

    def options_of_pick(self) -> dict[str, Any]:
        """None: `diagnose` takes no options of `pick`."""
        return {}

    def note(self, figures: list[Path]) -> None:
        """Leave the list of figures that the page shows."""
        from capmismatch.study.tables import write_manifest_of_figures

        write_manifest_of_figures(self.folder / "figures", "", figures)
