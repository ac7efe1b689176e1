"""The binary files that standard sets are published in: CIFAR's pickles, idx files, SVHN's MATLAB files.

Each reader takes the content of the files of one split and returns uint8 images (n, channels, height, width)
and int64 labels (n,); what cannot be read raises ValueError.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

SIDE = 32  # pixels of CIFAR and SVHN

# All that arrays in a pickle need; anything else could run code.
SAFE = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"it needs {module}.{name}, which could run code")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(content: bytes) -> Mapping[str, Any]:
    try:
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"no readable pickle: {error or type(error).__name__}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"a pickle of a {type(found).__name__}, not of a table")
    return found


def read_cifar(contents: Sequence[bytes]) -> Arrays:
    """Read batches of CIFAR-10 or CIFAR-100 (its fine labels)."""
    images, labels = [], []
    for content in contents:
        batch = _unpickle(content)
        rows = batch.get("data")
        found = batch.get("labels", batch.get("fine_labels"))
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3 * SIDE**2,):
            raise ValueError("no batch of CIFAR: 'data' is no uint8 array of 3,072 columns")
        if not isinstance(found, list) or len(found) != len(rows):
            raise ValueError("no batch of CIFAR: it has no label for each row")
        images.append(rows.reshape(-1, 3, SIDE, SIDE))
        labels.append(np.array(found, dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


def read_names(content: bytes) -> tuple[str, ...]:
    """Read the names of CIFAR-100's fine classes."""
    names = _unpickle(content).get("fine_label_names")
    if not isinstance(names, list):
        raise ValueError("it has no 'fine_label_names'")
    return tuple(map(str, names))


def read_idx(contents: Sequence[bytes]) -> Arrays:
    """Read an idx file of images and one of labels."""
    images, labels = (_idx(content, axes) for content, axes in zip(contents, (3, 1), strict=True))
    return images[:, None], labels.astype(np.int64)


def _idx(content: bytes, axes: int) -> npt.NDArray[np.uint8]:
    start = 4 + 4 * axes
    # Two zeros, the type (8: unsigned bytes), the number of axes; then their sizes, most significant first.
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise ValueError(f"no idx file of bytes with {axes} axes; it begins with {content[:4]!r}")
    sizes = np.frombuffer(content[4:start], dtype=">i4").tolist()
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(sizes):
        raise ValueError(f"an idx file of {values.size} bytes for the shape {tuple(sizes)}: cut off")
    return values.reshape(sizes)


def read_svhn(contents: Sequence[bytes]) -> Arrays:
    """Read a MATLAB file of SVHN's cropped digits; its label 10 is the digit 0."""
    from scipy.io import loadmat

    (content,) = contents
    try:
        found = loadmat(io.BytesIO(content), variable_names=["X", "y"])  # type: ignore[arg-type]
    except Exception as error:  # a damaged file raises nearly anything
        raise ValueError(f"no readable MATLAB file: {error}") from None
    x, y = found.get("X"), found.get("y")
    if x is None or y is None or x.ndim != 4 or x.shape[:3] != (SIDE, SIDE, 3) or x.dtype != np.uint8:
        raise ValueError("no file of SVHN: X is no uint8 array (32, 32, 3, n), or y is missing")
    labels = y.reshape(-1).astype(np.int64)
    if len(labels) != x.shape[3] or (labels < 1).any() or (labels > 10).any():
        raise ValueError("no file of SVHN: y holds not one label from 1 to 10 for each image")
    return x.transpose(3, 2, 0, 1), labels % 10
