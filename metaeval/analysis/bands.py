"""Simultaneous bands of a curve that hold for any sample size, and intervals for means of bounded values."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
Interval = tuple[FloatArray, FloatArray]


def check_confidence(confidence: float) -> None:
    """Raise unless a confidence lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence} is not between 0 and 1")


def coverage(samples: int, level: float) -> float:
    """Return the probability that Clopper-Pearson intervals hold at every epsilon at once.

    Parameters
    ----------
    samples : int
    level : float
        Error of each single interval, in (0, 1).

    Returns
    -------
    float
        Exact for continuous distances, a lower bound for others.

    Notes
    -----
    P(l_i < U_(i) < u_i for all i) for uniform order statistics and Beta quantiles l, u, by passing a
    Poisson process through all boundaries in their order and conditioning on its end.

    References
    ----------
    Moscovich and Nadler, Fast calculation of boundary crossing probabilities for Poisson processes, 2017.
    """
    rank = np.arange(1, samples + 1)
    below = special.betaincinv(rank, samples + 1 - rank, level / 2)  # no more than i - 1 points until here
    above = 1 - below[::-1]  # at least i points from here on
    times = np.concatenate([below, above])
    order = np.argsort(times, kind="stable")
    means = samples * np.diff(times[order], prepend=0.0)
    state, offset = np.ones(1), 0  # P(count = offset + position), inside so far
    for position, mean in zip(order, means, strict=True):
        reach = int(min(samples, 12 + mean + 9 * np.sqrt(mean)))
        steps = np.exp(special.xlogy(np.arange(reach + 1), mean) - mean - special.gammaln(_counts(reach)))
        state = np.convolve(state, steps)
        if position < samples:
            state = state[: max(0, position + 1 - offset)]
        else:
            needed = position - samples + 1
            state, offset = state[max(0, needed - offset) :], max(offset, needed)
        state = state[: samples + 1 - offset]
    last = samples * (1 - times[order[-1]])
    missing = samples - offset - np.arange(len(state))
    end = np.exp(special.xlogy(missing, last) - last - special.gammaln(missing + 1))
    return float(state @ end / stats.poisson.pmf(samples, samples))


@functools.lru_cache(maxsize=64)
def _counts(reach: int) -> FloatArray:
    return np.arange(1.0, reach + 2)


@functools.lru_cache(maxsize=256)
def local_level(samples: int, confidence: float, levels: int | None = None) -> float:
    """Return the error that each of many Clopper-Pearson intervals may have for all to hold together.

    Parameters
    ----------
    samples : int
    confidence : float
        Of all intervals together.
    levels : int, optional
        Number of epsilons, if they were chosen without looking at the distances; default: every epsilon.
    """
    check_confidence(confidence)
    error = 1 - confidence

    def excess(log_level: float) -> float:
        return float(np.log(max(1 - coverage(samples, np.exp(log_level)), 1e-300)) - np.log(error))

    if samples == 1:
        everywhere = error
    else:
        found = optimize.brentq(excess, np.log(error / (2 * samples)), np.log(error), xtol=1e-4)
        everywhere = float(np.exp(found - 1e-4))  # on the safe side of the root
    return everywhere if levels is None else max(everywhere, error / max(levels, 1))


def clopper_pearson(correct: npt.ArrayLike, total: int, level: float) -> Interval:
    """Return the exact interval of a share, each side with error `level` / 2; NaN where the count is NaN."""
    k = np.asarray(correct, dtype=np.float64)
    inside_low, inside_high = np.maximum(k, 1), np.minimum(k, total - 1)
    lower = special.betaincinv(inside_low, total - inside_low + 1, level / 2)
    upper = special.betaincinv(inside_high + 1, total - inside_high, 1 - level / 2)
    return np.where(k == 0, 0.0, lower), np.where(k == total, 1.0, upper)


def bounded_mean(
    values: npt.ArrayLike, low: float, high: float, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mean of values between two bounds and its interval.

    Parameters
    ----------
    values : array_like (..., sample)

    Returns
    -------
    mean, lower, upper : ndarray (...)
        The interval is Agresti and Coull's (1998), which adds z^2 / 2 samples at either bound, extended from
        shares to any bounded values: without spread in the sample it still has a width.
    """
    check_confidence(confidence)
    y = np.asarray(values, dtype=np.float64)
    if y.shape[-1] == 0:
        raise UsageError("a mean needs at least one sample")
    if np.any(y < low) or np.any(y > high):
        raise UsageError(f"values must lie between {low} and {high}")
    z2 = stats.norm.isf((1 - confidence) / 2) ** 2
    size = y.shape[-1] + z2
    centre = (y.sum(axis=-1) + z2 / 2 * (low + high)) / size
    squares = ((y - centre[..., None]) ** 2).sum(axis=-1)
    squares = squares + z2 / 2 * ((low - centre) ** 2 + (high - centre) ** 2)
    half = np.sqrt(z2 * squares) / size
    return y.mean(axis=-1), np.clip(centre - half, low, high), np.clip(centre + half, low, high)
