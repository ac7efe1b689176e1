"""Accuracy under distribution shift: every shift beside the clean test set, effective robustness, pairs."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from metaeval.analysis import published, shifts
from metaeval.analysis.reading import confidence, coordinate, imported, models
from metaeval.errors import UsageError
from metaeval.report import words
from metaeval.report.charts import marks, style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

MOST_CELLS = 800
"""With more models x shifts than this the tables hold one row a shift."""
MOST_PANELS = 8
"""With more shifts than this, effective robustness has one chart for all."""
AVERAGED = "; severities of a shift are averaged, and an average needs all of them"


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return the figures of imported results under shift; nothing for a cube that a run has filled."""
    if imported(cube) is None or "shifts" not in cube.children:
        return []
    face = published.shifted(cube, confidence(cube))
    made = [_accuracy(cube, face)]
    if face["clean"].notnull().any():
        made.append(_effective(cube, face))
    return [*made, *_pairs(cube)]


def _names(face: xr.Dataset, dim: str) -> list[str]:
    return [str(name) for name in face[dim].values]


def _accuracy(cube: xr.DataTree, face: xr.Dataset) -> Figure:
    names, labels = _names(face, "model"), _names(face, "shift")
    values = {key: face[key].transpose("model", "shift").values for key in ("accuracy", "lower", "upper")}
    clean = face["clean"].values
    rows = [
        [
            names[i],
            labels[j],
            *(style.rounded(float(values[key][i, j])) for key in values),
            style.rounded(float(clean[i])),
        ]
        for i, j in np.ndindex(values["accuracy"].shape)
        if np.isfinite(values["accuracy"][i, j]) or face["accuracy"].size <= MOST_CELLS
    ]
    averaged = bool((face["severities"] > 1).any())
    middle = np.array(
        [np.median(v[np.isfinite(v)]) if np.isfinite(v).any() else -1 for v in values["accuracy"].T]
    )
    order = [labels[j] for j in np.argsort(-middle, kind="stable")]
    intervals = bool(np.isfinite(values["lower"]).any())
    place = marks.Place(alt.Axis(format="%"), alt.Scale(domain=[0, 1]), "accuracy")
    x = alt.X("accuracy:Q", title=place.title, axis=place.axis, scale=place.scale)
    y = alt.Y("shift:N", sort=order, title=None)
    known = style.base().transform_filter("isValid(datum.accuracy)")
    everyone = known.mark_tick(thickness=1, size=10, color={"expr": "muted"}, opacity=0.35).encode(x=x, y=y)
    chosen = known.transform_filter(style.CHOSEN)
    offset = alt.YOffset("model:N", sort=names, scale=alt.Scale(domain={"expr": "models"}))
    tips = [alt.Tooltip("clean:Q", format=".1%")]
    rule, point = marks.with_intervals(chosen, names, "accuracy", place, y, offset, tips, ".1%")
    layers = [everyone, rule, point] if intervals else [everyone, point]
    drawn = any(row[2] is not None for row in rows)
    level = words.level(confidence(cube))
    cover = f"Intervals are Wilson's at {level} for each number alone; they cover the choice of test samples."
    return Figure(
        name="shifts",
        title="Accuracy under shift",
        reading=(
            "Each grey tick is a model's accuracy under a shift, coloured marks are the models checked in "
            f"the legend, shifts with the highest median first{AVERAGED if averaged else ''}."
        ),
        description="Strip plot of accuracy by shift, one tick a model. The table beneath holds the numbers.",
        spec=style.finish(alt.layer(*layers), height=alt.Step(22, **{"for": "position"})) if drawn else None,
        data=Data(("model", "shift", *values, "clean"), rows),
        table=_model_table(face, values) if face["accuracy"].size <= MOST_CELLS else _shift_table(face),
        covers=cover
        if intervals
        else "No interval: the source gives no numbers of samples"
        + (", or none for averages over severities." if averaged else "."),
        open_table=face["accuracy"].size <= MOST_CELLS,
    )


def _model_table(face: xr.Dataset, values: dict[str, np.ndarray]) -> str:
    labels = _names(face, "shift")
    rows: list[list[str | Cell]] = []
    for i, name in enumerate(_names(face, "model")):
        cells = [_share(float(face["clean"].values[i]))]
        cells += [_share(*(float(values[key][i, j]) for key in values)) for j in range(len(labels))]
        rows.append([name, *cells])
    return html_table(["model", "clean", *labels], rows, "Accuracy by model and shift")


def _share(accuracy: float, lower: float = float("nan"), upper: float = float("nan")) -> Cell:
    if np.isnan(accuracy):
        return Cell(words.NOT_AVAILABLE, kind="missing")
    return Cell(words.percent(accuracy), (words.interval(lower, upper),) if np.isfinite(lower) else ())


def _shift_table(face: xr.Dataset) -> str:
    rows: list[list[str | Cell]] = []
    for name in _names(face, "shift"):
        at = face.sel(shift=name)
        values = at["accuracy"].values[np.isfinite(at["accuracy"].values)]
        gap = (at["clean"] - at["accuracy"]).values
        gap = gap[np.isfinite(gap)]
        spread = [float(f(values)) if len(values) else float("nan") for f in (np.min, np.median, np.max)]
        rows.append(
            [
                name,
                Cell(f"{len(values)} of {face.sizes['model']}"),
                *(_share(value) for value in spread),
                Cell(words.points(float(np.mean(gap))) if len(gap) else words.NOT_AVAILABLE),
            ]
        )
    header = ["shift", "models", "lowest", "median", "highest", "mean gap to clean"]
    return html_table(
        header, rows, "Accuracy by shift over the models that have it; single models are in the CSV"
    )


def effective(face: xr.Dataset, shift: str, confidence: float) -> xr.Dataset | str:
    """Return the effective robustness under a shift, or why it is not estimable."""
    at = face.sel(shift=shift)
    try:
        return shifts.effective_robustness(at["clean"].values, at["accuracy"].values, confidence=confidence)
    except UsageError as error:
        return str(error)


def _effective(cube: xr.DataTree, face: xr.Dataset) -> Figure:
    names, labels = _names(face, "model"), _names(face, "shift")
    found = {label: effective(face, label, confidence(cube)) for label in labels}
    rows: list[list[object]] = []
    for label, one in found.items():
        shown = face["accuracy"].sel(shift=label).values
        for i, name in enumerate(names):
            if isinstance(one, str) or not np.isfinite(shown[i]):
                continue
            keys = ("expected", "expected_lower", "expected_upper", "effective", "lower", "upper")
            numbers = [style.rounded(float(one[key].values[i])) for key in keys]
            rows.append(
                [name, label, style.rounded(face["clean"].values[i]), style.rounded(shown[i]), *numbers]
            )
    columns = ("model", "shift", "clean", "accuracy", "expected", "expected_lower", "expected_upper",
               "effective", "lower", "upper")  # fmt: skip
    few = len(labels) <= MOST_PANELS
    level = words.level(confidence(cube))
    return Figure(
        name="effective-robustness",
        title="Effective robustness",
        reading=(
            "The line is the accuracy under shift that models of the same clean accuracy have (least "
            "squares on the logit scale); what a model lies above it is its effective robustness. Every "
            "model counts as an ordinary one and is compared with the line of the others."
            + ("" if few else " Here each tick is a model: to the right of 0 it lies above the line.")
        ),
        description="Scatter plots of accuracy under shift over clean accuracy with the line of all models.",
        spec=(_effective_spec(names) if few else _strip(names, labels)) if rows else None,
        data=Data(columns, rows),
        table=_effective_table(face, found),
        covers=(
            f"Intervals are {level} prediction intervals: where another ordinary model might lie, on these "
            "test samples. A model outside its interval is unlike the others; inside it nothing is claimed."
        ),
        panels="shift" if few else "",
        open_table=not few,
    )


def _effective_spec(names: list[str]) -> dict[str, object]:
    axis = alt.Axis(format="%", tickCount=5)
    known = style.base().transform_filter("isValid(datum.expected)")
    x = alt.X("clean:Q", axis=axis, scale=alt.Scale(zero=False), title="clean accuracy")
    y = alt.Y("accuracy:Q", axis=axis, scale=alt.Scale(zero=False), title="accuracy under shift")
    band = known.mark_area(opacity=0.15, color={"expr": "muted"}).encode(
        x=x, y=alt.Y("expected_lower:Q", title="accuracy under shift"), y2="expected_upper:Q"
    )
    line = known.mark_line(strokeWidth=1, color={"expr": "muted"}).encode(
        x=x, y=alt.Y("expected:Q", title="accuracy under shift")
    )
    grey = known.mark_point(size=25, color={"expr": "muted"}, opacity=0.5).encode(x=x, y=y)
    point = (
        known.transform_filter(style.CHOSEN)
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=x,
            y=y,
            color=style.colour(names),
            shape=style.shape(names),
            tooltip=[
                "model:N",
                *(
                    alt.Tooltip(f"{key}:Q", format=".1%")
                    for key in ("clean", "accuracy", "expected", "effective")
                ),
            ],
        )
    )
    return style.finish(alt.layer(band, line, grey, point), height=260)


def _strip(names: list[str], labels: list[str]) -> dict[str, object]:
    """Return effective robustness by shift, where there are too many shifts for a chart each."""
    x = alt.X("effective:Q", title="effective robustness", axis=alt.Axis(format="%"))
    y = alt.Y("shift:N", sort=labels, title=None)
    known = style.base().transform_filter("isValid(datum.effective)")
    everyone = known.mark_tick(thickness=1, size=10, color={"expr": "muted"}, opacity=0.35).encode(x=x, y=y)
    point = (
        known.transform_filter(style.CHOSEN)
        .mark_point(filled=True, size=40, opacity=1)
        .encode(
            x=x,
            y=y,
            color=style.colour(names),
            shape=style.shape(names),
            tooltip=["model:N", "shift:N", alt.Tooltip("effective:Q", format=".1%")],
        )
    )
    return style.finish(alt.layer(everyone, point), height=alt.Step(16))


def _effective_table(face: xr.Dataset, found: dict[str, xr.Dataset | str]) -> str:
    rows: list[list[str | Cell]] = []
    names = _names(face, "model")
    for label, one in found.items():
        if isinstance(one, str):
            rows.append([label, Cell(one, kind="missing"), *[Cell("", kind="text")] * 4])
            continue
        above = one["lower"].values > 0
        below = one["upper"].values < 0
        unlike = sorted(np.flatnonzero(above | below), key=lambda i: -abs(float(one["effective"].values[i])))
        said = [f"{names[i]} {words.points(float(one['effective'].values[i]))}" for i in unlike]
        rows.append(
            [
                label,
                Cell(str(one.attrs["baseline_models"])),
                Cell(words.number(one.attrs["slope"])),
                Cell(words.number(one.attrs["r2"])),
                Cell(f"{len(unlike)} of {one.attrs['baseline_models']}"),
                Cell(words.listing(said, most=4) if said else "none", kind="text"),
            ]
        )
    header = ["shift", "models", "slope (logit)", "R²", "outside the interval", "of these the farthest"]
    return html_table(header, rows, "The line of each shift and the models outside their prediction interval")


def _pairs(cube: xr.DataTree) -> list[Figure]:
    """Return each model's paired difference from the best one, for every test set with predictions."""
    if "samples" not in cube.children or len(models(cube)) < 2:
        return []
    frames = []
    for shift in (None, *coordinate(cube, "shifts", "shift")):
        try:
            frame = published.paired_with_best(cube, shift, confidence(cube))
        except UsageError:  # one model alone on this test set
            continue
        frame.insert(0, "test set", shift or "original")
        frames.append(frame)
    if not frames:
        return []
    frame = pd.concat(frames, ignore_index=True)
    keys = ("accuracy", "difference", "lower", "upper", "p")
    rows = [
        [row["model"], row["test set"], *(style.rounded(float(row[key])) for key in keys)]
        for _, row in frame.iterrows()
    ]
    names = models(cube)
    chosen = style.base().transform_filter(style.CHOSEN)
    y = style.model_axis([str(name) for name in frames[0]["model"]])
    x = alt.X("difference:Q", title="difference from the best model", axis=alt.Axis(format="%", tickCount=5))
    rule = chosen.mark_rule(strokeWidth=2).encode(
        x=alt.X("lower:Q", title="difference from the best model"),
        x2="upper:Q",
        y=y,
        color=style.colour(names),
    )
    tip = [
        "model:N",
        *(alt.Tooltip(f"{key}:Q", format=".1%") for key in keys[:-1]),
        alt.Tooltip("p:Q", format=".2g"),
    ]
    point = chosen.mark_point(filled=True, size=50, opacity=1).encode(
        x=x, y=y, color=style.colour(names), shape=style.shape(names), tooltip=tip
    )
    table: list[list[str | Cell]] = [
        [
            f"{row['test set']}: {row['model']}",
            Cell(words.percent(float(row["accuracy"]))),
            Cell(
                words.points(float(row["difference"])) if np.isfinite(row["p"]) else "the best",
                (f"{100 * row['lower']:.1f} to {100 * row['upper']:.1f}".replace("-", "−"),)
                if np.isfinite(row["p"])
                else (),
            ),
            Cell(words.p_value(float(row["p"])) if np.isfinite(row["p"]) else ""),
        ]
        for _, row in frame.iterrows()
    ]
    return [
        Figure(
            name="paired",
            title="Models compared on the same samples",
            reading=(
                "Each mark is a model's accuracy minus that of the best model of the test set, on the very "
                "same "
                "samples; models whose adjusted p is large cannot be told apart from it."
            ),
            description="Dot plot with intervals of each model's paired difference from the best model.",
            spec=style.finish(alt.layer(rule, point), height=alt.Step(20)),
            data=Data(("model", "test set", *keys), rows),
            table=html_table(
                ["test set: model", "accuracy", "difference", "adjusted p"], table, "Paired differences"
            ),
            covers=(
                f"Intervals are paired at {words.level(confidence(cube))} for each pair alone and cover "
                "the choice "
                "of the test samples; p is exact McNemar, Holm-adjusted over all pairs of models of a test "
                "set. The "
                "best model is best on these samples, which favours it a little."
            ),
            panels="test set",
        )
    ]
