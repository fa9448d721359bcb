from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import naming
from torch import nn

from capmismatch import architectures
from capmismatch.architectures import build, count_macs, count_parameters, names, register
from capmismatch.errors import InputError

DATA = Path(os.environ.get("CAPMISMATCH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
NORMALISE_A = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISE_B = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CHECKPOINTS = {
    **{f"teachers_a/resnet{depth}.pt": f"cifar_resnet{depth}" for depth in (20, 32, 44, 56)},
    **{f"teachers_b/resnet{depth}.pt": f"cifar_resnet{depth}_stem64" for depth in (8, 14, 20, 26, 32)},
    **{f"teachers_b/wrn{depth}_1.pt": f"wrn-{depth}-1" for depth in (10, 16, 28)},
}
MEMBERS = (
    *("mlp48", "mlp48x48", "cifar_resnet8", "cifar_resnet8_stem64", "resnet8x1", "resnet8x4", "wrn-10-1", "wrn10-4"),
    *("resnext11_4x16d", "resnext11_8x64d", "vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2"),
)


def options_for(name: str) -> dict[str, int]:
    return {"in_features": 3 * 32 * 32} if name.startswith("mlp") else {}


def build_on_meta(name: str, num_classes: int, **options: int) -> nn.Module:
    with torch.device("meta"):
        return build(name, num_classes, **options_for(name), **options)


# Sizes


@pytest.mark.parametrize(
    ("name", "num_classes", "millions"),
    [
        ("cifar_resnet20", 10, 0.27),  # He et al., table 6
        ("cifar_resnet32", 10, 0.46),
        ("cifar_resnet44", 10, 0.66),
        ("cifar_resnet56", 10, 0.85),
        ("cifar_resnet110", 10, 1.73),
        ("wrn-40-1", 10, 0.56),  # Zagoruyko & Komodakis, tables 3 to 5: 0.6 and 36.5
        ("wrn-28-10", 10, 36.48),
        ("wrn-16-2", 100, 0.70),
        ("wrn-40-1", 100, 0.57),
        ("wrn-40-2", 100, 2.26),
        ("resnet8x4", 100, 1.23),
        ("resnet32x4", 100, 7.43),
        ("resnet20x1", 100, 0.28),
        ("vgg8", 100, 3.97),
        ("vgg13", 100, 9.46),
        ("mobilenetv2", 100, 0.81),
        ("shufflenetv1", 100, 0.95),
        ("shufflenetv2", 100, 1.36),
        ("resnext29_8x64d", 10, 34.43),  # Xie et al., table 7: 34.4
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, num_classes: int, millions: float) -> None:
    assert round(count_parameters(build_on_meta(name, num_classes)) / 1e6, 2) == millions


def basic_block_macs(shortcuts: bool) -> int:
    """ResNet-20 by hand: stem, three stages of six 3x3 convolutions, linear; with or without 1x1 shortcuts."""
    total = 32 * 32 * 9 * 3 * 16 + 64 * 10
    previous = 16
    for side, width in ((32, 16), (16, 32), (8, 64)):
        total += side * side * 9 * (previous * width + 5 * width * width)
        total += side * side * previous * width if shortcuts and previous != width else 0
        previous = width
    return total


def test_macs_by_hand() -> None:
    assert count_macs(build("cifar_resnet20"), (3, 32, 32)) == basic_block_macs(shortcuts=False) == 40_551_040
    assert count_macs(build("resnet20x1"), (3, 32, 32)) == basic_block_macs(shortcuts=True) == 40_813_184
    assert count_macs(build("mlp48x32", 26, in_features=16), (16,)) == 16 * 48 + 48 * 32 + 32 * 26
    grouped = nn.Conv2d(8, 12, kernel_size=3, stride=2, padding=1, groups=4)
    assert count_macs(grouped, (8, 10, 10)) == 5 * 5 * 9 * (8 // 4) * 12


def test_macs_count_attention() -> None:
    layer = nn.TransformerEncoderLayer(d_model=16, nhead=2, dim_feedforward=24, batch_first=True)
    length, width = 5, 16
    projections = length * (4 * width * width + 2 * width * 24)
    assert count_macs(layer, (length, width)) == projections + 2 * length * length * width


def test_counting_leaves_the_model_as_it_was() -> None:
    model = build("cifar_resnet8")
    model.bn1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_macs(model, (3, 32, 32))
    assert model.training and model.layer1.training and not model.bn1.training
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(layer, layer)) == 20


# Building


def test_every_kind_is_tested() -> None:
    shipped = {  # what users and examples have registered does not count
        f"{architectures.__name__}.{file}"
        for file in (
            "cifar_resnet",
            "mlp",
            "mobilenet",
            "resnext",
            "shufflenet",
            "vgg",
            "wide_resnet",
            "widened_resnet",
        )
    }
    ours = [kind for kind in architectures.registry._KINDS if kind.builder.__module__ in shipped]
    assert {kind.builder.__module__ for kind in ours} == shipped
    assert all(any(kind.fields(name) is not None for name in MEMBERS) for kind in ours)


@pytest.mark.parametrize("name", MEMBERS)
def test_architectures_map_images_to_logits(name: str) -> None:
    model = build_on_meta(name, 7)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 7)
    if not name.startswith("mlp"):
        assert build_on_meta(name, 7, in_channels=1)(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["cifar_resnet8", "wrn-10-1", "mobilenetv2", "shufflenetv2", "mlp16"])
def test_initial_weights_follow_the_seed(name: str) -> None:
    def fresh(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(name, **options_for(name)).parameters())

    assert torch.equal(fresh(1), fresh(1))
    assert not torch.equal(fresh(1), fresh(2))


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet8_stem64", "resnet8x1", "wrn-10-1", "shufflenetv1"])
def test_fresh_logits_are_of_moderate_size_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build(name)
    logits = model(torch.randn(8, 3, 32, 32))
    assert 1e-3 < logits.std().item() < 10
    logits.square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters())


def test_mlp_layers() -> None:
    model = build("mlp48x32", 26, in_features=16)
    x = torch.randn(5, 4, 4)
    hidden = torch.relu(x.reshape(5, 16) @ model.hidden1.weight.T + model.hidden1.bias)
    hidden = torch.relu(hidden @ model.hidden2.weight.T + model.hidden2.bias)
    torch.testing.assert_close(model(x), hidden @ model.linear.weight.T + model.linear.bias)


def test_pad_shortcut_takes_every_second_pixel_between_zero_channels() -> None:
    block = build("cifar_resnet8").layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_shuffle_interleaves_groups() -> None:
    from capmismatch.architectures._layers import shuffle_channels

    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle_channels(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_wide_resnet_loads_both_namings() -> None:
    source = build("wrn-10-1")
    other = {
        key.replace("layer1.", "block1.", 1)
        .replace("layer2.", "block2.", 1)
        .replace("layer3.", "block3.", 1)
        .replace("linear.", "fc."): value
        for key, value in source.state_dict().items()
    }
    assert "block1.layer.0.conv1.weight" in other and "fc.bias" in other
    for nested in (False, True):
        target = nn.Sequential(build("wrn-10-1")) if nested else build("wrn-10-1")
        target.load_state_dict({f"0.{key}" if nested else key: value for key, value in other.items()}, strict=True)
        loaded = target.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), loaded, strict=True))
    assert "fc.bias" in other  # the caller's dict is left alone


def test_parameter_names_of_public_checkpoints() -> None:
    expected = {
        "resnet8x4": ["layer1.0.downsample.0.weight", "fc.bias"],
        "vgg8": ["block0.0.bias", "block4.1.running_mean", "classifier.weight"],
        "vgg13": ["block1.3.weight"],
        "mobilenetv2": ["conv1.0.weight", "blocks.6.0.conv.6.weight", "conv2.1.bias", "classifier.0.weight"],
        "shufflenetv1": ["layer2.7.bn3.weight", "linear.weight"],
        "shufflenetv2": ["layer1.0.conv5.weight", "layer2.7.conv3.weight", "conv2.weight", "linear.bias"],
        "resnext29_4x16d": ["conv_1_3x3.weight", "stage_2.stage_2_bottleneck_0.shortcut.shortcut_conv.weight"],
    }
    for name, keys in expected.items():
        assert set(keys) <= set(build_on_meta(name, 100).state_dict()), name


# Names


def test_names_are_sorted_by_size_and_drawing_them_costs_no_randomness() -> None:
    architectures.registry._size.cache_clear()
    state = torch.get_rng_state()
    listed = names("[vw]*")
    assert torch.equal(state, torch.get_rng_state())
    sizes = [count_parameters(build_on_meta(name, 10)) for name in listed]
    assert sizes == sorted(sizes) and len(set(listed)) == len(listed)
    assert names("WRN_40*") == ["wrn-40-1", "wrn-40-2"]


def test_names_are_free_in_case_and_dashes_and_numbers() -> None:
    model = build_on_meta("WRN_22_3", 10)
    assert count_parameters(model) == count_parameters(build_on_meta("wrn-22-3", 10))
    assert len(model.layer1.layer) == 3 and model.linear.in_features == 192
    assert len(build_on_meta("mlp9x8x7x6", 10)) == 2 * 4 + 2


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures.registry, "_KINDS", list(architectures.registry._KINDS))


def test_registering_again_replaces_the_same_function(own_registry: None) -> None:
    def run_cell(width: int) -> None:
        @register("again")
        def again(num_classes: int) -> nn.Module:
            return nn.Linear(width, num_classes)

    for width in (1, 3000):
        run_cell(width)
        assert build("again").in_features == width
        assert names("again") == ["again"]


def test_register_adds_names_and_refuses_taken_ones(own_registry: None) -> None:

    @register("little{width}", listed=("little2", "little1"))
    def little(num_classes: int, in_channels: int, *, width: int, bias: bool = True) -> nn.Module:
        return nn.Sequential(nn.Linear(in_channels, width), nn.Linear(width, num_classes, bias=bias))

    @register("lazy")
    def lazy(num_classes: int) -> nn.Module:
        return nn.LazyLinear(num_classes)

    @register("by_value")
    def by_value(num_classes: int) -> nn.Module:
        return nn.Linear(int(torch.ones(1).item()), num_classes)

    assert names("l*") == ["little1", "little2", "lazy"]
    assert names("[bl]*")[-2:] == ["by_value", "lazy"]  # of unknown size
    assert build("little3", 5, in_channels=2)(torch.zeros(1, 2)).shape == (1, 5)
    assert count_parameters(build("little3", 5, bias=False)) == 3 * 3 + 3 + 3 * 5
    with pytest.raises(InputError, match=r"'wrn-9-9' is taken by 'wrn-\{depth\}-\{width\}'"):
        register("wrn-9-9")(little)
    with pytest.raises(InputError, match=naming("'big'", "'small{n}'")):
        register("small{n}", listed=("big",))(little)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cifar_resnt20",
            {},
            r"no architecture is named 'cifar_resnt20'; near it: \['cifar_resnet20'.*kinds are cifar_resnet",
        ),
        ("cifar_resnet21", {}, r"depth of a CIFAR ResNet must be 6n\+2 \(8, 14, 20, 26, \.\.\.\), got 21"),
        ("cifar_resnet2", {}, r"must be 6n\+2 .*, got 2"),
        ("wrn-17-1", {}, r"depth of a WideResNet must be 6n\+4 \(10, 16, 22, 28, \.\.\.\), got 17"),
        ("resnext28_4x4d", {}, r"must be 9n\+2"),
        ("vgg12", {}, r"depth of a VGG must be one of \[8, 11, 13, 16, 19\], not 12"),
        ("mlp48", {}, r"mlp48 needs the option 'in_features'"),
        ("vgg8", {"widht": 1}, r"an option of vgg8 must be one of \[\], not 'widht'"),
        ("mobilenetv2", {"widht": 1}, r"must be one of \['width'\], not 'widht'; did you mean 'width'"),
        ("mobilenetv2", {"width": 0}, r"width must be a positive number, got 0"),
        ("vgg8", {"num_classes": 0}, r"num_classes must be a whole number >= 1, got 0"),
        ("vgg8", {"in_channels": 2.5}, r"in_channels must be a whole number >= 1, got 2.5"),
    ],
)
def test_errors_of_build(name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name, **options)


def test_error_of_names() -> None:
    with pytest.raises(InputError, match=naming("'densenet*'", "cifar_resnet")):
        names("densenet*")


# Real checkpoints


def needs_data(path: str) -> Path:
    if not (DATA / path).exists():
        pytest.skip(f"no {path} in {DATA}: set CAPMISMATCH_REAL_DATA to the folder of CIFAR-10 images and checkpoints")
    return DATA / path


def load(checkpoint: str) -> nn.Module:
    model = build(CHECKPOINTS[checkpoint])
    model.load_state_dict(torch.load(needs_data(f"cifar10/{checkpoint}"), weights_only=True), strict=True)
    return model.eval()


def images(count: int, normalise: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(needs_data("cifar10/test.npz")) as file:
        pixels, labels = torch.from_numpy(file["images"][:count]), torch.from_numpy(file["labels"][:count])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in normalise)
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std, labels


@pytest.mark.real_data
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_checkpoint_loads_strictly(checkpoint: str) -> None:
    model = load(checkpoint)
    saved = torch.load(DATA / "cifar10" / checkpoint, weights_only=True)
    assert list(model.state_dict()) == list(saved)


@pytest.mark.real_data
def test_logits_of_a_public_resnet20() -> None:
    x, _ = images(256, NORMALISE_A)
    with np.load(needs_data("cifar10/teachers_a_test_logits.npz")) as file:
        expected = torch.from_numpy(file["logits_resnet20"][:256])
    with torch.inference_mode():
        torch.testing.assert_close(load("teachers_a/resnet20.pt")(x), expected, atol=1e-3, rtol=0)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("checkpoint", "accuracy"), [("teachers_b/resnet8.pt", 0.8949), ("teachers_b/wrn10_1.pt", 0.8796)]
)
def test_accuracy_of_public_checkpoints(checkpoint: str, accuracy: float) -> None:
    x, labels = images(1000, NORMALISE_B)
    with torch.inference_mode():
        logits = torch.cat([load(checkpoint)(batch) for batch in x.split(250)])
    # The accuracy is that of all test images: a thousand of them may stray by three standard errors.
    allowed = 3 * (accuracy * (1 - accuracy) / len(labels)) ** 0.5
    assert abs(float((logits.argmax(1) == labels).double().mean()) - accuracy) < allowed
