from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import naming
from safetensors import safe_open
from scipy import optimize, special
from torch.nn import functional as F

import capmismatch as cm
from capmismatch import cli, temperature
from capmismatch.distillation.methods import Method
from capmismatch.distillation.soft_label_files import SoftLabels, load_soft_labels, soft_labels
from capmismatch.errors import BankError, InputError

ROOT = Path(__file__).parents[2]
NAMES = ("ant", "bee", "cat", "dog")


def make_bank(view: int = 0, rows: int = 30, split: bool = True) -> cm.LogitBank:
    generator = np.random.default_rng(view)
    arrays = {name: 3 * generator.normal(size=(rows, 4)) for name in ("small", "large")}
    parts = np.repeat(["val", "test"], [rows // 3, rows - rows // 3]) if split else None
    return cm.bank_from_arrays(arrays, np.arange(rows) % 4, classes=NAMES, split=parts, name=f"view {view}")


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (Method("KD", tau=2.0), lambda f, y: torch.softmax(f / 2, 1)),
        (Method("ATS", tau=3.0, tau_other=1.5), lambda f, y: temperature.ats(f, y, 3.0, 1.5)),
        (Method("ISATS", tau=3.0, margin=0.5), lambda f, y: temperature.isats(f, y, 3.0, margin=0.5).probs),
        (None, lambda f, y: f),
    ],
)
@pytest.mark.parametrize("split", [None, "val"])
def test_soft_labels_are_made_of_the_banks_logits(method: Method | None, function, split: str | None) -> None:
    banks = [make_bank(view) for view in range(3)]
    found = soft_labels(banks, "logits/large", method, split=split)
    for view, bank in enumerate(banks):
        logits, labels = bank.logits("logits/large", split), bank.labels(split)
        expected = function(torch.from_numpy(logits).double(), torch.from_numpy(labels))
        torch.testing.assert_close(found.values[view], expected.float(), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.ids, bank.rows.ids[bank.select(split)])
    assert found.values.shape == (3, 30 if split is None else 10, 4) and found.values.dtype == torch.float32
    assert found.views == ("view 0", "view 1", "view 2") and found.classes == NAMES


def prepared_by_hand(method: Method, banks: list[cm.LogitBank], held_out: cm.LogitBank) -> np.ndarray:
    """Soft labels (V, N, 4) of the teacher "large" by SciPy alone."""
    f, y = (np.stack([bank.logits("large") for bank in banks]).astype(float), banks[0].labels())
    known, reference = (held_out.logits(name, "val").astype(float) for name in ("large", "small"))
    classes = held_out.labels("val")

    def entropy(logits: np.ndarray, tau: float) -> float:
        return float(special.entr(special.softmax(logits / tau, axis=1)).sum(1).mean())

    if method.name == "ClassKD":
        p = special.softmax(f / method.tau, axis=2)
        of = (
            p
            if method.other is None
            else special.softmax(np.stack([bank.logits("small") for bank in banks]).astype(float) / method.tau, axis=2)
        )
        means = np.stack([of[:, y == label].reshape(-1, 4).mean(0) for label in range(4)])
        return (1 - method.share) * p + method.share * means[y]
    if method.name == "CalKD":
        loss = lambda tau: -special.log_softmax(known / tau, axis=1)[np.arange(len(known)), classes].mean()  # noqa: E731
        tau = method.tau * optimize.minimize_scalar(loss, bounds=(0.05, 500), method="bounded").x
    else:
        wanted = entropy(reference, method.tau)
        tau = optimize.brentq(lambda tau: entropy(known, tau) - wanted, method.tau / 16, method.tau * 16)
    return special.softmax(f / tau, axis=2)


@pytest.mark.parametrize(
    "method",
    [
        Method("CalKD", tau=2.0),
        Method("MatchKD", tau=2.0, other="small"),
        Method("ClassKD", tau=2.0, share=0.3),
        Method("ClassKD", tau=2.0, share=0.3, other="small"),
    ],
    ids=lambda method: method.label,
)
def test_soft_labels_of_prepared_methods_need_held_out_rows_or_a_second_teacher(method: Method, tmp_path: Path) -> None:
    held_out = knowing_bank(9)
    banks = [knowing_bank(view, ("train",)) for view in (1, 2)]
    found = soft_labels(banks, "large", method, held_out=held_out)
    np.testing.assert_allclose(found.values, prepared_by_hand(method, banks, held_out), atol=2e-5)
    read = load_soft_labels(found.write(tmp_path / "soft.safetensors"))
    assert read.method == method and torch.equal(read.values, found.values)
    own = soft_labels(held_out, "large", method, split="test")  # a bank's own "val" rows
    if method.name != "ClassKD":
        np.testing.assert_array_equal(
            own.values, soft_labels(held_out, "large", method, held_out=held_out).values[:, 20:]
        )
        with pytest.raises(InputError, match=naming("'val' rows", "'view 1' has none", "held_out")):
            soft_labels(banks, "large", method)


def knowing_bank(seed: int, split: tuple[str, ...] = ("val", "test")) -> cm.LogitBank:
    """Two teachers that are often right; with an equal number of rows of each split."""
    generator = np.random.default_rng(seed)
    labels = np.arange(40) % 4
    arrays = {
        name: scale * (generator.normal(size=(40, 4)) + 2 * np.eye(4)[labels])
        for name, scale in (("small", 1), ("large", 3))
    }
    parts = np.repeat(split, 40 // len(split))
    return cm.bank_from_arrays(arrays, labels, classes=NAMES, split=parts, name=f"view {seed}")


def test_large_banks_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = soft_labels(make_bank(), "logits/small", "ISATS")
    monkeypatch.setattr("capmismatch.data.bank.CHUNK_BYTES", 8 * 4 * 7)
    torch.testing.assert_close(soft_labels(make_bank(), "logits/small", "ISATS").values, whole.values, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["KD", "ATS", "ISATS", None])
@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path: Path, method: str | None, ending: str, dtype: str) -> None:
    made = soft_labels([make_bank(view) for view in range(2)], "logits/small", method)
    file = made.write(tmp_path / f"new/soft{ending}", dtype)
    read = load_soft_labels(file)
    close = {"rtol": 0, "atol": 0} if dtype == "float32" else {"rtol": 5e-3, "atol": 5e-4}
    torch.testing.assert_close(read.values, made.values, **close)
    torch.testing.assert_close(read.labels, made.labels, rtol=0, atol=0)
    np.testing.assert_array_equal(read.ids, made.ids)
    for name in ("classes", "teacher", "method", "views", "fingerprint"):
        assert getattr(read, name) == getattr(made, name)
    assert repr(read) == repr(made) and read.method == (method and Method(method))
    if method is not None:
        torch.testing.assert_close(read.values.sum(-1), torch.ones(2, 30), rtol=0, atol=1e-6)


def test_half_precision_keeps_the_order_of_improbable_classes(tmp_path: Path) -> None:
    """A thousand classes at temperature 1: as half-precision probabilities most of them would be equal to another."""
    logits = 4 * np.random.default_rng(0).normal(size=(20, 1000))
    made = soft_labels(cm.bank_from_arrays({"net": logits}, np.arange(20)), method=Method("KD", tau=1.0))
    read = load_soft_labels(made.write(tmp_path / "soft.npz", "float16"))
    torch.testing.assert_close(read.values, made.values, rtol=0.02, atol=1e-8)

    def distinct(values: torch.Tensor) -> float:
        return float(np.mean([len(np.unique(row)) for row in values.numpy()]))

    assert distinct(made.values[0].half().float()) < 500 < 900 < distinct(read.values[0])
    with np.load(tmp_path / "soft.npz") as file:
        assert file["soft_logits"].dtype == np.float16


def test_ids_of_any_script_and_length(tmp_path: Path) -> None:
    made = soft_labels(make_bank(), "logits/small")
    ids = np.array([f"folder/ímagé {i}" if i % 2 else "🐜" * (i % 3 + 1) + str(i) for i in range(30)])
    named = SoftLabels(made.values, ids, made.labels, made.classes, made.teacher, made.method, made.views)
    for ending in (".npz", ".safetensors"):
        np.testing.assert_array_equal(load_soft_labels(named.write(tmp_path / f"soft{ending}")).ids, ids)


def test_rows_come_by_id_in_any_order_and_of_any_view() -> None:
    made = soft_labels([make_bank(view) for view in range(3)], "logits/small")
    order = np.random.default_rng(0).permutation(30)
    views = torch.arange(30) % 3
    torch.testing.assert_close(made.of(made.ids[order]), made.values[0, order])
    torch.testing.assert_close(made.of(made.ids[order], 2), made.values[2, order])
    expected = torch.stack([made.values[v, row] for v, row in zip(views, order, strict=True)])
    torch.testing.assert_close(made.of(made.ids[order], views), expected)


def test_files_say_what_they_hold_without_capmismatch(tmp_path: Path) -> None:
    made = soft_labels(make_bank(), "logits/large", Method("ATS", tau_other=2.0))
    with np.load(made.write(tmp_path / "soft.npz"), allow_pickle=False) as file:
        assert sorted(file.files) == ["ids", "labels", "metadata", "soft_labels"]
        assert file["ids"].dtype.kind == "U" and file["ids"].tolist() == made.ids.tolist()
        told = json.loads(str(file["metadata"]))
    assert told["teacher"] == "logits/large" and told["classes"] == list(NAMES)
    assert told["method"]["name"] == "ATS" and told["method"]["tau_other"] == 2.0
    with safe_open(made.write(tmp_path / "soft.safetensors", "float16"), "pt") as file:
        assert sorted(file.keys()) == ["ids", "labels", "soft_logits"]
        assert file.get_tensor("soft_logits").dtype == torch.float16
        metadata = file.metadata()
    assert metadata["teacher"] == "logits/large" and json.loads(metadata["classes"]) == list(NAMES)


def test_recipe_of_the_readme_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    made = soft_labels(make_bank(), "logits/small")
    made.write(tmp_path / "soft.safetensors")
    monkeypatch.chdir(tmp_path)
    order = np.random.default_rng(0).permutation(30)[:8]
    logits = torch.randn(8, 4)
    names = {"batch_ids": made.ids[order].tolist(), "logits": logits}
    exec(compile(code, "README.md", "exec"), names)
    torch.testing.assert_close(names["loss"], F.cross_entropy(logits, made.of(made.ids[order])))


# Command line


def run(*arguments: str | Path) -> None:
    cli.app([str(argument) for argument in arguments], result_action="return_value")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    bank = make_bank()
    arrays = {f"logits_{record.teacher}": bank.logits(record.key).astype(np.float32) for record in bank.teachers}
    np.savez(tmp_path / "saved.npz", labels=bank.labels(), split=bank.rows.split, classes=list(NAMES), **arrays)
    cm.collect(cm.load_family("logits:saved.npz", base=tmp_path), None, tmp_path / "bank", progress=False)
    return tmp_path


def test_command_writes_a_file_for_each_teacher_of_a_bank(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "soften",
        saved / "bank",
        "--method",
        "isats",
        "--tau",
        "2",
        "--margin",
        "0.5",
        "--split",
        "test",
        "--out",
        saved / "soft" / "{teacher}.npz",
    )
    bank = cm.LogitBank(saved / "bank")
    for key in bank.keys:
        read = load_soft_labels(saved / "soft" / f"{key}.npz")
        expected = soft_labels(bank, key, Method("ISATS", tau=2.0, margin=0.5), split="test")
        torch.testing.assert_close(read.values, expected.values, rtol=0, atol=0)
        assert read.teacher == key
    told = capsys.readouterr().out
    assert told.count("(ISATS order m=0.5 tau=2)") == 2 and all(key in told for key in bank.keys)


def test_command_takes_every_stored_view_of_a_study(saved: Path) -> None:
    (saved / "study.toml").write_text("""
        name = "tiny"
        data = { source = "letters", split = { train = 60, val = 60, test = 60 } }
        family = [{ source = "letters:mlp", widths = [4], seeds = 1 }]
        [distill]
        students = ["mlp4"]
        views = { kind = "noise", count = 2, sigma = 1.0 }
        methods = [{ name = "KD" }]
    """)
    study = cm.load_study(saved / "study.toml", saved / "results", progress=False)
    run("soften", saved / "study.toml", "--folder", saved / "results", "--method", "logits", "--out", saved / "l.npz")
    read = load_soft_labels(saved / "l.npz")
    assert read.method is None and read.values.shape == (2, 60, 26)
    for view in range(2):
        np.testing.assert_array_equal(read.values[view], study.view_bank(view).logits("mlp/mlp4-s0"))
    assert read.ids.tolist() == study.train_data.rows.ids.tolist()
    bank = study.collect()
    options = ("--method", "matchkd", "--match", "target_prob", "--other", "mlp4", "--tau", "2")
    run("soften", saved / "study.toml", "--folder", saved / "results", *options, "--out", saved / "m.npz")
    same = Method("MatchKD", tau=2.0, match="target_prob", other="mlp4")  # as its own reference: KD
    read = load_soft_labels(saved / "m.npz")
    assert read.method == same and read.values.shape == (2, 60, 26)
    np.testing.assert_array_equal(read.values, soft_labels(study.training_banks(), None, same, held_out=bank).values)
    run("soften", saved / "study.toml", "--folder", saved / "results", "--split", "val", "--out", saved / "v.npz")
    assert load_soft_labels(saved / "v.npz").values.shape == (1, 60, 26)


# Errors


def test_damaged_files(tmp_path: Path) -> None:
    made = soft_labels(make_bank(), "logits/small")
    for ending in (".npz", ".safetensors"):
        file = made.write(tmp_path / f"soft{ending}")
        for content in (file.read_bytes()[:-40], b"", b"nonsense" * 50):
            file.write_bytes(content)
            with pytest.raises(BankError, match=naming(f"soft{ending}", "damaged")):
                load_soft_labels(file)
    np.savez(tmp_path / "other.npz", metadata=json.dumps({"teacher": "x"}), labels=np.arange(3))
    with pytest.raises(BankError, match=naming("other.npz", "damaged")):
        load_soft_labels(tmp_path / "other.npz")
    short = SoftLabels(made.values[:, :9], made.ids, made.labels, made.classes, "t", None, made.views)
    with pytest.raises(BankError, match=naming((1, 9, 4), (1, 30, 4))):
        load_soft_labels(short.write(tmp_path / "short.npz"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_labels(make_bank()), r"the key of one of 2 teachers: \['logits/small', 'logits/large'\]"),
        (lambda: soft_labels([]), "at least one bank, got none"),
        (lambda: soft_labels(make_bank(), "logits/smal"), "teacher key must be one of .*; did you mean 'logits/small'"),
        (lambda: soft_labels(make_bank(), "logits/small", "DKD"), "a method that makes soft labels .* not 'DKD'"),
        (lambda: soft_labels(make_bank(), "logits/small", split="train"), "split must be one of .*, not 'train'"),
        (
            lambda: soft_labels([make_bank(), make_bank(1, rows=29)], "logits/small"),
            "views of the same examples, got 'view 0' and 'view 1'",
        ),
        (
            lambda: soft_labels(make_bank(), "logits/small", Method("KD", options={"rank_weight": 1.0})),
            "rank_weight needs soft labels and logits",
        ),
        (
            lambda: soft_labels(make_bank(), "logits/small").of(["0", "x"]),
            r"no soft labels of example 'x': ids are '0', '1', '2', ... \(30\)",
        ),
        (lambda: soft_labels(make_bank(), "logits/small").write("soft.pt"), r"ending of soft.pt must be one of"),
        (lambda: soft_labels(make_bank(), "logits/small").write("soft.npz", "int8"), "dtype must be one of"),
        (lambda: soft_labels(large(), None, None).write("x.npz", "float16"), "logits that float16 can hold"),
        (lambda: load_soft_labels("nowhere.npz"), "there is no file nowhere.npz"),
        (lambda: load_soft_labels("soft.pt"), r"ending of soft.pt must be one of \['.safetensors', '.npz'\]"),
        (lambda: run("soften", "bank", "--method", "logits", "--tau", "2", "--out", "x.npz"), "logits takes no tau"),
    ],
)
def test_errors(call, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        call()
    assert not list(tmp_path.iterdir())


def large() -> cm.LogitBank:
    return cm.bank_from_arrays({"net": np.array([[1e6, 0.0]])}, [0])
