"""Class accuracies and the yardstick of their spread against simulation and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from handmade_cube import handmade_cube

from metaeval.analysis import classes


def test_expected_range_by_enumeration() -> None:
    """Every way to choose the five correct ones among eight samples is as likely."""
    sizes = (2, 3, 3)
    label = np.repeat(range(3), sizes)
    ranges = [
        np.ptp(np.bincount(label[list(chosen)], minlength=3) / sizes)
        for chosen in itertools.combinations(range(8), 5)
    ]
    assert classes.expected_range(5, sizes) == pytest.approx(np.mean(ranges), abs=0.01)


def test_expected_range_of_cifar_subset() -> None:
    # statistics.md: ten identical classes of 50 samples at p = .5 show a range of about 22 points.
    assert classes.expected_range(250, [50] * 10) == pytest.approx(0.22, abs=0.005)


def test_one_survivor_always_stands_out_by_its_own_share() -> None:
    assert classes.expected_range(1, [12] * 10) == pytest.approx(1 / 12)
    _, _, observed, expected = classes.spread([0] * 9 + [1], [12] * 10)
    assert observed == pytest.approx(expected)


@pytest.mark.parametrize("correct", [0, 70])
def test_expected_range_vanishes_at_the_ends(correct: int) -> None:
    assert classes.expected_range(correct, [50, 20]) == 0


def test_expected_range_without_classes() -> None:
    assert np.isnan(classes.expected_range(0, [0, 0]))
    assert classes.expected_range(5, [10]) == 0


def test_spread() -> None:
    worst, best, observed, expected = classes.spread([5, 9, 0, 1], [10, 10, 0, 10])
    assert (worst, best) == (3, 1)
    assert observed == pytest.approx(0.8)
    assert expected == pytest.approx(classes.expected_range(15, [10, 10, 10]))
    assert classes.spread([5, np.nan], [10, 10])[0] == -1
    assert classes.spread([5], [10])[0] == -1


def test_from_cube() -> None:
    cube = handmade_cube(failed={("linf", "robust", "apgd-ce"): "x"})
    face = classes.from_cube(cube, "linf")
    stored = cube["linf"]["robust_accuracy"]
    np.testing.assert_allclose(face["accuracy"].transpose(*stored.dims), stored)
    assert np.isnan(face["accuracy"].sel(model="robust", attack="worst-case")).all()
    assert face["accuracy"].dims == ("model", "class", "epsilon", "attack")
