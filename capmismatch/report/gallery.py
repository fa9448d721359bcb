"""Every figure of a study: which tables each needs, its caption, and drawing them all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from capmismatch import plots
from capmismatch.diagnostics.dark_knowledge import example_soft_labels
from capmismatch.errors import InputError
from capmismatch.report.study_folder import StudyFolder
from capmismatch.selection.rules import DEFAULT_RULE, RULES, nearest_tau
from capmismatch.stats.matching import only_split

MANY = 7  # settings, plain training among them, that one panel can hold
GRID_PROBES = (
    "derived_std",
    "inherent_variance",
    "target_prob",
    "accuracy",
    "classwise_ace",
    "entropy",
    "logit_std",
    "cmi",
)


def draw_all(study: StudyFolder) -> list[Path]:
    """Draw each figure whose tables the study has; PDF, PNG and CSV each, into ``figures/``. Returns the PNGs."""
    import matplotlib.pyplot as plt

    students = study.load("results")["student"].unique().tolist() if study.has("results") else []
    wanted: list[tuple[str, Callable[[StudyFolder], Any]]] = [
        (name, draw) for name, (needs, _, draw) in FIGURES.items() if all(study.has(table) for table in needs)
    ]
    wanted += [(f"capacity_curve_{student}", partial(_capacity_curve, student=student)) for student in students]
    drawn = []
    bar = tqdm(wanted, desc="plot", unit="figure", disable=not study.progress)
    with plots.figure_style("default", ratio=0.5), bar:
        for name, draw in bar:
            bar.set_postfix_str(name)
            try:
                target = draw(study)
            except InputError as error:  # one figure that a study's tables cannot fill does not cost the others
                bar.write(f"{name} left out: {error}")
                continue
            if target is not None:
                drawn.append(plots.save(target, study.folder / "figures" / name)[1])
            plt.close("all")
    return drawn


def _capacity_curve(study: StudyFolder, student: str) -> Any:
    results = study.load("results")
    draw = plots.capacity_curve if results["label"].nunique() <= MANY else plots.capacity_grid
    return draw(results, student=student, teachers=study.load("probes"), split=only_split(results))


def _tau(study: StudyFolder) -> float:
    """The temperature at which figures read the probes: that of ISATS where it was measured, else the nearest."""
    return min(study.config.probe.taus, key=lambda tau: abs(tau - study.config.isats.tau_target))


def _smallest_first(study: StudyFolder) -> pd.DataFrame:
    """The bank's teachers by size, ``family, teacher``; those of unknown size last."""
    runs = sorted(study.bank.teachers, key=lambda run: run.params or float("inf"))
    return pd.DataFrame([(run.family, run.teacher) for run in runs], columns=["family", "teacher"]).drop_duplicates()


def _affinity_map(study: StudyFolder) -> Any:
    return plots.affinity_map(_smallest_first(study).merge(study.load("affinity"), on=["family", "teacher"]))


def _best_setting(study: StudyFolder) -> dict[str, str]:
    """The first student, its soft-label method that stands first in the study, and the split to report on."""
    results = study.load("results")
    taught = results[results["method"] != "CE"]
    return {
        "student": taught["student"].iloc[0],
        "label": taught["label"].iloc[0],
        "split": only_split(results),
    }


def _dark_knowledge(study: StudyFolder) -> Any:
    split = "val" if (study.bank.rows.split == "val").any() else "test"
    example = example_soft_labels(study.bank, study.config.isats.specs(), split=split)
    return plots.dark_knowledge(example, among=_smallest_first(study))


def _pick_chart(study: StudyFolder) -> Any:
    """With the probe that a choice without students went by, which its table does not tell."""
    table, rule = study.load("pick"), study.config.pick.rule
    if "measured" in table:
        return plots.pick_chart(table)
    probe = RULES[DEFAULT_RULE if rule == "auto" else rule].probe
    probes = study.load("probes")
    return plots.pick_chart(table, probe=probe, tau=nearest_tau(probes[probes["probe"] == probe]["tau"]))


def _grid(study: StudyFolder) -> Any:
    measured = set(study.load("probes")["probe"])
    return plots.probe_vs_student_grid(
        study.load("probes"),
        study.load("results"),
        chosen=[p for p in GRID_PROBES if p in measured],
        tau=_tau(study),
        links=study.load("links"),
        **_best_setting(study),
    )


# name -> (tables it needs, caption, drawing)
FIGURES: dict[str, tuple[tuple[str, ...], str, Callable[[StudyFolder], Any]]] = {
    "variance_vs_capacity": (
        ("probes",),
        "How derived standard deviation, inherent variance and the target's probability change with the teacher's "
        "size, by temperature. DV = (1 - p_y)^2 IV: read the three together. Rings mark peaks that come before the "
        "largest teacher.",
        lambda s: plots.variance_vs_capacity(s.load("probes"), split="val"),
    ),
    "variance_vs_temperature": (
        ("probes", "restored"),
        "Mean and standard deviation of the wrong classes' probabilities against temperature, for a small and a large "
        "teacher. Hollow marks: ATS, at its temperature of the wrong classes; dotted: the level that ISATS reaches.",
        lambda s: plots.variance_vs_temperature(s.load("probes"), restored=s.load("restored"), split="val"),
    ),
    "isats_restored": (
        ("restored",),
        "What plain temperature scaling (TS), ATS and ISATS make of each teacher's soft labels: the derived standard "
        "deviation, and its price in the target's probability, in examples whose arg max moves and in targets that a "
        "wrong class overtakes. The temperature that ISATS chooses for the wrong classes: median over the examples, "
        "with a band from the 10 % to the 90 % quantile.",
        lambda s: plots.isats_restored(s.load("restored")),
    ),
    "rank_matrix": (
        ("ranks",),
        "How far teachers order the wrong classes alike: mean Kendall tau-b per example. The diagonal is the noise "
        "floor: two runs of one teacher that differ in the seed; hatched where there is one run.",
        lambda s: plots.rank_matrix(s.load("ranks")),
    ),
    "rank_distribution": (
        ("ranks",),
        "The same agreement by how many sizes apart two teachers are, a point a pair of runs, beside the noise floor "
        "of seeds.",
        lambda s: plots.rank_distribution(s.load("ranks")),
    ),
    "affinity_map": (
        ("affinity",),
        "Which classes a teacher holds for akin: mean softmax over the wrong classes, by true class; below, how larger "
        "teachers differ from the smallest. Classes stand beside those that the smallest holds for akin.",
        _affinity_map,
    ),
    "logit_statistics": (
        ("probes",),
        "Size of the logits against the teacher's size.",
        lambda s: plots.logit_statistics(s.load("probes"), split="val"),
    ),
    "dark_knowledge": (
        (),
        "One example: the probabilities that the smallest and the largest teacher give the wrong classes under TS, ATS "
        "and ISATS.",
        _dark_knowledge,
    ),
    "probe_vs_student_grid": (
        ("probes", "results", "links"),
        "Each probe against the accuracy of the students that its teacher taught, with the rank correlation and its "
        "interval. Bars: 95 % intervals over the students' runs, from three on.",
        _grid,
    ),
    "pick_chart": (
        ("pick",),
        "The teachers, best first: what they were chosen by, with its 95 % interval, and with students the chance of "
        "being the best and the accuracy points expected to be lost. Those too close to call are coloured.",
        _pick_chart,
    ),
}


def caption(name: str) -> str:
    """What a figure of a study shows, by its file's stem."""
    if name.startswith("capacity_curve"):
        return (
            "Accuracy of the student against its teacher's size by method, beside the teachers' own accuracy. "
            "Bars: 95 % intervals from three runs on, else single runs as points; band: plain training."
        )
    return FIGURES[name][1] if name in FIGURES else name
