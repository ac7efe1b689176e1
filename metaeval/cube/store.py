"""The cube while it grows: axes, columns, records.

Locks are the caller's (`metaeval.cube.locks`): whoever changes axes, models, attributes or aggregates holds
the layout lock exclusively; whoever writes columns holds it shared, and no two write the same task.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from metaeval.cube import arrays, growth
from metaeval.cube.axes import Axes
from metaeval.cube.importing import refuse_run
from metaeval.cube.journal import CLEAN, Journal, Record, Stage, Task, now
from metaeval.cube.layout import CUBE, EVIDENCE, MODELS_DTYPES, SHARD, variable
from metaeval.cube.sample_arrays import (
    STAGED,
    Column,
    Integer,
    Real,
    SampleArrays,
    StoredClean,
    StoredColumn,
    column_values,
)
from metaeval.cube.selection import Selection
from metaeval.errors import MissingInputError, UsageError
from metaeval.hashing import hash_array

__all__ = ["Column", "CubeStore", "StoredClean", "StoredColumn"]

Attributes = Mapping[str, "str | int | float | Sequence[str] | Mapping[str, Any]"]


class CubeStore:
    """A cube being written, in one folder: `cube.zarr` and `journal/`; see `open_or_create` and `open`."""

    def __init__(self, directory: Path, axes: Axes) -> None:
        self.directory = directory
        self.path = directory / CUBE
        self.journal = Journal(directory / "journal")
        self._axes = axes
        self.arrays = SampleArrays(self.path, axes)
        self.grown: growth.Grown = {}

    @classmethod
    def open_or_create(cls, directory: str | os.PathLike[str]) -> CubeStore:
        """Open the cube in a folder, creating what is missing and finishing an interrupted growth.

        Needs the layout lock exclusively.

        Raises
        ------
        UsageError
            If the folder holds a damaged cube, an imported one, or one of another format or without journal.
        """
        directory = Path(directory)
        refuse_run(directory)
        axes = Axes.load(_axes_path(directory))
        if axes is None and (directory / CUBE).exists():
            raise UsageError(
                f"{directory / CUBE} has lost its journal, so nothing in it can be trusted; "
                "choose another output folder or remove it"
            )
        store = cls(directory, axes or Axes())
        store._save_and_grow()
        return store

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> CubeStore:
        """Open an existing cube without changing anything; enough for writing columns and for reading.

        Raises
        ------
        MissingInputError
            If there is no cube in the folder.
        UsageError
            If it is damaged or of another format version.
        """
        directory = Path(directory)
        axes = Axes.load(_axes_path(directory))
        if axes is None or not (directory / CUBE).exists():
            raise MissingInputError(f"no cube in {directory}")
        return cls(directory, axes)

    @property
    def axes(self) -> Axes:
        """Every axis; to be read, not changed."""
        return self._axes

    # Axes -------------------------------------------------------------------------------------------------

    @property
    def models(self) -> list[str]:
        """Names of all models, in order of arrival."""
        return list(self._axes.models)

    @property
    def sample_ids(self) -> list[str]:
        """Ids of all samples."""
        return list(self._axes.ids)

    @property
    def sample_hashes(self) -> list[str]:
        """Content hashes of all samples."""
        return list(self._axes.hashes)

    @property
    def labels(self) -> Integer:
        """True classes of all samples, int64 `(sample,)`."""
        return np.array(self._axes.labels, dtype=np.int64)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return list(self._axes.class_names)

    @property
    def norms(self) -> list[str]:
        """Norms that have attacks, in order of arrival."""
        return list(self._axes.norms)

    def attacks(self, norm: str) -> list[str]:
        """Return a norm's attacks, in order of arrival."""
        return list(self._axes.norms[norm].attacks)

    def epsilons(self, norm: str) -> Real:
        """Return the radii of a norm's levels, in order of arrival: the second axis of `Column.cell`."""
        return np.array(self._axes.norms[norm].epsilons, dtype=np.float64)

    def levels(self, norm: str, epsilons: Iterable[float]) -> Integer:
        """Return the positions of radii among a norm's levels; KeyError for one that is not a level."""
        position = {epsilon: level for level, epsilon in enumerate(self._axes.norms[norm].epsilons)}
        return np.array([position[epsilon] for epsilon in epsilons], dtype=np.int64)

    def epsilon_labels(self, norm: str) -> list[str]:
        """Return the labels of a norm's levels, in order of arrival."""
        return list(self._axes.norms[norm].labels)

    def stages(self, norm: str) -> list[str]:
        """Return the stages of a norm's cascades, in order of arrival."""
        return list(self._axes.norms[norm].stages)

    def shards(self, samples: int | None = None) -> int:
        """Return the number of shards that the first `samples` (default: all) fall into."""
        return math.ceil((len(self._axes.ids) if samples is None else samples) / SHARD)

    def rows(self, shard: int, samples: int | None = None) -> slice:
        """Return the samples of a shard, of the first `samples` (default: all)."""
        total = len(self._axes.ids) if samples is None else samples
        return slice(shard * SHARD, max(shard * SHARD, min((shard + 1) * SHARD, total)))

    # Growing ----------------------------------------------------------------------------------------------

    def ensure_samples(
        self,
        ids: Sequence[str],
        hashes: Sequence[str],
        labels: npt.ArrayLike,
        class_names: Sequence[str],
        logits: int,
    ) -> None:
        """Append samples; those of the cube must be a prefix of these, or these of the cube's.

        Raises
        ------
        UsageError
            If the cube holds other samples or classes.
        """
        self._axes.add_samples(ids, hashes, labels, class_names, logits)
        self._save_and_grow()

    def ensure_models(self, names: Sequence[str]) -> None:
        """Append the models that are new; others keep their place."""
        self._axes.add_models(names)
        self._save_and_grow()

    def ensure_norm(
        self,
        norm: str,
        attacks: Sequence[str],
        epsilons: Sequence[tuple[float, str]],
        input_shape: Sequence[int] | None = None,
        stages: Sequence[str] = (),
    ) -> None:
        """Append what is new (levels are radius and label), with `input_shape` room for adversarials."""
        self._axes.add_norm(norm, attacks, epsilons, input_shape, stages)
        self._save_and_grow()

    def set_attributes(self, attributes: Attributes) -> None:
        """Set attributes of the root group; a mapping is stored as one JSON string."""
        arrays.drop_consolidated(self.path)
        root = zarr.open_group(self.path, mode="r+", use_consolidated=False)
        root.attrs.update({key: arrays.attribute(key, value) for key, value in attributes.items()})

    def select(self, selection: Selection) -> None:
        """Note which part of the store the current study covers, for aggregates and `status`."""
        self.set_attributes({"selection": selection.to_json()})

    def selection(self) -> Selection | None:
        """Return what `select` or the last rebuilding noted, or None."""
        text = self.attributes().get("selection")
        return None if text is None else Selection.from_json(str(text))

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the root group."""
        return dict(zarr.open_group(self.path, mode="r", use_consolidated=False).attrs)

    def write_models(self, names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
        """Replace `/models`: one array per column, one entry per model, None where a model has none.

        A column of whole numbers without None is int64, other numbers are float64 (None: NaN), anything else
        is text (None: "").
        """
        arrays.drop_consolidated(self.path)
        described = {"model": variable("clean", "model")}
        values: dict[str, Any] = {"model": list(names)}
        for name, column in columns.items():
            if len(column) != len(names):
                raise ValueError(f"column {name!r} has {len(column)} entries for {len(names)} models")
            kind, values[name] = arrays.typed(column)
            described[name] = MODELS_DTYPES[kind]
        arrays.replace_group(self.path, "models", described, values)

    # Clean forward pass -----------------------------------------------------------------------------------

    def write_clean(
        self,
        model: str,
        shard: int,
        prediction: npt.ArrayLike,
        logits: npt.ArrayLike,
        *,
        identity: str,
        seconds: float | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> Record:
        """Write a model's clean predictions `(sample,)` and logits `(sample, logit)` on a shard's samples."""
        task = Task(model, CLEAN, "", shard)
        values: dict[str, npt.NDArray[Any]] = {
            "prediction": np.asarray(prediction, dtype=np.int64),
            "logits": arrays.canonical(logits),
        }
        count = self.arrays.check(task, values, {"logits": (self._axes.logits,)})
        record = Record(
            identity=identity,
            sample_hashes=tuple(self._axes.hashes[shard * SHARD : shard * SHARD + count]),
            checksums={name: hash_array(value) for name, value in values.items()},
            seconds=seconds,
            forwards=count,
            versions=dict(versions or {}),
            time=now(),
        )
        self._write(task, values, record)
        return record

    def clean_record(self, model: str, shard: int) -> Record | None:
        """Return the record of a model's clean forward pass, without looking at what it vouches for."""
        return self.journal.read(Task(model, CLEAN, "", shard))

    def read_clean(self, model: str, shard: int, identity: str) -> StoredClean | None:
        """Return clean predictions and logits; None unless they are there, of this identity and intact."""
        stored = self._read(Task(model, CLEAN, "", shard), identity)
        return None if stored is None else StoredClean(**stored[0], record=stored[1])

    def fail_clean(self, model: str, shard: int, reason: str, *, identity: str = "") -> None:
        """Note that a model's clean forward pass failed, and why."""
        self.journal.fail(Task(model, CLEAN, "", shard), reason, identity)

    # Columns ----------------------------------------------------------------------------------------------

    def write_column(
        self,
        model: str,
        norm: str,
        attack: str,
        shard: int,
        column: Column,
        *,
        identity: str,
        settings: Mapping[str, Any],
        reduced: Sequence[str] = (),
        seconds: float | None = None,
        verification: int = 0,
        verification_seconds: float | None = None,
        flags: Mapping[str, float] | None = None,
        versions: Mapping[str, str] | None = None,
        stages: Sequence[Stage] = (),
    ) -> Record:
        """Write a task's column, then its record; until the record is there the task is not done.

        Parameters
        ----------
        column : Column
            Rows for the first samples of the shard; what it continues must be in it.
        identity : str
            Identity of the column (weights, attack, settings, search, seed, precision).
        settings : mapping
            Resolved settings of the attack, as JSON can say them.
        reduced : sequence of str
            Settings below the attack's standard, in words.
        seconds, verification_seconds : float, optional
            Time that the attack and the verification of its claims took, earlier parts of
            the column included.
        verification : int
            Forward passes of the verification, not counted in `column.forwards`.
        flags : mapping, optional
            Numeric warnings; NaN ones are left out.
        stages : sequence of Stage
            Of a cascade, in its order: what each stage spent, earlier parts of the column included.
        """
        task = Task(model, norm, attack, shard)
        values: dict[str, npt.NDArray[Any]] = column_values(column)
        levels = self._axes.norms[norm].epsilons
        shape = self._axes.norms[norm].input_shape or ()
        widths = {"cell": (len(levels),), EVIDENCE: shape, STAGED: (len(stages),)}
        count = self.arrays.check(task, values, widths)
        verdicts = np.vstack([values["cell"] != 0, np.zeros((1, len(levels)), dtype=bool)]).argmin(axis=0)
        record = Record(
            identity=identity,
            sample_hashes=tuple(self._axes.hashes[shard * SHARD : shard * SHARD + count]),
            checksums={name: hash_array(value) for name, value in values.items()},
            epsilons={e: int(n) for e, n in zip(levels, verdicts, strict=True) if n},
            levels=tuple(levels),
            seconds=seconds,
            forwards=int(values["forwards"].clip(min=0).sum()),
            backwards=int(values["backwards"].clip(min=0).sum()),
            verification=int(verification),
            verification_seconds=verification_seconds,
            settings=dict(settings),
            reduced=tuple(reduced),
            flags={key: float(flag) for key, flag in (flags or {}).items() if math.isfinite(flag)},
            versions=dict(versions or {}),
            time=now(),
            stages=tuple(stages),
        )
        self._write(task, values, record)
        return record

    def record(self, model: str, norm: str, attack: str, shard: int) -> Record | None:
        """Return a task's record, without looking at what it vouches for."""
        return self.journal.read(Task(model, norm, attack, shard))

    def read_column(
        self, model: str, norm: str, attack: str, shard: int, identity: str
    ) -> StoredColumn | None:
        """Return a task's column and record; None unless they are there, of this identity and intact.

        The rows are those of the record; `cell` has all levels of the store (`epsilons(norm)`, or
        `levels` for the positions of some), 0 where there is no verdict.
        """
        stored = self._read(Task(model, norm, attack, shard), identity)
        return None if stored is None else StoredColumn(Column(**stored[0]), stored[1])

    def fail_column(
        self, model: str, norm: str, attack: str, shard: int, reason: str, *, identity: str = ""
    ) -> None:
        """Note that a task failed, and why; what it stored before stays."""
        self.journal.fail(Task(model, norm, attack, shard), reason, identity)

    def skip_column(
        self, model: str, norm: str, attack: str, shard: int, reason: str, *, identity: str = ""
    ) -> None:
        """Note that a task does not apply to this model, and why; it is no member of the worst case."""
        self.journal.skip_task(Task(model, norm, attack, shard), reason, identity)

    # Inside -----------------------------------------------------------------------------------------------

    def _save_and_grow(self) -> None:
        # First the axes, whole, then the arrays: what a kill interrupts, the next opening finishes.
        self._axes.save(_axes_path(self.directory))
        growth.grow(self.path, self._axes, self.grown)
        self.arrays.close()

    def _write(self, task: Task, values: dict[str, npt.NDArray[Any]], record: Record) -> None:
        # While its chunks change, the task has no record: whatever a kill leaves is computed again.
        self.journal.begin(task)
        self.arrays.write(task, values, [stage.attack for stage in record.stages])
        self.journal.commit(task, record)

    def _read(self, task: Task, identity: str) -> tuple[dict[str, npt.NDArray[Any]], Record] | None:
        record = self.journal.read(task)
        if record is None or record.identity != identity:
            return None
        values = self.arrays.read(task, record)
        return None if values is None else (values, record)


def _axes_path(directory: Path) -> Path:
    return directory / "journal" / "axes.json"
