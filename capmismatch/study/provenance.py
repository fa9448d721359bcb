"""What a study's bank was collected from, so that later stages see whether that still holds.

``bank/collected.json`` holds a hash of the settings that decide logits, the teachers that the study names, and a stamp
of every local file behind them. Nothing is loaded to compare it: settings are hashed, files are looked at. Banks of
earlier versions have no such file, and are taken as they are.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capmismatch._utils.code import files_named_in, own_files_of
from capmismatch._utils.files import hash_file, hash_of, write_json
from capmismatch.data.bank import LogitBank
from capmismatch.errors import BankError, InputError
from capmismatch.study.config import CollectConfig, ProbeConfig, StudyConfig
from capmismatch.study.tables import read_stamp

HASHED_BYTES = 64 << 20
"""Files up to this size are hashed, so that a copy with another time of writing is the same file."""

_IMPORTS = "imports of "
"""In front of a builder's module, where the user's files are meant that it imports or names."""

LATER = ("k", "betas", "columns", "seed", "reference", "dense", "features", "students")
"""Settings of [collect] that came later: where they are at their defaults, banks of before keep their hash."""

HASHED_FILES = 100
"""Of a source with more files, an image folder, size and time alone are compared."""


def keep_named(bank: LogitBank, named: Collection[str], study: Path) -> None:
    """Leave out the networks of a bank that a study no longer names; of the bank of its validation rows it is said."""
    unnamed = [record.key for record in bank.records if record.key not in named]
    if unnamed and bank.path is not None and bank.path.name == "bank":
        warnings.warn(
            f"{bank.path} holds teachers that {study.name} no longer names; all stages leave them out: "
            f"{', '.join(unnamed)}",
            stacklevel=4,
        )
    bank.keep(named)


def write_manifest(bank: Path, config: StudyConfig, base: Path, teachers: list[str]) -> None:
    """Note beside a bank what it was collected from; nothing is written where that stands there already.

    Parameters
    ----------
    bank : Path
        Its folder.
    config : StudyConfig
        What the study file says.
    base : Path
        Folder that relative paths start from.
    teachers : list of str
        Keys of the teachers that the study names.
    """
    known = read_manifest(bank)
    files = _stamps(config, base, known["files"] if known else {})
    manifest = {"made_from": _settings_hash(config), "teachers": sorted(teachers), "files": files}
    if manifest != known:
        write_json(_file(bank), manifest)


def read_manifest(bank: Path) -> dict[str, Any] | None:
    """What was noted beside a bank; None where nothing was.

    Raises
    ------
    BankError
        If it cannot be read.
    """
    file = _file(bank)
    if not file.exists():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        known = {"made_from": str(manifest["made_from"]), "teachers": list(manifest["teachers"])}
        return known | {"files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"{file} is damaged ({error}): remove it and collect again") from None


def what_changed(bank: Path, config: StudyConfig, base: Path) -> str:
    """What has changed since a bank was collected, in words; empty where nothing has.

    Parameters
    ----------
    bank : Path
        Its folder.
    config : StudyConfig
        What the study file says now.
    base : Path
        Folder that relative paths start from.

    Returns
    -------
    str
        Settings, or the first file that is another, new or gone. Where no file of a source is left the bank goes by
        itself: it needs no network.
    """
    known = read_manifest(bank)
    if known is None:
        return ""
    if known["made_from"] != _settings_hash(config):
        return "[[family]], [data] or [collect]"
    for source, files in known["files"].items():
        now = _files_of(source, base)
        if not now and files:
            continue
        stamps = dict(files)
        for name, file in now.items():
            if name not in stamps:
                return f"the new file {name}"
            if not _is_same(file, stamps.pop(name)):
                return f"the file {name}"
        if stamps:
            return f"the file {next(iter(stamps))}, which is gone,"
    return ""


def own_code_of(config: StudyConfig) -> dict[str, str]:
    """Hashes of the user's own code behind the students; only what this process has registered is known."""
    if config.distill is None or "capmismatch.architectures.registry" not in sys.modules:
        return {}
    from capmismatch.distillation.runs import own_code

    assistants = [name for method in config.distill.methods for name in method.assistants]
    with suppress(InputError):  # students that another process has registered
        return own_code([*config.distill.students, *assistants])
    return {}


def has_other_code(folder: Path, config: StudyConfig) -> bool:
    """Whether a student that this process knows has other code than the one that was trained."""
    stamp = read_stamp(folder, "results")
    before, now = (stamp.more.get("code", {}) if stamp else {}), own_code_of(config)
    return any(before[name] != now[name] for name in before.keys() & now.keys())


def inputs_of_bank(bank: LogitBank, settings: Any) -> list[Any]:
    """All that decides a table that is measured on a bank."""
    teachers: list[Any] = [[record.key, record.params, record.sha256] for record in bank.teachers]
    macs = [record.macs for record in bank.teachers]
    teachers += [macs] if any(number is not None for number in macs) else []
    inputs = [repr(settings), bank.rows.fingerprint, teachers]
    students: list[Any] = [[record.key, record.params, record.sha256] for record in bank.students]
    if isinstance(settings, ProbeConfig) and (students or bank.feature_hashes):
        inputs.append([students, bank.feature_hashes])
    return inputs


def _file(bank: Path) -> Path:
    return bank / "collected.json"


def _settings_hash(config: StudyConfig) -> str:
    data = {key: value for key, value in asdict(config.data).items() if key != "download"}
    if data["text"] is None:  # banks of before there were texts keep their hash
        del data["text"]
    plain = CollectConfig()
    collect = {
        key: value
        for key, value in asdict(config.collect).items()
        if key != "batch_size" and not (key in LATER and value == getattr(plain, key))
    }
    collect["dtype"] = collect["dtype"] or "float32"
    return hash_of([list(config.family), data, collect])


def _sources(config: StudyConfig) -> Iterator[str]:
    """What may name local files in a study's settings."""
    for text in (config.data.source, config.data.train):
        if text is not None:
            yield text
    if config.data.text is not None:
        yield config.data.text.tokenizer or ""
    for table in config.family:
        yield from (table[key] for key in ("source", "weights") if isinstance(table.get(key), str))
        if isinstance(table.get("builder"), str):
            module = table["builder"].partition(":")[0]
            yield f"{module}.py"
            if module != "arch":
                yield f"{_IMPORTS}{module}"


def _stamps(config: StudyConfig, base: Path, known: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Size, time and content of every local file, by source and name."""
    stamps = {}
    for source in dict.fromkeys(_sources(config)):
        files, before = _files_of(source, base), known.get(source, {})
        hashed = len(files) <= HASHED_FILES
        stamps[source] = {
            name: before[name] if before.get(name, [])[:3] == _stat(file) else [*_stat(file), _content(file, hashed)]
            for name, file in files.items()
        }
    return {source: files for source, files in stamps.items() if files}


def _files_of(source: str, base: Path) -> dict[str, Path]:
    """The local files that a source names, by their paths from the study file's folder."""
    if source.startswith(_IMPORTS):
        own = list(own_files_of(source.removeprefix(_IMPORTS), base).values())
        return {os.path.relpath(file, os.path.realpath(base)): file for file in [*own, *files_named_in(own, base)]}
    address = source.partition(":")[2].removeprefix("local-dir:").partition("#")[0] if ":" in source else source
    if not address or source.startswith("torchvision:"):
        return {}
    files: dict[str, Path] = {}
    is_bank = source.startswith("bank:")
    for pattern in _expanded(address):
        for match in sorted(glob.glob(str(Path(glob.escape(str(base)), Path(pattern).expanduser())))):
            place = Path(match)
            inside = sorted(place.rglob("logits.safetensors" if is_bank else "*")) if place.is_dir() else [place]
            files |= {os.path.relpath(file, base): file for file in inside if _counts(file, place)}
    return files


def _expanded(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    from capmismatch.sources._networks import expand  # it loads torch

    return expand(pattern)


def _counts(file: Path, place: Path) -> bool:
    inside = file.relative_to(place).parts
    return file.is_file() and not file.name.startswith(".") and not {"__pycache__", "views"} & set(inside[:-1])


def _stat(file: Path) -> list[int]:
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _content(file: Path, hashed: bool) -> str:
    if not hashed or file.stat().st_size > HASHED_BYTES:
        return ""
    return hash_file(file)


def _is_same(file: Path, stamp: list[Any]) -> bool:
    """Whether a file is the one of a stamp: nothing has touched it, or it holds the same bytes."""
    *facts, content = stamp
    now = _stat(file)
    if now == facts or (not content and now[:2] == facts[:2]):
        return True
    return bool(content) and now[0] == facts[0] and _content(file, True) == content
