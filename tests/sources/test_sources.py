"""Where teachers come from: checkpoints, saved logits, networks trained here."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pickle
import signal
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Trap
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from capmismatch import architectures
from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import load_dataset
from capmismatch.errors import BankError, InputError
from capmismatch.sources import letters
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import load_family

# --- checkpoints -----------------------------------------------------------------------------------------------------


def build(stem: str) -> nn.Module:
    width = int(stem.removeprefix("net"))
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


INPUTS = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


def expected(width: int = 4) -> Any:
    with torch.no_grad():
        return build(f"net{width}").eval()(torch.from_numpy(INPUTS)).numpy()


WRAPPED: dict[str, Any] = {
    "plain": lambda w: w,
    "ordered": OrderedDict,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3, "acc": 0.5},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer": {"lr": 0.1}},
    "model": lambda w: {"model": w},
    "net": lambda w: {"net": w, "acc": 91.2, "epoch": 1},
    "data parallel": lambda w: {f"module.{k}": v for k, v in w.items()},
    "compiled": lambda w: {"state_dict": {f"module._orig_mod.{k}": v for k, v in w.items()}},
    "lightning": lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "hyper_parameters": {"lr": 0.1}},
    "beside a loss": lambda w: {"state_dict": {**w, "criterion.weight": torch.ones(3)}},
    "lightning beside a loss": lambda w: {
        "state_dict": {"loss_fn.w": torch.ones(1), **{f"net.{k}": v for k, v in w.items()}}
    },
    "of a distiller": lambda w: {"model": {f"module.student.{k}": v for k, v in w.items()}},
    "beside another network": lambda w: {
        **{f"student.{k}": v for k, v in w.items()},
        "teacher.0.weight": torch.ones(9, 3),
    },
    "fsdp": lambda w: {f"_fsdp_wrapped_module.{k}": v for k, v in w.items()},
    "fabric": lambda w: {"model": {f"_forward_module.{k}": v for k, v in w.items()}},
    "compiled inside": lambda w: {k.replace("0.", "0._orig_mod.", 1) if k[0] == "0" else k: v for k, v in w.items()},
    "averaged": lambda w: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in w.items()}},
    "averaged in a file": lambda w: {"model_ema": {"n_averaged": torch.tensor(3), **w}},
    "deepspeed": lambda w: {"module": w, "optimizer": None, "ds_config": {"a": 1}},
    "nested": lambda w: {"state_dict": {"model": w}},
    "under any key": lambda w: {"classifier_of_2024": w, "epoch": 3},
    "epoch beside": lambda w: {**w, "epoch": 3, "args": None},
    "counters": lambda w: {**w, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "settings": lambda w: {
        "model": w,
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "acc": np.float64(0.5),
        "best": np.float32(1),
        "at": datetime.datetime(2024, 1, 1),
        "log": collections.defaultdict(list, {"acc": [np.int64(3)]}),
    },
    "half": lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()},
    "no counters": lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_checkpoints_however_they_are_wrapped(tmp_path: Path, wrapping: str) -> None:
    torch.save(WRAPPED[wrapping](build("net4").state_dict()), tmp_path / "net4.pt")
    family = load_family(f"ckpt:{tmp_path}/*.pt", builder=build)
    assert [teacher.key for teacher in family] == [f"{tmp_path.name}/net4"]
    assert family[0].params == 3 * 4 + 4 + 2 * 4 + 4 * 2 + 2
    np.testing.assert_allclose(family[0].logits(INPUTS), expected(), atol=2e-3 if wrapping == "half" else 1e-6)


def test_all_that_match_smallest_first(tmp_path: Path) -> None:
    folder = tmp_path / "runs[1]"  # brackets in the base are no wildcards
    folder.mkdir()
    for width in (16, 4, 8):
        save_file(build(f"net{width}").state_dict(), folder / f"net{width}.safetensors")
    family = load_family("ckpt:*.safetensors", builder=build, base=folder, name="mine")
    assert [teacher.key for teacher in family] == ["mine/net4", "mine/net8", "mine/net16"]
    np.testing.assert_allclose(family["net8"].logits(INPUTS), expected(8), atol=1e-6)
    assert len({teacher.weights_hash for teacher in family}) == 3


def test_a_path_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(build("net4").state_dict(), tmp_path / "net4.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_family("ckpt:~/*.pt", builder=build, base="/elsewhere")) == 1


def test_builders_by_name(tmp_path: Path) -> None:
    for folder, bias in (("a", 1.0), ("b", 2.0)):
        home = tmp_path / folder
        home.mkdir()
        (home / "parts.py").write_text("from torch import nn\nLAYER = nn.Linear\n")
        (home / "models.py").write_text(
            textwrap.dedent(f"""
            from dataclasses import dataclass
            import parts
            @dataclass
            class Shape:
                width: "int" = 3
            class Shifted(parts.LAYER):
                def forward(self, x):
                    return super().forward(x) + {bias}
            def make(stem):
                return Shifted(Shape().width, 2)
        """)
        )
        torch.save(nn.Linear(3, 2).state_dict(), home / "t.pt")
    torch.save(torch.load(tmp_path / "a" / "t.pt", weights_only=True), tmp_path / "b" / "t.pt")
    one, two = (load_family("ckpt:t.pt", builder="models:make", base=tmp_path / folder)[0] for folder in "ab")
    np.testing.assert_allclose(two.logits(INPUTS) - one.logits(INPUTS), 1.0, atol=1e-6)  # each its own models.py


def test_builders_by_architecture(tmp_path: Path) -> None:
    network = architectures.build("cifar_resnet20")
    torch.save(network.state_dict(), tmp_path / "resnet20.pt")
    family = load_family(f"ckpt:{tmp_path}/*.pt", builder="arch:cifar_{stem}", mean=[0.5] * 3, std=[0.25] * 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        np.testing.assert_allclose(family[0].logits(images), network.eval()(x).numpy(), atol=1e-4)
    assert family[0].preprocessing == "Normalise(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar_resnet8", {"num_classes": 100}),
        ("wrn-10-1", {"num_classes": 7, "in_channels": 1}),
        ("shufflenetv1", {"num_classes": 20}),
        ("mlp8", {"num_classes": 26, "in_features": 16}),
    ],
)
def test_a_registered_architecture_gets_the_sizes_of_the_checkpoint(
    tmp_path: Path, name: str, sizes: dict[str, int]
) -> None:
    torch.manual_seed(0)
    network = architectures.build(name, **sizes).eval()
    save_file(network.state_dict(), tmp_path / f"{name}.safetensors")  # this format forgets the order of the weights
    (teacher,) = load_family(f"ckpt:{tmp_path}/*.safetensors", builder="arch:{stem}")
    assert teacher.params == sum(p.numel() for p in network.parameters())
    shape = (2, 16) if "in_features" in sizes else (2, sizes.get("in_channels", 3), 32, 32)
    x = torch.rand(shape)
    assert teacher.module is not None
    with torch.inference_mode():
        torch.testing.assert_close(teacher.module()(x), network(x))


def test_a_builder_may_wrap_the_network_itself(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(build("net4")).state_dict(), tmp_path / "net4.pt")
    family = load_family(f"ckpt:{tmp_path}/*.pt", builder=lambda stem: nn.DataParallel(build(stem)))
    np.testing.assert_allclose(family[0].logits(INPUTS), expected(), atol=1e-6)


def shifted(step: float) -> dict[str, Any]:
    return {
        key: value + step if value.is_floating_point() else value for key, value in build("net4").state_dict().items()
    }


def test_plain_and_averaged_weights_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "net4.pt"
    torch.save({"state_dict": shifted(0), "state_dict_ema": shifted(1)}, file)
    plain = load_family(f"ckpt:{file}", builder=build)[0]
    averaged = load_family(f"ckpt:{file}", builder=build, key="state_dict_ema")[0]
    np.testing.assert_allclose(plain.logits(INPUTS), expected(), atol=1e-6)
    assert plain.source == "ckpt:net4.pt (plain weights 'state_dict', not the averaged 'state_dict_ema')"
    assert averaged.source == "ckpt:net4.pt (averaged weights 'state_dict_ema')"
    assert np.abs(averaged.logits(INPUTS) - plain.logits(INPUTS)).max() > 0.1
    assert averaged.weights_hash != plain.weights_hash
    with pytest.raises(InputError, match=r"no weights under the key 'ema'; the mappings in it are \['state_dict', "):
        load_family(f"ckpt:{file}", builder=build, key="ema")
    torch.save({"epoch": 1, "ema": shifted(1)}, file)
    assert load_family(f"ckpt:{file}", builder=build)[0].source == "ckpt:net4.pt (averaged weights 'ema')"
    torch.save({"a": shifted(1), "b": {"net": shifted(0)}}, file)
    by_path = load_family(f"ckpt:{file}", builder=build, key="b.net")[0]
    np.testing.assert_allclose(by_path.logits(INPUTS), expected(), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "told", "key"),
    [
        ({"model": 0, "model_ema": 1}, "plain weights 'model', not the averaged 'model_ema'", "model_ema"),
        ({"model": 0, "swa_model": 1}, "plain weights 'model', not the averaged 'swa_model'", "swa_model"),
        ({"model": 0, "model_avg": 1}, "plain weights 'model', not the averaged 'model_avg'", "model_avg"),
        ({"run": {"model": 0, "ema": 1}}, "plain weights 'run.model', not the averaged 'run.ema'", "run.ema"),
        ({"model": 0, "ema": {"module": 1}}, "plain weights 'model', not the averaged 'ema'", "ema"),
        ({"": 0, "ema": 1}, "plain weights, not the averaged 'ema'", "ema"),
        ({"state_dict": 0, "best": 1}, "weights 'state_dict', not 'best'", "best"),
        (
            {"state_dict": 0, "callbacks": {"EMA{'decay': 0.9}": {"ema_weights": 1}}},
            "weights 'state_dict', not \"callbacks.EMA{'decay': 0.9}.ema_weights\"",
            "callbacks.EMA{'decay': 0.9}.ema_weights",
        ),
    ],
)
def test_which_of_several_weights_were_taken_is_said_and_key_takes_the_other(content, told, key, tmp_path):
    def filled(value):
        if isinstance(value, int):
            return shifted(value)
        return {name: part for k, v in value.items() for name, part in ({k: filled(v)} if k else filled(v)).items()}

    file = tmp_path / "net4.pt"
    torch.save(filled(content), file)
    plain, other = load_family(f"ckpt:{file}", builder=build)[0], load_family(f"ckpt:{file}", builder=build, key=key)[0]
    assert plain.source == f"ckpt:net4.pt ({told})"
    np.testing.assert_allclose(plain.logits(INPUTS), expected(), atol=1e-6)
    assert np.abs(other.logits(INPUTS) - expected()).max() > 0.1 and other.weights_hash != plain.weights_hash


def test_weights_without_names_are_named(tmp_path):
    file = tmp_path / "net4.pt"
    torch.save({"model": shifted(0), "ema": {"shadow_params": list(shifted(1).values())}}, file)
    assert load_family(f"ckpt:{file}", builder=build)[0].source == (
        "ckpt:net4.pt (weights 'model', not 'ema.shadow_params')"
    )
    torch.save({name: value.numpy() for name, value in shifted(0).items()}, file)
    with pytest.raises(InputError, match=r"got keys \[.*\] of NumPy arrays"):
        load_family(f"ckpt:{file}", builder=build)


def test_several_networks_in_one_file_need_a_choice(tmp_path: Path) -> None:
    file = tmp_path / "net4.pt"
    torch.save({f"{name}.{k}": v for name, step in (("one", 0), ("two", 1)) for k, v in shifted(step).items()}, file)
    with pytest.raises(InputError, match=r"weights named \['one.', 'two.'\] fit it, choose one by prefix="):
        load_family(f"ckpt:{file}", builder=build)
    one, two = (load_family(f"ckpt:{file}", builder=build, prefix=prefix)[0] for prefix in ("one", "two."))
    np.testing.assert_allclose(one.logits(INPUTS), expected(), atol=1e-6)
    assert one.weights_hash != two.weights_hash
    assert "prefix 'two.'" in two.source
    with pytest.raises(InputError, match=r"no weight begins with 'three.'; they begin with \['one', 'two'\]"):
        load_family(f"ckpt:{file}", builder=build, prefix="three")
    torch.save({"first": shifted(0), "second": shifted(1)}, file)
    with pytest.raises(InputError, match=r"several state dicts, under \['first', 'second'\]: choose one by key="):
        load_family(f"ckpt:{file}", builder=build)


@pytest.mark.parametrize("name", ["wrn_16_2", "wrn_10_1"])
def test_the_other_names_of_wide_resnets(tmp_path: Path, name: str) -> None:
    network = architectures.build(name, num_classes=100).eval()
    theirs = {
        f"module.{k}".replace("module.layer", "module.block").replace("module.linear", "module.fc"): v
        for k, v in network.state_dict().items()
    }
    (tmp_path / f"{name}_vanilla").mkdir()
    torch.save({"model": theirs, "epoch": 240}, tmp_path / f"{name}_vanilla" / "ckpt_epoch_240.pth")
    (teacher,) = load_family(f"ckpt:{tmp_path}/*/ckpt_epoch_240.pth", builder="arch:{parent}")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(teacher.logits(images), wanted, atol=1e-4)


def zoo(folder: Path, *places: str) -> None:
    for number, place in enumerate(places):
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(shifted(number), file)


@pytest.mark.parametrize(
    ("places", "pattern", "keys"),
    [
        (("a_vanilla/ckpt_240.pth", "b_vanilla/ckpt_240.pth"), "*/ckpt_240.pth", ["zoo/a_vanilla", "zoo/b_vanilla"]),
        (("a/x.pt", "b/y.pt", "c/x.pt"), "{a,b}/*.pt", ["zoo/a-x", "zoo/b-y"]),
        (("run10/ckpts/best.pt", "run9/ckpts/best.pt"), "**/*.pt", ["zoo/run9", "zoo/run10"]),
        (("a/best.pt", "b/deep/best.pt"), "**/best.pt", ["zoo/a", "zoo/b-deep"]),
        (("r/1.pt", "r/2.pt", "v/1.pt"), "*/*.pt", ["r/1", "r/2", "v/1"]),  # folders of several are families
        (("a/k/1.pt", "a/k/2.pt", "b/k/1.pt"), "*/k/*.pt", ["zoo/a-1", "zoo/a-2", "zoo/b-1"]),
        (("x{1}.pt",), "x{1}.pt", ["zoo/x{1}"]),
    ],
)
def test_runs_in_folders(tmp_path: Path, places: tuple[str, ...], pattern: str, keys: list[str]) -> None:
    zoo(tmp_path / "zoo", *places)
    family = load_family(f"ckpt:zoo/{pattern}", builder=lambda stem: build("net4"), base=tmp_path)
    assert sorted(f"{teacher.family}/{teacher.name}" for teacher in family) == sorted(keys)


def test_folders_of_several_under_one_name(tmp_path: Path) -> None:
    zoo(tmp_path, "r/1.pt", "r/2.pt", "v/1.pt")
    family = load_family("ckpt:*/*.pt", builder=lambda stem: build("net4"), base=tmp_path, name="all")
    assert [teacher.name for teacher in family] == ["r-1", "2", "v-1"]


def test_builders_that_see_the_path(tmp_path: Path) -> None:
    torch.save(build("net4").state_dict(), tmp_path / "last.pt")
    seen = []

    def by_path(path: Path) -> nn.Module:
        seen.append(path.name)
        return build("net4")

    def by_both(stem: str, *, path: Path) -> nn.Module:
        seen.append((stem, path.suffix))
        return build("net4")

    for builder in (by_path, by_both):
        load_family(f"ckpt:{tmp_path}/*.pt", builder=builder)
    assert seen == ["last.pt", ("last", ".pt")]
    with pytest.raises(InputError, match=r"is named after 'vgg8': builder='arch:\{parent\}' takes that name"):
        (tmp_path / "vgg8_vanilla").mkdir()
        (tmp_path / "last.pt").rename(tmp_path / "vgg8_vanilla" / "last.pt")
        load_family(f"ckpt:{tmp_path}/vgg8_vanilla/last.pt", builder="arch:{stem}")


def test_files_that_are_called_alike_give_the_teachers_name(tmp_path: Path) -> None:
    zoo(tmp_path / "zoo", "net4/best.pt", "net4b/best.pt")
    given: list[str] = []

    def by_name(name: str) -> nn.Module:
        given.append(name)
        return build("net4")

    family = load_family("ckpt:zoo/*/best.pt", builder=by_name, base=tmp_path)
    assert given == [teacher.name for teacher in family] == ["net4", "net4b"]
    with pytest.raises(InputError, match=r"the builder failed for .*best.pt, given 'net4': ZeroDivisionError"):
        load_family("ckpt:zoo/*/best.pt", builder=lambda name: 1 / 0, base=tmp_path)


def test_a_builder_that_is_a_script_too_is_refused_by_name(tmp_path: Path) -> None:
    zoo(tmp_path / "zoo", "net4.pt")
    parses = "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', required=True)\n"
    (tmp_path / "train_a.py").write_text(parses + "options = parser.parse_args([])\ndef make(name): ...\n")
    (tmp_path / "train_b.py").write_text(parses + "def make(name):\n    sys.exit('no lr')\n")
    told = {
        "train_a": r"module 'train_a' \(.*train_a\.py\) ends Python when it is imported \(SystemExit: 2\).*__main__",
        "train_b": r"builder 'make' for .*net4\.pt, given 'net4' ends Python when it is called \(SystemExit: no lr\)",
    }
    for module, message in told.items():
        with pytest.raises(InputError, match=message):
            load_family("ckpt:zoo/*.pt", builder=f"{module}:make", base=tmp_path)


def test_a_trap_among_settings_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "net4.pt"
    torch.save({"model": shifted(0), "args": argparse.Namespace(x=Trap(tmp_path / "sprung"))}, file)
    with pytest.raises(InputError, match=r"asks for posix.mkdir"):
        load_family(f"ckpt:{file}", builder=build)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, how: str) -> None:
    trap, file = Trap(tmp_path / "sprung"), tmp_path / "net4.pt"
    if how == "torch":
        torch.save(trap, file)
    elif how == "pickle":
        file.write_bytes(pickle.dumps(trap))
    else:
        torch.save({"state_dict": build("net4").state_dict(), "extra": trap}, file)
    wanted = r"net4\.pt cannot be read with weights only.* never runs code.* state_dict"
    with pytest.raises(InputError, match=wanted) as raised:
        load_family(f"ckpt:{file}", builder=build)
    assert "weights_only" not in str(raised.value)  # torch's own text tells how to run the code after all
    assert how == "pickle" or "asks for posix.mkdir" in str(raised.value)
    assert not (tmp_path / "sprung").exists()
    if how != "pickle":
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert (tmp_path / "sprung").exists()  # the trap was a real one


def changed(**changes: Any) -> dict[str, Any]:
    weights = dict(build("net4").state_dict())
    for key, value in changes.items():
        name = key.replace("_", ".", 1)
        weights.pop(name) if value is None else weights.update({name: value})
    return weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(**{"0_weight": None}), "net4.pt does not fit the network that .* made for 'net4'; missing: 0.weight$"),
        (changed(**{"9_weight": torch.zeros(1)}), "unexpected: 9.weight$"),
        (changed(**{"2_bias": torch.zeros(7)}), r"of another shape: 2.bias \(7,\), expected \(2,\)$"),
        (changed(**{"2_bias": torch.zeros(2).to_sparse()}), r"of another kind: 2.bias \(sparse_coo\), expected plain"),
        (changed(**{"2_bias": torch.zeros(2, dtype=torch.complex64)}), r"of another kind: 2.bias \(complex\)"),
        (changed(**{"2_bias": torch.zeros(2, dtype=torch.int8)}), r"of another kind: 2.bias \(int8\)"),
        (changed(**{"2_bias": torch.zeros(2, device="meta")}), r"of another kind: 2.bias \(meta, without values\)"),
        (changed(**{"0_bias": None, "9_b": torch.zeros(1)}), "missing: 0.bias; unexpected: 9.b$"),
        ({"epoch": 3}, r"net4.pt holds no state dict: .* under one of \['state_dict', .*got keys \['epoch'\]"),
        ([torch.zeros(3)], "net4.pt holds no state dict: .* got list"),
        ({}, "net4.pt holds no state dict"),
        (b"hello", "net4.pt cannot be read with weights only"),
        (b"", "net4.pt cannot be read with weights only.*is damaged.* Copy or download it again"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "net4.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=message):
        load_family(f"ckpt:{file}", builder=build)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"builder": build, "mean": [0.5]}, r"expected both mean and std, or neither, got mean=\[0.5\], std=None"),
        ({"builder": build, "mean": [0.5], "std": [0.0]}, r"expected positive std, got \[0.0\]"),
        ({"builder": build, "mean": [0.5, 0.5], "std": [1.0]}, "expected as many numbers in mean as in std"),
        ({"builder": "models"}, "expected builder like 'module:function' or 'arch:NAME', got 'models'"),
        ({"builder": "no_such_module:make"}, r"cannot import the builder's module 'no_such_module' \(looked in"),
        ({"builder": "json:make"}, "module 'json' has no function 'make'; it has "),
        ({"builder": "arch:no_such_{stem}"}, "no_such_net4"),
        ({"builder": lambda stem: 3}, "the builder gave int for 'net4', not a torch.nn.Module"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    torch.save(build("net4").state_dict(), tmp_path / "net4.pt")
    with pytest.raises(InputError, match=message):
        load_family(f"ckpt:{tmp_path}/net4.pt", **options)


def test_files_that_are_missing_cut_or_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint matches .*\*\.pt"):
        load_family("ckpt:*.pt", builder=build, base=tmp_path)
    (tmp_path / "net4.pt").mkdir()
    with pytest.raises(InputError, match=r"net4.pt is not a readable checkpoint: Is a directory"):
        load_family("ckpt:*.pt", builder=build, base=tmp_path)
    save_file(build("net4").state_dict(), tmp_path / "net4.safetensors")
    data = (tmp_path / "net4.safetensors").read_bytes()
    (tmp_path / "net4.safetensors").write_bytes(data[:-9])
    with pytest.raises(InputError, match=r"net4.safetensors is not a readable checkpoint"):
        load_family("ckpt:*.safetensors", builder=build, base=tmp_path)


def test_a_checkpoint_that_changed_since_is_not_collected_under_the_old_hash(tmp_path: Path) -> None:
    file = tmp_path / "net4.pt"
    torch.save(build("net4").state_dict(), file)
    family = load_family(f"ckpt:{file}", builder=build)
    torch.save({key: value + 1 for key, value in build("net4").state_dict().items()}, file)  # the next epoch
    with pytest.raises(InputError, match=r"net4.pt has changed since the family was loaded"):
        family[0].logits(INPUTS)


# --- saved logits ----------------------------------------------------------------------------------------------------

LOGITS = {"small": np.random.default_rng(0).normal(size=(6, 3)), "large": np.random.default_rng(1).normal(size=(6, 3))}
LABELS = np.array([0, 1, 2, 0, 1, 2])


def npz(folder: Path, **changes: Any) -> str:
    arrays: dict[str, Any] = {"labels": LABELS} | {f"logits_{name}": value for name, value in LOGITS.items()} | changes
    np.savez(folder / "a.npz", **{key: value for key, value in arrays.items() if value is not None})
    return f"logits:{folder / 'a.npz'}"


def form(folder: Path, manifest: Any = None, **changes: Any) -> str:
    home = folder / "saved.v2"
    home.mkdir()
    np.save(home / "labels.npy", LABELS)
    np.save(home / "small.npy", LOGITS["small"])
    save_arrays({"logits": LOGITS["large"].astype(np.float16), "other": np.zeros(1)}, home / "large.safetensors")
    head: dict[str, Any] = {"labels": "labels.npy", "classes": ["a", "b", "c"], "teachers": {"small": {}, "large": {}}}
    text = json.dumps(head | changes) if manifest is None else manifest
    (home / "family.json").write_text(text)
    return f"logits:{home}"


def test_saved_npz(tmp_path: Path) -> None:
    extra = {"params_large": 9, "params_small": 5, "macs_small": 7, "classes": ["a", "b", "c"], "ids": list("uvwxyz")}
    family = load_family(npz(tmp_path, **extra, seed_small=1, teacher_small="mlp", images=np.zeros(3)))
    assert [(t.name, t.seed, t.params, t.macs) for t in family] == [("mlp", 1, 5, 7), ("large", None, 9, None)]
    bank = collect(family, None, tmp_path / "bank", progress=False)
    assert bank.keys == ["a/mlp-s1", "a/large"]
    np.testing.assert_array_equal(bank.logits("a/large"), LOGITS["large"].astype(np.float32))
    assert bank.classes == ("a", "b", "c")
    assert bank.rows.ids.tolist() == list("uvwxyz")


def test_saved_folder(tmp_path: Path) -> None:
    teachers = {"small": {"teacher": "net", "seed": 0}, "large": {"teacher": "net", "seed": 1, "params": 4, "macs": 2}}
    family = load_family(form(tmp_path, teachers=teachers, split=["val"] * 4 + ["test"] * 2))
    bank = collect(family, None, tmp_path / "bank", progress=False)
    assert bank.keys == ["saved.v2/net-s1", "saved.v2/net-s0"]
    np.testing.assert_array_equal(bank.logits("saved.v2/net-s0"), LOGITS["small"].astype(np.float32))
    np.testing.assert_array_equal(bank.logits("saved.v2/net-s1", "test"), LOGITS["large"].astype(np.float16)[4:])
    assert LogitBank(tmp_path / "bank")["saved.v2/net-s1"].params == 4


def test_order_is_that_of_the_file_where_sizes_are_unknown(tmp_path: Path) -> None:
    assert [teacher.name for teacher in load_family(npz(tmp_path))] == ["small", "large"]
    family = load_family(form(tmp_path, teachers={"large": {}, "small": {}}))
    assert [teacher.name for teacher in family] == ["large", "small"]


def softmax(values: Any) -> Any:
    exponentials = np.exp(values)
    return exponentials / exponentials.sum(1, keepdims=True)


def test_probabilities_are_refused_or_converted_with_a_warning(tmp_path: Path) -> None:
    probabilities = softmax(LOGITS["small"])
    probabilities[0] = [1, 0, 0]
    source = npz(tmp_path, logits_small=probabilities)
    with pytest.raises(InputError, match=r"teacher 'small' in .*a.npz holds probabilities, not logits"):
        load_family(source)
    with pytest.raises(InputError, match=r"probabilities must be one of \['refuse', 'convert', 'keep'\], not 'yes'"):
        load_family(source, probabilities="yes")
    with pytest.warns(UserWarning, match=r"teacher 'small' in .*: logits were made from probabilities.* 17 % of the"):
        family = load_family(source, probabilities="convert")
    _, logits = family["small"].saved()
    np.testing.assert_allclose(softmax(logits.astype(float))[1:], softmax(LOGITS["small"])[1:], rtol=1e-5)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(family["large"].saved()[1], LOGITS["large"].astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"expected an array 'labels' in .*a.npz, got \['logits_large', 'logits_small'\]"),
        ({"logits_small": None, "logits_large": None}, "no teacher in .*a.npz: expected arrays named"),
        ({"logits_small": np.array([[{}] * 3] * 6)}, "array 'logits_small' of .* holds Python objects that"),
        ({"logits_small": np.zeros(6)}, r"expected logits of shape \(N, C\) in .*a.npz, got \(6,\) for teacher"),
        ({"logits_large": np.zeros((5, 3))}, r"expected logits of shape \(6, 3\), got \(5, 3\) from teacher 'large'"),
        ({"logits_large": np.full((6, 3), np.nan)}, "expected finite logits, got nan at row 0, class 0 of teacher"),
        ({"labels": LABELS + 1}, r"expected labels in \[0, 3\), got 3 at row 2 of labels of .*a.npz"),
        ({"classes": ["a", "b"]}, "expected labels in|expected 2 classes"),
        ({"params_smal": 3}, "the teacher of array 'params_smal' in .* must be one of .*; did you mean 'small'"),
        ({"params_small": 1.5}, "expected a whole number as params of teacher 'small' in .*, got 1.5"),
        ({"seed_small": -1}, "expected a whole number as seed of teacher 'small' in .*, got -1"),
    ],
)
def test_saved_npz_errors(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_family(npz(tmp_path, **changes))


@pytest.mark.parametrize(
    ("manifest", "changes", "message"),
    [
        ("{", {}, "family.json is not JSON"),
        ("[]", {}, "expected 'labels' and a mapping 'teachers' in .*family.json"),
        (None, {"teachers": {"tiny": {}}}, "teacher 'tiny' of .* has no file: expected tiny.npy or tiny.safetensors"),
        (None, {"labels": "none.npy"}, "there is no file .*none.npy"),
        (None, {"labels": "family.json"}, "family.json is not a readable array"),
        (None, {"teachers": {"small": {"param": 3}}}, "key of teacher 'small' in .* must be one of .*mean 'params'"),
        (None, {"teachers": {"small": {"params": "3"}}}, "expected a whole number as params of teacher 'small' in"),
        (None, {"teachers": {"small": 3}}, r"expected a mapping of .* for teacher 'small' in .*, got 3"),
        (None, {"teachers": {}}, "no teacher in"),
    ],
)
def test_saved_folder_errors(tmp_path: Path, manifest: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_family(form(tmp_path, manifest, **changes))


def test_saved_arrays_that_hold_objects_or_several_tensors(tmp_path: Path) -> None:
    source = form(tmp_path)
    home = tmp_path / "saved.v2"
    np.save(home / "small.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"small.npy is not a readable array: .*Python objects"):
        load_family(source)
    save_arrays({"a": np.zeros(1), "b": np.zeros(1)}, home / "large.safetensors")
    (home / "small.npy").unlink()
    (home / "family.json").write_text(json.dumps({"labels": "labels.npy", "teachers": {"large": {}}}))
    with pytest.raises(InputError, match=r"expected one tensor, or one named 'logits', in .*large.*, got \['a', 'b'\]"):
        load_family(source)
    (home / "family.json").unlink()
    with pytest.raises(InputError, match=r"expected a family.json in"):
        load_family(source)


# --- letters ---------------------------------------------------------------------------------------------------------


def tiny(folder: Path, widths: tuple[int, ...] = (4, 6), **options: Any) -> Any:
    train = load_dataset("letters", split={"train": 300, "val": 200}).part("train")
    return load_family("letters:mlp", widths=widths, seeds=2, train=train, folder=folder, **options)


@pytest.fixture(autouse=True)
def short_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=2, batch_size=100))


def test_letters_are_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = load_dataset("letters").inputs[:50]
    family = tiny(tmp_path / "a")
    assert [teacher.key for teacher in family] == ["mlp/mlp4-s0", "mlp/mlp4-s1", "mlp/mlp6-s0", "mlp/mlp6-s1"]
    assert family[0].params == 16 * 4 + 4 + 4 * 4 + 4 + 4 * 26 + 26
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = [teacher.logits(x) for teacher in family]
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.allclose(first[0], first[1])
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 4
    again = [teacher.logits(x) for teacher in tiny(tmp_path / "b")]  # elsewhere: trained anew, to the same weights
    np.testing.assert_array_equal(first, again)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained twice")

    monkeypatch.setattr(letters, "fit", refuse)
    np.testing.assert_array_equal(first, [teacher.logits(x) for teacher in tiny(tmp_path / "a")])


def test_training_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=20, batch_size=50))
    data = load_dataset("letters", split={"train": 1000, "val": 1000})
    family = load_family("letters:mlp", widths=[64], seeds=1, train=data.part("train"), folder=tmp_path)
    held_out = data.part("val")
    assert (family[0].logits(held_out.inputs).argmax(1) == held_out.labels).mean() > 0.7


def test_other_rows_or_another_recipe_are_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tiny(tmp_path)[0].weights_hash
    train = load_dataset("letters", split={"train": 301}).part("train")
    other = load_family("letters:mlp", widths=[4], seeds=1, train=train, folder=tmp_path)[0].weights_hash
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=3, batch_size=100))
    assert len({one, other, tiny(tmp_path)[0].weights_hash}) == 3


def test_two_makers_at_once_train_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(100)
                real = letters.fit

                def fit(*arguments: Any, real: Any = real, **options: Any) -> Any:
                    with open(log, "a") as file:
                        file.write("fit\n")
                    return real(*arguments, **options)

                letters.fit = fit
                tiny(tmp_path / "a", widths=(4,))[0].module()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert log.read_text() == "fit\n"


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    teacher = tiny(tmp_path, widths=(4,))[0]
    teacher.module()
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(BankError, match=r"mlp4-s0-\w+.safetensors is damaged, remove it to train that teacher again"):
        teacher.module()


def test_letters_teachers_need_letters(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((3, 5)), labels=[0, 1, 2])
    train = load_dataset(f"npz:{tmp_path}/a.npz")
    with pytest.raises(InputError, match=r"take the 16 features of 'letters' .* of shape \(5,\) and 3 classes"):
        load_family("letters:mlp", train=train)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPMISMATCH_CACHE", str(tmp_path))
    assert letters.cache_folder() == tmp_path
    monkeypatch.delenv("CAPMISMATCH_CACHE")
    assert letters.cache_folder() == Path.home() / ".cache" / "capmismatch"
