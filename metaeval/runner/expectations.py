"""Whether loaded models do what they should on clean inputs, asked before any attack starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, binomtest

from metaeval.cube.store import CubeStore
from metaeval.errors import Problem, StudyError, UsageError
from metaeval.runner.prepare import Prepared
from metaeval.runner.tasks import run_clean
from metaeval.sources.models import load_model

ALPHA = 1e-4  # of the test of a published accuracy: a hundred sound models are stopped once in a hundred
NEAR_CHANCE = 1 / 8  # of the way from chance to perfect; what is significantly below is near chance
CHANCE_ALPHA = (
    5e-3  # of that test: 10 % on 100 samples of ten classes stops; from 30 % on one in 100,000 does
)
ROUNDING = 0.01  # published accuracies are rounded, and of other versions of libraries and data
BETTER = 0.25  # gain in accuracy with other labels that is worth to be said
Labels = npt.NDArray[np.int64]


class UnexpectedAccuracy(UsageError):
    """A model whose clean accuracy cannot be right; the message says what may be wrong."""


def check_loaded(prepared: Prepared, store: CubeStore, device: torch.device) -> int:
    """Bring the clean predictions of loaded models up to the plan; return the forward passes that it took.

    What a model that fails to load says is left to its tasks.

    Raises
    ------
    StudyError
        With every model whose clean accuracy cannot be right; nothing of those is stored.
    """
    problems: list[Problem] = []
    forwards = 0
    samples = prepared.samples
    for entry in prepared.entries:
        if entry.needs_training or not entry.expect or not prepared.asked(entry.name):
            continue

        def check(prediction: Labels, published: float | None = entry.published_accuracy) -> None:
            reason = unexpected(prediction, samples.y, len(samples.class_names), published)
            if reason:
                raise UnexpectedAccuracy(reason)

        try:
            model = load_model(entry)
            forwards += run_clean(
                entry.name, model.module, model.identity, samples, store, device=device, check=check
            )[1]
        except UnexpectedAccuracy as error:
            problems.append(
                entry.problem(f"{entry.name}: {error}; expect = false in this table runs it anyway")
            )
        except Exception:  # its tasks fail with the reason
            continue
    if problems:
        raise StudyError(problems)
    return forwards


def unexpected(
    prediction: Labels, labels: Labels, classes: int, published: float | None = None
) -> str | None:
    """Return why a clean accuracy cannot be right, with advice, or None.

    It is near chance if a one-sided binomial test puts it below an eighth of the way from chance
    (1 / classes) to 1, at level 0.005; it is far from a published one if a two-sided binomial test at level
    1e-4 rejects every accuracy within 0.01 of that. So few samples stop nothing.

    Parameters
    ----------
    prediction, labels : int array (n,)
        Predicted and true classes.
    classes : int
        Number of classes.
    published : float, optional
        Clean accuracy as published, a fraction.
    """
    n, correct = len(labels), int((prediction == labels).sum())
    if n == 0:
        return None
    chance = 1 / classes
    accuracy = correct / n
    said = f"clean accuracy is {accuracy:.1%} on {n} samples"
    if binom.cdf(correct, n, chance + (1 - chance) * NEAR_CHANCE) < CHANCE_ALPHA:
        return f"{said}, near chance ({chance:.1%}): {advice(prediction, labels, classes)}"
    if published is not None:
        nearest = min(max(accuracy, published - ROUNDING, 0.0), published + ROUNDING, 1.0)
        p = binomtest(correct, n, nearest).pvalue
        if p < ALPHA:
            return (
                f"{said}, published are {published:.1%} (p = {p:.1g}): {advice(prediction, labels, classes)}"
            )
    return None


def advice(prediction: Labels, labels: Labels, classes: int) -> str:
    """Return what may be wrong with the labels or the inputs of a model, judged by its predictions."""
    accuracy = float((prediction == labels).mean())
    unknown = float((prediction < 0).mean())  # what no class can be told from
    if unknown > BETTER:
        return f"logits are not numbers (NaN) for {unknown:.1%} of the samples: check weights and input_range"
    for offset in (1, -1):
        shifted = float((prediction == labels + offset).mean())
        if shifted > accuracy + BETTER:
            return f"labels are off by one: predictions equal label {offset:+d} in {shifted:.1%}"
    confusion = np.zeros((classes, classes), dtype=np.int64)
    known = (prediction >= 0) & (prediction < classes)
    np.add.at(confusion, (labels[known], prediction[known]), 1)
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    reordered = float(confusion[rows, columns].sum() / len(labels))
    if reordered > accuracy + BETTER:
        return f"classes are in another order: with the best one accuracy is {reordered:.1%}"
    most = _most_common(prediction)
    share = float((prediction == most).mean())
    given = f"class {most} is predicted for {share:.1%}; " if share > 0.5 else ""
    return f"{given}check normalize, input_range, input_layout, and that weights and architecture go together"


def _most_common(values: Sequence[int] | Labels) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])
