"""Published tables of accuracies: one row for each model (wide) or for each number (long)."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from metaeval.errors import nearest
from metaeval.sources.published import long_table, wide_table
from metaeval.sources.published.content import Problems, Published, read_text, repeated
from metaeval.sources.published.mapping import Columns, Mapping, line_of, read_mapping
from metaeval.sources.published.numbers import missing
from metaeval.study.numbers import parse_fraction

VALUES = {"accuracy_percent": "percent", "accuracy": None}
"""Names that a long table's column of numbers may have without a mapping, and the unit that the name says."""
KEYS = ("class", "norm", "epsilon", "attack", "stage", "shift", "severity", "total", "minutes")

CLEAN = ("clean", "clean_accuracy", "clean accuracy", "clean_acc", "clean acc")
PROPERTIES = (
    *("parameters", "parameters_million", "params", "params_m", "params (m)", "#params", "num_params"),
    *("n_params", "flops", "gflops", "macs", "year", "depth", "width", "epochs", "seed", "batch_size"),
    *("image_size", "resolution", "input_size", "id", "rank"),
)
"""Names, in small letters, of the clean column and of columns of numbers that are no accuracies."""


@dataclass(frozen=True)
class Rows:
    """A CSV file: its header, and (line, cells by column) for each row."""

    header: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read(path: Path, mapping: Path | None = None) -> Published:
    """Return a published table as a cube's content; missing stays missing.

    Parameters
    ----------
    path : Path
        CSV with a header.
    mapping : Path, optional
        What the columns mean. Without it a table with a column `accuracy` or `accuracy_percent` is long, its
        columns named as `mapping.Columns`; any other is wide, every column of numbers a test set.

    Raises
    ------
    StudyError
        With every problem in the table or the mapping, by line.
    MissingInputError
        If a file is not there.
    """
    table = _rows(path)
    chosen = read_mapping(mapping) if mapping else _guess(table)
    _check_columns(chosen, table, mapping, path)
    chosen, said = _with_unit(chosen, table, path)
    reader = long_table.read if chosen.layout == "long" else wide_table.read
    content = reader(table.rows, table.header, chosen, Problems(path))
    if mapping:
        _check_claims(chosen, content, mapping)
    options: dict[str, Any] = {
        "layout": chosen.layout,
        "unit": chosen.unit,
        "unit_from_the_values": mapping is None or "unit" not in chosen.model_fields_set,
        "mapping": mapping.name if mapping else None,
    }
    return Published(
        "table",
        re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem),
        chosen.title or f"Published results of {path.name}",
        content.models,
        content.columns,
        content.groups,
        [path, *([mapping] if mapping else [])],
        options,
        content.counts,
        content.notes + said,
        _of_another_unit(chosen, table) if said else [],
        content.attributes,
    )


def _rows(path: Path) -> Rows:
    problems = Problems(path)
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    lines = []
    try:
        for cells in reader:
            lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise problems.fail("CSV", str(error), line=reader.line_num) from None
    lines = [(line, cells) for line, cells in lines if any(cells)]
    if len(lines) < 2:
        raise problems.fail("CSV", "a header and one row at least are needed")
    header = lines[0][1]
    for name in repeated(header):
        problems.add(name or "header", "the column occurs twice")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            problems.add("row", f"{len(cells)} cells where the header has {len(header)}", line=line)
    mark = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    if mark is not None:
        raise Problems(path).fail("header", f"commas are needed between the columns, not {mark!r}")
    problems.stop()
    return Rows(header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]])


def _guess(table: Rows) -> Mapping:
    """Return the mapping that the names of a table's columns mean."""
    value = next((name for name in VALUES if name in table.header), None)
    keys = [name for name in KEYS if name in table.header]
    if value is None or not keys:
        model = "model" if "model" in table.header else table.header[0]
        clean = next((name for name in table.header if name.lower() in CLEAN), None)
        properties = [name for name in table.header if name.lower() in PROPERTIES and name != model]
        return Mapping.model_validate(
            {"layout": "wide", "model": model, "clean": clean, "properties": properties}
        )
    columns = Columns.model_validate({"value": value, **{name: name for name in keys}})
    return Mapping.model_validate({"layout": "long", "unit": VALUES[value], "columns": columns})


def _with_unit(mapping: Mapping, table: Rows, path: Path) -> tuple[Mapping, list[str]]:
    """Return the mapping with its unit, and how it was found: by signs, or by numbers above 1.

    Signs of percent are taken off the table's cells.
    """
    problems = Problems(path)
    signed = False
    for name in _used(mapping, table):
        cells = [(line, row) for line, row in table.rows if not missing(row[name])]
        bare = [(line, row) for line, row in cells if not PERCENT.fullmatch(row[name])]
        if len(bare) == len(cells):
            continue
        signed = True
        for line, _ in bare[:1]:
            problems.add(name, "some numbers of this column have a % and some have none", line=line)
        for _, row in cells:
            row[name] = row[name].removesuffix("%").strip()
    if signed and mapping.unit == "fraction":
        problems.add("unit", "the mapping says that the numbers are fractions, but they have a %")
    problems.stop()
    if mapping.unit is not None:
        return mapping, []
    if signed:
        return mapping.model_copy(update={"unit": "percent"}), []
    largest = max(
        (number for name in _used(mapping, table) for number in _numbers(table, name)), default=None
    )
    percent = largest is not None and largest > 1
    why = "because some are above 1" if percent else "because none is above 1"
    unit = "percent" if percent else "fraction"
    said = f"Nobody said in which unit the accuracies are: they were read as {unit}, {why}."
    return mapping.model_copy(update={"unit": unit}), [said]


PERCENT = re.compile(r"[0-9.]+ ?%")


def _used(mapping: Mapping, table: Rows) -> list[str]:
    """Return the columns that hold results."""
    if mapping.layout == "long":
        return [mapping.columns.value]
    return wide_table.settings(table.header, mapping)


def _numbers(table: Rows, name: str) -> list[Fraction]:
    """Return the numbers of a column."""
    found = []
    for _, cells in table.rows:
        with contextlib.suppress(ValueError):
            found += [] if missing(cells[name]) else [parse_fraction(cells[name])]
    return found


def _of_another_unit(mapping: Mapping, table: Rows) -> list[str]:
    """Return a warning for columns that look like fractions where others made percent the unit."""
    if mapping.unit != "percent" or mapping.layout == "long":
        return []
    found = [
        name for name in _used(mapping, table) if (numbers := _numbers(table, name)) and 0 < max(numbers) <= 1
    ]
    if not found:
        return []
    return [
        f"No number of {', '.join(found)} is above 1, others are: all were read as percent. If these are "
        'fractions, give them like the others; if they are percent, say unit = "percent" in a mapping.'
    ]


def _check_columns(mapping: Mapping, table: Rows, file: Path | None, path: Path) -> None:
    """Raise for columns that the mapping names and the table does not have."""
    problems = Problems(file or path)
    named = {"model": mapping.model}
    if mapping.layout == "long":
        named |= {f"columns.{key.rstrip('_')}": name for key, name in mapping.columns if name is not None}
    elif mapping.clean is not None:
        named["clean"] = mapping.clean
    named |= {f"properties[{i}]": name for i, name in enumerate(mapping.properties)}
    named |= {f"skip[{i}]": name for i, name in enumerate(mapping.skip)}
    for key, name in named.items():
        if name not in table.header:
            line = line_of(file, key) if file else 1
            near = nearest(name, table.header)
            problems.add(key, f"{path.name} has no column {name!r}", near, line=line)
    problems.stop()


def _check_claims(mapping: Mapping, content: wide_table.Content, file: Path) -> None:
    """Raise for claims about models and classes that the table does not have."""
    problems = Problems(file)
    groups = content.groups.values()
    known = {"model": content.models, "class": [str(c) for group in groups for c in group.get("class", [])]}
    for i, claim in enumerate(mapping.claims):
        for kind, name in (("model", claim.model), ("class", claim.class_)):
            if name and name not in known[kind]:
                key = f"claims[{i}].{kind}"
                message, near = f"the table has no {kind} {name!r}", nearest(name, known[kind])
                problems.add(key, message, near, line=line_of(file, key))
    problems.stop()
