"""Weights of other frameworks as NumPy arrays by name: whether they are numbers, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metaeval.errors import UsageError

SHOWN = 6  # names that are listed


def check_values(named: Mapping[str, Any]) -> None:
    """Raise a UsageError that names the arrays with numbers that are not finite, if there are any."""
    damaged = [name for name, value in named.items() if not _finite(value)]
    if damaged:
        raise UsageError(f"its weights have numbers that are not finite in {_listed(damaged, ', ')}")


def misfit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Return how the names and shapes of weights differ from those that a model has; empty if they fit."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not in the model" for name in found if name not in expected]
    wrong += [
        f"{name} is {tuple(found[name])}, not {tuple(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    return _listed(wrong, "; ")


def _finite(value: Any) -> bool:
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return True
    try:
        return bool(np.isfinite(array.astype(np.float32) if array.dtype.kind == "V" else array).all())
    except TypeError:  # text, keys of random numbers: no numbers at all
        return True


def _listed(items: list[str], separator: str) -> str:
    more = f"{separator}and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + more
