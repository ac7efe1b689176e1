"""How much of the variation of accuracy belongs to class, model, epsilon and their interactions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis.bands import check_confidence
from metaeval.analysis.class_drops import outcomes_from_cube
from metaeval.analysis.reading import WORST_CASE, given_confidence, given_seed
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
FACTORS = ("class", "model", "epsilon")
EFFECTS = tuple(
    chosen for size in (1, 2, 3) for chosen in itertools.combinations(FACTORS, size)
)  # class, model, epsilon, class x model, ...


@dataclass(frozen=True)
class ClassVariance:
    """Variance of accuracy over the cells class x model x epsilon, split by effect.

    Attributes
    ----------
    effects : tuple of str
        "class", "model", "epsilon", "class x model", ..., "class x model x epsilon".
    component, lower, upper : ndarray (effect,)
        Each effect's part of the variance, free of bias from the choice of samples; an estimate may be
        negative. The interval covers the choice of samples within classes; models and epsilons are fixed. It
        is NaN where all samples of a class do the same, for every class: a bootstrap says nothing there.
    naive : ndarray (effect,)
        The same without the correction; they sum to the variance of the observed accuracies.
    total : ndarray (class,)
    confidence : float
    """

    effects: tuple[str, ...]
    component: FloatArray
    lower: FloatArray
    upper: FloatArray
    naive: FloatArray
    total: npt.NDArray[np.int64]
    confidence: float

    @property
    def share(self) -> FloatArray:
        """Each effect's share of the corrected variance; NaN where that is not positive."""
        whole = self.component.sum()
        return self.component / whole if whole > 0 else np.full(len(self.component), np.nan)

    def sentence(self) -> str:
        """Return in words how much of the variation is between classes."""
        if len(self.total) < 2:
            return "How much classes differ is not estimable: there is one class."
        spread, low, high = (
            100 * np.sqrt(np.maximum(0.0, end[0])) for end in (self.component, self.lower, self.upper)
        )
        interval = f"{100 * self.confidence:.3g} % {low:.3g} to {high:.3g} over test samples"
        if np.isnan(low):
            interval = "interval over test samples not estimable: within every class all do the same"
        return (
            f"Classes differ by a standard deviation of {spread:.3g} points of accuracy over all "
            f"models and epsilons "
            f"({interval}, n = {self.total.sum()}; models, epsilons and attacks fixed)."
        )


def decompose(
    outcomes: npt.ArrayLike,
    label: npt.ArrayLike,
    confidence: float = 0.95,
    *,
    resamples: int = 1_000,
    seed: int = 0,
) -> ClassVariance:
    """Split the variance of accuracy over class x model x epsilon, corrected for the choice of samples.

    Parameters
    ----------
    outcomes : array_like (model, epsilon, sample)
        1 correct, 0 not.
    label : array_like of int (sample,)
        Classes 0 .. C - 1, each with two samples at least.
    resamples : int
        Bootstrap of samples within classes, all models and epsilons together.

    Raises
    ------
    UsageError
        If an outcome is missing or a class has fewer than two samples: without per-sample outcomes the
        correction is not estimable, because all models see the same samples.

    Notes
    -----
    An effect's mean square is too large by w tr(P S_c) / n_c averaged over classes: S_c is the covariance of
    one sample's outcomes, P the effect's projection on model x epsilon, w = 1 - 1/C if the effect involves
    the class and 1/C if not.
    """
    check_confidence(confidence)
    z, labels = np.asarray(outcomes, dtype=np.float32), np.asarray(label, dtype=np.int64)
    if z.ndim != 3 or z.shape[-1:] != labels.shape or np.any(labels < 0):
        raise UsageError(
            f"outcomes need (model, epsilon, sample) with a label from 0 each, not {z.shape}, {labels.shape}"
        )
    if not np.isin(z, (0, 1)).all():
        raise UsageError("outcomes must be 0 or 1 for every model, epsilon and sample")
    total = np.bincount(labels)
    if total.min() < 2:
        raise UsageError("not estimable: every class needs two samples")
    models, levels, _ = z.shape
    random = np.random.default_rng(seed)
    # Weights per replicate; the first row is the sample itself.
    means = np.empty((resamples + 1, len(total), models, levels))
    noise = np.empty((resamples + 1, len(total), 4))
    varied = False
    for c, n in enumerate(total):
        part = np.moveaxis(z[..., labels == c], -1, 0)  # (sample, model, epsilon)
        varied |= bool((part != part[0]).any())
        weights = np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), resamples)]).astype(
            np.float32
        )
        squares = np.stack([_square(_project(part, *sides)) for sides in _SIDES], axis=-1)
        means[:, c] = ((weights @ part.reshape(n, -1)) / n).reshape(-1, models, levels)
        centre = np.stack([_square(_project(means[:, c], *sides)) for sides in _SIDES], axis=-1)
        # Unbiased trace of P S_c, over n: the error that the mean square carries.
        noise[:, c] = (weights @ squares / n - centre) / (n - 1)
    naive = mean_squares(means)
    cells = means[0].size
    weight = np.array([1 - 1 / len(total) if "class" in effect else 1 / len(total) for effect in EFFECTS])
    place = [_SIDES.index(("model" in effect, "epsilon" in effect)) for effect in EFFECTS]
    corrected = naive - weight * noise.sum(axis=1)[:, place] / cells
    # In the bootstrap's world the observed accuracies are the truth.
    error = corrected[1:] - naive[0]
    tail = (1 - confidence) / 2
    ends = np.quantile(error, [1 - tail, tail], axis=0)
    if not varied:
        ends = np.full_like(ends, np.nan)
    return ClassVariance(
        tuple(" x ".join(effect) for effect in EFFECTS),
        corrected[0],
        corrected[0] - ends[0],
        corrected[0] - ends[1],
        naive[0],
        total.astype(np.int64),
        confidence,
    )


# Whether the effect centres over models and over epsilons, or averages.
_SIDES = ((False, False), (True, False), (False, True), (True, True))


def _project(values: npt.NDArray[np.floating], model: bool, epsilon: bool) -> npt.NDArray[np.floating]:
    """Centre or average (broadcast) the last two axes, model and epsilon."""
    for axis, centred in ((-2, model), (-1, epsilon)):
        mean = values.mean(axis=axis, keepdims=True)
        values = values - mean if centred else np.broadcast_to(mean, values.shape)
    return values


def _square(values: npt.NDArray[np.floating]) -> FloatArray:
    return np.asarray(np.einsum("...ij,...ij->...", values, values), dtype=np.float64)


def mean_squares(accuracy: npt.ArrayLike) -> FloatArray:
    """Return each effect's part of the variance over the cells, over (..., effect).

    Parameters
    ----------
    accuracy : array_like (..., class, model, epsilon)
        Observed accuracies; nothing is corrected.
    """
    p = np.asarray(accuracy, dtype=np.float64)
    parts = []
    for effect in EFFECTS:
        values = _project(p, "model" in effect, "epsilon" in effect)
        mean = values.mean(axis=-3, keepdims=True)
        values = values - mean if "class" in effect else np.broadcast_to(mean, values.shape)
        parts.append((values**2).mean(axis=(-3, -2, -1)))
    return np.stack(parts, axis=-1)


def from_cube(
    cube: xr.DataTree,
    norm: str,
    attack: str = WORST_CASE,
    confidence: float | None = None,
    *,
    seed: int | None = None,
) -> xr.Dataset:
    """Return `component`, `lower`, `upper`, `naive`, `share` (effect) of one norm of a cube."""
    confidence = given_confidence(cube, confidence)
    seed = given_seed(cube, seed)
    z, labels, names, _ = outcomes_from_cube(cube, norm, attack)
    found = decompose(z, labels, confidence, seed=seed)
    fields = ("component", "lower", "upper", "naive", "share")
    return xr.Dataset(
        {name: ("effect", getattr(found, name)) for name in fields},
        {"effect": list(found.effects)},
        {
            "method": "balanced means corrected by per-sample covariance; pivot bootstrap within classes",
            "samples": len(labels),
            "models": names,
            "confidence": confidence,
            "covers": "choice of test samples within classes; models, epsilons and attack strength fixed",
            "sentences": [found.sentence()],
        },
    )
