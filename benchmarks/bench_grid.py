"""A grid of students against the usual loop: ResNet-56 teaches ResNet-8 on CIFAR-10, 3 methods x 4 seeds.

    python benchmarks/bench_grid.py [--quick] [--steps 300] [--rounds 2] [--out benchmarks/grid.csv]

The usual loop trains one student after another on all threads, runs the teacher in every step, and leaves images and
convolutions in PyTorch's default layout. Ours is `capmismatch distill`: each view of the images goes through the
teacher once, students are trained side by side, one thread each. All of it is timed: the command and its processes that
start, soft labels, evaluation. Both sides take turns, half of the seeds a round. Beside the ratio of wall times stands
that of processor times, in which other work on the machine does not count, nor do threads that wait for each other.

Losses are compared step by step twice: from the same weights (ours, put into the usual loop's network before every
step), and each side going its own way, where what rounding makes of another layout in memory grows from step to step.

Needs the images and checkpoints in $CAPMISMATCH_REAL_DATA (the folder that holds cifar10/).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np
import pandas as pd
import torch
from _table import show
from torch import Tensor, nn

from capmismatch.distillation.runs import Run, plan
from capmismatch.distillation.student_trainer import Trainer
from capmismatch.study.study import Study
from capmismatch.training.loop import evaluate, fit

THREADS = 2
BATCH = 128
SEEDS = 4
TARGET_RATIO = 4.0
TARGET_LOSS = 1e-5
TARGET_LOADER = 0.9
STUDY = """
name = "bench"
[data]
source = "npz:${CAPMISMATCH_REAL_DATA}/cifar10/test.npz"
split = { val = 250, test = 250 }
train = "npz:${CAPMISMATCH_REAL_DATA}/cifar10/train.npz"
train_rows = ROWS
[[family]]
source = "ckpt:${CAPMISMATCH_REAL_DATA}/cifar10/teachers_a/resnet56.pt"
builder = "arch:cifar_{stem}"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[collect]
channels_last = true
[distill]
students = ["resnet8x1"]
seeds = SEEDS
views = { kind = "flip" }
recipe = { epochs = EPOCHS, batch_size = BATCH, optimizer = "sgd", lr = 0.05, schedule = "cosine", weight_decay = 5e-4 }
center = [0.4914, 0.4822, 0.4465]
scale = [0.2470, 0.2435, 0.2616]
[[distill.methods]]
name = "KD"
[[distill.methods]]
name = "ATS"
[[distill.methods]]
name = "DKD"
"""

Row = dict[str, object]


def write_study(folder: Path, batches: int, epochs: int, seeds: int) -> Study:
    """A study of so many batches an epoch."""
    text = STUDY.replace("ROWS", str(batches * BATCH)).replace("EPOCHS", str(epochs)).replace("BATCH", str(BATCH))
    (folder / "study.toml").write_text(text.replace("SEEDS", str(seeds)))
    return Study(folder / "study.toml", workers=THREADS, progress=False)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds, those of processes that have ended by then included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    start = time.perf_counter()
    run()
    wall = time.perf_counter() - start
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return wall, sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(used, after, strict=True))


class Usual:
    """The loop that one would write for one student, over the same rows in the same order."""

    def __init__(self, study: Study) -> None:
        self.study, self.trainer = study, Trainer(study)
        (self.teacher,) = study.family
        self.teacher_network = self.teacher.module().eval()

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Raw images and labels of every step."""
        views, labels = self.trainer.inputs, self.trainer.labels
        for epoch in range(self.study.recipe.epochs):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(labels), generator=generator)
            drawn = torch.randint(len(views), (len(labels),), generator=generator)
            for batch in order.split(BATCH):
                yield views[drawn[batch], batch], labels[batch]

    def loss(self, run: Run, network: nn.Module, criterion: nn.Module, raw: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.teacher_network(self.teacher.prepare(raw.numpy()).contiguous())
        soft = run.method.soft_labels(logits, labels).float()
        loss: Tensor = criterion(network(self.trainer.prepare(raw).contiguous()), labels, soft)
        return loss

    def train(self, run: Run) -> list[float]:
        """Losses of every step."""
        recipe, losses = self.study.recipe, []
        network = self.trainer.build(run.student, run.seed)
        criterion = run.method.criterion(network, recipe.epochs)
        total = recipe.epochs * -(-len(self.trainer.labels) // BATCH)
        optimizer = torch.optim.SGD(
            network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        for raw, labels in self.batches(run.seed):
            loss = self.loss(run, network, criterion, raw, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        evaluate(network, torch.from_numpy(self.study.eval_data.inputs), self.trainer.prepare)
        return losses


def grid_against_loop(folder: Path, batches: int, epochs: int, rounds: int) -> list[Row]:
    ours, usual = np.zeros(2), np.zeros(2)
    command = [sys.executable, "-m", "capmismatch", "distill", str(folder), "--workers", str(THREADS), "--quiet"]
    write_study(folder, batches, epochs, SEEDS).collect()  # what a study has already when it comes to its students
    for turn in range(rounds):
        seeds = range(SEEDS * turn // rounds, SEEDS * (turn + 1) // rounds)
        study = write_study(folder, batches, epochs, seeds.stop)  # the seeds before are done
        loop = Usual(study)
        torch.set_num_threads(THREADS)
        mine = [run for run in plan(study, study.bank) if run.seed in seeds]
        usual += timed(lambda loop=loop, mine=mine: [loop.train(run) for run in mine])
        ours += timed(partial(subprocess.run, command, check=True))
    size = f"3 methods x {SEEDS} seeds, {epochs * batches} steps of {BATCH}, {batches * BATCH} images, {THREADS} cores"
    return [
        {
            "benchmark": f"grid against the usual loop, {what}",
            "size": size,
            "ours": a,
            "other": b,
            "value": b / a,
            "unit": "ratio",
            "target": target,
        }
        for what, a, b, target in zip(
            ("wall time", "processor time"), ours, usual, (f">={TARGET_RATIO:g}", ""), strict=True
        )
    ]


def step_against_step(folder: Path, steps: int) -> list[Row]:
    """One step of each side in turn, in one thread: what a grid gains once it is under way."""
    torch.set_num_threads(1)
    study = with_soft_labels(write_study(folder, steps, 1, 1))
    usual, run = Usual(study), plan(study, study.bank)[0]
    soft, trainer = usual.trainer.soft_labels(run), usual.trainer
    networks = [trainer.build(run.student, 0), trainer._build(run.student, 0).to(memory_format=torch.channels_last)]
    optimizers = [torch.optim.SGD(n.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True) for n in networks]
    criterion = run.method.criterion()

    def live(raw: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        return usual.loss(run, networks[0], criterion, raw, labels)

    def banked(raw: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        loss: Tensor = criterion(networks[1](trainer.prepare(raw)), labels, soft)
        return loss

    def step(optimizer: torch.optim.Optimizer, loss_of: Callable[..., Tensor], *batch: Tensor) -> None:
        loss = loss_of(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    times = np.empty((steps, 2))
    for turn, (raw, labels) in enumerate(usual.batches(0)):
        for side, loss_of in enumerate((live, banked)):
            batch = (raw, labels, soft[0, turn * BATCH : (turn + 1) * BATCH])
            _, times[turn, side] = timed(partial(step, optimizers[side], loss_of, *batch))
    other, ours = np.median(times[1:], axis=0)  # the first warms up
    size = f"{run.method.label}, median of {steps - 1} steps of {BATCH}, 1 thread"
    return [
        {
            "benchmark": "step against the usual step, processor time",
            "size": size,
            "ours": ours,
            "other": other,
            "value": other / ours,
            "unit": "ratio",
            "target": "",
        }
    ]


class Recorder(nn.Module):
    """A criterion that keeps what it gave."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion, self.losses = criterion, list[float]()

    def forward(self, *batch: Tensor) -> Tensor:
        loss: Tensor = self.criterion(*batch)
        self.losses.append(loss.item())
        return loss


def with_soft_labels(study: Study) -> Study:
    study.collect()
    for number in range(study.distillation.views.count):
        study.view_bank(number)
    return study


def same_losses(folder: Path, batches: int, epochs: int) -> list[Row]:
    torch.set_num_threads(1)
    study = with_soft_labels(write_study(folder, batches, epochs, 1))
    usual, found = Usual(study), list[Row]()
    for run in plan(study, study.bank):
        network, twin = (usual.trainer.build(run.student, run.seed) for _ in range(2))
        recorder = Recorder(run.method.criterion(network, epochs))
        order, from_the_same = usual.batches(run.seed), list[float]()

        def prepare(
            raw: Tensor,
            run: Run = run,
            twin: nn.Module = twin,
            network: nn.Module = network,
            order: Any = order,
            losses: list[float] = from_the_same,
        ) -> Tensor:
            expected, labels = next(order)
            assert torch.equal(raw, expected)
            twin.load_state_dict(network.state_dict())
            losses.append(usual.loss(run, twin, run.method.criterion(twin, epochs), raw, labels).item())
            return usual.trainer.prepare(raw)

        soft = usual.trainer.soft_labels(run)
        fit(
            network,
            usual.trainer.inputs,
            usual.trainer.labels,
            study.recipe,
            seed=run.seed,
            prepare=prepare,
            criterion=recorder,
            soft=soft,
        )
        alone = usual.train(run)
        for what, other, target in (
            ("from the same weights", from_the_same, f"<={TARGET_LOSS:g}"),
            ("each going its own way", alone, ""),
        ):
            apart = np.abs(np.divide(recorder.losses, other) - 1)
            held = int(np.argmax(apart > TARGET_LOSS)) if (apart > TARGET_LOSS).any() else len(apart)
            size = f"{run.method.label}, {len(apart)} steps; within {TARGET_LOSS:g} for the first {held}"
            found.append(
                {
                    "benchmark": f"loss against the usual loop, {what}",
                    "size": size,
                    "ours": recorder.losses[-1],
                    "other": other[-1],
                    "value": apart.max(),
                    "unit": "largest relative difference",
                    "target": target,
                }
            )
    return found


def loader(folder: Path, steps: int, turns: int) -> list[Row]:
    """All of `fit`, drawing, preparing and shifting every batch, against the same steps on a batch that lies ready."""
    torch.set_num_threads(1)
    study = with_soft_labels(write_study(folder, steps, 1, 1))
    trainer, run = Usual(study).trainer, plan(study, study.bank)[0]
    recipe, soft = replace(study.recipe, shift=3), trainer.soft_labels(run)
    ready = trainer.prepare(trainer.inputs[0, :BATCH])

    def loaded() -> None:
        network = trainer.build(run.student, 0)
        criterion = run.method.criterion(network, 1)
        fit(
            network,
            trainer.inputs,
            trainer.labels,
            recipe,
            seed=0,
            prepare=trainer.prepare,
            criterion=criterion,
            soft=soft,
        )

    def bare() -> None:
        network = trainer.build(run.student, 0).to(memory_format=torch.channels_last)
        criterion = run.method.criterion(network, 1)
        optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
        for _ in range(steps):
            loss = criterion(network(ready), trainer.labels[:BATCH], soft[0, :BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    times = np.array([[timed(side)[1] for side in (bare, loaded)] for _ in range(turns)])
    alone, whole = times.min(0)
    return [
        {
            "benchmark": "loader and augmentation against the bare step, processor time",
            "size": f"ResNet-8, {steps} steps of {BATCH}, flip views, shift 3, 1 thread",
            "ours": whole,
            "other": alone,
            "value": alone / whole,
            "unit": "share of its throughput",
            "target": f">={TARGET_LOADER:g}",
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, noisier numbers, starting weighs more")
    parser.add_argument("--steps", type=int, default=300, help="of each student in the grid, about")
    parser.add_argument("--rounds", type=int, default=2, help="turns of both sides")
    parser.add_argument("--only", nargs="+", choices=("losses", "step", "loader", "grid"), help="some parts")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("grid.csv"))
    options = parser.parse_args()
    if "CAPMISMATCH_REAL_DATA" not in os.environ:
        raise SystemExit("set CAPMISMATCH_REAL_DATA to the folder that holds cifar10/")
    steps = 30 if options.quick else options.steps
    epochs = max(2, round(steps / 78))  # of 78 steps, as 10,000 images make
    parts: dict[str, Callable[[Path], list[Row]]] = {
        "losses": lambda folder: same_losses(folder, 3 if options.quick else 10, 2 if options.quick else 5),
        "step": lambda folder: step_against_step(folder, 6 if options.quick else 20),
        "loader": lambda folder: loader(folder, 4 if options.quick else 20, 2 if options.quick else 5),
        "grid": lambda folder: grid_against_loop(folder, round(steps / epochs), epochs, options.rounds),
    }
    found: list[Row] = []
    for name, part in parts.items():
        if not options.only or name in options.only:
            with tempfile.TemporaryDirectory() as folder:
                found += part(Path(folder))
    table = pd.DataFrame(found)
    show(table, options.out)


if __name__ == "__main__":
    main()
