"""The noise on the weights that costs a target of training accuracy, from few noisy forward passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr, ndtri, stdtrit

from metaeval.measures.spec import Undefined

Floats = npt.NDArray[np.float64]
Drop = Callable[[int, float], float]

LOWEST, HIGHEST = math.log(1e-5), math.log(10.0)
FIRST, MOST = 8, 64  # draws at one sigma while localising
SURE = 3.0  # standard errors
OFFSETS = (-0.3, -0.1, 0.1, 0.3)  # of the points around the root, in log sigma
WIDE = 0.1  # the precision at which they are so far apart; a finer one needs them closer to a straight line
OFF_CENTRE, FARTHEST = 0.2, 0.6  # a root farther from the centre moves it, and by how much at most
PILOT, FITTED = 64, 128  # draws that place the points, and before an interval is believed
FITTED_WELL = 0.95  # an accuracy below it gives drops of both signs
SPARE = 1.2  # draws beyond those that the interval so far asks for: many looks would stop at small ones
USUAL_PLACING, USUAL_RTOL = 90, 0.067  # draws of the bisection; the precision of FITTED draws
RESAMPLES = 1000
FLATTEST = 0.1  # slope


@dataclass(frozen=True)
class Sigma:
    """The noise with the target drop.

    Attributes
    ----------
    log : float
        log sigma*.
    standard_error : float
        Of `log`.
    lower, upper : float
        95 % interval of `log`.
    slope : float
        d log(drop) / d log(sigma) there.
    draws : int
        Evaluations of `drop`.
    note : str
        What a reader should know: a cap that was reached, a rise of accuracy elsewhere.
    """

    log: float
    standard_error: float
    lower: float
    upper: float
    slope: float
    draws: int
    note: str = ""


def search(
    drop: Drop, *, target: float, accuracy: float, rtol: float = 0.1, draws: int = 512, seed: int = 0
) -> Sigma:
    """Return the sigma at which the expected drop of accuracy reaches the target.

    Bisection in log sigma between 1e-5 and 10; then a quasi-likelihood fit of a probit curve in log sigma,
    which rises from 0 to `accuracy`, to fresh draws at four points around the root. (A power of sigma fits
    worse: it puts the root of a network that fits its data some 3 % too high.)

    Parameters
    ----------
    drop : callable
        ``drop(k, sigma)``: the drop in draw k (a rise is negative); equal k, equal noise and images.
    target : float
        In (0, 1).
    accuracy : float
        Without noise; below .95 the interval is a bootstrap of the draws.
    rtol : float
        Half-width of the 95 % interval of log sigma* that ends the search.
    draws : int
        The most that are spent on the fit.

    Raises
    ------
    Undefined
        If no sigma in [1e-5, 10] has the target drop, or if the drop does not grow with sigma near it.
    """
    if accuracy <= target:
        raise Undefined(f"an accuracy of {accuracy:.3g} cannot fall by {target:g}")
    place = localise(drop, target)
    used, centre, size = 0, place.root, PILOT
    samples = _Samples(drop, target, accuracy, centre)
    while True:
        for _ in range(min(size, draws - used)):
            samples.add(MOST + used)
            used += 1
        fit = samples.fit()
        left = draws - used
        off = abs(fit.root - centre) if fit else math.inf
        if not left and off > FARTHEST:
            raise Undefined(
                f"no sigma with a drop of {target:g} found near {math.exp(centre):.3g} with {draws} draws"
            )
        if fit is None or (left > PILOT and (samples.draws < FITTED or off > OFF_CENTRE * samples.scale)):
            centre = samples.better_centre(fit)
            if samples.draws < FITTED:
                # The pilot only places the points: draws that chose their own centre would bias the fit.
                scale = math.sqrt(min(rtol / WIDE, 1.0)) if off <= FARTHEST else 1.0
                samples = _Samples(drop, target, accuracy, centre, scale)
                size = FITTED if off <= FARTHEST else PILOT
            else:
                samples.move(centre)
                size = PILOT
            continue
        error, lower, upper = samples.interval(fit, bootstrap=accuracy < FITTED_WELL, seed=seed)
        half = (upper - lower) / 2
        if half <= rtol or not left:
            break
        size = max(math.ceil(samples.draws * min(SPARE * (half / rtol) ** 2 - 1, 1.0)), len(OFFSETS))
    width = f"half-width of log sigma {half:.2g}" if math.isfinite(half) else "no bounds on sigma"
    short = f"{width} after {draws} draws" if half > rtol else ""
    return Sigma(
        fit.root,
        error,
        lower,
        upper,
        float(samples.steepness(np.array(fit.slope))),
        place.draws + used,
        "; ".join(part for part in (place.rise, short) if part),
    )


def usual_draws(rtol: float, draws: int) -> float:
    """Return how many draws a search takes as a rule, by those of some small networks."""
    return USUAL_PLACING + min(draws, PILOT + FITTED * max(1.0, (USUAL_RTOL / rtol) ** 2))


@dataclass(frozen=True)
class Place:
    """Where the mean drop passes the target, to within the reach of the points of a fit."""

    root: float
    draws: int
    rise: str


def localise(drop: Drop, target: float) -> Place:
    """Return the root by bisection in log sigma; 8 draws at each, doubled up to 64 in doubt."""
    draws, rises = 0, [(0.0, 0.0)]

    def side(log_sigma: float) -> tuple[int, float]:
        nonlocal draws
        values: list[float] = []
        for size in (FIRST * 2**k for k in range(int(math.log2(MOST // FIRST)) + 1)):
            values += [drop(k, math.exp(log_sigma)) for k in range(len(values), size)]
            mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(size)
            if abs(mean - target) > SURE * error:
                break
        draws += len(values)
        if mean < -SURE * error:
            rises.append((-mean, math.exp(log_sigma)))
        decided = abs(mean - target) > SURE * error
        return (int(math.copysign(1, mean - target)) if decided else 0), mean

    low, high = LOWEST, HIGHEST
    while high - low > 2 * OFFSETS[-1]:
        middle = (low + high) / 2
        found, _ = side(middle)
        if found == 0:
            low = high = middle
        low, high = (middle, high) if found < 0 else (low, middle)
    ends = {HIGHEST: (high, -1), LOWEST: (low, 1)}
    for end, (bound, wrong) in ends.items():
        found, mean = side(end) if bound == end else (0, 0.0)
        if found == wrong:
            verb = "falls" if mean >= 0 else "rises"
            than = "less" if wrong < 0 else "more"
            raise Undefined(
                f"accuracy {verb} by {abs(mean):.3g} at sigma = {math.exp(end):.3g}, which is {than} than "
                f"a drop of {target:g}" + _rise(rises)
            )
    return Place((low + high) / 2, draws, _rise(rises).removeprefix("; "))


def _rise(rises: list[tuple[float, float]]) -> str:
    most, sigma = max(rises)
    return f"; accuracy rises by {most:.3g} under noise of sigma = {sigma:.3g}" if most else ""


@dataclass(frozen=True)
class _Fit:
    root: float
    slope: float  # of the probit


class _Samples:
    """Draws at four points around a centre, and around those before it; no two points share one."""

    def __init__(self, drop: Drop, target: float, accuracy: float, centre: float, scale: float = 1.0) -> None:
        self.drop, self.target, self.accuracy, self.scale = drop, target, accuracy, scale
        self.goal = float(ndtri(target / accuracy))
        self.points: list[float] = []
        self.values: list[list[float]] = []
        self.move(centre)

    @property
    def draws(self) -> int:
        return sum(map(len, self.values))

    def move(self, centre: float) -> None:
        """Place four new points; draws far from them are forgotten."""
        reach = FARTHEST * self.scale
        kept = [i for i, p in enumerate(self.points) if abs(p - centre) <= reach and self.values[i]]
        self.centre = centre
        self.values = [[] for _ in OFFSETS] + [self.values[i] for i in kept]
        self.points = [centre + self.scale * offset for offset in OFFSETS] + [self.points[i] for i in kept]

    def add(self, k: int) -> None:
        point = k % len(OFFSETS)
        self.values[point].append(self.drop(k, math.exp(self.points[point])))

    def fit(self) -> _Fit | None:
        root, slope = _fit(self._x(), *self._sums(), self.goal)
        if not math.isfinite(root) or self.steepness(slope) < FLATTEST:
            return None
        return _Fit(self.centre + float(root), float(slope))

    def steepness(self, slope: Floats) -> Floats:
        """Return d log(drop) / d log(sigma) at the root, from the slope of the probit."""
        return np.asarray(slope * _hazard(np.array(self.goal)))

    def better_centre(self, fit: _Fit | None) -> float:
        """Return the root of the fit, or a step towards the target by the mean drop, at most `FARTHEST`."""
        if fit is not None:
            return self.centre + float(np.clip(fit.root - self.centre, -FARTHEST, FARTHEST))
        totals, counts = self._sums()
        return self.centre + math.copysign(
            FARTHEST, self.target - float(totals.sum() / counts.sum() * self.accuracy)
        )

    def interval(self, fit: _Fit, *, bootstrap: bool, seed: int) -> tuple[float, float, float]:
        """Return the standard error of the root and its 95 % interval."""
        if bootstrap:
            return self._bootstrap(seed)
        x, (_, counts) = self._x(), self._sums()
        probit = self.goal + fit.slope * (self.centre + x - fit.root)
        means, hazard = ndtr(probit), _hazard(probit)
        shares = [np.array(v) / self.accuracy for v in self.values]
        spread = np.array([np.sum((v - m) ** 2) for v, m in zip(shares, means, strict=True)])
        design = np.stack([np.ones_like(x), x])
        bread = np.linalg.inv((design * counts * means * hazard**2) @ design.T)
        free = self.draws - len(design)
        covariance = bread @ ((design * spread * hazard**2) @ design.T) @ bread * self.draws / free
        gradient = np.array([-1.0, self.centre - fit.root]) / fit.slope
        error = math.sqrt(gradient @ covariance @ gradient)
        # Fieller 1954: the root is a ratio, and its interval is not symmetric where the slope is uncertain.
        level = fit.slope * (self.centre - fit.root)
        t = float(stdtrit(free, 0.975)) ** 2
        c, b, a = (
            level**2 - t * covariance[0, 0],
            level * fit.slope - t * covariance[0, 1],
            fit.slope**2 - t * covariance[1, 1],
        )
        if a <= 0:
            return error, -math.inf, math.inf
        reach = math.sqrt(max(b * b - a * c, 0.0))
        return error, self.centre + (-b - reach) / a, self.centre + (-b + reach) / a

    def _bootstrap(self, seed: int) -> tuple[float, float, float]:
        random = np.random.default_rng([seed, self.draws])
        totals = [random.choice(v, size=(RESAMPLES, len(v))).sum(axis=1) for v in self.values]
        _, counts = self._sums()
        roots, slopes = _fit(self._x(), np.stack(totals, axis=1) / self.accuracy, counts, self.goal)
        good = np.isfinite(roots) & (self.steepness(slopes) >= FLATTEST)
        if good.mean() < FITTED_WELL:
            return math.nan, -math.inf, math.inf
        roots = roots[good] + self.centre
        lower, upper = np.quantile(roots, [0.025, 0.975])
        return float(roots.std(ddof=1)), float(lower), float(upper)

    def _x(self) -> Floats:
        return np.array(self.points) - self.centre

    def _sums(self) -> tuple[Floats, Floats]:
        """Return the sums of the drops as shares of the accuracy, and the numbers of draws."""
        totals = np.array([sum(v) for v in self.values]) / self.accuracy
        return totals, np.array([len(v) for v in self.values], float)


def _fit(x: Floats, totals: Floats, counts: Floats, goal: float) -> tuple[Floats, Floats]:
    """Return root and slope of means that are straight in the probit, (..., points) -> (...); NaN where none.

    By Fisher's scoring, the variance of a draw in proportion to its mean.
    """
    with np.errstate(all="ignore"):
        level = ndtri(totals.sum(axis=-1) / counts.sum())
        slope = np.ones_like(level)
        for _ in range(60):
            probit = level[..., None] + slope[..., None] * x
            mean, hazard = ndtr(probit), _hazard(probit)
            residual, weight = hazard * (totals - counts * mean), counts * mean * hazard**2
            a, b, c = (np.sum(weight * x**k, axis=-1) for k in range(3))
            s, t = residual.sum(axis=-1), np.sum(residual * x, axis=-1)
            step = np.stack([c * s - b * t, a * t - b * s]) / (a * c - b * b)
            step = np.clip(step, -1.0, 1.0)  # the first steps overshoot where the start is far off
            level, slope = level + step[0], slope + step[1]
        good = (np.abs(step) < 1e-6).all(axis=0)
        return np.where(good, (goal - level) / slope, np.nan), np.where(good, slope, np.nan)


def _hazard(probit: Floats) -> Floats:
    """Return density over distribution of the standard normal: d log(mean) / d probit."""
    return np.asarray(np.exp(-(probit**2) / 2 - log_ndtr(probit)) / math.sqrt(2 * math.pi))
