"""Where a study was read from, and how its problems are placed there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaeval.errors import Problem
from metaeval.study.positions import Loc


@dataclass(frozen=True)
class Origin:
    """A study's file, its document as written, and the positions in it."""

    path: Path
    document: Mapping[str, Any]
    positions: Mapping[Loc, tuple[int, int]]

    def problem(self, loc: Loc, message: str, suggestion: str | None = None) -> Problem:
        """Return a problem at a path, positioned at the nearest key or item around it that is written."""
        place = loc
        while place and place not in self.positions:
            place = place[:-1]
        line, column = self.positions.get(place, (1, 1))
        return Problem(str(self.path), line, column, key_of(loc), message, suggestion)


def key_of(loc: Loc) -> str:
    """Return a path as people write it: ``models[0].grid.depth``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in loc)
    return text.removeprefix(".") or "study"


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
