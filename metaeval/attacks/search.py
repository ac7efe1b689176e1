"""Which level each sample is attacked at next: the search over epsilons around any fixed-epsilon attack.

``exact`` goes up, survivors only: every robust cell was attacked in full. ``frontier`` goes down from the
largest level: one failing run per sample bounds it from below, each adversarial is projected onto smaller
balls while it stays adversarial, and where it does not, a short run starts from it before a full one does.
``independent`` attacks every level of every sample, for models whose outputs are random and for which no
verdict says anything about another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metaeval import outcomes
from metaeval.attacks.column import Bools, Column, Floats
from metaeval.attacks.geometry import project
from metaeval.attacks.verify import Verdicts

Rows = npt.NDArray[np.int64]
Mode = Literal["exact", "frontier", "independent"]


@dataclass(frozen=True)
class Attempt:
    """What an attack returned for some samples: its candidates, its claims, and failures that say little."""

    candidates: Tensor
    success: Bools
    zero_gradient: Bools


class RunAttack(Protocol):
    """Run the attack on some samples, each within its own radius; `start` marks the short warm run."""

    def __call__(self, rows: Rows, epsilon: Floats, start: Tensor | None) -> Attempt: ...


class Verify(Protocol):
    """Check candidates outside the attack; see `metaeval.attacks.verify.Evaluator.verify`."""

    def __call__(
        self, x: Tensor, y: Tensor, candidates: Tensor, norm: str, epsilon: Floats | None
    ) -> Verdicts: ...


class LevelSearch:
    """The search over the levels of one column.

    Attributes
    ----------
    column : Column
        The evidence, filled in by `run`.
    points : Tensor
        (n, \\*shape): the smallest adversarial of each sample where `found`, else the input.
    found : ndarray of bool
        An adversarial was found in this search (not in an earlier one).
    attacked : ndarray of bool
        The attack ran on the sample in this search.
    suspicious : ndarray of bool
        A failed run met a zero gradient: no evidence about smaller balls.
    rejected_claims : int
        Successes that the attack reported and verification did not confirm.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        column: Column,
        *,
        norm: str,
        attack: RunAttack,
        verify: Verify,
        warm: bool = False,
    ) -> None:
        self.column = column
        self.points = x.clone()
        self.found = np.zeros(len(x), dtype=bool)
        self.attacked = np.zeros(len(x), dtype=bool)
        self.suspicious = np.zeros(len(x), dtype=bool)
        self.rejected_claims = 0
        self._x, self._y, self._norm = x, y, norm
        self._attack, self._verify, self._warm = attack, verify, warm
        self._separate = False  # a verdict at one level says nothing about other levels

    def run(self, mode: Mode) -> None:
        """Search until nothing is left to attack."""
        if mode == "exact":
            self._ascend(self.column.open)
        elif mode == "independent":
            column, self._separate = self.column, True
            self._ascend(lambda: ~column.verified & ~column.failed)
        else:
            self._frontier()

    def _frontier(self) -> None:
        tried = np.zeros_like(self.column.failed)
        while True:
            # What a short run from the adversarial above breaks needs no full one, and costs less to break.
            while self._restart_warm(self.column.bracket(), tried):
                pass
            level = self._descending()
            rows = np.flatnonzero(level >= 0)
            if len(rows):
                self._descend_ladder(rows[self._run(rows, level[rows])])
            elif not self._restart_warm(self._below(), tried):
                return

    def _descending(self) -> Rows:
        """Return the level at which a full run comes next, -1 for none."""
        # A failure without gradients proves nothing about smaller balls: attack them one by one.
        blind = np.where(self.suspicious, _lowest(self.column.open()), -1)
        level = self.column.bracket()
        return np.where(level >= 0, level, blind)

    def _ascend(self, candidates: Callable[[], Bools]) -> None:
        """Attack each sample at its lowest marked level until none is marked."""
        while True:
            level = _lowest(candidates())
            rows = np.flatnonzero(level >= 0)
            if len(rows) == 0:
                return
            self._run(rows, level[rows])

    def _run(self, rows: Rows, level: Rows) -> Bools:
        epsilon = self.column.levels[level]
        attempt = self._attack(rows, epsilon, None)
        broken = self._check(rows, level, attempt)
        self.attacked[rows] = True
        self.column.failed[rows[~broken], level[~broken]] = True
        self.suspicious[rows[~broken & attempt.zero_gradient]] = True
        return broken

    def _check(self, rows: Rows, level: Rows, attempt: Attempt) -> Bools:
        verdicts = self._record(rows, level, attempt.candidates)
        self.rejected_claims += int((attempt.success & ~verdicts).sum())
        return verdicts

    def _record(self, rows: Rows, level: Rows, candidates: Tensor) -> Bools:
        """Verify candidates at their levels and keep what they show; return where they are adversarial."""
        column = self.column
        index = torch.from_numpy(rows).to(self._x.device)
        verdicts = self._verify(self._x[index], self._y[index], candidates, self._norm, column.levels[level])
        broken = verdicts.broken
        rows, level = rows[broken], level[broken]
        distance = outcomes.snap(verdicts.distance[broken], column.levels, self._norm)
        column.verified[rows, level] = True
        if not self._separate:
            # The same point is an adversarial at every level between its distance and the level of the run.
            inside = outcomes.broken(distance[:, None], column.levels) == 1
            column.verified[rows] |= inside & (np.arange(len(column.levels)) <= level[:, None])
        smaller = ~self.found[rows] | (distance < column.distance[rows])
        source = torch.from_numpy(np.flatnonzero(broken)[smaller]).to(self._x.device)
        self.points[torch.from_numpy(rows[smaller]).to(self._x.device)] = verdicts.points[source]
        self.found[rows] = True
        column.distance[rows] = np.minimum(column.distance[rows], distance)
        return broken

    def _descend_ladder(self, rows: Rows) -> None:
        """Project adversarials onto the next smaller ball for as long as they stay adversarial."""
        while len(rows):
            target = self._below()[rows]
            rows, target = rows[target >= 0], target[target >= 0]
            if len(rows) == 0:
                return
            rows = rows[self._record(rows, target, self._projected(rows, target))]

    def _restart_warm(self, level: Rows, tried: Bools) -> bool:
        """Run shortly at `level` (-1: nowhere) from the adversarial above; tell whether anything broke."""
        rows = np.flatnonzero(self.found & (level >= 0)) if self._warm else np.empty(0, dtype=np.int64)
        rows = rows[~tried[rows, level[rows]]]
        if len(rows) == 0:
            return False
        level = level[rows]
        tried[rows, level] = True
        attempt = self._attack(rows, self.column.levels[level], self._projected(rows, level))
        broken = self._check(rows, level, attempt)
        self._descend_ladder(rows[broken])
        return bool(broken.any())

    def _projected(self, rows: Rows, level: Rows) -> Tensor:
        index = torch.from_numpy(rows).to(self._x.device)
        radius = torch.from_numpy(self.column.levels[level])
        return project(self._x[index], self.points[index], radius, self._norm)

    def _below(self) -> Rows:
        """Return the level below the lowest broken one, -1 if there is none."""
        broken = self.column.broken()
        return np.where(broken.any(axis=1), broken.argmax(axis=1) - 1, -1)


def _lowest(candidates: Bools) -> Rows:
    """Return the first marked level of each sample, -1 if none is."""
    return np.where(candidates.any(axis=1), candidates.argmax(axis=1), -1)
