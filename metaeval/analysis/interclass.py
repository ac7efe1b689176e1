"""Distances between samples of different classes, and whether an epsilon reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.errors import UsageError, unknown
from metaeval.outcomes import NORMS

FloatArray = npt.NDArray[np.float64]
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
        If the norm is unknown, the lengths differ or a value is not finite.
    """
    from scipy.spatial.distance import cdist

    if norm not in METRICS:
        message, near = unknown("norm", norm, NORMS)
        raise UsageError(f"{message}; did you mean {near!r}?" if near else message)
    flat, labels = np.asarray(x, dtype=np.float64), np.asarray(y)
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


@dataclass(frozen=True)
class Interclass:
    """Distances between classes in one norm.

    Attributes
    ----------
    norm : str
    samples : int
    duplicates : int
        Samples that another label shares exactly (distance 0); left out of everything below.
    smallest, largest : float
        From `smallest` on, accuracy and robustness must trade off; balls first touch at half of it.
    quantiles : ndarray (3,)
        Quarter, half and three quarters of the samples have no other class nearer.
    exceeding : tuple of float
        Epsilons that reach `smallest`.
    touching : tuple of float
        Epsilons that reach half of it but not all.
    """

    norm: str
    samples: int
    duplicates: int
    smallest: float
    largest: float
    quantiles: FloatArray
    exceeding: tuple[float, ...]
    touching: tuple[float, ...]

    def sentence(self) -> str:
        """Return in words how far apart the classes are and which epsilons reach that far."""
        if np.isnan(self.smallest):
            return f"No two samples of different classes lie apart in {self.norm} (n = {self.samples})."
        listed = ", ".join(f"{epsilon:.3g}" for epsilon in self.exceeding)
        reach = f"epsilon {listed} reaches it" if listed else "no epsilon of the study reaches it"
        half = ", ".join(f"{epsilon:.3g}" for epsilon in self.touching)
        touch = f"; {half} reaches half of it, where balls first touch" if half else ""
        zero = f"; {self.duplicates} samples with distance 0 left out" if self.duplicates else ""
        return (
            f"Classes lie at least {self.smallest:.3g} apart in {self.norm} (n = {self.samples}{zero}; "
            f"with more samples it can only shrink); {reach}{touch}."
        )


def summary(distance: npt.ArrayLike, norm: str, epsilons: Sequence[float] = ()) -> Interclass:
    """Return smallest, largest and middle distances and the epsilons that exceed them."""
    d = np.asarray(distance, dtype=np.float64)
    apart = d[(d > 0) & np.isfinite(d)]
    nothing = not len(apart)
    smallest = float("nan") if nothing else float(apart.min())
    return Interclass(
        norm,
        len(d),
        int((d == 0).sum()),
        smallest,
        float("nan") if nothing else float(apart.max()),
        np.full(3, np.nan) if nothing else np.quantile(apart, [0.25, 0.5, 0.75]),
        tuple(float(epsilon) for epsilon in epsilons if epsilon >= smallest),
        tuple(float(epsilon) for epsilon in epsilons if smallest / 2 <= epsilon < smallest),
    )


def from_cube(cube: xr.DataTree) -> dict[str, Interclass]:
    """Return the summary of each norm whose distances the cube holds, with the study's epsilons."""
    if "interclass" not in cube.children:
        return {}
    stored = cube.children["interclass"].to_dataset(inherit=False)["distance"]
    return {
        norm: summary(
            stored.sel(norm=norm).values,
            norm,
            cube.children[norm].coords["epsilon"].values.tolist() if norm in cube.children else (),
        )
        for norm in map(str, stored["norm"].values)
    }
