"""The new user: how long, and how many calls, from what they have to the first answer.

    python benchmarks/bench_new_user.py [--out benchmarks/new_user.csv]

Three routes, each as a user would type it, in processes of their own: (a) arrays of logits in a notebook, (b) a
folder of checkpoints as training repositories leave it, from the command line, (c) the same arrays and a CSV of
students; and the three lines of the README. Each is run twice, first with nothing compiled yet (``cold``), then again
(``warm``). Counted are the calls (or commands) to the answer, those that were refused, and the seconds until the first
sign of life. Wall times are those of the machine as it is; processor times do not mind other work.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from _table import show

TARGET = {("arrays", "warm"): "<=6 s", ("checkpoints", "warm"): "no refusals", ("students.csv", "warm"): "<=6 s"}
WIDTHS = (2, 4, 8, 16)

MODELS = """
from torch import nn
def make(name):
    width = int(name.removeprefix("cnn"))
    convolution = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(16 * width, 10))
"""
"""What the user has beside the checkpoints."""

SETTING = """
import os
import numpy as np, torch
from torch import nn
from my_models import make
rng = np.random.default_rng(0)
labels = rng.integers(0, 10, 2400)
shapes = rng.random((10, 8, 8))
images = (255 * np.clip(shapes[labels] + 0.35 * rng.normal(size=(2400, 8, 8)), 0, 1)).astype(np.uint8)
pixels, targets = torch.from_numpy(images[:, None] / 255.0).float(), torch.from_numpy(labels)
logits = {}
for width in WIDTHS:
    torch.manual_seed(width)
    network = make(f"cnn{width}")
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(120):
        rows = slice(100 * (step % 12), 100 * (step % 12) + 100)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels[rows]), targets[rows]).backward()
        optimizer.step()
    os.makedirs(f"runs/cnn{width}")
    torch.save({"model": network.state_dict(), "epoch": 10}, f"runs/cnn{width}/model_best.pth")
    with torch.no_grad():
        logits[f"cnn{width}"] = network(pixels[1200:]).numpy()
np.savez("logits.npz", **logits)
np.save("labels.npy", labels[1200:])
np.savez("test.npz", images=images[1200:], labels=labels[1200:])
rows = ["teacher,method,seed,val_acc,test_acc"]
for seed in range(3):
    rows.append(f",CE,{seed},{58 + rng.normal():.2f},{58 + rng.normal():.2f}")
    rows += [f"cnn{w},KD,{seed},{62 + w / 8 + rng.normal():.2f},{62 + w / 8 + rng.normal():.2f}" for w in WIDTHS]
open("students.csv", "w").write("\\n".join(rows))
"""
"""Makes what the user has: small networks trained a little, their checkpoints, logits, and accuracies of students."""

LOADED = """
import numpy as np
logits, labels = dict(np.load("logits.npz")), np.load("labels.npy")
import capmismatch as cm
"""

ROUTES: dict[str, list[str]] = {
    "arrays": [LOADED + "print(cm.diagnose(logits, labels))"],
    "checkpoints": [
        "capmismatch init runs --data npz:test.npz --builder my_models:make --mean 0 --std 1",
        "capmismatch check study.toml",
        "capmismatch pick study.toml",
    ],
    "students.csv": [LOADED + 'print(cm.diagnose(logits, labels, results="students.csv"))'],
    "example": [
        'import capmismatch as cm\nbank = cm.load_example("cifar10")\nprint(cm.diagnose(bank, results=bank.results))'
    ],
}
"""What the user types: a command, or Python, whose calls to capmismatch count."""


def timed(step: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run one step: wall and processor seconds, seconds until something is seen, and whether it was refused."""
    words = [sys.executable, "-m", "capmismatch", *step.split()[1:]] if step.startswith("capmismatch") else None
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        words or [sys.executable, "-c", step],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    seen = process.stdout.read(1)
    life = time.perf_counter() - started
    text = (seen + process.stdout.read()).decode()
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        print(text, file=sys.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.perf_counter() - started
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "life_s": life,
        "calls": calls_in(step),
        "refused": int(process.returncode != 0),
    }


def calls_in(step: str) -> int:
    """How many calls or commands of capmismatch a step is."""
    return 1 if step.startswith("capmismatch") else len(re.findall(r"\bcm\.\w+\(", step))


def main() -> None:
    """Play the user, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "my_models.py").write_text(MODELS, encoding="utf-8")
        root = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "NUMBA_CACHE_DIR": f"{place}/compiled", "PYTHONPATH": paths}
        made = [sys.executable, "-c", SETTING.replace("WIDTHS", str(WIDTHS))]
        subprocess.run(made, cwd=home, env=environment, check=True)
        for route, steps in ROUTES.items():
            environment["NUMBA_CACHE_DIR"] = f"{place}/compiled-{route}"
            for state in ("cold", "warm"):
                if route == "checkpoints":  # a fresh study each time
                    subprocess.run(["rm", "-rf", "study.toml", "bank", "tables"], cwd=home, check=True)
                done = pd.DataFrame([timed(step, home, environment) for step in steps])
                total = {**done.drop(columns="life_s").sum().to_dict(), "life_s": done["life_s"].iloc[0]}
                rows.append({"route": route, "state": state, **total, "target": TARGET.get((route, state), "")})
    table = pd.DataFrame(rows)[["route", "state", "calls", "refused", "life_s", "wall_s", "cpu_s", "target"]]
    show(table, arguments.out)


if __name__ == "__main__":
    main()
