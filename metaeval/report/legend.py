"""The page's legend: check boxes that select models and attacks in every chart at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from metaeval.analysis import curves
from metaeval.analysis.reading import WORST_CASE, attacks, models, norms, references
from metaeval.report.charts.style import SHOWN_MODELS, dash, look
from metaeval.report.words import escape

_SHAPES = {
    "circle": '<circle cx="8" cy="8" r="5"/>',
    "square": '<rect x="3.5" y="3.5" width="9" height="9"/>',
    "triangle-up": '<path d="M8 2.5 13.5 13h-11z"/>',
    "triangle-down": '<path d="M8 13.5 13.5 3h-11z"/>',
    "diamond": '<path d="M8 2 13 8 8 14 3 8z"/>',
    "cross": '<path d="M6 2h4v4h4v4h-4v4H6v-4H2V6h4z"/>',
}


def legend(cube: xr.DataTree) -> str:
    """Return the legend: every model (all checked, or the leading ones of many) and every attack.

    Of the attacks the worst case is checked, and all of them where a norm has no worst case yet.
    """
    names = models(cube)
    rows = list(dict.fromkeys(row for norm in norms(cube) for row in (WORST_CASE, *attacks(cube, norm))))
    shown = leading_models(cube, names)
    model_boxes = "".join(_box("model", name, name in shown, _swatch(i)) for i, name in enumerate(names))
    everything = any(
        curves.from_cube(cube, norm)["accuracy"].sel(attack=WORST_CASE).isnull().all() for norm in norms(cube)
    )
    attack_boxes = "".join(
        _box("attack", name, everything or i == 0, _line(i)) for i, name in enumerate(rows)
    )
    buttons = "".join(
        f'<button type="button" data-{word}="model">{word}</button> ' for word in ("all", "none")
    )
    parts = [f'<fieldset><legend>Models</legend><p class="all">{buttons}</p>{model_boxes}</fieldset>']
    if rows:
        bands = '<label><input type="checkbox" id="bands" checked><span>interval bands</span></label>'
        parts.append(f"<fieldset><legend>Attacks</legend>{attack_boxes}</fieldset>")
        parts.append(f"<fieldset><legend>Curves</legend>{bands}</fieldset>")
    summary = '<summary>Shown in the charts: <span id="shown"></span></summary>'
    return f'<aside><details class="legend" open>{summary}{"".join(parts)}</details></aside>'


def leading_models(cube: xr.DataTree, names: Sequence[str]) -> set[str]:
    """Return the models checked at first: all, or of many those with the highest worst-case accuracies."""
    if len(names) <= SHOWN_MODELS:
        return set(names)
    score = np.zeros(len(names))
    for norm in norms(cube):
        for reference in references(cube, norm)[:1]:
            accuracy = curves.from_cube(cube, norm)["accuracy"]
            at = accuracy.sel(epsilon=reference.value, attack=WORST_CASE)
            score += np.nan_to_num(at.values, nan=-1.0)
    return {names[i] for i in np.argsort(-score, kind="stable")[:SHOWN_MODELS]}


def _box(kind: str, name: str, checked: bool, mark: str) -> str:
    text, state = escape(name), " checked" if checked else ""
    box = f'<input type="checkbox" name="{kind}" value="{text}"{state}>'
    return f'<label title="{text}">{box}{mark}<span>{text}</span></label>'


def _swatch(position: int) -> str:
    colour, shape = look(position)
    return f'<svg width="16" height="16" aria-hidden="true" fill="{colour}">{_SHAPES[shape]}</svg>'


def _line(position: int) -> str:
    pattern = " ".join(map(str, dash(position))) if position else "none"
    return (
        '<svg width="30" height="16" aria-hidden="true" stroke="currentColor" stroke-width="2">'
        f'<path d="M1 8h28" stroke-dasharray="{pattern}"/></svg>'
    )
