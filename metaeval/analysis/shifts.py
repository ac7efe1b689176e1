"""Accuracy under distribution shift: effective robustness, gaps, mean corruption error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import special, stats

from metaeval.analysis.bands import check_confidence
from metaeval.errors import UsageError, unknown_name

FloatArray = npt.NDArray[np.float64]
Scale = Literal["logit", "probit", "linear"]
SCALES: dict[str, tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]] = {
    "logit": (special.logit, special.expit),
    "probit": (special.ndtri, special.ndtr),
    "linear": (np.array, np.array),
}


def effective_robustness(
    accuracy: npt.ArrayLike,
    shifted: npt.ArrayLike,
    baseline: npt.ArrayLike | None = None,
    scale: Scale = "logit",
    confidence: float = 0.95,
) -> xr.Dataset:
    """Return how far models lie above the line that ordinary models follow under a shift.

    Parameters
    ----------
    accuracy, shifted : array_like (model,)
        Fractions on the original and on the shifted test set; NaN = not known.
    baseline : array_like of bool (model,), optional
        Models that define the line; default: all.
    scale : {"logit", "probit", "linear"}
        On which the line is straight.
    confidence : float

    Returns
    -------
    xarray.Dataset (model)
        `expected`, the accuracy on the line, with its prediction interval `expected_lower`, `expected_upper`;
        `effective` = shifted - expected with `lower`, `upper`, which cover where another ordinary model might
        lie. A baseline model is compared with the line of the others. NaN where an accuracy is missing or has
        no finite value on the scale. Attributes: `slope`, `intercept`, `r2`, `baseline_models`, `scale`.

    Raises
    ------
    UsageError
        If an accuracy is outside [0, 1], shapes differ, or fewer than four baseline models are known (with
        different accuracies).

    References
    ----------
    Taori et al., Measuring robustness to natural distribution shifts in image classification, 2020.
    """
    check_confidence(confidence)
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    p, q = np.asarray(accuracy, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    if p.ndim != 1 or p.shape != q.shape:
        raise UsageError(f"two accuracies per model are needed, not {p.shape} and {q.shape}")
    if any(np.any((v < 0) | (v > 1)) for v in (p, q)):
        raise UsageError("accuracies are fractions between 0 and 1")
    forward, back = SCALES[scale]
    x, y = forward(p), forward(q)
    known = np.isfinite(x) & np.isfinite(y)
    ordinary = np.ones(len(p), dtype=bool) if baseline is None else np.asarray(baseline, dtype=bool)
    if ordinary.shape != p.shape:
        raise UsageError(f"baseline needs one truth value for each of {len(p)} models, not {ordinary.shape}")
    fitted = known & ordinary
    if fitted.sum() < 4:
        count = int(fitted.sum())
        raise UsageError(
            f"not estimable: {count} baseline model{'s' * (count != 1)} with finite accuracies; "
            "four are needed"
        )
    if np.ptp(x[fitted]) == 0:
        raise UsageError("not estimable: all baseline models have the same clean accuracy")
    predicted, half = np.full(len(p), np.nan), np.full(len(p), np.nan)
    for i in np.flatnonzero(known):
        others = fitted & (np.arange(len(p)) != i)
        if np.ptp(x[others]) > 0:
            predicted[i], half[i] = _predict(x[others], y[others], x[i], confidence)
    slope, intercept = np.polyfit(x[fitted], y[fitted], 1)
    expected, low, high = back(predicted), back(predicted - half), back(predicted + half)
    return xr.Dataset(
        {
            "expected": ("model", expected),
            "expected_lower": ("model", low),
            "expected_upper": ("model", high),
            "effective": ("model", q - expected),
            "lower": ("model", q - high),
            "upper": ("model", q - low),
        },
        attrs={
            "method": f"ordinary least squares on the {scale} scale, leave-one-out for baseline models",
            "scale": scale,
            "slope": float(slope),
            "intercept": float(intercept),
            "r2": float(np.corrcoef(x[fitted], y[fitted])[0, 1] ** 2)
            if np.ptp(y[fitted]) > 0
            else float("nan"),
            "baseline_models": int(fitted.sum()),
            "confidence": confidence,
            "covers": "another ordinary model (prediction interval); test samples fixed",
        },
    )


def _predict(x: FloatArray, y: FloatArray, at: float, confidence: float) -> tuple[float, float]:
    """Return the line's value at a point and half the width of the prediction interval there."""
    n, centre = len(x), x.mean()
    squares = ((x - centre) ** 2).sum()
    slope = ((x - centre) * (y - y.mean())).sum() / squares
    rest = y - y.mean() - slope * (x - centre)
    variance = (rest**2).sum() / (n - 2)
    error = np.sqrt(variance * (1 + 1 / n + (at - centre) ** 2 / squares))
    return float(y.mean() + slope * (at - centre)), float(stats.t.isf((1 - confidence) / 2, n - 2) * error)


def gaps(accuracy: npt.ArrayLike, shifted: npt.ArrayLike) -> xr.Dataset:
    """Return `gap` = accuracy - shifted and `relative` = shifted / accuracy (NaN at 0), over (model, ...).

    Both are coupled with the accuracy by construction: correlate them with it taken as given.
    """
    p, q = np.asarray(accuracy, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    if p.shape != q.shape[: p.ndim]:
        raise UsageError(f"accuracies {p.shape} and shifted ones {q.shape} do not fit together")
    p = p.reshape(p.shape + (1,) * (q.ndim - p.ndim))
    dims = ("model", *(f"shift_{i}" for i in range(q.ndim - 1)))
    relative = np.where(p > 0, q / np.where(p > 0, p, 1), np.nan)
    return xr.Dataset({"gap": (dims, p - q), "relative": (dims, relative)})


def mean_corruption_error(
    accuracy: npt.ArrayLike,
    baseline: npt.ArrayLike,
    clean: npt.ArrayLike | None = None,
    baseline_clean: float | None = None,
) -> FloatArray:
    """Return mCE, or the relative mCE if clean accuracies are given, over (model,); 1 is the baseline's.

    Parameters
    ----------
    accuracy : array_like (model, corruption, severity)
        Fractions; NaN makes a model's mCE NaN.
    baseline : array_like (corruption, severity)
        Of the baseline model (AlexNet in the original).
    clean : array_like (model,), optional
    baseline_clean : float, optional

    References
    ----------
    Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions, 2019.
    """
    error, reference = 1 - np.asarray(accuracy, dtype=np.float64), 1 - np.asarray(baseline, dtype=np.float64)
    if error.ndim != 3 or error.shape[1:] != reference.shape:
        raise UsageError(f"accuracies {error.shape} and baseline {reference.shape} do not fit together")
    if (clean is None) != (baseline_clean is None):
        raise UsageError("the relative mCE needs the clean accuracy of the models and of the baseline")
    if clean is not None and baseline_clean is not None:
        error = error - (1 - np.asarray(clean, dtype=np.float64))[:, None, None]
        reference = reference - (1 - baseline_clean)
    whole = reference.sum(axis=1)
    if np.any(whole <= 0):
        raise UsageError("not estimable: the baseline makes no errors under a corruption")
    return np.asarray((error.sum(axis=2) / whole).mean(axis=1), dtype=np.float64)


def uncertainty_robustness(log_loss: npt.ArrayLike, shifted: npt.ArrayLike) -> xr.Dataset:
    """Return how much certainty models lose under a shift, over (model).

    Parameters
    ----------
    log_loss, shifted : array_like (model,)
        Mean log-loss on the original and on the shifted test set, at least 0.

    Returns
    -------
    xarray.Dataset
        `difference` = shifted - original and `ratio` = shifted / original (NaN at 0); higher is less robust.
    """
    before, after = np.asarray(log_loss, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    if before.ndim != 1 or before.shape != after.shape:
        raise UsageError(f"two log-losses per model are needed, not {before.shape} and {after.shape}")
    if np.any(before < 0) or np.any(after < 0):
        raise UsageError("log-losses are at least 0")
    ratio = np.where(before > 0, after / np.where(before > 0, before, 1), np.nan)
    return xr.Dataset({"difference": ("model", after - before), "ratio": ("model", ratio)})
