"""Classes of imported results: clean accuracy per class, and drops of printed accuracies."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import classes, curves, published
from metaeval.analysis.reading import confidence, coordinate, imported, norm_dataset, norms
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

SHOWN_CLASSES = 30


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return what imported results with classes support; nothing for a cube that a run has filled."""
    if imported(cube) is None:
        return []
    made = (
        [_clean(cube, face)] if (face := published.class_accuracy(cube, confidence(cube))) is not None else []
    )
    return made + [
        _drops(cube, norm, found) for norm in norms(cube) if (found := published.drops(cube, norm))
    ]


def _clean(cube: xr.DataTree, face: xr.Dataset) -> Figure:
    names = [str(name) for name in face["model"].values]
    mean = face["accuracy"].mean("model").values
    keep = np.sort(np.argsort(np.nan_to_num(mean, nan=2.0), kind="stable")[:SHOWN_CLASSES])
    shown = face.isel({"class": keep})
    values = {key: face[key].values for key in ("accuracy", "lower", "upper")}
    labels, totals = [str(name) for name in face["class"].values], face["total"].values
    rows = [
        [names[i], labels[j], *(style.rounded(float(values[key][i, j])) for key in values), int(totals[j])]
        for i, j in np.ndindex(values["accuracy"].shape)
    ]
    x = alt.X("class:N", sort=[str(name) for name in shown["class"].values], axis=alt.Axis(labelAngle=0))
    fill = alt.Color("accuracy:Q", scale=alt.Scale(scheme="cividis", domain=[0, 1]), legend=None)
    chosen = style.base().transform_filter(f"{style.CHOSEN} && isValid(datum.accuracy)")
    if len(keep) < len(labels):
        chosen = chosen.transform_filter(
            alt.FieldOneOfPredicate(field="class", oneOf=[str(name) for name in shown["class"].values])
        )
    tip = ["model:N", "class:N", *(alt.Tooltip(f"{key}:Q", format=".1%") for key in values), "samples:Q"]
    cells = chosen.mark_rect().encode(x=x, y=style.model_axis(names), color=fill, tooltip=tip)
    marks = chosen.transform_calculate(percent="format(100 * datum.accuracy, '.0f')").mark_text(
        fontSize=10, opacity={"expr": "bandwidth('x') >= 19 ? 1 : 0"}, tooltip=None
    )
    marks = marks.encode(
        x=x,
        y=style.model_axis(names),
        text="percent:N",
        color=alt.condition("datum.accuracy < 0.55", alt.value("#fff"), alt.value("#111")),
    )
    table: list[list[str | Cell]] = [
        [names[i], *(_share(*(float(shown[key].values[i, j]) for key in values)) for j in range(len(keep)))]
        for i in range(len(names))
    ]
    header = [f"{labels[j]} ({int(totals[j]):,})" for j in keep]
    left = len(labels) - len(keep)
    return Figure(
        name="class-accuracy",
        title="Accuracy per class",
        reading="Each cell is the share of one class's test samples that a model gets right, in percent."
        + (f" The {len(keep)} classes with the lowest accuracy of {len(labels)}." if left else ""),
        description="Heat map of clean accuracy by model and class. The table beneath adds intervals.",
        spec=style.finish(alt.layer(cells, marks), height=alt.Step(20)) if np.isfinite(mean).any() else None,
        data=Data(("model", "class", *values, "samples"), rows),
        table=html_table(["model", *header], table, "Accuracy by class (samples in brackets)"),
        covers=f"Intervals are Wilson's at {words.level(confidence(cube))} for each number alone; they cover "
        f"the choice of the test samples. {_chance(face)}",
    )


def _chance(face: xr.Dataset) -> str:
    """Return how unequal the classes of the most accurate model are beside what chance would show."""
    known = face["accuracy"].notnull().all("class").values
    if not known.any():
        return ""
    correct = (face["accuracy"] * face["total"]).values
    best = int(np.argmax(np.where(known, correct.sum(axis=1), -1)))
    worst, top, observed, expected = classes.spread(np.rint(correct[best]), face["total"].values)
    if worst < 0:
        return ""
    names = [str(name) for name in face["class"].values]
    if observed == 0:
        return f"For {face['model'].values[best]} all classes have the same accuracy."
    return (
        f"For {face['model'].values[best]} classes {names[worst]} and {names[top]} differ by "
        f"{words.points(observed)}; classes of equal difficulty would show about {words.points(expected)} "
        "by "
        "chance."
    )


def _share(accuracy: float, lower: float, upper: float) -> Cell:
    if np.isnan(accuracy):
        return Cell(words.NOT_AVAILABLE, kind="missing")
    return Cell(words.percent(accuracy), (words.interval(lower, upper),))


def _drops(cube: xr.DataTree, norm: str, found: xr.Dataset) -> Figure:
    labels = coordinate(cube, norm, "epsilon_label")
    names = [str(name) for name in found["class"].values]
    models = [str(name) for name in found["model"].values]
    drop, average = found["drop"].transpose("model", "class").values, found["average_drop"].values
    contribution = found["average_contribution"].values
    rows: list[list[object]] = [
        [model, name, style.rounded(drop[i, j])]
        for i, model in enumerate(models)
        for j, name in enumerate(names)
    ]
    rows += [["average", name, style.rounded(average[j])] for j, name in enumerate(names)]
    y = alt.Y("class:N", sort=names, title="class")
    x = alt.X(
        "drop:Q", title=f"accuracy lost from ε = {labels[0]} to {labels[-1]}", axis=alt.Axis(format="%")
    )
    known = style.base().transform_filter("isValid(datum.drop)")
    points = (
        known.transform_filter(style.CHOSEN)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=style.colour(models),
            shape=style.shape(models),
            tooltip=["model:N", "class:N", alt.Tooltip("drop:Q", format=".1%")],
        )
    )
    mean = (
        known.transform_filter("datum.model == 'average'")
        .mark_tick(thickness=3, size=18, color={"expr": "foreground"})
        .encode(x=x, y=y, tooltip=["class:N", alt.Tooltip("drop:Q", format=".1%", title="average drop")])
    )
    table: list[list[str | Cell]] = [
        [
            name,
            *(_points(float(value)) for value in drop[:, j]),
            _points(float(average[j])),
            Cell(str(int(found["models"].values[j]))),
            Cell(
                words.percent(float(contribution[j])) if np.isfinite(contribution[j]) else words.NOT_AVAILABLE
            ),
        ]
        for j, name in enumerate(names)
    ]
    overall = float(found["overall"])
    return Figure(
        name=f"drops-{norm}",
        title=f"Accuracy lost per class under {words.norm_name(norm)} attack",
        reading=(
            f"Each mark is the accuracy that a model loses in one class from ε = {labels[0]} to "
            f"{labels[-1]}, "
            "as printed; the tick is the average over the models with both numbers. Over all classes the "
            f"average drop is {words.points(overall) if np.isfinite(overall) else words.NOT_AVAILABLE}."
        ),
        description="Dot plot of the accuracy lost by class, one mark a model, and the models' average.",
        spec=style.finish(alt.layer(points, mean), height=alt.Step(24)) if np.isfinite(drop).any() else None,
        data=Data(("model", "class", "drop"), rows),
        table=html_table(
            ["class", *models, "average", "models", "share of the overall drop"],
            table,
            f"Accuracy lost from ε = {labels[0]} to {labels[-1]} by class and model",
        ),
        covers="No interval: how certain a drop is rests on which samples break, and the source prints only "
        f"how many.{_alone(cube, norm)}",
        open_table=True,
    )


def _alone(cube: xr.DataTree, norm: str) -> str:
    """Return how well the accuracy of the smallest class is known alone, as a yardstick."""
    sizes = norm_dataset(cube, norm)["total"].values
    if not sizes.min() >= 1:
        return ""
    lower, upper = curves.wilson(sizes.min() // 2, sizes.min(), confidence(cube))
    half = words.points(float(upper - lower) / 2)
    return f" One accuracy of a class of {int(sizes.min())} samples, alone, is known to about ±{half}."


def _points(value: float) -> Cell:
    if np.isnan(value):
        return Cell(words.NOT_AVAILABLE, kind="missing")
    return Cell(words.points(value))
