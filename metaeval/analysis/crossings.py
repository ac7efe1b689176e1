"""Crossings of two robustness curves that the samples certify, and what could still hide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metaeval.analysis.curves import pair_levels
from metaeval.analysis.differences import critical_value, paired_differences
from metaeval.errors import UsageError
from metaeval.outcomes import broken

FloatArray = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Crossings:
    """Where one model is certainly better and where the other is, over the choice of test samples.

    Attributes
    ----------
    epsilons, difference, standard_error : ndarray (level,)
        Accuracy of the first model minus that of the second, paired by sample.
    sign : ndarray (level,)
        1 where the first model is certified better, -1 where the second is, 0 where neither is.
    critical : float
        Standard errors that a certified difference exceeds; NaN if the models hardly ever differ.
    brackets : ndarray (k, 2)
        Each crossing lies between the last epsilon certified before it and the first one certified after it.
    naive_count : int
        Sign changes of the observed difference: two equal models show many.
    drop_a, drop_b : float
        Accuracy lost between the first and the last epsilon.
    samples : int
    alpha : float
        Chance of one or more false signs, and so of false crossings, at most.
    """

    epsilons: FloatArray
    difference: FloatArray
    standard_error: FloatArray
    sign: Signs
    critical: float
    brackets: FloatArray
    naive_count: int
    drop_a: float
    drop_b: float
    samples: int
    alpha: float

    @property
    def count(self) -> int:
        """Certified crossings: a lower bound of the true number."""
        return len(self.brackets)

    @property
    def detectable(self) -> float:
        """The margin certified at every epsilon had it been there; NaN if the models hardly ever differ."""
        return float(self.critical * np.max(self.standard_error))

    def upper_bound(self, margin: float) -> int:
        """Return how many crossings the curves have room for if the models alternate by at least `margin`.

        Between two leads of opposite sign one curve falls by twice the margin, and the curves only fall.
        """
        return most_crossings((self.drop_a, self.drop_b), margin)

    def samples_needed(self, margin: float) -> int:
        """Return the samples that decide a margin at every epsilon; an error if the models hardly differ."""
        return samples_needed(self.samples, self.critical * float(np.max(self.standard_error)), margin)

    def sentences(self, first: str, second: str) -> list[str]:
        """Return in words what is certified and what is not."""
        low, high = self.epsilons[0], self.epsilons[-1]
        band = (
            f"simultaneous {100 * (1 - self.alpha):.3g} % band at {len(self.epsilons)} "
            f"epsilon{'s' * (len(self.epsilons) > 1)} over test samples, n = {self.samples}, "
            "paired; the strength of the attacks is not covered"
        )
        if np.isnan(self.critical):
            return [
                f"On [{low:.3g}, {high:.3g}], {first} and {second} cannot be told apart: fewer than ten of "
                f"{self.samples} samples distinguish them at any epsilon."
            ]
        leads = [
            f"{'At' if start == end else 'From'} {start:.3g}{'' if start == end else f' to {end:.3g}'}, "
            f"{first if sign > 0 else second} is more accurate than {second if sign > 0 else first} ({band})."
            for sign, start, end in runs(self.epsilons, self.sign)
        ]
        if self.count:
            places = ", ".join(f"[{start:.3g}, {end:.3g}]" for start, end in self.brackets)
            return [*leads, f"{self.count} crossing{'s' * (self.count > 1)} certified: {places}."]
        return [
            *leads,
            f"No crossing certified on [{low:.3g}, {high:.3g}]; margins below {self.detectable:.3g} cannot "
            "be excluded.",
        ]


def most_crossings(drops: Iterable[float], margin: float) -> int:
    """Return how many crossings with leads of `margin` there is room for in curves that lose so much."""
    if not margin > 0:
        raise UsageError(f"margin {margin} is not a positive accuracy")
    # A bound must not shrink by rounding: 0.3 / (2 * 0.05) is a little below 3.
    return int(sum(np.floor(drop / (2 * margin) + 1e-9) for drop in drops))


def samples_needed(samples: int, detectable: float, margin: float) -> int:
    """Return the samples that decide a margin everywhere where so many decide `detectable`."""
    if not margin > 0:
        raise UsageError(f"margin {margin} is not a positive accuracy")
    if np.isnan(detectable):
        raise UsageError("not estimable: fewer than ten samples tell the models apart at any epsilon")
    return int(np.ceil((np.sqrt(samples) * detectable / margin) ** 2))


def certified(
    distance_a: npt.ArrayLike,
    distance_b: npt.ArrayLike,
    alpha: float = 0.05,
    epsilons: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Crossings:
    """Certify crossings of the robustness curves of two models attacked on the same samples.

    Parameters
    ----------
    distance_a, distance_b : array_like (sample,)
        0 = misclassified, inf = no adversarial found up to the last epsilon.
    alpha : float
        Chance of one or more false signs at most, between 0 and 1.
    epsilons : array_like (level,), optional
        Candidate levels, none beyond the largest that was attacked; default: steps of the two curves,
        256 of them at most.
    seed : int
        Of the simulated critical value.

    Raises
    ------
    UsageError
        If a distance is NaN or negative, the numbers of samples differ, or alpha is not between 0 and 1.

    Notes
    -----
    A sign is certified where the simultaneous band of the paired difference leaves out 0. One-sided bounds
    would name the better of two equal models twice as often as alpha says.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha {alpha} is not between 0 and 1")
    a, b, e = pair_levels(distance_a, distance_b, epsilons)
    if not len(e):
        raise UsageError("crossings need at least one epsilon")
    found = paired_differences(a, b, e)
    critical = critical_value(found, alpha, seed=seed)
    sign = certain_signs(found.difference, found.standard_error, found.usable, critical)
    drop_a, drop_b = (float((broken(d, e[-1]) - broken(d, e[0])).mean()) for d in (a, b))
    return Crossings(
        e,
        found.difference,
        found.standard_error,
        sign,
        critical,
        changes(e, sign),
        len(changes(e, np.sign(found.difference))),
        drop_a,
        drop_b,
        found.samples,
        alpha,
    )


def certain_signs(
    difference: FloatArray, error: FloatArray, usable: npt.NDArray[np.bool_], critical: float
) -> Signs:
    """Return the sign of each difference that exceeds `critical` standard errors, else 0 (0 for NaN too)."""
    return np.where(usable & (np.abs(difference) > critical * error), np.sign(difference), 0).astype(np.int8)


def changes(epsilons: FloatArray, sign: npt.NDArray[np.generic]) -> FloatArray:
    """Return (k, 2) epsilons between which one sign gives way to the other, zeros left out."""
    known = np.flatnonzero(sign)
    turns = np.flatnonzero(sign[known[1:]] != sign[known[:-1]])
    return np.stack([epsilons[known[turns]], epsilons[known[turns + 1]]], axis=-1).reshape(-1, 2)


def runs(epsilons: FloatArray, sign: Signs) -> list[tuple[int, float, float]]:
    """Return (sign, first epsilon, last epsilon) of each stretch of certified levels with one sign."""
    starts = np.flatnonzero(np.diff(sign, prepend=0) != 0)
    ends = np.append(starts, len(sign))[1:] - 1
    return [
        (int(sign[start]), float(epsilons[start]), float(epsilons[end]))
        for start, end in zip(starts, ends, strict=True)
        if sign[start]
    ]
