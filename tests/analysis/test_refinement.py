"""Proposed epsilons against a fine uniform grid and models whose crossing is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from handmade_cube import handmade_cube
from test_crossings import TRUE_CROSSING, crossing_models

from metaeval import refining
from metaeval.analysis import crossings, rankings, refinement
from metaeval.errors import UsageError


def refined(a: np.ndarray, b: np.ndarray, budget: int, tolerance: float) -> tuple[np.ndarray, str]:
    levels, reason = [0.0, 0.75, 1.5, 2.25, 3.0], "budget"
    while len(levels) < budget:
        proposal = refinement.propose(a, b, levels, tolerance)
        if proposal.reason != "refine":
            reason = proposal.reason
            break
        low, high = proposal.cell
        assert low + (high - low) / 4 - 1e-12 <= proposal.epsilon <= high - (high - low) / 4 + 1e-12
        levels.append(proposal.epsilon)
    return np.sort(levels), reason


def test_few_epsilons_do_what_a_uniform_grid_needs_many_for() -> None:
    random, narrower = np.random.default_rng(0), []
    for _ in range(8):
        a, b = crossing_models(random, 4000)
        levels, _ = refined(a, b, 21, 0.005)
        mine = crossings.certified(a, b, epsilons=levels)
        uniform = crossings.certified(a, b, epsilons=np.linspace(0, 3, 101))
        assert mine.count == uniform.count == 1
        assert mine.brackets[0, 0] <= TRUE_CROSSING <= mine.brackets[0, 1]
        narrower.append(np.diff(mine.brackets[0])[0] / np.diff(uniform.brackets[0])[0])
        assert len(levels) <= 21
    assert np.mean(narrower) < 1


def test_reasons_to_stop() -> None:
    a, b = crossing_models(np.random.default_rng(1), 1500)
    assert refinement.propose(a, b, [0, 0.75, 2], 5.0).reason == "tolerance"
    assert refinement.propose(a, a, [0, 0.75, 2], 0.1).reason == "none"
    levels, reason = refined(a, b, 200, 1e-9)
    assert reason == "samples"  # few samples cannot use a billionth
    assert len(levels) < 60
    with pytest.raises(UsageError, match="tolerance"):
        refinement.propose(a, b, [0, 1], 0.0)


def test_decided_cells_hold_between_the_levels() -> None:
    a, b = crossing_models(np.random.default_rng(2), 4000)
    levels = np.linspace(0, 3, 31)
    sign = refinement.decided_cells(a, b, levels)
    fine = crossings.certified(a, b, epsilons=np.linspace(0, 3, 301))
    for cell, (low, high) in enumerate(pairwise(levels)):
        inside = (fine.epsilons >= low - 1e-12) & (fine.epsilons <= high + 1e-12)
        if sign[cell]:
            assert (np.sign(fine.difference[inside]) == sign[cell]).all()
    assert (sign[levels[1:] < TRUE_CROSSING] <= 0).all()
    assert (sign[levels[:-1] > TRUE_CROSSING] >= 0).all()
    assert {-1, 1} <= set(sign.tolist())
    assert sign[np.searchsorted(levels, TRUE_CROSSING) - 1] == 0
    assert refinement.decided_cells(a, b, [0.5]).shape == (0,)


def test_equal_curves_are_never_decided() -> None:
    random, false = np.random.default_rng(3), 0
    for _ in range(40):
        a, b = random.exponential(size=300) * random.uniform(0.5, 1.5, size=(2, 300))
        false += bool(refinement.decided_cells(a, b, np.linspace(0, 2, 11)).any())
    assert false / 40 <= 0.05


def test_proposals_of_a_cube() -> None:
    distance = np.full((3, 1, 200), np.inf)
    distance[0, 0, :60], distance[1, 0, 60:200] = 1 / 255, 4 / 255
    cube = handmade_cube(samples=200, attacks=["x"], distances={"linf": distance})
    table = refinement.from_cube(cube, "linf", tolerance=1e-4)
    assert table["reason"].tolist() == ["refine", "none", "none"]
    assert table[["first", "second"]].values[0].tolist() == ["plain", "robust"]
    assert table["low"][0] == 2 / 255 < table["epsilon"][0] < table["high"][0] == 4 / 255
    assert refinement.from_cube(handmade_cube(models=["m"]), "linf", 0.1).empty


def test_what_the_rankings_certify_is_refined() -> None:
    # Nine copies of two models: the band of all pairs together is that of one, 36 bounds would be far wider.
    distance = np.full((9, 1, 400), np.inf)
    distance[::2, 0, :10], distance[1::2, 0, 10:31] = 0, 0  # 11 / sqrt(31): two standard errors
    distance[::2, 0, 31:100] = 4 / 255
    cube = handmade_cube(
        models=[f"m{i}" for i in range(9)], samples=400, attacks=["x"], distances={"linf": distance}
    )
    ranked = rankings.from_cube(cube, "linf", alpha=0.2)
    table = refinement.from_cube(cube, "linf", tolerance=1e-9, alpha=0.2)
    assert (table["reason"] != "none").sum() == (ranked["count"].values > 0).sum() == 20


def test_a_cube_without_samples_has_nothing_to_refine() -> None:
    """As imported ones: accuracies at epsilons, but nothing of single samples."""
    cube = handmade_cube()
    assert refining.advise(cube).pairs
    del cube["samples"]
    advice = refining.advise(cube)
    assert advice.next is None
    assert advice.pairs == []
    assert "the cube holds no such outcomes" in advice.sentence()
