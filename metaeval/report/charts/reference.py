"""Accuracy at each reference epsilon: intervals per model, and the table of models by attacks."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import curves, tables
from metaeval.analysis.reading import (
    WORST_CASE,
    Reference,
    confidence,
    coordinate,
    models,
    norms,
    references,
    sampled_norms,
)
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

COLUMNS = (
    "model",
    "attack",
    "accuracy",
    "lower",
    "upper",
    "clean",
    "inferred",
    "broken_by_no_other",
    "samples",
    "status",
    "reason",
    "reduced",
)


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each norm and reference epsilon; clean accuracies if there is no attack."""
    made = [
        _figure(cube, norm, reference, number)
        for norm in sampled_norms(cube)
        for number, reference in enumerate(references(cube, norm))
    ]
    return made or ([] if norms(cube) else _clean(cube))


def _figure(cube: xr.DataTree, norm: str, reference: Reference, number: int) -> Figure:
    at = tables.at_epsilon(cube, norm, reference.value, confidence(cube)).transpose("model", "attack")
    reduced = dict(zip(coordinate(cube, norm, "attack"), coordinate(cube, norm, "reduced"), strict=False))
    data = _rows(cube, reduced, at)
    name, samples = words.norm_name(norm), int(at["total"])
    inexact = "" if reference.chosen else " (the study names no reference for this norm; a middle one)"
    return Figure(
        name=f"reference-{norm}-{number}",
        title=f"Accuracy at {name} ε = {reference.label}{inexact}",
        reading=(
            "Each mark is the share of test samples still classified correctly, its bar the interval; the "
            "grey tick is the clean accuracy, and the worst case counts a sample as broken if any attack "
            "breaks it."
        ),
        description=(
            f"Dot plot with intervals: accuracy of each model at {name} epsilon {reference.label}, best "
            "first, beside its clean accuracy. The table beneath holds the numbers of every attack."
        ),
        spec=_spec(cube, norm, at) if any(row[2] is not None for row in data.rows) else None,
        data=data,
        table=_table(at, reduced, f"Accuracy at {name} ε = {reference.label} by model and attack"),
        covers=style.COVERS.format(
            level=words.level(confidence(cube)), samples=words.plural(samples, "test sample")
        ),
        open_table=True,
    )


def _rows(cube: xr.DataTree, reduced: dict[str, str], at: xr.Dataset) -> Data:
    clean = _clean_accuracy(cube)
    rows: list[list[object]] = []
    for i, model in enumerate(str(name) for name in at["model"].values):
        for j, attack in enumerate(str(name) for name in at["attack"].values):
            numbers = {
                key: style.rounded(float(at[key].values[i, j]))
                for key in ("accuracy", "lower", "upper", "inferred", "alone")
            }
            rows.append(
                [
                    model,
                    attack,
                    numbers["accuracy"],
                    numbers["lower"],
                    numbers["upper"],
                    style.rounded(clean.get(model, float("nan"))),
                    numbers["inferred"],
                    numbers["alone"],
                    int(at["total"]),
                    str(at["status"].values[i, j]),
                    str(at["reason"].values[i, j]),
                    reduced.get(attack, ""),
                ]
            )
    return Data(COLUMNS, rows)


def _clean_accuracy(cube: xr.DataTree) -> dict[str, float]:
    if "clean" not in cube.children:
        return {}
    face = curves.clean_from_cube(cube)
    return {str(name): float(face["accuracy"].sel(model=name)) for name in face["model"].values}


def _spec(cube: xr.DataTree, norm: str, at: xr.Dataset) -> dict[str, object]:
    names, attacks = models(cube), coordinate(cube, norm, "attack")
    y = style.model_axis([str(at["model"].values[i]) for i in _order(at)])
    offset = alt.YOffset("attack:N", sort=attacks, scale=alt.Scale(domain={"expr": "attacks"}))
    axis = alt.Axis(format="%", tickCount=5)
    scale = alt.Scale(domain=[0, 1])
    chosen = style.base().transform_filter(f"{style.CHOSEN_ATTACKS} && isValid(datum.accuracy)")
    absent = (
        style.base()
        .transform_filter(f"{style.CHOSEN_ATTACKS} && !isValid(datum.accuracy)")
        .mark_text(align="left", dx=4, fontStyle="italic", color={"expr": "muted"})
        .encode(
            x=alt.XDatum(0, scale=scale, axis=axis, title="accuracy"), y=y, yOffset=offset, text="status:N"
        )
    )
    tick = chosen.mark_tick(thickness=2, size=16, color={"expr": "muted"}, opacity=0.9).encode(
        x=alt.X("clean:Q", axis=axis, scale=scale, title="accuracy"), y=y
    )
    rule = chosen.mark_rule(strokeWidth=2).encode(
        x=alt.X("lower:Q", axis=axis, scale=scale, title="accuracy"),
        x2="upper:Q",
        y=y,
        yOffset=offset,
        color=style.colour(names),
        strokeDash=style.dashes(attacks),
    )
    point = chosen.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("accuracy:Q", axis=axis, scale=scale, title="accuracy"),
        y=y,
        yOffset=offset,
        color=style.colour(names),
        shape=style.shape(names),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("attack:N"),
            alt.Tooltip("accuracy:Q", format=".1%"),
            alt.Tooltip("lower:Q", format=".1%"),
            alt.Tooltip("upper:Q", format=".1%"),
            alt.Tooltip("clean:Q", format=".1%", title="clean accuracy"),
        ],
    )
    return style.finish(alt.layer(tick, rule, point, absent), height=alt.Step(26, **{"for": "position"}))


def _table(at: xr.Dataset, reduced: dict[str, str], caption: str) -> str:
    attacks = [str(name) for name in at["attack"].values]
    rows: list[list[str | Cell]] = []
    for i in _order(at):
        model = str(at["model"].values[i])
        rows.append([model, *(_cell(at.isel(model=i, attack=j)) for j in range(len(attacks)))])
    header = [f"{name} (reduced)" if reduced.get(name) else name for name in attacks]
    return html_table(["model", *header], rows, caption)


def _order(at: xr.Dataset) -> list[int]:
    """Return the models' positions, highest worst-case accuracy first, those without one last."""
    accuracy = at["accuracy"].sel(attack=WORST_CASE).values
    return [int(i) for i in np.argsort(-np.nan_to_num(accuracy, nan=-1.0), kind="stable")]


def _cell(at: xr.Dataset) -> Cell:
    share, state, reason = float(at["accuracy"]), str(at["status"].item()), str(at["reason"].item())
    if np.isnan(share):
        kind = "failed" if state == "failed" else "missing"
        return Cell(state if state != "ok" else words.NOT_AVAILABLE, (reason,), kind)
    notes = [words.interval(float(at["lower"]), float(at["upper"]))]
    if float(at["inferred"]) > 0:
        notes.append(f"{words.percent(float(at['inferred']))} inferred")
    if float(at["alone"]) > 0:
        notes.append(f"{int(at['alone']):,} broken by it alone")
    return Cell(words.percent(share), tuple(notes))


def _clean(cube: xr.DataTree) -> list[Figure]:
    """Return the clean accuracies, for a study without attacks."""
    if "clean" not in cube.children or not models(cube) or (cube.children["clean"]["total"] < 0).any():
        return []
    face = curves.clean_from_cube(cube, confidence(cube))
    names = models(cube)
    rows: list[list[object]] = []
    cells: list[list[str | Cell]] = []
    for model in names:
        at = face.sel(model=model)
        share, lower, upper = (float(at[key]) for key in ("accuracy", "lower", "upper"))
        rows.append([model, *map(style.rounded, (share, lower, upper)), int(face["total"])])
        known = not np.isnan(share)
        note = words.interval(lower, upper) if known else "pending"
        cells.append([model, Cell(words.percent(share), (note,), "number" if known else "missing")])
    x = alt.X("accuracy:Q", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    chosen = style.base().transform_filter(f"{style.CHOSEN} && isValid(datum.accuracy)")
    rule = chosen.mark_rule(strokeWidth=2).encode(
        x=alt.X("lower:Q", title="accuracy"),
        x2="upper:Q",
        y=style.model_axis(names),
        color=style.colour(names),
    )
    point = chosen.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=style.model_axis(names), color=style.colour(names), shape=style.shape(names)
    )
    drawable = any(row[1] is not None for row in rows)
    return [
        Figure(
            name="clean",
            title="Clean accuracy",
            reading=(
                "Each mark is the share of unperturbed test samples classified correctly, its bar the "
                "interval."
            ),
            description="Dot plot with intervals of the clean accuracy of each model.",
            spec=style.finish(alt.layer(rule, point), height=alt.Step(26)) if drawable else None,
            data=Data(("model", "accuracy", "lower", "upper", "samples"), rows),
            table=html_table(["model", "clean accuracy"], cells, "Clean accuracy by model"),
            covers=style.COVERS.format(
                level=words.level(confidence(cube)), samples=words.plural(int(face["total"]), "test sample")
            ),
            open_table=True,
        )
    ]
