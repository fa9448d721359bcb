"""A study: one folder, one ``study.toml``, and the stages from teachers to a pick.

::

    my-study/  study.toml  teachers/  bank/  runs/  tables/*.parquet  figures/*  report.html

Each stage reads what the one before left and writes its own files, so each can be run again, resumed, inspected alone.

Stages import what they need when they run: torch, SciPy and Matplotlib take seconds, and a command needs few of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from capmismatch._utils.commands import command, folder_option, shown_path
from capmismatch._utils.files import hash_file, locked
from capmismatch._utils.toml import parse
from capmismatch.data.bank import LogitBank
from capmismatch.data.views import Views
from capmismatch.distillation.config import ENGINES
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.study.config import (
    CollectConfig,
    CorrelateConfig,
    DataConfig,
    DistillConfig,
    IsatsConfig,
    ProbeConfig,
    RanksConfig,
    ResultsConfig,
    StudyConfig,
    read_study,
)
from capmismatch.study.diagnosing import Diagnosis, splits_of
from capmismatch.study.evidence_folders import hashes_of, read_evidence
from capmismatch.study.kept_pages import drawn_figures, kept_page, stamp_of_figures
from capmismatch.study.provenance import (
    has_other_code,
    inputs_of_bank,
    keep_named,
    own_code_of,
    read_manifest,
    what_changed,
    write_manifest,
)
from capmismatch.study.ready import is_named, make_ready, tell_unnamed
from capmismatch.study.study_data import StudyData
from capmismatch.study.tables import (
    MADE_BY,
    accuracies,
    gallery_manifest,
    is_current,
    keep,
    kept_choice,
    kept_table,
    load_table,
    read_stamp,
    table_file,
    table_hashes,
)
from capmismatch.study.to_teach import networks_to_teach

if TYPE_CHECKING:
    from capmismatch.data.datasets import Dataset
    from capmismatch.selection.picking import Choice
    from capmismatch.sources.families import Family, Teacher
    from capmismatch.training.loop import Recipe

__all__ = [
    "STAGES",
    "CollectConfig",
    "CorrelateConfig",
    "DataConfig",
    "DistillConfig",
    "IsatsConfig",
    "ProbeConfig",
    "RanksConfig",
    "Study",
    "StudyConfig",
    "load_study",
]

STAGES = ("collect", "probe", "ranks", "isats", "distill", "correlate", "pick", "plot", "report")


class Study:
    """A study file and the folder beside it where its stages leave their files.

    Parameters
    ----------
    file : path
        The ``study.toml``.
    folder : path, optional
        Where results go; by default the file's own folder.
    workers : int
        Processes that train students side by side.
    progress : bool
        Whether to show bars.
    engine : str, optional
        How students are trained: "batched", "processes" or "ray"; see `DistillConfig`, whose word it goes before.
    address : str, optional
        Of the Ray cluster; by default one is started here.
    config : StudyConfig, optional
        Settings that have been read already, instead of those that the file holds now.

    Raises
    ------
    InputError
        If there is no such file, it says something that no study has, or an option does not fit.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        folder: str | os.PathLike[str] | None = None,
        *,
        workers: int = 1,
        progress: bool = True,
        engine: str | None = None,
        address: str | None = None,
        config: StudyConfig | None = None,
    ) -> None:
        if workers < 1:
            raise InputError(f"expected workers >= 1, got {workers!r}")
        if engine is not None:
            must_be_one_of(engine, ENGINES, "engine")
        self.file = Path(file).resolve()
        self.config = read_study(self.file) if config is None else config
        engine = engine or (self.config.distill.engine if self.config.distill is not None else None)
        if address is not None and engine != "ray":
            given = engine or "processes"
            raise InputError(f"an address belongs to the engine 'ray', got {address!r} with {given!r}")
        self.folder = Path(folder).resolve() if folder is not None else self.file.parent
        self.workers, self.progress = workers, progress
        self.engine, self.address = engine, address
        self._data = StudyData(self.config, self.file, self.folder)
        self._chosen: tuple[tuple[str, str], ...] | None = None

    def with_settings(self, distill: DistillConfig, teachers: Iterable[tuple[str, str]] | None = None) -> Study:
        """A copy with other settings of the students, cut down to some teachers.

        It shares the folder, and so the bank and the runs, and the data sets and teachers that are loaded.

        Parameters
        ----------
        distill : DistillConfig
            Instead of ``[distill]``.
        teachers : iterable of pairs of family and teacher, optional
            Those to keep; by default all that this study has.

        Returns
        -------
        Study
            The copy; this study stays as it is.

        Examples
        --------
        >>> study = Study("study.toml", config=StudyConfig("mine", (), distill=DistillConfig(("mlp12",), ())))
        >>> study.with_settings(replace(study.distillation, seeds=7)).distillation.seeds, study.distillation.seeds
        (7, 2)
        """
        copy = Study(
            self.file,
            self.folder,
            workers=self.workers,
            progress=self.progress,
            engine=self.engine,
            address=self.address,
            config=replace(self.config, distill=distill),
        )
        copy._data = self._data
        copy._chosen = self._chosen if teachers is None else tuple(sorted(set(teachers)))
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # With its settings, not the file's: the file may be edited, and a copy with other settings differs from it.
        return _opened_elsewhere, (self.file, self.folder, self.config, self._chosen)

    # --- what the file says, loaded ---------------------------------------------------------------------------------

    @property
    def base(self) -> Path:
        """Folder that relative paths in the study file start from."""
        return self.file.parent

    @property
    def eval_data(self) -> Dataset:
        """Validation and test rows."""
        return self._data.eval_data

    @property
    def train_data(self) -> Dataset:
        """Training rows of the students."""
        return self._data.train_data

    @cached_property
    def family(self) -> Family:
        """The teachers of all ``[[family]]`` tables, or those to which the study was cut down."""
        from capmismatch.sources.families import Family

        if self._chosen is None:
            return self._data.family
        return Family([teacher for teacher in self._data.family if (teacher.family, teacher.name) in self._chosen])

    @cached_property
    def recipe(self) -> Recipe:
        """How students are trained."""
        from capmismatch.training.recipes import Recipe

        table, defaults = dict(self.distillation.recipe), {}
        if "name" in table:
            scaled = {key: table[key] for key in {"epochs"} & table.keys()}
            defaults = Recipe.named(table.pop("name"), **scaled).to_dict()
        return parse(Recipe, {**defaults, **table}, "[distill.recipe]")

    @property
    def distillation(self) -> DistillConfig:
        """The ``[distill]`` table: which students, by which methods."""
        if self.config.distill is None:
            raise InputError(f"{self.file.name} has no [distill]: add students and methods, or name a results file")
        return self.config.distill

    # --- stages -------------------------------------------------------------------------------------------------------

    def collect(self) -> LogitBank:
        """Logits of every teacher on validation and test rows."""
        from capmismatch.study.checking import check_teachers

        self.check()
        check_teachers(self, [(teacher.family, teacher.name) for teacher in self.family])
        folder, how = self.folder / "bank", self.config.collect
        students = networks_to_teach(self, how.students, self._data.students)
        bank = self._collected(self.eval_data, folder, self.progress, students, features=how.features)
        if self._chosen is None:  # a study that was cut down names fewer teachers than its file
            with locked(folder / ".lock"):
                write_manifest(folder, self.config, self.base, [one.key for one in (*self.family, *students)])
        return bank

    def _collected(
        self, data: Dataset, folder: Path, progress: bool, students: Iterable[Teacher] = (), **options: Any
    ) -> LogitBank:
        from capmismatch.sources.collecting import collect
        from capmismatch.sources.families import Family

        how = asdict(self.config.collect) | {"features": False} | options
        del how["students"]
        how["dense"] = self._data.keeps_all_logits(folder)
        networks = Family([*self.family, *students])
        bank = collect(networks, data, folder, progress=progress, **how)
        keep_named(bank, {network.key for network in (*self._data.family, *students)}, self.file)
        return bank

    def check(self) -> None:
        """Look at all that the study file says, before hours go into what comes first.

        Raises
        ------
        InputError
            For the first setting that a later stage would refuse.
        """
        from capmismatch.study.checking import check_settings

        check_settings(self)

    @property
    def bank(self) -> LogitBank:
        """The collected bank, with the teachers to which the study was cut down."""
        if not (self.folder / "bank" / "bank.json").exists():
            collect = command("collect", self.file, self.folder)
            raise InputError(f"there is no bank in {self.folder}: run `{collect}` first")
        bank = self._collected_bank()
        if self._chosen is not None:
            bank.teachers = [record for record in bank.teachers if (record.family, record.teacher) in self._chosen]
        return bank

    def _collected_bank(self) -> LogitBank:
        """The bank with all teachers that the study file names, if it is still that of what the file says."""
        from capmismatch.data.opening import open_bank

        folder = self.folder / "bank"
        changed = what_changed(folder, self.config, self.base)
        if changed:
            collect = command("collect", self.file, self.folder)
            raise InputError(f"{changed} changed since the bank in {folder} was collected: run `{collect}` first")
        bank, manifest = open_bank(folder), read_manifest(folder)
        if manifest is not None:
            bank.keep(manifest["teachers"])
        return bank

    @property
    def views(self) -> Views:
        """The stored views of the training rows: the rows themselves where no students are trained here."""
        return Views() if self.config.distill is None else self.config.distill.views

    def training_banks(self) -> list[LogitBank]:
        """Logits of every teacher on the training rows, one bank per view; collected where missing."""
        return [self.view_bank(number) for number in range(self.views.count)]

    def view_bank(self, number: int) -> LogitBank:
        """Logits of every teacher on view `number` of the training rows; collected where missing."""
        views, train = self.views, self.train_data
        seen = train.with_inputs(views.make(train.inputs, number), f"{train.name} {views.name(number)}")
        return self._collected(seen, self.folder / "bank" / "views" / views.name(number), progress=False)

    def probe(self) -> pd.DataFrame:
        """The probes table, on validation and on test rows."""
        return Diagnosis(self).probes()

    def ranks(self) -> pd.DataFrame:
        """The table of class-rank stability; beside it, the affinity matrices, but for texts."""
        return Diagnosis(self).ranks()

    def isats(self) -> pd.DataFrame:
        """The table of restored variance."""
        return Diagnosis(self).restored()

    def distill(self) -> pd.DataFrame:
        """The results table: every student, setting and seed, each a run that is kept."""
        from capmismatch.study.checking import check_teachers, read_results

        if self.config.results is None:
            from capmismatch.distillation.grid import distill

            self.check()
            bank = self.bank
            bank.must_keep_all("students that are trained here")
            check_teachers(self, [(record.family, record.teacher) for record in bank.teachers])
            results = distill(self)
            keep(self.folder, "curves", self.curves(), self._inputs_of("curves"))
        else:
            results = read_results(self)
        keep(self.folder, "results", results, self._inputs_of("results"), code=own_code_of(self.config))
        return results

    def given_results(self) -> dict[str, Any]:
        """The file of results and how to read it."""
        given: Any = self.config.results
        options = asdict(ResultsConfig(given) if isinstance(given, str) else given)
        return options | {"file": self.base / Path(options["file"]).expanduser()}

    def status(self) -> pd.DataFrame:
        """How many students of each teacher and setting are done, under way, failed or to come, and the time left."""
        from capmismatch.distillation.status import status

        return status(self)

    def curves(self) -> pd.DataFrame:
        """Learning curves of the students, done or under way; see `capmismatch.distillation.curves.learning_curves`."""
        from capmismatch.distillation.curves import learning_curves

        return learning_curves(self)

    def correlate(self) -> pd.DataFrame:
        """The links table: probes against students."""
        from capmismatch.selection.links import correlate

        settings, split = self.config.correlate, splits_of(self.bank)[0]
        probes, results = self.load("probes"), self.load("results")
        return kept_table(
            self.folder,
            "links",
            self._inputs_of("links"),
            lambda: correlate(probes, results, probe_split=split, **asdict(settings)),
        )

    def pick(self, **options: Any) -> Choice:
        """The choice of a teacher; from students' results where there are any. Options go before those of [pick].

        Bank, probes, and results from a file are made where they are missing; no student is trained.
        """
        from capmismatch.study.checking import check_results

        check_results(self)
        make_ready(self)
        choice = self._choose(**options)
        asked = {name: one for name, one in options.items() if isinstance(one, str | float)}
        self.keep_pick(choice, options=asked)
        return choice

    def keep_pick(self, choice: Choice, **more: Any) -> None:
        """Leave a choice and its table as ``tables/pick.parquet``, with what it was made from and how."""
        from capmismatch.selection.kept_choice import as_entries

        of_pilot = "pilot" in more  # which holds it
        kept = more if of_pilot else {**more, "choice": as_entries(choice)}
        keep(self.folder, "pick", choice.table, self._inputs_of("pick"), **kept)

    def choice(self) -> Choice:
        """The choice as it was last made, by `pick` or a pilot; the study's own before any. Nothing is written."""
        kept = kept_choice(self.folder, self._inputs_of("pick"))
        return self._choose(**self.options_of_pick()) if kept is None else self.handing_over(kept)

    def _kept_choice(self) -> Choice | None:
        """The choice that `pick` would make without options, where it was made and nothing behind it changed since."""
        stamp = read_stamp(self.folder, "pick")
        if stamp is None or stamp.more.get("options") or "choice" not in stamp.more or not self.has("pick"):
            return None
        kept = kept_choice(self.folder, self._inputs_of("pick"))
        return None if kept is None else self.handing_over(kept)

    def options_of_pick(self) -> dict[str, Any]:
        """What was asked for beside the settings of [pick] when the choice on disk was made."""
        stamp = read_stamp(self.folder, "pick")
        return dict(stamp.more.get("options", {})) if stamp is not None and self.has("pick") else {}

    def _choose(self, **options: Any) -> Choice:
        from capmismatch.selection.picking import pick

        split, probes = splits_of(self.bank)[0], self.load("probes")
        results = self.load("results") if self.has("results") else None
        options = self.pick_options() | options
        if results is None and options["evidence"] in (None, "none"):
            from capmismatch.study.rule_values import rule_values

            rule, device = options.get("rule", "auto"), self.config.probe.device
            options.setdefault("values", rule_values(self.bank, probes, rule, split, device))
        return self.handing_over(pick(probes, results, split=split, **options))

    def handing_over(self, choice: Choice) -> Choice:
        """A choice among the teachers of this study, with what its command asks for."""
        lacking = self._data.why_no_training_logits(choice.family, choice.teacher)
        rows = f"soft labels need the teacher's logits of training rows: {lacking}" if lacking else ""
        why, options = rows or choice.without_tau, folder_option(self.file, self.folder)
        return replace(choice, source=shown_path(self.file), soften_options=options, no_command=why)

    def pick_options(self) -> dict[str, Any]:
        """What [pick] says, its evidence read."""
        return asdict(self.config.pick) | {"evidence": read_evidence(self.config.pick.evidence, self.base)}

    def plot(self, **options: Any) -> list[Path]:
        """Draw every figure that the tables allow; PDF, PNG and CSV each. Kept while no table changes.

        With options of `capmismatch.report.gallery.draw_all` those are drawn anew, by default into a folder of the
        venue's name in ``figures/``.
        """
        tell_unnamed(self)
        if not options:
            return drawn_figures(self)
        from capmismatch.report.gallery import draw_all

        options.setdefault("folder", self.folder / "figures" / options.get("venue", "chosen"))
        return draw_all(self, **options)

    def report(self) -> Path:
        """Write report.html; figures are drawn again where they are of other tables than those of now."""
        from capmismatch.report.page import write_report

        if gallery_manifest(self.folder / "figures"):
            self.plot()
        else:  # refuses tables that are outdated
            stamp_of_figures(self)
        return write_report(self)

    def run(self) -> Choice:
        """All stages in order."""
        from capmismatch.study.checking import check_results

        check_results(self)  # before hours go into what comes first
        self.collect()
        Diagnosis(self).all()
        if is_named(self.config, "results"):
            self.distill()
            self.correlate()
        choice = self._kept_choice() or self.pick()
        self.plot()
        kept_page(self, choice, self.report)
        return choice

    def teachers(self) -> pd.DataFrame:
        """One row per teacher: identity, size, and accuracy on each split, as far as stages have run."""
        return accuracies(self.load("probes"))

    # --- tables -------------------------------------------------------------------------------------------------------

    def has(self, table: str) -> bool:
        """Whether a table has been made; one of students that the study no longer names counts as none."""
        return table_file(self.folder, table).exists() and is_named(self.config, table)

    def load(self, table: str) -> pd.DataFrame:
        """A table that a stage left.

        Raises
        ------
        InputError
            If it has not been made, or was made from other settings, teachers or tables than those of now.
        """
        self.refuse_outdated(table)
        return load_table(self.folder, table, self.file)

    def plot_table(self, name: str) -> pd.DataFrame | None:
        """A table for a figure of `capmismatch.plots`, from a stage or made now; None where there is none."""
        from capmismatch.report.gallery import plot_table

        return self.status() if name == "status" else plot_table(self, name)

    def refuse_outdated(self, table: str) -> bool:
        """Raise where the stamp of a table says that it was made from something else than is there now; else False."""
        if table not in MADE_BY or read_stamp(self.folder, table) is None or not self.has(table):
            return False
        if not (self.folder / "bank" / "bank.json").exists():  # tables that were taken elsewhere without their bank
            return False
        outdated = is_current(self.folder, table, self._inputs_of(table)) is False
        if outdated or (table == "results" and has_other_code(self.folder, self.config)):
            load_table(self.folder, table)  # a damaged one is named as such
            stage = command(MADE_BY[table], self.file, self.folder)
            raise InputError(
                f"{table_file(self.folder, table)} was made from other settings, inputs or tables than those of "
                f"{self.file.name} now: run `{stage}` first"
            )
        return False

    def _inputs_of(self, table: str) -> list[Any]:
        """All that decides what is in a table."""
        if table == "results" and self.config.results is not None:
            given = self.given_results()
            content = hash_file(given["file"]) if given["file"].is_file() else ""
            return ["given", given | {"file": content}]
        if table == "pick":
            results = ["results"] if self.has("results") else []
            hashes = table_hashes(self.folder, "probes", *results)
            evidence = hashes_of(self.config.pick.evidence, self.base)
            metric = [] if self.config.pick.metric == "accuracy" else [self.config.pick.metric]
            return [repr(self.config.pick), hashes, evidence, *metric]
        bank, config = self._collected_bank(), self.config
        if table in ("results", "curves"):
            teachers = [[r.key, r.weights_hash, r.built_by, r.preprocessing] for r in bank.teachers]
            return ["trained", repr(config.distill), repr(config.data), bank.rows.fingerprint, teachers]
        if table == "links":
            split, hashes = splits_of(bank)[0], table_hashes(self.folder, "probes", "results")
            return [repr(config.correlate), split, hashes, "KD by itself has one temperature"]  # its labels
        settings = {"probes": config.probe, "restored": config.isats}.get(table, config.ranks)
        return inputs_of_bank(bank, settings)


def load_study(file: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, **options: Any) -> Study:
    """Open a study; the same as ``Study(file, folder)``.

    Parameters
    ----------
    file : path
        The ``study.toml``.
    folder : path, optional
        Where results go; by default the file's own folder.
    **options : Any
        As `Study` takes them.

    Returns
    -------
    Study
        The study, of which nothing but the file has been read.
    """
    return Study(file, folder, **options)


_LATEST: dict[str, Study] = {}  # at most one


def _opened_elsewhere(
    file: Path, folder: Path, config: StudyConfig, teachers: tuple[tuple[str, str], ...] | None
) -> Study:
    """A study in a process that was sent it; the same one each time, so that data sets are loaded once."""
    key = repr((file, folder, config, teachers))
    if key not in _LATEST:
        _LATEST.clear()
        _LATEST[key] = Study(file, folder, progress=False, config=config)
        _LATEST[key]._chosen = teachers
    return _LATEST[key]
