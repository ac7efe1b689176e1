"""An engine weakened on purpose must turn the suite red: each mutation, and the test that catches it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import test_level_search
import test_sweep
import torch
from test_sweep import row_world  # noqa: F401 - a fixture

from metaeval.attacks import apgd_run, verify
from metaeval.attacks.column import Column
from metaeval.attacks.runs import AttackRuns
from metaeval.attacks.search import LevelSearch
from metaeval.attacks.verify import Evaluator, Verdicts
from metaeval.outcomes import Cell

Mutate = Callable[[pytest.MonkeyPatch], None]
World = tuple


def half_the_iterations(patch: pytest.MonkeyPatch) -> None:
    original = AttackRuns._run

    def run(self, rows, epsilon, settings, *radius, **extra):
        return original(
            self, rows, epsilon, {**settings, "iterations": settings["iterations"] // 2}, *radius, **extra
        )

    patch.setattr(AttackRuns, "_run", run)


def no_cold_start(patch: pytest.MonkeyPatch) -> None:
    """Every run begins at the input and is short, as restarts from projected adversarials are."""
    original = AttackRuns.fixed_epsilon

    def fixed_epsilon(self, rows, epsilon, start):
        return original(self, rows, epsilon, self.x[rows] if start is None else start)

    patch.setattr(AttackRuns, "fixed_epsilon", fixed_epsilon)


def shifted(by: int) -> Mutate:
    """Attack one level beside the one that is recorded."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        original = LevelSearch._run

        def run(self, rows, level):
            attack = self._attack
            levels = self.column.levels
            beside = np.clip(level + by, 0, len(levels) - 1)
            self._attack = lambda rows, epsilon, start: attack(rows, levels[beside], start)
            try:
                return original(self, rows, level)
            finally:
                self._attack = attack

        patch.setattr(LevelSearch, "_run", run)

    return mutate


def one_level_too_many_inferred(patch: pytest.MonkeyPatch) -> None:
    """The highest open level is never attacked: what is found below is taken for it."""
    original = Column.bracket

    def bracket(self):
        level = original(self)
        return np.where(level > 0, level - 1, level)

    patch.setattr(Column, "bracket", bracket)


def no_verification(patch: pytest.MonkeyPatch) -> None:
    def accept(self, x, y, candidates, norm, epsilon):
        distance = (candidates - x).flatten(1).abs().amax(1).double().numpy()
        return Verdicts(distance > 0, np.minimum(distance, epsilon), candidates.detach())

    patch.setattr(Evaluator, "verify", accept)


def any_label_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verify, "predictions", lambda logits: torch.full((len(logits),), -1))


def blind_to_vanished_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apgd_run, "_near_zero", lambda attack, gradient, loss, radius: loss != loss)


def failures_forgotten_as_robust(patch: pytest.MonkeyPatch) -> None:
    """A failure says nothing: the cells are called robust without a run."""
    original = Column.cells

    def cells(self):
        found = original(self)
        return np.where(found == Cell.ROBUST_INFERRED, Cell.ROBUST, found).astype(np.uint8)

    patch.setattr(Column, "cells", cells)


def gradients(world: World, patch: pytest.MonkeyPatch) -> None:
    test_sweep.test_every_robust_cell_of_apgd_got_all_its_gradients(world, "apgd-ce")


def closed_form(world: World, patch: pytest.MonkeyPatch) -> None:
    for search in ("exact", "frontier"):
        test_sweep.test_linear_models_against_the_closed_form("apgd-ce", "linf", search)


def claims(world: World, patch: pytest.MonkeyPatch) -> None:
    test_sweep.test_a_claim_that_does_not_hold_is_a_failed_claim(patch)


def vanished_gradients(world: World, patch: pytest.MonkeyPatch) -> None:
    test_sweep.test_samples_without_a_gradient_are_flagged_and_not_inferred()


def optimal_attack(world: World, patch: pytest.MonkeyPatch) -> None:
    """Three levels, broken from the second on: the frontier's one failing run is at the first."""
    levels = np.array([4, 8, 16]) / test_level_search.FINE
    adversarial = np.arange(test_level_search.FINE + 1)[None] >= 8
    answer = np.array([[0, 8, 16]])
    nothing = np.zeros((1, 3), dtype=int)
    small = test_level_search.World(levels, adversarial, answer, nothing > 0, nothing)
    cells = small.search("frontier").column.cells()
    assert cells.tolist() == [[Cell.ROBUST, Cell.BROKEN, Cell.BROKEN]]
    assert small.runs == [(0, 2), (0, 0)]


def robust_everywhere(world: World, patch: pytest.MonkeyPatch) -> None:
    nothing = np.zeros((1, 3), dtype=int)
    levels = np.array([4, 8, 16]) / test_level_search.FINE
    never = np.zeros((1, test_level_search.FINE + 1), dtype=bool)
    small = test_level_search.World(levels, never, nothing, nothing > 0, nothing)
    cells = small.search("frontier").column.cells()
    assert cells.tolist() == [[Cell.ROBUST_INFERRED, Cell.ROBUST_INFERRED, Cell.ROBUST]]


CAUGHT = [
    (half_the_iterations, gradients),
    (no_cold_start, gradients),
    (shifted(-1), closed_form),
    (shifted(+1), closed_form),
    (one_level_too_many_inferred, optimal_attack),
    (no_verification, claims),
    (any_label_will_do, claims),
    (blind_to_vanished_gradients, vanished_gradients),
    (failures_forgotten_as_robust, robust_everywhere),
]
CHECKS = (gradients, closed_form, claims, vanished_gradients, optimal_attack, robust_everywhere)


@pytest.mark.parametrize("check", CHECKS)
def test_the_engine_as_it_is_passes(check, row_world, monkeypatch):  # noqa: F811
    check(row_world, monkeypatch)


@pytest.mark.parametrize(("mutate", "check"), CAUGHT)
def test_a_weakened_engine_is_caught(mutate, check, row_world, monkeypatch):  # noqa: F811
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check(row_world, monkeypatch)
