"""From what models answered on shifted test sets to `/shifts`: accuracies and log-losses of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metaeval.cube.counts import UNKNOWN, Integer, accuracy
from metaeval.cube.layout import SHARD, SHIFT, STATUS
from metaeval.cube.selection import Selection
from metaeval.cube.states import State, column_state
from metaeval.cube.store import CubeStore

Real = npt.NDArray[np.float64]
Read = Callable[[str, str, str], tuple[list[State], dict[int, dict[str, npt.NDArray[Any]]]]]


class ShiftCounts(NamedTuple):
    """`correct` int64 and `log_loss` float64 (class,); -1 and NaN where a sample of the class is missing.

    The log-loss of a class without samples is NaN.
    """

    correct: Integer
    log_loss: Real


def count_shift(
    prediction: Integer, logits: npt.NDArray[np.float32], labels: Integer, classes: int
) -> ShiftCounts:
    """Count one model's answers at one severity by class.

    Parameters
    ----------
    prediction : ndarray of int64, (sample,)
        -1 where there is no answer.
    logits : ndarray of float32, (sample, logit)
    labels : ndarray of int64, (sample,)
    classes : int
    """
    total = np.bincount(labels, minlength=classes)
    answered = prediction != UNKNOWN
    complete = np.bincount(labels[answered], minlength=classes) == total
    correct = np.where(complete, np.bincount(labels[prediction == labels], minlength=classes), UNKNOWN)
    losses = log_losses(logits[answered], labels[answered])
    sums = np.bincount(labels[answered], weights=losses, minlength=classes)
    with np.errstate(invalid="ignore"):
        mean = np.divide(sums, total, out=np.full(classes, np.nan), where=complete & (total > 0))
    return ShiftCounts(correct.astype(np.int64), mean)


def log_losses(logits: npt.NDArray[np.float32], labels: Integer) -> Real:
    """Return the cross-entropy of each sample in nats, float64 (sample,).

    NaN where the logits are not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    finite = np.asarray(np.isfinite(z).all(axis=1))
    shifted = np.where(finite[:, None], z, 0.0)
    shifted = shifted - shifted.max(axis=1, keepdims=True, initial=-np.inf)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return np.where(finite, losses, np.nan)


def shift_values(store: CubeStore, selection: Selection, read: Read) -> dict[str, Any]:
    """Return the values of `/shifts`.

    Parameters
    ----------
    read : callable
        From model, "shift" and a shift's name to the states of its tasks and, by shard, the arrays that
        their records vouch for.
    """
    names, models, classes = list(selection.shifts), list(selection.models), len(store.class_names)
    severities = sorted({s for chosen in selection.shifts.values() for s in chosen.severities})
    shape = (len(models), classes, len(names), len(severities))
    correct, log_loss = np.full(shape, UNKNOWN, dtype=np.int64), np.full(shape, np.nan)
    total = np.full(shape[1:], UNKNOWN, dtype=np.int64)
    status = np.zeros((len(models), len(names)), dtype=np.uint8)
    reasons = [["" for _ in names] for _ in models]
    settings = dict.fromkeys(names, "")
    for j, name in enumerate(names):
        axes, chosen = store.axes.shifts[name], selection.shifts[name]
        labels = np.array(axes.labels[: chosen.samples], dtype=np.int64)
        places = {severities.index(s): axes.severities.index(s) for s in chosen.severities}
        for k in places:
            total[:, j, k] = np.bincount(labels, minlength=classes)
        for i, model in enumerate(models):
            states, values = read(model, SHIFT, name)
            state, reasons[i][j] = column_state(states)
            status[i, j] = STATUS[state]
            for record in (state.record for state in states if state.record is not None):
                settings[name] = settings[name] or _json(record.settings)
            for k, level in places.items():
                prediction = np.full(len(labels), UNKNOWN, dtype=np.int64)
                logits = np.full((len(labels), store.axes.logits), np.nan, dtype=np.float32)
                for shard, stored in values.items():
                    part = slice(shard * SHARD, shard * SHARD + stored["prediction"].shape[1])
                    kept = len(prediction[part])
                    prediction[part] = stored["prediction"][level, :kept]
                    logits[part] = stored["logits"][level, :kept]
                correct[i, :, j, k], log_loss[i, :, j, k] = count_shift(prediction, logits, labels, classes)
    return {
        "model": models,
        "class": store.class_names,
        "shift": names,
        "severity": severities,
        "kind": [store.axes.shifts[name].kind for name in names],
        "norm": [store.axes.shifts[name].norm for name in names],
        "settings": list(settings.values()),
        "accuracy": accuracy(correct, total),
        "correct": correct,
        "total": total,
        "log_loss": log_loss,
        "status": status,
        "reason": reasons,
    }


def missing_shifts(store: CubeStore, selection: Selection) -> list[str]:
    """Return what a selection names of shifts that the cube does not have."""
    missing = []
    for name, chosen in selection.shifts.items():
        axes = store.axes.shifts.get(name)
        if axes is None:
            missing.append(f"shift {name!r}")
            continue
        missing += [f"severity {s} of {name}" for s in chosen.severities if s not in axes.severities]
        if chosen.samples > len(axes.ids):
            missing.append(f"{chosen.samples} samples of {name}")
    return missing


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)
