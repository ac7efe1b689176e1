"""Margins: by how much the true class is ahead, from stored logits."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from metaeval.measures.logits import (
    Integer,
    Real,
    finite_logits,
    log_probabilities,
    margins,
    mean,
    percentile,
)
from metaeval.measures.spec import Context, Measure, Split, Undefined, Value

BY_RANK = "interval from order statistics"
ON_TRAIN = "The literature's value is that in the scope train."


class _Margin(Measure):
    family = "margin"
    expected_sign = 1
    needs = ("logits",)
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    scoped = True


class _Percentile(_Margin):
    settings: ClassVar = {"percentile": 10.0}
    limits: ClassVar = {"percentile": (0.0, 100.0)}


class LogitMargin(_Percentile):
    """A low percentile of the logit margins."""

    name = "logit_margin"
    definition = f"10th percentile (by default) over samples of the logit margin gamma (logits); {BY_RANK}"
    formula = r"\gamma = Q_{0.1}\left(z_{i y_i} - \max_{j \neq y_i} z_{ij}\right)"
    citation = "Jiang et al., Fantastic generalization measures and where to find them, ICLR 2020"
    caveats = f"{ON_TRAIN} Grows with the scale of the logits."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        return _percentile(margins(finite_logits(split), split.y), split.y, context, settings["percentile"])


class InverseSquaredMargin(_Percentile):
    """One over the squared logit margin."""

    name = "inverse_squared_margin"
    definition = f"1 / gamma^2 of the logit margin (1 / logits^2); undefined for gamma <= 0; {BY_RANK}"
    formula = r"1 / \gamma^2"
    citation = LogitMargin.citation
    expected_sign = -1
    caveats = f"{ON_TRAIN} An upper end that would need a margin of 0 or less is missing."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        gamma = percentile(margins(finite_logits(split), split.y), settings["percentile"])
        if gamma.value <= 0:
            raise Undefined(
                f"gamma, the {settings['percentile']:g}th percentile of the logit margins, is "
                f"{gamma.value:.4g} and not above 0"
            )
        upper = gamma.lower**-2 if gamma.lower > 0 else np.nan
        error = 2 * gamma.standard_error / gamma.value**3
        return Value(gamma.value**-2, error, gamma.upper**-2, upper)


class NormalisedMargin(_Percentile):
    """A low percentile of the logit margins over the spread of the logits."""

    name = "normalised_margin"
    definition = (
        "10th percentile (by default) of the logit margin over the root of the logits' total variance; "
        f"{BY_RANK}"
    )
    formula = (
        r"Q_{0.1}\left(z_{i y_i} - \max_{j \neq y_i} z_{ij}\right) / \sqrt{\sum_k \mathrm{Var}_i(z_{ik})}"
    )
    citation = (
        "Jiang et al., Predicting the generalization gap in deep networks with margin distributions, "
        "ICLR 2019 (at the logits, without the constant)"
    )
    invariance = ("temperature", *_Margin.invariance)
    caveats = f"{ON_TRAIN} The interval takes the spread as known."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        logits = finite_logits(split)
        spread = float(np.sqrt(logits.var(axis=0).sum()))
        if spread == 0:
            raise Undefined("the logits are the same for every sample")
        values = margins(logits, split.y) / spread
        return _percentile(values, split.y, context, settings["percentile"])


class ProbabilityMargin(_Margin):
    """Mean margin of the probabilities."""

    name = "probability_margin"
    definition = "mean of the true class's probability minus the largest other (-1 to 1); normal interval"
    formula = r"\frac{1}{n}\sum_i \left(p_{i y_i} - \max_{j \neq y_i} p_{ij}\right)"
    citation = "Schapire et al., Boosting the margin, Annals of Statistics 1998"

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        values = margins(np.exp(log_probabilities(split)), split.y)
        return mean(values, split.y, context.classes)


class ProbabilityMarginPercentile(_Percentile):
    """A low percentile of the probability margins."""

    name = "probability_margin_percentile"
    definition = (
        f"10th percentile (by default) of the true class's probability minus the largest other; {BY_RANK}"
    )
    formula = r"Q_{0.1}\left(p_{i y_i} - \max_{j \neq y_i} p_{ij}\right)"
    citation = ProbabilityMargin.citation

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        values = margins(np.exp(log_probabilities(split)), split.y)
        return _percentile(values, split.y, context, settings["percentile"])


MEASURES: tuple[type[Measure], ...] = (
    LogitMargin,
    InverseSquaredMargin,
    NormalisedMargin,
    ProbabilityMargin,
    ProbabilityMarginPercentile,
)


def _percentile(values: Real, y: Integer, context: Context, q: float) -> Value:
    found = percentile(values, q)
    per_class = np.full(context.classes, np.nan)
    for k in np.unique(y):
        per_class[k] = np.quantile(values[y == k], q / 100)
    return Value(found.value, found.standard_error, found.lower, found.upper, per_class)
