"""The one description of soft labels, and what applies it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import capmismatch as cm
from capmismatch import temperature
from capmismatch._numerics.arrays import as_pair
from capmismatch._numerics.soft_label_spec import TAU_OTHER, SoftLabelSpec, compared_specs, margin_of
from capmismatch._numerics.softmax import take_apart
from capmismatch.data.bank import bank_from_arrays
from capmismatch.diagnostics.dark_knowledge import example_soft_labels
from capmismatch.distillation.methods import Method
from capmismatch.errors import InputError
from capmismatch.explorer.tables import Reader, Softening, View
from capmismatch.study.config import IsatsConfig

SPECS = [
    SoftLabelSpec("TS", tau=3.0),
    SoftLabelSpec("ATS", tau=4.0, tau_other=2.0, center="none"),
    SoftLabelSpec("ISATS", tau=2.0, margin=0.5, bounds=(0.3, 5.0)),
    SoftLabelSpec("ISATS", constraint="anchor"),
]


def rows(classes: int = 6, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    logits = 3 * rng.standard_normal((n, classes)) + 2  # with a mean, which centring removes
    logits = logits.astype(np.float32).astype(float)  # as banks store them
    return logits, np.where(rng.random(n) < 0.7, logits.argmax(1), rng.integers(0, classes, n))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.label)
def test_a_spec_is_applied_as_the_functions_are(spec: SoftLabelSpec) -> None:
    f, y = rows()
    options: dict[str, Any] = {"constraint": spec.constraint, "center": spec.center, "margin": spec.margin}
    expected = {
        "TS": lambda: temperature.soften(f, y, spec.tau),
        "ATS": lambda: temperature.ats(f, y, spec.tau, spec.tau_other, center=spec.center),
        "ISATS": lambda: temperature.isats(f, y, spec.tau, spec.bounds, **options).probs,
    }[spec.method]()
    assert torch.equal(temperature.soft_labels(spec, f, y), expected)
    result = temperature.soften_parts(spec, take_apart(*as_pair(f, y)))
    torch.testing.assert_close(result.softened.probs, expected, rtol=1e-12, atol=1e-15)
    moved = expected.argmax(1) != torch.from_numpy(f.argmax(1))
    assert torch.equal(result.flipped, moved)
    if spec.method != "ISATS":
        assert result.tau_other.unique().tolist() == [spec.tau if spec.method == "TS" else spec.tau_other]
        assert not result.at_bound.any() and not result.constrained.any()


def test_labels_name_the_settings_that_a_method_reads() -> None:
    assert [spec.label for spec in SPECS] == [
        "TS tau=3",
        "ATS tau=4 other tau=2 uncentred",
        "ISATS order m=0.5 tau=2 bounds=0.3..5",
        "ISATS anchor tau=4",
    ]
    for spec in (SoftLabelSpec("ATS", tau_other=2.5), SoftLabelSpec("ISATS", constraint="none")):
        method = Method(
            spec.method, tau=spec.tau, **({"tau_other": 2.5} if spec.method == "ATS" else {"constraint": "none"})
        )
        assert method.label == spec.label  # the same words


def test_all_have_one_default_of_the_wrong_classes_temperature() -> None:
    f, y = rows()
    ats = SoftLabelSpec("ATS")
    assert ats.tau_other == TAU_OTHER == Method("ATS").tau_other == IsatsConfig().tau_other == 3.0
    assert torch.equal(temperature.ats(f, y), temperature.soft_labels(ats, f, y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "KD"}, "method must be one of"),
        ({"tau": 0}, "tau must be a positive number, got 0"),
        ({"tau_other": -1.0}, "tau_other must be a positive number, got -1.0"),
        ({"constraint": "oder"}, "did you mean 'order'"),
        ({"center": "median"}, "center must be one of"),
        ({"margin": -0.5}, "margin must be a number >= 0, got -0.5"),
        ({"constraint": "anchor", "margin": 1.0}, "margin belongs to constraint 'order', got margin=1.0"),
        ({"bounds": (2.0, 1.0)}, "0 < low < high"),
        ({"bounds": 3.0}, "two numbers"),
    ],
)
def test_what_is_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SoftLabelSpec(**options)


def test_margins_are_filled_in_so_that_equal_settings_are_equal() -> None:
    assert SoftLabelSpec("ISATS") == SoftLabelSpec("ISATS", margin=margin_of("order", None), bounds=(0.5, 8))
    assert len({SoftLabelSpec("TS", 2.0), SoftLabelSpec("ISATS", 2.0).plain}) == 1


def test_the_centring_reaches_every_table_that_compares_methods() -> None:
    f, y = rows()
    bank = bank_from_arrays({"a": f}, y, classes=list("uvwxyz"))
    settings = IsatsConfig(tau_other=2.0, center="none")
    assert settings.specs() == compared_specs(4.0, 2.0, center="none")
    example = str(bank.rows.ids[3])
    table = cm.dark_knowledge(bank, example, tau_other=2.0, center="none", split=None)
    assert table.equals(example_soft_labels(bank, settings.specs(), example, split=None))
    ats = table.query("method == 'ATS'")["probability"]
    np.testing.assert_allclose(ats, temperature.ats(f[3:4], y[3:4], 4.0, 2.0, center="none")[0], rtol=1e-12)

    restored = cm.restored_variance(bank, tau_other=2.0, center="none", split=None, progress=False)
    restored = restored.query("method == 'ATS' and rows == 'all'").set_index("quantity")["value"]
    reader = Reader(bank, split=None, n=None)
    softening = Softening("ATS", tau_other=2.0, center="none")
    shown = reader.soft_labels(View(("logits/a",), softening, "u", example)).query("method == 'ATS' and rows == 'all'")
    for quantity in ("target_prob", "derived_variance", "flipped"):
        value = shown[shown["quantity"] == quantity]["value"].item()
        assert value == pytest.approx(restored[quantity], rel=1e-12), quantity


def test_settings_need_no_torch() -> None:
    code = (
        "import sys; from capmismatch._numerics.soft_label_spec import SoftLabelSpec; SoftLabelSpec();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
