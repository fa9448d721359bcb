"""A student in a bank: never a teacher, and compared with each of them."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import capmismatch as cm
from capmismatch import probes
from capmismatch.data.bank import bank_in_memory
from capmismatch.diagnostics.one_pass import all_tables
from capmismatch.errors import InputError
from capmismatch.probes import FEATURES, PAIRS

ROWS, CLASSES = 60, 4
SIZES = {"tiny": 10, "a": 20, "b": 40, "c": 80}


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, np.ndarray]]:
    draws = np.random.default_rng(0)
    labels = np.arange(ROWS) % CLASSES
    logits = {
        name: draws.normal(size=(ROWS, CLASSES)) + scale * np.eye(CLASSES)[labels]
        for scale, name in enumerate(SIZES, 1)
    }
    features = {name: draws.normal(size=(ROWS, 3 + scale)) for scale, name in enumerate(SIZES)}
    return {"logits": logits, "features": features, "labels": {"": labels}}


@pytest.fixture(scope="module")
def bank(drawn) -> cm.LogitBank:
    split = np.where(np.arange(ROWS) % 3, "val", "test")
    return cm.bank_from_arrays(
        drawn["logits"],
        drawn["labels"][""],
        params=SIZES,
        split=split,
        students=["tiny"],
        features=drawn["features"],
    )


def test_a_student_is_no_teacher_anywhere(bank) -> None:
    alone = bank_in_memory(bank.rows, [(record, bank.stored(record.key)) for record in bank.teachers])
    assert [record.teacher for record in bank.students] == ["tiny"] and bank.keys == alone.keys
    assert bank["tiny"].params == 10 and bank.take("tiny", np.arange(2)).shape == (2, CLASSES)
    for table in (cm.check, cm.affinity, cm.restored_variance, cm.rank_stability, cm.reliability):
        quiet = {} if table in (cm.check, cm.affinity, cm.reliability) else {"progress": False}
        pd.testing.assert_frame_equal(table(bank, **quiet), table(alone, **quiet))
    measured = cm.probe(bank, [1, 4], progress=False)
    own = measured[measured["student"].isna() & ~measured["probe"].isin(FEATURES)].drop(columns="student")
    pd.testing.assert_frame_equal(own, cm.probe(alone, [1, 4], progress=False))
    assert set(measured["teacher"]) == {"a", "b", "c"}
    assert cm.diagnose(bank, progress=False).choice.table["teacher"].isin(["a", "b", "c"]).all()


def test_the_probes_table_has_each_probe_of_pairs_and_features(bank, drawn) -> None:
    table = cm.probe(bank, [2.0], progress=False, split="val")
    rows = np.flatnonzero(np.arange(ROWS) % 3)
    of = {name: (drawn["logits"][name][rows].astype(np.float32), drawn["features"][name][rows]) for name in SIZES}
    labels, (student, features) = drawn["labels"][""][rows], of["tiny"]
    for name in ("a", "c"):
        logits = of[name][0]
        half, own_half = (side.astype(np.float16) for side in (features, of[name][1]))
        expected = {
            "kl": probes.kl(logits, student, 2).mean(),
            "reverse_kl": probes.reverse_kl(logits, student, 2).mean(),
            "skewed_kl": probes.skewed_kl(logits, student, 2).mean(),
            "rsr": probes.rsr(logits, student),
            "wrong_rsr": probes.wrong_rsr(logits, student, labels, 2),
            "size_ratio": SIZES[name] / 10,
            "size_gap": abs(np.log(SIZES[name] / 25)),
            "gradient_cosine": probes.gradient_cosine(logits, student, labels, half, 2),
            "grace": probes.grace(logits, student, half, 2),
            "cka": probes.cka(own_half, half),
        }
        found = table[table["teacher"].eq(name) & table["student"].eq("tiny")].set_index("probe")["value"]
        assert found.to_dict() == pytest.approx(expected, rel=1e-7) and set(expected) == set(PAIRS)
        of_features = table[table["teacher"].eq(name) & table["probe"].isin(FEATURES)].set_index("probe")["value"]
        assert of_features["logme"] == pytest.approx(probes.logme(own_half, labels))
        assert of_features["nc1"] == pytest.approx(probes.nc1(own_half, labels))
    pd.testing.assert_frame_equal(all_tables(bank, [2.0], progress=False).probes, table)


def test_standard_errors_are_those_of_redrawn_examples(bank) -> None:
    names = ["gradient_cosine", "rsr", "wrong_rsr"]
    measured = cm.pair_probes(bank, "tiny", [2.0], names, split=None).query("teacher == 'b'").set_index("probe")
    draws, found = np.random.default_rng(0), []
    teacher, student, features = bank.logits("b"), bank.logits("tiny"), bank.features("tiny")
    for _ in range(300):
        some = draws.integers(0, ROWS, ROWS)
        pair = teacher[some], student[some]
        cosine = probes.gradient_cosine(*pair, bank.labels()[some], features[some], 2)
        found.append((cosine, probes.rsr(*pair), probes.wrong_rsr(*pair, bank.labels()[some], 2)))
    np.testing.assert_allclose(measured.loc[names, "se"], np.std(found, axis=0), rtol=0.25)


def test_several_runs_of_a_student_are_averaged(bank) -> None:
    record = bank.students[0]
    runs = [(replace(record, seed=seed), bank.logits("tiny") * (1 + seed)) for seed in range(2)]
    both = bank_in_memory(bank.rows, [*((one, bank.stored(one.key)) for one in bank.teachers), *runs])
    table = cm.probe(both, [1.0], ["kl"], progress=False)
    each = [cm.pair_probes(both, record.key, [1.0], ["kl"])["value"].to_numpy() for record in both.students]
    np.testing.assert_allclose(table["value"], np.mean(each, axis=0))
    assert set(table["student"]) == {"tiny"} and len(table) == 3


def test_what_a_bank_lacks_is_said(bank, drawn) -> None:
    plain = cm.bank_from_arrays(drawn["logits"], drawn["labels"][""], students=["tiny"])
    assert not {"grace", "gradient_cosine", "cka", "logme"} & set(cm.probe(plain, [1], progress=False)["probe"])
    for names, words in ((["grace"], "features=True"), (["logme"], "features=True"), (["kll"], "kl")):
        with pytest.raises(InputError, match=words):
            cm.probe(plain, [1], names, progress=False)
    nobody = cm.bank_from_arrays(drawn["logits"], drawn["labels"][""])
    with pytest.raises(InputError, match="role 'student'"):
        cm.probe(nobody, [1], ["kl"], progress=False)
    with pytest.raises(InputError, match=r"students.*did you mean 'tiny'"):
        cm.bank_from_arrays(drawn["logits"], drawn["labels"][""], students=["tny"])
    with pytest.raises(InputError, match=r"a mapping of \['s'\]"):
        cm.bank_from_arrays(drawn["logits"], drawn["labels"][""], students={"s": drawn["logits"]["tiny"]})
    some = cm.bank_from_arrays(
        drawn["logits"], drawn["labels"][""], features={"a": drawn["features"]["a"]}, students=["tiny"]
    )
    logme = cm.probe(some, [1], ["logme"], progress=False).set_index("teacher")["value"]
    assert np.isfinite(logme["a"]) and logme[["b", "c"]].isna().all()


def results() -> pd.DataFrame:
    rows = [
        (
            "logits",
            teacher,
            student,
            "KD",
            seed,
            split,
            0.5 + 0.1 * better + (0.001 if student == "tiny" else 0.002) * seed,
        )
        for student, order in (("tiny", "abc"), ("other", "cba"))
        for better, teacher in enumerate(order)
        for seed in range(2)
        for split in ("val", "test")
    ]
    frame = pd.DataFrame(rows, columns=["family", "teacher", "student", "method", "seed", "split", "accuracy"])
    return frame.assign(label="KD", teacher_seed=0, n=500, tau=4.0)


def test_probes_of_a_pair_meet_the_results_of_their_student_alone(bank) -> None:
    table = cm.probe(bank, [1.0], ["accuracy", "derived_std", "target_prob", "size_ratio"], progress=False)
    links = cm.correlate(table, results(), n_boot=20, primary="accuracy")
    spearman = links[links["metric"].eq("spearman")].set_index(["probe", "student"])["value"]
    assert spearman["size_ratio", "tiny"] == pytest.approx(1) and ("size_ratio", "other") not in spearman
    alone = cm.correlate(table[table["student"].isna()], results(), n_boot=20, primary="accuracy")
    both = links[links["probe"].ne("size_ratio")].merge(
        alone, on=["probe", "student", "metric"], suffixes=("", "_alone")
    )
    assert len(both) == len(alone)
    for column in ("value", "p", "low", "high"):
        np.testing.assert_allclose(both[column], both[f"{column}_alone"])
    misnamed = table.assign(student=table["student"].replace("tiny", "tinny"))
    with pytest.warns(UserWarning, match=r"tinny.*\['other', 'tiny'\]"):
        cm.correlate(misnamed, results(), n_boot=20, primary="accuracy")


def test_rules_of_pairs_choose_by_the_student_that_is_asked_for(bank) -> None:
    table = cm.probe(bank, [4.0], progress=False)
    choice = cm.pick(table, results(), student="tiny")
    taken = choice.rules.set_index("rule")["teacher"]
    assert taken["size ratio 2.5"] == "a"  # 2 times the student; the next has 4
    least = table[table["probe"].eq("grace")].set_index("teacher")["value"].idxmin()
    assert taken["lowest grace"] == least
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cm.pick(table, rule="size ratio 2.5").teacher == "a"
    without = cm.pick(table[table["student"].isna()], results(), student="other").rules["rule"]
    assert "lowest kl" not in set(without) and "highest logme" in set(without)
    swapped = pd.concat(
        [table, table[table["probe"].eq("size_gap")].assign(student="other", value=lambda t: -t["value"])]
    )
    other = cm.pick(swapped, results(), student="other").rules.set_index("rule")["teacher"]
    assert other["size ratio 2.5"] == "c"
