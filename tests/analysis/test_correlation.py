"""Correlations against scipy, a published table, brute force and simulation of families."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metaeval.analysis import correlation, resampling
from metaeval.errors import UsageError

ROBUSTBENCH = Path(os.environ["METAEVAL_SHARED_DATA"]) / "robustbench_model_info.zip"
PAIRS = [
    (resampling.pearson, stats.pearsonr),
    (resampling.spearman, stats.spearmanr),
    (resampling.kendall, stats.kendalltau),
]


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_resampled_correlations_equal_scipy(mine, theirs) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 6)), random.normal(size=(40, 4))
    x[:, 0], x[:, 1], y[:, 0] = 3.7, random.integers(0, 3, 40), random.integers(0, 2, 40)
    x[:, 2] = np.r_[np.zeros(39), 1.0]  # constant in a third of the resamples
    weights = random.multinomial(40, np.full(40, 1 / 40), 30).astype(float)
    found = mine(x, y, weights)
    constant = 0
    for r, a, b in np.ndindex(found.shape):
        rows = np.repeat(np.arange(40), weights[r].astype(int))
        expected = theirs(x[rows, a], y[rows, b])[0]
        if np.isnan(expected):
            constant += 1
            assert np.isnan(found[r, a, b])
        else:
            assert abs(found[r, a, b] - expected) < 1e-12
    assert constant > 30 * 4


@given(st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_rank_correlations_do_not_change_with_scale(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 5, (n, 2)).astype(float), random.integers(0, 5, (n, 1)).astype(float)
    w = np.ones((1, n))
    for function in (resampling.spearman, resampling.kendall):
        one = function(x, y, w)
        np.testing.assert_allclose(function(np.exp(x), y, w), one, atol=1e-12)
        np.testing.assert_allclose(function(-x, y, w), -one, atol=1e-12)
        known = one[~np.isnan(one)]
        assert (np.abs(known) <= 1).all()


@pytest.mark.skipif(not ROBUSTBENCH.exists(), reason="shared data are not here")
def test_published_leaderboard() -> None:
    with zipfile.ZipFile(ROBUSTBENCH) as archive:
        files = [n for n in archive.namelist() if "cifar10/Linf/" in n and n.endswith(".json")]
        entries = [json.loads(archive.read(name)) for name in files]
    clean = np.array([[float(entry["clean_acc"])] for entry in entries])
    robust = np.array([[float(entry["autoattack_acc"])] for entry in entries])
    found = correlation.correlations(clean, robust, [entry["name"] for entry in entries]).isel(
        measure=0, notion=0
    )
    assert float(found["spearman"]) == pytest.approx(0.48766, abs=5e-6)
    # The design's reference: .23 to .68.
    assert (round(float(found["lower"]), 2), round(float(found["upper"]), 2)) == (0.23, 0.68)
    words = correlation.sentence(found, "clean accuracy", "robust accuracy")
    assert "rho = 0.49 (95 % family jackknife 0.23 to 0.68; 99 entries, 69 families)" in words


def families(random: np.random.Generator, groups: int, size: int, rho: float) -> tuple[np.ndarray, ...]:
    """Normal values of which 80 % of the variance is the family's; correlation rho at both levels."""
    covariance = [[1, rho], [rho, 1]]
    common = random.multivariate_normal([0, 0], covariance, groups)
    own = random.multivariate_normal([0, 0], covariance, groups * size)
    member = np.repeat(np.arange(groups), size)
    values = np.sqrt(0.8) * common[member] + np.sqrt(0.2) * own
    return values[:, :1], values[:, 1:], member


def test_family_jackknife_covers_where_fisher_does_not() -> None:
    random, repeats, hits = np.random.default_rng(1), 150, {"family": 0, "models": 0}
    rho = 0.5
    truth = 6 / np.pi * np.arcsin(rho / 2)
    for _ in range(repeats):
        x, y, member = families(random, 15, 5, rho)
        for name, group in (("family", member), ("models", None)):
            found = correlation.correlations(x, y, group)
            hits[name] += bool(found["lower"] <= truth <= found["upper"])
    # Once with range(1000): 94.9 % and 73.2 %.
    assert hits["family"] / repeats > 0.88
    assert hits["models"] / repeats < 0.8


def test_within_and_total_may_disagree() -> None:
    member = np.repeat(np.arange(6), 10)
    inside = np.tile(np.linspace(-1, 1, 10), 6)
    x = (10.0 * member + inside)[:, None]
    y = (10.0 * member - inside)[:, None]
    found = correlation.correlations(x, y, member).isel(measure=0, notion=0)
    assert float(found["spearman"]) > 0.9
    assert float(found["within"]) == pytest.approx(-1)
    assert float(found["icc_x"]) > 0.9
    without = [stats.spearmanr(x[member != g], y[member != g])[0] for g in range(6)]
    assert float(found["lowest"]) == pytest.approx(min(without))
    assert float(found["highest"]) == pytest.approx(max(without))


def test_within_interval_is_fishers_with_families_taken_off() -> None:
    random = np.random.default_rng(2)
    x, y, member = families(random, 4, 12, 0.6)
    found = correlation.correlations(x, y, member).isel(measure=0, notion=0)
    assert np.isnan(found["lower"])  # four families
    ranks = [stats.rankdata(v) for v in (x, y)]
    design = np.eye(4)[member]
    rests = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks]
    r = stats.pearsonr(*rests)[0]
    assert float(found["within"]) == pytest.approx(r)
    half = stats.norm.ppf(0.975) / np.sqrt(48 - 4 - 2)
    assert float(found["within_upper"]) == pytest.approx(np.tanh(np.arctanh(r) + half))


def test_partial_correlation_takes_the_coupling_away() -> None:
    random = np.random.default_rng(3)
    clean, robust = random.normal(size=(2, 3000))
    gap = clean - robust
    measure = clean + 0.01 * random.normal(size=3000)
    found = correlation.correlations(measure[:, None], gap[:, None], control=clean).isel(measure=0, notion=0)
    assert float(found["spearman"]) == pytest.approx(0.69, abs=0.05)
    assert abs(float(found["partial"])) < 0.1
    ranks = [stats.rankdata(v) for v in (measure, gap, clean)]
    rests = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert float(found["partial"]) == pytest.approx(stats.pearsonr(*rests)[0], abs=1e-9)
    determined = correlation.correlations(clean[:, None], gap[:, None], control=clean)
    assert np.isnan(determined["partial"]).all()


def test_missing_values_leave_out_models_pair_by_pair() -> None:
    random = np.random.default_rng(4)
    x, y = random.normal(size=(30, 3)), random.normal(size=(30, 2))
    x[:5, 0], y[3:9, 1], x[:, 2] = np.nan, np.nan, np.nan
    found = correlation.correlations(x, y)
    for i, j in np.ndindex(2, 2):
        rows = ~np.isnan(x[:, i]) & ~np.isnan(y[:, j])
        assert float(found["models"][i, j]) == rows.sum()
        assert float(found["spearman"][i, j]) == pytest.approx(stats.spearmanr(x[rows, i], y[rows, j])[0])
    assert np.isnan(found["spearman"][2]).all()
    assert (found["models"][2] == 0).all()
    words = correlation.sentence(found.isel(measure=2, notion=0), "m", "n")
    assert words == "Rank correlation of m with n not estimable (0 entries, 0 families)."


def test_weakest_notion() -> None:
    random = np.random.default_rng(5)
    common = random.normal(size=120)
    y = common[:, None] + 0.3 * random.normal(size=(120, 3))
    y[:, 2] = random.normal(size=120)
    x = np.stack([common, -common, random.normal(size=120)], axis=1)
    all_three = correlation.weakest(x, y)
    assert all_three["notion"].values[:2].tolist() == [2, 2]
    assert not all_three["holds"].any()
    two = correlation.weakest(x, y[:, :2])
    assert two["orientation"].values[:2].tolist() == [1, -1]
    assert two["holds"].values.tolist() == [True, True, False]
    assert (two["lower"] <= two["weakest"]).all()
    assert (two["weakest"] <= two["upper"]).all()


def test_largest_by_chance() -> None:
    random = np.random.default_rng(6)
    x, y = random.normal(size=(9, 1)), random.normal(size=(9, 1))
    p = correlation.largest_by_chance(x, y, permutations=4000)[0, 0]
    exact = stats.permutation_test(
        (x[:, 0],),
        lambda v: stats.spearmanr(v, y[:, 0])[0],
        permutation_type="pairings",
        n_resamples=3000,
        rng=np.random.default_rng(0),
    )
    assert p == pytest.approx(exact.pvalue, abs=0.04)
    claims = 0
    for seed in range(60):
        p = correlation.largest_by_chance(
            random.normal(size=(25, 4)), random.normal(size=(25, 5)), permutations=100, seed=seed
        )
        claims += bool((p <= 0.05).any())
    assert claims / 60 <= 0.15
    # Between blocks nothing may move: a relation that is only between blocks is no evidence.
    block = np.repeat(np.arange(5), 4)
    level = block[:, None].astype(float)
    assert correlation.largest_by_chance(level, level, block, permutations=50)[0, 0] == 1
    assert correlation.largest_by_chance(level, level, permutations=200)[0, 0] < 0.01


def test_permutations_leave_families_together() -> None:
    random = np.random.default_rng(8)
    family = np.repeat(list("abc"), 2)
    x, y = random.normal(size=(6, 1)), random.normal(size=(6, 1))
    pairs = [(2 * f, 2 * f + 1) for f in range(3)]
    orders = [
        [place for pair in families for place in pair]
        for chosen in itertools.permutations(pairs)
        for families in itertools.product(*([pair, pair[::-1]] for pair in chosen))
    ]
    assert len(orders) == 48
    r = np.array([abs(stats.spearmanr(x[:, 0], y[order, 0])[0]) for order in orders])
    p = correlation.largest_by_chance(x, y, family=family, permutations=4000)[0, 0]
    assert p == pytest.approx((r >= r[0] - 1e-12).mean(), abs=0.03)
    # Families that are alike inside make single models no evidence.
    claims = {"families": 0, "models": 0}
    family = np.repeat(np.arange(12), 4)
    for seed in range(80):
        x, y = (random.normal(size=(12, 2))[family] + random.normal(size=(48, 2)) / 2 for _ in range(2))
        for kind, own in (("families", family), ("models", None)):
            p = correlation.largest_by_chance(x, y, family=own, permutations=100, seed=seed)
            claims[kind] += bool((p <= 0.05).any())
    assert claims["families"] / 80 <= 0.14
    assert claims["models"] / 80 > 0.3


def test_reliability_and_adjustment() -> None:
    random = np.random.default_rng(7)
    truth, noise = random.normal(size=20_000), random.normal(size=20_000)
    assert correlation.reliability(truth + 0.5 * noise, np.full(20_000, 0.5)) == pytest.approx(0.8, abs=0.02)
    assert correlation.reliability(noise, np.full(20_000, 1.0)) == pytest.approx(0, abs=0.03)
    assert np.isnan(correlation.reliability([1.0, 1.0], [0.1, 0.1]))
    adjusted = correlation.benjamini_hochberg([0.01, 0.02, 0.03, 0.5])
    assert adjusted.tolist() == pytest.approx([0.04, 0.04, 0.04, 0.5])


def test_refusals() -> None:
    with pytest.raises(UsageError, match="model, measure"):
        correlation.correlations([1.0], [[1.0]])
    with pytest.raises(UsageError, match="finite values or NaN"):
        correlation.correlations([[1.0], [np.inf]], [[1.0], [2.0]])
    with pytest.raises(UsageError, match="one value for each"):
        correlation.correlations([[1.0], [2.0]], [[1.0], [2.0]], family=["a"])
    with pytest.raises(UsageError, match="one value for each of 2 models"):
        correlation.largest_by_chance([[1.0], [2.0]], [[1.0], [2.0]], family=["a"])
    with pytest.raises(UsageError, match="weights"):
        resampling.pearson([[1.0], [2.0]], [[1.0], [2.0]], [[0.0, 0.0]])


def test_one_model_is_one_model_and_nothing_is_estimable() -> None:
    found = correlation.correlations([[1.0, np.nan]], [[2.0]])
    assert found["models"].values.tolist() == found["families"].values.tolist() == [[1], [0]]
    assert np.isnan(found["spearman"]).all()
