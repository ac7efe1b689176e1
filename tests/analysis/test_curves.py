"""Intervals and curves against statsmodels, a root of the score equation, and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_cube import handmade_cube
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from metaeval.analysis import classes, curves
from metaeval.analysis.reading import references
from metaeval.errors import UsageError


def score_roots(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Solve (share - p)^2 = z^2 p (1 - p) / n numerically on both sides of the share."""
    z, share = stats.norm.ppf(0.5 + confidence / 2), k / n

    def excess(p: float) -> float:
        return (share - p) ** 2 - z**2 * p * (1 - p) / n

    lower = 0.0 if k == 0 else optimize.brentq(excess, 0, share - 1e-12, xtol=1e-15)
    upper = 1.0 if k == n else optimize.brentq(excess, share + 1e-12, 1, xtol=1e-15)
    return lower, upper


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_solves_the_score_equation(confidence: float) -> None:
    for n in (1, 2, 7, 50, 500):
        for k in {0, 1, n // 3, n // 2, n - 1, n}:
            lower, upper = curves.wilson(k, n, confidence)
            assert (lower, upper) == pytest.approx(score_roots(k, n, confidence), abs=1e-9)


def test_wilson_equals_statsmodels_and_broadcasts() -> None:
    k, n = np.array([[0, 3, 10], [1, 9, 5]]), np.array([10, 10, 20])
    lower, upper = curves.wilson(k, n, 0.9)
    expected = proportion_confint(k.ravel(), np.broadcast_to(n, k.shape).ravel(), alpha=0.1, method="wilson")
    np.testing.assert_allclose(lower.ravel(), expected[0], atol=1e-15)
    np.testing.assert_allclose(upper.ravel(), expected[1], atol=1e-15)


def test_wilson_known_value() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 -> .2553 to .3662; 0 of 20 -> 0 to .1611.
    assert np.round(np.array(curves.wilson(81, 263)).ravel(), 4).tolist() == [0.2553, 0.3662]
    assert np.round(np.array(curves.wilson(0, 20)).ravel(), 4).tolist() == [0.0, 0.1611]


def test_wilson_says_not_available() -> None:
    lower, upper = curves.wilson([np.nan, 3, 0], [10, 10, 0])
    assert np.isnan(lower).tolist() == np.isnan(upper).tolist() == [True, False, True]


@pytest.mark.parametrize(("k", "n", "confidence"), [(11, 10, 0.95), (-1, 10, 0.95), (1, 10, 1.0), (1, 10, 0)])
def test_wilson_refuses(k: int, n: int, confidence: float) -> None:
    with pytest.raises(UsageError):
        curves.wilson(k, n, confidence)


def test_curve_counts_distances() -> None:
    curve = curves.robustness_curve([0.0, 0.1, 8 / 255, np.inf], epsilons=[0, 8 / 255, 0.1, 1e9])
    assert curve.accuracy.tolist() == [0.75, 0.5, 0.25, 0.25]
    assert curve.samples == 4
    assert (curve.lower < curve.accuracy).all()
    assert (curve.upper > curve.accuracy).all()


def test_curve_steps_by_default_and_never_rises() -> None:
    distance = np.random.default_rng(0).exponential(size=(3, 200))
    curve = curves.robustness_curve(distance)
    assert curve.epsilons[0] == 0
    assert len(curve.epsilons) == 601
    assert (np.diff(curve.accuracy, axis=-1) <= 0).all()
    for i, e in ((0, 0.0), (1, 0.5), (2, 2.0)):
        at = np.searchsorted(curve.epsilons, e, side="right") - 1
        assert curve.accuracy[i, at] == np.mean(distance[i] > curve.epsilons[at])


def test_one_unknown_distance_makes_the_accuracy_unknown() -> None:
    curve = curves.robustness_curve([[np.nan, np.inf], [np.inf, np.inf]], epsilons=[0.1])
    assert np.isnan(curve.accuracy[0, 0])
    assert np.isnan(curve.lower[0, 0])
    assert curve.accuracy[1, 0] == 1


@pytest.mark.parametrize(("distance", "epsilons"), [([], None), ([-1.0], None), ([1.0], [-0.1])])
def test_curve_refuses(distance: list[float], epsilons: list[float] | None) -> None:
    with pytest.raises(UsageError):
        curves.robustness_curve(distance, epsilons)


def test_cube_accuracy_is_not_a_mean_of_class_accuracies() -> None:
    labels = [0] * 50 + [1] * 10
    distances = np.full((1, 1, 60), np.inf)
    distances[..., :10] = 0.001  # ten of class 0
    cube = handmade_cube(
        models=["m"], classes=["a", "b"], attacks=["x"], labels=labels, distances={"linf": distances}
    )
    face = curves.from_cube(cube, "linf")
    at = face.sel(model="m", attack="worst-case", epsilon=2 / 255)
    assert float(at["accuracy"]) == 50 / 60
    lower, upper = score_roots(50, 60, 0.95)
    assert float(at["lower"]) == pytest.approx(lower)
    assert float(at["upper"]) == pytest.approx(upper)
    assert int(face["total"]) == 60


def test_failed_and_pending_columns_are_not_available() -> None:
    cube = handmade_cube(
        failed={("linf", "plain", "square"): "out of memory"}, pending=[("linf", "robust", "apgd-ce")]
    )
    accuracy = curves.from_cube(cube, "linf")["accuracy"].isel(epsilon=2)
    missing = np.isnan(accuracy.sel(attack=["worst-case", "apgd-ce", "square"]).values)
    assert missing.tolist() == [[True, False, True], [True, True, False], [False, False, False]]


def test_empty_class_does_not_matter() -> None:
    cube = handmade_cube(classes=["a", "b", "none"], labels=[i % 2 for i in range(60)])
    assert not np.isnan(curves.from_cube(cube, "linf")["accuracy"]).any()
    assert not np.isnan(curves.clean_from_cube(cube)["accuracy"]).any()


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_right_continuous_at_a_distance_in_whatever_precision(kind: type) -> None:
    # Single and half precision lie a little beside k / 255; equal there means reached.
    k = np.arange(17)
    exact, rounded = k / 255, (k / 255).astype(kind)
    expected = np.mean(k[:, None] > k, axis=0)
    for distance, epsilons in ((exact, exact), (rounded, exact), (exact, rounded), (rounded, rounded)):
        np.testing.assert_allclose(curves.robustness_curve(distance, epsilons).accuracy, expected)
    assert not curves.difference(rounded, exact).difference.any()
    assert curves.robustness_curve(np.array([np.inf, 1e6, 0.1]), rounded).accuracy[-1] == 1


def test_infinite_epsilons_and_unequal_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="infinite"):
        curves.robustness_curve([np.inf], [np.inf])
    with pytest.raises(UsageError, match="same samples"):
        curves.area_difference([0.1, 0.2, 0.3], [0.1], 0.5)


def test_faces_say_their_method_and_what_is_covered_in_words() -> None:
    cube = handmade_cube(failed={("linf", "plain", "square"): "out of memory"})
    face = curves.from_cube(cube, "linf", confidence=0.9)
    for each in (face, curves.clean_from_cube(cube, 0.9), classes.from_cube(cube, "linf", 0.9)):
        assert "Wilson" in each.attrs["method"]
        assert "test samples" in each.attrs["covers"]
        assert each.attrs["confidence"] == 0.9
    plain, robust = (
        next(words for words in face.attrs["sentences"] if f" of {model} " in words)
        for model in ("plain", "robust")
    )
    assert "not estimable" in plain
    reference = references(cube, "linf")[0].value
    correct = int(face["correct"].sel(model="robust", epsilon=reference, attack="worst-case"))
    n = int(face["total"])
    low, high = proportion_confint(correct, n, alpha=0.1, method="wilson")
    expected = f"accuracy {100 * correct / n:.3g} % (90 % {100 * low:.3g} to {100 * high:.3g} over test"
    assert expected in robust
