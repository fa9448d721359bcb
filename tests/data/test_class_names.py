"""Class orders: names decide, and a doubt is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capmismatch.data.class_names import match_classes
from capmismatch.errors import InputError

words = st.text("abcde", min_size=1, max_size=4)


@given(st.lists(words, min_size=2, max_size=8, unique=True), st.randoms(use_true_random=False), st.booleans())
def test_a_permutation_is_undone(wanted: list[str], draws: object, background: bool) -> None:
    own = list(wanted)
    draws.shuffle(own)  # type: ignore[attr-defined]
    if background:
        own.insert(draws.randint(0, len(own)), "background")  # type: ignore[attr-defined]
    columns = match_classes(own, wanted, "it")
    found = own if columns is None else [own[column] for column in columns]
    assert found == wanted
    assert (columns is None) == (own == wanted)


def test_names_that_are_missing_or_of_another_number_are_refused() -> None:
    outputs = ["b", "c", "a"]
    with pytest.raises(InputError, match="expected 2 classes, as the data set has, got 3 from it"):
        match_classes(outputs, ["a", "b"], "it")
    with pytest.raises(InputError, match=r"it has no 'd'; ask$"):
        match_classes(outputs, ["a", "b", "d"], "it", "; ask")


def test_synonyms_agree_but_must_not_be_ambiguous() -> None:
    assert match_classes(["tench, Tinca tinca", "crane"], ["Tench", "crane"], "it") is None
    own = ["crane, machine", "crane, bird", "tench"]
    np.testing.assert_array_equal(match_classes(own, ["tench", "bird", "machine"], "it"), [2, 1, 0])
    with pytest.raises(InputError, match=r"\['crane, machine', 'crane, bird'\] all fit 'crane'"):
        match_classes(own, ["tench", "crane", "machine"], "it")
    with pytest.raises(InputError, match="'a, b' fits several classes of the data set"):
        match_classes(["x", "a, b", "c"], ["a", "b", "c"], "it")


@pytest.mark.parametrize(
    ("outputs", "classes", "columns"),
    [
        (["a", "b, c", "b, d"], ["a", "b, d", "b, c"], [0, 2, 1]),  # a shared part says nothing beside equal names
        (["b, c", "b"], ["b", "b, c"], [1, 0]),
        (["tin, can", "can, able"], ["able", "tin"], [1, 0]),
        (["x, p", "x, q", "y"], ["q, x", "y", "x, p"], [1, 2, 0]),
        (["Polish", "polish"], ["polish", "Polish"], [1, 0]),
        (["cafe\u0301", "tea"], ["tea", "caf\u00e9"], [1, 0]),
        (["old_man", "sea"], ["sea", "Old  Man"], [1, 0]),
        ([str(k) for k in range(12)], sorted(map(str, range(12))), [int(k) for k in sorted(map(str, range(12)))]),
        (["2", "0", "1"], ["0", "1", "2"], [1, 2, 0]),
        (["00", "01", "02"], ["0", "2", "1"], [0, 2, 1]),
        (["1", "2", "3"], ["0", "1", "2"], None),  # other numbers are no names: both ascend, so their order holds
        (["crane", "tench", "crane"], ["crane", "tench", "crane (2)"], None),
    ],
)
def test_equal_names_first_then_unique_synonyms(outputs: list[str], classes: list[str], columns: list[int]) -> None:
    found = match_classes(outputs, classes, "it")
    assert (None if found is None else found.tolist()) == columns


@pytest.mark.parametrize(
    ("outputs", "classes", "message"),
    [
        (["crane", "crane", "tench"], ["tench", "crane", "crane (2)"], "'crane' stands twice, and the order differs"),
        (["1", "3", "2"], ["0", "1", "2"], "other numbers than the data set's, and not in ascending order"),
        (["2", "1", "0"], ["cat", "dog", "eel"], "it has no 'cat'"),
    ],
)
def test_what_names_leave_open_is_refused(outputs: list[str], classes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_classes(outputs, classes, "it")


def test_numbers_stand_as_they_are() -> None:
    assert match_classes(["0", "1"], ["b", "a"], "it") is None
    assert match_classes(["x", "y"], ["0", "1"], "it") is None


def test_the_wordnet_ids_of_imagenet_have_one_order() -> None:
    info = pytest.importorskip("timm.data", reason="needs the extra 'timm'").ImageNetInfo("imagenet-1k")
    ids = info.label_names()
    names = info.label_descriptions()
    assert match_classes(ids, names, "it") is None
    assert match_classes(names, ids, "it") is None
    columns = match_classes(["background", *names], ids, "it")
    np.testing.assert_array_equal(columns, np.arange(1, 1001))
    mixed = [ids[1], ids[0], *ids[2:]]  # not their usual order: only names would tell
    np.testing.assert_array_equal(match_classes(mixed, [*mixed[2:], *mixed[:2]], "it")[:3], [2, 3, 4])


def test_a_data_set_with_a_background_of_its_own_keeps_it() -> None:
    with pytest.raises(InputError, match="expected 2 classes, as the data set has, got 3"):
        match_classes(["background", "cat", "dog"], ["background", "cat"], "it")
