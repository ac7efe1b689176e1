"""Every attack by its id: ours, and other packages' by entry points. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from metaeval import registry
from metaeval.attacks.builtin import ATTACKS
from metaeval.attacks.spec import AttackSpec, Number, Passes, Setting
from metaeval.errors import UsageError, unknown

__all__ = ["AttackSpec", "Setting"]

# Full runs' worth of passes that a sample takes over all levels; benchmarks/README.md compares with counts.
FRONTIER_RUNS = 1.25  # one failing run, a short one above it, a few cheap successes: counted 1.1 to 1.8
FRONTIER_FULL_RUNS = 2.0  # where successes cost as much: as a rule one at the top, then the failing run
STAGE_SURVIVAL = 0.9  # share of correct samples that the stages before leave unbroken at some epsilon
EXACT_SHARE = 0.8  # share of (sample, level) pairs that survive to be attacked in exact mode
EXTRAS = {"foolbox": "foolbox"}  # extras that bring an implementation; the others come with ``run``

_SPECS = {spec.id: spec for spec in ATTACKS}


def names() -> list[str]:
    """Return the ids of all attacks: ours, then those of other packages' entry points."""
    return registry.names("attacks", dict.fromkeys(_SPECS, ""))


def get(name: str) -> AttackSpec:
    """Return the attack with this id.

    Raises
    ------
    UsageError
        If there is none; the message lists those that are and the nearest one.
    """
    if name in _SPECS:
        return _SPECS[name]
    if name in names():
        spec = registry.load("attacks", {}, name)
        if not isinstance(spec, AttackSpec):
            raise UsageError(f"the entry point {name!r} of metaeval.attacks is no AttackSpec")
        return spec
    raise UsageError(_with_suggestion(*unknown("attack", name, names())))


def setting_problems(spec: AttackSpec, given: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """Return (key, what is wrong with it, nearest allowed key) for every wrong setting."""
    found: list[tuple[str, str, str | None]] = []
    for key, value in given.items():
        if key not in spec.settings:
            if spec.settings:
                message, suggestion = unknown(f"setting of {spec.id}", key, spec.settings)
            else:
                message, suggestion = f"{spec.id} has no settings", None
            found.append((key, message, suggestion))
            continue
        try:
            _value(spec.settings[key], value)
        except ValueError as error:
            found.append((key, str(error), None))
    return found


def resolve_settings(spec: AttackSpec, given: Mapping[str, Any]) -> dict[str, Number]:
    """Return every setting of an attack, defaults filled in; numbers may be fractions in strings.

    Raises
    ------
    UsageError
        If a setting is unknown, of the wrong type or too small; all are named.
    """
    found = setting_problems(spec, given)
    if found:
        raise UsageError("; ".join(_with_suggestion(f"{key}: {text}", near) for key, text, near in found))
    return {
        key: _value(setting, given[key]) if key in given else setting.default
        for key, setting in spec.settings.items()
    }


def attack_version(spec: AttackSpec) -> str:
    """Return what runs and which version of it, as in ``"pyautoattack 0.2.0"``."""
    # Our own kernels have a revision only: a release of metaeval that leaves them alone changes no column.
    parts = [spec.implementation, *([] if spec.implementation == "metaeval" else [_installed(spec)])]
    if spec.revision > 1 or spec.implementation == "metaeval":
        parts.append(f"revision {spec.revision}")
    return " ".join(parts)


def reduced(spec: AttackSpec, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings that are weaker than the standard, as in ``"queries 500 (standard 5000)"``."""
    return [
        f"{key} {settings[key]} (standard {setting.standard})"
        for key, setting in spec.settings.items()
        if setting.standard is not None and settings[key] < setting.standard
    ]


def problems(
    spec: AttackSpec, *, norm: str, classes: int | None = None, shape: tuple[int, ...] | None = None
) -> str | None:
    """Return why an attack cannot run on this norm, number of classes and input shape; None if it can."""
    if norm not in spec.norms:
        return f"{spec.id} cannot run with norm {norm}, only with {', '.join(spec.norms)}"
    spec = spec.for_norm(norm)
    if classes is not None and classes < spec.minimum_classes:
        return f"{spec.id} needs at least {spec.minimum_classes} classes, there are {classes}"
    if shape is not None and spec.unfit and (reason := spec.unfit(shape)):
        return f"{spec.id} with norm {norm} {reason}"
    if spec.implementation != "metaeval" and _installed(spec) == _ABSENT:
        extra = EXTRAS.get(spec.implementation, "run")
        return f"{spec.id} needs the package {spec.implementation}: pip install 'metaeval[{extra}]'"
    return None


def cost(
    spec: AttackSpec, settings: Mapping[str, Any], *, classes: int, levels: int, search: str = "frontier"
) -> Passes:
    """Return the (forwards, backwards) to expect for one correctly classified sample over all levels.

    The plan takes every sample for correctly classified, and verification is counted apart.

    Parameters
    ----------
    levels : int
        Number of epsilons above 0.
    search : str
        ``"frontier"`` or ``"exact"``.
    """
    forwards, backwards = spec.passes(settings, classes)
    runs = 0.0 if levels == 0 else 1.0
    if spec.kind == "fixed-epsilon" and levels > 1:
        if search == "exact" or not spec.inferable:
            runs = max(1.0, EXACT_SHARE * levels)
        else:
            runs = FRONTIER_RUNS if spec.early_exit else FRONTIER_FULL_RUNS
    return runs * forwards, runs * backwards


_ABSENT = "(not installed)"


def _installed(spec: AttackSpec) -> str:
    try:
        return version(spec.implementation)
    except PackageNotFoundError:
        return _ABSENT


def _value(setting: Setting, value: Any) -> Number:
    """Return a setting's value in its type, or raise ValueError saying what is wrong."""
    try:
        exact = Fraction(str(value).replace(" ", "")) if not isinstance(value, bool) else None
    except (ValueError, ZeroDivisionError):
        exact = None
    whole = isinstance(setting.default, int)
    if exact is None or (whole and exact.denominator != 1):
        raise ValueError(f"{value!r} is not {'a whole number' if whole else 'a number'}")
    if exact < Fraction(str(setting.minimum)):
        raise ValueError(f"{value!r} is below the minimum {setting.minimum}")
    return int(exact) if whole else float(exact)


def _with_suggestion(message: str, suggestion: str | None) -> str:
    return f"{message}; did you mean {suggestion!r}?" if suggestion else message
