"""Accuracies of an imported table as printed, where no number of samples lets them have intervals."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import stages
from metaeval.analysis.reading import (
    WORST_CASE,
    attacks,
    coordinate,
    counted_norms,
    imported,
    norm_dataset,
    norms,
)
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

COLUMNS = ("model", "class", "attack", "epsilon", "epsilon_label", "accuracy")


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return the accuracies of a table that no other figure shows: under attack, and clean by class."""
    if (imported(cube) or {}).get("kind") != "table":
        return []
    made = [_under_attack(cube, norm) for norm in norms(cube) if _only_printed(cube, norm)]
    if "clean" in cube.children and norm_dataset(cube, "clean")["total"].isnull().any():
        clean = norm_dataset(cube, "clean")["accuracy"].expand_dims({"attack": ["none"], "epsilon": [0.0]})
        if clean.sizes["class"] > 1 or not (norms(cube) or "shifts" in cube.children):
            made.append(_figure("printed-clean", "Clean accuracy", clean, ["clean"], "without an attack", ""))
    return made


def _only_printed(cube: xr.DataTree, norm: str) -> bool:
    """Tell whether a norm's overall accuracies are known as printed only, and no cascade shows them."""
    if stages.cascade(cube, norm):
        return False
    group = norm_dataset(cube, norm)
    unknown = bool((group["correct"].isnull() & group["robust_accuracy"].notnull()).any())
    return norm not in counted_norms(cube) or (group.sizes["class"] == 1 and unknown)


def _under_attack(cube: xr.DataTree, norm: str) -> Figure:
    accuracy = norm_dataset(cube, norm)["robust_accuracy"].reset_coords(drop=True)
    accuracy = accuracy.sel(attack=attacks(cube, norm) or [WORST_CASE])
    name, labels = words.norm_name(norm), coordinate(cube, norm, "epsilon_label")
    if "clean" in cube.children and not (accuracy["epsilon"] == 0).any():
        clean = (
            norm_dataset(cube, "clean")["accuracy"].reset_coords(drop=True).reindex(model=accuracy["model"])
        )
        clean = clean.expand_dims({"epsilon": [0.0], "attack": accuracy["attack"].values})
        accuracy = xr.concat([clean, accuracy], "epsilon", coords="minimal", compat="override")
        labels = ["0", *labels]
    title, where = f"Published accuracy under {name} attack", f"under {name} attack"
    return _figure(f"printed-{norm}", title, accuracy, labels, where, _finding(accuracy, labels[-1], name))


def _finding(accuracy: xr.DataArray, label: str, name: str) -> str:
    """Return the span of accuracies over models at the largest epsilon, by attack."""
    if accuracy.sizes["class"] > 1:
        return ""
    said = []
    for attack in accuracy["attack"].values:
        at = accuracy.sel(attack=attack).isel({"class": 0, "epsilon": -1})
        known = at.isel(model=np.flatnonzero(at.notnull().values))
        if known.sizes["model"]:
            ends = [known.isel(model=int(end(known.values))) for end in (np.argmin, np.argmax)]
            low, high = (f"{words.percent(float(e))} ({words.strong(str(e['model'].item()))})" for e in ends)
            span = f"{low} to {high}" if known.sizes["model"] > 1 else low
            if known.sizes["model"] > 1 and np.ptp(known.values) == 0:
                span = f"{words.percent(float(ends[0]))} of all {known.sizes['model']} models"
            said.append(f"{words.escape(str(attack))} {span}")
    return (
        f"At {name} ε = {words.escape(label)} the published accuracies are, by attack: {'; '.join(said)}."
        if said
        else ""
    )


def _figure(
    name: str, title: str, accuracy: xr.DataArray, labels: list[str], where: str, finding: str
) -> Figure:
    accuracy = accuracy.transpose("model", "class", "attack", "epsilon")
    models, classes, tried = ([str(v) for v in accuracy[dim].values] for dim in accuracy.dims[:3])
    epsilons, values = accuracy["epsilon"].values, accuracy.values
    rows: list[list[object]] = [
        [
            models[m],
            classes[c],
            tried[a],
            float(epsilons[e]),
            labels[e],
            style.rounded(float(values[m, c, a, e])),
        ]
        for m, c, a, e in np.ndindex(values.shape)
    ]
    several = [len(classes) > 1, len(tried) > 1]
    table: list[list[str | Cell]] = []
    for m, c, a in np.ndindex(values.shape[:3]):
        if np.isnan(values[m, c, a]).all():
            continue
        keys = [key for key, shown in zip((classes[c], tried[a]), several, strict=True) if shown]
        numbers = [
            Cell(words.NOT_AVAILABLE, kind="missing")
            if np.isnan(value)
            else Cell(words.percent(float(value)))
            for value in values[m, c, a]
        ]
        table.append([models[m], *(Cell(key, kind="text") for key in keys), *numbers])
    header = [key for key, shown in zip(("class", "attack"), several, strict=True) if shown]
    ends = [label if label == "clean" else f"ε = {label}" for label in labels]
    return Figure(
        name=name,
        title=title,
        reading=(
            f"Each mark is the accuracy of a model {where}, as printed"
            + (", by attack (dashes)" if several[1] else "")
            + (", each class a mark of its own" if several[0] else "")
            + "."
        ),
        description=f"Accuracy {where} for each model, as published. The table beneath holds the numbers.",
        spec=_spec(models, tried, labels, epsilons) if np.isfinite(values).any() else None,
        data=Data(COLUMNS, rows),
        table=html_table(["model", *header, *ends], table, f"Accuracy {where}, as published"),
        covers="No interval: the source gives no number of samples, or no count that fits what it prints.",
        open_table=True,
        finding=finding,
    )


def _spec(models: list[str], tried: list[str], labels: list[str], epsilons: np.ndarray) -> dict[str, object]:
    axis = alt.Axis(
        format="",
        labelExpr=style.epsilon_label_expression(labels),
        values=[float(value) for value in epsilons],
        labelOverlap="greedy",
        grid=False,
    )
    x = alt.X("epsilon:Q", axis=axis, title="perturbation size ε")
    y = alt.Y(
        "accuracy:Q", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(domain=[0, 1]), title="accuracy"
    )
    chosen = style.base().transform_filter(f"{style.CHOSEN} && isValid(datum.accuracy)")
    line = chosen.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=style.colour(models), strokeDash=style.dashes(tried), detail="class:N"
    )
    point = chosen.mark_point(filled=True, size=55, opacity=1).encode(
        x=x,
        y=y,
        color=style.colour(models),
        shape=style.shape(models),
        tooltip=[
            *("model:N", "class:N", "attack:N"),
            alt.Tooltip("epsilon_label:N", title="ε"),
            alt.Tooltip("accuracy:Q", format=".2%"),
        ],
    )
    return style.finish(alt.layer(line, point), height=340)
