"""How much accuracy each class loses from the first to the last epsilon, and what that ranking is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import stats

from metaeval.analysis.bands import bounded_mean, check_confidence
from metaeval.analysis.differences import survivors
from metaeval.analysis.meta import random_effects
from metaeval.analysis.paired import breaking_levels, holm, mcnemar
from metaeval.analysis.reading import WORST_CASE, coordinate, given_confidence, given_seed, samples_of
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
RESAMPLES = 2_000


def from_accuracy(accuracy: npt.ArrayLike, total: npt.ArrayLike) -> xr.Dataset:
    """Return drops of accuracies per class, from counts or published tables alone.

    Parameters
    ----------
    accuracy : array_like (model, class, epsilon)
        Fractions, epsilons ascending; NaN where not known.
    total : array_like of int (class,)
        Samples per class.

    Returns
    -------
    xarray.Dataset
        `step` (model, class, step) and `drop` (model, class): accuracy lost between neighbouring epsilons and
        from the first to the last; `average_step` (class, step), `average_drop` (class): means over models
        that have both ends, `models` (class) of them; `overall` = mean of `average_drop` over classes;
        `contribution` (model, class) and `average_contribution` (class): share of the overall drop, NaN where
        a class is missing or nothing drops; `worst` (model, epsilon): position of the first class with the
        lowest accuracy, -1 where a class is missing.
    """
    p, n = np.asarray(accuracy, dtype=np.float64), np.asarray(total, dtype=np.float64)
    if p.ndim != 3 or p.shape[1] != len(n) or p.shape[2] < 2:
        raise UsageError("drops need accuracies over (model, class, epsilon) at two epsilons at least")
    step = p[..., :-1] - p[..., 1:]
    drop = p[..., 0] - p[..., -1]
    average = _mean_of_known(drop)
    lowest = np.argmin(np.where(np.isnan(p), np.inf, p), axis=1)
    return xr.Dataset(
        {
            "step": (("model", "class", "step"), step),
            "drop": (("model", "class"), drop),
            "average_step": (("class", "step"), _mean_of_known(step)),
            "average_drop": ("class", average),
            "models": ("class", (~np.isnan(drop)).sum(axis=0)),
            "overall": average.mean(),
            "contribution": (("model", "class"), contributions(drop, n)),
            "average_contribution": ("class", contributions(average, n)),
            "worst": (("model", "epsilon"), np.where(np.isnan(p).any(axis=1), -1, lowest)),
        }
    )


def _mean_of_known(values: FloatArray) -> FloatArray:
    """Return means over the first axis without NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def contributions(drop: npt.ArrayLike, total: npt.ArrayLike) -> FloatArray:
    """Return each class's share of the overall drop, over (..., class); NaN where nothing drops."""
    d, n = np.asarray(drop, dtype=np.float64), np.asarray(total, dtype=np.float64)
    weighted = np.where(n > 0, d * n, 0)
    whole = weighted.sum(axis=-1, keepdims=True)
    return np.where(whole > 0, weighted / np.where(whole > 0, whole, 1), np.nan)


@dataclass(frozen=True)
class ClassDrops:
    """Drops per class, averaged over models, with intervals over the choice of test samples.

    Attributes
    ----------
    drop, lower, upper : ndarray (class,)
    contribution, contribution_lower, contribution_upper : ndarray (class,)
        Share of the overall drop; interval by a bootstrap of the samples within classes.
    shrunken, shrunken_error : ndarray (class,)
        Drops pulled towards their mean as far as they are noise (empirical Bayes), and their standard error.
    rank : ndarray (class,)
        By `shrunken`, 1 the largest drop.
    p : ndarray (class,)
        Two-sided, Holm-adjusted: is this class's drop the mean of the others'?
    equal_p : float
        Cochran's Q: do the classes differ at all?
    total : ndarray (class,)
    confidence : float
    """

    drop: FloatArray
    lower: FloatArray
    upper: FloatArray
    contribution: FloatArray
    contribution_lower: FloatArray
    contribution_upper: FloatArray
    shrunken: FloatArray
    shrunken_error: FloatArray
    rank: npt.NDArray[np.int64]
    p: FloatArray
    equal_p: float
    total: npt.NDArray[np.int64]
    confidence: float

    def sentences(self, names: list[str]) -> list[str]:
        """Return in words which classes lose more or less than the others."""
        percent = f"{100 * self.confidence:.3g} %"
        rest = "the other classes'" if len(names) > 2 else "the other class's"
        words = [
            f"{names[c]} loses {self.drop[c]:.3g} ({percent} {self.lower[c]:.3g} to {self.upper[c]:.3g} over "
            f"test samples, n = {self.total[c]}), "
            f"{'more' if self.drop[c] > others else 'less'} than {rest} {others:.3g} "
            f"(adjusted p = {self.p[c]:.2g})."
            for c in np.argsort(-self.drop, kind="stable")
            if self.p[c] < 1 - self.confidence
            for others in [np.delete(self.drop, c).mean()]
        ]
        if words:
            return words
        half = np.max(self.upper - self.lower) / 2
        return [
            f"No class is told apart from the others ({len(names)} classes, {self.total.min()} to "
            f"{self.total.max()} samples each); single drops are known to +-{half:.2g} only."
        ]


def from_outcomes(
    outcomes: npt.ArrayLike, label: npt.ArrayLike, confidence: float = 0.95, *, seed: int = 0
) -> ClassDrops:
    """Return drops per class from what became of every sample, models averaged.

    Parameters
    ----------
    outcomes : array_like (model, epsilon, sample)
        1 correct, 0 not, epsilons ascending; the first and the last are compared.
    label : array_like of int (sample,)
        Classes 0 .. C - 1, each with two samples at least.
    seed : int
        Of the bootstrap behind `contribution_lower` and `contribution_upper`.

    Raises
    ------
    UsageError
        If an outcome is missing, there are fewer than two epsilons or classes, or a class has fewer than
        two samples.
    """
    z, labels = _complete(outcomes, label)
    check_confidence(confidence)
    if z.shape[1] < 2:
        raise UsageError("drops need outcomes at two epsilons at least")
    total = np.bincount(labels)
    if len(total) < 2 or total.min() < 2:
        raise UsageError("not estimable: comparing drops needs two classes with two samples each")
    lost = (z[:, 0] - z[:, -1]).mean(axis=0)
    parts = [lost[labels == c] for c in range(len(total))]
    drop, lower, upper = (
        np.array(column)
        for column in zip(*(bounded_mean(part, -1.0, 1.0, confidence) for part in parts), strict=True)
    )
    # The error behind the interval, which is not 0 for a class whose samples all do the same.
    variance = ((upper - lower) / 2 / stats.norm.isf((1 - confidence) / 2)) ** 2
    average = random_effects(drop, variance)
    trust = average.tau2 / (average.tau2 + variance)
    shrunken = average.estimate[0] + trust * (drop - average.estimate[0])
    random = np.random.default_rng(seed)
    resampled = np.stack(
        [
            random.multinomial(n, np.full(n, 1 / n), RESAMPLES) @ part / n
            for n, part in zip(total, parts, strict=True)
        ],
        axis=1,
    )
    shares = contributions(resampled, total)
    tail = (1 - confidence) / 2
    # A resample in which nothing drops has no shares, and then neither has the interval.
    ends = np.quantile(shares, [tail, 1 - tail], axis=0)
    return ClassDrops(
        drop,
        lower,
        upper,
        contributions(drop, total),
        ends[0],
        ends[1],
        shrunken,
        np.sqrt(trust * variance),
        stats.rankdata(-shrunken, method="min").astype(np.int64),
        _against_the_others(drop, variance, total),
        average.q_p,
        total.astype(np.int64),
        confidence,
    )


def _against_the_others(drop: FloatArray, variance: FloatArray, total: npt.NDArray[np.int64]) -> FloatArray:
    """Return Holm-adjusted p values of each class against the mean of the others, by Welch's t."""
    others = len(drop) - 1
    difference = drop - (drop.sum() - drop) / others
    rest = (variance.sum() - variance) / others**2
    size = total - 1
    freedom = (variance + rest) ** 2 / (
        variance**2 / size + ((variance**2 / size).sum() - variance**2 / size) / others**4
    )
    p = 2 * stats.t.sf(np.abs(difference) / np.sqrt(variance + rest), freedom)
    return holm(p) if others > 1 else p  # the two tests of two classes are one


def compare_models(outcomes: npt.ArrayLike, label: npt.ArrayLike) -> pd.DataFrame:
    """Return exact McNemar tests of all pairs of models within each class at one epsilon.

    Parameters
    ----------
    outcomes : array_like (model, sample)
    label : array_like of int (sample,)

    Returns
    -------
    pandas.DataFrame
        `first`, `second`, `class` (positions), `difference` of the accuracies, `p`, and `adjusted` by Holm
        over all rows.
    """
    z, labels = _complete(outcomes, label)
    rows = []
    for c in range(int(labels.max()) + 1):
        part = z[:, labels == c]
        only = np.rint(part @ (1 - part).T)
        rows += [
            (i, j, c, (only[i, j] - only[j, i]) / part.shape[1], float(mcnemar(only[i, j], only[j, i])))
            for i, j in zip(*np.triu_indices(len(z), k=1), strict=True)
            if part.shape[1]
        ]
    frame = pd.DataFrame(rows, columns=["first", "second", "class", "difference", "p"])
    return frame.assign(adjusted=holm(frame["p"].to_numpy(dtype=np.float64)))


def _complete(outcomes: npt.ArrayLike, label: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return outcomes that are all there and labels that belong to them."""
    z, labels = np.asarray(outcomes, dtype=np.float64), np.asarray(label, dtype=np.int64)
    if z.shape[-1:] != labels.shape or not len(labels) or labels.min() < 0:
        raise UsageError(f"outcomes {z.shape} need one label of at least 0 per sample, not {labels.shape}")
    if not np.isin(z, (0, 1)).all():
        raise UsageError("outcomes must be 0 or 1 for every model and sample")
    return z, labels


def outcomes_from_cube(
    cube: xr.DataTree, norm: str, attack: str = WORST_CASE
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], list[str], FloatArray]:
    """Return outcomes (model, epsilon, sample), labels, the complete models' names and the epsilons."""
    levels = breaking_levels(cube, norm, attack)
    complete = ~np.isnan(levels.values).any(axis=1)
    if not complete.any():
        raise UsageError(f"no model is complete under {norm} {attack}")
    epsilons = np.sort(cube.children[norm].coords["epsilon"].values.astype(np.float64))
    stored = samples_of(cube, norm)["label"].values
    names = [str(name) for name, known in zip(levels["model"].values, complete, strict=True) if known]
    labels = np.asarray(stored, dtype=np.int64)[: levels.sizes["sample"]]
    return survivors(levels.values[complete], epsilons), labels, names, epsilons


def from_cube(
    cube: xr.DataTree,
    norm: str,
    attack: str = WORST_CASE,
    confidence: float | None = None,
    *,
    seed: int | None = None,
) -> xr.Dataset:
    """Return drops per class of one norm of a cube, with what `from_accuracy` and `ClassDrops` hold."""
    confidence = given_confidence(cube, confidence)
    seed = given_seed(cube, seed)
    z, labels, names, epsilons = outcomes_from_cube(cube, norm, attack)
    classes = coordinate(cube, norm, "class")
    total = np.bincount(labels, minlength=len(classes))
    accuracy = np.stack(
        [
            z[..., labels == c].mean(axis=-1) if total[c] else np.full(z.shape[:2], np.nan)
            for c in range(len(classes))
        ],
        axis=1,
    )
    found = from_outcomes(z, labels, confidence, seed=seed)
    fields = (
        "lower",
        "upper",
        "contribution_lower",
        "contribution_upper",
        "shrunken",
        "shrunken_error",
        "rank",
        "p",
    )
    return (
        from_accuracy(accuracy, total)
        .assign({name: ("class", getattr(found, name)) for name in fields})
        .assign_coords({"model": names, "epsilon": epsilons, "class": classes})
        .assign_attrs(
            method="drops paired by sample; Agresti-Coull; bootstrap within classes; empirical Bayes; Holm",
            samples=len(labels),
            confidence=confidence,
            equal_p=found.equal_p,
            covers="choice of test samples within classes; models and attack strength fixed",
            sentences=found.sentences(classes),
        )
    )
