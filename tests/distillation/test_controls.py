"""Controls: the target's probability stays, and of the wrong classes what each says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from studies import MakeStudy, letters_study

from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.errors import InputError

DRAWS = torch.Generator().manual_seed(0)
LOGITS, OTHER = (3 * torch.randn(40, 6, generator=DRAWS, dtype=torch.float64) for _ in range(2))
LABELS = torch.arange(40) % 6
PLAIN = torch.softmax(LOGITS / 2, 1)


def wrong(values: torch.Tensor) -> torch.Tensor:
    """The wrong classes' values, (N, C - 1)."""
    return torch.stack([torch.cat([row[:y], row[y + 1 :]]) for row, y in zip(values, LABELS.tolist(), strict=True)])


@pytest.mark.parametrize("name", ["GRAFT", "SHUFFLE", "FLAT"])
def test_confidence_stays_and_rows_are_probabilities(name: str) -> None:
    method = Method(name, tau=2.0, other="large" if name == "GRAFT" else None)
    made = method.soft_labels(LOGITS, LABELS, other=OTHER)
    torch.testing.assert_close(made.sum(1), torch.ones(40, dtype=made.dtype))
    torch.testing.assert_close(made.gather(1, LABELS[:, None]), PLAIN.gather(1, LABELS[:, None]).to(made.dtype))
    assert (made >= 0).all()


def test_what_becomes_of_the_wrong_classes() -> None:
    flat = wrong(Method("FLAT", tau=2.0).soft_labels(LOGITS, LABELS))
    torch.testing.assert_close(flat, flat.mean(1, keepdim=True).expand_as(flat))
    shuffled = wrong(Method("SHUFFLE", tau=2.0).soft_labels(LOGITS, LABELS))
    torch.testing.assert_close(shuffled.sort(1).values, wrong(PLAIN).sort(1).values)  # the same variance
    assert (shuffled != wrong(PLAIN)).any(1).float().mean() > 0.9
    grafted = wrong(Method("GRAFT", tau=2.0, other="large").soft_labels(LOGITS, LABELS, other=OTHER))
    expected = torch.softmax(wrong(OTHER) / 2, 1)
    torch.testing.assert_close(grafted / grafted.sum(1, keepdim=True), expected)


def test_grafted_upon_itself_a_teacher_is_itself() -> None:
    own = Method("GRAFT", tau=2.0, other="itself").soft_labels(LOGITS, LABELS, other=LOGITS)
    torch.testing.assert_close(own, PLAIN)


def test_an_example_has_one_permutation_in_all_views() -> None:
    method = Method("SHUFFLE", tau=2.0)
    twice = method.soft_labels(LOGITS.repeat(2, 1), LABELS.repeat(2), rows=torch.arange(40).repeat(2))
    torch.testing.assert_close(twice[:40], twice[40:])
    torch.testing.assert_close(twice[:40], method.soft_labels(LOGITS, LABELS))
    torch.testing.assert_close(method.soft_labels(LOGITS[:7], LABELS[:7]), twice[:7])  # however many rows follow


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("GRAFT", {}),
        ("FLAT", {"other": "large"}),
        ("KD", {"other": "large"}),
        ("FLAT", {"options": {"assistants": ["mlp8"]}}),
        ("SHUFFLE", {"options": {"rank_weight": 1.0}}),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Method(name, **fields)  # type: ignore[arg-type]


def test_a_graft_needs_its_second_teacher() -> None:
    with pytest.raises(InputError):
        Method("GRAFT", other="large").soft_labels(LOGITS, LABELS)


@pytest.mark.parametrize("engine", ["processes", "batched"])
def test_controls_in_a_grid(tmp_path: Path, make_study: MakeStudy, engine: str) -> None:
    text = letters_study(
        rows=(260, 300, 200),
        widths=(4, 8),
        recipe="epochs = 2, batch_size = 50",
        views='kind = "noise", count = 2, sigma = 1.0',
        methods=("KD", "FLAT", "SHUFFLE", 'GRAFT\nother = "mlp8"', 'GRAFT\nother = "mlp/mlp4"'),
    )
    study = make_study(tmp_path, text, engine=engine)
    table = study.distill()
    assert set(table["method"]) == {"KD", "FLAT", "SHUFFLE", "GRAFT"}
    assert {"GRAFT tau=4 wrong of mlp8", "GRAFT tau=4 wrong of mlp/mlp4"} <= set(table["label"])

    def divergences(label: str, teacher: str) -> list[float]:
        rows = table[table["label"].eq(label) & table["teacher"].eq(teacher)]
        return rows.sort_values(["seed", "split"])["kl"].tolist()

    for teacher, is_itself in (("mlp8", True), ("mlp4", False)):
        own = divergences("GRAFT tau=4 wrong of mlp8", teacher)
        assert (own == pytest.approx(divergences("KD tau=4 student tau=1", teacher), abs=1e-4)) is is_itself
    runs = plan(study, study.bank)
    assert len({run_folder(study, run).name for run in runs}) == len(runs) == 20


def test_a_graft_upon_a_teacher_that_is_not_there(tmp_path: Path, make_study: MakeStudy) -> None:
    text = letters_study(
        rows=(260, 300, 200),
        widths=(4, 8),
        views='kind = "noise", count = 2, sigma = 1.0',
        methods=('GRAFT\nother = "mlp99"',),
    )
    study = make_study(tmp_path, text)
    with pytest.raises(InputError, match=r"'mlp99'.*mlp/mlp4"):
        study.distill()
