"""The correlation of a measure with robustness inside each family of models, combined over the families."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import stats

from metaeval.analysis import literature, notions
from metaeval.analysis.correlation import FAMILIES_NEEDED
from metaeval.analysis.meta import RandomEffects
from metaeval.analysis.paired import holm
from metaeval.analysis.reading import given_confidence
from metaeval.errors import UsageError

# With fewer models Fisher's z of a correlation has no sampling variance.
MODELS_NEEDED = 4


@dataclass(frozen=True)
class Combined:
    """A random-effects meta-analysis of one correlation, a family of models being a study.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per family: `family`, `models`, `correlation` (Spearman) with `lower` and `upper`, `weight`
        (percent).
    average, lower, upper : float
        Correlation in the average family, with its interval over the choice of families.
    prediction : tuple of float
        Where the correlation in another family lies; NaN where not estimable.
    p : float
        Of an average of 0.
    left_out : tuple of str
        Families with too few models, or without differences between them.
    effects : RandomEffects
        The same on Fisher's z.
    """

    table: pd.DataFrame
    average: float
    lower: float
    upper: float
    prediction: tuple[float, float]
    p: float
    left_out: tuple[str, ...]
    effects: RandomEffects


def combine(x: npt.ArrayLike, y: npt.ArrayLike, family: npt.ArrayLike, confidence: float = 0.95) -> Combined:
    """Combine rank correlations inside families (Fisher's z, REML, Knapp and Hartung).

    Parameters
    ----------
    x, y : array_like (model,)
        NaN leaves the model out.
    family : array_like (model,)

    Raises
    ------
    UsageError
        If it is not estimable: fewer than 5 families with at least 4 models that differ in both, or a perfect
        correlation in one of them, which has no Fisher's z and must not be left out either.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = ~np.isnan(a) & ~np.isnan(b)
    group = np.asarray(family, dtype=object)
    names: list[str] = []
    sizes: list[int] = []
    r: list[float] = []
    left_out: list[str] = []
    for name in dict.fromkeys(group[known]):
        at = known & (group == name)
        if at.sum() < MODELS_NEEDED or np.ptp(a[at]) == 0 or np.ptp(b[at]) == 0:
            left_out.append(str(name))
            continue
        names.append(str(name))
        sizes.append(int(at.sum()))
        r.append(float(stats.spearmanr(a[at], b[at]).statistic))
    if len(names) < FAMILIES_NEEDED:
        raise UsageError(
            f"not estimable: {len(names)} families have {MODELS_NEEDED} models that differ; "
            f"{FAMILIES_NEEDED} are needed"
        )
    perfect = [name for name, value in zip(names, r, strict=True) if abs(value) > 1 - 1e-12]
    if perfect:
        raise UsageError(f"not estimable: the rank correlation in family {perfect[0]} is perfect")
    z, v = literature.fisher_z(r, sizes, rank=True)
    found = literature.correlations(r, sizes, rank=True, confidence=confidence)
    forest = literature.forest(z, v, found, names)
    table = pd.DataFrame(
        {
            "family": names,
            "models": sizes,
            "correlation": r,
            "lower": np.tanh(forest["lower"]),
            "upper": np.tanh(forest["upper"]),
            "weight": forest["weight"],
        }
    )
    average, lower, upper = (float(np.tanh(part[0])) for part in (found.estimate, found.lower, found.upper))
    low, high = np.tanh(found.prediction)
    prediction = float(low), float(high)
    return Combined(table, average, lower, upper, prediction, float(found.p[0]), tuple(left_out), found)


def from_cube(
    cube: xr.DataTree, notion: str, *, read: notions.Columns | None = None, confidence: float | None = None
) -> dict[str, Combined]:
    """Return, for each property and measure of a cube's models where it is estimable, what `combine` finds.

    Parameters
    ----------
    notion : str
        Of `notions.robustness`.
    read : Columns, optional
        Of this cube, if they are read already.
    """
    confidence = given_confidence(cube, confidence)
    read = notions.read_columns(cube) if read is None else read
    x, y = read.measures, read.robustness.sel(notion=notion)
    found = {}
    for name in notions.candidates(cube, read):
        try:
            found[name] = combine(x.sel(measure=name).values, y.values, read.family, confidence)
        except UsageError:
            continue
    return found


def adjusted(found: dict[str, Combined]) -> dict[str, float]:
    """Return each measure's p value after Holm over all of them."""
    p = holm([one.p for one in found.values()]) if found else np.empty(0)
    return dict(zip(found, p.tolist(), strict=True))
