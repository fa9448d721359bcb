"""Writing files so that a kill at any moment leaves either the old file or the new one."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from capmismatch.errors import CapmismatchError, InputError

TEMPORARY = ".tmp-"  # how the names of files that are being written begin


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, rename it to `path`, else remove it.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    target = Path(path)
    make_folder(target.parent)
    try:
        long = len(os.fsencode(target.name)) > 150  # a name may have 255 bytes
        prefix = f"{TEMPORARY}{hash_of(os.fsencode(target.name).hex()) if long else target.name}."
        _remove_of_ended_processes(target.parent, prefix)
        handle, name = tempfile.mkstemp(prefix=f"{prefix}{_writer()}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise CapmismatchError(f"cannot write {target}: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's mode 0600 is for secrets; these are results to share
        os.replace(temporary, target)
    except OSError as error:
        raise CapmismatchError(f"cannot write {target}: {error}; what was there before is unchanged") from error
    finally:
        temporary.unlink(missing_ok=True)


def _writer() -> str:
    """Who writes a temporary file: the machine since its start and this process's view of it, and the process."""
    return f"{_machine()}-{os.getpid()}"


@functools.cache
def _machine() -> str:
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(os.readlink("/proc/self/ns/pid"))  # in another container, process numbers are others'
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def _remove_of_ended_processes(folder: Path, prefix: str) -> None:
    """Remove what processes of this machine were writing in place of the same file when they were killed."""
    pattern = re.compile(rf"{re.escape(prefix)}{_machine()}-(\d+)\.")
    for file in folder.iterdir():
        match = pattern.match(file.name)
        if match is not None and not _is_running(int(match[1])):
            with suppress(OSError):
                file.unlink()


def _is_running(process: int) -> bool:
    if os.name != "posix":  # there, os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, where they are missing."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CapmismatchError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


@contextmanager
def locked(path: str | os.PathLike[str], wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` inside the block; another process waits, or gets False without `wait`.

    The lock ends with its process. It is `flock`'s, which on NFS the server holds: machines that share a file system
    exclude each other as well.
    """
    make_folder(Path(path).parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        pass
    except OSError as error:
        raise CapmismatchError(f"cannot write in {Path(path).parent}: {error.strerror}") from error
    try:
        yield lock.is_locked
    finally:
        lock.release()


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether any process holds a lock file."""
    if not Path(path).exists():
        return False
    with locked(path, wait=False) as held:
        return not held


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process was writing in a folder; only the holder of the folder's lock may call this."""
    for file in folder.glob(f"{TEMPORARY}*"):
        file.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_table(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a data frame as Parquet, atomically."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def hash_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, read in pieces."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def no_device(path: str | os.PathLike[str], what: str) -> None:
    """Raise where a path leads to a device, a pipe or a socket: what is read there may never come, or never end.

    Examples
    --------
    >>> no_device("/dev/zero", "a results file")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected a results file, got /dev/zero, which is a device, a pipe or a socket
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"expected {what}, got {os.fspath(path)}, which is a device, a pipe or a socket")


def hash_of(value: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a value's JSON, keys sorted.

    Examples
    --------
    >>> hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
