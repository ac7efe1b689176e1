"""Uncertainty: what the predicted probabilities say, from stored logits."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from metaeval.measures.logits import finite_logits, log_probabilities, mean, predictions
from metaeval.measures.spec import Context, Measure, Split, Value


class _Uncertainty(Measure):
    family = "uncertainty"
    expected_sign = 0
    needs = ("logits",)
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    scoped = True


class LogLoss(_Uncertainty):
    """Mean negative log-probability of the true class."""

    name = "log_loss"
    definition = "mean negative log-probability of the true class (nats); normal interval"
    formula = r"-\frac{1}{n}\sum_i \log p_{i y_i}"
    citation = "Good, Rational decisions, JRSS B 1952"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        losses = -log_probabilities(split)[np.arange(len(split.y)), split.y]
        return mean(losses, split.y, context.classes)


class Brier(_Uncertainty):
    """Mean squared distance of the probabilities from the true class."""

    name = "brier"
    definition = "mean squared distance of the probabilities from the one-hot label (0 to 2); normal interval"
    formula = r"\frac{1}{n}\sum_i \sum_k (p_{ik} - [y_i = k])^2"
    citation = "Brier, Verification of forecasts expressed in terms of probability, MWR 1950"
    caveats = "The sum over all classes; for two classes twice the binary score."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        error = np.exp(log_probabilities(split))
        error[np.arange(len(split.y)), split.y] -= 1
        return mean((error**2).sum(axis=1), split.y, context.classes)


class PredictiveEntropy(_Uncertainty):
    """Mean entropy of the predicted probabilities."""

    name = "predictive_entropy"
    definition = "mean entropy of the predicted probabilities (nats); normal interval"
    formula = r"-\frac{1}{n}\sum_i \sum_k p_{ik} \log p_{ik}"
    citation = "Shannon, A mathematical theory of communication, BSTJ 1948"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        logarithms = log_probabilities(split)
        return mean(-(np.exp(logarithms) * logarithms).sum(axis=1), split.y, context.classes)


class MaximumProbability(_Uncertainty):
    """Mean probability of the predicted class."""

    name = "maximum_probability"
    definition = "mean probability of the predicted class (fraction); normal interval"
    formula = r"\frac{1}{n}\sum_i \max_k p_{ik}"
    citation = (
        "Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples, "
        "ICLR 2017"
    )

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        return mean(np.exp(log_probabilities(split).max(axis=1)), split.y, context.classes)


class OverConfidence(_Uncertainty):
    """Mean confidence minus accuracy."""

    name = "over_confidence"
    definition = "mean probability of the predicted class minus accuracy (fraction); normal interval"
    formula = r"\frac{1}{n}\sum_i \left(\max_k p_{ik} - [\arg\max_k p_{ik} = y_i]\right)"
    citation = "Lichtenstein, Fischhoff and Phillips, Calibration of probabilities, 1982"
    caveats = "Near 0 also where over- and under-confident samples cancel; see ece."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        finite_logits(split)
        right = predictions(split) == split.y
        return mean(np.exp(log_probabilities(split).max(axis=1)) - right, split.y, context.classes)


MEASURES: tuple[type[Measure], ...] = (
    LogLoss,
    Brier,
    PredictiveEntropy,
    MaximumProbability,
    OverConfidence,
)
