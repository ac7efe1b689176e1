"""Evaluating a model on its shifted test sets: inputs a few at a time, answers committed by the shard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from metaeval.attacks.copies import Copies, attacked_copies
from metaeval.attacks.verify import Evaluator, predictions
from metaeval.cube.journal import covers
from metaeval.cube.shift_arrays import DISTANCE, Values
from metaeval.cube.shift_axes import ShiftAxes
from metaeval.cube.shift_store import read_shift_task, shift_task, write_shift_task
from metaeval.cube.store import CubeStore
from metaeval.runner.devices import with_shrinking_batch
from metaeval.runner.records import versions
from metaeval.runner.shift_plan import ShiftPlan, ShiftTask
from metaeval.sources.shifts import Shift

READ_ITEMS = 2**22  # numbers of the inputs that are held at a time
READ_ROWS = 32  # they come in multiples of so many, as the evaluator's batches do


class Spent(NamedTuple):
    """Passes of a task: of attacks forward and backward, and of the evaluation."""

    forwards: int
    backwards: int
    evaluation: int


def axes_of(shift: Shift) -> ShiftAxes:
    """Return what the store is told of a shift."""
    labels, hashes = shift.content
    return ShiftAxes(
        kind=shift.kind,
        norm=shift.attack.norm if shift.attack else "",
        ids=list(shift.ids),
        hashes=list(hashes),
        labels=labels.tolist(),
        clean=list(shift.clean),
        severities=list(shift.severities),
    )


def run_shift(
    task: ShiftTask,
    module: torch.nn.Module,
    identity: str,
    store: CubeStore,
    *,
    seed: int,
    precision: str,
    batch_size: int,
    device: torch.device,
    on_shrink: Callable[[int], None],
) -> Spent | None:
    """Bring a model's answers on one shard of a shift up to the plan; return None if they were complete.

    What the record holds already is kept: only new samples and severities are evaluated.
    """
    shift, started = task.plan.shift, time.monotonic()
    key = shift_task(task.model, shift.name, task.shard)
    rows = slice(task.start, task.stop)
    hashes = shift.content.hashes[rows]
    old = read_shift_task(store, key, identity)
    if old is not None and covers(old.record, identity, hashes, [float(s) for s in shift.severities]):
        return None
    axes = store.axes.shifts[shift.name]
    count = len(hashes) if old is None else max(len(hashes), len(old.record.sample_hashes))
    values: Values = {
        "prediction": np.full((len(axes.severities), count), -1, dtype=np.int64),
        "logits": np.full((len(axes.severities), count, store.axes.logits), np.nan, dtype=np.float32),
    }
    if axes.norm:
        values[DISTANCE] = np.full((len(axes.severities), count), np.nan)
    if old is not None:
        for name, stored in old.values.items():
            values[name][:, : stored.shape[1]] = stored
    evaluator = Evaluator(module.to(device), device)
    forwards = backwards = 0
    for severity in shift.severities:
        level = axes.severities.index(severity)
        done = 0 if old is None else old.record.epsilons.get(float(severity), 0)
        for part in _parts(shift, task, done):
            x = torch.from_numpy(shift.read(severity, part)).to(device)
            place = slice(part.start - task.start, part.stop - task.start)
            if task.plan.spec is not None:
                copies = _attacked(task.plan, part, x, module, seed, precision, batch_size, device, on_shrink)
                x, values[DISTANCE][level, place] = copies.points, copies.distance
                forwards, backwards = forwards + copies.forwards, backwards + copies.backwards
            logits = evaluator.logits(x)
            if logits.shape[1] != store.axes.logits:
                raise ValueError(f"the model gives {logits.shape[1]} logits instead of {store.axes.logits}")
            values["prediction"][level, place] = predictions(logits).cpu().numpy()
            values["logits"][level, place] = logits.cpu().numpy()
    write_shift_task(
        store,
        key,
        values,
        identity=identity,
        settings=shift.settings,
        seconds=time.monotonic() - started + (old.record.seconds or 0.0 if old else 0.0),
        forwards=forwards + evaluator.forwards + (old.record.forwards if old else 0),
        backwards=backwards + (old.record.backwards if old else 0),
        versions=versions(),
    )
    return Spent(forwards, backwards, evaluator.forwards)


def _parts(shift: Shift, task: ShiftTask, done: int) -> list[slice]:
    """Return the slices of a shift's samples that a task still has to evaluate, each small in memory."""
    first = task.start + done
    if first >= task.stop:
        return []
    if task.plan.spec is not None:  # the originals are in memory already
        return [slice(first, task.stop)]
    items = max(shift.read(shift.severities[0], slice(first, first + 1)).size, 1)
    size = max(READ_ITEMS // items // READ_ROWS, 1) * READ_ROWS
    return [slice(start, min(start + size, task.stop)) for start in range(first, task.stop, size)]


def _attacked(
    plan: ShiftPlan,
    part: slice,
    x: torch.Tensor,
    module: torch.nn.Module,
    seed: int,
    precision: str,
    batch_size: int,
    device: torch.device,
    on_shrink: Callable[[int], None],
) -> Copies:
    spec, table = plan.spec, plan.shift.attack
    assert spec is not None
    assert table is not None
    return with_shrinking_batch(
        lambda size: attacked_copies(
            module,
            x.cpu().numpy(),
            plan.shift.content.labels[part],
            spec=spec,
            settings=plan.attack_settings,
            norm=table.norm,
            epsilon=table.epsilon.value if table.epsilon else None,
            seed=seed,
            sample_hashes=plan.shift.content.hashes[part],
            batch_size=size,
            device=device,
            precision=precision,
        ),
        batch_size,
        on_shrink,
    )
