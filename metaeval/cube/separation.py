"""Distances between samples of different classes: computed once for a study's samples, kept in its cube."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr

from metaeval.cube import arrays
from metaeval.cube.files import read_json
from metaeval.cube.layout import GROUPS
from metaeval.cube.store import CubeStore
from metaeval.errors import UsageError, unknown_name
from metaeval.hashing import hash_array
from metaeval.outcomes import NORMS

FloatArray = npt.NDArray[np.float64]
GROUP = "interclass"
MOST_SAMPLES = 10_000
MOST_WORK = 5e10
"""Samples squared times numbers of a sample, times one half; at most about a minute a norm."""
METRICS: dict[str, Literal["chebyshev", "euclidean", "cityblock"]] = {
    "linf": "chebyshev",
    "l2": "euclidean",
    "l1": "cityblock",
}
BLOCK = 512


def distances(x: npt.ArrayLike, y: npt.ArrayLike, norm: str = "linf") -> FloatArray:
    """Return each sample's distance to the nearest sample with another label.

    Parameters
    ----------
    x : array_like (sample, ...)
        Any shape per sample; 8-bit images are taken as given, so scale them to [0, 1] for distances there.
    y : array_like (sample,)
        Labels of any kind.
    norm : {"linf", "l2", "l1"}

    Returns
    -------
    ndarray (sample,)
        0 = the same input with another label, inf = no other label. Exact, by all pairs; every pair is
        computed once and memory beyond the data stays at a few MB.

    Raises
    ------
    UsageError
        If the norm is unknown, the lengths differ, a value is not finite or a label is NaN.
    """
    from scipy.spatial.distance import cdist

    if norm not in METRICS:
        raise unknown_name("norm", norm, NORMS)
    flat, labels = np.asarray(x, dtype=np.float64), codes(y)
    if flat.ndim < 2 or labels.shape != flat.shape[:1] or not len(flat):
        raise UsageError(f"inputs {flat.shape} need one label per sample, not {labels.shape}")
    flat = np.ascontiguousarray(flat.reshape(len(flat), -1))
    if not np.isfinite(flat).all():
        raise UsageError("inputs must be finite")
    nearest = np.full(len(flat), np.inf)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(flat), BLOCK)]
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            block = cdist(flat[rows], flat[columns], METRICS[norm])
            block[labels[rows, None] == labels[None, columns]] = np.inf
            np.minimum(nearest[rows], block.min(axis=1), out=nearest[rows])
            np.minimum(nearest[columns], block.min(axis=0), out=nearest[columns])
    return nearest


def codes(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return labels as integers: equal where the labels are, whatever they are.

    A list is read label by label: as an array, -1 and 2 ** 63 would both be floats, and 1 and "1" both text.

    Raises
    ------
    UsageError
        If there is not one label that can be compared per sample, or one is NaN.
    """
    if not isinstance(labels, list | tuple) and np.ndim(labels) != 1:
        raise UsageError(f"inputs need one label per sample, not labels of shape {np.shape(labels)}")
    found: dict[Hashable, int] = {}
    values = labels if isinstance(labels, list | tuple) else np.asarray(labels).tolist()
    try:
        result = [found.setdefault(label, len(found)) for label in values]
        missing = any(label != label for label in found)
    except TypeError:
        raise UsageError("inputs need one label per sample that can be compared, such as a number") from None
    if missing:
        raise UsageError("labels must not be NaN")
    return np.array(result, dtype=np.int64)


class Held(NamedTuple):
    """The distances in a cube, `(norm, sample)` or None where they are damaged, and what they are of."""

    distance: FloatArray | None
    norms: list[str]
    attributes: dict[str, Any]


def read(store: CubeStore) -> Held | None:
    """Return the distances that a cube holds, None if it holds none."""
    if not (store.path / GROUP).exists():
        return None
    content = read_json(store.path / GROUP / "zarr.json")
    attributes = content.get("attributes", {}) if isinstance(content, dict) else {}
    names, distance = (_array(store, name) for name in ("norm", "distance"))
    norms = [] if names is None else [str(name) for name in names]
    whole = distance is not None and attributes.get("checksum") in (None, hash_array(distance))
    return Held(distance if whole and norms == attributes.get("norms") else None, norms, attributes)


def _array(store: CubeStore, name: str) -> Any:
    return arrays.attempt(lambda: zarr.open_array(store.path, path=f"{GROUP}/{name}", mode="r")[...])


def write(
    store: CubeStore, x: npt.NDArray[np.float32], y: npt.ArrayLike, norms: Sequence[str], samples_hash: str
) -> bool:
    """Write the distances of a study's samples into its cube, unless they are there or would take too long.

    Needs the layout lock exclusively. Distances of other samples or norms are removed.

    Parameters
    ----------
    norms : sequence of str
        In their order.
    samples_hash : str
        Tells the samples from others.

    Returns
    -------
    bool
        Whether the cube holds the distances now.
    """
    wanted = {"samples_hash": samples_hash, "norms": list(norms)}
    held = read(store)
    intact = held is not None and held.distance is not None
    if held and intact and norms and all(held.attributes.get(key) == value for key, value in wanted.items()):
        return True
    possible = bool(norms) and len(x) <= MOST_SAMPLES and len(x) * x.size / 2 <= MOST_WORK
    if not possible and held is None:
        return False
    found = np.array([distances(x, y, norm) for norm in norms]) if possible else np.empty((0, 0))
    arrays.drop_consolidated(store.path)
    if possible:
        values = {"norm": list(norms), "sample": np.arange(len(x)), "distance": found}
        attributes = {**wanted, "checksum": hash_array(found)}
        arrays.replace_group(store.path, GROUP, GROUPS[GROUP], values, attributes)
    else:
        arrays.remove_group(store.path, GROUP)
    arrays.consolidate(store.path)
    return possible
