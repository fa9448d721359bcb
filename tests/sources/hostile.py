"""A hostile checkpoint, for all sources that read weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)
