"""What every figure takes besides its own options: colours, names, legend, a figure to draw into, and a source.

`drawing` decorates each figure. It takes ``colors, palette, labels, legend, figure`` out of the call and keeps them
while the figure is drawn, for the few helpers that need them: those that make looks, names, legends and panels. It also
turns a `Choice`, `Diagnosis` or `Study` into the tables that the figure draws.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, is_color_like
from matplotlib.figure import Figure, SubFigure
from seaborn import color_palette

from capmismatch.errors import InputError

Drawn = TypeVar("Drawn")


class TableSource(Protocol):
    """What figures can be drawn from instead of a table: a `Choice`, a `Diagnosis`, a `Study`."""

    def plot_table(self, name: str) -> pd.DataFrame | None:
        """The table of that name; None where there is none."""


@dataclass
class Options:
    """The shared options of one call, and what of them was used."""

    colors: Mapping[str, Any] = field(default_factory=dict)
    palette: Any = None
    labels: Any = None
    legend: Any = True
    figure: Figure | SubFigure | None = None
    seen: dict[str, list[str]] = field(default_factory=lambda: {"colors": [], "labels": []})
    used: set[str] = field(default_factory=set)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)


_CURRENT: ContextVar[Options | None] = ContextVar("options of a figure", default=None)


def options_now() -> Options:
    """The options of the figure that is being drawn; the defaults outside of one."""
    return _CURRENT.get() or Options()


SHARED = """\
colors : mapping of str to color, optional
    Colours of what the legend (or an axis) names: {name: colour}. A setting's name is its label or its method, a
    teacher's its name or family/name. What is not named keeps its colour.
palette : str, Colormap or sequence of color, optional
    Colours in drawing order: a palette of seaborn or matplotlib by name, or a list; the colour map of a heatmap.
labels : mapping of str to str, or callable, optional
    Names to show: {name: name to show}, of teachers, families, settings and classes; a callable is given each teacher's
    name. `drawn_data` and `save` keep the names of the table.
legend : bool, str or mapping, default True
    False leaves it out: the artists are labelled, so that ``ax.legend()`` makes one. A text is a location, such as
    "lower right" or "outside right upper"; a mapping holds options of matplotlib's legend.
figure : Figure or SubFigure, optional
    Where to lay out the panels, such as a subfigure of a joined figure; its size stays. By default a new figure.
"""

ADDED = ("colors", "palette", "labels", "legend", "figure")


def drawing(**tables: str) -> Callable[[Callable[..., Drawn]], Callable[..., Drawn]]:
    """Give a figure the shared options, and let it take a source of tables: ``parameter="table of a study"``."""

    def decorate(function: Callable[..., Drawn]) -> Callable[..., Drawn]:
        signature = inspect.signature(function)

        def call(*args: Any, **options: Any) -> Drawn:
            shared = {name: options.pop(name) for name in ADDED if name in options and name not in signature.parameters}
            if isinstance(shared.get("labels"), list | tuple) and "settings" in signature.parameters:
                options["settings"] = shared.pop("labels")  # what `labels` of that figure was at first
            _check_ax(function.__name__, options, takes="ax" in signature.parameters)
            try:
                bound = signature.bind_partial(*args, **options)
            except TypeError as error:  # Python's own message does not say which function
                raise TypeError(f"{function.__name__}{signature}: {error}") from None
            if shared.get("figure") is not None and bound.arguments.get("ax") is not None:
                raise InputError("expected either ax or figure, got both")
            _fill_tables(signature, bound.arguments, tables)
            return _drawn(functools.partial(function, *bound.args, **bound.kwargs), _checked(shared))

        def drawn(*args: Any, **options: Any) -> Drawn:
            return call(*args, **options)

        # With the globals of the figure's module, where doctest looks for examples.
        figure = types.FunctionType(drawn.__code__, function.__globals__, function.__name__, None, drawn.__closure__)
        functools.update_wrapper(figure, function)
        figure.__signature__ = _with_shared(signature)  # type: ignore[attr-defined]
        figure.__doc__ = _documented(function.__doc__ or "")
        return figure

    return decorate


def _check_ax(figure: str, options: Mapping[str, Any], *, takes: bool) -> None:
    """Refuse `ax` where a figure lays out its own panels, and what is no Axes."""
    ax = options.get("ax")
    instead = "give figure=, a Figure or SubFigure, instead"
    if "ax" in options and not takes:
        raise InputError(f"{figure} takes no ax, since it lays out its own panels; {instead}")
    if ax is not None and not isinstance(ax, Axes):
        raise InputError(f"{figure} expected ax as a matplotlib Axes, got {type(ax).__name__}; or {instead}")


def _with_shared(signature: inspect.Signature) -> inspect.Signature:
    defaults = {"legend": True}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name))
        for name in ADDED
        if name not in signature.parameters
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *added])


def _documented(docstring: str) -> str:
    """The docstring with the shared options at the end of its parameters."""
    text = inspect.cleandoc(docstring)
    before, returns, after = text.partition("\n\nReturns\n-------\n")
    return textwrap.indent(f"{before}\n{SHARED.rstrip()}{returns}{after}", "    ").strip() + "\n    "


def _fill_tables(signature: inspect.Signature, given: dict[str, Any], tables: Mapping[str, str]) -> None:
    """Put tables in the place of sources, and what else the first source has in the place of what is missing."""
    sources = {name: given[name] for name in tables if name in given and not _is_table(given[name])}
    for name, source in sources.items():
        given[name] = table_of(source, tables[name])
    main = sources.get(next(iter(tables), ""))
    if main is None:
        return
    for name in tables.keys() - given.keys():
        if signature.parameters[name].default is inspect.Parameter.empty:
            given[name] = table_of(main, tables[name])
        elif given.get("ax") is None and (found := main.plot_table(tables[name])) is not None:
            given[name] = found


def _is_table(value: Any) -> bool:
    return value is None or isinstance(value, pd.DataFrame)


def table_of(source: Any, name: str) -> pd.DataFrame:
    """A table of a `Choice`, `Diagnosis` or `Study`.

    Raises
    ------
    InputError
        If the source is none of these, or lacks the table.
    """
    if not hasattr(source, "plot_table"):
        raise InputError(
            f"expected a table (a DataFrame), a Choice, a Diagnosis or a Study, got {type(source).__name__}"
        )
    found = source.plot_table(name)
    if found is None:
        raise InputError(f"this {type(source).__name__} has no table {name!r}")
    return found


def _checked(shared: dict[str, Any]) -> Options:
    """The options of a call, or an error that says what is expected of them."""
    options = Options(**{name: value for name, value in shared.items() if value is not None})
    if not isinstance(options.colors, Mapping):
        raise InputError(f"expected colors as a mapping of names to colours, got {options.colors!r}; or give palette=")
    for name, color in options.colors.items():
        if not is_color_like(color):
            raise InputError(f"expected a colour for {name!r} in colors, got {color!r}")
    if options.labels is not None and not isinstance(options.labels, Mapping) and not callable(options.labels):
        raise InputError(f"expected labels as a mapping of names to names, or a callable, got {options.labels!r}")
    if not isinstance(options.legend, bool | str | Mapping):
        raise InputError(f"expected legend as True, False, a location or a mapping of options, got {options.legend!r}")
    if not isinstance(options.figure, Figure | SubFigure | None):
        raise InputError(f"expected figure as a matplotlib Figure or SubFigure, got {type(options.figure).__name__}")
    if options.palette is not None:
        _palette(options.palette, 2)
    return options


def _drawn(draw: Callable[[], Drawn], options: Options) -> Drawn:
    """What is drawn with these options; where one of them names nothing that is there, no new figure stays open."""
    before, token = set(plt.get_fignums()), _CURRENT.set(options)
    try:
        drawn = draw()
        for what, given in (("colors", options.colors), ("labels", options.labels)):
            if isinstance(given, Mapping) and given and not options.used & set(map(str, given)):
                there = _there(what, options)
                raise InputError(f"{what} names {list(given)}, none of which this figure shows; {there}")
    except BaseException:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        raise
    finally:
        _CURRENT.reset(token)
    return drawn


def _there(what: str, options: Options) -> str:
    """Which names a figure has for `colors` or `labels`."""
    if there := list(dict.fromkeys(options.seen[what])):
        return f"it shows {there}"
    return "it has no colours by name, give palette=" if what == "colors" else "it has no names to change"


# Colours --------------------------------------------------------------------------------------------------------------


def recoloured(
    looks: Mapping[str, Mapping[str, Any]], also: Mapping[str, Iterable[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Looks with the colours that were asked for; `also` are further names of each, such as its method."""
    options = options_now()
    new = {name: dict(look) for name, look in looks.items()}
    if options.palette is not None:
        for look, color in zip(new.values(), _palette(options.palette, len(new)), strict=True):
            look["color"] = color
    for name, look in new.items():
        names = (name, shown_setting(name), *options.aliases.get(name, ()), *((also or {}).get(name, ())))
        options.seen["colors"].append(name)
        for key in names:
            if key in options.colors:
                look["color"] = options.colors[key]
                options.used.add(key)
                break
    return new


def color_of(name: str, color: Any) -> Any:
    """The colour of one thing that a figure shows."""
    return recoloured({name: {"color": color}})[name]["color"]


def _palette(palette: Any, count: int) -> list[Any]:
    """So many colours of a palette."""
    if isinstance(palette, Colormap):
        return [palette(place / max(count - 1, 1)) for place in range(count)]
    is_list = isinstance(palette, Sequence) and len(palette) > 0 and all(map(is_color_like, palette))
    if not isinstance(palette, str) and not is_list:
        raise InputError(f"expected palette as a name or a list of colours, got {palette!r}")
    try:
        return list(color_palette(palette, count))
    except ValueError as error:
        raise InputError(f"expected the name of a palette of seaborn or matplotlib, got {palette!r}: {error}") from None


def color_map(default: str) -> Any:
    """The colour map of a heatmap."""
    palette = options_now().palette
    if palette is None:
        return default
    if isinstance(palette, Colormap) or (isinstance(palette, str) and palette in mpl.colormaps):
        return palette
    return LinearSegmentedColormap.from_list(
        "given", _palette(palette, 8 if isinstance(palette, str) else len(palette))
    )


# Names ----------------------------------------------------------------------------------------------------------------


def note_aliases(names: Mapping[str, tuple[str, ...]]) -> None:
    """Remember by which other names a label may be called: a teacher's name, and family/name."""
    options_now().aliases.update(names)


class Composed(str):
    """A text of a legend that was made of names as they are shown, and is no name itself."""

    __slots__ = ()


def renamed(name: str, of: str) -> str | None:
    """The name that was asked for, else None; `of` is what has it: a "teacher", "family", "class" or "setting"."""
    options = options_now()
    if not name or isinstance(name, Composed):
        return None
    options.seen["labels"].append(name)
    new = None
    if callable(options.labels):
        new = options.labels(name) if of == "teacher" else None
    elif options.labels is not None:
        keys = (name, *(options.aliases.get(name, ()) if of == "teacher" else ()))
        if key := next((key for key in keys if key in options.labels), ""):
            options.used.add(key)
            new = options.labels[key]
    return None if new is None else str(new)


def shown_setting(label: str) -> str:
    r"""How a figure shows a setting: as asked for, else with a real tau.

    Examples
    --------
    >>> shown_setting("KD tau=4 student tau=1")
    'KD τ=4 student τ=1'
    """
    if isinstance(label, Composed):
        return label
    own = renamed(label, "setting")
    return label.replace("tau=", "τ=") if own is None else own


# Where ----------------------------------------------------------------------------------------------------------------


def page_width() -> float:
    """Inches that a figure has for its panels side by side."""
    given = options_now().figure
    if given is None:
        return float(mpl.rcParams["figure.figsize"][0])
    return float(given.bbox.width / given.dpi)


def new_panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    """Panels (rows, columns) of a new figure of that size, or of the one that was given."""
    given = options_now().figure
    if given is None:
        return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)[1]
    root = given.get_figure(root=True)
    if root is not None and root.get_layout_engine() is None:  # a legend beside the panels needs one
        root.set_layout_engine("constrained")
    return given.subplots(rows, columns, squeeze=False, **options)
