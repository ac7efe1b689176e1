"""Numbers as people write them in a study: fractions, decimals, lists and ranges of epsilons."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from metaeval.outcomes import within

MAXIMUM_LEVELS = 1000  # of one range; a mistyped count must not fill the memory
RANGE = "a range 'start:stop:count', as in '0:8/255:9'"

# At most three digits of exponent: Fraction("1e999999999") would be a billion digits long.
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Epsilon:
    """A radius: the nearest float64 of the fraction as written, and the way it was written."""

    value: float
    label: str


def describe(value: Any) -> str:
    """Say what a TOML value is, in a few words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(_short(value))
    if isinstance(value, (int, float)):
        return _short(str(value))
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a {type(value).__name__}"  # date, time, datetime


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def parse_fraction(value: Any) -> Fraction:
    """Return a number or a string such as ``"8/255"``, ``"0.5/255"`` or ``"0.03"`` as an exact fraction.

    Raises
    ------
    ValueError
        If it is no number, not finite, or divides by zero; the message says which.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {value}")
        return Fraction(value)
    if not isinstance(value, str):
        raise ValueError(f"expected a number or a fraction such as '8/255', got {describe(value)}")
    parts = [part.strip() for part in value.split("/")]
    if len(parts) > 2 or not all(_DECIMAL.fullmatch(part) for part in parts):
        raise ValueError(f"expected a number or a fraction such as '8/255', got {describe(value)}")
    numerator, denominator = Fraction(parts[0]), Fraction(parts[1]) if len(parts) == 2 else Fraction(1)
    if denominator == 0:
        raise ValueError(f"{value!r} divides by zero")
    return numerator / denominator


def parse_number(value: Any) -> float:
    """Return a number or a fraction in a string as the float64 nearest to it.

    Raises
    ------
    ValueError
        As `parse_fraction`, and for numbers beyond float64.
    """
    fraction = parse_fraction(value)
    try:
        return float(fraction) + 0.0  # never -0.0, which hashes otherwise
    except OverflowError:
        raise ValueError(f"{describe(value)} is too large") from None


def parse_epsilon(value: Any) -> Epsilon:
    """Return one epsilon; an `Epsilon` is returned as it is.

    Raises
    ------
    ValueError
        As `parse_number`, and for negative numbers.
    """
    if isinstance(value, Epsilon):
        return value
    number = parse_number(value)
    if number < 0:
        raise ValueError(f"an epsilon is at least 0, got {describe(value)}")
    return Epsilon(number, _written(value) if isinstance(value, str) else repr(value))


def parse_range(text: str) -> tuple[Epsilon, ...]:
    """Return the epsilons of ``"start:stop:count"``: evenly spaced, both ends included, exact.

    Labels keep the denominator as written: ``"0:8/255:9"`` gives 0, 1/255, 2/255 and so on.

    Raises
    ------
    ValueError
        If the text has another form, an end is no epsilon, stop is not above start, or count is not a
        whole number of 2 to 1000.
    """
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 3:
        raise ValueError(f"expected a list of numbers or {RANGE}, got {text!r}")
    first, last = parse_epsilon(parts[0]), parse_epsilon(parts[1])
    start, stop = parse_fraction(parts[0]), parse_fraction(parts[1])
    if start >= stop:
        raise ValueError(f"the range {text!r} must end above its start")
    if not re.fullmatch(r"[0-9]{1,9}", parts[2]) or not 2 <= int(parts[2]) <= MAXIMUM_LEVELS:
        raise ValueError(
            f"the count of {text!r} must be a whole number of 2 to {MAXIMUM_LEVELS}, got {parts[2]!r}"
        )
    count = int(parts[2])
    written = [int(end.partition("/")[2]) for end in parts[:2] if re.fullmatch(r"[^/]+/\s*[0-9]+", end)]
    denominator = math.lcm(*written) if written else None
    inner = [start + (stop - start) * Fraction(k, count - 1) for k in range(1, count - 1)]
    return (first, *(Epsilon(float(exact), _label(exact, denominator)) for exact in inner), last)


def repeated_epsilons(epsilons: Sequence[Epsilon | None], norm: str | None) -> list[tuple[int, str]]:
    """Return (index, message) of every epsilon that equals an earlier one or cannot be told from it.

    Parameters
    ----------
    epsilons : sequence of Epsilon or None
        None stands for an entry that is no epsilon and keeps its place.
    norm : str or None
        The norm whose rounding tolerance decides; None compares float64 values only.
    """
    found: dict[int, str] = {}
    present = sorted((epsilon.value, i) for i, epsilon in enumerate(epsilons) if epsilon)
    for (low, i), (high, k) in itertools.pairwise(present):
        earlier, later = (epsilons[index] for index in sorted((i, k)))
        assert earlier is not None
        assert later is not None
        both = f"{earlier.label!r} and {later.label!r}"
        if low == high and earlier.label == later.label:
            found[max(i, k)] = f"{later.label!r} is listed twice"
        elif low == high:
            found[max(i, k)] = f"{both} are the same epsilon ({later.value!r})"
        elif norm and within(high, low, norm):
            values = f"({earlier.value!r}, {later.value!r})"
            found[max(i, k)] = f"{both} are nearer to each other than float32 images can tell apart {values}"
    return sorted(found.items())


def _written(text: str) -> str:
    return "/".join(part.strip() for part in text.split("/"))


def _label(exact: Fraction, denominator: int | None) -> str:
    """Return the shortest exact text for a number, over the given denominator where that is short."""
    numerator = exact * (denominator or 1)
    digits = _terminating(numerator)
    if digits is not None:
        return f"{digits}/{denominator}" if denominator and exact else digits
    return f"{exact.numerator}/{exact.denominator}"


def _terminating(exact: Fraction, places: int = 6) -> str | None:
    """Return a fraction as a decimal if it ends within so many places, else None."""
    scaled = exact * 10**places
    if scaled.denominator != 1:
        return None
    sign, whole = "-" if scaled < 0 else "", abs(int(scaled))
    text = f"{sign}{whole // 10**places}.{whole % 10**places:0{places}d}"
    return text.rstrip("0").rstrip(".")
