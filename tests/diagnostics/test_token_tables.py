from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch

import capmismatch as cm
from capmismatch.diagnostics.means import ClusteredMeans, mean
from capmismatch.errors import InputError
from capmismatch.probes import REGISTRY
from capmismatch.selection.candidates import probe_draws, read_probes
from tests.texts import text_logits, windows

ROWS, VOCABULARY = 400, 5000
PARAMS = {"small": 1000, "middle": 9000, "large": 50_000}
LOGITS, LABELS = text_logits(ROWS, VOCABULARY)


@pytest.fixture(scope="module")
def banks() -> tuple[cm.TokenBank, cm.TokenBank]:
    """The same rows condensed, and with all logits."""
    given = {"sequences": windows(ROWS), "params": PARAMS}
    return tuple(cm.token_bank_from_logits(LOGITS, LABELS, dense=dense, **given) for dense in (False, True))


@pytest.fixture(scope="module")
def probes(banks) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = [name for name, p in REGISTRY.items() if p.kind not in ("spread", "classes")]
    condensed, dense = (cm.probe(bank, [0.5, 1, 1.5, 2], names, progress=False) for bank in banks)
    return condensed, dense


def test_temperatures_are_matched_where_sums_were_kept(banks) -> None:
    scaled = {"small": LOGITS["small"], "same": 2 * LOGITS["small"], "sharp": 8 * LOGITS["small"]}
    bank = cm.token_bank_from_logits(scaled, LABELS, sequences=windows(ROWS))
    with pytest.warns(UserWarning, match="gives sharp the mean entropy"):
        found = cm.matched_temperatures(bank, tau=2.0, reference="small", progress=False)["value"]
    assert found[:2].tolist() == pytest.approx([2.0, 4.0], rel=1e-2) and np.isnan(found[2])


def test_probes_of_condensed_rows_have_the_means_and_errors_of_all_logits(probes) -> None:
    condensed, dense = probes
    between = condensed["tau"].eq(1.5) | condensed["probe"].eq("calibration_tau")
    kept = ~between
    for column, room in (("value", 1e-4), ("se", 1e-3)):
        np.testing.assert_allclose(condensed.loc[kept, column], dense.loc[kept, column], rtol=room, atol=1e-9)
    np.testing.assert_allclose(condensed.loc[between, "value"], dense.loc[between, "value"], rtol=3e-3)
    assert condensed["n"].tolist() == dense["n"].tolist() and set(condensed["sequences"].dropna()) == {ROWS // 10}
    assert "exact" not in dense
    inexact = condensed[~condensed["exact"]]
    searched = inexact["probe"].eq("calibration_tau")
    assert searched.any() and inexact.loc[searched, "findings"].str.contains("CM029").all()
    inexact = inexact[~searched]
    assert set(inexact["tau"]) == {1.5} and inexact["findings"].str.contains("CM029").all()
    uniform = condensed[condensed["findings"].str.contains("CM030")]
    assert set(uniform["probe"]) == {"effective_wrong"} and uniform["value"].min() > 0.1 * (VOCABULARY - 1)


def test_what_suits_a_vocabulary_is_measured_by_default(banks) -> None:
    condensed, _ = banks
    table = cm.probe(condensed, progress=False)
    assert set(table["tau"].dropna()) == {0.5, 1.0, 2.0}
    missing = {name for name, p in REGISTRY.items() if p.kind in ("spread", "classes")}
    assert set(table["probe"]) == set(REGISTRY) - missing
    np.testing.assert_allclose(
        table.loc[table["probe"].eq("scaled_derived_variance"), "value"],
        table.loc[table["probe"].eq("derived_variance"), "value"] * (VOCABULARY - 1),
    )
    plain = cm.bank_from_arrays({"a": 3 * np.eye(4)}, [0, 1, 2, 3])
    assert not {"scaled_derived_variance", "effective_wrong"} & set(cm.probe(plain, progress=False)["probe"])
    for name in missing:
        with pytest.raises(InputError, match=f"'{name}' need all 5000 tokens"):
            cm.probe(condensed, names=[name], progress=False)
    with pytest.raises(InputError, match="affinities need all 5000 tokens"):
        cm.affinity(condensed)


def test_errors_are_those_of_a_regression_clustered_by_sequence() -> None:
    rng = np.random.default_rng(0)
    clusters = np.sort(rng.integers(0, 12, 200))
    values = 1e6 + rng.normal(size=12)[clusters] + rng.normal(size=200)
    fit = sm.OLS(values, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": True})
    found = mean(values, clusters)
    assert found["value"] == pytest.approx(fit.params[0], rel=1e-12)
    assert found["se"] == pytest.approx(fit.bse[0], rel=1e-6)
    assert found["sequences"] == 12 and found["se"] > 1.5 * mean(values)["se"]
    parts = ClusteredMeans(2, 12)
    with_gaps = np.stack([values, np.where(clusters == 3, np.nan, values)])
    for some in np.array_split(rng.permutation(200), 5):
        parts.add(with_gaps[:, some], clusters[some])
    assert parts.columns(0) == pytest.approx(found)
    assert parts.columns(1) == pytest.approx(mean(values[clusters != 3], clusters[clusters != 3]))
    assert np.isnan(mean(values[:5], np.zeros(5, int))["se"]) and mean(np.empty(0), np.empty(0, int))["n"] == 0


def test_differences_of_teachers_are_paired(banks, probes) -> None:
    condensed, dense = banks
    table = cm.probe_differences(condensed, [1.0], ["nll", "target_prob"])
    assert set(table["reference"]) == {"tokens/large"} and len(table) == 4
    means = probes[0].set_index(["teacher", "probe", "tau"])
    row = table[table["teacher"].eq("middle") & table["probe"].eq("nll")].iloc[0]
    one, other = (means.loc[(name, "nll")].iloc[0] for name in ("middle", "large"))
    assert row["value"] == pytest.approx(one["value"] - other["value"])
    assert row["se"] < 0.6 * np.hypot(one["se"], other["se"])
    values = cm.example_values(dense, ["nll"]).pivot(index="id", columns="teacher", values="value")
    less = (values["middle"] - values["large"]).loc[dense.rows.ids].to_numpy()
    assert row["se"] == pytest.approx(mean(less, windows(ROWS))["se"], rel=1e-3)


# -------------------------------------------------------------------------------------------------------------- ranks


def test_random_columns_are_unbiased_and_lists_of_the_likeliest_are_not(banks) -> None:
    condensed, dense = banks
    ranks = cm.rank_stability(condensed, progress=False).set_index(["teacher_a", "teacher_b", "metric"])["value"]
    truth = cm.rank_stability(dense, ["wrong_tau_b", "wrong_spearman"], progress=False)
    truth = truth.set_index(["teacher_a", "teacher_b", "metric"])["value"]
    for a, b in combinations(LOGITS, 2):
        assert ranks[a, b, "vocab_tau_b"] == pytest.approx(truth[a, b, "wrong_tau_b"], abs=0.011)
        assert ranks[a, b, "vocab_spearman"] == pytest.approx(truth[a, b, "wrong_spearman"], abs=0.02)
        lists = []
        for row in range(100):
            heads = [condensed.condensed_rows(f"tokens/{name}", np.array([row])).ids[0] for name in (a, b)]
            union = np.union1d(*heads)
            lists.append(float(cm.ranks.kendall_tau_b(LOGITS[a][row, union], LOGITS[b][row, union])))
        assert np.mean(lists) < truth[a, b, "wrong_tau_b"] - 0.2


def test_overlaps_and_the_order_of_the_references_head_are_exact(banks) -> None:
    condensed, dense = banks
    ranks = cm.rank_stability(condensed, progress=False)
    assert ranks["metric"].unique().tolist() == [
        *("vocab_tau_b", "vocab_spearman", "head_tau_b"),
        *("top1_overlap", "top3_overlap", "top5_overlap", "top64_overlap"),
    ]
    exact = cm.rank_stability(dense, ["top1_overlap", "top3_overlap", "top5_overlap"], progress=False)
    found = ranks[ranks["metric"].isin(exact["metric"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, exact, check_exact=False, rtol=1e-12)
    head = condensed.condensed_rows("tokens/large", np.arange(ROWS)).ids.astype(int)
    read = [np.take_along_axis(LOGITS[name], head, axis=1) for name in ("small", "middle")]
    expected = float(cm.ranks.kendall_tau_b(*read).mean())
    row = ranks[ranks["metric"].eq("head_tau_b") & ranks["teacher_a"].eq("small") & ranks["teacher_b"].eq("middle")]
    assert row["value"].item() == pytest.approx(expected, abs=3e-3)
    with pytest.raises(InputError, match="vocab_tau_b"):
        cm.rank_stability(condensed, ["wrong_tau_b"], progress=False)
    assert not cm.plots.drawn_data(cm.plots.rank_matrix(ranks)).empty


# ------------------------------------------------------------------------------------------------- restored variance


def test_restored_variance_of_condensed_rows_is_that_of_all_logits(banks) -> None:
    condensed, dense = (cm.restored_variance(bank, progress=False) for bank in banks)
    assert set(condensed["tau_target"]) == {1.0} and set(condensed["wrong"]) == {"", "plain"}
    keys = ["teacher", "method", "quantity", "rows"]
    both = condensed.merge(dense, on=keys, suffixes=("", "_dense"))
    assert len(both) == len(condensed) == len(dense)
    plain = both[both["method"].eq("TS")]
    np.testing.assert_allclose(plain["value"], plain["value_dense"], rtol=3e-5, atol=1e-9)
    np.testing.assert_allclose(both["value"], both["value_dense"], rtol=6e-3, atol=2e-3)
    wrong = condensed[condensed["rows"].eq("wrong")].pivot(
        index="teacher", columns=["method", "quantity"], values="value"
    )
    np.testing.assert_allclose(wrong["ISATS", "derived_variance"], wrong["TS", "derived_variance"])
    np.testing.assert_allclose(wrong["ATS", "derived_variance"], wrong["TS", "derived_variance"])
    with pytest.raises(InputError, match="bounds"):
        cm.restored_variance(banks[0], bounds=(0.4, 2.0), constraint="none", wrong="free", progress=False)


# ------------------------------------------------------------------------------------------------- checks and choices


def test_guessers_copies_and_coarse_logits_are_found() -> None:
    rng = np.random.default_rng(1)
    rounded = np.round(LOGITS["large"] * 8) / 8  # as bfloat16 near 20
    teachers = {**LOGITS, "shuffled": rng.permutation(LOGITS["large"]), "copy": LOGITS["middle"], "coarse": rounded}
    untrained = rng.normal(size=(ROWS, VOCABULARY)).astype(np.float32)
    bank = cm.token_bank_from_logits(
        {**teachers, "untrained": untrained}, LABELS, sequences=windows(ROWS), params={**PARAMS, "coarse": 60_000}
    )
    table = cm.check(bank).set_index("teacher")
    assert table["usable"].to_dict() == {
        **{"small": True, "middle": True, "large": True, "coarse": True},
        **{"shuffled": False, "copy": False, "untrained": False},
    }
    assert table.loc[["shuffled", "untrained"], "findings"].str.contains("CM020").all()
    assert "CM021" in table.loc["copy", "findings"] and "CM021" not in table.loc["middle", "findings"]
    assert "CM010" in table.loc["coarse", "findings"] and "CM010" not in table.loc["large", "findings"]
    assert table.loc["large", "accuracy"] == pytest.approx((LOGITS["large"].argmax(1) == LABELS).mean())


def test_stand_ins_and_rows_that_were_not_written_are_found() -> None:
    masked, low, unwritten, one_hot = (LOGITS["large"].copy() for _ in range(4))
    columns = np.setdiff1d(np.arange(VOCABULARY), LABELS)[:25]
    masked[:, columns], low[:, columns] = -1e9, -1e4
    unwritten[::20] = 0
    one_hot[:] = np.where(np.arange(VOCABULARY) == LOGITS["large"].argmax(1)[:, None], 5.0, 0.0)
    teachers = {**LOGITS, "masked": masked, "low": low, "unwritten": unwritten, "one-hot": one_hot}
    table = cm.check(cm.token_bank_from_logits(teachers, LABELS, sequences=windows(ROWS))).set_index("teacher")
    found = table["findings"].str.contains("CM019")
    assert found[found].index.tolist() == ["masked", "low", "unwritten", "one-hot"]
    assert table.loc[["small", "middle", "large"], "usable"].all()


def test_a_sound_bank_is_found_sound(banks) -> None:
    few, labels = text_logits(300, 200)
    dense = cm.token_bank_from_logits(few, labels, sequences=windows(300), params=PARAMS)
    for bank in (banks[0], dense):
        table = cm.check(bank)
        assert table["usable"].all() and not table["findings"].str.contains("CM02").any()


def test_picks_and_links_expect_nothing_of_variances_over_a_vocabulary(probes) -> None:
    choice = cm.pick(probes[0])
    assert choice.rule == "lowest nll" and choice.teacher != "small"
    seeds = pd.DataFrame({"seed": [0, 1, 2]})
    results = probes[0][["family", "teacher"]].drop_duplicates().merge(seeds, how="cross")
    results = results.assign(
        teacher_seed=0,
        student="tiny",
        label="KD",
        method="KD",
        split="test",
        accuracy=[0.3, 0.31, 0.3, 0.2, 0.21, 0.2, 0.1, 0.11, 0.1],
    )
    links = cm.correlate(probes[0], results, n_boot=20).set_index("probe")
    assert (
        links.loc["derived_variance", "expected_sign"].isna().all() and links.loc["nll", "expected_sign"].eq(-1).all()
    )
    assert not links.loc["derived_variance", "findings"].str.contains("CM006").any()


def test_draws_of_a_probe_are_of_whole_sequences(banks, probes) -> None:
    values = cm.example_values(banks[0], ["nll"])
    assert values["sequence"].nunique() == ROWS // 10
    measurements, _ = read_probes(probes[0], "val")
    draws = probe_draws(values, measurements, "nll", 4000, seed=0)
    table = probes[0][probes[0]["probe"].eq("nll")].set_index("teacher")
    assert draws.std().to_numpy() == pytest.approx(
        table.loc[draws.columns.get_level_values(1), "se"].to_numpy(), rel=0.06
    )
    less = draws["tokens", "middle"] - draws["tokens", "large"]
    paired = cm.probe_differences(banks[0], names=["nll"]).set_index("teacher")["se"]["middle"]
    assert less.std() == pytest.approx(paired, rel=0.06)
    alone = probe_draws(values.drop(columns="sequence"), measurements, "nll", 500, seed=0)
    assert alone.mean().to_numpy() == pytest.approx(draws.mean().to_numpy(), abs=0.03)


def test_one_position_is_shown_with_the_tokens_that_are_known(banks) -> None:
    condensed, dense = banks
    table = cm.dark_knowledge(condensed, tau=2.0, tau_other=1.0)
    whole = cm.dark_knowledge(dense, table["example"].iloc[0], tau=2.0, tau_other=1.0)
    assert table.groupby(["teacher", "method"])["probability"].sum().to_numpy() == pytest.approx(1)
    both = table.merge(whole, on=["teacher", "method", "class"])
    assert len(both) == 2 * 3 * 65
    np.testing.assert_allclose(both["probability_x"], both["probability_y"], rtol=0.02, atol=1e-4)


def test_the_explorer_shows_condensed_rows(banks) -> None:
    pytest.importorskip("ipywidgets")
    explorer = cm.explore(banks[0], n=100)
    assert explorer.view.softening.label == "ISATS order m=1 wrong=plain tau=1 bounds=0.5..2"
    assert set(explorer.tables["class_ranks"]["metric"]) == {"vocab_tau_b"}
    explorer.method.value = "ATS"
    assert explorer.view.softening.wrong == "plain"
    explorer.tau.value = 16.0
    assert "expected temperatures" in explorer._note.value


# -------------------------------------------------------------------------------------------------------------- pairs


def test_pair_probes_are_divergences_of_all_logits(banks) -> None:
    table = cm.pair_probes(banks[1], "tokens/small", [1.0, 2.0]).set_index(["teacher", "probe", "tau"])
    for name, tau in (("middle", 1.0), ("large", 2.0)):
        log_p, log_q = (torch.log_softmax(torch.from_numpy(LOGITS[key]).double() / tau, 1) for key in (name, "small"))
        p, q = log_p.exp(), log_q.exp()
        mixed = (0.1 * p + 0.9 * q).log()
        expected = {
            "kl": (p * (log_p - log_q)).sum(1),
            "reverse_kl": (q * (log_q - log_p)).sum(1),
            "skewed_kl": (p * (log_p - mixed)).sum(1),
        }
        for probe, values in expected.items():
            found = table.loc[(name, probe, tau)]
            assert found["value"] == pytest.approx(float(values.mean()), rel=1e-9), probe
            assert found["se"] == pytest.approx(mean(values.numpy(), windows(ROWS))["se"], rel=1e-6)
    ratios = table.reset_index().query("probe == 'size_ratio'").set_index("teacher")["value"]
    assert ratios.to_dict() == {"middle": 9.0, "large": 50.0}
    few = cm.bank_from_arrays({"s": [[2.0, 1, 0]], "t": [[0.0, 9, 1]]}, [0])
    rsr = cm.pair_probes(few, "logits/s", names=["rsr"])["value"].item()
    p, log_q = (
        f(torch.tensor(values).double(), 0)
        for f, values in ((torch.softmax, [0.0, 9, 1]), (torch.log_softmax, [2.0, 1, 0]))
    )
    assert rsr == pytest.approx(float((p * torch.tensor([1.0, 2, 3])).sum() / -(p * log_q).sum()))


def test_pair_probes_of_condensed_rows_are_lower_bounds_that_know_how_near_they_are(banks) -> None:
    condensed, dense = (cm.pair_probes(bank, "tokens/small", [0.5, 1.0]).dropna(subset="tau") for bank in banks)
    both = condensed.merge(dense, on=["teacher", "probe", "tau"], suffixes=("", "_all"))
    assert len(both) == 2 * 3 * 2 and both["known"].between(0.4, 1.0).all()
    ratio = both["value"] / both["value_all"]
    assert ratio.lt(1.001).all() and ratio.gt(0.3).all()
    assert ratio[both["known"].gt(0.95)].gt(0.8).all()
    joined = pd.concat([cm.probe(banks[0], [1.0], ["nll"], progress=False), condensed])
    assert set(joined["probe"]) == {"nll", "kl", "reverse_kl", "skewed_kl"}
    for options, words in (({"names": ["rsr"]}, "all 5000"), ({"skew": 1.0}, "skew"), ({"student": "tiny"}, "tiny")):
        with pytest.raises(InputError, match=words):
            cm.pair_probes(banks[0], **{"student": "tokens/small", **options})
