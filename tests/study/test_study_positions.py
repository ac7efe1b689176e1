"""Positions in TOML documents: against a writer that knows where it put everything, and tomllib's tree."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from metaeval.study.positions import Loc, positions

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def paths(value: Any, loc: Loc = ()) -> Iterator[Loc]:
    """Yield every path of a parsed document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, item in inner:
        yield (*loc, part)
        yield from paths(item, (*loc, part))


def placed(document: Any) -> set[Loc]:
    """Return the paths that have a place: all, but for tables directly in a list of lists (toml-rs)."""
    nested = set()
    for loc in paths(document):
        value = document
        for part in loc:
            value = value[part]
        if isinstance(value, dict) and all(isinstance(part, int) for part in loc[-2:]):
            nested.add(loc)
    return set(paths(document)) - nested


EXAMPLE = '''
"ä" = "é" # ünïcode [no.header]
a.b . "c d" = 1
text = """
[not.a.header]
x = 1
"""
list = [
  1, "é", [2,
  [3]], # [4]
  { p = 1, q.r = 2 },
]

[ study . 'x y' ]   # a comment
é-less = 1

[[models]]
[[models]]
grid = { "ö" = 1, depth = [1, 2] }
[models.sub]
k = 1
[[models.sub.rows]]
[[models.sub.rows]]
k = 2
[study]
'''.replace("é-less", "e-less")


def test_every_kind_of_key_has_its_place() -> None:
    assert positions(EXAMPLE) == {
        ("ä",): (2, 1),
        ("a",): (3, 1),
        ("a", "b"): (3, 3),
        ("a", "b", "c d"): (3, 7),
        ("text",): (4, 1),
        ("list",): (8, 1),
        ("list", 0): (9, 3),
        ("list", 1): (9, 6),
        ("list", 2): (9, 11),
        ("list", 2, 0): (9, 12),
        ("list", 2, 1): (10, 3),
        ("list", 2, 1, 0): (10, 4),
        ("list", 3): (11, 3),
        ("list", 3, "p"): (11, 5),
        ("list", 3, "q"): (11, 12),
        ("list", 3, "q", "r"): (11, 14),
        ("study",): (25, 2),  # its own header, not where a table within it is opened
        ("study", "x y"): (14, 11),
        ("study", "x y", "e-less"): (15, 1),
        ("models",): (17, 3),
        ("models", 0): (17, 3),
        ("models", 1): (18, 3),
        ("models", 1, "grid"): (19, 1),
        ("models", 1, "grid", "ö"): (19, 10),
        ("models", 1, "grid", "depth"): (19, 19),
        ("models", 1, "grid", "depth", 0): (19, 28),
        ("models", 1, "grid", "depth", 1): (19, 31),
        ("models", 1, "sub"): (20, 9),
        ("models", 1, "sub", "k"): (21, 1),
        ("models", 1, "sub", "rows"): (22, 14),
        ("models", 1, "sub", "rows", 0): (22, 14),
        ("models", 1, "sub", "rows", 1): (23, 14),
        ("models", 1, "sub", "rows", 1, "k"): (24, 1),
    }


@pytest.mark.parametrize("name", ["key_line", "value_line", "value", "key"])
def test_keys_with_the_names_of_the_parsers_own_fields(name: str) -> None:
    assert positions(f"[t]\n{name} = 1\n[t.u]\n{name}.x = 2\n")["t", name] == (2, 1)
    assert positions(f"x = [{{ {name} = 1 }}]\n")["x", 0, name] == (1, 8)


class Writer:
    """Writes a TOML document and notes where it put every key and item."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.places: dict[Loc, tuple[int, int]] = {}
        self.names = 0

    def here(self) -> tuple[int, int]:
        return self.text.count("\n") + 1, len(self.text) - self.text.rfind("\n")

    def space(self) -> None:
        self.text += self.draw(st.sampled_from(["", "", " ", "\t"]))

    def key(self, loc: Loc, *, note: bool = True) -> Loc:
        """Write a new key and return its path."""
        self.names += 1
        name = self.draw(st.sampled_from(["a", "key_line", "value", "x-1_", "é.ü", "[q]", 'ö"', ""]))
        name += str(self.names)
        bare = name.isascii() and not set(name) & set('.[]"')
        if note:
            self.places[(*loc, name)] = self.here()
        self.text += name if bare and self.draw(st.booleans()) else json.dumps(name, ensure_ascii=False)
        return (*loc, name)

    def dotted(self, loc: Loc) -> Loc:
        for last in self.draw(st.sampled_from([(True,), (True,), (False, True), (False, False, True)])):
            loc = self.key(loc)
            if not last:
                self.space()
                self.text += "."
                self.space()
        return loc

    def pair(self, loc: Loc, depth: int = 0) -> None:
        inner = self.dotted(loc)
        self.space()
        self.text += "="
        self.space()
        self.value(inner, depth)

    def value(self, loc: Loc, depth: int) -> None:
        kinds = ["scalar", "scalar"] + ["list", "table"] * (depth < 3)
        kind = self.draw(st.sampled_from(kinds))
        if kind == "list":
            gap = self.draw(st.sampled_from(["", " ", "\n  ", " # [ä]\n"]))
            self.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                self.text += gap
                self.places[(*loc, index)] = self.here()
                self.value((*loc, index), depth + 1)
                self.text += ","
            self.text += gap + "]"
        elif kind == "table":
            self.text += "{"
            for index in range(self.draw(st.integers(0, 3))):
                self.text += ", " if index else " "
                self.pair(loc, depth + 1)
            self.text += " }"
        else:
            scalars = ["1", "-0.5", "true", '"é = \\"1\\""', "'[x]'", '"""\n[a.b]\nq = 1\n"""', "'''\n[['''"]
            self.text += self.draw(st.sampled_from([*scalars, "2020-01-01", "1e3", '"a.b."']))

    def header(self, tables: list[Loc]) -> Loc:
        """Write the header of a new table or of one more element, within any table so far."""
        array = self.draw(st.booleans())
        parent = self.draw(st.sampled_from(tables))
        self.space()
        self.text += "[[" if array else "["
        for part in (part for part in parent if isinstance(part, str)):
            self.text += json.dumps(part, ensure_ascii=False) + "."
        loc = self.key(parent)
        if array:
            self.places[(*loc, 0)] = self.places[loc]
            loc = (*loc, 0)
        self.text += "]]" if array else "]"
        return loc


@st.composite
def documents(draw: Any) -> Writer:
    writer = Writer(draw)
    tables: list[Loc] = [()]
    for number in range(draw(st.integers(1, 4))):
        if number:
            tables.append(writer.header(tables))
            writer.text += "\n"
        for _ in range(draw(st.integers(0, 3))):
            writer.space()
            writer.pair(tables[-1])
            writer.text += draw(st.sampled_from(["\n", " # ü\n", "\n\n"]))
    return writer


@settings(max_examples=300, deadline=None)
@given(documents())
def test_positions_are_where_the_writer_put_things(writer: Writer) -> None:
    document = tomllib.loads(writer.text)
    assert set(writer.places) == set(paths(document))
    assert positions(writer.text) == {loc: writer.places[loc] for loc in placed(document)}


values = st.recursive(
    st.one_of(st.integers(-9, 9), st.text(max_size=5), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_documents_of_another_writer_have_all_their_keys(document: dict[str, Any]) -> None:
    text = tomli_w.dumps(document).replace("\r\n", "\n")
    assert set(positions(text)) == placed(tomllib.loads(text))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_studies_have_all_their_keys(study: Path) -> None:
    text = study.read_text(encoding="utf-8")
    found = positions(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    lines = text.split("\n")
    for loc, (line, column) in found.items():
        if isinstance(loc[-1], str):
            assert lines[line - 1][column - 1 :].startswith(loc[-1])
