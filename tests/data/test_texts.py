"""Texts as data sets: windows, labels that are the next token, masks, splits by document, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from capmismatch.data.bank_files import create, read_rows
from capmismatch.data.datasets import load_dataset
from capmismatch.data.text_reader import TextOptions, learnt_tokenizer, read_text, unseen_windows
from capmismatch.data.token_inputs import NO_LABEL, Document, cut_windows, split_windows
from capmismatch.errors import InputError

VERSE = "And God said, Let there be light: and there was light.\n"
PSALM = "The café by the sea – naïve, 12 €.\n"  # characters of one, two and three bytes


def document(length: int, first: int = 0, hidden: tuple[int, ...] = ()) -> Document:
    tokens = np.arange(first, first + length)
    return Document(tokens, tokens % 3 + 1, ~np.isin(np.arange(length), hidden))


def test_windows_of_hand_made_documents() -> None:
    """Two documents of 11 and 4 tokens, windows of 4, the first position of each left out, token 6 of no interest."""
    documents = [document(11, hidden=(6,)), document(4, first=50)]
    inputs, labels = cut_windows(documents, window=4, skip=1, block=0, place="the text")
    assert inputs.windows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0], [50, 51, 52, 0]]
    told = [(2, "0:1"), (3, "0:2"), (4, "0:3"), (7, "0:6"), (8, "0:7"), (10, "0:9"), (52, "1:1"), (53, "1:2")]
    assert list(zip(labels.tolist(), inputs.ids.tolist(), strict=True)) == told
    assert inputs.sequences.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert inputs.document.tolist() == [0, 0, 0, 1]
    assert inputs.size.tolist() == [label % 3 + 1 for label in labels.tolist()]
    on_windows = inputs.on_windows(labels, NO_LABEL)
    assert on_windows.tolist()[2:] == [[-100, 10, -100, -100], [-100, 52, 53, -100]]
    batch = inputs[np.array([7, 3])]
    assert batch.windows.reshape(-1)[batch.flat].tolist() == [52, 6]  # the tokens before the labels 53 and 7
    some = inputs.take([3, 7])
    assert some.windows.tolist() == [[4, 5, 6, 7], [50, 51, 52, 0]] and some.ids.tolist() == ["0:6", "1:2"]
    assert some.sequences.tolist() == [1, 3]


def test_a_long_document_is_parted_into_blocks() -> None:
    inputs, _ = cut_windows([document(41)], window=4, skip=0, block=3, place="the text")
    assert inputs.document.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("sizes", [{"train": 20, "val": 7, "test": 5}, {"train": 0.5, "val": 0.25, "test": 0.25}])
def test_splits_keep_documents_whole(sizes: dict[str, Any]) -> None:
    documents = [document(6 * length) for length in (9, 3, 5, 1, 4, 8, 2, 6, 7, 3)]
    inputs, _ = cut_windows(documents, window=6, skip=2, block=0, place="the text")
    rows, split = split_windows(inputs, sizes, 3, "the text")
    assert len(np.unique(rows)) == len(rows)
    owners = {name: set(inputs.document[inputs.window[rows[split == name]]].tolist()) for name in sizes}
    assert (
        not owners["train"] & owners["val"]
        and not owners["val"] & owners["test"]
        and not owners["train"] & owners["test"]
    )
    counts = {name: len(np.unique(inputs.window[rows[split == name]])) for name in sizes}
    if isinstance(sizes["train"], int):
        assert counts == sizes
    else:
        assert len(rows) == len(inputs) and all(abs(counts[name] / 48 - sizes[name]) < 9 / 48 for name in sizes)
    again, _ = split_windows(inputs, sizes, 4, "the text")
    assert again.tolist() != rows.tolist()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "verses.txt"
    file.write_text(VERSE * 40 + PSALM * 3, encoding="utf-8")
    return file


def test_a_text_is_told_token_by_token(text: Path) -> None:
    data = load_dataset(f"text:{text}", tokenizer="bpe:80", window=8, skip=0)
    whole = text.read_text(encoding="utf-8")
    assert data.name == "verses" and len(data.classes) == 80 and data.rows.split_counts == {"val": len(data)}
    tokens = learnt_tokenizer([whole], 80).encode(whole).ids
    assert data.labels.tolist() == tokens[1:]
    batch = data.inputs[:]
    assert batch.windows.reshape(-1)[batch.flat].tolist() == tokens[:-1]
    # All bytes but those of the first token, also where a character takes several tokens.
    assert data.inputs.size.sum() == len(whole.encode()) - len(data.classes[tokens[0]])
    assert data.rows.sequences.tolist() == [row // 8 for row in range(len(data))]


def test_what_is_read_is_in_the_fingerprint(text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer": "bpe:80", "window": 8}
    first = load_dataset(f"text:{text}", **options)
    packed = tmp_path / "verses.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    assert load_dataset(f"text:{packed}", **options).rows.fingerprint == first.rows.fingerprint
    others = [{"window": 9}, {"skip": 1}, {"tokenizer": "bpe:70"}, {"document": "\nAnd"}, {"completion": "Let"}]
    prints = {load_dataset(f"text:{text}", **(options | other)).rows.fingerprint for other in others}
    assert len(prints | {first.rows.fingerprint}) == len(others) + 1
    text.write_text(VERSE * 41 + PSALM * 3, encoding="utf-8")
    assert load_dataset(f"text:{text}", **options).rows.fingerprint != first.rows.fingerprint


def test_sequences_go_with_the_rows(text: Path, tmp_path: Path) -> None:
    data = load_dataset(f"text:{text}", tokenizer="bpe:80", window=8, split={"train": 10, "val": 40})
    part = data.part("val")
    assert set(part.rows.sequences) == set(data.rows.sequences[data.rows.split == "val"])
    assert (part.resplit({"val": 5, "test": 8}).rows.split == "test").any()
    create(tmp_path / "bank", part.rows)
    stored = read_rows(tmp_path / "bank")
    assert stored.sequences is not None and stored.sequences.tolist() == part.rows.sequences.tolist()


def test_documents_and_answers(tmp_path: Path) -> None:
    file = tmp_path / "chat.txt"
    pairs = [("How many?", "Seven of them."), ("Who came?", "Nobody, it seems.")]
    file.write_text("".join(f"Q: {question} A: {answer}<end>" for question, answer in pairs * 9))
    options = {"tokenizer": "bpe:40", "window": 64, "skip": 0, "document": "<end>", "completion": "A:"}
    data = load_dataset(f"text:{file}", **options)
    told = [
        "".join(data.classes[label] for label in data.labels[data.inputs.document[data.inputs.window] == n])
        for n in (0, 1)
    ]
    assert told == ["␣Seven␣of␣them.", "␣Nobody,␣it␣seems."]


def test_teachers_learn_from_all_that_is_not_held_out(text: Path) -> None:
    raw = read_text(text, TextOptions("bpe:80", window=8))
    held_out = np.array([3, 4, 17])
    unseen = unseen_windows(raw, held_out)
    assert len(unseen.windows) == len(raw.inputs.windows) - 3
    assert unseen.windows[3].tolist() == raw.inputs.windows[5].tolist()
    assert (unseen.labels[:, :2] == NO_LABEL).all() and (unseen.labels[0, 2:7] == unseen.windows[0, 3:]).all()


@pytest.mark.slow  # reads and encodes four million characters
def test_the_king_james_bible_comes_with_its_tokenizer() -> None:
    """Learnt from its text, so that learning again gives the same."""
    data = load_dataset("kjv", split={"val": 64, "test": 64})
    assert len(data.classes) == 512 and data.inputs.windows.shape == (128, 64)
    assert {"␣the", "And", "Ċ"} <= set(data.classes)
    package = Path(load_dataset.__code__.co_filename).parents[1] / "embedded"
    shipped = Tokenizer.from_file(str(package / "kjv-bpe512.json"))
    whole = gzip.decompress((package / "kjv.txt.gz").read_bytes()).decode()
    assert whole.count("\n") == 31_102
    assert learnt_tokenizer([whole], 512).to_str() == shipped.to_str()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (VERSE, {}, "needs a tokenizer"),
        (VERSE, {"tokenizer": "nowhere"}, "there is no tokenizer .*nowhere"),
        (VERSE, {"tokenizer": "bpe:800"}, r"bytes and pairs for \d+ tokens, not for the 800"),
        ("", {"tokenizer": "bpe:80"}, "expected text in every document of .*, got none in document 0"),
        ("one||two", {"tokenizer": "bpe:4", "document": "|"}, "expected text in every document of .* in document 1"),
        (
            VERSE,
            {"tokenizer": "bpe:40", "completion": "A:"},
            "expected 'A:' in every document of .*, not in document 0",
        ),
        (VERSE, {"tokenizer": "bpe:40", "window": 1}, "expected window a whole number >= 2, got 1"),
        (VERSE, {"tokenizer": "bpe:40", "skip": 64}, "expected skip a whole number <= 63, got 64"),
        (VERSE, {"tokenizer": "bpe:40", "completion": "light.\n"}, "expected tokens to predict in .*, got none"),
        (VERSE, {"tokenizer": "bpe:40", "split": {"val": 5}}, r"need more than the 1 windows"),
        (VERSE, {"tokenizer": "bpe:40", "split": {"val": 0}}, r"positive count or a share up to 1.0 for split 'val'"),
        (b"caf\xe9", {"tokenizer": "bpe:40"}, "expected a text in UTF-8 in .*, got the byte 0xe9 at 3"),
        (b"\x1f\x8b\x00", {"tokenizer": "bpe:40"}, "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str | bytes, options: dict[str, Any], message: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        load_dataset(f"text:{file}", **options)


def test_more_that_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no text"):
        load_dataset("text:nowhere.txt", tokenizer="bpe:40")
    with pytest.raises(InputError, match=r"window is of a text, .*'letters'"):
        load_dataset("letters", window=8)
    with pytest.raises(InputError, match="expected a text like 'text:FILE', or 'kjv', got 'kjv:x'"):
        load_dataset("kjv:x")
    learnt_tokenizer([VERSE * 2], 30).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"no token for a character of 'The', near character 220. of document 0"):
        load_dataset(f"text:{text}", tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json is no tokenizer"):
        load_dataset(f"text:{text}", tokenizer=tmp_path)
    with pytest.raises(InputError, match="in their tokenizer's order"):
        data = load_dataset(f"text:{text}", tokenizer="bpe:80")
        data.with_classes(data.classes[::-1])


def test_text_and_tokenizer_are_both_found_from_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("data", "model", "work"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data/verse.txt").write_text(VERSE * 20)
    learnt_tokenizer([VERSE], 40).save(str(tmp_path / "model/tokenizer.json"))
    by_base = load_dataset("text:data/verse.txt", tokenizer="model", window=8, base=tmp_path)
    monkeypatch.chdir(tmp_path / "work")
    from_here = load_dataset("text:../data/verse.txt", tokenizer="../model", window=8)
    assert by_base.rows.fingerprint == from_here.rows.fingerprint
    with pytest.raises(InputError, match="no tokenizer"):
        load_dataset("kjv", tokenizer="kjv-bpe512.json")  # it lies in the package, not here
