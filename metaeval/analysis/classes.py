"""Accuracy per class, and the yardstick for its spread: what equal classes would show by chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis.curves import with_interval
from metaeval.analysis.reading import given_confidence, norm_dataset

DRAWS = 10_000


def expected_range(correct: int, total: npt.ArrayLike, *, seed: int = 0) -> float:
    """Return the expected best minus worst accuracy of classes that are all equally hard.

    Parameters
    ----------
    correct : int
        Samples that are correct in all classes together.
    total : array_like of int (class,)
        Samples per class; classes without samples are left out.

    Returns
    -------
    float
        Mean of max minus min of the classes' shares where chance alone decides which samples are the correct
        ones (multivariate hypergeometric, 10,000 draws); NaN without classes.
    """
    sizes = np.asarray(total, dtype=np.int64)
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return float("nan")
    draws = np.random.default_rng(seed).multivariate_hypergeometric(sizes, correct, DRAWS, method="marginals")
    return float(np.ptp(draws / sizes, axis=1).mean())


def from_cube(cube: xr.DataTree, norm: str, confidence: float | None = None) -> xr.Dataset:
    """Return accuracy per class with Wilson's interval for one norm of a cube.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `lower`, `upper`, `correct` (model, class, epsilon, attack), `total` (class); NaN until
        every sample of the class is evaluated. A published accuracy without its count has no interval.
    """
    confidence = given_confidence(cube, confidence)
    aggregates = norm_dataset(cube, norm)
    correct, total = aggregates["correct"], aggregates["total"]
    face = with_interval(correct, total, confidence).assign(correct=correct, total=total)
    return face.assign(accuracy=face["accuracy"].fillna(aggregates["robust_accuracy"]))


def spread(correct: npt.ArrayLike, total: npt.ArrayLike) -> tuple[int, int, float, float]:
    """Return the worst class, the best class, their difference, and the difference equal classes would show.

    Parameters
    ----------
    correct, total : array_like (class,)
        Counts of one model at one epsilon; NaN means not available.

    Returns
    -------
    worst, best : int
        Positions (the first on ties); -1 when fewer than two classes are available.
    observed, expected : float
        In [0, 1]; NaN likewise.
    """
    k, n = np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64)
    known = n > 0
    if known.sum() < 2 or np.isnan(k[known]).any():
        return -1, -1, float("nan"), float("nan")
    share = np.where(known, k / np.where(known, n, 1), np.nan)
    worst, best = int(np.nanargmin(share)), int(np.nanargmax(share))
    chance = expected_range(round(k[known].sum()), n[known])
    return worst, best, float(share[best] - share[worst]), chance
