"""The stages of cascades: accuracy after each, what it took away, and its minutes."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from metaeval.analysis import stages
from metaeval.analysis.reading import Reference, imported, models, norms, references
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each cascade and reference epsilon; none in a cube without a cascade."""
    return [
        _figure(cube, norm, name, reference, number)
        for norm in norms(cube)
        if (name := stages.cascade(cube, norm))
        for number, reference in enumerate(references(cube, norm))
    ]


def _figure(cube: xr.DataTree, norm: str, name: str, reference: Reference, number: int) -> Figure:
    frame = stages.at_epsilon(cube, norm, reference.value)
    where = f"{words.norm_name(norm)} ε = {reference.label}"
    rows = [
        [model, stage, *(style.rounded(value) for value in values)]
        for model, stage, *values in frame.itertuples(index=False, name=None)
    ]
    known = bool(frame.loc[frame["stage"] != stages.CLEAN, "accuracy"].notna().any())
    return Figure(
        name=f"cascade-{norm}-{number}",
        title=f"The stages of {name} at {where}",
        reading=(
            "Each stage attacks only the samples that every stage before it left unbroken, so a stage's drop "
            "is what it adds to those before it and not how strong it is alone."
        ),
        description=(
            f"Line chart: accuracy of each model at {where} after each stage of {name}, from the clean "
            "accuracy down. The table beneath adds the drop and the minutes of each stage."
        ),
        spec=_spec(cube, frame) if known else None,
        data=Data(stages.COLUMNS, rows),
        table=_table(
            frame,
            f"Accuracy after each stage of {name} at {where}; minutes are "
            + ("as published" if imported(cube) else "this ε's share of a search that serves all ε at once"),
        ),
        open_table=True,
    )


def _spec(cube: xr.DataTree, frame: pd.DataFrame) -> dict[str, object]:
    chart = (
        style.base()
        .transform_filter(f"{style.CHOSEN} && isValid(datum.accuracy)")
        .mark_line(point=True)
        .encode(
            x=alt.X("stage:N", sort=list(dict.fromkeys(frame["stage"])), title="after the stage"),
            y=alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format="%")),
            color=style.colour(models(cube)),
            tooltip=[
                "model:N",
                "stage:N",
                alt.Tooltip("accuracy:Q", format=".1%"),
                alt.Tooltip("delta:Q", format=".1%", title="change"),
            ],
        )
    )
    return style.finish(chart, height=260)


def _table(frame: pd.DataFrame, caption: str) -> str:
    rows: list[list[str | Cell]] = []
    for model, stage, accuracy, delta, seconds in frame.itertuples(index=False, name=None):
        clean = stage == stages.CLEAN
        missing = "missing" if np.isnan(accuracy) else "number"
        rows.append(
            [
                str(model),
                str(stage),
                Cell(words.percent(accuracy), kind=missing),
                Cell("" if clean else _change(delta), kind="text" if clean else missing),
                Cell("" if clean else _minutes(seconds), kind="text" if clean else missing),
            ]
        )
    return html_table(["model", "after", "accuracy", "change", "minutes"], rows, caption)


def _change(delta: float) -> str:
    return words.NOT_AVAILABLE if np.isnan(delta) else words.points(delta)


def _minutes(seconds: float) -> str:
    return words.number(seconds / 60)
