"""What all charts share: colours, shapes, dashes, filters by the page's legend, axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

# Okabe and Ito 2008 without yellow and black: tells apart with every common colour vision, on light and dark.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 3], [1, 3], [8, 2, 2, 2, 2, 2])
SHOWN_MODELS = 8
"""With more models than this only the leading ones are checked at first."""

CHOSEN = "indexof(models, datum.model) >= 0"
CHOSEN_ATTACKS = f"{CHOSEN} && indexof(attacks, datum.attack) >= 0"
COVERS = (
    "Intervals are Wilson's at {level} for each number alone. They cover the choice of the {samples}, "
    "not the strength of the attacks: a stronger attack can only lower an accuracy."
)


def look(position: int) -> tuple[str, str]:
    """Return colour and shape of the model at a position; no two of the first 36 share both."""
    turn = position // len(COLOURS)
    return COLOURS[position % len(COLOURS)], SHAPES[(position + turn) % len(SHAPES)]


def dash(position: int) -> list[int]:
    """Return the dash pattern of the attack at a position (the worst case, first, is solid)."""
    return list(DASHES[position % len(DASHES)])


def colour(models: Sequence[str]) -> alt.Color:
    """Return the encoding of models by colour."""
    scale = alt.Scale(domain=list(models), range=[look(i)[0] for i in range(len(models))])
    return alt.Color("model:N", scale=scale, legend=None)


def shape(models: Sequence[str]) -> alt.Shape:
    """Return the encoding of models by shape."""
    scale = alt.Scale(domain=list(models), range=[look(i)[1] for i in range(len(models))])
    return alt.Shape("model:N", scale=scale, legend=None)


def dashes(attacks: Sequence[str]) -> alt.StrokeDash:
    """Return the encoding of attacks by dashes."""
    scale = alt.Scale(domain=list(attacks), range=[dash(i) for i in range(len(attacks))])
    return alt.StrokeDash("attack:N", scale=scale, legend=None)


def model_axis(order: Sequence[str]) -> alt.Y:
    """Return models along the vertical axis; long names lose their middle, since their ends differ."""
    start, end = "slice(datum.label, 0, label_half)", "slice(datum.label, -label_half)"
    shortened = f"length(datum.label) > 2 * label_half ? {start} + '…' + {end} : datum.label"
    return alt.Y("model:N", sort=list(order), title=None, axis=alt.Axis(labelExpr=shortened))


def base() -> alt.Chart:
    """Return a chart of the figure's own rows."""
    return alt.Chart(alt.NamedData(name="rows"))


def finish(chart: Any, height: Any) -> dict[str, Any]:
    """Return the specification of a chart; the page makes it as wide as its place."""
    spec: dict[str, Any] = chart.properties(height=height).to_dict()
    # The page brings Vega-Lite, its theme and the rows; altair's own would contradict them.
    for key in ("$schema", "config", "datasets"):
        spec.pop(key, None)
    return spec


def epsilon_label_expression(labels: Sequence[str]) -> str:
    """Return how an axis writes epsilons: in the study's own fractions where they share a denominator."""
    denominators = {label.partition("/")[2].strip() for label in labels if "/" in label}
    plain = [label for label in labels if "/" not in label and label.strip() != "0"]
    if len(denominators) == 1 and not plain:
        (below,) = denominators
        if below.isdigit() and int(below) > 0:
            return f"datum.value == 0 ? '0' : format(datum.value * {below}, '.3~f') + '/{below}'"
    return "format(datum.value, '.3~g')"


def rounded(value: float, digits: int = 6) -> float | None:
    """Return a number for the page's data: None for NaN, without digits that mean nothing."""
    return None if math.isnan(value) else round(float(value), digits)
