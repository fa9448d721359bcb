"""Class ranks against SciPy and against slow, obvious loops; both backends against each other."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from capmismatch import probes, ranks
from capmismatch._numerics import devices, rank_blocks
from capmismatch.errors import InputError

BACKENDS = [False, True] if devices.HAS_NUMBA else [False]  # tensor operations, and compiled loops
NAMES = {False: "tensors", True: "loops"}
EVERY_METRIC = ["wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top3_overlap"]


@pytest.fixture(params=BACKENDS, ids=NAMES.get)
def backend(request, monkeypatch):
    monkeypatch.setattr(devices, "HAS_NUMBA", request.param)
    return request.param


def scipy_rows(function, a, b):
    """SciPy on each row, NaN for NaN rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([function(x, y).statistic for x, y in zip(np.float64(a), np.float64(b), strict=True)])


def drop(rows, labels):
    """Rows without their target."""
    return np.stack([np.delete(row, label) for row, label in zip(rows, labels, strict=True)])


def teachers(seed, shape, dtype=np.float32, levels=None):
    rng = np.random.default_rng(seed)
    logits = 2 * (rng.normal(size=(1, *shape[1:])) + rng.normal(size=shape))
    return (np.round(logits * levels) / levels if levels else logits).astype(dtype)


def close(got, expected):
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- tau, rho

special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, 65504.0, 6e-8, -6e-8])
ordinary = st.integers(-999, 999).map(lambda value: value / 64)  # exact in half precision


@st.composite
def two_rows(draw):
    classes = draw(st.integers(2, 30))
    rows = [draw(st.lists(special | ordinary, min_size=classes, max_size=classes)) for _ in range(2)]
    return np.array(rows), draw(st.integers(0, classes - 1)), draw(st.sampled_from(["f2", "f4", "f8"]))


@pytest.mark.parametrize("backend", BACKENDS, ids=NAMES.get)
@settings(deadline=None, max_examples=40)
@given(case=two_rows())
def test_ties_infinities_and_halves_like_scipy(backend, case):
    rows, target, dtype = case
    a, b = rows.astype(dtype)[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "HAS_NUMBA", backend)
        close(ranks.kendall_tau_b(a, b), scipy_rows(kendalltau, a, b))
        close(ranks.spearman(a, b), scipy_rows(spearmanr, a, b))
        if a.shape[1] > 2:
            labels = np.array([target])
            left, right = drop(a, labels), drop(b, labels)
            close(ranks.wrong_class_tau_b(a, b, labels), scipy_rows(kendalltau, left, right))
            close(ranks.spearman(a, b, labels), scipy_rows(spearmanr, left, right))


# both sides of the switches: one word or several (64), NumPy's sort or by bytes (256), lanes or a tree (1024)
@pytest.mark.parametrize("classes", [2, 3, 10, 24, 63, 64, 65, 255, 256, 1000, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("levels", [None, 3, 0.1], ids=["few ties", "ties", "nearly all tied"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sizes_and_ties_like_scipy(backend, classes, levels, dtype):
    a, b = teachers(classes, (2, 3, classes), dtype, levels)
    b[1], b[2] = np.sort(a[1])[::-1], np.where(np.arange(classes) % 2, a[2], b[2])
    labels = np.array([0, classes - 1, classes // 2])
    close(ranks.kendall_tau_b(a, b), scipy_rows(kendalltau, a, b))
    close(ranks.spearman(a, b), scipy_rows(spearmanr, a, b))
    close(ranks.wrong_class_tau_b(a, b, labels), scipy_rows(kendalltau, drop(a, labels), drop(b, labels)))
    if classes > 2:  # of one class SciPy's spearmanr makes an error
        close(ranks.spearman(a, b, labels), scipy_rows(spearmanr, drop(a, labels), drop(b, labels)))


WILD = {
    "an outlier": lambda row: np.where(np.arange(len(row)) == 7, 3e38, row),
    "masked classes": lambda row: np.where(np.arange(len(row)) % 3 == 0, -np.inf, row),
    "both infinities": lambda row: np.where(row > 2, np.inf, np.where(row < -2, -np.inf, row)),
    "a range that overflows": lambda row: row * 1.2e38,
    "two clusters": lambda row: np.sign(row) * 1e4 + row,
    "neighbouring floats": lambda row: np.float32(1) + np.argsort(row).astype("f4") * np.finfo("f4").eps,
    "neighbouring doubles": lambda row: np.sign(row) * (1 + np.round(40 * np.abs(row)) * np.finfo("f8").eps),
    "subnormal doubles": lambda row: np.round(40 * row) * 5e-324,
    "subnormal": lambda row: row * 1e-42,
    "zeros of both signs": lambda row: np.where(np.abs(row) < 1, np.copysign(0.0, row), row),
    "saturated": lambda row: np.clip(row, -1, 1),
    "all but one tied": lambda row: (np.arange(len(row)) == 7).astype("f4"),
}


@pytest.mark.parametrize("classes", [30, 300, 1500])
@pytest.mark.parametrize("shape", WILD)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_that_are_not_tame_like_scipy(backend, classes, shape, dtype):
    a, b, c = teachers(classes + 1, (3, 2, classes))
    with np.errstate(over="ignore"):
        wild = [np.apply_along_axis(WILD[shape], 1, rows).astype(dtype) for rows in (a, b)]
    for left, right in ((wild[0], wild[1]), (wild[0], c), (c, wild[1])):
        close(ranks.kendall_tau_b(left, right), scipy_rows(kendalltau, left, right))
        top = ranks.topk_overlap(left, right, 5)
        best = [np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :5] for rows in (left, right)]
        close(top, [len(set(x) & set(y)) / 5 for x, y in zip(*best, strict=True)])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), classes=st.integers(25, 1200), levels=st.sampled_from([0.02, 0.5, 8, 512]))
def test_any_load_of_ties_like_scipy(seed, classes, levels):
    """From almost constant rows, whose ties are ordered by both teachers, to a few tied pairs, looked at one by one."""
    a, b = teachers(seed, (2, 2, classes), levels=levels)
    for backend in BACKENDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(devices, "HAS_NUMBA", backend)
            close(ranks.kendall_tau_b(a, b), scipy_rows(kendalltau, a, b))


def test_more_classes_than_halves_have_bits():
    a, b = teachers(2, (2, 1, 70_000), np.float16)
    close(ranks.kendall_tau_b(a, b), scipy_rows(kendalltau, a, b))


def test_ties_in_one_teacher_only(backend):
    a, b = teachers(1, (2, 4, 200))
    a = np.round(a)
    expected = scipy_rows(kendalltau, a, b)
    close(ranks.kendall_tau_b(a, b), expected)
    close(ranks.kendall_tau_b(b, a), expected)


def test_constant_single_and_two_classes(backend):
    close(ranks.kendall_tau_b(np.ones((1, 5)), np.arange(5.0)), [np.nan])
    close(ranks.spearman(np.ones((1, 5)), np.arange(5.0)), [np.nan])
    close(ranks.kendall_tau_b([[1.0]], [[2.0]]), [np.nan])
    close(ranks.kendall_tau_b([[1.0, 2.0], [1.0, 2.0]], [[0.0, 9.0], [9.0, 0.0]]), [1.0, -1.0])
    close(ranks.wrong_class_tau_b([[1.0, 2.0]], [[1.0, 2.0]], [0]), [np.nan])


def test_the_same_order_is_exactly_one(backend):
    for classes in (3, 10, 101, 1500):
        (rows,) = teachers(classes, (1, 20, classes), np.float16)
        assert (ranks.kendall_tau_b(rows, rows) == 1).all()
        assert (ranks.spearman(rows, rows) == 1).all()


def test_nan_spoils_its_row_alone(backend):
    a, b = teachers(3, (2, 4, 12))
    a[0, 3], b[2, 5], a[3, 7] = np.nan, -np.nan, np.nan
    labels = np.array([0, 0, 5, 7])  # in rows 2 and 3 the NaN is the target, which the wrong classes do without
    assert ranks.kendall_tau_b(a, b).isnan().tolist() == [True, False, True, True]
    assert ranks.topk_overlap(a, b, 2).isnan().tolist() == [True, False, True, True]
    found = ranks.rank_metrics([a, b], labels, EVERY_METRIC)
    for name in ("wrong_tau_b", "wrong_spearman", "top3_overlap"):
        assert found[name][0].isnan().tolist() == [True, False, False, False]
    close(found["wrong_tau_b"][0, 1:], scipy_rows(kendalltau, drop(a, labels)[1:], drop(b, labels)[1:]))
    close(found["wrong_spearman"][0, 1:], scipy_rows(spearmanr, drop(a, labels)[1:], drop(b, labels)[1:]))


def test_leading_axes_broadcast():
    a, b = teachers(0, (2, 6, 7))
    a = a.reshape(2, 3, 7)
    got = ranks.kendall_tau_b(a, torch.from_numpy(b[0]))
    assert got.shape == (2, 3)
    close(got.flatten(), scipy_rows(kendalltau, a.reshape(6, 7), np.repeat(b[:1], 6, axis=0)))
    assert ranks.kendall_tau_b(b[0], b[1]).shape == ()
    assert ranks.kendall_tau_b(np.empty((0, 7)), np.empty((0, 7))).shape == (0,)


def test_every_kind_of_array_gives_the_same():
    a, b = teachers(4, (2, 5, 40), np.float64, levels=4)  # quarters: exact in bfloat16 too
    expected = ranks.kendall_tau_b(a, b)
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        left = torch.from_numpy(a).to(kind).requires_grad_()
        assert torch.equal(ranks.kendall_tau_b(left, torch.from_numpy(b).to(kind)), expected)
    for kind in ("f2", ">f4", "f8", "i4"):
        scaled = (4 * a).astype(kind)
        assert torch.equal(ranks.kendall_tau_b(np.asfortranarray(scaled), b), expected)
    read_only = a.copy()
    read_only.flags.writeable = False
    assert torch.equal(ranks.kendall_tau_b(read_only[:, ::-1], b[:, ::-1]), expected)


# ------------------------------------------------------------------------------------------------------- many teachers


@pytest.mark.parametrize("wrong", [False, True])
def test_pairwise_like_each_pair(backend, wrong):
    logits = teachers(5, (4, 6, 30), np.float16)
    logits[2, 0] = 1.0
    labels = np.arange(6) if wrong else None
    got = ranks.pairwise_tau_b(logits, labels)
    assert got.shape == (4, 4, 6)
    for s, t in itertools.product(range(4), repeat=2):
        rows = [drop(logits[i], labels) if wrong else logits[i] for i in (s, t)]
        close(got[s, t], scipy_rows(kendalltau, *rows))


def test_streams_metrics_and_pairs_like_the_single_functions(backend):
    logits = teachers(6, (3, 20, 50), np.float16)
    labels = torch.arange(20)
    found = ranks.rank_metrics(logits, labels, EVERY_METRIC, pairs=[(2, 0), (1, 1)])
    assert list(found) == EVERY_METRIC
    a, b = logits[[2, 1]], logits[[0, 1]]
    for p in range(2):
        assert torch.equal(found["wrong_tau_b"][p], ranks.wrong_class_tau_b(a[p], b[p], labels))
        assert torch.equal(found["tau_b"][p], ranks.kendall_tau_b(a[p], b[p]))
        assert torch.equal(found["wrong_spearman"][p], ranks.spearman(a[p], b[p], labels))
        assert torch.equal(found["spearman"][p], ranks.spearman(a[p], b[p]))
        assert torch.equal(found["top3_overlap"][p], ranks.topk_overlap(a[p], b[p], 3, labels))
    assert ranks.rank_metrics(logits, labels)["wrong_tau_b"].shape == (3, 20)
    assert ranks.rank_metrics(logits[:1], labels)["wrong_tau_b"].shape == (0, 20)


def test_teachers_may_differ_in_float_type(tmp_path):
    logits = teachers(7, (2, 9, 11), np.float16)
    np.save(tmp_path / "teacher.npy", logits[0])
    mixed = [np.load(tmp_path / "teacher.npy", mmap_mode="r"), torch.from_numpy(logits[1]).double()]
    assert torch.equal(ranks.pairwise_tau_b(mixed), ranks.pairwise_tau_b(logits))


@pytest.mark.parametrize("classes", [10, 300, 1100])
def test_neither_threads_nor_blocks_nor_chunks_nor_backend_matter(monkeypatch, classes):
    logits = teachers(8, (3, 70, classes), np.float16, levels=8)
    labels = np.random.default_rng(0).integers(classes, size=70)
    expected = ranks.rank_metrics(logits, labels, EVERY_METRIC)
    threads = torch.get_num_threads()
    for backend, count, cells in itertools.product(BACKENDS, (1, 3), (1, 5000)):
        monkeypatch.setattr(devices, "HAS_NUMBA", backend)
        monkeypatch.setattr(rank_blocks, "BLOCK_CELLS", cells)
        monkeypatch.setattr(rank_blocks, "SMALL_CELLS", 1)
        torch.set_num_threads(count)
        try:
            parts = [ranks.rank_metrics(logits[:, s], labels[s], EVERY_METRIC) for s in (slice(0, 33), slice(33, 70))]
        finally:
            torch.set_num_threads(threads)
        for name, values in expected.items():
            assert torch.equal(torch.cat([part[name] for part in parts], dim=1), values), name


def test_without_numba_the_numbers_are_the_same():
    """In a process that cannot import it; the tests above run both backends beside each other."""
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np; from capmismatch import ranks; from capmismatch._numerics import devices\n"
        "assert not devices.HAS_NUMBA\n"
        "logits = np.random.default_rng(0).normal(size=(2, 1, 9)).round(1)\n"
        "print(ranks.wrong_class_tau_b(*logits, [3]).item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    logits = np.random.default_rng(0).normal(size=(2, 1, 9)).round(1)
    assert float(done.stdout) == ranks.wrong_class_tau_b(*logits, [3]).item()


# --------------------------------------------------------------------------------------------------------------- top k


@pytest.mark.parametrize("levels", [None, 0.5])
@pytest.mark.parametrize("wrong", [False, True])
def test_topk_like_a_loop(backend, levels, wrong):
    a, b = teachers(9, (2, 30, 12), levels=levels)
    labels = np.random.default_rng(1).integers(12, size=30) if wrong else None
    for k in (1, 3, 11):
        expected = []
        for i in range(30):
            classes = [c for c in range(12) if not wrong or c != labels[i]]
            top = [set(sorted(classes, key=lambda c, row=rows[i]: (-row[c], c))[:k]) for rows in (a, b)]
            expected.append(len(top[0] & top[1]) / k)
        close(ranks.topk_overlap(a, b, k, labels), expected)


def test_topk_breaks_ties_by_class_index(backend):
    tied = np.zeros((1, 4))
    close(ranks.topk_overlap(tied, [[4.0, 3.0, 2.0, 1.0]], 2), [1.0])
    close(ranks.topk_overlap(tied, [[1.0, 2.0, 3.0, 4.0]], 2), [0.0])


# ------------------------------------------------------------------------------------------------------------ affinity


def affinity_loop(logits, labels, tau):
    classes = logits.shape[1]
    matrix = np.full((classes, classes), np.nan)
    for y in set(labels.tolist()):
        rows = []
        for row in logits[labels == y].astype(np.float64):
            weights = np.exp((row - row.max()) / tau)
            weights[y] = 0
            rows.append(weights / weights.sum())
        matrix[y] = np.mean(rows, axis=0)
    return matrix


@pytest.mark.parametrize("cells", [30, 1 << 18])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_affinity_like_a_loop_and_whatever_the_chunks(backend, monkeypatch, dtype, cells):
    (logits,) = teachers(10, (1, 60, 7), dtype)
    labels = np.random.default_rng(2).integers(6, size=60)  # class 6 has no examples
    monkeypatch.setattr(ranks, "AFFINITY_CELLS", cells)
    matrix = ranks.affinity_matrix(logits, labels, tau=2.0, num_classes=7)
    close(matrix, affinity_loop(logits, labels, 2.0))
    assert matrix[6].isnan().all() and (matrix.diagonal()[:6] == 0).all()


def test_affinity_survives_large_logits_and_masks(backend):
    matrix = ranks.affinity_matrix([[5e4, 3e4, 3e4, -np.inf]], [0], tau=0.5)
    close(matrix[0], [0.0, 0.5, 0.5, 0.0])
    assert ranks.affinity_matrix(np.zeros((0, 3)), [], tau=1.0).isnan().all()


def test_affinity_tau_leaves_the_diagonal_out():
    (one,), (two,) = teachers(11, (1, 50, 5)), teachers(12, (1, 50, 5))
    labels = np.arange(50) % 4
    a, b = (ranks.affinity_matrix(logits, labels, tau=1.0).numpy() for logits in (one, two))
    got = ranks.affinity_tau_b(a, b)
    close(got[:4], [kendalltau(np.delete(a[y], y), np.delete(b[y], y)).statistic for y in range(4)])
    assert got[4].isnan()


# -------------------------------------------------------------------------------------------------------------- errors

three = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks.kendall_tau_b(three, np.zeros((3, 5))), r"same number of classes.* \(\(3, 4\), \(3, 5\)\)"),
        (lambda: ranks.kendall_tau_b(three, np.zeros((2, 4))), r"leading axes that broadcast.* \(\(3, 4\), \(2, 4\)\)"),
        (lambda: ranks.kendall_tau_b(1.0, 2.0), r"shapes \(\(\), \(\)\)"),
        (lambda: ranks.kendall_tau_b(three, three > 0), "in the second array, got dtype bool"),
        (lambda: ranks.kendall_tau_b(torch.zeros(3) * 1j, three[0]), "the first array, got dtype torch.complex64"),
        (lambda: ranks.kendall_tau_b(three[:, :0], three[:, :0]), r"between 1 and 2097151 classes, got 0"),
        (lambda: ranks.wrong_class_tau_b(three, three[:2], [0, 0, 0]), r"same shape \(N, C\).* \(\(3, 4\), \(2, 4\)\)"),
        (lambda: ranks.wrong_class_tau_b(three, three, [0, 4, 0]), r"labels in \[0, 4\), got 4 at row 1"),
        (lambda: ranks.wrong_class_tau_b(three, three, [0, -1, 0]), r"labels in \[0, 4\), got -1 at row 1"),
        (lambda: ranks.wrong_class_tau_b(three, three, [0, 0]), r"expected 3 labels.* got shape \(2,\)"),
        (lambda: ranks.topk_overlap(three, three, 5), r"k in \[1, 4\].* got 5"),
        (lambda: ranks.topk_overlap(three, three, 4, [0, 0, 0]), r"k in \[1, 3\].* got 4"),
        (lambda: ranks.topk_overlap(three, three, 0), "k a whole number >= 1, got 0"),
        (lambda: ranks.pairwise_tau_b([three, three[:2]]), r"\(2, 4\) at teacher 1, \(3, 4\) at teacher 0"),
        (lambda: ranks.pairwise_tau_b([]), "at least one teacher"),
        (lambda: ranks.rank_metrics([three, three]), "expected labels, which tau_b over the wrong classes needs"),
        (lambda: ranks.rank_metrics([three], [0] * 3, ["tau"]), r"\['wrong_tau_b', .*'top\{k\}_overlap'\], not 'tau'"),
        (lambda: ranks.rank_metrics([three], [0] * 3, pairs=[(0, 0), (0, 1)]), r"in \[0, 1\), got \(0, 1\) at pair 1"),
        (lambda: ranks.affinity_matrix(three, [0] * 3, tau=1.0, num_classes=5), r"shape \(N, 5\), got \(3, 4\)"),
        (lambda: ranks.affinity_matrix([[0.0, np.nan]], [0], tau=1.0), r"got nan at row 0, class 1 of logits\[0:1\]"),
        (lambda: ranks.affinity_matrix([[0.0, np.inf]], [0], tau=1.0), r"got inf at row 0, class 1 of logits\[0:1\]"),
        (lambda: ranks.affinity_matrix(three, [0] * 3, tau=0.0), "tau must be a positive number, got 0"),
        (lambda: ranks.affinity_matrix(three[0], [0], tau=1.0), r"shape \(N, C\), got \(4,\)"),
        (lambda: ranks.affinity_matrix([[0.0]], [0], tau=1.0), "at least 2 classes, got 1"),
        (lambda: ranks.affinity_tau_b(three, three), r"shape \(C, C\), got \(3, 4\)"),
    ],
)
def test_errors_say_what_and_where(call, message):
    with pytest.raises(InputError, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------- real data


@pytest.mark.real_data
def test_cifar_teachers_agree_as_much_as_measured():
    """CIFAR-10 teachers order the wrong classes of an example alike, but far from the same."""
    default = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("CAPMISMATCH_REAL_DATA", default)) / "cifar10" / "teachers_a_test_logits.npz"
    if not file.exists():
        pytest.skip(f"{file.name} not found; CAPMISMATCH_REAL_DATA names the folder that holds cifar10/")
    with np.load(file) as saved:
        labels = saved["labels"]
        logits = [saved[f"logits_resnet{depth}"] for depth in (20, 32, 44, 56)]
    found = ranks.rank_metrics(logits, labels)["wrong_tau_b"]
    means = found.mean(dim=1)
    assert ((means > 0.5) & (means < 0.65)).all(), means
    few = slice(0, 50)
    close(found[0, few], scipy_rows(kendalltau, drop(logits[0][few], labels[few]), drop(logits[1][few], labels[few])))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda a: ranks.topk_overlap(a, a, k=1.5), "k a whole number"),
        (lambda a: ranks.rank_metrics([a, a], [0, 1], metrics=[5]), "metrics must be among"),
        (lambda a: ranks.topk_overlap(torch.tensor(a).to_sparse(), a, k=1), "tensor of torch.sparse_coo"),
        (lambda a: probes.cmi(a, [0, 1], means="x"), "numbers as class means"),
    ],
)
def test_arguments_of_another_kind(call, named):
    with pytest.raises(InputError, match=named):
        call(np.eye(2, 3) + 1)
