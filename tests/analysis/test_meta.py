"""Random effects against metafor's printed numbers, statsmodels, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.meta_analysis import combine_effects

from metaeval.analysis import literature, meta
from metaeval.errors import UsageError

# Colditz et al. 1994 (metafor's dat.bcg): tuberculosis cases and others, vaccinated and not; latitude.
TRIALS = np.array(
    [
        (4, 119, 11, 128, 44),
        (6, 300, 29, 274, 55),
        (3, 228, 11, 209, 42),
        (62, 13536, 248, 12619, 52),
        (33, 5036, 47, 5761, 13),
        (180, 1361, 372, 1079, 44),
        (8, 2537, 10, 619, 19),
        (505, 87886, 499, 87892, 13),
        (29, 7470, 45, 7232, 27),
        (17, 1699, 65, 1600, 42),
        (186, 50448, 141, 27197, 18),
        (5, 2493, 3, 2338, 33),
        (27, 16886, 29, 17825, 33),
    ],
    dtype=float,
)
a, b, c, d, LATITUDE = TRIALS.T
Y = np.log(a / (a + b)) - np.log(c / (c + d))
V = 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)
EXAMPLE_Y = (-0.581, 0.530, 0.771, 1.031, 0.553, 0.295, 0.078, 0.573, -0.176, -0.232)
EXAMPLE_V = (0.023, 0.052, 0.060, 0.115, 0.095, 0.203, 0.200, 0.211, 0.051, 0.040)


def test_vaccine_trials() -> None:
    found = meta.random_effects(Y, V, test="z")
    assert found.tau2 == pytest.approx(0.3132, abs=5e-5)
    assert found.i2 == pytest.approx(92.22, abs=5e-3)
    assert found.h2 == pytest.approx(12.86, abs=5e-3)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.degrees_of_freedom == 12
    assert found.estimate[0] == pytest.approx(-0.7145, abs=5e-5)
    assert found.standard_error[0] == pytest.approx(0.1798, abs=5e-5)
    assert (found.lower[0], found.upper[0]) == pytest.approx((-1.0669, -0.3622), abs=5e-5)
    assert found.prediction == pytest.approx([-1.8667, 0.4376], abs=5e-5)
    assert (found.tau2_lower, found.tau2_upper) == pytest.approx((0.1197, 1.1115), abs=5e-5)
    knapp_hartung = meta.random_effects(Y, V)
    assert (knapp_hartung.lower[0], knapp_hartung.upper[0]) == pytest.approx((-1.1084, -0.3206), abs=5e-5)
    laird = meta.random_effects(Y, V, method="DL")
    assert (laird.tau2, laird.estimate[0]) == pytest.approx((0.3088, -0.7141), abs=5e-5)


@pytest.mark.parametrize(
    ("level", "test", "expected"),
    [  # rma(..., level = ), predict and confint; metafor knows the ends of Q-profile to 1e-4 only
        (90, "z", (-1.010246621, -0.4188180633, -1.68145539, 0.2523907061, 0.1410, 0.9098)),
        (99, "knha", (-1.266767882, -0.1622968024, -2.511081849, 1.082017164, 0.0874, 1.6710)),
    ],
)
def test_other_levels(level: int, test: meta.Test, expected: tuple[float, ...]) -> None:
    found = meta.random_effects(Y, V, test=test, confidence=level / 100)
    assert (found.lower[0], found.upper[0], *found.prediction) == pytest.approx(expected[:4], abs=1e-8)
    assert (found.tau2_lower, found.tau2_upper) == pytest.approx(expected[4:], abs=1e-4)


def test_meta_regression_on_latitude() -> None:
    found = meta.random_effects(Y, V, LATITUDE, test="z")
    assert found.tau2 == pytest.approx(0.07634796, abs=1e-7)
    assert found.i2 == pytest.approx(68.39, abs=5e-3)
    assert found.h2 == pytest.approx(3.16, abs=5e-3)
    # metafor prints .0764: its Fisher scoring starts at the HE estimate and stops at a step below 1e-5.
    tau2, step = meta.random_effects(Y, V, LATITUDE, method="HE").tau2, 1.0
    x = np.column_stack([np.ones(len(Y)), LATITUDE])
    while abs(step) > 1e-5:
        weights = np.diag(1 / (V + tau2))
        p = weights - weights @ x @ np.linalg.solve(x.T @ weights @ x, x.T @ weights)
        step = (Y @ p @ p @ Y - np.trace(p)) / np.trace(p @ p)
        tau2 += step
    assert tau2 == pytest.approx(0.0764, abs=5e-5)
    assert found.estimate == pytest.approx([0.2515, -0.0291], abs=5e-5)
    assert found.standard_error == pytest.approx([0.2491, 0.0072], abs=5e-5)
    assert found.q == pytest.approx(30.7331, abs=5e-5)
    assert np.isnan(found.prediction).all()
    fitted, interval, prediction = found.predict([[30.0], [0.0]])
    assert fitted[1] == found.estimate[0]
    assert interval[1] == pytest.approx([found.lower[0], found.upper[0]])
    assert (prediction[:, 1] - prediction[:, 0] > interval[:, 1] - interval[:, 0]).all()


@pytest.mark.parametrize(
    ("method", "expected"), [("HE", 0.1484), ("DL", 0.2768), ("ML", 0.1967), ("REML", 0.2232), ("PM", 0.1920)]
)
def test_viechtbauer_example(method: meta.Method, expected: float) -> None:
    assert meta.random_effects(EXAMPLE_Y, EXAMPLE_V, method=method).tau2 == pytest.approx(expected, abs=5e-5)


def test_the_sentence_says_what_the_interval_covers() -> None:
    assert "-0.321 over the choice of studies; k = 13, REML, knha" in meta.random_effects(Y, V).sentence()
    fixed = meta.random_effects(Y, V, method="FE", test="z").sentence()
    assert "-0.351 over the samples of these studies" in fixed
    assert "prediction interval not estimable" in fixed
    same = meta.random_effects([0.5] * 12, V[:12]).sentence()
    assert "Average effect 0.5 (no interval: all estimates are the same" in same
    assert "prediction interval not estimable" in same
    assert "no interval" not in meta.random_effects([0.5] * 12, V[:12], test="adhoc").sentence()


@pytest.mark.parametrize("method", list(meta.ESTIMATORS))
def test_homogeneous_studies(method: meta.Method) -> None:
    found = meta.random_effects((0.10, 0.11, 0.09, 0.10, 0.105), [0.01] * 5, method=method)
    assert (found.tau2, found.tau2_lower, found.i2) == (0, 0, 0)
    assert np.isnan(found.prediction).all()
    assert "prediction interval not estimable (k = 5)" in found.sentence()


def test_statsmodels_agrees_where_it_is_right() -> None:
    theirs = combine_effects(Y, V, method_re="dl", use_t=False)
    mine = meta.random_effects(Y, V, method="DL", test="z")
    assert mine.tau2 == pytest.approx(theirs.tau2, abs=1e-10)
    assert mine.estimate[0] == pytest.approx(theirs.mean_effect_re, abs=1e-10)
    assert mine.standard_error[0] == pytest.approx(theirs.sd_eff_w_re, abs=1e-10)
    fixed = meta.random_effects(Y, V, method="FE", test="z")
    assert fixed.estimate[0] == pytest.approx(theirs.mean_effect_fe, abs=1e-10)
    paule = combine_effects(Y, V, method_re="iterated", atol=1e-12)
    assert meta.random_effects(Y, V, method="PM").tau2 == pytest.approx(paule.tau2, abs=1e-6)


@given(
    st.integers(3, 15).flatmap(
        lambda k: st.tuples(
            st.lists(st.floats(-2, 2), min_size=k, max_size=k),
            st.lists(st.floats(0.01, 2), min_size=k, max_size=k),
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_properties(data: tuple[list[float], list[float]]) -> None:
    y, v = np.array(data[0]), np.array(data[1])
    for method in meta.ESTIMATORS:
        normal = meta.random_effects(y, v, method=method, test="z")
        cautious = meta.random_effects(y, v, method=method, test="adhoc")
        assert normal.tau2 >= 0
        assert 0 <= normal.i2 < 100 + 1e-9
        assert normal.tau2_lower <= normal.tau2_upper
        assert cautious.upper - cautious.lower >= normal.upper - normal.lower
        shifted = meta.random_effects(3 * y + 1, 9 * v, method=method, test="z")
        assert shifted.tau2 == pytest.approx(9 * normal.tau2, rel=1e-4, abs=1e-6)
        assert shifted.estimate[0] == pytest.approx(3 * normal.estimate[0] + 1, rel=1e-4, abs=1e-6)


def minus_log_likelihood(t: float, y: np.ndarray, v: np.ndarray, x: np.ndarray) -> float:
    """Restricted, by dense matrices."""
    covariance = np.diag(v + t)
    inverse = np.linalg.inv(covariance)
    information = x.T @ inverse @ x
    r = y - x @ np.linalg.solve(information, x.T @ inverse @ y)
    return float(np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1] + r @ inverse @ r) / 2


def test_reml_maximises_the_restricted_likelihood() -> None:
    random = np.random.default_rng(0)
    for _ in range(15):
        k = int(random.integers(4, 12))
        v = random.uniform(0.01, 0.5, k)
        m = random.normal(size=k)
        y = random.normal(size=k) * np.sqrt(v + random.choice([0, 0.3])) + 0.5 * m
        x = np.column_stack([np.ones(k), m])
        best = optimize.minimize_scalar(
            minus_log_likelihood, bounds=(0, 10), args=(y, v, x), method="bounded", options={"xatol": 1e-9}
        )
        found = meta.random_effects(y, v, m).tau2
        least = min(best.fun, minus_log_likelihood(0.0, y, v, x))
        assert minus_log_likelihood(found, y, v, x) <= least + 1e-9


def test_equal_variances_have_a_closed_form() -> None:
    y = np.array([0.1, 0.7, -0.3, 1.2, 0.4, 0.9])
    for method in ("DL", "HE", "REML", "PM"):
        found = meta.random_effects(y, np.full(6, 0.05), method=method)
        assert found.tau2 == pytest.approx(y.var(ddof=1) - 0.05)
        # With equal variances Knapp and Hartung's interval is Student's.
        expected = stats.t.interval(0.95, 5, y.mean(), stats.sem(y))
        assert (found.lower[0], found.upper[0]) == pytest.approx(expected)


def test_knapp_hartung_covers_where_the_normal_does_not() -> None:
    random, hits = np.random.default_rng(1), {"knha": 0, "z": 0}
    for _ in range(300):
        v = random.uniform(0.02, 0.3, 6)
        y = 0.5 + random.normal(size=6) * np.sqrt(v + 0.2)
        for test in hits:
            found = meta.random_effects(y, v, method="DL", test=test)
            hits[test] += bool(found.lower[0] <= 0.5 <= found.upper[0])
    assert hits["knha"] / 300 > 0.92
    assert hits["z"] < hits["knha"]


@pytest.mark.parametrize(
    ("y", "v", "moderators", "message"),
    [
        ([1.0], [1.0], None, "not estimable: 1 studies"),
        ([1.0, 2.0], [1.0, 0.0], None, "positive"),
        ([1.0, np.nan], [1.0, 1.0], None, "finite"),
        ([1.0, 2.0], [1.0], None, "one value per study"),
        ([1.0, 2.0, 3.0], [1.0] * 3, [1.0, 1.0, 1.0], "collinear"),
        ([1.0, 2.0, 3.0], [1.0] * 3, [1.0, 2.0], "one row per study"),
    ],
)
def test_refusals(y: list[float], v: list[float], moderators: list[float] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        meta.random_effects(y, v, moderators)


def test_words_as_a_moderator() -> None:
    with pytest.raises(UsageError, match="a factor is columns of 0 and 1"):
        meta.random_effects(Y, V, ["random"] * 6 + ["other"] * 7)


def test_unknown_words_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'REML'"):
        meta.random_effects(Y, V, method="RELM")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="allowed: adhoc, knha, z"):
        meta.random_effects(Y, V, test="t")  # type: ignore[arg-type]


def test_small_study_tests_of_the_vaccine_trials() -> None:
    # metafor: regtest(..., model="lm") and ranktest
    assert literature.egger(Y, V) == pytest.approx((-1.4013, 0.1887), abs=5e-5)
    assert literature.rank_test(Y, V) == pytest.approx((0.0256, 0.9524), abs=5e-5)
    with pytest.raises(UsageError, match="different precision"):
        literature.egger([1.0, 2.0, 3.0], [0.1] * 3)
    # Where all estimates are the same, what is left of them is rounding.
    with pytest.raises(UsageError, match="lie on a line"):
        literature.egger([0.5] * 12, np.linspace(0.01, 0.12, 12))
    for variances, message in (([0.1, -0.2, 0.3], "positive"), ([0.1, 0.2], "one value per study")):
        for test in (literature.egger, literature.rank_test):
            with pytest.raises(UsageError, match=message):
                test([0.1, 0.2, 0.3], variances)
    with pytest.raises(UsageError, match="do not fit together"):
        literature.correlations([0.3, 0.2], [10, 20, 30])
    for estimates, variances in (([0.5] * 4, [0.1, 0.2, 0.3, 0.4]), ([0.1, 0.2, 0.3, 0.4], [0.1] * 4)):
        with pytest.raises(UsageError, match="different estimates and variances"):
            literature.rank_test(estimates, variances)


def test_years_as_a_moderator_cost_no_digits() -> None:
    random = np.random.default_rng(3)
    years = 2020 + np.arange(16) / 8
    v = 10 ** random.uniform(-4, 0, 16)
    y = random.normal(size=16) * np.sqrt(v)
    raw, centred = (meta.random_effects(y, v, m, method="DL") for m in (years, years - 2020))
    assert raw.estimate[1] == pytest.approx(centred.estimate[1], rel=1e-11)
    assert raw.standard_error[1] == pytest.approx(centred.standard_error[1], rel=1e-11)


def test_correlations_of_studies() -> None:
    r, n = np.array([0.5, 0.3, 0.6, 0.45]), np.array([20, 40, 10, 100])
    z, v = literature.fisher_z(r, n)
    np.testing.assert_allclose(z, 0.5 * np.log((1 + r) / (1 - r)))
    np.testing.assert_allclose(v, 1 / (n - 3))
    np.testing.assert_allclose(literature.fisher_z(r, n, rank=True)[1], (1 + r**2 / 2) / (n - 3))
    found = literature.correlations(r, n)
    assert found.tau2 == meta.random_effects(z, v).tau2
    small, large = literature.correlations([0.3] * 12, 10), literature.correlations([0.3] * 12, 20)
    assert np.isnan(small.prediction).all()
    assert not np.isnan(large.prediction).any()
    for bad in (([1.0], [10]), ([0.5], [3])):
        with pytest.raises(UsageError, match="Fisher"):
            literature.fisher_z(*bad)


def test_forest_and_funnel() -> None:
    found = meta.random_effects(Y, V, test="z")
    table = literature.forest(Y, V, found)
    assert table["weight"].sum() == pytest.approx(100)
    assert (table["weight"] * table["estimate"]).sum() / 100 == pytest.approx(found.estimate[0])
    region = literature.funnel(V, found)
    assert region["lower"].iloc[0] == region["upper"].iloc[0] == found.estimate[0]
    assert region["standard_error"].max() == pytest.approx(np.sqrt(V.max()))
