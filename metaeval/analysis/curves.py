"""Accuracy over epsilon with its interval: Wilson's interval, robustness curves, the faces for a cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis import bands
from metaeval.analysis.differences import check_same_samples, critical_value, paired_differences
from metaeval.analysis.reading import WORST_CASE, given_confidence, norm_dataset, references
from metaeval.errors import UsageError
from metaeval.outcomes import broken, in_double

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
    """Accuracy as a right-continuous function of epsilon, known up to the last epsilon.

    Attributes
    ----------
    epsilons : ndarray (level,)
        Ascending when they are the steps of the curve, else as they were given.
    accuracy, lower, upper : ndarray (..., level)
        Share of samples not broken and its Wilson interval, which covers the choice of test samples and
        not the strength of the attack; NaN where a distance is NaN.
    samples : int
    confidence : float
    chosen : bool
        Whether the epsilons were given and not read off the distances.
    """

    epsilons: FloatArray
    accuracy: FloatArray
    lower: FloatArray
    upper: FloatArray
    samples: int
    confidence: float = 0.95
    chosen: bool = True

    @property
    def dkw(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper end of a band of constant width for all epsilons at once (Massart 1990)."""
        half = np.sqrt(np.log(2 / (1 - self.confidence)) / (2 * self.samples))
        return np.clip(self.accuracy - half, 0, 1), np.clip(self.accuracy + half, 0, 1)

    @property
    def simultaneous(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper end of a band for all epsilons at once, narrow near 0 and 1.

        Exact intervals with one error for each, chosen so that all of them hold together; valid for any
        number of samples.
        """
        levels = len(self.epsilons) if self.chosen else None
        level = bands.local_level(self.samples, self.confidence, levels)
        return bands.clopper_pearson(np.rint(self.accuracy * self.samples), self.samples, level)


def steps(*distances: npt.ArrayLike) -> FloatArray:
    """Return 0 and every finite distance at which all the given curves are known, ascending.

    A curve with a distance of infinity is known up to its largest finite one only: the attack went no
    further for certain.
    """
    given = [np.asarray(distance) for distance in distances]
    exact = [d.ravel() for d in given if d.dtype == np.float64]
    # A narrow distance stands for the double one that it rounds, or there were two steps for one.
    arrays = [in_double(d, np.concatenate(exact) if exact else [])[0] for d in given]
    found = np.unique(np.concatenate([[0.0], *(d[np.isfinite(d)] for d in arrays)]))
    ends = [np.max(d[np.isfinite(d)], initial=0.0) for d in arrays if np.isinf(d).any()]
    return found[found <= min(ends, default=np.inf)]


def checked(distance: npt.ArrayLike, epsilons: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Return distances and epsilons as arrays.

    Raises
    ------
    UsageError
        If there are no samples, a distance or an epsilon is negative, or an epsilon is not finite.
    """
    d, e = in_double(distance, steps(distance) if epsilons is None else epsilons)
    e = e.reshape(-1)
    if d.ndim == 0 or d.shape[-1] == 0:
        raise UsageError("a robustness curve needs at least one sample")
    if np.any(d < 0) or np.any(e < 0) or not np.isfinite(e).all():
        raise UsageError("distances and epsilons cannot be negative, nor an epsilon NaN or infinite")
    return d, e


def robustness_curve(
    distance: npt.ArrayLike, epsilons: npt.ArrayLike | None = None, confidence: float = 0.95
) -> RobustnessCurve:
    """Return the share of samples whose smallest known adversarial lies beyond each epsilon.

    Parameters
    ----------
    distance : array_like (..., sample)
        0 = misclassified, inf = no adversarial found, NaN = not computed (makes the accuracy NaN).
    epsilons : array_like (level,), optional
        Radii in the norm of the distances, none beyond the largest that was attacked; default: 0 and every
        finite distance, the steps of the curve.
    confidence : float

    Raises
    ------
    UsageError
        If there are no samples, or a distance or an epsilon is negative.
    """
    d, e = checked(distance, epsilons)
    counts = [d.shape[-1] - broken(d, level).sum(axis=-1) for level in e]
    correct = np.stack(counts, axis=-1) if counts else np.empty((*d.shape[:-1], 0))
    lower, upper = wilson(correct, d.shape[-1], confidence)
    return RobustnessCurve(
        e, correct / d.shape[-1], lower, upper, int(d.shape[-1]), confidence, epsilons is not None
    )


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over the choice of test samples.

    Attributes
    ----------
    value, lower, upper : ndarray (...)
        inf = beyond the last epsilon; NaN where a distance is NaN.
    """

    value: FloatArray
    lower: FloatArray
    upper: FloatArray
    samples: int


def quantile(distance: npt.ArrayLike, share: float = 0.5, confidence: float = 0.95) -> Estimate:
    """Return the epsilon at which a share of all samples is broken; the median minimal distance by default.

    Parameters
    ----------
    distance : array_like (..., sample)
        0 = misclassified, inf = no adversarial found up to the last epsilon.
    share : float
        In (0, 1].

    Returns
    -------
    Estimate
        The smallest distance that at least `share` of the samples do not exceed, and the order statistics
        that cover the quantile with at least the confidence, whatever the distribution.
    """
    d, _ = checked(distance, [])
    bands.check_confidence(confidence)
    if not 0 < share <= 1:
        raise UsageError(f"share {share} does not lie in (0, 1]")
    n = d.shape[-1]
    ordered = np.sort(d, axis=-1)
    ordered[np.isnan(d).any(axis=-1)] = np.nan
    padded = np.concatenate([np.zeros_like(d[..., :1]), ordered, np.full_like(d[..., :1], np.inf)], axis=-1)
    padded[np.isnan(d).any(axis=-1)] = np.nan
    # 1 - cdf(last - 1) and cdf(first - 1) are at most (1 - confidence) / 2.
    first = int(stats.binom.ppf((1 - confidence) / 2, n, share))
    last = int(stats.binom.ppf((1 + confidence) / 2, n, share)) + 1
    rank = int(np.ceil(n * share - 1e-9))
    return Estimate(padded[..., rank], padded[..., first], padded[..., last], n)


def area(distance: npt.ArrayLike, limit: float, confidence: float = 0.95) -> Estimate:
    """Return the area under the curve from 0 to `limit`: the mean minimal distance, cut off there.

    Parameters
    ----------
    distance : array_like (..., sample)
    limit : float
        Positive, no larger than the largest epsilon attacked; the area is in the same unit.
    """
    if not 0 < limit < np.inf:
        raise UsageError(f"limit {limit} is not a positive number")
    d, _ = checked(distance, [limit])
    return Estimate(*bands.bounded_mean(np.minimum(d, limit), 0.0, limit, confidence), d.shape[-1])


def area_difference(
    distance_a: npt.ArrayLike, distance_b: npt.ArrayLike, limit: float, confidence: float = 0.95
) -> Estimate:
    """Return the area under the first curve minus that under the second, paired by sample, up to `limit`."""
    check_same_samples(distance_a, distance_b)
    if not 0 < limit < np.inf:
        raise UsageError(f"limit {limit} is not a positive number")
    (a, _), (b, _) = checked(distance_a, [limit]), checked(distance_b, [limit])
    if a.shape[-1] != b.shape[-1]:
        raise UsageError(f"two areas need distances of the same samples, not {a.shape[-1]} and {b.shape[-1]}")
    values = np.minimum(a, limit) - np.minimum(b, limit)
    return Estimate(*bands.bounded_mean(values, -limit, limit, confidence), a.shape[-1])


@dataclass(frozen=True)
class CurveDifference:
    """Accuracy of one model minus that of another on the same samples, over epsilon.

    Attributes
    ----------
    epsilons, difference, standard_error : ndarray (level,)
    lower, upper : ndarray (level,)
        Band for all levels together; NaN where fewer than ten samples tell the models apart.
    critical : float
        Half the band's width in standard errors; NaN if no level has ten such samples.
    """

    epsilons: FloatArray
    difference: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    critical: float
    samples: int


def difference(
    distance_a: npt.ArrayLike,
    distance_b: npt.ArrayLike,
    epsilons: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> CurveDifference:
    """Return the difference of two robustness curves with a simultaneous band over the choice of samples.

    Parameters
    ----------
    distance_a, distance_b : array_like (sample,)
        Of the same samples.
    epsilons : array_like (level,), optional
        Default: steps of the two curves, 256 of them at most.

    Raises
    ------
    UsageError
        If a distance is NaN or negative, or the numbers of samples differ.
    """
    bands.check_confidence(confidence)
    a, b, e = pair_levels(distance_a, distance_b, epsilons)
    found = paired_differences(a, b, e)
    critical = critical_value(found, 1 - confidence, seed=seed)
    half = np.where(found.usable, critical * found.standard_error, np.nan)
    return CurveDifference(
        e,
        found.difference,
        found.standard_error,
        np.maximum(found.difference - half, -1),
        np.minimum(found.difference + half, 1),
        critical,
        found.samples,
    )


def pair_levels(
    distance_a: npt.ArrayLike, distance_b: npt.ArrayLike, epsilons: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return two models' distances and ascending candidate epsilons."""
    check_same_samples(distance_a, distance_b)
    wanted = thinned(steps(distance_a, distance_b)) if epsilons is None else epsilons
    (a, e), (b, _) = checked(distance_a, wanted), checked(distance_b, wanted)
    if a.ndim != 1 or a.shape != b.shape:
        raise UsageError(f"two curves need one distance per sample each, not {a.shape} and {b.shape}")
    return a, b, np.unique(e)


def thinned(levels: FloatArray, most: int = 256) -> FloatArray:
    """Return at most so many of the levels, evenly by their rank, both ends among them."""
    if len(levels) <= most:
        return levels
    return levels[np.rint(np.linspace(0, len(levels) - 1, most)).astype(np.int64)]


def from_cube(cube: xr.DataTree, norm: str, confidence: float | None = None) -> xr.Dataset:
    """Return overall accuracy with Wilson's interval for one norm of a cube.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `lower`, `upper`, `correct`, `inferred` (share of all samples whose verdict was inferred
        from a larger epsilon) over (model, epsilon, attack) and the scalar `total`. Accuracy is the sum of
        correct over the sum of samples, never a mean of class accuracies; NaN until every sample of
        every class is evaluated.
    """
    confidence = given_confidence(cube, confidence)
    aggregates = norm_dataset(cube, norm)
    total = aggregates["total"].sum("class")
    counted = aggregates[["correct", "inferred"]].sum("class", skipna=False)
    face = with_interval(counted["correct"], total, confidence).assign(
        correct=counted["correct"],
        inferred=counted["inferred"] / total.where(total > 0),
        total=total,
    )
    words: list[str] = []
    for reference in references(cube, norm):
        at = face.sel(epsilon=reference.value, attack=WORST_CASE)
        words += _sentences(at, f"{norm} {reference.label}")
    return face.assign_attrs(sentences=words)


def _sentences(at: xr.Dataset, where: str) -> list[str]:
    """Return in words what each model withstands at one epsilon."""
    level, n = f"{100 * at.attrs['confidence']:.3g} %", float(at["total"])
    columns = (at["model"].values, *(100 * at[name].values for name in ("accuracy", "lower", "upper")))
    return [
        f"Worst case of {model} under {where}: not estimable, not every sample is counted."
        if np.isnan(share)
        else f"Worst case of {model} under {where}: accuracy {share:.3g} % ({level} {low:.3g} to {high:.3g} "
        f"over test samples, n = {n:.0f}; the strength of the attacks is not covered)."
        for model, share, low, high in zip(*columns, strict=True)
    ]


def clean_from_cube(cube: xr.DataTree, confidence: float | None = None) -> xr.Dataset:
    """Return overall clean accuracy with Wilson's interval over (model).

    Published accuracies without counts have no interval, and the total is NaN.
    """
    confidence = given_confidence(cube, confidence)
    aggregates = norm_dataset(cube, "clean")
    correct = aggregates["correct"].sum("class", skipna=False)
    total = aggregates["total"].sum("class", skipna=False)
    face = with_interval(correct, total, confidence).assign(correct=correct, total=total)
    if aggregates.sizes["class"] == 1:
        printed = aggregates["accuracy"].isel({"class": 0}, drop=True)
        face["accuracy"] = face["accuracy"].fillna(printed)
    return face


def with_interval(correct: xr.DataArray, total: xr.DataArray, confidence: float) -> xr.Dataset:
    """Return `accuracy`, `lower`, `upper` of labelled counts."""
    lower, upper = xr.apply_ufunc(
        wilson, correct, total, kwargs={"confidence": confidence}, output_core_dims=[[], []]
    )
    result = xr.Dataset(
        {"accuracy": correct / total.where(total > 0), "lower": lower, "upper": upper},
        attrs={
            "method": "Wilson's interval, each number alone",
            "confidence": confidence,
            "covers": "choice of test samples; models and attack strength fixed",
        },
    )
    return result.transpose(*correct.dims)
