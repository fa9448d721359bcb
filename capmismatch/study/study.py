"""A study: one folder, one ``study.toml``, and the stages from teachers to a pick.

::

    my-study/  study.toml  teachers/  bank/  runs/  tables/*.parquet  figures/*  report.html

Each stage reads what the one before left and writes its own files, so each can be run again, resumed, inspected alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from capmismatch._utils.commands import command
from capmismatch._utils.files import hash_of, write_json, write_table
from capmismatch._utils.toml import parse
from capmismatch._version import __version__
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
from capmismatch.study.tables import load_table, table_file

if TYPE_CHECKING:
    from capmismatch.data.bank import LogitBank
    from capmismatch.data.datasets import Dataset
    from capmismatch.selection.picking import Choice
    from capmismatch.sources.families import Family
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
    file : the ``study.toml``
    folder : where results go; by default the file's own folder
    workers : processes that train students side by side
    progress : whether to show bars
    engine, address : where students are trained: "processes" of this machine, or "ray", by default a cluster started
        here, else the one at the address
    config : settings that have been read already, instead of those that the file holds now
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        folder: str | os.PathLike[str] | None = None,
        *,
        workers: int = 1,
        progress: bool = True,
        engine: str = "processes",
        address: str | None = None,
        config: StudyConfig | None = None,
    ) -> None:
        if workers < 1:
            raise InputError(f"expected workers >= 1, got {workers!r}")
        must_be_one_of(engine, ("processes", "ray"), "engine")
        if address is not None and engine != "ray":
            raise InputError(f"an address belongs to the engine 'ray', got {address!r} with {engine!r}")
        self.file = Path(file).resolve()
        self.config = read_study(self.file) if config is None else config
        self.folder = Path(folder).resolve() if folder is not None else self.file.parent
        self.workers, self.progress = workers, progress
        self.engine, self.address = engine, address

    def __reduce__(self) -> tuple[Any, ...]:
        # With its settings, not the file's: the file may be edited, and that of a short study says something else.
        return _opened_elsewhere, (self.file, self.folder, self.config)

    # --- what the file says, loaded ---------------------------------------------------------------------------------

    @property
    def base(self) -> Path:
        """Folder that relative paths in the study file start from."""
        return self.file.parent

    def _load(self, source: str, **options: Any) -> Dataset:
        from capmismatch.data.datasets import load_dataset

        data = self.config.data
        return load_dataset(source, root=data.root, download=data.download, base=self.base, **options)

    @cached_property
    def _whole(self) -> Dataset:
        data = self.config.data
        if data.source is not None:
            found = self._load(data.source, split=data.split, seed=data.seed)
        elif data.split is None:
            found = self._brought_along()
        else:
            found = self._brought_along().resplit(data.split, data.seed)
        if data.split is None and (found.rows.split == "val").all():
            return found.resplit({"val": 0.5, "test": 0.5}, data.seed)
        return found

    def _brought_along(self) -> Dataset:
        """The rows of the first saved logits, for a study without a data set of its own."""
        for number, table in enumerate(self.config.family):
            if str(table.get("source", "")).startswith(("logits:", "bank:")):
                dataset = self._load_family(number, table).dataset
                assert dataset is not None
                return dataset
        raise InputError(f"{self.file.name} lacks [data] source: only saved logits bring rows of their own")

    @cached_property
    def eval_data(self) -> Dataset:
        """Validation and test rows."""
        import numpy as np

        rows = np.flatnonzero(self._whole.rows.split != "train")
        if not len(rows):
            raise InputError(f"[data] of {self.file.name} leaves no validation or test rows, only 'train'")
        return self._whole.take(rows, name=self.config.data.name)

    @cached_property
    def train_data(self) -> Dataset:
        """Training rows of the students."""
        data, name = self.config.data, self.file.name
        if data.train is None:
            if not (self._whole.rows.split == "train").any():
                raise InputError(f"{name} names no training rows: give [data] a 'train' source or split")
            if data.train_rows is not None:
                raise InputError(f"[data] of {name} has train_rows without a 'train' source: say it in 'split'")
            return self._whole.part("train")
        if data.train == data.source or "train" in (data.split or {}):
            raise InputError(f"[data] of {name} has the training rows twice: give 'train' another source, or drop it")
        found = self._load(data.train)
        if (found.rows.split == "train").any():
            found = found.part("train")
        found = found.resplit({"train": 1.0 if data.train_rows is None else data.train_rows}, data.seed)
        own, seen = list(found.classes), list(self.eval_data.classes)
        if own != seen:  # class 3 here must be class 3 there
            raise InputError(f"expected training rows of {name} with the classes {seen}, got {own} from {data.train}")
        return found

    @cached_property
    def family(self) -> Family:
        """All teachers of all ``[[family]]`` tables."""
        from capmismatch.sources.families import Family

        return Family([t for number, table in enumerate(self.config.family) for t in self._load_family(number, table)])

    def _load_family(self, number: int, table: dict[str, Any]) -> Family:
        from capmismatch.sources.families import load_family

        options = dict(table)
        source = options.pop("source", None)
        if not isinstance(source, str):
            raise InputError(f"[[family]] number {number + 1} of {self.file.name} lacks the key 'source'")
        options["base"] = self.base
        if source.startswith("letters:"):
            options["base"] = self.folder
            options.setdefault("folder", "teachers")
            options["train"] = self.train_data
        try:
            return load_family(source, **options)
        except InputError as error:
            raise InputError(f"[[family]] number {number + 1} of {self.file.name}: {error}") from error

    @cached_property
    def recipe(self) -> Recipe:
        """How students are trained."""
        from capmismatch.training.loop import Recipe

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
        bank = self._collected(self.eval_data, self.folder / "bank", self.progress)
        left = [record for record in bank.teachers if record.key not in {teacher.key for teacher in self.family}]
        if left:
            warnings.warn(
                f"{bank.path} holds teachers that {self.file.name} no longer names, and all stages go on with them: "
                f"{', '.join(record.key for record in left)}. Remove their folders there to leave them out",
                stacklevel=2,
            )
        return bank

    def _collected(self, data: Dataset, folder: Path, progress: bool) -> LogitBank:
        from capmismatch.sources.collecting import collect

        return collect(self.family, data, folder, progress=progress, **asdict(self.config.collect))

    @property
    def bank(self) -> LogitBank:
        """The collected bank."""
        from capmismatch.data.bank import LogitBank

        if not (self.folder / "bank" / "bank.json").exists():
            collect = command("collect", self.file, self.folder)
            raise InputError(f"there is no bank in {self.folder}: run `{collect}` first")
        return LogitBank(self.folder / "bank")

    def view_bank(self, number: int) -> LogitBank:
        """Logits of every teacher on view `number` of the training rows; collected where missing."""
        views, train = self.distillation.views, self.train_data
        seen = train.with_inputs(views.make(train.inputs, number), f"{train.name} {views.name(number)}")
        return self._collected(seen, self.folder / "bank" / "views" / views.name(number), progress=False)

    def probe(self) -> pd.DataFrame:
        """The probes table, on validation and on test rows."""
        from capmismatch.diagnostics.tables import probe

        bank, s = self.bank, self.config.probe
        return self._table(
            "probes",
            bank,
            s,
            lambda: pd.concat(
                [
                    probe(bank, s.taus, s.names, split=split, device=s.device, progress=self.progress)
                    for split in _splits(bank)
                ],
                ignore_index=True,
            ),
        )

    def ranks(self) -> pd.DataFrame:
        """The table of class-rank stability; beside it, the affinity matrices."""
        from capmismatch.diagnostics.tables import affinity, rank_stability

        bank, settings = self.bank, self.config.ranks
        where: dict[str, Any] = {"split": _splits(bank)[0], "device": self.config.probe.device}
        self._table("affinity", bank, settings, lambda: affinity(bank, settings.tau, **where))
        return self._table(
            "ranks", bank, settings, lambda: rank_stability(bank, tau=settings.tau, **where, progress=self.progress)
        )

    def isats(self) -> pd.DataFrame:
        """The table of restored variance."""
        from capmismatch.diagnostics.tables import restored_variance

        bank, s = self.bank, self.config.isats
        return self._table(
            "restored",
            bank,
            s,
            lambda: restored_variance(
                bank,
                s.tau_target,
                tau_other=s.tau_other,
                constraint=s.constraint,
                margin=s.margin,
                center=s.center,
                split=_splits(bank)[0],
                device=self.config.probe.device,
                progress=self.progress,
            ),
        )

    def distill(self) -> pd.DataFrame:
        """The results table: every student, setting and seed, each a run that is kept."""
        from capmismatch.distillation.grid import distill
        from capmismatch.distillation.results import load_results

        given = self.config.results
        if given is None:
            results = distill(self)
        else:
            given = ResultsConfig(given) if isinstance(given, str) else given
            options = asdict(given)
            results = load_results(self.base / Path(options.pop("file")).expanduser(), **options)
        write_table(table_file(self.folder, "results"), results)
        return results

    def status(self) -> pd.DataFrame:
        """How many students of each teacher and setting are done, under way, failed or to come, and the time left."""
        from capmismatch.distillation.status import status

        return status(self)

    def correlate(self) -> pd.DataFrame:
        """The links table: probes against students."""
        from capmismatch.selection.links import correlate

        s = self.config.correlate
        split, probes, results = _splits(self.bank)[0], self.load("probes"), self.load("results")
        made_from = [repr(s), split, self._hashes("probes", "results")]
        return self._kept("links", made_from, lambda: correlate(probes, results, probe_split=split, **asdict(s)))

    def pick(self, **options: Any) -> Choice:
        """The choice of a teacher; from students' results where there are any. Options go before those of [pick]."""
        from capmismatch.selection.picking import pick
        from capmismatch.study.rule_values import rule_values

        split, probes, given = _splits(self.bank)[0], self.load("probes"), self.pick_options() | options
        results = self.load("results") if self.has("results") else None
        if results is None and not given["evidence"]:
            rule, device = given.get("rule", "auto"), self.config.probe.device
            given.setdefault("values", rule_values(self.bank, probes, rule, split, device))
        choice = pick(probes, results, split=split, **given)
        write_table(self.folder / "tables" / "pick.parquet", choice.table)
        return choice

    def pick_options(self) -> dict[str, Any]:
        """What [pick] says, its evidence read."""
        folders = [self.base / Path(folder).expanduser() for folder in self.config.pick.evidence]
        return asdict(self.config.pick) | {
            "evidence": [(load_table(folder, "probes"), load_table(folder, "results")) for folder in folders]
        }

    def plot(self) -> list[Path]:
        """Draw every figure that the tables allow; PDF, PNG and CSV each. Kept while no table changes."""
        folder, beside = self.folder / "figures", self.folder / "figures" / "made_from.json"
        stamp = hash_of([__version__, repr(self.config.probe), repr(self.config.isats), self._hashes()])
        if beside.exists() and stamp in beside.read_text(encoding="utf-8"):
            kept = [folder / name for name in json.loads(beside.read_text(encoding="utf-8"))["figures"]]
            if all(file.with_suffix(ending).exists() for file in kept for ending in (".pdf", ".png", ".csv")):
                return kept
        from capmismatch.report.gallery import draw_all

        beside.unlink(missing_ok=True)
        drawn = draw_all(self)
        write_json(beside, {"made_from": stamp, "figures": [file.name for file in drawn]})
        return drawn

    def report(self) -> Path:
        """Write report.html."""
        from capmismatch.report.page import write_report

        return write_report(self)

    def run(self) -> Choice:
        """All stages in order."""
        if self.config.distill is not None:
            from capmismatch.distillation.grid import check_students

            check_students(self)
        self.collect()
        self.probe()
        self.ranks()
        self.isats()
        if self.config.distill is not None or self.config.results is not None:
            self.distill()
            self.correlate()
        choice = self.pick()
        self.plot()
        self.report()
        return choice

    def teachers(self) -> pd.DataFrame:
        """One row a teacher: identity, size, and accuracy on each split, as far as stages have run."""
        probes = self.load("probes")
        rows = probes[probes["probe"] == "accuracy"]
        keys = ["family", "teacher", "seed", "params", "macs"]
        wide = rows.pivot_table(index=keys, columns="split", values="value", sort=False, dropna=False)
        wide = wide.add_prefix("accuracy_").reset_index().rename_axis(columns=None)
        return wide.dropna(subset=[c for c in wide.columns if c.startswith("accuracy_")], how="all")

    # --- tables -------------------------------------------------------------------------------------------------------

    def has(self, table: str) -> bool:
        """Whether a table has been made."""
        return table_file(self.folder, table).exists()

    def load(self, table: str) -> pd.DataFrame:
        """A table that a stage left."""
        return load_table(self.folder, table, self.file)

    def _table(self, name: str, bank: LogitBank, settings: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table, made anew only if the bank or the settings changed since."""
        teachers = [[record.key, record.params, record.sha256] for record in bank.teachers]
        return self._kept(name, [repr(settings), bank.rows.fingerprint, teachers], make)

    def _kept(self, name: str, made_from: list[Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table, made anew only if what it is made from changed since."""
        file = table_file(self.folder, name)
        stamp, beside = hash_of([__version__, made_from]), file.with_suffix(".json")
        if file.exists() and beside.exists() and stamp in beside.read_text(encoding="utf-8"):
            return self.load(name)
        frame = make()
        beside.unlink(missing_ok=True)  # first: killed in between, no stamp must vouch for the other table
        write_table(file, frame)
        write_json(beside, {"made_from": stamp})
        return frame

    def _hashes(self, *tables: str) -> dict[str, str]:
        """SHA-256 of tables as they lie on disk; by default of all."""
        files = [table_file(self.folder, name) for name in tables]
        found = files or sorted((self.folder / "tables").glob("*.parquet"))
        return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in found if file.exists()}


def _splits(bank: LogitBank) -> list[str]:
    """Splits of a bank to measure on, the one for choosing first."""
    from capmismatch.stats.matching import splits_present

    return splits_present(bank.rows.split)


def load_study(file: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, **options: Any) -> Study:
    """Open a study; the same as ``Study(file, folder)``."""
    return Study(file, folder, **options)


_LATEST: dict[str, Study] = {}  # at most one


def _opened_elsewhere(file: Path, folder: Path, config: StudyConfig) -> Study:
    """A study in a process that was sent it; the same one each time, so that data sets are loaded once."""
    key = repr((file, folder, config))
    if key not in _LATEST:
        _LATEST.clear()
        _LATEST[key] = Study(file, folder, progress=False, config=config)
    return _LATEST[key]
