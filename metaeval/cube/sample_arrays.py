"""The arrays of single samples: whole chunks written, and read back against their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr

from metaeval.cube import arrays
from metaeval.cube.axes import Axes
from metaeval.cube.journal import CLEAN, Record, Task
from metaeval.cube.layout import EVIDENCE, SHARD, SHIFT
from metaeval.cube.shift_arrays import read_shift
from metaeval.hashing import hash_array
from metaeval.outcomes import Cell

Real = npt.NDArray[np.float64]
Integer = npt.NDArray[np.int64]
Values = dict[str, npt.NDArray[Any]]

_COLUMN = {
    "distance": np.float64,
    "searched": np.float64,
    "forwards": np.int64,
    "backwards": np.int64,
    "cell": np.uint8,
}
FOUND = (Cell.BROKEN, Cell.BROKEN_ENVELOPE, Cell.BROKEN_OVERRULED)
STAGED = "stage_distance"  # the one array whose last axis is that of the samples
_CLEAN = ("prediction", "logits")


@dataclass(frozen=True)
class Column:
    """One attack's results for one model on the samples of one shard, rows in the order of the samples.

    `distance` and `searched` are float64 norms, `forwards` and `backwards` int64 counts (each `(sample,)`),
    `cell` is uint8 `(sample, level)` with the levels in the store's order; 0 where a level was not asked for.
    `evidence` is float32 `(sample, *input)`, the smallest adversarials, NaN where there is none; None where
    they are not kept.
    `stage_distance` is float64 `(stage, sample)`, stages in the order of the cascade; None if it is none.
    """

    distance: Real
    searched: Real
    forwards: Integer
    backwards: Integer
    cell: npt.NDArray[np.uint8]
    evidence: npt.NDArray[np.float32] | None = None
    stage_distance: Real | None = None

    def claimed(self) -> npt.NDArray[np.bool_]:
        """Return of which samples an adversarial was found, bool `(sample,)`."""
        found = np.isin(self.cell, FOUND).any(axis=1)
        # A randomised model has verdicts and no distance; a minimum-norm attack may lie above all levels.
        return np.where(np.isnan(self.distance), found, np.isfinite(self.distance) & (self.distance > 0))

    def kept(self) -> npt.NDArray[np.bool_]:
        """Return of which samples an adversarial is kept, bool `(sample,)`."""
        if self.evidence is None:
            return np.zeros(len(self.distance), dtype=bool)
        return np.asarray(~np.isnan(self.evidence).all(axis=tuple(range(1, self.evidence.ndim))))


def column_values(column: Column) -> Values:
    """Return a column's arrays by name, in the types that are stored.

    Raises
    ------
    ValueError
        If it has adversarials, but not of every sample of which one was found.
    """
    values = {name: np.asarray(getattr(column, name), dtype=dtype) for name, dtype in _COLUMN.items()}
    if column.evidence is not None:
        values[EVIDENCE] = np.asarray(column.evidence, dtype=np.float32)
        if lost := int((column.claimed() & ~column.kept()).sum()):
            raise ValueError(f"{lost} adversarials were found and are not there to be kept")
    if column.stage_distance is not None:
        values[STAGED] = np.asarray(column.stage_distance, dtype=np.float64)
    return values


class StoredColumn(NamedTuple):
    """A column that was read back intact, and its record."""

    column: Column
    record: Record


class StoredClean(NamedTuple):
    """A clean forward pass that was read back intact, and its record."""

    prediction: Integer
    logits: npt.NDArray[np.float32]
    record: Record


class SampleArrays:
    """The arrays of `/samples/clean` and `/samples/<norm>`, addressed by task."""

    def __init__(self, path: Path, axes: Axes) -> None:
        self._path = path
        self._axes = axes
        self._handles: dict[tuple[str, str], arrays.ZarrArray] = {}

    def close(self) -> None:
        """Forget opened arrays, after their shapes have changed."""
        self._handles.clear()

    def check(self, task: Task, values: Values, widths: Mapping[str, Sequence[int]]) -> int:
        """Return the number of rows of a task's values.

        Raises
        ------
        ValueError
            If they do not fit the shard, each other, or `widths` (the sizes of further axes).
        """
        count, room = len(next(iter(values.values()))), self._room(task)
        if count > room:
            raise ValueError(f"{task}: {count} rows for a shard of {room} samples")
        for name, value in values.items():
            further = tuple(widths.get(name, ()))
            expected = (*further, count) if name == STAGED else (count, *further)
            if value.shape != expected:
                raise ValueError(f"{task}: {name} has the shape {value.shape} instead of {expected}")
        return count

    def write(self, task: Task, values: Values, stages: Sequence[str] = ()) -> None:
        """Write a task's chunks whole; rows, stages and adversarials that the values lack become fill values.

        Raises
        ------
        OSError
            If adversarials are not read back bit for bit.
        """
        room, index = self._room(task), self._index(task)
        rows = slice(task.shard * SHARD, task.shard * SHARD + room)
        for name, value in values.items():
            array = self._array(task.norm, name)
            if name == STAGED:
                block = np.full((len(self._axes.norms[task.norm].stages), room), np.nan)
                block[self._stages(task, stages), : value.shape[1]] = value
                array[(*self._index(task), slice(None), rows)] = block
                continue
            block = np.full((room, *value.shape[1:]), array.fill_value, dtype=value.dtype)
            block[: len(value)] = value
            array[(*index, rows)] = block
            if name == EVIDENCE and array[(*index, rows)].tobytes() != block.tobytes():
                raise OSError(f"{task}: the stored adversarials are not read back as they were written")
        if EVIDENCE not in values and self._keeps_evidence(task):
            array = self._array(task.norm, EVIDENCE)
            array[(*index, rows)] = array.fill_value

    def read(
        self, task: Task, record: Record, slabs: Values | None = None, *, evidence: bool = True
    ) -> Values | None:
        """Return the arrays that a record vouches for, or None if they are not what it says.

        A chunk that is missing, truncated or altered gives None, and so does a record of other samples or
        levels than the store's. `slabs` are the model's whole arrays, where they have been read already.
        Without `evidence`, adversarials are left where they are: they may fill the disk, not the memory.
        """
        if task.norm == SHIFT:
            return read_shift(self._path, self._axes, task, record)
        if not self._fits(task, record):
            return None
        index, start = self._index(task), task.shard * SHARD
        rows = slice(start, start + len(record.sample_hashes))
        values: Values = {}
        names = _names(task.norm)
        if evidence and EVIDENCE in record.checksums:
            names += (EVIDENCE,)
        if record.stages:
            names += (STAGED,)
        for name in names:
            value: npt.NDArray[Any] | None
            place = (slice(None), rows) if name == STAGED else (rows,)
            if slabs is not None and name in slabs:
                value = slabs[name][(*index[1:], *place)].copy()
            else:
                read = self._array(task.norm, name).__getitem__
                value = arrays.attempt(partial(read, (*index, *place)))
            if value is None:
                return None
            if name == STAGED:
                value = value[self._stages(task, [stage.attack for stage in record.stages])]
            levels = len(record.levels)
            if hash_array(value[:, :levels] if name == "cell" else value) != record.checksums.get(name):
                return None
            if name == "cell":
                value[:, levels:] = 0  # the record does not vouch for them
            values[name] = value
        return values

    def slabs(self, model: str, norm: str) -> Values | None:
        """Read a model's arrays at once, far faster than task by task; None if any chunk is damaged."""
        index = self._axes.models.index(model)
        result: Values = {}
        for name in _names(norm):
            slab = arrays.attempt(partial(self._array(norm, name).__getitem__, index))
            if slab is None:
                return None
            result[name] = slab
        return result

    def _fits(self, task: Task, record: Record) -> bool:
        start = task.shard * SHARD
        hashes = self._axes.hashes[start : start + len(record.sample_hashes)]
        if task.model not in self._axes.models or tuple(hashes) != record.sample_hashes:
            return False
        if task.norm == CLEAN:
            return True
        axes = self._axes.norms.get(task.norm)
        return (
            axes is not None
            and task.attack in axes.attacks
            and tuple(axes.epsilons[: len(record.levels)]) == record.levels
            and {stage.attack for stage in record.stages} <= set(axes.stages)
        )

    def _keeps_evidence(self, task: Task) -> bool:
        return task.norm != CLEAN and self._axes.norms[task.norm].input_shape is not None

    def _stages(self, task: Task, names: Sequence[str]) -> list[int]:
        return [self._axes.norms[task.norm].stages.index(name) for name in names]

    def _index(self, task: Task) -> tuple[int, ...]:
        model = self._axes.models.index(task.model)
        return (
            (model,)
            if task.norm == CLEAN
            else (model, self._axes.norms[task.norm].attacks.index(task.attack))
        )

    def _room(self, task: Task) -> int:
        return max(0, min(SHARD, len(self._axes.ids) - task.shard * SHARD))

    def _array(self, norm: str, name: str) -> arrays.ZarrArray:
        key = (norm, name)
        if key not in self._handles:
            self._handles[key] = zarr.open_array(self._path, path=f"samples/{norm}/{name}", mode="r+")
        return self._handles[key]


def _names(norm: str) -> tuple[str, ...]:
    return _CLEAN if norm == CLEAN else tuple(_COLUMN)
