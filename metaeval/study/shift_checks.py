"""What must hold between the tables of ``[[shifts]]``: names that are different, lists without repeats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metaeval.study.messages import Mistake
from metaeval.study.shift_inputs import CORRUPTIONS


def check_shifts(tables: Any) -> Iterator[Mistake]:
    """Yield what is wrong between shifts; what has a wrong type is passed over."""
    owner: dict[str, int] = {}
    for i, table in enumerate(tables if isinstance(tables, list) else []):
        if not isinstance(table, dict):
            continue
        for key in ("names", "severities"):
            items = table.get(key)
            items = items if isinstance(items, list) else []
            for j, item in enumerate(items):
                if item in items[:j]:
                    yield Mistake(("shifts", i, key, j), f"{item!r} is listed twice")
        for key, name in _names(table):
            first = owner.setdefault(name, i)
            if first != i:
                where, way = f"shifts[{first}]", "set prefix" if key in ("prefix", "names") else "set name"
                yield Mistake(("shifts", i, key), f"a shift {name!r} is there already ({where}); {way}")


def _names(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of a table's shifts, each with the key that decides it."""
    source = table.get("source")
    if source in ("cifar10-c", "cifar100-c", "imagenet-c", "corruptions"):
        prefix, names = table.get("prefix", ""), table.get("names", list(CORRUPTIONS))
        key = "prefix" if prefix else "names"
        unique = dict.fromkeys(name for name in names if isinstance(name, str)) if _listed(names) else {}
        yield from ((key, f"{prefix}{name}") for name in unique)
        return
    written = table.get("name")
    defaults = {
        "cifar10.1": "cifar10.1",
        "attacked": str(table.get("attack", "")).partition("@")[0],
        "callable": str(table.get("transform", "")).rpartition(":")[2],
    }
    name = written if isinstance(written, str) else defaults.get(str(source), "")
    if name:
        yield "name", name


def _listed(names: Any) -> bool:
    return isinstance(names, list)
