"""What a study file names, loaded: its examples and its teachers."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capmismatch.data.class_names import composed
from capmismatch.data.records import STUDENT
from capmismatch.errors import CapmismatchError, InputError
from capmismatch.study.config import StudyConfig

if TYPE_CHECKING:
    from capmismatch.data.datasets import Dataset
    from capmismatch.data.text_reader import NextTokens
    from capmismatch.sources.families import Family, Teacher

BRINGS_ROWS = ("logits:", "bank:")
GIVEN_BY_STUDY = ("base", "train")  # options of sources that are no matter of a study file
"""Sources of teachers that bring the rows their logits are of."""


def is_condensed(bank: Path) -> bool:
    """Whether there is a bank in a folder whose rows are condensed."""
    from capmismatch.data.bank_files import read_settings

    return (bank / "bank.json").exists() and bool(read_settings(bank))


class StudyData:
    """The examples and teachers of a study; each is loaded when it is first asked for, and only once.

    Parameters
    ----------
    config : StudyConfig
        What the study file says; ``[data]`` and ``[[family]]`` are used.
    file : Path
        The study file: messages name it, and relative paths start from its folder.
    folder : Path
        The study's folder, where teachers that are trained here are kept.
    """

    def __init__(self, config: StudyConfig, file: Path, folder: Path) -> None:
        self.config, self.file, self.folder = config, file, folder

    @cached_property
    def examples(self) -> Dataset:
        """All rows of ``[data]``, or of the first saved logits, each with its split."""
        data = self.config.data
        if data.source is not None:
            examples = self._read(data.source, split=data.split, seed=data.seed)
        else:
            examples = self._rows_of_saved_logits()
            if data.classes is not None:
                examples = examples.with_classes(data.classes)
            if data.split is not None:
                examples = examples.resplit(data.split, data.seed)
        if data.split is None and (examples.rows.split == "val").all():
            return examples.resplit({"val": 0.5, "test": 0.5}, data.seed)
        return examples

    @cached_property
    def eval_data(self) -> Dataset:
        """Validation and test rows."""
        import numpy as np

        rows = np.flatnonzero(self.examples.rows.split != "train")
        if not len(rows):
            raise InputError(f"[data] of {self.file.name} leaves no validation or test rows, only 'train'")
        return self.examples.take(rows, name=self.config.data.name)

    @cached_property
    def train_data(self) -> Dataset:
        """Training rows of the students."""
        return self._train_part() if self.config.data.train is None else self._train_source(self.config.data.train)

    @cached_property
    def networks(self) -> Family:
        """All networks of all ``[[family]]`` tables."""
        from capmismatch.sources.families import Family

        tables = enumerate(self.config.family)
        return Family([teacher for number, table in tables for teacher in self._family(number, table)])

    @cached_property
    def family(self) -> Family:
        """All teachers: the networks that are not there to be taught."""
        from capmismatch.sources.families import Family

        teachers = [teacher for teacher in self.networks if teacher.role != STUDENT]
        if not teachers:
            raise InputError(f"{self.file.name} names students alone: expected a [[family]] of teachers")
        return Family(teachers)

    @property
    def students(self) -> list[Teacher]:
        """Networks of the tables with the role "student"."""
        return [teacher for teacher in self.networks if teacher.role == STUDENT]

    def keeps_all_logits(self, bank: Path) -> bool | None:
        """Whether a bank of this study keeps all logits, however many tokens there are; None leaves it to their number.

        What [collect] says; else what the bank that is there does; else yes where students are trained, who learn from
        all tokens.
        """
        if self.config.collect.dense is not None:
            return self.config.collect.dense
        if self.config.distill is not None or ((bank / "bank.json").exists() and not is_condensed(bank)):
            return True
        return None

    def why_no_training_logits(self, family: str, teacher: str) -> str:
        """Why a teacher has no logits of training rows, and can get none; "" where it has, or a network to make them.

        Only what is quickly loaded is looked at: saved logits, and a data set that may or may not bring training rows.
        """
        from capmismatch.sources.runners import rows_by_id

        if is_condensed(self.folder / "bank"):
            return (
                "the bank keeps condensed rows: write lists of the likeliest tokens with capmismatch.export_tokens, or "
                "keep all logits with dense = true in [collect]"
            )
        if self.config.distill is not None:  # students that are trained here have rows to be trained on
            return ""
        try:
            saved = [
                one
                for number, table in enumerate(self.config.family)
                if str(table.get("source", "")).startswith(BRINGS_ROWS)
                for one in self._family(number, table)
                if (one.family, one.name) == (family, teacher) and one.saved is not None
            ]
            named = self.config.data.train is not None or "train" in (self.config.data.split or {})
            if saved or not named:
                train = self.train_data
                for one in saved:
                    assert one.saved is not None
                    rows_by_id(one.saved()[0], one, train)
        except (CapmismatchError, OSError) as error:
            return str(error)
        return ""

    def _read(self, source: str, **options: Any) -> Dataset:
        """A data set by its source, read with the study's options."""
        from capmismatch.data.datasets import load_dataset

        data = self.config.data
        return load_dataset(
            source,
            classes=data.classes,
            image_column=data.image_column,
            label_column=data.label_column,
            root=data.root,
            download=data.download,
            base=self.file.parent,
            **({} if data.text is None else asdict(data.text)),
            **options,
        )

    def _rows_of_saved_logits(self) -> Dataset:
        """The rows of the first saved logits, for a study without a data set."""
        for number, table in enumerate(self.config.family):
            if str(table.get("source", "")).startswith(BRINGS_ROWS):
                dataset = self._family(number, table).dataset
                assert dataset is not None
                return dataset
        raise InputError(f"{self.file.name} lacks [data] source: only saved logits bring rows of their own")

    def _train_part(self) -> Dataset:
        """The training rows of the same source as the evaluation rows."""
        name = self.file.name
        if not (self.examples.rows.split == "train").any():
            saved = " (or save logits of training rows, too)" if self.config.data.source is None else ""
            raise InputError(f"{name} names no training rows: give [data] a 'train' source or split{saved}")
        if self.config.data.train_rows is not None:
            raise InputError(f"[data] of {name} has train_rows without a 'train' source: say it in 'split'")
        return self.examples.part("train")

    def _train_source(self, source: str) -> Dataset:
        """The training rows of a source for them alone."""
        data, name = self.config.data, self.file.name
        if source == data.source or "train" in (data.split or {}):
            raise InputError(f"[data] of {name} has the training rows twice: give 'train' another source, or drop it")
        train = self._read(source)
        if (train.rows.split == "train").any():
            train = train.part("train")
        train = train.resplit({"train": 1.0 if data.train_rows is None else data.train_rows}, data.seed)
        classes, expected = list(train.classes), list(self.eval_data.classes)
        if list(map(composed, classes)) != list(map(composed, expected)):  # class 3 here must be class 3 there
            raise InputError(
                f"expected training rows of {name} with the classes {expected}, got {classes} from {source}"
            )
        return train

    def _unseen_text(self, title: str) -> NextTokens:
        """The windows of the study's text that nothing is evaluated on."""
        import numpy as np

        from capmismatch.data.datasets import text_of
        from capmismatch.data.text_reader import unseen_windows

        data = self.config.data
        sequences = self.examples.rows.sequences
        if data.source is None or sequences is None:
            raise InputError(f"{title} trains language models: give [data] a text, 'text:FILE' or 'kjv'")
        if data.train is not None:
            raise InputError(
                f"[data] of {self.file.name} has a 'train' source: teachers of lm:gru learn from its source"
            )
        raw = text_of(data.source, self.file.parent, data.text)
        return unseen_windows(raw, np.unique(sequences[self.examples.rows.split != "train"]))

    def _family(self, number: int, table: dict[str, Any]) -> Family:
        """The teachers of one ``[[family]]`` table."""
        from capmismatch.sources.families import load_family

        options, title = dict(table), f"[[family]] number {number + 1} of {self.file.name}"
        source = options.pop("source", None)
        if not isinstance(source, str):
            raise InputError(f"{title} lacks the key 'source'")
        for key in GIVEN_BY_STUDY:
            if key in options:
                raise InputError(f"{title} has the key {key!r}, which the study itself sets: leave it out")
        options["base"] = self.file.parent
        if source.startswith(("letters:", "lm:")):  # trained here, on the students' training rows, or all unseen text
            options["base"] = self.folder
            options.setdefault("folder", "teachers")
            options["train"] = self.train_data if source.startswith("letters:") else self._unseen_text(title)
        try:
            return load_family(source, **options)
        except InputError as error:
            raise InputError(f"{title}: {error}") from error
