"""Logits of several networks in one pass over the data, into a bank in memory: no folder, nothing is kept.

Each batch is read once and prepared once for all networks that prepare alike. Networks stay where they are (device,
weights, gradients); they run in eval mode, and are put back into theirs afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from capmismatch._utils.progress import progress_bar
from capmismatch.data.bank import LogitBank, bank_in_memory
from capmismatch.data.datasets import Dataset
from capmismatch.data.logit_checks import NOT_LOGITS, looks_like
from capmismatch.data.records import TeacherRecord
from capmismatch.data.rows import Rows, check_logits, label_array, make_rows, numbered_classes
from capmismatch.data.token_inputs import TokenBatch
from capmismatch.errors import InputError
from capmismatch.findings import explain, join_codes
from capmismatch.sources._networks import at_rows, logits_of, prepared
from capmismatch.sources.families import Family, Teacher
from capmismatch.sources.modules import InMemory, load
from capmismatch.sources.runners import SavedRunner, columns_of
from capmismatch.training.prepare import Normalise

LABELS = ("labels", "label", "targets", "target", "y")
"""Names of the labels in batches that are mappings."""


def collect_in_memory(family: Family, dataset: Dataset, *, batch_size: int = 256, progress: bool = True) -> LogitBank:
    """Run the teachers of a family on the rows of a data set, in one pass, into a bank in memory.

    Parameters
    ----------
    family : Family
        From `load_family`; teachers with saved logits bring these.
    dataset : Dataset
        From `load_dataset`.
    batch_size : int
        Rows per forward pass.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    LogitBank
        In memory.

    Raises
    ------
    InputError
        Where a network does not take the inputs, or gives other than finite logits of all classes.
    """
    rows, place = dataset.rows, f"data set {dataset.name!r}"
    running = [teacher for teacher in family if teacher.saved is None]
    logits = {teacher.key: SavedRunner(teacher, dataset)(0, len(dataset)) for teacher in family if teacher.saved}
    networks = {teacher.key: _network(teacher) for teacher in running}
    parts: dict[str, list[NDArray[Any]]] = {key: [] for key in networks}
    starts = range(0, len(dataset) if running else 0, batch_size)
    with (
        _evaluating(networks.values()),
        torch.inference_mode(),
        progress_bar(starts, desc="collect", show=progress, unit="batch") as bar,
    ):
        for start in bar:
            raw = dataset.inputs[start : start + batch_size]
            ready: dict[int, Tensor] = {}  # by how they are prepared
            for teacher in running:
                how = id(teacher.prepare)
                if how not in ready:
                    assert teacher.prepare is not None
                    ready[how] = prepared(teacher.prepare, raw, teacher.key, place)
                logits_now = _logits(networks[teacher.key], ready[how], teacher, rows.name)
                parts[teacher.key].append(at_rows(logits_now, raw, teacher.key, place).numpy())
    logits |= {key: np.concatenate(batches) for key, batches in parts.items()}
    opened = []
    for order, teacher in enumerate(family):
        values, columns = logits[teacher.key], columns_of(teacher, dataset)
        values = values if columns is None else values[:, columns]
        opened.append(as_bank_entry(teacher, order, values, rows, unprepared(teacher, dataset)))
    _warn_of_unprepared([record for record, _ in opened])
    return bank_in_memory(rows, opened)


def as_bank_entry(
    teacher: Teacher, order: int, logits: NDArray[Any], rows: Rows, findings: str = ""
) -> tuple[TeacherRecord, NDArray[Any]]:
    """A teacher's logits (N, C) on some rows with what is known of it, for `bank_in_memory`."""
    return _opened(replace(_record(teacher, order), findings=findings), logits, rows)


def unprepared(teacher: Teacher, dataset: Dataset) -> str:
    """CM036 where a network gets images as they are, in [0, 1], without a mean and a deviation of its own; else ""."""
    sample = dataset.inputs[:1]
    if isinstance(sample, TokenBatch):
        return ""
    is_image = isinstance(sample, list) or (sample.ndim == 4 and sample.dtype == np.uint8)
    plain = isinstance(teacher.prepare, Normalise) and teacher.prepare.mean is None
    return "CM036" if is_image and plain else ""


def _warn_of_unprepared(records: Sequence[TeacherRecord]) -> None:
    named = [record.key for record in records if "CM036" in record.findings]
    if named:
        warnings.warn(
            f"CM036 {explain('CM036').title}: {', '.join(named[:6])}{' ...' if len(named) > 6 else ''}; "
            "cm.load_family(networks, mean=[...], std=[...]) says how images are normalised",
            stacklevel=6,
        )


def run_on_batches(
    networks: Mapping[str, nn.Module], batches: Iterable[Any], *, family: str = "modules", progress: bool = True
) -> LogitBank:
    """Run networks on the batches of a loader as they come, in one pass, into a bank in memory.

    Parameters
    ----------
    networks : mapping of str to torch.nn.Module
        Each teacher's name and its network.
    batches : iterable
        Pairs of inputs and labels, or mappings with "labels", as a `torch.utils.data.DataLoader` gives them: handed to
        the networks as they are.
    family : str
        Name of the family.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    LogitBank
        In memory. Ids count the examples in the order in which they came.

    Raises
    ------
    InputError
        Where a batch holds no labels, or a network does not take it, or gives other than finite logits.
    """
    teachers = [replace(teacher, family=family) for teacher in load(networks)[0]]
    ordered = {teacher.name: network for teacher, network in zip(teachers, networks.values(), strict=True)}
    source = getattr(batches, "dataset", batches)
    name = type(source).__name__
    if isinstance(getattr(batches, "sampler", None), RandomSampler):
        warnings.warn(
            "the loader shuffles: the examples are numbered in the order in which they came this time, so that soft "
            "labels cannot be found by their place in the data set; give a loader with shuffle=False for these",
            stacklevel=4,
        )
    labels: list[NDArray[Any]] = []
    parts: dict[str, list[NDArray[Any]]] = {teacher.name: [] for teacher in teachers}
    total = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
    with (
        _evaluating(ordered.values()),
        torch.inference_mode(),
        progress_bar(batches, desc="collect", show=progress, unit="batch", total=total) as bar,
    ):
        for number, batch in enumerate(bar):
            inputs, of_batch = _inputs_and_labels(batch, number)
            labels.append(label_array(of_batch, f"labels of batch {number}"))
            for teacher in teachers:
                parts[teacher.name].append(_logits(ordered[teacher.name], inputs, teacher, name).numpy())
    if not labels:
        raise InputError("expected batches of inputs and labels, got none: is the loader used up?")
    all_labels = np.concatenate(labels)
    width = parts[teachers[0].name][0].shape[-1]
    classes = getattr(source, "classes", None)
    known = [str(one) for one in classes] if classes is not None and len(classes) == width else None
    rows = make_rows(name, all_labels, known or _numbered(all_labels, width))
    opened = []
    for order, teacher in enumerate(teachers):
        record = replace(_record(teacher, order), preprocessing="the loader's")
        opened.append(_opened(record, np.concatenate(parts[teacher.name]), rows))
    return bank_in_memory(rows, opened)


def _numbered(labels: NDArray[Any], width: int) -> Sequence[str]:
    return [str(column) for column in range(max(width, len(numbered_classes(labels, "labels of the loader"))))]


def _inputs_and_labels(batch: Any, number: int) -> tuple[Any, Any]:
    """Inputs and labels of a batch: of a pair, or of a mapping as tokenisers make it."""
    if isinstance(batch, Mapping):
        key = next((name for name in LABELS if name in batch), None)
        if key is not None:
            return {name: value for name, value in batch.items() if name != key}, batch[key]
        raise InputError(f"expected labels under one of {list(LABELS)} in batch {number}, got the keys {list(batch)}")
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and len(batch) >= 2:
        return (batch[0] if len(batch) == 2 else list(batch[:-1])), batch[-1]
    raise InputError(f"expected a pair of inputs and labels as batch {number}, got {type(batch).__name__}")


def is_loader(data: Any) -> bool:
    """Whether an object gives batches: a `DataLoader`, a generator, or the like; data sets give single examples.

    Examples
    --------
    >>> is_loader(DataLoader([(0.0, 1)])), is_loader([(0.0, 1)]), is_loader(iter([]))
    (True, False, True)
    """
    if isinstance(data, DataLoader):
        return True
    return hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def _network(teacher: Teacher) -> nn.Module:
    """The network itself where it is in memory, so that nothing is copied; else as its source makes it."""
    if teacher.module is None:
        raise InputError(f"teacher {teacher.key} has neither a network nor saved logits")
    return teacher.module.network if isinstance(teacher.module, InMemory) else teacher.module()


@contextmanager
def _evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """All networks in eval mode, and each part of them as it was afterwards."""
    modes = [(part, part.training) for network in networks for part in network.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training


def _logits(network: nn.Module, inputs: Any, teacher: Teacher, data: str) -> Tensor:
    """Logits of a batch, float32, by the network's own device; outputs may be an object with `logits`."""
    device = next((values.device for values in network.parameters()), torch.device("cpu"))
    return logits_of(partial(_called, network), _moved(inputs, device), teacher.key, f"data set {data!r}").cpu()


def _called(network: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        outputs = network(**inputs)
    else:
        outputs = network(*inputs) if isinstance(inputs, list) else network(inputs)
    return getattr(outputs, "logits", outputs)


def _moved(inputs: Any, device: torch.device) -> Any:
    """Inputs on a device: a tensor, a list of several, or a mapping of named ones."""
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [_moved(value, device) for value in inputs]
    return torch.as_tensor(inputs).to(device)


def _record(teacher: Teacher, order: int) -> TeacherRecord:
    """What is known of a teacher before its logits are there."""
    return TeacherRecord(
        family=teacher.family,
        teacher=teacher.name,
        seed=teacher.seed,
        params=teacher.params,
        macs=teacher.macs,
        source=teacher.source,
        weights_hash=teacher.weights_hash,
        preprocessing=teacher.preprocessing,
        order=order,
        built_by=teacher.built_by,
        role=teacher.role,
    )


def _opened(record: TeacherRecord, logits: NDArray[Any], rows: Rows) -> tuple[TeacherRecord, NDArray[Any]]:
    """A teacher's logits, checked, with its record of what they are."""
    check_logits(logits, rows, f"teacher {record.key}")
    codes = record.findings.split(",")
    kind = looks_like(logits)
    if kind in NOT_LOGITS:
        warnings.warn(f"CM016 {explain('CM016').title}: teacher {record.key} gives {kind}", stacklevel=5)
        codes.append("CM016")
    correct = int((logits.argmax(1) == rows.labels).sum())
    found = replace(record, dtype=str(logits.dtype), findings=join_codes(filter(None, codes)))
    return found.with_accuracy(correct, len(rows.labels)), logits
