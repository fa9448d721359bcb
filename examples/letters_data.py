"""What the examples share: a data set whose items know their id, and a file of a teacher's soft labels by id."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import capmismatch as cm


class Letters(Dataset[tuple[Tensor, Tensor, str]]):
    """Items (input, label, id) of one part of the letters: the id is what soft labels are looked up by."""

    def __init__(self, part: cm.Dataset) -> None:
        self.inputs = (torch.from_numpy(part.inputs).float() - 7) / 3
        self.labels = torch.from_numpy(part.labels)
        self.ids = [str(name) for name in part.rows.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        """One example, with its id."""
        return self.inputs[index], self.labels[index], self.ids[index]


def letters_with_soft_labels(folder: str | os.PathLike[str], rows: int = 2000) -> tuple[Letters, Letters, Path]:
    """Train a teacher in seconds, and write its soft labels of the training rows.

    With a study of your own, ``capmismatch soften study.toml --method isats --out soft.safetensors`` does the latter.
    """
    data = cm.load_dataset("letters", split={"train": rows, "val": 1000, "test": 17000})
    train = data.part("train")
    teacher = cm.load_family("letters:mlp", widths=[192], seeds=1, train=train, folder=folder)
    bank = cm.collect(teacher, train, Path(folder, "bank"), progress=False)
    file = cm.soft_labels(bank, method="ISATS").write(Path(folder, "soft.safetensors"))
    return Letters(train), Letters(data.part("val")), file
