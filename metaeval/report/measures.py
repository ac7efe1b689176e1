"""The part of the page about generalization measures: a table of models and measures for each family."""

from __future__ import annotations

from collections import Counter

import numpy as np
import xarray as xr

from metaeval.analysis.reading import norm_dataset
from metaeval.report import words
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import escape

SCOPES = ("clean", "train")  # where a value is looked for first
CAPTIONS = {
    "sharpness": "value and 95 % interval (of a worst case: the ends of the bisection); two models whose "
    "intervals overlap are not ranked"
}
NO_VALUE = ("pending", "failed", "skipped", "undefined", "unsupported")


def measures_section(cube: xr.DataTree) -> str:
    """Return the section, or nothing where the study asks for no measures."""
    if "measures" not in cube.children:
        return ""
    group = norm_dataset(cube, "measures").transpose("model", "measure", "scope", ...)
    if "status" not in group:  # values that no run of ours has written
        return ""
    meanings = str(group["status"].attrs["flag_meanings"]).split()
    codes = [int(code) for code in group["status"].attrs["flag_values"]]
    named = np.array([dict(zip(codes, meanings, strict=True))[int(s)] for s in group["status"].values.flat])
    states = group["status"].copy(data=named.reshape(group["status"].shape).astype(object))
    families = dict.fromkeys(str(family) for family in group["family"].values)
    tables = [_table(group, states, family) for family in families]
    return (
        '<section id="measures" aria-labelledby="measures-title">'
        f'<h2 id="measures-title">Generalization measures</h2><p>{_sentence(group, states)}</p>'
        f"{''.join(tables)}{_definitions(group)}</section>"
    )


def _sentence(group: xr.Dataset, states: xr.DataArray) -> str:
    """Return how much is there, and what has become of the rest."""
    elsewhere = group["reason"].str.startswith("computed ").values & (states.values == "skipped")
    counts = Counter(states.values[~elsewhere].tolist())
    total, there = counts.total(), counts.pop("ok", 0)
    rest = [f"{count:,} {state}" for state, count in counts.most_common()]
    measures, models = (words.plural(group.sizes[dim], dim) for dim in ("measure", "model"))
    scopes = words.plural(group.sizes["scope"], "scope")
    missing = f"; {words.listing(rest)}, each with its reason" if rest else ""
    return escape(
        f"{measures} of {models} in {scopes} (clean samples, training samples, shifts): "
        f"{there:,} of {total:,} values are there{missing}. A measure that goes with robustness among these "
        "models need not cause it."
    )


def _table(group: xr.Dataset, states: xr.DataArray, family: str) -> str:
    """Return a family's table: each measure in the scope that says most."""
    header, columns = ["model"], []
    for position in np.flatnonzero(group["family"].values == family):
        scope = _scope(states.isel(measure=position))
        at = group.isel(measure=position).sel(scope=scope)
        state = states.isel(measure=position).sel(scope=scope)
        header.append(f"{at['measure'].item()} ({scope})")
        columns.append([_cell(at.isel(model=m), str(state[m].item())) for m in range(group.sizes["model"])])
    rows = [
        [str(name), *cells]
        for name, cells in zip(group["model"].values, zip(*columns, strict=True), strict=True)
    ]
    title = family.replace("_", " ").capitalize()
    table = html_table(header, rows, f"{title}: {CAPTIONS.get(family, 'value and 95 % interval')}")
    return f"<details><summary>{escape(title)}</summary>{table}</details>"


def _scope(states: xr.DataArray) -> str:
    """Return the first scope in which a measure has a value, else the first in which it was looked for."""
    names = [str(name) for name in states["scope"].values]
    ordered = [name for name in SCOPES if name in names] + [name for name in names if name not in SCOPES]
    for without_value in (NO_VALUE, ("skipped",)):
        for name in ordered:
            if not np.isin(states.sel(scope=name).values.astype(str), without_value).all():
                return name
    return ordered[0]


def _cell(at: xr.Dataset, state: str) -> Cell:
    if state != "ok":
        kind = "failed" if state == "failed" else "missing"
        return Cell(state, (str(at["reason"].item()),), kind)
    lower, upper = float(at["lower"]), float(at["upper"])
    known = not (np.isnan(lower) and np.isnan(upper))
    notes = (f"{_end(lower)} to {_end(upper)}" if known else "", str(at["note"].item()))
    return Cell(_end(float(at["value"])), notes)


def _end(value: float) -> str:
    return "?" if np.isnan(value) else words.number(value).replace("-", "−")


def _definitions(group: xr.Dataset) -> str:
    names = ("measure", "definition", "settings", "caveats", "citation")
    columns = [[str(value) for value in group[name].values] for name in names]
    rows: list[list[str | Cell]] = [
        [row[0], *(Cell(text, kind="text") for text in row[1:])] for row in zip(*columns, strict=True)
    ]
    table = html_table(["measure", "what it is", "settings", "caveats", "source"], rows, "Definitions")
    return f"<details><summary>What they are</summary>{table}</details>"
