"""Uncertainty and calibration against scikit-learn, scipy and hand-computed bins."""

from __future__ import annotations

import numpy as np
import pytest
from measured import compute, random_split, split_of
from scipy import optimize, special
from sklearn import metrics
from sklearn.calibration import calibration_curve

from metaeval.measures.calibration import equal_mass, equal_width
from metaeval.measures.spec import Split, Undefined


def logits_of(probabilities: list[list[float]], y: list[int]) -> Split:
    with np.errstate(divide="ignore"):
        return split_of(np.maximum(np.log(probabilities), -50), y)


def test_log_loss_and_brier_are_those_of_scikit_learn() -> None:
    split = random_split(500, 6, seed=2)
    probability = special.softmax(split.logits.astype(np.float64), axis=1)
    expected = metrics.log_loss(split.y, probability, labels=range(6))
    assert compute("log_loss", split).value == pytest.approx(expected, rel=1e-9)
    one_hot = np.eye(6)[split.y]
    by_class = [metrics.brier_score_loss(one_hot[:, k], probability[:, k]) for k in range(6)]
    assert compute("brier", split).value == pytest.approx(sum(by_class), rel=1e-9)


def test_probabilities_by_hand() -> None:
    split = logits_of([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], [0, 1])
    assert compute("log_loss", split).value == pytest.approx(-np.log([0.5, 0.2]).mean(), rel=1e-6)
    assert compute("brier", split).value == pytest.approx(
        np.mean([0.25 + 0.125, 0.04 + 0.64 + 0.36]), rel=1e-6
    )
    entropy = [1.5 * np.log(2), -0.4 * np.log(0.2) - 0.6 * np.log(0.6)]
    assert compute("predictive_entropy", split).value == pytest.approx(np.mean(entropy), rel=1e-6)
    assert compute("maximum_probability", split).value == pytest.approx(0.55, rel=1e-6)
    assert compute("over_confidence", split).value == pytest.approx(0.05, rel=1e-5)
    per_class = compute("log_loss", split).per_class
    np.testing.assert_allclose(per_class, [np.log(2), np.log(5), np.nan], rtol=1e-6)


def test_standard_error_of_a_mean() -> None:
    split = random_split(200, 3)
    losses = -special.log_softmax(split.logits.astype(np.float64), axis=1)[np.arange(200), split.y]
    value = compute("log_loss", split)
    assert value.standard_error == pytest.approx(losses.std(ddof=1) / np.sqrt(200), rel=1e-9)
    assert (value.lower + value.upper) / 2 == pytest.approx(value.value)


def test_huge_logits_have_a_finite_log_loss() -> None:
    split = split_of([[1000.0, -1000.0], [1000.0, -1000.0]], [0, 1])
    assert compute("log_loss", split).value == pytest.approx(1000)
    assert compute("predictive_entropy", split).value == 0


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("bins", [5, 15])
def test_ece_from_the_calibration_curve_of_scikit_learn(strategy: str, bins: int) -> None:
    split = random_split(400, 4, seed=bins, scale=1.5)
    probability = special.softmax(split.logits.astype(np.float64), axis=1)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == split.y
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy=strategy)
    bin_of = equal_width if strategy == "uniform" else equal_mass
    share = np.unique(bin_of(confidence, bins), return_counts=True)[1] / 400
    name = "ece" if strategy == "uniform" else "ece_equal_mass"
    assert compute(name, split, bins=bins).value == pytest.approx((share * abs(accuracy - mean)).sum())
    if strategy == "uniform":
        assert compute("mce", split, bins=bins).value == pytest.approx(abs(accuracy - mean).max())


def test_classwise_ece_from_the_calibration_curves_of_all_classes() -> None:
    split = random_split(300, 3, seed=8, scale=1.0)
    probability = special.softmax(split.logits.astype(np.float64), axis=1)
    expected = []
    for k in range(3):
        frequency, mean = calibration_curve(split.y == k, probability[:, k], n_bins=15)
        share = np.unique(equal_width(probability[:, k], 15), return_counts=True)[1] / 300
        expected.append((share * abs(frequency - mean)).sum())
    value = compute("ece_classwise", split)
    assert value.value == pytest.approx(np.mean(expected))
    np.testing.assert_allclose(value.per_class, expected)


def test_bins_by_hand() -> None:
    """Two bins: (0, 0.5] holds nothing, (0.5, 1] 0.6 (right), 0.8 (wrong); one sample at an edge."""
    split = logits_of([[0.6, 0.4], [0.8, 0.2], [0.5, 0.5]], [0, 1, 0])
    # The tie predicts class 0, which is right, with confidence 0.5 in the lower bin.
    assert compute("ece", split, bins=2).value == pytest.approx((0.5 + abs(0.6 - 1 + 0.8)) / 3, rel=1e-5)
    assert compute("mce", split, bins=2).value == pytest.approx(0.5, rel=1e-5)


def test_equal_confidences_share_a_bin() -> None:
    confidence = np.array([0.5, 0.7, 0.7, 0.7, 0.7, 0.9])
    bins = equal_mass(confidence, 3)
    assert len(set(bins[1:5])) == 1


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_optimal_temperature_by_brute_force(scale: float, classes: int) -> None:
    generator = np.random.default_rng(classes)
    logits = generator.normal(size=(300, classes)) * 2
    # Labels drawn from the logits' own probabilities: the best temperature is near the scale below.
    y = np.array([generator.choice(classes, p=special.softmax(row)) for row in logits])
    split = split_of(logits * scale, y)
    z = split.logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        logarithms = special.log_softmax(z / np.exp(log_temperature), axis=1)
        return float(-logarithms[np.arange(300), y].mean())

    best = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    value = compute("optimal_temperature", split)
    assert value.value == pytest.approx(np.exp(best.x), rel=1e-5)
    assert value.lower < scale < value.upper


def test_error_of_the_optimal_temperature_is_that_of_a_bootstrap() -> None:
    split = random_split(400, 3, seed=5, scale=1.5)
    generator, found = np.random.default_rng(0), []
    for _ in range(40):
        rows = generator.integers(400, size=400)
        found.append(compute("optimal_temperature", split_of(split.logits[rows], split.y[rows])).value)
    assert compute("optimal_temperature", split).standard_error == pytest.approx(np.std(found), rel=0.35)


@pytest.mark.parametrize(
    ("logits", "y", "reason"),
    [
        ([[2, 0], [0, 1]], [0, 1], "no sample has a larger logit"),
        ([[2, 0], [0, 1]], [1, 0], "no better than chance"),
        ([[np.nan, 0], [0, 1]], [1, 0], "logits of 1 of 2 samples are not finite"),
        ([[np.inf, 0], [0, -np.inf]], [1, 0], "logits of 2 of 2 samples are not finite"),
    ],
)
def test_no_optimal_temperature(logits: list[list[float]], y: list[int], reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        compute("optimal_temperature", split_of(logits, y))


def test_bootstrap_error_of_the_ece_covers_fresh_samples() -> None:
    found = [compute("ece", random_split(800, 3, seed=seed, scale=1.5)).value for seed in range(40)]
    errors = [compute("ece", random_split(800, 3, seed=seed, scale=1.5)).standard_error for seed in range(5)]
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.4)
