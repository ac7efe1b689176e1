"""What a data source gives: labels at once, inputs when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from metaeval.hashing import hash_array, hash_json

Indices = npt.NDArray[np.int64]
Inputs = npt.NDArray[np.float32]
Read = Callable[[Indices], Inputs]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Attributes
    ----------
    name, split : str
        Its name in reports, and which part of the data it is.
    labels : int64 array (n,)
        Class indices.
    sample_ids : tuple of str
        One name per sample, the same wherever and however the data are stored.
    class_names : tuple of str
        Index = label; a class may have no samples in this split.
    shape : tuple of int
        Of one input: (channels, height, width), or (features,).
    read : callable
        From int64 indices (k,) to float32 inputs (k, *shape) in [0, 1].
    """

    name: str
    split: str
    labels: npt.NDArray[np.int64] = field(repr=False)
    sample_ids: tuple[str, ...] = field(repr=False)
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    read: Read = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples that a study evaluates, in their order.

    Attributes
    ----------
    x : float32 array (n, *shape)
        Inputs in [0, 1].
    y : int64 array (n,)
        Labels.
    ids, hashes : tuple of str
        The name of each sample, and the hash of its content.
    class_names : tuple of str
        Index = label.
    """

    x: Inputs
    y: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    class_names: tuple[str, ...]


def fingerprint(dataset: Dataset) -> str:
    """Return the sha256 (hex) of a data set's labels and sample ids; inputs are not read."""
    return hash_json([hash_array(dataset.labels), *dataset.sample_ids])
