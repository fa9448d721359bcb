"""Figures: a tidy table in, matplotlib Axes out.

A function draws what the table holds and computes no statistics beyond selecting rows and averaging over runs. Those
that draw one Axes take ``ax`` and return it; those that draw several panels return an array of Axes. All take
their width and fonts from matplotlib's rcParams, so ``with figure_style("neurips"):`` fits any of them to a paper, and
`save` writes one as PDF, PNG and the CSV of exactly what it shows (`drawn_data`). A function of your own takes part by
calling `attach` with the rows that it drew.

Each figure has a file of its own here: the function, the tables of a study that it needs (``NEEDS``), and its caption
(``CAPTION``).

Figures are made with pyplot, so that a notebook displays them; a long script calls ``plt.close(ax.figure)`` after
`save`.
"""

from capmismatch.plots._save import attach, drawn_data, file_name, save
from capmismatch.plots._style import FigureStyle, figure_style
from capmismatch.plots.affinity_map import affinity_map
from capmismatch.plots.capacity_curve import capacity_curve
from capmismatch.plots.capacity_grid import capacity_grid
from capmismatch.plots.dark_knowledge import dark_knowledge
from capmismatch.plots.fidelity_vs_capacity import fidelity_vs_capacity
from capmismatch.plots.forest import forest
from capmismatch.plots.isats_restored import isats_restored
from capmismatch.plots.learning_curves import learning_curves
from capmismatch.plots.logit_statistics import logit_statistics
from capmismatch.plots.pareto_front import pareto_front
from capmismatch.plots.pick_chart import pick_chart
from capmismatch.plots.probe_vs_student import probe_vs_student
from capmismatch.plots.probe_vs_student_grid import probe_vs_student_grid
from capmismatch.plots.rank_distribution import rank_distribution
from capmismatch.plots.rank_matrix import rank_matrix
from capmismatch.plots.reliability_diagram import reliability_diagram
from capmismatch.plots.study_progress import study_progress
from capmismatch.plots.temperature_heatmap import temperature_heatmap
from capmismatch.plots.variance_vs_capacity import variance_vs_capacity
from capmismatch.plots.variance_vs_temperature import variance_vs_temperature

__all__ = [
    "FigureStyle",
    "affinity_map",
    "attach",
    "capacity_curve",
    "capacity_grid",
    "dark_knowledge",
    "drawn_data",
    "fidelity_vs_capacity",
    "figure_style",
    "file_name",
    "forest",
    "isats_restored",
    "learning_curves",
    "logit_statistics",
    "pareto_front",
    "pick_chart",
    "probe_vs_student",
    "probe_vs_student_grid",
    "rank_distribution",
    "rank_matrix",
    "reliability_diagram",
    "save",
    "study_progress",
    "temperature_heatmap",
    "variance_vs_capacity",
    "variance_vs_temperature",
]
