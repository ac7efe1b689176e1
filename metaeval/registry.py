"""Named things, ours and other packages': tables of ours plus entry points of theirs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from metaeval.errors import UsageError, unknown_name


def names(group: str, builtin: Mapping[str, str]) -> list[str]:
    """Return the names of a group: the built-in table's, then those of installed entry points."""
    plugins = [point.name for point in entry_points(group=f"metaeval.{group}") if point.name not in builtin]
    return [*builtin, *sorted(plugins)]


def load(group: str, builtin: Mapping[str, str], name: str) -> Any:
    """Import what `name` stands for; a built-in name cannot be taken over by an entry point.

    Raises
    ------
    UsageError
        If the name is in neither; the message lists what is and the nearest match.
    """
    if name in builtin:
        return resolve(builtin[name])
    for point in entry_points(group=f"metaeval.{group}"):
        if point.name == name:
            return point.load()
    raise unknown_name(group.rstrip("s"), name, names(group, builtin))


def resolve(reference: str) -> Any:
    """Import ``"module:attribute"``.

    Raises
    ------
    UsageError
        If the reference has another form, the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{reference!r} is not of the form 'module:callable'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"cannot import {module_name!r} of {reference!r}: {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UsageError(f"module {module_name!r} has no {attribute!r}") from error
