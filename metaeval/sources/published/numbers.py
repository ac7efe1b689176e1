"""Numbers as tables print them: exact, in range, and the counts that a printed percentage can stand for."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from metaeval.sources.published.content import Problems
from metaeval.study.numbers import parse_fraction

NOT_PRINTED, RECOVERED, NO_COUNT, SEVERAL_COUNTS, NO_TOTAL = range(5)
"""Whether the count behind a printed share is known (`count_status` of an imported cube)."""

MISSING = ("", "none", "null", "nan", "na", "n/a", "-", "--")
UNITS = {"percent": 100, "fraction": 1}


def missing(value: Any) -> bool:
    """Tell whether a value says that there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in MISSING


def share(value: Any, unit: str = "percent", most: float | None = 1.0) -> float:
    """Return a printed share as the float64 nearest to the fraction that it says; NaN where none is printed.

    Raises
    ------
    ValueError
        If it is no number, or outside [0, most].
    """
    if missing(value):
        return math.nan
    exact = parse_fraction(value) / UNITS[unit]
    if exact < 0 or (most is not None and exact > most):
        allowed = f"0 to {most * UNITS[unit]:g}" if most is not None else "0 or more"
        raise ValueError(f"{value} is no accuracy ({unit}): {allowed} is allowed")
    return float(exact)


def as_share(value: str, unit: str, what: str, line: int, problems: Problems) -> float:
    """Return a cell as a share; NaN, with the problem noted, where it is none."""
    try:
        return share(value, unit)
    except ValueError as error:
        problems.add(what, str(error), line=line)
        return math.nan


def last_place(value: Any, unit: str = "percent") -> Fraction:
    """Return one unit in the last printed place of a number, as a fraction of 1."""
    text = str(value).strip().lower().partition("e")[0]
    decimals = len(text.partition(".")[2]) if "/" not in text else 12
    return Fraction(1, 10**decimals) / UNITS[unit]


def count(value: Any, total: int | None, unit: str = "percent") -> tuple[int, int]:
    """Return the count of correct samples that a printed share stands for, and how well it is known.

    A count k fits if k/total differs from what is printed by at most one unit in the last printed place,
    which rounding and cutting both keep.

    Returns
    -------
    k : int
        -1 where it is not recoverable.
    status : int
        NOT_PRINTED, RECOVERED, NO_COUNT (none fits), SEVERAL_COUNTS (more than one fits) or NO_TOTAL.
    """
    if missing(value):
        return -1, NOT_PRINTED
    if total is None or total <= 0:
        return -1, NO_TOTAL
    exact, unit_of_last = parse_fraction(value) / UNITS[unit], last_place(value, unit)
    low = max(0, math.ceil((exact - unit_of_last) * total))
    high = min(total, math.floor((exact + unit_of_last) * total))
    if low == high:
        return low, RECOVERED
    return -1, NO_COUNT if low > high else SEVERAL_COUNTS
