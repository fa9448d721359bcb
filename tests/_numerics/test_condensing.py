from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capmismatch._numerics import condensing
from capmismatch._numerics.condense_settings import checked_betas
from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.condensing import Condensed, condense
from capmismatch._numerics.finer_halves import as_halves, from_halves
from capmismatch._numerics.isats_problem import Search
from capmismatch._numerics.isats_search import maximise
from capmismatch._numerics.softmax import Softened, take_apart
from capmismatch._numerics.token_columns import random_columns, splitmix64
from capmismatch.errors import InputError
from capmismatch.probes import REGISTRY
from capmismatch.temperature import SoftLabelSpec, soften_parts
from tests.messages import naming
from tests.texts import text_logits

EXAMPLE = [p for p in REGISTRY.values() if p.kind == "example"]
STORED, BETWEEN = (0.5, 1.0, 2.0, 4.0, 8.0), (0.7, 1.5, 3.0, 6.0)


def both(logits, labels, k=64, betas="octaves", dtype="float32"):
    condensed = condense(logits, labels, k, betas=betas)
    stored = CondensedParts.of(condensed.take(slice(None)))
    if dtype != "float32":
        below = condensed.below.astype(np.float16) if dtype == "float16" else from_halves(*as_halves(condensed.below))
        stored = CondensedParts.of(Condensed(**{**vars(condensed), "below": below}))
    return stored, take_apart(torch.as_tensor(logits), torch.as_tensor(labels))


def scale_of(name, vocabulary):
    """What a value is measured by: probabilities by 1, variances and averages over V tokens by what they can reach."""
    if name in ("derived_variance", "inherent_variance", "derived_average"):
        return 1 / (vocabulary - 1)
    return {"derived_std": vocabulary**-0.5, "effective_wrong": vocabulary, "logit_norm": vocabulary**0.5}.get(
        name, 1.0
    )


def errors(condensed, dense, tau):
    """(probe, row errors) on the scale of each probe, at a temperature."""
    here, there = Softened.of(condensed, tau), Softened.of(dense, tau)
    for p in EXAMPLE:
        scale = scale_of(p.name, dense.wrong_classes + 1)
        yield p.name, ((p.compute(here) - p.compute(there)) / scale).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float24", "float16"])
@pytest.mark.parametrize("tau", STORED)
def test_probes_of_condensed_rows_are_those_of_all_logits(tau: float, dtype: str) -> None:
    logits, labels = text_logits()
    for name, error in errors(*both(logits["large"], labels, dtype=dtype), tau):
        row, mean = (3e-4, 3e-5) if dtype == "float16" else (2e-5, 3e-6)
        row *= 2 if dtype == "float16" and tau < 1 else 1  # distances to the top are rounded, and doubled
        assert np.abs(error).max() < row and abs(error.mean()) < mean, (name, np.abs(error).max(), error.mean())


@pytest.mark.parametrize("betas,room", [("octaves", 3e-3), ("half", 3e-4)])
@pytest.mark.parametrize("tau", BETWEEN)
def test_between_kept_temperatures_the_tail_is_interpolated(tau: float, betas: str, room: float) -> None:
    logits, labels = text_logits()
    for name, error in errors(*both(logits["large"], labels, betas=betas), tau):
        assert abs(error.mean()) < room * (8 if "entropy" in name else 1), name


@settings(max_examples=25, deadline=None)
@given(
    st.integers(3, 300),
    st.integers(2, 80),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "ties", "label on top", "label last"]),
)
def test_loops_and_tensors_condense_alike_whatever_the_rows(vocabulary: int, k: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, vocabulary)) * rng.choice([0.1, 3.0, 30.0])
    labels = rng.integers(0, vocabulary, 4)
    if kind == "ties":
        logits = np.round(logits)
    if kind.startswith("label"):
        logits[np.arange(4), labels] = logits.max() + 1 if kind == "label on top" else logits.min() - 1
    rates = checked_betas("half")
    head = min(k, vocabulary - 1)
    found = condensing._by_loops(logits, labels, head, rates, np.arange(4), "logits")
    expected = condensing._by_tensors(logits, labels, head, rates, np.arange(4), "logits")
    for one, other in zip(found[:1] + found[-1:], expected[:1] + expected[-1:], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found[1:-1], expected[1:-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-6, atol=3e-5)


@pytest.mark.parametrize("vocabulary,k", [(3, 2), (5, 4), (5, 64), (40, 39), (66, 64)])
def test_a_head_of_nearly_all_tokens_is_exact_at_any_temperature(vocabulary: int, k: int) -> None:
    rng = np.random.default_rng(1)
    logits, labels = 3 * rng.normal(size=(20, vocabulary)), rng.integers(0, vocabulary, 20)
    for tau in (1.0, *((0.1, 30.0, 1.5) if k >= vocabulary - 1 else ())):
        for name, error in errors(*both(logits, labels, k=k), tau):
            assert np.abs(error).max() < 1e-5 * max(1.0, 1 / tau), (tau, name)


def test_the_head_holds_the_likeliest_wrong_tokens_and_the_label_is_kept_apart() -> None:
    logits, labels = text_logits(rows=50)
    values = logits["large"].astype(float)
    condensed = condense(logits["large"], labels, k=16)
    for row, label in enumerate(labels):
        order = np.argsort(-values[row], kind="stable")
        assert condensed.ids[row].tolist() == [token for token in order if token != label][:16]
        assert order[condensed.label_rank[row]] == label
    np.testing.assert_allclose(condensed.target, values[np.arange(50), labels], rtol=1e-6)
    assert condensed.ids.dtype == np.uint16
    assert len(repr(condensed)) < 150


def test_tokens_beyond_65_536_keep_their_numbers() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 70_000)).astype(np.float32)
    logits[:, 69_999] = 20
    condensed = condense(logits, [0, 1], k=4)
    assert condensed.ids.dtype == np.uint32 and condensed.ids[:, 0].tolist() == [69_999] * 2


def test_masked_tokens_have_probability_0_and_padding_is_cut_before_anything_is_summed() -> None:
    logits, labels = text_logits(rows=30)
    values = logits["large"].astype(float)
    labels = np.where(labels < 3, 4, labels)
    masked = values.copy()
    masked[:, [1, 2]] = -np.inf
    low = values.copy()
    low[:, [1, 2]] = -500
    here, there = Softened.of(CondensedParts.of(condense(masked, labels)), 1.0), Softened(low, labels)
    for name in ("target_prob", "inherent_variance", "entropy"):
        np.testing.assert_allclose(REGISTRY[name].compute(here), REGISTRY[name].compute(there), rtol=1e-4, err_msg=name)
    assert not np.isin([1, 2], condense(masked, labels).ids).any()
    padded = np.concatenate([values, np.full((30, 8), -40.0)], axis=1)
    cut, plain = condense(padded, labels, vocabulary=5000), condense(values, labels)
    for name in ("ids", "log_sum", "mean", "label_rank"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(plain, name))
    padded[:, -1] = 0.0
    with pytest.raises(InputError, match=naming("8 columns", "5000", "another tokenizer")):
        condense(padded, labels, vocabulary=5000)


def test_positions_without_a_label_are_no_rows() -> None:
    logits, labels = text_logits(rows=20)
    some = labels.copy()
    some[[0, 7]] = -100
    condensed, whole = condense(logits["small"], some), condense(logits["small"], labels)
    assert condensed.rows.tolist() == [row for row in range(20) if row not in (0, 7)]
    np.testing.assert_array_equal(condensed.ids, whole.ids[condensed.rows])


def top_k_scattered(value):
    logits, _ = text_logits(rows=4)
    values = logits["large"].astype(np.float32)
    values[values < np.sort(values, axis=1)[:, -64:-63]] = value
    return values


GOOD = np.random.default_rng(0).normal(size=(3, 200))
BAD = {
    "NaN": (
        lambda: np.where(np.arange(200) == 5, [[0.0], [np.nan], [0.0]], GOOD),
        [0, 1, 2],
        {},
        ("nan", "row 1", "token 5"),
    ),
    "infinity": (lambda: np.where(GOOD.max() == GOOD, np.inf, GOOD), [0, 1, 2], {}, ("inf",)),
    "masked once": (lambda: np.where(GOOD[1, 9] == GOOD, -np.inf, GOOD), [0, 1, 2], {}, ("row 1", "token 9", "-inf")),
    "masked in the first row alone": (
        lambda: np.where(GOOD[0, 9] == GOOD, -np.inf, GOOD),
        [0, 1, 2],
        {},
        ("-inf", "row 1", "token 9"),
    ),
    "masked label": (lambda: np.where(np.arange(200) == 2, -np.inf, GOOD), [0, 1, 2], {}, ("2", "row 2")),
    "beyond the vocabulary": (lambda: GOOD, [0, 200, 2], {}, ("[0, 200)", "200", "row 1")),
    "negative": (lambda: GOOD, [0, -1, 2], {}, ("-1", "row 1")),
    "fractions": (lambda: GOOD, [0, 1.5, 2], {}, ("1.5", "row 1")),
    "k": (lambda: GOOD, [0, 1, 2], {"k": 1}, ("k", "2", "1")),
    "fewer labels": (lambda: GOOD, [0, 1], {}, ("3 labels",)),
    "betas": (lambda: GOOD, [0, 1, 2], {"betas": [0.0, 1.0]}, ("betas",)),
    "one beta": (lambda: GOOD, [0, 1, 2], {"betas": [1.0, 1.0]}, ("two betas",)),
    "a number as betas": (lambda: GOOD, [0, 1, 2], {"betas": 2}, ("two betas",)),
    "unknown betas": (lambda: GOOD, [0, 1, 2], {"betas": "octave"}, ("octaves",)),
    "vocabulary": (lambda: GOOD, [0, 1, 2], {"vocabulary": 201}, ("201", "200")),
    "top k, -inf": (lambda: top_k_scattered(-np.inf), [0] * 4, {}, ("5000", "top k")),
    "top k, -1e4": (lambda: top_k_scattered(-1e4), [0] * 4, {}, ("top k",)),
    "top k, least float": (lambda: top_k_scattered(np.finfo(np.float32).min), [0] * 4, {}, ("top k",)),
    "one row": (lambda: GOOD[0], [0], {}, ("(N, V)",)),
    "predictions": (lambda: GOOD > 0, [0, 1, 2], {}, ("True and False",)),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_condensed_is_refused_with_its_place(what: str) -> None:
    logits, labels, options, words = BAD[what]
    with pytest.raises(InputError, match=naming(*words).replace(r"(?<!\w)", "").replace(r"(?!\w)", "")):
        condense(logits(), labels, **options)


def test_rows_that_contradict_themselves_are_refused() -> None:
    logits, labels = text_logits(rows=5)
    good = vars(condense(logits["small"], labels, k=4))
    beyond, above, lost = good["ids"].copy(), good["below"].copy(), good["log_sum"].copy()
    beyond[3, 1], above[2, 1], lost[1, 0] = 5000, 0.5, np.nan
    for changed, words in (
        ({"ids": beyond}, "5000.*row 3"),
        ({"below": above}, "row 2"),
        ({"log_sum": lost}, "row 1"),
        ({"slope": good["slope"][:3]}, "slope"),
    ):
        with pytest.raises(InputError, match=words):
            Condensed(**good | changed)


def test_temperatures_whose_sums_are_not_known_and_whatever_needs_all_columns_are_refused() -> None:
    logits, labels = text_logits(rows=5)
    rows = CondensedParts.of(condense(logits["small"], labels))
    for tau in (0.4, 9.0):
        with pytest.raises(InputError, match=f"{tau:g}|0.2"):
            REGISTRY["derived_variance"].compute(Softened.of(rows, tau))
    for name in ("probs", "log_probs", "wrong", "logits"):
        with pytest.raises(InputError, match="all 5000 tokens"):
            getattr(Softened.of(rows, 1.0), name)


# ------------------------------------------------------------------------------------------------------- temperatures


@pytest.mark.parametrize("constraint", ["order", "anchor", "none"])
@pytest.mark.parametrize("wrong", ["plain", "target", "free"])
def test_isats_finds_the_maximum_that_all_logits_have(constraint: str, wrong: str) -> None:
    logits, labels = text_logits(rows=60)
    spec = SoftLabelSpec("ISATS", 1.0, constraint=constraint, bounds=(0.5, 2.0), wrong=wrong)
    here, there = (soften_parts(spec, rows) for rows in both(logits["large"], labels, betas="half"))
    variance = [REGISTRY["scaled_derived_variance"].compute(result.softened).numpy() for result in (here, there)]
    np.testing.assert_allclose(*variance, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(here.softened.target_prob, there.softened.target_prob, atol=2e-3)
    assert (here.at_bound == there.at_bound).double().mean() > 0.95


def test_the_search_over_condensed_rows_is_the_proved_one_where_every_token_is_kept() -> None:
    rng = np.random.default_rng(2)
    logits, labels = 4 * rng.normal(size=(200, 30)), rng.integers(0, 30, 200)
    condensed, dense = both(logits, labels, k=29)
    lower, upper = torch.full((200,), 0.5, dtype=torch.float64), torch.full((200,), 2.0, dtype=torch.float64)
    found = [
        maximise(Search(rows.target_logit, rows.max_wrong_logit, rows.wrong_logits, 1.0), lower, upper)
        for rows in (condensed, dense)
    ]
    heights = [
        2 * torch.nn.functional.logsigmoid(-(dense.target_logit - dense.max_wrong_logit / tau - sums.log_total))
        + sums.variance.log()
        for tau in found
        for sums in dense.sums_at([tau])
    ]
    np.testing.assert_allclose(heights[0], heights[1], atol=1e-6)


def test_lower_temperatures_of_wrong_rows_hand_their_mass_to_one_token() -> None:
    """Where the label is not the likeliest token, as mostly, ATS raises a wrong one; the rule leaves these rows."""
    logits, labels = text_logits(rows=100)
    rows, _ = both(logits["large"], labels)
    free, plain = (SoftLabelSpec("ATS", 1.0, 0.75, wrong=wrong, bounds=(0.5, 2.0)) for wrong in ("free", "plain"))
    wrong = rows.correct == 0
    ts = soften_parts(free.plain, rows).softened.top_wrong_prob[wrong].mean()
    lowered = soften_parts(free, rows, ats_reads_wrong=True).softened.top_wrong_prob[wrong].mean()
    kept = soften_parts(plain, rows, ats_reads_wrong=True).softened.top_wrong_prob[wrong].mean()
    assert lowered > 1.3 * ts and kept == pytest.approx(float(ts))
    assert wrong.double().mean() > 0.5


# -------------------------------------------------------------------------------------------------------------- traps


def test_top_k_alone_is_far_off_beyond_temperature_1() -> None:
    logits, labels = text_logits(rows=100)
    condensed, dense = both(logits["large"], labels, k=64)
    head = condensed.head.numpy()
    for tau, least in ((2.0, 1.0), (4.0, 30.0)):  # 100 % and 3,000 % too high
        truth = REGISTRY["inherent_variance"].compute(Softened.of(dense, tau)).mean().item()
        e = np.exp(head / tau)
        share = e / e.sum(1, keepdims=True)
        renormalised = ((share**2).sum(1) / 4999 - 1 / 4999**2).mean()
        assert renormalised / truth - 1 > least
        kept = REGISTRY["inherent_variance"].compute(Softened.of(condensed, tau)).mean().item()
        assert kept == pytest.approx(truth, rel=1e-4)


def test_random_columns_come_from_the_row_and_the_seed_alone() -> None:
    rows, labels = np.arange(100), np.full(100, 7)
    columns = random_columns(rows, labels, 5000, 64, seed=3)
    np.testing.assert_array_equal(random_columns(rows[40:], labels[40:], 5000, 64, seed=3), columns[40:])
    assert not np.isin(7, columns) and all(len(set(row)) == 64 for row in columns.tolist())
    assert (columns != random_columns(rows, labels, 5000, 64, seed=4)).mean() > 0.9
    assert abs(columns.mean() / 2500 - 1) < 0.05
    small = random_columns(rows, labels, 66, 64, seed=0)
    assert all(len(set(row)) == 64 and 7 not in row for row in small.tolist())
    assert len({tuple(sorted(row)) for row in small.tolist()}) > 1


def test_splitmix64_gives_the_published_numbers() -> None:
    state = np.array([1234567], np.uint64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        numbers = [int(splitmix64(state + np.uint64(i) * golden)[0]) for i in range(3)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_tails_far_below_the_head_are_summed_as_in_double_precision() -> None:
    """Single tokens reach the head, all others lie so far below that their powers leave the normal floats."""
    logits = np.random.default_rng(0).normal(-60, 12, (6, 5000)).astype(np.float32)
    logits[:, :3] = 0.0, -1.0, -20.0
    labels = np.zeros(6, int)
    condensed = condense(logits, labels, 2)
    tail = np.sort(np.delete(logits, 0, axis=1).astype(np.float64), axis=1)[:, :-2] - condensed.max_wrong[:, None]
    for g, beta in enumerate(condensed.betas):
        largest = beta * tail.max(1)
        expected = largest + np.log(np.exp(beta * tail - largest[:, None]).sum(1))
        np.testing.assert_allclose(condensed.log_sum[:, g], expected, rtol=1e-6, atol=2e-6)
