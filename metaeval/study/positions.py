"""Where every key and list item of a TOML document stands: line and column, in characters, from 1."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import toml_rs

Loc = tuple[str | int, ...]

_SEGMENT = r""""(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+"""
_HEADER = re.compile(rf"[ \t]*(\[\[?)([ \t]*(?:{_SEGMENT})(?:[ \t]*\.[ \t]*(?:{_SEGMENT}))*)[ \t]*\]")
_BEFORE = re.compile(rf"({_SEGMENT})[ \t]*\.[ \t]*$")


def positions(text: str) -> dict[Loc, tuple[int, int]]:
    """Return the position of every key, table header and list item of a valid TOML document.

    Parameters
    ----------
    text : str
        The document, with ``\\n`` line ends.

    Returns
    -------
    dict
        From a path such as ``("models", 0, "grid", "depth", 1)`` to (line, column). A table stands in its
        own header if it has one, every other key where it is first written.
    """
    return _Document(text).found


class _Document:
    """One document on the way to its positions.

    toml-rs knows the places of keys and values (columns in UTF-8 bytes), but not of table headers and of
    the parts of a dotted key before the last one; those are read from the text.
    """

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.found: dict[Loc, tuple[int, int]] = {}
        self.inside: set[int] = set()  # lines that begin within a string or a list
        nodes = toml_rs.load_with_metadata(text, toml_version="1.0.0").meta["nodes"]
        self._visit_value(nodes, ())
        self._visit_headers()

    def _note(self, loc: Loc, line: int, column: int) -> None:
        self.found[loc] = min(self.found.get(loc, (line, column)), (line, column))

    def _characters(self, line: int, column: Any) -> int:
        """Turn a column in bytes (or the first of a pair) into a column in characters."""
        first = column[0] if isinstance(column, tuple) else column
        return len(self.lines[line - 1].encode()[: first - 1].decode(errors="ignore")) + 1

    def _visit_value(self, value: Any, loc: Loc) -> None:
        if isinstance(value, dict):
            for key, node in value.items():
                self._visit_node(node, (*loc, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._visit_item(item, (*loc, index))

    def _visit_node(self, node: Any, loc: Loc) -> None:
        # A table made by headers or dots is the plain dict of its keys; there `key_line`, if it is a key, is
        # a dict again.
        if not isinstance(node.get("key_line"), int):
            self._visit_value(node, loc)
            return
        line = node["key_line"]
        column = self._characters(line, node["key_col"])
        self._note(loc, line, column)
        self._visit_dots(loc, line, column)
        self._skip(node)
        self._visit_value(node.get("value"), loc)

    def _visit_item(self, item: Any, loc: Loc) -> None:
        # Tables in a list of lists come without their own place.
        if isinstance(item, dict) and isinstance(item.get("value_line"), int | tuple):
            line = item["value_line"]
            line = line[0] if isinstance(line, tuple) else line
            self._note(loc, line, self._characters(line, item["value_col"]))
            self._skip(item)
            item = item.get("value")
        self._visit_value(item, loc)

    def _skip(self, node: dict[str, Any]) -> None:
        line = node.get("value_line")
        if isinstance(line, tuple):
            self.inside.update(range(line[0] + 1, line[1] + 1))

    def _visit_dots(self, loc: Loc, line: int, column: int) -> None:
        """Note the parts of a dotted key before its last."""
        before = self.lines[line - 1][: column - 1]
        while match := _BEFORE.search(before):
            loc, before = loc[:-1], before[: match.start()]
            self._note(loc, line, match.start() + 1)

    def _visit_headers(self) -> None:
        """Note the tables of ``[a.b]`` and ``[[a.b]]``, and each element of an array of tables."""
        counts: dict[Loc, int] = {}
        for number, line in enumerate(self.lines, start=1):
            match = None if number in self.inside else _HEADER.match(line)
            if not match:
                continue
            segments = list(re.finditer(_SEGMENT, match[2]))
            loc: Loc = ()
            for segment in segments:
                loc = (*loc, _unquoted(segment[0]))
                self._note(loc, number, match.start(2) + segment.start() + 1)
                if segment is segments[-1] and match[1] == "[[":
                    counts[loc] = counts.get(loc, 0) + 1
                if loc in counts:
                    loc = (*loc, counts[loc] - 1)
            # Not where a header of a table within it, or toml-rs (the bracket), had it.
            self.found[loc] = (number, match.start(2) + segments[-1].start() + 1)


def _unquoted(segment: str) -> str:
    if segment[0] in "\"'":
        return str(tomllib.loads(f"key = {segment}")["key"])
    return segment
