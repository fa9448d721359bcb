"""Names beside points without overlap: small, deterministic, greedy."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from capmismatch.plots._axes import root
from capmismatch.plots._common import literal

GAPS = (3.0, 9.0, 16.0, 24.0)  # points between a dot and its name; the nearest free place wins


def label_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Write each name near its point so that it covers no point, no other name and no edge of the Axes.

    Points are served from the most crowded to the loneliest. Each takes the nearest of 32 places (eight directions,
    four distances); a name that is not close gets a thin leader. If nothing is free, the place with the least overlap
    is taken, so that every point has a name.
    """
    figure = root(ax)
    figure.draw_without_rendering()  # settles the layout, on which pixels depend
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    unit = figure.dpi / 72
    dots = ax.transData.transform(np.column_stack([x, y]))
    taken = [Bbox.from_extents(*(dot - 3 * unit), *(dot + 3 * unit)) for dot in dots]
    frame = ax.get_window_extent(renderer)
    distances = np.hypot(*(dots[:, None] - dots[None]).transpose(2, 0, 1))
    for index in np.argsort(np.sort(distances, axis=1)[:, : min(4, len(dots))].sum(axis=1), kind="stable"):
        text = ax.annotate(
            literal(names[index]), (x[index], y[index]), xytext=(0, 0), textcoords="offset points", fontsize="x-small",
            ha="left", va="bottom", zorder=3,
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        offset, box = min(
            _places(dots[index], size.width, size.height, unit),
            key=lambda place: _overlap(place[1], taken, frame),  # min takes the first, nearest of equals
        )
        text.set_position((offset[0] / unit, offset[1] / unit))
        taken.append(box)
        near = np.clip(dots[index], box.min, box.max)
        if np.hypot(*(near - dots[index])) > 6 * unit:
            ends = ax.transData.inverted().transform([dots[index], near])
            ax.plot(ends[:, 0], ends[:, 1], color="0.6", linewidth=0.5, zorder=1, scalex=False, scaley=False)


def _places(dot: np.ndarray, width: float, height: float, unit: float) -> list[tuple[tuple[float, float], Bbox]]:
    places = []
    for gap in GAPS:
        for right, up in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            reach = gap * unit * (0.75 if right and up else 1.0)
            left = {1: reach, 0: -width / 2, -1: -reach - width}[right]
            low = {1: reach, 0: -height / 2, -1: -reach - height}[up]
            places.append(((left, low), Bbox.from_bounds(dot[0] + left, dot[1] + low, width, height)))
    return places


def _overlap(box: Bbox, taken: list[Bbox], frame: Bbox) -> float:
    """Area that a box shares with what is taken or has outside the frame."""
    inside = Bbox.intersection(box, frame)
    area = box.width * box.height - (0.0 if inside is None else inside.width * inside.height)
    for other in taken:
        shared = Bbox.intersection(box, other)
        area += 0.0 if shared is None else shared.width * shared.height
    return round(area, 6)
