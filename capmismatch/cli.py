"""The command line: the stages of a study by name, ``run`` for all of them, ``demo`` for the embedded study."""

from __future__ import annotations

import io
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from capmismatch._utils.commands import command
from capmismatch._utils.machine import check_thread_settings, keep_freed_memory, usable_cores
from capmismatch._version import __version__
from capmismatch.errors import CapmismatchError, InputError

if TYPE_CHECKING:
    from capmismatch.data.bank import LogitBank
    from capmismatch.study.study import Study

# Before torch loads: threads that wait by spinning would stall each other wherever other programs want the cores too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = App(
    name="capmismatch",
    version=__version__,
    help="Find out why a bigger teacher can teach worse, and which teacher to distil from.",
    suppress_keyboard_interrupt=False,  # main says what to do next
)

StudyFile = Annotated[Path, Parameter(help="The study.toml, or its folder.")]
Folder = Annotated[Path | None, Parameter(help="Folder for the results; default: the study file's folder.")]
MOST_WORKERS = 10_000


def _whole_number(hint: Any, tokens: Sequence[Any]) -> int:
    """A count as it is written; conversion to int alone would take 1.5 for 1, and other bases and alphabets."""
    text = tokens[0].value.strip()
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        raise ValueError(f"expected a whole number, got {text[:40]!r}")
    return int(text[:40])


Workers = Annotated[
    int,
    Parameter(
        help="Processes that train students in parallel; default: one per CPU core.",
        env_var="CAPMISMATCH_WORKERS",
        converter=_whole_number,
        validator=validators.Number(gte=1, lte=MOST_WORKERS),
        show_default=False,
    ),
]
Engine = Annotated[
    Literal["batched", "processes", "ray"] | None,
    Parameter(
        help="How students are trained: those of one shape together, in separate processes on this machine, or on a "
        "Ray cluster with the same files; default: together where that is quicker.",
        show_default=False,
    ),
]
Address = Annotated[str | None, Parameter(help="Address of a running Ray cluster, or 'auto'; default: start one here.")]
Quiet = Annotated[bool, Parameter(help="No progress bars.", negative="", show_default=False)]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON, for scripts.", negative="", show_default=False)]

CORES = usable_cores()

_order = itertools.count()


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; ``--help`` lists them in the order in which they stand in this file."""
    return app.command(function, sort_key=next(_order))


def _open(study: Path, folder: Path | None, quiet: bool, workers: int = 1, **engine: Any) -> Study:
    from capmismatch.study.study import Study

    file = study / "study.toml" if study.is_dir() else study
    return Study(file, folder, workers=workers, progress=not quiet, **engine)


def _set(**options: Any) -> dict[str, Any]:
    """The options that were set on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _show(frame: Any, rows: int = 24) -> None:
    from capmismatch._utils.text import table_text

    print(table_text(frame, rows))


def _print_json(value: Any) -> None:
    from capmismatch._utils.text import to_json

    print(to_json(value))


@_command
def init(
    source: Annotated[
        Path, Parameter(help="A folder of checkpoints, a file of logits (.npz), or the folder of a bank.")
    ],
    *,
    out: Annotated[Path, Parameter(help="The study file to write.")] = Path("study.toml"),
    data: Annotated[str | None, Parameter(help="The data set, such as 'npz:test.npz' or 'folder:images/val'.")] = None,
    builder: Annotated[
        str | None, Parameter(help="What makes the network of a checkpoint, 'module:function' or 'arch:NAME'.")
    ] = None,
    mean: Annotated[tuple[float, ...], Parameter(help="Mean of images in [0, 1]; one number per channel.")] = (),
    std: Annotated[
        tuple[float, ...], Parameter(help="Standard deviation of images in [0, 1]; one number per channel.")
    ] = (),
    results: Annotated[Path | None, Parameter(help="A table of students, CSV or Parquet.")] = None,
) -> None:
    """Write a commented study.toml for a folder of checkpoints, saved logits or a bank."""
    from capmismatch.study.template import new_study

    options = {"data": data, "builder": builder, "results": results}
    file = new_study(source, out, mean=mean or None, std=std or None, **options)  # type: ignore[arg-type]
    print(file.read_text(encoding="utf-8"))
    print(f"Written to {file}. Next: {command('check', file)}")


@_command
def check(
    study: StudyFile, *, folder: Folder = None, workers: Workers = CORES, json: Json = False, quiet: Quiet = False
) -> None:
    """Load everything in a study and run one batch per teacher: lists problems, warnings and the cost."""
    from capmismatch.study.inspection import inspect_study, inspection_text

    opened = _open(study, folder, quiet or json, workers)
    look = inspect_study(opened)
    if json:
        _print_json(look.to_dict())
    else:
        print(inspection_text(look, opened))
    if look.problems:
        sys.exit(2)


@_command
def run(
    study: StudyFile,
    *,
    folder: Folder = None,
    workers: Workers = CORES,
    engine: Engine = None,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Run all stages in order; finished parts are reused."""
    _run(_open(study, folder, quiet, workers, engine=engine, address=address))


@_command
def demo(
    folder: Annotated[
        Path | None, Parameter(help="Folder for the study; default: 'demo' or 'demo-lm'.", show_default=False)
    ] = None,
    *,
    lm: Annotated[bool, Parameter(help="Language models of the King James Bible instead.", negative="")] = False,
    workers: Workers = CORES,
    quiet: Quiet = False,
) -> None:
    """Run the embedded study: eight perceptrons on UCI letters, two small students; a few minutes on two cores."""
    from capmismatch._utils.files import write_text

    folder = Path("demo-lm" if lm else "demo") if folder is None else folder
    if not (folder / "study.toml").exists():
        embedded = resources.files("capmismatch") / "embedded" / ("lm.toml" if lm else "study.toml")
        write_text(folder / "study.toml", embedded.read_text(encoding="utf-8"))
    _run(_open(folder, None, quiet, workers))


def _run(study: Study) -> None:
    start = time.monotonic()
    choice = study.run()
    print(f"\n{study.config.name}: {study.config.question}\n" if study.config.question else "")
    print("Teachers")
    _show(study.teachers())
    print(f"\n{choice}\n")
    print(f"Report:  {study.folder / 'report.html'}")
    print(f"Figures: {study.folder / 'figures'}")
    print(f"Tables:  {study.folder / 'tables'}")
    print(f"Done in {time.monotonic() - start:.0f} s.")


@_command
def collect(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Run every teacher once on the validation and test rows, and save the logits in a bank."""
    print(_open(study, folder, quiet).collect())


@_command
def probe(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Measure every probe on every teacher: tables/probes.parquet."""
    _show(_open(study, folder, quiet).probe())


@_command
def ranks(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Measure how far teachers agree on the order of the classes: tables/ranks.parquet."""
    _show(_open(study, folder, quiet).ranks())


@_command
def isats(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Measure each teacher's soft labels under TS, ATS and ISATS: tables/restored.parquet."""
    _show(_open(study, folder, quiet).isats())


@_command
def distill(
    study: StudyFile,
    *,
    folder: Folder = None,
    workers: Workers = CORES,
    engine: Engine = None,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Train the missing students of the study: runs/ and tables/results.parquet."""
    from capmismatch.stats.matching import resolve_split

    results = _open(study, folder, quiet, workers, engine=engine, address=address).distill()
    held_out = results[results["split"] == resolve_split(results["split"])]
    students = held_out.groupby(["student", "label", "teacher"], sort=False)
    shown = students["accuracy"].agg(["mean", "std", "count"])
    if "nll" in held_out:
        shown = shown.assign(nll=students["nll"].mean())
    _show(shown.reset_index())


@_command
def correlate(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Correlate every probe with student accuracy: tables/links.parquet."""
    columns = [
        "probe",
        "tau",
        "student",
        "label",
        "metric",
        "value",
        "low",
        "high",
        "p_adjusted",
        "ceiling",
        "findings",
    ]
    _show(_open(study, folder, quiet).correlate()[columns])


@_command
def pick(
    study: StudyFile,
    *,
    folder: Folder = None,
    evidence: Annotated[
        tuple[str, ...],
        Parameter(help="Folder of another study, which shows how far to trust probes; 'shipped'; 'none'."),
    ] = (),
    family: Annotated[
        str | None, Parameter(help="Choose among the teachers of this family; other families are evidence.")
    ] = None,
    student: Annotated[str | None, Parameter(help="Use the results of this student only.")] = None,
    label: Annotated[
        str | None, Parameter(help="Use the results of this setting only, such as 'KD tau=4 student tau=1'.")
    ] = None,
    rule: Annotated[str | None, Parameter(help="Choose by this rule, such as 'largest'.")] = None,
    tolerance: Annotated[
        float | None, Parameter(help="Points (or nats) that do not matter to you; 0.3 (or 0.01) by default.")
    ] = None,
    pilot: Annotated[
        str | None,
        Parameter(help="Train some students first: '20%' of the study's grid of students, or a number of full runs."),
    ] = None,
    tau: Annotated[
        tuple[float, ...], Parameter(help="With --pilot: one more temperature to try for each setting.")
    ] = (),
    out: Annotated[Path | None, Parameter(help="Also write the answer to this file: .html or .md.")] = None,
    workers: Workers = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recommend a teacher, with reasons, risks and tables."""
    from capmismatch.selection.choice_page import check_page, write_page
    from capmismatch.study.evidence_folders import read_evidence

    options = _set(family=family, student=student, label=label, rule=rule, tolerance=tolerance)
    _check_pilot_options(pilot, tau, options)
    if out is not None:
        check_page(out)  # before a pilot takes its hours
    opened = _open(study, folder, quiet or json, workers)
    options |= _set(evidence=read_evidence(evidence, Path()))
    if pilot is None:
        choice = opened.pick(**options)
    else:
        from capmismatch.study.pilot import pilot as run_pilot

        choice = run_pilot(opened, pilot, taus=tau, tell=(lambda plan: None) if json else _tell_plan, **options)
    if json:
        _print_json(choice.to_dict())
    else:
        print(choice)
    if out is not None:
        page = write_page(choice, out)
        print(f"\n{page}", file=sys.stderr if json else sys.stdout)


def _tell_plan(plan: str) -> None:
    print(f"{plan}\n")


def _check_pilot_options(pilot: str | None, taus: tuple[float, ...], options: Mapping[str, Any]) -> None:
    """Refuse options of ``pick`` that need a pilot, or do not go with one."""
    if pilot is None and taus:
        raise InputError("--tau needs --pilot")
    fixed = sorted({"label", "rule"} & options.keys())
    if pilot is not None and fixed:
        raise InputError(f"--{fixed[0]} cannot be used with --pilot, which compares the settings of the study")


@_command
def plot(
    study: StudyFile,
    *,
    folder: Folder = None,
    venue: Annotated[str | None, Parameter(help="Sizes and fonts of this venue, such as 'icml'.")] = None,
    only: Annotated[
        tuple[str, ...], Parameter(help="Draw only these figures, such as 'capacity_curve,pick_chart'.")
    ] = (),
    format: Annotated[str | None, Parameter(help="Formats of the pictures: pdf, png, svg; such as 'pdf,svg'.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder for these; default: figures/VENUE.")] = None,
    quiet: Quiet = False,
) -> None:
    """Draw every figure that the tables allow: figures/*.pdf, .png, .csv."""
    formats = None if format is None else tuple(part.strip() for part in format.split(","))
    names = [name.strip() for part in only for name in part.split(",") if name.strip()]
    options = _set(venue=venue, only=names or None, formats=formats, folder=out)
    for path in _open(study, folder, quiet).plot(**options):
        print(path)


@_command
def report(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Write report.html from the results of the stages."""
    print(_open(study, folder, quiet).report())


@_command
def latex(
    study: StudyFile,
    table: Annotated[
        str, Parameter(help="teachers, students, settings, rules, links, ranks, restored or results.")
    ] = "teachers",
    *,
    columns: Annotated[str | None, Parameter(help="Columns in this order, such as 'teacher,params,accuracy'.")] = None,
    caption: Annotated[str, Parameter(help="Caption, in an environment 'table'.", show_default=False)] = "",
    out: Annotated[Path | None, Parameter(help="Write to this file instead of the screen.")] = None,
    folder: Folder = None,
) -> None:
    """Print a table as LaTeX with the rules of booktabs, the best numbers bold."""
    from capmismatch._utils.files import write_text
    from capmismatch.report.latex import to_latex

    chosen = None if columns is None else [name.strip() for name in columns.split(",")]
    text = to_latex(_open(study, folder, True), table, columns=chosen, caption=caption)
    if out is not None:
        write_text(out, text)
    print(text.rstrip() if out is None else out)


@_command
def meta(
    studies: Annotated[tuple[Path, ...], Parameter(help="Folders of finished studies with probes and results.")] = (),
    *,
    shipped: Annotated[bool, Parameter(help="Add the package's studies.", negative="", show_default=False)] = False,
    out: Annotated[Path | None, Parameter(help="Write all tables and a forest plot to this folder.")] = None,
) -> None:
    """Test rules and probes over several studies, leaving out one family at a time."""
    from capmismatch.selection.shipped import shipped_evidence
    from capmismatch.study.meta import EVIDENCE
    from capmismatch.study.meta import meta as across

    if not studies and not shipped:
        raise InputError("expected folders of studies, or --shipped, got none")
    found = across([*studies, *(shipped_evidence() if shipped else [])])
    print(found)
    if len(found.probes):
        _show(found.probes, 12)
    else:
        print("No correlations over families: they take families with students of five teachers or more.")
    if out is None:
        return
    from capmismatch import plots
    from capmismatch._utils.files import write_text

    for name in ("rules", "probes", "ceiling", "choices"):
        write_text(out / f"{name}.csv", getattr(found, name).to_csv(index=False))
    if EVIDENCE in set(found.choices["rule"]):
        with plots.figure_style("default"):
            plots.save(plots.forest(found.forest()), out / "forest")
    print(f"\nTables and figure: {out}")


@_command
def status(
    study: StudyFile,
    *,
    folder: Folder = None,
    by: Annotated[
        Literal["teacher", "method"], Parameter(help="Group the counts by teacher or by method.")
    ] = "teacher",
    json: Json = False,
) -> None:
    """Show how many students are done, running, failed and waiting, and the time left."""
    from capmismatch._utils.text import duration

    table, keys = _open(study, folder, quiet=True).status(), ["family", "teacher"] if by == "teacher" else ["label"]
    numbers = ["runs", "done", "running", "failed", "waiting", "seconds_left"]
    # A sum with a part that is not known is not known.
    counts = table.groupby(keys, sort=False)[numbers].apply(lambda rows: rows.sum(skipna=False))
    counts[numbers[:-1]] = counts[numbers[:-1]].astype(int)
    done, runs, running, seconds = (table[n].sum(skipna=False) for n in ("done", "runs", "running", "seconds_left"))
    at_once = max(1, int(running))
    if json:
        totals = {"done": int(done), "runs": int(runs), "running": int(running), "seconds_left": seconds / at_once}
        _print_json(totals | {"by": by, "rows": counts.reset_index().to_dict("records")})
        return
    durations = [duration(left) for left in counts.pop("seconds_left")]
    shown = counts.assign(left=durations).reset_index()
    if by == "teacher":  # students of no teacher: the baseline
        shown["teacher"] = shown["teacher"].where(shown["teacher"].ne(""), "none (plain training)")
    _show(shown, len(counts))
    print(f"\n{done} of {runs} done; time left, {at_once} at a time: {duration(seconds / at_once)}")


@_command
def soften(
    source: Annotated[Path, Parameter(help="A study.toml, its folder, or the folder of a bank.")],
    *,
    out: Annotated[Path, Parameter(help="A .safetensors or .npz file; {teacher} in its name writes one per teacher.")],
    method: Annotated[
        Literal["kd", "ats", "isats", "calkd", "matchkd", "classkd", "logits"],
        Parameter(help="The method of the soft labels, or the unchanged logits."),
    ] = "kd",
    teacher: Annotated[
        str | None, Parameter(help="Name, family/name or key of the teacher, where there are several.")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        Parameter(help="Default: the training rows of a study, in all stored views; all rows of a bank."),
    ] = None,
    tau: Annotated[
        float | None, Parameter(help="Temperature of the target's logit (kd: of all logits); default 4.")
    ] = None,
    tau_other: Annotated[
        float | None, Parameter(help="Temperature of the wrong classes' logits, for ats; default 3.")
    ] = None,
    constraint: Annotated[
        Literal["order", "anchor", "none"] | None, Parameter(help="Constraint of isats; default 'order'.")
    ] = None,
    margin: Annotated[float | None, Parameter(help="Margin of the order constraint, for isats; default 1.")] = None,
    center: Annotated[
        Literal["mean", "none"] | None, Parameter(help="Centring of the logits, for ats and isats; default 'mean'.")
    ] = None,
    wrong: Annotated[
        Literal["plain", "target", "free"] | None,
        Parameter(help="How isats treats rows that the teacher gets wrong."),
    ] = None,
    other: Annotated[
        str | None,
        Parameter(help="A second teacher: matchkd makes the others equal to it, classkd takes its class means."),
    ] = None,
    match: Annotated[
        Literal["entropy", "derived_std", "target_prob"] | None,
        Parameter(help="The mean that matchkd makes equal; default 'entropy'."),
    ] = None,
    share: Annotated[float | None, Parameter(help="Share of the class's mean soft label, for classkd.")] = None,
    dtype: Annotated[
        Literal["float32", "float16"], Parameter(help="float16 stores logarithms of soft labels, at half the size.")
    ] = "float32",
    folder: Folder = None,
) -> None:
    """Write a teacher's soft labels as a file that any trainer can read, keyed by example id."""
    from capmismatch.distillation.methods import METHODS, Method
    from capmismatch.distillation.soft_label_files import soft_labels

    options = _set(tau=tau, tau_other=tau_other, constraint=constraint, margin=margin, center=center, wrong=wrong)
    options |= _set(other=other, match=match, share=share)
    if method == "logits" and options:
        raise InputError(f"--method logits takes no {next(iter(options))}: it writes the logits as they are")
    names = {name.lower(): name for name in METHODS}
    setting = None if method == "logits" else Method(names[method], **options)
    banks, bank_split, held_out = _banks(source, folder, split, method in ("calkd", "matchkd"))
    for key in banks[0].keys if teacher is None and "{teacher}" in str(out) else [teacher]:
        soft = soft_labels(banks, key, setting, split=bank_split, held_out=held_out)
        print(soft)
        print(soft.write(str(out).replace("{teacher}", soft.teacher), dtype))


@_command
def track(
    study: StudyFile,
    *,
    to: Annotated[Literal["tensorboard", "mlflow", "wandb"], Parameter(help="The tracker; needs the extra trackers.")],
    out: Annotated[str, Parameter(help="Folder to write to; for mlflow also the address of a server.")],
    project: Annotated[str | None, Parameter(help="By default the study's name.")] = None,
    folder: Folder = None,
) -> None:
    """Copy the logs of the students' runs to a tracker; call it again to add what is new."""
    from capmismatch.distillation.trackers import track

    opened = _open(study, folder, quiet=True)
    if not (opened.folder / "runs").is_dir():
        first = command("distill", opened.file, opened.folder)
        raise InputError(f"there are no runs in {opened.folder}: run `{first}` first")
    runs = track(opened.folder, to, out, project=project or opened.config.name)
    states = ", ".join(f"{count} {state}" for state, count in runs["state"].value_counts(sort=False).items())
    print(f"{len(runs)} runs ({states}), {runs['written'].sum()} of them written to {out}, the others unchanged")


def _banks(
    source: Path, folder: Path | None, split: str | None, needs_held_out: bool
) -> tuple[list[LogitBank], str | None, LogitBank | None]:
    """A bank, or one bank per view of a study's training rows; the split to take; and the held-out rows, if needed."""
    from capmismatch.data.opening import open_bank

    if (source / "bank.json").exists():
        return [open_bank(source)], split, None
    study = _open(source, folder, quiet=True)
    if split in ("val", "test"):
        return [study.bank], split, None
    return study.training_banks(), None, study.bank if needs_held_out else None


@_command
def teachers(
    source: Annotated[str, Parameter(help="Such as 'timm:resnet*', 'torchvision:vit*' or 'hf:./folders/*'.")],
    *,
    json: Json = False,
) -> None:
    """List the teachers of a source with parameters, MACs, input size and classes; nothing is downloaded."""
    from capmismatch._utils.text import format_count
    from capmismatch.sources.families import list_teachers

    table = list_teachers(source)
    if json:
        _print_json(table.to_dict("records"))
        return
    for column in ("params", "macs", "classes"):
        table[column] = [format_count(value, missing="") for value in table[column]]
    print(table.fillna("").to_string(index=False))


def main() -> None:
    """Entry point: errors that capmismatch raises on purpose are shown without a traceback."""
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that knows ASCII alone shows the rest escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        try:
            check_thread_settings()
            app()
        finally:
            sys.stdout.flush()  # a failure at the end of the process would show a traceback
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        sys.exit(141)  # as a shell reports it of other tools
    except CapmismatchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads, as after ``| head``, and not one to a process of ours."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


if __name__ == "__main__":
    main()
