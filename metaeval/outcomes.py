"""What a cell of the cube says, and the only comparison of a distance with an epsilon."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

NO_CLASS = -2
"""Stands for the predicted class where a logit is NaN: nobody's label. Unlike -1, an answer."""

NORMS = ("linf", "l2", "l1")
NORM_NAMES = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1"}
"""As people write them."""

# Largest excess over epsilon that an accepted adversarial may have: float32 sums x + delta have float64
# norms a little above epsilon. Absolute for linf (pixel scale), relative for l2 and l1.
ABSOLUTE_TOLERANCE = {"linf": 1e-7, "l2": 0.0, "l1": 0.0}
RELATIVE_TOLERANCE = {"linf": 0.0, "l2": 1e-6, "l1": 1e-6}


class Cell(IntEnum):
    """State of one (sample, level) of one attack's column."""

    PENDING = 0
    MISCLASSIFIED = 1
    BROKEN = 2
    BROKEN_ENVELOPE = 3
    BROKEN_OVERRULED = 4
    ROBUST = 5
    ROBUST_INFERRED = 6


CELL_MEANINGS = {
    Cell.PENDING: "pending",
    Cell.MISCLASSIFIED: "misclassified",
    Cell.BROKEN: "broken",
    Cell.BROKEN_ENVELOPE: "broken-envelope",
    Cell.BROKEN_OVERRULED: "broken-overruled",
    Cell.ROBUST: "robust",
    Cell.ROBUST_INFERRED: "robust-inferred",
}


def broken(distance: npt.ArrayLike, epsilon: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Tell where an adversarial at `distance` breaks a sample at `epsilon`.

    Parameters
    ----------
    distance, epsilon : array_like
        Minimal distances and radii in the same norm; broadcast against each other.

    Returns
    -------
    ndarray of float64
        1 where broken, 0 where not, NaN where the distance is NaN (not computed).
    """
    d, e = np.broadcast_arrays(np.asarray(distance, dtype=np.float64), np.asarray(epsilon, dtype=np.float64))
    return np.where(np.isnan(d), np.nan, (d <= e * (1 + 1e-9)).astype(np.float64))


def in_double(distance: npt.ArrayLike, epsilons: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], ...]:
    """Return distances and epsilons in double precision, equal where they were at the lower precision.

    A float32 distance of 8/255 lies a little above the double 8/255; compared as they are, it would not be
    reached.
    """
    d, e = np.asarray(distance), np.asarray(epsilons)
    narrow = [a.dtype for a in (d, e) if a.dtype.kind == "f" and a.dtype.itemsize < 8]
    wide_d, wide_e = np.array(d, dtype=np.float64), np.array(e, dtype=np.float64)
    if narrow and e.size:
        lowest = min(narrow, key=lambda dtype: dtype.itemsize)
        levels = np.unique(wide_e)
        with np.errstate(over="ignore"):  # what a narrow type cannot hold is equal to nothing there
            rounded, low = levels.astype(lowest), wide_d.astype(lowest)
        first = np.minimum(np.searchsorted(rounded, low), len(levels) - 1)
        same = (rounded[first] == low) & np.isfinite(low)
        wide_d[same] = levels[first[same]]
    return wide_d, wide_e


def within(distance: npt.ArrayLike, epsilon: npt.ArrayLike, norm: str) -> npt.NDArray[np.bool_]:
    """Tell where a float64 norm counts as inside the ball of radius `epsilon`, rounding allowed for."""
    d, e = np.asarray(distance, dtype=np.float64), np.asarray(epsilon, dtype=np.float64)
    return np.asarray(d <= e + ABSOLUTE_TOLERANCE[norm] + RELATIVE_TOLERANCE[norm] * e)


def snap(distance: npt.ArrayLike, epsilons: npt.ArrayLike, norm: str) -> npt.NDArray[np.float64]:
    """Return distances with those a rounding error above an epsilon set to exactly that epsilon."""
    d = np.array(distance, dtype=np.float64, ndmin=1)
    for epsilon in np.sort(np.asarray(epsilons, dtype=np.float64)):
        d[(d > epsilon) & within(d, epsilon, norm)] = epsilon
    return d
