"""Agreement of rankings and robustness under shift against scipy, statsmodels and published predictions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from handmade_cube import handmade_cube
from scipy import special, stats

from metaeval.analysis import curves, shifts, transfer
from metaeval.errors import UsageError

PREDICTIONS = Path(os.environ["METAEVAL_SHARED_DATA"]) / "cifar10_predictions.npz"


def test_agreement_equals_scipy() -> None:
    random = np.random.default_rng(0)
    accuracy = np.linspace(0.3, 0.8, 8)[:, None]
    a, b = random.random((8, 300)) < accuracy, random.random((8, 300)) < accuracy[::-1]
    found = transfer.agreement(a, b, splits=50)
    assert found.tau == pytest.approx(stats.kendalltau(a.mean(axis=1), b.mean(axis=1)).statistic)
    assert found.weighted == pytest.approx(stats.weightedtau(a.mean(axis=1), b.mean(axis=1)).statistic)
    assert found.tau < -0.8
    assert found.halves == pytest.approx(-found.ceiling_first, abs=0.1)


def test_noise_ceiling_of_equal_models_is_low() -> None:
    random = np.random.default_rng(1)
    equal = random.random((6, 400)) < 0.5
    assert abs(transfer.agreement(equal, equal, splits=100).ceiling_first) < 0.35
    same = transfer.agreement(equal, equal, splits=100)
    assert same.tau == pytest.approx(1)  # of one ranking with itself, which is all noise
    assert same.halves == pytest.approx(same.ceiling_first, abs=0.1)
    ties = transfer.agreement(np.ones((3, 10)), equal[:3, :10])
    assert np.isnan([ties.tau, ties.weighted, ties.halves, ties.ceiling_first]).all()
    assert "not estimable" in ties.sentence("linf", "l2")


def test_certain_orders_by_hand() -> None:
    """Four models right on nested samples; the second norm swaps the last two."""
    right = [300, 200, 100, 40]
    first = np.arange(400) < np.array(right)[:, None]
    second = np.arange(400) < np.array([300, 200, 40, 100])[:, None]
    found = transfer.agreement(first, second, splits=10)
    assert (found.same, found.opposite, found.pairs) == (5, 1, 6)
    assert found.bounds == pytest.approx((4 / 6, 4 / 6))
    assert found.tau == pytest.approx(4 / 6)
    close = np.arange(400) < np.array([300, 200, 103, 100])[:, None]  # three samples: p = .25
    unsure = transfer.agreement(first, close, splits=10)
    assert (unsure.same, unsure.opposite) == (5, 0)
    assert unsure.bounds == pytest.approx((4 / 6, 1))


def test_bounds_hold_and_halves_come_to_the_ceiling_when_one_ranking_is_true() -> None:
    random = np.random.default_rng(7)
    p = np.linspace(0.3, 0.7, 10)[:, None]
    halves, ceilings, held = [], [], 0
    for _ in range(20):
        a, b = random.random((10, 200)) < p, random.random((10, 200)) < 0.2 + p / 2
        found = transfer.agreement(a, b, splits=10)
        halves.append(found.halves)
        ceilings.append(found.ceiling)
        held += found.bounds[0] <= 1 <= found.bounds[1]
    assert held >= 18
    assert np.mean(halves) == pytest.approx(np.mean(ceilings), abs=0.06)


def test_transfer_from_a_cube() -> None:
    levels = [(0.0, "0"), (0.01, "0.01")]
    cube = handmade_cube(norms={"linf": levels, "l2": levels}, samples=200, seed=2)
    found = transfer.from_cube(cube, ("linf", 0.01), ("l2", 0.01))
    sides = [
        curves.from_cube(cube, norm)["accuracy"].sel(attack="worst-case", epsilon=0.01).values
        for norm in ("linf", "l2")
    ]
    assert found.tau == pytest.approx(stats.kendalltau(*sides).statistic)
    assert "Rankings under linf and l2 agree with tau-b" in found.sentence("linf", "l2")
    broken = handmade_cube(norms={"linf": levels, "l2": levels}, failed={("l2", "plain", "square"): "x"})
    with pytest.raises(UsageError, match="there are 2"):
        transfer.from_cube(broken, ("linf", 0.01), ("l2", 0.01))
    with pytest.raises(UsageError, match="three models"):
        transfer.agreement(np.ones((2, 5)), np.ones((2, 5)))


@pytest.mark.parametrize("scale", ["logit", "probit", "linear"])
def test_effective_robustness_equals_statsmodels(scale: shifts.Scale) -> None:
    random = np.random.default_rng(3)
    p = random.uniform(0.5, 0.95, 12)
    q = special.expit(special.logit(p) - 0.7 + 0.1 * random.normal(size=12))
    baseline = np.arange(12) < 9
    q[11] += 0.08
    found = shifts.effective_robustness(p, q, baseline, scale, confidence=0.9)
    forward, back = shifts.SCALES[scale]
    for model in range(12):
        line = baseline & (np.arange(12) != model)
        fit = sm.OLS(forward(q[line]), sm.add_constant(forward(p[line]))).fit()
        at = np.array([[1.0, forward(p[model])]])
        frame = fit.get_prediction(at).summary_frame(alpha=0.1)
        expected = back(frame[["mean", "obs_ci_lower", "obs_ci_upper"]].to_numpy()[0])
        row = found.isel(model=model)
        assert float(row["expected"]) == pytest.approx(expected[0], abs=1e-10)
        assert float(row["lower"]) == pytest.approx(q[model] - expected[2], abs=1e-10)
        assert float(row["upper"]) == pytest.approx(q[model] - expected[1], abs=1e-10)
    if scale == "logit":
        assert float(found["lower"][11]) > 0


def test_models_without_a_finite_accuracy_are_not_estimable() -> None:
    p = np.array([0.6, 0.7, 0.8, 0.9, 0.95, 1.0, np.nan])
    q = np.array([0.4, 0.5, 0.65, 0.8, 0.9, 0.99, 0.5])
    found = shifts.effective_robustness(p, q)
    assert np.isnan(found["effective"].values).tolist() == [False] * 5 + [True] * 2
    assert found.attrs["baseline_models"] == 5
    assert not np.isnan(shifts.effective_robustness(p, q, scale="linear")["effective"].values[5])
    with pytest.raises(UsageError, match="one truth value for each of 4 models"):
        shifts.effective_robustness([0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.6, 0.7], [True])
    with pytest.raises(UsageError, match="not estimable: 3 baseline"):
        shifts.effective_robustness(p[:3], q[:3])
    with pytest.raises(UsageError, match="did you mean 'probit'"):
        shifts.effective_robustness(p, q, scale="probits")  # type: ignore[arg-type]


@pytest.mark.skipif(not PREDICTIONS.exists(), reason="shared data are not here")
def test_published_predictions() -> None:
    with np.load(PREDICTIONS) as data:
        clean = (data["prediction"] == data["label"]).mean(axis=1)
        shifted = (data["prediction_v4"] == data["label_v4"]).mean(axis=1)
        names = [str(name) for name in data["model"]]
    wide = names.index("wrn_28_10")
    assert (round(100 * clean[wide], 2), round(100 * shifted[wide], 2)) == (95.93, 89.71)
    found = shifts.effective_robustness(clean, shifted)
    # 30 ordinary models: their line is tight, and 95 % prediction intervals leave out about one or two.
    assert found.attrs["r2"] > 0.95
    outside = (found["lower"] > 0) | (found["upper"] < 0)
    assert outside.sum() <= 5


def test_gaps() -> None:
    found = shifts.gaps([0.8, 0.0], [[0.6, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(found["gap"].values, [[0.2, 0.4], [0, 0]])
    np.testing.assert_allclose(found["relative"].values, [[0.75, 0.5], [np.nan, np.nan]])
    with pytest.raises(UsageError, match="fit together"):
        shifts.gaps([0.8], [[0.6], [0.4]])


def test_mean_corruption_error_by_hand() -> None:
    baseline = np.array([[0.6, 0.4], [0.5, 0.3]])
    assert shifts.mean_corruption_error(baseline[None], baseline).tolist() == [1]
    accuracy = np.array([[[0.8, 0.7], [0.9, 0.5]], [[np.nan, 0.7], [0.9, 0.5]]])
    found = shifts.mean_corruption_error(accuracy, baseline)
    assert found[0] == pytest.approx((0.5 / 1.0 + 0.6 / 1.2) / 2)
    assert np.isnan(found[1])
    relative = shifts.mean_corruption_error(accuracy[:1], baseline, [0.95], 0.8)
    assert relative[0] == pytest.approx(((0.5 - 0.1) / (1.0 - 0.4) + (0.6 - 0.1) / (1.2 - 0.4)) / 2)
    with pytest.raises(UsageError, match="clean accuracy"):
        shifts.mean_corruption_error(accuracy, baseline, [0.95, 0.9])
    with pytest.raises(UsageError, match="makes no errors"):
        shifts.mean_corruption_error(accuracy, np.ones((2, 2)))


def test_uncertainty_robustness() -> None:
    found = shifts.uncertainty_robustness([0.2, 0.0, np.nan], [0.5, 0.1, 0.3])
    np.testing.assert_allclose(found["difference"], [0.3, 0.1, np.nan])
    np.testing.assert_allclose(found["ratio"], [2.5, np.nan, np.nan])
    with pytest.raises(UsageError, match="at least 0"):
        shifts.uncertainty_robustness([-0.1], [0.2])


def test_models_of_one_clean_accuracy_have_no_line() -> None:
    with pytest.raises(UsageError, match="same clean accuracy"):
        shifts.effective_robustness([0.9] * 6, [0.5, 0.4, 0.3, 0.6, 0.5, 0.4])
    with pytest.raises(UsageError, match="3 baseline models with finite"):
        shifts.effective_robustness([0.9, 0.8, 0.7], [0.5, 0.4, 0.3])
