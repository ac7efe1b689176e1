"""Correlations of many pairs of columns under many resamples of the models, as products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
CHUNK = 500
# A weighted variance below this share of the column's own is rounding: the resample is constant.
NO_VARIANCE = 1e-13


def pearson(x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
    """Return Pearson correlations of all pairs of columns under every resample.

    Parameters
    ----------
    x, y : array_like (model, a), (model, b)
        Finite.
    weights : array_like (resample, model)
        How often each model is in the resample.

    Returns
    -------
    ndarray (resample, a, b)
        NaN where a column is constant.
    """
    first, second, w = _checked(x, y, weights)
    first, second = _standard(first), _standard(second)
    w = w / w.sum(axis=1, keepdims=True)
    products = (first[:, :, None] * second[:, None, :]).reshape(len(first), -1)
    result = np.empty((len(w), first.shape[1], second.shape[1]))
    for start in range(0, len(w), CHUNK):
        part = w[start : start + CHUNK]
        mean_x, mean_y = part @ first, part @ second
        joint = (part @ products).reshape(len(part), first.shape[1], -1)
        variance_x, variance_y = part @ first**2 - mean_x**2, part @ second**2 - mean_y**2
        result[start : start + CHUNK] = _ratio(
            joint - mean_x[:, :, None] * mean_y[:, None, :], variance_x, variance_y
        )
    return result


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
    """Return Spearman correlations, by weighted mid-ranks; parameters and result as `pearson`."""
    first, second, w = _checked(x, y, weights)
    result = np.empty((len(w), first.shape[1], second.shape[1]))
    for start in range(0, len(w), CHUNK):
        part = w[start : start + CHUNK]
        share = (part / part.sum(axis=1, keepdims=True))[:, None, :]
        sides = []
        for columns in (first, second):
            ranks = np.stack([_mid_ranks(column, part) for column in columns.T], axis=1)
            sides.append(ranks - (share * ranks).sum(axis=2, keepdims=True))
        # Means are taken away before squaring, so a constant column gives a true 0 up to rounding.
        scale = (part.sum(axis=1) ** 2)[:, None]
        variance_x, variance_y = ((share * side**2).sum(axis=2) / scale for side in sides)
        joint = (share * sides[0]) @ sides[1].transpose(0, 2, 1) / scale[:, :, None]
        result[start : start + CHUNK] = _ratio(joint, variance_x, variance_y)
    return result


def kendall(x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
    """Return Kendall's tau-b, by signs of all pairs of models; parameters and result as `pearson`."""
    first, second, w = _checked(x, y, weights)
    i, j = np.triu_indices(len(first), k=1)
    # Sums of products of small counts are exact in single precision.
    whole = bool((w == np.rint(w)).all()) and float((w.sum(axis=1) ** 2).max(initial=0.0)) < 2**24
    kind: type[np.floating[Any]] = np.float32 if whole else np.float64
    sign_x: npt.NDArray[np.floating[Any]] = np.sign(first[i] - first[j]).astype(kind)
    sign_y: npt.NDArray[np.floating[Any]] = np.sign(second[i] - second[j]).astype(kind)
    products = (sign_x[:, :, None] * sign_y[:, None, :]).reshape(len(i), -1)
    result = np.empty((len(w), first.shape[1], second.shape[1]))
    exact: npt.NDArray[np.floating[Any]] = w.astype(kind)
    for start in range(0, len(w), CHUNK):
        part = exact[start : start + CHUNK]
        pairs = part[:, i] * part[:, j]
        joint = (pairs @ products).astype(np.float64).reshape(len(part), first.shape[1], -1)
        untied_x, untied_y = ((pairs @ np.abs(sign)).astype(np.float64) for sign in (sign_x, sign_y))
        result[start : start + CHUNK] = _ratio(joint, untied_x, untied_y)
    return result


def bootstrap_families(family: npt.ArrayLike, resamples: int, seed: int = 0) -> FloatArray:
    """Return weights (resample, model) that draw whole families with replacement."""
    _, member = np.unique(np.asarray(family), return_inverse=True)
    count = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return np.asarray(drawn[:, member], dtype=np.float64)


def without_each_family(family: npt.ArrayLike) -> FloatArray:
    """Return weights (family, model) that leave out one family each."""
    names, member = np.unique(np.asarray(family), return_inverse=True)
    return np.asarray(member[None, :] != np.arange(len(names))[:, None], dtype=np.float64)


def _checked(
    x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    first, second, w = (np.asarray(a, dtype=np.float64) for a in (x, y, weights))
    if first.ndim != 2 or second.ndim != 2 or w.ndim != 2 or not len(first) == len(second) == w.shape[1]:
        raise UsageError(f"columns {first.shape}, {second.shape} and weights {w.shape} do not fit together")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UsageError("correlations need finite values; leave out models without them")
    if np.any(w < 0) or np.any(w.sum(axis=1) <= 0):
        raise UsageError("weights must not be negative, nor all of them 0")
    return first, second, w


def _standard(columns: FloatArray) -> FloatArray:
    """Return columns with mean 0 and variance 1; a constant one becomes 0."""
    centred = columns - columns.mean(axis=0)
    scale = np.sqrt((centred**2).mean(axis=0))
    constant = np.ptp(columns, axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, scale))


def _mid_ranks(column: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the mid-rank of each model in each resample, up to a constant."""
    _, group = np.unique(column, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(sizes, axis=1) - sizes / 2)[:, group]


def _ratio(joint: FloatArray, variance_x: FloatArray, variance_y: FloatArray) -> FloatArray:
    """Return joint / sqrt(variance_x variance_y), NaN without variance."""
    x, y = (np.where(v > NO_VARIANCE, v, np.nan) for v in (variance_x, variance_y))
    return np.asarray(np.clip(joint / np.sqrt(x)[:, :, None] / np.sqrt(y)[:, None, :], -1, 1))
