"""Distribution shifts: accuracy at each severity, and the change against the clean test set."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import shift_faces
from metaeval.analysis.reading import confidence, imported
from metaeval.report import words
from metaeval.report.charts import marks, style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table

COLUMNS = (
    "shift",
    "kind",
    "severity",
    "model",
    "accuracy",
    "lower",
    "upper",
    "log_loss",
    "samples",
    "status",
)
CHANGES = (
    "shift",
    "model",
    "difference",
    "lower",
    "upper",
    "accuracy",
    "clean",
    "retained",
    "log_loss_difference",
    "effective",
    "effective_lower",
    "effective_upper",
    "paired",
)
NO_SEVERITY = "–"


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return the accuracies and the changes; none without shifts or of imported ones."""
    if not shift_faces.has_shifts(cube) or imported(cube) is not None:
        return []
    return [_accuracies(cube), _changes(cube)]


def _accuracies(cube: xr.DataTree) -> Figure:
    level = confidence(cube)
    face = shift_faces.from_cube(cube, level)
    names = [str(name) for name in face["model"].values]
    rows: list[list[object]] = []
    for j, shift in enumerate(str(name) for name in face["shift"].values):
        kind = str(face["kind"].values[j])
        for k, severity in enumerate(face["severity"].values.tolist()):
            if np.isnan(face["total"].values[j, k]):
                continue
            for i, model in enumerate(names):
                numbers = (
                    style.rounded(float(face[key].values[i, j, k]))
                    for key in ("accuracy", "lower", "upper", "log_loss")
                )
                text = str(severity) if severity else NO_SEVERITY
                state = str(face["status"].values[i, j])
                rows.append([shift, kind, text, model, *numbers, int(face["total"].values[j, k]), state])
    sizes = sorted({int(row[8]) for row in rows if isinstance(row[8], int)})
    samples = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return Figure(
        name="shifts",
        title="Distribution shifts: accuracy",
        reading=(
            "Each mark is the share of a shifted test set's samples that a model classifies correctly, its "
            "bar the interval; severities run from 1 (slight) to 5 (strong)."
        ),
        description=(
            "Dot plots with intervals, one for each shift: accuracy of each model at each severity. The "
            "table beneath holds the numbers."
        ),
        spec=_accuracy_spec(names) if any(row[4] is not None for row in rows) else None,
        data=Data(COLUMNS, rows),
        table=_accuracy_table(face, names),
        covers=(
            f"Intervals are Wilson's at {words.level(level)} for each number alone. They cover the choice of "
            f"the {samples} test samples. Attacked copies come from one run of one attack: they are no bound."
        ),
        panels="shift",
    )


def _accuracy_spec(names: list[str]) -> dict[str, object]:
    y = alt.Y("severity:O", title="severity")
    offset = alt.YOffset("model:N", sort=names, scale=alt.Scale(domain={"expr": "models"}))
    axis, scale = alt.Axis(format="%", tickCount=5), alt.Scale(domain=[0, 1])
    x = marks.Place(axis, scale, "accuracy")
    chosen = style.base().transform_filter(f"{style.CHOSEN} && isValid(datum.accuracy)")
    absent = (
        style.base()
        .transform_filter(f"{style.CHOSEN} && !isValid(datum.accuracy)")
        .mark_text(align="left", dx=4, fontStyle="italic", color={"expr": "muted"})
        .encode(x=alt.XDatum(0, axis=axis, scale=scale, title=x.title), y=y, yOffset=offset, text="status:N")
    )
    return style.finish(
        alt.layer(
            *marks.with_intervals(
                chosen, names, "accuracy", x, y, offset, [alt.Tooltip("severity:N")], ".1%"
            ),
            absent,
        ),
        height=alt.Step(12),
    )


def _accuracy_table(face: xr.Dataset, names: list[str]) -> str:
    rows: list[list[str | Cell]] = []
    for j, shift in enumerate(str(name) for name in face["shift"].values):
        for k, severity in enumerate(face["severity"].values.tolist()):
            total = float(face["total"].values[j, k])
            if np.isnan(total):
                continue
            cells: list[str | Cell] = [
                Cell(f"{shift} {severity}" if severity else shift, (f"{int(total):,} samples",), "text")
            ]
            for i in range(len(names)):
                at = face.isel(model=i, shift=j, severity=k)
                share = float(at["accuracy"])
                if np.isnan(share):
                    state = str(at["status"].item())
                    kind = "failed" if state == "failed" else "missing"
                    text = state if state != "ok" else words.NOT_AVAILABLE
                    cells.append(Cell(text, (str(at["reason"].item()),), kind))
                else:
                    interval = words.interval(float(at["lower"]), float(at["upper"]))
                    cells.append(Cell(words.percent(share), (interval,)))
            rows.append(cells)
    return html_table(["shift", *names], rows, "Accuracy by shift, severity and model")


def _changes(cube: xr.DataTree) -> Figure:
    level = confidence(cube)
    face = shift_faces.clean_differences(cube, level)
    names, kinds = [str(name) for name in face["model"].values], [str(name) for name in face["shift"].values]
    rows: list[list[object]] = []
    for j, shift in enumerate(kinds):
        for i, model in enumerate(names):
            numbers = (style.rounded(float(face[key].values[i, j])) for key in CHANGES[2:-1])
            rows.append([shift, model, *numbers, "yes" if face["paired"].values[j] else "no"])
    return Figure(
        name="shift-differences",
        title="Distribution shifts: change against the clean test set",
        reading=(
            "Each mark is a model's accuracy on a shift, averaged over severities, minus its clean accuracy, "
            "in percentage points: left of zero it loses, and bars are intervals."
        ),
        description=(
            "Dot plot with intervals: difference of accuracy to the clean test set for each shift and model. "
            "The table beneath adds what share of the clean accuracy is retained, the change of the log-loss "
            "and the effective robustness."
        ),
        spec=_change_spec(names, kinds) if any(row[2] is not None for row in rows) else None,
        data=Data(CHANGES, rows),
        table=_change_table(face, names),
        covers=(
            f"Intervals are at {words.level(level)} for each number alone and cover the choice of the test "
            "samples. Where the shifted samples are the clean ones changed, each is compared with its "
            "original; other sets are compared as independent samples. The log-loss is in nats, higher is "
            "less certain of the truth. Effective robustness is the accuracy beyond the line of the study's "
            "other models (its interval covers another such model), and needs at least four of them."
        ),
    )


def _change_spec(names: list[str], shifts: list[str]) -> dict[str, object]:
    y = alt.Y("shift:N", sort=shifts, title=None)
    offset = alt.YOffset("model:N", sort=names, scale=alt.Scale(domain={"expr": "models"}))
    x = marks.Place(alt.Axis(format="+%"), alt.Scale(zero=True), "accuracy − clean accuracy")
    chosen = style.base().transform_filter(f"{style.CHOSEN} && isValid(datum.difference)")
    zero = (
        style.base()
        .mark_rule(color={"expr": "muted"}, strokeDash=[3, 3])
        .encode(x=alt.XDatum(0, axis=x.axis, scale=x.scale, title=x.title))
    )
    drawn = marks.with_intervals(chosen, names, "difference", x, y, offset, [], "+.1%")
    return style.finish(alt.layer(zero, *drawn), height=alt.Step(12))


def _change_table(face: xr.Dataset, names: list[str]) -> str:
    rows: list[list[str | Cell]] = []
    for j, shift in enumerate(str(name) for name in face["shift"].values):
        paired = "paired" if face["paired"].values[j] else "other samples"
        reason = str(face["not_estimable"].values[j])
        for i, model in enumerate(names):
            at = {key: float(face[key].values[i, j]) for key in CHANGES[2:-1]}
            rows.append(
                [
                    Cell(shift, (paired,), "text"),
                    Cell(model, kind="text"),
                    _number(words.points, at["difference"], (at["lower"], at["upper"])),
                    _number(words.percent, at["retained"]),
                    _number(words.number, at["log_loss_difference"]),
                    Cell("not estimable", (reason.removeprefix("not estimable: "),), "missing")
                    if reason
                    else _number(
                        words.points, at["effective"], (at["effective_lower"], at["effective_upper"])
                    ),
                ]
            )
    header = ["shift", "model", "difference", "retained", "change of log-loss", "effective robustness"]
    return html_table(header, rows, "Change of accuracy and certainty against the clean test set")


def _number(form: Callable[[float], str], value: float, interval: tuple[float, float] | None = None) -> Cell:
    if np.isnan(value):
        return Cell(words.NOT_AVAILABLE, kind="missing")
    note = f"{words.points(interval[0])} to {words.points(interval[1])}" if interval else ""
    return Cell(form(value), (note,))
