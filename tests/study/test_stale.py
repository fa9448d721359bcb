"""No stale result: after any edit between two stages, what is left equals a fresh folder's, or a command refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from capmismatch.architectures import register
from capmismatch.architectures.registry import _KINDS
from capmismatch.errors import BankError, CapmismatchError, InputError
from capmismatch.study.study import Study

STAGES = ("collect", "probe", "ranks", "isats", "distill", "correlate", "pick")
STUDY = """
name = "tiny"
{results}
[data]
source = "npz:data.npz"
split = {{ train = 30, val = 30, test = 30 }}
seed = 0
[[family]]
source = "{family}"
{options}
[collect]
dtype = "float32"
[probe]
taus = [1, 4]
[ranks]
tau = 4
[isats]
tau_target = 4
[correlate]
n_boot = 10
seed = 0
[pick]
rule = "auto"
{distill}
"""
DISTILL = """
[distill]
students = ["mlp3"]
seeds = 1
scale = [2]
recipe = { epochs = 1, batch_size = 30 }
[[distill.methods]]
name = "CE"
[[distill.methods]]
name = "KD"
tau = 2
"""
MODELS = """
import importlib
import json
from pathlib import Path

from torch import nn

from network_parts.activations import ACTIVATION


SIZES = Path(__file__).parent / "sizes.json"


def make(stem):
    assert json.loads(SIZES.read_text())
    last = importlib.import_module("last_parts").LAST
    return nn.Sequential(nn.Linear(4, int(stem[1:])), ACTIVATION(), nn.Linear(int(stem[1:]), 3), last())


def make_tanh(stem):
    return nn.Sequential(nn.Linear(4, int(stem[1:])), nn.Tanh(), nn.Linear(int(stem[1:]), 3))
"""
DRAWS = np.random.default_rng(0)
LABELS = np.arange(90) % 3
INPUTS = DRAWS.normal(size=(90, 4)).astype(np.float32) + 2 * np.eye(4, dtype=np.float32)[LABELS]
LOGITS = {f"logits_t{i}": (DRAWS.normal(size=(90, 3)) + (1 + i) * np.eye(3)[LABELS]).astype(np.float32) for i in (1, 2)}


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def write_inputs(folder: Path) -> None:
    np.savez(folder / "data.npz", inputs=INPUTS, labels=LABELS)
    np.savez(folder / "fam.npz", labels=LABELS, params_t1=10, params_t2=20, **LOGITS)
    (folder / "models.py").write_text(MODELS)
    (folder / "network_parts").mkdir()
    (folder / "network_parts/activations.py").write_text("import kinds\n\nACTIVATION = kinds.ACTIVATION\n")
    (folder / "kinds.py").write_text("from torch import nn\n\nACTIVATION = nn.ReLU\n")
    (folder / "last_parts.py").write_text("from torch import nn\n\nLAST = nn.Identity\n")
    (folder / "sizes.json").write_text("[4, 8]")
    (folder / "nets").mkdir()
    for width in (4, 8):
        torch.save(network(width, width).state_dict(), folder / f"nets/m{width}.pt")
    rows = [
        f"t{i},KD,4,{seed},{split},{0.5 + 0.1 * i + seed / 50},30"
        for i in (1, 2)
        for seed in (0, 1)
        for split in SPLITS
    ]
    (folder / "results.csv").write_text("\n".join(["teacher,method,tau,seed,split,accuracy,n", *rows]) + "\n")


SPLITS = ("val", "test")


def run_to(folder: Path, last: str = "pick") -> None:
    """Each stage up to `last` by a study opened anew, as commands open it."""
    for stage in STAGES[: STAGES.index(last) + 1]:
        study = Study(folder / "study.toml", progress=False)
        if stage in ("distill", "correlate") and study.config.distill is None and study.config.results is None:
            continue
        getattr(study, stage)()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two finished studies: saved logits with given results, and checkpoints with students trained here."""
    folders = {}
    for kind, family, options, results, distill in (
        ("saved", "logits:fam.npz", "", 'results = "results.csv"', ""),
        ("trained", "ckpt:nets/*.pt", 'builder = "models:make"', "", DISTILL),
    ):
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        write_inputs(folder)
        text = STUDY.format(family=family, options=options, results=results, distill=distill)
        (folder / "study.toml").write_text(text)
        run_to(folder)
    return folders


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """What `Study` gives out of its tables now."""
    study = Study(folder / "study.toml", progress=False)
    names = ("probes", "ranks", "affinity", "restored", "results", "links", "pick")
    return {name: study.load(name) for name in names if study.has(name)}


Edit = Callable[[Path], None]


def text(old: str, new: str) -> Edit:
    """Replace a part of study.toml."""

    def edit(folder: Path) -> None:
        before = (folder / "study.toml").read_text()
        assert old in before
        (folder / "study.toml").write_text(before.replace(old, new, 1))

    return edit


def arrays(name: str, **changes: Any) -> Edit:
    """Change arrays of an .npz; None removes one."""

    def edit(folder: Path) -> None:
        with np.load(folder / name) as there:
            content = dict(there) | changes
        np.savez(folder / name, **{key: value for key, value in content.items() if value is not None})

    return edit


def retrain(folder: Path) -> None:
    torch.save(network(8, 99).state_dict(), folder / "nets/m8.pt")


def in_file(name: str, old: str, new: str) -> Edit:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new)) and None


def all_of(*edits: Edit) -> Edit:
    return lambda folder: [edit(folder) for edit in edits] and None


OTHER_LABELS = np.roll(LABELS, 1)
SAVED: dict[str, Edit] = {
    "taus": text("taus = [1, 4]", "taus = [2]"),
    "a tau more": text("taus = [1, 4]", "taus = [1, 4, 8]"),
    "names of probes": text("taus = [1, 4]", 'taus = [1, 4]\nnames = ["accuracy", "derived_std", "nll"]'),
    "ranks": text("[ranks]\ntau = 4", "[ranks]\ntau = 2"),
    "isats tau": text("tau_target = 4", "tau_target = 2"),
    "isats constraint": text("tau_target = 4", 'tau_target = 4\nconstraint = "none"'),
    "n_boot": text("n_boot = 10", "n_boot = 12"),
    "seed of links": text("n_boot = 10\nseed = 0", "n_boot = 10\nseed = 1"),
    "rule": text('rule = "auto"', 'rule = "largest"'),
    "seed of the split": text("seed = 0\n[[family]]", "seed = 1\n[[family]]"),
    "split": text("val = 30, test = 30", "val = 20, test = 40"),
    "dtype": text("float32", "float16"),
    "name of the data": text("seed = 0\n[[family]]", 'seed = 0\nname = "other"\n[[family]]'),
    "name of the study": text('name = "tiny"', 'name = "other"'),
    "no results": text('results = "results.csv"', ""),
    "results elsewhere": all_of(
        lambda folder: shutil.copy(folder / "results.csv", folder / "mine.csv") and None,
        text("results.csv", "mine.csv"),
    ),
    "results in percent": text('results = "results.csv"', 'results = { file = "results.csv", percent = true }'),
    "other accuracies": in_file("results.csv", "0.62", "0.91"),
    "a student less": in_file("results.csv", "t2,KD,4,1,test,0.72,30\n", ""),
    "results gone": lambda folder: (folder / "results.csv").unlink(),
    "sizes": arrays("fam.npz", params_t1=50),
    "sizes gone": arrays("fam.npz", params_t1=None, params_t2=None),
    "macs": arrays("fam.npz", macs_t1=7, macs_t2=9),
    "logits": arrays("fam.npz", logits_t2=LOGITS["logits_t2"] + 1),
    "a teacher more": arrays("fam.npz", logits_t3=LOGITS["logits_t2"] * 2, params_t3=40),
    "a teacher less": arrays("fam.npz", logits_t2=None, params_t2=None),
    "a teacher renamed": arrays("fam.npz", logits_t2=None, params_t2=None, logits_t9=LOGITS["logits_t2"], params_t9=20),
    "a seed": arrays("fam.npz", seed_t1=3),
    "labels": all_of(arrays("data.npz", labels=OTHER_LABELS), arrays("fam.npz", labels=OTHER_LABELS)),
    "inputs": arrays("data.npz", inputs=INPUTS + 1),
    "class names": all_of(
        arrays("data.npz", classes=np.array(["a", "b", "c"])), arrays("fam.npz", classes=np.array(["a", "b", "c"]))
    ),
    "ids": all_of(
        arrays("data.npz", ids=np.arange(90)[::-1].astype(str)), arrays("fam.npz", ids=np.arange(90)[::-1].astype(str))
    ),
    "family's name": text("[collect]", 'name = "clan"\n[collect]'),
    "another family": text("[collect]", '[[family]]\nsource = "ckpt:nets/*.pt"\nbuilder = "models:make"\n[collect]'),
}
TRAINED: dict[str, Edit] = {
    "weights": retrain,
    "a checkpoint less": lambda folder: (folder / "nets/m8.pt").unlink(),
    "a checkpoint more": lambda folder: torch.save(network(6, 6).state_dict(), folder / "nets/m6.pt"),
    "a checkpoint renamed": lambda folder: (folder / "nets/m4.pt").rename(folder / "nets/n4.pt") and None,
    "builder": text("models:make", "models:make_tanh"),
    "builder's code": in_file("models.py", "ACTIVATION()", "nn.Tanh()"),
    "builder's code by a comment": in_file("models.py", "def make(", "# of the paper\ndef make("),
    "what the builder imports": in_file("network_parts/activations.py", "kinds.ACTIVATION", "kinds.nn.Sigmoid"),
    "what its imports import": in_file("kinds.py", "nn.ReLU", "nn.Sigmoid"),
    "what it imports by name": in_file("last_parts.py", "nn.Identity", "nn.Softsign"),
    "its imports by a comment": in_file("kinds.py", "ACTIVATION", "# of the paper\nACTIVATION"),
    "a file that it reads": lambda folder: (folder / "sizes.json").write_text("[4, 8, 16]") and None,
    "its imports gone": lambda folder: (folder / "kinds.py").unlink(),
    "mean": text('builder = "models:make"', 'builder = "models:make"\nmean = [1]'),
    "student": text("mlp3", "mlp4"),
    "a student more": text('["mlp3"]', '["mlp3", "mlp4"]'),
    "seeds of students": text("seeds = 1\nscale", "seeds = 2\nscale"),
    "scale": text("scale = [2]", "scale = [3]"),
    "recipe": text("epochs = 1", "epochs = 2"),
    "temperature": text("tau = 2\n", "tau = 3\n"),
    "a method less": text('[[distill.methods]]\nname = "CE"\n', ""),
    "views": text("scale = [2]", 'scale = [2]\nviews = { kind = "noise", sigma = 0.5 }'),
    "no students": text(DISTILL, ""),
    "inputs": arrays("data.npz", inputs=INPUTS * 2),
    "seed of the split": text("seed = 0\n[[family]]", "seed = 1\n[[family]]"),
    "batch size of teachers": text('dtype = "float32"', 'dtype = "float32"\nbatch_size = 7'),
}
EDITS = [("saved", name) for name in SAVED] + [("trained", name) for name in TRAINED]
FIRST = {"saved": ("collect", "probe", "pick"), "trained": ("collect", "distill", "pick")}
"""Stages from which on a study is run again after an edit."""


@pytest.mark.slow  # all of them together: each runs a study three times
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), EDITS, ids=[f"{kind}: {name}" for kind, name in EDITS])
def test_an_edit_between_stages_leaves_nothing_stale(
    finished: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    edit = {"saved": SAVED, "trained": TRAINED}[kind][name]
    fresh, expected = tmp_path / "fresh", None
    shutil.copytree(finished[kind], fresh, ignore=shutil.ignore_patterns("bank", "tables", "runs"))
    edit(fresh)
    try:
        run_to(fresh)
        expected = tables(fresh)
    except CapmismatchError:  # the edit makes no study
        pass
    folder = tmp_path / "edited"
    shutil.copytree(finished[kind], folder)
    edit(folder)
    for first in reversed(FIRST[kind]):  # the fewest stages first
        try:
            for stage in STAGES[STAGES.index(first) :]:
                study = Study(folder / "study.toml", progress=False)
                if study.has("results") or stage not in ("distill", "correlate"):
                    getattr(study, stage)()
            got = tables(folder)
        except CapmismatchError:
            continue
        assert expected is not None, f"{name}: a fresh folder is refused, this one from {first} on is not"
        assert got.keys() == expected.keys(), (name, first)
        for table, frame in expected.items():
            pd.testing.assert_frame_equal(got[table], frame, obj=f"{table} after {name}, from {first} on")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), [("saved", "sizes"), ("saved", "macs")])
def test_what_decides_no_logit_is_followed_and_not_refused(
    finished: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished[kind], folder)
    {"saved": SAVED, "trained": TRAINED}[kind][name](folder)
    with pytest.raises(InputError, match="first"):
        Study(folder / "study.toml", progress=False).correlate()
    picked = Study(folder / "study.toml", progress=False).pick()  # makes what it reads
    run_to(folder)
    pd.testing.assert_frame_equal(picked.table, Study(folder / "study.toml", progress=False).pick().table)
    assert tables(folder)


def test_a_comment_in_the_builders_file_changes_nothing(finished: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished["trained"], folder)
    runs = sorted(file.name for file in (folder / "runs").iterdir())
    before = (folder / "bank/nets/m8/logits.safetensors").read_bytes()
    TRAINED["builder's code by a comment"](folder)
    run_to(folder)
    assert sorted(file.name for file in (folder / "runs").iterdir()) == runs
    assert (folder / "bank/nets/m8/logits.safetensors").read_bytes() == before


def test_a_copy_of_a_study_is_that_study(finished: dict[str, Path], tmp_path: Path) -> None:
    """Other times of writing, another place."""
    shutil.copytree(finished["trained"], tmp_path / "copy", copy_function=shutil.copyfile)
    assert len(Study(tmp_path / "copy" / "study.toml", progress=False).bank.teachers) == 2
    shutil.rmtree(tmp_path / "copy" / "nets")  # the bank goes by itself
    assert Study(tmp_path / "copy" / "study.toml", progress=False).pick().teacher


def test_banks_and_tables_of_before_are_taken_as_they_are(finished: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(finished["trained"], folder)
    (folder / "bank" / "collected.json").unlink()
    for name in ("results", "pick"):
        (folder / "tables" / f"{name}.json").unlink()
    assert tables(folder)["results"].equals(tables(finished["trained"])["results"])
    run_to(folder)


def test_a_table_put_back_is_made_anew(finished: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished["saved"], folder)
    good = tables(folder)["probes"]
    good.assign(value=0.0).to_parquet(folder / "tables" / "probes.parquet")
    with pytest.raises(InputError, match="was made from other settings"):
        Study(folder / "study.toml", progress=False).load("probes")
    pd.testing.assert_frame_equal(Study(folder / "study.toml", progress=False).probe(), good)


def test_an_impossible_result_is_refused(finished: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished["trained"], folder)
    file = sorted((folder / "runs").glob("*/result.json"))[0]
    good = file.read_text()
    for bad in (
        '{"splits": {"val": {"accuracy": 7, "n": 30}}}',
        '{"splits": {"zz": {"accuracy": 0.5, "n": 30}}}',
        '{"splits": {"val": {"accuracy": NaN, "n": 30}}}',
        '{"splits": {"val": {"accuracy": 0.5}}}',
        "[]",
    ):
        file.write_text(bad)
        with pytest.raises(BankError, match=r"result.json is damaged"):
            Study(folder / "study.toml", progress=False).distill()
    file.write_text(good)
    assert len(Study(folder / "study.toml", progress=False).distill())


def test_a_run_lies_in_the_folder_that_is_named_after_it(finished: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished["trained"], folder)
    one, other = sorted((folder / "runs").iterdir())[:2]
    for source, target in ((one, tmp_path / "aside"), (other, one), (tmp_path / "aside", other)):
        source.rename(target)
    with pytest.raises(BankError, match=rf"{one.name}.*of the run {other.name}|{other.name}.*of the run {one.name}"):
        Study(folder / "study.toml", progress=False).distill()


def test_the_report_leaves_the_pick_as_it_was_asked_for(finished: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished["saved"], folder)
    study = Study(folder / "study.toml", progress=False)
    study.pick(rule="smallest")
    before = (folder / "tables" / "pick.parquet").read_bytes()
    page = study.report().read_text()
    assert (folder / "tables" / "pick.parquet").read_bytes() == before
    assert study.choice().rule == "smallest" and "smallest" in page


def test_figures_of_students_that_are_gone_go_with_them(
    finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capmismatch.report import gallery

    monkeypatch.setattr(gallery, "FIGURES", {})  # the curves alone
    folder = tmp_path / "edited"
    shutil.copytree(finished["trained"], folder)
    Study(folder / "study.toml", progress=False).plot()
    (folder / "figures" / "mine.png").write_bytes(b"mine")
    (folder / "figures" / ".tmp-rank_matrix.png.x1y2z3.png").write_bytes(b"")
    TRAINED["student"](folder)
    run_to(folder)
    study = Study(folder / "study.toml", progress=False)
    study.plot()
    assert {file.name for file in (folder / "figures").glob("*.png")} == {"capacity_curve_mlp4.png", "mine.png"}
    page = study.report().read_text()
    assert "capacity_curve_mlp4" in page and "mlp3" not in page and "mine.png" not in page


@pytest.mark.parametrize("edit", ["what its imports import", "what it imports by name"])
def test_a_later_stage_refuses_what_a_builder_imports_anew(
    finished: dict[str, Path], tmp_path: Path, edit: str
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(finished["trained"], folder)
    TRAINED[edit](folder)
    for stage in ("probe", "distill", "correlate", "plot", "report", "pick"):
        study = Study(folder / "study.toml", progress=False)
        with pytest.raises(CapmismatchError, match=r"(kinds|last_parts)\.py changed since|was collected with network"):
            getattr(study, stage)()


def test_results_do_not_depend_on_workers(finished: dict[str, Path], tmp_path: Path) -> None:
    """Threads are those of the study, not those that workers leave each other."""
    threads = torch.get_num_threads()
    folder = tmp_path / "edited"
    shutil.copytree(finished["trained"], folder, ignore=shutil.ignore_patterns("runs"))
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "capmismatch.distillation.student_trainer.fit", lambda *_, **__: seen.append(torch.get_num_threads())
        )
        torch.set_num_threads(2)
        try:
            Study(folder / "study.toml", progress=False).distill()
        finally:
            torch.set_num_threads(threads)
    assert set(seen) == {1}


def test_a_students_own_code_belongs_to_its_run(finished: dict[str, Path], tmp_path: Path) -> None:
    def define(activation: type[nn.Module]) -> None:
        @register("own{width}", listed=("own3",), example={"in_features": 4})
        def own(width: int, num_classes: int, *, in_features: int) -> nn.Module:
            return nn.Sequential(nn.Linear(in_features, width), activation(), nn.Linear(width, num_classes))

    folder, kinds = tmp_path / "edited", list(_KINDS)
    shutil.copytree(finished["trained"], folder)
    text("mlp3", "own3")(folder)
    try:
        define(nn.ReLU)
        first = Study(folder / "study.toml", progress=False).distill()
        define(nn.Sigmoid)
        with pytest.raises(InputError, match="was made from other settings"):
            Study(folder / "study.toml", progress=False).load("results")
        shutil.copytree(folder, tmp_path / "fresh", ignore=shutil.ignore_patterns("runs"))
        second = Study(folder / "study.toml", progress=False).distill()
        pd.testing.assert_frame_equal(second, Study(tmp_path / "fresh" / "study.toml", progress=False).distill())
        define(nn.ReLU)
        pd.testing.assert_frame_equal(Study(folder / "study.toml", progress=False).distill(), first)
    finally:
        _KINDS[:] = kinds
