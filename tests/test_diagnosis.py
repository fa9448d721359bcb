"""One call to the first answer: from logits, networks and loaders; what it holds, shows and writes; the examples."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import capmismatch as cm
from capmismatch.errors import InputError
from capmismatch.report import gallery
from capmismatch.selection.handover import loss_line
from capmismatch.training.loop import evaluate

CLASSES, ROWS = 5, 240
RNG = np.random.default_rng(0)
LABELS = np.arange(ROWS) % CLASSES
INPUTS = (RNG.normal(size=(ROWS, 6)) + 2 * np.eye(CLASSES, 6)[LABELS]).astype(np.float32)


class Net(nn.Module):
    """A linear network of the class means, with more or less noise in its weights."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)
        self.dropout = nn.Dropout(0.5)  # only in training mode
        with torch.no_grad():
            self.linear.weight.copy_(scale * torch.eye(CLASSES, 6))
            self.linear.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.linear(x))


def batch(items: int) -> tuple[torch.Tensor, ...]:
    """Inputs, labels and row numbers, as far as asked for."""
    return (torch.from_numpy(INPUTS[:8]), torch.from_numpy(LABELS[:8]), torch.arange(8))[:items]


def networks() -> dict[str, nn.Module]:
    return {f"net{number}": Net(0.5 * number).train() for number in (1, 2, 3)}


def logits() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1)
    return {f"net{n}": (0.5 * n * INPUTS[:, :CLASSES] + 0.3 * noise.normal(size=(ROWS, CLASSES))) for n in (1, 2, 3)}


def students(**replaced: Any) -> pd.DataFrame:
    noise = np.random.default_rng(2)
    rows = [
        (f"net{n}", s, 60 + 3 * n + noise.normal(), 59 + 3 * n + noise.normal()) for n in (1, 2, 3) for s in range(3)
    ]
    table = pd.DataFrame(rows, columns=["teacher", "seed", "val_acc", "test_acc"])
    return table.assign(method="KD", tau=2.0, **replaced)


def mixed() -> pd.DataFrame:
    table = cm.load_results(students(), percent=True)
    return table.assign(accuracy=table["accuracy"].where(table["seed"].gt(0), 100 * table["accuracy"]))


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    return cm.probe(cm.bank_from_arrays(logits(), LABELS), progress=False), cm.load_results(students(), percent=True)


def as_text(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.assign(**{column: table[column].astype(str)})


# --- what goes in -----------------------------------------------------------------------------------------------------


def test_logits_and_students_in_one_call() -> None:
    diagnosis = cm.diagnose(logits(), LABELS, results=students(), params={"net1": 10, "net3": 90}, progress=False)
    choice = diagnosis.choice
    assert choice is not None and (choice.teacher, choice.label) == ("net3", "KD tau=2")
    assert diagnosis.bank["net3"].params == 90 and diagnosis.bank["net2"].params is None
    assert diagnosis.results is not None and diagnosis.results["accuracy"].max() < 1  # percentages were seen as such
    expected = cm.pick(diagnosis.probes, diagnosis.results)
    pd.testing.assert_frame_equal(choice.table, expected.table)
    pd.testing.assert_frame_equal(diagnosis.probes, cm.probe(diagnosis.bank, progress=False))
    assert diagnosis.ranks is not None and diagnosis.links is not None
    assert set(diagnosis.restored["method"]) == {"TS", "ATS", "ISATS"}
    assert "CM003" in diagnosis.findings == sorted(diagnosis.findings)


def test_networks_run_as_they_are_and_stay_so() -> None:
    nets = networks()
    loader = DataLoader(TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(LABELS)), batch_size=50)
    by_loader, by_arrays = (
        cm.diagnose(nets, loader, progress=False),
        cm.diagnose(nets, (INPUTS, LABELS), progress=False),
    )
    splits = {"val": (INPUTS[:120], LABELS[:120]), "test": (INPUTS[120:], LABELS[120:])}
    by_split = cm.diagnose(nets, splits, progress=False)
    for name, net in nets.items():
        with torch.no_grad():
            wanted = net.linear(torch.from_numpy(INPUTS)).numpy()  # without dropout
        for diagnosis in (by_loader, by_arrays, by_split):
            np.testing.assert_allclose(diagnosis.bank.logits(name), wanted, atol=1e-6)
        assert net.training and net.dropout.training and all(p.requires_grad for p in net.parameters())
        assert by_loader.bank[name].params == 6 * CLASSES + CLASSES
    assert by_split.bank.rows.split_counts == {"val": 120, "test": 120}
    assert list(by_split.bank.rows.ids[[0, -1]]) == ["val/0", "test/119"]
    assert sorted(set(by_split.probes["split"])) == ["test", "val"]


class InPlace(Net):
    """A network that changes what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.sub_(1.0).div_(2.0))


def test_each_network_gets_inputs_of_its_own() -> None:
    nets = {f"net{number}": InPlace(0.5 * number) for number in (1, 2, 3)}
    inputs, labels = torch.from_numpy(INPUTS.copy()), torch.from_numpy(LABELS)
    loader = [(inputs[:100], labels[:100]), (inputs[100:], labels[100:])]
    named = ({"x": x, "labels": y} for x, y in loader)
    bare = cm.load_family(nets, prepare=torch.as_tensor)
    given = [(nets, (inputs, labels)), (nets, iter(loader)), (nets, named), (bare, (inputs, labels))]
    for networks_given, data in given:
        diagnosis = cm.diagnose(networks_given, data, progress=False)
        for name, net in nets.items():
            with torch.no_grad():
                wanted = net.linear((torch.from_numpy(INPUTS) - 1) / 2).numpy()
            np.testing.assert_allclose(diagnosis.bank.logits(name), wanted, atol=1e-6)
    assert np.array_equal(inputs.numpy(), INPUTS)
    nets["net1"].eval()
    evaluate(nets["net1"], inputs, lambda x: x)
    assert np.array_equal(inputs.numpy(), INPUTS)


class Named(nn.Module):
    """A network of named inputs that gives an object, as transformers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Net(1.0)

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.inner(x * weight)})


def test_batches_of_named_inputs() -> None:
    batches = [{"x": torch.from_numpy(INPUTS), "weight": torch.ones(1), "labels": torch.from_numpy(LABELS)}]
    bank = cm.diagnose({"named": Named().eval()}, iter(batches), progress=False).bank
    np.testing.assert_allclose(bank.logits("named"), INPUTS[:, :CLASSES], atol=1e-6)


def test_images_without_mean_and_std_are_told_of() -> None:
    images = (40 * np.abs(INPUTS[:, :4])).clip(0, 255).astype(np.uint8).reshape(ROWS, 2, 2, 1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    with pytest.warns(UserWarning, match="CM036.*modules/net"):
        assert "CM036" in cm.diagnose({"net": net}, (images, LABELS), progress=False).findings
    family = cm.load_family({"net": net}, mean=[0.5], std=[0.2])
    assert "CM036" not in cm.diagnose(family, (images, LABELS), progress=False).findings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cm.diagnose(networks()), "expected data with networks: a loader"),
        (lambda: cm.diagnose(logits()), "expected labels with logits"),
        (lambda: cm.diagnose(cm.bank_from_arrays(logits(), LABELS), LABELS), "no labels with a bank"),
        (lambda: cm.diagnose(7), "expected a bank, its folder, .* got int"),
        (lambda: cm.diagnose({**networks(), **{"a": logits()["net1"]}}, (INPUTS, LABELS)), "Module as teacher 'a'"),
        (lambda: cm.diagnose(networks(), iter([])), "got none: is the loader used up"),
        (lambda: cm.diagnose(networks(), iter([torch.zeros(3)])), "a pair of inputs and labels as batch 0, got Tensor"),
        (lambda: cm.diagnose(networks(), (INPUTS[:, :4], LABELS)), "net1 cannot take the inputs"),
        (lambda: cm.diagnose(networks(), iter([batch(3)])), r"2 arguments: TypeError.* give \(inputs, labels\)"),
        (
            lambda: cm.diagnose(networks(), iter([{"image": batch(1)[0], "label": LABELS[:8]}])),
            r"the arguments \['image'\]: TypeError.* pairs \(inputs, labels\)",
        ),
        (lambda: cm.diagnose(networks(), [INPUTS, LABELS]), r"as a tuple, \(X, y\), got a list of these two"),
        (lambda: cm.diagnose(logits(), LABELS, params=[1, 2, 3]), "expected params by teacher, .* got list"),
        (lambda: cm.diagnose(logits(), LABELS, results=mixed()), r"a share in \[0, 1\] \(or percentages throughout"),
        (lambda: cm.pick(*tables(), n_boot=1), "n_boot a whole number >= 20, got 1"),
        (lambda: cm.teacher_differences(as_text(tables()[1], "accuracy")), "numbers as accuracy in the results table"),
        (lambda: cm.teacher_differences("x.csv"), "expected the results table, a DataFrame, got str"),
        (lambda: cm.pick(cm.bank_from_arrays(logits(), LABELS)), r"got LogitBank: cm.pick\(cm.probe\(bank\)"),
        (lambda: cm.load_family({"a": nn.ReLU()}, prepare=len, mean=[1.0]), "expected prepare, or mean and std"),
    ],
)
def test_what_does_not_fit_says_what_would(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_no_usable_teacher_is_an_answer() -> None:
    guesses = {f"net{n}": np.random.default_rng(n).normal(size=(ROWS, CLASSES)) for n in (1, 2)}
    diagnosis = cm.diagnose(guesses, LABELS, progress=False)
    assert diagnosis.choice is None and "none of the 2 teachers" in diagnosis.answer
    assert " ".join(repr(diagnosis).split()).count("not shown to be better than chance (") == 2  # each reason once
    assert "CM020" in diagnosis.findings


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_it_is_shown_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "FIGURES", {"pick_chart": gallery.FIGURES["pick_chart"]})
    sizes = {"net1": 10, "net2": 30, "net3": 90}
    diagnosis = cm.diagnose(logits(), LABELS, results=students(), params=sizes, progress=False)
    text, page = repr(diagnosis), diagnosis._repr_html_()
    assert "logits/net3" in text.splitlines()[0] and "CM003" in text
    assert page.count("data:image/png;base64,") == 2
    assert list(diagnosis.pictures) == ["capacity_curve_student", "pick_chart"]
    report = diagnosis.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "net3" in report and "cm.diagnose(bank, results=results)" in report and "study.toml" not in report
    monkeypatch.setattr(gallery, "FIGURES", {})
    drawn = diagnosis.figures(tmp_path / "figures", "icml")
    assert [path.stem for path in drawn] == ["capacity_curve_student"]
    assert all(path.with_suffix(ending).exists() for path in drawn for ending in (".pdf", ".csv"))
    with pytest.raises(InputError, match=r"ends in \.html"):
        diagnosis.report(tmp_path / "report.pdf")


def test_a_choice_hands_over(tmp_path: Path) -> None:
    bank = cm.bank_from_arrays(logits(), LABELS)
    results = cm.load_results(
        students().drop(columns=["method", "tau"]), method=cm.Method("ATS", tau_other=2.0), percent=True
    )
    choice = cm.pick(cm.probe(bank, progress=False), results)
    assert choice.command == "" and f"# {choice.no_command}" in repr(choice)  # no file is known to make them of
    with pytest.warns(UserWarning, match="soft labels of val rows, as the bank has no training rows"):
        soft = choice.soften(bank)
    assert (soft.teacher, soft.method) == ("logits/net3", cm.Method("ATS", tau_other=2.0))
    names = {"cm": cm, "labels": torch.from_numpy(LABELS), "soft_labels": soft.of(range(ROWS))}
    names["student_logits"] = torch.zeros(ROWS, CLASSES)
    exec(choice.loss, names)
    assert float(names["loss"]) > 0  # type: ignore[arg-type]
    assert choice.to_dict()["table"][0]["teacher"] == "net3"


def test_what_a_diagnosis_prints_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    split = np.array(["train", "val"])[np.arange(ROWS) % 2]
    for rows, own in ((None, False), (split, True)):
        bank = cm.bank_from_arrays(logits(), LABELS, split=rows, family="my nets")
        diagnosis = cm.diagnose(bank, results=students(), progress=False)
        name = diagnosis.choice.teacher  # type: ignore[union-attr]
        names = {"cm": cm, "diagnosis": diagnosis, "logits": logits()[name], "labels": LABELS}
        lines = diagnosis._next[2:-1]
        assert all(line in repr(diagnosis) for line in lines)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec("\n".join(lines), names)
        soft = cm.load_soft_labels("soft.safetensors")
        assert (soft.teacher, len(soft.ids)) == (f"my nets/{name}", ROWS // 2 if own else ROWS)


@pytest.mark.parametrize("options", [{}, {"tau": 3.0, "tau_student": 1.0, "weight": 0.5}])
@pytest.mark.parametrize("name", ["KD", "DKD", "FLAT", "SHUFFLE", "GRAFT", "ISATS", "MyLoss"])
def test_the_printed_loss_runs_or_says_that_it_is_none(name: str, options: dict[str, float]) -> None:
    line = loss_line({"name": name, **options})
    if name in ("GRAFT", "MyLoss") or (name == "DKD" and options):
        assert line.startswith(f'# the loss of "{name}" is your own code')
        return
    if not options and name != "DKD":  # its temperature is not known
        assert line.startswith("# the results do not say the temperature") and f'cm.Method("{name}", tau=' in line
        return
    teacher, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    names: dict[str, Any] = {"cm": cm, "student_logits": torch.zeros(6, 4), "labels": labels}
    exec(line, names | {"teacher_logits": teacher, "soft_labels": teacher.softmax(1)}, names)
    assert float(names["loss"]) > 0


@pytest.mark.parametrize("name", ["cifar10", "letters", "cifar10-seeds"])
def test_examples_are_whole(name: str) -> None:
    bank = cm.load_example(name)
    row = cm.list_examples().set_index("name").loc[name]
    assert (len(bank.teachers), len(bank.rows.labels)) == (row["teachers"], row["examples"])
    bank.verify()
    if row["students"]:
        assert set(bank.results["teacher"]) - {""} == {record.teacher for record in bank.teachers}
    else:
        with pytest.raises(InputError, match="has no students"):
            _ = bank.results


def test_results_of_a_file_as_of_a_frame(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    students().to_csv(file, index=False, quoting=csv.QUOTE_MINIMAL)
    by_file, by_frame = cm.load_results(file, percent=None), cm.load_results(students(), percent=None)
    pd.testing.assert_frame_equal(by_file, by_frame)
    assert len(by_frame) == 18 and set(by_frame["split"]) == {"val", "test"}
    with pytest.raises(InputError, match="has a column 'method': leave the argument"):
        cm.load_results(students(), method="KD", percent=True)
    with pytest.raises(InputError, match=r'If all its students were taught alike, say how: method="KD"'):
        cm.load_results(students().drop(columns="method"), percent=True)
