"""Where metaeval keeps what it may make again: trained models."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from metaeval.sources.data import Dataset
from metaeval.sources.models import ModelEntry, training_identity


def cache_directory() -> Path:
    """Return ``METAEVAL_CACHE_DIR`` if set, else the platform's cache folder for metaeval."""
    given = os.environ.get("METAEVAL_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("metaeval"))


def is_trained(entry: ModelEntry, data: Dataset) -> bool:
    """Tell whether a model that is trained here is in the cache already."""
    return (cache_directory() / "models" / training_identity(entry, data)).is_dir()
