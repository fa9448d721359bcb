"""Families: order, names, and what is said of wrong specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from capmismatch.errors import BankError, InputError
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import Family, Teacher, load_family


def saved(folder: Path, name: str, **arrays: Any) -> str:
    base: dict[str, Any] = {"labels": [0, 1], "logits_small": 2 * np.eye(2), "logits_large": 3 * np.eye(2)}
    np.savez(folder / f"{name}.npz", **(base | arrays))
    return f"logits:{folder / name}.npz"


def test_smallest_first_and_unknown_sizes_last_as_given(tmp_path: Path) -> None:
    sizes = {"params_large": 9, "params_small": 3, "logits_z": 2 * np.eye(2), "logits_b": 4 * np.eye(2)}
    family = load_family(saved(tmp_path, "a", **sizes))
    assert [teacher.name for teacher in family] == ["small", "large", "z", "b"]
    assert len(family) == 4
    assert family[0] is family["small"] is family["a/small"]
    assert repr(family).startswith("Family of 4 teachers:\n  a/small: 3 parameters, from logits:a.npz")
    assert "a/z: size unknown" in repr(family)


def test_several_sources_make_one_family(tmp_path: Path) -> None:
    one, two = saved(tmp_path, "a"), saved(tmp_path, "b")
    family = load_family(one, two)
    assert [teacher.key for teacher in family] == ["a/small", "a/large", "b/small", "b/large"]
    with pytest.raises(InputError, match=r"teacher 'small' could be any of \['a/small', 'b/small'\]: use one of"):
        family["small"]
    with pytest.raises(InputError, match="expected distinct teachers, got 'pets/small' twice; give the families other"):
        load_family(one, two, name="pets")
    assert load_family(one, name="pets")[0].key == "pets/small"


def test_unknown_names_list_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"teacher must be one of \['a/small', 'a/large'\], not 'a/smal'; did"):
        load_family(saved(tmp_path, "a"))["a/smal"]


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        (
            [],
            {},
            r"at least one source like .*; the kinds are \['bank', 'ckpt', 'ckpt-lm', 'hf', 'hf-lm', 'letters'",
        ),
        (["ckpts:x"], {}, "the kind of source in 'ckpts:x' must be one of .*; did you mean 'ckpt'"),
        (["letters:cnn"], {}, "one architecture, 'letters:mlp', not 'letters:cnn'"),
        (["letters:mlp"], {"widht": [3]}, "option of 'letters:mlp' must be one of .*; did you mean 'widths'"),
        (["letters:mlp"], {"widths": []}, "expected at least one width of letters:mlp, got none"),
        (["ckpt:*.pt"], {}, r"'ckpt:\*\.pt' lacks the option 'builder'"),
    ],
)
def test_wrong_specs(specs: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_family(*specs, **options)


def test_an_empty_family() -> None:
    with pytest.raises(InputError, match="expected at least one teacher, got an empty family"):
        Family([])


def test_a_teacher_runs_on_new_inputs_in_eval_mode() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
    teacher = Teacher("f", "t", module=lambda: network.train(), prepare=torch.as_tensor)
    x = np.ones((5, 3), np.float32)
    wanted = network[1](torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(teacher.logits(x, batch_size=2), wanted, rtol=1e-6)
    assert teacher.logits(x).dtype == np.float32


def test_a_bank_is_a_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"small": rng.normal(size=(6, 3)), "large": rng.normal(size=(6, 3))}
    np.savez(
        tmp_path / "a.npz",
        labels=[0, 1, 2] * 2,
        split=["val", "test"] * 3,
        params_small=5,
        params_large=9,
        **{f"logits_{name}": logits for name, logits in arrays.items()},
    )
    first = collect(load_family(f"logits:{tmp_path}/a.npz"), None, tmp_path / "bank", dtype="float16", progress=False)
    family = load_family("bank:bank", base=tmp_path)
    again = collect(family, None, tmp_path / "again", dtype="float16", progress=False)
    assert again.keys == first.keys == ["a/small", "a/large"]
    assert again.rows.fingerprint == first.rows.fingerprint
    for key in first.keys:
        np.testing.assert_array_equal(again.logits(key, "test"), first.logits(key, "test"))
        assert again[key].params == first[key].params and again[key].source == first[key].source
    with pytest.raises(BankError, match="nowhere"):
        load_family("bank:nowhere", base=tmp_path)


def test_saved_logits_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a/small has saved logits only: it cannot be run on new inputs"):
        load_family(saved(tmp_path, "a"))[0].logits(np.zeros((1, 1)))


def test_by_position_forgets_what_the_source_calls_its_classes() -> None:
    specs = {"weights": None, "preset": "DEFAULT"}
    assert load_family("torchvision:squeezenet1_1", **specs)[0].classes is not None
    assert load_family("torchvision:squeezenet1_1", by_position=True, **specs)[0].classes is None


def test_each_source_of_a_mix_gets_the_options_it_knows(tmp_path: Path) -> None:
    labels = np.arange(6) % 3
    logits = 9 * np.eye(3, dtype=np.float32)[labels]
    np.savez(tmp_path / "saved.npz", labels=labels, logits_big=logits, params_big=10**6)
    family = load_family("letters:mlp", "logits:saved.npz", widths=[8], seeds=1, base=tmp_path)
    assert [teacher.key for teacher in family] == ["mlp/mlp8-s0", "saved/big"]
    with pytest.raises(InputError, match=r"option of 'letters:mlp' or 'logits:saved.npz' must be one of .*'widths'"):
        load_family("letters:mlp", "logits:saved.npz", widht=[8], base=tmp_path)
