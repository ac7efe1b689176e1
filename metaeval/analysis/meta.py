"""Random-effects meta-analysis and meta-regression of estimates with known sampling variances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from metaeval.analysis.bands import check_confidence
from metaeval.errors import UsageError, unknown_name

FloatArray = npt.NDArray[np.float64]
Method = Literal["FE", "DL", "HE", "ML", "REML", "PM"]
Test = Literal["z", "knha", "adhoc"]
TESTS = ("z", "knha", "adhoc")
# With fewer studies a prediction interval does not reach its confidence.
STUDIES_FOR_PREDICTION = 10
# Below this Q is rounding.
NO_DIFFERENCE = 1e-20


@dataclass(frozen=True)
class RandomEffects:
    """A meta-analysis or meta-regression.

    Attributes
    ----------
    estimate, standard_error, lower, upper : ndarray (coefficient,)
        Intercept first; the interval covers the choice of studies, for method FE their samples only.
    p : ndarray (coefficient,)
        Two-sided, of a coefficient of 0.
    covariance : ndarray (coefficient, coefficient)
    tau2 : float
        Variance between studies, at least 0.
    tau2_lower, tau2_upper : float
        Q-profile interval (Viechtbauer 2007).
    i2 : float
        Percent of the variance that is between studies.
    h2 : float
        Total over sampling variance, at least 1 for all methods but FE.
    q, q_p : float
        Cochran's Q (of the residuals where there are moderators) and its p value.
    prediction : ndarray (2,)
        Where the true value of a new study lies; NaN where it is not estimable: fewer than 10 studies,
        moderators (see `predict`), or method FE.
    studies, degrees_of_freedom : int
    method, test : str
    confidence : float
    """

    estimate: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    p: FloatArray
    covariance: FloatArray
    tau2: float
    tau2_lower: float
    tau2_upper: float
    i2: float
    h2: float
    q: float
    q_p: float
    prediction: FloatArray
    studies: int
    degrees_of_freedom: int
    method: str
    test: str
    confidence: float

    def predict(self, moderators: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return fitted values with their interval and their prediction interval.

        Parameters
        ----------
        moderators : array_like (row, moderator)

        Returns
        -------
        fitted : ndarray (row,)
        interval, prediction : ndarray (row, 2)
            `prediction` is NaN below 10 studies and for method FE.
        """
        rows = np.asarray(moderators, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.estimate) - 1:
            raise UsageError(f"predict needs {len(self.estimate) - 1} moderators per row, not {rows.shape}")
        x = np.column_stack([np.ones(len(rows)), rows])
        fitted = x @ self.estimate
        variance = np.einsum("ij,jk,ik->i", x, self.covariance, x)
        critical = _critical(self.test, self.confidence, self.degrees_of_freedom)
        half = critical * np.sqrt(variance)
        wide = critical * np.sqrt(variance + self.tau2)
        if self.studies < STUDIES_FOR_PREDICTION or self.method == "FE":
            wide = np.full(len(rows), np.nan)
        sides = np.array([-1.0, 1.0])
        return fitted, fitted[:, None] + half[:, None] * sides, fitted[:, None] + wide[:, None] * sides

    def sentence(self, what: str = "effect") -> str:
        """Return the average, its interval, the heterogeneity and the prediction interval in words."""
        percent = f"{100 * self.confidence:.3g} %"
        low, high = self.prediction
        prediction = f"{percent} prediction interval of a new study {low:.3g} to {high:.3g}"
        if np.isnan(low):
            prediction = f"prediction interval not estimable (k = {self.studies})"
        covered = "samples of these studies" if self.method == "FE" else "choice of studies"
        interval = f"{percent} {self.lower[0]:.3g} to {self.upper[0]:.3g} over the {covered}"
        if self.test == "knha" and self.q < NO_DIFFERENCE:
            interval = "no interval: all estimates are the same, which this test takes for certainty"
            prediction = f"prediction interval not estimable (k = {self.studies})"
        return (
            f"Average {what} {self.estimate[0]:.3g} "
            f"({interval}; k = {self.studies}, {self.method}, {self.test}); "
            f"I2 = {self.i2:.3g} %; {prediction}."
        )


def random_effects(
    y: npt.ArrayLike,
    v: npt.ArrayLike,
    moderators: npt.ArrayLike | None = None,
    method: Method = "REML",
    test: Test = "knha",
    confidence: float = 0.95,
) -> RandomEffects:
    """Combine estimates of independent studies whose true values differ.

    Parameters
    ----------
    y, v : array_like (study,)
        Estimates and their sampling variances, which are positive.
    moderators : array_like (study,) or (study, moderator), optional
        Explanatory variables; an intercept is always added.
    method : {"REML", "FE", "DL", "HE", "ML", "PM"}
        Estimator of the variance between studies: restricted maximum likelihood, none (fixed effects),
        DerSimonian and Laird 1986, Hedges 1983, maximum likelihood, Paule and Mandel 1982.
    test : {"knha", "z", "adhoc"}
        Interval by Knapp and Hartung 2003 with Student's t, by the normal distribution, or by Knapp and
        Hartung but never narrower than the normal one.
    confidence : float

    Raises
    ------
    UsageError
        If shapes differ, a value is not finite, a variance is not positive, moderators are collinear, or
        there are no more studies than coefficients.

    References
    ----------
    Viechtbauer, Bias and efficiency of meta-analytic variance estimators, 2005; Knapp and Hartung, Improved
    tests for a random effects meta-regression with a single covariate, 2003.
    """
    check_confidence(confidence)
    if method not in ESTIMATORS:
        raise unknown_name("method", method, ESTIMATORS)
    if test not in TESTS:
        raise unknown_name("test", test, TESTS)
    problem = _Problem(*checked(y, v, moderators))
    k, p = problem.x.shape
    freedom = k - p
    tau2 = ESTIMATORS[method](problem)
    weights, root, estimate = problem.fit(tau2)
    residuals = problem.y - problem.x @ estimate
    scale = 1.0
    if test != "z":
        scale = float(weights @ residuals**2) / freedom
    if test == "adhoc":
        scale = max(scale, 1.0)
    covariance = scale * root @ root.T
    error = np.sqrt(np.diag(covariance))
    critical = _critical(test, confidence, freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(estimate / error)
    p_values = 2 * (stats.norm.sf(statistic) if test == "z" else stats.t.sf(statistic, freedom))
    q = problem.q(0.0)
    typical = freedom / problem.trace(0.0)
    if method == "FE":
        i2, h2 = (max(0.0, 100 * (q - freedom) / q) if q > 0 else 0.0), q / freedom
    else:
        i2, h2 = 100 * tau2 / (typical + tau2), 1 + tau2 / typical
    prediction = np.full(2, np.nan)
    if p == 1 and k >= STUDIES_FOR_PREDICTION and method != "FE":
        half = critical * np.sqrt(tau2 + covariance[0, 0])
        prediction = estimate[0] + np.array([-half, half])
    error_share = (1 - confidence) / 2
    return RandomEffects(
        estimate,
        error,
        estimate - critical * error,
        estimate + critical * error,
        np.asarray(p_values),
        covariance,
        tau2,
        problem.profile(float(stats.chi2.isf(error_share, freedom))),
        problem.profile(float(stats.chi2.ppf(error_share, freedom))),
        i2,
        h2,
        q,
        float(stats.chi2.sf(q, freedom)),
        prediction,
        k,
        freedom,
        method,
        test,
        confidence,
    )


def _critical(test: str, confidence: float, freedom: int) -> float:
    tail = (1 - confidence) / 2
    return float(stats.norm.isf(tail) if test == "z" else stats.t.isf(tail, freedom))


def checked(
    y: npt.ArrayLike, v: npt.ArrayLike, moderators: npt.ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return estimates, variances and the design matrix."""
    try:
        estimates, variances = np.asarray(y, dtype=np.float64), np.asarray(v, dtype=np.float64)
        m = None if moderators is None else np.asarray(moderators, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "estimates, variances and moderators must be numbers; a factor is columns of 0 and 1"
        ) from error
    if estimates.ndim != 1 or estimates.shape != variances.shape:
        raise UsageError(
            f"y and v need one value per study each, not {estimates.shape} and {variances.shape}"
        )
    columns = [np.ones(len(estimates))]
    if m is not None:
        m = m[:, None] if m.ndim == 1 else m
        if m.ndim != 2 or len(m) != len(estimates):
            raise UsageError(f"moderators need one row per study ({len(estimates)}), not shape {m.shape}")
        columns += list(m.T)
    x = np.column_stack(columns)
    if not (np.isfinite(estimates).all() and np.isfinite(variances).all() and np.isfinite(x).all()):
        raise UsageError("estimates, variances and moderators must be finite; leave out incomplete studies")
    if np.any(variances <= 0):
        raise UsageError("sampling variances must be positive")
    if len(x) <= x.shape[1]:
        raise UsageError(f"not estimable: {len(x)} studies for {x.shape[1]} coefficients")
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise UsageError("moderators are collinear or constant")
    return estimates, variances, x


@dataclass(frozen=True)
class _Problem:
    """Estimates, variances and design; everything below is a function of the variance between studies."""

    y: FloatArray
    v: FloatArray
    x: FloatArray

    @property
    def freedom(self) -> int:
        return len(self.y) - int(self.x.shape[1])

    def fit(self, tau2: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return weights, a root A A' of (X'WX)^-1, and the coefficients."""
        w = 1 / (self.v + tau2)
        # X'WX itself would square the condition: years as a moderator cost half of the digits.
        side, triangle = np.linalg.qr(np.sqrt(w)[:, None] * self.x)
        root = np.asarray(np.linalg.inv(triangle), dtype=np.float64)
        return w, root, root @ (side.T @ (np.sqrt(w) * self.y))

    def q(self, tau2: float) -> float:
        """Weighted squares of the residuals; falls as tau2 rises."""
        w, _, estimate = self.fit(tau2)
        return float(w @ (self.y - self.x @ estimate) ** 2)

    def trace(self, tau2: float) -> float:
        """Trace of P = W - W X (X'WX)^-1 X'W."""
        w, root, _ = self.fit(tau2)
        return float(w.sum() - w**2 @ ((self.x @ root) ** 2).sum(axis=1))

    @property
    def ceiling(self) -> float:
        """A variance between studies that no estimate exceeds, from ordinary regression."""
        residuals = self.y - self.x @ np.linalg.lstsq(self.x, self.y, rcond=None)[0]
        return 4 * (float(residuals @ residuals) + float(self.v.max()))

    def profile(self, target: float) -> float:
        """Return the tau2 at which Q equals `target`, 0 if Q is smaller everywhere."""
        if self.q(0.0) <= target:
            return 0.0
        high = self.ceiling
        while self.q(high) > target:
            high *= 4
        return float(optimize.brentq(lambda t: self.q(t) - target, 0.0, high, xtol=1e-14, rtol=1e-13))

    def maximum(self, restricted: bool) -> float:
        """Return the tau2 of the largest likelihood: the best of a grid, then the root of the score there."""

        def loss(t: float) -> float:
            w, root, estimate = self.fit(t)
            squares = float(w @ (self.y - self.x @ estimate) ** 2)
            penalty = -2 * np.log(np.abs(np.diag(root))).sum() if restricted else 0.0
            return float(squares - np.log(w).sum() + penalty)

        def score(t: float) -> float:
            w, _, estimate = self.fit(t)
            squares = float(w**2 @ (self.y - self.x @ estimate) ** 2)
            return squares - (self.trace(t) if restricted else float(w.sum()))

        low = 1e-6 * float(self.v.min())
        grid = np.append(0.0, np.geomspace(low, max(self.ceiling, 10 * low), 300))
        best = int(np.argmin([loss(t) for t in grid]))
        left, right = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        if score(left) <= 0 or score(right) >= 0:  # at the border
            return float(grid[best])
        return float(optimize.brentq(score, left, right, xtol=1e-14, rtol=1e-13))


def _der_simonian_laird(problem: _Problem) -> float:
    return max(0.0, (problem.q(0.0) - problem.freedom) / problem.trace(0.0))


def _hedges(problem: _Problem) -> float:
    x = problem.x
    leverage = (np.linalg.qr(x)[0] ** 2).sum(axis=1)
    residuals = problem.y - x @ np.linalg.lstsq(x, problem.y, rcond=None)[0]
    return max(0.0, float(residuals @ residuals - problem.v @ (1 - leverage)) / problem.freedom)


ESTIMATORS: dict[str, Callable[[_Problem], float]] = {
    "FE": lambda problem: 0.0,
    "DL": _der_simonian_laird,
    "HE": _hedges,
    "ML": lambda problem: problem.maximum(restricted=False),
    "REML": lambda problem: problem.maximum(restricted=True),
    "PM": lambda problem: problem.profile(float(problem.freedom)),
}
