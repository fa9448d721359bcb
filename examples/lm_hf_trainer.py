"""Distil a language model with the Trainer of transformers: ``python examples/lm_hf_trainer.py``.

A small Llama learns the beginning of the King James Bible, its logits are condensed, lists of its likeliest next tokens
become a data set, and a smaller Llama learns from these. The lists tell how much probability they leave to all other
tokens, so that nothing has to be renormalised.
"""

from __future__ import annotations

import gzip
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from datasets import load_from_disk
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

import capmismatch as cm


class ListTrainer(Trainer):
    """A Trainer whose students learn from a teacher's lists of likely next tokens."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Divergence from the teacher at the positions that have a list; position i predicts token i + 1."""
        outputs = model(input_ids=inputs["input_ids"])
        loss = cm.losses.listed_kl(
            outputs.logits[:, :-1].flatten(0, 1),
            inputs["token_ids"].flatten(0, 1),
            inputs["logprobs"].flatten(0, 1),
            mask=inputs["labels"][:, 1:].flatten() != -100,
        )
        return (loss, outputs) if return_outputs else loss


def collate(items: list[dict[str, list[Any]]]) -> dict[str, Tensor]:
    """Sequences of several lengths as one batch; what fills up the shorter ones has no label."""
    fill = {"input_ids": 0, "labels": -100, "token_ids": 0, "logprobs": -torch.inf}
    return {
        name: nn.utils.rnn.pad_sequence([torch.tensor(item[name]) for item in items], True, value)
        for name, value in fill.items()
    }


def llama(vocabulary: int, width: int, layers: int, seed: int) -> nn.Module:
    """A language model with random weights; students and teachers take other seeds."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    config = LlamaConfig(vocab_size=vocabulary, num_attention_heads=4, max_position_embeddings=64, **sizes)
    return AutoModelForCausalLM.from_config(config)


def arguments(folder: str, steps: int) -> TrainingArguments:
    """What both trainings share."""
    return TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        use_cpu=True,
        seed=0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # the model itself takes no lists
    )


def nll(model: nn.Module, text: cm.Dataset) -> float:
    """Mean negative log likelihood of a text's tokens, in nats."""
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(text.inputs.windows).long()).logits
    at_rows = logits[text.inputs.window, text.inputs.position]
    return nn.functional.cross_entropy(at_rows, torch.from_numpy(text.labels)).item()


def main(teacher_steps: int = 300, steps: int = 200) -> tuple[float, float]:
    """Train a student; return its negative log likelihood on other windows, before and after."""
    with tempfile.TemporaryDirectory() as folder:
        bible = gzip.decompress(resources.files("capmismatch").joinpath("embedded/kjv.txt.gz").read_bytes())
        file = Path(folder, "text.txt")
        file.write_bytes(bible[:100_000])
        text = cm.load_dataset(f"text:{file}", tokenizer="bpe:512", window=64, split={"train": 400, "val": 60})
        train, val = text.part("train"), text.part("val")

        teacher = llama(512, 64, 2, seed=1)
        windows = [{"input_ids": window, "labels": window} for window in train.inputs.windows.astype("int64").tolist()]
        Trainer(teacher, arguments(folder, teacher_steps), train_dataset=windows).train()
        teacher.save_pretrained(f"{folder}/teacher")
        Path(folder, "teacher/tokenizer.json").write_text(text.inputs.source.tokenizer, encoding="utf-8")

        family = cm.load_family(f"hf-lm:{folder}/teacher")
        bank = cm.collect(family, train, f"{folder}/bank", k=32, columns=0, dense=False, progress=False)
        cm.export_tokens(bank, train, f"{folder}/lists", "trl")
        lists = load_from_disk(f"{folder}/lists")

        student = llama(512, 32, 1, seed=0)
        before = nll(student, val)
        ListTrainer(student, arguments(folder, steps), train_dataset=lists, data_collator=collate).train()
        return before, nll(student, val)


if __name__ == "__main__":
    print("negative log likelihood {:.3f} before, {:.3f} after".format(*main()))
