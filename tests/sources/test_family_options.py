"""Options of families are of the type that their source asks for, from Python as from a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capmismatch import load_study
from capmismatch.errors import InputError
from capmismatch.sources.families import load_family

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("letters:mlp", {"widths": "12"}),
    ("letters:mlp", {"widths": 12}),
    ("letters:mlp", {"widths": [8.5]}),
    ("letters:mlp", {"widths": [True]}),
    ("letters:mlp", {"widths": [2**40]}),
    ("letters:mlp", {"seeds": 2**70}),
    ("letters:mlp", {"seeds": 1.0}),
    ("letters:mlp", {"folder": 3}),
    ("letters:mlp", {"name": 3}),
    ("letters:mlp", {"by_position": "no"}),
    ("torchvision:resnet18", {"weights": 5}),
    ("torchvision:resnet18", {"seed": "1"}),
    ("timm:resnet18", {"seed": 2**64}),
    ("hf:owner/name", {"revision": 1}),
    ("ckpt:*.pt", {"builder": 3}),
    ("ckpt:*.pt", {"builder": "arch:mlp8", "mean": 0.5, "std": 0.5}),
    ("ckpt:*.pt", {"builder": "arch:mlp8", "mean": [0.0], "std": [float("inf")]}),
    ("ckpt:*.pt", {"builder": "arch:mlp8", "mean": ["0"], "std": [1.0]}),
    ("logits:a.npz", {"probabilities": True}),
]


@pytest.mark.parametrize(("spec", "options"), WRONG)
def test_a_wrong_type_is_named(spec: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        load_family(spec, **options)


def test_lists_tuples_and_arrays_are_alike() -> None:
    keys = [[t.key for t in load_family("letters:mlp", widths=w, seeds=1)] for w in ([8, 9], (8, 9), np.array([8, 9]))]
    assert keys == [["mlp/mlp8-s0", "mlp/mlp9-s0"]] * 3


@pytest.mark.parametrize("line", ["base = 5", 'base = "elsewhere"', "train = 1"])
def test_a_study_sets_some_options_itself(tmp_path: Path, line: str) -> None:
    np.savez(tmp_path / "l.npz", labels=[0, 1], logits_a=np.eye(2))
    (tmp_path / "study.toml").write_text(f'name = "s"\n[[family]]\nsource = "logits:l.npz"\n{line}\n')
    with pytest.raises(InputError, match=line.split()[0]):
        _ = load_study(tmp_path / "study.toml").family
