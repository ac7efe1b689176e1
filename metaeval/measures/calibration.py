"""Calibration: whether predicted probabilities are frequencies, from stored logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy import special

from metaeval.measures.logits import (
    NORMAL,
    Integer,
    Real,
    finite_logits,
    log_probabilities,
    margins,
)
from metaeval.measures.spec import Context, Measure, Split, Undefined, Value

RESAMPLES = 100  # of the bootstrap: the standard error's own error is about 7 %
BIASED = (
    "Estimated from bins it is too large on few samples: every bin's noise counts as miscalibration. The "
    "interval is about that estimate and does not take the excess away."
)
NEWTON_STEPS = 200
LARGEST_BETA = 1e6  # an inverse temperature beyond this is no temperature


class _Calibration(Measure):
    family = "calibration"
    expected_sign = 0
    needs = ("logits",)
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    scoped = True


class _Binned(_Calibration):
    settings: ClassVar = {"bins": 15}
    limits: ClassVar = {"bins": (1, 10_000)}
    caveats = BIASED


class Ece(_Binned):
    """Mean distance of confidence from accuracy, over bins of equal width."""

    name = "ece"
    definition = (
        "expected calibration error: mean distance of confidence from accuracy over bins of equal width "
        "(fraction); bootstrap interval"
    )
    formula = r"\sum_b \frac{n_b}{n} \left|\mathrm{acc}_b - \mathrm{conf}_b\right|"
    citation = "Guo et al., On calibration of modern neural networks, ICML 2017"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        confidence, right = _confidence(split)
        bins = equal_width(confidence, settings["bins"])
        return _resampled(context, confidence, right, bins, expected)


class Mce(_Binned):
    """Largest distance of confidence from accuracy among bins of equal width."""

    name = "mce"
    definition = (
        "maximum calibration error: largest distance of confidence from accuracy among bins of equal "
        "width (fraction); bootstrap interval"
    )
    formula = r"\max_b \left|\mathrm{acc}_b - \mathrm{conf}_b\right|"
    citation = "Guo et al., On calibration of modern neural networks, ICML 2017"
    caveats = f"{BIASED} A bin with one sample counts as much as any."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        confidence, right = _confidence(split)
        bins = equal_width(confidence, settings["bins"])
        return _resampled(context, confidence, right, bins, largest)


class EceEqualMass(_Binned):
    """Mean distance of confidence from accuracy, over bins of equally many samples."""

    name = "ece_equal_mass"
    definition = (
        "mean distance of confidence from accuracy over bins of equally many samples (fraction); "
        "bootstrap interval"
    )
    formula = Ece.formula
    citation = (
        "Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language "
        "processing models, EMNLP 2015"
    )
    caveats = f"{BIASED} Samples of equal confidence share a bin."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        confidence, right = _confidence(split)
        bins = equal_mass(confidence, settings["bins"])
        return _resampled(context, confidence, right, bins, expected)


class EceClasswise(_Binned):
    """Mean over classes of the distance of a class's probability from its frequency."""

    name = "ece_classwise"
    definition = (
        "mean over classes of the distance of a class's probability from its frequency, over bins of "
        "equal width (fraction); bootstrap interval"
    )
    formula = r"\frac{1}{K}\sum_k \sum_b \frac{n_{bk}}{n} \left|\mathrm{freq}_{bk} - \bar p_{bk}\right|"
    citation = "Kull et al., Beyond temperature scaling, NeurIPS 2019"
    caveats = f"{BIASED} With many classes small whatever the model: most probabilities are near 0."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        probability = np.exp(log_probabilities(split))
        weights = _weights(context, len(split.y))
        values, draws = np.empty(context.classes), np.zeros(RESAMPLES)
        for k in range(context.classes):
            is_class = (split.y == k).astype(np.float64)
            bins = equal_width(probability[:, k], settings["bins"])
            values[k] = expected(*_bins(probability[:, k], is_class, bins))
            draws += expected(*_bins(probability[:, k], is_class, bins, weights)) / context.classes
        return _value(float(values.mean()), draws, values)


class OptimalTemperature(_Calibration):
    """The temperature by which logits are divided to have the smallest log-loss."""

    name = "optimal_temperature"
    definition = (
        "temperature by which logits are divided for the smallest log-loss (above 1: over-confident); "
        "interval by the delta method"
    )
    formula = r"\arg\min_T -\sum_i \log \mathrm{softmax}(z_i / T)_{y_i}"
    citation = "Guo et al., On calibration of modern neural networks, ICML 2017"
    caveats = (
        "Fitted to the very samples of the scope. Undefined where every sample is classified correctly (the "
        "log-loss falls without end as T goes to 0) or the model is no better than chance."
    )

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        logits = finite_logits(split)
        if (margins(logits, split.y) >= 0).all():
            raise Undefined(
                "no sample has a larger logit than that of its class, so no temperature above 0 is best"
            )
        beta, error = _inverse_temperature(logits, split.y)
        deviation = error / beta**2
        # The interval is that of the inverse temperature, in which the log-loss is convex.
        lower, upper = beta - NORMAL * error, beta + NORMAL * error
        return Value(1 / beta, deviation, 1 / upper, 1 / lower if lower > 0 else np.nan)


MEASURES: tuple[type[Measure], ...] = (Ece, Mce, EceEqualMass, EceClasswise, OptimalTemperature)


def equal_width(confidence: Real, bins: int) -> Integer:
    """Return each sample's bin (n,) of ((m - 1) / bins, m / bins]."""
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(edges, confidence, side="left")


def equal_mass(confidence: Real, bins: int) -> Integer:
    """Return each sample's bin (n,) between quantiles; equal confidences share one."""
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, confidence, side="left")


def expected(gap: Real, share: Real) -> Real:
    """Return the mean distance (...) over bins (..., bin), weighted by their share of samples."""
    return np.asarray((share * gap).sum(axis=-1))


def largest(gap: Real, share: Real) -> Real:
    """Return the largest distance (...) among bins (..., bin) with samples."""
    return np.asarray(np.where(share > 0, gap, 0).max(axis=-1))


def _confidence(split: Split) -> tuple[Real, Real]:
    logarithms = log_probabilities(split)
    right = (split.logits.argmax(axis=1) == split.y).astype(np.float64)
    return np.exp(logarithms.max(axis=1)), right


def _bins(
    confidence: Real, right: Real, bins: Integer, weights: npt.NDArray[np.float32] | None = None
) -> tuple[Real, Real]:
    """Return distance of confidence from accuracy and share of samples, (bin,) or (draws, bin)."""
    present, position = np.unique(bins, return_inverse=True)
    member = np.zeros((len(bins), len(present)))
    member[np.arange(len(bins)), position] = 1
    rows = np.ones((1, len(bins))) if weights is None else weights
    count, excess = rows @ member, rows @ (member * (confidence - right)[:, None])
    gap = np.abs(excess) / np.where(count > 0, count, 1)
    share = count / len(bins)
    return (gap[0], share[0]) if weights is None else (gap, share)


def _resampled(
    context: Context,
    confidence: Real,
    right: Real,
    bins: Integer,
    summary: Callable[[Real, Real], Real],
) -> Value:
    value = float(summary(*_bins(confidence, right, bins)))
    weights = _weights(context, len(bins))
    return _value(value, summary(*_bins(confidence, right, bins, weights)))


def _value(value: float, draws: Real, per_class: Real | None = None) -> Value:
    error = float(draws.std(ddof=1))
    lower, upper = max(0.0, value - NORMAL * error), min(1.0, value + NORMAL * error)
    return Value(value, error, lower, upper, per_class)


def _weights(context: Context, n: int) -> npt.NDArray[np.float32]:
    """Return how often each sample is drawn (draws, n); the same for all models, so that they compare."""
    return context.shared(_draw_weights, n=n)


def _draw_weights(context: Context, n: int) -> npt.NDArray[np.float32]:
    generator = np.random.default_rng(context.seed)
    draws = generator.integers(n, size=(RESAMPLES, n))
    return np.stack([np.bincount(row, minlength=n) for row in draws]).astype(np.float32)


def _inverse_temperature(logits: Real, y: Integer) -> tuple[float, float]:
    """Return the inverse temperature of the smallest log-loss and its sandwich standard error.

    The log-loss is convex in it; its derivative is mean(E_p[z] - z_y), the second mean(Var_p[z]).
    """
    logits = logits - logits.mean(axis=1, keepdims=True)
    own = logits[np.arange(len(y)), y]

    def moments(beta: float) -> tuple[Real, Real]:
        probability = special.softmax(beta * logits, axis=1)
        first = (probability * logits).sum(axis=1)
        return first - own, (probability * (logits - first[:, None]) ** 2).sum(axis=1)

    if moments(0.0)[0].mean() >= 0:
        raise Undefined("the logits are no better than chance, so no temperature above 0 is best")
    low, high = 0.0, 1.0
    while moments(high)[0].mean() < 0:
        low, high = high, 2 * high
        if high > LARGEST_BETA:
            raise Undefined(f"the log-loss still falls at a temperature of {1 / LARGEST_BETA:g}")
    beta = (low + high) / 2
    for _ in range(NEWTON_STEPS):  # Newton's step, halving the bracket where it would leave it
        slope, curvature = (part.mean() for part in moments(beta))
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - beta) <= 1e-12 * beta:
            break
        beta = following
    slope, curvature = moments(beta)
    error = np.sqrt((slope**2).mean() / len(y)) / curvature.mean()
    return float(beta), float(error)
