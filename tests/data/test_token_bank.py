from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import capmismatch as cm
from capmismatch._numerics.condensing import condense
from capmismatch.data import token_bank, token_files
from capmismatch.errors import BankError, InputError
from tests.texts import text_logits, windows

PARAMS = {"small": 1000, "middle": 9000, "large": 50_000}
ROWS = 60
LOGITS, LABELS = text_logits(rows=ROWS)


def make_bank(**options):
    given = {"sequences": windows(ROWS), "params": PARAMS, "k": 16, "columns": 24} | options
    return cm.token_bank_from_logits(LOGITS, LABELS, **given)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "SHARD_ROWS", 16)
    monkeypatch.setattr(token_bank, "BLOCK_BYTES", 5 * 4 * 5000)  # five rows at a time


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*") if ".lock" not in file.name
    }


def test_a_bank_holds_what_condensing_each_teacher_gives() -> None:
    bank = make_bank(dtype="float32")
    assert bank.keys == ["tokens/small", "tokens/middle", "tokens/large"] and bank.reference == "tokens/large"
    assert (bank.dense, bank.condensed, bank.k, bank.of_texts) == (False, True, 16, True)
    rows = np.arange(ROWS)
    for name, values in LOGITS.items():
        whole, stored = condense(values, LABELS, 16), bank.condensed_rows(f"tokens/{name}", rows)
        for field in vars(whole):
            np.testing.assert_array_equal(getattr(stored, field), getattr(whole, field), err_msg=field)
        assert bank[f"tokens/{name}"].accuracy == pytest.approx((values.argmax(1) == LABELS).mean())
        less = values - values.mean(1, keepdims=True, dtype=np.float64)
        reference = condense(LOGITS["large"], LABELS, 16).ids.astype(int)
        expected = np.take_along_axis(values, reference, axis=1) - whole.max_wrong[:, None]
        np.testing.assert_allclose(bank.reference_columns(f"tokens/{name}", rows), expected, rtol=5e-4, atol=1e-6)
        columns = np.take_along_axis(less, bank.settings.column_ids(rows, LABELS), axis=1)
        np.testing.assert_allclose(bank.random_columns(f"tokens/{name}", rows), columns, atol=8e-3)
    assert bank.rows.ids[[0, 9, 10]].tolist() == ["0:0", "0:9", "1:0"]


def test_memory_and_disk_hold_the_same_and_any_reader_opens_the_file(tmp_path: Path, small_shards: None) -> None:
    memory, disk = make_bank(), make_bank(path=tmp_path / "bank")
    opened = cm.open_bank(tmp_path / "bank")
    opened.verify()
    assert isinstance(opened, cm.TokenBank)
    for bank in (disk, opened):
        assert [record.sha256 for record in bank.teachers] == [record.sha256 for record in memory.teachers]
        assert bank.table().equals(memory.table()) and bank.rows.fingerprint == memory.rows.fingerprint
    stored = load_file(tmp_path / "bank/tokens/small/tokens.safetensors")
    assert {name: array.shape[1] for name, array in stored.items()} == {
        **{"log_sum": 6, "slope": 6, "scalars": 5, "label_rank": 1},
        **{"ids": 16, "below": 16, "below_rest": 16, "columns": 24, "reference": 16},
    }
    assert json.loads((tmp_path / "bank/bank.json").read_text())["schema"] == 2


class Killed(Exception):
    pass


@pytest.mark.parametrize("shards", [1, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, shards: int
) -> None:
    make_bank(path=tmp_path / "whole")
    written, write = [], token_files.write_arrays

    def count(folder, index, *others):
        if len(written) == shards:
            raise Killed
        written.append((folder.name, index))
        write(folder, index, *others)

    monkeypatch.setattr(token_files, "write_arrays", count)
    with pytest.raises(Killed):
        make_bank(path=tmp_path / "killed")
    before, limit = list(written), shards
    monkeypatch.setattr(
        token_files, "write_arrays", lambda *given: (written.append((given[0].name, given[1])), write(*given))
    )
    make_bank(path=tmp_path / "killed")
    assert len(written) == len(set(written)) == 12 and len(before) == limit  # no shard is made twice
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_other_logits_rows_or_settings_are_refused_and_damage_is_named(tmp_path: Path) -> None:
    make_bank(path=tmp_path / "bank")
    make_bank(path=tmp_path / "bank")  # the same again changes nothing
    other = {**LOGITS, "large": LOGITS["middle"]}
    for change, words in (
        (
            lambda: cm.token_bank_from_logits(
                other, LABELS, sequences=windows(ROWS), params=PARAMS, k=16, columns=24, path=tmp_path / "bank"
            ),
            "weights_hash",
        ),
        (lambda: make_bank(path=tmp_path / "bank", k=8), "kept in another way"),
        (lambda: make_bank(path=tmp_path / "bank", sequences=windows(ROWS) + 1), "fingerprint"),
        (lambda: cm.LogitBank(tmp_path / "bank"), "open_bank"),
    ):
        with pytest.raises(BankError, match=words):
            change()
    file = tmp_path / "bank/tokens/large/tokens.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(BankError, match=r"large.*damaged"):
        cm.open_bank(tmp_path / "bank").condensed_rows("tokens/large", np.arange(3))
    file.write_bytes(whole[:-9])
    with pytest.raises(BankError, match=r"large/tokens\.safetensors"):
        cm.open_bank(tmp_path / "bank")


def test_a_damaged_shard_is_made_again(tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bank(path=tmp_path / "whole")
    join = token_files._join
    monkeypatch.setattr(token_files, "_join", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        make_bank(path=tmp_path / "bank")
    shard = tmp_path / "bank/tokens/large/shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    monkeypatch.setattr(token_files, "_join", join)
    make_bank(path=tmp_path / "bank")
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")


def test_small_vocabularies_stay_dense(tmp_path: Path) -> None:
    few = {name: values[:, :50] for name, values in LOGITS.items()}
    labels = LABELS % 50
    for path in (None, tmp_path / "bank"):
        bank = cm.token_bank_from_logits(few, labels, sequences=windows(ROWS), params=PARAMS, path=path)
        assert bank.dense and bank.k is None and bank.of_texts and not bank.condensed
        np.testing.assert_array_equal(bank.logits("tokens/middle"), few["middle"])
        assert cm.affinity(bank)["value"].notna().all()
    assert isinstance(cm.open_bank(tmp_path / "bank"), cm.TokenBank)
    half = cm.token_bank_from_logits({"a": few["small"].astype(np.float16)}, labels)
    assert half.teachers[0].dtype == "float16"
    assert cm.token_bank_from_logits(few, labels, dense=False, k=8).k == 8


def test_positions_without_a_label_and_padded_columns_are_left_out() -> None:
    labels = np.where(np.arange(ROWS) % 7 == 0, -100, LABELS)
    padded = {**LOGITS, "large": np.concatenate([LOGITS["large"], np.full((ROWS, 3), -60, np.float32)], axis=1)}
    with pytest.raises(InputError, match=r"5003.*vocabulary"):
        cm.token_bank_from_logits(padded, labels)
    with pytest.warns(UserWarning, match="CM031.*3 padded"):
        bank = cm.token_bank_from_logits(padded, labels, sequences=windows(ROWS), params=PARAMS, k=16, vocabulary=5000)
    kept = np.flatnonzero(labels >= 0)
    assert bank.labels().tolist() == LABELS[kept].tolist() and bank.rows.ids[:2].tolist() == ["0:1", "0:2"]
    assert [record.findings for record in bank.teachers] == ["", "", "CM031"]
    whole = make_bank(dtype="float16")
    for key in bank.keys:
        one, other = bank.condensed_rows(key, np.arange(len(kept))), whole.condensed_rows(key, kept)
        np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_banks_without_the_byte_of_rounding_are_written_and_read(tmp_path: Path, dtype: str) -> None:
    bank = make_bank(path=tmp_path / "bank", dtype=dtype)
    assert bank.settings.dtype == bank.teachers[0].dtype == dtype
    stored = load_file(tmp_path / "bank/tokens/small/tokens.safetensors")
    assert "below_rest" not in stored and stored["below"].dtype == dtype
    read = cm.open_bank(tmp_path / "bank").condensed_rows("tokens/small", np.arange(ROWS))
    np.testing.assert_array_equal(read.below, condense(LOGITS["small"], LABELS, 16).below.astype(dtype))


def test_by_default_the_kept_logits_are_exact_to_a_millionth_of_themselves() -> None:
    read, whole = make_bank().condensed_rows("tokens/large", np.arange(ROWS)), condense(LOGITS["large"], LABELS, 16)
    np.testing.assert_allclose(read.below, whole.below, rtol=2**-19, atol=1e-9)
    assert (np.diff(read.below) <= 0).all() and not read.below[:, 0].any()


def test_a_subset_keeps_each_rows_numbers() -> None:
    bank = make_bank()
    some = bank.subset(n=20, seed=1)
    np.testing.assert_array_equal(
        some.condensed_rows("tokens/small", np.arange(20)).ids, bank.condensed_rows("tokens/small", some.numbers).ids
    )
    np.testing.assert_array_equal(
        some.random_columns("tokens/small", np.arange(20)), bank.random_columns("tokens/small", some.numbers)
    )
    np.testing.assert_array_equal(some.rows.sequences, bank.rows.sequences[some.numbers])
    some.verify()


def padded(value: float) -> cm.TokenBank:
    few = np.concatenate([LOGITS["small"][:, :48], np.full((ROWS, 2), value)], axis=1)
    return cm.token_bank_from_logits({"a": few}, LABELS % 48, vocabulary=48)


REFUSED = {
    "no teacher": (lambda: cm.token_bank_from_logits({}, LABELS), "at least one"),
    "other positions": (
        lambda: cm.token_bank_from_logits({"a": LOGITS["small"], "b": LOGITS["small"][:9]}, LABELS),
        "60.*9",
    ),
    "NaN names teacher and row": (
        lambda: cm.token_bank_from_logits({"a": np.where(np.arange(5000) == 7, np.nan, LOGITS["small"])}, LABELS),
        "nan at row 0, token 7 of logits of 'a'",
    ),
    "no label": (lambda: cm.token_bank_from_logits(LOGITS, np.full(ROWS, -100)), "-100 for all"),
    "label beyond": (lambda: cm.token_bank_from_logits(LOGITS, np.full(ROWS, 5000)), "5000"),
    "sequences": (lambda: make_bank(sequences=np.arange(9)), "sequence"),
    "more sequences than positions": (lambda: make_bank(sequences=np.arange(ROWS + 1)), f"{ROWS} positions"),
    "sequence that is no number": (lambda: make_bank(sequences=np.full(ROWS, np.nan)), "whole numbers.*nan at row 0"),
    "more splits than positions": (lambda: make_bank(split=["val"] * (ROWS + 1)), f"{ROWS} positions"),
    "probability in the padding of few tokens": (lambda: padded(9.0), "2 columns beyond.*another tokenizer"),
    "NaN in the padding of few tokens": (lambda: padded(np.nan), "NaN or infinity at row 0.*beyond"),
    "negative sequence": (lambda: make_bank(sequences=windows(ROWS) - 1), "-1"),
    "split within a sequence": (lambda: make_bank(split=["val", "test"] * 30), "one split"),
    "tokens": (lambda: make_bank(tokens=["a", "b"]), "5000 tokens|labels in"),
    "k": (lambda: make_bank(k=1), "k"),
    "columns": (lambda: make_bank(columns=-1), "columns"),
    "reference": (lambda: make_bank(reference="huge"), "huge"),
    "dtype": (lambda: make_bank(dtype="int8"), "int8"),
    "params": (lambda: make_bank(params={"huge": 1}), "huge"),
    "all logits": (lambda: make_bank().logits("tokens/small"), "all 5000 tokens"),
    "some tokens": (lambda: make_bank().subset(classes=["1", "2"]), "some tokens"),
    "xarray": (lambda: make_bank().to_xarray(), "all 5000 tokens"),
    "condensed of dense": (
        lambda: make_bank(dense=True).condensed_rows("tokens/small", np.arange(2)),
        "all 5000 tokens",
    ),
    "no columns": (lambda: make_bank(columns=0).random_columns("tokens/small", np.arange(2)), "columns=0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str) -> None:
    make, words = REFUSED[what]
    with pytest.raises(InputError, match=words):
        make()


def test_probabilities_are_told_from_logits() -> None:
    e = np.exp(LOGITS["large"] - LOGITS["large"].max(1, keepdims=True))
    with pytest.warns(UserWarning, match="CM016"):
        bank = cm.token_bank_from_logits({"net": e / e.sum(1, keepdims=True)}, LABELS)
    assert not cm.check(bank)["usable"].any()


def test_sequences_are_part_of_a_data_set() -> None:
    rows = [
        cm.make_rows("texts", [0, 1, 1, 0], ["a", "b"], sequences=numbers)
        for numbers in (None, [0, 0, 1, 1], [0, 1, 1, 1])
    ]
    assert len({one.fingerprint for one in rows}) == 3 and rows[0].sequences is None


def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory-mapped array is read in blocks: no more than some rows of logits are asked for at a time."""
    np.save(tmp_path / "logits.npy", LOGITS["small"])
    monkeypatch.setattr(token_bank, "BLOCK_BYTES", 5 * 4 * 5000)
    asked, read = [], token_bank._Teacher.read
    monkeypatch.setattr(token_bank._Teacher, "read", lambda self, rows: (asked.append(len(rows)), read(self, rows))[1])
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    bank = cm.token_bank_from_logits({"small": mapped}, LABELS, k=16)
    assert max(asked) == 5 and sum(asked) == ROWS
    assert sum(file.nbytes for file in bank._stored.values()) < LOGITS["small"].nbytes / 20
