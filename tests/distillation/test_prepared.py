"""Soft labels with a temperature of each teacher, and with class means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, special
from studies import letters_study

from capmismatch import bank_from_arrays, matched_temperatures, probes, temperature
from capmismatch.distillation.methods import PREPARED, Method
from capmismatch.distillation.prepared import blended
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.errors import InputError
from capmismatch.sources import letters
from capmismatch.study.study import Study

DRAWS = torch.Generator().manual_seed(0)
LOGITS, OTHER = (3 * torch.randn(60, 5, generator=DRAWS, dtype=torch.float64) for _ in range(2))
LABELS = torch.arange(60) % 5
HELD_OUT = 4 * torch.randn(200, 5, generator=DRAWS, dtype=torch.float64), torch.arange(200) % 5
HELD_OUT[0][torch.arange(200), HELD_OUT[1]] += 3


def test_calibrated_soft_labels_have_scipys_temperature() -> None:
    logits, labels = (x.numpy() for x in HELD_OUT)
    nll = lambda tau: -special.log_softmax(logits / tau, axis=1)[np.arange(200), labels].mean()  # noqa: E731
    own = optimize.minimize_scalar(nll, bounds=(0.1, 30), method="bounded", options={"xatol": 1e-10}).x
    made = Method("CalKD", tau=2.0).soft_labels(LOGITS, LABELS, held_out=HELD_OUT)
    torch.testing.assert_close(made, temperature.soften(LOGITS, tau=2 * own), rtol=1e-6, atol=1e-9)
    scaled = Method("CalKD", tau=2.0).soft_labels(7 * LOGITS, LABELS, held_out=(7 * HELD_OUT[0], HELD_OUT[1]))
    torch.testing.assert_close(
        scaled, made, rtol=1e-7, atol=1e-9
    )  # a teacher that is surer by a factor teaches the same


@pytest.mark.parametrize("match", ["entropy", "derived_std", "target_prob"])
def test_matched_soft_labels_are_as_the_other_teachers(match: str) -> None:
    logits, labels = HELD_OUT
    method = Method("MatchKD", tau=4.0, match=match, other="small")
    made = method.soft_labels(3 * LOGITS, LABELS, held_out=(3 * logits, labels), other=logits)
    torch.testing.assert_close(made, temperature.soften(LOGITS, tau=4.0), rtol=1e-6, atol=1e-9)
    bank = bank_from_arrays({"small": logits.numpy(), "large": 3 * logits.numpy()}, labels.numpy())
    table = matched_temperatures(bank, match, reference="small", progress=False)
    np.testing.assert_allclose(table["value"], [4.0, 12.0], rtol=1e-6)
    assert set(table["probe"]) == {f"tau_for_{match}"}


def test_class_means_are_blended_in() -> None:
    p = special.softmax(LOGITS.numpy() / 2, axis=1)
    expected = np.array([0.7 * row + 0.3 * p[LABELS.numpy() == y].mean(0) for row, y in zip(p, LABELS, strict=True)])
    method = Method("ClassKD", tau=2.0, share=0.3)
    np.testing.assert_allclose(method.soft_labels(LOGITS, LABELS), expected, rtol=1e-9)
    means = probes.class_means(OTHER, LABELS, 2.0)
    from_other = Method("ClassKD", tau=2.0, share=0.3, other="small").soft_labels(LOGITS, LABELS, other=OTHER)
    torch.testing.assert_close(from_other, method.soft_labels(LOGITS, LABELS, class_means=means))
    whole = Method("ClassKD", tau=2.0, share=1.0).soft_labels(LOGITS, LABELS)
    torch.testing.assert_close(whole, probes.class_means(LOGITS, LABELS, 2.0)[LABELS])
    means[3] = torch.nan
    with pytest.raises(InputError, match="mean soft label of class 3"):
        blended(torch.softmax(LOGITS, 1), LABELS, means, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Method("ClassKD"), r"share of method ClassKD in \(0, 1\], got None"),
        (lambda: Method("ClassKD", share=1.5), r"share of method ClassKD in \(0, 1\], got 1.5"),
        (lambda: Method("KD", share=0.5), "method KD takes no share"),
        (lambda: Method("MatchKD"), "method MatchKD needs other"),
        (lambda: Method("MatchKD", other="a", match="nll"), "match of method MatchKD must be one of"),
        (lambda: Method("CalKD", options={"assistants": ["mlp4"]}), "method CalKD .* takes no assistants"),
        (lambda: Method("CalKD").soft_labels(LOGITS, LABELS), "held-out rows"),
        (
            lambda: Method("CalKD").soft_labels(LOGITS, LABELS, held_out=(9 * torch.eye(5), torch.arange(5))),
            "5 held-out",
        ),
        (lambda: Method("MatchKD", other="a").soft_labels(LOGITS, LABELS, held_out=HELD_OUT), "logits of a of the"),
        (
            lambda: Method("MatchKD", other="a").soft_labels(LOGITS, LABELS, held_out=HELD_OUT, other=OTHER),
            "logits of one shape",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_labels_and_hashes_tell_them_apart() -> None:
    methods = [
        Method("CalKD"),
        Method("CalKD", tau=2.0),
        Method("MatchKD", other="mlp4"),
        Method("MatchKD", other="mlp4", match="derived_std"),
        Method("ClassKD", share=0.3),
        Method("ClassKD", share=0.3, other="mlp4"),
    ]
    assert len({method.label for method in methods}) == len(methods)
    assert methods[3].label == "MatchKD tau=4 same derived_std as mlp4"
    assert methods[5].label == "ClassKD tau=4 share=0.3 classes of mlp4"
    assert all(Method.from_dict(method.to_dict()) == method for method in methods)
    assert {method.name for method in methods} == set(PREPARED)


@pytest.mark.parametrize("engine", ["processes", "batched"])
def test_prepared_methods_in_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(letters, "RECIPE", letters.Recipe(epochs=6, batch_size=50))
    text = letters_study(
        rows=(600, 300, 200),  # so that the teachers are better than chance
        widths=(16, 32),
        recipe="epochs = 2, batch_size = 50",
        views='kind = "noise", count = 2, sigma = 1.0',
        methods=(
            "KD",
            "CalKD",
            'MatchKD\nother = "mlp16"',
            "ClassKD\nshare = 0.3",
            'ClassKD\nshare = 0.3\nother = "mlp16"',
        ),
    )
    (tmp_path / "study.toml").write_text(text)
    study = Study(tmp_path / "study.toml", progress=False, engine=engine)
    study.collect()
    table = study.distill()
    assert set(table["method"]) == {"KD", *PREPARED} and table["label"].value_counts().nunique() == 1

    def divergences(label: str, teacher: str) -> list[float]:
        rows = table[table["label"].eq(label) & table["teacher"].eq(teacher)]
        return rows.sort_values(["seed", "split"])["kl"].tolist()

    for teacher, is_reference in (("mlp16", True), ("mlp32", False)):
        own = divergences("MatchKD tau=4 same entropy as mlp16", teacher)
        assert (own == pytest.approx(divergences("KD tau=4 student tau=1", teacher), abs=1e-4)) is is_reference
        classes = [divergences(f"ClassKD tau=4 share=0.3{of}", teacher) for of in ("", " classes of mlp16")]
        assert (classes[0] == pytest.approx(classes[1], abs=1e-4)) is is_reference
    runs = plan(study, study.bank)
    assert len({run_folder(study, run).name for run in runs}) == len(runs) == 20
