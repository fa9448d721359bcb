"""What gives the logits of some rows: forward passes of a network, or what was saved before."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capmismatch._utils.files import hash_of
from capmismatch._utils.torchrun import local_device
from capmismatch.data.class_names import composed, match_classes
from capmismatch.data.datasets import Dataset
from capmismatch.data.rows import Rows
from capmismatch.data.token_inputs import TokenInputs
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.sources._networks import at_rows, logits_of, prepared
from capmismatch.sources._tokenizers import padded_columns, without_padding
from capmismatch.sources.families import Teacher
from capmismatch.sources.features import FeatureTap, half_rows

AUTOCASTS = ("bfloat16", "float16")
BY_POSITION = ". If they stand in the data set's order whatever they are called, load the family with by_position=True"


@dataclass(frozen=True)
class Passes:
    """How forward passes are made; what may change the numbers is recorded with the logits.

    Parameters
    ----------
    batch_size : int
        Rows per pass.
    device : str
        Where the network runs.
    autocast : str or None
        "bfloat16" or "float16": half precision where torch considers it safe.
    channels_last : bool
        Whether images lie in memory channel by channel.

    Examples
    --------
    >>> Passes().recorded, Passes(autocast="bfloat16", channels_last=True).recorded
    ('', 'autocast bfloat16, channels_last')
    """

    batch_size: int = 256
    device: str = "cpu"
    autocast: str | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.autocast is not None:
            must_be_one_of(self.autocast, AUTOCASTS, "autocast")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {self.device!r} cannot be used here: {str(error).splitlines()[0]}") from None

    @property
    def recorded(self) -> str:
        """What differs from plain float32 passes on the CPU, in words."""
        kind = torch.device(self.device).type
        words = [
            "" if kind == "cpu" else kind,
            f"autocast {self.autocast}" if self.autocast else "",
            "channels_last" if self.channels_last else "",
        ]
        return ", ".join(word for word in words if word)

    def precision(self) -> AbstractContextManager[Any]:
        """The context that the network runs in."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, getattr(torch, self.autocast))


def columns_of(teacher: Teacher, dataset: Dataset) -> NDArray[np.int64] | None:
    """The network's column of each class; None where they stand as they are. Saved logits are matched later."""
    names = None if teacher.saved is not None else teacher.output_names(dataset.classes)
    if names is None:
        return None
    return match_classes(names, dataset.classes, f"teacher {teacher.key}", BY_POSITION)


def options_of(teacher: Teacher, dataset: Dataset, passes: Passes) -> str:
    """What else decides the logits, given weights and preprocessing, in words; "" for plain passes."""
    if teacher.saved is not None:
        return ""
    columns = columns_of(teacher, dataset)
    order = "" if columns is None else f"columns {hash_of(columns.tolist())}"
    return ", ".join(word for word in (passes.recorded, order, padded_columns(teacher, dataset)) if word)


class NetworkRunner:
    """Forward passes of one network over ranges of rows; the network is made when it is first needed."""

    def __init__(self, teacher: Teacher, dataset: Dataset, passes: Passes) -> None:
        if teacher.module is None or teacher.prepare is None:
            raise InputError(f"teacher {teacher.key} has neither a network nor saved logits")
        self.make, self.prepare = teacher.module, teacher.prepare
        self.key, self.dataset, self.passes, self.feature_layer = teacher.key, dataset, passes, teacher.feature_layer
        self.device = local_device(passes.device)
        self.columns, self.outputs = columns_of(teacher, dataset), len(teacher.output_names(dataset.classes) or ())
        self.is_padded = bool(padded_columns(teacher, dataset))

    @cached_property
    def network(self) -> nn.Module:
        """On its device, in eval mode."""
        network = self.make().to(self.device).eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last) if self.passes.channels_last else network

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one example as the data set has them."""
        from capmismatch.architectures import count_macs

        batch = self._prepared(self.dataset.inputs[:1])
        rows = batch.shape[1] if isinstance(self.dataset.inputs, TokenInputs) else 1  # a pass serves all of a window
        try:
            return count_macs(self.network, tuple(batch.shape[1:])) // rows
        except Exception:
            with torch.inference_mode():
                logits_of(self.network, batch, self.key, self._data)  # the error that names teacher, data and shape
            raise

    def __call__(self, low: int, high: int) -> NDArray[Any]:
        """Logits of the rows from `low` up to `high`."""
        return self._in_classes(np.concatenate([self.rows(*some).cpu().numpy() for some in self._batches(low, high)]))

    def with_features(self, low: int, high: int) -> tuple[NDArray[Any], NDArray[np.float16]]:
        """Logits and features of the rows from `low` up to `high`, from the same passes; these as a bank keeps them."""
        logits, features, place = [], [], f"teacher {self.key} on {self.dataset.name!r}"
        with FeatureTap(self.network, self.feature_layer, self.key) as tap:
            for some in self._batches(low, high):
                raw = self.dataset.inputs[slice(*some)]
                logits.append(self._passed(raw).cpu().numpy())
                features.append(half_rows(tap.rows(raw), place, some[0]))
        return self._in_classes(np.concatenate(logits)), np.concatenate(features)

    def _batches(self, low: int, high: int) -> list[tuple[int, int]]:
        step = self.passes.batch_size
        return [(start, min(start + step, high)) for start in range(low, high, step)]

    def _in_classes(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Logits in the order of the data's classes."""
        if self.columns is None or logits.ndim != 2:
            return logits
        if logits.shape[1] != self.outputs:
            raise InputError(
                f"expected {self.outputs} logits, as many as teacher {self.key} names classes, got {logits.shape[1]}"
            )
        return np.ascontiguousarray(logits[:, self.columns])

    def rows(self, low: int, high: int) -> Tensor:
        """Logits of rows, in one pass, on the network's device; columns in the network's order, without padding."""
        return self._passed(self.dataset.inputs[low:high])

    def _passed(self, raw: Any) -> Tensor:
        network = self.network  # it may be trained when it is made
        with torch.inference_mode(), self.passes.precision():
            logits = at_rows(logits_of(network, self._prepared(raw), self.key, self._data), raw, self.key, self._data)
            tokens = len(self.dataset.classes)
            return without_padding(logits, tokens, self.key, self._data) if self.is_padded else logits

    @property
    def _data(self) -> str:
        return f"data set {self.dataset.name!r}"

    def _prepared(self, raw: Any) -> Tensor:
        batch = prepared(self.prepare, raw, self.key, self._data).to(self.device)
        if self.passes.channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch


class SavedRunner:
    """Saved logits, put into the data set's order of rows by example id, and of columns by class name; and features."""

    macs = None

    def __init__(self, teacher: Teacher, dataset: Dataset) -> None:
        assert teacher.saved is not None
        saved_rows, logits = teacher.saved()
        self.teacher, self.index = teacher, np.arange(len(dataset.rows.ids))
        if saved_rows.fingerprint == dataset.rows.fingerprint:
            self.logits = logits
            return
        matched = match_classes(saved_rows.classes, dataset.classes, f"the saved logits of teacher {teacher.key}")
        columns = np.arange(len(dataset.classes)) if matched is None else matched
        index = rows_by_id(saved_rows, teacher, dataset)
        _check_labels(saved_rows, index, columns, teacher, dataset)
        self.logits, self.index = logits[index][:, columns], index

    def __call__(self, low: int, high: int) -> NDArray[Any]:
        """Logits of the rows from `low` up to `high`."""
        return np.asarray(self.logits[low:high])

    def with_features(self, low: int, high: int) -> tuple[NDArray[Any], NDArray[np.float16]]:
        """Logits and saved features of the rows from `low` up to `high`."""
        assert self.teacher.saved_features is not None
        features = self.teacher.saved_features()
        if features.record.layer != self.teacher.feature_layer:
            raise InputError(
                f"the saved features of teacher {self.teacher.key} are of feature_layer {features.record.layer!r}, not "
                f"{self.teacher.feature_layer!r}"
            )
        return self(low, high), features.take(self.index[low:high])


def rows_by_id(saved: Rows, teacher: Teacher, dataset: Dataset) -> NDArray[np.int64]:
    """The row of each example of the data set among the saved ones."""
    own, wanted = _distinct_ids(saved.ids), _distinct_ids(dataset.rows.ids)
    row_of = {identity: row for row, identity in enumerate(own)}
    missing = next((identity for identity in wanted if identity not in row_of), None)
    if missing is not None:
        raise InputError(
            f"teacher {teacher.key} has no saved logits for example {str(missing)!r} of data set {dataset.name!r}"
        )
    return np.array([row_of[identity] for identity in wanted])


def _distinct_ids(ids: NDArray[np.str_]) -> list[str]:
    """The ids in Unicode's composed form, as file systems differ in it; as they are where two become one."""
    composed_ids = list(map(composed, ids.tolist()))
    return composed_ids if len(set(composed_ids)) == len(composed_ids) else ids.tolist()


def _check_labels(
    saved: Rows, index: NDArray[np.int64], columns: NDArray[np.int64], teacher: Teacher, dataset: Dataset
) -> None:
    """Raise where an example's saved label is another one than in the data set."""
    name_of = {column: dataset.classes[label] for label, column in enumerate(columns.tolist())}
    saved_labels = saved.labels[index]
    differs = np.flatnonzero(saved_labels != columns[dataset.labels])
    if len(differs):
        row = int(differs[0])
        column = int(saved_labels[row])
        raise InputError(
            f"expected the labels of {dataset.name!r}, got {name_of.get(column, saved.classes[column])!r} with the "
            f"saved logits of {teacher.key} and {dataset.classes[dataset.labels[row]]!r} in the data set at example "
            f"{str(dataset.rows.ids[row])!r}"
        )
