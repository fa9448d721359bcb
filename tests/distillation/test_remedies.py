from __future__ import annotations

import itertools
import math
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from messages import naming
from processes import launched, run_script
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import capmismatch as cm
from capmismatch._utils.files import hash_of
from capmismatch.distillation import remedies
from capmismatch.distillation.criteria import EarlyStopped, GradientGate
from capmismatch.distillation.methods import REMEDIES, Method
from capmismatch.distillation.remedies import teach_through, train_with_checkpoints
from capmismatch.errors import BankError, InputError
from capmismatch.losses import Criterion
from capmismatch.training.loop import Checkpoint, Recipe, evaluate, fit


def batch(rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, teacher = torch.randn(rows, 6, generator=generator), 3 * torch.randn(rows, 4, generator=generator)
    return x, torch.arange(rows) % 4, teacher


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def gradients(network: nn.Module) -> list[Tensor]:
    return [weight.grad.clone() for weight in network.parameters()]


# Early-stopped teachers


def test_checkpoints_are_the_weights_of_shorter_runs_at_a_constant_rate(tmp_path: Path) -> None:
    """With a schedule that does not look ahead, the weights after three epochs are those of a run of three epochs."""
    x, y, _ = batch()
    recipe = Recipe(epochs=12, batch_size=5, schedule="constant")
    trained = student()
    files = train_with_checkpoints(trained, x[None], y, recipe, tmp_path / "run", [12, 3], seed=4)
    assert [file.name for file in files] == ["epoch03.safetensors", "epoch12.safetensors"]
    assert sorted(files) == sorted((tmp_path / "run").iterdir())
    for file, epochs in zip(files, (3, 12), strict=True):
        alone = fit(student(), x[None], y, Recipe(epochs=epochs, batch_size=5, schedule="constant"), seed=4)
        for name, value in load_file(file).items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=0, atol=0)
    assert not trained.training


def test_checkpoints_are_a_family_named_by_epoch(tmp_path: Path) -> None:
    x, y, _ = batch()
    train_with_checkpoints(student(), x[None], y, Recipe(epochs=10), tmp_path / "net", [2, 10, 5], seed=0)
    family = cm.load_family(f"ckpt:{tmp_path}/net/epoch*.safetensors", builder=lambda stem: student())
    assert [teacher.key for teacher in family] == ["net/epoch02", "net/epoch05", "net/epoch10"]
    rows = cm.bank_from_arrays({t.name: t.logits(x.numpy()) for t in family}, y.numpy())
    accuracy = [record.accuracy for record in rows.teachers]
    assert len({tuple(rows.logits(key).ravel()) for key in rows.keys}) == 3 and accuracy[-1] >= accuracy[0]


def test_numbers_in_names_of_checkpoints_count_as_numbers(tmp_path: Path) -> None:
    for epoch in (10, 9, 100):
        torch.save(student(epoch).state_dict(), tmp_path / f"epoch{epoch}.pt")
    family = cm.load_family(f"ckpt:{tmp_path}/epoch*.pt", builder=lambda stem: student())
    assert [teacher.name for teacher in family] == ["epoch9", "epoch10", "epoch100"]


def test_checkpoints_of_channels_last_weights_load(tmp_path: Path) -> None:
    def make() -> nn.Module:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
        return network.to(memory_format=torch.channels_last)

    images, y = torch.randn(1, 6, 3, 4, 4), torch.arange(6) % 2
    network = make()
    (file,) = train_with_checkpoints(network, images, y, Recipe(epochs=2, batch_size=6), tmp_path, [2], seed=0)
    again = make()
    again.load_state_dict(load_file(file))
    torch.testing.assert_close(again.eval()(images[0]), network(images[0]))


# Early-stopped distillation


@pytest.mark.parametrize("name", ["kd", "dkd", "curriculum_kd"])
def test_after_the_last_taught_epoch_there_is_cross_entropy_alone(name: str) -> None:
    x, y, teacher = batch()
    s = student()(x).detach()
    plain, stopped = Criterion(name), EarlyStopped(Criterion(name), epochs=3)
    torch.testing.assert_close(stopped(s, y, teacher), plain(s, y, teacher))  # nobody told the epoch
    for epoch in range(5):
        plain.set_epoch(epoch)
        stopped.set_epoch(epoch)
        expected = plain(s, y, teacher) if epoch < 3 else F.cross_entropy(s, y)
        torch.testing.assert_close(stopped(s, y, teacher), expected)
    stopped.set_epoch(1)  # as a resumed run tells it
    assert not stopped.stopped
    assert len(list(stopped.parameters())) == len(list(plain.parameters()))


def test_training_that_was_stopped_is_two_trainings() -> None:
    """Half by distillation, then by labels: seen in the gradient of every step of `fit`."""
    x, y, teacher = batch()
    method = Method("KD", options={"stop_after": 0.5})
    network, seen = student(), []
    criterion = method.criterion(network, epochs=4)
    assert isinstance(criterion, EarlyStopped) and criterion.epochs == 2

    def look(logits: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        loss = criterion(logits, labels, soft)
        hard = F.cross_entropy(logits, labels)
        both = 0.5 * hard + 0.5 * F.cross_entropy(logits, soft)
        seen.append("soft" if torch.isclose(loss, both) else "hard" if loss == hard else "neither")
        return loss

    class Looking(nn.Module):
        forward = staticmethod(look)
        set_epoch = staticmethod(criterion.set_epoch)

    soft = method.soft_labels(teacher, y)[None]
    fit(network, x[None], y, Recipe(epochs=4, batch_size=6), seed=0, criterion=Looking(), soft=soft)
    assert seen == ["soft"] * 4 + ["hard"] * 4


@pytest.mark.parametrize(("share", "epochs", "expected"), [(0.5, 3, 2), (0.01, 10, 1), (0.75, 240, 180)])
def test_share_of_the_epochs(share: float, epochs: int, expected: int) -> None:
    stopped = Method("DKD", options={"stop_after": share}).criterion(epochs=epochs)
    assert isinstance(stopped, EarlyStopped) and stopped.epochs == expected


# Gradient gate


def slow_gate(criterion: Criterion, network: nn.Module, x: Tensor, y: Tensor, teacher: Tensor, phi: float):
    """The rule, weight by weight in float64, from backward passes of their own."""
    network.zero_grad()
    (criterion.ce_weight * F.cross_entropy(network(x), y)).backward()
    hard = gradients(network)
    network.zero_grad()
    logits = network(x)
    (criterion(logits, y, teacher) - criterion.ce_weight * F.cross_entropy(logits, y)).backward()
    soft = gradients(network)
    dot = left = right = 0.0
    for a, b in zip(hard, soft, strict=True):
        for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
            dot, left, right = dot + p * q, left + p * p, right + q * q
    cosine = dot / math.sqrt(left * right)
    network.zero_grad()
    return cosine, [a + b if cosine >= phi else a for a, b in zip(hard, soft, strict=True)]


@pytest.mark.parametrize("options", [{}, {"rank_weight": 0.5}])
@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_gate_keeps_the_term_where_the_cosine_allows_it(name: str, options: dict) -> None:
    outcomes = set()
    for seed, phi in itertools.product(range(4), (-1.0, -0.2, 0.0, 0.3, 1.0)):
        x, y, teacher = batch(seed=seed)
        network, criterion = student(seed), Criterion(name, **options)
        cosine, expected = slow_gate(criterion, network, x, y, teacher, phi)
        gate = GradientGate(criterion, network, phi)
        loss = gate(network(x), y, teacher)
        loss.backward()
        for found, wanted in zip(gradients(network), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
        whole, hard = criterion(network(x), y, teacher), criterion.ce_weight * F.cross_entropy(network(x), y)
        torch.testing.assert_close(loss, whole if cosine >= phi else hard)
        told = gate.diagnostics()
        assert told["gate_open"] == float(cosine >= phi)
        assert told["gate_cosine"] == pytest.approx(cosine, abs=1e-5)
        outcomes.add(cosine >= phi)
    assert outcomes == {True, False}


def test_gate_tells_how_often_it_was_open_in_this_epoch() -> None:
    x, y, teacher = batch()
    network = student()
    gate = GradientGate(Criterion("kd"), network)
    assert gate.diagnostics() == {}
    gate.set_epoch(0)
    targets = 9.0 * F.one_hot(y, 4)
    for given in (targets, targets, -targets, targets):
        gate(network(x), y, given)
    assert gate.diagnostics()["gate_open"] == 0.75
    gate.set_epoch(1)
    gate(network(x), y, -targets)
    assert gate.diagnostics()["gate_open"] == 0.0
    with torch.no_grad():  # validation is not a step
        torch.testing.assert_close(gate(network(x), y, teacher), Criterion("kd")(network(x), y, teacher))
    again = GradientGate(Criterion("kd"), network)
    again.load_state_dict(gate.state_dict())
    again.set_epoch(1)  # a resumed epoch goes on counting
    again(network(x), y, targets)
    assert again.diagnostics()["gate_open"] == 0.5


def test_gate_trains_the_criterions_own_parameters_and_not_the_networks_twice() -> None:
    x, y, teacher = batch()
    network, criterion = student(), Criterion("curriculum_kd")
    gate = GradientGate(criterion, network, phi=-1.0)
    (theta,) = gate.parameters()
    criterion(network(x), y, teacher).backward()
    expected = theta.grad.clone()
    theta.grad = None
    gate(network(x), y, teacher).backward()
    torch.testing.assert_close(theta.grad, expected)
    assert set(gate.diagnostics()) == {"tau", "gate_open", "gate_cosine"}
    shut = GradientGate(criterion, network, phi=1.0)
    theta.grad = None
    shut(network(x), y, teacher).backward()
    assert theta.grad.item() == 0.0


def test_gate_leaves_frozen_and_unused_weights_alone() -> None:
    x, y, teacher = batch()
    network = student()
    network[0].weight.requires_grad_(False)
    network.spare = nn.Linear(2, 2)
    gate = GradientGate(Criterion("kd"), network, phi=-1.0)
    gate(network[2](network[1](network[0](x))), y, teacher).backward()
    assert network[0].weight.grad is None and network.spare.weight.grad is None
    assert network[2].weight.grad is not None


def test_gate_scales_with_what_is_done_to_the_loss() -> None:
    x, y, teacher = batch()
    network = student()
    gate = GradientGate(Criterion("kd"), network)
    gate(network(x), y, teacher).backward()
    once = gradients(network)
    network.zero_grad()
    for _ in range(3):  # accumulated over three parts
        (gate(network(x), y, teacher) / 3).backward()
    for found, wanted in zip(gradients(network), once, strict=True):
        torch.testing.assert_close(found, wanted)


GATED = """
import os, sys, torch
from pathlib import Path
from torch import nn
from capmismatch.distillation.methods import Method
from capmismatch.training.loop import Recipe, fit

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
x, teacher = torch.randn(1, 96, 6, generator=generator), 3 * torch.randn(96, 4, generator=generator)
y, method = torch.arange(96) % 4, Method("KD", options={"gate": 0.1})
torch.manual_seed(1)
network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
criterion, told = method.criterion(network, 4), []
recipe = Recipe(epochs=4, batch_size=32, optimizer="sgd", lr=0.05, schedule="constant")
fit(network, x, y, recipe, seed=0, criterion=criterion, soft=method.soft_labels(teacher, y)[None].float(),
    after_epoch=lambda *_: told.append(criterion.diagnostics()["gate_open"]))
if os.environ.get("RANK", "0") == "0":
    print(told)
    torch.save(network.state_dict(), sys.argv[1])
"""


@pytest.mark.slow
def test_processes_decide_as_one_would(tmp_path: Path) -> None:
    told, weights = [], []
    for processes in (1, 2):
        file = tmp_path / f"{processes}.pt"
        ends = launched(partial(run_script, GATED, file), tmp_path / f"output{processes}", processes)
        assert [status for status, _ in ends] == [0] * processes, ends
        told.append("".join(output for _, output in ends))
        weights.append(torch.load(file, weights_only=True))
    assert told[0] == told[1] and "1.0" not in told[0].split(",")[1]  # not always open
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


# Teacher assistants


@pytest.mark.parametrize(
    "method",
    [Method("KD", options={"assistants": ["mlp8"]}), Method("DKD"), Method("ATS", options={"rank_weight": 0.1})],
)
def test_a_chain_is_one_distillation_after_the_other(method: Method) -> None:
    x, y, _ = batch(rows=15)
    views = torch.stack([x, x + 0.3])
    logits = 3 * torch.randn(2, 15, 4, generator=torch.Generator().manual_seed(5))
    recipe = Recipe(epochs=3, batch_size=4)

    def prepare(raw: Tensor) -> Tensor:
        return raw / 2

    chained = [student(1), student(2)]
    found = teach_through(chained, logits, method, views, y, recipe, seed=7, prepare=prepare)
    given = logits
    for seed in (1, 2):
        soft = torch.stack([method.soft_labels(view, y).float() for view in given])
        network = fit(student(seed), views, y, recipe, seed=7, prepare=prepare, criterion=method.criterion(), soft=soft)
        given = torch.stack([evaluate(network, view, prepare) for view in views])
        for ours, wanted in zip(chained[seed - 1].parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(ours, wanted, rtol=0, atol=0)
    torch.testing.assert_close(found, given, rtol=0, atol=0)
    assert teach_through([], logits, method, views, y, recipe, seed=7) is logits


@pytest.mark.parametrize("killed_in", [(1, 2), (2, 1)])
def test_a_chain_that_was_killed_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: tuple[int, int]
) -> None:
    """By SIGKILL, in an epoch of one of its links: what was trained before is not trained again."""
    x, y, teacher = batch(rows=15)
    began: list[int] = []

    def teach(folder: Path | None, after_epoch=lambda epoch, loss: None) -> Tensor:
        return teach_through(
            [student(1), student(2)],
            teacher[None],
            Method("KD"),
            x[None],
            y,
            Recipe(epochs=4, batch_size=4),
            seed=7,
            folder=folder,
            after_epoch=after_epoch,
        )

    def kill(epoch: int, loss: float) -> None:
        began.append(epoch)
        if (began.count(0), epoch) == killed_in:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(remedies, "Checkpoint", partial(Checkpoint, seconds=0))
    child = os.fork()
    if not child:
        try:
            teach(tmp_path / "chain", kill)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    found = teach(tmp_path / "chain", lambda epoch, loss: began.append(epoch))
    link, epoch = killed_in
    assert began == [*range(epoch, 4), *(range(4) if link == 1 else [])]
    torch.testing.assert_close(found, teach(None), rtol=0, atol=0)
    assert sorted(file.name for file in (tmp_path / "chain").iterdir()) == [
        ".lock",
        "link1.safetensors",
        "link2.safetensors",
    ]
    began.clear()
    again = teach(tmp_path / "chain", lambda epoch, loss: began.append(epoch))
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    assert began == []
    (tmp_path / "chain" / "link1.safetensors").write_bytes(b"half")
    with pytest.raises(BankError, match=naming("link1.safetensors", "damaged", "remove")):
        teach(tmp_path / "chain")


def test_links_that_were_kept_lie_in_memory_as_trained_ones(tmp_path: Path) -> None:
    """Convolutions round by the layout: students of a trained assistant and of a kept one must see the same bits."""
    images, y = torch.randn(1, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
    teacher = 3 * torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(1))
    handed = []
    for _ in range(2):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 4))
        recipe = Recipe(epochs=1, batch_size=6)
        handed.append(
            teach_through([network], teacher, Method("KD"), images, y, recipe, seed=0, folder=tmp_path / "chain")
        )
        assert network[0].weight.is_contiguous(memory_format=torch.channels_last) and not network.training
    torch.testing.assert_close(handed[0], handed[1], rtol=0, atol=0)


# Methods of a study


@pytest.mark.parametrize("name", ["KD", "ATS", "ISATS", "DKD", "DIST", "CTKD"])
def test_every_method_takes_every_remedy(name: str) -> None:
    x, y, teacher = batch()
    network = student()
    method = Method(name, options={"rank_weight": 0.5, "gate": -1.0, "stop_after": 0.5, "assistants": ["mlp8"]})
    assert set(method.options) == set(REMEDIES) and method.assistants == ("mlp8",)
    criterion, plain = method.criterion(network, epochs=2), Method(name).criterion()
    soft = method.soft_labels(teacher, y)
    found = criterion(network(x), y, soft)
    expected = plain(network(x), y, Method(name).soft_labels(teacher, y))
    torch.testing.assert_close(found, expected + 0.5 * cm.losses.rank_kd(network(x), teacher), rtol=1e-5, atol=1e-6)
    criterion.set_epoch(1)
    torch.testing.assert_close(criterion(network(x), y, soft), F.cross_entropy(network(x), y))


def test_remedies_leave_the_settings_of_other_methods_as_they_were() -> None:
    """A run's folder is named by a hash of its method's fields: those of methods without a remedy must stay."""
    assert hash_of(Method("KD").to_dict()) == "f6054d1709666b54"
    assert hash_of(Method("DKD", options={"beta": 2.0}).to_dict()) == "b887d5656bd9766d"


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checkpoints([]), r"epochs to keep in \[1, 4\], the recipe's, got \[\]"),
        (lambda: checkpoints([2, 5]), r"epochs to keep in \[1, 4\], the recipe's, got 5"),
        (lambda: checkpoints([0]), r"epochs to keep in \[1, 4\], the recipe's, got 0"),
        (lambda: EarlyStopped(Criterion("kd"), 0), "epochs of distillation a whole number >= 1, got 0"),
        (lambda: GradientGate(Criterion("kd"), student(), 1.5), r"phi, a cosine, in \[-1, 1\], got 1.5"),
        (lambda: GradientGate(Criterion("kd", ce_weight=0), student()), "a ce_weight above 0, got 0"),
        (lambda: GradientGate(Criterion("kd"), nn.Tanh()), "a network with parameters to train, got none"),
        (lambda: chain(torch.zeros(15, 4)), r"on every view, \(1, 12, 'C'\), got \(15, 4\)"),
        (lambda: Method("KD", options={"gate": 0.0}).criterion(), "the gate of method KD needs the student"),
        (lambda: Method("KD", options={"stop_after": 0.5}).criterion(), "stop_after of method KD needs the epochs"),
        (lambda: Method("KD", options={"stop_after": 60}), r"stop_after of method KD in \(0, 1\), got 60"),
        (lambda: Method("DKD", options={"rank_weight": -1.0}), "rank_weight of method DKD > 0, got -1.0"),
        (lambda: Method("DKD", options={"gate": 2.0}), r"gate of method DKD, a cosine, in \[-1, 1\], got 2.0"),
        (lambda: Method("KD", weight=1.0, options={"gate": 0.0}), "method KD with weight=1 has none"),
        (lambda: Method("KD", options={"assistants": "mlp8"}), "assistants of method KD a list of .*, got 'mlp8'"),
        (lambda: Method("KD", options={"assistants": []}), r"assistants of method KD a list of .*, got \[\]"),
        (lambda: Method("KD", options={"stop_at": 0.5}), "option of method KD must be one of .* mean 'stop_after'"),
        (lambda: Method("CE", options={"gate": 0.0}), "method CE takes no options, got {'gate': 0.0}"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def checkpoints(epochs: list[int]) -> None:
    x, y, _ = batch()
    train_with_checkpoints(student(), x[None], y, Recipe(epochs=4), "nowhere", epochs, seed=0)


def chain(logits: Tensor) -> None:
    x, y, _ = batch()
    teach_through([student()], logits, Method("KD"), x[None], y, Recipe(epochs=1), seed=0)
