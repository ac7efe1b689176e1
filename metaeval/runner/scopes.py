"""The shifts of a study as scopes of measures: what a model answered on them, read back from the cube."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metaeval.cube.journal import covers
from metaeval.cube.shift_arrays import DISTANCE, Values
from metaeval.cube.shift_store import read_shift_task, shift_task
from metaeval.cube.store import CubeStore
from metaeval.measures.spec import Split
from metaeval.runner.measuring import ScopeReader, Scopes
from metaeval.runner.shift_plan import ShiftPlan, shift_tasks
from metaeval.sources.models import LoadedModel, ModelEntry


def shift_scopes(plans: tuple[ShiftPlan, ...], precision: Mapping[str, Any]) -> ScopeReader:
    """Return the reader of these shifts: each severity one scope, "fog/3", or "cifar10.1" without any.

    A shift that a model has not answered in full is left out.
    """

    def read(store: CubeStore, entry: ModelEntry, model: LoadedModel) -> Scopes:
        splits: dict[str, Split] = {}
        attacked: set[str] = set()
        for plan in plans:
            found = _splits(store, entry.name, plan, plan.identity(model.identity, precision))
            splits |= found
            if plan.spec is not None:
                attacked |= set(found)
        return Scopes(splits, frozenset(attacked))

    return read


def _splits(store: CubeStore, model: str, plan: ShiftPlan, identity: str) -> dict[str, Split]:
    name, severities = plan.shift.name, plan.shift.severities
    axes, parts = store.axes.shifts[name], []
    for task in shift_tasks((plan,), model):
        stored = read_shift_task(store, shift_task(model, name, task.shard), identity)
        hashes = plan.shift.content.hashes[task.start : task.stop]
        if stored is None or not covers(stored.record, identity, hashes, map(float, severities)):
            return {}
        parts.append({key: value[:, : len(hashes)] for key, value in stored.values.items()})
    whole: Values = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
    count = whole["logits"].shape[1]
    y = np.array(axes.labels[:count], dtype=np.int64)
    clean = np.array(axes.clean[:count], dtype=np.int64)
    splits = {}
    for severity in severities:
        level = axes.severities.index(severity)
        distance = whole[DISTANCE][level] if axes.norm == "linf" else None
        scope = f"{name}/{severity}" if severity else name
        splits[scope] = Split(y, whole["logits"][level], clean=clean, distance=distance)
    return splits
