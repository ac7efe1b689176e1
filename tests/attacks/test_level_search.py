"""The level search against brute force on synthetic verdicts: any pattern, monotone or not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import FINE, TableModel, table_inputs

from metaeval import outcomes
from metaeval.attacks.column import Column, Known
from metaeval.attacks.search import Attempt, LevelSearch
from metaeval.attacks.verify import Evaluator
from metaeval.outcomes import Cell

CPU = torch.device("cpu")


@dataclass
class World:
    """Verdicts of n samples: where a model is wrong, what an attack returns at each level, and its warm runs.

    `adversarial[i, d]` says whether moving by d / FINE changes the label; `answer[i, k]` is the distance (in
    the same steps, 0 for nothing) that the attack returns at level k; `blind[i, k]` whether a failure there
    met a zero gradient; `warm[i, k]` what a warm run returns.
    """

    levels: np.ndarray
    adversarial: np.ndarray
    answer: np.ndarray
    blind: np.ndarray
    warm: np.ndarray
    runs: list[tuple[int, int]] = field(default_factory=list)
    warm_runs: list[tuple[int, int]] = field(default_factory=list)

    def search(self, mode: str, column: Column | None = None, warm: bool = False) -> LevelSearch:
        x, y = (torch.from_numpy(a) for a in table_inputs(len(self.answer)))

        def attack(rows, epsilon, start):
            level = np.searchsorted(self.levels, epsilon)
            (self.runs if start is None else self.warm_runs).extend(zip(rows, level, strict=True))
            moved = (self.answer if start is None else self.warm)[rows, level]
            candidates = x[rows].clone()
            candidates[:, 1] = torch.from_numpy(moved / FINE).float()
            return Attempt(candidates, moved > 0, self.blind[rows, level])

        evaluator = Evaluator(TableModel(self.adversarial), CPU)
        column = column or Column.fresh(len(x), self.levels)
        search = LevelSearch(x, y, column, norm="linf", attack=attack, verify=evaluator.verify, warm=warm)
        search.run(mode)
        return search

    def verified(self, i: int, k: int) -> float:
        """Return the distance of what the attack finds at level k, inf if the claim does not hold."""
        moved = self.answer[i, k]
        holds = moved > 0 and moved / FINE <= self.levels[k] and self.adversarial[i, moved]
        return moved / FINE if holds else np.inf


@st.composite
def worlds(draw, faithful: bool = False):
    n = draw(st.integers(1, 6))
    steps = draw(st.lists(st.integers(1, FINE), min_size=1, max_size=6, unique=True))
    levels = np.array(sorted(steps)) / FINE
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    share = draw(st.sampled_from([0.2, 0.5, 0.8]))
    adversarial = rng.random((n, FINE + 1)) < share
    if faithful:  # an optimal attack: misclassified from a threshold on, found exactly from there on
        threshold = rng.integers(1, FINE + 3, n)
        adversarial = np.arange(FINE + 1) >= threshold[:, None]
        grid = (levels * FINE).astype(int)
        answer = np.where(grid >= threshold[:, None], grid, 0)
    else:
        answer = rng.integers(0, FINE + 1, (n, len(levels)))
        exact = rng.random(answer.shape) < 0.6
        answer = np.where(exact, (levels * FINE).astype(int), answer)
        answer[rng.random(answer.shape) < 0.3] = 0
    adversarial[:, 0] = False
    blind = rng.random(answer.shape) < draw(st.sampled_from([0.0, 0.0, 0.3]))
    # Anything within the level: the level's own distance is where the ladder has just failed.
    warm = rng.integers(0, (levels * FINE).astype(int) + 1, answer.shape)
    return World(levels, adversarial, answer, blind, warm)


@dataclass
class Twin:
    """One sample's frontier, as the design tells it, without arrays."""

    world: World
    i: int
    failed: set[int] = field(default_factory=set)
    verified: set[int] = field(default_factory=set)
    distance: float = np.inf
    blind: bool = False
    tried: set[int] = field(default_factory=set)

    def broken(self, k: int) -> bool:
        return self.distance <= self.world.levels[k]

    def record(self, k: int, distance: float) -> None:
        self.distance = min(self.distance, distance)
        self.verified |= {j for j in range(k + 1) if distance <= self.world.levels[j]}

    def attack(self, k: int) -> None:
        distance = self.world.verified(self.i, k)
        if np.isfinite(distance):
            self.record(k, distance)
            self.ladder()
        else:
            self.failed.add(k)
            self.blind |= bool(self.world.blind[self.i, k])

    def ladder(self) -> None:
        while True:
            below = [k for k in range(len(self.world.levels)) if not self.broken(k)]
            k = max((k for k in below if self.distance > self.world.levels[k]), default=-1)
            if k < 0 or not self.world.adversarial[self.i, round(self.world.levels[k] * FINE)]:
                return
            self.record(k, self.world.levels[k])

    def bracket(self) -> int:
        robust = [k for k in range(len(self.world.levels)) if not self.broken(k)]
        bound = max((k for k in robust if k in self.failed), default=-1)
        return max((k for k in robust if k > bound), default=-1)

    def short(self, k: int) -> bool:
        if k < 0 or not np.isfinite(self.distance) or k in self.tried:
            return False
        self.tried.add(k)
        moved = self.world.warm[self.i, k]
        if moved == 0 or not self.world.adversarial[self.i, moved]:
            return False
        self.record(k, moved / FINE)
        self.ladder()
        return True

    def frontier(self, warm: bool) -> None:
        while True:
            while warm and self.short(self.bracket()):
                pass
            robust = [k for k in range(len(self.world.levels)) if not self.broken(k)]
            left = [k for k in robust if k not in self.failed] if self.blind else []
            if self.bracket() >= 0:
                self.attack(self.bracket())
            elif left:
                self.attack(min(left))
            elif not warm or not self.short(max(robust, default=-1)):
                return

    def cell(self, k: int) -> Cell:
        if self.broken(k):
            if k in self.failed:
                return Cell.BROKEN_OVERRULED
            return Cell.BROKEN if k in self.verified else Cell.BROKEN_ENVELOPE
        if k in self.failed:
            return Cell.ROBUST
        return Cell.ROBUST_INFERRED


@settings(max_examples=150, deadline=None)
@given(worlds(), st.booleans())
def test_frontier_equals_its_twin(world, warm):
    column = world.search("frontier", warm=warm).column
    cells = column.cells()
    for i in range(len(cells)):
        twin = Twin(world, i)
        twin.frontier(warm)
        assert column.distance[i] == twin.distance
        assert [Cell(c) for c in cells[i]] == [twin.cell(k) for k in range(len(world.levels))]


@settings(max_examples=150, deadline=None)
@given(worlds(), st.booleans())
def test_every_frontier_cell_has_its_evidence(world, warm):
    column = world.search("frontier", warm=warm).column
    ran = set(world.runs)
    assert len(ran) == len(world.runs), "an attack ran twice on one cell"
    for i, cells in enumerate(column.cells()):
        for k, cell in enumerate(cells):
            level = world.levels[k]
            real = any(world.adversarial[i, d] for d in range(1, round(level * FINE) + 1))
            failed_here = (i, k) in ran and not np.isfinite(world.verified(i, k))
            if cell in (Cell.BROKEN, Cell.BROKEN_ENVELOPE, Cell.BROKEN_OVERRULED):
                assert real
                assert column.distance[i] <= level
                assert (cell == Cell.BROKEN_OVERRULED) == failed_here
            else:
                assert column.distance[i] > level
                assert (cell == Cell.ROBUST) == failed_here
                if cell == Cell.ROBUST_INFERRED:  # rests on a failure in a larger ball that still stands
                    assert any(cells[j] == Cell.ROBUST for j in range(k + 1, len(cells)))
        failures = world.levels[[c == Cell.ROBUST for c in cells]]
        assert column.searched()[i] == failures.max(initial=0.0)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_below_an_adversarial_a_short_run_comes_before_the_full_one(world):
    world.blind[:] = False
    column = world.search("frontier", warm=True).column
    assert len(set(world.warm_runs)) == len(world.warm_runs), "a short run was repeated"
    for i in range(len(world.answer)):
        order = [k for j, k in world.runs if j == i]
        for at, k in enumerate(order):
            above = any(j > k and np.isfinite(world.verified(i, j)) for j in order[:at])
            assert not above or (i, k) in world.warm_runs
        for k, cell in enumerate(column.cells()[i]):
            assert cell != Cell.ROBUST or k in order, "a short run's failure made a cell robust"


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_exact_is_the_naive_loop_over_survivors(world):
    search = world.search("exact")
    cells = search.column.cells()
    assert not (cells == Cell.ROBUST_INFERRED).any()
    for i in range(len(cells)):
        found = [world.verified(i, k) for k in range(len(world.levels))]
        first = next((k for k, d in enumerate(found) if np.isfinite(d)), None)
        distance = np.inf if first is None else found[first]
        assert search.column.distance[i] == distance
        assert [k for j, k in world.runs if j == i] == list(range(len(found) if first is None else first + 1))
        for k, level in enumerate(world.levels):
            if distance > level:
                assert cells[i, k] == Cell.ROBUST
            elif first is not None and k > first:
                assert cells[i, k] == Cell.BROKEN_ENVELOPE
            else:
                assert cells[i, k] == (Cell.BROKEN if k == first else Cell.BROKEN_OVERRULED)


@settings(max_examples=80, deadline=None)
@given(worlds(faithful=True))
def test_frontier_of_an_optimal_attack_is_the_truth_at_one_failing_run(world):
    world.blind[:] = False
    column = world.search("frontier").column
    truth = np.array(
        [[world.adversarial[i, round(e * FINE)] for e in world.levels] for i in range(len(world.answer))]
    )
    np.testing.assert_array_equal(column.broken(), truth)
    for i in range(len(truth)):
        runs = [k for j, k in world.runs if j == i]
        assert sum(not truth[i, k] for k in runs) == (not truth[i].all()), "one failing run per frontier"
        assert sum(truth[i, k] for k in runs) <= 1, "the ladder walks down from the first success"


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_independent_verdicts_are_those_of_every_cell(world):
    column = world.search("independent").column
    expected = np.array(
        [
            [np.isfinite(world.verified(i, k)) for k in range(len(world.levels))]
            for i in range(len(world.answer))
        ]
    )
    np.testing.assert_array_equal(column.verified, expected)
    np.testing.assert_array_equal(column.failed, ~expected)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_rejected_claims_are_counted(world):
    search = world.search("exact")
    claimed = [(i, k) for i, k in world.runs if world.answer[i, k] > 0]
    assert search.rejected_claims == sum(not np.isfinite(world.verified(i, k)) for i, k in claimed)


def continued(world: World, mode: str, old: list[int]) -> tuple[Column, list[tuple[int, int]]]:
    """Search only some levels, then all of them with what is known."""
    part = World(
        world.levels[old], world.adversarial, world.answer[:, old], world.blind[:, old], world.warm[:, old]
    )
    first = part.search(mode).column
    known = Known(first.levels, first.distance, first.searched(), first.cells())
    column = Column.fresh(len(world.answer), world.levels)
    column.take_over(known, np.ones(len(world.answer), dtype=bool), "linf")
    pending = column.pending(mode)
    world.runs.clear()
    column = world.search(mode, column).column
    assert set(np.flatnonzero(pending)) == {i for i, _ in world.runs}
    for i, k in world.runs:
        assert k not in old or not np.isfinite(world.verified(i, k)), "a known cell was attacked again"
    return column, list(world.runs)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data(), st.sampled_from(["exact", "frontier"]))
def test_continuing_attacks_only_what_is_open(world, data, mode):
    world.blind[:] = False
    count = len(world.levels)
    old = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count)))
    before = World(
        world.levels[old], world.adversarial, world.answer[:, old], world.blind[:, old], world.warm
    )
    first = before.search(mode).column
    column, runs = continued(world, mode, old)
    bracket_low, bracket_high = first.searched(), first.distance
    for i, k in runs:
        assert world.levels[k] < bracket_high[i]
        if mode == "frontier" and bracket_low[i] >= world.levels[k]:
            # Only after a new adversarial proved the old failure wrong.
            assert column.distance[i] <= bracket_low[i]
    if len(old) == count:
        assert runs == []
    assert (column.distance <= first.distance).all(), "an adversarial was forgotten"
    assert not (column.cells() == Cell.PENDING).any()


@settings(max_examples=60, deadline=None)
@given(worlds(faithful=True), st.data(), st.sampled_from(["exact", "frontier"]))
def test_continuing_with_an_optimal_attack_equals_computing_at_once(world, data, mode):
    world.blind[:] = False
    count = len(world.levels)
    old = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count)))
    at_once = world.search(mode).column
    column, _ = continued(world, mode, old)
    np.testing.assert_array_equal(column.distance, at_once.distance)
    np.testing.assert_array_equal(column.broken(), at_once.broken())


def test_an_old_failure_above_the_new_adversarial_is_overruled():
    levels = np.array([4, 8, 16]) / FINE
    adversarial = np.zeros((1, FINE + 1), dtype=bool)
    adversarial[0, [4, 8, 16]] = True
    world = World(levels, adversarial, np.array([[0, 0, 16]]), np.zeros((1, 3), bool), np.zeros((1, 3), int))
    column, runs = continued(world, "frontier", [1])
    assert runs == [(0, 2)]
    assert column.distance[0] == 4 / FINE
    assert list(column.cells()[0]) == [Cell.BROKEN, Cell.BROKEN_OVERRULED, Cell.BROKEN]


def test_a_distance_decides_all_levels_of_a_minimum_norm_attack():
    column = Column.fresh(3, np.array([0.25, 0.5]))
    column.distance[:] = [0.3, np.inf, 0.5]
    column.settle(np.arange(3))
    assert column.cells().tolist() == [[5, 2], [5, 5], [5, 2]]
    searched = column.searched()
    for epsilon in (0.1, 0.29, 0.3, 0.31, 0.5, 0.7):
        np.testing.assert_array_equal(searched >= epsilon, outcomes.broken(column.distance, epsilon) == 0)


@pytest.mark.parametrize("mode", ["exact", "frontier"])
def test_one_level_and_one_sample(mode):
    world = World(
        np.array([0.5]),
        np.zeros((1, FINE + 1), bool),
        np.zeros((1, 1), int),
        np.zeros((1, 1), bool),
        np.zeros((1, 1), int),
    )
    assert world.search(mode).column.cells().tolist() == [[5]]
