"""What a ``study.toml`` may say: one dataclass per table, and reading the file into them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capmismatch._numerics.condense_settings import DTYPES, K, checked_betas
from capmismatch._numerics.soft_label_spec import WRONG_ROWS, SoftLabelSpec, compared_specs
from capmismatch._utils.toml import parse
from capmismatch.data.text_reader import TextOptions
from capmismatch.distillation.config import DistillConfig
from capmismatch.distillation.methods import Method
from capmismatch.errors import (
    MOST_RESAMPLES,
    InputError,
    must_be_one_of,
    must_be_temperature,
    must_be_temperatures,
    must_be_within,
    must_count,
)
from capmismatch.selection.metric import metric_of
from capmismatch.selection.rules import DEFAULT_TAU

MOST_ROWS = 1_000_000_000
"""More rows than any source has: what asks for more was typed by mistake."""


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from: ``[data]``.

    Attributes
    ----------
    source : str, optional
        As `load_dataset` takes it; may be left out where the first saved logits bring their rows.
    name : str, optional
        What the data are called in the bank and the report; by default the source says.
    classes : tuple of str, optional
        The classes in the order that labels and unnamed teachers' outputs have, where the source's order is another; or
        their names, where the source has none.
    image_column : str, optional
        Column of the images, where a Hugging Face data set has several.
    label_column : str, optional
        Column of the classes, where a Hugging Face data set has several, such as "fine_label" of CIFAR-100.
    split : dict from str to int or float, optional
        Part -> count or share; "val" and "test" rows go into the bank, "train" rows teach students. By default the
        split that the source brings, else half "val" and half "test".
    train : str, optional
        Another source for the training rows (its "train" part where it brings a split); then `split` has no "train".
    train_rows : int, optional
        How many of that source's rows to take, stratified by class; all by default.
    seed : int
        Of the splits.
    root : str, optional
        Folder of torchvision's data sets.
    download : bool
        Whether torchvision may fetch them.
    text : TextOptions, optional
        Of a text, ``text = { tokenizer = "bpe:512", window = 64 }``: see `capmismatch.data.text_reader.TextOptions`.
    """

    source: str | None = None
    name: str | None = None
    classes: tuple[str, ...] | None = None
    image_column: str | None = None
    label_column: str | None = None
    split: dict[str, int | float] | None = None
    train: str | None = None
    train_rows: int | None = None
    seed: int = 0
    root: str | None = None
    download: bool = False
    text: TextOptions | None = field(default=None, repr=False)  # the rows' fingerprint tells what it decides

    def __post_init__(self) -> None:
        must_count(self.seed, "seed", least=0)
        for part, size in (self.split or {}).items():
            must_be_within(size, f"split {part}", 0, 1.0 if isinstance(size, float) else MOST_ROWS)
        if self.split is not None and not any(self.split.values()):
            raise InputError(f"expected split with at least one row, got {self.split!r}")
        if self.train_rows is not None:
            must_count(self.train_rows, "train_rows", most=MOST_ROWS)
        if self.classes is not None and len(self.classes) < 2:
            raise InputError(
                f"expected at least 2 classes, got {list(self.classes)}; leave classes out for the source's"
            )
        for name in ("source", "name", "train", "image_column", "label_column", "root"):
            _must_say_something(getattr(self, name), name)


@dataclass(frozen=True)
class ProbeConfig:
    """What is measured on every teacher: ``[probe]``.

    Attributes
    ----------
    taus : tuple of float
        Temperatures of the probes that depend on one.
    names : tuple of str, optional
        Which probes, of `capmismatch.probes.REGISTRY` and, where the bank has features or students, of `FEATURES` or
        `PAIRS` there; by default all that the bank can tell.
    device : str
        Where they, class ranks and restored variance are computed, such as "cuda".
    """

    taus: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    names: tuple[str, ...] | None = None
    device: str = field(default="cpu", repr=False)  # the table is the same wherever it is computed

    def __post_init__(self) -> None:
        must_be_temperatures(self.taus, "taus")
        if self.names is not None and not self.names:
            raise InputError("expected names of probes, got none; leave names out for all")


@dataclass(frozen=True)
class RanksConfig:
    """How class ranks are compared: ``[ranks]``.

    Attributes
    ----------
    tau : float
        Temperature of the affinity matrices.
    noise_floor : str
        Folder of a bank, relative to the study file, whose teachers have several training runs each: figures show their
        agreement as the noise floor where the study's own teachers have one run each. "" for none.
    """

    tau: float = 4.0
    noise_floor: str = field(default="", repr=False)  # figures alone depend on it, no table: left out of their stamps

    def __post_init__(self) -> None:
        must_be_temperature(self.tau, "tau")


@dataclass(frozen=True)
class IsatsConfig:
    """How the variance is restored: ``[isats]``, as `capmismatch.restored_variance` takes it.

    Attributes
    ----------
    tau_target : float
        Of the target's logit, and of plain temperature scaling.
    tau_other : float
        Of the wrong classes' logits under ATS.
    constraint : str
        Of ISATS: "order", "anchor" or "none".
    margin : float, optional
        Of the constraint "order", in logits; 1 by default.
    center : str
        "mean" subtracts each row's mean logit first, "none" does not.
    wrong : str
        What ISATS does with rows that the teacher gets wrong: "plain", "target" or "free".
    """

    tau_target: float = 4.0
    tau_other: float = 3.0
    constraint: str = "order"
    margin: float | None = None
    center: str = "mean"
    wrong: str = WRONG_ROWS

    def __post_init__(self) -> None:
        for name in ("tau_target", "tau_other"):
            must_be_temperature(getattr(self, name), name)
        self.specs()

    def specs(self) -> list[SoftLabelSpec]:
        """TS, ATS and ISATS with these settings."""
        settings = (self.tau_target, self.tau_other, self.constraint, self.margin, self.center)
        return compared_specs(*settings, wrong=self.wrong)


@dataclass(frozen=True)
class CollectConfig:
    """How the teachers are run: ``[collect]``, as `capmismatch.collect` takes it.

    Attributes
    ----------
    batch_size : int
        Rows per forward pass.
    dtype : str, optional
        "float32" or "float16", of the stored logits, by default float32; of condensed rows also "float24", which is
        their default.
    device : str
        Where the networks run, such as "cuda".
    autocast : str, optional
        "bfloat16" or "float16": half precision where torch deems it safe.
    channels_last : bool
        Whether images lie in memory channel by channel.
    k : int
        Of a text with more than 4,096 tokens: how many wrong tokens of each row are kept one by one; such rows are
        condensed, see `capmismatch.condense`.
    betas : str or tuple of float
        Of condensed rows: "octaves", "half" or the inverse temperatures at which sums over all other tokens are kept.
    columns : int
        Of condensed rows: at how many random tokens logits are kept, for rank correlations; 0 for none.
    seed : int
        Of the choice of these tokens.
    reference : str, optional
        Of condensed rows: key of the teacher at whose likeliest tokens all others are read; by default the largest.
    dense : bool, optional
        Of a text: whether all logits are kept; by default those of at most 4,096 tokens are, and those of a study with
        ``[distill]``, whose students learn from all.
    features : bool
        Whether each network's features are kept, too: what its last linear layer reads, or the output of the layer that
        `feature_layer` of its ``[[family]]`` names. Probes of features are then measured.
    students : str, optional
        Also collect the students of ``[distill]`` before they are taught, for probes of pairs: "untrained" as they
        start, or "plain" after training on the labels alone.
    """

    batch_size: int = 256
    dtype: str | None = None
    device: str = "cpu"
    autocast: str | None = None
    channels_last: bool = False
    k: int = K
    betas: str | tuple[float, ...] = "octaves"
    columns: int = 64
    seed: int = 0
    reference: str | None = None
    dense: bool | None = None
    features: bool = False
    students: str | None = None

    def __post_init__(self) -> None:
        must_count(self.batch_size, "batch_size", most=MOST_ROWS)
        if self.dtype is not None:
            must_be_one_of(self.dtype, DTYPES, "dtype")
        must_count(self.k, "k", least=2)
        must_count(self.columns, "columns", least=0)
        must_count(self.seed, "seed", least=0)
        checked_betas(self.betas)
        must_be_one_of(self.autocast, (None, "bfloat16", "float16"), "autocast")
        if isinstance(self.students, list):
            raise InputError(f'expected students as one word, "untrained" or "plain", got the list {self.students}')
        must_be_one_of(self.students, (None, "untrained", "plain"), "students")


@dataclass(frozen=True)
class ResultsConfig:
    """Students of another trainer: ``results = { file = ... }``, as `capmismatch.load_results` takes it.

    Attributes
    ----------
    file : str
        CSV or Parquet.
    columns : dict from str to str
        The file's column names where they differ, ``{ top1 = "accuracy" }``.
    percent : bool
        Whether accuracies are percentages.
    splits : dict from str to str
        The file's names of splits where they differ, ``{ "held out" = "test" }``.
    """

    file: str
    columns: dict[str, str] = field(default_factory=dict)
    percent: bool = False
    splits: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _must_say_something(self.file, "file")


@dataclass(frozen=True)
class CorrelateConfig:
    """How links are estimated: ``[correlate]``.

    Attributes
    ----------
    n_boot : int
        Bootstrap replicates, 1 or more.
    seed : int
        Of the bootstrap and of random permutations.
    primary : str or None
        The one probe that the study is about, named before its students are looked at. Default: "derived_std".
    primary_tau : float
        Its temperature; the nearest one in the table is taken.
    """

    n_boot: int = 2000
    seed: int = 0
    primary: str | None = None
    primary_tau: float = DEFAULT_TAU

    def __post_init__(self) -> None:
        must_count(self.n_boot, "n_boot", most=MOST_RESAMPLES)
        must_count(self.seed, "seed", least=0)
        must_be_temperature(self.primary_tau, "primary_tau")


@dataclass(frozen=True)
class PickConfig:
    """How a teacher is chosen: ``[pick]``, as `capmismatch.pick` takes it.

    Attributes
    ----------
    evidence : tuple of str
        Folders of other studies, whose probes and results show how far to trust the probes.
    family : str, optional
        Choose among its teachers; those of other families are evidence where they have students.
    student : str, optional
        Go by this kind of student alone.
    label : str, optional
        Go by this setting alone.
    rule : str
        "auto", or a rule's name such as "largest".
    metric : str
        By what students are compared: "accuracy", or of language models "nll", with regret in nats.
    """

    evidence: tuple[str, ...] = ()
    family: str | None = None
    student: str | None = None
    label: str | None = None
    rule: str = "auto"
    metric: str = field(default="accuracy", repr=False)  # where it is another, the stamp of a pick says so

    def __post_init__(self) -> None:
        for name in ("family", "student", "label", "rule", "metric"):
            _must_say_something(getattr(self, name), name)
        metric_of(self.metric)


@dataclass(frozen=True)
class StudyConfig:
    """A whole ``study.toml``.

    Attributes
    ----------
    name : str
        Of the study.
    family : tuple of dict
        ``[[family]]``, one table for each source of teachers.
    data : DataConfig
        ``[data]``, the examples.
    distill : DistillConfig, optional
        ``[distill]``, the students; left out where nothing is trained.
    results : str or ResultsConfig, optional
        A CSV or Parquet file of students trained elsewhere, instead of ``[distill]``; where its columns have other
        names ``{ file = "mine.csv", columns = { top1 = "accuracy" }, percent = true }``.
    question : str
        What the study asks; stands on top of the report.
    collect : CollectConfig
        ``[collect]``.
    probe : ProbeConfig
        ``[probe]``.
    ranks : RanksConfig
        ``[ranks]``.
    isats : IsatsConfig
        ``[isats]``.
    correlate : CorrelateConfig
        ``[correlate]``.
    pick : PickConfig
        ``[pick]``.
    """

    name: str
    family: tuple[dict[str, Any], ...]
    data: DataConfig = field(default_factory=DataConfig)
    distill: DistillConfig | None = None
    results: str | ResultsConfig | None = None
    question: str = ""
    collect: CollectConfig = field(default_factory=CollectConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    ranks: RanksConfig = field(default_factory=RanksConfig)
    isats: IsatsConfig = field(default_factory=IsatsConfig)
    correlate: CorrelateConfig = field(default_factory=CorrelateConfig)
    pick: PickConfig = field(default_factory=PickConfig)

    def __post_init__(self) -> None:
        _must_say_something(self.name, "name")
        if isinstance(self.results, str):
            _must_say_something(self.results, "results")


def _must_say_something(text: str | None, name: str) -> None:
    """Raise where a text that is there is empty: what is not meant is left out."""
    if text is not None and not text.strip():
        raise InputError(f"expected {name} a text that is not empty, got {text!r}")


def read_study(file: Path) -> StudyConfig:
    """Read and check a study file.

    Parameters
    ----------
    file : Path
        The ``study.toml``.

    Returns
    -------
    StudyConfig
        What it says, with ``${NAME}`` replaced by environment variables.

    Raises
    ------
    InputError
        If there is no such file, it is not TOML, or it says something that no study has.
    """
    if not file.is_file():
        raise InputError(f"there is no study file {file}")
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        config = parse(StudyConfig, _with_environment(table, file.name), file.name)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{file} holds lists or tables nested too deeply to be a study") from None
    if not config.family:
        raise InputError(f"{file} names no family: expected at least one [[family]] with a source")
    if config.distill is not None and config.results is not None:
        raise InputError(f"{file} has both results and [distill]: students are given or trained here, leave one out")
    if config.distill is not None:
        if not config.distill.methods:
            raise InputError(f"[distill] of {file.name} has no [[distill.methods]]: expected at least one")
        _check_labels(config.distill.methods)
        _check_options(config.distill.methods, file.name)
    return config


def _with_environment(value: Any, place: str) -> Any:
    """Replace ``${NAME}`` in every string by the environment variable: a study file need not name where data lie."""
    if isinstance(value, str):
        unknown = next((name for name in re.findall(r"\$\{(\w+)\}", value) if name not in os.environ), None)
        if unknown:
            raise InputError(f"{place} asks for the environment variable {unknown}, which is not set, in {value!r}")
        return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value)
    if isinstance(value, Mapping):
        return {key: _with_environment(item, place) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_environment(item, place) for item in value]
    return value


def _check_labels(methods: tuple[Method, ...]) -> None:
    labels = [method.label for method in methods]
    double = next((label for label in labels if labels.count(label) > 1), None)
    if double:
        raise InputError(f"two [[distill.methods]] are both {double!r}: leave one out")


def _check_options(methods: tuple[Method, ...], file: str) -> None:
    """Refuse options that a loss does not take; only where there are any, as it loads torch."""
    for number, method in enumerate(methods, 1):
        if method.options:
            try:
                method.check_loss()
            except InputError as error:
                raise InputError(f"[[distill.methods]] number {number} of {file}: {error}") from None
