"""Mutated checkpoints, study files and results tables: a right answer, or an error of capmismatch on a line or two.

CAPMISMATCH_FUZZ is how many examples each test draws (`make fuzz`); the default is small and always the same.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import tomllib
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from capmismatch.data.datasets import load_dataset
from capmismatch.distillation.results import load_results
from capmismatch.errors import CapmismatchError
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import load_family
from capmismatch.study.study import Study

fuzz = settings(
    max_examples=int(os.environ.get("CAPMISMATCH_FUZZ", "60")),
    deadline=None,
    derandomize="CAPMISMATCH_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


def tried(do: Any) -> Any:
    """What it gives; None where capmismatch refused, in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return do()
        except CapmismatchError as error:
            assert str(error).strip()
            return None


flips = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3)


def damaged(content: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    raw = bytearray(content)
    for place, value in changes:
        raw[place % len(raw)] = value
    return bytes(raw[: len(raw) - cut])


# --- checkpoints -----------------------------------------------------------------------------------------------------


def network(_: str = "") -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


STATE = network().state_dict()
INPUTS = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
WRAPPED: dict[str, Any] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "args": Namespace(lr=0.1)},
    "prefix": lambda state: {f"module.{key}": value for key, value in state.items()},
    "both": lambda state: {"model": {f"_orig_mod.{key}": value for key, value in state.items()}, "best": np.float64(1)},
    "averaged": lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{key}": state[key] for key in state},
    "ema": lambda state: {"state_dict": state, "state_dict_ema": {key: value + 1 for key, value in state.items()}},
    "list": list,
    "nested": lambda state: {"a": {"b": {"c": state}}},
    "empty": lambda state: {},
}
ODD_TENSORS: list[Any] = [
    torch.tensor(float("nan")),
    torch.zeros(0),
    torch.zeros(3, 7),
    torch.ones(5, dtype=torch.int64),
    "text",
    None,
    [1.0],
    torch.full((5, 4), float("inf")),
    torch.zeros(5, 4, dtype=torch.complex64),
    torch.zeros(5, 4).to_sparse(),
    7,
    {"x": 1},
]


@fuzz
@given(
    st.sampled_from(sorted(WRAPPED)),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(range(len(ODD_TENSORS)))), max_size=2),
    st.lists(st.integers(0, 3), max_size=2),
    flips,
    st.sampled_from([0, 0, 0, 1, 100, 900]),
)
def test_checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
    wrapper: str,
    odd: list[tuple[int, int]],
    dropped: list[int],
    changes: list[tuple[int, int]],
    cut: int,
) -> None:
    folder, keys = tmp_path_factory.mktemp("ckpt"), list(STATE)
    state: dict[str, Any] = dict(STATE)
    for place, which in odd:
        state[keys[place]] = ODD_TENSORS[which]
    for place in dropped:
        state.pop(keys[place], None)
    stream = io.BytesIO()
    with contextlib.suppress(AttributeError, TypeError, RuntimeError):  # what cannot be put so is not saved
        content = WRAPPED[wrapper](state)
        torch.save(content, stream)
    file = folder / "net.pt"
    file.write_bytes(damaged(stream.getvalue(), changes, cut) if stream.getvalue() else b"")
    before = file.read_bytes()

    def logits() -> Any:
        family = load_family("ckpt:net.pt", builder=network, base=folder)
        data = load_dataset(f"npz:{_data(folder)}")
        return collect(family, data, folder / "bank", progress=False).logits(family[0].key)

    found = tried(logits)
    assert file.read_bytes() == before
    whole = not odd and not dropped and not changes and not cut
    if whole and wrapper in ("plain", "state_dict", "prefix", "both", "averaged"):
        assert found is not None
    if found is not None and not odd and not changes and wrapper != "ema":
        wanted = network()
        wanted.load_state_dict(STATE)
        np.testing.assert_allclose(found, wanted(torch.tensor(INPUTS)).detach().numpy(), atol=1e-5)


def _data(folder: Path) -> str:
    np.savez(folder / "data.npz", inputs=INPUTS, labels=np.arange(9) % 3)
    return str(folder / "data.npz")


# --- study files -----------------------------------------------------------------------------------------------------

STUDY = tomllib.loads("""
name = "s"
question = "which?"
[data]
source = "letters"
split = { train = 200, val = 100, test = 100 }
seed = 1
[[family]]
source = "letters:mlp"
widths = [4, 8]
seeds = 1
[collect]
batch_size = 64
[probe]
taus = [1, 4]
names = ["accuracy"]
[ranks]
tau = 4
[isats]
constraint = "order"
margin = 1
[correlate]
n_boot = 50
[pick]
rule = "auto"
[distill]
students = ["mlp4"]
seeds = 1
views = { kind = "noise", count = 2, sigma = 0.5 }
recipe = { epochs = 2, lr = 0.01 }
[[distill.methods]]
name = "KD"
tau = 4
weight = 0.9
""")

values: Any = st.one_of(
    st.sampled_from(
        [True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, -(2**63), 0.5, float("nan"), float("inf"), -0.0, 1e-300, 1e300]
    ),
    st.sampled_from(
        ["", " ", "x", "4", "letters", "../..", "\u202e", "a" * 300, "npz:", "ckpt:*", "[x]", "%s", "\x1b[31m"]
    ),
    st.lists(st.sampled_from([0, -1, 2.5, "x", float("nan"), [], {}]), max_size=3),
    st.just({}),
    st.just({"x": 1}),
)


def paths(table: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every key and item of a table stands."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    return [path for key, value in items for path in ((*before, key), *paths(value, (*before, key)))]


def as_toml(value: Any, top: bool = True) -> str:
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)} = {as_toml(item, top=False)}" for key, item in value.items()]
        return "\n".join(pairs) if top else "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item, top=False) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=True) if isinstance(value, str) else repr(value)


@fuzz
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "drop", "rename", "add"]), values), max_size=3),
    flips,
    st.booleans(),
)
def test_study_files(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, str, Any]],
    changes: list[tuple[int, int]],
    damage: bool,
) -> None:
    folder = tmp_path_factory.mktemp("study")
    given_study = json.loads(json.dumps(STUDY))
    for place, how, value in edits:
        every = paths(given_study)
        *above, key = every[place % len(every)]
        table = given_study
        for step in above:
            table = table[step]
        if how == "set" or not isinstance(table, dict):
            table[key] = copy.deepcopy(value)  # else a list may come to hold itself
        elif how == "drop":
            del table[key]
        elif how == "rename":
            table[f"{key}s"] = table.pop(key)
        else:
            table["device"] = copy.deepcopy(value)
    text = as_toml(given_study).encode()
    (folder / "study.toml").write_bytes(damaged(text, changes, 0) if damage else text)

    def look() -> Study:
        study = Study(folder / "study.toml", progress=False)
        study.check()
        return study

    study = tried(look)
    if not edits and not (damage and changes):
        assert study is not None
    assert sorted(file.name for file in folder.iterdir()) == ["study.toml"]


# --- results tables --------------------------------------------------------------------------------------------------

CELLS = [
    "",
    "NA",
    "nan",
    "inf",
    "-1",
    "0",
    "1",
    "71.3%",
    "0,713",
    "1e400",
    "x",
    "None",
    "1_000",
    "0x10",
    " 0.5 ",
    '"',
    "é",
    "CE",
    "KD",
    "kd ",
    "2023-01-01",
    "True",
    "99999999999999999999",
    "val",
    "Validation",
    "-inf",
    "1.000",
    "=1+1",
    "\x00",
    "0.5;0.5",
]
HEADS = ["teacher", "method", "tau", "seed", "split", "accuracy", "n", "family", "student", "label", "val_acc", "", "x"]


@fuzz
@given(
    st.sampled_from([",", ";", "\t", "|"]),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(HEADS)), max_size=2),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.sampled_from(CELLS)), max_size=4),
    flips,
    st.booleans(),
    st.booleans(),
)
def test_results_tables(
    tmp_path_factory: pytest.TempPathFactory,
    sep: str,
    heads: list[tuple[int, str]],
    cells: list[tuple[int, int, str]],
    changes: list[tuple[int, int]],
    percent: bool,
    damage: bool,
) -> None:
    head = ["teacher", "method", "tau", "seed", "split", "accuracy", "n"]
    rows = [[f"t{k}", "KD", "4", str(k), "val", str((60 + k) / (1 if percent else 100)), "500"] for k in range(6)]
    for place, name in heads:
        head[place] = name
    for row, place, cell in cells:
        rows[row] = [*rows[row][:place], cell, *rows[row][place + 1 :]]
    file = tmp_path_factory.mktemp("results") / "r.csv"
    text = "\n".join(sep.join(line) for line in [head, *rows]).encode()
    file.write_bytes(damaged(text, changes, 0) if damage else text)
    table = tried(lambda: load_results(file, percent=percent))
    if not heads and not cells and not (damage and changes):
        assert table is not None
        np.testing.assert_allclose(table["accuracy"], [0.60 + k / 100 for k in range(6)])
    if table is not None:
        assert table["accuracy"].between(0, 1).all() and table["split"].isin(["train", "val", "test"]).all()
        assert not (table["n"].notna() & table["n"].lt(1)).any()
