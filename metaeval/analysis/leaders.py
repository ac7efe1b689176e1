"""Which model leads at an epsilon, and whether its lead is certain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from metaeval.analysis import curves, paired
from metaeval.analysis.reading import WORST_CASE, Reference, given_confidence


@dataclass(frozen=True)
class Lead:
    """The ranking at one epsilon and what the paired tests say of its top.

    Attributes
    ----------
    ranking : tuple of str
        Models whose accuracy is available, best first (ties in the cube's order).
    accuracy, lower, upper : tuple of float
        In the order of `ranking`.
    missing : tuple of str
        Models without a worst-case accuracy.
    comparison : Comparison or None
        All pairs of `ranking`; None for fewer than two models.
    beaten, level : tuple of str
        Other models that the first one is certainly ahead of, and those that it is not.
    samples : int
    """

    norm: str
    reference: Reference
    ranking: tuple[str, ...]
    accuracy: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    missing: tuple[str, ...]
    comparison: paired.Comparison | None
    beaten: tuple[str, ...]
    level: tuple[str, ...]
    samples: int

    @property
    def margin(self) -> float:
        """Accuracy of the first minus that of the second."""
        return self.accuracy[0] - self.accuracy[1]


def lead(cube: xr.DataTree, norm: str, reference: Reference, confidence: float | None = None) -> Lead:
    """Rank models by worst-case accuracy at one epsilon and compare all pairs on the same samples.

    "Certainly ahead" means an exact McNemar p, Holm-adjusted over all pairs of models (because which model
    leads is itself read off the data), below 1 - confidence.
    """
    confidence = given_confidence(cube, confidence)
    face = curves.from_cube(cube, norm, confidence).sel(epsilon=reference.value, attack=WORST_CASE)
    names = np.array([str(name) for name in face["model"].values], dtype=object)
    accuracy = face["accuracy"].values
    known = np.flatnonzero(~np.isnan(accuracy))
    order = known[np.argsort(-accuracy[known], kind="stable")]
    comparison = None
    beaten: list[str] = []
    level: list[str] = []
    if len(order) > 1:
        comparison = paired.compare(paired.outcomes(cube, norm, reference.value).values[order], confidence)
        for other in range(1, len(order)):
            pair = comparison.pair(0, other)
            ahead = comparison.adjusted[pair] < 1 - confidence and comparison.difference[pair] > 0
            (beaten if ahead else level).append(names[order[other]])
    return Lead(
        norm,
        reference,
        tuple(names[order]),
        tuple(accuracy[order].tolist()),
        tuple(face["lower"].values[order].tolist()),
        tuple(face["upper"].values[order].tolist()),
        tuple(name for i, name in enumerate(names) if i not in set(known.tolist())),
        comparison,
        tuple(beaten),
        tuple(level),
        int(face["total"]),
    )
