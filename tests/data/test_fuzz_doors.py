"""Mutated inputs at every door: each ends in a right answer or in an error of capmismatch that says where.

CAPMISMATCH_FUZZ is how many examples each test draws (`make fuzz`); the default is small and always the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from capmismatch.data.bank import bank_from_arrays
from capmismatch.data.datasets import load_dataset
from capmismatch.data.rows import make_rows
from capmismatch.errors import CapmismatchError
from capmismatch.sources.families import load_family

EXAMPLES = int(os.environ.get("CAPMISMATCH_FUZZ", "200"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CAPMISMATCH_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
ROWS, CLASSES = 12, 3
LABELS = np.arange(ROWS) % CLASSES
LOGITS = (3 * np.eye(CLASSES)[LABELS] + np.random.default_rng(0).normal(size=(ROWS, CLASSES))).astype(np.float32)

ODD = [
    np.nan,
    np.inf,
    -np.inf,
    -1,
    -100,
    255,
    65535,
    2**31 - 1,
    2**63 - 1,
    -(2**63),
    1e30,
    3.4e38,
    1e308,
    0.5,
    -0.0,
    5e-324,
]
DTYPES = [
    "b1",
    "i1",
    "u1",
    "i2",
    "u2",
    "i4",
    "u4",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    ">f4",
    ">f8",
    ">i4",
    ">u2",
    "c8",
    "c16",
    "U4",
    "S4",
    "M8[s]",
    "m8[s]",
    "V1",
    "V2",
    "V4",
    "O",
    "g",
]
SHAPES = [
    (),
    (0,),
    (ROWS,),
    (ROWS, 1),
    (1, ROWS),
    (ROWS, 0),
    (ROWS, CLASSES),
    (CLASSES, ROWS),
    (ROWS, CLASSES, 1),
    (ROWS, 2),
]


@st.composite
def mutated(draw: Any, good: Any) -> Any:
    """An array with one to three changes of value, type, shape, container."""
    array: Any = np.array(good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(draw(st.integers(0, 2))):
            how = draw(st.sampled_from(["value", "dtype", "shape", "scale"]))
            if how == "value" and array.size:
                wide: Any = (
                    array.astype(object)
                    if draw(st.booleans())
                    else array.astype("f8" if array.dtype.kind in "fiub" else "O")
                )
                odd = draw(
                    st.sampled_from(
                        [*ODD, *([None, "n/a", "7", b"x", 1j, 2**70, [1], {}] if wide.dtype == object else [])]
                    )
                )
                wide.reshape(-1)[draw(st.integers(0, wide.size - 1))] = odd
                array = wide
            elif how == "dtype":
                with contextlib.suppress(TypeError, ValueError, OverflowError):
                    array = array.astype(draw(st.sampled_from(DTYPES)))
            elif how == "shape":
                array = np.resize(array, draw(st.sampled_from(SHAPES)))
            elif array.dtype.kind in "fiu":
                array = array.astype("f8") * draw(st.sampled_from([0, -1, 1e-30, 100, 1e31]))
    form = draw(st.sampled_from(["array", "list", "tensor", "bfloat16", "masked", "reversed", "generator", "none"]))
    if form == "list":
        return array.tolist()
    if (
        form in ("tensor", "bfloat16")
        and array.dtype.kind in "fiub"
        and array.dtype.isnative
        and array.dtype.itemsize <= 8
    ):
        if array.dtype.kind == "u" and array.max(initial=0) >= 2**63:
            return array  # torch has no such whole numbers
        tensor = torch.tensor(array.tolist())
        return tensor.bfloat16() if form == "bfloat16" else tensor
    if form == "masked" and array.size:
        return np.ma.masked_array(
            array, mask=np.arange(array.size).reshape(array.shape) == draw(st.integers(0, array.size))
        )
    if form == "reversed" and array.ndim:
        return array[::-1]
    return {"generator": iter([1, 2]), "none": None}.get(form, array) if draw(st.integers(0, 9)) == 0 else array


def outcome(do: Any) -> Any:
    """What comes out, or None where capmismatch refuses it with a message; anything else fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return do()
        except CapmismatchError as error:
            assert len(str(error)) > 15
            return None


@fuzz
@given(logits=mutated(LOGITS), labels=mutated(LABELS))
def test_arrays_of_logits_and_labels(logits: Any, labels: Any) -> None:
    bank = outcome(lambda: bank_from_arrays({"a": logits}, labels))
    if bank is not None:
        stored = bank.logits("logits/a")
        assert np.isfinite(stored).all() and np.abs(stored.astype(float)).max() <= 1e30
        assert len(stored) == len(bank.labels()) and stored.shape[1] > bank.labels().max() >= 0
        given = for_file(labels).reshape(-1)
        given = torch.from_numpy(given.view(np.int16)).view(torch.bfloat16) if given.dtype.str == "|V2" else given
        np.testing.assert_array_equal(np.asarray(given.tolist(), float), bank.labels())


@fuzz
@given(
    logits=mutated(LOGITS),
    labels=mutated(LABELS),
    packed=st.booleans(),
    flips=st.lists(st.integers(0, 10**6), max_size=2),
)
def test_files_of_logits(
    tmp_path_factory: pytest.TempPathFactory, logits: Any, labels: Any, packed: bool, flips: list[int]
) -> None:
    path = tmp_path_factory.mktemp("f") / "a.npz"
    (np.savez_compressed if packed else np.savez)(
        path,
        labels=for_file(labels),
        logits_a=for_file(logits),
    )
    damage(path, flips)
    family = outcome(lambda: load_family(f"logits:{path}"))
    if family is not None:
        rows, stored = family["a"].saved()
        assert np.isfinite(stored).all() and stored.shape == (len(rows.labels), len(rows.classes))


@fuzz
@given(
    inputs=mutated(np.zeros((ROWS, 4, 4, 3), np.uint8)),
    labels=mutated(LABELS),
    flips=st.lists(st.integers(0, 10**6), max_size=1),
)
def test_files_of_data(tmp_path_factory: pytest.TempPathFactory, inputs: Any, labels: Any, flips: list[int]) -> None:
    path = tmp_path_factory.mktemp("d") / "d.npz"
    np.savez(
        path,
        labels=for_file(labels),
        images=for_file(inputs),
    )
    damage(path, flips)
    data = outcome(lambda: load_dataset(f"npz:{path}"))
    if data is not None:
        assert len(data.inputs) == len(data) and data.inputs.dtype.kind in "biuf" and len(data.classes) <= 1000


class Pairs:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


TARGETS = st.sampled_from(
    [
        0,
        1,
        2,
        np.int64(1),
        np.array([1]),
        torch.tensor(2),
        torch.tensor([0]),
        1.0,
        0.7,
        True,
        None,
        "cat",
        b"1",
        -1,
        2**40,
        [0, 1],
        {},
        np.nan,
        1j,
    ]
)
PICTURES = st.sampled_from(
    [Image.new(mode, (4, 4)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")]
    + [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.float32),
        torch.zeros(3, 4, 4),
        None,
        "a.png",
        np.zeros(2, complex),
    ]
)


@fuzz
@given(items=st.lists(st.tuples(PICTURES, TARGETS), min_size=1, max_size=4))
def test_map_style_sets(items: list[Any]) -> None:
    data = outcome(lambda: load_dataset(Pairs(items)))
    if data is not None:
        assert [int(np.asarray(label).reshape(-1)[0]) for _, label in items] == data.labels.tolist()
        batch = data.inputs[:]
        assert len(batch) == len(items) and not (isinstance(batch, np.ndarray) and batch.dtype.kind not in "buif")


@fuzz
@given(
    mode=st.sampled_from(["1", "L", "P", "RGB", "RGBA", "I;16"]),
    flips=st.lists(st.integers(0, 10**6), max_size=4),
    cut=st.integers(0, 60),
)
def test_images_in_folders(tmp_path_factory: pytest.TempPathFactory, mode: str, flips: list[int], cut: int) -> None:
    root = tmp_path_factory.mktemp("i")
    for name in ("a", "b"):
        (root / name).mkdir()
        Image.new("RGB", (4, 4)).save(root / name / "0.png")
    stream = io.BytesIO()
    Image.new(mode, (4, 4)).save(stream, "PNG")
    (root / "a" / "1.png").write_bytes(stream.getvalue()[: -cut or None])
    damage(root / "a" / "1.png", flips)
    data = outcome(lambda: load_dataset(f"folder:{root}"))
    if data is not None:
        assert all(np.asarray(image).dtype == np.uint8 for image in data.inputs[:])


@fuzz
@given(
    ids=st.lists(
        st.one_of(st.text(max_size=3), st.binary(max_size=3), st.none(), st.integers()), min_size=2, max_size=3
    ),
    classes=st.one_of(
        st.lists(st.one_of(st.text(max_size=3), st.binary(max_size=3), st.none()), max_size=3), st.text(), st.none()
    ),
    split=st.one_of(st.none(), st.lists(st.sampled_from(["val", "test", "dev", b"val", None, 3]), max_size=3)),
)
def test_names_and_ids(ids: Any, classes: Any, split: Any) -> None:
    rows = outcome(lambda: make_rows("a", [0, 1], classes, ids=ids, split=split))
    if rows is not None:
        assert len(set(rows.ids)) == len(ids) == 2 and len(set(rows.classes)) == len(rows.classes) >= 2
        assert "\0".join([*rows.ids, *rows.classes]).encode()


def damage(path: Path, flips: list[int]) -> None:
    """Flip a bit for each of some numbers."""
    content = bytearray(path.read_bytes())
    for flip in flips if content else []:
        content[flip % len(content)] ^= 1 << flip % 8
    path.write_bytes(bytes(content))


def for_file(values: Any) -> Any:
    """What NumPy can save: tensors as arrays, ragged lists as objects."""
    if isinstance(values, torch.Tensor):
        return values.float().numpy()
    try:
        return np.asarray(values)
    except ValueError:
        return np.array([0, values], object)
