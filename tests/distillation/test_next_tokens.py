"""What is measured of students of a text, against SciPy; and a study of a text from teachers to pick."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, special
from torch import nn

from capmismatch import architectures
from capmismatch.data.bank import LogitBank
from capmismatch.data.datasets import Dataset, load_dataset
from capmismatch.distillation import student_trainer
from capmismatch.distillation.methods import Method
from capmismatch.distillation.next_tokens import SCORES, inverse_temperature, mean_nll, next_token_scores
from capmismatch.distillation.student_trainer import Trainer
from capmismatch.errors import InputError
from capmismatch.sources.families import load_family
from capmismatch.sources.in_memory import collect_in_memory
from capmismatch.study.inspection import inspect_study
from capmismatch.study.study import Study

WORDS = ("light", "darkness", "waters", "firmament", "earth", "heaven", "day", "night")


def written(folder: Path, lines: int = 400) -> Path:
    """A text whose words follow each other by a rule that a model of pairs can learn in part."""
    random, word, words = np.random.default_rng(0), 0, []
    for _ in range(lines * 6):
        word = (3 * word + 1 + int(random.integers(0, 3))) % len(WORDS)
        words.append(WORDS[word])
    file = folder / "words.txt"
    file.write_text("\n".join(" ".join(words[6 * n : 6 * n + 6]) for n in range(lines)) + "\n")
    return file


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    file = written(tmp_path_factory.mktemp("text"))
    return load_dataset(f"text:{file}", tokenizer="bpe:40", window=16, split={"train": 32, "val": 60, "test": 70})


@pytest.fixture
def pairs(text: Dataset) -> nn.Module:
    """The logits of each token after each other token, far too sharp."""
    counts = np.ones((40, 40))
    np.add.at(counts, (text.inputs.windows[:, :-1], text.inputs.windows[:, 1:]), 1)
    return nn.Embedding.from_pretrained(torch.from_numpy(4 * np.log(counts)).float())


def test_scores_are_those_of_scipy(text: Dataset, pairs: nn.Module) -> None:
    batch = text.inputs[:]
    logits = pairs.weight.double().numpy()[batch.windows.reshape(-1)[batch.flat]]
    teacher = np.random.default_rng(1).normal(0, 2, logits.shape)
    log_q, log_p = special.log_softmax(logits, 1), special.log_softmax(teacher, 1)
    is_val = text.rows.split == "val"

    def nll_at(beta: float, rows: np.ndarray) -> float:
        return -special.log_softmax(beta * logits[rows], 1)[np.arange(rows.sum()), text.labels[rows]].mean()

    best = optimize.minimize_scalar(
        nll_at, bounds=(0.01, 5), method="bounded", args=(is_val,), options={"xatol": 1e-7}
    ).x
    scores = next_token_scores(pairs, text, lambda rows: teacher[rows])
    assert set(scores) == {"train", "val", "test"}
    for name, found in scores.items():
        rows = text.rows.split == name
        nll = -log_q[rows][np.arange(rows.sum()), text.labels[rows]]
        size = text.inputs.size[rows].sum()
        expected = {
            "accuracy": (logits[rows].argmax(1) == text.labels[rows]).mean(),
            "n": rows.sum(),
            "sequences": len(set(text.rows.sequences[rows])),
            "nll": nll.mean(),
            "bits_per_byte": nll.sum() / math.log(2) / size,
            "temperature": 1 / best,
            "nll_calibrated": nll_at(best, rows),
            "kl": special.rel_entr(np.exp(log_p[rows]), np.exp(log_q[rows])).sum(1).mean(),
        }
        assert found == pytest.approx(expected, rel=1e-4)
        assert mean_nll(pairs, text, np.flatnonzero(rows)) == pytest.approx(nll.mean(), rel=1e-5)
    assert "kl" not in next_token_scores(pairs, text)["val"]


@pytest.mark.parametrize("scale", [0.02, 1.0, 6.0])
def test_one_temperature_calibrates_whatever_the_scale(text: Dataset, pairs: nn.Module, scale: float) -> None:
    scaled = nn.Embedding.from_pretrained(scale * pairs.weight)
    assert inverse_temperature(scaled, text) * scale == pytest.approx(inverse_temperature(pairs, text), rel=1e-3)


def test_without_validation_rows_nothing_is_calibrated(text: Dataset, pairs: nn.Module) -> None:
    scores = next_token_scores(pairs, text.part("test"))["test"]
    assert not {"nll_calibrated", "temperature"} & set(scores) and scores["nll"] > 0


STUDY = """
name = "words"
[data]
source = "text:words.txt"
split = { train = 40, val = 60, test = 60 }
text = { tokenizer = "bpe:40", window = 16 }
[[family]]
source = "lm:gru"
widths = [4, 8]
epochs = 3
[probe]
taus = [1, 2]
[correlate]
n_boot = 20
[distill]
students = ["gru4"]
seeds = 1
recipe = { epochs = 2, batch_size = 8, lr = 3e-2, clip = 1.0 }
"""
METHODS = {
    "CE": "",
    "KD": "tau = 1\nweight = 1.0",
    "RKD": "",
    "JS": "",
    "SKD": "",
    "SRKD": "",
    "TopK": 'options = { k = 4, tail = "renormalise" }',
    "ATS": "tau = 1\ntau_other = 0.75",
    "ISATS": 'tau = 1\nwrong = "plain"\noptions = { rank_weight = 0.1 }',
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of a text with every method that language models are distilled by, its students trained."""
    folder = tmp_path_factory.mktemp("study")
    written(folder)
    settings = "".join(f'[[distill.methods]]\nname = "{name}"\n{lines}\n' for name, lines in METHODS.items())
    (folder / "study.toml").write_text(STUDY + settings)
    study = Study(folder / "study.toml", progress=False)
    study.collect()
    study.distill()
    return study


def test_a_study_of_a_text(study: Study) -> None:
    results = study.load("results")
    assert len(results) == 2 * (1 + 2 * (len(METHODS) - 1))
    assert set(SCORES) <= set(results) and results["nll"].between(0.5, math.log(40) + 0.5).all()
    taught = results[results["method"] != "CE"]
    assert taught["kl"].between(0, 5).all() and results.loc[results["method"] == "CE", "kl"].isna().all()
    assert (results["nll_calibrated"] <= results["nll"] + 1e-3)[results["split"] == "val"].all()
    assert (results["n"] <= results["sequences"] * 14).all()  # windows of 16, but for two positions each
    bank = LogitBank(study.folder / "bank")
    assert bank.rows.sequences is not None and study.eval_data.rows.fingerprint == bank.rows.fingerprint


def test_logits_of_a_bank_are_those_of_the_network(study: Study) -> None:
    """Rows in the order of the data set, batches cut within windows or not."""
    bank, data = study.bank, study.eval_data
    for teacher in study.family:
        network = teacher.module()
        with torch.inference_mode():
            logits = network(torch.from_numpy(data.inputs.windows).long()).numpy()
        expected = logits[data.inputs.window, data.inputs.position]
        np.testing.assert_allclose(bank.logits(teacher.key), expected, atol=2e-5)
        assert bank[teacher.key].macs == 6 * network.gru.hidden_size**2 + 40 * network.gru.hidden_size


def test_networks_in_memory_give_the_same(study: Study) -> None:
    family, data = study.family, study.eval_data
    bank = collect_in_memory(family, data, batch_size=100)
    for key in bank.keys:
        np.testing.assert_allclose(bank.logits(key), study.bank.logits(key), atol=2e-5)
    with pytest.raises(InputError, match=r"expected logits of every position of a text, .* from teacher modules/pairs"):
        collect_in_memory(
            load_family({"pairs": nn.Sequential(nn.Embedding(40, 40), nn.Flatten())}), data, batch_size=100
        )


def test_a_look_at_a_study_of_a_text_finds_no_problem(study: Study) -> None:
    look = inspect_study(study)
    assert look.problems == [] and len(look.teachers) == 2
    assert look.cost["hours"].notna().all()


def test_soft_labels_stand_where_their_rows_do(study: Study) -> None:
    from capmismatch.distillation.runs import plan

    trainer = Trainer(study)
    run = next(run for run in plan(study, study.bank) if run.method.name == "KD")
    soft, train = trainer.soft_labels(run), study.train_data
    logits = LogitBank(study.folder / "bank" / "views" / "plain").logits(run.teacher.key)
    np.testing.assert_allclose(
        soft[0].numpy()[train.inputs.window, train.inputs.position], special.softmax(logits, 1), atol=1e-6
    )
    assert float(soft.sum()) == pytest.approx(len(train), rel=1e-4)  # zeros elsewhere
    assert ((trainer.labels == -100) == (soft[0].sum(-1) == 0)).all()


@pytest.mark.parametrize("method", [Method("KD"), Method("SHUFFLE"), Method("GRAFT", other="gru6"), Method("RKD")])
def test_soft_labels_are_the_same_from_some_rows_at_a_time(study: Study, method: Method, monkeypatch) -> None:
    from capmismatch.distillation.runs import plan

    run = next(run for run in plan(study, study.bank) if run.teacher is not None)
    other = study.bank.teachers[-1] if method.other else None
    run = dataclasses.replace(run, method=method, other=other)
    at_once = Trainer(study).soft_labels(run)
    monkeypatch.setattr(student_trainer, "LOGITS_AT_A_TIME", 100 * 40)
    torch.testing.assert_close(Trainer(study).soft_labels(run), at_once, atol=1e-6, rtol=1e-5)


def test_no_student_starts_where_a_teacher_did(study: Study) -> None:
    """A student with its teacher's initial weights follows it far more closely than any other: an artefact."""
    from capmismatch.sources import language_models
    from capmismatch.sources._trained import initial

    students = [Trainer(study).build("gru4", seed) for seed in range(3)]
    builds = partial(language_models.build, 4, 40)
    starts = [initial(language_models._seed_text(4, seed), builds) for seed in range(3)]
    for student in students:
        for start in starts:
            a, b = (torch.cat([w.detach().flatten() for w in net.parameters()]) for net in (student, start))
            assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.3


def test_runs_are_the_same_again(study: Study, tmp_path: Path) -> None:
    run_folder = next(folder for folder in (study.folder / "runs").iterdir() if (folder / "result.json").exists())
    before = json.loads((run_folder / "result.json").read_text())["splits"]
    (run_folder / "result.json").unlink()
    study.distill()
    assert json.loads((run_folder / "result.json").read_text())["splits"] == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('students = ["gru4"]', 'students = ["gru4"]\nviews = { kind = "noise", count = 2, sigma = 1.0 }'),
            "no views",
        ),
        (("lr = 3e-2", "shift = 2"), "a shift needs images"),
        (('name = "RKD"', 'name = "RKD"\noptions = { assistants = ["gru4"] }'), "assistants between language models"),
        (('["gru4"]', '["mlp4"]'), "asks for the student 'mlp4'"),
        (('source = "text:words.txt"', 'source = "letters"'), "tokenizer is of a text, .*'letters'"),
        (("bpe:40", "bpe:4000"), "bytes and pairs for"),
    ],
)
def test_what_a_text_cannot_have(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    written(tmp_path)
    (tmp_path / "study.toml").write_text((STUDY + '[[distill.methods]]\nname = "RKD"\n').replace(*change))
    with pytest.raises(InputError, match=message):
        Study(tmp_path / "study.toml", progress=False).check()


def test_architectures_of_language_models() -> None:
    network = architectures.build("gru16", 512)
    assert architectures.count_parameters(network) == 18_528
    assert network(torch.zeros(2, 7, dtype=torch.long)).shape == (2, 7, 512)
    torch.manual_seed(0)
    tokens = torch.randint(0, 512, (1, 9))
    later = tokens.clone()
    later[0, 5:] = 1
    assert torch.equal(network(tokens)[0, :5], network(later)[0, :5])  # no position sees what comes after it


def test_results_of_a_text_come_back_from_a_file(study: Study, tmp_path: Path) -> None:
    from capmismatch.distillation.results import load_results

    results = study.load("results")
    results.to_csv(tmp_path / "results.csv", index=False)
    again = load_results(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(again[list(SCORES)].astype(float), results[list(SCORES)].astype(float))
