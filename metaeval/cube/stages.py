"""What each stage of a cascade left unbroken and what it cost: one model, one norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metaeval import outcomes
from metaeval.cube.counts import UNKNOWN, accuracy
from metaeval.cube.layout import SHARD
from metaeval.cube.states import State

Real = npt.NDArray[np.float64]


class StageCounts(NamedTuple):
    """`accuracy` and `seconds`, float64 `(epsilon, stage)`; NaN where a sample has no verdict."""

    accuracy: Real
    seconds: Real


def count_stages(
    tasks: Sequence[State],
    values: Mapping[int, Mapping[str, Any]],
    samples: int,
    epsilons: Sequence[float],
    stages: Sequence[str],
) -> StageCounts:
    """Return the accuracy after each stage of a cascade on one model, and each stage's time.

    Parameters
    ----------
    tasks : sequence of State
        States of the column's tasks, by shard.
    values : mapping
        By shard, the arrays that a record vouches for; `stage_distance` is float64 (stage, sample).
    samples : int
        Number of samples that the aggregates cover.
    """
    nothing = np.full((len(epsilons), len(stages)), np.nan)
    records = [task.record for task in tasks if task.record is not None]
    same = all([stage.attack for stage in record.stages] == list(stages) for record in records)
    if not same or any(task.status != "ok" for task in tasks):
        return StageCounts(nothing, nothing)
    distance = np.full((len(stages), samples), np.nan)
    for shard, stored in values.items():
        found = stored["stage_distance"][:, : samples - shard * SHARD]
        distance[:, shard * SHARD : shard * SHARD + found.shape[1]] = found
    seconds = [
        [sum(record.stages[k].seconds.get(epsilon, np.nan) for record in records) for k in range(len(stages))]
        for epsilon in epsilons
    ]
    return StageCounts(stage_accuracy(distance, epsilons), np.array(seconds, dtype=np.float64))


def stage_accuracy(distance: Real, epsilons: Sequence[float]) -> Real:
    """Return the share of samples unbroken at each epsilon, float64 `(epsilon, stage)`.

    Parameters
    ----------
    distance : ndarray of float64, (stage, sample)
        Smallest distances known after each stage; NaN anywhere makes a stage's accuracies NaN.
    """
    broken = outcomes.broken(distance, np.asarray(epsilons)[:, None, None])
    correct = np.where(np.isnan(broken).any(axis=2), UNKNOWN, (broken == 0).sum(axis=2))
    return accuracy(correct, distance.shape[1])


def stage_values(stages: Sequence[str], models: Sequence[StageCounts]) -> dict[str, Any]:
    """Return the arrays of stages of a norm's group."""
    return {
        "stage": list(stages),
        "stage_accuracy": np.stack([counts.accuracy for counts in models]),
        "stage_seconds": np.stack([counts.seconds for counts in models]),
    }
