"""Distil with Lightning, from a file of soft labels. Run: ``python examples/lightning_module.py``."""

from __future__ import annotations

import tempfile

import lightning
import torch
from letters_data import letters_with_soft_labels
from torch import Tensor, nn
from torch.utils.data import DataLoader

import capmismatch as cm


class Distilled(lightning.LightningModule):
    """A student that is taught by soft labels, looked up by the ids of its batch."""

    def __init__(self, student: nn.Module, soft: cm.SoftLabels) -> None:
        super().__init__()
        self.student, self.soft = student, soft
        self.criterion = cm.losses.Criterion("soft_cross_entropy")

    def on_train_epoch_start(self) -> None:
        """For the losses that have a warm-up or a curriculum."""
        self.criterion.set_epoch(self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor, list[str]], _: int) -> Tensor:
        """Loss of a batch."""
        x, y, ids = batch
        return self.criterion(self.student(x), y, self.soft.of(ids).to(self.device))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """All parameters: some criteria have one of their own."""
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def main(rows: int = 2000, epochs: int = 30) -> float:
    """Train a small student; return its accuracy on validation rows."""
    lightning.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        train, val, file = letters_with_soft_labels(folder, rows)
        soft = cm.load_soft_labels(file)
    student = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 26))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Distilled(student, soft), DataLoader(train, batch_size=100, shuffle=True))
    return (student(val.inputs).argmax(1) == val.labels).double().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
