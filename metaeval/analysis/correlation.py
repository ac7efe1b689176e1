"""Correlation of measures of models with notions of robustness, when models come in families."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis import resampling
from metaeval.analysis.bands import check_confidence
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
# Fewer families say nothing of a population of families.
FAMILIES_NEEDED = 5
# Below this the ranking of models by a value is mostly noise.
RELIABLE = 0.7


def correlations(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    family: npt.ArrayLike | None = None,
    control: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Return how measures and robustness notions go together over models.

    Parameters
    ----------
    x : array_like (model, measure)
    y : array_like (model, notion)
        NaN leaves the model out of the pairs it concerns.
    family : array_like (model,), optional
        What models share that makes them alike; default: every model is a family of its own.
    control : array_like (model,), optional
        What gaps and drops are coupled with by construction: clean accuracy.
    confidence : float

    Returns
    -------
    xarray.Dataset (measure, notion)
        `spearman` with `lower` and `upper` over the choice of families (delete-one-family jackknife on
        Fisher's z with Student's t; NaN below 5 families), `lowest` and `highest` leaving out one family;
        `kendall` (tau-b), `pearson`; `within`, the rank correlation inside families, with `within_lower`,
        `within_upper` over models; `icc_x`, `icc_y`, the intra-class correlation of the ranks; `models`,
        `families`; with a control `partial`, `partial_lower`, `partial_upper`: rank correlation given it.
        NaN is not estimable.

    Raises
    ------
    UsageError
        If shapes do not fit together or a value is infinite.
    """
    check_confidence(confidence)
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise UsageError(
            f"correlations need (model, measure) and (model, notion), not {a.shape} and {b.shape}"
        )
    group = np.arange(len(a)) if family is None else np.asarray(family)
    given = np.full(len(a), 0.0) if control is None else np.asarray(control, dtype=np.float64)
    if group.shape != (len(a),) or given.shape != (len(a),):
        raise UsageError(f"family and control need one value for each of {len(a)} models")
    if np.isinf(a).any() or np.isinf(b).any() or np.isinf(given).any():
        raise UsageError("correlations need finite values or NaN")
    names = _NAMES if control is None else (*_NAMES, "partial", "partial_lower", "partial_upper")
    result = {name: np.full((a.shape[1], b.shape[1]), np.nan) for name in names}
    # What has no two models has no block, but may have one.
    known = ~np.isnan(a) & ~np.isnan(given)[:, None]
    result["models"] = known.T.astype(np.float64) @ ~np.isnan(b)
    result["families"] = np.minimum(result["models"], 1)
    for rows, columns_x, columns_y in _complete_blocks(a, b, ~np.isnan(given)):
        block = _block(a[rows][:, columns_x], b[rows][:, columns_y], group[rows], given[rows], confidence)
        for name in result:
            result[name][np.ix_(columns_x, columns_y)] = block[name]
    return xr.Dataset(
        {name: (("measure", "notion"), values) for name, values in result.items()},
        attrs={
            "method": "Spearman; delete-one-family jackknife on Fisher's z",
            "confidence": confidence,
            "covers": "choice of families of models; test samples and attack strength fixed",
        },
    )


_NAMES = (
    *("spearman", "lower", "upper", "lowest", "highest", "kendall", "pearson"),
    *("within", "within_lower", "within_upper", "icc_x", "icc_y"),
)


def _complete_blocks(
    a: FloatArray, b: FloatArray, known: npt.NDArray[np.bool_]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return (rows, columns of a, columns of b) such that every pair has its complete rows."""
    patterns_a, which_a = np.unique(~np.isnan(a), axis=1, return_inverse=True)
    patterns_b, which_b = np.unique(~np.isnan(b), axis=1, return_inverse=True)
    blocks = []
    for i in range(patterns_a.shape[1]):
        for j in range(patterns_b.shape[1]):
            rows = np.flatnonzero(patterns_a[:, i] & patterns_b[:, j] & known)
            if len(rows) >= 2:
                columns = np.flatnonzero(which_a.ravel() == i), np.flatnonzero(which_b.ravel() == j)
                blocks.append((rows, *columns))
    return blocks


def _block(
    x: FloatArray, y: FloatArray, family: npt.NDArray[Any], control: FloatArray, confidence: float
) -> dict[str, Any]:
    """Return everything of `correlations` for columns without missing values."""
    n = len(x)
    _, member = np.unique(family, return_inverse=True)
    families = int(member.max()) + 1
    weights = np.ones((1, n))
    if families >= 2:
        weights = np.vstack([weights, resampling.without_each_family(member)])
    given = control[:, None]
    total = resampling.spearman(x, y, weights)
    with_x = resampling.spearman(x, given, weights)
    with_y = resampling.spearman(given, y, weights)
    partial = partial_correlation(total, with_x, with_y)
    lower, upper = jackknife(total[0], total[1:], confidence)
    partial_lower, partial_upper = jackknife(partial[0], partial[1:], confidence)
    ranks_x, ranks_y = stats.rankdata(x, axis=0), stats.rankdata(y, axis=0)
    within, within_lower, within_upper = _within(ranks_x, ranks_y, member, confidence)
    left_out = total[1:] if families >= 2 else np.full_like(total, np.nan)
    return {
        "spearman": total[0],
        "lower": lower,
        "upper": upper,
        "lowest": left_out.min(axis=0),
        "highest": left_out.max(axis=0),
        "kendall": resampling.kendall(x, y, weights[:1])[0],
        "pearson": resampling.pearson(x, y, weights[:1])[0],
        "within": within,
        "within_lower": within_lower,
        "within_upper": within_upper,
        "icc_x": intraclass(ranks_x, member)[:, None],
        "icc_y": intraclass(ranks_y, member)[None, :],
        "partial": partial[0],
        "partial_lower": partial_lower,
        "partial_upper": partial_upper,
        "models": n,
        "families": families,
    }


def partial_correlation(xy: FloatArray, xc: FloatArray, yc: FloatArray) -> FloatArray:
    """Return the correlation of x and y given c; NaN where c determines x or y."""
    rest = (1 - xc**2) * (1 - yc**2)
    free = rest > 1e-12
    return np.asarray(np.where(free, (xy - xc * yc) / np.sqrt(np.where(free, rest, 1)), np.nan))


def jackknife(whole: FloatArray, left_out: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Return an interval of correlations over the choice of families.

    Parameters
    ----------
    whole : ndarray (...)
    left_out : ndarray (family, ...)
        The same without one family each.

    Returns
    -------
    lower, upper : ndarray (...)
        NaN below 5 families, or where a correlation is 1, -1 or NaN.
    """
    count = len(left_out)
    nothing = np.full(whole.shape, np.nan)
    if count < FAMILIES_NEEDED:
        return nothing, nothing.copy()
    edge = (np.abs(left_out) >= 1 - 1e-12).any(axis=0) | (np.abs(whole) >= 1 - 1e-12)
    z = np.arctanh(np.where(edge, np.nan, left_out))
    centre = np.arctanh(np.where(edge, np.nan, whole))
    error = np.sqrt((count - 1) / count * ((z - z.mean(axis=0)) ** 2).sum(axis=0))
    half = stats.t.isf((1 - confidence) / 2, count - 1) * error
    return np.tanh(centre - half), np.tanh(centre + half)


def _within(
    ranks_x: FloatArray, ranks_y: FloatArray, member: npt.NDArray[np.int64], confidence: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the correlation of ranks without their family means, with Fisher's interval."""
    count = np.bincount(member)
    one_family = np.ones((1, len(member)))
    centred = []
    for ranks in (ranks_x, ranks_y):
        means = np.stack([np.bincount(member, column) / count for column in ranks.T], axis=1)
        rest = ranks - means[member]
        centred.append(np.where(np.abs(rest) < 1e-9, 0.0, rest))
    r = resampling.pearson(centred[0], centred[1], one_family)[0]
    freedom = len(member) - len(count) - 2
    if len(member) == len(count) or freedom < 1:
        interval = np.full(r.shape, np.nan)
        return (r if len(member) > len(count) else interval), interval, interval.copy()
    half = stats.norm.isf((1 - confidence) / 2) / np.sqrt(freedom)
    z = np.arctanh(np.where(np.abs(r) < 1 - 1e-12, r, np.nan))
    return r, np.tanh(z - half), np.tanh(z + half)


def intraclass(values: npt.ArrayLike, member: npt.NDArray[np.int64]) -> FloatArray:
    """Return the one-way intra-class correlation of columns (model, column); NaN for families of one."""
    v = np.asarray(values, dtype=np.float64)
    count = np.bincount(member).astype(np.float64)
    groups, n = len(count), len(member)
    if groups < 2 or n == groups:
        return np.full(v.shape[1], np.nan)
    means = np.stack([np.bincount(member, column) / count for column in v.T], axis=1)
    between = (count[:, None] * (means - v.mean(axis=0)) ** 2).sum(axis=0) / (groups - 1)
    inside = ((v - means[member]) ** 2).sum(axis=0) / (n - groups)
    size = (n - (count**2).sum() / n) / (groups - 1)
    whole = between + (size - 1) * inside
    return np.asarray(np.where(whole > 0, (between - inside) / np.where(whole > 0, whole, 1), np.nan))


def weakest(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    family: npt.ArrayLike | None = None,
    control: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Return for each measure its weakest (partial) rank correlation over all notions: does it hold for all?

    Parameters
    ----------
    x, y, family, control
        As in `correlations`.

    Returns
    -------
    xarray.Dataset (measure)
        `orientation`: 1 or -1, the sign of the mean correlation; `weakest` = the least of orientation times
        correlation, with `lower` and `upper`; `notion`: its position. All pairs' intervals hold together
        (Bonferroni); `holds` where `lower` is above 0. NaN (and notion -1) where a pair is not estimable.
    """
    columns = np.asarray(x).shape[1] * np.asarray(y).shape[1]
    found = correlations(x, y, family, control, 1 - (1 - confidence) / max(columns, 1))
    prefix = "spearman" if control is None else "partial"
    ends = ("lower", "upper") if control is None else ("partial_lower", "partial_upper")
    r, low, high = found[prefix].values, found[ends[0]].values, found[ends[1]].values
    complete = ~np.isnan(r).any(axis=1)
    orientation = np.where(np.nan_to_num(r).sum(axis=1) < 0, -1.0, 1.0)
    oriented = orientation[:, None] * r
    place = np.where(complete, np.argmin(np.where(np.isnan(oriented), np.inf, oriented), axis=1), -1)
    rows = np.arange(len(r))
    first = np.where(orientation[:, None] > 0, low, -high)
    last = np.where(orientation[:, None] > 0, high, -low)
    # The weakest of all is at least the least lower end and at most the least upper end.
    lower = np.where(complete, first.min(axis=1), np.nan)
    upper = np.where(complete, last.min(axis=1), np.nan)
    return xr.Dataset(
        {
            "orientation": ("measure", orientation),
            "weakest": ("measure", np.where(complete, oriented[rows, place], np.nan)),
            "lower": ("measure", lower),
            "upper": ("measure", upper),
            "notion": ("measure", place),
            "holds": ("measure", lower > 0),
        },
        attrs={**found.attrs, "confidence": confidence, "method": f"{found.attrs['method']}; Bonferroni"},
    )


def largest_by_chance(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    blocks: npt.ArrayLike | None = None,
    family: npt.ArrayLike | None = None,
    *,
    permutations: int = 2_000,
    seed: int = 0,
) -> FloatArray:
    """Return simultaneous p values of all rank correlations from the largest one under permutation.

    Parameters
    ----------
    x, y : array_like (model, measure), (model, notion)
        Finite.
    blocks : array_like (model,), optional
        Models are exchanged only with models of the same block; default: with all.
    family : array_like (model,), optional
        What models share that makes them alike: models change places inside their family, and families of one
        size as wholes; default: every model is a family of its own.

    Returns
    -------
    ndarray (measure, notion)
        Chance that any pair is as large as this one if the rows of y belong to no model in particular.

    References
    ----------
    Westfall and Young, Resampling-based multiple testing, 1993; Winkler et al., Multi-level block
    permutation, 2015.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    one = np.ones((1, len(a)))
    observed = np.abs(resampling.spearman(a, b, one)[0])
    ranks = [stats.rankdata(side, axis=0) for side in (a, b)]
    sides = []
    for rank in ranks:
        centred = rank - rank.mean(axis=0)
        length = np.sqrt((centred**2).sum(axis=0))
        sides.append(np.where(length > 0, centred / np.where(length > 0, length, 1), 0.0))
    exchangeable = _exchangeable(len(a), blocks, family)
    random = np.random.default_rng(seed)
    exceeding = np.zeros(observed.shape)
    order = np.empty(len(a), dtype=np.int64)
    for _ in range(permutations):
        for members in exchangeable:
            order[members] = random.permuted(members[random.permutation(len(members))], axis=1)
        exceeding += np.abs(sides[0].T @ sides[1][order]).max() >= observed - 1e-12
    return np.where(np.isnan(observed), np.nan, (1 + exceeding) / (1 + permutations))


def _exchangeable(
    models: int, blocks: npt.ArrayLike | None, family: npt.ArrayLike | None
) -> list[npt.NDArray[np.int64]]:
    """Return positions of models (family, member): families of one block and one size together."""
    group = np.zeros(models) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1]
    own = np.arange(models) if family is None else np.unique(np.asarray(family), return_inverse=True)[1]
    if group.shape != (models,) or own.shape != (models,):
        raise UsageError(f"blocks and family need one value for each of {models} models")
    _, member = np.unique(np.stack([group, own]), axis=1, return_inverse=True)
    families = [np.flatnonzero(member == code) for code in range(int(member.max()) + 1)]
    alike: dict[tuple[int, int], list[npt.NDArray[np.int64]]] = {}
    for rows in families:
        alike.setdefault((int(group[rows[0]]), len(rows)), []).append(rows)
    return [np.stack(rows) for rows in alike.values()]


def benjamini_hochberg(p_values: npt.ArrayLike) -> FloatArray:
    """Return p values adjusted so that the expected share of false claims stays below the level (1995)."""
    p = np.asarray(p_values, dtype=np.float64).ravel()
    return np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64)


def reliability(values: npt.ArrayLike, standard_error: npt.ArrayLike) -> float:
    """Return the share of the variance between models that is not sampling noise; below .7 do not rank.

    Parameters
    ----------
    values, standard_error : array_like (model,)

    Returns
    -------
    float
        1 - mean sampling variance / observed variance; negative where noise alone would vary more, NaN
        for fewer than two models or equal values. Errors are taken as independent: of models that share
        their samples it is a lower estimate, since shared errors do not reorder them.
    """
    v, e = np.asarray(values, dtype=np.float64), np.asarray(standard_error, dtype=np.float64)
    if v.shape != e.shape or v.ndim != 1:
        raise UsageError(f"values and standard errors need one number per model, not {v.shape}, {e.shape}")
    if len(v) < 2 or np.ptp(v) == 0:
        return float("nan")
    return float(1 - np.mean(e**2) / v.var(ddof=1))


def sentence(found: xr.Dataset, measure: str, notion: str, confidence: float | None = None) -> str:
    """Return one pair (a Dataset reduced to scalars) in words."""
    level = 100 * float(found.attrs["confidence"] if confidence is None else confidence)
    rho, low, high = (float(found[name]) for name in ("spearman", "lower", "upper"))
    count = f"{int(found['models'])} entries, {int(found['families'])} families"
    if np.isnan(rho):
        return f"Rank correlation of {measure} with {notion} not estimable ({count})."
    interval = "no interval: too few families or a perfect correlation"
    if not np.isnan(low):
        interval = f"{level:.3g} % family jackknife {low:.2f} to {high:.2f}"
    return f"Rank correlation of {measure} with {notion}: rho = {rho:.2f} ({interval}; {count})."
