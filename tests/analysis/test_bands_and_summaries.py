"""Bands, areas, quantiles and differences of curves against closed forms, enumeration and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.proportion import proportion_confint

from metaeval.analysis import bands, curves
from metaeval.errors import UsageError

distances = st.lists(
    st.one_of(st.just(0.0), st.just(np.inf), st.floats(0.01, 3.0)), min_size=1, max_size=40
).map(np.array)


def test_coverage_closed_forms() -> None:
    # One point has to fall between its two quantiles.
    assert bands.coverage(1, 0.1) == pytest.approx(0.9, abs=1e-12)
    # Two points: integrate the joint density of the order statistics.
    low, high = stats.beta.ppf([0.05, 0.95], [[1], [2]], [[2], [1]]).T
    expected = integrate.dblquad(
        lambda y, x: 2.0, low[0], high[0], lambda x: max(x, low[1]), lambda x: high[1]
    )
    assert bands.coverage(2, 0.1) == pytest.approx(expected[0], abs=1e-8)


def test_coverage_by_simulation() -> None:
    n, draws = 30, 40_000
    points = np.sort(np.random.default_rng(0).random((draws, n)), axis=1)
    rank = np.arange(1, n + 1)
    low, high = stats.beta.ppf([[0.01], [0.99]], rank, n + 1 - rank)
    share = ((points > low) & (points < high)).all(axis=1).mean()
    assert abs(bands.coverage(n, 0.02) - share) < 4 * np.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize("n", [1, 7, 200, 3000])
def test_local_level_reaches_the_confidence(n: int) -> None:
    level = bands.local_level(n, 0.95)
    assert 0.95 - 1e-12 <= bands.coverage(n, level) < 0.9502
    assert bands.local_level(n, 0.95, 1) == pytest.approx(0.05)
    assert bands.local_level(n, 0.95, 10**6) == level


def test_clopper_pearson_equals_statsmodels() -> None:
    k = np.arange(13)
    mine, theirs = bands.clopper_pearson(k, 12, 0.1), proportion_confint(k, 12, 0.1, "beta")
    np.testing.assert_allclose(mine, theirs, atol=1e-12)
    assert np.isnan(bands.clopper_pearson([np.nan], 5, 0.1)).all()


def test_simultaneous_bands_cover_the_whole_curve() -> None:
    random, n, repeats = np.random.default_rng(1), 60, 400
    missed = {"dkw": 0, "simultaneous": 0, "wilson": 0}
    for _ in range(repeats):
        d = random.exponential(size=n)
        curve = curves.robustness_curve(d)
        # Just before each step the old value still holds, so both ends of every stretch are compared.
        ends = np.append(curve.epsilons[1:], np.inf)
        top, bottom = np.exp(-curve.epsilons), np.exp(-ends)
        for name, (lower, upper) in {
            "dkw": curve.dkw,
            "simultaneous": curve.simultaneous,
            "wilson": (curve.lower, curve.upper),
        }.items():
            missed[name] += bool(((lower > bottom) | (upper < top)).any())
    assert missed["dkw"] / repeats < 0.08
    assert 0.02 < missed["simultaneous"] / repeats < 0.08
    assert missed["wilson"] / repeats > 0.2  # point by point is not all at once


@given(distances, st.lists(st.floats(0, 4), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_curve_properties(d: np.ndarray, epsilons: list[float]) -> None:
    e = np.sort(epsilons)
    curve = curves.robustness_curve(d, e)
    assert (np.diff(curve.accuracy) <= 0).all()
    assert curve.accuracy.tolist() == [np.mean([not x <= level * (1 + 1e-9) for x in d]) for level in e]
    for lower, upper in (curve.dkw, curve.simultaneous, (curve.lower, curve.upper)):
        assert (lower <= curve.accuracy + 1e-12).all()
        assert (curve.accuracy <= upper + 1e-12).all()
        assert (np.diff(lower) <= 1e-12).all()


def test_steps_end_where_a_curve_is_censored() -> None:
    assert curves.steps([0.1, 0.4, 0.9]).tolist() == [0, 0.1, 0.4, 0.9]
    assert curves.steps([0.1, 0.4, np.inf], [0.2, 0.3, 2.0]).tolist() == [0, 0.1, 0.2, 0.3, 0.4]
    assert curves.steps([np.inf, np.inf], [0.2, 0.3]).tolist() == [0]


def test_area_is_the_integral_of_the_curve() -> None:
    d = np.array([0.0, 0.2, 0.5, 0.5, 1.7, np.inf])
    fine = np.linspace(0, 1.2, 120_001)
    curve = curves.robustness_curve(d, fine).accuracy
    assert curves.area(d, 1.2).value == pytest.approx(integrate.trapezoid(curve, fine), abs=1e-4)
    for share in (0.0, 0.3, 1.0):  # only two distances: the interval of a share
        k = round(50 * share)
        found = curves.area(np.where(np.arange(50) < k, np.inf, 0.0), 0.25, 0.9)
        expected = proportion_confint(k, 50, 0.1, "agresti_coull")
        assert (4 * found.lower, 4 * found.upper) == pytest.approx(np.clip(expected, 0, 1), abs=1e-12)


def test_area_interval_covers() -> None:
    random, hits = np.random.default_rng(2), 0
    for _ in range(1000):
        found = curves.area(random.exponential(size=40), 1.5)
        hits += bool(found.lower <= 1 - np.exp(-1.5) <= found.upper)
    assert 0.93 < hits / 1000 < 0.98


def test_paired_areas() -> None:
    random = np.random.default_rng(3)
    a = random.exponential(size=300)
    found = curves.area_difference(a, a + 0.1, 10.0)
    assert float(found.value) == pytest.approx(-0.1, abs=1e-3)
    both = curves.area(a, 10.0), curves.area(a + 0.1, 10.0)
    assert found.value == pytest.approx(both[0].value - both[1].value)
    with pytest.raises(UsageError, match="positive"):
        curves.area(a, np.inf)


@given(distances, st.sampled_from([0.25, 0.5, 0.75, 1.0]))
@settings(max_examples=50, deadline=None)
def test_quantile_is_the_first_epsilon_that_breaks_the_share(d: np.ndarray, share: float) -> None:
    found = curves.quantile(d, share)
    candidates = np.unique(d)
    assert float(found.value) == min(c for c in candidates if np.mean(d <= c) >= share - 1e-9)
    assert found.lower <= found.value <= found.upper


def test_quantile_interval_covers_and_censors() -> None:
    random = np.random.default_rng(4)
    d = random.exponential(size=(2000, 25))
    d[d > 1.0] = np.inf
    found = curves.quantile(d)
    hits = (found.lower <= np.log(2)) & (np.log(2) <= found.upper)
    assert 0.95 - 0.01 < hits.mean() < 0.985  # exact coverage is .9567
    assert np.isinf(found.upper).any()
    assert np.isnan(curves.quantile([np.nan, 1.0]).value)
    assert float(curves.quantile([0.3]).upper) == np.inf


def test_difference_has_a_band_for_all_levels() -> None:
    random, hits = np.random.default_rng(5), 0
    epsilons = np.linspace(0.1, 1.5, 8)
    for _ in range(150):
        base = random.exponential(size=200)
        a, b = base * random.uniform(0.5, 1.5, 200), random.exponential(size=200)
        found = curves.difference(a, b, epsilons)
        # d / u > e for u uniform on [.5, 1.5]: survival of the product, by integration
        truth = [integrate.quad(lambda u, e=e: np.exp(-e / u), 0.5, 1.5)[0] - np.exp(-e) for e in epsilons]
        hits += bool(((found.lower <= truth) & (truth <= found.upper)).all())
    assert hits / 150 > 0.9


def test_difference_of_models_that_hardly_differ_is_not_estimable() -> None:
    d = np.linspace(0.1, 1, 50)
    found = curves.difference(d, d, [0.5])
    assert found.difference.tolist() == [0]
    assert np.isnan([found.lower[0], found.upper[0], found.critical]).all()
    always = curves.difference(np.full(50, np.inf), np.zeros(50), [0.5])
    assert always.difference[0] == always.upper[0] == 1
    assert always.lower[0] == pytest.approx(1 - stats.norm.ppf(0.975) / 50)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="one distance per sample"):
        curves.difference([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="not computed"):
        curves.difference([np.nan, 2.0], [1.0, 1.0], [0.5])
    with pytest.raises(UsageError, match="share"):
        curves.quantile([1.0], 0.0)
    with pytest.raises(UsageError, match="confidence"):
        bands.local_level(3, 1.0)
