"""Two models on the same samples over many epsilons: differences, their covariance, a simultaneous bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.errors import UsageError
from metaeval.outcomes import broken, in_double

FloatArray = npt.NDArray[np.float64]
# Fewer samples that tell two models apart are too few for a normal approximation.
ENOUGH_DISCORDANT = 10
DRAWS = 20_000


@dataclass(frozen=True)
class PairedDifferences:
    """Accuracy of one model minus that of another on the same samples, level by level.

    Attributes
    ----------
    difference, standard_error : ndarray (level,)
        The error counts one more discordant sample than was seen.
    discordant : ndarray (level,)
        Samples that one model gets right and the other does not.
    covariance : ndarray (level, level)
        Of one sample's differences.
    samples : int
    """

    difference: FloatArray
    standard_error: FloatArray
    discordant: npt.NDArray[np.int64]
    covariance: FloatArray
    samples: int

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Levels with enough discordant samples."""
        return self.discordant >= ENOUGH_DISCORDANT


def check_same_samples(first: npt.ArrayLike, second: npt.ArrayLike) -> None:
    """Raise if two labelled arrays are of other samples, or of the same in another order.

    Raises
    ------
    UsageError
        Arrays without labels are taken to be in the same order.
    """
    if isinstance(first, xr.DataArray) and isinstance(second, xr.DataArray):
        try:
            xr.align(first, second, join="exact")
        except ValueError as error:
            raise UsageError(f"the labels of the two do not agree, sample by sample: {error}") from None


def survivors(distance: npt.ArrayLike, epsilons: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return 1 where a sample is not broken and 0 where it is, over (..., level, sample).

    Raises
    ------
    UsageError
        If a distance is NaN: a sample that was not attacked is neither.
    """
    d, e = in_double(distance, epsilons)
    if np.isnan(d).any():
        raise UsageError(
            f"{int(np.isnan(d).sum())} distances were not computed; a paired comparison needs all"
        )
    result = np.empty((*d.shape[:-1], len(e), d.shape[-1]), dtype=np.float32)
    for level, epsilon in enumerate(e):
        result[..., level, :] = 1 - broken(d, epsilon)
    return result


def paired_differences(
    distance_a: npt.ArrayLike, distance_b: npt.ArrayLike, epsilons: npt.ArrayLike
) -> PairedDifferences:
    """Return the differences of two models at given epsilons; distances over (sample,)."""
    return of_samples(survivors(distance_a, epsilons) - survivors(distance_b, epsilons))


def of_samples(s: npt.NDArray[np.float32]) -> PairedDifferences:
    """Return the means of contrasts (level, sample) that are -1, 0 or 1, with their errors and covariance."""
    n = s.shape[-1]
    mean = s.mean(axis=-1, dtype=np.float64)
    # Products of -1, 0 and 1: sums below 2^24 are exact in single precision.
    moments = (s @ s.T).astype(np.float64) / n if n < 2**24 else s.astype(np.float64) @ s.T / n
    covariance = moments - np.outer(mean, mean)
    error = np.sqrt(np.maximum(np.diag(covariance), 0) * n + 1) / n
    return PairedDifferences(mean, error, np.count_nonzero(s, axis=-1).astype(np.int64), covariance, n)


def critical_value(found: PairedDifferences, alpha: float, *, seed: int = 0) -> float:
    """Return the 1 - alpha quantile of the largest standardised error, in size, over the usable levels.

    Returns
    -------
    float
        By simulation of the normal limit with a fixed seed; NaN without a usable level.
    """
    if not found.usable.any():
        return float("nan")
    usable = found.usable & (np.diag(found.covariance) > 1e-12)
    if not usable.any():  # the models differ on every sample, always the same way
        return float(stats.norm.isf(alpha / 2))
    if alpha * DRAWS < 20:  # too far out to simulate; Bonferroni is a safe bound
        return float(stats.norm.isf(alpha / usable.sum() / 2))
    scale = np.sqrt(np.diag(found.covariance)[usable])
    values, vectors = np.linalg.eigh(found.covariance[np.ix_(usable, usable)] / np.outer(scale, scale))
    keep = values > 1e-10 * values[-1]
    factor = vectors[:, keep] * np.sqrt(values[keep])
    z = np.random.default_rng(seed).standard_normal((DRAWS, factor.shape[1])) @ factor.T
    return float(np.quantile(np.abs(z).max(axis=1), 1 - alpha))
