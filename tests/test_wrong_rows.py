"""Rows that a teacher gets wrong: what ISATS does with them, in every place that has the setting."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import capmismatch as cm
from capmismatch import temperature
from capmismatch._numerics.soft_label_spec import LITERAL, WRONG_ROWS, SoftLabelSpec
from capmismatch._utils.files import hash_of
from capmismatch.data.bank import bank_from_arrays
from capmismatch.distillation.methods import Method
from capmismatch.errors import InputError
from capmismatch.explorer.tables import Reader, Softening, View
from capmismatch.report.facts import RestoredByRows
from capmismatch.report.narrative import statements
from capmismatch.stats.matching import rows_of_kind
from capmismatch.study.config import IsatsConfig
from capmismatch.temperature import isats

pytestmark = pytest.mark.filterwarnings("ignore:ISATS without a constraint")
CONSTRAINTS = ("order", "anchor", "none")


def rows(classes: int = 6, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels, and which rows are right."""
    rng = np.random.default_rng(classes)
    logits = 3 * rng.standard_normal((n, classes)) + 2
    labels = np.where(rng.random(n) < 0.7, logits.argmax(1), rng.integers(0, classes, n))
    return logits, labels, logits.argmax(1) == labels


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_right_rows_are_the_same_whatever_happens_to_wrong_ones(constraint: str) -> None:
    f, y, right = rows()
    found = [isats(f, y, constraint=constraint, wrong=wrong) for wrong in temperature.WRONG]
    assert not right.all()
    for other in found[1:]:
        assert torch.equal(other.probs[right], found[0].probs[right])
        assert torch.equal(other.tau_other[right], found[0].tau_other[right])


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("tau", [2.0, 10.0])  # the second lies outside the bounds of the search
def test_plain_is_temperature_scaling_of_wrong_rows(constraint: str, tau: float) -> None:
    f, y, right = rows()
    found = isats(f, y, tau, constraint=constraint, wrong="plain")
    torch.testing.assert_close(found.probs[~right], temperature.soften(f, tau=tau)[~right], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.variance[~right], found.variance_before[~right], rtol=1e-9, atol=1e-15)
    assert found.tau_other[~right].unique().tolist() == [tau]
    for flag in (found.at_bound, found.constrained, found.flipped):
        assert not flag[~right].any()


@pytest.mark.parametrize(("constraint", "margin"), [("order", 0.5), ("order", 1.0), ("anchor", None), ("none", None)])
def test_target_is_isats_of_logits_whose_target_is_raised(constraint: str, margin: float | None) -> None:
    f, y, right = rows()
    others = f.copy()
    others[np.arange(len(y)), y] = -np.inf
    raised = f.copy()
    raised[~right, y[~right]] = others.max(1)[~right] + 4.0 * (1.0 if margin is None else margin)
    found = isats(f, y, constraint=constraint, margin=margin, wrong="target")
    expected = isats(raised, y, constraint=constraint, margin=margin, wrong="free")
    torch.testing.assert_close(found.probs, expected.probs, rtol=1e-9, atol=1e-12)
    moved = found.probs.argmax(1).numpy() != f.argmax(1)
    np.testing.assert_array_equal(found.flipped, moved)
    if constraint == "order":
        assert moved[~right].all() and (found.probs.argmax(1).numpy() == y).all()


def test_free_leaves_nothing_of_the_target_on_most_wrong_rows() -> None:
    f, y, right = rows()
    assert np.median(isats(8 * f, y, wrong="free").target_prob[~right]) < 1e-3


def test_the_literal_preset_has_neither_constraint_nor_centre() -> None:
    f, y, _ = rows()
    assert dict(LITERAL) == {"constraint": "none", "center": "none", "wrong": "free"}
    spec = SoftLabelSpec.literal(3.0)
    assert spec == SoftLabelSpec("ISATS", 3.0, **LITERAL) == Method("ISATS", tau=3.0, **LITERAL).soft_label_spec
    expected = isats(f, y, 3.0, **temperature.LITERAL).probs
    assert torch.equal(temperature.soft_labels(spec, f, y), expected)


@pytest.mark.parametrize("make", [isats, cm.restored_variance, SoftLabelSpec, Method])
def test_another_name_is_refused(make: object) -> None:
    f, y, _ = rows()
    arguments = {
        isats: (f, y),
        cm.restored_variance: (bank_from_arrays({"a": f}, y),),
        SoftLabelSpec: (),
        Method: ("ISATS",),
    }
    with pytest.raises(InputError, match=r"wrong.*plain.*target.*free.*ignored"):
        make(*arguments[make], wrong="ignored")  # type: ignore[operator]


def test_one_default_and_labels_that_name_the_others() -> None:
    assert {SoftLabelSpec().wrong, Method("ISATS").wrong, IsatsConfig().wrong} == {WRONG_ROWS}
    assert Method("KD").wrong is None
    for wrong in temperature.WRONG:
        said = "" if wrong == WRONG_ROWS else f" wrong={wrong}"
        assert SoftLabelSpec(wrong=wrong).label == Method("ISATS", wrong=wrong).label == f"ISATS order m=1{said} tau=4"
        assert Method("ISATS", wrong=wrong).soft_label_spec.wrong == wrong
    with pytest.raises(InputError, match="KD takes no wrong"):
        Method("KD", wrong="plain")


def test_hashes_tell_settings_of_before_and_others_apart() -> None:
    """A run trained before `wrong` was a setting is one of "free", and is taken for nothing else."""
    before = {"name": "ISATS", "tau": 4.0, "tau_other": None, "tau_student": 1.0, "weight": 0.5, "constraint": "order"}
    before |= {"margin": 1.0, "center": "mean", "options": {}}
    hashes = {wrong: hash_of(Method("ISATS", wrong=wrong).to_dict()) for wrong in temperature.WRONG}
    assert hashes["free"] == hash_of(before) and len(set(hashes.values())) == 3
    assert Method.from_dict(before) == Method("ISATS", wrong="free")
    for method in (Method("KD"), *(Method("ISATS", wrong=wrong) for wrong in temperature.WRONG)):
        assert Method.from_dict(method.to_dict()) == method


def test_the_setting_reaches_every_table_that_compares_methods() -> None:
    f, y, right = rows()
    bank = bank_from_arrays({"a": f}, y, classes=list("uvwxyz"))
    settings = IsatsConfig(wrong="target")
    assert [spec.wrong for spec in settings.specs()] == ["target"] * 3
    example = str(bank.rows.ids[np.flatnonzero(~right)[0]])
    table = cm.dark_knowledge(bank, example, wrong="target", split=None).query("method == 'ISATS'")
    row = np.flatnonzero(bank.rows.ids == example)
    np.testing.assert_allclose(table["probability"], isats(f[row], y[row], wrong="target").probs[0], rtol=1e-5)
    restored = cm.restored_variance(bank, wrong="target", split=None, progress=False).query("method == 'ISATS'")
    assert set(restored["wrong"]) == {"target"}
    reader = Reader(bank, split=None, n=None)
    shown = reader.soft_labels(View(("logits/a",), Softening(wrong="target"), "u", example)).query("method == 'ISATS'")
    keys = ["quantity", "rows"]
    both = shown.merge(restored, on=keys, suffixes=("", "_whole"))
    assert set(both["rows"]) == {"all", "right", "wrong"}
    np.testing.assert_allclose(both["value"], both["value_whole"], rtol=1e-9, atol=1e-15)
    soft = cm.soft_labels(bank, "logits/a", Method("ISATS", wrong="target"))
    np.testing.assert_allclose(soft.values[0], isats(f, y, wrong="target").probs, rtol=1e-4, atol=1e-6)


def test_a_loss_where_the_teacher_is_right_is_a_finding() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, 400)
    weak = 1.5 * np.eye(8)[y] + 1.5 * rng.standard_normal((400, 8))  # hardly a margin: its order costs variance
    strong = 12 * np.eye(8)[y] + 4 * rng.standard_normal((400, 8))
    bank = bank_from_arrays({"weak": weak, "strong": strong}, y, params={"weak": 1, "strong": 2})
    table = cm.restored_variance(bank, split=None, progress=False)
    variance = table[table["quantity"] == "derived_variance"].set_index(["teacher", "method", "rows"])
    ratio = {
        name: variance["value"][name, "ISATS", "right"] / variance["value"][name, "TS", "right"]
        for name in bank_names(bank)
    }
    assert ratio["weak"] < 1 < ratio["strong"]
    marked = table[table["findings"] != ""]
    assert set(marked["findings"]) == {"CM025"}
    assert marked[marked["method"] == "ISATS"][["teacher", "rows", "quantity"]].values.tolist() == [
        ["weak", "right", "derived_variance"]
    ]
    told = [s for s in statements({"restored": table}) if isinstance(s.facts, RestoredByRows)]
    assert {s.facts.teacher: "CM025" in s.codes for s in told} == {"weak": True, "strong": False}
    facts = next(s.facts for s in told if s.facts.teacher == "weak")
    assert facts.ratios["right"]["ISATS"].value == pytest.approx(ratio["weak"], rel=1e-9)
    n = variance["n"]
    whole = variance["value"]["weak", "ISATS", "all"] * n["weak", "ISATS", "all"]
    share = variance["value"]["weak", "ISATS", "wrong"] * n["weak", "ISATS", "wrong"] / whole
    assert facts.from_wrong["ISATS"] == pytest.approx(share, rel=1e-9)


def bank_names(bank: cm.LogitBank) -> list[str]:
    return [record.teacher for record in bank.teachers]


def test_older_tables_tell_of_all_rows() -> None:
    f, y, _ = rows()
    bank = bank_from_arrays({"a": f, "b": 2 * f}, y, params={"a": 1, "b": 2})
    table = cm.restored_variance(bank, split=None, progress=False)
    older = rows_of_kind(table).drop(columns=["rows", "wrong", "findings"])
    pd.testing.assert_frame_equal(rows_of_kind(older), older)
    everything = [s for s in statements({"restored": table}) if not isinstance(s.facts, RestoredByRows)]
    assert [s.text for s in everything] == [s.text for s in statements({"restored": older})]
    assert len(cm.plots.isats_restored(older)) == 6 and len(cm.plots.isats_restored(table)) == 8
    drawn = cm.plots.drawn_data(cm.plots.isats_restored(table)[0])
    pd.testing.assert_series_equal(drawn["mean"], cm.plots.drawn_data(cm.plots.isats_restored(older)[0])["mean"])


def test_a_teacher_that_is_always_right_has_no_wrong_rows() -> None:
    y = np.arange(40) % 4
    f = 6 * np.eye(4)[y] + np.random.default_rng(0).normal(size=(40, 4))
    table = cm.restored_variance(bank_from_arrays({"a": f}, y, params={"a": 1}), split=None, progress=False)
    wrong = rows_of_kind(table, "wrong")
    assert wrong["value"].isna().all() and (wrong["n"] == 0).all()
    assert len(cm.plots.isats_restored(table)) == 7
    assert not [s for s in statements({"restored": table}) if isinstance(s.facts, RestoredByRows)]


def test_coupled_temperatures_are_a_line_over_tau() -> None:
    f, y, _ = rows()
    bank = bank_from_arrays({"a": f, "b": 2 * f}, y, params={"a": 1, "b": 2})
    names = ["derived_average", "derived_std", "inherent_variance", "target_prob"]
    probes = cm.probe(bank, [1, 4], names=names, split=None, progress=False)
    taus = (1.0, 2.0, 4.0)
    tables = [cm.restored_variance(bank, 1.25 * t, tau_other=0.75 * t, split=None, progress=False) for t in taus]
    axes = cm.plots.variance_vs_temperature(probes, coupled=pd.concat(tables))
    drawn = cm.plots.drawn_data(axes[3]).query("method == 'coupled ATS' and label == 'b'")
    expected = [temperature.ats(2 * f, y, 1.25 * t, 0.75 * t)[np.arange(len(y)), y].mean() for t in taus]
    assert drawn["x"].tolist() == list(taus)
    np.testing.assert_allclose(drawn["mean"], expected, rtol=1e-6)
    with pytest.raises(InputError, match="coupled ATS"):
        cm.plots.variance_vs_temperature(probes, coupled=cm.restored_variance(bank, split=None, progress=False))
