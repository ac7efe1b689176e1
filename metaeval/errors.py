"""Errors that users see, each with the exit code the command line returns for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word nearest to `word`, or None if none is near."""
    matches = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown(kind: str, word: str, allowed: Iterable[str]) -> tuple[str, str | None]:
    """Return the message for an unknown name and the nearest allowed one."""
    names = sorted(allowed)
    return f"unknown {kind} {word!r}; allowed: {', '.join(names)}", nearest(word, names)


def unknown_name(kind: str, word: str, allowed: Iterable[str]) -> UsageError:
    """Return the error for an unknown name outside of a study file."""
    message, near = unknown(kind, word, allowed)
    return UsageError(f"{message}; did you mean {near!r}?" if near else message)


@dataclass(frozen=True)
class Problem:
    """One mistake in a study file: where it is, what is wrong, what was probably meant."""

    file: str
    line: int
    column: int
    key: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.key}: {self.message}"
        return f"{text}; did you mean {self.suggestion!r}?" if self.suggestion else text


class MetaevalError(Exception):
    """Base of the errors that metaeval raises on purpose."""

    exit_code = 1


class UsageError(MetaevalError):
    """The study, the command or an argument is wrong."""

    exit_code = 2


class MissingInputError(MetaevalError):
    """Data or weights that the study names are not there."""

    exit_code = 4


class LockedError(MetaevalError):
    """Another run holds what this one needs."""

    exit_code = 5


class StudyError(UsageError):
    """A study file with one or more problems; all of them are listed.

    The exit code is 4 when every problem is a missing file, else 2.
    """

    def __init__(self, problems: Sequence[Problem], *, missing: bool = False) -> None:
        self.problems = tuple(problems)
        if missing:
            self.exit_code = MissingInputError.exit_code
        super().__init__("\n".join(str(problem) for problem in self.problems))
