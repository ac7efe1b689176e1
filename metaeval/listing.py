"""What `metaeval list` shows: one table per kind of thing that a study can name."""

from __future__ import annotations

import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def attacks() -> Rows:
    """Return one row per attack; two if it has another implementation or other defaults for a norm."""
    from metaeval.attacks import catalogue

    rows: Rows = []
    for spec in map(catalogue.get, catalogue.names()):
        norms: dict[tuple[str, str], list[str]] = {}
        for norm in spec.norms:
            served = spec.for_norm(norm)
            settings = " ".join(f"{name}={setting.default:g}" for name, setting in served.settings.items())
            norms.setdefault((served.implementation, settings), []).append(norm)
        rows += [
            {
                "id": spec.id,
                "norms": " ".join(served_norms),
                "kind": spec.kind,
                "black_box": "yes" if spec.black_box else "no",
                "implementation": implementation,
                "settings": settings,
                "citation": spec.for_norm(served_norms[0]).citation,
            }
            for (implementation, settings), served_norms in norms.items()
        ]
    return rows


def data() -> Rows:
    """Return one row per data source."""
    from metaeval.sources.data import SOURCES

    return _named("data_sources", SOURCES)


def figures() -> Rows:
    """Return one row per figure of the report."""
    from metaeval.report.figures import FIGURES

    return _named("figures", FIGURES)


def measures() -> Rows:
    """Return one row per generalization measure."""
    from metaeval.measures.registry import measures as known

    return [
        {
            "name": measure.name,
            "family": measure.family,
            "definition": measure.definition,
            "sign": f"{measure.expected_sign:+d}" if measure.expected_sign else "0",
            "needs": ", ".join(measure.needs),
            "invariance": ", ".join(measure.invariance) or "-",
            "cost": measure.cost,
            "citation": measure.citation,
        }
        for measure in known().values()
    ]


def models() -> Rows:
    """Return one row per model source and built-in architecture."""
    from metaeval.sources.models import SOURCES
    from metaeval.sources.models.architectures import ARCHITECTURES

    sources = [{"kind": "source", **row} for row in _named("model_sources", SOURCES)]
    return sources + [{"kind": "architecture", "name": n, "home": f} for n, f in ARCHITECTURES.items()]


def shifts() -> Rows:
    """Return one row per source of shifts, and one per corruption that is generated or published."""
    from metaeval.sources.shifts import SOURCES
    from metaeval.study.schema import SHIFT_SOURCES
    from metaeval.study.shift_inputs import CORRUPTIONS, FURTHER

    rows: Rows = [
        {"kind": "source", "name": name, "what": (SHIFT_SOURCES[name].__doc__ or "").strip()}
        for name in SOURCES
    ]
    rows += [{"kind": "corruption", "name": name, "what": "generated and published"} for name in CORRUPTIONS]
    return rows + [{"kind": "corruption", "name": name, "what": "published"} for name in FURTHER]


def studies() -> Rows:
    """Return one row per study file in ./studies."""
    rows: Rows = []
    for path in sorted(Path("studies").glob("*.toml")):
        title = tomllib.loads(path.read_text(encoding="utf-8")).get("study", {}).get("title", "")
        rows.append({"study": str(path), "title": title})
    return rows


LISTINGS: dict[str, Callable[[], Rows]] = {
    "attacks": attacks,
    "data": data,
    "figures": figures,
    "measures": measures,
    "models": models,
    "shifts": shifts,
    "studies": studies,
}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table with one column per key; nothing is cut off."""
    if not rows:
        print("nothing to show")
        return
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_rows(rows: Rows) -> None:
    """Print rows as a table; on a terminal that is too narrow for it, as one paragraph each."""
    longest = sum(max([len(key), *(len(str(row[key])) for row in rows)]) + 2 for key in (rows or [{}])[0])
    if not sys.stdout.isatty() or longest <= shutil.get_terminal_size().columns:
        print_table(rows)
        return
    for row in rows:
        title, *others = row.items()
        print(title[1])
        indent = 2 + max(len(key) for key, _ in others) + 2
        for key, value in others:
            text = textwrap.wrap(str(value), max(shutil.get_terminal_size().columns - indent, 40)) or [""]
            print(f"  {key}".ljust(indent) + f"\n{' ' * indent}".join(text))


def _named(group: str, builtin: dict[str, str]) -> Rows:
    from metaeval.registry import names

    return [{"name": name, "home": builtin.get(name, "entry point")} for name in names(group, builtin)]
