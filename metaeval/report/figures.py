"""The registry of figures, and what a figure is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from metaeval import registry
from metaeval.analysis.reading import wish

FIGURES = {
    "published": "metaeval.report.charts.published:figures",
    "reference": "metaeval.report.charts.reference:figures",
    "curves": "metaeval.report.charts.curves:figures",
    "crossings": "metaeval.report.charts.crossings:figures",
    "thresholds": "metaeval.report.charts.thresholds:figures",
    "transfer": "metaeval.report.charts.transfer:figures",
    "classes": "metaeval.report.charts.classes:figures",
    "published-classes": "metaeval.report.charts.published_classes:figures",
    "published-accuracies": "metaeval.report.charts.printed:figures",
    "published-shifts": "metaeval.report.charts.published_shifts:figures",
    "cascade": "metaeval.report.charts.cascade:figures",
    "shifts": "metaeval.report.charts.shifts:figures",
    "predictors": "metaeval.report.charts.predictors:figures",
    "families": "metaeval.report.charts.families:figures",
    "cost": "metaeval.report.charts.cost:figures",
}
"""Figures of ours by name, in the order of the page; other packages add theirs as `metaeval.figures`."""


@dataclass(frozen=True)
class Data:
    """The numbers behind a figure: what the chart draws and the CSV download holds.

    Attributes
    ----------
    columns : tuple of str
    rows : list of list
        Text, numbers, or None for "not available".
    """

    columns: tuple[str, ...]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes
    ----------
    name : str
        Unique on the page, letters, digits and hyphens: anchor and name of the CSV file.
    title : str
    reading : str
        One sentence: what it shows and how to read it.
    description : str
        The figure in words for those who cannot see it.
    spec : dict or None
        Vega-Lite specification that takes its rows from ``{"name": "rows"}`` and may use the signals
        `models`, `attacks` (lists of checked names), `bands` (bool), `foreground`, `paper`, `muted`
        (colours); the page sets its width. None when nothing can be drawn.
    data : Data
    table : str
        HTML of the table beneath.
    covers : str
        What the intervals cover; empty if there are none.
    panels : str
        Column that divides the figure into one chart for each of its values; empty for one chart.
    open_table : bool
        Whether the table is unfolded from the start.
    finding : str
        One sentence for the top of the page, as HTML; empty if there is none.
    """

    name: str
    title: str
    reading: str
    description: str
    spec: dict[str, Any] | None
    data: Data
    table: str
    covers: str = ""
    panels: str = ""
    open_table: bool = False
    finding: str = ""


FigureMaker = Callable[[xr.DataTree], Sequence[Figure]]


def make_figures(cube: xr.DataTree) -> list[Figure]:
    """Return the figures that the study asks for (default: all that there are).

    Raises
    ------
    UsageError
        If the study names a figure that nobody provides.
    """
    wanted = wish(cube, "report", "figures", "all")
    chosen = registry.names("figures", FIGURES) if wanted == "all" else wanted
    return [figure for name in chosen for figure in registry.load("figures", FIGURES, str(name))(cube)]
