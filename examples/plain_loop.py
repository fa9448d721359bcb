"""Distil in a plain PyTorch loop, from a file of soft labels. Run: ``python examples/plain_loop.py``."""

from __future__ import annotations

import tempfile

import torch
from letters_data import letters_with_soft_labels
from torch import nn
from torch.utils.data import DataLoader

import capmismatch as cm


def main(rows: int = 2000, epochs: int = 30) -> float:
    """Train a small student; return its accuracy on validation rows."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        train, val, file = letters_with_soft_labels(folder, rows)
        soft = cm.load_soft_labels(file)
    student = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 26))
    criterion = cm.losses.Criterion("soft_cross_entropy", ce_weight=0.5, kd_weight=0.5)
    optimizer = torch.optim.AdamW([*student.parameters(), *criterion.parameters()], lr=5e-3)
    for epoch in range(epochs):
        criterion.set_epoch(epoch)  # for the losses that have a warm-up or a curriculum
        for x, y, ids in DataLoader(train, batch_size=100, shuffle=True):
            loss = criterion(student(x), y, soft.of(ids))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (student(val.inputs).argmax(1) == val.labels).double().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
