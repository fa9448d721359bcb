"""Studies of large vocabularies: every stage on condensed rows, and what needs all tokens is refused."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from studies import sketched_figures

import capmismatch as cm
from capmismatch.errors import BankError, InputError
from capmismatch.study.study import Study

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

VOCABULARY, WORDS, WINDOW = 5_000, 24, 16
WIDTHS = (24, 32, 48)

STUDY = """
name = "tiny"
[data]
source = "text:text.txt"
text = { tokenizer = "./lm-24", window = 16, document = "\\n\\n" }
split = { val = 20, test = 12 }
[[family]]
source = "hf-lm:./lm-{24,32,48}"
[collect]
batch_size = 128
k = 12
columns = 16
[probe]
taus = [0.5, 1, 2]
[isats]
tau_target = 1
tau_other = 0.75
wrong = "plain"
[ranks]
tau = 1
[pick]
metric = "nll"
"""

GIVEN = 'results = "students.csv"\n'  # a trainer's own students


def _save(folder, width, tokenizer):
    torch.manual_seed(width)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.4,
        tie_word_embeddings=True,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # with a tied head, what the layer hardly changes says the last token again
        model.model.layers[0].mlp.down_proj.weight *= 0.1
        model.model.layers[0].self_attn.o_proj.weight *= 0.1
    model.save_pretrained(folder / f"lm-{width}")
    tokenizer.save(str(folder / f"lm-{width}" / "tokenizer.json"))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Three tiny random models and a text."""
    folder = tmp_path_factory.mktemp("token-study")
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    for width in WIDTHS:
        _save(folder, width, tokenizer)
    # half of all words repeat the one before, which random models with tied embeddings find likely
    drawn = np.random.default_rng(0).integers(0, VOCABULARY, (34, WORDS // 2))
    (folder / "text.txt").write_text("\n\n".join(" ".join(f"w{w} w{w}" for w in line) for line in drawn))
    rows = [
        {
            "student": "s",
            "teacher": teacher,
            "seed": seed,
            "method": "KD",
            "tau": 1.0,
            "n": 224,
            "accuracy": 0.2 + seed / 100,
            "nll": nll + seed * (nll - 4.3) / 20,
        }
        for teacher, nll in (("lm-24", 5.0), ("lm-32", 4.0), ("lm-48", 4.5))
        for seed in range(2)
    ]
    pd.DataFrame(rows).to_csv(folder / "students.csv", index=False)
    (folder / "study.toml").write_text(GIVEN + STUDY)
    return folder


@pytest.fixture(scope="module")
def finished(material, tmp_path_factory):
    """The study, run from text to report."""
    study = Study(material / "study.toml", tmp_path_factory.mktemp("run"), progress=False)
    with warnings.catch_warnings(), sketched_figures():
        warnings.simplefilter("ignore")
        choice = study.run()
    return study, choice


@pytest.mark.slow
def test_every_stage_works_on_condensed_rows(finished):
    study, choice = finished
    bank = study.bank
    assert isinstance(bank, cm.TokenBank) and (bank.k, bank.settings.columns, bank.reference) == (12, 16, "hf-lm/lm-48")
    text, logits = study.eval_data, {}
    for width in WIDTHS:
        model = transformers.AutoModelForCausalLM.from_pretrained(study.base / f"lm-{width}").eval()
        with torch.inference_mode():
            of_windows = model(input_ids=torch.from_numpy(text.inputs.windows).long()).logits.float().numpy()
        logits[f"lm-{width}"] = of_windows[text.inputs.window, text.inputs.position]
    options = {"sequences": text.rows.sequences, "split": text.rows.split}
    whole = cm.token_bank_from_logits(logits, text.labels, dense=True, **options)
    names = ["nll", "entropy", "derived_std", "inherent_variance", "target_prob"]
    keys = ["teacher", "probe", "tau"]
    exact = cm.probe(whole, [0.5, 1, 2], names).set_index(keys)["value"]
    probes = study.load("probes")
    told = probes[(probes["split"] == "val") & probes["probe"].isin(names)].set_index(keys)["value"]
    pd.testing.assert_series_equal(told.sort_index(), exact.sort_index(), rtol=2e-4)
    assert study.load("ranks")["metric"].eq("vocab_tau_b").any() and not study.has("affinity")
    assert choice.teacher == "lm-32" and "export_tokens" in choice.no_command and choice.command == ""
    figures = {file.stem for file in (study.folder / "figures").glob("*.png")}
    assert {
        "dark_knowledge",
        "rank_matrix",
        "isats_restored",
        "variance_vs_temperature",
        "capacity_curve_s_nll",
    } <= figures
    page = (study.folder / "report.html").read_text()
    assert "lm-32" in page and "Take teacher" in page


@pytest.mark.slow
def test_a_later_stage_reads_what_is_there_and_tells_what_changed(finished):
    study, _ = finished
    again = Study(study.file, study.folder, progress=False)
    assert again.probe().equals(study.load("probes")) and again.pick().teacher == "lm-32"
    other = study.folder / "other.toml"
    other.write_text(study.file.read_text().replace("k = 12", "k = 13").replace("./lm", f"{study.base}/lm"))
    with pytest.raises(InputError, match=r"\[collect\] changed since the bank"):
        Study(other, study.folder, progress=False).probe()


@pytest.mark.slow
def test_a_look_before_it_runs_finds_nothing_wrong(finished):
    from capmismatch.study.inspection import inspect_study

    look = inspect_study(finished[0])
    assert look.problems == [] and look.teachers["teacher"].tolist() == ["lm-24", "lm-32", "lm-48"]


@pytest.mark.slow
def test_the_explorer_opens_the_study(finished):
    from capmismatch.explorer.tables import Reader

    reader = Reader(finished[0].bank, split="val")
    assert reader.bank.condensed and len(reader.classes) > 3


@pytest.mark.parametrize("stage", ["distill", "view"])
def test_what_needs_all_tokens_is_refused(material, finished, tmp_path, stage):
    study, _ = finished
    if stage == "view":  # soft labels of all tokens
        with pytest.raises(InputError, match=r"a teacher's logits need all 5000 tokens.*12 likeliest"):
            cm.soft_labels(study.bank, "lm-24", cm.Method("KD", tau=1))
        return
    trained = STUDY.replace("split = { ", "split = { train = 2, ").replace("columns = 16", "dense = false")
    trained += '[distill]\nstudents = ["gru4"]\nrecipe = { epochs = 1 }\n[[distill.methods]]\nname = "KD"\ntau = 1\n'
    (material / "trained.toml").write_text(trained)
    with pytest.raises(InputError, match=r"\[collect\] of trained.toml: students.*learn from all tokens"):
        Study(material / "trained.toml", tmp_path, progress=False).run()


def test_students_keep_all_logits_and_a_bank_stays_as_it_was_made(material, tmp_path):
    trained = STUDY.replace("split = { ", "split = { train = 2, ").replace("{24,32,48}", "24")
    methods = '[distill]\nstudents = ["gru4"]\nseeds = 1\nrecipe = { epochs = 1, batch_size = 2 }\n'
    methods += '[[distill.methods]]\nname = "TopK"\noptions = { k = 8, tail = "bucket" }\n'
    (material / "dense.toml").write_text(trained + methods)
    study = Study(material / "dense.toml", tmp_path / "dense", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert study.collect().condensed is False
        assert study.distill()["nll"].notna().all()
        (material / "later.toml").write_text(trained)
        assert Study(material / "later.toml", tmp_path / "dense", progress=False).collect().condensed is False
        assert Study(material / "later.toml", tmp_path / "own", progress=False).collect().condensed
        with pytest.raises(BankError, match="kept in another way"):
            Study(material / "dense.toml", tmp_path / "own", progress=False).collect()


def test_saved_logits_are_condensed_as_those_of_networks(material, finished, tmp_path):
    study, _ = finished
    text = study.eval_data
    logits = np.random.default_rng(1).normal(size=(len(text), VOCABULARY)).astype(np.float32)
    head = {"labels": text.labels.tolist(), "ids": text.rows.ids.tolist(), "classes": list(text.classes)}
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/family.json").write_text(json.dumps(head | {"teachers": {"net": {}}}))
    np.save(tmp_path / "saved/net.npy", logits)
    bank = cm.collect(
        cm.load_family(f"logits:{tmp_path}/saved"), text, tmp_path / "bank", k=8, columns=8, progress=False
    )
    kept, made = bank.condensed_rows(bank.keys[0], np.arange(len(text))), cm.condense(logits, text.labels, 8)
    assert np.array_equal(kept.ids, made.ids) and np.array_equal(kept.log_sum, made.log_sum)
    single = cm.collect(
        cm.load_family(f"logits:{tmp_path}/saved"),
        text,
        tmp_path / "single",
        k=8,
        columns=8,
        dtype="float32",
        progress=False,
    )
    assert np.array_equal(single.condensed_rows(bank.keys[0], np.arange(len(text))).below, made.below)
