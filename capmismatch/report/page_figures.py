"""The pictures of the report page: those that were drawn, by the question that they answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from capmismatch.report import gallery

TOPIC_FIGURES = {
    "students": ("capacity_curve", "pareto_front"),
    "variance": ("variance_vs_capacity", "variance_vs_temperature"),
    "ranks": ("rank_matrix", "rank_distribution", "affinity_map"),
    "restored": ("isats_restored", "dark_knowledge"),
    "links": ("probe_vs_student_grid",),
    "trained": ("learning_curves",),
    "logits": ("logit_statistics",),
}
"""Topic of `capmismatch.report.narrative.TOPICS` -> figures that answer it, the most telling first."""

ANSWER_FIGURES = (("capacity_curve", "variance_vs_capacity"), ("pick_chart",))
"""The pictures beside the answer: of each group the first that was drawn."""


@dataclass(frozen=True)
class Figure:
    """A picture of the page.

    Attributes
    ----------
    name : str
        Of the figure, as in `capmismatch.report.gallery.FIGURES` or with a student's name after it.
    title, caption : str
        What stands beside it.
    stem : str
        Of the file's name.
    png : str
        The picture in base64.
    width, height : int
        Pixels, so that the page keeps its place free; 0 where the file is no picture.
    points : tuple of (float, float, str)
        Where each drawn point lies, in pixels from the left and from the top, and what it says where the pointer rests.
    """

    name: str
    title: str
    caption: str
    stem: str
    png: str
    width: int = 0
    height: int = 0
    points: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Pictures:
    """The pictures of a page, each once.

    Attributes
    ----------
    answer : list of Figure
        Those beside the answer.
    of_topics : mapping from topic to list of Figure
        Those that answer a question, the most telling first.
    others : list of Figure
        The rest.
    """

    answer: list[Figure]
    of_topics: dict[str, list[Figure]]
    others: list[Figure]

    @property
    def drawn(self) -> bool:
        """Whether there is any."""
        return bool(self.answer or self.others or any(self.of_topics.values()))


def pictures(folder: Path, topics: Iterable[str]) -> Pictures:
    """The figures that a folder's manifest lists, sorted to the questions that the page asks.

    Parameters
    ----------
    folder : Path
        Where PNGs and their manifest lie.
    topics : iterable of str
        The questions that have a section on the page.

    Returns
    -------
    Pictures
        Each figure once.
    """
    left = {figure.name: figure for figure in figures(folder)}

    def take(stem: str, most: int | None = None) -> list[Figure]:
        names = [name for name in left if name.startswith(stem)][:most]
        return [left.pop(name) for name in names]

    answer = []
    for stems in ANSWER_FIGURES:
        first = next((stem for stem in stems if any(name.startswith(stem) for name in left)), "")
        answer += take(first, 1) if first else []
    of_topics = {topic: [figure for stem in TOPIC_FIGURES.get(topic, ()) for figure in take(stem)] for topic in topics}
    return Pictures(answer, of_topics, list(left.values()))


def figures(folder: Path) -> list[Figure]:
    """The pictures that were drawn, by their manifest: what students do first, then the gallery's order."""
    names = {unquote(file.stem): file for file in drawn(folder)}
    order = {name: position for position, name in enumerate(gallery.FIGURES)}

    def place(name: str) -> int:
        if name.startswith("capacity_curve"):  # of a text by likelihood first
            return -2 if name.endswith("_nll") else -1
        return order.get(name, len(order))

    ordered = sorted(names, key=place)
    return [_figure(name, names[name]) for name in ordered]


def _figure(name: str, file: Path) -> Figure:
    title = name.replace("_", " ").capitalize().replace("Isats", "ISATS").replace(" nll", " NLL")
    width, height = 0, 0
    points: tuple[tuple[float, float, str], ...] = ()
    with suppress(OSError), Image.open(file) as picture:
        width, height = picture.size
        points = _points(picture)
    png = base64.b64encode(file.read_bytes()).decode("ascii")
    return Figure(name, title, gallery.caption(name), file.stem, png, width, height, points)


def _points(picture: Image.Image) -> tuple[tuple[float, float, str], ...]:
    """The points of a figure, as `capmismatch.plots.save` wrote them into its PNG; none of another picture."""
    width, height = picture.size
    with suppress(ValueError, TypeError):
        told = json.loads(str(picture.info.get("Points", "[]")))
        return tuple((round(x * width), round(y * height), str(text)) for x, y, text in told)
    return ()


def drawn(folder: Path) -> list[Path]:
    """The PNGs that the manifest of a folder lists: others were drawn before, or by somebody else."""
    try:
        names = json.loads((folder / "made_from.json").read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(file for file in (folder / Path(name).name for name in names) if file.is_file())


def full_names(folder: Path) -> dict[str, str]:
    """Full names of teachers that the figures show in short, as `capmismatch.plots.save` wrote them into each PNG."""
    names: dict[str, str] = {}
    for file in drawn(folder):
        with suppress(OSError), Image.open(file) as picture:  # a broken picture holds no names
            lines = str(picture.info.get("Description", "")).splitlines()
            names |= dict(line.split(" = ", 1) for line in lines if " = " in line)
    return dict(sorted(names.items()))
