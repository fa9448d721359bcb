"""Features beside logits: the right layer, the same bytes after a kill, and banks without them as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from messages import naming
from test_collecting import CLASSES, FEATURES, ROWS, contents, dataset, linear, quietly, saved, teacher
from test_sources_published import write_images
from torch import nn

import capmismatch.sources.collecting as SELF
from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import load_dataset
from capmismatch.data.feature_files import FILE, as_stored
from capmismatch.data.token_inputs import TokenBatch
from capmismatch.errors import BankError, InputError
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import load_family
from capmismatch.sources.features import FeatureTap, half_rows


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SELF, "SHARD_ROWS", 8)


def penultimate() -> np.ndarray:
    with torch.no_grad():
        return linear().eval()[0](torch.from_numpy(dataset().inputs)).numpy()


def test_features_are_what_the_last_linear_layer_reads(tmp_path: Path) -> None:
    bank = quietly(teacher(), to=tmp_path, features=True, batch_size=5)
    assert bank.features("fake/small").dtype == np.float16 and bank.all_have_features
    np.testing.assert_allclose(bank.features("fake/small"), penultimate(), atol=2e-3)
    np.testing.assert_array_equal(bank.features("small", "val"), bank.features("small")[1::2])
    bank.verify()
    cut = bank.subset(classes=["b", "a"], n=6)
    rows = [int(identity) for identity in cut.rows.ids]
    np.testing.assert_array_equal(cut.features("small"), bank.features("small")[rows])


def test_a_layer_after_which_the_network_computes_in_place() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    inputs = torch.linspace(-1, 1, 12).reshape(4, 3)
    with FeatureTap(network, "0", "small") as tap, torch.inference_mode():
        network(inputs)
        assert torch.equal(tap.rows(inputs), network[0](inputs))


def test_a_bank_without_features_stays_as_it_was_and_can_get_them_later(tmp_path: Path) -> None:
    without = quietly(teacher(), to=tmp_path / "a")
    before = contents(tmp_path / "a")
    assert not without.has_features("small")
    with pytest.raises(InputError, match="features=True"):
        without.features("small")
    quietly(teacher(), to=tmp_path / "b", features=True)
    at_once = contents(tmp_path / "b")
    assert {name: at_once[name] for name in before} == before and len(at_once) == len(before) + 1
    quietly(teacher(), to=tmp_path / "a", features=True)
    assert contents(tmp_path / "a") == at_once

    def refuse() -> nn.Module:
        raise AssertionError("a collected teacher must not be made again")

    for features in (True, False):
        quietly(teacher(module=refuse), to=tmp_path / "a", features=features)
    assert contents(tmp_path / "a") == at_once


@pytest.mark.parametrize("stop", range(1, 14, 3))
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Seven shards of logits and seven of features: stopped after any number of them."""
    quietly(teacher(), to=tmp_path / "whole", features=True)
    written: list[str] = []
    write = Path.write_bytes

    def write_until(self: Path, data: bytes) -> int:
        if "-0000" in self.name:
            if len(written) == stop:
                raise KeyboardInterrupt
            written.append(self.name)
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_until)
        with pytest.raises(KeyboardInterrupt):
            quietly(teacher(), to=tmp_path / "a", features=True)
    quietly(teacher(), to=tmp_path / "a", features=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def test_damage_is_named_and_other_weights_or_layers_are_refused(tmp_path: Path) -> None:
    quietly(teacher(), to=tmp_path, features=True)
    file = tmp_path / "fake" / "small" / FILE
    whole = file.read_bytes()
    with pytest.raises(BankError, match=r"feature_layer '' and .*given '0.0'"):
        quietly(teacher(feature_layer="0.0"), to=tmp_path, features=True)
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for damaged, words in (
        (bytes(flipped), "do not match the hash"),
        (whole[:-4], "damaged"),
        (whole.replace(b"fake/small", b"fake/smell"), "hash stored with it|damaged"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(BankError, match=words):
            LogitBank(tmp_path).features("small")
    other = quietly(teacher(seed=1), to=tmp_path / "other", features=True)
    file.write_bytes((tmp_path / "other" / "fake" / "small" / FILE).read_bytes())
    with pytest.raises(BankError, match="other weights"):
        LogitBank(tmp_path)
    assert other.has_features("small")


class Two(nn.Module):
    """A head that was defined last and is used in training alone, and one that is called last."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.spare = nn.Linear(8, CLASSES), nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.body(x).relu()
        return self.head(self.seen)


class Places(nn.Module):
    """A network without a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 3, 2), nn.Conv2d(3, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.reshape(len(x), 1, 2, 3))).mean((2, 3))


def test_the_layer_that_is_called_last_counts_and_a_named_one_is_averaged_over_places(tmp_path: Path) -> None:
    network, inputs = Two().eval(), torch.from_numpy(dataset().inputs)
    with FeatureTap(network, "", "two") as tap, torch.inference_mode():
        network(inputs)
        np.testing.assert_array_equal(tap.rows(inputs), network.seen)
    assert not network.head._forward_hooks  # none is left behind
    with pytest.raises(InputError, match=r"no linear layer.*feature_layer.*'head'"):
        quietly(teacher("p", module=Places), to=tmp_path / "a", features=True)
    torch.manual_seed(0)
    places = Places().eval()
    bank = quietly(teacher("p", module=lambda: places, feature_layer="body"), to=tmp_path / "b", features=True)
    with torch.inference_mode():
        wanted = places.body(inputs.reshape(ROWS, 1, 2, 3)).mean((2, 3))
    np.testing.assert_allclose(bank.features("p"), wanted, atol=2e-3)
    with pytest.raises(InputError, match=r"feature_layer of teacher fake/p.*'bodi'"):
        quietly(teacher("p", module=Places, feature_layer="bodi"), to=tmp_path / "c", features=True)


def test_features_that_float16_cannot_hold_and_saved_logits_that_bring_none(tmp_path: Path) -> None:
    huge = nn.Sequential(nn.Linear(FEATURES, 2), nn.Linear(2, CLASSES))
    nn.init.constant_(huge[0].bias, 1e6)
    nn.init.zeros_(huge[1].weight)
    with pytest.raises(InputError, match=r"up to 65504.*row 0, column 0 of teacher fake/huge"):
        quietly(teacher("huge", module=lambda: huge), to=tmp_path / "a", features=True)
    logits = np.random.default_rng(1).normal(size=(ROWS, CLASSES)).astype(np.float32)
    with pytest.warns(UserWarning, match="CM050.*saved/t"):
        bank = quietly(teacher(), saved(dataset(), logits), to=tmp_path / "b", features=True)
    assert bank.has_features("fake/small") and not bank.has_features("saved/t") and not bank.all_have_features


def test_a_bank_as_source_brings_its_features_in_the_order_of_the_rows(tmp_path: Path) -> None:
    first = quietly(teacher(), saved(dataset(), np.eye(CLASSES, dtype=np.float32)[dataset().labels]), to=tmp_path / "a")
    first = quietly(teacher(), to=tmp_path / "a", features=True)
    family, data = load_family(f"bank:{tmp_path / 'a'}"), dataset()
    again = collect(family, None, tmp_path / "b", features=True, progress=False)
    assert (tmp_path / "b/fake/small" / FILE).read_bytes() == (tmp_path / "a/fake/small" / FILE).read_bytes()
    assert again.has_features("small") and not again.has_features("saved/t")
    some = np.arange(ROWS)[::-2]
    cut = collect(family, data.take(some), tmp_path / "c", features=True, progress=False)
    np.testing.assert_array_equal(cut.features("small"), first.features("small")[some])
    other = load_family(f"bank:{tmp_path / 'a'}", feature_layer="0")
    with pytest.raises(InputError, match=r"fake/small are of feature_layer '', not '0'"):
        collect(other, None, tmp_path / "d", features=True, progress=False)


def shufflenet(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for part in (net.conv1, net.maxpool, net.stage2, net.stage3, net.stage4, net.conv5):
        x = part(x)
    return x.mean((2, 3))


def test_features_of_libraries_are_those_that_they_call_so_themselves(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    data = load_dataset(write_images(tmp_path / "images"))
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "hf")
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path / "hf")
    own = {
        "torchvision:shufflenet_v2_x0_5": shufflenet,
        "timm:test_resnet.r160_in1k": lambda net, x: net.forward_head(net.forward_features(x), pre_logits=True),
        f"hf:{tmp_path / 'hf'}": lambda net, x: net.inner.resnet(x).pooler_output.flatten(1),
    }
    for spec, features in own.items():
        member = load_family(spec, **({} if spec.startswith("hf") else {"weights": None}))[0]
        network, batch = member.module().eval(), member.prepare(data.inputs[:2])
        with FeatureTap(network, "", member.key) as tap, torch.inference_mode():
            network(batch)
            np.testing.assert_allclose(tap.rows(batch), features(network, batch), rtol=1e-4, atol=1e-5)
    family = load_family(f"hf:{tmp_path / 'hf'}", by_position=True)
    bank = collect(family, data, tmp_path / "bank", progress=False, features=True)
    assert bank.features(family[0].key).shape == (3, 16)


def test_a_text_has_features_of_each_position() -> None:
    batch = TokenBatch(np.arange(12).reshape(3, 4), np.array([1, 6, 11]))
    network = nn.Sequential(nn.Embedding(12, 5), nn.Linear(5, 12))
    with FeatureTap(network, "", "lm") as tap, torch.inference_mode():
        network(torch.from_numpy(batch.windows))
        np.testing.assert_array_equal(tap.rows(batch), network[0].weight[[1, 6, 11]])


def test_halves_by_torch_are_numpys() -> None:
    draws = np.random.default_rng(0).normal(size=(400, 7)) * 10.0 ** np.arange(-6.0, 1.0)
    draws[0, 0], draws[1, 0], draws[2, 0] = 65504, -65504, 0
    rows = draws.astype(np.float32)
    np.testing.assert_array_equal(half_rows(torch.from_numpy(rows), "teacher a", 0), as_stored(rows, "teacher a"))
    assert half_rows(torch.zeros(0, 3), "teacher a", 0).shape == (0, 3)
    for bad in (65505.0, -np.inf, np.nan):
        rows[5, 2] = bad
        with pytest.raises(InputError, match=naming("row 25", "column 2", "teacher a")):
            half_rows(torch.from_numpy(rows), "teacher a", 20)
