"""Published CIFAR-10 networks through the whole way in: their accuracies, and two sources that must agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import load_dataset
from capmismatch.diagnostics.tables import probe
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import load_family

pytestmark = pytest.mark.real_data

ROWS = 600
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NAMES = ["resnet20", "resnet32", "resnet44", "resnet56"]


@pytest.fixture
def banks(real_data: Path, tmp_path: Path) -> tuple[LogitBank, LogitBank]:
    """The same teachers on the same images, by running them and from their saved logits."""
    folder = real_data / "cifar10"
    images = load_dataset(f"npz:{folder}/test.npz").take(np.arange(ROWS))
    run = load_family(f"ckpt:{folder}/teachers_a/*.pt", name="A", builder="arch:cifar_{stem}", mean=MEAN, std=STD)
    kept = load_family(f"logits:{folder}/teachers_a_test_logits.npz", name="A")
    return tuple(  # type: ignore[return-value]
        collect(family, images, tmp_path / name, progress=False, batch_size=100)
        for name, family in (("run", run), ("saved", kept))
    )


def test_checkpoints_give_the_saved_logits_and_the_same_probes(banks: tuple[LogitBank, LogitBank]) -> None:
    run, saved = banks
    assert [record.teacher for record in run.teachers] == NAMES
    for name in NAMES:
        np.testing.assert_allclose(run.logits(f"A/{name}"), saved.logits(f"A/{name}"), atol=1e-3)
    keys = ["family", "teacher", "tau", "probe", "split"]
    one, other = (probe(bank, progress=False).sort_values(keys).reset_index(drop=True) for bank in banks)
    known = one["probe"] != "log_params"  # saved logits do not tell the size
    pd.testing.assert_frame_equal(one[keys], other[keys])
    np.testing.assert_allclose(one["value"][known], other["value"][known], atol=1e-4, rtol=1e-4)
    assert one["value"][known].notna().all()


def test_saved_logits_have_the_published_accuracies(real_data: Path, tmp_path: Path) -> None:
    family = load_family(f"logits:{real_data}/cifar10/teachers_a_test_logits.npz")
    images = load_dataset(f"npz:{real_data}/cifar10/test.npz")
    for teacher, accuracy in zip(family, [0.9167, 0.9254, 0.9305, 0.9331], strict=True):
        rows, logits = teacher.saved()
        assert round(float((logits.argmax(1) == images.labels).mean()), 4) == accuracy
        np.testing.assert_array_equal(rows.labels, images.labels)


@pytest.mark.parametrize(
    ("pattern", "builder", "names"),
    [
        ("resnet8.pt", "arch:cifar_{stem}_stem64", ["resnet8"]),
        ("wrn10_1.pt", "arch:wrn-10-1", ["wrn10_1"]),
    ],
)
def test_family_b_loads_and_recognises(real_data: Path, pattern: str, builder: str, names: list[str]) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    family = load_family(f"ckpt:{real_data}/cifar10/teachers_b/{pattern}", builder=builder, mean=mean, std=std)
    assert [teacher.name for teacher in family] == names
    images = load_dataset(f"npz:{real_data}/cifar10/test.npz").take(np.arange(ROWS))
    assert (family[0].logits(images.inputs).argmax(1) == images.labels).mean() > 0.85
