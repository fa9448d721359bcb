"""Names on figures: long ones in short, and names beside points without overlap. Deterministic and greedy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.transforms import Bbox

from capmismatch.plots._common import literal
from capmismatch.plots._options import renamed
from capmismatch.plots._save import note_names

MOST = 20  # characters of a name on a figure: twelve such names fit a paper's column
SMALLEST = 6.0  # points; journals refuse smaller text
GAPS = (3.0, 9.0, 16.0, 24.0)  # points between a dot and its name; the nearest free position wins


def tiny_points() -> float:
    """Size of the smallest text (names beside points, numbers in cells) in points."""
    size = FontProperties(size="x-small").get_size_in_points()  # of the current font.size
    return max(SMALLEST, float(size))


def short_names(names: Iterable[str], most: int = MOST) -> dict[str, str]:
    """Name on a figure of each name: itself, or, where it is longer than `most` characters, what tells it from others.

    A long name loses its words one by one: first those that half of the names have, then the last before the first; a
    word stays if the remaining words would fit another name too. An ellipsis stands for what is gone between two words.
    A single long word loses its middle. Only where names would look alike otherwise does one stay longer than `most`.
    The order of the names plays no part.

    Examples
    --------
    >>> names = ["vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_large_patch16_224.augreg_in21k_ft_in1k", "resnet18"]
    >>> list(short_names(names).values())
    ['vit_base_patch16_224', 'vit_large_patch16', 'resnet18']
    >>> short_names(["0123456789abcdef"], 9)
    {'0123456789abcdef': '0123…cdef'}
    """
    shown = {name: name for name in names}
    tokens = {name: re.split(r"([/_.:\s-]+)", name) for name in shown}  # even: words, odd: what separates them
    counts = Counter(word for words in tokens.values() for word in set(words[::2]))
    common = {word for word, count in counts.items() if 2 * count >= len(shown)}
    for name in sorted(name for name in shown if len(name) > most):
        taken = set(shown.values()) - {name}
        other_names = [words[::2] for other, words in tokens.items() if other != name]
        label = _fewer_words(tokens[name], most, common, other_names, taken)
        shown[name] = _without_middle(label, most, taken)
    return shown


def _fewer_words(tokens: list[str], most: int, common: set[str], other_names: list[list[str]], taken: set[str]) -> str:
    """The name without the words that it can lose, until it has at most `most` characters."""
    remaining = list(range(0, len(tokens), 2))
    other_names = [words for words in other_names if not _in_order(tokens[::2], words)]
    for index in sorted(remaining, key=lambda index: (tokens[index] not in common, -index)):
        if len(_joined(tokens, remaining)) <= most:
            break
        fewer = [other for other in remaining if other != index]
        words = [tokens[other] for other in fewer]
        if words and _joined(tokens, fewer) not in taken and not any(_in_order(words, name) for name in other_names):
            remaining = fewer
    return _joined(tokens, remaining)


def _in_order(words: list[str], among: list[str]) -> bool:
    """Whether all words are among others, in their order."""
    following = iter(among)
    return all(word in following for word in words)


def _joined(tokens: list[str], remaining: list[int]) -> str:
    """The remaining words: neighbours with what separates them, others with an ellipsis."""
    label = tokens[remaining[0]]
    for before, index in pairwise(remaining):
        label += (tokens[index - 1] if index == before + 2 else "…") + tokens[index]
    return label


def _without_middle(label: str, most: int, taken: set[str]) -> str:
    """The label cut to `most` characters, or to the fewest above that with which it is not taken."""
    for length in range(most, len(label)):
        for head in sorted(range(length), key=lambda head: abs(head - length // 2)):  # first in the middle
            cut = f"{label[:head]}…{label[len(label) - (length - 1 - head) :]}"
            if cut not in taken:
                return cut
    return label


def names_on(ax: Axes, names: Iterable[str], of: str = "teacher") -> dict[str, str]:
    """Names to show on Axes: those that were asked for with `labels=`, else short ones.

    The Axes remember those that differ from the full ones: `save` writes them into the files. `names` are all that the
    table has, shown or not, so that a teacher has one name in all figures of a study; `of` is what has them: "teacher",
    "family" or "class".
    """
    shown = short_names(names)
    own = {name: new for name in shown if (new := renamed(name, of)) is not None}
    note_names(ax, {short: name for name, short in shown.items() if short != name and name not in own})
    return shown | own


def label_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str], *, settled: bool = False) -> None:
    """Write each name near its point so that it covers no point, no other name and no edge of the Axes.

    Names are placed from the most crowded point to the loneliest. Each takes the nearest of 32 positions (eight
    directions, four distances); a name that is not close gets a thin leader. If nothing is free, the position with the
    least overlap is taken, so that every point has a name. The layout is settled first, unless it is.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None  # Axes without a figure do not exist in pyplot
    if not settled:
        figure.draw_without_rendering()  # pixels depend on the layout
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    unit = figure.dpi / 72
    dots = ax.transData.transform(np.column_stack([x, y]))
    taken = [Bbox.from_extents(*(dot - 3 * unit), *(dot + 3 * unit)) for dot in dots]
    frame = ax.get_window_extent(renderer)
    distances = np.hypot(*(dots[:, None] - dots[None]).transpose(2, 0, 1))
    for index in np.argsort(np.sort(distances, axis=1)[:, : min(4, len(dots))].sum(axis=1), kind="stable"):
        text = ax.annotate(
            literal(names[index]),
            (x[index], y[index]),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=tiny_points(),
            ha="left",
            va="bottom",
            zorder=3,
        )
        size = text.get_window_extent(renderer)
        offset, box = min(
            _positions(dots[index], size.width, size.height, unit),
            key=lambda position: _overlap(position[1], taken, frame),  # min takes the first, nearest of equals
        )
        text.set_position((offset[0] / unit, offset[1] / unit))
        taken.append(box)
        near = np.clip(dots[index], box.min, box.max)
        if np.hypot(*(near - dots[index])) > 6 * unit:
            ends = ax.transData.inverted().transform([dots[index], near])
            ax.plot(ends[:, 0], ends[:, 1], color="0.6", linewidth=0.5, zorder=1, scalex=False, scaley=False)


def _positions(dot: np.ndarray, width: float, height: float, unit: float) -> list[tuple[tuple[float, float], Bbox]]:
    """Offsets at which a name of this size may stand beside a dot, nearest first, each with the box that it fills."""
    positions = []
    for gap in GAPS:
        for right, up in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            reach = gap * unit * (0.75 if right and up else 1.0)
            x = {1: reach, 0: -width / 2, -1: -reach - width}[right]
            y = {1: reach, 0: -height / 2, -1: -reach - height}[up]
            positions.append(((x, y), Bbox.from_bounds(dot[0] + x, dot[1] + y, width, height)))
    return positions


def _overlap(box: Bbox, taken: list[Bbox], frame: Bbox) -> float:
    """Area that a box shares with what is taken or has outside the frame."""
    inside = Bbox.intersection(box, frame)
    area = box.width * box.height - (0.0 if inside is None else inside.width * inside.height)
    for other in taken:
        shared = Bbox.intersection(box, other)
        area += 0.0 if shared is None else shared.width * shared.height
    return round(area, 6)
