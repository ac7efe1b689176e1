"""What measures make of logits alone: predictions, probabilities, margins, means with intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from metaeval.measures.spec import Split, Undefined, Value

Real = npt.NDArray[np.float64]
Integer = npt.NDArray[np.int64]

NORMAL = float(stats.norm.ppf(0.975))  # half-width of a 95 % interval in standard errors
ESTIMATED = "the samples count as drawn at random; the interval says nothing about other data"


def predictions(split: Split) -> Integer:
    """Return the predicted classes (n,); -1, which is nobody's class, where a logit is NaN.

    Raises
    ------
    Undefined
        If there are no samples.
    """
    _some(split)
    return np.where(np.isnan(split.logits).any(axis=1), -1, split.logits.argmax(axis=1)).astype(np.int64)


def finite_logits(split: Split) -> Real:
    """Return the logits (n, classes) as float64.

    Raises
    ------
    Undefined
        If some are not finite, or there are no samples.
    """
    _some(split)
    bad = int((~np.isfinite(split.logits)).any(axis=1).sum())
    if bad:
        raise Undefined(f"logits of {bad:,} of {len(split.y):,} samples are not finite")
    return split.logits.astype(np.float64)


def log_probabilities(split: Split) -> Real:
    """Return the logarithms (n, classes) of the softmax; Undefined as `finite_logits`."""
    return np.asarray(special.log_softmax(finite_logits(split), axis=1))


def margins(scores: Real, y: Integer) -> Real:
    """Return each sample's score of its class minus the largest of the others (n,); Undefined without any."""
    if scores.shape[1] < 2:
        raise Undefined("there is one class only, and no other to be ahead of")
    rows = np.arange(len(y))
    others = scores.copy()
    others[rows, y] = -np.inf
    return np.asarray(scores[rows, y] - others.max(axis=1))


def by_class(values: Real, y: Integer, classes: int) -> Real:
    """Return the mean of each class's values (classes,); NaN for a class without samples."""
    count = np.bincount(y, minlength=classes)
    total = np.bincount(y, weights=values, minlength=classes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean(values: Real, y: Integer, classes: int, note: str = "") -> Value:
    """Return the mean over samples with its standard error, a normal 95 % interval, and class means."""
    value = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    half = NORMAL * error
    return Value(value, error, value - half, value + half, by_class(values, y, classes), note)


def percentile(values: Real, q: float) -> Value:
    """Return the q-th percentile, with a 95 % interval from order statistics (distribution-free).

    An end that would need more samples is NaN; the standard error is the interval's width in units of a
    normal one's.
    """
    ordered, n, p = np.sort(values), len(values), q / 100
    low, high = int(stats.binom.ppf(0.025, n, p)), int(stats.binom.ppf(0.975, n, p)) + 1
    lower = float(ordered[low - 1]) if low >= 1 else np.nan
    upper = float(ordered[high - 1]) if high <= n else np.nan
    return Value(float(np.quantile(ordered, p)), (upper - lower) / (2 * NORMAL), lower, upper)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a share."""
    share, z2 = hits / n, NORMAL**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _some(split: Split) -> None:
    if not len(split.y):
        raise Undefined("there are no samples")
