"""The command line: the stages of a study by name, ``run`` for all of them, ``demo`` for the embedded study."""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter, validators

from capmismatch import __version__
from capmismatch.errors import CapmismatchError

if TYPE_CHECKING:
    from capmismatch.study import Study

# Before torch loads: threads that wait by spinning would stall each other wherever other programs want the cores too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = App(
    name="capmismatch",
    version=__version__,
    help="Why a bigger teacher can teach worse in knowledge distillation, and which teacher to take.",
    suppress_keyboard_interrupt=False,  # main says what to do next
)

StudyFile = Annotated[Path, Parameter(help="The study.toml, or the folder that holds it.")]
Folder = Annotated[Path | None, Parameter(help="Where results go; by default the study file's folder.")]
Workers = Annotated[
    int,
    Parameter(
        help="Processes that train students side by side; by default one a core.", env_var="CAPMISMATCH_WORKERS",
        validator=validators.Number(gte=1), show_default=False,
    ),
]
Quiet = Annotated[bool, Parameter(help="No progress bars.", negative="", show_default=False)]

CORES = os.cpu_count() or 1

_order = itertools.count()


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; ``--help`` lists them in the order in which they stand in this file."""
    return app.command(function, sort_key=next(_order))


def _open(study: Path, folder: Path | None, quiet: bool, workers: int = 1) -> Study:
    from capmismatch.study import Study

    file = study / "study.toml" if study.is_dir() else study
    return Study(file, folder, workers=workers, progress=not quiet)


def _show(frame: Any, rows: int = 24) -> None:
    from capmismatch._phrases import short

    shown = frame.head(rows).to_string(index=False, float_format=short)
    print(shown if len(frame) <= rows else f"{shown}\n... {len(frame) - rows} more rows")


@_command
def run(study: StudyFile, *, folder: Folder = None, workers: Workers = CORES, quiet: Quiet = False) -> None:
    """Run all stages in order; what is done already is kept."""
    _run(_open(study, folder, quiet, workers))


@_command
def demo(
    folder: Annotated[Path, Parameter(help="Where the study's files go.")] = Path("demo"),
    *,
    workers: Workers = CORES,
    quiet: Quiet = False,
) -> None:
    """Run the embedded study: eight perceptrons on UCI letters, two small students; a few minutes on two cores."""
    from capmismatch._files import write_text

    if not (folder / "study.toml").exists():
        embedded = resources.files("capmismatch") / "embedded" / "study.toml"
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
    """Run every teacher once over the validation and test rows, and keep the logits in a bank."""
    print(_open(study, folder, quiet).collect())


@_command
def probe(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Measure every probe on every teacher: tables/probes.parquet."""
    _show(_open(study, folder, quiet).probe())


@_command
def ranks(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Measure how alike teachers order the classes: tables/ranks.parquet."""
    _show(_open(study, folder, quiet).ranks())


@_command
def isats(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Measure what TS, ATS and ISATS make of each teacher's soft labels: tables/restored.parquet."""
    _show(_open(study, folder, quiet).isats())


@_command
def distill(study: StudyFile, *, folder: Folder = None, workers: Workers = CORES, quiet: Quiet = False) -> None:
    """Train every student of the study that is missing: runs/ and tables/results.parquet."""
    results = _open(study, folder, quiet, workers).distill()
    held_out = results[results["split"] == "test"]
    _show(
        held_out.groupby(["student", "label", "teacher"], sort=False)["accuracy"]
        .agg(["mean", "std", "count"])
        .reset_index()
    )


@_command
def correlate(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Link every probe to the students' accuracy: tables/links.parquet."""
    columns = ["probe", "tau", "student", "label", "metric", "value", "low", "high", "p", "p_adjusted", "findings"]
    _show(_open(study, folder, quiet).correlate()[columns])


@_command
def pick(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Choose a teacher, with reasons, risks and the table behind them."""
    print(_open(study, folder, quiet).pick())


@_command
def plot(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Draw every figure that the tables allow: figures/*.pdf, .png, .csv."""
    for path in _open(study, folder, quiet).plot():
        print(path)


@_command
def report(study: StudyFile, *, folder: Folder = None, quiet: Quiet = False) -> None:
    """Write report.html from what the stages left."""
    print(_open(study, folder, quiet).report())


@_command
def teachers(
    source: Annotated[str, Parameter(help="Such as 'timm:resnet*', 'torchvision:vit*' or 'hf:./folders/*'.")],
) -> None:
    """List what a source has under some names: parameters, MACs, input size, classes; nothing is downloaded."""
    from capmismatch.families import list_teachers

    found = list_teachers(source)
    for column in ("params", "macs", "classes"):
        found[column] = [f"{value:,.0f}" if value == value and value is not None else "" for value in found[column]]
    print(found.fillna("").to_string(index=False))


def main() -> None:
    """Entry point: errors that capmismatch raises on purpose are shown without a traceback."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except CapmismatchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
