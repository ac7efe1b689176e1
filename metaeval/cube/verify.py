"""Checking a cube: every record against what is stored, every published number against its recount."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from metaeval.cube import arrays, growth, separation
from metaeval.cube.aggregate import compute
from metaeval.cube.importing import damaged, provenance_of
from metaeval.cube.layout import GROUPS
from metaeval.cube.measures import MEASURES, read_record
from metaeval.cube.store import CubeStore
from metaeval.cube.training import TRAIN, training_faults
from metaeval.errors import UsageError


@dataclass(frozen=True)
class Finding:
    """Something that verifying found.

    `kind` is "error" where a stored number cannot be trusted, "note" where something is only unfinished;
    `where` names the task, array or file.
    """

    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.message}"


def verify(directory: str | os.PathLike[str]) -> list[Finding]:
    """Check a cube without changing it; an empty list means that every number is as computed or imported.

    Needs the layout lock, shared. Damaged tasks are computed again by the next run of the study; damaged
    axes and aggregates are written anew by the next run or report.

    Raises
    ------
    MissingInputError
        If there is no cube in the folder.
    UsageError
        If its axes are damaged.
    """
    if provenance_of(directory) is not None:
        return [Finding("error", place, "it is not what was imported") for place in damaged(directory)]
    store = CubeStore.open(directory)
    training = (Finding(*fault) for fault in training_faults(store))
    return [*_axes(store), *_records(store), *training, *_distances(store), *_aggregates(store)]


def _axes(store: CubeStore) -> Iterator[Finding]:
    root = zarr.open_group(store.path, mode="r", use_consolidated=False)
    for group, name in growth.differences(root, store.axes):
        yield Finding("error", f"{group}/{name}", "its size or coordinates are not what the journal says")


def _records(store: CubeStore) -> Iterator[Finding]:
    for path in store.journal.files():
        task = store.journal.task_of(path)
        if task is None:
            yield Finding("error", str(path), "the file is damaged; its task counts as not done")
        elif path.suffix == ".open":
            if store.journal.is_open(task):
                yield Finding(
                    "note", str(task), "its writing was interrupted; the next run computes it again"
                )
        elif path.suffix == ".json" and task.norm == MEASURES:
            if read_record(store.journal, task.model, task.attack) is None:
                yield Finding("error", str(task), "its record is damaged or of another version")
        elif path.suffix == ".json" and task.norm != TRAIN:
            record = store.journal.read(task)
            if record is None:
                yield Finding("error", str(task), "its record is damaged or of another version")
            elif store.arrays.read(task, record) is None:
                yield Finding("error", str(task), "the stored values do not match their record")


def _distances(store: CubeStore) -> Iterator[Finding]:
    held = separation.read(store)
    if held is not None and held.distance is None:
        where = f"{separation.GROUP}/distance"
        yield Finding("error", where, "it is not what was written; the next run computes it again")


def _aggregates(store: CubeStore) -> Iterator[Finding]:
    attributes = store.attributes()
    selection = store.selection()
    if selection is None or "journal" not in attributes:
        yield Finding("note", "aggregates", "not built yet; run or report builds them")
        return
    if attributes["journal"] != store.journal.digest():
        yield Finding("note", "aggregates", "older than the records; run or report rebuilds them")
        return
    if not _consolidated(store):
        yield Finding("note", "metadata", "not consolidated; run or report does it")
    try:
        expected = compute(store, selection)
    except UsageError as error:
        yield Finding("error", "aggregates", str(error))
        return
    for group, values in expected.items():
        for name, value in values.items():
            if not _same(store, group, name, value):
                yield Finding(
                    "error", f"{group}/{name}", "the published values are not what the records give"
                )


def _same(store: CubeStore, group: str, name: str, expected: Any) -> bool:
    stored = arrays.attempt(lambda: zarr.open_array(store.path, path=f"{group}/{name}", mode="r")[...])
    if stored is None:
        return False
    if GROUPS[group][name].dtype == "string":
        return bool(stored.tolist() == np.asarray(expected).tolist())
    return np.array_equal(stored, np.asarray(expected), equal_nan=stored.dtype.kind == "f")


def _consolidated(store: CubeStore) -> bool:
    content = json.loads((store.path / "zarr.json").read_bytes())
    return content.get("consolidated_metadata") is not None
