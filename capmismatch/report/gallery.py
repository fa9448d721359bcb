"""Every figure of a study: which are drawn, in which order, from what, and drawing them all.

What a figure needs and its caption stand in its own file, ``capmismatch/plots/<name>.py``, as ``NEEDS`` and
``CAPTION``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from capmismatch import plots
from capmismatch._utils.progress import progress_bar
from capmismatch.data.opening import open_bank
from capmismatch.diagnostics.dark_knowledge import example_soft_labels
from capmismatch.diagnostics.tables import rank_stability, reliability
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.plots._save import check_formats
from capmismatch.report.study_folder import StudyFolder
from capmismatch.selection.pareto import pareto_front
from capmismatch.stats.late_gains import is_measured
from capmismatch.stats.matching import nearest_tau, resolve_split

MANY = 7  # settings, plain training among them, that one panel can hold


class StudyFigure(NamedTuple):
    """How a study draws a figure.

    Attributes
    ----------
    needs : tuple of str
        Tables without which it is left out.
    caption : str
        What it shows.
    draw : callable
        Draws it from a study; returns Axes or an array of Axes.
    """

    needs: tuple[str, ...]
    caption: str
    draw: Callable[[StudyFolder], Any]


def drawings(study: StudyFolder) -> dict[str, Callable[[], Any]]:
    """The figures whose tables a study has, each with what draws it.

    Parameters
    ----------
    study : StudyFolder
        A study whose stages have left tables.

    Returns
    -------
    dict of str to callable
        In the order of `FIGURES`, then a capacity curve for each student, of language models by likelihood, too; a call
        gives Axes, or raises an InputError where the tables cannot fill it.
    """
    students = study.load("results")["student"].unique().tolist() if study.has("results") else []
    found: dict[str, Callable[[], Any]]
    found = {name: partial(f.draw, study) for name, f in FIGURES.items() if all(map(study.has, f.needs))}
    if "learning_curves" in found and not is_measured(study.load("curves")):  # of the training loss alone
        del found["learning_curves"]
    found |= {f"capacity_curve_{student}": partial(_capacity_curve, study, student) for student in students}
    if students and "nll" in study.load("results"):
        found |= {f"capacity_curve_{name}_nll": partial(_capacity_curve, study, name, "nll") for name in students}
    return found


def draw_all(
    study: StudyFolder,
    folder: Path | None = None,
    venue: str = "default",
    *,
    only: Sequence[str] = (),
    formats: Sequence[str] = ("pdf", "png"),
) -> list[Path]:
    """Draw each figure whose tables the study has: a picture in each format, and the CSV of what it shows.

    Parameters
    ----------
    study : StudyFolder
        A study whose stages have left tables.
    folder : Path, optional
        Where they go, by default ``figures/`` of the study.
    venue : str
        Whose sizes and fonts they have, see `capmismatch.figure_style`.
    only : sequence of str, optional
        Names of figures, or what they begin with: "capacity_curve" stands for those of all students.
    formats : sequence of {"pdf", "png", "svg"}
        Of the pictures.

    Returns
    -------
    list of Path
        The PNGs, or the pictures of the first format where no PNG is among them, in the order of `drawings`.

    Raises
    ------
    InputError
        If a venue or format is unknown, or a name is none of a figure that this study's tables allow.
    """
    import matplotlib.pyplot as plt

    known = drawings(study)
    check_formats(formats)
    for name in only:
        if not any(each.startswith(name) for each in known):
            must_be_one_of(name, list(known), "only")
    chosen = {name: draw for name, draw in known.items() if not only or name.startswith(tuple(only))}
    shown = list(formats).index("png") if "png" in formats else 0

    target, drawn = study.folder / "figures" if folder is None else folder, []
    bars = progress_bar(chosen.items(), desc="plot", show=study.progress, unit="figure")
    with plots.figure_style(venue, ratio=0.5), bars as bar:
        for name, draw in bar:
            bar.set_postfix_str(name)
            try:
                axes = draw()
            except InputError as error:  # one figure that a study's tables cannot fill does not cost the others
                bar.write(f"{name} left out: {error}")
                continue
            drawn.append(plots.save(axes, target / name, formats=formats)[shown])
            plt.close("all")
    return drawn


def _capacity_curve(study: StudyFolder, student: str, metric: str = "accuracy") -> Any:
    results = study.load("results")
    draw = plots.capacity_curve if results["label"].nunique() <= MANY else plots.capacity_grid
    split = resolve_split(results["split"])
    return draw(results, student=student, teachers=study.load("probes"), split=split, metric=metric)


def _tau(study: StudyFolder) -> float:
    """The temperature at which figures read the probes: that of ISATS where it was measured, else the nearest."""
    return nearest_tau(study.config.probe.taus, study.config.isats.tau_target)


def _smallest_first(study: StudyFolder) -> pd.DataFrame:
    """The bank's teachers by size, ``family, teacher``; those of unknown size last."""
    runs = sorted(study.bank.teachers, key=lambda run: run.params or float("inf"))
    return pd.DataFrame([(run.family, run.teacher) for run in runs], columns=["family", "teacher"]).drop_duplicates()


def _best_setting(study: StudyFolder) -> dict[str, str]:
    """The first student, its soft-label method that stands first in the study, and the split to report on."""
    results = study.load("results")
    distilled = results[results["method"] != "CE"]
    return {
        "student": distilled["student"].iloc[0],
        "label": distilled["label"].iloc[0],
        "split": resolve_split(results["split"]),
    }


def _example(study: StudyFolder) -> pd.DataFrame:
    """The soft labels of one example."""
    split = resolve_split(study.bank.rows.split, "val")
    return example_soft_labels(study.bank, study.config.isats.specs(), split=split)


def _dark_knowledge(study: StudyFolder) -> Any:
    return plots.dark_knowledge(_example(study), among=_smallest_first(study))


def _front(study: StudyFolder) -> pd.DataFrame | None:
    """The front of the first student, in its best setting."""
    if not (study.has("results") and study.has("probes")):
        return None
    results, split = study.load("results"), resolve_split(study.bank.rows.split, "val")
    return pareto_front(study.load("probes"), results, student=_best_setting(study)["student"], split=split)


def _made_now(study: StudyFolder) -> dict[str, Callable[[], pd.DataFrame | None]]:
    """Tables of figures that no stage leaves as they are drawn."""
    return {
        "pick": lambda: study.choice().plot_table("pick"),
        "affinity": lambda: _smallest_first(study).merge(study.load("affinity"), on=["family", "teacher"]),
        "pareto_front": lambda: _front(study),
        "dark_knowledge": lambda: _example(study),
        "reliability": lambda: reliability(study.bank, split=resolve_split(study.bank.rows.split, "val")),
    }


def plot_table(study: StudyFolder, name: str) -> pd.DataFrame | None:
    """The table that a figure of `capmismatch.plots` draws, from a study or a diagnosis.

    Parameters
    ----------
    study : StudyFolder
        A study whose stages have left tables.
    name : str
        A table of a stage; or "pareto_front", "dark_knowledge" or "reliability".

    Returns
    -------
    DataFrame or None
        None where a stage has not left it, or there is no table of that name.
    """
    made = _made_now(study)
    if name in made and (name not in ("pick", "affinity") or study.has(name)):
        return made[name]()
    return study.load(name) if study.has(name) else None


def _noise_floor(study: StudyFolder) -> pd.DataFrame | None:
    """Agreement of teachers that were trained several times, where the study names a bank of such ones."""
    place = study.config.ranks.noise_floor
    if not place or study.file is None:
        return None
    return rank_stability(open_bank(study.file.parent / Path(place).expanduser()), progress=False)


def _ranks(study: StudyFolder, name: str) -> Any:
    return getattr(plots, name)(study.load("ranks"), floor=_noise_floor(study))


def _grid(study: StudyFolder) -> Any:
    return plots.probe_vs_student_grid(
        study.load("probes"),
        study.load("results"),
        tau=_tau(study),
        links=study.load("links"),
        **_best_setting(study),
    )


def _learning_curves(study: StudyFolder) -> Any:
    """Those of the first student."""
    curves = study.load("curves")
    return plots.learning_curves(curves, student=curves["student"].iloc[0])


def _collected(name: str, draw: Callable[[StudyFolder], Any] | None = None, **options: Any) -> tuple[str, StudyFigure]:
    """A figure with what its file says of it; without `draw` it is given the tables that it needs, by their names."""
    file = _file(name)

    def from_tables(study: StudyFolder) -> Any:
        first, *others = (plot_table(study, table) for table in file.NEEDS)
        named = dict(zip(file.NEEDS[1:], others, strict=True))
        return getattr(plots, name)(first, **named, **options)

    return name, StudyFigure(file.NEEDS, file.CAPTION, draw or from_tables)


def _file(name: str) -> Any:
    """The module of a figure, whose name in `capmismatch.plots` stands for the function."""
    return import_module(f"capmismatch.plots.{name}")


# in the order of the page; the capacity curves of the students come first there
FIGURES: dict[str, StudyFigure] = dict(
    [
        _collected("variance_vs_capacity", split="val"),
        _collected("variance_vs_temperature", split="val"),
        _collected("isats_restored"),
        _collected("rank_matrix", partial(_ranks, name="rank_matrix")),
        _collected("rank_distribution", partial(_ranks, name="rank_distribution")),
        _collected("affinity_map"),
        _collected("logit_statistics", split="val"),
        _collected("dark_knowledge", _dark_knowledge),
        _collected("probe_vs_student_grid", _grid),
        _collected("pick_chart"),
        _collected("learning_curves", _learning_curves),
        _collected("pareto_front", lambda study: plots.pareto_front(plot_table(study, "pareto_front"))),
    ]
)


def caption(name: str) -> str:
    """What a figure of a study shows.

    Parameters
    ----------
    name : str
        The stem of its file.

    Returns
    -------
    str
        Its caption, or the name itself where no figure has it.
    """
    if name.startswith("capacity_curve"):
        file = _file("capacity_curve")
        return str(file.CAPTION_NLL if name.endswith("_nll") else file.CAPTION)
    return FIGURES[name].caption if name in FIGURES else name
