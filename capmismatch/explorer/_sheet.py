"""A sheet of paper to draw on, measured in inches from its upper left corner.

matplotlib's Axes spend ten times longer on their ticks than on the data; a sheet has none. It is a Figure made without
pyplot, so none stays open and a notebook shows none twice.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

DPI = 110


class Sheet:
    """A sheet of `width` by `height` inches; positions are inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure((width, height), dpi=DPI)
        self.figure.set_layout_engine("none")
        FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        """Write a text at a position, vertically centred unless `look` says otherwise."""
        look = {"va": "center", **look}
        self.figure.text(x, self.height - y, text, transform=self.figure.dpi_scale_trans, **look)

    def _add(self, artist: Artist) -> None:
        """Add an artist whose data are inches."""
        artist.set_transform(self.figure.dpi_scale_trans)
        self.figure.add_artist(artist)

    def lines(self, ends: ArrayLike, **look: Any) -> None:
        """Straight lines: (n, 2, 2), the (x, y) of both ends."""
        self._add(LineCollection(list(self._flipped(ends)), **look))

    def marks(self, x: ArrayLike, y: ArrayLike, **look: Any) -> None:
        """Markers at (n,) positions."""
        self._add(Line2D(np.asarray(x), self.height - np.asarray(y), linestyle="", **look))

    def bars(self, x: float, y: NDArray[Any], lengths: NDArray[Any], thickness: float, **look: Any) -> None:
        """Bars to the right of `x`, centred on `y`."""
        start, end, top, bottom = np.full_like(lengths, x), x + lengths, y - thickness / 2, y + thickness / 2
        corners = [(start, top), (end, top), (end, bottom), (start, bottom)]
        boxes = np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
        self._add(PolyCollection(list(self._flipped(boxes)), **look))

    def _flipped(self, positions: ArrayLike) -> NDArray[Any]:
        """Positions (..., 2) with y from the lower edge, as matplotlib counts it."""
        return np.asarray(positions, float) * (1, -1) + (0, self.height)

    def number_axis(
        self, left: float, right: float, y: float, low: float, high: float
    ) -> tuple[Callable[[Any], Any], int]:
        """Draw an axis with few plain ticks, from value `low` at `left` to value `high` at `right`.

        Returns
        -------
        tuple of callable and int
            Value -> x, and the power of ten that the ticks leave out (0 unless all are below a thousandth).
        """

        def position(value: Any) -> Any:
            return left + (value - low) / (high - low) * (right - left)

        largest = max(abs(low), abs(high))
        power = int(np.floor(np.log10(largest))) if 0 < largest < 1e-3 else 0
        ticks = [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
        look = {"color": "0.1", "linewidth": 0.6}
        marks = [[(position(tick), y), (position(tick), y + 0.035)] for tick in ticks]
        self.lines([[(left, y), (right, y)], *marks], **look)
        for tick in ticks:
            self.text(position(tick), y + 0.05, f"{tick * 10.0**-power:.6g}", ha="center", va="top", fontsize="small")
        return position, power

    def png(self) -> bytes:
        """The pixels after one drawing (`savefig` draws twice)."""
        canvas = self.figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        canvas.draw()
        file = BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(file, "png", compress_level=1)
        return file.getvalue()
