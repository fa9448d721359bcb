"""Language models of transformers as teachers: real ones, tiny and random, against direct passes."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import capmismatch as cm
from capmismatch.errors import BankError, InputError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

LARGE, SMALL = 4_200, 40


def _tokenizer(size, **changes):
    words = {changes.get(f"w{number}", f"w{number}"): number for number in range(size)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer


def _llama(vocabulary, width, context=32):
    return transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.5,
        tie_word_embeddings=True,
    )


def _gpt2(vocabulary, width):
    return transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=width, n_layer=1, n_head=2, n_positions=32, initializer_range=0.5
    )


def _save(folder, config, tokenizer, seed=0):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture(scope="module", params=[LARGE, SMALL], ids=["condensed", "dense"])
def study(tmp_path_factory, request):
    """Two architectures, the second with padded columns, and a text of several documents."""
    folder, size = tmp_path_factory.mktemp("lm"), request.param
    tokenizer = _tokenizer(size)
    configs = {"a": _llama(size, 8), "b": _gpt2(size + 3, 16)}
    models = {name: _save(folder / f"lm-{name}", config, tokenizer) for name, config in configs.items()}
    with torch.no_grad():  # the padding of b holds no probability
        head = models["b"].transformer.wte.weight
        head[size:] = 0
        models["b"].transformer.ln_f.bias.zero_()
        scale = 60 / head[:size].norm()
        head[:size] *= scale * 10
    models["b"].save_pretrained(folder / "lm-b")
    words = np.random.default_rng(0).integers(0, size, (12, 20))
    (folder / "text.txt").write_text("\n\n".join(" ".join(f"w{word}" for word in line) for line in words))
    return folder, models, size


def _text(folder, **options):
    options = {"tokenizer": str(folder / "lm-a"), "window": 16, "document": "\n\n"} | options
    return cm.load_dataset(f"text:{folder / 'text.txt'}", **options)


def _collect(folder, bank, spec="lm-{a,b}", **options):
    family = cm.load_family(f"hf-lm:{folder}/{spec}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cm.collect(family, _text(folder), folder / bank, progress=False, **options)


def _direct(model, text, size):
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(text.inputs.windows).long()).logits[..., :size]
    return logits[text.inputs.window, text.inputs.position].numpy()


def test_a_bank_is_what_direct_passes_give(study):
    folder, models, size = study
    bank, text = _collect(folder, "bank", k=8, columns=16, batch_size=40), _text(folder)
    assert bank.condensed == (size == LARGE) and len(np.unique(text.rows.sequences)) > 12
    rows = np.arange(len(text))
    for name, model in models.items():
        logits, key = _direct(model, text, size), f"hf-lm/lm-{name}"
        record = next(record for record in bank.teachers if record.key == key)
        params = model.num_parameters()
        assert record.params == params and record.accuracy == pytest.approx((logits.argmax(1) == text.labels).mean())
        assert record.findings == ("CM031" if name == "b" else "")
        if not bank.condensed:
            assert bank.take(key, rows) == pytest.approx(logits, abs=1e-4)
            continue
        kept = bank.condensed_rows(key, rows)
        assert kept.target == pytest.approx(logits[rows, text.labels], abs=1e-4)
        nll = -torch.log_softmax(torch.from_numpy(logits).double(), 1).numpy()[rows, text.labels]
        table = cm.probe(bank, taus=[1]).query("teacher == @record.teacher and probe == 'nll'")
        assert table["value"].item() == pytest.approx(nll.mean(), rel=1e-3)


def test_an_interrupted_run_ends_with_the_same_bytes(study, monkeypatch):
    folder, _, size = study
    if size == SMALL:
        return
    from capmismatch.data import token_files
    from capmismatch.sources import token_collecting

    monkeypatch.setattr(token_files, "SHARD_ROWS", 50)
    whole = _collect(folder, "whole", k=4, columns=8)
    read, calls = token_collecting._Reader.__call__, []

    def killed(reader, start, stop):
        calls.append(start)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return read(reader, start, stop)

    monkeypatch.setattr(token_collecting._Reader, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        _collect(folder, "killed", k=4, columns=8)
    again = _collect(folder, "killed", k=4, columns=8)
    assert calls[6] == calls[5]  # goes on at the shard that was lost
    files = [sorted(bank.path.glob("*/*/tokens.safetensors")) for bank in (whole, again)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]] and len(files[0]) == 2


def test_teachers_are_added_with_the_banks_reference(study):
    folder, _, size = study
    if size == SMALL:
        return
    first = _collect(folder, "one", "lm-a", k=4, columns=8)
    both = _collect(folder, "one", k=4, columns=8)  # the larger one comes later: the reference stays
    assert both.reference == first.reference == "hf-lm/lm-a" and len(both.keys) == 2
    with pytest.raises(InputError, match=r"reference must be one of.*not 'hf-lm/lm-b'"):
        _collect(folder, "other", "lm-a", reference="hf-lm/lm-b")
    with pytest.raises(BankError, match="kept in another way"):
        _collect(folder, "one", k=5, columns=8)


def test_bfloat16_keeps_its_head_in_full_precision(study):
    folder, models, _ = study
    family = cm.load_family(f"hf-lm:{folder}/lm-a", dtype="bfloat16")
    text = _text(folder)
    logits = family[0].module()(torch.from_numpy(text.inputs.windows[:1]).long())
    with torch.inference_mode():
        half = models["a"].to(torch.bfloat16)
        hidden = half.model(torch.from_numpy(text.inputs.windows[:1]).long()).last_hidden_state
        expected = hidden.float() @ half.lm_head.weight.float().T
    half.to(torch.float32)
    assert logits.dtype == torch.float32 and torch.allclose(logits, expected, atol=1e-4)
    assert family[0].preprocessing == "token ids, bfloat16 below the head"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("token", "first at id 7, 'other' for the teacher and 'w7' in the text"),
        ("cut", "encode differently: first at 'W5', 0 for the teacher and 5 in the text"),
        ("size", "has logits of 30 tokens, the text 'text' has a tokenizer of 40"),
        ("context", "takes at most 8 tokens, the windows of 'text' have 16: load the text with window=8"),
        ("padding", "20 columns beyond the vocabulary of 40.*data set 'text'.*another tokenizer"),
        ("code", "transformers cannot load"),
        ("bin", "no model.safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    tokenizer = _tokenizer(SMALL)
    line = " ".join(f"W{number}" if number % 5 == 0 else f"w{number}" for number in range(1, 30))
    (tmp_path / "text.txt").write_text("\n\n".join([line] * 3))
    own = _tokenizer(SMALL)
    own.normalizer = tokenizers.normalizers.Lowercase()
    _save(tmp_path / "own", _llama(SMALL, 8), own)
    other = {"token": _tokenizer(SMALL, w7="other"), "cut": tokenizer}.get(change, own)
    config = _llama({"size": 30, "padding": 60}.get(change, SMALL), 8, context=8 if change == "context" else 32)
    _save(tmp_path / "net", config, other)
    if change == "bin":
        (tmp_path / "net" / "model.safetensors").rename(tmp_path / "net" / "pytorch_model.bin")
    if change == "code":
        file = tmp_path / "net" / "config.json"
        told = json.loads(file.read_text()) | {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}
        file.write_text(json.dumps(told))
        (tmp_path / "net" / "evil.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(InputError, match=message):
        family = cm.load_family(f"hf-lm:{tmp_path}/net")
        text = cm.load_dataset(f"text:{tmp_path / 'text.txt'}", tokenizer=str(tmp_path / "own"), window=16)
        cm.collect(family, text, tmp_path / "bank", progress=False)


def test_a_model_without_a_tokenizer_is_told(study):
    folder = study[0]
    shutil.copytree(folder / "lm-a", folder / "bare", dirs_exist_ok=True)
    (folder / "bare" / "tokenizer.json").unlink()
    with pytest.warns(UserWarning, match="CM033"):
        bank = cm.collect(
            cm.load_family(f"hf-lm:{folder}/bare"), _text(folder), folder / "bare-bank", progress=False, k=4, columns=4
        )
    assert bank.teachers[0].findings == "CM033"


def test_sizes_are_listed_without_weights(study):
    folder, models, size = study
    table = cm.list_teachers(f"hf-lm:{folder}/lm-*")
    assert table["params"].tolist() == [models[name].num_parameters() for name in "ab"]
    assert table["classes"].tolist() == [size, size + 3]


def _write_gguf(file, model, words):
    """A Llama as llama.cpp's converter writes it: halves of each head's rows of q and k interleaved."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges([f"{words[0]} {words[1]}"])
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        if name == "lm_head.weight":  # the embedding itself: files of tied models have it once
            continue
        if name in ("model.embed_tokens.weight", "model.norm.weight"):
            short = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            writer.add_tensor(short[name.removesuffix(".weight")] + ".weight", array)
            continue
        layer, inner = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        if inner.startswith(("self_attn.q", "self_attn.k")):
            heads, width = config.num_attention_heads, array.shape[0]
            array = array.reshape(heads, 2, width // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"blk.{layer}.{names[inner]}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_logits_of_its_model(tmp_path):
    pytest.importorskip("gguf")
    model = _save(tmp_path / "plain", _llama(64, 32), None)
    _write_gguf(tmp_path / "net.gguf", model, [f"w{number}" for number in range(64)])
    _tokenizer(64).save(str(tmp_path / "tokenizer.json"))
    teacher = cm.load_family(f"hf-lm:{tmp_path}/*.gguf")[0]
    assert (teacher.key, teacher.params) == ("hf-lm/net", model.num_parameters())
    assert (teacher.outputs, teacher.context) == (64, 32)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (2, 9)))
    with torch.inference_mode():
        assert torch.allclose(teacher.module()(ids), model(input_ids=ids).logits, atol=1e-4)
    assert json.loads(teacher.tokenizer())["model"]["type"] == "WordLevel"  # that beside the file


def test_gguf_needs_its_package_and_a_file(tmp_path, monkeypatch):
    import sys

    (tmp_path / "net.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"needs gguf.*pip install 'capmismatch\[gguf\]'"):
        cm.load_family(f"hf-lm:{tmp_path}/net.gguf")
    with pytest.raises(InputError, match=r"download 'a/b/net.gguf', and give its path"):
        cm.load_family("hf-lm:a/b/net.gguf")
