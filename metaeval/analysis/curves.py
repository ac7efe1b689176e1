"""Accuracy over epsilon with its interval: Wilson's interval, robustness curves, the faces for a cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis.reading import norm_dataset
from metaeval.errors import UsageError
from metaeval.outcomes import broken

FloatArray = npt.NDArray[np.float64]


def wilson(
    correct: npt.ArrayLike, total: npt.ArrayLike, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Return the lower and upper end of Wilson's score interval for an accuracy.

    Parameters
    ----------
    correct, total : array_like
        Correct samples and all samples; broadcast against each other. NaN means not available.
    confidence : float
        Between 0 and 1, both excluded.

    Returns
    -------
    lower, upper : ndarray of float64
        In [0, 1]; NaN where `correct` is NaN or `total` is 0.

    Raises
    ------
    UsageError
        If a count is negative, exceeds its total, or the confidence is not between 0 and 1.

    References
    ----------
    Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    from statsmodels.stats.proportion import proportion_confint  # seconds to import

    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence} is not between 0 and 1")
    k, n = np.broadcast_arrays(np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64))
    known = ~np.isnan(k) & (n > 0)
    if np.any(k[known] < 0) or np.any(k[known] > n[known]):
        raise UsageError("correct counts must lie between 0 and their totals")
    lower, upper = np.full(k.shape, np.nan), np.full(k.shape, np.nan)
    if known.any():
        lower[known], upper[known] = proportion_confint(
            k[known], n[known], alpha=1 - confidence, method="wilson"
        )
    # The ends are exact at 0 and 1; rounding must not move them outside.
    return np.clip(lower, 0, 1), np.clip(upper, 0, 1)


@dataclass(frozen=True)
class RobustnessCurve:
    """Accuracy as a function of epsilon.

    Attributes
    ----------
    epsilons : ndarray (level,)
    accuracy, lower, upper : ndarray (..., level)
        Share of samples not broken and its Wilson interval, which covers the choice of test samples and
        not the strength of the attack; NaN where a distance is NaN.
    samples : int
    """

    epsilons: FloatArray
    accuracy: FloatArray
    lower: FloatArray
    upper: FloatArray
    samples: int


def robustness_curve(
    distance: npt.ArrayLike, epsilons: npt.ArrayLike | None = None, confidence: float = 0.95
) -> RobustnessCurve:
    """Return the share of samples whose smallest known adversarial lies beyond each epsilon.

    Parameters
    ----------
    distance : array_like (..., sample)
        0 = misclassified, inf = no adversarial found, NaN = not computed (makes the accuracy NaN).
    epsilons : array_like (level,), optional
        Radii in the norm of the distances; default: 0 and every finite distance, the steps of the curve.

    Raises
    ------
    UsageError
        If there are no samples, or a distance or an epsilon is negative.
    """
    d = np.asarray(distance, dtype=np.float64)
    if d.ndim == 0 or d.shape[-1] == 0:
        raise UsageError("a robustness curve needs at least one sample")
    levels = np.unique(np.append(d[np.isfinite(d)], 0.0)) if epsilons is None else epsilons
    e = np.asarray(levels, dtype=np.float64).reshape(-1)
    if np.any(d < 0) or np.any(e < 0) or np.isnan(e).any():
        raise UsageError("distances and epsilons cannot be negative, nor an epsilon NaN")
    counts = [d.shape[-1] - broken(d, level).sum(axis=-1) for level in e]
    correct = np.stack(counts, axis=-1) if counts else np.empty((*d.shape[:-1], 0))
    lower, upper = wilson(correct, d.shape[-1], confidence)
    return RobustnessCurve(e, correct / d.shape[-1], lower, upper, int(d.shape[-1]))


def from_cube(cube: xr.DataTree, norm: str, confidence: float = 0.95) -> xr.Dataset:
    """Return overall accuracy with Wilson's interval for one norm of a cube.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `lower`, `upper`, `correct`, `inferred` (share of all samples whose verdict was inferred
        from a larger epsilon) over (model, epsilon, attack) and the scalar `total`. Accuracy is the sum of
        correct over the sum of samples, never a mean of class accuracies; NaN until every sample of
        every class is evaluated.
    """
    aggregates = norm_dataset(cube, norm)
    total = aggregates["total"].sum("class")
    counted = aggregates[["correct", "inferred"]].sum("class", skipna=False)
    return with_interval(counted["correct"], total, confidence).assign(
        correct=counted["correct"],
        inferred=counted["inferred"] / total.where(total > 0),
        total=total,
    )


def clean_from_cube(cube: xr.DataTree, confidence: float = 0.95) -> xr.Dataset:
    """Return overall clean accuracy with Wilson's interval over (model)."""
    aggregates = norm_dataset(cube, "clean")
    correct, total = aggregates["correct"].sum("class", skipna=False), aggregates["total"].sum("class")
    return with_interval(correct, total, confidence).assign(correct=correct, total=total)


def with_interval(correct: xr.DataArray, total: xr.DataArray, confidence: float) -> xr.Dataset:
    """Return `accuracy`, `lower`, `upper` of labelled counts."""
    lower, upper = xr.apply_ufunc(
        wilson, correct, total, kwargs={"confidence": confidence}, output_core_dims=[[], []]
    )
    result = xr.Dataset({"accuracy": correct / total.where(total > 0), "lower": lower, "upper": upper})
    return result.transpose(*correct.dims)
