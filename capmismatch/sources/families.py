"""Teachers and families of them, wherever they come from.

``load_family("ckpt:teachers/*.pt", builder="my_models:make")`` hands each kind of source to one small file in
`capmismatch.sources`; what comes back is a `Family`, a sequence of `Teacher`, smallest first where sizes are known.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from capmismatch.data.records import teacher_key
from capmismatch.data.rows import Rows
from capmismatch.errors import InputError, must_be_one_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from capmismatch.data.datasets import Dataset

# kind -> module with a function `load(rest, **options) -> (list[Teacher], Dataset | None)` and, where names can be
# listed without loading any weights, `describe(rest) -> list[Listed]`
SOURCES = {
    "torchvision": "capmismatch.sources.torchvision",
    "timm": "capmismatch.sources.timm",
    "hf": "capmismatch.sources.huggingface",
    "ckpt": "capmismatch.sources.checkpoint",
    "logits": "capmismatch.sources.saved",
    "bank": "capmismatch.sources.bank",
    "letters": "capmismatch.sources.letters",
}


@dataclass(frozen=True, eq=False)
class Teacher:
    """One network whose logits can be had: by running `module` on what `prepare` makes of inputs, or as `saved` ones.

    Attributes
    ----------
    family, name, seed : identity; `seed` numbers the training runs of one teacher, None where only one is known
    params, macs : None where unknown
    source, weights_hash, preprocessing : recorded in the bank
    module : makes the network, weights loaded, in eval mode
    prepare : a batch of raw inputs (n, ...) -> the tensor that the network takes: the teacher's own preprocessing
    saved : instead of `module`, gives stored logits and the rows that they belong to
    classes : names of the network's outputs, in order, where its source tells; None takes them as they stand
    published, published_on : the accuracy that its source claims, and the name of the data set that it was measured on
    """

    family: str
    name: str
    seed: int | None = None
    params: int | None = None
    macs: int | None = None
    source: str = ""
    weights_hash: str = ""
    preprocessing: str = ""
    module: Callable[[], nn.Module] | None = None
    prepare: Callable[[Any], Tensor] | None = None
    saved: Callable[[], tuple[Rows, NDArray[Any]]] | None = None
    classes: tuple[str, ...] | None = None
    published: float | None = None
    published_on: str = ""

    @property
    def key(self) -> str:
        """The name under which a bank keeps it."""
        return teacher_key(self.family, self.name, self.seed)

    def logits(self, inputs: Any, batch_size: int = 256) -> NDArray[np.float32]:
        """Run the network on raw inputs: logits (n, C) as a float32 array, columns in the network's own order.

        Inputs are an array (n, ...), images as uint8 (n, H, W, C), or a list of PIL images.
        """
        import torch

        if self.module is None or self.prepare is None:
            raise InputError(f"{self.key} has saved logits only: it cannot be run on new inputs")
        network = self.module().eval()
        with torch.inference_mode():
            parts = [
                network(self.prepare(inputs[start : start + batch_size])).float().numpy()
                for start in range(0, len(inputs), batch_size)
            ]
        return np.concatenate(parts)


class Family(Sequence[Teacher]):
    """Teachers in order, and the data set that came with them where their logits were saved."""

    def __init__(self, teachers: Sequence[Teacher], dataset: Dataset | None = None) -> None:
        if not teachers:
            raise InputError("expected at least one teacher, got an empty family")
        keys = [teacher.key for teacher in teachers]
        double = next((key for key in keys if keys.count(key) > 1), None)
        if double:
            raise InputError(f"expected distinct teachers, got {double!r} twice; give the families other names")
        self.teachers = tuple(teachers)
        self.dataset = dataset

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            found = [t for t in self if t.key == item] or [t for t in self if t.name == item]
            if len(found) > 1:
                raise InputError(f"teacher {item!r} could be any of {[t.key for t in found]}: use one of these keys")
            if not found:
                must_be_one_of(item, [t.key for t in self], "teacher")
            return found[0]
        return self.teachers[item]

    def __len__(self) -> int:
        return len(self.teachers)

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self.teachers)

    def __repr__(self) -> str:
        lines = [f"Family of {len(self)} teachers:"]
        for teacher in self:
            size = f"{teacher.params:,} parameters" if teacher.params is not None else "size unknown"
            lines.append(f"  {teacher.key}: {size}, from {teacher.source}")
        return "\n".join(lines)


def load_family(*specs: str, name: str | None = None, by_position: bool = False, **options: Any) -> Family:
    """Load teachers from one or several sources as one family.

    Parameters
    ----------
    specs : each ``kind:rest``

        * ``torchvision:resnet{18,34,50}``, ``timm:resnet*.a1_in1k``, ``hf:OWNER/NAME``, ``hf:./FOLDERS``: image
          classifiers of these libraries, each with its own preprocessing; brace lists and wildcards name several.
          Option ``weights`` of the first two takes one's own files, or None for random ones; see `capmismatch.sources`.
        * ``ckpt:PATTERN`` checkpoints (.pt, .pth, .safetensors) read with weights only. Options: ``builder`` makes the
          network of a checkpoint: a function of the file's stem, its name ``"module:function"``, or a registered
          architecture ``"arch:NAME"`` where ``{stem}`` stands for the file's stem; ``mean``, ``std`` normalise images.
        * ``logits:FILE.npz`` or ``logits:FOLDER``: logits saved before.
        * ``bank:FOLDER``: the teachers of a bank that was collected before.
        * ``letters:mlp``: multi-layer perceptrons trained here on UCI Letter Recognition. Options: ``widths``,
          ``seeds``, ...
    name : the family's name in tables; by default the source says
    by_position : take every network's outputs as the data set's classes in order, whatever its source calls them
    options : of the sources; each source gets those that it knows, and one that none knows is an error

    Examples
    --------
    >>> family = load_family("letters:mlp", widths=[8, 16], seeds=1)
    >>> [teacher.key for teacher in family]
    ['mlp/mlp8-s0', 'mlp/mlp16-s0']
    """
    if not specs:
        raise InputError(f"expected at least one source like 'ckpt:teachers/*.pt'; the kinds are {sorted(SOURCES)}")
    teachers: list[Teacher] = []
    dataset = None
    sources = [(spec, *_source(spec)) for spec in specs]
    takes = [list(inspect.signature(source.load).parameters.values())[1:] for _, source, _ in sources]
    for option in options:
        known = dict.fromkeys(parameter.name for own in takes for parameter in own)
        must_be_one_of(option, known, f"option of {' or '.join(repr(spec) for spec in specs)}")
    for (spec, source, rest), parameters in zip(sources, takes, strict=True):
        lacks = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.name not in options]
        if lacks:
            raise InputError(f"{spec!r} lacks the option {lacks[0]!r}")
        loaded, own = source.load(rest, **{p.name: options[p.name] for p in parameters if p.name in options})
        if name is not None:
            loaded = [replace(teacher, family=name) for teacher in loaded]
        if by_position:
            loaded = [replace(teacher, classes=None) for teacher in loaded]
        teachers += sorted(loaded, key=lambda t: (t.params is None, t.params or 0))  # stable: else as given
        dataset = dataset or own
    return Family(teachers, dataset)


def list_teachers(spec: str) -> pd.DataFrame:
    """What a source has under some names, smallest first, without loading or downloading weights where it can tell.

    Parameters
    ----------
    spec : as `load_family` takes it: ``"timm:resnet*"``, ``"torchvision:*"``, ``"hf:./FOLDERS"``, ...

    Returns
    -------
    pandas.DataFrame
        name, params, macs, input (the shape of one prepared example, such as "3x224x224"), classes; missing where the
        source cannot say.

    Examples
    --------
    >>> list_teachers("torchvision:resnet{18,34}")
           name    params        macs      input  classes
    0  resnet18  11689512  1814073344  3x224x224     1000
    1  resnet34  21797672  3663761408  3x224x224     1000
    """
    import pandas as pd

    columns = ["name", "params", "macs", "input", "classes"]
    source, rest = _source(spec)
    if hasattr(source, "describe"):
        rows = [[r.name, r.params, r.macs, "x".join(map(str, r.input)), r.classes] for r in source.describe(rest)]
    else:
        rows = [[teacher.key, teacher.params, teacher.macs, None, None] for teacher in load_family(spec)]
    return pd.DataFrame(rows, columns=columns)


def _source(spec: str) -> tuple[Any, str]:
    """The module that knows a kind of source, and what follows the colon."""
    kind, _, rest = spec.partition(":")
    must_be_one_of(kind, SOURCES, f"the kind of source in {spec!r}")
    return importlib.import_module(SOURCES[kind]), rest
