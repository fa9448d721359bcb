"""Saved token logits: one hand-made sequence in every format, and what the files tell of it."""

import json
import struct

import numpy as np
import pandas as pd
import pytest

import capmismatch as cm
from capmismatch.errors import InputError

V, K = 40, 4
TOKENS = [3, 7, 1, 20, 7, 5]
LOGITS = np.random.default_rng(2).normal(0, 3, (len(TOKENS) - 1, V))
LOGS = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
LABELS = np.array(TOKENS[1:])
LOGS[1, LABELS[1]] = LOGS[1].max() + 0.5  # one label is the likeliest token
LOGS -= np.log(np.exp(LOGS).sum(1, keepdims=True))
TOP = np.argsort(-LOGS, axis=1)[:, :K]
VALUES = np.take_along_axis(LOGS, TOP, 1)
IN_LIST = (LABELS[:, None] == TOP).any(1)


def _parquet(folder, names=("input_ids", "token_ids", "top_values"), repeat=1):
    row = dict(zip(names, (TOKENS, TOP.tolist(), VALUES.tolist()), strict=True))
    pd.DataFrame([row] * repeat).to_parquet(folder / "data_0.parquet")
    return folder / "data_0.parquet"


def _vllm(folder):
    lists = [None]
    for label, ids, row in zip(LABELS, TOP, LOGS, strict=True):
        ranks = 1 + (row > row[:, None]).sum(1)
        lists.append({str(t): {"logprob": row[t], "rank": int(ranks[t]), "decoded_token": "x"} for t in {*ids, label}})
    file = folder / "vllm.jsonl"
    file.write_text(json.dumps({"prompt_token_ids": TOKENS, "prompt_logprobs": lists}) + "\n")
    return file


def _axolotl(folder, legacy=False):
    row = {"input_ids": TOKENS, "labels": [-100, *TOKENS[1:]]}
    if legacy:
        row["logprobs"] = [
            [{"token": f"token_id:{token}", "logprob": value} for token, value in zip(*pair, strict=True)]
            for pair in zip(TOP.tolist(), VALUES.tolist(), strict=True)
        ]
    else:
        row |= {"target_token_ids": TOP.tolist(), "logprobs": VALUES.tolist()}
    (folder / "a.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "a.jsonl"


def _llama(folder, context=8, chunks=2):
    """Bytes as llama-perplexity writes them: magic, three int32, tokens, and rows of scale, floor and steps."""
    tokens = [[9, 9, 9, TOKENS[0], *TOKENS[1:5]]] * chunks
    raw = b"_logits_" + struct.pack("<3i", context, V, chunks) + np.array(tokens, "<i4").tobytes()
    for _ in range(chunks):
        for row in LOGS[1:4]:  # context - 1 - context // 2
            low = max(row.min(), row.max() - 16)
            scale = (row.max() - low) / 65535
            steps = np.where(row > low, np.rint((row - low) / scale), 0).astype("<u2")
            raw += struct.pack("<2f", scale, low) + steps.tobytes() + b"\0\0" * (V % 2)
    (folder / "base.kld").write_bytes(raw)
    return folder / "base.kld"


WRITERS = {
    "distillkit": _parquet,
    "vllm": _vllm,
    "axolotl": _axolotl,
    "axolotl, entries": lambda folder: _axolotl(folder, legacy=True),
    "columns": lambda folder: _parquet(folder, ("t", "i", "l")),
}
OWN = {"tokens": "t", "ids": "i", "logprobs": "l"}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_sequence(tmp_path, kind):
    file = WRITERS[kind](tmp_path)
    saved = cm.read_token_logits(file, V, columns=OWN if kind == "columns" else None)
    assert saved.format == kind.split(",")[0] and saved.labels.tolist() == LABELS.tolist()
    assert np.array_equal(saved.ids[:, :K], TOP) and saved.log_probs[:, :K] == pytest.approx(VALUES)
    told = IN_LIST | (saved.format == "vllm")
    assert saved.label_log_prob[told] == pytest.approx(LOGS[np.arange(5), LABELS][told])
    assert np.isnan(saved.label_log_prob).tolist() == (~told).tolist() and saved.findings == ("CM034",)
    assert repr(cm.read_token_logits(f"token-logits:{file}", V, columns=OWN if kind == "columns" else None)) == repr(
        saved
    )


def test_llama_cpp_tells_the_second_half_of_each_chunk(tmp_path):
    saved = cm.read_token_logits(_llama(tmp_path))
    assert (saved.format, saved.vocabulary, saved.labels.tolist()) == ("llama.cpp", V, [1, 20, 7] * 2)
    row = LOGS[2]
    above = np.argsort(-row)[: (row > max(row.min(), row.max() - 16) + 1e-3).sum()]
    assert saved.ids[1, : len(above)].tolist() == above.tolist()
    assert saved.log_probs[1, : len(above)] == pytest.approx(row[above], abs=3e-4)


def test_bounds_hold_what_all_logits_say(tmp_path):
    bank = cm.token_bank_from_logits({"net": LOGS}, LABELS, sequences=[0] * 5)
    exact = cm.probe(bank, taus=[1], progress=False)
    exact = exact[exact.tau.isna() | (exact.tau == 1)].set_index("probe")["value"]
    for write in (_parquet, _vllm):
        table = cm.saved_token_probes({"net": cm.read_token_logits(write(tmp_path), V)}).set_index("probe")
        for probe in (
            "accuracy",
            "nll",
            "target_prob",
            "non_target_mass",
            "entropy",
            "derived_variance",
            "inherent_variance",
        ):
            low, high = table.loc[probe, ["low", "high"]]
            assert low - 1e-6 <= exact[probe] <= high + 1e-6, probe
            assert table.loc[probe, "exact"] == ("CM034" not in table.loc[probe, "findings"])
            if table.loc[probe, "exact"]:
                assert table.loc[probe, "value"] == pytest.approx(exact[probe])
        assert table.loc["accuracy", "exact"] and table.loc["nll", "exact"] == (write is _vllm)
        assert table.loc["listed_mass", "value"] == pytest.approx(np.exp(VALUES).sum(1).mean())
        assert not table.loc["entropy", "exact"]


def test_teachers_must_tell_the_same_positions(tmp_path):
    saved = cm.read_token_logits(_parquet(tmp_path), V)
    other = cm.read_token_logits(_llama(tmp_path))
    with pytest.raises(InputError, match="the same positions, got 5 of 'a' and 6 of 'b'"):
        cm.saved_token_probes({"a": saved, "b": other})
    assert cm.saved_token_probes({"a": saved, "b": saved}, params={"a": 3})["params"].notna().sum() == 8


def test_a_label_without_a_rank_counts_where_it_is_among_the_likeliest(tmp_path):
    record = json.loads(_vllm(tmp_path).read_text())
    for entries in record["prompt_logprobs"][1:]:
        for entry in entries.values():
            entry["rank"] = None
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    tables = [
        cm.saved_token_probes({"net": cm.read_token_logits(tmp_path / name, V)}) for name in ("x.jsonl", "vllm.jsonl")
    ]
    found, expected = (table.set_index("probe") for table in tables)
    assert expected.loc["accuracy", "value"] == 0.2 and found.loc["accuracy", "value"] == 0.2
    np.testing.assert_array_equal(found["low"], expected["low"])


def test_a_damaged_head_asks_for_no_memory(tmp_path):
    file = _llama(tmp_path)
    raw = bytearray(file.read_bytes())
    raw[16:20] = struct.pack("<i", 2**30)
    file.write_bytes(raw)
    with pytest.raises(InputError, match="is cut"):
        cm.read_token_logits(file)


def test_numbers_of_parameters_are_whole(tmp_path):
    saved = cm.read_token_logits(_parquet(tmp_path), V)
    for params in ({"net": -1}, {"net": 1.5}):
        with pytest.raises(InputError, match="whole number as params of teacher 'net'"):
            cm.saved_token_probes({"net": saved}, params=params)
    for other in ([saved], {"net": LOGS}):
        with pytest.raises(InputError, match="mapping"):
            cm.saved_token_probes(other)


def _broken(folder, what):
    ids, logs = TOP.tolist(), VALUES.tolist()
    if what == "mass":
        logs[2] = [-0.1] * K
    if what == "id":
        ids[2][1] = V
    if what == "twice":
        ids[2][1] = ids[2][0]
    if what == "nan":
        logs[2][0] = float("nan")
    if what == "lengths":
        ids[2] = ids[2][:-1]
    if what == "lists":
        ids, logs = ids[:-1], logs[:-1]
    pd.DataFrame([{"input_ids": TOKENS, "token_ids": ids, "top_values": logs}]).to_parquet(folder / "data_0.parquet")
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("mass", r"sum to at most 1, got 3\.6.* at position 2 of sequence 0"),
        ("id", r"ids in \[0, 40\), got 40 at position 2"),
        ("twice", "each token once"),
        ("nan", "finite log-probabilities, got nan at position 2"),
        ("lengths", "as many ids as log-probabilities, got 3, 4 at 2"),
        ("lists", "expected 5 or 6 lists"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, what, message):
    with pytest.raises(InputError, match=message):
        cm.read_token_logits(_broken(tmp_path, what), V)


def test_cut_packed_and_unknown_files_are_refused(tmp_path):
    for write, message in ((_parquet, "cut or damaged"), (_llama, "is cut"), (_vllm, "cut or damaged at line 1")):
        file = write(tmp_path)
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(InputError, match=message):
            cm.read_token_logits(file, V)
        file.unlink()
    for row, message in (
        ({"input_ids": [1], "compressed_logprobs": [[1]], "bytepacked_indices": [[1]]}, "not how they were packed"),
        ({"input_ids": [1], "packed_indices": [[1]], "coeffs": [[1]]}, "earlier packed logits, whose polynomials lose"),
        ({"messages": [], "logprobs": [[]]}, "no input_ids"),
        ({"x": 1}, "no known format"),
    ):
        (tmp_path / "x.jsonl").write_text(json.dumps(row))
        with pytest.raises(InputError, match=message):
            cm.read_token_logits(tmp_path / "x.jsonl", V)
    with pytest.raises(InputError, match="give vocabulary"):
        cm.read_token_logits(_vllm(tmp_path))
    with pytest.raises(InputError, match="no saved token logits"):
        cm.read_token_logits(tmp_path / "nowhere", V)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [1, 2], "logprobs": [[{"token": "the", "logprob": -0.3}]]}, "number of a token.*'the'"),
        (
            {"prompt_token_ids": [1, 2], "prompt_logprobs": [None, {"the": {"logprob": -0.3}}]},
            "number of a token.*'the'",
        ),
        ({"prompt_token_ids": [1, 2], "prompt_logprobs": None}, "prompt_logprobs"),
        ({"prompt_token_ids": [1, 2], "prompt_logprobs": [None, None]}, "object for each listed token of token 1"),
        ({"prompt_token_ids": [1, 2], "prompt_logprobs": [None, {"3": -0.3}]}, "object for each listed token"),
        ({"prompt_token_ids": [], "prompt_logprobs": []}, "empty document"),
        ({"input_ids": [], "token_ids": [], "top_values": []}, "empty document"),
        ({"input_ids": [], "logprobs": []}, "empty document"),
        ({"input_ids": [1, 2], "labels": [1], "logprobs": [[{"token": "1", "logprob": -0.3}]]}, "2 tokens, got 1"),
    ],
)
def test_lists_that_do_not_name_tokens_are_refused(tmp_path, row, message):
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=f"sequence 0 of .*{message}"):
        cm.read_token_logits(tmp_path / "x.jsonl", V)


@pytest.mark.parametrize(
    ("tokens", "listed", "message"),
    [
        ([1, 2], [3.5, 2], r"as ids at position 0 of sequence 0 .*\[3\.5, 2\.0\]"),
        ([1, 2], [None, 2], "as ids at position 0"),
        ([1, 2], [True, False], "as ids at position 0"),
        ([1, 2], ["7", "2"], "as ids at position 0"),
        ([1, 2.5], [3, 2], r"as the label at position 0 .*2\.5"),
    ],
)
def test_numbers_of_tokens_are_whole(tmp_path, tokens, listed, message):
    row = {"input_ids": tokens, "token_ids": [listed], "top_values": [[-0.5, -2.0]]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        cm.read_token_logits(tmp_path / "x.jsonl", V)
    row = {"input_ids": [1, 2], "token_ids": [[3.0, 2.0]], "top_values": [[-0.5, -2.0]]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    assert cm.read_token_logits(tmp_path / "x.jsonl", V).ids.tolist() == [[3, 2]]


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2):
        row = {"input_ids": [number, number + 1], "token_ids": [[number + 1, 0]], "top_values": [[-0.5, -2.0]]}
        pd.DataFrame([row]).to_parquet(tmp_path / f"data_{number}.parquet")
    (tmp_path / "compression_config.yaml").write_text("k: 2")
    assert cm.read_token_logits(tmp_path, V).labels.tolist() == [3, 11]


def _packed(folder, dtype="float32", delta=False):
    """Bytes as DistillKit packs them: values as they lie in memory, ids as one stream of bits, the highest first."""
    bits, codes = 6, {"float32": "f", "float64": "d", "float16": "e"}  # 2 ** 6 tokens and no fewer hold the vocabulary
    values, indices = [], []
    for ids, logs in zip(TOP.tolist(), VALUES.tolist(), strict=True):
        kept = [logs[0], *np.diff(logs)] if delta else logs
        values.append(list(b"".join(struct.pack(f"<{codes[dtype]}", value) for value in kept)))
        stream = "".join(format(token, f"0{bits}b") for token in ids)
        stream += "0" * (-len(stream) % 8)
        indices.append([int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)])
    row = {"input_ids": TOKENS, "compressed_logprobs": values, "bytepacked_indices": indices}
    pd.DataFrame([row]).to_parquet(folder / "data_0.parquet")
    return folder / "data_0.parquet"


@pytest.mark.parametrize(
    ("dtype", "delta", "error"), [("float32", False, 1e-6), ("float64", True, 1e-12), ("float16", False, 5e-3)]
)
def test_packed_lists_are_read_where_nothing_was_fitted(tmp_path, dtype, delta, error):
    settings = {"d": V, "k": K, "exact_k": K, "exact_dtype": dtype, "delta_encoding": delta}
    saved = cm.read_token_logits(_packed(tmp_path, dtype, delta), packed=settings)
    assert (saved.vocabulary, saved.format) == (V, "distillkit-packed") and saved.labels.tolist() == LABELS.tolist()
    assert np.array_equal(saved.ids, TOP) and saved.log_probs == pytest.approx(VALUES, abs=error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exact_k": 2}, "with 2 of 4 values exact, whose polynomials lose"),
        ({"d": V + 1}, "expected a vocabulary of 40, got d = 41"),
        ({"exact_dtype": "float64"}, "expected 32 packed bytes of each list, got 16"),
        ({"exact_dtype": "int8"}, "exact_dtype of packed must be one of"),
        ({"k": None}, "k of packed"),
    ],
)
def test_settings_that_do_not_fit_packed_lists_are_refused(tmp_path, change, message):
    settings = {"d": V, "k": K, "exact_k": K, "exact_dtype": "float32", "delta_encoding": False} | change
    with pytest.raises(InputError, match=message):
        cm.read_token_logits(_packed(tmp_path), V, packed=settings)
