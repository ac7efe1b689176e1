"""What the columns of a published table mean: a TOML file, checked before the table is read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from metaeval.errors import Problem, StudyError, nearest
from metaeval.outcomes import NORMS
from metaeval.sources.published.content import Problems, read_text
from metaeval.sources.published.numbers import share
from metaeval.study.numbers import parse_epsilon
from metaeval.study.positions import Loc, positions

QUANTITIES = ("clean accuracy", "robust accuracy", "drop", "average drop", "stage change")
Unit = Literal["percent", "fraction"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Columns(_Table):
    """Names of the columns of a long table: one row for each number."""

    value: str = "accuracy"
    class_: str | None = Field(None, alias="class")
    epsilon: str | None = None
    norm: str | None = None
    attack: str | None = None
    stage: str | None = None
    minutes: str | None = None
    shift: str | None = None
    severity: str | None = None
    total: str | None = None


class Constants(_Table):
    """What holds for the whole table and has no column."""

    norm: str | None = None
    epsilon: str | None = None
    attack: str | None = None
    total: int | None = Field(None, ge=1)

    @field_validator("norm")
    @classmethod
    def _known_norm(cls, value: str | None) -> str | None:
        if value is not None and value not in NORMS:
            raise ValueError(f"unknown norm {value!r}; allowed: {', '.join(NORMS)}")
        return value

    @field_validator("epsilon")
    @classmethod
    def _is_epsilon(cls, value: str | None) -> str | None:
        if value is not None:
            parse_epsilon(value)
        return value


class Setting(_Table):
    """Columns of a wide table by a pattern with parts in braces, as in ``imagenet-c.{shift}.{severity}``."""

    pattern: str
    shift: str = "{shift}"
    kind: str = "test set"

    @field_validator("pattern")
    @classmethod
    def _parts_once(cls, value: str) -> str:
        parts = re.findall(r"\{(\w*)\}", value)
        if not all(part.isidentifier() for part in parts) or len(set(parts)) < len(parts):
            raise ValueError("parts in braces need different names, as in 'imagenet-c.{shift}.{severity}'")
        return value

    def match(self, column: str) -> tuple[str, int] | None:
        """Return shift and severity (0 without one) of a column's name, None if it has another form."""
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(self.pattern))
        found = re.fullmatch(pattern.replace("(?P<severity>.+?)", "(?P<severity>[0-9]{1,6})"), column)
        if not found:
            return None
        parts = found.groupdict()
        name = re.sub(r"\{(\w+)\}", lambda part: parts.get(part[1], column), self.shift)
        return name, int(parts.get("severity", 0))


class Claim(_Table):
    """A number that the source prints elsewhere, to be compared with what the table gives."""

    quantity: str
    printed: str
    where: str = ""
    model: str = ""
    class_: str = Field("", alias="class")
    epsilon: str = ""
    stage: str = ""

    @field_validator("quantity")
    @classmethod
    def _known_quantity(cls, value: str) -> str:
        if value not in QUANTITIES:
            raise ValueError(f"unknown quantity {value!r}; allowed: {', '.join(QUANTITIES)}")
        return value

    @field_validator("printed")
    @classmethod
    def _is_percent(cls, value: str) -> str:
        share(value.removeprefix("-"), "percent")
        return value


class Mapping(_Table):
    """A whole mapping file."""

    layout: Literal["wide", "long"]
    title: str = ""
    unit: Unit | None = None
    model: str = "model"
    clean: str | None = None
    properties: tuple[str, ...] = Field((), strict=False)
    skip: tuple[str, ...] = Field((), strict=False)
    settings: tuple[Setting, ...] = Field((), strict=False)
    columns: Columns = Columns()  # type: ignore[call-arg]  # pydantic's aliases
    constants: Constants = Constants()  # type: ignore[call-arg]
    claims: tuple[Claim, ...] = Field((), strict=False)


def read_mapping(path: Path) -> Mapping:
    """Return a mapping file.

    Raises
    ------
    StudyError
        With every problem in the file, by line.
    MissingInputError
        If it is not there.
    """
    text = read_text(path)
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        place = re.search(r"line (\d+)", str(error))
        line = int(place[1]) if place else 1
        raise Problems(path).fail("TOML", str(error), line=line) from None
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        places = positions(text)
        found = [_problem(path, detail, places) for detail in error.errors()]
        raise StudyError(sorted(found, key=lambda problem: (problem.line, problem.key))) from None


def line_of(path: Path, key: str) -> int:
    """Return the line of a mapping file that holds a key such as ``claims[0].model``, 1 where it has none."""
    loc = tuple(int(part) if part.isdigit() else part for part in re.findall(r"\w+", key))
    places = positions(read_text(path))
    return next((places[loc[:k]][0] for k in range(len(loc), 0, -1) if loc[:k] in places), 1)


_TABLES: dict[str, type[BaseModel]] = {
    "columns": Columns,
    "constants": Constants,
    "settings": Setting,
    "claims": Claim,
}


def _problem(path: Path, detail: Any, places: dict[Loc, tuple[int, int]]) -> Problem:
    loc: Loc = tuple(detail["loc"])
    line, column = next((places[loc[:k]] for k in range(len(loc), 0, -1) if loc[:k] in places), (1, 1))
    table = _TABLES.get(str(loc[0]), Mapping) if len(loc) > 1 else Mapping
    allowed = [field.alias or name for name, field in table.model_fields.items()]
    message, suggestion = str(detail["msg"]).removeprefix("Value error, "), None
    if detail["type"] == "extra_forbidden":
        message = f"unknown key; allowed: {', '.join(allowed)}"
        suggestion = nearest(str(loc[-1]), allowed)
    elif detail["type"] == "literal_error":
        suggestion = nearest(str(detail["input"]), re.findall(r"'(\w+)'", detail["ctx"]["expected"]))
    elif "unknown quantity" in message or "unknown norm" in message:
        suggestion = nearest(str(detail["input"]), QUANTITIES if "quantity" in message else NORMS)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    return Problem(str(path), line, column, key, message, suggestion)
