"""Performance: shares of right predictions, overall and by class, from stored logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from metaeval.measures.logits import NORMAL, Integer, Real, by_class, predictions, wilson
from metaeval.measures.spec import Context, Measure, Split, Value

UNIFORM = "Where all samples are classified correctly, or all wrongly, the interval has no width."
RESAMPLES = 200  # of the bootstrap: the standard error's own error is about 5 %


class Counts(NamedTuple):
    """Samples of each class that are right, predicted as it, and of it; float64 (..., classes)."""

    right: Real
    predicted: Real
    actual: Real


class _Performance(Measure):
    family = "performance"
    expected_sign = 0
    needs = ("logits",)
    invariance = ("temperature", "layer rescaling", "node rescaling")
    scoped = True
    caveats = "A sample with a NaN among its logits counts as misclassified."


class Accuracy(_Performance):
    """Share of samples whose largest logit is that of their class."""

    name = "accuracy"
    definition = "share of samples that are classified correctly (fraction); Wilson's interval"
    formula = r"\frac{1}{n}\sum_i [\arg\max_j z_{ij} = y_i]"
    citation = "Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        right = (predictions(split) == split.y).astype(np.float64)
        share, n = float(right.mean()), len(right)
        lower, upper = wilson(int(right.sum()), n)
        error = float(np.sqrt(share * (1 - share) / n))
        return Value(share, error, lower, upper, by_class(right, split.y, context.classes))


class BalancedAccuracy(_Performance):
    """Mean over classes of the share that is classified correctly."""

    name = "balanced_accuracy"
    definition = "mean over classes of the accuracy on the class (fraction); bootstrap interval"
    formula = r"\frac{1}{K}\sum_k \frac{\mathrm{TP}_k}{n_k}"
    citation = "Brodersen et al., The balanced accuracy and its posterior distribution, ICPR 2010"
    caveats = f"{_Performance.caveats} {UNIFORM} Classes without samples are left out."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        return _averaged(context, split, _recall, "macro")


class _Averaged(_Performance):
    settings: ClassVar = {"average": "macro"}
    choices: ClassVar = {"average": ("macro", "micro", "weighted")}
    citation = "Sokolova and Lapalme, A systematic analysis of performance measures, IPM 2009"
    caveats = (
        f"{_Performance.caveats} {UNIFORM} Classes without samples are left out; a class that is never "
        "predicted has precision 0. Averages weigh classes equally (macro), by their samples (weighted), or "
        "pool all counts (micro)."
    )


class Precision(_Averaged):
    """Share of the predictions of a class that are right."""

    name = "precision"
    definition = (
        "share of the predictions of a class that are right, averaged over classes (fraction); bootstrap"
    )
    formula = r"\frac{1}{K}\sum_k \frac{\mathrm{TP}_k}{\mathrm{TP}_k + \mathrm{FP}_k}"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        return _averaged(context, split, _precision, settings["average"])


class Recall(_Averaged):
    """Share of the samples of a class that are recognised."""

    name = "recall"
    definition = (
        "share of the samples of a class that are recognised, averaged over classes (fraction); bootstrap"
    )
    formula = r"\frac{1}{K}\sum_k \frac{\mathrm{TP}_k}{\mathrm{TP}_k + \mathrm{FN}_k}"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        return _averaged(context, split, _recall, settings["average"])


class F1(_Averaged):
    """Harmonic mean of precision and recall."""

    name = "f1"
    definition = (
        "harmonic mean of a class's precision and recall, averaged over classes (fraction); bootstrap"
    )
    formula = r"\frac{1}{K}\sum_k \frac{2\,\mathrm{TP}_k}{2\,\mathrm{TP}_k + \mathrm{FP}_k + \mathrm{FN}_k}"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        return _averaged(context, split, _f1, settings["average"])


MEASURES: tuple[type[Measure], ...] = (Accuracy, BalancedAccuracy, Precision, Recall, F1)


def _precision(counts: Counts) -> Real:
    return counts.right / np.maximum(counts.predicted, 1)


def _recall(counts: Counts) -> Real:
    return counts.right / np.maximum(counts.actual, 1)


def _f1(counts: Counts) -> Real:
    return 2 * counts.right / np.maximum(counts.predicted + counts.actual, 1)


def _averaged(context: Context, split: Split, score: Callable[[Counts], Real], average: str) -> Value:
    """Return an average over classes; error and interval from resampled confusion matrices."""
    cells, weights = np.unique(np.stack([split.y, predictions(split)]), axis=1, return_counts=True)
    whole = _counts(cells, weights[None], context.classes)
    value = float(_average(whole, score, average)[0])
    generator = np.random.default_rng(context.seed)
    draws = generator.multinomial(len(split.y), weights / len(split.y), size=RESAMPLES)
    error = float(_average(_counts(cells, draws, context.classes), score, average).std(ddof=1))
    lower, upper = max(0.0, value - NORMAL * error), min(1.0, value + NORMAL * error)
    per_class = np.where(whole.actual[0] > 0, score(whole)[0], np.nan)
    return Value(value, error, lower, upper, per_class)


def _counts(cells: Integer, weights: npt.NDArray[np.int64], classes: int) -> Counts:
    """Return the counts (draws, classes) of confusion matrices whose cells have these weights."""
    y, predicted = cells
    right, said, actual = np.zeros((3, classes, len(weights)))
    hit, known = y == predicted, predicted >= 0
    np.add.at(actual, y, weights.T)
    np.add.at(right, y[hit], weights.T[hit])
    np.add.at(said, predicted[known], weights.T[known])
    return Counts(right.T, said.T, actual.T)


def _average(counts: Counts, score: Callable[[Counts], Real], average: str) -> Real:
    """Return the average (draws,) over the classes that have samples."""
    if average == "micro":
        pooled = Counts(*(part.sum(axis=1, keepdims=True) for part in counts))
        return score(pooled)[:, 0]
    weight = counts.actual if average == "weighted" else (counts.actual > 0).astype(np.float64)
    return np.asarray((score(counts) * weight).sum(axis=1) / weight.sum(axis=1))
