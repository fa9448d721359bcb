"""Lists of the likeliest next tokens, written for trainers and read back."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

import capmismatch as cm
from capmismatch.errors import InputError

tokenizers = pytest.importorskip("tokenizers")

K = 5


@pytest.fixture(scope="module", params=[4_200, 40], ids=["condensed", "dense"])
def study(tmp_path_factory, request):
    folder, size = tmp_path_factory.mktemp("export"), request.param
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{n}": n for n in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    words = np.random.default_rng(1).integers(0, size, (9, 21))
    (folder / "text.txt").write_text("|".join(" ".join(f"w{word}" for word in line) for line in words))
    text = cm.load_dataset(
        f"text:{folder / 'text.txt'}",
        tokenizer=str(folder),
        window=8,
        document="|",
        split={"train": 15, "val": 6},
    )
    torch.manual_seed(0)
    network = torch.nn.Embedding(size, size)
    with torch.no_grad():
        network.weight *= 3
    family = cm.load_family({"net": network}, prepare=torch.as_tensor)
    bank = cm.collect(family, text, folder / "bank", k=K, columns=8, progress=False)
    logs = torch.log_softmax(network.weight.detach()[torch.from_numpy(text.inputs.windows).long()].double(), -1).numpy()
    return folder, text, bank, logs[text.inputs.window, text.inputs.position]


def _expected(logs, labels):
    wrong = logs.copy()
    wrong[np.arange(len(labels)), labels] = -np.inf
    ids = np.c_[labels, np.argsort(-wrong, 1)[:, :K]]
    values = np.take_along_axis(logs, ids, 1)
    order = np.argsort(-values, 1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


def test_tensors_are_the_softmax_over_the_whole_vocabulary(study, tmp_path):
    _, text, bank, logs = study
    told = cm.export_tokens(bank, text, tmp_path / "a.safetensors", "safetensors", split="val", k=K)
    rows = bank.select("val")
    ids, values = _expected(logs[rows], text.labels[rows])
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["mass_mean"]) == told["mass_mean"]
    assert np.array_equal(arrays["ids"], ids) and arrays["log_probs"] == pytest.approx(values, abs=2e-3)
    assert np.array_equal(arrays["labels"], text.labels[rows])
    assert told["mass_mean"] == pytest.approx(np.exp(values).sum(1).mean(), abs=1e-3) and told["k"] == K


def test_distillkit_reads_lists_of_the_next_token(study, tmp_path):
    _, text, bank, logs = study
    cm.export_tokens(bank, text, tmp_path, "distillkit", split="train", k=K)
    saved = cm.read_token_logits(tmp_path, len(bank.classes))
    rows = bank.select("train")
    assert saved.format == "distillkit" and np.array_equal(saved.labels, text.labels[rows])
    assert np.array_equal(saved.positions, text.inputs.position[rows])
    assert saved.label_log_prob == pytest.approx(logs[rows, text.labels[rows]], abs=2e-3)
    assert np.array_equal(saved.ids, _expected(logs[rows], text.labels[rows])[0])
    exact = cm.probe(bank, taus=[1], split="train", progress=False).set_index("probe")["value"]
    table = cm.saved_token_probes({"net": saved}).set_index("probe")
    assert table.loc["nll", "value"] == pytest.approx(exact["nll"], abs=2e-3) and table.loc["nll", "exact"]
    assert table.loc["inherent_variance", "low"] <= exact["inherent_variance"] <= table.loc["inherent_variance", "high"]
    with pytest.raises(InputError, match="holds Parquet files"):
        cm.export_tokens(bank, text, tmp_path, "distillkit", k=K)


def test_distillkit_reads_packed_lists_by_the_settings_beside_them(study, tmp_path):
    yaml = pytest.importorskip("yaml")
    _, text, bank, _ = study
    for form in ("distillkit", "distillkit-packed"):
        cm.export_tokens(bank, text, tmp_path / form, form, split="val", k=K)
    settings = yaml.safe_load((tmp_path / "distillkit-packed/distillkit.yaml").read_text())["logprob_compressor"]
    saved = cm.read_token_logits(tmp_path / "distillkit-packed", packed=settings)
    plain = cm.read_token_logits(tmp_path / "distillkit", len(bank.classes))
    for name in ("labels", "positions", "ids", "log_probs", "label_log_prob"):
        np.testing.assert_array_equal(getattr(saved, name), getattr(plain, name))


def test_axolotls_lists_stand_where_its_trainer_has_the_logits(study, tmp_path):
    _, text, bank, logs = study
    told = cm.export_tokens(bank, text, tmp_path, "axolotl", split="train", k=K)
    first = pd.read_parquet(tmp_path / "data_0.parquet").iloc[0]
    rows = np.flatnonzero((text.inputs.window == 0) & (text.rows.split == "train"))
    length = len(first["input_ids"])
    assert {len(first[name]) for name in ("attention_mask", "labels", "target_logprobs", "target_mask")} == {length}
    ids, values = _expected(logs[rows], text.labels[rows])
    place = text.inputs.position[rows]
    assert np.array_equal(np.stack(first["target_token_ids"])[place], ids)
    total = np.log(np.exp(values).sum(1, keepdims=True))
    assert np.stack(first["target_logprobs"])[place] == pytest.approx(values - total, abs=2e-3)
    mask = np.stack(first["target_mask"])
    assert np.array_equal(mask.any(1), np.isin(np.arange(length), place)) and told["renormalised"]
    assert np.array_equal(np.flatnonzero(first["labels"] != -100), place + 1)  # the loss of transformers shifts them


def test_hugging_face_reads_the_data_set(study, tmp_path):
    datasets = pytest.importorskip("datasets")
    _, text, bank, logs = study
    told = cm.export_tokens(bank, text, tmp_path / "set", "trl", k=K)
    loaded = datasets.load_from_disk(str(tmp_path / "set"))
    first = loaded[0]
    assert len(first["input_ids"]) == len(first["labels"]) == len(first["logprobs"]) + 1
    rows = np.flatnonzero(text.inputs.window == 0)
    assert [label for label in first["labels"] if label != -100] == text.labels[rows].tolist()
    assert first["input_ids"][:3] == text.inputs.windows[0, :3].tolist()
    place = text.inputs.position[rows[0]]
    assert first["labels"][place + 1] == first["input_ids"][place + 1] == text.labels[rows[0]]
    assert first["logprobs"][place] == pytest.approx(_expected(logs[rows], text.labels[rows])[1][0], abs=2e-3)
    assert json.loads(loaded.info.description)["mass_mean"] == told["mass_mean"]


def test_what_cannot_be_written_is_refused(study, tmp_path):
    folder, text, bank, _ = study
    other = cm.load_dataset(f"text:{folder / 'text.txt'}", tokenizer=str(folder), window=8)
    for arguments, message in (
        ((bank, other, tmp_path / "a", "trl"), "another one"),
        ((bank, text, tmp_path / "a", "megatron"), "format must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            cm.export_tokens(*arguments)
    if bank.condensed:
        with pytest.raises(InputError, match="at most 5"):
            cm.export_tokens(bank, text, tmp_path / "a", "trl", k=6)
