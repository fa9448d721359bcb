"""Every figure drawn from synthetic tables, and what can be asked of a drawn figure."""

from __future__ import annotations

import matplotlib
import numpy as np
import tables

from capmismatch import plots


def draw(name, teachers):
    """Draw one figure from synthetic tables."""
    probes, results = tables.probes_table(teachers), tables.results_table(teachers)
    kd = {"tau": 4, "label": "KD tau=4"}
    return {
        "capacity_curve": lambda: plots.capacity_curve(results, teachers=probes),
        "capacity_curve alone": lambda: plots.capacity_curve(results),
        "capacity_grid": lambda: plots.capacity_grid(results, teachers=probes),
        "fidelity_vs_capacity": lambda: plots.fidelity_vs_capacity(tables.with_fidelity(results)),
        "learning_curves": lambda: plots.learning_curves(tables.curves_table(teachers)),
        "forest": lambda: plots.forest(tables.forest_table()),
        "variance_vs_capacity": lambda: plots.variance_vs_capacity(probes),
        "variance_vs_temperature": lambda: plots.variance_vs_temperature(
            probes, restored=tables.restored_table(teachers)
        ),
        "temperature_heatmap": lambda: plots.temperature_heatmap(tables.temperature_grid_table(teachers)),
        "probe_vs_student": lambda: plots.probe_vs_student(
            probes, results, probe="derived_std", links=tables.links_table(), **kd
        ),
        "probe_vs_student_grid": lambda: plots.probe_vs_student_grid(
            probes, results, chosen=["derived_std", "inherent_variance", "target_prob", "accuracy"], **kd
        ),
        "rank_matrix": lambda: plots.rank_matrix(tables.ranks_table(teachers)),
        "rank_distribution": lambda: plots.rank_distribution(tables.ranks_table(teachers)),
        "affinity_map": lambda: plots.affinity_map(tables.affinity_table(teachers)),
        "logit_statistics": lambda: plots.logit_statistics(probes),
        "reliability_diagram": lambda: plots.reliability_diagram(tables.reliability_table(teachers)),
        "isats_restored": lambda: plots.isats_restored(tables.restored_table(teachers)),
        "dark_knowledge": lambda: plots.dark_knowledge(tables.dark_knowledge_table()),
        "pick_chart": lambda: plots.pick_chart(tables.choice_table(teachers)),
        "pareto_front": lambda: plots.pareto_front(tables.front_table(teachers)),
        "study_progress": lambda: plots.study_progress(tables.status_table()),
    }[name]()


FIGURES = [
    "capacity_curve",
    "capacity_curve alone",
    "capacity_grid",
    "fidelity_vs_capacity",
    "learning_curves",
    "forest",
    "variance_vs_capacity",
    "variance_vs_temperature",
    "temperature_heatmap",
    "probe_vs_student",
    "probe_vs_student_grid",
    "rank_matrix",
    "rank_distribution",
    "affinity_map",
    "logit_statistics",
    "reliability_diagram",
    "isats_restored",
    "dark_knowledge",
    "pick_chart",
    "pareto_front",
    "study_progress",
]


def figure_of(drawn):
    return np.ravel(np.asarray(drawn, dtype=object))[0].figure


def texts_of(figure):
    """All visible, non-empty texts of a figure, tick labels within the limits alone."""
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    outside = set()
    for ax in figure.findobj(matplotlib.axes.Axes):
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low <= tick.get_loc() <= high:
                    outside |= {tick.label1, tick.label2}
    return [text for text in found if text not in outside]


def seed_means(frame, value="value"):
    return frame.groupby(["params", "teacher"])[value].mean().sort_index()
