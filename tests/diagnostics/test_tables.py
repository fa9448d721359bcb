from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from capmismatch import probes, ranks
from capmismatch._numerics import devices
from capmismatch.data.bank import LogitBank, bank_from_arrays
from capmismatch.diagnostics import example_values as values_module
from capmismatch.diagnostics import tables
from capmismatch.diagnostics.tables import (
    affinity,
    example_values,
    probe,
    rank_stability,
    reliability,
    restored_variance,
)
from capmismatch.errors import InputError
from capmismatch.probes import REGISTRY
from capmismatch.sources.collecting import collect
from capmismatch.sources.families import load_family
from capmismatch.temperature import ats, isats, soften

Array = np.ndarray
CLASSES = 6
ROWS = 150
SPLIT = np.array(["train", "val", "val", "test", "val"] * (ROWS // 5))
TAUS = (1.0, 4.0)
CALIBRATION = ("ece", "ece_over", "ece_under", "classwise_ace", "ece_tau", "classwise_ace_tau")


def example(dtype: type = np.float32) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(0)
    signal = 2 * rng.standard_normal((ROWS, CLASSES))
    labels = np.where(rng.random(ROWS) < 0.7, signal.argmax(1), rng.integers(0, CLASSES, ROWS))
    logits = {
        name: (scale * (signal + noise * rng.standard_normal((ROWS, CLASSES)))).astype(dtype)
        for name, scale, noise in [("small", 1.0, 1.0), ("middle", 2.0, 0.7), ("large", 4.0, 0.5)]
    }
    return logits, labels


def make_bank(dtype: type = np.float32) -> LogitBank:
    logits, labels = example(dtype)
    return bank_from_arrays(
        logits, labels, classes=list("abcdef"), params={"small": 1000, "middle": 20_000}, family="mlp", split=SPLIT
    )


def rows_of(split: str | None) -> Array:
    return np.arange(ROWS) if split is None else np.flatnonzero(split == SPLIT)


def mean_and_se(values: Array | torch.Tensor) -> tuple[float, float, int]:
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values)), len(values)


def ece_shares(logits: Array, labels: Array) -> Array:
    """Each example's share of the ECE: confidence less hit, with the sign of its bin."""
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    gap = p.max(1) - (p.argmax(1) == labels)
    bins = np.ceil(p.max(1) * 15).astype(int)
    return np.array([gap[i] * np.sign(gap[bins == bins[i]].sum()) for i in range(len(gap))])


def check(row: pd.Series, expected: tuple[float, float, int]) -> None:
    np.testing.assert_allclose([row["value"], row["se"], row["n"]], expected, rtol=1e-9, atol=1e-15)


# --------------------------------------------------------------------------------------------------------------- probe


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("split", ["val", "test", None])
def test_probe_is_the_mean_of_the_pure_functions(split: str | None, dtype: type) -> None:
    bank = make_bank(dtype)
    logits, labels = example(dtype)
    rows = rows_of(split)
    table = probe(bank, TAUS, split=split, progress=False)
    plain = [p for p in REGISTRY.values() if not (p.vocabulary or p.on_request)]
    assert len(table) == 3 * sum(len(TAUS) if p.tempered else 1 for p in plain)
    asked = probe(bank, TAUS, [name for name, p in REGISTRY.items() if p.on_request], split=split, progress=False)
    table = pd.concat([table, asked], ignore_index=True)
    assert set(table["split"]) == {split or "all"} and set(table["seed"]) == {0}
    for _, row in table.iterrows():
        f, y, name = logits[row["teacher"]][rows], labels[rows], row["probe"]
        assert math.isnan(row["tau"]) != REGISTRY[name].tempered
        tau = 1.0 if math.isnan(row["tau"]) else row["tau"]
        if name == "log_params":
            params = {"small": 1000.0, "middle": 20_000.0, "large": math.nan}[row["teacher"]]
            np.testing.assert_array_equal(row["params"], params)
            check(row, (math.log10(params), math.nan, 1))
        elif name in CALIBRATION:
            assert row["value"] == pytest.approx(getattr(probes, name)(f, y, tau), rel=1e-9)
            assert row["n"] == len(rows) and row["se"] >= 0
        elif name == "calibration_tau":
            np.testing.assert_allclose(row["value"], probes.calibration_tau(f, y), rtol=1e-8)
        else:
            check(row, mean_and_se(getattr(probes, name)(f, y, tau)))
    ece = table[table["probe"] == "ece"].set_index("teacher")
    for teacher, f in logits.items():
        check(ece.loc[teacher], mean_and_se(ece_shares(f[rows], labels[rows])))


@pytest.mark.parametrize("chunk", [1, 7 * CLASSES, 10**9])
def test_results_depend_neither_on_the_chunks_nor_on_the_threads(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    bank = make_bank()
    calls = {
        "probe": lambda: probe(bank, TAUS, progress=False),
        "ranks": lambda: rank_stability(bank, progress=False),
        "reliability": lambda: reliability(bank),
        "restored": lambda: restored_variance(bank, progress=False),
    }
    whole = {name: call() for name, call in calls.items()}
    for place in (
        "diagnostics.tables.RANK_LOGITS",
        "diagnostics.example_values.GROUP_LOGITS",
        "diagnostics.example_values.COLUMN_BYTES",
        "_numerics.softmax.BLOCK_LOGITS",
        "_numerics.isats_search.BLOCK_LOGITS",
    ):
        monkeypatch.setattr(f"capmismatch.{place}", chunk)
    chunked = {name: call() for name, call in calls.items()}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name, call in calls.items():
        joined = {"check_exact": True} if name == "reliability" else {"rtol": 1e-12, "atol": 1e-14}
        pd.testing.assert_frame_equal(chunked[name], whole[name], obj=name, **joined)
        pd.testing.assert_frame_equal(call(), chunked[name], obj=name, check_exact=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_are_the_same_without_compiled_loops(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    bank = make_bank(dtype)
    calls = {
        "probe": lambda: probe(bank, (1, 2, 3, 4, 8), progress=False),
        "affinity": lambda: affinity(bank),
        "reliability": lambda: reliability(bank),
        "restored": lambda: restored_variance(bank, progress=False),
    }
    compiled = {name: call() for name, call in calls.items()}
    monkeypatch.setattr(devices, "HAS_NUMBA", False)
    for name, call in calls.items():
        pd.testing.assert_frame_equal(call(), compiled[name], rtol=1e-7, atol=1e-14, obj=name)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_bank_on_disk_gives_the_same_to_the_last_bit(tmp_path: Path, dtype: str) -> None:
    logits, labels = example(np.dtype(dtype).type)
    given = tmp_path / "logits"
    given.mkdir()
    np.save(given / "labels.npy", labels)
    for name, rows in logits.items():
        np.save(given / f"{name}.npy", rows)
    teachers = {name: {"params": 10**i} for i, name in enumerate(logits)}
    (given / "family.json").write_text(json.dumps({"labels": "labels.npy", "teachers": teachers}))
    stored = collect(load_family(f"logits:{given}"), None, tmp_path / "bank", dtype=dtype, progress=False)
    held = bank_from_arrays(logits, labels, family="logits", split=stored.rows.split)
    for measure in (
        lambda bank: probe(bank, progress=False),
        lambda bank: rank_stability(bank, progress=False),
        lambda bank: restored_variance(bank, progress=False),
        affinity,
        reliability,
    ):
        a, b = (measure(bank).drop(columns="params", errors="ignore") for bank in (stored, held))
        known = a["probe"] != "log_params" if "probe" in a else slice(None)
        pd.testing.assert_frame_equal(a[known], b[known], check_exact=True)
    some = np.array([7, 3, 3])
    np.testing.assert_array_equal(stored.take("logits/large", some, slice(1, 4)), logits["large"][some, 1:4])


def test_class_groups_hold_whole_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 9, 100)
    for size in (1, 20, 1000):
        groups = values_module.groups_of_classes(labels, size)
        assert sorted(np.concatenate(groups)) == list(range(100))
        classes = [set(labels[group]) for group in groups]
        assert sum(len(found) for found in classes) == len(set(labels))
        assert all(len(group) <= size or len(found) == 1 for group, found in zip(groups, classes, strict=True))
        for group in groups:
            assert (np.diff(labels[group]) >= 0).all()


def test_names_and_temperatures_are_measured_once_however_often_they_are_asked_for() -> None:
    table = probe(make_bank(), [4, 4.0, 1], ["entropy", "nll", "entropy"], progress=False)
    small = table[table["teacher"] == "small"]
    found = list(zip(small["probe"], small["tau"].fillna(0), strict=True))
    assert found == [("entropy", 4), ("entropy", 1), ("nll", 0)]
    assert set(table["n"]) == {90}


@pytest.mark.parametrize("name", REGISTRY)
def test_a_probe_alone_gives_what_it_gives_beside_others(name: str) -> None:
    bank = make_bank()
    together = probe(bank, TAUS, REGISTRY, progress=False)
    expected = together[together["probe"] == name].reset_index(drop=True)
    alone = probe(bank, TAUS, [name], progress=False)
    pd.testing.assert_frame_equal(alone, expected, check_exact=True)


def test_teachers_come_by_size_with_the_unknown_last() -> None:
    table = probe(make_bank(), names=["nll"], progress=False)
    assert table["teacher"].tolist() == ["small", "middle", "large"]
    assert list(table.columns) == [
        "family",
        "teacher",
        "params",
        "macs",
        "split",
        "seed",
        "tau",
        "probe",
        "value",
        "se",
        "n",
    ]


def test_a_single_example_has_no_standard_error() -> None:
    table = probe(bank_from_arrays({"a": [[1.0, 0.0, 2.0]]}, [2]), [1.0], progress=False)
    # They compare an example with others of its class; and one that is right, or wrong, has no best temperature.
    alone = table["probe"].isin(["cmi", "within_class_spread", "calibration_tau"])
    assert table["se"].isna().all() and (table["n"] == (~alone)).all()


# ------------------------------------------------------------------------------------------------------- example values


@pytest.mark.parametrize("split", ["val", None])
def test_example_values_have_the_means_of_the_probe_table(split: str | None) -> None:
    bank = make_bank()
    table = example_values(bank, taus=TAUS, split=split)
    names = ["teacher", "tau", "probe"]
    grouped = table.astype({"teacher": str, "probe": str}).groupby(names, dropna=False)["value"]
    summed = grouped.agg(["mean", "sem", "count"])
    means = probe(bank, TAUS, split=split, progress=False)
    means = means[means["probe"] != "log_params"].sort_values(names)
    assert len(table) == len(means) * len(rows_of(split))
    found = summed.reset_index().sort_values(names)
    np.testing.assert_array_equal(found[["teacher", "probe"]], means[["teacher", "probe"]])
    expected = means[["tau", "value", "se", "n"]].astype(float)
    np.testing.assert_allclose(found[["tau", "mean", "sem", "count"]].astype(float), expected, rtol=1e-9, atol=1e-15)


def test_example_values_are_those_of_the_examples_by_their_ids() -> None:
    logits, labels = example()
    bank = make_bank()
    table = example_values(bank, ["entropy", "cmi", "nll"], [2.0], teachers=["mlp/large", "mlp/small"], split="test")
    rows = rows_of("test")
    assert list(table.columns) == ["family", "teacher", "seed", "split", "tau", "probe", "id", "label", "value"]
    wide = table.pivot(index="id", columns=["teacher", "probe"], values="value").loc[bank.rows.ids[rows]]
    for teacher in ("large", "small"):
        f, y = logits[teacher][rows], labels[rows]
        for name, tau in (("entropy", 2.0), ("cmi", 2.0), ("nll", 1.0)):
            np.testing.assert_allclose(wide[teacher, name], getattr(probes, name)(f, y, tau), rtol=1e-9, atol=1e-14)
    assert table["label"].tolist() == ["abcdef"[label] for label in labels[rows]] * 6


def test_example_values_of_nothing() -> None:
    assert example_values(make_bank(), []).empty and example_values(make_bank(), teachers=[]).empty
    assert example_values(make_bank(), ["entropy"], []).empty


# --------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("split", ["val", None])
def test_rank_stability_is_the_mean_of_the_pure_functions(split: str | None) -> None:
    logits, labels = example()
    rows = rows_of(split)
    table = rank_stability(make_bank(), split=split, progress=False)
    pairs = list(dict.fromkeys(zip(table["teacher_a"], table["teacher_b"], strict=True)))
    assert pairs == [("small", "middle"), ("small", "large"), ("middle", "large")]
    assert len(table) == 3 * len(tables.METRICS)
    y = labels[rows]
    direct = {
        "wrong_tau_b": lambda a, b: ranks.wrong_class_tau_b(a, b, y),
        "tau_b": ranks.kendall_tau_b,
        "wrong_spearman": lambda a, b: ranks.spearman(a, b, y),
        "spearman": ranks.spearman,
        "affinity_tau_b": lambda a, b: ranks.affinity_tau_b(
            ranks.affinity_matrix(a, y, 4.0), ranks.affinity_matrix(b, y, 4.0)
        ),
        **{f"top{k}_overlap": lambda a, b, k=k: ranks.topk_overlap(a, b, k, y) for k in (1, 3, 5)},
    }
    for _, row in table.iterrows():
        a, b = logits[row["teacher_a"]][rows], logits[row["teacher_b"]][rows]
        check(row, mean_and_se(direct[row["metric"]](a, b)))


def test_examples_without_an_order_are_left_out() -> None:
    """A teacher that gives all wrong classes one logit says nothing of their order: neither 0 nor 1, nor NaN."""
    a = [[5.0, 1.0, 1.0, 1.0], [5.0, 3.0, 2.0, 1.0], [5.0, 3.0, 2.0, 1.0]]
    b = [[5.0, 3.0, 2.0, 1.0], [5.0, 3.0, 2.0, 1.0], [5.0, 3.0, 1.0, 2.0]]
    bank = bank_from_arrays({"a": a, "b": b}, [0, 0, 0])
    table = rank_stability(bank, ["wrong_tau_b", "top1_overlap"], progress=False).set_index("metric")
    check(table.loc["wrong_tau_b"], mean_and_se([1.0, 1 / 3]))
    assert table.loc["top1_overlap", "n"] == 3


def test_two_classes_leave_nothing_to_order() -> None:
    bank = bank_from_arrays({"a": [[1.0, 0.0]], "b": [[2.0, 0.0]]}, [0])
    table = rank_stability(bank, progress=False).set_index("metric")
    assert {"top3_overlap", "top5_overlap"}.isdisjoint(table.index)
    assert math.isnan(table.loc["wrong_tau_b", "value"]) and table.loc["wrong_tau_b", "n"] == 0
    assert table.loc["tau_b", "value"] == 1


# ------------------------------------------------------------------------------------------------ affinity, reliability


def test_affinity_is_the_matrix_without_its_diagonal() -> None:
    logits, labels = example()
    rows = rows_of("val")
    table = affinity(make_bank(), tau=2.0)
    assert len(table) == 3 * CLASSES * (CLASSES - 1) and set(table["tau"]) == {2.0}
    for teacher, part in table.groupby("teacher"):
        for i, true in enumerate("abcdef"):
            f = np.delete(logits[teacher][rows][labels[rows] == i].astype(np.float64), i, axis=1) / 2
            expected = (np.exp(f) / np.exp(f).sum(1, keepdims=True)).mean(0)
            own = part[part["true_class"] == true]
            assert own["other_class"].tolist() == [c for c in "abcdef" if c != true]
            np.testing.assert_allclose(own["value"], expected, rtol=1e-6)


def test_affinity_leaves_out_classes_without_examples() -> None:
    table = affinity(bank_from_arrays({"a": np.eye(3)[[0, 1, 1]]}, [0, 1, 1]))
    assert set(table["true_class"]) == {"0", "1"} and set(table["other_class"]) == {"0", "1", "2"}
    assert not table["value"].isna().any()


def test_reliability_is_that_of_the_bins() -> None:
    logits, labels = example()
    rows = rows_of("test")
    table = reliability(make_bank(), split="test")
    assert len(table) == 3 * 15
    for teacher, part in table.groupby("teacher"):
        p = np.exp(logits[teacher][rows].astype(np.float64))
        p /= p.sum(1, keepdims=True)
        confidence, right = p.max(1), p.argmax(1) == labels[rows]
        assert part["n"].sum() == len(rows)
        for _, row in part.iterrows():
            inside = (confidence > row["bin_low"]) & (confidence <= row["bin_high"])
            assert row["n"] == inside.sum()
            if inside.any():
                assert row["confidence"] == pytest.approx(confidence[inside].mean())
                assert row["accuracy"] == pytest.approx(right[inside].mean())
        gaps = (part["n"] * (part["confidence"] - part["accuracy"]).abs()).sum() / len(rows)
        assert gaps == pytest.approx(probes.ece(logits[teacher][rows], labels[rows]))


# ---------------------------------------------------------------------------------------------------- restored variance


@pytest.mark.parametrize(("constraint", "margin"), [("order", 0.0), ("order", 1.0), ("anchor", 0.0), ("none", 0.0)])
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_restored_variance_is_that_of_the_soft_labels(constraint: str, margin: float) -> None:
    logits, labels = example()
    rows = rows_of("val")
    y = labels[rows]
    bank = make_bank()
    table = restored_variance(bank, 3.0, tau_other=2.0, constraint=constraint, margin=margin, progress=False)
    assert set(table["split"]) == {"val"} and set(table["tau_target"]) == {3.0}
    everything = rows, labels[rows]
    for (teacher, method, kind), part in table.groupby(["teacher", "method", "rows"]):
        rows, y = everything
        right = logits[teacher][rows].argmax(1) == y
        chosen = {"all": np.ones_like(right), "right": right, "wrong": ~right}[kind]
        assert chosen.any()
        rows, y = rows[chosen], y[chosen]
        f = logits[teacher][rows].astype(np.float64)
        found = isats(f, y, 3.0, constraint=constraint, margin=margin)
        p = {"TS": soften(f, tau=3.0), "ATS": ats(f, y, 3.0, 2.0), "ISATS": found.probs}[method].numpy()
        wrong = np.array([np.delete(row, label) for row, label in zip(p, y, strict=True)])
        flipped = found.flipped.numpy() if method == "ISATS" else p.argmax(1) != f.argmax(1)
        expected = {
            "derived_variance": wrong.var(1),
            "derived_std": wrong.std(1),
            "target_prob": p[np.arange(len(y)), y],
            "inherent_variance": (wrong / wrong.sum(1, keepdims=True)).var(1),
            "flipped": flipped,
            "overtaken": flipped[f.argmax(1) == y],
        }
        if method == "ISATS":
            expected |= {"at_bound": found.at_bound.numpy(), "tau_other_mean": found.tau_other.numpy()}
        part = part.set_index("quantity")
        if kind == "wrong":
            del expected["overtaken"]  # of targets that were on top
            assert math.isnan(part.loc["overtaken", "value"]) and part.loc["overtaken", "n"] == 0
        for quantity, values in expected.items():
            check(part.loc[quantity], mean_and_se(values))
        quantiles = {f"tau_other_q{q}": np.percentile(found.tau_other, q) for q in (10, 50, 90) if method == "ISATS"}
        assert set(part.index) == {*expected, *quantiles, "overtaken"}
        for quantity, value in quantiles.items():
            assert part.loc[quantity, "value"] == pytest.approx(value, rel=1e-9)
        settings = {"TS": ("", math.nan, 3.0), "ATS": ("", math.nan, 2.0), "ISATS": (constraint, margin, math.nan)}
        for column, value in zip(("constraint", "margin", "tau_other"), settings[method], strict=True):
            np.testing.assert_array_equal(part[column].unique(), [value])


def test_nothing_is_overtaken_where_the_teacher_is_never_right() -> None:
    table = restored_variance(bank_from_arrays({"a": [[1.0, 0.0, 2.0]]}, [0]), progress=False)
    overtaken = table[table["quantity"] == "overtaken"]
    assert len(overtaken) == 9 and overtaken["value"].isna().all() and (overtaken["n"] == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_a_read_only_bank_is_measured_and_left_alone(dtype: type) -> None:
    logits, labels = example(dtype)
    before = {teacher: f.copy() for teacher, f in logits.items()}
    for array in (*logits.values(), labels):
        array.setflags(write=False)
    bank = bank_from_arrays(logits, labels)
    probe(bank, progress=False), rank_stability(bank, progress=False), affinity(bank), reliability(bank)
    restored_variance(bank, progress=False)
    for teacher, f in before.items():
        np.testing.assert_array_equal(logits[teacher], f)


def test_progress_bars_are_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(make_bank(), names=["nll"], progress=False)
        assert capsys.readouterr().err == ""
        probe(make_bank(), names=["nll"], progress=True)
    assert "probe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bank: probe(bank, names=["entrpy"], progress=False), "probe must be one of .* did you mean 'entropy'"),
        (lambda bank: example_values(bank, ["log_params"]), "probe must be one of .* not 'log_params'"),
        (lambda bank: example_values(bank, teachers=["smaller"]), "teacher key must be one of .* not 'smaller'"),
        (lambda bank: probe(bank, [0.0], progress=False), "taus must be a positive number, got 0.0"),
        (lambda bank: probe(bank, split="dev", progress=False), "split must be one of .* not 'dev'"),
        (lambda bank: rank_stability(bank, ["tau_c"], progress=False), "metric must be one of .* not 'tau_c'"),
        (lambda bank: rank_stability(bank, split="dev", progress=False), "split must be one of .* not 'dev'"),
        (
            lambda bank: rank_stability(bank_from_arrays({"a": np.eye(3)}, [0, 1, 2]), progress=False),
            "expected at least 2 in the bank, got 1",
        ),
        (lambda bank: affinity(bank, tau=-1.0), "tau must be a positive number, got -1.0"),
        (lambda bank: reliability(bank, split="dev"), "split must be one of .* not 'dev'"),
        (lambda bank: restored_variance(bank, constraint="nothing", progress=False), "constraint must be one of"),
        (lambda bank: restored_variance(bank, tau_other=0.0, progress=False), "tau_other must be a positive number"),
    ],
)
def test_errors_say_what_and_where(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(make_bank())
