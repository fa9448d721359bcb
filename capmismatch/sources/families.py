"""Teachers and families of them, wherever they come from.

``load_family("ckpt:teachers/*.pt", builder="my_models:make")`` passes each kind of source to one module of
`capmismatch.sources` and returns a `Family`, a sequence of `Teacher`, smallest first where sizes are known. A new
source is one module and one line in `SOURCES`.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from capmismatch._utils.text import format_count
from capmismatch.data.class_names import default_order, natural_key
from capmismatch.data.records import STUDENT, only_key, teacher_key
from capmismatch.data.rows import Rows
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.sources._options import check_options

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from capmismatch.data.datasets import Dataset
    from capmismatch.data.feature_files import Features

# One line per source: its kind, and a module with a function `load(address, **options) -> (list[Teacher], Dataset |
# None)` and, where names can be listed without loading any weights, `describe(address) -> list[Listed]`.
SOURCES = {
    "torchvision": "capmismatch.sources.torchvision",
    "timm": "capmismatch.sources.timm",
    "hf": "capmismatch.sources.huggingface",
    "ckpt": "capmismatch.sources.checkpoint",
    "logits": "capmismatch.sources.saved",
    "bank": "capmismatch.sources.bank",
    "letters": "capmismatch.sources.letters",
    "lm": "capmismatch.sources.language_models",
    "hf-lm": "capmismatch.sources.causal_lm",
    "ckpt-lm": "capmismatch.sources.checkpoint_lm",
}
IN_MEMORY = "capmismatch.sources.modules"
"""The source of networks that are handed in, whose address is a mapping and has no kind before it."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """One network with its preprocessing, to be run on a data set; or logits of it that were saved before.

    Attributes
    ----------
    family : str
        Name of the family.
    name : str
        Name of the teacher within it.
    seed : int or None
        Number of the training run, where several runs of one teacher are known.
    params : int or None
        Number of parameters; None where unknown.
    macs : int or None
        Multiply-accumulates for one example; None where unknown.
    source : str
        Where it comes from; recorded in the bank.
    weights_hash : str
        Of its weights; recorded in the bank.
    preprocessing : str
        What `prepare` does; recorded in the bank.
    module : callable or None
        Makes the network, weights loaded, in eval mode.
    prepare : callable or None
        From a batch of raw inputs (n, ...) to the tensor that the network takes: the teacher's own preprocessing.
    saved : callable or None
        Instead of `module`: gives stored logits (N, C) and the rows that they belong to.
    classes : tuple of str or None
        Names of the network's outputs, in order, where its source has them; None takes the outputs as they stand.
    natural_order : bool
        Whether a network that does not name its outputs was trained by a library that sorts class folders as timm does:
        numbers within names by value, upper and lower case alike.
    by_position : bool
        Whether the user said that its outputs stand in the order of the data set's classes.
    published : float or None
        The accuracy that its source claims, in [0, 1].
    published_on : str
        Name of the data set that `published` was measured on.
    built_by : str
        Hash of what makes the network besides its weights, such as the builder's code; recorded in the bank.
    tokenizer : callable or None
        Of a language model that was trained elsewhere: gives the JSON of its tokenizer, or None where it brings none.
    outputs : int or None
        Of such a model: how many tokens it gives logits of, padding among them.
    context : int or None
        Of such a model: how many tokens it can take.
    role : str
        "student" of a network that is to be taught; recorded in the bank.
    feature_layer : str
        Name of the layer whose output are its features; "" for what its last linear layer reads.
    saved_features : callable or None
        With `saved`: gives the stored features of the same rows, where there are some.
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
    natural_order: bool = False
    by_position: bool = False
    published: float | None = None
    published_on: str = ""
    built_by: str = ""
    tokenizer: Callable[[], str | None] | None = None
    outputs: int | None = None
    context: int | None = None
    role: str = ""
    feature_layer: str = ""
    saved_features: Callable[[], Features] | None = None

    @property
    def key(self) -> str:
        """The name under which a bank keeps it."""
        return teacher_key(self.family, self.name, self.seed)

    def output_names(self, classes: Sequence[str]) -> tuple[str, ...] | None:
        """The names of its outputs on a data set with these classes; None takes the outputs as they stand.

        Where only its library's way to sort folders is known, and nobody has put the classes in another order, its
        outputs are the classes sorted so.

        Examples
        --------
        >>> Teacher("timm", "own", natural_order=True).output_names(["Banana", "apple"])
        ('apple', 'Banana')
        """
        if self.classes is not None or not self.natural_order:
            return self.classes
        by_text, given = sorted(classes), list(classes)
        natural = sorted(by_text, key=lambda name: (natural_key(name), name))
        is_unsorted = given not in (by_text, default_order(classes))
        return None if is_unsorted or given == natural else tuple(natural)

    def logits(self, inputs: Any, batch_size: int = 256) -> NDArray[np.float32]:
        """Run the network on raw inputs.

        Parameters
        ----------
        inputs : ndarray or list of PIL images
            Of shape (n, ...), images as uint8 (n, H, W, C).
        batch_size : int
            Rows per forward pass.

        Returns
        -------
        ndarray of shape (n, C), float32
            Logits, columns in the network's own order.
        """
        import torch

        from capmismatch.sources._networks import logits_of, prepared

        if self.module is None or self.prepare is None:
            raise InputError(f"{self.key} has saved logits only: it cannot be run on new inputs")
        network = self.module().eval()
        with torch.inference_mode():
            batches = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
            logits = [
                logits_of(network, prepared(self.prepare, batch, self.key, "these inputs"), self.key, "these inputs")
                for batch in batches
            ]
        return np.concatenate([batch.numpy() for batch in logits])


class Family(Sequence[Teacher]):
    """Teachers in order, and the data set that came with them where their logits were saved.

    Parameters
    ----------
    teachers : sequence of Teacher
        At least one, with distinct keys.
    dataset : Dataset, optional
        The examples of saved logits.

    Raises
    ------
    InputError
        Where there is no teacher, or two have the same key.
    """

    def __init__(self, teachers: Sequence[Teacher], dataset: Dataset | None = None) -> None:
        if not teachers:
            raise InputError("expected at least one teacher, got an empty family")
        keys = [teacher.key for teacher in teachers]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated:
            raise InputError(f"expected distinct teachers, got {repeated!r} twice; give the families other names")
        self.teachers = tuple(teachers)
        self.dataset = dataset

    def __getitem__(self, item: Any) -> Any:
        if not isinstance(item, str):
            return self.teachers[item]
        key = only_key(item, [(teacher.key, teacher.family, teacher.name) for teacher in self], "teacher")
        return next(teacher for teacher in self if teacher.key == key)

    def __len__(self) -> int:
        return len(self.teachers)

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self.teachers)

    def __repr__(self) -> str:
        lines = [f"Family of {len(self)} teachers:"]
        for teacher in self:
            size = f"{format_count(teacher.params)} parameters" if teacher.params is not None else "size unknown"
            lines.append(f"  {teacher.key}: {size}, from {teacher.source}")
        return "\n".join(lines)


def load_family(
    *specs: str | Mapping[str, nn.Module],
    name: str | None = None,
    by_position: bool = False,
    role: str = "",
    feature_layer: str = "",
    **options: Any,
) -> Family:
    """Load teachers from one or several sources as one family.

    Parameters
    ----------
    *specs : str or mapping of str to torch.nn.Module
        Networks that are in memory, by their names (options ``mean``, ``std``, or ``prepare``, a function of a batch);
        or ``kind:address``, one of

        * ``torchvision:resnet{18,34,50}``, ``timm:resnet*.a1_in1k``, ``hf:OWNER/NAME``, ``hf:./FOLDERS``: image
          classifiers of these libraries, each with its own preprocessing; brace lists and wildcards name several.
          Option ``weights`` of the first two takes one's own files, or None for random ones; see `capmismatch.sources`.
        * ``ckpt:PATTERN``: checkpoints (.pt, .pth, .safetensors) read with weights only. Options: ``builder`` makes the
          network of a checkpoint: a function of the file's stem, its name ``"module:function"``, or a registered
          architecture ``"arch:NAME"`` where ``{stem}`` stands for the file's stem, ``{parent}`` for its folder's name;
          ``mean``, ``std`` normalise images; ``key``, ``prefix`` choose among several weights of one file; ``seed``
          says which training run they are.
        * ``logits:FILE.npz`` or ``logits:FOLDER``: logits saved before.
        * ``bank:FOLDER``: the teachers of a bank that was collected before.
        * ``letters:mlp``: multi-layer perceptrons trained here on UCI Letter Recognition. Options: ``widths``,
          ``seeds``, ...
        * ``lm:gru``: recurrent language models trained here, on the text of the study or the King James Bible. Options:
          ``widths``, ``seeds``, ``epochs``, ``windows``, ...
        * ``hf-lm:OWNER/NAME``, ``hf-lm:./FOLDERS``: causal language models of transformers, from safetensors alone;
          ``hf-lm:./FILES.gguf`` from GGUF. Options: ``revision``, ``dtype`` ("float32", or "bfloat16" up to the head).
        * ``ckpt-lm:PATTERN``: checkpoints of one's own language models. Options: those of ``ckpt:`` but for ``mean``
          and ``std``; ``tokenizer``, a ``tokenizer.json`` to be compared with the text's; ``context``.
    name : str, optional
        The family's name in tables; by default the source's.
    by_position : bool
        Take every network's outputs as the data set's classes in order, whatever its source calls them.
    role : str
        "student" of networks that are to be taught: a bank keeps them beside the teachers, and they are no candidates.
    feature_layer : str
        Name of the layer whose output are a network's features, where `capmismatch.collect` is to keep them, such as
        "avgpool" (places of an image are averaged); by default what its last linear layer reads.
    **options : Any
        Of the sources; each source gets those that it knows, and one that none knows is an error.

    Returns
    -------
    Family
        The teachers of all sources, those of one source smallest first.

    Raises
    ------
    InputError
        Where a source or option is unknown, an option is missing, or a teacher cannot be read.

    See Also
    --------
    list_teachers : what a source has, without loading weights.
    collect : run the teachers on a data set.

    Examples
    --------
    >>> family = load_family("letters:mlp", widths=[8, 16], seeds=1)
    >>> [teacher.key for teacher in family]
    ['mlp/mlp8-s0', 'mlp/mlp16-s0']
    """
    if not specs:
        raise InputError(f"expected at least one source like 'ckpt:teachers/*.pt'; the kinds are {sorted(SOURCES)}")
    sources = [_open(spec) for spec in specs]
    known_options = dict.fromkeys(option for source in sources for option in source.options)
    for option in options:
        must_be_one_of(option, known_options, f"option of {' or '.join(repr(source.spec) for source in sources)}")
    common = {"name": name, "by_position": by_position, "role": role, "feature_layer": feature_layer}
    check_options(load_family, common, sources[0].spec)
    must_be_one_of(role, ("", STUDENT), "role")
    for source in sources:
        source.check(options)
    teachers: list[Teacher] = []
    datasets: list[Dataset] = []
    for source in sources:
        loaded, dataset = source.load(options)
        loaded = loaded if name is None else _renamed(loaded, name)
        teachers += sorted(loaded, key=_size)  # stable: teachers of unknown size stay in the source's order
        datasets += [dataset] if dataset is not None else []
    if by_position:
        teachers = [replace(teacher, classes=None, natural_order=False, by_position=True) for teacher in teachers]
    teachers = [
        replace(teacher, role=role or teacher.role, feature_layer=feature_layer or teacher.feature_layer)
        for teacher in teachers
    ]
    return Family(teachers, next(iter(datasets), None))


def _renamed(teachers: list[Teacher], family: str) -> list[Teacher]:
    """A source's teachers under one family's name; such as would then be one keep their family's name before theirs."""
    keys = Counter((teacher.name, teacher.seed) for teacher in teachers)
    return [
        replace(
            teacher,
            family=family,
            name=teacher.name if keys[teacher.name, teacher.seed] == 1 else f"{teacher.family}-{teacher.name}",
        )
        for teacher in teachers
    ]


def _size(teacher: Teacher) -> tuple[bool, int]:
    """Sorts teachers by their number of parameters, those of unknown size last."""
    return teacher.params is None, teacher.params or 0


@dataclass(frozen=True)
class _Source:
    """One of `SOURCES`, and the address of teachers within it."""

    spec: str
    module: Any
    address: Any

    @property
    def options(self) -> dict[str, bool]:
        """The options that its `load` takes, and whether each is required."""
        parameters = list(inspect.signature(self.module.load).parameters.values())[1:]
        return {parameter.name: parameter.default is inspect.Parameter.empty for parameter in parameters}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise where an option that the source takes has another type."""
        check_options(self.module.load, {name: options[name] for name in self.options if name in options}, self.spec)

    def load(self, options: Mapping[str, Any]) -> tuple[list[Teacher], Dataset | None]:
        """Load the teachers with those options that the source takes."""
        for name, is_required in self.options.items():
            if is_required and name not in options:
                raise InputError(f"{self.spec!r} lacks the option {name!r}")
        return self.module.load(self.address, **{name: options[name] for name in self.options if name in options})


def _open(spec: str | Mapping[str, Any]) -> _Source:
    if isinstance(spec, Mapping):
        return _Source("networks in memory", importlib.import_module(IN_MEMORY), spec)
    if not isinstance(spec, str):
        raise InputError(
            f"expected a source like 'ckpt:teachers/*.pt' or networks by name, {{'small': net}}, got "
            f"{type(spec).__name__}"
        )
    kind, _, address = spec.partition(":")
    must_be_one_of(kind, SOURCES, f"the kind of source in {spec!r}")
    return _Source(spec, importlib.import_module(SOURCES[kind]), address)


def list_teachers(spec: str) -> pd.DataFrame:
    """What a source has under some names, smallest first, without loading or downloading weights where possible.

    Parameters
    ----------
    spec : str
        As `load_family` takes it: ``"timm:resnet*"``, ``"torchvision:*"``, ``"hf:./FOLDERS"``, ...

    Returns
    -------
    pandas.DataFrame
        One row per network, with the columns

        * ``name``: of the network, or the key of the teacher
        * ``params``: number of parameters
        * ``macs``: multiply-accumulates for one example
        * ``input``: shape of one prepared example, such as "3x224x224"
        * ``classes``: number of outputs

        Values are missing where the source has none.

    See Also
    --------
    load_family : load the teachers.

    Examples
    --------
    >>> list_teachers("torchvision:resnet{18,34}")
           name    params        macs      input  classes
    0  resnet18  11689512  1814073344  3x224x224     1000
    1  resnet34  21797672  3663761408  3x224x224     1000
    """
    import pandas as pd

    columns = ["name", "params", "macs", "input", "classes"]
    source = _open(spec)
    if hasattr(source.module, "describe"):
        networks = source.module.describe(source.address)
        rows = [[net.name, net.params, net.macs, "x".join(map(str, net.input)), net.classes] for net in networks]
    else:
        rows = [[teacher.key, teacher.params, teacher.macs, None, None] for teacher in load_family(spec)]
    return pd.DataFrame(rows, columns=columns)
