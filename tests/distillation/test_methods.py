from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from scipy import special

from capmismatch import temperature
from capmismatch._utils.files import hash_of
from capmismatch.distillation.methods import METHODS, REMEDIES, Method
from capmismatch.errors import InputError
from capmismatch.losses import LOSSES, Criterion


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.arange(8) % 5


LOGIT_LOSSES = {name: spec.loss for name, spec in METHODS.items() if spec.kind == "logits"}


def test_the_table_of_methods_fits_what_it_names() -> None:
    others = {"GRAFT", "SHUFFLE", "FLAT", "CalKD", "MatchKD", "ClassKD"}
    assert {name for name, spec in METHODS.items() if spec.kind != "logits"} == {"CE", "KD", "ATS", "ISATS"} | others
    fields = {field.name for field in dataclasses.fields(Method)} - {"name", "options"}
    for name, spec in METHODS.items():
        assert set(spec.fields) <= fields and set(spec.loss_fields) <= set(spec.fields)
        assert name == "CE" or spec.loss in LOSSES


def test_hashes_of_settings_do_not_change() -> None:
    """They are part of the names of runs: a changed field or default would train everything anew."""
    first = ("CE", "KD", "ATS", "ISATS", "DKD", "NormKD", "StdKD", "DIST", "CorrKD", "CTKD")
    assert tuple(METHODS)[: len(first)] == first
    digest = hash_of([Method(name).to_dict() for name in first])
    assert digest == "8179635cd44f471f"
    remedies = {"gate": 0.0, "stop_after": 0.5, "rank_weight": 1.0, "assistants": ["mlp8"]}
    assert set(remedies) == set(REMEDIES)
    assert hash_of(Method("ISATS", margin=0.5, options=remedies).to_dict()) == "eb56e09aa73a5ecb"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Method("CE"), {}),
        (Method("KD"), {"tau": 4.0, "tau_student": 1.0, "weight": 0.5}),
        (Method("ATS"), {"tau": 4.0, "tau_student": 1.0, "weight": 0.5, "tau_other": 3.0, "center": "mean"}),
        (
            Method("ISATS"),
            {"tau": 4.0, "tau_student": 1.0, "weight": 0.5, "constraint": "order", "margin": 1.0, "center": "mean"}
            | {"wrong": "free"},
        ),
        *((Method(name), {}) for name in LOGIT_LOSSES),
    ],
)
def test_defaults_are_filled_in_and_the_rest_is_none(method: Method, expected: dict) -> None:
    for name in ("tau", "tau_other", "tau_student", "weight", "constraint", "margin", "center", "wrong"):
        assert getattr(method, name) == expected.get(name), name


@pytest.mark.parametrize(
    ("method", "label"),
    [
        (Method("CE"), "CE"),
        (Method("KD", tau=2), "KD tau=2 student tau=1"),
        (Method("KD", tau_student=4.0, weight=0.9), "KD tau=4 w=0.9"),
        (Method("ATS", tau_other=2.5), "ATS tau=4 other tau=2.5"),
        (Method("ATS", center="none"), "ATS tau=4 other tau=3 uncentred"),
        (Method("ISATS", margin=1.0), "ISATS order m=1 tau=4"),
        (Method("ISATS", constraint="anchor", tau=8.0), "ISATS anchor tau=8"),
        (Method("DKD"), "DKD"),
        (Method("DKD", tau=2.0, weight=0.3, options={"beta": 2.0, "alpha": 1.0}), "DKD tau=2 w=0.3 alpha=1.0 beta=2.0"),
        (Method("RKD"), "RKD"),
        (Method("TopK", tau=2.0, weight=0.9, options={"k": 64, "tail": "both"}), "TopK tau=2 w=0.9 k=64 tail=both"),
    ],
)
def test_labels(method: Method, label: str) -> None:
    assert method.label == label


def test_settings_that_differ_have_labels_that_differ() -> None:
    taus, weights, centers = (2.0, 4.0), (0.3, 0.5, 0.9), ("mean", "none")
    settings = [Method("CE"), *(Method(name) for name in LOGIT_LOSSES)]
    for tau, student, weight in itertools.product(taus, (1.0, 4.0), weights):
        same = {"tau": tau, "tau_student": student, "weight": weight}
        settings.append(Method("KD", **same))
        settings += [Method("ATS", tau_other=t, center=c, **same) for t, c in itertools.product((1.5, 3.0), centers)]
        settings += [Method("ISATS", margin=m, center=c, **same) for m, c in itertools.product((0.0, 1.0), centers)]
        constrained = itertools.product(("anchor", "none"), centers)
        settings += [Method("ISATS", constraint=k, center=c, **same) for k, c in constrained]
    for name, tau, weight in itertools.product(LOGIT_LOSSES, taus, weights):
        settings += [Method(name, tau=tau, weight=weight), Method(name, tau=tau), Method(name, weight=weight)]
    settings += [Method("DKD", options={"beta": beta}) for beta in (1.0, 8.0)]
    distinct = [method for i, method in enumerate(settings) if method not in settings[:i]]
    assert len({method.label for method in distinct}) == len(distinct) > 200


def test_soft_labels_are_those_of_the_temperature_functions(batch) -> None:
    _, teacher, labels = batch
    for method, expected in [
        (Method("KD", tau=2.0), temperature.soften(teacher, tau=2.0)),
        (Method("ATS", tau=3.0, tau_other=1.5), temperature.ats(teacher, labels, 3.0, 1.5)),
        (Method("ATS", center="none"), temperature.ats(teacher, labels, 4.0, 3.0, center="none")),
        (Method("ISATS", tau=3.0, margin=0.5), temperature.isats(teacher, labels, 3.0, margin=0.5).probs),
        (Method("ISATS", constraint="anchor"), temperature.isats(teacher, labels, constraint="anchor").probs),
        (Method("ISATS", center="none"), temperature.isats(teacher, labels, center="none").probs),
    ]:
        torch.testing.assert_close(method.soft_labels(teacher, labels), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_the_other_methods_are_given_the_logits(batch, name: str) -> None:
    student, teacher, labels = batch
    method = Method(name)
    torch.testing.assert_close(method.soft_labels(teacher, labels), teacher.float())
    torch.testing.assert_close(
        method.criterion()(student, labels, teacher), Criterion(LOGIT_LOSSES[name])(student, labels, teacher)
    )
    weighted = Method(name, weight=0.25).criterion()
    assert (weighted.ce_weight, weighted.kd_weight) == (0.75, 0.25)


@pytest.mark.parametrize("name", ["KD", "ATS", "ISATS"])
@pytest.mark.parametrize(("weight", "tau_student"), [(0.5, 1.0), (0.9, 4.0), (1.0, 2.0)])
def test_criterion_of_soft_labels_is_the_weighted_cross_entropy(
    batch, name: str, weight: float, tau_student: float
) -> None:
    student, teacher, labels = batch
    method = Method(name, weight=weight, tau_student=tau_student)
    q = method.soft_labels(teacher, labels)
    soft = hard = 0.0
    for f, y, row in zip(student.numpy(), labels.tolist(), q.numpy(), strict=True):
        soft -= tau_student**2 * sum(row * special.log_softmax(f / tau_student)) / len(student)
        hard -= special.log_softmax(f)[y] / len(student)
    expected = (1 - weight) * hard + weight * soft
    assert float(method.criterion()(student, labels, q)) == pytest.approx(expected, rel=1e-9)


def test_options_and_temperature_reach_the_loss(batch) -> None:
    student, teacher, labels = batch
    found = Method("DKD", tau=2.0, options={"beta": 2.0}).criterion()(student, labels, teacher)
    torch.testing.assert_close(found, Criterion("dkd", tau=2.0, beta=2.0)(student, labels, teacher))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Method("KDD"), "method must be one of .* not 'KDD'; did you mean 'KD'"),
        (lambda: Method("CE", tau=4.0), r"method CE takes no tau, got 4.0; it takes \[\]"),
        (lambda: Method("KD", tau_other=2.0), "method KD takes no tau_other, got 2.0"),
        (lambda: Method("ATS", margin=1.0), "method ATS takes no margin, got 1.0"),
        (lambda: Method("DKD", center="none"), r"method DKD takes no center, got 'none'; it takes \['tau', 'weight'\]"),
        (lambda: Method("KD", tau=0.0), "tau of method KD must be a positive number, got 0.0"),
        (lambda: Method("KD", tau=True), "tau of method KD must be a positive number, got True"),
        (lambda: Method("DKD", options={"beta": True}).check_loss(), "beta must be a number >= 0, got True"),
        (lambda: Method("ATS", tau_other=-1.0), "tau_other of method ATS must be a positive number, got -1.0"),
        (lambda: Method("KD", tau_student=float("inf")), "tau_student of method KD must be a positive number"),
        (lambda: Method("KD", weight=1.5), r"weight of method KD in \(0, 1\], got 1.5"),
        (lambda: Method("ATS", center="median"), "center of method ATS must be one of .* not 'median'"),
        (lambda: Method("ISATS", constraint="oder"), "constraint of method ISATS must be one of .* mean 'order'"),
        (lambda: Method("ISATS", constraint="anchor", margin=1.0), "margin belongs to constraint 'order', got 1.0"),
        (lambda: Method("ISATS", margin=-1.0), "margin of method ISATS >= 0, got -1.0"),
        (lambda: Method("KD", options={"beta": 1.0}), "option of method KD must be one of .*, not 'beta'"),
        (lambda: Method("DKD", tau=2.0, options={"tau": 4.0}), "method DKD got tau twice: 2.0, and 4.0 in its options"),
        (
            lambda: Method("SKD", options={"gate": 0.0}).check_loss(),
            "method SKD has none by default",
        ),
        (lambda: Method("CE").criterion(), "a method with a teacher must be one of .* not 'CE'"),
        (lambda: Method("DKD", options={"gamma": 1.0}), "option of method DKD must be one of .* not 'gamma'"),
    ],
)
def test_errors_say_what_and_where(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if spec.kind == "logits"])
def test_an_unknown_option_is_refused_where_it_is_given(name: str) -> None:
    with pytest.raises(InputError, match="did you mean 'stop_after'"):
        Method(name, options={"stop_aftr": 0.5})


@pytest.mark.parametrize(("option", "nearest"), [("alfa", "alpha"), ("wormup_epochs", "warmup_epochs")])
def test_the_nearest_option_of_a_loss_is_named(option: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{nearest}'"):
        Method("DTKD", options={option: 1})
    assert Method("DTKD", options={nearest: 1}).options == {nearest: 1}
