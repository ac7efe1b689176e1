"""Robustness curves: accuracy over epsilon, one figure a norm."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import curves
from metaeval.analysis.reading import confidence, coordinate, counted_norms, models, status
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

COLUMNS = (
    "model",
    "attack",
    "epsilon",
    "epsilon_label",
    "accuracy",
    "lower",
    "upper",
    "correct",
    "samples",
    "inferred",
    "status",
    "reason",
)


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each norm."""
    return [_figure(cube, norm) for norm in counted_norms(cube)]


def _figure(cube: xr.DataTree, norm: str) -> Figure:
    face = curves.from_cube(cube, norm, confidence(cube))
    state = status(cube, norm)
    labels = coordinate(cube, norm, "epsilon_label")
    data = _rows(face, state, labels)
    drawable = any(row[4] is not None for row in data.rows)
    name = words.norm_name(norm)
    samples = words.plural(int(face["total"]), "test sample")
    return Figure(
        name=f"curves-{norm}",
        title=f"Accuracy as the {name} budget grows",
        reading=(
            f"Each line is a model: the share of {samples} that no attack found so far can break with a "
            f"perturbation of {name} size ε; higher is more robust, and marks stand where ε was evaluated "
            "(between them the line only guides the eye)."
        ),
        description=(
            f"Line chart of accuracy in percent over epsilon in the {name} norm for each model under the "
            "worst case over all attacks or single attacks, with interval bands. The table beneath holds "
            "the numbers."
        ),
        spec=_spec(cube, norm, labels) if drawable else None,
        data=data,
        table=_table(face, state, labels, name),
        covers=style.COVERS.format(level=words.level(confidence(cube)), samples=samples),
    )


def _rows(face: xr.Dataset, state: xr.Dataset, labels: list[str]) -> Data:
    rows: list[list[object]] = []
    total = int(face["total"])
    epsilons = face["epsilon"].values
    values = {
        k: face[k].transpose("model", "attack", "epsilon").values
        for k in ("accuracy", "lower", "upper", "correct", "inferred")
    }
    for i, model in enumerate(face["model"].values):
        for j, attack in enumerate(face["attack"].values):
            at = state.sel(model=model, attack=attack)
            word, reason = str(at["status"].item()), str(at["reason"].item())
            for k, label in enumerate(labels):
                numbers = {key: style.rounded(value[i, j, k]) for key, value in values.items()}
                rows.append(
                    [
                        str(model),
                        str(attack),
                        float(epsilons[k]),
                        label,
                        numbers["accuracy"],
                        numbers["lower"],
                        numbers["upper"],
                        numbers["correct"],
                        total,
                        numbers["inferred"],
                        word,
                        reason,
                    ]
                )
    return Data(COLUMNS, rows)


def _spec(cube: xr.DataTree, norm: str, labels: list[str]) -> dict[str, object]:
    names, attacks = models(cube), coordinate(cube, norm, "attack")
    axis = alt.Axis(
        format="",
        labelExpr=style.epsilon_label_expression(labels),
        values=[float(value) for value in cube.children[norm].coords["epsilon"].values],
        labelOverlap="greedy",
        grid=False,
    )
    largest = float(cube.children[norm].coords["epsilon"].values.max())
    span = alt.Scale(domain=[0, largest or 1], nice=False)
    x = alt.X("epsilon:Q", axis=axis, scale=span, title=f"perturbation size ε ({words.norm_name(norm)})")
    accuracy = alt.Axis(format="%", tickCount=5)
    scale = alt.Scale(domain=[0, 1])
    chosen = style.base().transform_filter(f"{style.CHOSEN_ATTACKS} && isValid(datum.accuracy)")
    band = (
        chosen.transform_filter("bands")
        .mark_area(opacity=0.14, tooltip=None)
        .encode(
            x=x,
            y=alt.Y("lower:Q", axis=accuracy, scale=scale, title="accuracy"),
            y2="upper:Q",
            color=style.colour(names),
            detail="attack:N",
        )
    )
    y = alt.Y("accuracy:Q", axis=accuracy, scale=scale, title="accuracy")
    line = chosen.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=style.colour(names), strokeDash=style.dashes(attacks)
    )
    point = chosen.mark_point(filled=True, size=55, opacity=1).encode(
        x=x,
        y=y,
        color=style.colour(names),
        shape=style.shape(names),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("attack:N"),
            alt.Tooltip("epsilon_label:N", title="ε"),
            alt.Tooltip("accuracy:Q", format=".1%"),
            alt.Tooltip("lower:Q", format=".1%"),
            alt.Tooltip("upper:Q", format=".1%"),
        ],
    )
    return style.finish(alt.layer(band, line, point), height=340)


def _table(face: xr.Dataset, state: xr.Dataset, labels: list[str], name: str) -> str:
    """Return models by epsilons for the worst case; single attacks are in the CSV."""
    attack = str(face["attack"].values[0])
    at = face.sel(attack=attack).transpose("model", "epsilon")
    rows: list[list[str | Cell]] = []
    for i, model in enumerate(at["model"].values):
        why = state.sel(model=model, attack=attack)
        cells: list[str | Cell] = [str(model)]
        for k in range(len(labels)):
            share = float(at["accuracy"].values[i, k])
            if np.isnan(share):
                reason = words.absence(str(why["status"].item()), str(why["reason"].item()))
                cells.append(Cell(words.NOT_AVAILABLE, (reason,), "missing"))
            else:
                ends = words.interval(float(at["lower"].values[i, k]), float(at["upper"].values[i, k]))
                cells.append(Cell(words.percent(share), (ends,)))
        rows.append(cells)
    caption = f"Accuracy under the {attack} row of {name}, by ε; single attacks are in the CSV file"
    return html_table(["model", *(f"ε = {label}" for label in labels)], rows, caption)
