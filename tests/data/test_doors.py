"""What is let in as logits, labels and inputs, and what is refused: values, kinds, places."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from capmismatch.data import npz_files
from capmismatch.data.bank import bank_from_arrays
from capmismatch.data.bank_checks import check_bank
from capmismatch.data.datasets import load_dataset
from capmismatch.data.lazy_inputs import LazyInputs
from capmismatch.data.logit_checks import looks_like
from capmismatch.data.rows import make_rows
from capmismatch.distillation.results import load_results
from capmismatch.errors import InputError
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import load_family
from capmismatch.training.prepare import Normalise

DRAWS = np.random.default_rng(0)
LABELS = np.arange(60) % 5
LOGITS = (3 * np.eye(5)[LABELS] + DRAWS.normal(size=(60, 5))).astype(np.float32)
SOFT = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
SCALES = {
    "": LOGITS,
    "probabilities": SOFT,
    "percentages": (100 * SOFT).astype(np.float16),
    "sigmoids": 1 / (1 + np.exp(-LOGITS)),
    "log-probabilities": np.log(SOFT),
}


def refused(message: str, do: Any) -> None:
    with pytest.raises(InputError, match=message):
        do()


# --- logits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALES)
def test_other_scales_are_told_by_the_share_of_rows(kind: str) -> None:
    values = SCALES[kind].copy()
    assert looks_like(values) == kind
    values[:15] = LOGITS[:15] if kind == "log-probabilities" else 0  # a quarter failed
    assert looks_like(values) == (kind if kind != "sigmoids" else "")  # these are told by nine tenths of the rows
    assert looks_like(LOGITS[:, :2]) == "" == looks_like(LOGITS / 1000)


@pytest.mark.parametrize("kind", ["probabilities", "percentages", "sigmoids"])
def test_every_door_tells_other_scales(tmp_path: Path, kind: str) -> None:
    values = SCALES[kind].astype(np.float32)
    with pytest.warns(UserWarning, match=f"CM016 .*'net' holds {kind}"):
        bank = bank_from_arrays({"net": values, "sound": LOGITS}, LABELS)
    assert ["CM016" in codes for codes in check_bank(bank)["findings"]] == [True, False]
    np.savez(tmp_path / "a.npz", labels=LABELS, logits_net=values, logits_sound=LOGITS)
    source = f"logits:{tmp_path / 'a.npz'}"
    refused(f"'net' in .*a.npz holds {kind}, not logits", lambda: load_family(source))
    with pytest.warns(UserWarning, match="CM016 .*logits.*net|a/net"):
        kept = collect(load_family(source, probabilities="keep"), None, tmp_path / "bank", progress=False)
    assert {record.teacher: record.findings for record in kept.teachers} == {"net": "CM016", "sound": ""}
    with pytest.warns(UserWarning, match=f"logits were made from {kind}"):
        _, converted = load_family(source, probabilities="convert")["net"].saved()
    expected = LOGITS if kind == "sigmoids" else np.log(SOFT)
    np.testing.assert_allclose(converted, expected, atol=2e-2)


def test_a_network_that_ends_in_softmax_is_found(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 5).state_dict(), tmp_path / "net.pt")

    class Soft(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).softmax(1)

    np.savez(tmp_path / "d.npz", inputs=DRAWS.normal(size=(60, 4)), labels=LABELS)
    family = load_family(f"ckpt:{tmp_path}/net.pt", builder=lambda stem: Soft(4, 5))
    with pytest.warns(UserWarning, match="CM016"):
        bank = collect(family, load_dataset(f"npz:{tmp_path}/d.npz"), tmp_path / "bank", progress=False)
    assert bank.teachers[0].findings == "CM016"


TENSOR = torch.from_numpy(LOGITS)


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        (TENSOR.bfloat16(), 0.02),
        (TENSOR.to(torch.float8_e4m3fn), 0.3),
        (TENSOR.clone().requires_grad_(), 0),
        (TENSOR.bfloat16().view(torch.int16).numpy().view("V2"), 0.02),
        (LOGITS.astype(">f4"), 0),
        (LOGITS.astype(">f8"), 0),
        (LOGITS.astype(object), 0),
        (pd.DataFrame(LOGITS), 0),
        (np.asfortranarray(LOGITS), 0),
        (np.ma.masked_array(LOGITS, mask=False), 0),
    ],
    ids=["bfloat16", "float8", "gradient", "V2", "big-endian", "big double", "object", "frame", "fortran", "unmasked"],
)
def test_logits_as_people_have_them(values: Any, tolerance: float) -> None:
    stored = bank_from_arrays({20: values}, LABELS).logits("logits/20")
    assert stored.dtype == np.float32 and stored.dtype.isnative
    np.testing.assert_allclose(stored, LOGITS, atol=tolerance)


def spoiled(value: Any, dtype: Any = None) -> Any:
    array = LOGITS.astype(dtype or np.float32)
    array[3, 2] = value
    return array


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            spoiled(np.finfo(np.float32).min),
            r"up to 1e\+30 in size, got -3.40282e\+38 at row 3, class 2 of teacher 'a'",
        ),
        (spoiled(-1e31), "up to 1e.30 in size, got -1e.31 at row 3, class 2"),
        (spoiled(1e300, float), "up to 1e30 in size, got 1e.300 at row 3, class 2"),
        (spoiled(np.nan, np.float16), "finite logits, got nan at row 3, class 2"),
        (spoiled(np.inf), "finite logits, got inf at row 3, class 2"),
        (spoiled(None, object), "expected numbers as logits of 'a', got None at row 3, class 2"),
        (spoiled("n/a", "U16"), "got 'n/a' at row 3, class 2"),
        (LOGITS + 1j, "expected numbers as logits of 'a', got .*j"),
        (LOGITS.astype("M8[s]"), "expected numbers as logits of 'a', got"),
        (LOGITS > 0, "got True and False"),
        (np.zeros((60, 5), "V1"), "whose bytes may mean anything"),
        (np.ma.masked_array(LOGITS, mask=np.equal(LOGITS, LOGITS[3, 2])), "got a masked value at row 3, class 2"),
        (TENSOR.to_sparse(), "expected numbers as logits of 'a', got a tensor"),
        ([[1, 2], [3]], "expected numbers as logits of 'a', got list"),
    ],
)
def test_logits_that_are_refused(values: Any, message: str) -> None:
    refused(message, lambda: bank_from_arrays({"a": values}, LABELS))


def test_half_precision_tensors_in_folders(tmp_path: Path) -> None:
    (tmp_path / "family.json").write_text(json.dumps({"labels": "labels.npy", "teachers": {"a": {}, "b": {}, "c": {}}}))
    np.save(tmp_path / "labels.npy", LABELS[:, None])  # of shape (N, 1)
    save_file({"logits": TENSOR.bfloat16()}, tmp_path / "a.safetensors")
    save_file({"logits": TENSOR.to(torch.float8_e5m2)}, tmp_path / "b.safetensors")
    np.save(tmp_path / "c.npy", TENSOR.bfloat16().view(torch.int16).numpy().view("V2"))
    family = load_family(f"logits:{tmp_path}")
    a, b, c = (family[name].saved()[1] for name in "abc")
    np.testing.assert_array_equal(a, TENSOR.bfloat16().float().numpy())
    np.testing.assert_array_equal(c, a)
    np.testing.assert_allclose(b, LOGITS, atol=0.7)


@pytest.mark.parametrize("ending", [".pt", ".csv", ".parquet", ".npy", ""])
def test_files_of_another_kind_are_told_the_kinds_that_are_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"l{ending}"
    torch.save({"logits": TENSOR}, path)
    with pytest.raises(InputError, match=r"expected logits as an \.npz file, or as a folder") as caught:
        load_family(f"logits:{path}")
    assert "allow_pickle" not in str(caught.value) and "unsafe" not in str(caught.value)


def test_names_of_teachers_that_no_file_system_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=LABELS, **{"logits_" + "教" * 29: LOGITS})
    family = load_family(f"logits:{tmp_path / 'a.npz'}")
    refused("names of teachers of up to 255", lambda: collect(family, None, tmp_path / "bank", progress=False))
    assert bank_from_arrays({"\ud800": LOGITS}, LABELS).keys == ["logits/%5Cud800"]


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [[0, 2, 1], [[0], [2], [1]], [0.0, 2.0, 1.0], torch.tensor([0, 2, 1]), np.array([0, 2, 1], ">i2"),
     np.array([0, 2, 1], object),
     [np.array([0]), np.array([2]), np.array([1])], pd.Series([0, 2, 1])],
)  # fmt: skip
def test_labels_as_people_have_them(labels: Any) -> None:
    assert make_rows("a", labels, list("xyz")).labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1, 1], "got -1 at row 1"),
        ([0, 1, 255], "got 255 at row 2"),
        ([0, 2**31 - 1, 1], "got 2147483647 at row 1"),
        (np.array([0, 2**64 - 1], np.uint64), "got 18446744073709551615 at row 1"),
        ([0, 1, 1.9], "got 1.9 at row 2"),
        ([0, np.nan, 1], "got nan at row 1"),
        ([0, None, 1], "whole numbers as labels, got None at row 1"),
        (["cat", "dog"], "whole numbers as labels, got 'cat' at row 0"),
        (pd.array([0, pd.NA], "Int64"), "got (nan|<NA>) at row 1"),
        (np.eye(3), r"got shape \(3, 3\); of one-hot labels give labels.argmax\(1\)"),
        (np.ma.masked_array([0, 1], mask=[False, True]), "got a masked value at row 1"),
        (np.array([0, 1], complex), "whole numbers as labels, got 0j at row 0"),
        (np.array([0, 1], "M8[s]"), "whole numbers as labels"),
        (1, r"shape \(N,\) with N > 0, got shape \(\)"),
    ],
)
def test_labels_that_are_refused(labels: Any, message: str) -> None:
    refused(message, lambda: make_rows("a", labels, ["a", "b", "c"]))


@pytest.mark.parametrize("mark", [255, 65535, 2**31 - 1, 2**63 - 1, 5_000_000])
def test_marks_for_missing_labels_are_no_classes(tmp_path: Path, mark: int) -> None:
    labels = np.arange(200) % 10
    labels[7] = mark
    np.savez(tmp_path / "d.npz", inputs=np.zeros((200, 2), np.float32), labels=labels)
    refused(f"got {mark} at row 7 of labels of npz:.*d.npz", lambda: load_dataset(f"npz:{tmp_path / 'd.npz'}"))
    few = np.array([0, 999])  # two examples of a thousand classes
    np.savez(tmp_path / "d.npz", inputs=np.zeros((2, 2), np.float32), labels=few)
    assert len(load_dataset(f"npz:{tmp_path / 'd.npz'}").classes) == 1000


class Pairs:
    def __init__(self, *pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> Any:
        return self.pairs[row]


X = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((X, [0, 1]), r"label of row 1 of data set 'Pairs', got \[0, 1\] of shape \(2,\)"),
        ((X, "cat"), "label of row 1 of data set 'Pairs', got 'cat'"),
        ((X, None), "label of row 1 of data set 'Pairs', got None"),
        ((X, 0.7), "got 0.7 at row 1"),
        ({"image": X, "label": 1}, r"got dict with the keys \['image', 'label'\] at row 1 of data set 'Pairs'"),
        (X, "got ndarray at row 1"),
        ((None, 1), "row 1 of data set 'Pairs', got None"),
        ((Image.new("I;16", (4, 4)), 1), "mode 'I;16' .* in row 1 of data set 'Pairs'"),
    ],
)
def test_pairs_that_are_refused(second: Any, message: str) -> None:
    assert load_dataset(Pairs((X, np.array([0])), (X, torch.tensor([1])))).labels.tolist() == [0, 1]
    refused(message, lambda: load_dataset(Pairs((X, 0), second)))


def test_names_and_ids_as_bytes_and_odd_text() -> None:
    ids = np.array(["café".encode(), b"tea"])
    spelled = make_rows("a", [0, 1, 1], ["ant", "bee"], split=["valid", "Test", "train"])
    assert spelled.split.tolist() == ["val", "test", "train"]
    rows = make_rows("a", [0, 1], np.array([b"ant", b"bee"]), ids=ids, split=np.array([b"val", b"test"]))
    assert (
        rows.classes == ("ant", "bee")
        and rows.ids.tolist() == ["café", "tea"]
        and rows.split.tolist() == ["val", "test"]
    )
    assert make_rows("a", [0, 1], ["a\udce9", "b"], ids=["x\udce9", "y"]).ids.tolist() == ["x\\udce9", "y"]
    refused("UTF-8, got the bytes", lambda: make_rows("a", [0, 1], [b"\xff", b"b"]))
    refused("expected a list of class names for labels, got 'ab'", lambda: make_rows("a", [0, 1], "ab"))


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused_by_file(tmp_path: Path, mode: str) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new(mode, (4, 4)).save(tmp_path / name / "0.tif")
    refused(r"mode 'I;16'|mode '[IF]'.*a/0.tif", lambda: load_dataset(f"folder:{tmp_path}"))


def test_gif_and_jfif_are_images(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.gif")
        Image.new("CMYK", (4, 4)).save(tmp_path / name / "1.jfif", "JPEG")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.rows.ids.tolist() == ["a/0.gif", "a/1.jfif", "b/0.gif", "b/1.jfif"] and data.inputs.shape == (
        4,
        4,
        4,
        3,
    )


@pytest.mark.parametrize("order", [[0, 1, 0], [1, 0, 1], [1, 1, 0]])
def test_grey_is_colour_where_both_occur_in_every_batch(order: list[int]) -> None:
    pictures = [Image.new("RGB", (4, 4), (9, 0, 0)), Image.new("L", (4, 4), 7)]
    data = load_dataset(Pairs(*((pictures[k], k) for k in order)))
    assert [data.inputs[row : row + 1].shape for row in range(3)] == [(1, 4, 4, 3)] * 3
    grey = data.take(np.flatnonzero(data.labels == 1))
    assert np.unique(grey.inputs[:]).tolist() == [7] and grey.inputs.shape[1:] == (4, 4, 3)


def test_modes_of_pictures() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    modes = {
        "1": Image.new("1", (2, 2), 1),
        "P": palette,
        "LA": Image.new("LA", (2, 2), (5, 9)),
        "RGBA": Image.new("RGBA", (2, 2)),
    }
    shown = {name: LazyInputs(lambda row, image=image: image, np.arange(1), "a")[:][0] for name, image in modes.items()}
    assert shown["1"].tolist() == [[[255]] * 2] * 2 and shown["P"][0, 0].tolist() == [200, 100, 50]
    assert shown["LA"][0, 0].tolist() == [5] and shown["RGBA"].shape == (2, 2, 4)


def test_grey_images_without_an_axis(tmp_path: Path) -> None:
    images = DRAWS.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    for name, array in (("a", images), ("b", images[..., None])):
        np.savez(tmp_path / f"{name}.npz", images=array, labels=np.arange(6) % 2)
    a, b = (load_dataset(f"npz:{tmp_path / name}.npz") for name in "ab")
    assert a.rows.fingerprint == b.rows.fingerprint
    np.testing.assert_array_equal(Normalise()(images).numpy(), Normalise()(images[..., None]).numpy())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((6, 3, 8, 8), np.uint8), r"shape \(6, 3, 8, 8\) .* first: give images.transpose\(0, 2, 3, 1\)"),
        (np.zeros((6, 8, 8, 3), np.uint16), "got uint16 of shape"),
        (np.zeros((6, 8, 8, 3), np.int64), "got int64 of shape"),
        (np.where(np.arange(12).reshape(6, 2) == 5, np.nan, 0), "expected finite inputs, got nan at row 2 of npz"),
        (np.zeros((6, 2), complex), "expected numbers as inputs of npz:.*, got 0j at row 0"),
        (np.full((6, 2), "a"), "got 'a' at row 0"),
        (np.float32(1), "as many inputs as labels|got one number"),
    ],
)  # fmt: skip
def test_inputs_that_are_refused(tmp_path: Path, images: Any, message: str) -> None:
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(6) % 2)
    refused(message, lambda: load_dataset(f"npz:{tmp_path / 'd.npz'}"))


@pytest.mark.parametrize("shape", [(6, 8, 8, 3), (6, 4, 8, 8)], ids=["NHWC floats", "four channels"])
def test_a_network_that_cannot_take_the_inputs_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(network.state_dict(), tmp_path / "net.pt")
    family = load_family(f"ckpt:{tmp_path}/net.pt", builder=lambda stem: network)
    np.savez(tmp_path / "d.npz", images=np.zeros(shape, np.float32), labels=np.arange(6) % 2)
    message = (
        rf"teacher .*/net cannot take the inputs of data set 'd', .*shape \(1, {shape[1]}, {shape[2]}, {shape[3]}\)"
    )
    refused(message, lambda: collect(family, load_dataset(f"npz:{tmp_path}/d.npz"), tmp_path / "bank", progress=False))


def test_means_on_another_scale() -> None:
    images = DRAWS.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    wide = Normalise([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])
    refused("divide them by 255", lambda: wide(images))
    refused("divide them by 255", lambda: wide((images / 255).transpose(0, 3, 1, 2)))
    refused("list of finite numbers as mean", lambda: Normalise(0.5, 0.5))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide(images.astype(np.float32).transpose(0, 3, 1, 2))
        Normalise([0.5], [0.25])(images)
    with pytest.warns(UserWarning, match="inputs go up to 2"):
        Normalise([0.5], [0.25])(images.astype(np.float32).transpose(0, 3, 1, 2))


# --- files that ask for too much -------------------------------------------------------------------------------------


def header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", [(10**12, 3), (2**70, 3), (4, 3)])
def test_lying_headers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    np.save(stream, LABELS)
    with zipfile.ZipFile(tmp_path / "l.npz", "w") as archive:
        archive.writestr("labels.npy", stream.getvalue())
        archive.writestr("logits_a.npy", header(shape))
    refused("'logits_a' of .*l.npz is damaged: its header has", lambda: load_family(f"logits:{tmp_path / 'l.npz'}"))


def test_arrays_that_unpack_out_of_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_files, "LARGE", 1 << 20)
    np.savez_compressed(tmp_path / "z.npz", labels=LABELS[:4], logits_a=np.zeros((4, 100_000)))
    refused(
        "'logits_a' of .*z.npz would unpack to 3,200,000 bytes", lambda: load_family(f"logits:{tmp_path / 'z.npz'}")
    )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_read_as_numpy_reads_them(tmp_path: Path, order: Any, packed: bool) -> None:
    arrays = {
        "a": np.asarray(LOGITS, order=order),
        "b": np.array(["x", "yz"]),
        "c": np.zeros((0, 3)),
        "d": np.array(3.5),
    }
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", **arrays)
    read, names = npz_files.read_npz(tmp_path / "a.npz", lambda name: name != "b")
    assert names == ["a", "b", "c", "d"] and sorted(read) == ["a", "c", "d"]
    for name, array in read.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.flags.writeable


def test_names_of_columns_and_rows_in_pandas_objects_decide():
    rng = np.random.default_rng(0)
    labels = pd.Series(rng.integers(0, 3, 60))
    logits = pd.DataFrame(4 * np.eye(3)[labels] + rng.normal(size=(60, 3)), columns=["ant", "bee", "cat"])
    classes = ["ant", "bee", "cat"]
    expected = bank_from_arrays({"t": logits.to_numpy()}, labels, classes=classes)
    turned = bank_from_arrays({"t": logits[["cat", "ant", "bee"]]}, labels, classes=classes)
    np.testing.assert_array_equal(turned.logits("logits/t"), expected.logits("logits/t"))
    numbered = pd.DataFrame(logits.to_numpy()[:, [2, 0, 1]], columns=[2, 0, 1])
    np.testing.assert_array_equal(
        bank_from_arrays({"t": numbered}, labels).logits("logits/t"), expected.logits("logits/t")
    )
    for bad, message in (
        (logits.reset_index(), "row numbers"),
        (logits.rename(columns={"cat": "dog"}), "got 'dog'"),
        (logits.sample(frac=1, random_state=0), "in the order of the labels"),
    ):
        with pytest.raises(InputError, match=message):
            bank_from_arrays({"t": bad}, labels, classes=classes)


def test_an_array_that_is_twice_in_a_file(tmp_path):
    file = tmp_path / "fam.npz"
    np.savez(file, labels=np.arange(3), logits_a=np.eye(3))
    np.save(tmp_path / "other.npy", np.zeros((3, 3)))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.write(tmp_path / "other.npy", "logits_a.npy")
    with pytest.raises(InputError, match="'logits_a' twice"):
        load_family(f"logits:{file}")


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, "", " "])
def test_names_that_are_missing(missing) -> None:
    logits, labels = np.eye(3), [0, 1, 2]
    with pytest.raises(InputError, match="expected a name"):
        bank_from_arrays({missing: logits}, labels)
    with pytest.raises(InputError, match="expected a name"):
        bank_from_arrays({"a": logits}, labels, classes=["x", missing, "z"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX's")
def test_what_never_ends_or_never_answers_is_not_read(tmp_path: Path) -> None:
    for name in ("a.npz", "r.csv", "net.pt"):
        os.mkfifo(tmp_path / name)
    for read in (
        lambda: load_dataset(f"npz:{tmp_path / 'a.npz'}"),
        lambda: load_family(f"logits:{tmp_path / 'a.npz'}"),
        lambda: load_results(tmp_path / "r.csv"),
        lambda: load_results("/dev/zero"),
        lambda: load_family(f"ckpt:{tmp_path / 'net.pt'}", builder=lambda stem: nn.Linear(2, 2)),
    ):
        with pytest.raises(InputError, match=r"device, a pipe or a socket|readable checkpoint"):
            read()


def test_inputs_without_a_number_and_sizes_beyond_measure(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 0, 3, 3), np.uint8), labels=[0, 1, 0, 1])
    with pytest.raises(InputError, match="one number or more"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")
    (tmp_path / "r.csv").write_text("teacher,method,accuracy,seed,split,n\na,KD,0.5,0,val,99999999999999999999\n")
    with pytest.raises(InputError, match="a whole number of examples"):
        load_results(tmp_path / "r.csv")
    np.savez(tmp_path / "d.npz", inputs=np.zeros((4, 0)), labels=[0, 1, 0, 1])
    with pytest.raises(InputError, match="one number or more"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")
    np.savez(tmp_path / "d.npz", X=np.ones((4, 2)), images=np.ones((4, 2)), labels=[0, 1, 0, 1])
    with pytest.raises(InputError, match=r"one array of inputs.*images.*X"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")


class OfLength:
    """A map-style data set that says how many rows it has."""

    def __init__(self, length: int, **names: Any) -> None:
        self.length = length
        self.__dict__.update(names)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return np.full(2, float(row)), row % 2


def test_map_style_sets_of_absurd_length_and_of_two_orders() -> None:
    with pytest.raises(InputError, match="1,000,000,000,000"):
        load_dataset(OfLength(10**12))
    assert load_dataset(OfLength(4, classes={"v": 1, "u": 0})).classes == ("u", "v")
    with pytest.raises(InputError, match=r"'u' at place 0.*as label 1"):
        load_dataset(OfLength(4, classes=["u", "v"], class_to_idx={"u": 1, "v": 0}))
    with pytest.raises(InputError, match="in the order of the labels, got a set"):
        load_dataset(OfLength(4, classes={"u", "v"}))


FRAME_LABELS = np.arange(60) % 4
SURE = np.eye(4)[FRAME_LABELS] + 0.01 * np.arange(240).reshape(60, 4) / 240


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({2: "y", 0: "w", 3: "z", 1: "x"}, ("w", "x", "y", "z")),
        ({"z": 3, "x": 1, "w": 0, "y": 2}, ("w", "x", "y", "z")),
        (dict.fromkeys("wxyz").keys(), ("w", "x", "y", "z")),
        (iter("wxyz"), ("w", "x", "y", "z")),
        (set("wxyz"), None),
        ({0: "w", 1: "x", 2: "y", 4: "z"}, None),
        ({"w": True, "x": False}, None),
    ],
    ids=["id2label", "label2id", "keys", "iterator", "set", "gap", "booleans"],
)
def test_classes_have_the_order_of_their_labels(classes: Any, expected: tuple[str, ...] | None) -> None:
    if expected is None:
        with pytest.raises(InputError, match="class"):
            bank_from_arrays({"a": SURE}, FRAME_LABELS, classes=classes)
        return
    backwards = pd.DataFrame(SURE[:, ::-1], columns=list("zyxw"))
    bank = bank_from_arrays({"a": backwards}, FRAME_LABELS, classes=classes)
    assert bank.classes == expected and bank.teachers[0].accuracy == 1


@pytest.mark.parametrize("names", [[3.0, 2.0, 1.0, 0.0], ["logit_3", "logit_2", "logit_1", "logit_0"], list("3210")])
def test_columns_that_are_numbered_stand_in_the_order_of_their_numbers(names: list[Any]) -> None:
    frame = pd.DataFrame(SURE[:, ::-1], columns=names)
    assert bank_from_arrays({"a": frame}, FRAME_LABELS).teachers[0].accuracy == 1
    frame.columns = pd.MultiIndex.from_tuples([("logits", name) for name in names])
    assert bank_from_arrays({"a": frame}, FRAME_LABELS).teachers[0].accuracy == 1


def test_frames_whose_columns_stand_in_two_orders_are_refused() -> None:
    one = pd.DataFrame(SURE, columns=list("wxyz"))
    frames = {"a": one, "b": one[["z", "x", "y", "w"]]}
    with pytest.raises(InputError, match=r"'b'.*'a'.*'z' instead of 'w' at place 0: give classes"):
        bank_from_arrays(frames, FRAME_LABELS)
    assert [record.accuracy for record in bank_from_arrays(frames, FRAME_LABELS, classes=list("wxyz")).teachers] == [
        1,
        1,
    ]
