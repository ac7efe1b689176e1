"""Where metaeval keeps what it may make again: trained models."""

from __future__ import annotations

from metaeval.sources.data import Dataset
from metaeval.sources.models import ModelEntry, training_failure, training_identity
from metaeval.sources.models.files import cache_directory

__all__ = ["cache_directory", "is_trained", "known_failure"]


def is_trained(entry: ModelEntry, data: Dataset) -> bool:
    """Tell whether a model that is trained here is in the cache already, even as failed."""
    return (cache_directory() / "models" / training_identity(entry, data)).is_dir()


def known_failure(entry: ModelEntry, data: Dataset) -> str | None:
    """Return why the training of a model failed before, which it would again; None if it did not."""
    return training_failure(entry, data, cache_directory())
