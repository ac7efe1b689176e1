"""Data sets: opened lazily, selected reproducibly, hashed by content."""

from metaeval.sources.data.dataset import Dataset, Samples, fingerprint
from metaeval.sources.data.opening import SOURCES, open_data
from metaeval.sources.data.selection import copies, selection_order, take
from metaeval.sources.data.training_data import open_training_data

__all__ = [
    "SOURCES",
    "Dataset",
    "Samples",
    "copies",
    "fingerprint",
    "open_data",
    "open_training_data",
    "selection_order",
    "take",
]
