"""What the attacks cost: time and passes."""

from __future__ import annotations

import altair as alt
import xarray as xr

from metaeval.analysis import tables
from metaeval.analysis.reading import models
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure, or none where nothing was attacked."""
    costs = tables.costs(cube)
    if costs.empty:
        return []
    costs["column"] = [
        f"{words.norm_name(norm)} {attack}"
        for norm, attack in zip(costs["norm"], costs["attack"], strict=True)
    ]
    known = costs.dropna(subset=["seconds"])
    columns = ("model", "norm", "attack", "column", "stage", "seconds", "forwards", "backwards")
    rows = [
        [*row[:5], *(style.rounded(value, 3) for value in row[5:])]
        for row in costs[list(columns)].itertuples(index=False, name=None)
    ]
    order = list(dict.fromkeys(costs["column"]))
    names = models(cube)
    chart = (
        style.base()
        .transform_filter(f"{style.CHOSEN} && isValid(datum.seconds)")
        .mark_bar()
        .encode(
            x=alt.X("sum(seconds):Q", title="seconds", axis=alt.Axis(format="~s", tickCount=6)),
            y=alt.Y("column:N", sort=order, title=None),
            color=style.colour(names),
            tooltip=[
                "model:N",
                "column:N",
                alt.Tooltip("sum(seconds):Q", format=".3~s", title="seconds"),
            ],
        )
    )
    total = float(known["seconds"].sum())
    return [
        Figure(
            name="cost",
            title="What the attacks cost",
            reading=(
                "Each bar is the time that an attack and the verification of its claims took, divided by "
                f"model (those checked in the legend); all together {words.duration(total)} of computing."
            ),
            description=(
                "Bar chart of seconds by norm and attack, divided by model. The table beneath adds passes."
            ),
            spec=style.finish(chart, height=alt.Step(24)) if not known.empty else None,
            data=Data(columns, rows),
            table=_table(costs, order),
        )
    ]


def _table(costs: object, order: list[str]) -> str:
    rows: list[list[str | Cell]] = []
    groups = costs.groupby(["column", "stage"], sort=False)  # type: ignore[attr-defined]
    sums = groups[["seconds", "forwards", "backwards"]].sum(min_count=1)
    for column in order:
        for stage in sums.loc[column].index:
            seconds, forwards, backwards = sums.loc[(column, stage)]
            rows.append(
                [
                    column,
                    str(stage),
                    Cell(words.duration(seconds)),
                    Cell(words.number(forwards)),
                    Cell(words.number(backwards)),
                ]
            )
    header = ["attack", "stage", "time", "forward passes", "backward passes"]
    return html_table(header, rows, "Cost of each attack, all models together")
