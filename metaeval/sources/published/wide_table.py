"""Wide tables: one row per model, one column per test set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metaeval.sources.published.content import ALL, Problems, repeated
from metaeval.sources.published.mapping import Mapping
from metaeval.sources.published.numbers import as_share, missing
from metaeval.study.numbers import parse_fraction

Lines = Sequence[tuple[int, dict[str, str]]]


@dataclass(frozen=True)
class Content:
    """What a table gives: models, columns of `/models`, groups and their attributes, counts, sentences."""

    models: list[str]
    columns: dict[str, list[Any]]
    groups: dict[str, dict[str, Any]]
    counts: dict[str, int]
    notes: list[str]
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


def settings(header: Sequence[str], mapping: Mapping) -> list[str]:
    """Return the columns that hold results."""
    others = {mapping.model, *mapping.properties, *mapping.skip}
    return [name for name in header if name not in others]


def read(rows: Lines, header: Sequence[str], mapping: Mapping, problems: Problems) -> Content:
    """Return a wide table; columns without a single number are properties of the models."""
    models = [cells[mapping.model] for _, cells in rows]
    for line, cells in rows:
        if not cells[mapping.model]:
            problems.add(mapping.model, "the model has no name", line=line)
    for name in repeated(models):
        line = [line for line, cells in rows if cells[mapping.model] == name][1]
        problems.add(mapping.model, f"{name!r} has two rows", line=line)
    words = [name for name in settings(header, mapping) if _is_text([cells[name] for _, cells in rows])]
    results = [name for name in settings(header, mapping) if name not in words]
    if not results:
        problems.add("header", "no column holds numbers")
    if mapping.clean in words:
        problems.add(mapping.clean, "the column holds no number")
    unit = str(mapping.unit)
    shares = {
        name: [as_share(cells[name], unit, name, line, problems) for line, cells in rows] for name in results
    }
    places = {name: _place(name, mapping) for name in results if name != mapping.clean}
    for place in repeated([f"{shift} at severity {severity}" for shift, severity, _ in places.values()]):
        problems.add("settings", f"two columns mean {place}")
    problems.stop()
    groups: dict[str, dict[str, Any]] = {}
    if mapping.clean is not None:
        groups["clean"] = {
            "model": models,
            "class": [ALL],
            "accuracy": np.array(shares[mapping.clean])[:, None],
            "correct": np.full((len(models), 1), -1),
            "total": np.array([-1]),
        }
    if places:
        groups["shifts"] = _shifts(models, shares, places)
    size = len(models) * len(results)
    given = size - int(sum(np.isnan(column).sum() for column in shares.values()))
    empty = [name for name, column in shares.items() if np.isnan(column).all()]
    notes = [
        "The table holds one accuracy per model and test set and no number of samples, no classes and no "
        "per-sample outcomes: no interval over test samples, paired test or accuracy per class can be "
        "computed.",
        f"All {size:,} results are given."
        if given == size
        else f"{given:,} of {size:,} results are given ({100 * given / size:.0f} %); the others are missing "
        "and stay so.",
    ]
    if words:
        notes.append(f"Columns of text, kept as properties of the models: {', '.join(words)}.")
    if empty:
        notes.append(f"Columns without any result: {', '.join(empty)}.")
    if mapping.clean is None:
        notes.append(
            "The table does not say which column is the original test set, so no gap can be computed."
        )
    columns = {name: [cells[name] or None for _, cells in rows] for name in [*mapping.properties, *words]}
    counts = {
        "models": len(models),
        "settings": len(results),
        "results": given,
        "holes": size - given,
    }
    return Content(models, numbers(columns), groups, counts, notes)


def numbers(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return columns with those of numbers only as numbers."""
    return {name: _as_numbers(column) if not _is_text(column) else column for name, column in columns.items()}


def _as_numbers(column: list[Any]) -> list[Any]:
    exact = [None if missing(value) else parse_fraction(value) for value in column]
    whole = all(value is not None and value.denominator == 1 for value in exact)
    return [None if value is None else int(value) if whole else float(value) for value in exact]


def _is_text(values: Sequence[Any]) -> bool:
    """Tell whether there are values and none of them is a number."""
    known = [value for value in values if not missing(value)]
    return bool(known) and not any(_is_number(value) or ERROR.search(str(value)) for value in known)


ERROR = re.compile(r"^[0-9.]+ ?(±|\+/?-|\()")
"""What a number with its error begins with: no number, and no property either."""


def _is_number(value: Any) -> bool:
    try:
        parse_fraction(value)
    except ValueError:
        return False
    return True


def _place(column: str, mapping: Mapping) -> tuple[str, int, str]:
    """Return shift, severity and kind of a column: by the first pattern that it matches, else itself."""
    for setting in mapping.settings:
        found = setting.match(column)
        if found:
            return *found, setting.kind
    return column, 0, "test set"


def _shifts(
    models: list[str], shares: dict[str, list[float]], places: dict[str, tuple[str, int, str]]
) -> dict[str, Any]:
    kinds = {shift: kind for shift, _, kind in places.values()}
    shifts = list(kinds)
    severities = sorted({severity for _, severity, _ in places.values()})
    accuracy = np.full((len(models), 1, len(shifts), len(severities)), np.nan)
    for column, (shift, severity, _) in places.items():
        accuracy[:, 0, shifts.index(shift), severities.index(severity)] = shares[column]
    there = ~np.isnan(accuracy).all(axis=(1, 3))
    return {
        "model": models,
        "class": [ALL],
        "shift": shifts,
        "severity": severities,
        "kind": list(kinds.values()),
        "accuracy": accuracy,
        "correct": np.full(accuracy.shape, -1),
        "total": np.full(accuracy.shape[1:], -1),
        "status": np.where(there, 1, 3),
        "reason": np.where(there, "", "not published"),
    }
