"""Writing files: whole or not at all, whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from messages import naming

from capmismatch._utils import files
from capmismatch.errors import CapmismatchError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_writes_the_whole_file_with_usual_rights(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    files.write_text(file, "é\n")
    assert file.read_bytes() == "é\n".encode()
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert names(file.parent) == ["a.txt"]


def test_an_error_in_the_block_keeps_the_old_file_and_removes_the_temporary(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    files.write_text(file, "old")
    with pytest.raises(KeyError), files.replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_full_disk_is_named_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.parquet"
    files.write_table(file, pd.DataFrame({"a": [1]}))
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CapmismatchError, match=naming("t.parquet", "No space left on device")):
        files.write_table(file, pd.DataFrame({"a": [2]}))
    assert file.read_bytes() == before
    assert names(tmp_path) == ["t.parquet"]


def test_a_real_full_device(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(CapmismatchError, match="No space left"), files.replacing(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(CapmismatchError, match=r"cannot make the folder .*taken"):
        files.write_text(tmp_path / "taken" / "a.txt", "x")
    folder = tmp_path / "folder"
    with pytest.raises(CapmismatchError, match=r"cannot write .*folder"), files.replacing(folder) as temporary:
        temporary.write_text("x")
        folder.mkdir()
    assert not any(name.startswith(files.TEMPORARY) for name in names(tmp_path))


def test_equal_values_give_equal_bytes_and_hashes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"x": 1, "b": [1, 2]})
    files.write_json(tmp_path / "b", {"b": [1, 2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.hash_of([1, 2]) != files.hash_of([2, 1])
    assert len(files.hash_of(None)) == 16


KILLED = """
import sys, time
from pathlib import Path
from capmismatch._utils.files import locked, replacing
with locked(Path(sys.argv[1]) / ".lock"):
    with replacing(Path(sys.argv[1]) / "a.txt") as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_file_frees_the_lock_and_can_be_tidied(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "old")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(names(tmp_path)) == 3
    start = time.monotonic()
    with files.locked(tmp_path / ".lock") as held:
        assert held and time.monotonic() - start < 5
        files.remove_temporaries(tmp_path)
    assert names(tmp_path) == [".lock", "a.txt"]


def test_without_waiting_one_is_told_that_another_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    assert not files.is_locked(lock) and not lock.parent.exists()  # looking makes nothing
    with files.locked(lock) as held:
        assert held and files.is_locked(lock)
        with files.locked(lock, wait=False) as again:
            assert not again
        assert files.is_locked(lock)  # nor does who did not get it let go of it
    assert not files.is_locked(lock)
    with files.locked(lock, wait=False) as held:
        assert held


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(CapmismatchError, match="cannot write in"), files.locked(tmp_path / ".lock"):
        pass
