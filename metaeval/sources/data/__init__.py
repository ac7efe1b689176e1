"""Data sets: opened lazily, selected reproducibly, hashed by content."""

from metaeval.sources.data.dataset import Dataset, Samples, fingerprint
from metaeval.sources.data.opening import SOURCES, open_data
from metaeval.sources.data.selection import open_training_data, selection_order, take

__all__ = [
    "SOURCES",
    "Dataset",
    "Samples",
    "fingerprint",
    "open_data",
    "open_training_data",
    "selection_order",
    "take",
]
