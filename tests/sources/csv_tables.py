"""Tables for the tests of imports."""

from __future__ import annotations

from pathlib import Path

from metaeval.sources.published import table
from metaeval.sources.published.content import Published


def read(folder: Path, text: str, mapping: str | None = None) -> Published:
    (folder / "t.csv").write_text(text)
    if mapping is None:
        return table.read(folder / "t.csv")
    (folder / "m.toml").write_text(mapping)
    return table.read(folder / "t.csv", folder / "m.toml")
