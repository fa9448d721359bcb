"""A commented ``study.toml`` for what somebody has: a folder of checkpoints, saved logits, a bank."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from capmismatch._utils.files import write_text
from capmismatch.errors import InputError

ENDINGS = (".pt", ".pth", ".safetensors")
"""Endings of checkpoints."""

PREFERRED = ("best", "final", "last", "latest")
"""Words in names of checkpoints, the one to take of a run first."""


def new_study(
    source: Path,
    file: Path,
    *,
    data: str | None = None,
    builder: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    results: Path | None = None,
) -> Path:
    """Write a study file for a folder of checkpoints, a file or folder of saved logits, or a bank.

    Parameters
    ----------
    source : Path
        What there is.
    file : Path
        The study file to write; it must not be there yet. Paths in it start at its folder.
    data : str, optional
        The data set, as `capmismatch.load_dataset` takes it; checkpoints need one.
    builder : str, optional
        What makes the network of a checkpoint: ``"module:function"`` or ``"arch:NAME"``; by default the architecture
        that the names of files or folders tell.
    mean, std : sequence of float, optional
        How images are normalised.
    results : Path, optional
        A table of students, CSV or Parquet.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the file is there already, or `source` holds none of these.
    """
    for path, kind_of in ((source, "a folder of checkpoints, or a file of logits"), (results, "a table of students")):
        if path is not None and not path.exists():
            raise InputError(f"there is no {path}: expected {kind_of}")
    kind, address = _what_it_is(source)
    if file.exists():
        raise InputError(f"{file} is there already: remove it, or give another name by --out")
    place = _from(file.parent, address)
    lines = [f"# Written by `capmismatch init`. Now: capmismatch check {file.name}, then capmismatch run {file.name}"]
    lines += [f"name = {json.dumps(_name(source))}", 'question = "Which of these teachers teaches best?"']
    if results is not None:
        shown = json.dumps(_from(file.parent, results))
        given = f"{{ file = {shown}, percent = true }}" if _in_percent(results) else shown
        lines += [f"results = {given}  # accuracies of students that were trained elsewhere"]
    else:
        lines += [
            '# results = "students.csv"  # columns teacher, method, seed, split, accuracy; or val_acc and test_acc'
        ]
    lines += ["", *_data(kind, data, file), "", "[[family]]", f"source = {json.dumps(f'{kind}:{place}')}"]
    if kind == "ckpt":
        lines += _builder(address, builder) + _normalised(mean, std)
    lines += ["", *_REST]
    write_text(file, "\n".join(lines) + "\n")
    return file


def _what_it_is(source: Path) -> tuple[str, Path]:
    """The kind of source, and its address: a pattern of checkpoints, a file, or a folder."""
    if source.is_file():
        if source.suffix == ".npz":
            return "logits", source
        if source.suffix in ENDINGS:
            return "ckpt", source
        raise InputError(f"expected a file of logits (.npz) or a checkpoint {ENDINGS}, got {source}")
    if (source / "bank.json").exists():
        return "bank", source
    if (source / "family.json").exists():
        return "logits", source
    return "ckpt", source / _pattern(source)


def _pattern(folder: Path) -> str:
    """The pattern, below a folder, of one checkpoint for each teacher."""
    files = sorted(path for ending in ENDINGS for path in folder.rglob(f"*{ending}") if path.is_file())
    if not files:
        raise InputError(
            f"expected checkpoints ({', '.join(ENDINGS)}), bank.json or family.json in {folder}, got none of them"
        )
    below = [path.relative_to(folder) for path in files]
    depths = Counter(len(path.parts) for path in below)
    if 1 in depths and depths[1] == len(below):
        endings = Counter(path.suffix for path in below)
        return f"*{endings.most_common(1)[0][0]}"
    in_folders = [path for path in below if len(path.parts) > 1]
    depth = Counter(len(path.parts) for path in in_folders).most_common(1)[0][0]
    runs = {path.parent for path in in_folders if len(path.parts) == depth}
    names = Counter(path.name for path in in_folders if len(path.parts) == depth)
    everywhere = [name for name, number in names.items() if number == len(runs)] or [names.most_common(1)[0][0]]
    return "/".join([*["*"] * (depth - 1), min(everywhere, key=_preference)])


def _preference(name: str) -> tuple[int, int, str]:
    """Sorts names of a run's checkpoints: the best, the last, then the one with the highest number."""
    word = next((rank for rank, word in enumerate(PREFERRED) if word in name.lower()), len(PREFERRED))
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return word, -max(numbers, default=-1), name


def _name(source: Path) -> str:
    return (source.resolve().stem if source.is_file() else source.resolve().name) or "study"


def _from(base: Path, path: Path) -> str:
    """A path as the study file says it: from its folder, where that is not far; else absolute."""
    relative = os.path.relpath(path.absolute(), base.absolute())
    far = Path(relative).parts.count("..") > 3
    return (path.absolute() if far else Path(relative)).as_posix()


def _data_from(base: Path, data: str) -> str:
    """The address of a data set as the study file says it: a file or folder that is there, from the study's folder.

    Examples
    --------
    >>> _data_from(Path("study"), "torchvision:CIFAR10")
    'torchvision:CIFAR10'
    """
    kind, colon, place = data.partition(":")
    return f"{kind}:{_from(base, Path(place))}" if colon and Path(place).exists() else data


def _in_percent(results: Path) -> bool:
    """Whether a table of students can be read only as percentages; `check` reports what cannot be read at all."""
    from capmismatch.distillation.results import load_results

    for percent in (False, True):
        try:
            load_results(results, percent=percent)
        except InputError:
            continue
        return percent
    return False


def _data(kind: str, data: str | None, file: Path) -> list[str]:
    lines = ["[data]"]
    if data is not None:
        lines += [f"source = {json.dumps(_data_from(file.parent, data))}"]
    elif kind == "ckpt":
        lines += [
            'source = "npz:FILE"  # FILL IN: "folder:PATH" of images by class, "torchvision:CIFAR10", "hf:NAME", or',
            '                     # "npz:FILE" with labels (N,) and images uint8 (N, H, W, C)',
        ]
    else:
        return ["# [data] is not needed: the labels come with the logits"]
    return [
        *lines,
        "# split = { val = 0.5, test = 0.5 }  # default: the source's own; students need train rows as well",
    ]


def _builder(pattern: Path, builder: str | None) -> list[str]:
    """The line that says what makes the networks; an architecture where names of files or folders tell one."""
    if builder is not None:
        return [f"builder = {json.dumps(builder)}"]
    found = _architecture(pattern)
    if found is not None:
        return [
            f"builder = {json.dumps(found)}  # from the names of files or folders; cm.architectures.names() lists all"
        ]
    return [
        "# FILL IN: the function make(stem) in my_models.py, next to this file, returns the network; make(stem, path)",
        '# also gets the path of the checkpoint. Or a registered architecture, such as "arch:cifar_resnet20".',
        'builder = "my_models:make"',
    ]


def _architecture(pattern: Path) -> str | None:
    """A builder of registered architectures that fits all checkpoints by their names, if there is one."""
    from capmismatch.architectures.registry import is_known
    from capmismatch.sources.checkpoint import known_part, matching

    files = matching(str(pattern), ".")
    for placeholder, names in {
        "{stem}": [path.stem for path in files],
        "{parent}": [path.resolve().parent.name for path in files],
    }.items():
        for prefix in ("", "cifar_"):
            if all(is_known(prefix + name) or known_part(prefix + name) for name in names):
                return f"arch:{prefix}{placeholder}"
    return None


def _normalised(mean: Sequence[float] | None, std: Sequence[float] | None) -> list[str]:
    if mean is not None and std is not None:
        return [f"mean = {json.dumps(list(mean))}", f"std = {json.dumps(list(std))}"]
    return [
        "# FILL IN as in the training of the teachers, one number per channel of images in [0, 1]. Leave both out if",
        "# the networks normalise their inputs themselves, or inputs are no images:",
        "# mean = [0.485, 0.456, 0.406]",
        "# std = [0.229, 0.224, 0.225]",
    ]


_REST = """\
[probe]
taus = [1, 2, 4, 8]          # temperatures at which teachers are measured
# device = "cuda"

# To train students here, instead of `results` (and [data] needs rows for training):
# [distill]
# students = ["resnet8x4"]   # architectures; a teacher teaches each of them
# seeds = 3
# recipe = { epochs = 60, batch_size = 128, lr = 0.05, optimizer = "sgd" }
# [[distill.methods]]
# name = "CE"                # plain training, to compare with
# [[distill.methods]]
# name = "KD"
""".splitlines()
