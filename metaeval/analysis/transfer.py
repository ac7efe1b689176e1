"""Does the ranking of models under one norm carry over to another?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis.paired import compare, holm, outcomes
from metaeval.analysis.reading import given_confidence, given_seed
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Transfer:
    """Agreement of two rankings of the same models, and how much agreement the samples allow.

    Attributes
    ----------
    tau, weighted : float
        Kendall's tau-b of the accuracies, and the tau that weighs the top of the ranking more (Vigna 2015);
        NaN if all models are equal under a norm.
    halves : float
        Mean tau-b between a half of the samples under one norm and the other half under the other.
    ceiling_first, ceiling_second : float
        Mean tau-b between two halves of the samples under one norm.
    models, samples : int
    same, opposite : int
        Pairs of models that are certainly in the same order under both norms, and in opposite orders (exact
        McNemar under each norm, Holm over all these tests).
    confidence : float
        Of all these orders together.
    """

    tau: float
    weighted: float
    halves: float
    ceiling_first: float
    ceiling_second: float
    models: int
    samples: int
    same: int
    opposite: int
    confidence: float

    @property
    def pairs(self) -> int:
        """Number of pairs of models."""
        return self.models * (self.models - 1) // 2

    @property
    def ceiling(self) -> float:
        """About what `halves` would be if both true rankings were one: the geometric mean of the ceilings."""
        both = self.ceiling_first, self.ceiling_second
        return float(np.sqrt(both[0] * both[1])) if min(both) > 0 else float("nan")

    @property
    def bounds(self) -> tuple[float, float]:
        """Kendall's tau of the true accuracies, at least and at most: pairs not certain may go either way."""
        return 2 * self.same / self.pairs - 1, 1 - 2 * self.opposite / self.pairs

    def sentence(self, first: str, second: str) -> str:
        """Return in words how far the ranking carries over."""
        if np.isnan(self.tau):
            return f"Transfer from {first} to {second} not estimable: all models are equal under one of them."
        return (
            f"Rankings under {first} and {second} agree with tau-b = {self.tau:.2f} ({self.models} models, "
            f"n = {self.samples}); of {self.pairs} pairs {self.same} are certainly in the same order and "
            f"{self.opposite} in opposite ones ({100 * self.confidence:.3g} % for all together); between "
            f"halves of the samples {self.halves:.2f}, where {first} agrees with itself at "
            f"{self.ceiling_first:.2f} and {second} at {self.ceiling_second:.2f}."
        )


def agreement(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    splits: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Transfer:
    """Compare two rankings of models on the same samples.

    Parameters
    ----------
    first, second : array_like (model, sample)
        1 correct, 0 not, of the same weights under two norms, at one epsilon each.
    splits : int
        Random halvings of the samples behind `halves` and the ceilings.
    seed : int
    confidence : float
        Of the certain orders.

    Raises
    ------
    UsageError
        If shapes differ, an outcome is missing, or there are fewer than three models or two samples.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or len(a) < 3 or a.shape[1] < 2:
        raise UsageError(f"transfer needs three models on the same samples, not {a.shape} and {b.shape}")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise UsageError("transfer needs outcomes that are 0 or 1 for every model and sample")
    random = np.random.default_rng(seed)
    n = a.shape[1]
    taus = np.empty((splits, 3))
    for split in range(splits):
        order = random.permutation(n)
        one, two = order[: n // 2], order[n // 2 : 2 * (n // 2)]
        sides = [z[:, half].sum(axis=1) for z in (a, b) for half in (one, two)]
        taus[split] = [_tau(sides[0], sides[3]), _tau(sides[0], sides[1]), _tau(sides[2], sides[3])]
    known = ~np.isnan(taus)
    means = np.where(
        known.any(axis=0), np.where(known, taus, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan
    )
    right_a, right_b = a.sum(axis=1), b.sum(axis=1)
    tau = _tau(right_a, right_b)
    weighted = float("nan") if np.isnan(tau) else float(stats.weightedtau(right_a, right_b).statistic)
    same, opposite = _certain_orders(a, b, confidence)
    halves = float(means[0]), float(means[1]), float(means[2])
    return Transfer(tau, weighted, *halves, len(a), n, same, opposite, confidence)


def _certain_orders(a: FloatArray, b: FloatArray, confidence: float) -> tuple[int, int]:
    """Return how many pairs of models are certainly in the same order on both sides, and in opposite ones."""
    sides = [compare(side, confidence) for side in (a, b)]
    adjusted = holm(np.concatenate([side.p for side in sides])).reshape(2, -1)
    signs = np.stack([np.sign(side.difference) for side in sides])
    both = np.where(adjusted < 1 - confidence, signs, 0).prod(axis=0)
    return int((both > 0).sum()), int((both < 0).sum())


def _tau(x: FloatArray, y: FloatArray) -> float:
    """Return tau-b, NaN if one side is all ties."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.kendalltau(x, y).statistic)


def from_cube(
    cube: xr.DataTree,
    first: tuple[str, float],
    second: tuple[str, float],
    *,
    splits: int = 200,
    seed: int | None = None,
    confidence: float | None = None,
) -> Transfer:
    """Compare the worst-case rankings of a cube under two (norm, epsilon); models complete under both."""
    seed, confidence = given_seed(cube, seed), given_confidence(cube, confidence)
    sides = [outcomes(cube, norm, epsilon) for norm, epsilon in (first, second)]
    complete = [
        {
            str(name): row
            for name, row in zip(side["model"].values, side.values, strict=True)
            if not np.isnan(row).any()
        }
        for side in sides
    ]
    shared = [name for name in complete[0] if name in complete[1]]
    if len(shared) < 3:
        raise UsageError(f"transfer needs three models complete under both norms; there are {len(shared)}")
    first_rows, second_rows = ([rows[name] for name in shared] for rows in complete)
    return agreement(first_rows, second_rows, splits=splits, seed=seed, confidence=confidence)
