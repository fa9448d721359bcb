"""The logit bank: what was put in comes out, and nothing damaged does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from capmismatch.data import bank_files
from capmismatch.data.bank import LogitBank, bank_from_arrays
from capmismatch.data.bank_files import create, join_shards, write_shard
from capmismatch.data.records import TeacherRecord, teacher_key
from capmismatch.data.rows import Rows, make_rows
from capmismatch.errors import BankError, InputError

SPLIT = np.array(["val", "test", "val", "test", "test", "val", "val", "test", "test", "test", "val"])
CLASSES = ["cat", "dog", "car"]


def rows_of(split: NDArray[Any] = SPLIT, name: str = "pets", inputs: str = "i") -> Rows:
    labels = np.arange(len(split)) % 3
    return make_rows(name, labels, CLASSES, ids=[f"id{i}" for i in range(len(split))], split=split, inputs_hash=inputs)


def draw(seed: int, dtype: str = "float32", n: int = len(SPLIT)) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(0, 5, (n, 3)).astype(dtype)


def put(folder: Path, record: TeacherRecord, logits: NDArray[Any], rows: Rows, step: int = 4) -> TeacherRecord:
    """Write a teacher as `collect` does, in shards."""
    home = create(folder, rows) / record.key
    starts = range(0, len(logits), step)
    for index, start in enumerate(starts):
        write_shard(home, index, logits[start : start + step], "same")
    return join_shards(home, record, rows, len(starts))


def make_bank(folder: Path, dtype: str = "float32") -> LogitBank:
    rows = rows_of()
    put(folder, TeacherRecord("pets", "small", params=10, dtype=dtype), draw(0, dtype), rows)
    put(folder, TeacherRecord("pets", "large", params=99, dtype=dtype, order=1), draw(1, dtype), rows)
    return LogitBank(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    bank = make_bank(tmp_path, dtype)
    assert bank.keys == ["pets/small", "pets/large"]
    for seed, key in enumerate(bank.keys):
        stored = bank.logits(key)
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, draw(seed, dtype))
        right = (draw(seed, dtype).argmax(1) == rows_of().labels).mean()
        assert bank[key].accuracy == pytest.approx(right)
        assert bank[key].sha256 == hashlib.sha256(draw(seed, dtype).tobytes()).hexdigest()
        # the file is a plain safetensors file for anyone
        np.testing.assert_array_equal(load_file(tmp_path / key / "logits.safetensors")["logits"], stored)
    assert list(bank.rows.ids) == [f"id{i}" for i in range(len(SPLIT))]
    assert bank.classes == tuple(CLASSES)
    assert bank.rows.fingerprint == rows_of().fingerprint
    assert not list(tmp_path.rglob("shard-*"))
    bank.verify()


def test_equal_input_gives_equal_bytes_however_it_was_sharded(tmp_path: Path) -> None:
    rows = rows_of()
    for name, step in (("a", 4), ("b", 3)):
        put(tmp_path / name, TeacherRecord("f", "t", 3, 10, macs=5, source="s"), draw(0), rows, step)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("rows_at_a_time", [None, 1, 3, 100])
@pytest.mark.parametrize("split", [None, "val", "test"])
@pytest.mark.parametrize("scattered", [True, False])
def test_chunks_are_the_rows_of_the_split(
    tmp_path: Path, rows_at_a_time: int | None, split: str | None, scattered: bool
) -> None:
    rows = rows_of(SPLIT if scattered else np.sort(SPLIT))
    put(tmp_path, TeacherRecord("f", "a"), draw(0), rows)
    put(tmp_path, TeacherRecord("f", "b"), draw(1), rows)
    bank = LogitBank(tmp_path)
    wanted = [i for i in range(len(SPLIT)) if split is None or rows.split[i] == split]
    np.testing.assert_array_equal(bank.logits("f/b", split), draw(1)[wanted])
    np.testing.assert_array_equal(bank.labels(split), rows.labels[wanted])
    parts = list(bank.aligned_chunks(["f/b", "f/a"], split, rows_at_a_time))
    if rows_at_a_time:
        assert all(len(labels) <= rows_at_a_time for _, labels in parts)
    np.testing.assert_array_equal(np.concatenate([part[0] for part, _ in parts]), draw(1)[wanted])
    np.testing.assert_array_equal(np.concatenate([part[1] for part, _ in parts]), draw(0)[wanted])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), rows.labels[wanted])
    single = list(bank.chunks("f/a", split, rows_at_a_time))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in single]), draw(0)[wanted])
    np.testing.assert_array_equal(bank.row("f/a", 3), draw(0)[3])


def test_what_is_read_can_be_written_to_without_touching_the_bank(tmp_path: Path) -> None:
    bank = make_bank(tmp_path)
    before = contents(tmp_path)
    part = bank.logits("pets/small", "val")
    part += 1
    bank.row("pets/small", 0)[:] = 0
    np.testing.assert_array_equal(bank.logits("pets/small"), draw(0))
    assert contents(tmp_path) == before


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    bank, whole = make_bank(tmp_path), draw(0)
    for rows in ([3, 4, 5, 0, 0, 2], [], list(range(len(whole)))):
        index = np.array(rows, int)
        np.testing.assert_array_equal(bank.take("pets/small", index), whole[index])
        np.testing.assert_array_equal(bank.take("pets/small", index, slice(1, 3)), whole[index, 1:3])
    with pytest.raises(IndexError, match=rf"expected rows in \[0, {len(whole)}\), got 0 to {len(whole)}"):
        bank.take("pets/small", np.array([0, len(whole)]))


def test_a_file_that_is_cut_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    bank = make_bank(tmp_path)
    bank.verify()
    file = tmp_path / "pets" / "small" / "logits.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(BankError, match=r"logits\.safetensors was cut while it was open"):
        bank.logits("pets/small")


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="read through a memory map on Windows")
def test_rows_are_whole_though_the_system_reads_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, read = make_bank(tmp_path), os.preadv
    # As for what is larger than 2 GiB.
    monkeypatch.setattr(os, "preadv", lambda file, into, place: read(file, [into[0][:7]], place))
    np.testing.assert_array_equal(bank.logits("pets/small"), draw(0))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the files of Linux")
def test_open_files_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_files, "MOST_OPEN", 3)
    for number in range(8):
        put(tmp_path, TeacherRecord("pets", f"t{number}"), draw(number), rows_of())

    def opened() -> int:
        return sum(os.path.realpath(link).startswith(str(tmp_path)) for link in Path("/proc/self/fd").iterdir())

    bank = LogitBank(tmp_path)
    for _ in range(2):
        for number in range(8):
            np.testing.assert_array_equal(bank.logits(f"pets/t{number}"), draw(number))
            assert opened() <= 3
    file = tmp_path / "pets" / "t0" / "logits.safetensors"
    file.write_bytes(file.read_bytes())
    os.utime(file, (1, 1))
    with pytest.raises(BankError, match="was replaced while it was read"):
        bank.logits("pets/t0")
    del bank
    assert opened() == 0


def test_teachers_are_ordered_by_family_size_order_and_seed(tmp_path: Path) -> None:
    rows = rows_of()
    wanted = [
        TeacherRecord("a", "x", 0, 5),
        TeacherRecord("a", "x", 1, 5),
        TeacherRecord("a", "w", params=7),
        TeacherRecord("a", "v", order=2),
        TeacherRecord("a", "u", order=3),
        TeacherRecord("b", "x", 0, 1),
    ]
    for record in reversed(wanted):
        put(tmp_path, record, draw(0), rows)
    bank = LogitBank(tmp_path)
    assert [(r.family, r.teacher, r.seed) for r in bank.teachers] == [(r.family, r.teacher, r.seed) for r in wanted]
    assert bank.table()["teacher"].tolist() == ["x", "x", "w", "v", "u", "x"]


def test_two_families_with_the_same_names(tmp_path: Path) -> None:
    rows = rows_of()
    put(tmp_path, TeacherRecord("a", "resnet20"), draw(0), rows)
    put(tmp_path, TeacherRecord("b", "resnet20"), draw(1), rows)
    bank = LogitBank(tmp_path)
    np.testing.assert_array_equal(bank.logits("a/resnet20"), draw(0))
    np.testing.assert_array_equal(bank.logits("b/resnet20"), draw(1))


ODD = ["a/b", "..", ".", ".hidden", "a b", "é", "%41", "A", "a%2Fb", "mlp-s1", "mlp", "a\\b", "x:y", "<script>", "-s0"]


def test_odd_names_stay_inside_the_bank_and_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    rows = rows_of()
    for number, name in enumerate(ODD):
        put(folder, TeacherRecord("..", name, order=number), draw(number), rows)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
    bank = LogitBank(folder)
    assert [record.teacher for record in bank.teachers] == ODD
    assert {record.family for record in bank.teachers} == {".."}
    for number, record in enumerate(bank.teachers):
        np.testing.assert_array_equal(bank.logits(record.key), draw(number))


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    str.strip
)  # blank ones are refused
identities = st.tuples(names, names, st.none() | st.integers(-2, 12))


@settings(max_examples=300, deadline=None)
@given(identities, identities)
def test_keys_are_injective_and_have_one_folder_in_another(one: Any, other: Any) -> None:
    key = teacher_key(*one)
    assert (key == teacher_key(*other)) == (one == other)
    parts = Path(key).parts
    assert len(parts) == 2
    assert not any(part.startswith(".") or "\\" in part or part != part.strip("\n\0") for part in parts)


def test_seeds_and_names_that_look_like_seeds_differ() -> None:
    assert teacher_key("f", "mlp-s1", None) != teacher_key("f", "mlp", 1)
    assert teacher_key("f", "mlp-s1", 2) != teacher_key("f", "mlp", None)
    for blank in ("", " ", "\n"):
        with pytest.raises(InputError, match=re.escape(f"expected a name for the teacher, got {blank!r}")):
            teacher_key("f", blank, None)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(bytes(data))


def test_a_flipped_byte_is_noticed_when_first_read(tmp_path: Path) -> None:
    make_bank(tmp_path)
    file = tmp_path / "pets" / "large" / "logits.safetensors"
    flip(file, file.stat().st_size - 5)
    bank = LogitBank(tmp_path)
    np.testing.assert_array_equal(bank.logits("pets/small"), draw(0))
    for read in (
        bank.verify,
        lambda: bank.logits("pets/large"),
        lambda: next(bank.chunks("pets/large", "val", 1)),
        lambda: bank.row("pets/large", 0),
    ):
        with pytest.raises(BankError, match=r"pets/large/logits.safetensors is damaged"):
            read()


def test_a_flipped_bit_of_the_header_is_noticed(tmp_path: Path) -> None:
    make_bank(tmp_path)
    file = tmp_path / "pets" / "large" / "logits.safetensors"
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little") + 8
    text = whole[8:size].rstrip()
    for at in range(0, 8 + len(text), 5):
        flip(file, at)
        with pytest.raises(BankError, match=r"pets/large/logits.safetensors"):
            LogitBank(tmp_path).verify()
        file.write_bytes(whole)
    LogitBank(tmp_path).verify()


def test_a_flipped_bit_of_rows_or_manifest_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    bank = make_bank(tmp_path)
    for name in ("rows.parquet", "bank.json"):
        file = tmp_path / name
        whole = file.read_bytes()
        for at in range(0, len(whole), 7):
            flip(file, at)
            try:
                again = LogitBank(tmp_path)
            except BankError as error:
                assert name in str(error)
            else:
                np.testing.assert_array_equal(again.rows.labels, bank.rows.labels)
                assert again.rows.ids.tolist() == bank.rows.ids.tolist()
                assert again.rows.split.tolist() == bank.rows.split.tolist()
                assert again.classes == bank.classes
            file.write_bytes(whole)


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])

    return change


def edit_json(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "bank.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def foreign(folder: Path) -> None:
    put(folder.parent / "other", TeacherRecord("pets", "other"), draw(3), rows_of(inputs="other"))
    shutil.copytree(folder.parent / "other" / "pets" / "other", folder / "pets" / "other")


def swapped_rows(folder: Path) -> None:
    create(folder.parent / "other", rows_of(np.sort(SPLIT)))
    shutil.copy(folder.parent / "other" / "rows.parquet", folder / "rows.parquet")


def other_columns(folder: Path) -> None:
    pd.DataFrame({"id": ["a"]}).to_parquet(folder / "rows.parquet")
    edit_json(rows_sha256=hashlib.sha256((folder / "rows.parquet").read_bytes()).hexdigest())(folder)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut logits": (cut("pets/large/logits.safetensors", 0.8), r"large/logits\.safetensors is damaged.*expected whole"),
    "cut header": (cut("pets/large/logits.safetensors", 0.1), r"pets/large/logits\.safetensors is damaged"),
    "empty logits": (cut("pets/large/logits.safetensors", 0), r"pets/large/logits\.safetensors is damaged"),
    "not a bank's": (
        lambda f: save_file({"logits": draw(0)}, f / "pets" / "large" / "logits.safetensors"),
        r"logits\.safetensors is damaged or not a bank's",
    ),
    "no manifest": (lambda f: (f / "bank.json").unlink(), r"holds no bank: there is no bank\.json"),
    "garbage manifest": (lambda f: (f / "bank.json").write_bytes(b"\xff{"), r"bank\.json is damaged: expected"),
    "list for a manifest": (lambda f: (f / "bank.json").write_text("[]"), r"bank\.json is damaged"),
    "other schema": (edit_json(schema=99), r"bank\.json has schema 99, this version of capmismatch reads schema 1"),
    "no rows": (lambda f: (f / "rows.parquet").unlink(), r"rows\.parquet is missing: expected the 11 rows"),
    "cut rows": (cut("rows.parquet", 0.5), r"rows\.parquet or bank\.json is damaged"),
    "other count": (edit_json(rows=12), r"rows\.parquet has 11 rows, bank\.json says 12"),
    "other classes": (edit_json(classes=["dog", "cat", "car"]), r"rows\.parquet or bank\.json is damaged"),
    "rows of another bank": (swapped_rows, r"rows\.parquet or bank\.json is damaged"),
    "no columns": (other_columns, r"rows\.parquet is damaged: KeyError"),
    "teacher of other data": (foreign, r"pets/other/logits\.safetensors was collected on another data set"),
    "copy": (
        lambda f: shutil.copytree(f / "pets" / "large", f / "pets" / "copy"),
        r"lies in 'pets/copy', but its header says that it belongs in 'pets/large'",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_nothing_on_disk_changes(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "bank"
    make_bank(folder)
    change, message = DAMAGE[what]
    change(folder)
    before = contents(folder)
    with pytest.raises(BankError, match=message):
        LogitBank(folder)
    assert contents(folder) == before


def test_create_refuses_a_bank_of_other_data(tmp_path: Path) -> None:
    make_bank(tmp_path)
    before = contents(tmp_path)
    for other in (rows_of(np.sort(SPLIT)), rows_of(inputs="j")):
        with pytest.raises(BankError, match=r"holds a bank of data set 'pets' with fingerprint \w+, not of 'pets'"):
            create(tmp_path, other)
    create(tmp_path, rows_of())
    assert contents(tmp_path) == before


# --- in memory -------------------------------------------------------------------------------------------------------


def test_bank_from_arrays() -> None:
    logits = {"large": draw(1), "small": draw(0).astype(np.float64), "half": draw(2, "float16")}
    labels = rows_of().labels
    bank = bank_from_arrays(logits, labels, classes=CLASSES, params={"large": 9, "small": 3}, split=SPLIT)
    assert bank.keys == ["logits/small", "logits/large", "logits/half"]
    assert [record.dtype for record in bank.teachers] == ["float32", "float32", "float16"]
    np.testing.assert_array_equal(bank.logits("logits/large", "val"), draw(1)[SPLIT == "val"])
    assert bank["logits/small"].accuracy == (draw(0).argmax(1) == labels).mean()
    bank.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": {}}, "expected the logits of at least one teacher, got none"),
        ({"logits": {"a": [1.0, 2.0]}}, r"expected logits of 'a' of shape \(N, C\), got shape \(2,\)"),
        ({"logits": {"a": np.zeros((3, 2))}}, r"expected logits of shape \(2, 2\), got \(3, 2\) from teacher 'a'"),
        ({"logits": {"a": np.zeros((2, 2)), "b": np.zeros((2, 3))}}, "expected 2 classes, got 3 from teacher 'b'"),
        ({"logits": {"a": [[0, 1], [np.nan, 0]]}}, "expected finite logits, got nan at row 1, class 0 of teacher 'a'"),
        ({"labels": [0, 2]}, r"expected labels in \[0, 2\), got 2 at row 1"),
        ({"labels": [0, 0.5]}, "expected whole numbers as labels, got 0.5 at row 1"),
        ({"labels": [0, np.nan]}, "expected whole numbers as labels, got nan at row 1"),
        ({"labels": ["cat", "dog"]}, "expected whole numbers as labels, got .*cat.* at row 0"),
        ({"labels": [[0, 1]]}, r"expected labels of shape \(N,\) with N > 0, got shape \(1, 2\)"),
        ({"labels": []}, r"expected labels of shape \(N,\) with N > 0"),
        ({"classes": ["a"]}, r"expected at least 2 classes, got 1 \(a\)"),
        ({"classes": ["a", "b", "c"]}, "expected 3 classes, got 2 from teacher 'a'"),
        ({"split": ["val"]}, r"expected 2 split names, got shape \(1,\)"),
        ({"split": ["val", "tset"]}, "split of labels must be one of .*not 'tset'; did you mean 'test'"),
        ({"params": {"b": 3}}, r"teacher in params must be one of \['a'\], not 'b'"),
    ],
)
def test_bank_from_arrays_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"logits": {"a": np.eye(2)}, "labels": [0, 1]} | change
    with pytest.raises(InputError, match=message):
        bank_from_arrays(**arguments)


def test_ids_must_fit_and_be_unique() -> None:
    with pytest.raises(InputError, match="expected unique ids, got 'x' more than once"):
        make_rows("a", [0, 1], ["a", "b"], ids=["x", "x"])
    with pytest.raises(InputError, match=r"expected 2 ids, one per example, got shape \(1,\)"):
        make_rows("a", [0, 1], ["a", "b"], ids=["x"])


def test_the_fingerprint_tells_every_part_of_the_data() -> None:
    base: dict[str, Any] = {"labels": [0, 1], "classes": ["a", "b"], "ids": ["x", "y"], "split": ["val", "test"]}
    changes: list[dict[str, Any]] = [
        {},
        {"labels": [1, 1]},
        {"classes": ["b", "a"]},
        {"ids": ["y", "x"]},
        {"split": ["test", "val"]},
        {"inputs_hash": "z"},
    ]
    prints = {make_rows("n", **{**base, **change}).fingerprint for change in changes}
    assert len(prints) == len(changes)
    assert make_rows("other", **base).fingerprint == make_rows("n", **base).fingerprint


def test_unknown_teachers_and_splits_list_the_choices(tmp_path: Path) -> None:
    bank = make_bank(tmp_path)
    with pytest.raises(InputError, match=r"teacher key must be one of \['pets/small', 'pets/large'\].*did you mean"):
        bank.logits("pets/smal")
    with pytest.raises(InputError, match=r"split must be one of \['val', 'test'\], not 'train'"):
        bank.labels("train")


def test_representations_show_teachers_and_escape_their_names() -> None:
    evil = "<script>alert(1)</script>"
    bank = bank_from_arrays({evil: np.eye(2)}, [0, 1], family=evil, name=evil, classes=["a", "b"])
    assert repr(bank).startswith(f"LogitBank of {evil!r}: 1 teachers, 2 classes, 2 val")
    assert evil in repr(bank)
    page = bank._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3


def test_the_page_shows_sizes_and_where_it_lies(tmp_path: Path) -> None:
    bank = make_bank(tmp_path)
    page = bank._repr_html_()
    assert f"in {tmp_path}, 0.0 MB of logits" in page
    assert f"<td>{bank['pets/large'].accuracy:.4f}</td>" in page
    big = bank_from_arrays({"net": np.eye(2)}, [0, 1], params={"net": 12_345_678})
    assert "12,345,678" in big._repr_html_()
    assert "in memory" in big._repr_html_()


def test_an_empty_bank_can_be_shown(tmp_path: Path) -> None:
    create(tmp_path, rows_of())
    bank = LogitBank(tmp_path)
    assert repr(bank) == "LogitBank of 'pets': 0 teachers, 3 classes, 5 val, 6 test"
    assert "0 teachers" in bank._repr_html_()
    bank.verify()


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_subset_of_classes_has_their_rows_and_columns(tmp_path: Path) -> None:
    bank = make_bank(tmp_path)
    part = bank.subset(classes=["car", 0])
    keep = np.flatnonzero(bank.rows.labels != 1)
    assert part.classes == ("car", "cat")
    assert part.rows.ids.tolist() == bank.rows.ids[keep].tolist()
    assert part.rows.split.tolist() == SPLIT[keep].tolist()
    for seed, key in enumerate(bank.keys):
        wanted = draw(seed)[keep][:, [2, 0]]
        np.testing.assert_array_equal(part.logits(key), wanted)
        assert part[key].accuracy == (wanted.argmax(1) == part.labels()).mean()
        assert part[key].sha256 == hashlib.sha256(wanted.tobytes()).hexdigest()
        assert part[key].params == bank[key].params
    assert part.path is None
    part.verify()


def test_fewer_examples_keep_the_shares_of_classes_and_splits() -> None:
    draws = np.random.default_rng(0)
    labels = draws.choice(3, 6000, p=[0.6, 0.3, 0.1])
    split = draws.choice(["val", "test"], 6000, p=[0.25, 0.75])
    bank = bank_from_arrays({"net": draws.normal(size=(6000, 3))}, labels, split=split)
    part = bank.subset(n=600)
    assert len(part.labels()) == 600
    for label in range(3):
        for name in ("val", "test"):
            share = ((labels == label) & (split == name)).mean()
            found = ((part.labels() == label) & (part.rows.split == name)).sum()
            assert abs(found - 600 * share) <= 3
    rows = part.rows.ids.astype(int)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(part.logits("logits/net"), bank.logits("logits/net")[rows])
    assert part.rows.fingerprint == bank.subset(n=600).rows.fingerprint != bank.subset(n=600, seed=1).rows.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cat", "cow"]}, "class must be one of .*not 'cow'"),
        ({"classes": [0, 3]}, r"expected classes in \[0, 3\), got 3"),
        ({"classes": [0, 0]}, "expected distinct classes, got 'cat' twice"),
        ({"classes": ["cat"]}, "expected at least 2 classes"),
        ({"n": 0}, r"expected n in \[1, 11\], the examples of these classes, got 0"),
        ({"n": 12}, "got 12"),
    ],
)
def test_subset_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_bank(tmp_path).subset(**options)


def test_to_xarray(tmp_path: Path) -> None:
    pytest.importorskip("xarray", reason="needs the extra 'xarray'")
    bank = make_bank(tmp_path)
    cube = bank.to_xarray()
    assert cube.logits.dims == ("teacher", "example", "class")
    np.testing.assert_array_equal(cube.logits.sel(teacher="pets/large", example="id3"), draw(1)[3])
    np.testing.assert_array_equal(cube.logits.where(cube.split == "val", drop=True)[0], draw(0)[SPLIT == "val"])
    accuracy = (cube.logits.argmax("class") == cube.label).mean("example")
    np.testing.assert_allclose(accuracy, cube.accuracy)
    assert cube.params.values.tolist() == [10, 99]
    assert cube["name"].values.tolist() == ["small", "large"]
    assert cube.attrs["fingerprint"] == bank.rows.fingerprint


def test_to_xarray_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match=r"to_xarray needs xarray.*: pip install 'capmismatch\[xarray\]'"):
        make_bank(tmp_path).to_xarray()


def test_class_names_that_stand_twice_are_numbered() -> None:
    with pytest.warns(UserWarning, match=r"numbered from the second on: \['a'\]"):
        bank = bank_from_arrays({"t": np.eye(3)}, [0, 1, 2], classes=["a", "b", "a"])
    assert bank.rows.classes == ("a", "b", "a (2)")
