"""RobustBench's tables of accuracy by corruption and severity."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from metaeval.sources.published.content import ALL, Problems, repeated
from metaeval.sources.published.numbers import missing, share

KIND = "corruption"


def read(
    tables: Mapping[str, str], models: list[str], columns: Mapping[str, list[Any]]
) -> tuple[dict[str, Any], list[str], int]:
    """Return the group `/shifts`, what its tables contradict, and the number of results read.

    Parameters
    ----------
    tables : mapping of str to str
        Path to text of each table: a row of corruptions, a row of severities, a row for each model.
    models : list of str
        Names of the JSON files; the tables' rows are found under them, also with `_` left out.
    columns : mapping
        The models' published means, which each table is compared with.
    """
    notes: list[str] = []
    values: dict[tuple[str, int], dict[str, float]] = {}
    if not tables:
        return {}, ["No table of single corruptions lies beside the JSON files."], 0
    for place, text in sorted(tables.items()):
        problems = Problems(place)
        found = _table(text, problems)
        names = _aliases(list(found), models, problems)
        problems.stop()
        label = PurePosixPath(place).name
        renamed = [f"{row} is {name}" for row, name in names.items() if name and row != name]
        if renamed:
            notes.append(f"Names of {label} that the JSON files write differently: {', '.join(renamed)}.")
        strangers = [row for row, name in names.items() if not name]
        if strangers:
            notes.append(f"Rows of {label} without a JSON file are left out: {', '.join(strangers)}.")
        column = "corruptions_3d_accuracy" if label.endswith("_3d.csv") else "corruptions_accuracy"
        notes += _compare(label, found, names, models, columns.get(column))
        for row, numbers in found.items():
            for key, value in numbers.items():
                values.setdefault(key, {})[names[row]] = value
    shifts = list(dict.fromkeys(shift for shift, _ in values))
    severities = sorted({severity for _, severity in values})
    accuracy = np.full((len(models), 1, len(shifts), len(severities)), np.nan)
    for (shift, severity), cells in values.items():
        for model, value in cells.items():
            if model:
                at = models.index(model), 0, shifts.index(shift), severities.index(severity)
                accuracy[at] = value
    there = ~np.isnan(accuracy).all(axis=(1, 3))
    group = {
        "model": models,
        "class": [ALL],
        "shift": shifts,
        "severity": severities,
        "kind": [KIND] * len(shifts),
        "accuracy": accuracy,
        "correct": np.full(accuracy.shape, -1),
        "total": np.full(accuracy.shape[1:], -1),
        "status": np.where(there, 1, 3),
        "reason": np.where(there, "", "not published"),
    }
    return group, notes, int((~np.isnan(accuracy)).sum())


def _table(text: str, problems: Problems) -> dict[str, dict[tuple[str, int], float]]:
    """Return model to (corruption, severity) to accuracy."""
    rows = list(csv.reader(io.StringIO(text)))
    if len(rows) < 3 or not all(cell.strip().isdigit() for cell in rows[1][1:]):
        raise problems.fail("header", "a row of corruptions, one of severities and one per model are needed")
    keys = [(name.strip(), int(level)) for name, level in zip(rows[0][1:], rows[1][1:], strict=False)]
    if len(rows[0]) != len(rows[1]) or len(set(keys)) != len(keys):
        raise problems.fail("header", "corruptions and severities do not pair, or a pair occurs twice")
    for name in repeated([row[0] for row in rows[2:] if row]):
        problems.add(name, "the model has two rows")
    found: dict[str, dict[tuple[str, int], float]] = {}
    for line, row in enumerate(rows[2:], start=3):
        if not row:
            continue
        if len(row) != len(rows[0]):
            problems.add(row[0], f"{len(row) - 1} values where {len(keys)} are needed", line=line)
            continue
        cells = found.setdefault(row[0], {})
        for key, value in zip(keys, row[1:], strict=True):
            try:
                if not missing(value):
                    cells[key] = share(value, "fraction")
            except ValueError as error:
                problems.add(f"{row[0]}, {key[0]} {key[1]}", str(error), line=line)
    return found


def _aliases(rows: list[str], models: list[str], problems: Problems) -> dict[str, str]:
    """Return the model that each row means, "" for none; `_` and the case of letters do not count."""
    plain: dict[str, list[str]] = {}
    for model in models:
        plain.setdefault(_plain(model), []).append(model)
    names = {}
    for row in rows:
        similar = plain.get(_plain(row), [])
        names[row] = row if row in models else similar[0] if len(similar) == 1 else ""
    for name in repeated([name for name in names.values() if name]):
        problems.add(name, "two rows mean this model")
    return names


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _compare(
    label: str,
    found: Mapping[str, Mapping[tuple[str, int], float]],
    names: Mapping[str, str],
    models: list[str],
    published: list[Any] | None,
) -> list[str]:
    """Return where the mean of a model's row is not the mean that its JSON file says."""
    differ = []
    for row, cells in found.items():
        if not names[row] or published is None or not cells:
            continue
        printed = published[models.index(names[row])]
        mean = sum(map(Fraction, map(repr, cells.values()))) / len(cells)
        if not missing(printed) and abs(float(mean) - printed) >= 1e-4:  # a unit in the last printed place
            differ.append(f"{names[row]} {100 * float(mean):.2f} and {100 * printed:.2f}")
    return (
        [f"Means of {label} and the means in the JSON files differ: {', '.join(differ)} %."] if differ else []
    )
