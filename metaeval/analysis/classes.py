"""Accuracy per class, and the yardstick for its spread: what equal classes would show by chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis.curves import with_interval
from metaeval.analysis.reading import given_confidence, norm_dataset


def expected_range(accuracy: float, total: npt.ArrayLike) -> float:
    """Return the expected best minus worst accuracy of classes that are all equally hard.

    Parameters
    ----------
    accuracy : float
        The accuracy that all classes share, in [0, 1].
    total : array_like of int (class,)
        Samples per class; classes without samples are left out.

    Returns
    -------
    float
        Exact expectation of max minus min of independent binomial shares; NaN without classes.
    """
    sizes, repeats = np.unique(np.asarray(total, dtype=np.int64), return_counts=True)
    sizes, repeats = sizes[sizes > 0], repeats[sizes > 0]
    if np.isnan(accuracy) or not len(sizes):
        return float("nan")
    # E[max] - E[min] is the integral of 1 - prod F(x) - prod (1 - F(x)), constant between possible shares.
    steps = np.unique(np.concatenate([np.arange(size + 1) / size for size in sizes]))
    middle = (steps[:-1] + steps[1:]) / 2
    below, above = np.ones_like(middle), np.ones_like(middle)
    for size, repeat in zip(sizes, repeats, strict=True):
        count = np.floor(middle * size)
        below *= stats.binom.cdf(count, size, accuracy) ** repeat
        above *= stats.binom.sf(count, size, accuracy) ** repeat
    return float(((1 - below - above) * np.diff(steps)).sum())


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
    overall = float(k[known].sum() / n[known].sum())
    return worst, best, float(share[best] - share[worst]), expected_range(overall, n[known])
