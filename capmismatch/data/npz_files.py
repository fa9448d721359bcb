"""Reading .npz files of others: no pickle, nothing that unpacks out of proportion, and errors that name the file."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from capmismatch._utils.files import no_device
from capmismatch.errors import CapmismatchError, InputError

LARGE = 256 << 20
"""From this many bytes on, an array in a file must not be packed more tightly than `TIGHT`."""

TIGHT = 100
"""Bytes in memory for a byte in the file: of images and logits it is below 20, zeros alone reach 1000."""


def read_npz(path: Path, select: Callable[[str], bool]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read arrays of an .npz without pickle.

    Parameters
    ----------
    path : Path
        Of the file.
    select : callable
        Says of an array's name whether it is to be read.

    Returns
    -------
    tuple of dict of str to ndarray, and list of str
        The arrays, and the names of all that the file holds.

    Raises
    ------
    InputError
        Where the file is none, damaged, encrypted, holds Python objects, or unpacks to out-of-proportion arrays.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}")
    no_device(path, "an .npz file")
    try:
        if not path.is_dir() and not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a readable .npz: {_what_it_is(path)}")
        with zipfile.ZipFile(path) as archive:
            names = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            twice = [name for name, count in Counter(archive.namelist()).items() if count > 1]
            if twice:
                raise InputError(f"expected each array once in {path}, got {twice[0].removesuffix('.npy')!r} twice")
            arrays = {name: _read_member(archive, member, name, path) for name, member in names.items() if select(name)}
        return arrays, sorted(names)
    except CapmismatchError:
        raise
    except Exception as error:  # of the archive, of a compression, of NumPy's format, of memory
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise InputError(f"{path} is not a readable .npz: {type(error).__name__}: {reason}") from None


def _what_it_is(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(b"\x93NUMPY"):
        return "it holds a single array"
    if not start:
        return "it is empty"
    return "it is no zip archive, as NumPy's savez writes them, or was cut"


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, path: Path) -> NDArray[Any]:
    if member.flag_bits & 1:
        raise InputError(f"array {name!r} of {path} is encrypted: save it without a password")
    with archive.open(member) as file:
        shape, is_fortran, dtype = _header(file)
        if dtype.hasobject:
            raise InputError(
                f"array {name!r} of {path} holds Python objects that only pickle could read, which capmismatch does "
                "not: save numbers or strings"
            )
        size = dtype.itemsize
        for length in shape:
            size *= length
        in_file = member.file_size - file.tell()
        if size != in_file:
            raise InputError(
                f"array {name!r} of {path} is damaged: its header has shape {shape} of {dtype}, {size:,} bytes, "
                f"the file has {in_file:,}"
            )
        if size > LARGE and size > TIGHT * max(1, member.compress_size):
            raise InputError(
                f"array {name!r} of {path} would unpack to {size:,} bytes (shape {shape} of {dtype}) from "
                f"{member.compress_size:,}: expected data that are not all alike; save them with savez, unpacked"
            )
        array: NDArray[Any] = np.empty(shape, dtype, order="F" if is_fortran else "C")
        _fill(array, file)
    return array


def _fill(array: NDArray[Any], file: IO[bytes]) -> None:
    """Read an array's bytes in the order of its memory, and on to the end, where the check sum is compared."""
    if array.nbytes:
        raw = array.reshape(-1, order="A").view(np.uint8).data  # a view: the array has one order or the other
        while raw:
            part = file.read(min(len(raw), 1 << 24))
            if not part:
                raise EOFError("it was cut")
            raw[: len(part)] = part
            raw = raw[len(part) :]
    file.read()


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    return npy.read_array_header_2_0(file)
