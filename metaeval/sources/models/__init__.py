"""Models: found in a study, checked against the data, loaded or trained."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metaeval.sources.models.entry import LoadedModel, ModelEntry, Normalization, TrainingError
from metaeval.sources.models.expand import SOURCES, expand_models

if TYPE_CHECKING:
    from metaeval.sources.models.loading import (
        load_model,
        train_model,
        training_failure,
        training_identity,
    )

__all__ = [
    "SOURCES",
    "LoadedModel",
    "ModelEntry",
    "Normalization",
    "TrainingError",
    "expand_models",
    "load_model",
    "train_model",
    "training_failure",
    "training_identity",
]

# These need torch, which a study can be checked without.
_NEED_TORCH = ("load_model", "train_model", "training_failure", "training_identity")


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        return getattr(importlib.import_module("metaeval.sources.models.loading"), name)
    raise AttributeError(f"module 'metaeval.sources.models' has no attribute {name!r}")
