"""Attacked copies: what a model says under attack, from the stored logits of these copies."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from metaeval.measures.logits import Integer, Real, finite_logits, log_probabilities, margins, mean
from metaeval.measures.spec import Context, Measure, Missing, Split, Undefined, Value

WHITE_BOX = "As strong as the attack that made the copies, which the scope names."


class _Attacked(Measure):
    family = "attacked"
    needs = ("logits", "attacked_logits")
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    scoped = True
    caveats = WHITE_BOX


class PgdLoss(_Attacked):
    """Mean log-loss on attacked copies."""

    name = "pgd_loss"
    definition = "mean log-loss on an attacked copy (nats); normal interval"
    formula = r"-\frac{1}{n}\sum_i \log p_{y_i}(x'_i)"
    citation = "Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018"
    expected_sign = -1

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        losses = -log_probabilities(split)[np.arange(len(split.y)), split.y]
        return mean(losses, split.y, context.classes)


class PgdProbabilityMargin(_Attacked):
    """Mean probability margin on attacked copies."""

    name = "pgd_probability_margin"
    definition = (
        "mean of the true class's probability minus the largest other on an attacked copy (-1 to 1); "
        "normal interval"
    )
    formula = r"\frac{1}{n}\sum_i \left(p_{y_i}(x'_i) - \max_{j \neq y_i} p_j(x'_i)\right)"
    citation = "Kim et al., Fantastic robustness measures: the secrets of robust generalization, NeurIPS 2023"
    expected_sign = 1

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        values = margins(np.exp(log_probabilities(split)), split.y)
        return mean(values, split.y, context.classes)


class PgdKl(_Attacked):
    """Mean divergence of the probabilities under attack from the clean ones."""

    name = "pgd_kl"
    definition = (
        "mean Kullback-Leibler divergence KL(clean || attacked) of the probabilities (nats); normal interval"
    )
    formula = r"\frac{1}{n}\sum_i \sum_k p_k(x_i) \log \frac{p_k(x_i)}{p_k(x'_i)}"
    citation = "Zhang et al., Theoretically principled trade-off between robustness and accuracy, ICML 2019"
    expected_sign = -1

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        rows, original = _pairs(split)
        attacked = log_probabilities(split)[rows]
        clean = log_probabilities(context.clean)[original]
        values = (np.exp(clean) * (clean - attacked)).sum(axis=1)
        return mean(values, split.y[rows], context.classes)


class LocalLipschitz(_Attacked):
    """Mean change of the outputs per change of the input, towards the attacked copy."""

    name = "local_lipschitz"
    definition = (
        "mean l1 change of the logits over the linf change of the input, towards an attacked copy; normal "
        "interval"
    )
    formula = r"\frac{1}{n}\sum_i \frac{\|f(x_i) - f(x'_i)\|_1}{\|x_i - x'_i\|_\infty}"
    citation = "Yang et al., A closer look at accuracy vs. robustness, NeurIPS 2020"
    expected_sign = -1
    settings: ClassVar = {"output": "logits"}
    choices: ClassVar = {"output": ("logits", "probabilities")}
    caveats = (
        f"{WHITE_BOX} A lower bound of the local Lipschitz constant. Samples that the attack returned "
        "unchanged are left out."
    )

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        rows, original = _pairs(split)
        output = finite_logits if settings["output"] == "logits" else _probabilities
        change = np.abs(output(split)[rows] - output(context.clean)[original]).sum(axis=1)
        distance = _distance(context, split, rows, original)
        moved = distance > 0
        if not moved.any():
            raise Undefined("no sample of the attacked copy differs from its original")
        return mean(change[moved] / distance[moved], split.y[rows][moved], context.classes)


MEASURES: tuple[type[Measure], ...] = (PgdLoss, PgdProbabilityMargin, PgdKl, LocalLipschitz)


def _probabilities(split: Split) -> Real:
    return np.exp(log_probabilities(split))


def _pairs(split: Split) -> tuple[Integer, Integer]:
    """Return the rows that have an original, and the positions of these among the clean samples."""
    if split.clean is None:
        raise Missing("the originals of the attacked copy are not known")
    rows = np.flatnonzero(split.clean >= 0)
    if not len(rows):
        raise Undefined("no sample of the attacked copy has its original among the clean ones")
    return rows, split.clean[rows]


def _distance(context: Context, split: Split, rows: Integer, original: Integer) -> Real:
    """Return the linf norm of each pair's perturbation."""
    if split.distance is not None:
        return split.distance[rows]
    if split.x is None or context.clean.x is None:
        raise Missing("neither the inputs nor the linf distances of the attacked copy are kept")
    moved = split.x[rows].astype(np.float64) - context.clean.x[original]
    return np.asarray(np.abs(moved).reshape(len(rows), -1).max(axis=1))
