"""Models compared on the same samples: outcomes from cells, exact McNemar, Cochran's Q, Holm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis.reading import WORST_CASE, norm_dataset, samples_of, status
from metaeval.errors import UsageError, unknown_name
from metaeval.outcomes import Cell

FloatArray = npt.NDArray[np.float64]
CORRECT = (Cell.ROBUST, Cell.ROBUST_INFERRED)


def mcnemar(first_only: npt.ArrayLike, second_only: npt.ArrayLike) -> FloatArray:
    """Return the exact two-sided p value of McNemar's test.

    Parameters
    ----------
    first_only, second_only : array_like of int
        Samples that only the first, only the second model gets right.

    References
    ----------
    McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    b, c = np.asarray(first_only, dtype=np.int64), np.asarray(second_only, dtype=np.int64)
    return np.asarray(np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(b, c), b + c, 0.5)), dtype=np.float64)


def cochran_q(outcomes: npt.ArrayLike) -> float:
    """Return the p value of Cochran's Q: do several models have the same accuracy on the same samples?

    Parameters
    ----------
    outcomes : array_like (model, sample)
        1 = correct, 0 = not.

    Returns
    -------
    float
        1 when no sample distinguishes the models.

    References
    ----------
    Cochran, The comparison of percentages in matched samples, Biometrika 1950.
    """
    z = np.asarray(outcomes, dtype=np.float64)
    k = len(z)
    rows, columns = z.sum(axis=1), z.sum(axis=0)
    spread = float((columns * (k - columns)).sum())
    if k < 2 or spread == 0:
        return 1.0
    statistic = k * (k - 1) * float(((rows - rows.mean()) ** 2).sum()) / spread
    return float(stats.chi2.sf(statistic, k - 1))


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Return p values adjusted so that the chance of any false claim stays below the level (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """All pairs of models on the same samples.

    Attributes
    ----------
    first, second : ndarray (pair,)
        Positions of the two models.
    difference, standard_error : ndarray (pair,)
        Accuracy of the first minus the second, and its paired standard error.
    p, adjusted : ndarray (pair,)
        Exact McNemar p, and the same after Holm over all pairs; with three or more models not below `q`.
    detectable : ndarray (pair,)
        Difference that would be found with probability 0.8 after correction for all pairs, given how
        often the two models differ.
    q : float
        p of Cochran's Q (1 for fewer than three models).
    samples : int
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    difference: FloatArray
    standard_error: FloatArray
    p: FloatArray
    adjusted: FloatArray
    detectable: FloatArray
    q: float
    samples: int

    def pair(self, first: int, second: int) -> int:
        """Return the position of a pair, in whichever order it is stored."""
        low, high = min(first, second), max(first, second)
        return int(np.flatnonzero((self.first == low) & (self.second == high))[0])


def compare(outcomes: npt.ArrayLike, confidence: float = 0.95) -> Comparison:
    """Compare every pair of models sample by sample.

    Parameters
    ----------
    outcomes : array_like (model, sample)
        1 = correct, 0 = not.

    Raises
    ------
    UsageError
        If an outcome is neither 0 nor 1, or there are fewer than two models or no samples.
    """
    z = np.asarray(outcomes, dtype=np.float64)
    if z.ndim != 2 or len(z) < 2 or z.shape[1] == 0:
        raise UsageError("a comparison needs at least two models and one sample")
    if not np.isin(z, (0, 1)).all():
        raise UsageError("a comparison needs outcomes that are 0 or 1 for every model and sample")
    n = z.shape[1]
    only = np.rint(z @ (1 - z).T).astype(np.int64)  # (i, j): samples that only i gets right
    first, second = np.triu_indices(len(z), k=1)
    b, c = only[first, second], only[second, first]
    p = mcnemar(b, c)
    q = cochran_q(z) if len(z) > 2 else 1.0
    adjusted = holm(p)
    if len(z) > 2:
        adjusted = np.maximum(adjusted, q)
    quantiles = stats.norm.isf((1 - confidence) / 2 / len(p)) + stats.norm.ppf(0.8)
    return Comparison(
        first.astype(np.int64),
        second.astype(np.int64),
        (b - c) / n,
        np.sqrt(((b + c) - (b - c) ** 2 / n) / n**2),
        p,
        adjusted,
        # One more discordant sample: models that never differed might on the next one.
        np.minimum(1.0, quantiles * np.sqrt(b + c + 1) / n),
        q,
        n,
    )


def outcomes(cube: xr.DataTree, norm: str, epsilon: float, attack: str = WORST_CASE) -> xr.DataArray:
    """Return what became of every sample at one epsilon: 1 correct, 0 not, NaN not available.

    Parameters
    ----------
    attack : str
        One attack, or "worst-case": correct only if correct under every attack that is a member.

    Returns
    -------
    xarray.DataArray (model, sample)
        Models of the aggregates, the samples that they cover.
    """
    aggregates = norm_dataset(cube, norm)
    cells = cells_at(cube, norm, epsilon)
    correct = np.isin(cells, CORRECT)
    result = np.where(correct, 1.0, np.where(cells == Cell.PENDING, np.nan, 0.0))
    names = [str(name) for name in aggregates["attack"].values if name != WORST_CASE]
    if attack == WORST_CASE:
        members = aggregates["members"].sel(attack=names).transpose("model", "attack").values.astype(bool)
        # A sample that one attack broke is broken, whatever is missing of the others.
        worst = np.min(np.where(members[..., None], np.nan_to_num(result, nan=2.0), 3.0), axis=1, initial=3.0)
        values = np.where(worst > 1, np.nan, worst)
        missing = (members[..., None] & np.isnan(result)).any(axis=1)
        values = np.where((values == 1) & missing, np.nan, values)
    else:
        if attack not in names:
            raise unknown_name("attack", attack, [WORST_CASE, *names])
        values = result[:, names.index(attack)]
    return xr.DataArray(values, {"model": aggregates["model"].values}, ("model", "sample"))


def breaking_levels(cube: xr.DataTree, norm: str, attack: str = WORST_CASE) -> xr.DataArray:
    """Return the smallest evaluated epsilon at which each sample is broken: distances for curves on the grid.

    Returns
    -------
    xarray.DataArray (model, sample)
        inf = not broken at any evaluated epsilon, NaN = not available at some epsilon. Once broken, a sample
        counts as broken at every larger epsilon; the attribute `overturned` counts the cells this changes.
    """
    levels = np.sort(norm_dataset(cube, norm)["epsilon"].values.astype(np.float64))
    rows = [outcomes(cube, norm, float(epsilon), attack) for epsilon in levels]
    correct = np.stack([row.values for row in rows], axis=-1)
    broken = correct == 0
    first = np.where(broken.any(axis=-1), levels[np.argmax(broken, axis=-1)], np.inf)
    first[np.isnan(correct).any(axis=-1)] = np.nan
    overturned = (np.logical_or.accumulate(broken, axis=-1) & (correct == 1)).sum()
    return rows[0].copy(data=first).assign_attrs(overturned=int(overturned))


def only_this_attack(cube: xr.DataTree, norm: str, epsilon: float) -> xr.DataArray:
    """Return how many samples no other attack broke, over (model, attack).

    An attack without a complete column counts as one that broke nothing.
    """
    aggregates = norm_dataset(cube, norm)
    names = [str(name) for name in aggregates["attack"].values if name != WORST_CASE]
    cells = cells_at(cube, norm, epsilon)
    broken = np.isin(cells, (Cell.BROKEN, Cell.BROKEN_ENVELOPE, Cell.BROKEN_OVERRULED))
    alone = broken & (broken.sum(axis=1, keepdims=True) == 1)
    return xr.DataArray(
        alone.sum(axis=2), {"model": aggregates["model"].values, "attack": names}, ("model", "attack")
    )


def cells_at(cube: xr.DataTree, norm: str, epsilon: float) -> npt.NDArray[np.uint8]:
    """Return cells (model, attack, sample) of one level, in the aggregates' order of names."""
    aggregates = norm_dataset(cube, norm)
    samples = samples_of(cube, norm)
    level = np.flatnonzero(samples["epsilon"].values == epsilon)
    if len(level) != 1:
        raise UsageError(f"epsilon {epsilon} is not a level of {norm}")
    count = int(aggregates["total"].sum())
    models = _positions(samples["model"].values, aggregates["model"].values)
    attacks = _positions(
        samples["attack"].values, [name for name in aggregates["attack"].values if name != WORST_CASE]
    )
    cell = samples["cell"].isel(level=int(level[0]), sample=slice(0, count))
    values = cell.transpose("model", "attack", "sample").values[np.ix_(models, attacks)]
    # Cells of a column that failed, is unfinished or belongs to older settings are not this study's.
    words = status(cube, norm)["status"].drop_sel(attack=WORST_CASE, errors="ignore")
    return np.where((words.values == "ok")[..., None], values, np.uint8(Cell.PENDING))


def _positions(stored: npt.ArrayLike, wanted: npt.ArrayLike) -> list[int]:
    """Return where each wanted name is stored."""
    place = {str(name): position for position, name in enumerate(np.asarray(stored))}
    return [place[str(name)] for name in np.asarray(wanted)]
