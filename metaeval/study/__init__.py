"""The study file: its tables, its problems with their places, identities, and the plan."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeval.study.load import load_study
    from metaeval.study.schema import Study, json_schema

__all__ = ["Study", "json_schema", "load_study"]

_HOMES = {"Study": "schema", "json_schema": "schema", "load_study": "load"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"metaeval.study.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'metaeval.study' has no attribute {name!r}")
