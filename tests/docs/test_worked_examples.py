"""The files in examples/ run, and what they do is right: each example meets its own soft labels, however shuffled."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from capmismatch import losses as losses_of
from capmismatch.losses import Criterion
from capmismatch.sources import letters

FOLDER = Path(__file__).parents[2] / "examples"
NEEDS = {"plain_loop": "torch", "lightning_module": "lightning", "hf_trainer": "transformers"}


def test_every_example_is_run() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == {*NEEDS, "letters_data", "lm_hf_trainer"}


def test_the_index_lists_every_example_and_notebook() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = [*FOLDER.glob("*.py"), *(FOLDER.parent / "notebooks").glob("*.ipynb")]
    assert [file.name for file in files if f"{file.name})" not in index] == []


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # of the trainer, about devices
def test_a_language_model_learns_two_steps_from_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    module, plain, losses = _example("lm_hf_trainer"), losses_of.listed_kl, []

    def look(student: torch.Tensor, ids: torch.Tensor, logs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        told, p = mask.nonzero()[:, 0], logs[mask].double().exp()
        q = torch.softmax(student[mask].detach().double(), 1).gather(1, ids[mask])
        rest_p, rest_q = 1 - p.sum(1), 1 - q.sum(1)
        expected = (p * (p / q).log()).sum(1) + rest_p * (rest_p / rest_q).log()
        loss = plain(student, ids, logs, mask=mask)
        losses.append((len(told), float(loss), float(expected.mean())))
        return loss

    monkeypatch.setattr(losses_of, "listed_kl", look)
    before, after = module.main(teacher_steps=2, steps=2)
    assert len(losses) == 2 and all(rows == 16 * 62 for rows, _, _ in losses)
    assert [loss for _, loss, _ in losses] == pytest.approx([expected for _, _, expected in losses], rel=1e-4)
    assert losses[1][1] < losses[0][1] and after != before and abs(before - math.log(512)) < 0.1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.filterwarnings("ignore")  # of the trainers, about workers and devices
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=40, batch_size=50))
    batches: list[tuple[int, float, torch.Tensor]] = []
    plain = Criterion.parts

    def look(self, logits: torch.Tensor, labels: torch.Tensor, soft: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at_label = soft.gather(1, labels[:, None])[:, 0]  # ISATS lets a wrong class come up to the target, not beyond
        batches.append((len(labels), (at_label > soft.amax(1) - 1e-5).float().mean().item(), labels))
        return plain(self, logits, labels, soft)

    monkeypatch.setattr(Criterion, "parts", look)
    accuracy = _example(name).main(rows=400, epochs=20)
    assert accuracy > 0.2  # chance is 0.04
    assert [rows for rows, _, _ in batches] == [100] * 4 * 20
    # The teacher is right about most of its training rows: strangers' soft labels would agree with 1 in 26.
    assert min(agreeing for _, agreeing, _ in batches) > 0.8
    assert not torch.equal(batches[0][2], batches[4][2])  # shuffled from epoch to epoch
    assert list(tmp_path.iterdir()) == []
