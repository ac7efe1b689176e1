"""Threshold overfitting: whether a curve falls faster beyond the epsilon that its model was trained for."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import xarray as xr
from scipy import stats

from metaeval.analysis import thresholds
from metaeval.analysis.reading import confidence, imported, models, sampled_norms
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import escape, strong

SHOWN = 30
"""Of more models than the legend checks at first the chart holds so many, the largest changes first."""
COLUMNS = (
    *("model", "reference", "epsilon", "width", "change", "lower", "upper", "adjusted_p"),
    *("before", "after", "reference_before", "reference_after"),
    *("change_at_half", "change_at_three_halves", "bends"),
)


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each norm for which models were trained and a bend is estimable."""
    if imported(cube) is not None:
        return []
    return [
        _figure(cube, norm, bends)
        for norm in sampled_norms(cube)
        if (bends := thresholds.from_cube(cube, norm))
    ]


def _figure(cube: xr.DataTree, norm: str, bends: list[thresholds.Bend]) -> Figure:
    name, level = words.norm_name(norm), words.level(confidence(cube))
    samples = words.plural(bends[0].threshold.samples, "test sample")
    bends = sorted(bends, key=lambda bend: -float(bend.threshold.table["change"].iloc[0]))
    rows = [_row(bend) for bend in bends]
    return Figure(
        name=f"thresholds-{norm}",
        title=f"Slopes of curves at the ε of training under {name} attack",
        reading=(
            "Each mark is the accuracy that a model loses just beyond the ε it was trained for minus what it "
            "loses just before it, less the same of its recipe without adversarial training: right of zero "
            "it bends down more than that. Grey ticks are the same at half and at three halves of that ε, "
            "where nothing should bend."
        ),
        description=(
            f"Dot plot with intervals: change of the slope of the {name} robustness curve at the training "
            "epsilon of each model. The table beneath holds what is lost before and after it."
        ),
        spec=_spec(models(cube), rows),
        data=Data(COLUMNS, rows),
        table=_table(bends),
        covers=(
            f"Intervals are at {level} for each number alone and cover the choice of the {samples}. A curve "
            "counts as bent only if it loses more than its recipe's, more beyond the training ε than before "
            "it (exact binomial test), and that by more than at half and at three halves of that ε; p is the "
            "largest of these tests, adjusted for all models (Holm). A smooth curve that is steepest just "
            "there looks the same. The width is that of the evaluated ε nearest to a third of the training "
            "ε. The strength of the attacks is not covered."
            f"{_left_out(cube, norm, len(bends))}"
        ),
        finding=_finding(bends, name, level, samples),
    )


def _left_out(cube: xr.DataTree, norm: str, shown: int) -> str:
    trained = sum(epsilon > 0 for epsilon in thresholds.trained_epsilons(cube, norm).values())
    if trained == shown:
        return ""
    return (
        f" Not estimable for {trained - shown} more: they lack results, a model of the same recipe without "
        "adversarial training, or evaluated ε at and evenly around the training ε."
    )


def _row(bend: thresholds.Bend) -> list[object]:
    main = bend.threshold.table.iloc[0]
    placebo = bend.threshold.table.loc[bend.threshold.table["role"] == "placebo", "change"]
    half = _half_width(bend)
    ends = [style.rounded(float(main["change"]) + sign * half) for sign in (-1, 1)]
    numbers = [style.rounded(float(main[key])) for key in COLUMNS[8:12]]
    return [
        bend.model,
        bend.reference,
        bend.epsilon,
        style.rounded(float(main["width"])),
        style.rounded(float(main["change"])),
        *ends,
        style.rounded(bend.p),
        *numbers,
        *(style.rounded(float(value)) for value in placebo),
        bend.certain,
    ]


def _half_width(bend: thresholds.Bend) -> float:
    error = float(bend.threshold.table["standard_error"].iloc[0])
    return float(stats.norm.ppf(0.5 + bend.threshold.confidence / 2)) * error


def _spec(names: list[str], rows: list[list[object]]) -> dict[str, object]:
    y = style.model_axis([str(row[0]) for row in rows])
    axis, title = alt.Axis(format="+%", tickCount=6), "bend at the training ε"
    # Of many models the legend checks the leading ones, and none of those may be trained for an ε.
    drawn = f"indexof({json.dumps([row[0] for row in rows[:SHOWN]])}, datum.model) >= 0"
    chosen = style.base().transform_filter(style.CHOSEN if len(names) <= style.SHOWN_MODELS else drawn)
    zero = (
        style.base()
        .mark_rule(color={"expr": "muted"}, strokeDash=[3, 3])
        .encode(x=alt.XDatum(0, axis=axis, title=title))
    )
    ticks = [
        chosen.transform_filter(f"isValid(datum.{key})")
        .mark_tick(thickness=2, size=14, color={"expr": "muted"})
        .encode(x=alt.X(f"{key}:Q", axis=axis, title=title), y=y)
        for key in ("change_at_half", "change_at_three_halves")
        if any(row[COLUMNS.index(key)] is not None for row in rows)
    ]
    rule = chosen.mark_rule(strokeWidth=2).encode(
        x=alt.X("lower:Q", axis=axis, title=title), x2="upper:Q", y=y, color=style.colour(names)
    )
    point = chosen.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("change:Q", axis=axis, title=title),
        y=y,
        color=style.colour(names),
        shape=style.shape(names),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("epsilon:Q", format=".3~g", title="training ε"),
            *(alt.Tooltip(f"{key}:Q", format="+.1%") for key in ("change", "lower", "upper")),
        ],
    )
    return style.finish(alt.layer(zero, *ticks, rule, point), height=alt.Step(26))


def _table(bends: list[thresholds.Bend]) -> str:
    rows: list[list[str | Cell]] = []
    for bend in bends:
        main, half = bend.threshold.table.iloc[0], _half_width(bend)
        change = float(main["change"])
        placebo = bend.threshold.table[bend.threshold.table["role"] == "placebo"]
        rows.append(
            [
                bend.model,
                Cell(words.number(bend.epsilon), (f"± {words.number(float(main['width']))}",)),
                Cell(words.points(change), (words.points_interval(change - half, change + half),)),
                Cell("not estimable", kind="missing") if np.isnan(bend.p) else Cell(words.p_value(bend.p)),
                *(
                    Cell(f"{words.points(float(main[before]))}, {words.points(float(main[after]))}")
                    for before, after in (("before", "after"), ("reference_before", "reference_after"))
                ),
                *(_elsewhere(float(value)) for value in placebo["change"]),
                Cell("yes" if bend.certain else "not certain", kind="text"),
            ]
        )
    header = [
        *("model", "training ε", "change", "adjusted p", "lost before, after", "reference: before, after"),
        *("change at ε / 2", "change at 3 ε / 2", "bends down"),
    ]
    return html_table(header, rows, "Accuracy lost just before and just beyond the training ε")


def _elsewhere(change: float) -> Cell:
    if np.isnan(change):
        return Cell(words.NOT_AVAILABLE, ("no evaluated ε",), "missing")
    return Cell(words.points(change))


def _finding(bends: list[thresholds.Bend], name: str, level: str, samples: str) -> str:
    """Return which curves bend at the training epsilon, or what could have gone unnoticed, as HTML."""
    number = f"{words.plural(len(bends), 'model')} trained under {name} attack"
    tested = [bend for bend in bends if not np.isnan(bend.p)]
    bent = [bend for bend in tested if bend.certain]
    shown = max(bent or tested or bends, key=lambda bend: float(bend.threshold.table["change"].iloc[0]))
    main, half = shown.threshold.table.iloc[0], _half_width(shown)
    change = float(main["change"])
    interval = words.points_interval(change - half, change + half)
    p = "" if np.isnan(shown.p) else f"; adjusted {escape(words.p_value(shown.p))}"
    size = (
        f"{strong(shown.model)} at ε = {words.number(shown.epsilon)}, {words.points(change)} more than its "
        f"recipe ({level} interval {interval} over {samples}, paired{p})"
    )
    if not tested:
        return (
            f"Threshold overfitting of {number} is not estimable, since nothing was evaluated around half "
            "and three halves of the training ε to compare with; the largest change of slope is that of "
            f"{size}."
        )
    left_out = len(bends) - len(tested)
    rest = f"; for {left_out} more it is not estimable" if left_out else ""
    number = f"{words.plural(len(tested), 'model')} trained under {name} attack"
    if bent:
        verb = "falls" if len(bent) == 1 else "fall"
        return (
            f"Threshold overfitting: of the curves of {number} {len(bent)} certainly {verb} faster just "
            "beyond the training ε than just before it, and more so than elsewhere, most that of "
            f"{size}{rest}."
        )
    quantiles = stats.norm.isf((1 - shown.threshold.confidence) / 2 / len(tested)) + stats.norm.ppf(0.8)
    keys = ["standard_error", "excess_error"]
    missed = quantiles * max(np.nanmax(bend.threshold.table[keys].to_numpy()) for bend in tested)
    of = f"none of {number}" if len(tested) > 1 else f"the one model trained under {name} attack"
    certain = "is it certain" if len(tested) > 1 else "it is not certain"
    return (
        f"Threshold overfitting: for {of} {certain} that the curve bends down at the training ε; the "
        f"{'largest ' * (len(tested) > 1)}change of slope is that of {size}, and one below about "
        f"{words.points(min(missed, 2))} would usually go unnoticed{rest}."
    )
