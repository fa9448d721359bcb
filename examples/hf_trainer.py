"""Distil with the Trainer of transformers, from a file of soft labels. Run: ``python examples/hf_trainer.py``."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from letters_data import letters_with_soft_labels
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import capmismatch as cm


class DistillationTrainer(Trainer):
    """A Trainer whose loss is a criterion of student logits, labels and soft labels."""

    def __init__(self, *args: Any, criterion: cm.losses.Criterion, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.criterion = criterion
        self.add_callback(_TellEpoch(criterion))

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Loss of a batch."""
        logits = model(inputs["x"])
        loss = self.criterion(logits, inputs["labels"], inputs["soft_labels"])
        return (loss, {"logits": logits}) if return_outputs else loss


class _TellEpoch(TrainerCallback):
    """For the losses that have a warm-up or a curriculum."""

    def __init__(self, criterion: cm.losses.Criterion) -> None:
        self.criterion = criterion

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the epoch that begins."""
        self.criterion.set_epoch(int(state.epoch or 0))


def main(rows: int = 2000, epochs: int = 30) -> float:
    """Train a small student; return its accuracy on validation rows."""
    with tempfile.TemporaryDirectory() as folder:
        train, val, file = letters_with_soft_labels(folder, rows)
        soft = cm.load_soft_labels(file)

        def collate(items: list[tuple[Tensor, Tensor, str]]) -> dict[str, Tensor]:
            x, labels, ids = zip(*items, strict=True)
            return {"x": torch.stack(x), "labels": torch.stack(labels), "soft_labels": soft.of(ids)}

        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 26))
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=100,
            learning_rate=5e-3,
            use_cpu=True,
            seed=0,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,  # the collator needs the ids, whatever the student takes
        )
        criterion = cm.losses.Criterion("soft_cross_entropy")
        DistillationTrainer(student, arguments, train_dataset=train, data_collator=collate, criterion=criterion).train()
    return (student(val.inputs).argmax(1) == val.labels).double().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
