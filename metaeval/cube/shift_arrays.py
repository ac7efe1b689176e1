"""The arrays of `/samples/shifts/<name>`: a task's chunks written whole, and read back against its record."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from metaeval.cube import arrays
from metaeval.cube.axes import Axes
from metaeval.cube.journal import Record, Task
from metaeval.cube.layout import SHARD, SHIFT_GROUP
from metaeval.hashing import hash_array

Values = dict[str, npt.NDArray[Any]]

NAMES = ("prediction", "logits")
DISTANCE = "distance"


def names(axes: Axes, shift: str) -> tuple[str, ...]:
    """Return the arrays that a task of a shift writes, each over (severity, sample[, logit])."""
    return (*NAMES, DISTANCE) if axes.shifts[shift].norm else NAMES


def write_shift(path: Path, axes: Axes, task: Task, values: Values) -> None:
    """Write a task's chunks whole, over all severities; rows that the values lack become fill values.

    Raises
    ------
    ValueError
        If the values are not those of the shift, or do not fit the shard or each other.
    """
    shift = axes.shifts[task.attack]
    room, model = _room(axes, task), axes.models.index(task.model)
    wanted = names(axes, task.attack)
    if set(values) != set(wanted):
        raise ValueError(f"{task}: {', '.join(sorted(values))} instead of {', '.join(sorted(wanted))}")
    count = values["prediction"].shape[-1]
    if count > room:
        raise ValueError(f"{task}: {count} rows for a shard of {room} samples")
    for name, value in values.items():
        expected = (len(shift.severities), count, *((axes.logits,) if name == "logits" else ()))
        if value.shape != expected:
            raise ValueError(f"{task}: {name} has the shape {value.shape} instead of {expected}")
    rows = slice(task.shard * SHARD, task.shard * SHARD + room)
    for name, value in values.items():
        array = _array(path, task.attack, name)
        block = np.full((len(value), room, *value.shape[2:]), array.fill_value, dtype=value.dtype)
        block[:, :count] = value
        array[model, :, rows] = block


def read_shift(path: Path, axes: Axes, task: Task, record: Record) -> Values | None:
    """Return the arrays that a record vouches for, or None if they are not what it says.

    They hold all severities of the store, those that the record does not vouch for as fill values.
    """
    shift = axes.shifts.get(task.attack)
    if shift is None or task.model not in axes.models:
        return None
    start, known = task.shard * SHARD, len(record.levels)
    rows = slice(start, start + len(record.sample_hashes))
    if tuple(shift.hashes[rows]) != record.sample_hashes or tuple(shift.severities[:known]) != record.levels:
        return None
    model = axes.models.index(task.model)
    values: Values = {}
    for name in names(axes, task.attack):
        array = arrays.attempt(partial(_array, path, task.attack, name))
        value: npt.NDArray[Any] | None = None
        if array is not None:
            value = arrays.attempt(partial(array.__getitem__, (model, slice(None), rows)))
        if array is None or value is None or hash_array(value[:known]) != record.checksums.get(name):
            return None
        value[known:] = array.fill_value
        values[name] = value
    return values


def _room(axes: Axes, task: Task) -> int:
    return max(0, min(SHARD, len(axes.shifts[task.attack].ids) - task.shard * SHARD))


def _array(path: Path, shift: str, name: str) -> arrays.ZarrArray:
    return zarr.open_array(path, path=f"{SHIFT_GROUP}{shift}/{name}", mode="r+")
