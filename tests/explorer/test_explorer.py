"""The explorer: its tables against the functions that measure whole banks, its pictures, what each control changes."""

from __future__ import annotations

import io
import re
import sys
import warnings
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from messages import naming
from PIL import Image
from scipy.stats import kendalltau

import capmismatch as cm
from capmismatch.data.bank import bank_from_arrays, make_rows
from capmismatch.errors import BankError, InputError
from capmismatch.explorer import figures
from capmismatch.explorer.images import Images
from capmismatch.explorer.tables import QUANTITIES, Reader, Softening, View, first_view

EVIL = "<img src=x onerror=alert(1)>"
CLASSES = ["cat", "dog", EVIL, "$x_1$", "ship"]


def make_bank(teachers: int = 4, rows: int = 200, **options: Any) -> cm.LogitBank:
    generator = np.random.default_rng(0)
    labels = np.arange(rows) % 5
    shared = generator.normal(size=(rows, 5)) + 2 * np.eye(5)[labels]
    logits = {f"net{size}": size * shared + generator.normal(size=shared.shape) for size in range(1, teachers + 1)}
    return bank_from_arrays(logits, labels, classes=CLASSES, **options)


@pytest.fixture(scope="module")
def bank() -> cm.LogitBank:
    return make_bank(split=np.repeat(["val", "test"], 100))


def view_of(reader: Reader, teachers: tuple[str, ...] = ("logits/net1", "logits/net4"), **settings: Any) -> View:
    return View(teachers, Softening(**settings), "dog", reader.examples("dog")[1])


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "TS", "tau": 3.0},
        {"method": "ATS", "tau_other": 2.0},
        {"method": "ISATS", "margin": 0.5},
        {"method": "ISATS", "constraint": "anchor"},
    ],
)
def test_soft_labels_are_those_of_restored_variance(bank: cm.LogitBank, settings: dict[str, Any]) -> None:
    reader = Reader(bank, n=None)
    view = view_of(reader, tuple(bank.keys), **settings)
    own = view.softening
    whole = cm.restored_variance(
        bank, own.tau, tau_other=own.tau_other, constraint=own.constraint, margin=own.margin, progress=False
    ).replace({"quantity": {"tau_other_mean": "tau_other"}})
    found = reader.soft_labels(view)
    keys = ["teacher", "method", "quantity", "rows"]
    both = found.merge(whole, on=keys, suffixes=("", "_whole"))
    assert len(both) == len(found) and set(found["method"]) == {"TS", own.method}
    assert set(found["quantity"]) >= {*QUANTITIES, "flipped"}
    np.testing.assert_allclose(both["value"], both["value_whole"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(both["se"], both["se_whole"], rtol=1e-9, atol=1e-12)
    assert (both["n"] == both["n_whole"]).all() and (both.query("rows == 'all'")["n"] == 100).all()


def test_a_sample_holds_every_class_in_its_share(bank: cm.LogitBank) -> None:
    reader = Reader(bank, n=20)
    found = reader.soft_labels(view_of(reader))
    assert (found.query("rows == 'all'")["n"] == 20).all()
    assert np.bincount(bank.rows.labels[reader.sample]).tolist() == [4] * 5
    assert set(bank.rows.split[reader.sample]) == {"val"}
    assert {"20", "100"} <= set(re.findall(r"\d+", reader.note(view_of(reader, method="TS"), found)))


def test_ranks_are_kendalls_over_the_wrong_classes_of_the_class(bank: cm.LogitBank) -> None:
    reader = Reader(bank)
    (row,) = reader.class_ranks(view_of(reader)).to_dict("records")
    rows = [i for i in range(100) if bank.rows.labels[i] == 1]
    slow = [
        kendalltau(*(np.delete(bank.row(key, i), 1) for key in ("logits/net1", "logits/net4"))).statistic for i in rows
    ]
    assert row["value"] == pytest.approx(np.mean(slow), abs=1e-12)
    assert (row["teacher_a"], row["teacher_b"], row["class"], row["n"]) == ("net1", "net4", "dog", 20)
    assert row["se"] == pytest.approx(np.std(slow, ddof=1) / 20**0.5)
    assert reader.class_ranks(view_of(reader, ("logits/net1",))).empty


def test_the_example_is_that_of_dark_knowledge(bank: cm.LogitBank) -> None:
    reader = Reader(bank)
    view = view_of(reader, method="ATS", tau_other=2.0)
    found = reader.example(view)
    whole = cm.dark_knowledge(bank, view.example, list(view.teachers), tau_other=2.0).query("method != 'ISATS'")
    pd.testing.assert_frame_equal(found, whole.reset_index(drop=True))
    assert bank.rows.ids[reader.row(view)] == view.example and bank.rows.labels[reader.row(view)] == 1


def test_what_is_seen_again_is_not_measured_again(bank: cm.LogitBank, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, calls, measure = Reader(bank), [], Softening.measure
    monkeypatch.setattr(Softening, "measure", lambda self, *given: calls.append(self) or measure(self, *given))
    reader.soft_labels(view_of(reader, method="ISATS"))
    assert len(calls) == 4  # two teachers, before and after
    reader.soft_labels(view_of(reader, method="ATS"))
    assert len(calls) == 6
    reader.soft_labels(view_of(reader, method="ISATS"))
    assert len(calls) == 6


def test_runs_have_the_shortest_names_that_differ() -> None:
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=(10, 5)) for name in ("a", "b")}
    assert list(Reader(bank_from_arrays(arrays, np.arange(10) % 5)).labels.values()) == ["a", "b"]

    def bank_of(*records: tuple[str, str, int | None]) -> cm.LogitBank:
        logits = {str(place): generator.normal(size=(10, 5)) for place in range(len(records))}
        made = bank_from_arrays(logits, np.arange(10) % 5)
        for place, (family, teacher, seed) in enumerate(records):
            made.teachers[place] = replace(made.teachers[place], family=family, teacher=teacher, seed=seed)
        return made

    assert list(Reader(bank_of(("f", "a", 0), ("f", "a", 1))).labels.values()) == ["a seed 0", "a seed 1"]
    assert list(Reader(bank_of(("f", "a", None), ("g", "a", None))).labels.values()) == ["f/a", "g/a"]
    both = Reader(bank_of(("f", "a", 0), ("f", "a", 1), ("g", "a", 0)))
    assert list(both.labels.values()) == ["f/a seed 0", "f/a seed 1", "g/a seed 0"]


def test_the_first_view_spans_the_family(bank: cm.LogitBank) -> None:
    reader = Reader(make_bank(teachers=7))
    assert first_view(reader).teachers == ("logits/net1", "logits/net4", "logits/net7")
    assert first_view(reader, ["logits/net2"]).teachers == ("logits/net2",)
    assert first_view(Reader(make_bank(teachers=1))).teachers == ("logits/net1",)
    with pytest.raises(InputError, match=naming("teacher key", "'logits/ned2'", "'logits/net2'")):
        first_view(reader, ["logits/ned2"])
    with pytest.raises(InputError, match=naming("at least one teacher", "none")):
        first_view(reader, [])


def test_what_does_not_fit_is_named(bank: cm.LogitBank) -> None:
    with pytest.raises(InputError, match="split must be one of"):
        Reader(bank, "train")
    with pytest.raises(InputError, match=naming("n", 2, "None", "got 1")):
        Reader(bank, n=1)
    with pytest.raises(InputError, match="class must be one of"):
        Reader(bank).examples("bird")
    with pytest.raises(InputError, match="method must be one of"):
        Softening("KD")
    with pytest.raises(InputError, match=naming(200, "got 3")):
        Images(np.zeros((3, 8, 8)), bank.rows)
    with pytest.raises(InputError, match=naming("shape", (3, 8, 8), "row 0")):
        Images(np.zeros((200, 3, 8, 8)), bank.rows)
    letters = cm.load_dataset("letters")
    with pytest.raises(InputError, match=naming("shape", (16,), "row 0")):
        Images(letters, letters.rows)


def test_images_are_found_by_their_ids(bank: cm.LogitBank) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.integers(0, 255, (4, 6, 6, 3), dtype=np.uint8)
    order = [7, 3, 150, 42]
    data = cm.Dataset(make_rows("some", [0, 1, 0, 1], ["a", "b"], ids=bank.rows.ids[order]), inputs)
    images = Images(data, bank.rows)
    np.testing.assert_array_equal(images[150], inputs[2])
    assert images[0] is None
    stranger = cm.Dataset(make_rows("others", [0, 1, 0, 1], ["a", "b"], ids=["w", "x", "y", "z"]), inputs)
    with pytest.raises(InputError, match=naming("'0'", "'others'", "'w'")):
        Images(stranger, bank.rows)


def test_normalised_images_are_brought_into_range(bank: cm.LogitBank) -> None:
    inputs = np.random.default_rng(0).normal(size=(200, 6, 6, 1))
    image = Images(inputs, bank.rows)[5]
    assert image is not None and image.shape == (6, 6) and (image.min(), image.max()) == (0, 1)
    assert np.corrcoef(image.ravel(), inputs[5].ravel())[0, 1] == pytest.approx(1)


# Pictures ------------------------------------------------------------------------------------------------------------


def texts_of(sheet: Any) -> list[str]:
    return [text.get_text() for text in sheet.figure.texts]


def test_pictures_hold_names_and_values(bank: cm.LogitBank) -> None:
    reader = Reader(bank)
    view = View(tuple(bank.keys), Softening(), EVIL, reader.examples(EVIL)[0])
    soft = figures.soft_labels.__wrapped__(reader.soft_labels(view))
    assert {"net1", "net4", "TS", "ISATS", "$p_y$", "inherent variance (IV)"} <= set(texts_of(soft))
    example = reader.example(view)
    dark = figures.dark_knowledge.__wrapped__(example)
    assert {r"\$x_1\$", "cat", "dog", "ship"} <= set(texts_of(dark)), "a user's dollars are no formula"
    target = example[example["is_target"] & example["teacher"].eq("net1")].set_index("method")["probability"]
    assert f"net1\np_y {target['TS']:.2f} → {target['ISATS']:.2f}" in texts_of(dark)
    ranks = figures.class_ranks.__wrapped__(reader.class_ranks(view), view.label)
    heat = ranks.figure.axes[0]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["net1", "net2", "net3", "net4"]


def test_bars_are_as_long_as_their_probabilities(bank: cm.LogitBank) -> None:
    reader = Reader(bank)
    table = reader.example(view_of(reader, ("logits/net2",)))
    sheet = figures.dark_knowledge.__wrapped__(table)
    bars = [artist for artist in sheet.figure.artists if isinstance(artist, PolyCollection)]
    lengths = [np.ptp(path.vertices[:, 0]) for one in bars for path in one.get_paths()]
    wrong = table[~table["is_target"]]
    order = wrong.groupby("class")["probability"].max().sort_values(ascending=False).index
    wide = wrong.pivot(index="class", columns="method", values="probability").loc[order]
    wanted = [wide["TS"], wide["ISATS"]]
    ratio = np.array(lengths) / np.concatenate(wanted)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.parametrize("teachers", [1, 2, 9])
def test_nothing_is_cut_off(teachers: int) -> None:
    """No text reaches the edge, whatever the number of teachers and however long the names."""
    generator = np.random.default_rng(0)
    arrays = {f"a_rather_long_name_of_a_network_{i}": generator.normal(size=(20, 5)) for i in range(teachers)}
    names = [f"class number {i} with a long name" for i in range(5)]
    reader = Reader(bank_from_arrays(arrays, np.arange(20) % 5, classes=names))
    view = View(tuple(reader.bank.keys), Softening(), names[0], reader.examples(names[0])[0])
    drawn = [
        figures.soft_labels(reader.soft_labels(view)),
        figures.class_ranks(reader.class_ranks(view), view.label),
        figures.dark_knowledge(reader.example(view), np.zeros((8, 8, 3))),
        figures.dark_knowledge(reader.example(view)),
    ]
    for png in drawn:
        picture = pixels(png)
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (edge == 255).all()
        assert (picture < 255).any()


def test_no_figure_stays_open(bank: cm.LogitBank) -> None:
    before = plt.get_fignums()
    cm.explore(bank)
    assert plt.get_fignums() == before


# Controls ------------------------------------------------------------------------------------------------------------


def changed(explorer: Any, action: Any) -> set[str]:
    """Which pictures an action changes."""
    before = {name: picture.value for name, picture in explorer._pictures.items()}
    action()
    return {name for name, picture in explorer._pictures.items() if picture.value != before[name]}


def test_each_control_redraws_what_depends_on_it(bank: cm.LogitBank) -> None:
    explorer = cm.explore(bank, images=np.random.default_rng(0).random((200, 6, 6)))
    one = {"soft_labels", "example"}
    assert changed(explorer, lambda: setattr(explorer.tau, "value", 2.0)) == one
    assert changed(explorer, lambda: setattr(explorer.constraint, "value", "anchor")) == one
    assert changed(explorer, lambda: setattr(explorer.method, "value", "ATS")) == one
    assert changed(explorer, lambda: setattr(explorer.tau_other, "value", 1.5)) == one
    assert changed(explorer, lambda: setattr(explorer.margin, "value", 1.0)) == set(), "ATS has no margin"
    assert changed(explorer, lambda: setattr(explorer.label, "value", "dog")) == {"class_ranks", "example"}
    second = explorer.example.options[1]
    assert changed(explorer, lambda: setattr(explorer.example, "value", second)) == {"example"}
    teachers = ("logits/net2", "logits/net3")
    assert changed(explorer, lambda: setattr(explorer.teachers, "value", teachers)) == {*one, "class_ranks"}
    assert explorer.view == View(teachers, Softening("ATS", tau=2.0, tau_other=1.5), "dog", second)
    pd.testing.assert_frame_equal(explorer.tables["soft_labels"], explorer._reader.soft_labels(explorer.view))


def test_a_new_class_brings_its_examples_and_is_drawn_once(bank: cm.LogitBank, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer, drawn, draw = cm.explore(bank), [], figures.dark_knowledge
    monkeypatch.setattr(figures, "dark_knowledge", lambda table, image: drawn.append(table) or draw(table, image))
    explorer.label.value = "ship"
    assert list(explorer.example.options) == explorer._reader.examples("ship")
    assert len(drawn) == 1 and set(drawn[0]["example"]) == {explorer.example.value}


def test_controls_that_do_not_apply_are_hidden(bank: cm.LogitBank) -> None:
    explorer = cm.explore(bank)
    shown = {}
    for method, constraint in (("TS", "order"), ("ATS", "order"), ("ISATS", "order"), ("ISATS", "none")):
        explorer.constraint.value, explorer.method.value = constraint, method
        names = ("tau", "tau_other", "constraint", "margin", "label", "teachers")
        shown[method, constraint] = [name for name in names if getattr(explorer, name).layout.display != "none"]
    always = ["tau", "label", "teachers"]
    assert shown == {
        ("TS", "order"): always,
        ("ATS", "order"): ["tau", "tau_other", "label", "teachers"],
        ("ISATS", "order"): ["tau", "constraint", "margin", "label", "teachers"],
        ("ISATS", "none"): ["tau", "constraint", "label", "teachers"],
    }


def test_no_teacher_and_what_fails_are_told(bank: cm.LogitBank, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = cm.explore(bank)
    before = explorer._pictures["soft_labels"].value
    explorer.teachers.value = ()
    assert explorer._note.value == "<p>Choose at least one teacher.</p>"
    assert explorer._pictures["soft_labels"].value == before

    def fail(self: Reader, view: View) -> pd.DataFrame:
        raise BankError("net3 is <damaged>")

    monkeypatch.setattr(Reader, "soft_labels", fail)
    explorer.teachers.value = ("logits/net3",)
    assert explorer._note.value == "<p><b>net3 is &lt;damaged&gt;</b></p>"
    monkeypatch.undo()
    explorer.teachers.value = ("logits/net2",)
    assert explorer._note.value.startswith("<p>Means over all 100 examples")


def test_names_are_escaped_in_html() -> None:
    labels = np.arange(10) % 5
    logits = np.random.default_rng(0).normal(size=(10, 5))
    explorer = cm.explore(bank_from_arrays({EVIL: logits}, labels, classes=CLASSES))
    explorer.label.value = EVIL
    assert "<img" not in explorer._numbers.value + explorer._note.value
    assert "&lt;img src=x onerror=alert(1)&gt;" in explorer._numbers.value


def test_an_unconstrained_search_warns_in_words_only(bank: cm.LogitBank) -> None:
    explorer = cm.explore(bank)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explorer.constraint.value = "none"
    at_bound = explorer.tables["soft_labels"].query("quantity == 'at_bound' and rows == 'all'")["value"]
    assert at_bound.min() > 0.5
    assert f"ends on a bound for {100 * at_bound.min():.0f} % to {100 * at_bound.max():.0f} %" in explorer._note.value


def test_where_widgets_cannot_be_shown_there_is_text(bank: cm.LogitBank) -> None:
    bundle = cm.explore(bank)._repr_mimebundle_()
    assert bundle["text/html"].count('src="data:image/png;base64,') == 3 and "http" not in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "View(teachers=" in bundle["text/plain"] and "inherent_variance" in bundle["text/plain"]


def test_without_ipywidgets_the_extra_is_named(bank: cm.LogitBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(InputError, match=r"explore needs ipywidgets.*: pip install 'capmismatch\[notebook\]'"):
        cm.explore(bank)
