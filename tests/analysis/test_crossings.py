"""Certified crossings against curves whose crossings are known, and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import optimize, stats

from metaeval.analysis import crossings, curves, thresholds
from metaeval.analysis.differences import critical_value, paired_differences
from metaeval.errors import UsageError

EPSILONS = np.linspace(0, 3, 61)
TRUE_CROSSING = optimize.brentq(lambda e: np.exp(-e) - stats.gamma.sf(e, 4, scale=0.25), 0.5, 2)


def crossing_models(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponential and gamma distances with a common part: the curves cross once, near 1.2."""
    normal = random.normal(size=(3, n))
    u = stats.norm.cdf(0.6 * normal[0] + 0.8 * normal[1:])
    return stats.expon.ppf(u[0]), stats.gamma.ppf(u[1], 4, scale=0.25)


def test_formulas_by_hand() -> None:
    random = np.random.default_rng(0)
    a, b = random.exponential(size=(2, 200))
    found = paired_differences(a, b, [0.3, 1.0])
    for level, epsilon in enumerate((0.3, 1.0)):
        first, second = np.sum((a > epsilon) & (b <= epsilon)), np.sum((b > epsilon) & (a <= epsilon))
        assert found.discordant[level] == first + second
        assert found.difference[level] == pytest.approx((first - second) / 200)
        squared = ((first + second) - (first - second) ** 2 / 200 + 1) / 200**2
        assert found.standard_error[level] == pytest.approx(np.sqrt(squared))
    s = (a[:, None] > [0.3, 1.0]).astype(float) - (b[:, None] > [0.3, 1.0])
    np.testing.assert_allclose(found.covariance, np.cov(s.T, bias=True), atol=1e-7)


def test_critical_value_of_one_and_of_two_levels() -> None:
    random = np.random.default_rng(1)
    a, b = random.exponential(size=(2, 500))
    one = paired_differences(a, b, [0.7])
    assert critical_value(one, 0.05) == pytest.approx(stats.norm.ppf(0.975), abs=0.03)
    assert critical_value(one, 1e-5) == pytest.approx(stats.norm.isf(5e-6))
    two = paired_differences(a, b, [0.3, 1.5])
    rho = two.covariance[0, 1] / np.sqrt(two.covariance[0, 0] * two.covariance[1, 1])
    joint = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    expected = optimize.brentq(lambda c: joint.cdf([c, c], lower_limit=[-c, -c]) - 0.95, 1, 3)
    assert critical_value(two, 0.05) == pytest.approx(expected, abs=0.03)


def test_equal_curves_seem_to_cross_and_are_never_certified_to() -> None:
    random = np.random.default_rng(2)
    naive, false = [], 0
    for _ in range(100):
        a, b = random.exponential(size=300) * random.uniform(0.5, 1.5, size=(2, 300))
        found = crossings.certified(a, b, epsilons=EPSILONS)
        naive.append(found.naive_count)
        false += found.count > 0
    # Once with range(1000) and n = 500: 2 false (95 % interval .02 to .7 %) at a nominal 5 %, 8.2 naive ones.
    assert false / 100 <= 0.05
    assert np.mean(naive) > 4


def test_no_leader_among_equal_models() -> None:
    # Each sample is wrong for good under one model with a chance of .15, else both break near 1.
    random, false, repeats = np.random.default_rng(8), 0, 1000
    for _ in range(repeats):
        u, d = random.random(300), random.uniform(0.9, 1.1, (2, 300))
        d[0, u < 0.15] = d[1, u > 0.85] = 0
        false += crossings.certified(*d, epsilons=[0, 0.5, 1]).sign.any()
    # 5.4 %; with one-sided bounds 9.4 %. What 1,000 show of a rate of 5 % with a chance of .999:
    assert false <= stats.binom.isf(0.001, repeats, 0.05)


def test_a_true_crossing_is_found_and_bracketed() -> None:
    random, counts, covered = np.random.default_rng(3), [], 0
    for _ in range(40):
        found = crossings.certified(*crossing_models(random, 1500), epsilons=EPSILONS)
        counts.append(found.count)
        covered += found.count == 1 and found.brackets[0, 0] <= TRUE_CROSSING <= found.brackets[0, 1]
    assert counts == [1] * 40
    assert covered >= 38


def test_default_levels_and_signs() -> None:
    a, b = crossing_models(np.random.default_rng(4), 2000)
    found = crossings.certified(a, b)
    assert len(found.epsilons) == 256
    assert found.count == 1
    np.testing.assert_array_equal(crossings.certified(b, a).brackets, found.brackets)
    np.testing.assert_array_equal(crossings.certified(b, a).sign, -found.sign)
    assert found.sign[found.epsilons < found.brackets[0, 0]].max() <= 0
    again = crossings.certified(a[::-1], b[::-1])
    np.testing.assert_array_equal(again.sign, found.sign)


def test_upper_bound_and_samples_needed() -> None:
    a, b = crossing_models(np.random.default_rng(5), 1000)
    found = crossings.certified(a, b, epsilons=[0, 0.5, 1, 1.5, 2])
    drops = np.mean(a <= 2), np.mean(b <= 2)
    assert found.upper_bound(0.1) == sum(int(drop // 0.2) for drop in drops)
    assert found.upper_bound(0.6) == 0
    needed = found.samples_needed(0.02)
    assert needed == pytest.approx((found.critical * found.standard_error.max() / 0.02) ** 2 * 1000, abs=1)
    assert found.detectable == pytest.approx(0.02 * np.sqrt(needed / 1000), rel=1e-3)
    # .3 / .1 is a little below 3 in floating point: the bound must not lose a crossing to that.
    exact = crossings.certified(np.r_[np.ones(3), np.full(7, 9.0)], np.full(10, 9.0), epsilons=[0, 2])
    assert exact.upper_bound(0.05) == 3
    for call in (found.upper_bound, found.samples_needed):
        with pytest.raises(UsageError, match="margin"):
            call(0.0)


def test_upper_bound_holds_for_staircases() -> None:
    # Two staircases that alternate by exactly the margin use all the room there is but one.
    epsilons = np.arange(9.0)
    accuracy_a = np.array([10, 8, 8, 6, 6, 4, 4, 2, 2]) / 10
    accuracy_b = np.array([9, 9, 7, 7, 5, 5, 3, 3, 1]) / 10

    def distances(accuracy: np.ndarray) -> np.ndarray:
        alive = np.rint(accuracy * 1000).astype(int)
        d = np.full(1000, np.inf)
        for level in range(len(epsilons) - 1, -1, -1):
            d[alive[level] :] = np.minimum(d[alive[level] :], epsilons[level])
        return d

    found = crossings.certified(distances(accuracy_a), distances(accuracy_b), epsilons=epsilons)
    assert found.naive_count == 8
    assert found.count <= 8 <= found.upper_bound(0.1) == 8


def test_changes_skip_undecided_levels() -> None:
    e = np.arange(7.0)
    sign = np.array([0, 1, 0, 0, -1, -1, 1], dtype=np.int8)
    assert crossings.changes(e, sign).tolist() == [[1, 4], [5, 6]]
    assert crossings.runs(e, sign) == [(1, 1, 1), (-1, 4, 5), (1, 6, 6)]
    assert crossings.changes(e, np.zeros(7)).shape == (0, 2)
    assert crossings.runs(e, np.zeros(7, dtype=np.int8)) == []


def test_words_are_true_for_every_outcome() -> None:
    d = np.linspace(0.1, 1, 50)
    same = crossings.certified(d, d)
    assert (same.count, same.naive_count, np.isnan(same.critical)) == (0, 0, True)
    assert "cannot be told apart" in same.sentences("A", "B")[0]
    with pytest.raises(UsageError, match="not estimable"):
        same.samples_needed(0.1)
    a, b = crossing_models(np.random.default_rng(6), 1500)
    words = crossings.certified(a, b, epsilons=EPSILONS).sentences("A", "B")
    assert "B is more accurate than A" in words[0]
    assert "A is more accurate than B" in words[1]
    assert words[-1].startswith("1 crossing certified: [")
    ahead = crossings.certified(a, a / 2, epsilons=[0, 0.5, 1]).sentences("A", "B")
    assert ahead[0].startswith("From 0.5 to 1, A is more accurate than B (simultaneous 95 % band")
    assert ahead[-1].startswith("No crossing certified on [0, 1]; margins below")
    undecided = crossings.certified(*np.random.default_rng(7).exponential(size=(2, 50)))
    assert undecided.naive_count > 0
    assert not undecided.sign.any()
    (said,) = undecided.sentences("A", "B")
    assert said.startswith("No crossing certified on [0, ")
    everything = crossings.certified(np.full(50, np.inf), np.zeros(50), epsilons=[0.0])
    assert everything.sign.tolist() == [1]
    assert everything.sentences("A", "B")[0].startswith("At 0, A is more accurate than B")


def test_refusals() -> None:
    with pytest.raises(UsageError, match="alpha"):
        crossings.certified([1.0], [2.0], alpha=1.5)
    with pytest.raises(UsageError, match="not computed"):
        crossings.certified([np.nan], [2.0])
    with pytest.raises(UsageError, match="one distance per sample"):
        crossings.certified([1.0, 2.0], [2.0])
    with pytest.raises(UsageError, match="at least one epsilon"):
        crossings.certified([1.0], [2.0], epsilons=[])


def test_labelled_arrays_must_agree() -> None:
    a, b = crossing_models(np.random.default_rng(9), 500)
    first = xr.DataArray(a, {"sample": np.arange(500)}, ("sample",))
    second = xr.DataArray(b, {"sample": np.arange(500)}, ("sample",))
    plain = crossings.certified(a, b, epsilons=EPSILONS)
    labelled = crossings.certified(first, second, epsilons=EPSILONS)
    np.testing.assert_array_equal(labelled.brackets, plain.brackets)
    for call in (crossings.certified, curves.difference):
        with pytest.raises(UsageError, match="sample by sample"):
            call(first, second[::-1])
    with pytest.raises(UsageError, match="sample by sample"):
        curves.area_difference(first, second[::-1], 1.0)
    with pytest.raises(UsageError, match="sample by sample"):
        thresholds.change_of_slope(first, second[::-1], 1.0)
