"""Forest plots: the correlation with robustness inside each family of models, combined over families."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import families, notions
from metaeval.analysis.literature import MEAN_SIZE_FOR_PREDICTION
from metaeval.analysis.meta import STUDIES_FOR_PREDICTION
from metaeval.analysis.reading import confidence, norms
from metaeval.errors import UsageError
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import escape, strong

CLEAN = "clean accuracy"
SHOWN_MEASURES = 5
"""Beside clean accuracy there are forest plots of so many measures at most, those most certainly not 0."""
AVERAGE, ANOTHER = "average family", "another family"
COLUMNS = ("measure", "family", "kind", "correlation", "lower", "upper", "weight", "models")


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each norm's first accuracy for which five families are large enough."""
    try:
        read = notions.read_columns(cube)
    except UsageError:
        return []
    named = [str(name) for name in read.robustness["notion"].values]
    made = []
    for norm in norms(cube):
        accuracies = [name for name in named if name.startswith(f"{norm} ") and name.endswith(" accuracy")]
        for notion in accuracies[:1]:
            found = families.from_cube(cube, notion, read=read)
            if found:
                made.append(_figure(cube, norm, notion, found))
    return made


def _figure(cube: xr.DataTree, norm: str, notion: str, found: dict[str, families.Combined]) -> Figure:
    level, p = words.level(confidence(cube)), families.adjusted(found)
    robust = f"accuracy at {words.norm_name(norm)} ε = {notion.split(' ')[1]}"
    certain = [name for name in sorted(p, key=lambda name: p[name]) if p[name] < 1 - confidence(cube)]
    others = [name for name in certain if name != CLEAN]
    shown = [*([CLEAN] if CLEAN in found else []), *others[:SHOWN_MEASURES]] or sorted(
        p, key=lambda name: p[name]
    )[:1]
    return Figure(
        name=f"families-{norm}",
        title=f"Correlation with {robust} inside families",
        reading=(
            "Each mark is the rank correlation over the models of one family, its bar the interval; the "
            "diamond is the average family, and a dashed bar says where another family's correlation lies, "
            "where that is estimable."
        ),
        description=(
            f"Forest plots: rank correlation with {robust} in each family of models and in the average "
            "family, with intervals. The table beneath holds the averages of every measure."
        ),
        spec=_spec(),
        data=Data(COLUMNS, [row for name in shown for row in _rows(name, found[name])]),
        table=_table(found, p),
        covers=(
            f"Intervals at {level} of a family cover the choice of its models, those of the average family "
            "the choice of families (random effects on Fisher's z, REML, Knapp and Hartung); the test "
            "samples and the strength of the attacks are not covered. p is adjusted for all measures of the "
            f"table (Holm). Families with fewer than {families.MODELS_NEEDED} models, or without differences "
            "between them, are left out; a measure with a perfect correlation in a family is not estimable. "
            "Clean accuracy and measures share their errors with robustness on the same samples."
        ),
        panels="measure",
        finding=_finding(found, others, robust, level),
    )


def _finding(found: dict[str, families.Combined], others: list[str], robust: str, level: str) -> str:
    """Return the average correlation of clean accuracy, and how many measures go with it, as HTML."""
    said = []
    robust = escape(robust)
    if CLEAN in found:
        one = found[CLEAN]
        sizes = one.table["models"]
        size = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
        said.append(
            f"Inside families of models clean accuracy and {robust} have an average rank correlation of "
            f"{_correlation(one.average)} ({level} interval {_correlation(one.lower)} to "
            f"{_correlation(one.upper)} over the choice of families; k = {len(one.table)} families of {size} "
            f"models; I² = {words.number(one.effects.i2)}{words.SPACE}%); {_prediction(one, level)}."
        )
    measures = len(found) - (CLEAN in found)
    if measures:
        names = f", first {strong(others[0])}" if others else ""
        verb = "go" if len(others) > 1 else "goes"
        said.append(
            f"Of {measures:,} other properties and measures whose correlation inside families is estimable, "
            f"{len(others) or 'none'} certainly {verb} with {robust} in the average family (Holm-adjusted "
            f"at {level}){names}."
        )
    return " ".join(said)


def _prediction(one: families.Combined, level: str) -> str:
    low, high = one.prediction
    if not np.isnan(low):
        return f"in another family it lies between {_correlation(low)} and {_correlation(high)} ({level})"
    mean = words.number(float(one.table["models"].mean()))
    return (
        f"the prediction interval of another family is not estimable ({len(one.table)} families of {mean} "
        f"models on average, where {STUDIES_FOR_PREDICTION} of {MEAN_SIZE_FOR_PREDICTION + 3} are needed)"
    )


def _correlation(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _rows(name: str, one: families.Combined) -> list[list[object]]:
    rows: list[list[object]] = []
    for row in one.table.to_dict("records"):
        numbers = [style.rounded(float(row[key]), 4) for key in COLUMNS[3:7]]
        rows.append([name, row["family"], "family", *numbers, int(row["models"])])
    models = int(one.table["models"].sum())
    ends = [style.rounded(value, 4) for value in (one.average, one.lower, one.upper)]
    rows.append([name, AVERAGE, "average", *ends, None, models])
    if not np.isnan(one.prediction[0]):
        low, high = (style.rounded(value, 4) for value in one.prediction)
        rows.append([name, ANOTHER, "prediction", None, low, high, None, None])
    return rows


def _spec() -> dict[str, object]:
    y = alt.Y("family:N", sort=None, title=None, axis=alt.Axis(labelLimit=120))
    axis, scale, title = alt.Axis(tickCount=5), alt.Scale(domain=[-1, 1]), "rank correlation"
    base = style.base()
    zero = base.mark_rule(color={"expr": "muted"}, strokeDash=[3, 3]).encode(
        x=alt.XDatum(0, axis=axis, scale=scale, title=title)
    )
    ends = alt.X("lower:Q", axis=axis, scale=scale, title=title)
    place = alt.X("correlation:Q", axis=axis, scale=scale, title=title)
    solid = base.transform_filter("datum.kind != 'prediction'")
    bars = solid.mark_rule(strokeWidth=2, color=style.COLOURS[0]).encode(x=ends, x2="upper:Q", y=y)
    dashed = (
        base.transform_filter("datum.kind == 'prediction'")
        .mark_rule(strokeWidth=2, strokeDash=[5, 3], color=style.COLOURS[5])
        .encode(x=ends, x2="upper:Q", y=y)
    )
    tooltip = [
        "family:N",
        "models:Q",
        *(alt.Tooltip(f"{key}:Q", format=".2f") for key in ("correlation", "lower", "upper")),
    ]
    squares = (
        base.transform_filter("datum.kind == 'family'")
        .mark_point(shape="square", filled=True, opacity=1, color=style.COLOURS[0])
        .encode(
            x=place,
            y=y,
            size=alt.Size("weight:Q", scale=alt.Scale(range=[30, 130], zero=True), legend=None),
            tooltip=tooltip,
        )
    )
    diamond = (
        base.transform_filter("datum.kind == 'average'")
        .mark_point(shape="diamond", filled=True, opacity=1, size=160, color=style.COLOURS[5])
        .encode(x=place, y=y, tooltip=tooltip)
    )
    return style.finish(alt.layer(zero, bars, dashed, squares, diamond), height=alt.Step(20))


def _table(found: dict[str, families.Combined], p: dict[str, float]) -> str:
    rows: list[list[str | Cell]] = []
    for name in sorted(found, key=lambda name: (name != CLEAN, p[name])):
        one = found[name]
        low, high = one.prediction
        rows.append(
            [
                name,
                Cell(_correlation(one.average), (f"{_correlation(one.lower)} to {_correlation(one.upper)}",)),
                Cell(words.p_value(p[name])),
                Cell(f"{words.number(one.effects.i2)}{words.SPACE}%"),
                Cell("not estimable", kind="missing")
                if np.isnan(low)
                else Cell(f"{_correlation(low)} to {_correlation(high)}"),
                Cell(f"{len(one.table)}", (words.plural(int(one.table["models"].sum()), "model"),)),
            ]
        )
    header = ["measure", "average correlation", "adjusted p", "I²", "another family", "families"]
    return html_table(
        header, rows, "Correlation in the average family, of every measure for which it is estimable"
    )
