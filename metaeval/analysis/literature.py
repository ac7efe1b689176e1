"""Correlations as studies of a meta-analysis, forest and funnel, tests of small-study effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from metaeval.analysis.meta import Method, RandomEffects, Test, checked, random_effects
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
# Below this mean of n - 3 the prediction interval of correlations does not reach its confidence.
MEAN_SIZE_FOR_PREDICTION = 15
# Residuals below this share of the estimates are rounding.
ROUNDING = 1e-12


def fisher_z(r: npt.ArrayLike, n: npt.ArrayLike, *, rank: bool = False) -> tuple[FloatArray, FloatArray]:
    """Return Fisher's z of correlations and its sampling variance.

    Parameters
    ----------
    r : array_like
        Strictly between -1 and 1.
    n : array_like of int
        Models behind each correlation, at least 4.
    rank : bool
        Whether the correlations are Spearman's (Bonett and Wright 2000) and not Pearson's.
    """
    try:
        correlation, size = np.broadcast_arrays(
            np.asarray(r, dtype=np.float64), np.asarray(n, dtype=np.float64)
        )
    except ValueError as error:
        raise UsageError("correlations and their numbers of models do not fit together") from error
    if not (np.abs(correlation) < 1).all():
        raise UsageError("Fisher's z needs correlations strictly between -1 and 1")
    if not (size >= 4).all():
        raise UsageError("Fisher's z needs at least 4 models per correlation")
    spread = 1 + correlation**2 / 2 if rank else np.ones_like(correlation)
    return np.arctanh(correlation), spread / (size - 3)


def correlations(
    r: npt.ArrayLike,
    n: npt.ArrayLike,
    *,
    rank: bool = False,
    method: Method = "REML",
    test: Test = "knha",
    confidence: float = 0.95,
) -> RandomEffects:
    """Combine correlations of independent studies on Fisher's z (`numpy.tanh` takes results back).

    The prediction interval is NaN unless there are 10 studies with n - 3 = 15 on average.
    """
    z, v = fisher_z(r, n, rank=rank)
    found = random_effects(z, v, method=method, test=test, confidence=confidence)
    if np.mean(np.broadcast_to(np.asarray(n, dtype=np.float64), z.shape) - 3) < MEAN_SIZE_FOR_PREDICTION:
        found = replace(found, prediction=np.full(2, np.nan))
    return found


def forest(
    y: npt.ArrayLike, v: npt.ArrayLike, found: RandomEffects, labels: list[str] | None = None
) -> pd.DataFrame:
    """Return one row per study: `study`, `estimate`, `lower`, `upper` (normal), `weight` (percent)."""
    estimates, variances = np.asarray(y, dtype=np.float64), np.asarray(v, dtype=np.float64)
    half = stats.norm.isf((1 - found.confidence) / 2) * np.sqrt(variances)
    weight = 1 / (variances + found.tau2)
    return pd.DataFrame(
        {
            "study": labels or [str(i + 1) for i in range(len(estimates))],
            "estimate": estimates,
            "lower": estimates - half,
            "upper": estimates + half,
            "weight": 100 * weight / weight.sum(),
        }
    )


def funnel(v: npt.ArrayLike, found: RandomEffects, points: int = 50) -> pd.DataFrame:
    """Return where estimates lie if only sampling moves them: `standard_error`, `lower`, `upper`."""
    error = np.linspace(0, float(np.sqrt(np.max(np.asarray(v, dtype=np.float64)))), points)
    half = stats.norm.isf((1 - found.confidence) / 2) * error
    middle = float(found.estimate[0])
    return pd.DataFrame({"standard_error": error, "lower": middle - half, "upper": middle + half})


def egger(y: npt.ArrayLike, v: npt.ArrayLike) -> tuple[float, float]:
    """Return the t statistic and p value of Egger's test (1997): do estimates move with their standard error?

    For studies taken from the literature only: nothing of our own is published selectively.

    Raises
    ------
    UsageError
        If there are fewer than three studies, all have the same precision, or all lie on one line.
    """
    estimates, variances, _ = checked(y, v)
    error = np.sqrt(variances)
    if len(estimates) < 3 or np.ptp(error) == 0:
        raise UsageError("not estimable: Egger's test needs three studies of different precision")
    x = np.column_stack([np.ones_like(error), error]) / error[:, None]
    coefficients = np.linalg.lstsq(x, estimates / error, rcond=None)[0]
    rest = (estimates / error - x @ coefficients) ** 2
    if rest.sum() <= ROUNDING**2 * ((estimates / error) ** 2).sum():
        raise UsageError("not estimable: the estimates lie on a line, without an error to test against")
    scale = float(rest.sum()) / (len(estimates) - 2)
    slope_error = np.sqrt(scale * np.linalg.inv(x.T @ x)[1, 1])
    statistic = float(coefficients[1] / slope_error)
    return statistic, float(2 * stats.t.sf(abs(statistic), len(estimates) - 2))


def rank_test(y: npt.ArrayLike, v: npt.ArrayLike) -> tuple[float, float]:
    """Return Kendall's tau and its p value of Begg and Mazumdar's test (1994) of small-study effects.

    The p value is exact without ties, else by the normal distribution.

    Raises
    ------
    UsageError
        If there are fewer than three studies, or all estimates or all variances are the same.
    """
    estimates, variances, _ = checked(y, v)
    if len(estimates) < 3:
        raise UsageError("not estimable: the rank test needs three studies")
    if np.ptp(estimates) == 0 or np.ptp(variances) == 0:
        raise UsageError("not estimable: the rank test needs different estimates and variances")
    weight = 1 / variances
    centred = estimates - weight @ estimates / weight.sum()
    deviates = centred / np.sqrt(variances - 1 / weight.sum())
    tied = min(len(set(deviates)), len(set(variances))) < len(estimates)
    result = stats.kendalltau(deviates, variances, method="asymptotic" if tied else "exact")
    return float(result.statistic), float(result.pvalue)
