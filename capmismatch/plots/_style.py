"""Widths, fonts and colours of the figures: what a venue asks for, and one fixed look for each method.

Fonts are those of the venue where a machine has them, then those that ship with matplotlib: a figure that is made where
the venue's fonts are missing still has its widths and sizes.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from seaborn import color_palette

from capmismatch.errors import InputError, must_be_one_of
from capmismatch.plots._options import recoloured

GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Venue:
    """What a venue asks for.

    Attributes
    ----------
    column, text : float
        Widths in inches: one column, and the whole text block.
    size, small : float
        Font sizes in points: of labels, and of tick labels and legends.
    family : str
        ``"serif"`` or ``"sans-serif"``.
    fonts : tuple of str
        What the venue asks for, first choice first; those that ship with matplotlib follow.
    """

    column: float
    text: float
    size: float
    small: float
    family: str
    fonts: tuple[str, ...] = ()


VENUES: dict[str, Venue] = {
    "default": Venue(6.5, 6.5, 9, 8, "sans-serif"),
    "neurips": Venue(5.5, 5.5, 9, 8, "serif"),
    "iclr": Venue(5.5, 5.5, 9, 8, "serif"),
    "jmlr": Venue(6.0, 6.0, 9, 8, "serif"),
    "icml": Venue(3.25, 6.75, 8, 8, "serif"),
    "aistats": Venue(3.25, 6.75, 8, 8, "serif"),
    "aaai": Venue(3.3, 6.975, 8, 8, "serif"),
    "acl": Venue(3.03, 6.3, 8, 8, "serif"),
    "cvpr": Venue(3.25, 6.875, 8, 8, "serif"),
    "ieee": Venue(3.5, 7.16, 8, 8, "serif"),
    "nature": Venue(3.5, 7.2, 7, 6, "sans-serif", ("Arial", "Helvetica", "Liberation Sans")),  # asks for 5 to 7 points
    "springer": Venue(3.31, 6.85, 8, 8, "sans-serif", ("Helvetica", "Arial", "Liberation Sans")),
}
SHIPPED_SERIF, SHIPPED_SANS = ("STIXGeneral", "DejaVu Serif"), ("DejaVu Sans",)
"""Fonts that come with matplotlib; STIX has the shapes of Times."""

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = color_palette("colorblind").as_hex()
"""Colours that readers with any common colour blindness can tell apart (after Okabe and Ito, 2008)."""

# KD, ISATS, DKD and ATS go from dark to light, so that the order survives grey print; the related ATS and ISATS have
# related hues.
METHOD_LOOKS: dict[str, tuple[str, str]] = {
    "CE": (GREY, "."),
    "KD": (BLUE, "o"),
    "TS": (BLUE, "o"),  # plain temperature scaling is what KD uses
    "ISATS": (VERMILLION, "D"),
    "DKD": (PURPLE, "^"),
    "ATS": (ORANGE, "s"),
}
OTHER_LOOKS: tuple[tuple[str, str], ...] = ((GREEN, "v"), ("black", "P"), (SKY, "X"), (BROWN, "<"), (PINK, ">"))
LINESTYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))


def _square(markers: str) -> list[tuple[str, str]]:
    """Each of five colours with each of five markers: the first five differ in both, and so do the next."""
    colors = [color for color, _ in OTHER_LOOKS]
    return [(colors[index % 5], markers[(index + index // 5) % 5]) for index in range(25)]


# A new method goes to the end, so that those before it keep their looks. Those that are drawn together differ in both.
LATER_METHODS = (
    *("NormKD", "StdKD", "DIST", "CorrKD", "CTKD", "RKD", "JS", "SKD", "SRKD", "TopK"),
    *("DTKD", "TTM", "WTTM", "NKD", "PLD", "ABKD", "WKD", "MLKD", "CalKD", "MatchKD"),
    *("ClassKD", "GRAFT", "SHUFFLE", "FLAT"),
)
METHOD_LOOKS |= dict(zip(LATER_METHODS, _square("vPX<>"), strict=False))
OWN_LOOKS = _square("p*hd8")
"""For methods that the package does not know."""


class FigureStyle(dict[str, Any]):
    """The rcParams of a venue: a dict for ``plt.rcParams.update``, and a context manager that applies itself."""

    def __enter__(self) -> FigureStyle:
        """Apply the parameters until the block ends."""
        # Not rc_context: it also puts back "interactive", which a notebook's backend sets as the first figure is made;
        # were that one made in this block, all later figures would stay hidden.
        self._before = {name: value for name, value in mpl.rcParams.items() if name in self}
        mpl.rcParams.update(cast(Any, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former parameters back."""
        mpl.rcParams.update(cast(Any, self._before))


def figure_style(venue: str = "default", width: str | float = "column", *, ratio: float = GOLDEN_RATIO) -> FigureStyle:
    """Sizes and fonts that a venue asks for, as rcParams.

    Every figure of capmismatch takes its width from ``figure.figsize``, so this is all that a paper needs.

    Parameters
    ----------
    venue : str
        One of ``"default", "neurips", "iclr", "jmlr", "icml", "aistats", "aaai", "acl", "cvpr", "ieee", "nature",
        "springer"`` ("acl" for all its conferences, such as EMNLP): no text is smaller than the venue asks for, tick
        labels and legends among it. With the optional package `tueplots` also each of its bundles, by full name
        (``"aistats2025"``) or, of other venues than these, by venue, which takes the latest year.
    width : {"column", "text"} or float
        One column, the whole text width, or a width in inches.
    ratio : float
        Height over width of a single panel.

    Returns
    -------
    FigureStyle
        The parameters as a dict, usable in a ``with`` statement.

    Raises
    ------
    InputError
        If the venue or the width is none of the choices.

    See Also
    --------
    capmismatch.plots.save : Write a figure as PDF, PNG and CSV.

    Examples
    --------
    >>> figure_style("icml")["figure.figsize"][0]
    3.25
    >>> with figure_style("nature", "text"):
    ...     mpl.rcParams["figure.figsize"][0], mpl.rcParams["pdf.fonttype"]
    (7.2, 42)
    """
    must_be_one_of(venue, list(dict.fromkeys([*VENUES, *_bundles()])), "venue")
    if isinstance(width, str):
        must_be_one_of(width, ["column", "text"], "width")
    elif not 0 < width < float("inf"):
        raise InputError(f"width must be 'column', 'text' or a positive number of inches, got {width!r}")
    spec = VENUES.get(venue) or _from_tueplots(venue)
    assert spec is not None  # one of the choices
    inches = {"column": spec.column, "text": spec.text}[width] if isinstance(width, str) else float(width)
    serif = spec.family == "serif"
    return FigureStyle(
        {
            "figure.figsize": (inches, inches * ratio),
            "figure.constrained_layout.use": True,
            "figure.dpi": 150,
            # Named, not generic: a text keeps its font when it is drawn after the block, as notebooks do.
            "font.family": [*_installed(spec.fonts), *(SHIPPED_SERIF if serif else SHIPPED_SANS)],
            **_math_fonts(serif, _installed(spec.fonts)),
            "font.size": spec.size,
            "axes.labelsize": spec.size,
            "axes.titlesize": spec.size,
            "figure.labelsize": spec.size,
            "legend.fontsize": spec.small,
            "legend.title_fontsize": spec.small,
            "xtick.labelsize": spec.small,
            "ytick.labelsize": spec.small,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "xtick.minor.size": 1.5,
            "ytick.minor.size": 1.5,
            "lines.linewidth": 1.2,
            "lines.markersize": 3.5,
            "hatch.linewidth": 0.4,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=[BLUE, VERMILLION, PURPLE, ORANGE, GREEN, "black", SKY]),
            "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
            "ps.fonttype": 42,
            "svg.hashsalt": "capmismatch",
        }
    )


def _installed(fonts: Iterable[str]) -> list[str]:
    """Those of some fonts that this machine has: of others matplotlib would warn at each text."""
    known = set(font_manager.get_font_names())
    return [font for font in fonts if font in known]


def _math_fonts(serif: bool, fonts: list[str]) -> dict[str, str]:
    """Formulas in the font of the text: that of the venue, or one that ships with matplotlib."""
    if serif or not fonts:
        return {"mathtext.fontset": "stix" if serif else "dejavusans"}
    first = fonts[0]
    styles = {"rm": first, "it": f"{first}:italic", "bf": f"{first}:bold"}
    return {"mathtext.fontset": "custom", **{f"mathtext.{name}": font for name, font in styles.items()}}


def _bundles() -> dict[str, str]:
    """Names that tueplots answers to, each with its bundle: full names, and venues for their latest year."""
    if importlib.util.find_spec("tueplots") is None:
        return {}
    from tueplots import bundles

    names = sorted(name for name, _ in inspect.getmembers(bundles, inspect.isfunction) if re.search(r"\d{4}$", name))
    return {name[:-4]: name for name in names} | {name: name for name in names}


def _from_tueplots(venue: str) -> Venue | None:
    """Widths and font sizes of a tueplots bundle; its fonts are left out, since few machines have them."""
    name = _bundles().get(venue)
    if name is None:
        return None
    from tueplots import bundles

    bundle = getattr(bundles, name)
    two_columns = "column" in inspect.signature(bundle).parameters
    half = bundle(column="half") if two_columns else bundle()
    full = bundle(column="full") if two_columns else half
    family = half.get("font.family", "serif")
    return Venue(
        half["figure.figsize"][0], full["figure.figsize"][0], half["font.size"], half["legend.fontsize"], family
    )


def setting_looks(methods: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each setting; those of one method share its colour, in paler and paler tints.

    The plain one comes first: "KD tau=4" before "KD tau=4 student tau=1".
    `methods` maps setting labels to method names, in drawing order.

    Examples
    --------
    >>> looks = setting_looks({"KD tau=2": "KD", "KD tau=4": "KD", "ATS": "ATS"})
    >>> looks["KD tau=2"]["marker"] == looks["KD tau=4"]["marker"], looks["ATS"]["marker"]
    (True, 's')
    """
    own_looks = _own_looks(set(methods.values()) - set(METHOD_LOOKS))
    looks: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    total = {method: list(methods.values()).count(method) for method in methods.values()}
    plain_first = sorted(methods.items(), key=lambda one: any(one[0].startswith(f"{label} ") for label in methods))
    for label, method in plain_first:
        color, marker = METHOD_LOOKS.get(method) or own_looks[method]
        index = seen[method] = seen.get(method, -1) + 1
        tint = 0.55 * index / max(total[method] - 1, 1)
        looks[label] = {
            "color": tuple(channel + (1 - channel) * tint for channel in to_rgb(color)),
            "marker": marker,
            "linestyle": LINESTYLES[(index + _first_line(method)) % len(LINESTYLES)],
        }
    ordered = {label: looks[label] for label in methods}
    return recoloured(ordered, {label: (method,) for label, method in methods.items()})


def _first_line(method: str) -> int:
    """Which line style the plain setting of a method has: another one where methods share a colour."""
    return LATER_METHODS.index(method) // 5 if method in LATER_METHODS else 0


def _own_looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Looks of methods of a user's own: by the name alone, the next free one where two of a figure would share it."""
    looks: dict[str, tuple[str, str]] = {}
    for method in sorted(methods):
        start = zlib.crc32(method.encode()) % len(OWN_LOOKS)
        in_turn = [*OWN_LOOKS[start:], *OWN_LOOKS[:start]]
        looks[method] = next((look for look in in_turn if look not in looks.values()), in_turn[0])
    return looks


def tau_looks(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colours from dark to light for temperatures in rising order, other ones than those of teachers, with markers.

    Examples
    --------
    >>> [look["marker"] for look in tau_looks(["cold", "hot"]).values()]
    ['o', 's']
    """
    names = list(labels)
    return recoloured(
        {
            name: {"color": color, "marker": "osD^vPX<>"[index % 9]}
            for index, (name, color) in enumerate(zip(names, _shades("plasma", len(names)), strict=True))
        }
    )


def teacher_looks(families: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colours from dark to light for teachers, and a marker for each family.

    `families` maps teacher labels to families, smallest teacher first. All that the table has, shown or not: a teacher
    then has one colour in all figures of a study.

    Examples
    --------
    >>> looks = teacher_looks({"small": "A", "middle": "B", "large": "A"})
    >>> [look["marker"] for look in looks.values()]
    ['o', 'v', 'o']
    """
    markers = dict(zip(sorted(set(families.values())), cycle(["o", *(marker for _, marker in OTHER_LOOKS)])))
    return recoloured(
        {
            label: {"color": color, "marker": markers[family]}
            for (label, family), color in zip(families.items(), _shades("viridis", len(families)), strict=True)
        }
    )


def _shades(name: str, count: int) -> list[Any]:
    """Colours evenly from dark to light, without the lightest, which white paper swallows."""
    return [mpl.colormaps[name](lightness) for lightness in np.linspace(0.05, 0.85, count)]
