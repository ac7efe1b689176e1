"""HTML tables: escaped cells, numbers to the right, what is missing marked with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metaeval.report.words import escape


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    text : str
        What it says (plain text).
    notes : tuple of str
        Further, smaller lines.
    kind : str
        "number", "text", "hash", "missing" or "failed"; decides how it looks.
    """

    text: str
    notes: tuple[str, ...] = ()
    kind: str = "number"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str | Cell]], caption: str) -> str:
    """Return an accessible table in a box that scrolls sideways; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(_row(row) for row in rows)
    label = escape(caption)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>'
        f"<caption>{label}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[str | Cell]) -> str:
    first, *rest = (cell if isinstance(cell, Cell) else Cell(cell, kind="text") for cell in row)
    cells = "".join(f'<td class="{cell.kind}">{_content(cell)}</td>' for cell in rest)
    return f'<tr><th scope="row">{_content(first)}</th>{cells}</tr>'


def _content(cell: Cell) -> str:
    notes = "".join(f"<small>{_breakable(note)}</small>" for note in cell.notes if note)
    return f"{_breakable(cell.text)}{notes}"


def _breakable(text: str) -> str:
    """Return escaped text that may break after the marks that join the parts of a name."""
    return re.sub(r"([_/:-])(?=[^\s<])", r"\1<wbr>", escape(text)) if len(text) > 12 else escape(text)
