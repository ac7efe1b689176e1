"""What a reader of published results returns, and the errors that all readers share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaeval.errors import MissingInputError, Problem, StudyError, UsageError, nearest

ALL = "all"
"""The one class of results that are published without classes."""
LARGEST_FILE = 2**30
"""Bytes; a larger file of published results is taken for a mistake."""


@dataclass(frozen=True)
class Published:
    """Published results as an imported cube holds them.

    Attributes
    ----------
    kind : str
        "robustbench", "predictions" or "table".
    name, title : str
        Of the cube: `name` can stand in a folder's name.
    models : list of str
    columns : dict
        One entry per model for each column of `/models`; None where a model has none.
    groups : dict
        Group to variable to values, as `metaeval.cube.importing.TABLES` lays them out.
    files : list of Path
        What was read.
    options : dict
        What the reading was told.
    counts : dict
        How much was read, by what.
    notes : list of str
        What the source does not support, and where it contradicts itself: sentences for the report.
    warnings : list of str
        What looks like a mistake of the input.
    attributes : dict
        Attributes by group.
    """

    kind: str
    name: str
    title: str
    models: list[str]
    columns: dict[str, list[Any]]
    groups: dict[str, dict[str, Any]]
    files: list[Path]
    options: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def provenance(self) -> dict[str, Any]:
        """Return where the results come from, as JSON can say it."""
        return {
            "kind": self.kind,
            "files": [{"name": path.name, "sha256": sha256(path)} for path in self.files],
            "options": self.options,
            "counts": self.counts,
            "notes": self.notes,
            "warnings": self.warnings,
        }


class Problems:
    """The mistakes in one file, gathered so that all are reported at once."""

    def __init__(self, file: str | Path) -> None:
        self.file = str(file)
        self.found: list[Problem] = []

    def add(self, key: str, message: str, suggestion: str | None = None, *, line: int = 1) -> None:
        """Note a mistake at a key of the file."""
        self.found.append(Problem(self.file, line, 1, key, message, suggestion))

    def stop(self) -> None:
        """Raise StudyError if there are mistakes."""
        if self.found:
            raise StudyError(self.found)

    def fail(self, key: str, message: str, suggestion: str | None = None, *, line: int = 1) -> StudyError:
        """Return the error of a mistake that leaves nothing to go on with."""
        self.add(key, message, suggestion, line=line)
        return StudyError(self.found)


def existing(path: Path) -> Path:
    """Return a path that is there.

    Raises
    ------
    MissingInputError
        If it is not; names the nearest file beside it.
    """
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        hint = f"; did you mean {str(path.parent / near)!r}?" if near else ""
        raise MissingInputError(f"there is no {path}{hint}")
    return path


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises
    ------
    MissingInputError, UsageError
        If it is not there, is a folder, is too large or cannot be read.
    """
    if existing(path).is_dir():
        raise UsageError(f"{path} is a folder; name files")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes, more than {LARGEST_FILE:,}")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """Return a file's text (UTF-8, with or without a mark), with ``\\n`` line ends."""
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Problems(path).fail("text", "the file is not UTF-8 text", line=line) from None


def sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's content; of a folder, of its JSON and CSV files in order."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".json", ".csv"))
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once."""
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
