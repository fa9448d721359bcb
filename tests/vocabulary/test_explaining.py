"""`explain` and the lists: every word that a table, a study or the glossary uses has a meaning."""

from __future__ import annotations

import pytest

import capmismatch as cm
from capmismatch.distillation.methods import METHODS, REMEDIES, Method
from capmismatch.errors import InputError
from capmismatch.findings import FINDINGS
from capmismatch.probes import FEATURES, PAIRS, REGISTRY
from capmismatch.vocabulary.pages import columns, glossary, plain


@pytest.mark.parametrize("code", ["CM005", "cm005", " CM005 "])
def test_a_code_is_its_finding(code: str) -> None:
    assert cm.explain(code) is FINDINGS["CM005"]


def test_every_column_probe_method_and_word_is_explained() -> None:
    words = {name for entry in (*glossary(), *columns()) for name in entry.names}
    assert {"p_best", "regret", "tie", "noise floor"} <= words
    for word in (*words, *METHODS, *REGISTRY, *FEATURES, *PAIRS):
        explanation = cm.explain(word)
        assert explanation.meanings and all(where and text for where, text in explanation.meanings), word


def test_spelling_of_a_word_does_not_count() -> None:
    meanings = [cm.explain(word).meanings for word in ("p_best", "P(best)", "p-best", "P BEST")]
    assert all(found == meanings[0] for found in meanings)
    assert [where for where, _ in meanings[0]][:2] == ["the glossary", "column of Choice.table"]


def test_a_word_of_several_kinds_has_all_its_meanings() -> None:
    kinds = [where.split(" of ")[0] for where, _ in cm.explain("kl").meanings]
    assert kinds == ["probe", "column"]
    assert [where for where, _ in cm.explain("ISATS").meanings] == ["the glossary", "method"]


@pytest.mark.parametrize(("word", "near"), [("p_bset", "p_best"), ("reget", "regret"), ("CM55", "CM0")])
def test_an_unknown_word_names_the_nearest(word: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        cm.explain(word)


def test_what_is_no_word_is_refused() -> None:
    with pytest.raises(InputError, match="7"):
        cm.explain(7)  # type: ignore[arg-type]


def test_explanations_hold_no_markup() -> None:
    texts = [entry.text for entry in (*glossary(), *columns())]
    assert not [text for text in texts if "`" in text or "{" in text or "$" in text or text != plain(text)]


def test_lists_are_those_of_the_code() -> None:
    assert cm.list_methods()["name"].tolist() == [*METHODS]
    assert cm.list_probes()["name"].tolist() == [*REGISTRY, *FEATURES, *PAIRS]
    for table in (cm.list_methods(), cm.list_probes()):
        assert table["about"].ne("").all() and table["about"].is_unique and table["about"].str.len().max() < 130
        assert not table["about"].str.contains(":math:|`").any()


def test_options_of_the_list_are_those_that_a_method_takes() -> None:
    for row in cm.list_methods().query("learns_from == 'logits'").to_dict("records"):
        for option in filter(None, row["options"].split(", ")):
            assert option not in REMEDIES
            assert Method(row["name"], options={option: 1}).options == {option: 1}


@pytest.mark.parametrize("listed", [cm.list_methods, cm.list_probes])
def test_a_pattern_that_nothing_fits_lists_the_names(listed: object) -> None:
    with pytest.raises(InputError, match="there are"):
        listed("nothing*")  # type: ignore[operator]


def test_patterns_are_wildcards() -> None:
    assert cm.list_methods("*ATS")["name"].tolist() == ["ATS", "ISATS"]
    assert cm.list_probes("DERIVED_*")["name"].tolist() == ["derived_average", "derived_variance", "derived_std"]
