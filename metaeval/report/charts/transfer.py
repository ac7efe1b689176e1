"""Transfer across norms: whether models that withstand one norm's attacks withstand another's."""

from __future__ import annotations

from itertools import combinations

import altair as alt
import numpy as np
import xarray as xr
from scipy import stats

from metaeval.analysis import curves, transfer
from metaeval.analysis.reading import (
    WORST_CASE,
    Reference,
    confidence,
    imported,
    models,
    references,
    sampled_norms,
)
from metaeval.errors import UsageError
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import escape

COLUMNS = (
    "model",
    *("first", "first_lower", "first_upper", "first_rank"),
    *("second", "second_lower", "second_upper", "second_rank"),
)


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each pair of norms under which three models are complete and differ."""
    if imported(cube) is not None:
        return []
    made = []
    for pair in combinations(sampled_norms(cube), 2):
        levels = [references(cube, norm)[:1] for norm in pair]
        if not all(levels):
            continue
        (first,), (second,) = levels
        try:
            found = transfer.from_cube(cube, (pair[0], first.value), (pair[1], second.value))
        except UsageError:  # fewer than three models
            continue
        if not np.isnan(found.tau):
            made.append(_figure(cube, pair, (first, second), found))
    return made


def _figure(
    cube: xr.DataTree, norms: tuple[str, str], levels: tuple[Reference, Reference], found: transfer.Transfer
) -> Figure:
    names = [words.norm_name(norm) for norm in norms]
    places = [f"{name} ε = {level.label}" for name, level in zip(names, levels, strict=True)]
    sides = [
        curves.from_cube(cube, norm, confidence(cube)).sel(epsilon=level.value, attack=WORST_CASE)
        for norm, level in zip(norms, levels, strict=True)
    ]
    rows = _rows(models(cube), sides)
    halves = (
        "τ-b between halves of the samples is the mean over random halvings; one norm's halves agree at "
        f"{_tau(found.ceiling_first)} under {names[0]} and {_tau(found.ceiling_second)} under {names[1]}."
    )
    return Figure(
        name=f"transfer-{norms[0]}-{norms[1]}",
        title=f"Robustness under {names[0]} and under {names[1]} attack",
        reading=(
            f"Each mark is a model with its worst-case accuracy at {places[0]} and at {places[1]}, bars are "
            "intervals: on a rising line the ranking carries over."
        ),
        description=(
            f"Scatter plot with intervals: accuracy of each model at {places[1]} over that at {places[0]}. "
            "The table beneath holds accuracies and ranks."
        ),
        spec=_spec(models(cube), places),
        data=Data(COLUMNS, rows),
        table=_table(rows, places),
        covers=(
            f"Bars are Wilson's intervals at {words.level(confidence(cube))} for each number alone. {halves} "
            f"The τ that weighs the top of the ranking more is {_tau(found.weighted)}. All of it covers the "
            f"choice of the {words.plural(found.samples, 'test sample')}, not of the models nor the strength "
            "of the attacks."
        ),
        finding=_finding(found, [escape(place) for place in places]),
    )


def _finding(found: transfer.Transfer, places: list[str]) -> str:
    """Return how far the ranking carries over and what the samples say of it for certain, as HTML."""
    low, high = found.bounds
    undecided = found.pairs - found.same - found.opposite
    tests = f"{2 * found.pairs:,} tests at {words.level(found.confidence)}"
    return (
        f"The rankings of {found.models} models at {places[0]} and {places[1]} agree with Kendall's τ-b = "
        f"{_tau(found.tau)}: of {words.plural(found.pairs, 'pair')} {found.same:,} certainly have the same "
        f"order under both, {found.opposite:,} opposite orders, and {undecided:,} are undecided (exact "
        f"McNemar, adjusted for {tests}, {words.plural(found.samples, 'sample')}, paired), so that the true "
        f"τ lies between {_tau(low)} and {_tau(high)}; between halves of the samples it is "
        f"{_tau(found.halves)}, where one true ranking under both would show about {_tau(found.ceiling)}."
    )


def _tau(value: float) -> str:
    return "not estimable" if np.isnan(value) else f"{value:.2f}".replace("-", "−")


def _rows(names: list[str], sides: list[xr.Dataset]) -> list[list[object]]:
    """Return the models complete under both norms, best under the first one first."""
    known = [name for name in names if not any(np.isnan(side["accuracy"].sel(model=name)) for side in sides)]
    at = [side.sel(model=known) for side in sides]
    ranks = [stats.rankdata(-side["accuracy"].values) for side in at]
    order = np.argsort(ranks[0], kind="stable")
    rows: list[list[object]] = []
    for i in order:
        row: list[object] = [known[i]]
        for side, rank in zip(at, ranks, strict=True):
            row += [style.rounded(float(side[key][i])) for key in ("accuracy", "lower", "upper")]
            row.append(float(rank[i]))
        rows.append(row)
    return rows


def _spec(names: list[str], places: list[str]) -> dict[str, object]:
    chosen = style.base().transform_filter(style.CHOSEN)
    axis, scale = alt.Axis(format="%", tickCount=5), alt.Scale(domain=[0, 1])
    titles = [f"accuracy at {place}" for place in places]
    x = alt.X("first:Q", axis=axis, scale=scale, title=titles[0])
    y = alt.Y("second:Q", axis=axis, scale=scale, title=titles[1])
    across = chosen.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
        x=alt.X("first_lower:Q", axis=axis, scale=scale, title=titles[0]),
        x2="first_upper:Q",
        y=y,
        color=style.colour(names),
    )
    upright = chosen.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
        x=x,
        y=alt.Y("second_lower:Q", axis=axis, scale=scale, title=titles[1]),
        y2="second_upper:Q",
        color=style.colour(names),
    )
    point = chosen.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        y=y,
        color=style.colour(names),
        shape=style.shape(names),
        tooltip=[
            alt.Tooltip("model:N"),
            *(
                alt.Tooltip(f"{key}:Q", format=".1%", title=place)
                for key, place in zip(("first", "second"), places, strict=True)
            ),
        ],
    )
    return style.finish(alt.layer(across, upright, point), height=340)


def _table(rows: list[list[object]], places: list[str]) -> str:
    cells: list[list[str | Cell]] = []
    for row in rows:
        numbers = [float(str(value)) for value in row[1:]]
        cells.append([str(row[0])])
        for share, lower, upper, rank in (numbers[:4], numbers[4:]):
            cells[-1] += [
                Cell(words.percent(share), (words.interval(lower, upper),)),
                Cell(words.number(rank)),
            ]
    header = ["model", *(text for place in places for text in (place, "rank"))]
    return html_table(header, cells, "Worst-case accuracies and ranks (equal ones share their mean rank)")
