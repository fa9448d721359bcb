"""Train each of two small networks twice on CIFAR-10, so that class ranks have a noise floor; an hour of one CPU core.

    CAPMISMATCH_REAL_DATA=<folder that holds cifar10/> python data/cifar10/noise_floor.py <folder for weights>

What two seeds of one network share is as much as two teachers could. Writes the bank `seeds/` beside this file: logits
of the four networks on the images of `bank/`. Training goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import capmismatch as cm
from capmismatch._utils.files import replacing
from capmismatch.architectures import build
from capmismatch.training.loop import Checkpoint, fit

NETWORKS, SEEDS = ("resnet8x1", "wrn-10-1"), (0, 1)
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)))
RECIPE = cm.Recipe(epochs=10, batch_size=128, optimizer="sgd", lr=0.2, weight_decay=5e-4, shift=3)


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Images (n, H, W, C), uint8, as the networks take them."""
    return (torch.as_tensor(images).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def train(name: str, seed: int, file: Path, images: Path) -> None:
    """Train one network on all training images and their mirror images, and keep its weights."""
    if file.exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = cm.load_dataset(f"npz:{images}")
    views = cm.Views("flip")
    both = torch.from_numpy(np.stack([views.make(data.inputs, number) for number in range(views.count)]))
    checkpoint = Checkpoint(file.with_suffix(".checkpoint"))

    def told(epoch: int, loss: float) -> None:
        print(f"{name}, seed {seed}: epoch {epoch + 1} of {RECIPE.epochs}, loss {loss:.3f}", flush=True)

    network = fit(
        build(name),
        both,
        torch.from_numpy(data.labels),
        RECIPE,
        seed=seed,
        prepare=prepare,
        checkpoint=checkpoint,
        after_epoch=told,
    )
    with replacing(file) as temporary:  # a file that is there is whole
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, temporary)


def trained(name: str, file: Path) -> torch.nn.Module:
    """The network with the weights in a file."""
    network = build(name)
    network.load_state_dict(load_file(file))
    return network.eval()


def main() -> None:
    """Train what is missing, then collect."""
    home, weights = Path(os.environ["CAPMISMATCH_REAL_DATA"], "cifar10"), Path(sys.argv[1])
    weights.mkdir(parents=True, exist_ok=True)
    files = {(name, seed): weights / f"{name}-{seed}.safetensors" for name in NETWORKS for seed in SEEDS}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for job in [pool.submit(train, *run, file, home / "train.npz") for run, file in files.items()]:
            job.result()
    teachers = [
        cm.Teacher(
            family="twice",
            name=name,
            seed=seed,
            params=cm.architectures.count_parameters(trained(name, file)),
            source="data/cifar10/noise_floor.py",
            weights_hash=hashlib.sha256(file.read_bytes()).hexdigest(),
            preprocessing="(x / 255 - mean) / std",
            module=partial(trained, name, file),
            prepare=prepare,
        )
        for (name, seed), file in files.items()
    ]
    data = cm.load_dataset(f"npz:{home / 'test.npz'}", split={"val": 0.5, "test": 0.5}, name="cifar10")
    print(cm.collect(cm.Family(teachers), data, Path(__file__).with_name("seeds"), dtype="float16"))


if __name__ == "__main__":
    main()
