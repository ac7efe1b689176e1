"""Numbers, names and statuses in words: at most three significant digits, never a bare NaN."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

NOT_AVAILABLE = "not available"
SPACE = "\u00a0"  # keeps a number and its unit on one line
NORM_NAMES = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1"}


def escape(text: object) -> str:
    """Return text that is safe inside HTML and inside a quoted attribute."""
    return html.escape(str(text), quote=True)


def strong(text: object) -> str:
    """Return escaped text in bold."""
    return f"<strong>{escape(text)}</strong>"


def norm_name(norm: str) -> str:
    """Return a norm as people write it."""
    return NORM_NAMES.get(norm, norm)


def percent(share: float) -> str:
    """Return a share in percent with one decimal; 0 % and 100 % only if exact."""
    if math.isnan(share):
        return NOT_AVAILABLE
    if share in (0, 1):
        return f"{100 * share:.0f}{SPACE}%"
    text = f"{100 * share:.1f}"
    text = {"0.0": f"<{SPACE}0.1", "100.0": f">{SPACE}99.9"}.get(text, text)
    return f"{text}{SPACE}%"


def interval(lower: float, upper: float) -> str:
    """Return the ends of an interval of shares in percent."""
    if math.isnan(lower) or math.isnan(upper):
        return NOT_AVAILABLE
    return f"{_decimal(100 * lower)} to {_decimal(100 * upper)}{SPACE}%"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points."""
    value = 100 * difference
    text = _decimal(value) if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    return f"{text.replace('-', '−')}{SPACE}points"


def points_interval(lower: float, upper: float) -> str:
    """Return the ends of an interval of differences in percentage points."""
    return f"{points(lower).removesuffix(f'{SPACE}points')} to {points(upper)}"


def _decimal(value: float) -> str:
    """Return a number of percent with one decimal, but three digits at most."""
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


def p_value(p: float) -> str:
    """Return a p value with two digits, or that it is below one in a thousand."""
    if p < 0.001:
        return f"p{SPACE}<{SPACE}.001"
    text = "1" if p > 0.995 else f"{p:.{3 if p < 0.1 else 2}f}".removeprefix("0")
    return f"p{SPACE}={SPACE}{text}"


def level(confidence: float) -> str:
    """Return a confidence as in "95 %"."""
    return f"{100 * confidence:.3g}{SPACE}%"


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if math.isnan(value):
        return NOT_AVAILABLE
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{word}"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if math.isnan(seconds):
        return NOT_AVAILABLE
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g}{SPACE}{unit}"
    return f"{seconds:.3g}{SPACE}s"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def listing(items: Sequence[str], most: int = 6) -> str:
    """Return items as "a, b and c", or the first few and how many more."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def absence(status: str, reason: str) -> str:
    """Return why a number is not there."""
    word = status if status != "ok" else NOT_AVAILABLE
    return f"{word}: {reason}" if reason else word


def column(place: str) -> str:
    """Return "linf square" as people write it."""
    norm, _, attack = place.partition(" ")
    return f"{norm_name(norm)} {attack}".strip()
