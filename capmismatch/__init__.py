"""capmismatch: why a bigger teacher can teach worse, whether it will, and which teacher to take."""

from __future__ import annotations

__version__ = "0.1.0"
