"""Which properties and generalization measures go with robustness, and how sure that is."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import claims, notions, predictors
from metaeval.analysis.correlation import FAMILIES_NEEDED
from metaeval.analysis.reading import models
from metaeval.errors import UsageError
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import escape

SHOWN_MEASURES = 40
"""With more measures than this the figure shows those that come nearest to holding for every notion."""
MODELS_NEEDED = 5
NUMBERS = ("partial", "partial_lower", "partial_upper", "spearman", "lower", "upper", "kendall")
COLUMNS = ("measure", "notion", *NUMBERS, "p", "models", "families", "certain")


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return the figure of correlations; none for fewer than five models or without anything to correlate."""
    if len(models(cube)) < MODELS_NEEDED:
        return []
    try:
        read = notions.read_columns(cube)
        least = predictors.weakest(cube, read)
        found = notions.correlations(cube, read)
    except UsageError:
        return []
    found = found.sel(measure=least["measure"].values, notion=least.attrs["notions"])
    estimable = found["partial"].notnull().any("notion").values
    if not estimable.any():
        return []
    found, least = found.isel(measure=estimable), least.isel(measure=estimable)
    order = np.argsort(-np.nan_to_num(least["weakest"].values, nan=-2.0), kind="stable")[:SHOWN_MEASURES]
    found, least = found.isel(measure=order), least.isel(measure=order)
    return [_figure(cube, found, least, int(estimable.sum()), _finding(cube, least, read))]


def _figure(cube: xr.DataTree, found: xr.Dataset, least: xr.Dataset, measures: int, finding: str) -> Figure:
    shown = found.sizes["measure"]
    left_out = f" The {shown} of {measures} measures that come nearest to holding for all." * (
        shown < measures
    )
    level = words.level(found.attrs["confidence"])
    number, families = int(found["models"].max()), int(found["families"].max())
    shared = "; measures and robustness of the same samples share their errors"
    shared = shared if notions.measure_families(cube) else ""
    of = f" of {len(models(cube))}" if number < len(models(cube)) else ""
    few = (
        f" Intervals need {FAMILIES_NEEDED} families of models; there are {families}."
        if families < FAMILIES_NEEDED
        else ""
    )
    return Figure(
        name="predictors",
        title="Which measures go with robustness",
        reading=(
            "Each cell is the rank correlation of a measure with a notion of robustness given clean "
            "accuracy: blue where more of the measure goes with more robustness, orange where it goes with "
            f"less; a dot marks those whose interval excludes 0.{left_out}"
        ),
        description=(
            "Heat map of partial rank correlations, measures by notions of robustness. The table beneath "
            "holds each measure's weakest correlation over all notions, with its simultaneous interval."
        ),
        spec=_spec(found),
        data=_rows(found),
        table=_table(least),
        covers=(
            f"{number}{of} models in {families} {'family' if families == 1 else 'families'}; "
            f"intervals at {level} cover the choice of families, not of test samples nor the strength of the "
            f"attacks.{few} Gap and relative robustness are tied to clean accuracy by construction, so it is "
            f"taken as given{shared}."
        ),
        finding=finding,
    )


def _finding(cube: xr.DataTree, least: xr.Dataset, read: notions.Columns) -> str:
    said = [escape(sentence) for sentence in least.attrs["sentences"][:3]]
    if notions.measure_families(cube):
        said += [escape(finding.sentence) for finding in claims.check(cube, read)]
    return " ".join(said)


def _rows(found: xr.Dataset) -> Data:
    rows: list[list[object]] = []
    for measure in found["measure"].values:
        for notion in found["notion"].values:
            at = found.sel(measure=measure, notion=notion)
            lower, upper = float(at["partial_lower"]), float(at["partial_upper"])
            numbers = [style.rounded(float(at[name]), 4) for name in (*NUMBERS, "p")]
            counts = [int(at["models"]), int(at["families"])]
            rows.append([str(measure), str(notion), *numbers, *counts, bool(lower > 0 or upper < 0)])
    return Data(COLUMNS, rows)


def _spec(found: xr.Dataset) -> dict[str, object]:
    order = [str(name) for name in found["measure"].values]
    scale = alt.Scale(domain=[-1, 0, 1], range=[style.COLOURS[5], "#d9d9d9", style.COLOURS[0]])
    base = style.base().encode(
        x=alt.X("notion:N", sort=[str(name) for name in found["notion"].values], title=None),
        y=alt.Y("measure:N", sort=order, title=None),
        tooltip=[
            "measure:N",
            "notion:N",
            alt.Tooltip("partial:Q", format=".2f", title="given clean accuracy"),
            alt.Tooltip("partial_lower:Q", format=".2f", title="from"),
            alt.Tooltip("partial_upper:Q", format=".2f", title="to"),
            alt.Tooltip("spearman:Q", format=".2f", title="rank correlation"),
            "models:Q",
        ],
    )
    cells = (
        base.transform_filter("isValid(datum.partial)")
        .mark_rect()
        .encode(color=alt.Color("partial:Q", scale=scale, legend=alt.Legend(orient="top", title=None)))
    )
    dots = base.transform_filter("datum.certain").mark_point(filled=True, color="black", size=20, opacity=1)
    return style.finish(cells + dots, height={"step": 20})


def _table(least: xr.Dataset) -> str:
    rows: list[list[str | Cell]] = []
    for position in range(least.sizes["measure"]):
        at = least.isel(measure=position)
        weakest, lower, upper = (float(at[name]) for name in ("weakest", "lower", "upper"))
        rows.append(
            [
                str(at["measure"].item()),
                Cell("more" if float(at["orientation"]) > 0 else "less", kind="text"),
                _cell(f"{weakest:.2f}", weakest),
                _cell(f"{lower:.2f} to {upper:.2f}", lower),
                Cell(str(at["notion"].item()), kind="text"),
                Cell("yes" if bool(at["holds"]) else "not certain", kind="text"),
            ]
        )
    header = ["measure", "goes with", "weakest correlation", "interval", "in the notion", "holds for all"]
    caption = "The weakest partial rank correlation of each measure over all notions of robustness"
    return html_table(header, rows, caption)


def _cell(text: str, value: float) -> Cell:
    return Cell(words.NOT_AVAILABLE, kind="missing") if np.isnan(value) else Cell(text)
