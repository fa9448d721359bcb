"""torchvision, timm and transformers: each teacher does what its own library does with the same weights and images."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hostile import Trap
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import load_dataset
from capmismatch.errors import InputError
from capmismatch.sources._networks import PerImage, expand, matching
from capmismatch.sources._weights import find_file, hash_network
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import list_teachers, load_family
from capmismatch.training.prepare import Normalise

CLASSES = ("cat", "dog", "car")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(image) for image in IMAGES]


def write_images(folder: Path, sizes: tuple[tuple[int, int], ...] = ((40, 50), (33, 60), (50, 41))) -> str:
    """One image for each of three classes, of different sizes, lossless."""
    draws = np.random.default_rng(1)
    for name, (height, width) in zip(CLASSES, sizes, strict=True):
        (folder / name).mkdir(parents=True)
        Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name / "a.png")
    return f"folder:{folder}"


def run(network: nn.Module, batch: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return network.eval()(batch).numpy()


# --- torchvision -----------------------------------------------------------------------------------------------------


def save_torchvision(file: Path, classes: int = 1000, name: str = "squeezenet1_1", seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torchvision.models.get_model(name, weights=None, num_classes=classes)
    torch.save(network.state_dict(), file)
    return network


def test_torchvision_from_a_file_is_torchvision_called_directly(tmp_path: Path) -> None:
    network = save_torchvision(tmp_path / "squeezenet1_1.pth")
    family = load_family("torchvision:squeezenet1_1", weights=str(tmp_path))
    entry = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    wanted = run(network, torch.stack([entry.transforms()(picture) for picture in PICTURES]))
    np.testing.assert_array_equal(family[0].logits(IMAGES), wanted)
    np.testing.assert_array_equal(family[0].logits(PICTURES), wanted)
    assert family[0].classes == tuple(entry.meta["categories"])
    assert family[0].params == entry.meta["num_params"]
    assert family[0].published is None  # nobody published these weights
    assert "crop_size=[224]" in family[0].preprocessing


def test_torchvision_with_the_published_name_of_a_file(tmp_path: Path) -> None:
    entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    save_torchvision(tmp_path / entry.url.rsplit("/", 1)[-1])
    teacher = load_family("torchvision:squeezenet1_1", weights=str(tmp_path))[0]
    assert teacher.published == pytest.approx(entry.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)


def test_torchvision_fine_tuned_to_other_classes(tmp_path: Path) -> None:
    network = save_torchvision(tmp_path / "own.pt", classes=3)
    teacher = load_family("torchvision:squeezenet1_1", weights="own.pt", base=tmp_path)[0]
    assert teacher.classes is None
    transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    wanted = run(network, torch.stack([transform(picture) for picture in PICTURES]))
    np.testing.assert_array_equal(teacher.logits(IMAGES), wanted)


def test_a_folder_of_different_sizes_through_torchvision_into_a_bank(tmp_path: Path) -> None:
    data = load_dataset(write_images(tmp_path / "images"))
    network = save_torchvision(tmp_path / "own.pt", classes=3)
    family = load_family("torchvision:squeezenet1_1", weights="own.pt", base=tmp_path)
    bank = collect(family, data, tmp_path / "bank", batch_size=2, progress=False)
    transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    files = [tmp_path / "images" / identity for identity in data.rows.ids]
    single = [run(network, transform(Image.open(file))[None])[0] for file in files]
    np.testing.assert_allclose(bank.logits("torchvision/squeezenet1_1"), single, atol=1e-5)
    assert bank["torchvision/squeezenet1_1"].macs > 1e8


def test_random_torchvision_weights_are_those_of_the_seed() -> None:
    before = torch.get_rng_state()
    one, two, other = (load_family("torchvision:squeezenet1_1", weights=None, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.weights_hash == two.weights_hash != other.weights_hash
    assert one.weights_hash == hash_network(one.module())
    assert (one.seed, other.seed, one.key) == (1, 2, "torchvision/squeezenet1_1-s1")
    assert load_family("torchvision:squeezenet1_1", weights="random", seed=1)[0].weights_hash == one.weights_hash


def test_published_torchvision_weights_are_known_without_a_download() -> None:
    family = load_family("torchvision:resnet{50,18,34}")  # nothing is fetched until a network runs
    assert [teacher.name for teacher in family] == ["resnet18", "resnet34", "resnet50"]
    assert family["resnet18"].weights_hash == "resnet18-f37072fd.pth"
    assert family["resnet18"].published == pytest.approx(0.69758)
    assert family["resnet50"].source == "torchvision:resnet50 IMAGENET1K_V2"
    first = load_family("torchvision:resnet50", weights="IMAGENET1K_V1")[0]
    assert "resize_size=[256]" in first.preprocessing
    assert "resize_size=[232]" in family["resnet50"].preprocessing


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(InputError, match=r"cannot download ResNet18.* no route to host\. Fetch that file else"):
        load_family("torchvision:resnet18")[0].logits(IMAGES)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("torchvision:resnet19", {}, "no classifier of torchvision is named 'resnet19'; near it: .*'resnet18'"),
        ("torchvision:foo*", {}, r"no classifier of torchvision matches 'foo\*'"),
        ("torchvision:resnet18", {"weights": "IMAGENET1K_V9"}, "weights of torchvision:resnet18, if no path, must be"),
        ("torchvision:resnet18", {"weights": "none/*.pth"}, "expected one file with the weights of 'resnet18' at "),
        ("torchvision:resnet18", {"weights": None, "preset": "V"}, "weights of torchvision:resnet18 must be one of"),
    ],
)
def test_wrong_torchvision_specs(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_family(spec, **options)


def test_torchvision_files_that_do_not_fit_or_are_hostile(tmp_path: Path) -> None:
    save_torchvision(tmp_path / "resnet18.pth", name="squeezenet1_1")
    with pytest.raises(InputError, match=r"resnet18.pth does not fit: expected a last layer 'fc.bias'"):
        load_family("torchvision:resnet18", weights=str(tmp_path))
    torch.save({"fc.bias": torch.zeros(3), "x": torch.zeros(1)}, tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match=r"does not fit torchvision's resnet18; missing: .*unexpected: x"):
        load_family("torchvision:resnet18", weights=str(tmp_path))
    (tmp_path / "resnet18.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(InputError, match="cannot be read with weights only"):
        load_family("torchvision:resnet18", weights=str(tmp_path))
    assert not (tmp_path / "sprung").exists()


# --- timm ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="needs the extra 'timm'")


def timm_wanted(timm: Any, network: Any) -> np.ndarray[Any, Any]:
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return run(network, torch.stack([transform(picture) for picture in PICTURES]))


def test_timm_from_its_own_folder_format_is_timm_called_directly(timm: Any, tmp_path: Path) -> None:
    for seed, name in enumerate(("small", "large")):
        torch.manual_seed(seed)
        network = timm.create_model("test_vit" if name == "small" else "test_resnet", num_classes=3)
        config = {"num_classes": 3, "label_names": list(CLASSES)}
        timm.models.save_for_hf(network, tmp_path / name, model_config=config, safe_serialization=True)
    family = load_family("timm:local-dir:*", base=tmp_path)
    assert {teacher.name for teacher in family} == {"small", "large"}
    assert [t.params for t in family] == sorted(t.params for t in family)
    for teacher in family:
        own = timm.create_model(f"local-dir:{tmp_path / teacher.name}", pretrained=True)
        np.testing.assert_array_equal(teacher.logits(IMAGES), timm_wanted(timm, own))
        assert teacher.classes == CLASSES
    data = load_dataset(write_images(tmp_path / "images"), classes=["car", "cat", "dog"])  # the folder's, sorted
    with pytest.warns(UserWarning, match="CM001 class order differs: teacher timm/small: its columns were mapped"):
        bank = collect(load_family("timm:local-dir:small", base=tmp_path), data, tmp_path / "bank", progress=False)
    raw = family["small"].logits(data.inputs[:])
    np.testing.assert_allclose(bank.logits("timm/small"), raw[:, [2, 0, 1]], atol=1e-6)
    assert LogitBank(tmp_path / "bank")["timm/small"].findings == "CM001"


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_timm_weights_from_a_file(timm: Any, tmp_path: Path, ending: str) -> None:
    torch.manual_seed(1)
    network = timm.create_model("test_resnet.r160_in1k", num_classes=7)
    file = tmp_path / f"test_resnet.r160_in1k.{ending}"
    torch.save(network.state_dict(), file) if ending == "pth" else save_file(network.state_dict(), file)
    teacher = load_family("timm:test_resnet.r160_in1k", weights=str(tmp_path))[0]
    np.testing.assert_array_equal(teacher.logits(IMAGES), timm_wanted(timm, network))
    assert (teacher.classes, teacher.key) == (None, "timm/test_resnet.r160_in1k")


def test_timm_weights_without_names_stand_in_timms_order(timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = timm.create_model("test_resnet.r160_in1k", num_classes=3)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "own.pt")
    names = ["apple", "Banana", "cherry"]  # timm's order; as text "Banana" comes first
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "images" / name / "0.png")
    with pytest.warns(UserWarning, match="taken as text"):
        data = load_dataset(f"folder:{tmp_path / 'images'}")
    assert data.classes == ("Banana", "apple", "cherry")
    options: dict[str, Any] = {"weights": "own.pt", "base": tmp_path}
    family = load_family("timm:test_resnet.r160_in1k", **options)
    raw = family[0].logits(data.inputs[:])
    with pytest.warns(UserWarning, match="CM018 class order assumed"):
        bank = collect(family, data, tmp_path / "bank", progress=False)
    np.testing.assert_allclose(bank.logits(family[0].key), raw[:, [1, 0, 2]], atol=1e-6)
    assert bank.teachers[0].findings == "CM018"
    by_position = load_family("timm:test_resnet.r160_in1k", by_position=True, **options)
    in_its_order, in_another = data.with_classes(names), data.with_classes(["cherry", "apple", "Banana"])
    for number, (kept, rows) in enumerate([(by_position, data), (family, in_its_order), (family, in_another)]):
        bank = collect(kept, rows, tmp_path / f"bank{number}", progress=False)
        np.testing.assert_allclose(bank.logits(family[0].key), raw, atol=1e-6)


def test_timm_without_a_head_is_refused(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **options | {"num_classes": 0}))
    with pytest.raises(InputError, match="timm's test_vit has no classification head"):
        load_family("timm:test_vit", weights=None)


def test_timm_says_which_weights_of_a_file(timm: Any, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet.r160_in1k", num_classes=3)
    weights = network.state_dict()
    averaged = {key: value + 0.5 if value.is_floating_point() else value for key, value in weights.items()}
    torch.save({"state_dict": weights, "state_dict_ema": averaged}, tmp_path / "own.pt")
    for key, words, wanted in (
        (None, "plain weights 'state_dict', not the averaged 'state_dict_ema'", weights),
        ("state_dict_ema", "averaged weights 'state_dict_ema'", averaged),
    ):
        teacher = load_family("timm:test_resnet.r160_in1k", weights="own.pt", key=key, base=tmp_path)[0]
        assert teacher.source == f"timm:test_resnet.r160_in1k own.pt ({words})"
        assert teacher.module is not None
        assert torch.equal(teacher.module().state_dict()["fc.bias"], wanted["fc.bias"])


def test_timm_random_weights_wildcards_and_class_names(timm: Any) -> None:
    family = load_family("timm:test_{resnet,vit}*.r160_in1k", weights=None)
    assert [teacher.params for teacher in family] == sorted(teacher.params for teacher in family)
    names = {teacher.name for teacher in family}
    assert {"test_resnet.r160_in1k", "test_vit.r160_in1k"} <= names
    assert family[0].classes[:2] == ("n01440764", "n01443537")
    assert family[0].weights_hash == load_family(f"timm:{family[0].name}", weights=None)[0].weights_hash
    with pytest.raises(InputError, match=r"no classifier of timm is named 'resnet18.a9'; near it: .*resnet18.a1"):
        load_family("timm:resnet18.a9")


def test_timm_problems_are_input_errors(timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no folder with a config.json, as timm's save_for_hf makes them, matches"):
        load_family("timm:local-dir:none*", base=tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"timm cannot load 'local-dir:.*bad'"):
        load_family("timm:local-dir:bad", base=tmp_path)
    network = timm.create_model("test_vit", num_classes=3)
    timm.models.save_for_hf(network, tmp_path / "trap", model_config={"num_classes": 3}, safe_serialization=False)
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "trap" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"timm cannot load 'local-dir:.*trap'"):
        load_family("timm:local-dir:trap", base=tmp_path)
    assert not (tmp_path / "sprung").exists()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(InputError, match=r"timm cannot load 'test_vit.r160_in1k': OSError: no network\. Give a folder"):
        load_family("timm:test_vit.r160_in1k")


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers", reason="needs the extra 'huggingface'")


def save_vit(transformers: Any, folder: Path, classes: tuple[str, ...] | int = CLASSES, width: int = 16) -> Any:
    names = {} if isinstance(classes, int) else {"id2label": dict(enumerate(classes))}
    if not isinstance(classes, int):
        names["label2id"] = {name: number for number, name in enumerate(classes)}
    else:
        names["num_labels"] = classes
    torch.manual_seed(width)
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        **names,
    )
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.4] * 3).save_pretrained(folder)
    return network


def test_hf_from_a_local_folder_is_transformers_called_directly(transformers: Any, tmp_path: Path) -> None:
    for name, width in (("large", 32), ("small", 16)):
        save_vit(transformers, tmp_path / name, width=width)
    family = load_family("hf:./*", base=tmp_path)
    assert [teacher.key for teacher in family] == ["hf/small", "hf/large"]
    mixed = [PICTURES[0], PICTURES[1].resize((21, 34)), PICTURES[2].convert("L")]
    for teacher in family:
        own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / teacher.name).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / teacher.name)
        for given, pictures in ((IMAGES, PICTURES), (mixed, [picture.convert("RGB") for picture in mixed])):
            with torch.no_grad():
                wanted = own(**processor(images=pictures, return_tensors="pt")).logits.numpy()
            np.testing.assert_allclose(teacher.logits(given), wanted, atol=1e-6)
        assert teacher.classes == CLASSES
        assert teacher.params == own.num_parameters()
        assert '"image_mean": [0.4, 0.4, 0.4]' in teacher.preprocessing


def test_hf_background_class_is_left_out(transformers: Any, tmp_path: Path) -> None:
    save_vit(transformers, tmp_path / "net", ("background", "dog", "cat", "car"))
    data = load_dataset(write_images(tmp_path / "images"))  # car, cat, dog
    family = load_family("hf:./net", base=tmp_path)
    with pytest.warns(UserWarning, match="CM001"):
        bank = collect(family, data, tmp_path / "bank", progress=False)
    np.testing.assert_allclose(bank.logits("hf/net"), family[0].logits(data.inputs[:])[:, [3, 2, 1]], atol=1e-6)


def test_hf_without_a_head_is_refused(transformers: Any, tmp_path: Path) -> None:
    network = save_vit(transformers, tmp_path / "net")
    network.vit.save_pretrained(tmp_path / "net")
    with pytest.raises(InputError, match=r"'hf:.*net' holds no weights for classifier.bias, classifier.weight"):
        load_family("hf:./net", base=tmp_path)


def test_hf_without_names_stands_as_it_is(transformers: Any, tmp_path: Path) -> None:
    save_vit(transformers, tmp_path / "net", 3)
    assert load_family("hf:./net", base=tmp_path)[0].classes is None


def test_hf_weights_that_changed_since(transformers: Any, tmp_path: Path) -> None:
    save_vit(transformers, tmp_path / "net")
    family = load_family("hf:./net", base=tmp_path)
    with torch.no_grad():
        network = save_vit(transformers, tmp_path / "other")
        network.classifier.bias += 1
    network.save_pretrained(tmp_path / "net")
    with pytest.raises(InputError, match=r"the weights of 'hf:.*net' have changed since the family was loaded"):
        family[0].logits(IMAGES)


def test_hf_problems_are_input_errors(transformers: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder with a config.json, as save_pretrained makes them, matches"):
        load_family("hf:./none*", base=tmp_path)
    save_vit(transformers, tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "net" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"transformers cannot load 'hf:.*net'") as raised:
        load_family("hf:./net", base=tmp_path)
    assert "weights_only" not in str(raised.value)  # torch advises to run the code after all
    assert not (tmp_path / "sprung").exists()


def test_hf_never_runs_code_from_a_repository(transformers: Any, tmp_path: Path) -> None:
    save_vit(transformers, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Net"},
    }
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    (tmp_path / "net" / "code.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    with pytest.raises(InputError, match="transformers cannot load"):
        load_family("hf:./net", base=tmp_path)
    assert not (tmp_path / "sprung").exists()


# --- listing, names, files -------------------------------------------------------------------------------------------


def test_list_teachers_counts_what_the_networks_have(
    timm: Any, transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("downloaded"))
    found = list_teachers("torchvision:{squeezenet1_1,regnet_y_400mf}").set_index("name")
    meta = torchvision.models.RegNet_Y_400MF_Weights.DEFAULT.meta
    assert found.index.tolist() == ["squeezenet1_1", "regnet_y_400mf"]
    assert found.loc["regnet_y_400mf", "params"] == meta["num_params"]
    assert found.loc["regnet_y_400mf", "macs"] == pytest.approx(meta["_ops"] * 1e9, rel=0.01)
    assert found.loc["squeezenet1_1", ["input", "classes"]].tolist() == ["3x224x224", 1000]
    listed = list_teachers("timm:test_vit*")
    assert listed["params"].is_monotonic_increasing
    assert "3x160x160" in listed["input"].tolist()
    network = save_vit(transformers, tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    row = list_teachers("hf:./net").iloc[0]
    assert (row["params"], row["input"], row["classes"]) == (network.num_parameters(), "3x16x16", 3)
    assert list_teachers("letters:mlp")["params"].notna().all()


def test_the_command_line_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    from capmismatch.cli import app

    app(["teachers", "torchvision:squeezenet1_{0,1}"], result_action="return_value")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["name", "params", "macs", "input", "classes"]
    assert [line[0] for line in lines[1:]] == ["squeezenet1_1", "squeezenet1_0"]
    assert lines[1][1] == "1,235,496"


@pytest.mark.parametrize(
    ("package", "spec", "extra"),
    [
        ("timm", "timm:resnet18", "timm"),
        ("transformers", "hf:a/b", "huggingface"),
        ("datasets", "hf:a/b", "huggingface"),
    ],
)
def test_a_missing_extra_is_named(package: str, spec: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{spec} needs {package}.*: pip install 'capmismatch\[{extra}\]'"):
        load_dataset(spec) if package == "datasets" else load_family(spec)


def test_names() -> None:
    assert expand("a{1,2}b{x,y}") == ["a1bx", "a1by", "a2bx", "a2by"]
    assert matching("{b,a*}", ["a1", "a2", "b"], "x") == ["b", "a1", "a2"]


def test_which_file_belongs_to_a_name(tmp_path: Path) -> None:
    for name in ("resnet18-f37072fd.pth", "resnet18d.pth", "resnet18-notes.txt", "resnet180.pt"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "resnet18", ".").name == "resnet18-f37072fd.pth"
    assert find_file("{name}d.*", "resnet18", tmp_path).name == "resnet18d.pth"
    (tmp_path / "resnet18.pt").touch()
    with pytest.raises(InputError, match=r"expected one file with the weights of 'resnet18' at .*, got \['resnet18-f"):
        find_file(tmp_path, "resnet18", ".")


def test_images_of_any_kind_are_rgb() -> None:
    prepare = PerImage(lambda image: torch.from_numpy(np.array(image)))
    grey = IMAGES[:, :, :, :1]
    wanted = np.repeat(grey, 3, axis=3)
    for given in (grey, grey[..., 0], [Image.fromarray(image[..., 0]) for image in grey]):
        np.testing.assert_array_equal(prepare(given).numpy(), wanted)
    with pytest.raises(InputError, match=r"expected images: uint8 arrays .* got float64 of shape \(16,\)"):
        prepare(np.zeros((2, 16)))
    with pytest.raises(InputError, match=r"images of one size, got widths and heights \[\(5, 6\), \(50, 40\)\]"):
        Normalise()([PICTURES[0], PICTURES[0].resize((5, 6))])
