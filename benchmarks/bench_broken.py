"""Are broken teachers found, and sound ones left alone? Families of many kinds, with and without broken teachers.

    python benchmarks/bench_broken.py [--families 200] [--seed 0] [--rows 300] [--kinds "two columns"] [--out FILE]

A synthetic family reads noisy features of examples whose classes lie in groups; each teacher has its own noise and its
own errors in the weights, less of both the better it is. Others are networks trained here on UCI Letter Recognition.
Every family is checked as it is, for false alarms, and once more with up to a third of its teachers broken. Nothing in
here knows how `capmismatch.check` decides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from _table import show
from numpy.typing import NDArray
from scipy.special import expit, softmax

import capmismatch as cm
from capmismatch.data.bank import LogitBank, bank_from_arrays

Floats = NDArray[np.float64]
Rng = np.random.Generator
HERE = Path(__file__).parent

CLASSES = (10, 10, 30, 100, 200)
FEW_CLASSES = (3, 3, 4, 6)
STYLES = ("calibrated", "overconfident", "smoothed", "distilled")
STRENGTHS = ("weak", "middling", "strong", "of every strength")
ACCURACY = {"weak": (0.2, 0.5), "middling": (0.5, 0.8), "strong": (0.8, 0.98), "of every strength": (0.2, 0.95)}


@dataclass(frozen=True)
class Family:
    """Sound teachers: labels, logits by name, sizes by name (or none), and what kind of family it is."""

    labels: NDArray[np.int64]
    logits: dict[str, Floats]
    sizes: dict[str, int] | None
    about: str


# Sound families -------------------------------------------------------------------------------------------------------


def synthetic(
    rng: Rng, classes: int, rows: int, style: str, strength: str, ladder: bool, uneven: bool = False
) -> Family:
    """Teachers that read noisy features by imperfect weights; with `ladder`, better ones are larger.

    With `uneven` some classes are rare, and strengths are those above the best constant answer.
    """
    teachers, features = int(rng.integers(6, 11)), 24
    groups = rng.normal(size=(max(2, classes // 5), features))
    centres = groups[np.arange(classes) % len(groups)] + 0.7 * rng.normal(size=(classes, features))
    labels = rng.choice(classes, rows, p=rng.dirichlet(np.full(classes, 3.0 if uneven else 20.0)))
    hard = np.exp(0.4 * rng.normal(size=(rows, 1)))  # some examples are hard for all
    seen = centres[labels] + hard * rng.normal(size=(rows, features))
    low, high = ACCURACY[strength]
    wanted = np.sort(rng.uniform(low, high, teachers))
    if uneven:
        wanted = 1 - (1 - np.bincount(labels).max() / rows) * (1 - wanted)
    logits = {f"t{k}": _read(rng, seen, centres, labels, accuracy) for k, accuracy in enumerate(wanted)}
    logits = {name: _styled(rng, values, style, logits[f"t{teachers - 1}"]) for name, values in logits.items()}
    order = np.arange(teachers) if ladder else rng.permutation(teachers)
    sizes = {f"t{k}": int(1e5 * 1.7 ** order[k] * rng.uniform(0.8, 1.2)) for k in range(teachers)}
    about = f"{classes} classes, {rows} rows, {strength}, {style}, {'ladder' if ladder else 'any sizes'}"
    about += ", uneven" if uneven else ""
    return Family(labels, logits, sizes if rng.random() < 0.8 else None, about)


def _read(rng: Rng, seen: Floats, centres: Floats, labels: NDArray[np.int64], accuracy: float) -> Floats:
    """Logits of a teacher of about this accuracy: noise on features and weights, found by bisection."""
    noise, error = rng.normal(size=seen.shape), rng.normal(size=centres.shape)
    bias = 0.3 * rng.normal(size=len(centres))
    low, high = -7.0, 4.0
    values = np.zeros((len(seen), len(centres)))
    for _ in range(12):
        level = np.exp((low + high) / 2)
        weights = centres + 0.3 * min(level, 1.5) * error
        read = seen * min(1.0, 3 * np.exp(-low)) + level * noise
        values = read @ weights.T - (weights**2).sum(axis=1) / 2 + bias
        low, high = (
            ((low + high) / 2, high) if (values.argmax(1) == labels).mean() > accuracy else (low, (low + high) / 2)
        )
    return values / values.std(axis=1).mean()


def _styled(rng: Rng, values: Floats, style: str, largest: Floats) -> Floats:
    classes = values.shape[1]
    if style == "distilled":
        values = 0.5 * values + 0.5 * largest + 0.2 * rng.normal(size=values.shape)
    if style == "smoothed":
        soft = 0.9 * softmax(4 * values, axis=1) + 0.1 / classes
        return np.log(soft) + 0.15 * rng.normal(size=values.shape)
    return values * {"overconfident": rng.uniform(6, 15)}.get(style, rng.uniform(1.5, 3)) + rng.normal(0, 2)


def trained(rng: Rng, rows: int, epochs: int, smoothing: float = 0.0, distilled: bool = False) -> Family:
    """MLPs on the embedded letters: few epochs make weak ones."""
    import torch  # for this kind alone

    from capmismatch.data.datasets import load_dataset

    data = load_dataset("letters")
    order = rng.permutation(len(data.rows.labels))[: 1500 + rows]
    inputs = torch.from_numpy((np.asarray(data.inputs[order], np.float32) - 7) / 3)
    labels = torch.from_numpy(np.asarray(data.rows.labels)[order])
    logits, sizes, teacher = {}, {}, None
    for k, width in enumerate([int(width) for width in rng.permutation([192, 96, 64, 48, 32, 24, 16, 12])]):
        torch.manual_seed(int(rng.integers(1 << 30)))
        net = torch.nn.Sequential(torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, 26))
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(epochs):
            for part in torch.randperm(1500).split(100):
                out = net(inputs[part])
                loss = torch.nn.functional.cross_entropy(out, labels[part], label_smoothing=smoothing)
                if distilled and teacher is not None:
                    soft = (teacher(inputs[part]).detach() / 4).softmax(1)
                    loss = loss * 0.1 + 16 * torch.nn.functional.kl_div(
                        (out / 4).log_softmax(1), soft, reduction="batchmean"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        teacher = teacher or net
        logits[f"t{k}"] = net(inputs[1500:]).detach().numpy().astype(float)
        sizes[f"t{k}"] = sum(values.numel() for values in net.parameters())
    about = f"letters, {rows} rows, {epochs} epochs, " + ("distilled" if distilled else f"smoothing {smoothing}")
    return Family(labels[1500:].numpy(), logits, sizes, about)


def families(number: int, seed: int, networks: bool = True, few: int = 0) -> Iterator[Family]:
    """That many families; every eighth is of trained networks, every eighth of few classes, some of them rare.

    `few` is a number of rows for all of them.
    """
    for k in range(number):
        rng = np.random.default_rng([seed, k])
        if networks and k % 8 == 7:
            how = [{}, {"smoothing": 0.2}, {"distilled": True}][k // 8 % 3]
            yield trained(rng, few or int(rng.choice([300, 1000, 4000])), int(rng.choice([1, 2, 8, 25])), **how)
            continue
        if k % 8 == 5:
            style, strength, ladder = STYLES[k // 8 % 4], STRENGTHS[k // 16 % 4], bool(rng.random() < 0.7)
            size = few or int(rng.choice([300, 1000, 4000]))
            yield synthetic(rng, int(rng.choice(FEW_CLASSES)), size, style, strength, ladder, uneven=True)
            continue
        classes = int(rng.choice(CLASSES))
        rows = int(rng.choice([5 * classes, 1000, 2000, 5000]))
        yield synthetic(
            rng, classes, few or max(rows, 150), STYLES[k % 4], STRENGTHS[k // 4 % 4], ladder=bool(rng.random() < 0.7)
        )


# Ways to be broken ----------------------------------------------------------------------------------------------------


def some_rows_shuffled(rng: Rng, logits: Floats, share: float) -> Floats:
    """A share of the rows belongs to other examples."""
    rows = rng.choice(len(logits), int(share * len(logits)), replace=False)
    broken = logits.copy()
    broken[rows] = logits[rng.permutation(rows)]
    return broken


def moved_columns(rng: Rng, logits: Floats, columns: int) -> Floats:
    """So many columns take one another's places."""
    which, order = rng.choice(logits.shape[1], columns, replace=False), np.arange(logits.shape[1])
    order[which] = np.roll(which, 1)
    return logits[:, order]


def masked(logits: Floats, columns: NDArray[np.bool_]) -> Floats:
    """The usual stand-in for what was cut, -100."""
    return np.where(columns, -100.0, logits)


def shifted_tail(logits: Floats, share: float) -> Floats:
    """From some place on the rows are those of the examples before."""
    start = int((1 - share) * len(logits))
    return np.concatenate([logits[:start], np.roll(logits[start:], 1, axis=0)])


def one_hot(rng: Rng, classes: NDArray[np.int64], columns: int) -> Floats:
    """Answers, or labels, turned into logits: one class high, the others noise."""
    return 6 * np.eye(columns)[classes] + rng.normal(size=(len(classes), columns))


def constant_column(rng: Rng, logits: Floats) -> Floats:
    """The column of one class is the same in all rows, as of an output that was never connected."""
    column = rng.integers(logits.shape[1])
    return np.where(np.arange(logits.shape[1]) == column, np.quantile(logits, 0.1), logits)


def mostly_one(logits: Floats) -> Floats:
    """A rare class is above all others in most rows, as of a network whose last layer was not loaded whole."""
    column = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]).argmin()
    raised = np.quantile(logits.max(axis=1) - logits[:, column], 0.8)
    return logits + raised * (np.arange(logits.shape[1]) == column)


def copied(family: Family, name: str) -> str:
    """Which teacher of the family a copy under this name repeats: either may be the copy, so neither stays."""
    names = sorted(family.logits)
    return names[names.index(name) - 1]


def leaked(family: Family, name: str, rows: NDArray[np.bool_]) -> Floats:
    """The label's logit is raised by the spread of a row, three times over, in some rows."""
    logits = family.logits[name]
    raised = 3 * logits.std(axis=1).mean() * np.eye(logits.shape[1])[family.labels]
    return np.where(rows[:, None], logits + raised, logits)


BREAK: dict[str, Callable[[Rng, Floats], Floats]] = {
    "rows shuffled": lambda rng, logits: rng.permutation(logits),
    "half of the rows shuffled": lambda rng, logits: some_rows_shuffled(rng, logits, 0.5),
    "rows shifted by one": lambda rng, logits: np.roll(logits, 1, axis=0),
    "second half shifted": lambda rng, logits: np.concatenate(
        [logits[: len(logits) // 2], np.roll(logits[len(logits) // 2 :], 1, axis=0)]
    ),
    "columns in another order": lambda rng, logits: logits[:, rng.permutation(logits.shape[1])],
    "columns shifted by one": lambda rng, logits: np.roll(logits, 1, axis=1),
    "columns sorted as text": lambda rng, logits: logits[:, np.argsort([str(k) for k in range(logits.shape[1])])],
    "two columns interchanged": lambda rng, logits: moved_columns(rng, logits, 2),
    "three columns moved round": lambda rng, logits: moved_columns(rng, logits, 3),
    "one vector for all": lambda rng, logits: np.tile(logits[:1], (len(logits), 1)),
    "weights not loaded": lambda rng, logits: rng.normal(size=logits.shape),
    "probabilities": lambda rng, logits: softmax(logits, axis=1),
    "percentages": lambda rng, logits: 100 * softmax(logits, axis=1),
    "sigmoids": lambda rng, logits: expit(logits),
    "the sign turned": lambda rng, logits: -logits,
    "a fifth of the rows shuffled": lambda rng, logits: some_rows_shuffled(rng, logits, 0.2),
    "three tenths of the rows shuffled": lambda rng, logits: some_rows_shuffled(rng, logits, 0.3),
    "the last quarter shifted": lambda rng, logits: shifted_tail(logits, 0.25),
    "one class masked": lambda rng, logits: masked(logits, np.arange(logits.shape[1]) == rng.integers(logits.shape[1])),
    "the lowest class masked": lambda rng, logits: masked(logits, logits == logits.min(axis=1, keepdims=True)),
    "only three classes kept": lambda rng, logits: masked(logits, logits < np.sort(logits, axis=1)[:, [-3]]),
    "a twentieth of the rows not written": lambda rng, logits: np.where(rng.random((len(logits), 1)) < 0.05, 0, logits),
    "hard predictions": lambda rng, logits: np.eye(logits.shape[1])[logits.argmax(axis=1)],
    "hard predictions and noise": lambda rng, logits: one_hot(rng, logits.argmax(axis=1), logits.shape[1]),
    "a constant column": lambda rng, logits: constant_column(rng, logits),
    "most examples of one class": lambda rng, logits: mostly_one(logits),
    "three classes kept, the rest level": lambda rng, logits: np.maximum(logits, np.sort(logits, axis=1)[:, [-3]]),
    "five classes kept, the rest zero": lambda rng, logits: np.where(
        logits < np.sort(logits, axis=1)[:, [-5]], 0, logits - logits.min(axis=1, keepdims=True) + 1
    ),
    "the last batch repeated": lambda rng, logits: np.concatenate([logits[:-64], logits[-128:-64]]),
    "the last batch filled up": lambda rng, logits: np.concatenate(
        [logits[:-32], np.repeat(logits[-33:-32], 32, axis=0)]
    ),
}
BREAK_BESIDE: dict[str, Callable[[Rng, Family, str], Floats]] = {
    "another teacher, scaled": lambda rng, family, name: 1.7 * family.logits[copied(family, name)],
    "another teacher, rows shifted": lambda rng, family, name: (
        family.logits[copied(family, name)] + rng.normal(0, 3, (len(family.labels), 1))
    ),
    "labels and noise": lambda rng, family, name: one_hot(rng, family.labels, family.logits[name].shape[1]),
    "labels leaked into all rows": lambda rng, family, name: leaked(family, name, np.ones(len(family.labels), bool)),
    "labels leaked into half of the rows": lambda rng, family, name: leaked(
        family, name, rng.random(len(family.labels)) < 0.5
    ),
}
KINDS = [*BREAK, *BREAK_BESIDE]


def hidden(rng: Rng, family: Family, kinds: list[str]) -> tuple[dict[str, str], LogitBank]:
    """Which teachers were broken how (one to a third of them), and the bank that hides them."""
    names = list(rng.permutation(sorted(family.logits))[: max(1, len(family.logits) // 3)])
    broken, values = {}, {}
    for name in names:
        kind = str(rng.choice(kinds))
        if kind == "columns sorted as text" and len(family.logits[name][0]) <= 10:
            kind = "columns shifted by one"
        broken[name], values[name] = kind, broken_logits(rng, family, name, kind)
    return broken, banked(family, values)


def broken_logits(rng: Rng, family: Family, name: str, kind: str) -> Floats:
    """The logits of a teacher, broken in one of the ways."""
    if kind in BREAK_BESIDE:
        return BREAK_BESIDE[kind](rng, family, name)
    return BREAK[kind](rng, family.logits[name])


def banked(family: Family, broken: dict[str, Floats] | None = None) -> LogitBank:
    """A bank of a family, some of whose arrays are others by now, as one written elsewhere may have."""
    bank = bank_from_arrays(
        {name: values.astype(np.float32) for name, values in family.logits.items()}, family.labels, params=family.sizes,
        classes=[f"class {k}" for k in range(family.logits["t0"].shape[1])],
    )  # fmt: skip
    for name, values in (broken or {}).items():
        bank._stored[f"logits/{name}"] = np.asarray(values, np.float32)
    bank.teachers = [replace(record, sha256="") for record in bank.teachers]
    return bank


def run(
    number: int, seed: int, kinds: list[str], networks: bool = True, few: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per broken teacher (was it found?), and one per sound teacher (was it called broken?)."""
    found, sound = [], []
    for k, family in enumerate(families(number, seed, networks, few)):
        rng = np.random.default_rng([seed, k, 1])
        clean = cm.check(banked(family))
        sound.append(clean.assign(family=family.about, beside="sound ones"))
        broken, bank = hidden(rng, family, kinds)
        checks = cm.check(bank).set_index("teacher")
        originals = [copied(family, name) for name, kind in broken.items() if kind.startswith("another teacher")]
        others = checks.drop(index=[*broken, *(set(originals) - set(broken))])
        sound.append(others.reset_index().assign(family=family.about, beside="broken ones"))
        for name, kind in broken.items():
            before = float(clean.set_index("teacher").loc[name, "accuracy"])
            found.append(
                (
                    family.about,
                    name,
                    kind,
                    before,
                    checks.loc[name, "accuracy"],
                    not checks.loc[name, "usable"],
                    checks.loc[name, "reason"],
                )
            )
    columns = ["family", "teacher", "kind", "was", "accuracy", "found", "reason"]
    return pd.DataFrame(found, columns=columns), pd.concat(sound, ignore_index=True)


def main() -> None:
    """Print, by kind of breakage, how many were found; and the sound teachers that were called broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0, help="so many rows for every family, such as 300")
    parser.add_argument("--kinds", default="", help="only breakages whose name has this")
    parser.add_argument("--out", type=Path, default=HERE / "broken.csv")
    parser.add_argument("--missed", action="store_true")
    arguments = parser.parse_args()
    found, sound = run(
        arguments.families, arguments.seed, [kind for kind in KINDS if arguments.kinds in kind], few=arguments.rows
    )
    table = found.groupby("kind")["found"].agg(broken="size", found="sum").reset_index()
    alarms = sound[~sound["usable"]]
    for beside, part in sound.groupby("beside"):
        table.loc[len(table)] = [f"sound, beside {beside}", len(part), int((~part["usable"]).sum())]
    show(table, arguments.out)
    with pd.option_context(
        "display.width", 250, "display.max_columns", None, "display.max_colwidth", 140, "display.max_rows", None
    ):
        print(alarms[["family", "teacher", "accuracy", "beside", "reason"]].to_string())
        if arguments.missed:
            print(found[~found["found"]].drop(columns=["found", "reason"]).to_string())


if __name__ == "__main__":
    main()
