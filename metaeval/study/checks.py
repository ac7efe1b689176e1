"""What must hold between keys of a study, checked on the document so that no other mistake hides it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from metaeval.errors import nearest, unknown
from metaeval.outcomes import NORMS
from metaeval.study.inputs import Settings
from metaeval.study.messages import Mistake
from metaeval.study.numbers import Epsilon, describe, parse_epsilon, parse_range, repeated_epsilons
from metaeval.study.positions import Loc
from metaeval.study.schema import tag
from metaeval.study.shift_checks import check_shifts

Document = dict[str, Any]
TOO_LARGE = "a linf epsilon is at most 1 because inputs lie in [0, 1]"


def check(
    document: Document,
    known_attacks: Collection[str] | None = None,
    known_presets: Collection[str] | None = None,
) -> Iterator[Mistake]:
    """Yield what is wrong between the keys of a document; what has a wrong type is passed over."""
    yield from _finite(document, ())
    for i, model in _tables(document, "models"):
        source = tag(model, "models")
        if source == "<train>":
            yield from _check_grid(model, ("models", i))
        if source in ("<train>", "<checkpoint>"):
            yield from _check_normalize(model.get("normalize"), ("models", i, "normalize"))
        if source == "<checkpoint>":
            yield from _check_checkpoint(model, ("models", i))
    yield from _check_norms(document)
    for i, threat in _tables(document, "threat_models"):
        yield from _check_threat_model(threat, ("threat_models", i), known_attacks)
        name = threat.get("attacks")
        if known_presets is not None and isinstance(name, str) and name not in known_presets:
            message, near = unknown_preset(name, known_presets, known_attacks or ())
            yield Mistake(("threat_models", i, "attacks"), message, near)
    yield from _check_reference_epsilons(document)
    yield from _check_measures(document.get("measures"))
    yield from check_shifts(document.get("shifts"))
    data = document.get("data")
    if isinstance(data, dict):
        yield from _repeated(data.get("class_names"), ("data", "class_names"))


def _tables(table: Document, key: str) -> Iterator[tuple[int, Document]]:
    """Yield the tables of an array of tables with their indices."""
    items = table.get(key)
    for index, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, dict):
            yield index, item


def _finite(value: Any, loc: Loc) -> Iterator[Mistake]:
    if isinstance(value, float) and not math.isfinite(value):
        yield Mistake(loc, f"expected a finite number, got {value}")
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, item in inner:
        yield from _finite(item, (*loc, part))


def _repeated(values: Any, loc: Loc) -> Iterator[Mistake]:
    """Yield every item of a list that equals an earlier one."""
    items = values if isinstance(values, list) else []
    for i, item in enumerate(items):
        # True == 1, but they are different settings.
        if any(type(item) is type(other) and item == other for other in items[:i]):
            yield Mistake((*loc, i), f"{describe(item)} is listed twice")


def _check_grid(model: Document, loc: Loc) -> Iterator[Mistake]:
    grid = model.get("grid")
    grid = grid if isinstance(grid, dict) else {}
    for key, values in grid.items():
        yield from _repeated(values, (*loc, "grid", key))
        if key in model and key in Settings.model_fields:
            yield Mistake(
                (*loc, "grid", key), "given for all models too; write it once, here or in the table"
            )
    if "sample" in model and not grid:
        yield Mistake((*loc, "sample"), "has no effect without a grid")
    if "adversarial_epsilon" not in model and "adversarial_epsilon" not in grid:
        for key in ("adversarial_method", "adversarial_norm", "adversarial_steps", "trades_beta"):
            message = "has no effect without adversarial_epsilon"
            if key in model:
                yield Mistake((*loc, key), message)
            elif key in grid:
                yield Mistake((*loc, "grid", key), message)


def _check_normalize(normalize: Any, loc: Loc) -> Iterator[Mistake]:
    mean, std = (normalize.get(key) for key in ("mean", "std")) if isinstance(normalize, dict) else (0, 0)
    if isinstance(mean, list) and isinstance(std, list) and len(mean) != len(std):
        yield Mistake(loc, f"mean has {len(mean)} values and std {len(std)}; one per channel each")


def unknown_preset(name: str, presets: Collection[str], attacks: Collection[str]) -> tuple[str, str | None]:
    """Return the message for an unknown preset and what was probably meant: a preset, or a list."""
    message, near = unknown("preset", name, presets)
    return message, f'["{name}"]' if name in attacks else near


def _check_norms(document: Document) -> Iterator[Mistake]:
    """Yield where threat models of one norm clash: two of one mode, or epsilons that differ."""
    first: dict[str, int] = {}
    modes: dict[tuple[str, str], int] = {}
    threats = dict(_tables(document, "threat_models"))
    for i, threat in threats.items():
        norm, mode = threat.get("norm"), threat.get("mode")
        if mode is None:
            mode = "cascade" if isinstance(threat.get("attacks"), str) else "individual"
        if not isinstance(norm, str) or not isinstance(mode, str):
            continue
        if (norm, mode) in modes:
            message = (
                f"{norm!r} has a threat model already (threat_models[{modes[norm, mode]}]); put all in one"
            )
            yield Mistake(("threat_models", i, "norm"), message)
        elif norm in first and _differ(threats[first[norm]], threat):
            message = (
                f"{norm!r} has other epsilons in threat_models[{first[norm]}]; "
                "an individual and a cascade threat model of one norm share theirs"
            )
            yield Mistake(("threat_models", i, "epsilons"), message)
        modes.setdefault((norm, mode), i)
        first.setdefault(norm, i)


def _differ(*threats: Document) -> bool:
    """Tell whether threat models name other epsilons; not if what is meant in one is not known."""
    found = [_epsilons(threat.get("epsilons")) for threat in threats]
    values = [{epsilon.value for epsilon in epsilons if epsilon} for epsilons in found]
    return values[0] != values[1] and not any(None in epsilons or not epsilons for epsilons in found)


def _check_checkpoint(model: Document, loc: Loc) -> Iterator[Mistake]:
    weights = model.get("weights")
    if isinstance(weights, str) and "://" in weights and "sha256" not in model:
        yield Mistake((*loc, "sha256"), "missing: weights from an address need their sha256")
    interval = model.get("input_range")
    if isinstance(interval, list) and len(interval) == 2 and interval[0] == interval[1]:
        yield Mistake((*loc, "input_range"), f"from {describe(interval[0])} to itself is no range")


def _check_threat_model(
    threat: Document, loc: Loc, known_attacks: Collection[str] | None
) -> Iterator[Mistake]:
    yield from _check_epsilons(threat, (*loc, "epsilons"))
    attacks = threat.get("attacks")
    yield from _repeated(attacks, (*loc, "attacks"))
    listed = [name for name in attacks if isinstance(name, str)] if isinstance(attacks, list) else []
    for index, name in enumerate(attacks if isinstance(attacks, list) else ()):
        if known_attacks is not None and isinstance(name, str) and name not in known_attacks:
            yield Mistake((*loc, "attacks", index), *unknown("attack", name, known_attacks))
    seen: set[str] = set()
    for i, table in _tables(threat, "attack"):
        name = table.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            yield Mistake((*loc, "attack", i, "name"), f"{name!r} has its settings in another table already")
        elif listed and name not in listed:
            message = f"{name!r} is not among this threat model's attacks: {', '.join(listed)}"
            yield Mistake((*loc, "attack", i, "name"), message, nearest(name, listed))
        seen.add(name)


def _check_epsilons(threat: Document, loc: Loc) -> Iterator[Mistake]:
    norm, written = threat.get("norm"), threat.get("epsilons")
    norm = norm if norm in NORMS else None
    epsilons = _epsilons(written)
    repeated = repeated_epsilons(epsilons, norm)
    large = [i for i, epsilon in enumerate(epsilons) if norm == "linf" and epsilon and epsilon.value > 1]
    if isinstance(written, str):
        # A range is one mistake, not one per epsilon.
        yield from (Mistake(loc, message) for _, message in repeated[:1])
        if large and not repeated:
            yield Mistake(loc, f"{TOO_LARGE}, got {written!r}")
        return
    yield from (Mistake((*loc, index), message) for index, message in repeated)
    for index in large:
        label = describe((written or [])[index])
        near = f"{label}/255" if label.isdecimal() and int(label) <= 255 else None
        yield Mistake((*loc, index), f"{TOO_LARGE}, got {label}", near)


def _check_reference_epsilons(document: Document) -> Iterator[Mistake]:
    analysis = document.get("analysis")
    written = analysis.get("reference_epsilons") if isinstance(analysis, dict) else None
    loc: Loc = ("analysis", "reference_epsilons")
    references = _epsilons(written)
    for index, message in repeated_epsilons(references, None):
        yield Mistake((*loc, index), message)
    known: dict[float, str] = {}
    for _, threat in _tables(document, "threat_models"):
        for epsilon in _epsilons(threat.get("epsilons")):
            if epsilon is None:
                return  # what was meant there is not known
            known.setdefault(epsilon.value, epsilon.label)
    for index, reference in enumerate(references):
        if known and reference and reference.value not in known:
            label = min(known.items(), key=lambda item: abs(item[0] - reference.value))[1]
            message = (
                f"{reference.label} is not an epsilon of any threat model; epsilons are compared exactly"
            )
            yield Mistake((*loc, index) if isinstance(written, list) else loc, message, label)


def _check_measures(measures: Any) -> Iterator[Mistake]:
    if not isinstance(measures, dict):
        return
    if not measures.get("families") and not measures.get("names"):
        yield Mistake(("measures",), "names no measure: give families or names")
    for key in ("families", "names"):
        yield from _repeated(measures.get(key), ("measures", key))


def _epsilons(written: Any) -> list[Epsilon | None]:
    """Return the epsilons of a list or range; None for each entry that is no epsilon."""
    if isinstance(written, str):
        try:
            return list(parse_range(written))
        except ValueError:
            return [None]
    found: list[Epsilon | None] = []
    for value in written if isinstance(written, list) else []:
        try:
            found.append(parse_epsilon(value))
        except ValueError:
            found.append(None)
    return found
