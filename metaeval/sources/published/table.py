"""Published tables of accuracies: one row for each model (wide) or for each number (long)."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaeval.errors import nearest
from metaeval.sources.published import long_table, wide_table
from metaeval.sources.published.content import Problems, Published, read_text, repeated
from metaeval.sources.published.mapping import Columns, Mapping, read_mapping
from metaeval.sources.published.numbers import missing
from metaeval.study.numbers import parse_fraction

VALUES = {"accuracy_percent": "percent", "accuracy": None}
"""Names that a long table's column of numbers may have without a mapping, and the unit that the name says."""
KEYS = ("class", "epsilon", "attack", "stage", "shift", "severity", "total", "minutes")


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
    chosen = _with_unit(chosen, table, path)
    _check_columns(chosen, table, Problems(mapping or path), path)
    reader = long_table.read if chosen.layout == "long" else wide_table.read
    content = reader(table.rows, table.header, chosen, Problems(path))
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
        content.notes,
        attributes=content.attributes,
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
    problems.stop()
    return Rows(header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]])


def _guess(table: Rows) -> Mapping:
    """Return the mapping that the names of a table's columns mean."""
    value = next((name for name in VALUES if name in table.header), None)
    keys = [name for name in KEYS if name in table.header]
    if value is None or not keys:
        model = "model" if "model" in table.header else table.header[0]
        clean = next((name for name in ("clean", "clean_accuracy") if name in table.header), None)
        return Mapping.model_validate({"layout": "wide", "model": model, "clean": clean})
    columns = Columns.model_validate({"value": value, **{name: name for name in keys}})
    return Mapping.model_validate({"layout": "long", "unit": VALUES[value], "columns": columns})


def _with_unit(mapping: Mapping, table: Rows, path: Path) -> Mapping:
    """Return the mapping with its unit: shares above 1 can only be percent."""
    if mapping.unit is not None:
        return mapping
    used = [mapping.columns.value] if mapping.layout == "long" else wide_table.settings(table.header, mapping)
    largest = None
    for _, cells in table.rows:
        for name in used:
            try:
                number = None if missing(cells.get(name)) else parse_fraction(cells[name])
            except ValueError:
                continue
            largest = number if largest is None or (number is not None and number > largest) else largest
    return mapping.model_copy(
        update={"unit": "percent" if largest is not None and largest > 1 else "fraction"}
    )


def _check_columns(mapping: Mapping, table: Rows, problems: Problems, path: Path) -> None:
    """Raise for columns that the mapping names and the table does not have."""
    named = {"model": mapping.model}
    if mapping.layout == "long":
        named |= {f"columns.{key.rstrip('_')}": name for key, name in mapping.columns if name is not None}
    elif mapping.clean is not None:
        named["clean"] = mapping.clean
    named |= {f"properties[{i}]": name for i, name in enumerate(mapping.properties)}
    named |= {f"skip[{i}]": name for i, name in enumerate(mapping.skip)}
    for key, name in named.items():
        if name not in table.header:
            problems.add(key, f"{path.name} has no column {name!r}", nearest(name, table.header))
    problems.stop()
