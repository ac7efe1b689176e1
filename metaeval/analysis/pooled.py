"""Meta-analysis of one rank correlation over cubes, as of several data sets (over families: families.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

from metaeval.analysis import correlation, literature, meta, notions
from metaeval.errors import UsageError, unknown_name

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Study:
    """Fisher's z of a correlation, its sampling variance, and the models and families behind it."""

    z: float
    variance: float
    models: int
    families: int


def over_cubes(
    cubes: Mapping[str, xr.DataTree], measure: str, notion: str, confidence: float = 0.95
) -> xr.Dataset:
    """Return a measure's rank correlation with a notion in each cube, and their average.

    A cube's sampling variance is that of the family jackknife.

    Parameters
    ----------
    cubes : mapping
        Cubes by the label of each.
    measure : str
        Of `notions.measures`.
    notion : str
        Of `notions.robustness`.

    Returns
    -------
    xarray.Dataset (study)
        `spearman` with `lower` and `upper`, `weight` in percent, `models`, `families`. Attributes: `average`,
        `average_lower`, `average_upper` and `prediction` (correlations; NaN where not estimable); `tau2`,
        `i2`, `q`, `q_p` of Fisher's z; `left_out`, cubes of fewer than five families or without a
        correlation between -1 and 1; `sentences`.

    Raises
    ------
    UsageError
        If a name is not there, fewer than two cubes are left, or two cubes have a model in common: they are
        no independent studies then.
    """
    studies: dict[str, _Study] = {}
    seen: dict[str, str] = {}
    for label, cube in cubes.items():
        read = notions.read_columns(cube)
        for model in map(str, read.measures["model"].values):
            if model in seen:
                raise UsageError(f"{seen[model]!r} and {label!r} share the model {model!r}: not independent")
            seen[model] = label
        x, y = _columns(read, measure, notion)
        one = correlation.correlations(x[:, None], y[:, None], read.family)
        rho, low, high = (one[name].item() for name in ("spearman", "lower", "upper"))
        models, families = int(one["models"].item()), int(one["families"].item())
        if low < high:
            half = (np.arctanh(high) - np.arctanh(low)) / 2
            error = half / stats.t.isf((1 - one.attrs["confidence"]) / 2, families - 1)
            studies[label] = _Study(float(np.arctanh(rho)), float(error**2), models, families)
    left_out = [label for label in cubes if label not in studies]
    what = f"rank correlation of {measure} with {notion}"
    return _pooled(studies, left_out, what, confidence)


def _columns(read: notions.Columns, measure: str, notion: str) -> tuple[FloatArray, FloatArray]:
    found = []
    for table, kind, name in ((read.measures, "measure", measure), (read.robustness, "notion", notion)):
        there = [str(value) for value in table[kind].values]
        if name not in there:
            raise unknown_name(kind, name, there)
        found.append(np.asarray(table.sel({kind: name}).values, dtype=np.float64))
    return found[0], found[1]


def _pooled(studies: Mapping[str, _Study], left_out: list[str], what: str, confidence: float) -> xr.Dataset:
    if len(studies) < 2:
        raise UsageError(
            f"not estimable: {len(studies)} of {len(studies) + len(left_out)} cubes have five families "
            "and a correlation between -1 and 1; two are needed"
        )
    z, v = (np.array([getattr(one, name) for one in studies.values()]) for name in ("z", "variance"))
    models = np.array([one.models for one in studies.values()])
    found = meta.random_effects(z, v, confidence=confidence)
    table = literature.forest(z, v, found)
    average, lower, upper = (float(np.tanh(end[0])) for end in (found.estimate, found.lower, found.upper))
    enough = models.mean() - 3 >= literature.MEAN_SIZE_FOR_PREDICTION
    low, high = np.tanh(found.prediction) if enough else (np.nan, np.nan)
    level = f"{100 * confidence:.3g} %"
    expected = f"{level} prediction interval of a new study {low:.2f} to {high:.2f}"
    if np.isnan(low):
        expected = f"prediction interval not estimable (k = {len(z)}, mean n = {models.mean():.3g})"
    return xr.Dataset(
        {
            "spearman": ("study", np.tanh(z)),
            "lower": ("study", np.tanh(table["lower"].to_numpy())),
            "upper": ("study", np.tanh(table["upper"].to_numpy())),
            "weight": ("study", table["weight"].to_numpy()),
            "models": ("study", models),
            "families": ("study", [one.families for one in studies.values()]),
        },
        {"study": list(studies)},
        {
            "average": average,
            "average_lower": lower,
            "average_upper": upper,
            "prediction": [float(low), float(high)],
            **{name: float(getattr(found, name)) for name in ("tau2", "i2", "q", "q_p")},
            "left_out": left_out,
            "method": "Fisher's z of Spearman, family jackknife; REML; Knapp and Hartung",
            "confidence": confidence,
            "covers": "choice of studies; test samples and attack strength fixed",
            "sentences": [
                f"Average {what} {average:.2f} ({level} {lower:.2f} to {upper:.2f} over the choice of "
                f"studies; {len(z)} studies, {models.sum()} models); I2 = {found.i2:.3g} %; {expected}."
            ],
        },
    )
