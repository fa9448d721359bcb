"""The report page of a study: one HTML file that stands alone, with the answer first and what is behind it after."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from capmismatch._utils.files import write_text
from capmismatch._utils.text import format_chance
from capmismatch._version import __version__
from capmismatch.diagnostics.checks import check
from capmismatch.errors import CapmismatchError
from capmismatch.findings import Finding, explain
from capmismatch.plots._common import teacher_labels
from capmismatch.report import page_tables as shown
from capmismatch.report.headlines import headline
from capmismatch.report.narrative import TOPICS, Statement, statements
from capmismatch.report.page_figures import Figure, full_names, pictures
from capmismatch.report.page_tables import Table
from capmismatch.report.study_folder import StudyFolder
from capmismatch.selection.choice import Choice
from capmismatch.stats.matching import nearest_tau, resolve_split

__all__ = ["write_report"]

STAGES = {"probes": "probe", "ranks": "ranks", "restored": "isats", "results": "distill", "links": "correlate"}
"""Table of a study -> the stage that makes it."""

MORE = ("affinity", "curves")
"""Tables that some studies have, and that the page answers a question from; of texts there is no affinity."""

PACKAGES = (
    "capmismatch",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "numba",
    "matplotlib",
    "seaborn",
    "safetensors",
    "jinja2",
)


@dataclass(frozen=True)
class Question:
    """A question of the page with its answer.

    Attributes
    ----------
    topic, title : str
        A key of `capmismatch.report.narrative.TOPICS`, and its question.
    headline : str
        The answer in a sentence; empty where the statements say all.
    statements : list of (str, list of Finding)
        What it rests on, in words, and the findings that bear on it.
    codes : list of Finding
        Those of all statements, each once.
    figures : list of Figure
        The first is shown, the others are folded.
    """

    topic: str
    title: str
    headline: str
    statements: list[tuple[str, list[Finding]]]
    codes: list[Finding]
    figures: list[Figure]


@dataclass(frozen=True)
class MissingTable:
    """A table that is missing.

    Attributes
    ----------
    table : str
        Its name.
    command : str
        What to type to make it; empty where the study names no students.
    questions : tuple of str
        The questions that it would answer.
    """

    table: str
    command: str
    questions: tuple[str, ...]

    def __str__(self) -> str:
        why = "the study has neither students to train nor a file of results"
        if self.command:
            why = f"run `{self.command}` to make it"
        questions = ", ".join(f"“{question}”" for question in self.questions)
        return f"There is no table of {self.table}: {why}. Not answered without it: {questions}."


def write_report(study: StudyFolder) -> Path:
    """Write ``report.html`` into a study's folder, from the tables and figures that its stages left.

    The page needs no network and no other file: pictures are embedded, style and script are inline. It holds, in this
    order, the pick with its reasons, risks and findings; what the study shows (`narrative.statements`);
    the tables; the figures; and what is needed to repeat the study. What lacks its table is left out, and the page
    says so. Only the pick is computed again, and a look at a thousand of each teacher's logits.

    Parameters
    ----------
    study : StudyFolder
        Its ``tables/*.parquet`` and ``figures/*.png`` are read as they are.

    Returns
    -------
    Path
        Of the page. It replaces an earlier one whole, or not at all.

    Raises
    ------
    InputError
        If a table lacks a column that the page is made of.
    """
    tables = {name: study.load(name) for name in STAGES if study.has(name)}
    tau = nearest_tau(study.config.probe.taus, study.config.isats.tau_target)
    choice, no_choice = _choice(study)
    more = {name: study.load(name) for name in MORE if study.has(name)}
    narrative = _statements({**tables, **more, **_checks(study)}, study.config.isats.tau_target)
    codes = {code for statement in narrative for code in statement.codes} | set(choice.findings if choice else [])
    shown_figures = pictures(study.folder / "figures", dict.fromkeys(statement.topic for statement in narrative))
    page = (
        _environment()
        .get_template("report.html")
        .render(
            study=study.config,
            choice=choice,
            no_choice=no_choice,
            title=_title(choice) if choice else "",
            chosen=_chosen(choice) if choice else {},
            grounds=_grounds(choice) if choice else [],
            findings=[explain(code) for code in choice.findings] if choice else [],
            questions=_questions(narrative, shown_figures.of_topics),
            glossary=[explain(code) for code in sorted(codes)],
            missing=_missing(study, tables),
            tables=_tables(tables, choice, tau),
            figures=shown_figures,
            names=full_names(study.folder / "figures"),
            settings="" if study.file is None else study.file.read_text(encoding="utf-8"),
            commands=_commands(study),
            facts=_facts(study, tables),
        )
    )
    target = study.folder / "report.html"
    write_text(target, page)
    return target


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("capmismatch.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quiet_intervals"] = _quiet_intervals
    environment.filters["with_lead"] = _with_lead
    environment.filters["breakable"] = _breakable
    return environment


def _quiet_intervals(text: str) -> Markup:
    """Escaped text whose intervals are marked, so that the style can let the values stand out."""
    return Markup(re.sub(r"\[[-+.,e\d ]+\]", r'<span class="interval">\g<0></span>', str(escape(text))))


def _with_lead(text: str) -> Markup:
    """As `_quiet_intervals`, what a statement is about (up to a colon) marked, so that the eye finds it in a list."""
    about, colon, statement = text.partition(": ")
    if not colon or "[" in about or ". " in about:
        return _quiet_intervals(text)
    return Markup("<strong>{}:</strong> {}").format(about, _quiet_intervals(statement))


def _breakable(text: str) -> Markup:
    """Escaped text that may break after each underscore, where a style lets it break at all."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _choice(study: StudyFolder) -> tuple[Choice | None, str]:
    """The pick, or why there is none."""
    if not study.has("probes"):
        return None, "There is no pick: run the stage `probe` first."
    try:
        return study.choice(), ""
    except CapmismatchError as error:  # a page without a pick still shows the tables
        return None, f"There is no pick: {error}."


def _chosen(choice: Choice) -> dict[str, str]:
    """The pick in short: name -> value."""
    row = choice.table[choice.table["teacher"].eq(choice.teacher) & choice.table["family"].eq(choice.family)].iloc[0]
    facts: dict[str, str] = {}
    if len(choice.students):
        facts |= {"Student": choice.student or "all of the study", "Method": choice.label or "differs by student"}
    if choice.tau is not None:
        facts["Temperature"] = f"{choice.tau:g}"
    elif len(choice.students) and choice.label is None:  # a method without a temperature has a label
        facts["Temperature"] = "differs by student"
    if pd.notna(row["p_best"]):
        facts["Grade"] = choice.grade
        facts["P(best)"] = format_chance(row["p_best"])
        digits = 3 if choice.metric.less_is_better else 2
        facts["Expected regret"] = f"{row['regret']:.{digits}f} {choice.metric.unit}"
        cheapest = f"Smallest within {choice.comparison.tolerance:g} {choice.metric.unit} (90\N{NO-BREAK SPACE}%)"
        facts[cheapest] = choice.cheapest or "none"
    return facts


def _grounds(choice: Choice) -> list[tuple[str, list[str]]]:
    """Reasons and risks, with short names of the teachers."""
    sections = {"Reasons": choice.reasons, "Risks": choice.risks}
    return [
        (title, [_short_names(sentence, choice) for sentence in sentences])
        for title, sentences in sections.items()
        if sentences
    ]


def _title(choice: Choice) -> Markup:
    """The choice in one line, its teacher standing out."""
    table = choice.table
    chosen = table["teacher"].eq(choice.teacher) & table["family"].eq(choice.family)
    label = teacher_labels(table)[chosen].iloc[0]
    before, _, after = (
        _short_names(part, choice) for part in choice.title.partition(f"{choice.family}/{choice.teacher}")
    )
    return Markup("{}<strong>{}</strong>{}").format(before, label, after)


def _short_names(sentence: str, choice: Choice) -> str:
    """Teachers called as in the figures: without the family where the name is unique."""
    table = choice.table
    labels = dict(zip(table["family"] + "/" + table["teacher"], teacher_labels(table), strict=True))
    longest_first = "|".join(re.escape(name) for name in sorted(labels, key=len, reverse=True))
    return re.sub(longest_first, lambda match: labels[match[0]], sentence)


def _checks(study: StudyFolder) -> dict[str, pd.DataFrame]:
    """What there is to say of the logits; nothing without a bank."""
    try:
        return {"checks": check(study.bank)}
    except CapmismatchError:  # the tables do not need it
        return {}


def _statements(tables: Mapping[str, pd.DataFrame], tau: float) -> list[Statement]:
    probe_split = resolve_split(tables["probes"]["split"], "val", among=None) if "probes" in tables else "val"
    split = resolve_split(tables["results"]["split"], among=None) if "results" in tables else "test"
    return statements(tables, tau=tau, probe_split=probe_split, split=split)


def _questions(narrative: Iterable[Statement], figures: Mapping[str, list[Figure]]) -> list[Question]:
    """The questions that have statements, in the order of `TOPICS`."""
    by_topic: dict[str, list[Statement]] = {}
    for statement in narrative:
        by_topic.setdefault(statement.topic, []).append(statement)
    questions = []
    for topic in (topic for topic in TOPICS if topic in by_topic):
        found = by_topic[topic]
        codes = dict.fromkeys(code for statement in found for code in statement.codes)
        questions.append(
            Question(
                topic,
                TOPICS[topic][0],
                headline(topic, [statement.facts for statement in found]),
                [(statement.text, [explain(code) for code in statement.codes]) for statement in found],
                [explain(code) for code in codes],
                figures.get(topic, []),
            )
        )
    return questions


def _missing(study: StudyFolder, tables: Mapping[str, pd.DataFrame]) -> list[MissingTable]:
    """The tables that the study lacks."""
    no_students = study.config.distill is None and study.config.results is None
    missing = []
    for table, stage in STAGES.items():
        if table not in tables:
            command = "" if no_students and table in ("results", "links") else _command(study, stage)
            questions = tuple(question for question, needs in TOPICS.values() if needs == table)
            missing.append(MissingTable(table, command, questions))
    return missing


def _tables(tables: Mapping[str, pd.DataFrame], choice: Choice | None, tau: float) -> list[Table]:
    page: list[Table] = []
    if choice is not None:
        page += [shown.teachers(choice, tables["probes"]), *shown.students(choice), shown.rules(choice)]
    if "probes" in tables:
        page += shown.probes(tables["probes"], sorted({1.0, tau}))
    if "links" in tables:
        page.append(shown.links(tables["links"]))
    if "ranks" in tables:
        page.append(shown.ranks(tables["ranks"]))
    if "restored" in tables:
        page.append(shown.restored(tables["restored"]))
    if "results" in tables:
        page.append(shown.results(tables["results"]))
        if "nll" in tables["results"]:
            page.append(shown.likelihoods(tables["results"]))
    return page


def _commands(study: StudyFolder) -> list[tuple[str, str]]:
    """What to type to repeat the study, and to write only this page again."""
    install = shlex.join(["pip", "install", f"capmismatch=={__version__}"]), "the version that made this page"
    if study.file is None:
        given = "bank" if study.config.results is None else "bank, results=results"
        return [install, (f'cm.diagnose({given}).report("report.html")', "in Python, with the same logits and results")]
    commands = {"run": "repeat the study; finished parts are reused", "report": "write only this page again"}
    if study.has("probes"):
        commands["pick"] = "choose a teacher again, for example with other rules or evidence"
    return [install, *((_command(study, verb), does) for verb, does in commands.items())]


def _command(study: StudyFolder, verb: str) -> str:
    """From the study file's folder, wherever that lies: the page may be read on another machine."""
    if study.file is None:
        return ""
    where = [] if study.folder == study.file.parent else ["--folder", study.folder.name]
    return shlex.join(["capmismatch", verb, study.file.name, *where])


def _facts(study: StudyFolder, tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, str]]:
    """Versions, platform, seeds and dates."""
    config = study.config
    files = {name: study.folder / "tables" / f"{name}.parquet" for name in tables}
    facts = [
        ("Page written", _iso(datetime.now(UTC).timestamp())),
        *((f"Table {name} written", _iso(file.stat().st_mtime)) for name, file in files.items() if file.exists()),
        ("Python", platform.python_version()),
        ("Platform", platform.platform()),
        *((f"Package {name}", version) for name, version in _versions().items()),
        ("Seed of the data's split", str(config.data.seed)),
    ]
    if "probes" in tables:
        facts.append(("Seeds of teachers", _distinct(tables["probes"]["seed"])))
    if "results" in tables:
        facts.append(("Seeds of students", _distinct(tables["results"]["seed"])))
    return [*facts, ("Seed of the links' bootstrap", str(config.correlate.seed))]


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from its sources, or an optional package
            continue
    return versions


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _distinct(values: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(values.unique()))
