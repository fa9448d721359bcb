"""The explorer's controls: what is chosen becomes a `View`, a view becomes tables, and tables become pictures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Hashable, Sequence
from html import escape
from typing import Any

import pandas as pd

from capmismatch._numerics.soft_label_spec import CENTERS, CONSTRAINTS, SOFT_METHODS, TOKEN_DEFAULTS, WRONG
from capmismatch._utils.optional import need
from capmismatch.data.bank import LogitBank
from capmismatch.errors import CapmismatchError
from capmismatch.explorer import figures
from capmismatch.explorer.images import Images
from capmismatch.explorer.tables import Reader, Softening, View, first_view


def explore(
    bank: LogitBank,
    teachers: Sequence[str] | None = None,
    *,
    images: Any = None,
    split: str | None = "val",
    n: int | None = 1000,
) -> Explorer:
    """Look into a bank interactively: choose teachers, a method and its temperatures, a class and an example.

    In a notebook, as the last line of a cell, it shows what the soft labels of the teachers are like (p_y, inherent
    variance, derived std and variance), how alike the teachers order the wrong classes of one class, and what they say
    about one example, before (TS) and after the method. Needs the extra ``notebook``.

    Parameters
    ----------
    bank : LogitBank
        Of at least one teacher.
    teachers : sequence of str, optional
        Names, or keys in the bank, of those that are chosen at first; by default three, from small to large.
    images : Dataset, ndarray or sequence, optional
        What the examples look like: a `Dataset`, whose rows are found by their ids, or an array of one image for each
        row of the bank, shape (N, H, W) or (N, H, W, 1, 3 or 4).
    split : str or None
        Whose examples are looked at; None for all of the bank.
    n : int or None
        Means are taken over at most so many examples, drawn by class in their shares; None for all.
        `capmismatch.probe` and `capmismatch.restored_variance` measure on all.

    Returns
    -------
    Explorer
        Shown by a notebook where it ends a cell; its tables and controls can be used from Python.

    Raises
    ------
    InputError
        If ipywidgets is not installed, the bank has no teachers, or a key, the split or the images do not fit.

    See Also
    --------
    capmismatch.restored_variance : The means for all teachers, as a table.
    capmismatch.rank_stability : The class ranks over all classes.
    capmismatch.dark_knowledge : One example.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"small": 2 * np.eye(4), "large": 9 * np.eye(4)}, [0, 1, 2, 3], classes=list("abcd"))
    >>> explorer = explore(bank)
    >>> explorer.method.value = "TS"
    >>> p_y = explorer.tables["soft_labels"].query("quantity == 'target_prob' and rows == 'all'")
    >>> p_y[["label", "method", "value"]].round(3).reset_index(drop=True)
       label method  value
    0  small     TS  0.355
    1  large     TS  0.760
    """
    reader = Reader(bank, split, n)
    return Explorer(reader, first_view(reader, teachers), None if images is None else Images(images, bank.rows))


class Explorer:
    """What `explore` returns: a notebook shows it, and what it shows can be taken on from here.

    Attributes
    ----------
    view : View
        What is chosen now.
    tables : dict of str to DataFrame
        The tables behind the pictures: "soft_labels", "class_ranks", "example".
    widget : ipywidgets.VBox
        The whole, to be put into another layout.
    teachers, method, tau, tau_other, constraint, margin, center, wrong, label, example : ipywidgets.Widget
        The controls; to set a ``value`` is to choose.
    """

    def __init__(self, reader: Reader, view: View, images: Images | None = None) -> None:
        w = need("ipywidgets", "notebook", "explore")
        self._reader, self._images = reader, images
        self._shown: dict[str, Hashable] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        softening, keys = view.softening, reader.bank.keys

        def look(**more: Any) -> dict[str, Any]:
            return {"style": {"description_width": "8em"}, "layout": w.Layout(width="auto", min_width="0"), **more}

        def slider(value: float, name: str, low: float, high: float, step: float) -> Any:
            options = look(description=name, continuous_update=False)
            return w.FloatSlider(value, min=low, max=high, step=step, **options)

        self.teachers = w.SelectMultiple(
            options=[(reader.labels[key], key) for key in keys],
            value=view.teachers,
            rows=min(max(len(keys), 4), 7),
            **look(description="Teachers", tooltip="Ctrl or Shift chooses several"),
        )
        self.method = w.Dropdown(options=SOFT_METHODS, value=softening.method, **look(description="Method"))
        self.tau = slider(softening.tau, "Temperature τ", 0.5, 16, 0.5)
        self.tau_other = slider(softening.tau_other, "τ of the others", 0.5, 16, 0.25)
        self.constraint = w.Dropdown(options=CONSTRAINTS, value=softening.constraint, **look(description="Constraint"))
        self.margin = slider(softening.margin or 0.0, "Margin", 0, 5, 0.25)
        self.center = w.Dropdown(options=CENTERS, value=softening.center, **look(description="Centre"))
        self.wrong = w.Dropdown(options=WRONG, value=softening.wrong, **look(description="Wrong rows"))
        self.label = w.Dropdown(options=reader.classes, value=view.label, **look(description="Class"))
        examples = reader.examples(view.label)
        self.example = w.Dropdown(options=examples, value=view.example, **look(description="Example"))
        names = ("soft_labels", "class_ranks", "example")
        self._pictures = {name: w.Image(format="png", layout=w.Layout(width="100%")) for name in names}
        self._numbers, self._note = w.HTML(), w.HTML()
        self.widget = self._laid_out(w)
        for control in (self.teachers, *self._settings, self.label, self.example):
            control.observe(self._chosen, "value")
        self._show()

    @property
    def _settings(self) -> list[Any]:
        """The controls of the method's settings."""
        return [self.method, self.tau, self.tau_other, self.constraint, self.margin, self.center, self.wrong]

    def _laid_out(self, w: Any) -> Any:
        """Three columns of controls over the pictures; on a narrow page they stand below each other."""

        def column(children: list[Any], flex: str) -> Any:
            return w.VBox(children, layout=w.Layout(flex=flex, min_width="0"))

        wrap = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start"}
        columns = ([self.teachers], self._settings, [self.label, self.example])
        controls = [column(children, "1 1 17em") for children in columns]
        soft_labels, class_ranks, example = self._pictures.values()
        lower = [column([class_ranks], f"{figures.LEFT:g} 1 18em"), column([example], f"{figures.RIGHT:g} 1 24em")]
        numbers = w.Accordion([self._numbers], titles=("The numbers",))
        numbers.selected_index = None
        top, middle = (w.Box(children, layout=w.Layout(**wrap)) for children in (controls, lower))
        return w.VBox([top, soft_labels, middle, self._note, numbers], layout=w.Layout(max_width="72em"))

    @property
    def view(self) -> View:
        """What is chosen now; settings that the method does not take stand at their defaults."""
        settings: dict[str, Any] = {}
        if self.method.value == "ATS":
            settings = {"tau_other": self.tau_other.value}
        elif self.method.value == "ISATS":
            settings = {"constraint": self.constraint.value, "wrong": self.wrong.value}
            settings |= {"margin": self.margin.value} if self.constraint.value == "order" else {}
        if self._reads_center():
            settings["center"] = self.center.value
        if self._reader.bank.of_texts and self.method.value != "TS":  # the sums of condensed rows end there
            settings |= {"bounds": TOKEN_DEFAULTS["bounds"]} | ({"wrong": self.wrong.value})
        softening = Softening(self.method.value, self.tau.value, **settings)
        return View(tuple(self.teachers.value), softening, self.label.value, self.example.value)

    def _reads_center(self) -> bool:
        """Whether the chosen method depends on the centring of the logits."""
        return self.method.value == "ATS" or (self.method.value == "ISATS" and self.constraint.value != "anchor")

    def _reads_wrong(self) -> bool:
        """Whether the chosen method treats the rows that a teacher gets wrong apart."""
        return self.method.value == "ISATS" or (self.method.value == "ATS" and self._reader.bank.of_texts)

    def _chosen(self, change: Any) -> None:
        if change["owner"] is self.label:
            self.example.options = self._reader.examples(self.label.value)
        self._show()

    def _show(self) -> None:
        """Bring all that depends on what was changed up to date, and nothing else."""
        self.tau_other.layout.display = None if self.method.value == "ATS" else "none"
        self.constraint.layout.display = None if self.method.value == "ISATS" else "none"
        self.wrong.layout.display = None if self._reads_wrong() else "none"
        order = self.method.value == "ISATS" and self.constraint.value == "order"
        self.margin.layout.display = None if order else "none"
        self.center.layout.display = None if self._reads_center() else "none"
        view = self.view
        if not view.teachers:
            self._note.value = "<p>Choose at least one teacher.</p>"
            return
        teachers, softening = view.teachers, view.softening
        try:
            self._update("soft_labels", (teachers, softening), figures.soft_labels)
            self._update("class_ranks", (teachers, view.label), lambda table: figures.class_ranks(table, view.label))
            self._update("example", (teachers, softening, view.example), self._draw_example)
        except CapmismatchError as error:
            self._note.value = f"<p><b>{escape(str(error))}</b></p>"
            return
        self._note.value = f"<p>{escape(self._reader.note(view, self.tables['soft_labels']))}</p>"
        self._numbers.value = _numbers(self.tables["soft_labels"])

    def _update(self, name: str, depends_on: Hashable, draw: Callable[[pd.DataFrame], bytes]) -> None:
        """Make a table and its picture again if what they depend on has changed."""
        if self._shown.get(name) != depends_on:
            self.tables[name] = getattr(self._reader, name)(self.view)
            self._pictures[name].value = draw(self.tables[name])
            self._shown[name] = depends_on

    def _draw_example(self, table: pd.DataFrame) -> bytes:
        image = None if self._images is None else self._images[self._reader.row(self.view)]
        return figures.dark_knowledge(table, image)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The controls where a notebook can show them, else the pictures as they are now, else the text of `repr`."""
        return {**self.widget._repr_mimebundle_(**kwargs), "text/html": self.to_html(), "text/plain": repr(self)}

    def to_html(self) -> str:
        """What is shown now as HTML without controls: for exported notebooks, and pages where widgets aren't live.

        Returns
        -------
        str
            The three pictures, the note below them and what was chosen; it loads nothing from elsewhere.
        """
        names = {"soft_labels": "Soft labels", "class_ranks": "Class ranks", "example": "Example"}
        pictures = "".join(
            f'<img alt="{names[name]}" style="max-width: 100%; display: block" '
            f'src="data:image/png;base64,{b64encode(picture.value).decode("ascii")}">'
            for name, picture in self._pictures.items()
            if picture.value
        )
        chosen = f"<p>{escape(str(self.view))}</p>"
        return f'<div style="max-width: 72em">{pictures}{self._note.value}{chosen}</div>'

    def __repr__(self) -> str:
        return f"{self.view}\n{_wide(self.tables['soft_labels']).to_string()}"


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """One row per teacher and method, one column per quantity."""
    order = list(table["quantity"].unique())
    return table.pivot_table(index=["label", "method", "rows"], columns="quantity", values="value", sort=False)[order]


def _numbers(table: pd.DataFrame) -> str:
    """The means as an HTML table; names are escaped."""
    wide = _wide(table).rename_axis(index=["teacher", "method", "rows"], columns=None).reset_index()
    shown = wide.to_html(index=False, escape=True, border=0, na_rep="–", float_format="{:.4g}".format)
    return f'<div style="overflow-x: auto">{shown}</div>'
