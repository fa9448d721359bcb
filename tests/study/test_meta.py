"""Across families: regret of rules and of evidence against sums by hand, on families whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from capmismatch._utils.files import write_table
from capmismatch.cli import app
from capmismatch.errors import InputError
from capmismatch.selection.shipped import shipped_evidence
from capmismatch.study.meta import Meta, meta

SIZES = np.array([1e4, 3e4, 1e5, 3e5, 1e6, 3e6])
TEACHERS = [f"t{number}" for number in range(len(SIZES))]


def study(name: str, course: np.ndarray, seeds: int = 4, noise: float = 1e-4) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A family whose students are as accurate as `course` says, and whose derived std goes with that."""
    draws = np.random.default_rng(len(name))
    probes = [
        {"family": name, "teacher": teacher, "params": size, "seed": 0, "split": split, "tau": tau, "probe": probe}
        | {"value": value, "se": 1e-3}
        for split in ("val", "test")
        for teacher, size, mean, place in zip(TEACHERS, SIZES, course, range(6), strict=True)
        for probe, tau, value in (
            ("derived_std", 4.0, mean / 10),
            ("accuracy", np.nan, 0.7 + 0.03 * place),
            ("nll", np.nan, 1.0 - 0.1 * place),
        )
    ]
    results = [
        {"family": name, "teacher": teacher, "params": size, "teacher_seed": 0, "student": "tiny", "method": "KD"}
        | {"label": "KD tau=4", "tau": 4.0, "seed": seed, "split": split, "accuracy": mean + noise * draws.normal()}
        | {"n": 1000}
        for split in ("val", "test")
        for teacher, size, mean in zip(TEACHERS, SIZES, course, strict=True)
        for seed in range(seeds)
    ]
    return pd.DataFrame(probes), pd.DataFrame(results)


PEAKED = [np.array([0.60, 0.63, 0.66, 0.65, 0.63, 0.61]) + shift for shift in (0.0, 0.02, -0.03)]
RISING = np.array([0.50, 0.53, 0.55, 0.57, 0.58, 0.59])


@pytest.fixture(scope="module")
def found() -> Meta:
    courses = {"a": PEAKED[0], "bb": PEAKED[1], "ccc": PEAKED[2], "dddd": RISING}
    return meta([study(name, course) for name, course in courses.items()], n_boot=20)


def of_all(table: pd.DataFrame, regime: str = "all") -> pd.DataFrame:
    return table[table["label"].eq("all") & table["regime"].eq(regime)].set_index("rule")


def test_regret_of_rules_is_what_their_teachers_lose(found: Meta) -> None:
    rules = of_all(found.rules)
    losses = {"largest": [5, 5, 5, 0], "smallest": [6, 6, 6, 9], "highest derived_std": [0, 0, 0, 0]}
    losses["random"] = [100 * (course.max() - course.mean()) for course in (*PEAKED, RISING)]
    for rule, lost in losses.items():
        row = rules.loc[rule]
        assert row["regret"] == pytest.approx(np.mean(lost), abs=0.03), rule
        half = 3.182446 * np.std(lost, ddof=1) / 2  # t of 3 degrees of freedom
        assert row["high"] - row["low"] == pytest.approx(2 * half, abs=0.1)
        assert row["families"] == 4
        paired = np.subtract(lost, losses["largest"])
        assert row["less"] == pytest.approx(paired.mean(), abs=0.03)


def test_regimes_part_families_by_whether_the_largest_loses(found: Meta) -> None:
    mismatch, elsewhere = of_all(found.rules, "mismatch"), of_all(found.rules, "elsewhere")
    assert (mismatch.loc["largest", "families"], elsewhere.loc["largest", "families"]) == (3, 1)
    assert mismatch.loc["largest", "regret"] == pytest.approx(5, abs=0.03)
    assert elsewhere.loc["largest", "regret"] == pytest.approx(0, abs=0.03)


def test_evidence_is_chosen_without_the_family_itself(found: Meta) -> None:
    chosen = found.choices[found.choices["rule"].eq("evidence")]
    assert set(chosen["study"]) == {f"study {number}" for number in range(1, 5)}
    peaked = chosen[chosen["family"].ne("dddd")]
    assert set(peaked["teacher"]) == {"t2"}  # the derived std, which the others teach to trust, says so
    assert of_all(found.rules).loc["evidence", "less"] < 0


def test_probes_are_taken_together_over_families(found: Meta) -> None:
    table = found.probes.set_index(["probe", "label"])
    assert table.loc[("derived_std", "KD tau=4"), "value"] > 0.95
    wanted = [spearmanr(SIZES, course).statistic for course in (*PEAKED, RISING)]
    most = 1 - 3 / (6 * 35)
    z = np.arctanh(np.clip(wanted, -0.999, 0.999)).clip(-np.arctanh(most), np.arctanh(most))
    row = table.loc[("params", "KD tau=4")]
    assert row["value"] == pytest.approx(np.tanh(z.mean()), abs=0.02)
    assert row["low"] < row["value"] < row["high"] and row["families"] == 4
    assert row["heterogeneity"] > 0


def test_the_ceiling_and_the_forest(found: Meta) -> None:
    assert len(found.ceiling) == 4 and found.ceiling["ceiling"].gt(0.99).all()
    forest = found.forest("highest derived_std", "largest")
    assert forest["value"].round(1).tolist() == [-5.0, -5.0, -5.0, 0.0, -3.8]
    assert forest["mean"].tolist() == [False] * 4 + [True]
    for wrong in ({"rule": "magic"}, {"label": "DKD"}):
        with pytest.raises(InputError):
            found.forest(**wrong)
    assert "CM037" in found.findings and "evidence" in str(found)


def test_rules_are_compared_with_any_other(found: Meta) -> None:
    rows = found.compared("smallest")
    all_rows = of_all(rows)
    assert all_rows["less"].to_dict() == pytest.approx(
        (all_rows["regret"] - all_rows.loc["smallest", "regret"]).to_dict(), abs=1e-9
    )
    with pytest.raises(InputError):
        found.compared("magic")


def test_rules_of_ones_own() -> None:
    """One that names the third of six teachers, which is best where courses peak."""
    third = meta([study("a", PEAKED[0]), study("b", RISING)], evidence=False, rules={"third": lambda probes: "t2"})
    assert of_all(third.rules).loc["third", "regret"] == pytest.approx((0 + 4) / 2, abs=0.05)


def test_contrasts_of_probes_are_paired_within_families(found: Meta) -> None:
    """Of the four families three rise and fall, where the derived std goes with the students and accuracy does not."""
    table = found.contrasts().set_index("probe")
    z = found.correlations.assign(z=np.arctanh(found.correlations["value"].clip(-0.999, 0.999)))
    wide = z.pivot_table(index="family", columns="probe", values="z")
    assert table.loc["nll", "z"] == pytest.approx(-wide["nll"].mean())  # less is better
    assert table.loc["derived_std", "less"] == pytest.approx((wide["derived_std"] - wide["accuracy"]).mean())
    assert table.loc["derived_std", "p"] < 0.05 and table.loc["accuracy", "less"] == 0
    assert table["families"].eq(4).all()


def test_claims_are_held_against_the_students_of_the_family_left_out() -> None:
    found = meta([study(name, course, noise=1.5e-3) for name, course in zip("abc", PEAKED, strict=True)], n_boot=100)
    table = found.chances()
    assert table["choices"].sum() == 3 and table["claimed"].between(table["low"], table["high"]).all()
    claims = found.choices.dropna(subset="p_best").drop_duplicates("study")
    assert claims["came_true"].gt(0.9).all()  # a point ahead of the next, by seeds that differ by 0.15
    assert meta([study("a", PEAKED[0])], n_boot=20).chances().empty
    drawn = found.chances(carried=True)
    assert drawn["choices"].sum() == 3 and 0 <= found.carried() <= 1
    assert drawn["claimed"].mean() <= table["claimed"].mean() + 1e-9


def test_one_family_has_no_evidence_and_no_interval() -> None:
    alone = meta([study("a", PEAKED[0])], n_boot=20)
    assert set(alone.findings) == {"CM037", "CM038"}
    assert "evidence" not in set(alone.rules["rule"])
    assert alone.rules["low"].isna().all()


def test_a_study_given_twice_is_one_study_whatever_it_is_called() -> None:
    once = [study("a", PEAKED[0]), study("bb", PEAKED[1])]
    renamed = tuple(table.assign(family="copy") for table in once[0])
    with pytest.warns(UserWarning, match="given twice"):
        twice = meta([*once, once[0], renamed], evidence=False)
    pd.testing.assert_frame_equal(twice.rules, meta(once, evidence=False).rules)


def test_the_best_is_known_from_other_seeds() -> None:
    """All teachers teach alike: no rule has a regret, though the best of six noisy means looks better."""
    families = [study("f" * length, np.full(6, 0.7), noise=0.01) for length in range(1, 13)]
    rules = of_all(meta(families, evidence=False).rules)
    assert abs(rules.loc["random", "regret"]) < 0.25
    assert rules.loc["random", "low"] < 0 < rules.loc["random", "high"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    probes, results = study("a", PEAKED[0])
    for wrong in ([], [tmp_path], [(probes, results[results["teacher"].isin(TEACHERS[:2])])]):
        with pytest.raises(InputError):
            meta(wrong)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, course in (("a", PEAKED[0]), ("bb", PEAKED[1])):
        for table, frame in zip(("probes", "results"), study(name, course), strict=True):
            write_table(tmp_path / name / "tables" / f"{table}.parquet", frame)
    app(
        ["meta", *(str(tmp_path / name) for name in ("a", "bb")), "--out", str(tmp_path / "out")],
        result_action="return_value",
    )
    assert "CM037" in capsys.readouterr().out
    rules = pd.read_csv(tmp_path / "out" / "rules.csv")
    assert rules[rules["rule"].eq("largest") & rules["regime"].eq("all")]["regret"].round(1).eq(5.0).all()
    assert {path.suffix for path in (tmp_path / "out").glob("forest.*")} == {".csv", ".pdf", ".png"}
    with pytest.raises(InputError):
        app(["meta"], result_action="return_value")


def test_shipped_evidence() -> None:
    for probes, results in shipped_evidence():
        assert {"family", "teacher", "params", "split", "tau", "probe", "value", "se"} <= set(probes)
        assert {"label", "seed", "split", "accuracy"} <= set(results)
        assert set(results["teacher"]) - {""} == set(probes["teacher"])
        assert set(probes["split"]) in ({"val", "test"}, {"val", "train"})
