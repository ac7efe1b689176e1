"""A loaded model that cannot be right stops the run before any attack, and says what may be wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from counted import Counted

import metaeval
from metaeval.runner.expectations import unexpected

LABELS = np.arange(1000) % 10
GENERATOR = np.random.default_rng(0)


def noisy(labels: np.ndarray, accuracy: float) -> np.ndarray:
    """Return labels of which a share is wrong, by any number of classes."""
    wrong = np.arange(len(labels)) >= accuracy * len(labels)
    return np.where(wrong, (labels + GENERATOR.integers(1, 10, len(labels))) % 10, labels)


def test_what_is_near_chance_is_said_with_advice() -> None:
    permutation = (np.arange(10) + 3) % 10
    cases = {
        "labels are off by one: predictions equal label +1 in": LABELS + 1,
        "labels are off by one: predictions equal label -1 in": LABELS - 1,
        "classes are in another order: with the best one accuracy is 90": noisy(permutation[LABELS], 0.9),
        "class 3 is predicted for 100.0%; check normalize, input_range": np.full(1000, 3),
        "check normalize, input_range": GENERATOR.integers(0, 10, 1000),
        "logits are not numbers (NaN) for 100.0% of the samples": np.full(1000, -1),
    }
    for message, prediction in cases.items():
        said = unexpected(prediction, LABELS, 10)
        assert said is not None
        assert "near chance (10.0%)" in said
        assert message in said


def test_what_is_as_expected_is_left_alone() -> None:
    for accuracy in (0.3, 0.5, 0.9, 1.0):
        prediction = noisy(LABELS, accuracy)
        assert unexpected(prediction, LABELS, 10) is None
        assert unexpected(prediction, LABELS, 10, accuracy) is None
        assert unexpected(prediction, LABELS, 10, min(1.0, accuracy + 0.02)) is None
    # A hundred samples tell chance from 30 %.
    assert unexpected(np.full(100, 3), LABELS[:100], 10) is not None
    assert unexpected(noisy(LABELS[:100], 0.2), LABELS[:100], 10) is None
    # Few samples say nothing, whatever they are.
    assert unexpected(np.zeros(20, dtype=np.int64), np.ones(20, dtype=np.int64), 10) is None
    assert unexpected(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 10) is None
    # Of two classes a model that is right in 60 % of many is no coin.
    halves = np.arange(10_000) % 2
    assert unexpected(np.where(np.arange(10_000) < 6000, halves, 1 - halves), halves, 2) is None
    assert unexpected(GENERATOR.integers(0, 2, 10_000), halves, 2) is not None


def test_a_published_accuracy_is_tested() -> None:
    """Against the normal approximation with numbers of our own: 2 and 8 standard errors off."""
    deviation = np.sqrt(0.85 * 0.15 / 1000)
    for errors, stops in ((2, False), (8, True)):
        published = 0.85 + errors * deviation + 0.01
        said = unexpected(noisy(LABELS, 0.85), LABELS, 10, published)
        assert (said is not None) == stops
    assert said is not None
    assert f"published are {published:.1%}" in said


@pytest.mark.parametrize("expect", [True, False])
def test_a_run_stops_before_any_attack_unless_told_otherwise(counted: Counted, expect: bool) -> None:
    study = counted.write({"one": "", "two": ""}, samples=300, epsilons='["0", "0.1"]')
    weights = 'weights = "two.safetensors"\n'
    wrong = "input_range = [1, 0]\n"  # black for white
    text = study.read_text()
    text = text.replace(weights, weights + wrong + ("" if expect else "expect = false\n"))
    study.write_text(text)
    result = counted.metaeval("run", str(study), expect=2 if expect else 0)
    linf = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    if expect:
        assert re.search(r"study\.toml:\d+:\d+: models\[1\]\.weights: two: clean accuracy is", result.stderr)
        assert "near chance (10.0%)" in result.stderr
        assert "expect = false in this table runs it anyway" in result.stderr
        assert linf.robust_accuracy.isnull().all()
        # What the study says now, it does: the model that was sound is continued.
        study.write_text(text.replace(wrong, ""))
        counted.metaeval("run", str(study))
        linf = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    assert linf.robust_accuracy.notnull().all()


def test_a_published_accuracy_that_is_far_stops_the_run(counted: Counted) -> None:
    study = counted.write({"one": ""}, extra="")
    text = study.read_text().replace('one.safetensors"', 'one.safetensors"\npublished_accuracy = 0.2')
    study.write_text(text)
    result = counted.metaeval("run", str(study), expect=2)
    assert "published are 20.0% (p = " in result.stderr
