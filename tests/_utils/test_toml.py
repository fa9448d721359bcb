"""From TOML to dataclasses: what fits goes in as it is, what does not is named with its place."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import Any

import pytest
from messages import naming

from capmismatch._utils.toml import parse
from capmismatch.errors import InputError


@dataclass(frozen=True)
class Inner:
    depth: int
    note: str = "none"

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise InputError(f"expected depth >= 0, got {self.depth}")


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = False
    count: int | None = None
    taus: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] | None = None
    share: dict[str, int | float] = field(default_factory=dict)
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)


FULL = """
name = "x"
rate = 2
on = true
count = 3
taus = [1, 2.5]
names = ["a", "b"]
share = { train = 10, val = 0.5 }
free = { lr = 0.1, deep = { x = [1] } }
[inner]
depth = 1
[[many]]
depth = 2
[[many]]
depth = 3
note = "n"
"""


def test_everything_goes_where_it_belongs() -> None:
    got = parse(Outer, tomllib.loads(FULL), "a.toml")
    assert got == Outer(
        "x",
        2.0,
        True,
        3,
        (1.0, 2.5),
        ("a", "b"),
        {"train": 10, "val": 0.5},
        Inner(1),
        (Inner(2), Inner(3, "n")),
        {"lr": 0.1, "deep": {"x": [1]}},
    )
    assert isinstance(got.rate, float)
    assert [type(value) for value in got.taus] == [float, float]
    assert [type(value) for value in got.share.values()] == [int, float]


def test_defaults() -> None:
    assert parse(Outer, {"name": "x"}, "a.toml") == Outer("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'x'", r"unknown key 'nmae' in a.toml; did you mean 'name'\? Keys there: \['name'"),
        ("", "a.toml lacks the key 'name'"),
        ("name = 3", "expected str at a.toml, key 'name', got 3"),
        ("name = 'x'\nrate = 'fast'", "expected float at a.toml, key 'rate', got 'fast'"),
        ("name = 'x'\nrate = true", "expected float at a.toml, key 'rate', got True"),
        ("name = 'x'\ncount = 1.5", "expected int at a.toml, key 'count', got 1.5"),
        ("name = 'x'\ncount = true", "expected int at a.toml, key 'count', got True"),
        ("name = 'x'\non = 1", "expected bool at a.toml, key 'on', got 1"),
        ("name = 'x'\ntaus = 4", "expected a list at a.toml, key 'taus', got 4"),
        ("name = 'x'\ntaus = [1, 'two']", "expected float at a.toml, key 'taus', item 1, got 'two'"),
        ("name = 'x'\nnames = 'a'", "expected a list at a.toml, key 'names', got 'a'"),
        ("name = 'x'\nshare = 0.5", "expected a table at a.toml, key 'share', got 0.5"),
        ("name = 'x'\nshare = { val = 'half' }", "expected float at a.toml, key 'share'.val, got 'half'"),
        ("name = 'x'\ninner = 3", "expected a table at a.toml, key 'inner', got 3"),
        ("name = 'x'\ninner = { depht = 3 }", r"unknown key 'depht' in a.toml \[inner\]; did you mean 'depth'"),
        ("name = 'x'\ninner = {}", r"a.toml \[inner\] lacks the key 'depth'"),
        ("name = 'x'\nmany = [{ depth = 1 }, { depth = 'a' }]", "int at a.toml, key 'many', item 1, key 'depth', got"),
        ("name = 'x'\nmany = [{ depth = -1 }]", "a.toml, key 'many', item 0: expected depth >= 0, got -1"),
    ],
)
def test_errors_name_key_place_and_choices(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(Outer, tomllib.loads(text), "a.toml")


def test_not_a_table() -> None:
    with pytest.raises(InputError, match=naming("[x]", [1])):
        parse(Outer, [1], "[x]")  # type: ignore[arg-type]
