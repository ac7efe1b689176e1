"""The measures that there are, and what a study may say about them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from metaeval.errors import UsageError, nearest, unknown
from metaeval.measures.spec import Measure, Scalar

MODULES = (
    "metaeval.measures.performance",
    "metaeval.measures.uncertainty",
    "metaeval.measures.calibration",
    "metaeval.measures.margin",
    "metaeval.measures.gradients",
    "metaeval.measures.attacked",
)
"""Modules of ours, each with a tuple `MEASURES`; other packages name a class as `metaeval.measures`."""

GROUP = "metaeval.measures"


def measures() -> dict[str, type[Measure]]:
    """Return all measures by name: ours in the order of the modules, then those of other packages.

    Raises
    ------
    UsageError
        If another package's entry point is no measure.
    """
    found = {measure.name: measure for name in MODULES for measure in importlib.import_module(name).MEASURES}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in found:
            continue  # a built-in name cannot be taken over
        try:
            measure = point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"the measure {point.name!r} ({point.value}) cannot be loaded: {error}"
            ) from None
        if not (inspect.isclass(measure) and issubclass(measure, Measure)) or inspect.isabstract(measure):
            raise UsageError(f"the measure {point.name!r} ({point.value}) is no subclass of Measure")
        lacking = [name for name in Measure.__annotations__ if not hasattr(measure, name)]
        if lacking or measure.name != point.name:
            wrong = f"does not say its {lacking[0]}" if lacking else f"calls itself {measure.name!r}"
            raise UsageError(f"the measure {point.name!r} ({point.value}) {wrong}")
        found[point.name] = measure
    return found


def choose(families: Sequence[str], names: Sequence[str]) -> list[type[Measure]]:
    """Return the measures of some families, and single ones, each once and in the registry's order."""
    return [m for m in measures().values() if m.family in families or m.name in names]


def setting_problems(measure: type[Measure], given: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """Return what is wrong with settings: key, message, what was probably meant."""
    found: list[tuple[str, str, str | None]] = []
    for key, value in given.items():
        if key not in measure.settings:
            found.append((key, *unknown(f"setting of {measure.name}", key, measure.settings)))
            continue
        kind = _kind(measure.settings[key])
        if not _fits(value, kind):
            found.append((key, f"expected {WORDS[kind]}, got {value!r}", None))
        elif key in measure.choices and value not in measure.choices[key]:
            allowed = measure.choices[key]
            message = f"expected one of {', '.join(allowed)}, got {value!r}"
            found.append((key, message, nearest(value, allowed)))
        elif key in measure.limits and not measure.limits[key][0] <= value <= measure.limits[key][1]:
            low, high = measure.limits[key]
            found.append((key, f"expected {low:g} to {high:g}, got {value:g}", None))
    return found


def resolve_settings(measure: type[Measure], given: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return all settings, defaults included, numbers in the type of their default."""
    return {
        key: type(default)(given[key]) if key in given else default
        for key, default in measure.settings.items()
    }


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def _kind(default: Scalar) -> type:
    return type(default)


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind
