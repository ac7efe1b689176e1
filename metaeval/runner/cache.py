"""Where metaeval keeps what it may make again: trained models."""

from __future__ import annotations

from metaeval.sources.data import Dataset
from metaeval.sources.models import ModelEntry, training_identity
from metaeval.sources.models.files import cache_directory

__all__ = ["cache_directory", "is_trained"]


def is_trained(entry: ModelEntry, data: Dataset) -> bool:
    """Tell whether a model that is trained here is in the cache already."""
    return (cache_directory() / "models" / training_identity(entry, data)).is_dir()
