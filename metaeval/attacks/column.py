"""What is known of one attack's column: distances, failed levels, and what each cell says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metaeval import outcomes
from metaeval.outcomes import Cell

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """A column as an earlier call left it, to be continued with more epsilons.

    Attributes
    ----------
    epsilons : ndarray
        float64 (m,): the levels of `cells`.
    distance, searched : ndarray
        float64 (n,); NaN where the sample has not been computed.
    cells : ndarray
        uint8 (n, m), codes of `metaeval.outcomes.Cell`.
    """

    epsilons: Floats
    distance: Floats
    searched: Floats
    cells: npt.NDArray[np.uint8]


@dataclass
class Column:
    """Evidence on n correctly classified samples at K levels; the arrays are filled by a search.

    Attributes
    ----------
    levels : ndarray
        float64 (K,), positive, ascending.
    distance : ndarray
        float64 (n,): norm of the smallest verified adversarial, inf where none is known.
    floor : ndarray
        float64 (n,): radius that an earlier call searched in full, 0 where none.
    failed : ndarray
        bool (n, K): the attack ran here in full and found nothing. A set, not a threshold: an adversarial
        found elsewhere may prove a failure wrong.
    verified : ndarray
        bool (n, K): an adversarial was verified at this level.
    """

    levels: Floats
    distance: Floats
    floor: Floats
    failed: Bools
    verified: Bools

    @classmethod
    def fresh(cls, n: int, levels: Floats) -> Column:
        """Return a column of which nothing is known yet."""
        shape = (n, len(levels))
        return cls(levels, np.full(n, np.inf), np.zeros(n), np.zeros(shape, bool), np.zeros(shape, bool))

    def take_over(self, known: Known, rows: Bools, norm: str) -> None:
        """Fill in the marked `rows` with what an earlier call found of them."""
        self.distance[rows] = outcomes.snap(known.distance[rows], self.levels, norm)
        self.floor[rows] = known.searched[rows]
        for k, epsilon in enumerate(known.epsilons):
            for level in np.flatnonzero(self.levels == epsilon):
                cell = known.cells[rows, k]
                self.failed[rows, level] = (cell == Cell.ROBUST) | (cell == Cell.BROKEN_OVERRULED)
                self.verified[rows, level] = cell == Cell.BROKEN

    def take(self, rows: npt.NDArray[np.int64]) -> Column:
        """Return a copy of some rows."""
        return Column(
            self.levels, self.distance[rows], self.floor[rows], self.failed[rows], self.verified[rows]
        )

    def put(self, rows: npt.NDArray[np.int64], part: Column) -> None:
        """Write back what `take` returned."""
        self.distance[rows], self.floor[rows] = part.distance, part.floor
        self.failed[rows], self.verified[rows] = part.failed, part.verified

    def settle(self, rows: npt.NDArray[np.int64]) -> None:
        """Let the distances of some rows decide all levels: one run searched every radius below them."""
        self.floor[rows] = self.distance[rows] * (1 - 2e-9)  # the largest radius that `broken` tells apart
        broken = self.broken()[rows]
        self.failed[rows], self.verified[rows] = ~broken, broken

    def open(self) -> Bools:
        """Return the levels without an adversarial or a failed run, bool (n, K)."""
        return ~self.broken() & ~self.failed

    def bracket(self) -> npt.NDArray[np.int64]:
        """Return the largest level between what was searched and the smallest adversarial, -1 if none."""
        candidates = self.open() & (self.levels[None, :] > self.searched()[:, None])
        numbers = np.where(candidates, np.arange(len(self.levels)), -1)
        return np.asarray(numbers.max(axis=1, initial=-1), dtype=np.int64)

    def pending(self, mode: str) -> Bools:
        """Return the samples that a search in this mode would attack."""
        return np.asarray(self.open().any(axis=1) if mode == "exact" else self.bracket() >= 0)

    def broken(self) -> Bools:
        """Return where an adversarial is known, bool (n, K)."""
        return np.asarray(outcomes.broken(self.distance[:, None], self.levels[None, :]) == 1)

    def searched(self) -> Floats:
        """Return the largest radius below the distance at which the attack failed in full, 0 if none."""
        below = np.where(self.failed & ~self.broken(), self.levels[None, :], 0.0).max(axis=1, initial=0.0)
        contradicted = np.isfinite(self.distance) & (outcomes.broken(self.distance, self.floor) == 1)
        old = np.where(contradicted, 0.0, self.floor)
        return np.asarray(np.maximum(below, old), dtype=np.float64)

    def cells(self) -> npt.NDArray[np.uint8]:
        """Return the code of each cell, uint8 (n, K)."""
        broken, searched = self.broken(), self.searched()
        cells = np.full(self.failed.shape, Cell.PENDING, dtype=np.uint8)
        cells[self.levels[None, :] <= searched[:, None]] = Cell.ROBUST_INFERRED
        cells[self.failed] = Cell.ROBUST
        cells[broken] = Cell.BROKEN_ENVELOPE
        cells[broken & self.verified] = Cell.BROKEN
        cells[broken & self.failed] = Cell.BROKEN_OVERRULED
        return cells
