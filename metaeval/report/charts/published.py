"""Published accuracies of many models: clean against robust accuracy, parameters against time."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from metaeval.analysis import published
from metaeval.analysis.reading import confidence
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

NAMES = {
    "best_known_accuracy": "best known robust accuracy",
    "autoattack_accuracy": "accuracy under AutoAttack",
    "external_accuracy": "lowest accuracy found by others",
    "reported_accuracy": "accuracy that its authors report",
    "corruptions_accuracy": "accuracy under corruptions",
    "corruptions_3d_accuracy": "accuracy under 3D corruptions",
    "clean_accuracy": "clean accuracy",
}
WITHOUT_EPSILON = ("corruptions_accuracy", "corruptions_3d_accuracy")
"""Accuracies that are under no attack: the epsilon of a model is that of its training."""
COVERS = (
    "The interval of a rank correlation is a jackknife over families of models at {level}: it covers which "
    "families there are, not the test samples, and not the strength of the attacks."
)


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return clean against robust accuracy, and parameters against minutes, where they are published."""
    frame = published.accuracies(cube)
    named = [name for name in published.ROBUST if name in frame and frame[name].notna().any()]
    made = [_scatter(cube, frame, name) for name in named]
    costs = published.cost_of_parameters(cube)
    return [*made, *([_parameters(cube, costs)] if not costs.empty else [])]


def correlation_sentence(found: dict[str, float], level: str) -> str:
    """Return a rank correlation with its interval, numbers and what it rests on."""
    rho, lower, upper = found["spearman"], found["lower"], found["upper"]
    entries = words.plural(int(found["models"]), "model")
    families = f"{int(found['families'])} families"
    if np.isnan(rho):
        return f"the rank correlation is not estimable ({entries})"
    if np.isnan(lower):
        return f"Spearman's ρ = {rho:.2f} ({entries}, {families}: too few for an interval, not estimable)"
    interval = f"{level} family jackknife {lower:.2f} to {upper:.2f}"
    return f"Spearman's ρ = {rho:.2f} ({interval}; {entries}, {families})"


def _scatter(cube: xr.DataTree, frame: pd.DataFrame, name: str) -> Figure:
    level = words.level(confidence(cube))
    found = published.rank_correlation(
        frame["clean_accuracy"], frame[name], frame["family"], confidence(cube)
    )
    others = [key for key in NAMES if key in frame and key not in (name, "clean_accuracy")]
    keys = ["clean_accuracy", name, *others]
    columns = ("model", "family", "epsilon", *keys)
    order = frame.sort_values(name, ascending=False, kind="stable", na_position="last")
    rows = [
        [row["model"], row["family"], row["epsilon"], *(style.rounded(float(row[key])) for key in keys)]
        for _, row in order.iterrows()
    ]
    drawn = frame[["clean_accuracy", name]].notna().all(axis=1)
    axis = alt.Axis(format="%", tickCount=6)
    several = name not in WITHOUT_EPSILON and frame.loc[drawn, "epsilon"].nunique() > 1
    chart = (
        style.base()
        .transform_filter(f"isValid(datum.clean_accuracy) && isValid(datum.{name})")
        .mark_point(filled=True, size=60, opacity=0.8, color=style.COLOURS[0])
        .encode(
            x=alt.X("clean_accuracy:Q", axis=axis, scale=alt.Scale(zero=False), title="clean accuracy"),
            y=alt.Y(f"{name}:Q", axis=axis, scale=alt.Scale(zero=False), title=NAMES[name]),
            tooltip=[
                "model:N",
                alt.Tooltip("family:N", title="paper"),
                alt.Tooltip("epsilon:N", title="ε"),
                *(alt.Tooltip(f"{key}:Q", format=".2%", title=NAMES[key]) for key in keys),
            ],
        )
    )
    if several:
        chart = chart.encode(
            shape=alt.Shape("epsilon:N", title="ε", scale=alt.Scale(range=list(style.SHAPES))),
            color=alt.Color("epsilon:N", title="ε", scale=alt.Scale(range=list(style.COLOURS))),
        )
    mixed = " Models of different ε are not under the same attack: marks tell them apart." if several else ""
    return Figure(
        name=f"published-{name.replace('_', '-')}",
        title=f"Clean accuracy and {NAMES[name]}",
        reading=(
            "Each mark is a model with its two published accuracies; "
            f"{correlation_sentence(found, level)}.{mixed}"
        ),
        description=f"Scatter plot of {NAMES[name]} over clean accuracy, one mark a model.",
        spec=style.finish(chart, height=360) if drawn.any() else None,
        data=Data(columns, rows),
        table=_table(order, keys),
        covers=COVERS.format(level=level),
    )


def _table(frame: pd.DataFrame, keys: list[str]) -> str:
    rows: list[list[str | Cell]] = []
    for _, row in frame.iterrows():
        cells = [
            Cell(words.NOT_AVAILABLE, kind="missing") if np.isnan(row[key]) else Cell(f"{100 * row[key]:.2f}")
            for key in keys
        ]
        rows.append([str(row["model"]), Cell(str(row["epsilon"]), kind="text"), *cells])
    header = ["model", "ε", *(f"{NAMES[key]} (%)" for key in keys)]
    return html_table(header, rows, "Published accuracies, as printed")


def _parameters(cube: xr.DataTree, costs: pd.DataFrame) -> Figure:
    level = words.level(confidence(cube))
    time = published.rank_correlation(costs["parameters"], costs["minutes"], None, confidence(cube))
    accuracy = published.rank_correlation(costs["parameters"], costs["accuracy"], None, confidence(cube))
    rows = [
        [row["model"], *(style.rounded(float(row[key])) for key in ("parameters", "minutes", "accuracy"))]
        for _, row in costs.iterrows()
    ]
    known = costs[["parameters", "minutes"]].notna().all(axis=1)
    chart = (
        style.base()
        .transform_filter(f"{style.CHOSEN} && isValid(datum.minutes) && isValid(datum.parameters)")
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=alt.X("parameters:Q", title="parameters", axis=alt.Axis(format="~s", tickCount=6)),
            y=alt.Y("minutes:Q", title="minutes of all stages"),
            color=style.colour([str(name) for name in costs["model"]]),
            shape=style.shape([str(name) for name in costs["model"]]),
            tooltip=[
                "model:N",
                alt.Tooltip("parameters:Q", format=".3~s"),
                alt.Tooltip("minutes:Q"),
                alt.Tooltip("accuracy:Q", format=".1%", title="accuracy after the last stage"),
            ],
        )
    )
    table: list[list[str | Cell]] = [
        [
            str(row["model"]),
            Cell(words.number(float(row["parameters"]))),
            Cell(words.number(float(row["minutes"]))),
            Cell(words.percent(float(row["accuracy"]))),
        ]
        for _, row in costs.iterrows()
    ]
    return Figure(
        name="parameters",
        title="Parameters, time and robust accuracy",
        reading=(
            f"Each mark is a model. Parameters and minutes: {correlation_sentence(time, level)}; parameters "
            f"and accuracy after the last stage: {correlation_sentence(accuracy, level)}."
        ),
        description="Scatter plot of the minutes of all attack stages over the number of parameters.",
        spec=style.finish(chart, height=300) if known.any() else None,
        data=Data(("model", "parameters", "minutes", "accuracy"), rows),
        table=html_table(
            ["model", "parameters", "minutes", "accuracy after the last stage"],
            table,
            "Parameters and minutes",
        ),
        covers=COVERS.format(level=level) + " Every model is a family of its own.",
        open_table=True,
    )
