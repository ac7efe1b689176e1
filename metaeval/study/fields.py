"""The kinds of values that a study's keys take, each with its own words for what is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, StrictInt, StrictStr
from pydantic_core.core_schema import ValidationInfo

from metaeval.errors import nearest, unknown
from metaeval.study.numbers import Epsilon, describe, parse_epsilon, parse_number, parse_range

HUGGING_FACE = r"hf:([^/@\s]+/[^/@\s]+)/([^@\s]+?)(?:@([^@\s]+))?"  # repository, file, revision
YEAR = r"\s*(>=|<=|==|>|<)?\s*(\d{4})\s*"  # comparison and year

NumberText = float | str  # what a number may be written as


class FieldError(ValueError):
    """What is wrong with a value, and what was probably meant."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def _accuracy(value: Any) -> float:
    number = parse_number(value)
    if not 0 <= number <= 1:
        near = f"{number / 100:.6g}" if 1 < number <= 100 else None
        raise FieldError(f"accuracies are fractions between 0 and 1, got {describe(value)}", near)
    return number


def _samples(value: Any) -> int | str:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return int(value) if value != "all" else "all"
    near = nearest(value, ["all"]) if isinstance(value, str) else None
    raise FieldError(f"expected a whole number of at least 1, or 'all', got {describe(value)}", near)


def _figures(value: Any) -> str | tuple[str, ...]:
    if value == "all":
        return "all"
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise FieldError(f"expected 'all' or a list of figures' names, got {describe(value)}")


def _attacks(value: Any) -> str | tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise FieldError(f"expected a list of attacks' names or a preset's name, got {describe(value)}")
    if not names or "" in names:
        raise FieldError("must not be empty")
    return value if isinstance(value, str) else tuple(value)


def _study_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        near = re.sub(r"[^A-Za-z0-9._-]+", "_", value).strip("._-") if isinstance(value, str) else None
        raise FieldError(
            "expected letters, digits, '.', '_' and '-' only, a letter or digit first (it names a folder), "
            f"got {describe(value)}",
            near or None,
        )
    return value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise FieldError(f"expected a sha256 of 64 hexadecimal digits, got {describe(value)}")
    return value.lower()


def _path(value: Any, info: ValidationInfo) -> Path:
    """Expand ``${NAME}`` and ``~``.

    Relative paths start at the study file's folder; those that begin with a variable where the shell, which
    set it, is.
    """
    if not isinstance(value, str) or not value:
        raise FieldError(f"expected a path in quotes, got {describe(value)}")

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise FieldError(f"the environment variable {name} is not set", nearest(name, os.environ))
        if not os.environ[name]:
            raise FieldError(f"the environment variable {name} is empty")
        return os.environ[name]

    path = Path(re.sub(r"\$\{([^}]*)\}", variable, value)).expanduser()
    base = Path.cwd() if value.startswith("${") else (info.context or {}).get("base")
    return Path(os.path.normpath(base / path)) if base is not None else path


def _weights(value: Any, info: ValidationInfo) -> Path | str:
    """Return a local path, or the address of a file elsewhere as it is written."""
    if isinstance(value, str) and value.startswith("hf:"):
        if not re.fullmatch(HUGGING_FACE, value) or {".", ".."} & set(re.split("[/:@]", value)):
            raise FieldError(f"expected 'hf:owner/repository/file@revision', got {describe(value)}")
        return value
    if isinstance(value, str) and "://" in value:
        if not re.fullmatch(r"https?://[^/\s]+/\S+", value):
            raise FieldError(
                f"expected an address that begins with https:// or http://, got {describe(value)}"
            )
        return value
    return _path(value, info)


def _year(value: Any) -> str:
    found = re.fullmatch(YEAR, str(value)) if isinstance(value, (str, int)) else None
    if not found:
        raise FieldError(f"expected a year, as in '>= 2023', '< 2022' or 2021, got {describe(value)}")
    return f"{found[1] or '=='} {found[2]}"


def fractions(value: Any) -> Any:
    """Turn the strings of a table that are fractions (``"2/255"``) into numbers; keep everything else."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: parse_number(item)
        if isinstance(item, str) and re.fullmatch(r"[-+.0-9eE ]+/[-+.0-9eE ]+", item)
        else item
        for key, item in value.items()
    }


def taken_from(key: str, convert: Callable[[Any], str] = str) -> Callable[[dict[str, Any]], str]:
    """Return a default that follows from another key of the table; empty where that key is wrong."""
    return lambda table: convert(table[key]) if key in table else ""


def stem(path: Path | str) -> str:
    """Return a file's name without its ending; of an address without what follows the path."""
    if isinstance(path, Path):
        return path.stem
    return PurePosixPath(path.split("?")[0].split("#")[0].partition("@")[0]).stem


def one_of(kind: str, value: Any, allowed: Sequence[str]) -> str:
    """Return a value that is one of the allowed words.

    Raises
    ------
    FieldError
        If it is not; with the nearest one.
    """
    if not isinstance(value, str):
        raise FieldError(f"expected one of {', '.join(sorted(allowed))}, got {describe(value)}")
    if value not in allowed:
        raise FieldError(*unknown(kind, value, allowed))
    return value


def _expand_range(value: Any) -> Any:
    return parse_range(value) if isinstance(value, str) else value


Text = Annotated[StrictStr, Field(min_length=1)]
Count = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Number = Annotated[float, BeforeValidator(parse_number, json_schema_input_type=NumberText)]
Probability = Annotated[Number, Field(ge=0, lt=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Accuracy = Annotated[float, PlainValidator(_accuracy, json_schema_input_type=NumberText)]
Samples = Annotated[
    int | Literal["all"], PlainValidator(_samples, json_schema_input_type=int | Literal["all"])
]
Attacks = Annotated[
    tuple[str, ...] | str,
    PlainValidator(_attacks, json_schema_input_type=list[str] | str),
    PlainSerializer(lambda attacks: attacks if isinstance(attacks, str) else list(attacks)),
]
Figures = Annotated[
    tuple[str, ...] | Literal["all"],
    PlainValidator(_figures, json_schema_input_type=list[str] | Literal["all"]),
    PlainSerializer(lambda figures: figures if figures == "all" else list(figures)),
]
StudyName = Annotated[str, PlainValidator(_study_name, json_schema_input_type=str)]
Sha256 = Annotated[str, PlainValidator(_sha256, json_schema_input_type=str)]
FilePath = Annotated[Path, PlainValidator(_path, json_schema_input_type=str)]
Weights = Annotated[Path | str, PlainValidator(_weights, json_schema_input_type=str)]
Year = Annotated[str, PlainValidator(_year, json_schema_input_type=str | int)]
FreeTable = Annotated[dict[str, Any], BeforeValidator(fractions, json_schema_input_type=dict[str, Any])]
EpsilonField = Annotated[
    Epsilon,
    PlainValidator(parse_epsilon, json_schema_input_type=NumberText),
    PlainSerializer(lambda epsilon: epsilon.label, return_type=str),
]
Epsilons = Annotated[
    tuple[EpsilonField, ...],
    BeforeValidator(_expand_range, json_schema_input_type=str | list[NumberText]),
]
