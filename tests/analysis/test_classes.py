"""Class accuracies and the yardstick of their spread against simulation and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from handmade_cube import handmade_cube
from scipy import stats

from metaeval.analysis import classes


def test_expected_range_by_enumeration() -> None:
    sizes, p = (2, 3, 3), 0.3
    expected = 0.0
    for counts in itertools.product(*(range(size + 1) for size in sizes)):
        chance = np.prod([stats.binom.pmf(k, n, p) for k, n in zip(counts, sizes, strict=True)])
        shares = [k / n for k, n in zip(counts, sizes, strict=True)]
        expected += chance * (max(shares) - min(shares))
    assert classes.expected_range(p, sizes) == pytest.approx(expected)


def test_expected_range_of_cifar_subset() -> None:
    # statistics.md: ten identical classes of 50 samples at p = .5 show a range of about 22 points.
    assert classes.expected_range(0.5, [50] * 10) == pytest.approx(0.22, abs=0.005)
    draws = np.random.default_rng(0).binomial(50, 0.5, (20_000, 10)) / 50
    assert classes.expected_range(0.5, [50] * 10) == pytest.approx(np.ptp(draws, axis=1).mean(), abs=0.002)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_expected_range_vanishes_at_the_ends(p: float) -> None:
    assert classes.expected_range(p, [50, 20]) == pytest.approx(0)


def test_expected_range_without_classes() -> None:
    assert np.isnan(classes.expected_range(0.5, [0, 0]))
    assert classes.expected_range(0.5, [10]) == pytest.approx(0)


def test_spread() -> None:
    worst, best, observed, expected = classes.spread([5, 9, 0, 1], [10, 10, 0, 10])
    assert (worst, best) == (3, 1)
    assert observed == pytest.approx(0.8)
    assert expected == pytest.approx(classes.expected_range(0.5, [10, 10, 10]))
    assert classes.spread([5, np.nan], [10, 10])[0] == -1
    assert classes.spread([5], [10])[0] == -1


def test_from_cube() -> None:
    cube = handmade_cube(failed={("linf", "robust", "apgd-ce"): "x"})
    face = classes.from_cube(cube, "linf")
    stored = cube["linf"]["robust_accuracy"]
    np.testing.assert_allclose(face["accuracy"].transpose(*stored.dims), stored)
    assert np.isnan(face["accuracy"].sel(model="robust", attack="worst-case")).all()
    assert face["accuracy"].dims == ("model", "class", "epsilon", "attack")
