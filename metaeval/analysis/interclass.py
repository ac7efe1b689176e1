"""Distances between samples of different classes, and whether an epsilon reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.cube.separation import GROUP, distances
from metaeval.outcomes import NORM_NAMES, within

__all__ = ["Interclass", "distances", "from_cube", "summary"]

FloatArray = npt.NDArray[np.float64]


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
        norm = NORM_NAMES[self.norm]
        if np.isnan(self.smallest):
            return f"No two samples of different classes lie apart in {norm} (n = {self.samples})."
        samples = f"{self.duplicates} sample{'s' if self.duplicates > 1 else ''}"
        zero = f"; {samples} with distance 0 left out" if self.duplicates else ""
        reached = f"{_epsilons(self.exceeding)} the distance" if self.exceeding else ""
        half = f"{_epsilons(self.touching)} half of it" if self.touching else ""
        if not reached:
            reached = f"no epsilon of the study reaches {'the distance' if half else 'either'}"
        verdict = ", ".join(filter(None, (reached, half)))
        return (
            f"The nearest samples of different classes lie {self.smallest:.3g} apart in {norm} "
            f"(n = {self.samples}{zero}; with more samples it can only shrink): from an epsilon of "
            "that size on, accuracy and robustness must trade off, and balls first touch at half of it, "
            f"{self.smallest / 2:.3g}; {verdict}."
        )


def _epsilons(values: Sequence[float]) -> str:
    listed = ", ".join(f"{value:.3g}" for value in values)
    return f"epsilons {listed} reach" if len(values) > 1 else f"epsilon {listed} reaches"


def summary(distance: npt.ArrayLike, norm: str, epsilons: Sequence[float] = ()) -> Interclass:
    """Return smallest, largest and middle distances and the epsilons that exceed them."""
    d = np.asarray(distance, dtype=np.float64)
    apart = d[(d > 0) & np.isfinite(d)]
    nothing = not len(apart)
    smallest = float("nan") if nothing else float(apart.min())
    reaching = [float(epsilon) for epsilon in epsilons if within(smallest / 2, epsilon, norm)]
    return Interclass(
        norm,
        len(d),
        int((d == 0).sum()),
        smallest,
        float("nan") if nothing else float(apart.max()),
        np.full(3, np.nan) if nothing else np.quantile(apart, [0.25, 0.5, 0.75]),
        tuple(epsilon for epsilon in reaching if within(smallest, epsilon, norm)),
        tuple(epsilon for epsilon in reaching if not within(smallest, epsilon, norm)),
    )


def from_cube(cube: xr.DataTree) -> dict[str, Interclass]:
    """Return the summary of each norm whose distances the cube holds, with the study's epsilons."""
    if GROUP not in cube.children:
        return {}
    stored = cube.children[GROUP].to_dataset(inherit=False)["distance"]
    return {
        norm: summary(
            stored.sel(norm=norm).values,
            norm,
            cube.children[norm].coords["epsilon"].values.tolist(),
        )
        for norm in map(str, stored["norm"].values)
        if norm in cube.children  # a part of a cube may have no attack left under a norm
    }
