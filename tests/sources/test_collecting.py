"""Filling a bank: nothing is lost when killed, nothing is mixed, nothing wrong goes in."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn

import capmismatch.sources.collecting as SELF
from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import Dataset
from capmismatch.data.rows import make_rows
from capmismatch.errors import BankError, CapmismatchError, InputError
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import Family, Teacher

ROWS, FEATURES, CLASSES = 50, 6, 4


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SELF, "SHARD_ROWS", 8)


def dataset(rows: int = ROWS, seed: int = 0) -> Dataset:
    draws = np.random.default_rng(seed)
    inputs = draws.normal(size=(rows, FEATURES)).astype(np.float32)
    labels = np.concatenate([np.arange(CLASSES), draws.integers(0, CLASSES, rows - CLASSES)])
    split = np.where(np.arange(rows) % 2, "val", "test")
    return Dataset(make_rows("fake", labels, list("abcd"), split=split, inputs_hash=str(seed)), inputs)


def linear(seed: int = 0, classes: int = CLASSES) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        return nn.Sequential(first, nn.Linear(8, classes))


def teacher(name: str = "small", seed: int = 0, **fields: Any) -> Teacher:
    given: dict[str, Any] = {"module": lambda: linear(seed), "params": 100 + seed, "weights_hash": f"w{seed}"}
    return Teacher("fake", name, source="test", preprocessing="none", prepare=torch.as_tensor, **(given | fields))


def gives(logits: NDArray[Any] | None = None, output: Any = None, name: str = "odd") -> Teacher:
    """A teacher whose network gives, for a batch of rows, the same rows of an array; or some other object."""

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            if output is not None:
                return output(x)
            data = dataset()
            rows = [int(np.flatnonzero((data.inputs == row.numpy()).all(1))[0]) if row.any() else 0 for row in x]
            assert logits is not None
            return torch.as_tensor(logits[rows])

    return teacher(name, module=Network)


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def quietly(*teachers: Teacher, to: Path, data: Dataset | None = None, **options: Any) -> LogitBank:
    return collect(Family(teachers), data or dataset(), to, progress=False, **options)


# --- what is collected -----------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_network_in_eval_mode(tmp_path: Path) -> None:
    data = dataset()
    bank = quietly(teacher("small", 0), teacher("large", 1), to=tmp_path, batch_size=7)
    for seed, key in enumerate(["fake/small", "fake/large"]):
        network = linear(seed).eval()
        with torch.no_grad():
            wanted = network(torch.from_numpy(data.inputs)).numpy()
        np.testing.assert_allclose(bank.logits(key), wanted, atol=1e-6)
        assert bank[key].accuracy == pytest.approx((wanted.argmax(1) == data.labels).mean())
        assert bank[key].macs == FEATURES * 8 + 8 * CLASSES
        assert bank[key].params == 100 + seed


def test_a_network_handed_over_in_training_mode_is_not_trained_by_looking(tmp_path: Path) -> None:
    network = linear().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    bank = quietly(teacher(module=lambda: network), to=tmp_path / "a", batch_size=3)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key])
    again = quietly(teacher(module=lambda: network.train()), to=tmp_path / "b", batch_size=50)
    np.testing.assert_allclose(bank.logits("fake/small"), again.logits("fake/small"), atol=1e-6)


def test_the_same_bytes_twice_and_a_second_time_without_work(tmp_path: Path) -> None:
    for name in "ab":
        quietly(teacher(), teacher("large", 1), to=tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    before = contents(tmp_path / "a")

    def refuse() -> nn.Module:
        raise AssertionError("a collected teacher must not be made again")

    quietly(teacher(module=refuse), teacher("large", 1, module=refuse), to=tmp_path / "a")
    assert contents(tmp_path / "a") == before
    assert len(before) == 4


def test_half_precision(tmp_path: Path) -> None:
    bank = quietly(teacher(), to=tmp_path / "half", dtype="float16")
    whole = quietly(teacher(), to=tmp_path / "whole")
    assert bank.logits("fake/small").dtype == np.float16
    np.testing.assert_array_equal(bank.logits("fake/small"), whole.logits("fake/small").astype(np.float16))


def test_a_teacher_added_later_leaves_the_others_alone(tmp_path: Path) -> None:
    quietly(teacher("small", 0), to=tmp_path)
    before = contents(tmp_path)
    bank = quietly(teacher("large", 1), to=tmp_path)
    assert bank.keys == ["fake/small", "fake/large"]
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"weights_hash": "new"}, {}, r"logits.safetensors was collected with weights 'w0', now given 'new'"),
        ({"preprocessing": "other"}, {}, "was collected with preprocessing 'none', now given 'other': give"),
        ({}, {"dtype": "float16"}, "was collected with dtype 'float32', now given 'float16'"),
    ],
)
def test_another_teacher_under_the_same_name_is_refused(
    tmp_path: Path, changed: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    quietly(teacher(), to=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BankError, match=message):
        quietly(replace(teacher(), **changed), to=tmp_path, **options)
    assert contents(tmp_path) == before


def test_another_data_set_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    quietly(teacher(), to=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BankError, match="holds a bank of data set 'fake' with fingerprint"):
        quietly(teacher(), to=tmp_path, data=dataset(seed=1))
    assert contents(tmp_path) == before


def spoiled(value: float) -> NDArray[Any]:
    logits = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32)
    logits[21, 2] = value
    return logits


@pytest.mark.parametrize(
    ("odd", "dtype", "message"),
    [
        (
            gives(spoiled(np.nan)),
            "float32",
            "expected finite logits, got nan at row 21, class 2 of teacher fake/odd on 'fake'",
        ),
        (gives(spoiled(-np.inf)), "float32", "got -inf at row 21, class 2 of teacher fake/odd"),
        (
            gives(spoiled(1e5)),
            "float16",
            "expected logits that float16 can hold, got 100000 at row 21, class 2 of teacher fake/odd on 'fake'",
        ),
        (
            teacher("odd", module=lambda: linear(0, 5)),
            "float32",
            "expected 4 classes, as data set 'fake' has, got 5 from teacher fake/odd",
        ),
        (
            gives(output=lambda x: x[:-1, :CLASSES] if len(x) > 1 else x[:, :CLASSES]),
            "float32",
            r"expected logits of shape \(8, 4\), got \(7, 4\) from teacher fake/odd on rows 0 to 7",
        ),
        (gives(output=lambda x: x[:, :CLASSES, None]), "float32", r"got \(8, 4, 1\) from teacher fake/odd"),
        (gives(output=lambda x: {"logits": x}), "float32", "expected a tensor of logits from .* fake/odd, got dict"),
        (teacher("odd", module=None), "float32", "teacher fake/odd has neither a network nor saved logits"),
    ],
    ids=["nan", "inf", "overflow", "classes", "rows", "dimensions", "kind", "nothing"],
)
@pytest.mark.filterwarnings("error")
def test_a_teacher_gone_wrong_is_named_and_the_bank_stays_usable(
    tmp_path: Path, odd: Teacher, dtype: str, message: str
) -> None:
    good = teacher()
    with pytest.raises(InputError, match=message):
        quietly(good, odd, to=tmp_path, dtype=dtype)
    bank = LogitBank(tmp_path)
    bank.verify()
    assert bank.keys == ["fake/small"]
    assert not list(tmp_path.rglob(".tmp-*"))
    mended = teacher("odd", 1, weights_hash="mended")
    assert quietly(good, mended, to=tmp_path / "new").keys == ["fake/small", "fake/odd"]


def test_shards_of_other_weights_are_not_mixed_in(tmp_path: Path) -> None:
    """Killed half way, then started again after the checkpoint was overwritten by a later epoch."""
    with pytest.raises(InputError, match="row 21"):
        quietly(gives(spoiled(np.nan), name="small"), to=tmp_path)
    shards = contents(tmp_path)
    assert sum("shard" in name for name in shards) == 2
    with pytest.raises(BankError, match=r"shard-00000.safetensors was collected with other weights.* remove .*small"):
        quietly(teacher(weights_hash="later epoch"), to=tmp_path)
    assert contents(tmp_path) == shards
    shutil.rmtree(tmp_path / "fake" / "small")
    quietly(teacher(weights_hash="later epoch"), to=tmp_path).verify()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_collected_again(tmp_path: Path, damage: str) -> None:
    whole = quietly(gives(spoiled(0.0), name="small"), to=tmp_path / "whole")
    with pytest.raises(InputError, match="row 21"):
        quietly(gives(spoiled(np.nan), name="small"), to=tmp_path / "a")
    shard = tmp_path / "a" / "fake" / "small" / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    if damage == "remove":
        shard.unlink()
    else:
        shard.write_bytes(bytes(data) if damage == "flip" else bytes(data[:40]))
    quietly(gives(spoiled(0.0), name="small"), to=tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    whole.verify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, r"dtype must be one of .*'float32'.*, not 'float64'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"autocast": "fp8"}, r"autocast must be one of \['bfloat16', 'float16'\], not 'fp8'"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here: "),
    ],
)
def test_option_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quietly(teacher(), to=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_only_saved_logits_bring_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a data set: only saved logits bring their own"):
        collect(Family([teacher()]), None, tmp_path / "new", progress=False)


# --- saved logits ----------------------------------------------------------------------------------------------------


def saved(data: Dataset, logits: NDArray[Any], **changes: Any) -> Teacher:
    fields: dict[str, Any] = {"labels": data.labels, "classes": data.classes, "ids": data.rows.ids, "name": "saved"}
    rows = make_rows(**(fields | changes))
    return Teacher("saved", "t", weights_hash="w", saved=lambda: (rows, logits))


def test_saved_logits_are_matched_by_id_and_class_name(tmp_path: Path) -> None:
    data, logits = dataset(), np.random.default_rng(1).normal(size=(ROWS, CLASSES)).astype(np.float32)
    order = np.random.default_rng(2).permutation(ROWS)
    shuffled = saved(data, logits[order], labels=data.labels[order], ids=data.rows.ids[order])
    assert np.array_equal(quietly(shuffled, to=tmp_path / "rows", data=data).logits("saved/t"), logits)
    columns = [2, 0, 3, 1]
    names = [data.classes[c] for c in columns]
    labels = np.array([names.index(data.classes[y]) for y in data.labels])
    other = saved(data, logits[:, columns], labels=labels, classes=names)
    assert np.array_equal(quietly(other, to=tmp_path / "classes", data=data).logits("saved/t"), logits)
    more = saved(data, logits, classes=list("0123"))  # without names: numbers stand for names
    assert np.array_equal(quietly(more, to=tmp_path / "numbers", data=data.part("val")).logits("saved/t"), logits[1::2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [f"x{i}" for i in range(ROWS)]}, "saved/t has no saved logits for example '0' of data set 'fake'"),
        ({"classes": list("abcx")}, r"it has no 'd'"),
        ({"labels": np.roll(dataset().labels, 1)}, "expected the labels of 'fake', got '.' with the saved logits of"),
        ({"classes": list("badc")}, "expected the labels of 'fake', got 'b' .* and 'a' in the data set at example '0'"),
    ],
)
def test_saved_logits_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    data = dataset()
    with pytest.raises(InputError, match=message):
        quietly(saved(data, np.zeros((ROWS, CLASSES), np.float32), **changes), to=tmp_path, data=data)
    assert LogitBank(tmp_path).keys == []


# --- a disk that does not take it ------------------------------------------------------------------------------------


def test_full_disk_keeps_finished_shards_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_bytes, []

    def write_until_full(self: Path, data: bytes) -> int:
        if "shard" in self.name:
            if len(written) == 3:
                write(self, data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(self.name)
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_until_full)
        with pytest.raises(CapmismatchError, match=r"cannot write .*shard-00003.safetensors: .*No space left on dev"):
            quietly(teacher(), to=tmp_path / "a")
    home = tmp_path / "a" / "fake" / "small"
    assert sorted(f.name for f in home.iterdir()) == [".lock", *(f"shard-0000{i}.safetensors" for i in range(3))]
    assert LogitBank(tmp_path / "a").keys == []
    quietly(teacher(), to=tmp_path / "a")
    quietly(teacher(), to=tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("a file")
    with pytest.raises(CapmismatchError, match=r"cannot make the folder .*bank: File exists"):
        quietly(teacher(), to=tmp_path / "bank")
    assert (tmp_path / "bank").read_text() == "a file"


def test_a_finished_bank_needs_no_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quietly(teacher(), to=tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("capmismatch._utils.files.FileLock.acquire", refuse)
    assert quietly(teacher(), to=tmp_path).keys == ["fake/small"]
    with pytest.raises(CapmismatchError, match=r"cannot make the folder .*: Permission denied"):
        quietly(teacher("large", 1), to=tmp_path)


# --- kills and company -----------------------------------------------------------------------------------------------


class Slow(nn.Module):
    """A network that takes its time, and writes a line into a log for each batch."""

    def __init__(self, seed: int, pause: float, log: Path) -> None:
        super().__init__()
        self.inner, self.pause, self.log = linear(seed), pause, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:  # not while operations are counted
            with open(self.log, "a") as file:
                file.write("batch\n")
            time.sleep(self.pause)
        return self.inner(x)


def start(folder: Path, pause: float = 0.02, names: tuple[str, ...] = ("small", "large")) -> int:
    """Collect in a process of its own; returns its number. (A fork: it need not import torch again.)"""
    log = folder.with_suffix(".log")
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(100)  # should it ever hang, it does not outlive the test
        seeds = {"small": 0, "large": 1}
        slow = [teacher(name, seeds[name], module=partial(Slow, seeds[name], pause, log)) for name in names]
        quietly(*slow, to=folder, batch_size=4)
        status = 0
    finally:
        os._exit(status)


def killed_often(folder: Path, kills: int, seed: int) -> None:
    draws = random.Random(seed)
    whole, broken = folder / "whole", folder / "broken"
    quietly(teacher("small", 0), teacher("large", 1), to=whole, batch_size=4)
    met = set()
    for _ in range(kills):
        child = start(broken)
        time.sleep(draws.random() * 0.4)
        os.kill(child, signal.SIGKILL)
        met.add(os.WIFSIGNALED(os.waitpid(child, 0)[1]))
        if (broken / "bank.json").exists():
            LogitBank(broken).verify()  # at every moment what is there is whole
        if (broken / "fake" / "large" / "logits.safetensors").exists():
            shutil.rmtree(broken)
    assert True in met
    quietly(teacher("small", 0), teacher("large", 1), to=broken, batch_size=4)
    assert contents(broken) == contents(whole)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    killed_often(tmp_path, 10, seed=0)


@pytest.mark.slow
def test_killed_at_other_moments(tmp_path: Path) -> None:
    killed_often(tmp_path, 25, seed=1)


@pytest.mark.parametrize("moment", ["last shard written", "joined", "half joined"])
def test_killed_around_the_end(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quietly(teacher(), to=tmp_path / "whole")
    home = tmp_path / "a" / "fake" / "small"
    if moment == "last shard written":
        monkeypatch.setattr(SELF, "join_shards", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    elif moment == "joined":
        place = "capmismatch.data.bank_files.remove_shards"
        monkeypatch.setattr(place, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    else:
        monkeypatch.setattr("capmismatch._utils.files.os.fsync", fsync_that_kills_at("logits"))
    child = os.fork()
    if child == 0:
        try:
            quietly(teacher(), to=tmp_path / "a")
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    monkeypatch.undo()
    monkeypatch.setattr(SELF, "SHARD_ROWS", 8)
    assert len(list(home.glob("shard-*"))) == 7
    quietly(teacher(), to=tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def fsync_that_kills_at(name: str) -> Any:
    real = os.fsync

    def fsync(number: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{number}"):
            os.kill(os.getpid(), signal.SIGKILL)
        real(number)

    return fsync


@pytest.mark.parametrize("names", [(["small"], ["large"]), (["small", "large"],) * 2], ids=["apart", "the same"])
def test_two_processes_share_a_bank(tmp_path: Path, names: tuple[tuple[str, ...], ...]) -> None:
    children = [start(tmp_path / "a", 0.005, name) for name in names]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    batches = (tmp_path / "a.log").read_text().splitlines()
    assert len(batches) == 2 * 13  # 6 shards of 8 rows and one of 2, in batches of 4: each teacher ran once
    bank = LogitBank(tmp_path / "a")
    bank.verify()
    whole = quietly(teacher("small", 0), teacher("large", 1), to=tmp_path / "whole", batch_size=4)
    for key in whole.keys:
        np.testing.assert_array_equal(bank.logits(key), whole.logits(key))


# --- how networks are run, and what their classes are called ---------------------------------------------------------


class Convolutions(nn.Module):
    """Takes images, and says in which memory layout and precision it was given them."""

    seen: ClassVar[list[tuple[bool, torch.dtype]]] = []

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        Convolutions.seen.append((x.is_contiguous(memory_format=torch.channels_last), hidden.dtype))
        return self.last(hidden.relu().mean((2, 3)))


def pictures() -> Dataset:
    inputs = np.random.default_rng(0).normal(size=(ROWS, 3, 6, 6)).astype(np.float32)
    return Dataset(make_rows("pictures", np.arange(ROWS) % CLASSES, list("abcd"), inputs_hash="p"), inputs)


@pytest.mark.parametrize(
    ("options", "recorded", "dtype"),
    [
        ({"autocast": "bfloat16"}, "autocast bfloat16", torch.bfloat16),
        ({"channels_last": True}, "channels_last", torch.float32),
        ({"autocast": "float16", "channels_last": True}, "autocast float16, channels_last", torch.float16),
    ],
)
def test_options_reach_the_network_and_are_recorded(
    tmp_path: Path, options: dict[str, Any], recorded: str, dtype: torch.dtype
) -> None:
    plain = quietly(teacher(module=Convolutions), to=tmp_path / "plain", data=pictures())
    assert plain["fake/small"].options == ""
    Convolutions.seen.clear()
    bank = quietly(teacher(module=Convolutions), to=tmp_path / "a", data=pictures(), **options)
    assert Convolutions.seen[-1] == (options.get("channels_last", False), dtype)
    assert LogitBank(tmp_path / "a")["fake/small"].options == recorded
    assert recorded in repr(bank)
    np.testing.assert_allclose(bank.logits("fake/small"), plain.logits("fake/small"), atol=2e-2)
    before = contents(tmp_path / "plain")
    with pytest.raises(BankError, match=rf"was collected with options '', now given '{recorded}'"):
        quietly(teacher(module=Convolutions), to=tmp_path / "plain", data=pictures(), **options)
    assert contents(tmp_path / "plain") == before


def test_shards_of_other_options_are_not_mixed_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 21"):
        quietly(gives(spoiled(np.nan), name="small"), to=tmp_path)
    with pytest.raises(BankError, match=r"shard-00000.safetensors was collected with other weights, preprocessing"):
        quietly(gives(spoiled(0.0), name="small"), to=tmp_path, channels_last=True)


def test_plain_passes_leave_no_trace_in_the_file(tmp_path: Path) -> None:
    """Banks collected before there were options have the same bytes."""
    quietly(teacher(), to=tmp_path)
    with safe_open(tmp_path / "fake" / "small" / "logits.safetensors", "np") as file:
        said = set(json.loads(file.metadata()["capmismatch"]))
    assert not said & {"options", "published", "findings"}


def named(classes: tuple[str, ...] | None, outputs: int | None = None) -> Teacher:
    count = outputs or (len(classes) if classes else CLASSES)
    return teacher(module=partial(linear, 0, count), classes=classes)


@pytest.mark.parametrize(
    ("classes", "columns"),
    [
        (("c", "a", "d", "b"), [1, 3, 0, 2]),
        (("background", "a", "b", "c", "d"), [1, 2, 3, 4]),
        (("d", "Background", "c", "b", "a"), [4, 3, 2, 0]),
    ],
)
def test_columns_are_mapped_by_class_name(tmp_path: Path, classes: tuple[str, ...], columns: list[int]) -> None:
    data = dataset()
    with pytest.warns(UserWarning, match="CM001 class order differs: teacher fake/small: its columns"):
        bank = quietly(named(classes), to=tmp_path)
    with torch.no_grad():
        raw = linear(0, len(classes)).eval()(torch.from_numpy(data.inputs)).numpy()
    np.testing.assert_allclose(bank.logits("fake/small"), raw[:, columns], atol=1e-6)
    assert bank["fake/small"].findings == "CM001"
    assert "CM001" in bank._repr_html_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once, when it is collected
        quietly(named(classes), to=tmp_path)
    with pytest.raises(BankError, match="was collected with options 'columns "):
        quietly(named(None, len(classes)), to=tmp_path)


def test_an_order_on_trust_is_said(tmp_path: Path) -> None:
    data = replace(dataset(), doubt="taken as text; timm sorts them otherwise")
    with pytest.warns(UserWarning, match="CM017 class order not verified: teacher fake/small"):
        bank = quietly(named(None), to=tmp_path / "doubt", data=data)
    assert bank["fake/small"].findings == "CM017"
    known = {"by position": replace(named(None), by_position=True), "names": named(("a", "b", "c", "d"))}
    for name, given in known.items():
        assert quietly(given, to=tmp_path / name, data=data)["fake/small"].findings == ""
    ordered = data.with_classes(["d", "c", "b", "a"])
    assert quietly(named(None), to=tmp_path / "ordered", data=ordered)["fake/small"].findings == ""


def test_the_same_names_are_no_finding(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bank = quietly(named(("a", "B", "c, sea", "d")), to=tmp_path)
    assert bank["fake/small"].findings == ""


def test_names_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classes \['a', 'b', 'c', 'x'\] of teacher .*no 'd'.*by_position"):
        quietly(named(("a", "b", "c", "x")), to=tmp_path)
    with pytest.raises(InputError, match="expected 4 classes, as the data set has, got 3 from teacher fake/small"):
        quietly(named(("a", "b", "c")), to=tmp_path)
    with pytest.raises(InputError, match="expected 4 logits, as many as teacher fake/small names classes, got 7"):
        quietly(named(("d", "c", "b", "a"), 7), to=tmp_path)


def published(claim: float, on: str = "fake") -> Teacher:
    return replace(teacher(), published=claim, published_on=on)


def test_an_accuracy_far_from_the_published_one_is_a_finding(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"CM002 .*: teacher fake/small: 0\.\d+ on 'fake', published 0.99"):
        bank = quietly(published(0.99), to=tmp_path / "far")
    assert LogitBank(tmp_path / "far")["fake/small"].findings == "CM002"
    assert bank["fake/small"].published == 0.99
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = quietly(published(bank["fake/small"].accuracy + 0.01), to=tmp_path / "near")
        other = quietly(published(0.99, "ImageNet-1K"), to=tmp_path / "other")
        off = quietly(published(0.99), to=tmp_path / "off", check_published=False)
    assert [b["fake/small"].findings for b in (near, other, off)] == [""] * 3
    with pytest.warns(UserWarning, match="CM002"):
        quietly(published(0.99, "ImageNet-1K"), to=tmp_path / "asked", check_published=True)
