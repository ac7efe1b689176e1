"""Shifted test sets in a store: their axes, what models answered on them, and the records of that.

Locks as for `metaeval.cube.store`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metaeval.cube import arrays, growth
from metaeval.cube.counts import UNKNOWN
from metaeval.cube.journal import Record, Task, now
from metaeval.cube.layout import SHARD, SHIFT, SHIFT_GROUP
from metaeval.cube.selection import Selection
from metaeval.cube.shift_arrays import DISTANCE, Values, write_shift
from metaeval.cube.shift_axes import KINDS, ShiftAxes
from metaeval.cube.states import column_state, task_states
from metaeval.cube.store import CubeStore
from metaeval.hashing import hash_array

Integer = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class StoredShift(NamedTuple):
    """What a task of a shift stored, over all severities of the store, and its record."""

    values: Values
    record: Record


@dataclass(frozen=True)
class ShiftSamples:
    """One shifted test set with what every model answered on it.

    Attributes
    ----------
    kind : str
        "corruption", "test set", "transformed" or "attacked".
    labels, clean : int64 array (sample,)
        True classes, and the positions of the originals among the cube's samples, -1 without one.
    severities : tuple of int
        In the study's order; 0 where the shift has none.
    logits : mapping
        Model to float32 (severity, sample, logit); only models whose records vouch for all of it.
    """

    kind: str
    labels: Integer
    clean: Integer
    severities: tuple[int, ...]
    logits: Mapping[str, Logits]


def ensure_shifts(store: CubeStore, shifts: Mapping[str, ShiftAxes]) -> None:
    """Give shifts their place, by name: what is new is appended.

    Other samples than the stored ones, or another kind of shift, replace them: what models answered on
    those is then computed anew.
    """
    for name, axes in shifts.items():
        if axes.kind not in KINDS:
            raise ValueError(f"{axes.kind!r} is no kind of shift")
        if any(not -1 <= position < len(store.axes.ids) for position in axes.clean):
            raise ValueError(f"{name}: originals that are not samples of the cube")
    for name, axes in shifts.items():
        known = store.axes.shifts.get(name)
        merged = known.merged(axes) if known else None
        if known and merged is None:
            arrays.drop_consolidated(store.path)
            arrays.remove_group(store.path, SHIFT_GROUP + name)
            growth.forget(store.grown, SHIFT_GROUP + name)
        store.axes.shifts[name] = merged or axes
    store._save_and_grow()


def shift_task(model: str, name: str, shard: int) -> Task:
    """Return the task of a model, a shift and a shard of its samples."""
    return Task(model, SHIFT, name, shard)


def write_shift_task(
    store: CubeStore,
    task: Task,
    values: Values,
    *,
    identity: str,
    settings: Mapping[str, Any],
    seconds: float | None = None,
    forwards: int = 0,
    backwards: int = 0,
    versions: Mapping[str, str] | None = None,
) -> Record:
    """Write what a model answered on a shard of a shift, then its record.

    Parameters
    ----------
    values : mapping
        `prediction` int64 (severity, sample), `logits` float32 (severity, sample, logit), of attacked copies
        also `distance` float64 (severity, sample); all severities of the store in their order, -1 and NaN
        where there is no answer.
    """
    shift = store.axes.shifts[task.attack]
    typed: Values = {
        "prediction": np.asarray(values["prediction"], dtype=np.int64),
        "logits": arrays.canonical(values["logits"]),
    }
    if DISTANCE in values:
        typed[DISTANCE] = np.asarray(values[DISTANCE], dtype=np.float64)
    answered = typed["prediction"] != UNKNOWN
    if len(answered) != len(shift.severities):
        raise ValueError(f"{task}: {len(answered)} severities instead of {len(shift.severities)}")
    counts = np.hstack([answered, np.zeros((len(answered), 1), dtype=bool)]).argmin(axis=1)
    start = task.shard * SHARD
    record = Record(
        identity=identity,
        sample_hashes=tuple(shift.hashes[start : start + answered.shape[1]]),
        checksums={name: hash_array(value) for name, value in typed.items()},
        epsilons={float(s): int(n) for s, n in zip(shift.severities, counts, strict=True) if n},
        levels=tuple(float(severity) for severity in shift.severities),
        seconds=seconds,
        forwards=forwards,
        backwards=backwards,
        settings=dict(settings),
        versions=dict(versions or {}),
        time=now(),
    )
    # While its chunks change, the task has no record: whatever a kill leaves is computed again.
    store.journal.begin(task)
    write_shift(store.path, store.axes, task, typed)
    store.journal.commit(task, record)
    return record


def read_shift_task(store: CubeStore, task: Task, identity: str) -> StoredShift | None:
    """Return what a task stored; None unless it is there, of this identity and intact."""
    record = store.journal.read(task)
    if record is None or record.identity != identity:
        return None
    values = store.arrays.read(task, record)
    return None if values is None else StoredShift(values, record)


def fail_shift_task(store: CubeStore, task: Task, reason: str, *, identity: str = "") -> None:
    """Note that a task failed, and why; what it stored before stays."""
    store.journal.fail(task, reason, identity)


def shift_samples(store: CubeStore, shift: str) -> ShiftSamples:
    """Return one shifted test set as the current study selects it.

    Raises
    ------
    KeyError
        If the study has no such shift.
    """
    selection = store.selection()
    chosen = (selection or Selection((), 0)).shifts[shift]
    axes = store.axes.shifts[shift]
    positions = [axes.severities.index(severity) for severity in chosen.severities]
    logits = {}
    for model in selection.models if selection else ():
        found = _logits(store, selection, model, shift) if selection else None
        if found is not None:
            logits[model] = found[positions]
    return ShiftSamples(
        axes.kind,
        np.array(axes.labels[: chosen.samples], dtype=np.int64),
        np.array(axes.clean[: chosen.samples], dtype=np.int64),
        chosen.severities,
        logits,
    )


def _logits(store: CubeStore, selection: Selection, model: str, shift: str) -> Logits | None:
    """Return a model's logits over all severities of the store, None unless all its tasks are done."""
    states = task_states(store, selection, model, SHIFT, shift)
    if column_state(states)[0] != "ok":
        return None
    parts = []
    for shard, state in enumerate(states):
        assert state.record is not None
        values = store.arrays.read(shift_task(model, shift, shard), state.record)
        if values is None:
            return None
        rows = store.rows(shard, selection.shifts[shift].samples)
        parts.append(values["logits"][:, : rows.stop - rows.start])
    return np.concatenate(parts, axis=1)
