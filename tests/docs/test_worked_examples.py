"""The files in examples/ run, and what they do is right: each example meets its own soft labels, however shuffled."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from capmismatch.losses import Criterion
from capmismatch.sources import letters

FOLDER = Path(__file__).parents[2] / "examples"
NEEDS = {"plain_loop": "torch", "lightning_module": "lightning", "hf_trainer": "transformers"}


def test_every_example_is_run() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == {*NEEDS, "letters_data"}


def test_the_index_lists_every_example_and_notebook() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = [*FOLDER.glob("*.py"), *(FOLDER.parent / "notebooks").glob("*.ipynb")]
    assert [file.name for file in files if f"{file.name})" not in index] == []


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
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    accuracy = module.main(rows=400, epochs=20)
    assert accuracy > 0.2  # chance is 0.04
    assert [rows for rows, _, _ in batches] == [100] * 4 * 20
    # The teacher is right about most of its training rows: strangers' soft labels would agree with 1 in 26.
    assert min(agreeing for _, agreeing, _ in batches) > 0.8
    assert not torch.equal(batches[0][2], batches[4][2])  # shuffled from epoch to epoch
    assert list(tmp_path.iterdir()) == []
