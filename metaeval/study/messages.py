"""Pydantic's errors in the words of people who write study files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

from metaeval.errors import nearest, unknown
from metaeval.study.numbers import describe
from metaeval.study.positions import Loc
from metaeval.study.schema import TAGS, Study, sources


class Mistake(NamedTuple):
    """What is wrong at a path of the study, and what was probably meant."""

    loc: Loc
    message: str
    suggestion: str | None = None


# What a value of the wrong kind should have been, by pydantic's error type.
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def mistakes(error: ValidationError, document: Mapping[str, Any]) -> list[Mistake]:
    """Return every mistake that a validation of a document found; one per path, in plain words."""
    details = [detail for detail in error.errors() if not _follows(detail)]
    found = {mistake.loc: mistake for mistake in (_mistake(detail, document) for detail in details)}
    # A misspelt key is one mistake, not an unknown and a missing one.
    meant = {(*loc[:-1], near) for loc, _, near in found.values() if near}
    missing = {_without_tags(detail["loc"]) for detail in details if detail["type"] == "missing"}
    return [mistake for loc, mistake in found.items() if not (loc in missing and loc in meant)]


def _follows(detail: Any) -> bool:
    """Tell whether an error only follows from another: defaults of a wrong key, lists of wrong items."""
    kind = detail["type"]
    return kind == "default_factory_not_called" or (kind == "too_short" and bool(detail["input"]))


def _mistake(detail: Any, document: Mapping[str, Any]) -> Mistake:
    kind, context = detail["type"], detail.get("ctx", {})
    tagged: Loc = detail["loc"]
    loc = _without_tags(tagged)
    value = _written(document, loc, detail["input"])
    key = loc[-1] if loc else ""
    if kind == "missing":
        return Mistake(loc, f"missing{_hint(tagged)}")
    if kind == "extra_forbidden":
        return _unknown_key(loc, tagged)
    if kind.startswith("union_tag"):
        return _source(loc, value)
    if kind == "literal_error" and key == "source":
        return _source(loc[:-1], {"source": value})
    if kind == "literal_error":
        if key == "schema_version":
            return Mistake(loc, f"this version of metaeval reads schema_version 1, got {describe(value)}")
        allowed = [str(option) for option in get_args(_annotation(tagged))]
        if not isinstance(value, str):
            return Mistake(loc, f"expected one of {', '.join(sorted(allowed))}, got {describe(value)}")
        return Mistake(loc, *unknown(str(_name(loc)), value, allowed))
    if kind == "value_error":
        return Mistake(loc, str(context["error"]), getattr(context["error"], "suggestion", None))
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return Mistake(loc, f"must be {words} {context[bound]:g}, got {describe(value)}")
    if kind in ("too_short", "string_too_short"):
        return Mistake(loc, "must not be empty")
    if kind in EXPECTED:
        return Mistake(loc, f"expected {_expected(kind, tagged, value)}, got {describe(value)}")
    return Mistake(loc, f"{detail['msg']}, got {describe(value)}")


def _written(document: Any, loc: Loc, otherwise: Any) -> Any:
    """Return what stands at a path of the document; conversions may have changed what pydantic saw."""
    for part in loc:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return otherwise
    return document


def _without_tags(loc: Loc) -> Loc:
    return tuple(part for part in loc if part not in TAGS)


def _name(loc: Loc) -> str | int:
    """Return the innermost key of a path."""
    return next((part for part in reversed(loc) if isinstance(part, str)), "")


def _source(loc: Loc, table: Any) -> Mistake:
    """Say what is wrong with the source of a table of data or models."""
    names = sources(_name(loc))  # type: ignore[arg-type]
    if not isinstance(table, dict):
        return Mistake(loc, f"expected a table, got {describe(table)}")
    if "source" not in table:
        return Mistake((*loc, "source"), f"missing; allowed: {', '.join(sorted(names))}")
    if not isinstance(table["source"], str):
        message = f"expected one of {', '.join(sorted(names))}, got {describe(table['source'])}"
        return Mistake((*loc, "source"), message)
    return Mistake((*loc, "source"), *unknown("source", table["source"], names))


def _unknown_key(loc: Loc, tagged: Loc) -> Mistake:
    table = _table(tagged[:-1])
    names = sorted(table.model_fields)
    where = "the study file" if len(loc) == 1 else header(loc[:-1])
    tag = next((part for part in tagged if part in TAGS), None)
    if tag:
        where += f" of source {str(tag).strip('<>')!r}"
    return Mistake(loc, f"unknown key; {where} takes {', '.join(names)}", nearest(str(loc[-1]), names))


def header(loc: Loc) -> str:
    """Return a table's header as it is written: ``[data]``, ``[[models]]``."""
    name = ".".join(str(part) for part in loc if isinstance(part, str))
    return f"[[{name}]]" if isinstance(loc[-1], int) else f"[{name}]"


def _hint(tagged: Loc) -> str:
    """Return what a missing key should hold."""
    field = _table(tagged[:-1]).model_fields.get(str(tagged[-1]))
    if field is None:
        return ""
    if get_origin(field.annotation) is Literal:
        return f"; allowed: {', '.join(sorted(map(str, get_args(field.annotation))))}"
    return f": {field.description}" if field.description else f"; write {_form(tagged)}"


def _form(tagged: Loc) -> str:
    name = ".".join(str(part) for part in _without_tags(tagged) if isinstance(part, str))
    return f"[[{name}]]" if get_origin(_annotation(tagged)) is tuple else f"a table [{name}]"


def _expected(kind: str, tagged: Loc, value: Any) -> str:
    if kind in ("tuple_type", "list_type") and any(_models(_annotation(tagged))):
        return f"an array of tables, written {_form(tagged)}"
    return EXPECTED[kind]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the tables that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _table(tagged: Loc) -> type[BaseModel]:
    """Return the class of the table at a path."""
    table: type[BaseModel] = Study
    for part in tagged:
        if part in TAGS:
            table = TAGS[str(part)]
        elif isinstance(part, str) and part in table.model_fields:
            inner = list(_models(table.model_fields[part].annotation))
            table = inner[0] if len(inner) == 1 else table
    return table


def _annotation(tagged: Loc) -> Any:
    """Return what the innermost key of a path is declared to hold; of optional ones the type that is set."""
    keys = [part for part in tagged if isinstance(part, str)]
    field = _table(tuple(keys[:-1])).model_fields.get(keys[-1])
    if field is None:
        return None
    return next(_literals(field.annotation), field.annotation)


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield annotation
    for part in get_args(annotation):
        if get_origin(annotation) is not Literal:
            yield from _literals(part)
