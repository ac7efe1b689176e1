"""Does a measure follow robustness when hyper-parameters change? Three answers from the literature."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Ends = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class Granulated:
    """Kendall's tau inside slices in which one hyper-parameter changes (Jiang et al. 2020).

    Attributes
    ----------
    psi : dict of str to float
        Mean tau over the slices of each hyper-parameter; NaN without a usable slice.
    slices : dict of str to int
        Slices with two models at least.
    mean : float
        Psi, the mean of `psi` over hyper-parameters with slices.
    """

    psi: dict[str, float]
    slices: dict[str, int]
    mean: float


def order(measure: FloatArray, first: IntArray, second: IntArray, ends: Ends | None = None) -> FloatArray:
    """Return 1, -1 or 0 (a tie) for the first model of each pair above, below or level with the second.

    Parameters
    ----------
    ends : tuple of ndarray (model,), optional
        Lower and upper end of each model's interval: two that overlap are a tie. A model without either end
        is a point; a single end that is missing is infinitely far.
    """
    sign = np.sign(measure[first] - measure[second])
    if ends is None:
        return sign
    point = np.isnan(ends[0]) & np.isnan(ends[1])
    low = np.where(point, measure, np.nan_to_num(ends[0], nan=-np.inf))
    high = np.where(point, measure, np.nan_to_num(ends[1], nan=np.inf))
    apart = (low[first] >= high[second]) | (low[second] >= high[first])
    return np.where(apart, sign, 0.0)


def granulated(
    measure: npt.ArrayLike,
    robustness: npt.ArrayLike,
    hyperparameters: Mapping[str, npt.ArrayLike],
    *,
    ends: Ends | None = None,
) -> Granulated:
    """Return the granulated Kendall coefficients of a measure.

    Parameters
    ----------
    measure, robustness : array_like (model,)
        Finite.
    hyperparameters : mapping of str to array_like (model,)
        Values of any kind.
    ends : tuple of ndarray, optional
        As in `order`.
    """
    x, y, codes = _checked(measure, robustness, hyperparameters)
    psi, slices = {}, {}
    for axis, name in enumerate(hyperparameters):
        rest = _codes_of(np.delete(codes, axis, axis=1))
        taus = []
        for value in np.unique(rest):
            members = np.flatnonzero(rest == value)
            first, second = (members[i] for i in np.triu_indices(len(members), k=1))
            changed = codes[first, axis] != codes[second, axis]
            if changed.any():
                signs = order(x, first, second, ends) * np.sign(y[first] - y[second])
                taus.append(float(signs[changed].mean()))
        slices[name] = len(taus)
        psi[name] = float(np.mean(taus)) if taus else float("nan")
    known = [value for value in psi.values() if not np.isnan(value)]
    return Granulated(psi, slices, float(np.mean(known)) if known else float("nan"))


@dataclass(frozen=True)
class ConditionalInformation:
    """What the sign of a measure's difference tells of the sign of robustness, given hyper-parameters.

    Attributes
    ----------
    value : float
        Least normalised information over all sets of at most two hyper-parameters, at most 1; what chance
        gives is taken away, so that no information is 0 on average. NaN if robustness never differs.
    given : tuple of str
        The set that attains it.
    raw : float
        The same before chance is taken away.
    """

    value: float
    given: tuple[str, ...]
    raw: float


def conditional_information(
    measure: npt.ArrayLike,
    robustness: npt.ArrayLike,
    hyperparameters: Mapping[str, npt.ArrayLike],
    *,
    permutations: int = 50,
    seed: int = 0,
    ends: Ends | None = None,
) -> ConditionalInformation:
    """Return the normalised conditional mutual information of a measure (Jiang et al. 2020).

    Parameters
    ----------
    measure, robustness : array_like (model,)
    hyperparameters : mapping of str to array_like (model,)
    permutations : int
        Of the measure over models; their mean information is taken away.
    ends : tuple of ndarray, optional
        As in `order`.
    """
    x, y, codes = _checked(measure, robustness, hyperparameters)
    names = list(hyperparameters)
    random = np.random.default_rng(seed)
    first, second = np.nonzero(~np.eye(len(x), dtype=bool))
    sign_y = (np.sign(y[first] - y[second]) + 1).astype(np.int64)
    shuffled = [np.arange(len(x)), *(random.permutation(len(x)) for _ in range(permutations))]
    signs_x = [(order(x, rows[first], rows[second], ends) + 1).astype(np.int64) for rows in shuffled]
    best = ConditionalInformation(float("nan"), (), float("nan"))
    for size in range(min(2, len(names)) + 1):
        for chosen in itertools.combinations(range(len(names)), size):
            own = _codes_of(codes[:, list(chosen)])
            condition = own[first] * (int(own.max()) + 1) + own[second]
            entropy, information = _information(signs_x, sign_y, condition)
            if entropy < 1e-12:
                continue
            value = float(information[0] - information[1:].mean()) / entropy
            if not best.value <= value:
                given = tuple(names[i] for i in chosen)
                best = ConditionalInformation(value, given, float(information[0]) / entropy)
    return best


def _information(signs_x: list[IntArray], sign_y: IntArray, condition: IntArray) -> tuple[float, FloatArray]:
    """Return H(Y | U) and I(X; Y | U) for each X, in nats."""
    groups = int(condition.max()) + 1
    table_y = np.bincount(condition * 3 + sign_y, minlength=3 * groups).reshape(groups, 3)
    entropy = _entropy(table_y)
    found = []
    for sign_x in signs_x:
        joint = np.bincount(condition * 9 + sign_x * 3 + sign_y, minlength=9 * groups).reshape(groups, 9)
        table_x = joint.reshape(groups, 3, 3).sum(axis=2)
        found.append(_entropy(table_x) + entropy - _entropy(joint))
    return entropy, np.array(found)


def _entropy(table: IntArray) -> float:
    """Return the mean entropy inside the rows of a table of counts, each row weighed by its count."""
    total = table.sum(axis=1, keepdims=True)
    share = table / np.maximum(total, 1)
    logarithm = np.log(np.where(share > 0, share, 1))
    return float(-(total * share * logarithm).sum() / table.sum())


@dataclass(frozen=True)
class SignError:
    """How often a measure misorders two models that differ in one hyper-parameter (Dziugaite et al. 2020).

    Attributes
    ----------
    environments : list of (str, object, object)
        Hyper-parameter and its two values, of those with any weight.
    error : ndarray (environment,)
        Weighted share of wrongly ordered pairs, in [0, 1]; a tie counts half.
    weight : ndarray (environment,)
        Pairs whose order of robustness is certain, counted by their certainty.
    """

    environments: list[tuple[str, object, object]]
    error: FloatArray
    weight: FloatArray

    @property
    def robust(self) -> float:
        """Error in the worst environment; NaN without any."""
        return float(self.error.max()) if len(self.error) else float("nan")

    @property
    def ninetieth(self) -> float:
        """90th percentile of the error over environments."""
        return float(np.quantile(self.error, 0.9)) if len(self.error) else float("nan")

    @property
    def mean(self) -> float:
        """Mean error over environments."""
        return float(self.error.mean()) if len(self.error) else float("nan")


def sign_error(
    measure: npt.ArrayLike,
    robustness: npt.ArrayLike,
    hyperparameters: Mapping[str, npt.ArrayLike],
    samples: int,
    *,
    ends: Ends | None = None,
) -> SignError:
    """Return the sign error of a measure over environments.

    Parameters
    ----------
    measure : array_like (model,)
        Oriented so that higher should mean more robust.
    robustness : array_like (model,)
        Accuracies in [0, 1] on `samples` test samples.
    hyperparameters : mapping of str to array_like (model,)
    samples : int
    ends : tuple of ndarray, optional
        As in `order`, of the measure so oriented.

    Notes
    -----
    By Hoeffding's inequality an accuracy is off by half the observed difference with a chance of at most
    2 exp(-n difference^2 / 2); a pair weighs (1 - that)^2, the chance that both are within, or 0.
    """
    x, y, codes = _checked(measure, robustness, hyperparameters)
    if samples < 1 or np.any((y < 0) | (y > 1)):
        raise UsageError("the sign error needs accuracies between 0 and 1 and their number of samples")
    environments: list[tuple[str, object, object]] = []
    errors, weights = [], []
    for axis, name in enumerate(hyperparameters):
        rest = _codes_of(np.delete(codes, axis, axis=1))
        values = np.unique(np.asarray(hyperparameters[name]))
        for low, high in itertools.combinations(range(len(values)), 2):
            one, two = np.flatnonzero(codes[:, axis] == low), np.flatnonzero(codes[:, axis] == high)
            first, second = (side.ravel() for side in np.meshgrid(one, two, indexing="ij"))
            alike = rest[first] == rest[second]
            first, second = first[alike], second[alike]
            change = y[first] - y[second]
            weight = np.maximum(0, 1 - 2 * np.exp(-samples * change**2 / 2)) ** 2
            if weight.sum() > 0:
                wrong = (1 - order(x, first, second, ends) * np.sign(change)) / 2
                environments.append((name, values[low].item(), values[high].item()))
                errors.append(float(weight @ wrong / weight.sum()))
                weights.append(float(weight.sum()))
    return SignError(environments, np.array(errors), np.array(weights))


def _checked(
    measure: npt.ArrayLike, robustness: npt.ArrayLike, hyperparameters: Mapping[str, npt.ArrayLike]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return values and hyper-parameters as codes (model, hyper-parameter)."""
    x, y = np.asarray(measure, dtype=np.float64), np.asarray(robustness, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise UsageError(f"measure and robustness need one value per model, not {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UsageError("measure and robustness must be finite; leave out models without them")
    columns = []
    for name, values in hyperparameters.items():
        if np.asarray(values).shape != x.shape:
            raise UsageError(f"hyper-parameter {name!r} needs one value for each of {len(x)} models")
        columns.append(np.unique(np.asarray(values), return_inverse=True)[1])
    return x, y, np.array(columns, dtype=np.int64).reshape(len(columns), len(x)).T


def _codes_of(columns: IntArray) -> IntArray:
    """Return one code per distinct row; without columns all rows are alike."""
    if columns.shape[1] == 0:
        return np.zeros(len(columns), dtype=np.int64)
    return np.asarray(np.unique(columns, axis=0, return_inverse=True)[1], dtype=np.int64).ravel()
