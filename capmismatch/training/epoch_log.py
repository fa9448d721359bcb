"""``log.jsonl`` of a run: one line per epoch, written as it ends, with the seconds that it took."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from capmismatch._utils.files import write_text
from capmismatch.errors import BankError


class EpochLog:
    """Writes a run's log. A run that goes on from a checkpoint first drops the epochs that it trains again.

    Parameters
    ----------
    file : Path
        Where. Lines that an earlier, killed process wrote are kept.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "log.jsonl"
    ...     for epoch in (0, 1):
    ...         EpochLog(file).write(epoch, loss=0.5)
    ...     EpochLog(file).write(1, loss=0.25)
    ...     [(line["epoch"], line["loss"]) for line in read_log(file)]
    [(0, 0.5), (1, 0.25)]
    """

    def __init__(self, file: Path) -> None:
        self.file, self._since, self._opened = file, time.monotonic(), False

    def write(self, epoch: int, **values: Any) -> None:
        """Add the line of an epoch, with these values."""
        if not self._opened:
            earlier = [json.dumps(line) + "\n" for line in read_log(self.file)[:epoch]]
            write_text(self.file, "".join(earlier))
            self._opened = True
        now = time.monotonic()
        line = {"epoch": epoch, **values, "seconds": round(now - self._since, 3)}
        self._since = now
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def seconds(self) -> float:
        """Duration of the whole run, earlier processes included."""
        logged = sum(float(line["seconds"]) for line in read_log(self.file))
        return round(logged + time.monotonic() - self._since, 3)


def read_log(file: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log; a kill may have cut off the last.

    Raises
    ------
    BankError
        Where a complete line is none of a log.
    """
    if not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        return [_line(line) for line in lines if line.endswith("}\n")]
    except (ValueError, KeyError, TypeError) as error:
        raise BankError(f"{file} is damaged ({error}): remove it, and its run is trained again") from None


def _line(text: str) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(text)
    if not (isinstance(line["epoch"], int) and isinstance(line["seconds"], int | float)):
        raise ValueError(f"an epoch {line['epoch']!r} of {line['seconds']!r} seconds")
    return line
