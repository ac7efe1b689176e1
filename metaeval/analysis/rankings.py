"""All pairs of models over epsilon: rankings, where they change, which tables contradict each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis.crossings import certain_signs, changes
from metaeval.analysis.curves import checked, steps, thinned
from metaeval.analysis.differences import ENOUGH_DISCORDANT, survivors
from metaeval.analysis.paired import breaking_levels
from metaeval.analysis.reading import WORST_CASE, given_alpha, given_seed
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
DRAWS = 10_000


@dataclass(frozen=True)
class Change:
    """Two models that swap places.

    Attributes
    ----------
    first, second : int
        `first` is ahead before, `second` after.
    before, after : float
        The swap lies between these epsilons.
    certified : bool
        Whether both orders are certified; else they are only observed.
    """

    first: int
    second: int
    before: float
    after: float
    certified: bool


@dataclass(frozen=True)
class Rankings:
    """Every pair of models on the same samples at every epsilon, with one error rate for all of it.

    Attributes
    ----------
    epsilons : ndarray (level,)
    accuracy : ndarray (model, level)
    first, second : ndarray (pair,)
        Positions of the two models, first < second.
    difference, standard_error : ndarray (pair, level)
    sign : ndarray (pair, level)
        1 where `first` is certified better, -1 where `second` is, 0 where neither.
    critical : float
        Standard errors that a certified difference exceeds; NaN if no pair ever differs enough.
    samples : int
    alpha : float
        Chance of one or more false signs, and so of false crossings, among all pairs.
    """

    epsilons: FloatArray
    accuracy: FloatArray
    first: IntArray
    second: IntArray
    difference: FloatArray
    standard_error: FloatArray
    sign: npt.NDArray[np.int8]
    critical: float
    samples: int
    alpha: float

    @property
    def rank(self) -> IntArray:
        """Rank of each model at each epsilon, 1 the best; equal accuracies share the better rank."""
        return np.asarray(stats.rankdata(-self.accuracy, method="min", axis=0), dtype=np.int64)

    @property
    def count(self) -> IntArray:
        """Certified crossings of each pair."""
        return np.array([len(changes(self.epsilons, sign)) for sign in self.sign], dtype=np.int64)

    @property
    def naive_count(self) -> IntArray:
        """Observed sign changes of each pair."""
        observed = np.sign(self.difference)
        return np.array([len(changes(self.epsilons, sign)) for sign in observed], dtype=np.int64)

    @property
    def swaps(self) -> list[Change]:
        """Every change of order, certified ones first, each in the order of epsilon."""
        found = []
        for signs, certified in ((self.sign, True), (np.sign(self.difference), False)):
            part = []
            for pair, sign in enumerate(signs):
                names = int(self.first[pair]), int(self.second[pair])
                for before, after in changes(self.epsilons, sign):
                    ahead = sign[np.searchsorted(self.epsilons, before)] > 0
                    part.append(
                        Change(*(names if ahead else names[::-1]), float(before), float(after), certified)
                    )
            found += sorted(part, key=lambda change: (change.before, change.after))
        return found

    def contradictions(self, *, certified: bool = True) -> IntArray:
        """Return how many pairs the tables at two epsilons put in opposite orders, over (level, level)."""
        sign = (self.sign if certified else np.sign(self.difference)).astype(np.float64)
        better, worse = np.maximum(sign, 0), np.maximum(-sign, 0)
        opposite = better.T @ worse
        return np.asarray(np.rint(opposite + opposite.T), dtype=np.int64)


def compare(
    distance: npt.ArrayLike,
    alpha: float = 0.05,
    epsilons: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Rankings:
    """Compare all pairs of models at all epsilons, jointly over the choice of test samples.

    Parameters
    ----------
    distance : array_like (model, sample)
        0 = misclassified, inf = no adversarial found up to the last epsilon.
    alpha : float
        Chance of one or more false signs among all pairs, between 0 and 1.
    epsilons : array_like (level,), optional
        None beyond the largest that was attacked; default: steps of the curves, 32 of them at most.
    seed : int
        Of the simulated critical value.

    Raises
    ------
    UsageError
        If a distance is NaN or negative, there are fewer than two models, or alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha {alpha} is not between 0 and 1")
    given = np.asarray(distance)
    if given.ndim != 2 or len(given) < 2:
        raise UsageError("rankings need distances of at least two models over (model, sample)")
    d, e = checked(given, thinned(steps(*given), 32) if epsilons is None else epsilons)
    if not len(e):
        raise UsageError("rankings need at least one epsilon")
    e = np.unique(e)
    alive = survivors(d, e)  # (model, level, sample)
    n = d.shape[1]
    accuracy = alive.mean(axis=-1, dtype=np.float64)
    first, second = (index.astype(np.int64) for index in np.triu_indices(len(d), k=1))
    # Samples that both get right, by one product per level, give the discordant ones of every pair.
    both = np.stack([alive[:, level] @ alive[:, level].T for level in range(len(e))], axis=-1)
    right = np.rint(accuracy * n)
    discordant = np.rint(right[first] + right[second] - 2 * both[first, second])
    difference = accuracy[first] - accuracy[second]
    variance = discordant / n - difference**2
    error = np.sqrt(np.maximum(variance, 0) * n + 1) / n
    usable = discordant >= ENOUGH_DISCORDANT
    critical = _joint_critical(alive, accuracy, np.where(usable, variance, 0), usable, alpha, seed)
    sign = certain_signs(difference, error, usable, critical)
    return Rankings(e, accuracy, first, second, difference, error, sign, critical, n, alpha)


def _joint_critical(
    alive: npt.NDArray[np.float32],
    accuracy: FloatArray,
    variance: FloatArray,
    usable: npt.NDArray[np.bool_],
    alpha: float,
    seed: int,
) -> float:
    """Return the 1 - alpha quantile of the largest standardised error, in size, over all pairs and levels.

    Normal weights on the samples give every model's process with the covariances of the data; the pairs'
    are differences of those.
    """
    if not usable.any():
        return float("nan")
    models, levels, n = alive.shape
    random = np.random.default_rng(seed)
    process = np.zeros((DRAWS, models * levels), dtype=np.float32)
    for start in range(0, n, 1000):
        part = (alive[..., start : start + 1000] - accuracy[..., None]).astype(np.float32)
        weights = random.standard_normal((DRAWS, part.shape[-1]), dtype=np.float32)
        process += weights @ part.reshape(models * levels, -1).T
    process = process.reshape(DRAWS, models, levels)
    varied = variance > 1e-12
    scale = (1 / np.sqrt(np.where(varied, variance, 1) * n)).astype(np.float32)
    largest = np.zeros(DRAWS, dtype=np.float32)
    if (usable & ~varied).any():  # no error to simulate; one independent normal stands for all of these
        largest = np.abs(random.standard_normal(DRAWS, dtype=np.float32))
    position = 0
    for model in range(models - 1):
        block = slice(position, position + models - 1 - model)
        position = block.stop
        standard = np.abs(process[:, model, None] - process[:, model + 1 :]) * scale[block]
        standard[:, ~varied[block]] = 0
        np.maximum(largest, standard.max(axis=(1, 2)), out=largest)
    return float(np.quantile(largest, 1 - alpha))


def from_cube(
    cube: xr.DataTree,
    norm: str,
    attack: str = WORST_CASE,
    alpha: float | None = None,
    *,
    seed: int | None = None,
) -> xr.Dataset:
    """Return rankings and certified crossings of one norm of a cube at its evaluated epsilons.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `rank` (model, epsilon); `difference`, `standard_error`, `sign` (pair, epsilon); `first`,
        `second`, `count`, `naive_count` (pair); `contradictions` (epsilon, other_epsilon); `swap_first`,
        `swap_second`, `before`, `after`, `certified` (swap). Models without a complete column are left out
        and named in the attribute `missing`.

    Raises
    ------
    UsageError
        If fewer than two models are complete.
    """
    seed = given_seed(cube, seed)
    alpha = given_alpha(cube, alpha)
    distance = breaking_levels(cube, norm, attack)
    complete = ~np.isnan(distance.values).any(axis=1)
    names = np.array([str(name) for name in distance["model"].values], dtype=object)
    kept = names[complete]
    if len(kept) < 2:
        raise UsageError(f"rankings under {norm} need two complete models; there are {len(kept)}")
    epsilons = np.sort(cube.children[norm].coords["epsilon"].values.astype(np.float64))
    found = compare(distance.values[complete], alpha, epsilons, seed=seed)
    swaps = found.swaps
    return xr.Dataset(
        {
            "accuracy": (("model", "epsilon"), found.accuracy),
            "rank": (("model", "epsilon"), found.rank),
            "first": ("pair", kept[found.first]),
            "second": ("pair", kept[found.second]),
            "difference": (("pair", "epsilon"), found.difference),
            "standard_error": (("pair", "epsilon"), found.standard_error),
            "sign": (("pair", "epsilon"), found.sign),
            "count": ("pair", found.count),
            "naive_count": ("pair", found.naive_count),
            "contradictions": (("epsilon", "other_epsilon"), found.contradictions()),
            "swap_first": ("swap", np.array([kept[swap.first] for swap in swaps], dtype=object)),
            "swap_second": ("swap", np.array([kept[swap.second] for swap in swaps], dtype=object)),
            "before": ("swap", np.array([swap.before for swap in swaps], dtype=np.float64)),
            "after": ("swap", np.array([swap.after for swap in swaps], dtype=np.float64)),
            "certified": ("swap", np.array([swap.certified for swap in swaps], dtype=bool)),
        },
        {"model": kept, "epsilon": epsilons, "other_epsilon": epsilons},
        {
            "method": "paired differences, joint simultaneous band over all pairs and epsilons",
            "samples": found.samples,
            "alpha": alpha,
            "critical": found.critical,
            "covers": "choice of test samples; models and attack strength fixed",
            "overturned": distance.attrs["overturned"],
            "missing": [str(name) for name in names[~complete]],
            "sentences": sentences(found, [str(name) for name in kept]),
        },
    )


def sentences(found: Rankings, names: list[str]) -> list[str]:
    """Return in words which pairs certainly change places, and how many only seem to."""
    low, high = found.epsilons[0], found.epsilons[-1]
    band = f"all pairs together at {100 * (1 - found.alpha):.3g} %, n = {found.samples}, paired"
    certain = [swap for swap in found.swaps if swap.certified]
    words = [
        f"{names[swap.first]} is ahead of {names[swap.second]} at {swap.before:.3g} and behind it at "
        f"{swap.after:.3g} ({band})."
        for swap in certain
    ]
    if not certain:
        words.append(f"No change of order is certified on [{low:.3g}, {high:.3g}] ({band}).")
    observed = int(found.naive_count.sum())
    if observed > len(certain):
        words.append(f"Of {observed} observed changes of order, {len(certain)} are certified.")
    return words
