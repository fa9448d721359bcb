"""The engine "batched": what its runs leave is what lone runs leave, whatever the setting, and however they end."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from processes import ended, fork
from studies import GRID_STUDY, MakeStudy, letters_study
from torch import nn

from capmismatch.distillation import batched, student_trainer
from capmismatch.distillation.batched import bundles
from capmismatch.distillation.methods import METHODS as NAMED
from capmismatch.distillation.methods import Method
from capmismatch.distillation.results import OUTCOMES
from capmismatch.distillation.runs import plan, run_folder
from capmismatch.distillation.stacking import GroupLoss, reason_against, reason_against_method
from capmismatch.training import checkpoint
from capmismatch.training.epoch_log import read_log
from capmismatch.training.loop import Recipe

METHODS = (
    "CE",
    "KD\ntau = 2",
    "KD\ntau_student = 4",
    "ATS",
    "ISATS\noptions = { stop_after = 0.5 }",
    "KD\noptions = { rank_weight = 0.5 }",
    "DKD",
    "DIST",
    "NormKD",
    "StdKD",
    "CorrKD\noptions = { stop_after = 0.5 }",
)
EVERY_METHOD = letters_study(
    rows=(260, 300, 200),
    widths=(4, 8),
    seeds=2,
    recipe="epochs = 2, batch_size = 50",
    views='kind = "noise", count = 2, sigma = 1.0',
    methods=METHODS,
)
IDENTITY = ["teacher", "teacher_seed", "student", "label", "seed", "split"]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(IDENTITY).reset_index(drop=True)


def test_every_setting_gives_what_lone_runs_give(tmp_path: Path, make_study: MakeStudy) -> None:
    alone = in_order(make_study(tmp_path / "alone", EVERY_METHOD, engine="processes").distill())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = make_study(tmp_path / "stacked", EVERY_METHOD, engine="batched")
        stacked = in_order(study.distill())
    measured = [f"{where}{name}" for name in OUTCOMES for where in ("", "train_")]
    pd.testing.assert_frame_equal(alone.drop(columns=measured), stacked.drop(columns=measured))
    for column in measured:
        np.testing.assert_allclose(stacked[column], alone[column], atol=1e-3 if "kl" in column else 0.01)
    for run in plan(study, study.bank):  # the same hashes, files and logs
        mine = run_folder(study, run)
        other = tmp_path / "alone" / "runs" / mine.name
        assert {file.name for file in mine.iterdir()} == {file.name for file in other.iterdir()}
        assert (mine / "config.json").read_bytes() == (other / "config.json").read_bytes()
        losses = [[line["loss"] for line in read_log(folder / "log.jsonl")] for folder in (mine, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert json.loads((mine / "result.json").read_text())["engine"] == "batched"


def test_a_second_call_does_nothing_and_an_engine_is_no_reason_to_train_anew(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_study(tmp_path, engine="batched").distill()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run must not be run again")

    monkeypatch.setattr(student_trainer, "fit", refuse)
    monkeypatch.setattr(batched, "fit_stack", refuse)
    for engine in ("batched", "processes", None):
        study = make_study(tmp_path, engine=engine)
        pd.testing.assert_frame_equal(study.distill(), first)
        assert study.load("results").equals(first)


def test_the_engine_of_the_study_file(tmp_path: Path, make_study: MakeStudy) -> None:
    text = GRID_STUDY.replace("[distill]", '[distill]\nengine = "batched"')
    assert make_study(tmp_path, text).engine == "batched"
    assert make_study(tmp_path, text, engine="processes").engine == "processes"
    assert make_study(tmp_path).engine is None


def test_it_is_chosen_by_itself_for_many_perceptrons(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path)
    runs = plan(study, study.bank)
    assert all(len(bundle) == 1 for bundle in bundles(study, runs, 1, asked=False))  # 15 of a student are few
    monkeypatch.setattr(batched, "FEWEST", 15)
    assert sorted(map(len, bundles(study, runs, 1, asked=False))) == [30]
    parts = bundles(study, runs, 2, asked=False)
    assert sum(parts, ()) and {run.name for part in parts for run in part} == {run.name for run in runs}
    assert max(map(len, parts)) < 30


def test_soft_labels_of_a_bundle_fit_into_memory(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path)
    array = 4 * 2 * 260 * 26
    monkeypatch.setattr(batched, "SOFT_BYTES", 3 * array)
    for bundle in bundles(study, plan(study, study.bank), 1, asked=True):
        assert len({(run.teacher.key, run.method.label) for run in bundle if run.teacher}) <= 3


def test_what_cannot_be_stacked_is_trained_alone_with_a_word(tmp_path: Path, make_study: MakeStudy) -> None:
    text = letters_study(
        rows=(260, 300, 200),
        widths=(4, 8),
        recipe="epochs = 2, batch_size = 50",
        views='kind = "noise", count = 2, sigma = 1.0',
        methods=("KD", "CTKD", "KD\noptions = { gate = 0.0 }"),
    )
    study = make_study(tmp_path, text, engine="batched")
    with pytest.warns(UserWarning) as caught:
        table = study.distill()
    told = [str(w.message) for w in caught]
    assert len(told) == 2
    assert any("CTKD" in text for text in told)
    assert any("gate" in text for text in told)
    for run in plan(study, study.bank):
        result = json.loads((run_folder(study, run) / "result.json").read_text())
        assert result.get("engine") == ("batched" if run.method.label == "KD tau=4 student tau=1" else None)
    assert len(table) == 12 * 2


class Doubled(nn.Module):
    """Computes something else under vmap: there, a batch has one dimension less than the stack's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * (2.0 if torch._C._functorch.maybe_current_level() else 1.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)),
        lambda: nn.Sequential(nn.ReLU()),
        Doubled,
    ],
)
def test_networks_that_cannot_be_stacked(build: Any) -> None:
    x = torch.randn(4, 4)
    assert reason_against([build(), build()], x, Recipe())


def test_networks_and_settings_that_can_be_stacked() -> None:
    x = torch.randn(4, 1, 4, 4)
    networks = [
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)) for _ in "ab"
    ]
    assert reason_against(networks, x, Recipe()) == ""
    assert reason_against(networks, x, Recipe(autocast="bfloat16"))
    for name in set(NAMED) - {"CTKD", "GRAFT", "MatchKD", "ClassKD"}:
        assert reason_against_method(Method(name), 10, 3) == ""
    soft = Method("GRAFT", other="a", tau_student=2.0), Method("CalKD", tau_student=2.0)
    assert [reason_against_method(method, 10, 3) for method in soft] == ["", ""]


def test_the_losses_of_a_stack_are_the_criterions_with_their_gradients() -> None:
    draws = torch.Generator().manual_seed(0)
    labels, views, classes, epochs = torch.arange(12) % 4, 2, 4, 6
    teacher = torch.randn(views, 12, classes, generator=draws)
    methods = [
        Method("CE"),
        Method("KD", tau=2.0, weight=0.3),
        Method("KD", weight=1.0),
        Method("ISATS", options={"stop_after": 0.5}),
        Method("KD", tau_student=3.0, weight=0.7),
        Method("DKD"),
        Method("NormKD", options={"stop_after": 0.5}),
        *(Method(name) for name in ("DTKD", "WTTM", "NKD", "PLD", "ABKD", "WKD", "MLKD")),
    ]
    methods.sort(key=lambda method: GroupLoss.sort_key(method))
    given = [
        m.soft_labels(teacher.flatten(0, 1), labels.repeat(views)).float().unflatten(0, (views, 12))
        if m.has_teacher
        else None
        for m in methods
    ]
    loss = GroupLoss(methods, given, labels, classes, epochs)
    rows, seen = (
        torch.randint(12, (len(methods), 5), generator=draws),
        torch.randint(2, (len(methods), 5), generator=draws),
    )
    for epoch in (0, 3):  # half of the epochs: stop_after
        logits = torch.randn(len(methods), 5, classes, generator=draws).requires_grad_()
        loss.set_epoch(epoch)
        losses = loss(logits, rows, seen)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        for index, method in enumerate(methods):
            alone = logits[index].detach().requires_grad_()
            y = labels[rows[index]]
            if method.has_teacher:
                criterion = method.criterion(None, epochs)
                criterion.set_epoch(epoch)
                value = criterion(alone, y, given[index][seen[index], rows[index]])  # type: ignore[index]
            else:
                value = nn.functional.cross_entropy(alone, y)
            (wanted,) = torch.autograd.grad(value, alone)
            assert losses[index].item() == pytest.approx(value.item(), rel=1e-5)
            torch.testing.assert_close(gradient[index], wanted, atol=1e-6, rtol=1e-5)


def test_a_failing_run_leaves_the_others_of_its_stack(
    tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = student_trainer.Trainer.build

    def build(self: Any, architecture: str, seed: int) -> nn.Module:
        network = real(self, architecture, seed)
        if seed == 2 and next(network.parameters()).device.type == "cpu":
            with torch.no_grad():
                next(network.parameters()).fill_(float("nan"))
        return network

    monkeypatch.setattr(student_trainer.Trainer, "build", build)
    study = make_study(tmp_path, engine="batched")
    with pytest.warns(UserWarning, match="10 of 30 runs failed"):
        table = study.distill()
    assert set(table["seed"]) == {0, 1}
    states = study.status()
    assert (states["failed"].sum(), states["done"].sum()) == (10, 20)


def test_killed_in_the_middle_its_runs_go_on(tmp_path: Path, make_study: MakeStudy) -> None:
    text = letters_study(
        rows=(260, 300, 200),
        widths=(4, 8),
        recipe="epochs = 30, batch_size = 130",
        views='kind = "noise", count = 2, sigma = 1.0',
        methods=("CE", "KD"),
    )
    study = make_study(tmp_path / "killed", text, engine="batched")

    def run_and_save_often() -> None:
        checkpoint.Checkpoint.due = lambda self: True  # in the fork alone
        make_study(tmp_path / "killed", text, engine="batched").distill()

    child = fork(run_and_save_often)
    folders = [run_folder(study, run) for run in plan(study, study.bank)]
    deadline = time.monotonic() + 60
    while len(read_log(folders[-1] / "log.jsonl")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    states = study.status()
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    assert states["running"].sum() == len(folders) == 6
    assert all(len(read_log(folder / "log.jsonl")) >= 2 for folder in folders)
    assert all((folder / "checkpoint.safetensors").exists() for folder in folders)
    went_on = in_order(study.distill())
    whole = in_order(make_study(tmp_path / "whole", text, engine="batched").distill())
    np.testing.assert_allclose(went_on["accuracy"], whole["accuracy"], atol=0.01)
    np.testing.assert_allclose(went_on["kl"].dropna(), whole["kl"].dropna(), atol=1e-3)
    assert not list(tmp_path.glob("killed/runs/*/checkpoint.safetensors"))
