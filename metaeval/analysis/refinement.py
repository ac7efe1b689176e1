"""Where another epsilon tells most about a crossing, and where none is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from metaeval.analysis import rankings
from metaeval.analysis.crossings import certain_signs, certified, changes
from metaeval.analysis.curves import pair_levels
from metaeval.analysis.differences import critical_value, of_samples, survivors
from metaeval.analysis.paired import breaking_levels
from metaeval.analysis.reading import WORST_CASE, given_alpha, given_seed
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
Reason = Literal["refine", "tolerance", "samples", "none"]


@dataclass(frozen=True)
class Proposal:
    """The next epsilon to attack, or why there is none.

    Attributes
    ----------
    epsilon : float
        NaN unless `reason` is "refine".
    reason : {"refine", "tolerance", "samples", "none"}
        "tolerance": every bracket is resolved; "samples": where it is not, more samples are needed, not more
        epsilons; "none": no crossing is certified.
    cell : tuple of float
        The cell that the epsilon divides; empty unless `reason` is "refine".
    """

    epsilon: float
    reason: Reason
    cell: tuple[float, ...] = ()


def propose(
    distance_a: npt.ArrayLike,
    distance_b: npt.ArrayLike,
    epsilons: npt.ArrayLike,
    tolerance: float,
    alpha: float = 0.05,
    *,
    seed: int = 0,
) -> Proposal:
    """Propose the epsilon that narrows the certified brackets of two models most.

    Parameters
    ----------
    distance_a, distance_b : array_like (sample,)
        As far as they are known: smallest evaluated epsilon that breaks the sample will do.
    epsilons : array_like (level,)
        Those evaluated so far.
    tolerance : float
        Positive; cells of at most this width are left alone.
    alpha, seed
        As in `crossings.certified`.
    """
    _check(tolerance)
    a, b, e = pair_levels(distance_a, distance_b, epsilons)
    found = certified(a, b, alpha, e, seed=seed)
    accuracy = survivors(np.stack([a, b]), e).mean(axis=-1, dtype=np.float64)
    leads = _Leads(e, accuracy, found.difference, found.standard_error, found.sign, found.critical)
    return _proposal(leads, tolerance)


def _check(tolerance: float) -> None:
    if not tolerance > 0:
        raise UsageError(f"tolerance {tolerance} is not positive")


class _Leads(NamedTuple):
    """Two models over the evaluated epsilons: accuracies (2, level), who certainly leads, and how surely."""

    epsilons: FloatArray
    accuracy: FloatArray
    difference: FloatArray
    standard_error: FloatArray
    sign: npt.NDArray[np.int8]
    critical: float


def _proposal(found: _Leads, tolerance: float) -> Proposal:
    e, accuracy = found.epsilons, found.accuracy
    edges = _edges(e, found.sign)
    if not edges:
        return Proposal(float("nan"), "none")
    wide = [cell for cell in edges if abs(e[cell[1]] - e[cell[0]]) > tolerance]
    if not wide:
        return Proposal(float("nan"), "tolerance")
    # What the difference can still change by inside a cell, against what the samples can tell.
    open_cells = [
        (edge, other)
        for edge, other in wide
        if np.abs(accuracy[:, edge] - accuracy[:, other]).sum()
        >= found.critical * found.standard_error[edge] / 2
    ]
    if not open_cells:
        return Proposal(float("nan"), "samples")
    edge, other = max(open_cells, key=lambda cell: abs(e[cell[1]] - e[cell[0]]))
    excess = found.sign[edge] * found.difference - found.critical * found.standard_error
    share = np.clip(excess[edge] / (excess[edge] - excess[other]), 0.25, 0.75)
    low, high = sorted((float(e[edge]), float(e[other])))
    return Proposal(float(e[edge] + share * (e[other] - e[edge])), "refine", (low, high))


def _edges(epsilons: FloatArray, sign: npt.NDArray[np.int8]) -> list[tuple[int, int]]:
    """Return (certified level, its neighbour inside the bracket) for both edges of each bracket."""
    cells = []
    for before, after in changes(epsilons, sign):
        first, last = (int(np.searchsorted(epsilons, end)) for end in (before, after))
        cells += [(first, first + 1), (last, last - 1)]
    return cells


def decided_cells(
    distance_a: npt.ArrayLike,
    distance_b: npt.ArrayLike,
    epsilons: npt.ArrayLike,
    alpha: float = 0.05,
    *,
    seed: int = 0,
) -> npt.NDArray[np.int8]:
    """Return who certainly leads everywhere between neighbouring epsilons: 1, -1, or 0 for neither.

    Notes
    -----
    Curves only fall, so in a cell [e1, e2] the difference lies between R_A(e2) - R_B(e1) and
    R_A(e1) - R_B(e2), also at epsilons that nobody evaluated. A cell is decided where one of the two has a
    certain sign; all bounds of all cells hold together with chance 1 - alpha.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha {alpha} is not between 0 and 1")
    a, b, e = pair_levels(distance_a, distance_b, epsilons)
    if len(e) < 2:
        return np.zeros(0, dtype=np.int8)
    alive_a, alive_b = survivors(a, e), survivors(b, e)
    bounds = of_samples(np.concatenate([alive_a[1:] - alive_b[:-1], alive_a[:-1] - alive_b[1:]]))
    critical = critical_value(bounds, alpha, seed=seed)
    sign = certain_signs(bounds.difference, bounds.standard_error, bounds.usable, critical)
    least, most = sign[: len(e) - 1], sign[len(e) - 1 :]
    return np.where(least > 0, 1, np.where(most < 0, -1, 0)).astype(np.int8)


def from_cube(
    cube: xr.DataTree,
    norm: str,
    tolerance: float,
    attack: str = WORST_CASE,
    alpha: float | None = None,
    *,
    seed: int | None = None,
) -> pd.DataFrame:
    """Return the proposals for every pair of complete models of one norm, the widest cell first.

    Returns
    -------
    pandas.DataFrame
        `first`, `second` (names), `epsilon`, `reason`, `low`, `high` (the cell) for each pair; certified
        are the crossings that `rankings.from_cube` certifies, all pairs together.
    """
    _check(tolerance)
    seed = given_seed(cube, seed)
    alpha = given_alpha(cube, alpha)
    levels = breaking_levels(cube, norm, attack)
    epsilons = np.sort(cube.children[norm].coords["epsilon"].values.astype(np.float64))
    complete = ~np.isnan(levels.values).any(axis=1)
    names = [str(name) for name in levels["model"].values[complete]]
    rows = []
    if len(names) > 1:
        found = rankings.compare(levels.values[complete], alpha, epsilons, seed=seed)
        for pair, (first, second) in enumerate(zip(found.first, found.second, strict=True)):
            leads = _Leads(
                found.epsilons,
                found.accuracy[[first, second]],
                found.difference[pair],
                found.standard_error[pair],
                found.sign[pair],
                found.critical,
            )
            proposal = _proposal(leads, tolerance)
            low, high = proposal.cell or (np.nan, np.nan)
            rows.append((names[first], names[second], proposal.epsilon, proposal.reason, low, high))
    frame = pd.DataFrame(rows, columns=["first", "second", "epsilon", "reason", "low", "high"])
    width = (frame["high"] - frame["low"]).fillna(-1)
    return frame.loc[width.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
