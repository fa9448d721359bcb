"""Broken teachers hidden among sound ones are found, and no sound one is called broken."""

from __future__ import annotations

import io
import runpy
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

import capmismatch as cm
from capmismatch.data.bank import LogitBank, bank_from_arrays
from capmismatch.data.bank_checks import tell_checks
from capmismatch.diagnostics.checks import check
from capmismatch.errors import InputError
from capmismatch.report.narrative import statements
from capmismatch.stats.usable import unusable_runs

N, CLASSES = 2000, 10
UNUSABLE = {"CM009", "CM019", "CM020", "CM021", "CM041"}


def sound_family(seed, teachers=8, classes=CLASSES, n=N):
    """Labels, logits and sizes of teachers that get better with size and confuse the same classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    alike = 0.6 * rng.normal(size=(classes, classes))
    logits, sizes = {}, {}
    for position, gain in enumerate(np.linspace(2.2, 6, teachers) + rng.normal(0, 0.1, teachers)):
        noise = rng.normal(size=(n, classes))
        logits[f"t{position}"] = (gain * np.eye(classes)[labels] + alike[labels] + noise).astype(np.float32)
        sizes[f"t{position}"] = int(1e5 * 1.8**position)
    return rng, labels, logits, sizes


def half_shuffled(rng, logits):
    rows = rng.choice(len(logits), len(logits) // 2, replace=False)
    broken = logits.copy()
    broken[rows] = logits[rng.permutation(rows)]
    return broken


BREAK = {
    "rows shuffled": lambda rng, logits: rng.permutation(logits),
    "half of the rows shuffled": half_shuffled,
    "rows shifted by one": lambda rng, logits: np.roll(logits, 1, axis=0),
    "columns in another order": lambda rng, logits: logits[:, rng.permutation(logits.shape[1])],
    "columns shifted by one": lambda rng, logits: np.roll(logits, 1, axis=1),
    "two columns interchanged": lambda rng, logits: logits[:, [1, 0, *range(2, logits.shape[1])]],
    "one vector for all": lambda rng, logits: np.tile(logits[:1], (len(logits), 1)),
    "weights not loaded": lambda rng, logits: rng.normal(size=logits.shape),
    "images not normalised": lambda rng, logits: 0.15 * logits + 0.5 * rng.normal(size=logits.shape),
    "probabilities": lambda rng, logits: softmax(logits, axis=1),
    "percentages": lambda rng, logits: 100 * softmax(logits, axis=1),
    "sigmoids": lambda rng, logits: expit(logits),
    "the sign turned": lambda rng, logits: -logits,
}


def banked(labels, logits, sizes, broken=None):
    """A bank of sound arrays in which some hold others by now, as one on disk may that was written elsewhere."""
    bank = bank_from_arrays(logits, labels, params=sizes, split=np.where(np.arange(len(labels)) % 3, "val", "test"))
    for name, values in (broken or {}).items():
        bank._stored[f"logits/{name}"] = np.asarray(values, np.float32)
    bank.teachers = [replace(record, sha256="") for record in bank.teachers]
    return bank


def results_for(teachers, best):
    rows = [("", "CE", seed, split, 0.6) for seed in range(3) for split in ("val", "test")]
    rows += [
        (name, "KD", seed, split, 0.9 if name in best else 0.7)
        for name in teachers
        for seed in range(3)
        for split in ("val", "test")
    ]
    table = pd.DataFrame(rows, columns=["teacher", "method", "seed", "split", "accuracy"])
    jitter = np.random.default_rng(0).normal(0, 0.003, len(table))
    return table.assign(
        family="",
        teacher_seed=0,
        student="cnn",
        label=table["method"],
        tau=4.0,
        n=1000,
        accuracy=table["accuracy"] + jitter,
    )


@pytest.fixture(scope="module")
def hidden():
    """Five families with four broken teachers each, twenty of ten kinds and more: banks, checks and who is broken."""
    kinds, families = [*BREAK, *BREAK], []
    for number in range(5):
        rng, labels, logits, sizes = sound_family(number, teachers=10)
        names = [f"t{position}" for position in (*rng.choice(np.arange(3, 9), 3, replace=False), 9)]
        broken = {name: BREAK[kinds[4 * number + k]](rng, logits[name]) for k, name in enumerate(names)}
        bank = banked(labels, logits, sizes, broken)
        families.append((bank, check(bank).set_index("teacher"), broken))
    return families


def test_twenty_broken_teachers_are_all_found_and_no_other(hidden):
    assert sum(len(broken) for _, _, broken in hidden) == 20
    for _, checks, broken in hidden:
        assert set(checks.index[~checks["usable"]]) == set(broken)
        assert all(set(codes.split(",")) & UNUSABLE for codes in checks.loc[list(broken), "findings"])
        assert (checks.loc[list(broken), "reason"] != "").all()


@pytest.mark.parametrize("kept_as", ["in memory", "csv", "parquet"])
def test_none_of_them_is_picked(hidden, kept_as):
    for bank, _, broken in hidden:
        probes = cm.probe(bank, taus=[4], names=["accuracy", "derived_std", "target_prob", "nll"], progress=False)
        if kept_as == "csv":
            probes = pd.read_csv(io.StringIO(probes.to_csv(index=False)))
        elif kept_as == "parquet":
            probes = pd.read_parquet(io.BytesIO(probes.to_parquet()))
        choice = cm.pick(probes)
        assert choice.teacher not in broken and not set(choice.table["teacher"]) & set(broken)
        assert not set(choice.rules["teacher"]) & set(broken)
        assert all(name in choice.risks[0] for name in broken) and set(choice.findings) & UNUSABLE
        by_results = cm.pick(probes, results_for([f"t{k}" for k in range(10)], best=broken), n_boot=200)
        assert by_results.teacher not in broken and not set(by_results.table["teacher"]) & set(broken)


def test_links_and_statements_leave_them_out(hidden):
    bank, checks, broken = hidden[0]
    probes = cm.probe(bank, taus=[4], progress=False)
    results = results_for([f"t{k}" for k in range(10)], best=broken).assign(params=1.0)
    with pytest.warns(UserWarning, match="not usable"):
        links = cm.correlate(probes, results, n_boot=50)
    assert set(links["n"]) == {6}
    told = statements({"probes": probes, "results": results, "checks": checks.reset_index()})
    named = [statement for statement in told if any(name in statement.text for name in broken)]
    assert {statement.topic for statement in named} == {"logits"}
    assert set().union(*(statement.codes for statement in named)) & UNUSABLE


def only_top(logits, kept, stand_in):
    return np.where(logits >= np.sort(logits, axis=1)[:, [-kept]], logits, stand_in)


def first_rows(logits, share, value):
    return np.where(np.arange(len(logits))[:, None] < share * len(logits), value, logits)


def one_column(logits, column, value):
    return np.where(np.arange(logits.shape[1]) == column, value, logits)


def cycle(logits, columns):
    order = np.arange(logits.shape[1])
    order[columns] = np.roll(columns, 1)
    return logits[:, order]


@pytest.mark.parametrize(
    ("breakage", "code"),
    [
        *[
            (lambda z, y, kept=kept, low=low: only_top(z, kept, low), "CM019")
            for kept, low in ((1, -50), (3, -1e9), (3, -1e4), (3, -100), (5, -60), (8, -1e9), (9, -1e5))
        ],
        *[
            (lambda z, y, share=share, value=value: first_rows(z, share, value), "CM019")
            for share, value in ((0.02, 0), (0.3, 0), (0.5, 7))
        ],
        (lambda z, y: np.eye(CLASSES)[z.argmax(axis=1)], "CM019"),
        (lambda z, y: np.eye(CLASSES)[y] * 20, "CM019"),
        (lambda z, y: np.eye(CLASSES)[y] * 20 + 0.5 * np.random.default_rng(0).normal(size=z.shape), "CM019"),
        (lambda z, y: one_column(z, 3, -50), "CM019"),
        (lambda z, y: one_column(z, 9, -100), "CM019"),
        (lambda z, y: np.where(z == z.min(axis=1, keepdims=True), -100, z), "CM019"),
        (lambda z, y: np.where(np.arange(len(z))[:, None] % 3 == 0, one_column(z, 2, -1e4), z), "CM019"),
        (lambda z, y: z - 60 * (np.arange(CLASSES) == 3), "CM021"),
        (lambda z, y: one_column(z, 8, z.min()), "CM021"),
    ],
)
def test_rows_that_are_no_whole_logits_and_classes_that_are_dead(breakage, code):
    _, labels, logits, sizes = sound_family(12, teachers=6, n=800)
    checks = check(banked(labels, logits, sizes, {"t4": breakage(logits["t4"], labels)})).set_index("teacher")
    assert checks.index[~checks["usable"]].tolist() == ["t4"] and code in checks.loc["t4", "findings"].split(",")


@pytest.mark.parametrize("columns", [[4, 70], [4, 70, 71], [1, 20, 40, 60, 80]])
def test_few_columns_of_many_interchanged(columns):
    _, labels, logits, sizes = sound_family(13, teachers=5, classes=100)
    weak = {name: (values + 1.5 * shared_noise(labels)).astype(np.float32) for name, values in logits.items()}
    assert check(banked(labels, weak, sizes))["usable"].all()
    checks = check(banked(labels, weak, sizes, {"t2": cycle(weak["t2"], columns)}))
    assert checks.loc[~checks["usable"], "teacher"].tolist() == ["t2"]


def shared_noise(labels):
    """What makes examples of a hundred classes hard for all teachers alike."""
    return np.random.default_rng(3).normal(size=(len(labels), 100))


@pytest.mark.parametrize("kept", [1, 2])
def test_labels_of_other_classes(kept):
    _, labels, logits, sizes = sound_family(14, teachers=4, n=800)
    checks = check(bank_from_arrays(logits, labels % kept if kept > 1 else 0 * labels, params=sizes))
    assert not checks["usable"].any() and checks["findings"].str.contains("CM020").all()


@pytest.mark.parametrize("fold", [lambda y: y % 5, lambda y: y % 7, lambda y: np.where(y > 6, 0, y)])
def test_classes_made_one_leave_others_without_an_example(fold):
    _, labels, logits, sizes = sound_family(14, teachers=4, n=800)
    checks = check(bank_from_arrays(logits, fold(labels), params=sizes))
    assert not checks["usable"].any() and checks["findings"].str.contains("CM041").all()


def test_a_weak_teacher_of_part_of_the_classes_is_told_and_usable():
    _, labels, logits, sizes = sound_family(16, teachers=4, n=3000)
    part = labels < 4
    hard = np.random.default_rng(1).normal(size=logits["t0"].shape)
    weak = {
        name: (values + gain * hard)[part]
        for gain, (name, values) in zip((2, 2, 0.5, 0.2), logits.items(), strict=True)
    }
    checks = check(bank_from_arrays(weak, labels[part], params=sizes))
    assert checks["usable"].all()
    assert "CM041" in checks.loc[0, "findings"] and "CM041" not in checks.loc[3, "findings"]


@pytest.mark.parametrize("rows", [300, 600])
@pytest.mark.parametrize("share", [0.2, 0.3])
def test_a_fifth_of_few_rows_of_other_examples(bench, rows, share):
    found = []
    for seed, style in enumerate(("calibrated", "smoothed") if rows == 300 else ("overconfident", "distilled")):
        rng = np.random.default_rng(seed)
        family = bench["synthetic"](rng, 10, rows, style, "strong", ladder=True)
        assert check(bench["banked"](family))["usable"].all()
        broken = bench["some_rows_shuffled"](rng, family.logits["t3"], share)
        checks = check(bench["banked"](family, {"t3": broken})).set_index("teacher")
        found.append(checks.index[~checks["usable"]].tolist())
    assert found == [["t3"]] * 2


def test_hard_predictions_of_two_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    arrays = {f"t{gain}": gain * np.eye(2)[labels] + rng.normal(size=(400, 2)) for gain in (1, 2, 3)}
    checks = check(banked(labels, arrays, None, {"t2": np.eye(2)[arrays["t2"].argmax(axis=1)]}))
    assert checks.loc[~checks["usable"], "teacher"].tolist() == ["t2"]


def test_a_perfect_teacher_and_logarithms_of_saturated_probabilities_are_sound():
    _, labels, logits, _ = sound_family(15, teachers=3, n=800)
    arrays = {name: 40 * (values + 3 * np.eye(CLASSES)[labels]) for name, values in logits.items()}
    saturated = softmax(arrays["t1"] / 16, axis=1).astype(np.float16).clip(6e-8)
    sound = check(bank_from_arrays({**arrays, "t1": np.log(saturated)}, labels)).set_index("teacher")
    assert sound["usable"].all() and "CM009" in sound.loc["t1", "findings"]


def test_equal_logits_under_two_names():
    _, labels, logits, sizes = sound_family(7)
    bank = banked(labels, logits, sizes, {"t5": logits["t2"]})
    checks = check(bank).set_index("teacher")
    assert set(checks.index[~checks["usable"]]) == {"t2", "t5"}, "either may be the copy"
    same_size = banked(labels, logits, sizes | {"t5": sizes["t2"]}, {"t5": logits["t2"]})
    assert set(check(same_size).query("~usable")["teacher"]) == {"t5"}, "two names of one network"
    unknown = banked(labels, logits, None, {"t5": logits["t2"], "t7": logits["t2"]})
    assert set(check(unknown).query("~usable")["teacher"]) == {"t5", "t7"}, "three names of one network"
    alone = bank_from_arrays(dict.fromkeys(("a", "b", "c"), logits["t2"]), labels, params={"a": 3, "b": 2, "c": 1})
    assert check(alone).query("usable")["teacher"].tolist() == ["c"], "something to go by"


def hard_family(seed, accuracies=(0.55, 0.65, 0.72, 0.78, 0.82, 0.86), n=600, classes=CLASSES):
    """Teachers that find the same examples hard, each of the accuracy asked for."""
    rng = np.random.default_rng(seed)
    labels, alike = rng.integers(0, classes, n), rng.normal(size=(classes, classes))
    shared, target = rng.normal(size=(n, classes)), np.eye(classes)[labels]
    logits = {}
    for k, wanted in enumerate(accuracies):
        own = 0.8 * shared + 0.8 * alike[labels] + 0.6 * rng.normal(size=(n, classes))
        lead = np.where(target > 0, -np.inf, own).max(axis=1) - (own * target).sum(axis=1)
        own = own + np.quantile(lead, wanted) * target
        logits[f"t{k}"] = ((own - own.mean(axis=1, keepdims=True)) * (1 + 0.3 * k)).astype(np.float32)
    return rng, labels, logits


@pytest.mark.parametrize(
    ("breakage", "code"),
    [
        (lambda z, y, rng: z + 12 * (np.arange(CLASSES) == 4), "CM021"),
        (lambda z, y, rng: z + 8 * (np.arange(CLASSES) == 4), "CM021"),
        (lambda z, y, rng: one_column(z, 4, 0.5), "CM021"),
        (lambda z, y, rng: one_column(z, 4, 0), "CM021"),
        (lambda z, y, rng: z + 10 * np.eye(CLASSES)[y], "CM019"),
        (lambda z, y, rng: 3 * np.eye(CLASSES)[y] + rng.normal(size=z.shape), "CM019"),
        (lambda z, y, rng: np.where(z >= np.sort(z)[:, [-5]], z, np.sort(z)[:, [-5]] - 1), "CM019"),
        (lambda z, y, rng: np.where(z >= np.sort(z)[:, [-4]], z, 0), "CM019"),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_answers_that_are_not_the_teachers_own(breakage, code, sized):
    rng, labels, logits = hard_family(3)
    sizes = {name: 1000 * 2**k for k, name in enumerate(("t0", "t1", "t2", "broken", "t3", "t4", "t5"))}
    broken = breakage(logits["t3"], labels, rng)
    bank = bank_from_arrays({**logits, "broken": broken}, labels, params=sizes if sized else None)
    checks = check(bank).set_index("teacher")
    assert checks.index[~checks["usable"]].tolist() == ["broken"]
    assert code in checks.loc["broken", "findings"]


@pytest.mark.parametrize("best", [0.9, 0.95, 0.98, 0.995])
def test_a_much_better_teacher_that_errs_where_its_peers_err_is_sound(best):
    for seed in range(4):
        _, labels, logits = hard_family(seed, (0.55, 0.65, 0.72, 0.86, best))
        assert check(bank_from_arrays(logits, labels))["usable"].all()
        rounded = {name: np.maximum(np.round(values), 0) for name, values in logits.items()}
        assert not any(
            "columns have one value" in reason for reason in check(bank_from_arrays(rounded, labels))["reason"]
        )


@pytest.mark.parametrize(
    "copied",
    [
        lambda z: 2 * z,
        lambda z: z + 3,
        lambda z: z - z.max(axis=1, keepdims=True),
        lambda z: np.log(softmax(z, axis=1)),
        lambda z: z + np.random.default_rng(0).normal(0, 1e-4, z.shape),
    ],
)
def test_copies_that_were_scaled_or_shifted(copied):
    _, labels, logits = hard_family(3)
    checks = check(bank_from_arrays({**logits, "copy": copied(logits["t5"])}, labels)).set_index("teacher")
    assert checks.index[~checks["usable"]].tolist() == ["copy"]
    assert "copy of those of" in checks.loc["copy", "reason"]


@pytest.mark.parametrize(("right", "usable"), [(174, True), (171, True), (165, False), (150, False), (100, False)])
@pytest.mark.parametrize("split", [None, np.repeat(["val", "test"], 150)])
def test_a_weak_teacher_is_usable_where_it_is_shown_to_tell(right, usable, split):
    """Of 300 examples of two classes, 174 right have a one-sided p of .003, 171 of .009, 165 of .047."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    towards = np.where(rng.permutation(300) < right, 1, -1) * (2 * labels - 1) * (1 + 1e-3 * rng.random(300))
    weak = bank_from_arrays({"weak": np.stack([-towards, towards], axis=1)}, labels, split=split)
    row = check(weak).iloc[0]
    assert bool(row["usable"]) is usable
    assert usable or ("not shown to be better than chance" in row["reason"] and "CM020" in row["findings"])


def test_a_background_column_in_front():
    _, labels, logits, _ = sound_family(3)
    behind = {name: np.concatenate([np.full((N, 1), -5.0), values], axis=1) for name, values in logits.items()}
    checks = check(bank_from_arrays(behind, labels))
    assert not checks["usable"].any() and checks["findings"].str.contains("CM020").all()
    assert checks["unseen"].between(0.05, 0.2).all()
    with pytest.raises(InputError, match="not shown to be better than chance"):
        cm.pick(cm.probe(bank_from_arrays(behind, labels), taus=[4], names=["derived_std"], progress=False))


def test_a_split_of_its_own():
    rng, labels, logits, sizes = sound_family(4)
    broken = logits["t4"].copy()
    test = np.flatnonzero(np.arange(N) % 3 == 0)
    broken[test] = broken[rng.permutation(test)]
    row = check(banked(labels, logits, sizes, {"t4": broken})).set_index("teacher").loc["t4"]
    assert not row["usable"] and "on test" in row["reason"]


def test_chance_is_that_of_the_class_distribution():
    rng = np.random.default_rng(0)
    labels = (rng.random(1000) < 0.1).astype(int)
    always = np.tile([1.0, 0.0], (1000, 1)) + 0.01 * rng.normal(size=(1000, 1))
    told = np.stack([np.zeros(1000), 3.0 * labels - 2.0 + rng.normal(size=1000)], axis=1)
    checks = check(bank_from_arrays({"always": always, "told": told}, labels)).set_index("teacher")
    assert checks.loc["always", "chance"] == pytest.approx(1 - labels.mean()) and not checks.loc["always", "usable"]
    assert checks.loc["told", "usable"]


def random_family(rng):
    """Sound teachers of widely different accuracy and size; hard examples; confusions of their own or shared."""
    classes, n = int(rng.choice([4, 10, 30])), int(rng.choice([500, 1000, 2000]))
    labels = rng.integers(0, classes, n)
    shared, hard = rng.normal(size=(classes, classes)), rng.normal(size=n)
    own = rng.random() < 0.3
    logits = {}
    for position in range(10):
        alike = rng.normal(size=(classes, classes)) if own else shared
        gain = np.maximum(rng.uniform(1.2, 6.5) + rng.uniform(0, 1) * hard, 0.3)
        noise = rng.standard_t(5, size=(n, classes))
        logits[f"t{position}"] = rng.uniform(0.8, 4) * (
            gain[:, None] * np.eye(classes)[labels] + rng.uniform(0, 0.8) * alike[labels] + noise
        ) + rng.normal(0, 2)
    sizes = {name: int(10 ** rng.uniform(6, 8.5)) for name in logits}
    return labels, logits, sizes if rng.random() < 0.7 else None


BENCH = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The families and breakages of benchmarks/bench_broken.py, which know nothing of the checks."""
    sys.path.insert(0, str(BENCH))
    yield runpy.run_path(str(BENCH / "bench_broken.py"))
    sys.path.remove(str(BENCH))


@pytest.mark.parametrize(
    ("design", "kind"),
    [
        ((10, 2000, "overconfident", "weak", True), "half of the rows shuffled"),
        ((10, 2000, "distilled", "weak", False), "second half shifted"),
        ((30, 1000, "smoothed", "middling", True), "half of the rows shuffled"),
        ((30, 600, "calibrated", "strong", True), "three columns moved round"),
        ((100, 2000, "smoothed", "strong", True), "two columns interchanged"),
        ((200, 3000, "calibrated", "strong", False), "two columns interchanged"),
        ("letters", "half of the rows shuffled"),
        ("letters", "two columns interchanged"),
    ],
)
def test_one_broken_teacher_in_families_of_many_kinds(bench, design, kind):
    rng = np.random.default_rng(5)
    family = bench["trained"](rng, 1000, 4, distilled=True) if design == "letters" else bench["synthetic"](rng, *design)
    assert check(bench["banked"](family))["usable"].all(), "none is broken yet"
    name = max(family.logits, key=lambda name: (family.logits[name].argmax(axis=1) == family.labels).mean())
    checks = check(bench["banked"](family, {name: bench["BREAK"][kind](rng, family.logits[name])})).set_index("teacher")
    assert checks.index[~checks["usable"]].tolist() == [name]
    assert "CM021" in checks.loc[name, "findings"]


def test_at_most_one_false_alarm_in_two_hundred_sound_teachers():
    rng = np.random.default_rng(11)
    alarms = []
    for _ in range(20):
        labels, logits, sizes = random_family(rng)
        checks = check(bank_from_arrays(logits, labels, params=sizes))
        alarms += checks.loc[~checks["usable"], "reason"].tolist()
    assert len(alarms) <= 1, alarms


@pytest.mark.parametrize("bank", ["data/cifar10/bank", "data/cifar10/seeds"])
def test_shipped_banks_are_sound(bank, request):
    checks = check(LogitBank(request.config.rootpath / bank))
    assert checks["usable"].all() and not (set(",".join(checks["findings"]).split(",")) & UNUSABLE)


def test_sound_banks_are_measured_without_marks():
    _, labels, logits, sizes = sound_family(1)
    probes = cm.probe(bank_from_arrays(logits, labels, params=sizes), taus=[4], names=["accuracy"], progress=False)
    assert not {"usable", "reason", "findings"} & set(probes) and unusable_runs(probes).empty


def test_a_split_of_one_class_is_told():
    _, labels, logits, sizes = sound_family(18, teachers=3, n=900)
    checks = check(bank_from_arrays(logits, labels, params=sizes, split=np.where(labels == 0, "val", "test")))
    assert checks["usable"].all() and checks["findings"].str.contains("CM042").all()
    checks = check(bank_from_arrays(logits, labels, params=sizes, split=np.where(np.arange(900) < 400, "val", "test")))
    assert not checks["findings"].str.contains("CM042").any()


def test_a_few_examples_tell_nothing_against_a_teacher():
    rng = np.random.default_rng(0)
    checks = check(bank_from_arrays({"a": rng.normal(size=(20, 5)), "b": rng.normal(size=(20, 5))}, np.arange(20) % 5))
    assert checks["usable"].all()


def test_one_class_and_two_classes():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="at least 2 classes"):
        bank_from_arrays({"a": rng.normal(size=(50, 1))}, np.zeros(50, int))
    labels = rng.integers(0, 2, 400)
    arrays = {f"t{gain}": gain * np.eye(2)[labels] + rng.normal(size=(400, 2)) for gain in (1, 2, 3, 4, 5)}
    bank = bank_from_arrays({**arrays, "turned": arrays["t4"][:, ::-1]}, labels)
    assert check(bank).query("~usable")["teacher"].tolist() == ["turned"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probes = cm.probe(bank, progress=False)
        choice = cm.pick(probes)
        assert choice.rule == "lowest nll" and {"CM014", "CM020"} <= set(choice.findings)
        assert not any("derived" in rule or "inherent" in rule for rule in choice.rules["rule"])
        told = [statement for statement in statements({"probes": probes}) if statement.topic == "variance"]
    assert [statement.codes for statement in told] == [("CM014",)]
    with pytest.raises(InputError, match="two classes"):
        cm.pick(probes, rule="highest derived_std")


def test_worse_than_plain_training_is_said():
    _, labels, logits, sizes = sound_family(1)
    probes = cm.probe(bank_from_arrays(logits, labels, params=sizes), taus=[4], progress=False)
    results = results_for(sizes, best=())
    results.loc[results["method"].eq("CE"), "accuracy"] += 0.2
    choice = cm.pick(probes, results, n_boot=200)
    assert "CM022" in choice.findings and choice.title.startswith("Take no teacher")


def test_sentences_name_the_broken(hidden):
    _, checks, broken = hidden[1]
    sentences = [text for text, *codes in tell_checks(checks.reset_index()) if set(codes) & UNUSABLE]
    assert all(any(f"/{name} " in text for text in sentences) for name in broken)


def test_families_that_are_alike_uncentred_are_not_worth_a_word():
    _, labels, logits, _ = sound_family(2)
    moved = {name: values + 3 for name, values in logits.items()}
    assert not check(bank_from_arrays(moved, labels))["findings"].str.contains("CM011").any()
    centred = {name: values - values.mean(axis=1, keepdims=True) for name, values in logits.items()}
    one = check(bank_from_arrays({**centred, "t3": logits["t3"] + 3}, labels)).set_index("teacher")
    assert one["findings"].str.contains("CM011").to_dict() == {name: name == "t3" for name in logits}
