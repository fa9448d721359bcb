"""Reader of texts: a file and a tokenizer become windows of tokens, whose rows tell the next token."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._utils.optional import need
from capmismatch.data.dataset_readers import RawDataset
from capmismatch.data.token_inputs import NO_LABEL, Document, TextSource, cut_windows
from capmismatch.errors import InputError, must_count

BLOCK = 32  # windows: a text without documents is parted after so many, for splits
KJV = "kjv"
SAMPLES, SAMPLE = 1_000, 500  # pieces of a text, and characters of each, that tokenizers are compared on
OWN_TOKENIZER = re.compile(r"bpe:(\d+)")


@dataclass(frozen=True)
class TextOptions:
    """How a text becomes rows.

    Attributes
    ----------
    tokenizer : str, optional
        A file ``tokenizer.json``, the folder of a model that holds one, or ``"bpe:512"``: byte pairs of that many
        tokens, learnt from the text itself. "kjv" brings its own.
    window : int
        Tokens of a window. A longer document is cut into several.
    skip : int
        So many positions at the head of each window are no rows.
    document : str, optional
        What parts documents in the file, such as ``"<|endoftext|>"`` or a blank line; by default the file is one.
    completion : str, optional
        In each document only what stands behind the first of these markers is told: answers, not questions.
    """

    tokenizer: str | None = None
    window: int = 64
    skip: int = 2
    document: str | None = None
    completion: str | None = None

    def __post_init__(self) -> None:
        must_count(self.window, "window", least=2, most=1 << 20)
        must_count(self.skip, "skip", least=0, most=self.window - 1)
        for name in ("document", "completion"):
            if getattr(self, name) == "":
                raise InputError(f"expected {name} some text, got an empty one")

    def found_from(self, base: str | Path) -> TextOptions:
        """The same with the tokenizer's path from a folder; a tokenizer that is learnt has none."""
        if self.tokenizer is None or OWN_TOKENIZER.fullmatch(self.tokenizer):
            return self
        return replace(self, tokenizer=str(Path(base, Path(self.tokenizer).expanduser())))


@dataclass(frozen=True, eq=False)
class NextTokens:
    """Windows to train a language model on.

    Attributes
    ----------
    windows : ndarray of shape (S, W), int32
        Token ids.
    labels : ndarray of shape (S, W), int64
        The next token of each position; -100 where it is not to be told.
    vocabulary : int
        How many tokens there are.
    name : str
        Of the text.
    """

    windows: NDArray[np.int32]
    labels: NDArray[np.int64]
    vocabulary: int
    name: str

    def digest(self) -> str:
        """Hash of what there is to learn."""
        digest = hashlib.sha256(f"{self.windows.shape} {self.vocabulary}".encode())
        for array in (self.windows, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_text(path: Path | None, options: TextOptions) -> RawDataset:
    """Read a text as next-token rows, all without a split.

    Parameters
    ----------
    path : Path or None
        The file, UTF-8, perhaps packed as .gz; None is the King James Bible that comes with the package.
    options : TextOptions
        How it becomes rows.

    Returns
    -------
    RawDataset
        Its inputs are `TokenInputs`, its classes the tokenizer's pieces, with "␣" for a leading space.

    Raises
    ------
    InputError
        Where the file or the tokenizer is missing, damaged or empty, or a piece of the text has no token.
    """
    if path is None:
        with resources.as_file(resources.files("capmismatch") / "embedded") as folder:
            if options.tokenizer is None:
                options = replace(options, tokenizer=str(folder / "kjv-bpe512.json"))
            return _read(folder / "kjv.txt.gz", None, options)
    if options.tokenizer is None:
        raise InputError(
            f"the text {path} needs a tokenizer: tokenizer='FOLDER' of a model, a tokenizer.json, or 'bpe:512' to "
            "learn one from the text"
        )
    if not path.is_file():
        raise InputError(f"there is no text {path}")
    return _read(path, path.stat().st_mtime_ns, options)


def unseen_windows(raw: RawDataset, held_out: NDArray[np.int64]) -> NextTokens:
    """The windows of a text that are not among some by number, to train teachers on.

    Examples
    --------
    >>> raw = read_text(None, TextOptions())  # doctest: +SKIP
    >>> unseen_windows(raw, np.arange(20_000)).windows.shape  # doctest: +SKIP
    (3866, 64)
    """
    inputs = raw.inputs
    labels = inputs.on_windows(np.asarray(raw.labels), NO_LABEL)
    own = ~np.isin(inputs.number, held_out)
    return NextTokens(inputs.windows[own], labels[own], len(raw.classes), str(raw.name))


@lru_cache(maxsize=2)
def _read(path: Path, _changed: int | None, options: TextOptions) -> RawDataset:
    """What `read_text` gives; kept, as a study reads its text several times."""
    place, text = f"the text {path}", _text_of(path)
    documents = [text] if options.document is None else text.split(options.document)
    if len(documents) > 1 and not documents[-1].strip():
        documents.pop()  # what follows the last separator is no document
    empty = next((number for number, part in enumerate(documents) if not part.strip()), None)
    if empty is not None:
        raise InputError(f"expected text in every document of {place}, got none in document {empty}")
    tokenizer = _tokenizer(options.tokenizer, documents)
    encoded = [_encoded(tokenizer, part, number, options, place) for number, part in enumerate(documents)]
    block = BLOCK if options.document is None else 0
    inputs, labels = cut_windows(encoded, options.window, options.skip, block, place)
    inputs = replace(inputs, source=TextSource(tokenizer.to_str(), _samples(documents)))
    return RawDataset(inputs, labels, classes=_pieces(tokenizer), name=path.name.split(".")[0])


def _samples(documents: list[str]) -> tuple[str, ...]:
    """Pieces of the first documents, for tokenizers to be compared on."""
    pieces = (part[at : at + SAMPLE] for part in documents for at in range(0, len(part), SAMPLE))
    return tuple(islice(pieces, SAMPLES))


def _text_of(path: Path) -> str:
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"the text {path} cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected a text in UTF-8 in {path}, got the byte {raw[error.start]:#x} at {error.start}"
        ) from None


def _tokenizer(source: str | None, documents: list[str]) -> Any:
    """The tokenizer of a file, of a folder, or learnt from the text."""
    library = need("tokenizers", "lm", "a text")
    assert source is not None
    own = OWN_TOKENIZER.fullmatch(source)
    if own is not None:
        return learnt_tokenizer(documents, int(own[1]))
    file = Path(source)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"there is no tokenizer {file}: expected a tokenizer.json, a folder with one, or 'bpe:512'")
    try:
        tokenizer = library.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain exceptions
        raise InputError(f"{file} is no tokenizer of the tokenizers library: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def learnt_tokenizer(documents: list[str], size: int) -> Any:
    """Byte pairs learnt from texts (BPE over bytes, words with their leading space).

    Parameters
    ----------
    documents : list of str
        The texts.
    size : int
        How many tokens, with those of single bytes that occur.

    Returns
    -------
    tokenizers.Tokenizer
        Equal texts give equal tokenizers.

    Raises
    ------
    InputError
        Where the texts have fewer pairs of bytes.
    """
    library = need("tokenizers", "lm", "a text")
    must_count(size, "the tokens of 'bpe:SIZE'", least=2, most=1 << 20)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(vocab_size=size, special_tokens=[], show_progress=False)
    lines = (line for text in documents for line in text.splitlines(keepends=True))
    tokenizer.train_from_iterator(lines, trainer)
    found = tokenizer.get_vocab_size()
    if found != size:
        raise InputError(f"the text has bytes and pairs for {found} tokens, not for the {size} of 'bpe:{size}'")
    return tokenizer


def _encoded(tokenizer: Any, text: str, number: int, options: TextOptions, place: str) -> Document:
    """A document's tokens; every one knows its bytes, and whether it counts."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    reached = np.maximum.accumulate(spans[:, 1]) if len(spans) else spans[:, 1]
    before = np.concatenate([[0], reached[:-1]]) if len(spans) else reached
    _check_gaps(text, np.append(before, reached[-1:]), np.append(spans[:, 0], len(text)), number, place)
    # Of a character that two tokens share, the first has the bytes.
    bytes_before = np.concatenate([[0], np.cumsum(_byte_lengths(text))])
    sizes = bytes_before[reached] - bytes_before[np.minimum(before, reached)]
    counts = np.ones(len(spans), bool)
    if options.completion is not None:
        at = text.find(options.completion)
        if at < 0:
            raise InputError(f"expected {options.completion!r} in every document of {place}, not in document {number}")
        counts = spans[:, 0] >= at + len(options.completion)
    return Document(np.array(encoding.ids, np.int64), sizes, counts)


def _check_gaps(text: str, before: NDArray[np.int64], start: NDArray[np.int64], number: int, place: str) -> None:
    """Raise at the first word in which no token stands for some character, other than a space."""
    for low, high in zip(before[start > before].tolist(), start[start > before].tolist(), strict=True):
        if text[low:high].strip():  # which character of the word has no token, the library does not say
            word = re.split(r"\s", text[:low][-40:])[-1] + re.split(r"\s", text[low : low + 40])[0]
            raise InputError(
                f"the tokenizer has no token for a character of {word!r}, near character {low} of document {number} of "
                f"{place}"
            )


def _byte_lengths(text: str) -> NDArray[np.int64]:
    """Bytes of each character in UTF-8."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)


def _pieces(tokenizer: Any) -> list[str]:
    """A readable name of each token id, all distinct."""
    size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    raw = [tokenizer.id_to_token(number) or f"<{number}>" for number in range(size)]
    shown = [piece.replace("Ġ", "␣").replace("▁", "␣") for piece in raw]
    return shown if len(set(shown)) == size else raw
