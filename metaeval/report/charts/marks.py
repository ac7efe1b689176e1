"""Marks that several charts draw alike: points of models with their intervals."""

from __future__ import annotations

from typing import NamedTuple

import altair as alt

from metaeval.report.charts import style


class Place(NamedTuple):
    """The horizontal axis of a chart."""

    axis: alt.Axis
    scale: alt.Scale
    title: str


def with_intervals(
    chosen: alt.Chart,
    names: list[str],
    key: str,
    x: Place,
    y: alt.Y,
    offset: alt.YOffset,
    tooltips: list[alt.Tooltip],
    form: str,
) -> tuple[alt.Chart, alt.Chart]:
    """Return intervals and points of models, told apart by colour and shape."""
    rule = chosen.mark_rule(strokeWidth=2).encode(
        x=alt.X("lower:Q", axis=x.axis, scale=x.scale, title=x.title),
        x2="upper:Q",
        y=y,
        yOffset=offset,
        color=style.colour(names),
    )
    point = chosen.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X(f"{key}:Q", axis=x.axis, scale=x.scale, title=x.title),
        y=y,
        yOffset=offset,
        color=style.colour(names),
        shape=style.shape(names),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("shift:N"),
            *tooltips,
            alt.Tooltip(f"{key}:Q", format=form),
            alt.Tooltip("lower:Q", format=form),
            alt.Tooltip("upper:Q", format=form),
        ],
    )
    return rule, point
