"""Two processes of torchrun at one training: the result is that of one process."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from processes import launched, run_script
from safetensors.torch import load_file
from studies import letters_study

from capmismatch.study.study import load_study

pytestmark = pytest.mark.slow

SCRIPT = textwrap.dedent("""
    import os, sys
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from capmismatch import architectures
    from capmismatch.errors import InputError
    from capmismatch.distillation.methods import Method
    from capmismatch.study.study import load_study
    from capmismatch.training.loop import Checkpoint, Recipe, evaluate, fit

    torch.set_num_threads(1)
    folder, rank = sys.argv[1], int(os.environ.get("RANK", 0))
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 45, 3, 8, 8, generator=generator)  # batches of 16, 16 and 13: odd shares too
    labels = torch.randint(4, (45,), generator=generator)
    logits = 2 * torch.randn(2, 45, 4, generator=generator)
    seen = []

    def validate(network):
        seen.append("validated")
        return -float(nn.functional.cross_entropy(evaluate(network, views[0], lambda x: x), labels))

    for name, method, options in (
        ("plain", None, {}),
        ("columns", Method("DIST"), {"shift": 1}),  # a loss that is no mean over rows
        ("learnt", Method("CTKD"), {"optimizer": "sgd", "lr": 0.05}),  # a loss with a parameter
        ("best", Method("KD"), {"keep_best": True, "patience": 2, "lr": 0.05}),
    ):
        torch.manual_seed(1)
        network = architectures.build("resnet8x1", num_classes=4)
        recipe = Recipe(**{"epochs": 3, "batch_size": 16, "lr": 1e-3, "schedule": "constant", **options})
        taught = {}
        if method is not None:
            taught = {"criterion": method.criterion(network, recipe.epochs), "soft": logits.softmax(-1)}
        losses = []
        fit(
            network, views, labels, recipe, seed=3, validate=validate if recipe.keep_best else None,
            checkpoint=Checkpoint(f"{folder}/{name}.checkpoint", seconds=0),
            after_epoch=lambda epoch, loss: losses.append(loss), **taught,
        )
        assert not any("forward" in vars(m) for m in network.modules())  # batch normalisation is its own again
        state = {**network.state_dict(), "losses": torch.tensor(losses)}
        if method is not None:
            state |= {f"criterion.{key}": value for key, value in taught["criterion"].state_dict().items()}
        save_file({key: value.contiguous() for key, value in state.items()}, f"{folder}/{name}.{rank}.safetensors")
    print(f"validated {rank} {len(seen)}\\n", end="")  # in one write: both processes share the pipe
    try:
        fit(nn.Linear(2, 2), torch.zeros(1, 17, 2), labels[:17] % 2, Recipe(epochs=1, batch_size=16), seed=0)
    except InputError as error:
        print(f"refused {rank}: {error}")
    load_study(f"{folder}/study.toml", workers=int(os.environ.get("WORLD_SIZE", 1)), progress=False).distill()
""")
STUDY = letters_study(
    rows=(200, 300, 200),
    family='source = "logits:family.npz"',
    recipe="epochs = 2, batch_size = 50",
    methods=("CE",),
)


def start(folder: Path, processes: int) -> str:
    """Run the script in processes that have what torchrun gives; what they print."""
    import numpy as np

    from capmismatch.data.datasets import load_dataset

    folder.mkdir()
    (folder / "study.toml").write_text(STUDY)
    rows = load_dataset("letters", split={"train": 200, "val": 300, "test": 200}).rows
    held_out = rows.split != "train"
    logits = np.random.default_rng(0).normal(size=(held_out.sum(), 26))
    np.savez(
        folder / "family.npz",
        labels=rows.labels[held_out],
        ids=rows.ids[held_out],
        classes=rows.classes,
        logits_one=logits,
    )
    load_study(folder / "study.toml", progress=False).collect()
    ends = launched(lambda: run_script(SCRIPT, folder), folder / "output", processes)
    printed = "".join(output for _, output in ends)
    assert [status for status, _ in ends] == [0] * processes, printed
    return printed


def test_two_processes_train_what_one_would(tmp_path: Path) -> None:
    alone, both = start(tmp_path / "one", 1), start(tmp_path / "two", 2)
    for name in ("plain", "columns", "learnt", "best"):
        wanted = load_file(tmp_path / "one" / f"{name}.0.safetensors")
        first, second = (load_file(tmp_path / "two" / f"{name}.{rank}.safetensors") for rank in (0, 1))
        assert second.pop("losses").numel() == 0  # `after_epoch` is called in the first process alone
        assert wanted["losses"].numel() == 3
        for key, value in wanted.items():
            torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")
            assert key == "losses" or torch.equal(first[key], second[key])
    assert "validated 0 3" in alone
    assert {"validated 0 3", "validated 1 0"} <= set(both.splitlines())
    for rank in (0, 1):
        assert f"refused {rank}: expected a row of the last batch for each of 2 processes: 17 rows" in both
    one, two = (load_study(tmp_path / name / "study.toml").load("results") for name in ("one", "two"))
    assert len(one) == len(two) == 4
    assert (one["accuracy"] - two["accuracy"]).abs().max() < 0.011  # two rows of 200 may fall on the other side
    runs = [sorted(file.name for file in folder.iterdir()) for folder in (tmp_path / "two" / "runs").iterdir()]
    assert runs == [[".lock", "config.json", "log.jsonl", "result.json"]] * 2
