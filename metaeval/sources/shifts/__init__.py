"""Shifted test sets: published, generated, user-supplied, attacked."""

from metaeval.sources.shifts.opening import SOURCES, open_shifts
from metaeval.sources.shifts.shift import Shift

__all__ = ["SOURCES", "Shift", "open_shifts"]
