"""Accuracy per class and epsilon: one heat map a model."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import classes
from metaeval.analysis.reading import WORST_CASE, confidence, coordinate, counted_norms, references, status
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

SHOWN_CLASSES = 30
"""With more classes than this the heat maps show those with the lowest accuracy."""
MOST_ROWS = 50_000
"""With more rows than this the page would become slow; single attacks are then left to the cube."""

COLUMNS = ("model", "class", "attack", "epsilon_label", "accuracy", "lower", "upper", "samples", "status")


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each norm."""
    return [_figure(cube, norm) for norm in counted_norms(cube)]


def _figure(cube: xr.DataTree, norm: str) -> Figure:
    face = classes.from_cube(cube, norm, confidence(cube))
    labels = coordinate(cube, norm, "epsilon_label")
    face, left_out = _hardest(cube, norm, face)
    many = face["accuracy"].size > MOST_ROWS
    if many:
        face = face.sel(attack=[WORST_CASE])
    data = _rows(face, status(cube, norm).sel(attack=face["attack"].values), labels)
    order = [str(name) for name in face["class"].values]
    which = (
        "the worst case (single attacks are in the cube)"
        if many
        else "the first attack checked in the legend"
    )
    name, sizes = words.norm_name(norm), face["total"].values
    few = f"{int(sizes.min())}" if sizes.min() == sizes.max() else f"{int(sizes.min())} to {int(sizes.max())}"
    shown = (
        f" The {len(order)} classes with the lowest accuracy of {left_out + len(order)}." if left_out else ""
    )
    return Figure(
        name=f"classes-{norm}",
        title=f"Accuracy per class under {name} attack",
        reading=(
            "Each cell is the share of one class's test samples that a model still gets right at ε, in "
            "percent: dark is low, bright is high, dashed boxes without a number are "
            f"{words.NOT_AVAILABLE}; maps show {which}.{shown}"
        ),
        description=(
            f"Heat maps of accuracy by class and {name} epsilon, one for each model, under the first attack "
            "chosen in the legend. The table beneath holds the numbers at the reference epsilon."
        ),
        spec=_spec(order, labels, many) if any(row[4] is not None for row in data.rows) else None,
        data=data,
        table=_table(cube, norm, face),
        covers=(
            style.COVERS.format(
                level=words.level(confidence(cube)), samples=f"test samples ({few} per class)"
            )
            + " Classes of equal difficulty differ too: compare ranges with what chance alone would show."
        ),
        panels="model",
    )


def _hardest(cube: xr.DataTree, norm: str, face: xr.Dataset) -> tuple[xr.Dataset, int]:
    """Return the face with its classes ordered, few enough to read, and how many were left out."""
    count = face.sizes["class"]
    if count <= SHOWN_CLASSES:
        return face, 0
    at = references(cube, norm)[0].value if references(cube, norm) else face["epsilon"].values[-1]
    mean = face["accuracy"].sel(epsilon=at, attack=WORST_CASE).mean("model").values
    keep = np.sort(np.argsort(np.nan_to_num(mean, nan=2.0), kind="stable")[:SHOWN_CLASSES])
    return face.isel({"class": keep}), count - SHOWN_CLASSES


def _rows(face: xr.Dataset, state: xr.Dataset, labels: list[str]) -> Data:
    dims = ("model", "class", "attack", "epsilon")
    numbers = np.stack([face[key].transpose(*dims).values for key in ("accuracy", "lower", "upper")])
    totals = face["total"].values
    models, names, attacks = ([str(name) for name in face[dim].values] for dim in dims[:3])
    words_of = state["status"].transpose("model", "attack").values
    rows: list[list[object]] = []
    for i, j, k, m in np.ndindex(numbers.shape[1:]):
        shares = (style.rounded(value, 4) for value in numbers[:, i, j, k, m].tolist())
        rows.append(
            [models[i], names[j], attacks[k], labels[m], *shares, int(totals[j]), str(words_of[i, k])]
        )
    return Data(COLUMNS, rows)


def _spec(order: list[str], labels: list[str], many: bool) -> dict[str, object]:
    # A heat map has room for one attack: the first that is checked.
    row = json.dumps(WORST_CASE) if many else "attacks[0]"
    chosen = style.base().transform_filter(f"{style.CHOSEN} && datum.attack == {row}")
    x = alt.X("epsilon_label:O", sort=labels, title="ε", axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
    y = alt.Y("class:N", sort=order, title=None)
    fill = alt.Color(
        "accuracy:Q",
        scale=alt.Scale(scheme="cividis", domain=[0, 1]),
        legend=None,
    )
    tooltip = [
        alt.Tooltip("class:N"),
        alt.Tooltip("attack:N"),
        alt.Tooltip("epsilon_label:N", title="ε"),
        alt.Tooltip("accuracy:Q", format=".1%"),
        alt.Tooltip("lower:Q", format=".1%"),
        alt.Tooltip("upper:Q", format=".1%"),
        alt.Tooltip("samples:Q"),
        alt.Tooltip("status:N"),
    ]
    known = chosen.transform_filter("isValid(datum.accuracy)")
    missing = chosen.transform_filter("!isValid(datum.accuracy)")
    cells = known.mark_rect().encode(x=x, y=y, color=fill, tooltip=tooltip)
    holes = missing.mark_rect(
        fill={"expr": "paper"}, stroke={"expr": "muted"}, strokeWidth=0.5, strokeDash=[2, 2]
    ).encode(x=x, y=y, tooltip=tooltip)
    numbers = known.mark_text(
        fontSize=10, opacity={"expr": "bandwidth('x') >= 19 ? 1 : 0"}, tooltip=None
    ).encode(
        x=x,
        y=y,
        text=alt.Text("percent:N"),
        color=alt.condition("datum.accuracy < 0.55", alt.value("#fff"), alt.value("#111")),
    )
    numbers = numbers.transform_calculate(percent="format(100 * datum.accuracy, '.0f')")
    # One word says why a whole map is empty.
    corner = f"datum.class == {json.dumps(order[0])} && datum.epsilon_label == {json.dumps(labels[0])}"
    why = (
        missing.transform_filter(f"{corner} && datum.status != 'ok'")
        .mark_text(align="left", fontStyle="italic", color={"expr": "muted"}, tooltip=None)
        .encode(x=x, y=y, text="status:N")
    )
    return style.finish(alt.layer(cells, holes, numbers, why), height=alt.Step(20))


def _table(cube: xr.DataTree, norm: str, face: xr.Dataset) -> str:
    """Return models by classes at the first reference epsilon, worst case."""
    reference = references(cube, norm)
    if reference:
        epsilon, label = reference[0].value, reference[0].label
    else:
        epsilon, label = float(face["epsilon"].values[-1]), str(face["epsilon_label"].values[-1])
    at = face.sel(epsilon=epsilon, attack=WORST_CASE).transpose("model", "class")
    rows: list[list[str | Cell]] = []
    for i, model in enumerate(at["model"].values):
        cells: list[str | Cell] = [str(model)]
        for j in range(at.sizes["class"]):
            share, lower, upper = (float(at[key].values[i, j]) for key in ("accuracy", "lower", "upper"))
            known = not np.isnan(share)
            note = "as printed" if np.isnan(lower) else words.interval(lower, upper)
            note = note if known else ""
            cells.append(Cell(words.percent(share), (note,), "number" if known else "missing"))
        rows.append(cells)
    names = [f"{name} ({int(n):,})" for name, n in zip(at["class"].values, at["total"].values, strict=True)]
    caption = (
        f"Worst-case accuracy at ε = {label} by class (samples in brackets); other ε are in the CSV file"
    )
    return html_table(["model", *names], rows, caption)
