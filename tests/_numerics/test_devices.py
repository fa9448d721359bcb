"""The diagnosis on an accelerator: the same numbers as from compiled loops, and all tensors where they belong.

Each test runs on a pretended device (`pretended`), and on CUDA where there is one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming
from pretended import AWAY, Pretended

from capmismatch import probes, ranks, temperature
from capmismatch._numerics import devices
from capmismatch._numerics.rank_tensors import TensorRanks
from capmismatch.data.bank import LogitBank, bank_from_arrays
from capmismatch.diagnostics import tables
from capmismatch.errors import InputError
from capmismatch.study.study import Study

Array = np.ndarray
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = [pytest.param(AWAY, id="pretended"), pytest.param("cuda", marks=CUDA)]
METRICS = ["wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top3_overlap"]
SHIPPED = Path(__file__).parents[2] / "data" / "cifar10" / "bank"

TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    "probe": lambda bank, **where: tables.probe(bank, (1, 2, 3, 4, 8), progress=False, **where),
    "examples": lambda bank, **where: tables.example_values(bank, taus=(2, 4), **where),
    "ranks": lambda bank, **where: tables.rank_stability(bank, progress=False, **where),
    "affinity": tables.affinity,
    "reliability": tables.reliability,
    "restored": lambda bank, **where: tables.restored_variance(bank, progress=False, **where),
    "anchored": lambda bank, **where: tables.restored_variance(bank, constraint="anchor", progress=False, **where),
}


def there(device: str) -> AbstractContextManager[object]:
    return Pretended() if device == AWAY else nullcontext()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with there(request.param):
        yield request.param


def make_bank(classes: int, dtype: type, rows: int = 60) -> LogitBank:
    rng = np.random.default_rng(classes + 1)
    signal = 2 * rng.standard_normal((rows, classes))
    labels = np.where(rng.random(rows) < 0.7, signal.argmax(1), rng.integers(0, classes, rows))
    logits = {
        name: (scale * (signal + noise * rng.standard_normal(signal.shape))).astype(dtype)
        for name, scale, noise in [("small", 1.0, 1.0), ("middle", 2.0, 0.7), ("large", 4.0, 0.5)]
    }
    logits["small"][: rows // 4] = logits["small"][: rows // 4].round()  # ties
    logits["middle"][0], logits["large"][1] = 1.0, np.where(np.arange(classes) % 2, 0.0, -0.0)
    return bank_from_arrays(logits, labels, params={"small": 1000})


def check(table: str, bank: LogitBank, device: str) -> None:
    exact = {"rtol": 1e-10, "atol": 1e-14}
    tolerance = {"ranks": {"check_exact": True}, "restored": {"rtol": 1e-7}, "anchored": {"rtol": 1e-7}}
    found, expected = (TABLES[table](bank, device=place) for place in (device, "cpu"))
    if table == "ranks":  # all but the affinities, which are sums, are of integers
        counted = expected["metric"] != "affinity_tau_b"
        pd.testing.assert_frame_equal(found[~counted], expected[~counted], **exact)
        found, expected = found[counted], expected[counted]
    pd.testing.assert_frame_equal(found, expected, **tolerance.get(table, exact))


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("classes", "dtype"), [(2, np.float32), (7, np.float16)])
def test_tables_are_those_of_the_cpu(device: str, table: str, classes: int, dtype: type) -> None:
    check(table, make_bank(classes, dtype), device)


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_real_logits_are_those_of_the_cpu(device: str, table: str) -> None:
    bank = LogitBank(SHIPPED).subset(n=200)
    bank.teachers = bank.teachers[::6]
    check(table, bank, device)


@pytest.mark.parametrize("table", ["probe", "ranks", "affinity", "restored"])
def test_how_much_goes_to_the_device_at_a_time_does_not_matter(
    device: str, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    for place in (
        "diagnostics.tables.RANK_LOGITS",
        "diagnostics.example_values.GROUP_LOGITS",
        "diagnostics.example_values.COLUMN_BYTES",
        "_numerics.rank_blocks.DEVICE_CELLS",
    ):
        monkeypatch.setattr(f"capmismatch.{place}", 10)
    bank = make_bank(7, np.float32, rows=20)
    if table == "ranks":  # means of values that come in chunks
        found, expected = (TABLES[table](bank, device=place) for place in (device, "cpu"))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-12, atol=1e-14)
    else:
        check(table, bank, device)


# --------------------------------------------------------------------------------------------------------------- ranks

special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan, -np.nan, 65504.0, 6e-8, -6e-8])
ordinary = st.integers(-99, 99).map(lambda value: value / 8)  # exact in half precision


@st.composite
def teachers(draw: st.DrawFn) -> tuple[list[Array], Array]:
    classes, n = draw(st.integers(2, 20)), draw(st.integers(1, 3))
    rows = st.lists(special | ordinary, min_size=classes, max_size=classes)
    dtypes = draw(st.lists(st.sampled_from(["f2", "f4", "f8"]), min_size=2, max_size=3))
    logits = [np.array([draw(rows) for _ in range(n)]).astype(dtype) for dtype in dtypes]
    return logits, np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))


def same_ranks(logits: list[Array], labels: Array, metrics: list[str], device: str) -> None:
    with there(device):
        found = ranks.rank_metrics([torch.from_numpy(rows).to(device) for rows in logits], labels, metrics)
    for name, values in ranks.rank_metrics(logits, labels, metrics).items():
        np.testing.assert_array_equal(found[name].numpy(), values.numpy(), err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=20)
@given(case=teachers())
def test_ranks_are_the_same_integers(device: str, case: tuple[list[Array], Array]) -> None:
    logits, labels = case
    wrong = logits[0].shape[1] - 1
    same_ranks(logits, labels, [m for m in METRICS if not m.startswith("top") or int(m[3]) <= wrong], device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [3, 64, 65, 1000, 5000])
def test_ranks_of_many_classes_are_the_same_integers(device: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = [(2 * rng.standard_normal((4, classes))).astype("f2") for _ in range(3)]
    logits[0][0], logits[1][0], logits[2][1] = 1.0, logits[0][1], np.sort(logits[0][1])
    same_ranks(logits, rng.integers(0, classes, 4), METRICS[:5], device)


def test_concordance_of_a_vocabulary_needs_no_array_of_class_by_class(device: str) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 32_000))).to(device)
    counted = TensorRanks(list(rows)).concordance(np.array([[0, 1], [0, 0]]))
    assert counted[1, 0] == 32_000 * 31_999 // 2 and abs(counted[0, 0]) < 1e-2 * counted[1, 0]


# ------------------------------------------------------------------------------------------------------ pure functions


@pytest.mark.parametrize("name", [name for name, probe in probes.REGISTRY.items() if probe.kind != "family"])
def test_probes_compute_where_the_logits_are(device: str, name: str) -> None:
    bank = make_bank(7, np.float32)
    logits, labels = torch.from_numpy(bank.logits("logits/large")), torch.from_numpy(bank.labels())
    found, expected = (getattr(probes, name)(logits.to(place), labels) for place in (device, "cpu"))
    if isinstance(found, torch.Tensor):
        assert found.device.type == torch.device(device).type
        found = found.cpu()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_class_means_and_affinities_compute_where_the_logits_are(device: str) -> None:
    bank = make_bank(7, np.float16)
    logits, labels = torch.from_numpy(bank.logits("logits/large")), bank.labels()
    means = probes.class_means(logits.to(device), labels)
    torch.testing.assert_close(means.cpu(), probes.class_means(logits, labels), rtol=1e-12, atol=0, equal_nan=True)
    spread = probes.cmi(logits.to(device), labels, means=means.cpu())
    torch.testing.assert_close(spread.cpu(), probes.cmi(logits, labels), rtol=1e-10, atol=1e-14)
    affinities = [ranks.affinity_matrix(logits.to(place), labels, 2.0) for place in (device, "cpu")]
    torch.testing.assert_close(*affinities, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("constraint", temperature.CONSTRAINTS)
@pytest.mark.filterwarnings("ignore:ISATS without a constraint")
def test_isats_computes_where_the_logits_are(device: str, constraint: str) -> None:
    bank = make_bank(7, np.float32)
    logits, labels = torch.from_numpy(bank.logits("logits/large")), bank.labels()
    found, expected = (temperature.isats(logits.to(place), labels, constraint=constraint) for place in (device, "cpu"))
    for name, values in vars(found).items():
        torch.testing.assert_close(values.cpu(), getattr(expected, name), rtol=1e-6, atol=1e-9, msg=name)


# ------------------------------------------------------------------------------------------------------------- devices


def test_devices_that_are_not_there() -> None:
    with pytest.raises(InputError, match=naming("float64", "'tpu9'")):
        tables.affinity(make_bank(2, np.float32), device="tpu9")
    with pytest.raises(InputError, match="got 'cuda:99'"):
        devices.as_device("cuda:99")


def test_the_pretended_device_keeps_its_tensors_apart() -> None:
    with Pretended():
        here, away = torch.ones(2), torch.ones(2).to(AWAY)
        assert (away + 1).cpu().tolist() == [2, 2] and float(away.sum()) == 2
        with pytest.raises(AssertionError, match="mixes devices"):
            away + here
        with pytest.raises(RuntimeError, match="numpy"):
            away.numpy()


def test_a_study_file_names_the_device_and_keeps_its_tables(tmp_path: Path) -> None:
    labels = np.arange(12) % 3
    logits = {f"logits_{name}": np.random.default_rng(i).normal(size=(12, 3)) for i, name in enumerate("ab")}
    np.savez(tmp_path / "x.npz", labels=labels, **logits)
    file = tmp_path / "study.toml"
    file.write_text('name = "x"\n[[family]]\nsource = "logits:x.npz"\n[probe]\ntaus = [2]\n')
    study = Study(file, progress=False)
    study.collect()
    kept = study.probe()
    file.write_text(file.read_text() + 'device = "tpu9"\n')
    elsewhere = Study(file, progress=False)
    pd.testing.assert_frame_equal(elsewhere.probe(), kept)  # the same wherever it would be computed
    for stage in (elsewhere.ranks, elsewhere.isats):
        with pytest.raises(InputError, match="got 'tpu9'"):
            stage()


@pytest.mark.parametrize(("places", "compiles"), [([True], True), ([False, True], True), ([False, False], False)])
def test_where_nothing_may_be_written_loops_are_kept_elsewhere_or_not_used(
    places: list[bool], compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(places)
    numba = pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # put back afterwards, as is
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)
    monkeypatch.setattr(devices, "_keeps_compiled", lambda: next(answers))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert devices._can_compile() == compiles
    assert [w.category for w in said] == [RuntimeWarning] * (len(places) - 1)
    assert all("NUMBA_CACHE_DIR" in str(w.message) and "\n" not in str(w.message) for w in said)
    kept_in = os.environ["NUMBA_CACHE_DIR"]
    assert bool(kept_in) == (places == [False, True])
    if kept_in and hasattr(os, "getuid"):
        assert os.stat(kept_in).st_mode & 0o777 == 0o700 and os.stat(kept_in).st_uid == os.getuid()
