"""Performance against scikit-learn and hand-computed tables."""

from __future__ import annotations

import numpy as np
import pytest
from measured import compute, random_split, split_of
from sklearn import metrics

from metaeval.measures.spec import Undefined


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize(("n", "classes", "scale"), [(400, 10, 1.0), (60, 3, 0.3), (50, 2, 1.0)])
def test_averages_are_those_of_scikit_learn(average: str, n: int, classes: int, scale: float) -> None:
    split = random_split(n, classes, seed=n, scale=scale)
    expected = metrics.precision_recall_fscore_support(
        split.y, split.logits.argmax(axis=1), average=average, labels=np.arange(classes), zero_division=0
    )
    for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert compute(name, split, average=average).value == pytest.approx(value, abs=1e-12)
    by_class = metrics.precision_recall_fscore_support(
        split.y, split.logits.argmax(axis=1), labels=np.arange(classes), zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1"), by_class[:3], strict=True):
        np.testing.assert_allclose(compute(name, split).per_class, values, atol=1e-12)


def test_accuracies_are_those_of_scikit_learn() -> None:
    split = random_split(300, 7, seed=1, scale=0.8)
    predicted = split.logits.argmax(axis=1)
    assert compute("accuracy", split).value == metrics.accuracy_score(split.y, predicted)
    balanced = metrics.balanced_accuracy_score(split.y, predicted)
    assert compute("balanced_accuracy", split).value == pytest.approx(balanced, abs=1e-12)
    assert compute("recall", split).value == pytest.approx(balanced, abs=1e-12)


def test_a_table_by_hand() -> None:
    # Classes 0 0 0 1 1 2; predicted 0 0 1 1 0 0: TP 2 1 0, predicted 4 2 0, actual 3 2 1.
    split = split_of(np.eye(3)[[0, 0, 1, 1, 0, 0]], [0, 0, 0, 1, 1, 2])
    assert compute("accuracy", split).value == pytest.approx(1 / 2)
    assert compute("precision", split).value == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert compute("recall", split).value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert compute("f1", split).value == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    assert compute("recall", split, average="weighted").value == pytest.approx(1 / 2)
    assert compute("precision", split, average="weighted").value == pytest.approx((1.5 + 1 + 0) / 6)


def test_an_absent_class_is_left_out_and_has_no_value() -> None:
    split = split_of(np.eye(3)[[0, 1, 1, 2]], [0, 1, 1, 1])
    for name in ("precision", "recall", "f1", "accuracy"):
        per_class = compute(name, split).per_class
        assert per_class is not None
        assert np.isnan(per_class).tolist() == [False, False, True]
    present = metrics.precision_recall_fscore_support(
        [0, 1, 1, 1], [0, 1, 1, 2], average="macro", labels=[0, 1]
    )
    assert compute("f1", split).value == pytest.approx(present[2])
    assert compute("balanced_accuracy", split).value == pytest.approx((1 + 2 / 3) / 2)


def test_nan_logits_are_misclassified_and_predict_no_class() -> None:
    split = split_of([[2, 1], [np.nan, 1], [0, 1], [np.inf, 0]], [0, 0, 1, 0])
    assert compute("accuracy", split).value == 3 / 4
    assert compute("precision", split, average="micro").value == 1
    assert compute("recall", split, average="micro").value == 3 / 4


def test_no_samples_is_undefined() -> None:
    with pytest.raises(Undefined, match="no samples"):
        compute("accuracy", split_of(np.empty((0, 3)), []))


def test_wilson_interval_by_its_equation() -> None:
    """Its ends are the shares whose normal test just rejects 8 of 10."""
    value = compute("accuracy", split_of(np.eye(2)[[0] * 8 + [1] * 2], [0] * 10))
    for end in (value.lower, value.upper):
        assert abs(0.8 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 10), rel=1e-5)


def test_bootstrap_error_of_the_macro_recall_is_the_deltas() -> None:
    split = random_split(2000, 4, seed=3, scale=0.7)
    value = compute("balanced_accuracy", split)
    recall, n = compute("recall", split).per_class, np.bincount(split.y)
    assert recall is not None
    delta = np.sqrt((recall * (1 - recall) / n).sum()) / 4
    assert value.standard_error == pytest.approx(delta, rel=0.2)
