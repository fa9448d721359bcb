"""Checkpoints of one's own language models as teachers."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import capmismatch as cm
from capmismatch import architectures
from capmismatch.errors import InputError

tokenizers = pytest.importorskip("tokenizers")

SIZE, WINDOW = 60, 12


class Own(nn.Module):
    """A user's model, which gives its logits in one of three ways."""

    def __init__(self, form, vocabulary=SIZE):
        super().__init__()
        self.form, self.table, self.head = form, nn.Embedding(SIZE, 6), nn.Linear(6, vocabulary)

    def forward(self, ids):
        logits = self.head(self.table(ids).cumsum(1))
        return {"plain": logits, "tuple": (logits, None), "output": SimpleNamespace(logits=logits)}[self.form]


@pytest.fixture
def text(tmp_path):
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"w{number}": number for number in range(SIZE)}, unk_token="w0")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = np.random.default_rng(0).integers(0, SIZE, (6, 20))
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(f"w{word}" for word in line) for line in words))
    return cm.load_dataset(f"text:{tmp_path / 'text.txt'}", tokenizer=str(tmp_path), window=WINDOW, document="\n\n")


def _save(folder, name, network):
    folder.mkdir(exist_ok=True)
    torch.save(network.state_dict(), folder / f"{name}.pt")
    return network.eval()


def _direct(network, text):
    with torch.inference_mode():
        logits = network(torch.from_numpy(text.inputs.windows).long())
    return logits[text.inputs.window, text.inputs.position].numpy()


@pytest.mark.parametrize("form", ["plain", "tuple", "output"])
def test_models_of_ones_own_give_their_logits(tmp_path, text, form):
    torch.manual_seed(0)
    network = _save(tmp_path / "nets", "own", Own(form))
    family = cm.load_family(f"ckpt-lm:{tmp_path}/nets/*.pt", builder=lambda stem: Own(form), tokenizer=str(tmp_path))
    assert (family[0].key, family[0].outputs, family[0].source) == ("nets/own", SIZE, "ckpt-lm:own.pt")
    bank = cm.collect(family, text, tmp_path / "bank", progress=False)
    network.form = "plain"
    assert bank.take("nets/own", np.arange(len(text))) == pytest.approx(_direct(network, text), abs=1e-5)
    assert bank.teachers[0].findings == ""


def test_our_recurrent_models_are_built_by_name_and_condensed(tmp_path, text):
    networks = {}
    for width in (4, 8):
        torch.manual_seed(width)
        networks[f"gru{width}"] = _save(tmp_path / "grus", f"gru{width}", architectures.build(f"gru{width}", SIZE))
    (tmp_path / "grus/tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text())
    family = cm.load_family(f"ckpt-lm:{tmp_path}/grus/*.pt", builder="arch:{stem}")
    bank = cm.collect(family, text, tmp_path / "bank", k=8, columns=8, dense=False, progress=False)
    assert [record.findings for record in bank.teachers] == ["", ""] and bank.reference == "grus/gru8"
    for name, network in networks.items():
        logits, kept = _direct(network, text), bank.condensed_rows(f"grus/{name}", np.arange(len(text)))
        assert kept.target == pytest.approx(logits[np.arange(len(text)), text.labels], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("classifier", r"expected logits \(1, 1, V\) of a single token.*got shape \(1, 60\)"),
        ("narrow", "has logits of 40 tokens, the text 'text' has a tokenizer of 60"),
        ("context", "takes at most 8 tokens, the windows of 'text' have 12"),
        ("tokenizer", "expected a tokenizer.json or its folder as option 'tokenizer' of ckpt-lm"),
        ("fit", "does not fit the network that the builder made"),
        ("option", "option of 'ckpt-lm"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, text, change, message):
    class Last(Own):
        def forward(self, ids):
            return super().forward(ids)[:, -1]

    network = Last("plain") if change == "classifier" else Own("plain", 40 if change == "narrow" else SIZE)
    _save(tmp_path / "nets", "own", network)
    options = {
        "context": {"context": 8},
        "tokenizer": {"tokenizer": str(tmp_path / "none")},
        "option": {"mean": [0.5]},
    }.get(change, {})
    build = {"fit": lambda stem: Own("plain", 30)}.get(change, lambda stem: network)
    with pytest.raises(InputError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        family = cm.load_family(f"ckpt-lm:{tmp_path}/nets/own.pt", builder=build, **options)
        cm.collect(family, text, tmp_path / "bank", progress=False)


def test_ids_without_a_tokenizer_are_told(tmp_path, text):
    _save(tmp_path / "nets", "own", Own("plain"))
    family = cm.load_family(f"ckpt-lm:{tmp_path}/nets/own.pt", builder=lambda stem: Own("plain"))
    with pytest.warns(UserWarning, match="CM033"):
        bank = cm.collect(family, text, tmp_path / "bank", progress=False)
    assert bank.teachers[0].findings == "CM033"
