"""The page of measures is that of the registry."""

from __future__ import annotations

from pathlib import Path

from metaeval.measures.document import page
from metaeval.measures.registry import measures

PAGE = Path(__file__).parents[2] / "docs" / "measures.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "python -m metaeval.measures.document > docs/measures.md"
    )


def test_every_measure_has_its_formula_and_source() -> None:
    text = page()
    for measure in measures().values():
        entry = text.split(f"### `{measure.name}`\n")[1].split("\n### ")[0]
        assert measure.formula in entry
        assert measure.citation in entry
        assert all(f"`{name} = " in entry for name in measure.settings)
