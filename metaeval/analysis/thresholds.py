"""Does a robustness curve fall faster beyond the epsilon that the model was trained for?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import stats

from metaeval.analysis.bands import check_confidence
from metaeval.analysis.differences import survivors
from metaeval.analysis.paired import breaking_levels, holm
from metaeval.analysis.predictors import NOT_HYPERPARAMETERS
from metaeval.analysis.reading import given_confidence, models, norm_dataset
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]


def score(before: npt.ArrayLike, at: npt.ArrayLike, after: npt.ArrayLike) -> FloatArray:
    """Return each sample's part in the change of slope: 1 if lost after the breakpoint, -1 if lost before it.

    Parameters
    ----------
    before, at, after : array_like (..., sample)
        1 not broken, 0 broken, at the breakpoint less a width, at it, and a width beyond.
    """
    first, middle, last = (np.asarray(z, dtype=np.float64) for z in (before, at, after))
    if np.any(first < middle) or np.any(middle < last):
        raise UsageError("a sample that is broken must stay broken at larger epsilons")
    return (middle - last) - (first - middle)


@dataclass(frozen=True)
class Threshold:
    """The change of slope at one epsilon against a reference model.

    Attributes
    ----------
    table : pandas.DataFrame
        `role` ("primary", "sensitivity", "placebo"), `breakpoint`, `width`, `change` (accuracy lost in the
        width after the breakpoint minus that before it, minus the same of the reference), `standard_error`,
        `z`, `p` (two-sided, over the choice of samples), `adjusted` (Holm over primary and sensitivity),
        `local_p`, the exact binomial test of the model alone, and the accuracy that the model and the
        reference lose in the widths `before`, `after`, `reference_before`, `reference_after`; of placebos
        `excess` (change of the model alone at the breakpoint minus that here), `excess_error` and one-sided
        `excess_p`. NaN where the curves are not known.
    samples : int
    confidence : float
    """

    table: pd.DataFrame
    samples: int
    confidence: float

    @property
    def bend_p(self) -> float:
        """Largest p of all that a bend at the breakpoint needs: NaN where it is not estimable.

        The model loses more than its reference does, more after the breakpoint than before it, and that by
        more than at both placebos. Without the second a reference that flattens out would make a bend,
        without the third any smooth curve that steepens; a placebo that merely shows nothing is no evidence.
        """
        main, placebo = self.table.iloc[0], self.table[self.table["role"] == "placebo"]
        needed = [main["adjusted"], main["local_p"], *placebo["excess_p"]]
        if np.isnan(needed).any():
            return float("nan")
        return float(max(needed)) if main["change"] > 0 and main["after"] > main["before"] else 1.0

    @property
    def overfitted(self) -> bool:
        """Whether the curve certainly bends down at the breakpoint, more than elsewhere."""
        return self.bend_p < 1 - self.confidence

    def sentence(self, model: str, reference: str) -> str:
        """Return in words whether and how much faster the curve falls beyond the breakpoint."""
        main = self.table.iloc[0]
        where = f"at epsilon {main['breakpoint']:.3g}, width {main['width']:.3g}"
        if np.isnan(main["p"]):
            return f"Change of slope of {model} {where}: not estimable, the curves are not known that far."
        half = stats.norm.isf((1 - self.confidence) / 2) * main["standard_error"]
        found = "bends down" if self.overfitted else "is not shown to bend down"
        bend = f"p of a bend = {self.bend_p:.2g}"
        if np.isnan(self.bend_p):
            bend = "a bend is not estimable, half and three halves of this epsilon are not known"
        return (
            f"The curve of {model} {found} {where}: {main['change']:.3g} more accuracy is lost after it than "
            f"before, compared with {reference} ({100 * self.confidence:.3g} % +-{half:.2g} over test "
            f"samples, n = {self.samples}, paired; {bend})."
        )


def change_of_slope(
    distance: npt.ArrayLike,
    reference: npt.ArrayLike,
    epsilon: float,
    width: float | None = None,
    *,
    limit: float | None = None,
    levels: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Threshold:
    """Test for threshold overfitting by paired samples.

    Parameters
    ----------
    distance, reference : array_like (sample,)
        Minimal distances of the model and of a reference model of the same recipe that was not trained for
        this epsilon. Distances known on a grid only will do if the grid holds the epsilons that are compared.
    epsilon : float
        The training epsilon, positive.
    width : float, optional
        Pre-registered; default: a third of `epsilon`.
    limit : float, optional
        Largest epsilon that was attacked; default: the largest finite distance of a model with infinite ones.
    levels : array_like (level,), optional
        Of distances known on a grid only, the grid: only what compares accuracies on it is estimated.
    confidence : float

    Raises
    ------
    UsageError
        If a distance is NaN or negative, the numbers of samples differ, or the width is more than half of
        the epsilon.
    """
    check_confidence(confidence)
    a, b = np.asarray(distance, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a) or np.any(a < 0) or np.any(b < 0):
        raise UsageError(f"two models need a distance of at least 0 per sample, not {a.shape} and {b.shape}")
    h = epsilon / 3 if width is None else width
    if not (epsilon > 0 and 0 < h <= epsilon / 2):
        raise UsageError(f"width {h} must be positive and at most half of epsilon {epsilon}")
    ends = [np.max(d[np.isfinite(d)], initial=0.0) for d in (a, b) if np.isinf(d).any()]
    known = min(ends, default=np.inf) if limit is None else limit
    rows: list[dict[str, object]] = []
    main: FloatArray | None = None
    for role, point, size in (
        ("primary", epsilon, h),
        ("sensitivity", epsilon, h / 2),
        ("sensitivity", epsilon, 2 * h),
        ("placebo", epsilon / 2, h),
        ("placebo", 3 * epsilon / 2, h),
    ):
        row: dict[str, object] = {"role": role, "breakpoint": point, "width": size}
        places = np.array([max(point - size, 0.0), point, point + size])
        on_grid = places if levels is None else _nearest(places, levels)
        if point + size <= known * (1 + 1e-9) and not np.isnan(on_grid).any():
            row |= _compare(a, b, on_grid)
            own = score(*survivors(a, on_grid))
            if role == "primary":
                main = own
            elif role == "placebo" and main is not None:
                row |= _excess(main - own)
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    tested = (table["role"] != "placebo") & table["p"].notna()
    table["adjusted"] = np.nan
    table.loc[tested, "adjusted"] = holm(table.loc[tested, "p"].to_numpy(dtype=np.float64))
    return Threshold(table, len(a), confidence)


COLUMNS = (
    *("role", "breakpoint", "width", "change", "standard_error", "z", "p", "local_p"),
    *("before", "after", "reference_before", "reference_after"),
    *("excess", "excess_error", "excess_p"),
)


def _nearest(places: FloatArray, levels: npt.ArrayLike) -> FloatArray:
    """Return the levels that are these places but for rounding, NaN where there is none."""
    grid = np.asarray(levels, dtype=np.float64)
    nearest = grid[np.argmin(np.abs(places[:, None] - grid), axis=1)]
    return np.where(np.abs(nearest - places) <= 1e-9 * places.max(), nearest, np.nan)


def _compare(a: FloatArray, b: FloatArray, epsilons: FloatArray) -> dict[str, float]:
    """Return the contrast of two models' scores at one breakpoint and the model's own binomial test."""
    own, other = (survivors(d, epsilons).astype(np.float64) for d in (a, b))
    change, error = _mean_with_error(score(*own) - score(*other))
    n = len(a)
    before, after = int((own[0] - own[1]).sum()), int((own[1] - own[2]).sum())
    local = stats.binomtest(after, before + after, 0.5).pvalue if before + after else 1.0
    return {
        "change": change,
        "standard_error": error,
        "z": float(change / error),
        "p": float(2 * stats.norm.sf(abs(change) / error)),
        "local_p": float(local),
        "before": before / n,
        "after": after / n,
        "reference_before": float((other[0] - other[1]).mean()),
        "reference_after": float((other[1] - other[2]).mean()),
    }


def _excess(values: FloatArray) -> dict[str, float]:
    """Return how much larger the model's own change is at the breakpoint than at a placebo."""
    excess, error = _mean_with_error(values)
    return {"excess": excess, "excess_error": error, "excess_p": float(stats.norm.sf(excess / error))}


def _mean_with_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean over samples and its standard error, with one more sample that differs."""
    mean = values.mean()
    return float(mean), float(np.sqrt(((values - mean) ** 2).sum() + 1) / len(values))


@dataclass(frozen=True)
class Bend:
    """What a cube says of the curve of one model that was trained for an epsilon.

    Attributes
    ----------
    model, reference : str
        `reference` has the same recipe without adversarial training.
    epsilon : float
        Of the training.
    threshold : Threshold
    p : float
        Of a bend, adjusted by Holm over all models of the norm; NaN where that is not estimable.
    """

    model: str
    reference: str
    epsilon: float
    threshold: Threshold
    p: float

    @property
    def certain(self) -> bool:
        """Whether the curve certainly bends down at the training epsilon."""
        return self.p < 1 - self.threshold.confidence


def from_cube(cube: xr.DataTree, norm: str, *, confidence: float | None = None) -> list[Bend]:
    """Return the change of slope of each model trained for an epsilon of this norm, where it is estimable.

    That needs a model of the same recipe (architecture and all settings but those of the adversarial
    training) without adversarial training, both complete, and accuracies at the training epsilon and evenly
    around it.
    The width is that of the grid nearest to a third of the training epsilon, and at most half of it, so that
    no outcome has a say in it.
    """
    confidence = given_confidence(cube, confidence)
    epsilons = trained_epsilons(cube, norm)
    if not any(epsilon > 0 for epsilon in epsilons.values()):
        return []
    recipes = _recipes(cube)
    distance = breaking_levels(cube, norm)
    complete = {
        str(name): row
        for name, row in zip(distance["model"].values, distance.values, strict=True)
        if not np.isnan(row).any()
    }
    levels = norm_dataset(cube, norm)["epsilon"].values.astype(np.float64)
    found = []
    for name, epsilon in epsilons.items():
        same = [
            other
            for other in complete
            if epsilons.get(other) == 0 and other != name and recipes[other] == recipes[name]
        ]
        width = grid_width(levels, epsilon) if epsilon > 0 else np.nan
        if name in complete and same and not np.isnan(width):
            threshold = change_of_slope(
                complete[name],
                complete[same[0]],
                epsilon,
                width,
                limit=float(levels.max()),
                levels=levels,
                confidence=confidence,
            )
            found.append(Bend(name, same[0], epsilon, threshold, threshold.bend_p))
    return _adjusted(found)


def trained_epsilons(cube: xr.DataTree, norm: str) -> dict[str, float]:
    """Return the epsilon that each trained model was trained for, 0 for standard training.

    Models trained for another norm, and those of whose training the cube says nothing, are left out.
    """
    if "models" not in cube.children:
        return {}
    table = norm_dataset(cube, "models")
    if "adversarial_epsilon" not in table or table["adversarial_epsilon"].dtype.kind not in "fiu":
        return {}
    epsilons = table["adversarial_epsilon"]
    where = table.get("adversarial_norm", epsilons)
    rows = zip(table["model"].values, epsilons.values, where.values, strict=True)
    said = {
        str(name): float(epsilon)
        for name, epsilon, place in rows
        if epsilon == 0 or (epsilon > 0 and str(place) == norm)
    }
    return {name: said[name] for name in models(cube) if name in said}


def grid_width(levels: npt.ArrayLike, epsilon: float) -> float:
    """Return the width nearest to a third of epsilon, at most half, by which levels lie around epsilon.

    NaN where epsilon is no level or no two levels lie evenly around it.
    """
    grid = np.asarray(levels, dtype=np.float64)
    widths = epsilon - grid[(grid < epsilon * (1 - 1e-9)) & (grid >= epsilon * (0.5 - 1e-9))]
    widths = np.minimum(widths, epsilon / 2)
    around = [
        width
        for width in widths
        if not np.isnan(_nearest(np.array([epsilon - width, epsilon, epsilon + width]), grid)).any()
    ]
    return float(min(around, key=lambda width: abs(width - epsilon / 3), default=np.nan))


def _recipes(cube: xr.DataTree) -> dict[str, tuple[str, ...]]:
    """Return of each model its architecture and all settings that are not of its adversarial training."""
    if "models" not in cube.children:
        return {}
    table = norm_dataset(cube, "models").reset_coords()
    columns = [
        [str(value) if value == value else "" for value in variable.values]
        for name, variable in table.data_vars.items()
        if variable.dims == ("model",)
        and (name in ("architecture", "source") or name not in NOT_HYPERPARAMETERS)
        and not str(name).startswith(("training_", "published", "adversarial_", "trades_"))
    ]
    return dict(zip(map(str, table["model"].values), zip(*columns, strict=True), strict=True))


def _adjusted(found: list[Bend]) -> list[Bend]:
    """Return the same with Holm's adjustment over all models."""
    p = np.array([bend.p for bend in found])
    tested = ~np.isnan(p)
    p[tested] = holm(p[tested])
    return [replace(bend, p=float(value)) for bend, value in zip(found, p, strict=True)]
