"""Image folders as people have them: parts, annotations, what is left out, and layouts that leave a doubt."""

from __future__ import annotations

import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capmismatch.data.datasets import load_dataset
from capmismatch.errors import InputError


def fill(folder: Path, *names: str) -> str:
    """Small images, each of its own grey; the source of the folder."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (number,) * 3).save(file)
    return f"folder:{folder}"


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        (("train", "valid", "test"), {"test", "train", "val"}),
        (("train", "validation"), {"train", "val"}),
        (("Train", "Val"), {"train", "val"}),
        (("TRAINING", "Testing"), {"train", "test"}),
    ],
)
def test_parts_in_any_spelling(tmp_path: Path, parts: tuple[str, ...], splits: set[str]) -> None:
    data = load_dataset(fill(tmp_path, *(f"{part}/{name}/0.png" for part in parts for name in ("cat", "dog"))))
    assert data.classes == ("cat", "dog")
    assert set(data.rows.split) == splits
    assert data.labels.tolist() == [0, 1] * len(parts)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load_dataset(fill(tmp_path, "bus/0.png", "car/0.png", "train/0.png"))
    assert data.classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/airfield/0.png", "a/alley/0.png", "b/beach/0.png"), "'a' holds no image, only the folders"),
        (("a/airfield/0.png", "b/beach/0.png"), "'a' holds no image, only the folders .'airfield'"),
        (("train/a/airfield/0.png", "train/a/alley/0.png"), "'a' holds no image"),
        (("tiny/train/cat/0.png", "tiny/val/cat/0.png"), r"'tiny' holds no image, only the folders \['train', 'val'"),
        (("cat/train/0.png", "dog/train/0.png"), "'cat' holds no image, only the folders .'train'"),
        (("train/cat/0.png", "val/cat/0.png", "extra/0.png"), r"the parts \['train', 'val'\] beside \['extra'\]"),
        (("train/cat/0.png", "train/dog/0.png", "val/cow/0.png"), r"got 1 others in 'val': \['cow'\]"),
        (("val/cat/0.png", "valid/cat/0.png"), r"each split once in .*\['val', 'valid'\], which are all 'val'"),
        (("train/0.png", "test/0.png"), "got 1 images without a label in test, 1 images without a label in train"),
    ],
)
def test_layouts_in_doubt_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(fill(tmp_path, *names))


def tiny(folder: Path, annotated: list[str]) -> str:
    fill(folder, *(f"train/n{k}/images/n{k}_{i}.JPEG" for k in range(2) for i in range(2)))
    fill(folder, *(f"val/images/val_{i}.JPEG" for i in range(3)), "test/images/test_0.JPEG")
    text = "".join(f"val_{i}.JPEG\t{name}\t0\t0\t9\t9\n" for i, name in enumerate(annotated))
    (folder / "val" / "val_annotations.txt").write_text(text)
    return f"folder:{folder}"


def test_tiny_imagenet_as_it_is_distributed(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="left out 1 images without a label in test; read 7 images"):
        data = load_dataset(tiny(tmp_path, ["n1", "n0", "n1"]))
    assert data.classes == ("n0", "n1")
    assert data.part("val").labels.tolist() == [1, 0, 1]
    assert data.part("val").rows.ids.tolist() == [f"val/images/val_{i}.JPEG" for i in range(3)]


@pytest.mark.parametrize(
    ("annotated", "message"),
    [
        (["n1", "n0", "n7"], r"got 1 others in 'val': \['n7'\]"),
        (["n1", "n0", "n0", "n1"], "names 4 images, but there is no image 'val_3.JPEG'"),
        ([], "names 0 images, but there is no image that it names"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path: Path, annotated: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(tiny(tmp_path, annotated))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "cat/0.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "cat/._0.png", "dog/0.png", "dog/1.jp2")
    source = fill(tmp_path, "__MACOSX/cat/x.png", ".git/y.png", "stray.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image, and not expected to be one")
    with pytest.warns(UserWarning) as told:
        data = load_dataset(source)
    (message,) = [str(one.message) for one in told]
    assert "left out 1 .jp2 files, 4 hidden images, 1 images in no class folder; read 2 images" in message
    assert data.rows.ids.tolist() == ["cat/0.png", "dog/0.png"]


def test_folders_named_by_numbers_stand_by_value(tmp_path: Path) -> None:
    source = fill(tmp_path, *(f"{k}/0.png" for k in range(11)))
    with pytest.warns(UserWarning, match="numbers, taken by value"):
        data = load_dataset(source)
    assert data.classes == tuple(map(str, range(11)))
    given = sorted(data.classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_dataset(source, classes=given)
    assert again.classes == tuple(given)
    assert [again.classes[label] for label in again.labels] == [data.classes[label] for label in data.labels]


def test_a_doubtful_order_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="taken as text .Banana, apple., as torchvision"):
        data = load_dataset(fill(tmp_path, "apple/0.png", "Banana/0.png"))
    assert data.classes == ("Banana", "apple") and data.part("val").doubt


def test_the_same_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    name = "caf\u00e9"
    data = load_dataset(
        fill(
            tmp_path,
            f"train/{unicodedata.normalize('NFD', name)}/0.png",
            "train/tea/0.png",
            f"val/{name}/0.png",
            "val/tea/0.png",
        )
    )
    assert data.classes == (name, "tea")
    assert data.labels.tolist() == [0, 1, 0, 1]


def test_a_class_that_a_part_lacks_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'val' has no image of 1 classes, ..dog.."):
        load_dataset(fill(tmp_path, "train/cat/0.png", "train/dog/0.png", "val/cat/0.png"))


def test_classes_give_order_or_names() -> None:
    data = load_dataset("letters", split={"test": 200})
    back = data.with_classes(data.classes[::-1])
    np.testing.assert_array_equal(back.labels, 25 - data.labels)
    assert back.rows.fingerprint != data.rows.fingerprint
    named = data.with_classes([f"letter {name}" for name in data.classes])
    np.testing.assert_array_equal(named.labels, data.labels)
    for wrong in (data.classes[1:], ["?", *data.classes[1:]]):
        with pytest.raises(InputError, match="expected the 26 classes of 'letters' in some order"):
            data.with_classes(wrong)


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    source = fill(tmp_path, "cat/1.png", "dog/1.png")
    os.mkfifo(tmp_path / "cat/p.png")
    with pytest.raises(InputError, match=r"an image at .*cat/p\.png, got no file"):
        load_dataset(source)
    (tmp_path / "cat/p.png").unlink()
    (tmp_path / "dog/2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"dog/2\.png, got a link to .*gone\.png, which is not there"):
        load_dataset(source)
    Image.new("RGB", (3, 3), (9, 9, 9)).save(tmp_path / "gone.png")
    assert len(load_dataset(source)) == 3
