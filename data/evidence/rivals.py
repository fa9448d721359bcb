r"""Rival probes of the shipped studies' teachers: tempered, of features, of class relations, of pairs with a student.

    python data/evidence/rivals.py --packages PACKAGES [--only letters cifar10 vowel ...] [--folder studies/rivals]
    python data/evidence/rivals.py --ship

The tables of the package had been made before these probes existed. The first command makes the networks again, by the
settings and seeds of then (letters and families: they are trained anew; cifar10: published checkpoints, found in
`CAPMISMATCH_REAL_DATA`), and a student that was trained on the labels alone, collects logits and features, and measures
what is missing. It can be stopped and goes on where it was. ``--ship`` adds these rows to the tables of the package,
whose old rows stay as they are, and prints how far old probes of the networks made again are from them. It also writes
`data/evidence/untrained.parquet`: the same of pairs with the student as its training begins.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from data_sets import SOURCES, Source
from families import SEEDS_OF_PASS, TAUS, study_text, train_teachers, write_data

import capmismatch as cm
from capmismatch._utils.files import make_folder, write_table, write_text
from capmismatch.probes import FEATURES, PAIRS, REGISTRY
from capmismatch.sources.families import Family
from capmismatch.study.students import students_to_teach

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EMBEDDED = ROOT / "capmismatch" / "embedded"
REQUESTED = ("classwise_ace_tau",)
MATCHES = ("entropy", "derived_std")
IMAGES = 2000
"""Of the validation images, for the features of twelve networks and their pairs with a student."""
PLAIN, UNTRAINED = "plain", "untrained"
KEY = ["family", "teacher", "seed", "split", "tau", "probe"]


def as_study(text: str, how: str) -> str:
    """A study file that also collects features, and its students before they are taught."""
    asked = f'[collect]\nfeatures = true\nstudents = "{how}"\n'
    if "[collect]\n" in text:
        return text.replace("[collect]\n", asked)
    return text.replace("[probe]\n", asked + "\n[probe]\n")


def measured(bank: cm.LogitBank, more: Iterable[str] = (*FEATURES, *PAIRS)) -> pd.DataFrame:
    """All that the package can tell of these teachers on validation rows, on which teachers are chosen."""
    usual = [name for name, probe in REGISTRY.items() if not probe.on_request and not probe.vocabulary]
    probes = cm.probe(bank, TAUS, [*usual, *REQUESTED, *more], progress=False)
    matched = [cm.matched_temperatures(bank, match, progress=False) for match in MATCHES]
    relations = cm.class_relations(bank, TAUS, groups=groups_of(len(bank.classes)), progress=False)
    return pd.concat([probes, *matched, relations], ignore_index=True)


def groups_of(classes: int) -> int:
    """How many groups of classes are looked for: the root of their number, two at least."""
    return max(2, round(classes**0.5))


def of_letters(folder: Path, how: str) -> pd.DataFrame:
    """The embedded study."""
    return _of_study(folder, (EMBEDDED / "study.toml").read_text(encoding="utf-8"), how)


def of_cifar10(folder: Path, how: str) -> pd.DataFrame:
    """The study of published networks: the shipped logits, and passes over some images for features and pairs."""
    make_folder(folder)
    write_text(folder / "study.toml", (ROOT / "data/cifar10/study.toml").read_text(encoding="utf-8"))
    study = cm.load_study(folder / "study.toml", folder=folder / how, progress=False)
    some = study.eval_data.take(np.flatnonzero(study.eval_data.rows.split == "val")[:IMAGES])
    networks = Family([*study.family, *students_to_teach(study, how)])
    bank = cm.collect(networks, some, folder / how / "bank", features=True, progress=False)
    of_some = cm.probe(bank, TAUS, [*FEATURES, *PAIRS], progress=False)
    of_all = measured(cm.LogitBank(ROOT / "data" / "cifar10" / "bank"), ())
    return pd.concat([of_all, of_some], ignore_index=True)


def of_family(source: Source, folder: Path, packages: Path, how: str) -> pd.DataFrame:
    """One data set of the study of families."""
    write_data(source, folder, packages)
    train_teachers(source, folder)
    table = _of_study(folder, study_text(source.name, SEEDS_OF_PASS, 40), how)
    return table.assign(family=source.name, kind=source.kind, dataset=source.name)


def _of_study(folder: Path, text: str, how: str) -> pd.DataFrame:
    make_folder(folder)
    file = folder / f"{how}.toml"
    write_text(file, as_study(text, how))
    study = cm.load_study(file, folder=folder / how, progress=False)
    return measured(study.collect())


def shipped(name: str) -> pd.DataFrame:
    """The probes in the package, without what an earlier call has added."""
    table = pd.read_parquet(EMBEDDED / f"{name}_probes.parquet")
    return table[~table["probe"].isin(added())].dropna(axis=1, how="all").reset_index(drop=True)


def added() -> list[str]:
    """Names of the probes that came later."""
    tempered = [name for name in REGISTRY if name.endswith("_tau")]
    relations = ["class_variance", "example_variance", "group_variance"]
    return [*tempered, *FEATURES, *PAIRS, *relations, *(f"tau_for_{match}" for match in MATCHES)]


def largest_difference(old: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """How far probes of the networks made again are from those in the package, probe by probe.

    Returns
    -------
    DataFrame
        By ``probe``: ``difference``, the largest; ``of_spread``, over the standard deviation over the rows of a
        temperature; ``rows``, how many were compared.
    """
    both = old.merge(made[[*KEY, "value"]], on=KEY, suffixes=("", "_made"))
    spread = both.groupby(["family", "split", "probe", both["tau"].fillna(0)])["value"].transform("std")
    gap = (both["value"] - both["value_made"]).abs()
    both = both.assign(difference=gap, of_spread=(gap / spread.where(spread > 0)).fillna(0.0))
    found = both.groupby("probe")[["difference", "of_spread"]].max()
    return found.assign(rows=both.groupby("probe").size()).sort_values("of_spread", ascending=False)


def ship(folder: Path) -> None:
    """Add what was made to the tables of the package; a study of which nothing was made stays as it is."""
    untrained = []
    for name in ("letters", "cifar10", "families"):
        old = shipped(name)
        sets = sorted(set(old["dataset"])) if name == "families" else [name]
        files = [folder / one / f"{PLAIN}.parquet" for one in sets]
        if not all(file.exists() for file in files):
            print(f"{name}: not made, left as it is", flush=True)
            continue
        made = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
        print(f"{name}: networks made again against those shipped, {len(old)} rows shipped", flush=True)
        print(largest_difference(old, made).to_string())
        new = made[made["probe"].isin(added())]
        table = pd.concat([old, new], ignore_index=True).dropna(axis=1, how="all")
        write_table(EMBEDDED / f"{name}_probes.parquet", table)
        print(f"{len(new)} rows added, {(EMBEDDED / f'{name}_probes.parquet').stat().st_size} bytes")
        starts = [folder / one / f"{UNTRAINED}.parquet" for one in sets]
        untrained += [pd.read_parquet(file) for file in starts if file.exists()]
    rows = pd.concat(untrained, ignore_index=True)
    rows = rows[rows["probe"].isin(PAIRS) & ~rows["probe"].isin(["size_ratio", "size_gap"])]
    write_table(HERE / f"{UNTRAINED}.parquet", rows[[*KEY, "params", "student", "value"]])


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="where pip put the packages of the data sets")
    parser.add_argument("--folder", type=Path, default=ROOT / "studies" / "rivals")
    known = sorted(set(pd.read_parquet(EMBEDDED / "families_probes.parquet")["dataset"]))
    parser.add_argument("--only", nargs="*", default=["letters", *known, "cifar10"])
    parser.add_argument("--ship", action="store_true", help="write the tables")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.ship:
        ship(options.folder)
        return
    by_name = {source.name: source for source in SOURCES}
    for name in options.only:
        for how in (PLAIN, UNTRAINED):
            file, started = options.folder / name / f"{how}.parquet", time.process_time()
            if file.exists():
                continue
            at = options.folder / name
            if name in by_name:
                table = of_family(by_name[name], at, options.packages, how)
            else:
                table = {"letters": of_letters, "cifar10": of_cifar10}[name](at, how)
            write_table(file, table)
            seconds = f"{time.process_time() - started:.0f} core seconds"
            print(f"{time.strftime('%H:%M:%S')} {name}, {how}: {len(table)} rows, {seconds}", flush=True)


if __name__ == "__main__":
    main()
