"""Does a robustness curve fall faster beyond the epsilon that the model was trained for?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from metaeval.analysis.bands import check_confidence
from metaeval.analysis.differences import check_same_samples, survivors
from metaeval.analysis.paired import holm
from metaeval.errors import UsageError
from metaeval.outcomes import in_double

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
        `z`, `p` (two-sided, over the choice of samples), `adjusted` (Holm over primary and sensitivity), and
        `local_p`, the exact binomial test of the model alone. NaN where the curves are not known so far.
    samples : int
    confidence : float
    """

    table: pd.DataFrame
    samples: int
    confidence: float

    @property
    def overfitted(self) -> bool:
        """Whether the curve certainly bends down at the breakpoint and at no placebo."""
        level = 1 - self.confidence
        main, placebo = self.table.iloc[0], self.table[self.table["role"] == "placebo"]
        bent = bool(main["adjusted"] < level and main["change"] > 0)
        return bent and not bool(((placebo["p"] < level) & (placebo["change"] > 0)).any())

    def sentence(self, model: str, reference: str) -> str:
        """Return in words whether and how much faster the curve falls beyond the breakpoint."""
        main = self.table.iloc[0]
        where = f"at epsilon {main['breakpoint']:.3g}, width {main['width']:.3g}"
        if np.isnan(main["p"]):
            return f"Change of slope of {model} {where}: not estimable, the curves are not known that far."
        half = stats.norm.isf((1 - self.confidence) / 2) * main["standard_error"]
        found = "bends down" if self.overfitted else "is not shown to bend down"
        return (
            f"The curve of {model} {found} {where}: {main['change']:.3g} more accuracy is lost after it than "
            f"before, compared with {reference} ({100 * self.confidence:.3g} % +-{half:.2g} over test "
            f"samples, n = {self.samples}, paired; adjusted p = {main['adjusted']:.2g})."
        )


def change_of_slope(
    distance: npt.ArrayLike,
    reference: npt.ArrayLike,
    epsilon: float,
    width: float | None = None,
    *,
    limit: float | None = None,
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
    confidence : float

    Raises
    ------
    UsageError
        If a distance is NaN or negative, the numbers of samples differ, or the width is more than half of
        the epsilon.
    """
    check_confidence(confidence)
    check_same_samples(distance, reference)
    a, b = np.asarray(distance, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a) or np.any(a < 0) or np.any(b < 0):
        raise UsageError(f"two models need a distance of at least 0 per sample, not {a.shape} and {b.shape}")
    h = epsilon / 3 if width is None else width
    if not (epsilon > 0 and 0 < h <= epsilon / 2):
        raise UsageError(f"width {h} must be positive and at most half of epsilon {epsilon}")
    tests = (
        ("primary", epsilon, h),
        ("sensitivity", epsilon, h / 2),
        ("sensitivity", epsilon, 2 * h),
        ("placebo", epsilon / 2, h),
        ("placebo", 3 * epsilon / 2, h),
    )
    compared = [point + side * size for _, point, size in tests for side in (-1, 0, 1)]
    (a, _), (b, _) = in_double(distance, compared), in_double(reference, compared)
    ends = [np.max(d[np.isfinite(d)], initial=0.0) for d in (a, b) if np.isinf(d).any()]
    known = min(ends, default=np.inf) if limit is None else limit
    rows = []
    for role, point, size in tests:
        row = {"role": role, "breakpoint": point, "width": size}
        if point + size <= known * (1 + 1e-9):
            row |= _compare(a, b, point, size)
        rows.append(row)
    columns = ["role", "breakpoint", "width", "change", "standard_error", "z", "p", "local_p"]
    table = pd.DataFrame(rows, columns=columns)
    tested = (table["role"] != "placebo") & table["p"].notna()
    table["adjusted"] = np.nan
    table.loc[tested, "adjusted"] = holm(table.loc[tested, "p"].to_numpy(dtype=np.float64))
    return Threshold(table, len(a), confidence)


def _compare(a: FloatArray, b: FloatArray, point: float, width: float) -> dict[str, float]:
    """Return the contrast of two models' scores at one breakpoint and the model's own binomial test."""
    epsilons = [point - width, point, point + width]
    own = survivors(a, epsilons).astype(np.float64)
    contrast = score(*own) - score(*survivors(b, epsilons))
    n = len(contrast)
    change = contrast.mean()
    error = np.sqrt(((contrast - change) ** 2).sum() + 1) / n  # one more sample that differs
    before, after = int((own[0] - own[1]).sum()), int((own[1] - own[2]).sum())
    local = stats.binomtest(after, before + after, 0.5).pvalue if before + after else 1.0
    return {
        "change": float(change),
        "standard_error": float(error),
        "z": float(change / error),
        "p": float(2 * stats.norm.sf(abs(change) / error)),
        "local_p": float(local),
    }
