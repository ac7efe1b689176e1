"""From a study file to a `Study`, or to every problem in it at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import toml_rs
from pydantic import ValidationError

from metaeval.errors import MissingInputError, Problem, StudyError, UsageError, nearest
from metaeval.study.checks import check
from metaeval.study.messages import Mistake, mistakes
from metaeval.study.origin import Origin
from metaeval.study.positions import Loc, positions
from metaeval.study.schema import Study


def load_study(
    path: str | os.PathLike[str],
    *,
    attacks: Collection[str] | None = None,
    presets: Collection[str] | None = None,
) -> Study:
    """Read and check a study file.

    Parameters
    ----------
    path : path
        A TOML file; relative paths in it start at its folder, ``${NAME}`` is an environment variable.
    attacks, presets : collection of str, optional
        The attacks and the presets that there are; others are then problems of the file.

    Returns
    -------
    Study
        With all defaults filled in; it never changes.

    Raises
    ------
    StudyError
        With every problem in the file, sorted by position.
    MissingInputError
        If there is no such file.
    """
    file = Path(path)
    text = _read(file)
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        raise StudyError([_syntax_problem(file, text, error)]) from None
    origin = Origin(file, document, _positions(text))
    found: dict[Loc, Mistake] = {}
    study = None
    try:
        study = Study.model_validate(document, context={"base": file.absolute().parent})
    except ValidationError as error:
        found = {mistake.loc: mistake for mistake in mistakes(error, document)}
    for mistake in check(document, attacks, presets):
        found.setdefault(mistake.loc, mistake)
    if study is None or found:
        problems = [origin.problem(*mistake) for mistake in found.values()]
        raise StudyError(sorted(problems, key=lambda problem: (problem.line, problem.column, problem.key)))
    study._origin = origin
    return study


def restore_study(resolved: Mapping[str, Any], path: Path) -> Study:
    """Return the study that `Study.to_dict` wrote down, as read from the file at `path`.

    Raises
    ------
    UsageError
        If it is not a study of this version.
    """
    try:
        study = Study.model_validate(resolved, context={"base": path.parent})
    except ValidationError as error:
        raise UsageError(
            f"the resolved study of {path} was written by another version: {error.error_count()} problems"
        ) from None
    study._origin = Origin(path, {}, {})
    return study


def _read(file: Path) -> str:
    """Return the text of a file, with ``\\n`` line ends."""
    if file.is_dir():
        raise UsageError(f"{file} is a folder; name a study file in it")
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        near = nearest(file.name, [other.name for other in file.parent.glob("*.toml")])
        hint = f"; did you mean {str(file.parent / near)!r}?" if near else ""
        raise MissingInputError(f"there is no study file {file}{hint}") from None
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise StudyError([Problem(str(file), line, column, "study", "the file is not UTF-8 text")]) from None


def _positions(text: str) -> dict[Loc, tuple[int, int]]:
    try:
        return positions(text)
    except toml_rs.TOMLDecodeError:  # what tomllib accepts counts; then problems have no better place
        return {}


def _syntax_problem(file: Path, text: str, error: ValueError) -> Problem:
    """Return the place and the reason of text that is not TOML, in the words of the clearer parser."""
    said = str(error)
    message = re.sub(r" \(at .*\)$", "", said)
    try:
        toml_rs.load_with_metadata(text, toml_version="1.0.0")
    except toml_rs.TOMLDecodeError as clearer:
        said = str(clearer)
        message = said.splitlines()[-1]
    place = re.search(r"line (\d+), column (\d+)", said)
    lines = text.split("\n")
    line, column = (int(place[1]), int(place[2])) if place else (len(lines), len(lines[-1]) + 1)
    rest = lines[line - 1][column - 1 :]
    suggestion = None
    if message.startswith(("invalid boolean", "string values must be quoted")):
        message = "not a TOML value; text and fractions stand in quotes, truth values are true and false"
        word = re.match(r"[^\s,\]}#\"']+", rest)
        suggestion = _quoted_or_truth(word[0]) if word else None
    key = re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", lines[line - 1])
    return Problem(str(file), line, column, key[1] if key else "TOML", message, suggestion)


def _quoted_or_truth(word: str) -> str | None:
    if word.lower() in ("true", "false"):
        return word.lower()
    return f'"{word}"' if word[0].isalpha() or "/" in word else None
