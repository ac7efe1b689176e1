"""From sample arrays and records to the published aggregates: `/clean`, norms, `/cost`, `/shifts`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.cube import arrays
from metaeval.cube.counts import UNKNOWN, Integer, accuracy, aggregate_norm, only_black_box
from metaeval.cube.journal import CLEAN, Task
from metaeval.cube.layout import GROUPS, SHARD, STAGES, STATUS, WORST_CASE
from metaeval.cube.measures import compute_measures
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.shift_counts import missing_shifts, shift_values
from metaeval.cube.stages import count_stages, stage_values
from metaeval.cube.states import State, column_state, task_states, worst_case_state
from metaeval.cube.store import CubeStore
from metaeval.errors import UsageError
from metaeval.outcomes import NORMS

_Values = dict[str, npt.NDArray[Any]]
_Read = Callable[..., tuple[list[State], dict[int, _Values]]]

DAMAGED = "stored values do not match their record; the next run computes them again"


def rebuild(store: CubeStore, selection: Selection) -> None:
    """Rebuild every aggregate from the records and the arrays they vouch for, and consolidate last.

    Needs the layout lock exclusively. A task whose stored values do not match its record counts as pending,
    and its record is withdrawn, so that the next run computes it again.

    Raises
    ------
    UsageError
        If the selection names a model, attack, epsilon or sample that the cube does not have.
    """
    groups = compute(store, selection, withdraw=True)
    arrays.drop_consolidated(store.path)
    # Digested after the counting, which may have withdrawn records.
    journal = store.journal.digest()
    for name, values in groups.items():
        variables = {key: GROUPS[name][key] for key in GROUPS[name] if key in values}
        attributes = {"journal": journal}
        if name in selection.norms and selection.norms[name].cascade:
            attributes["cascade"] = selection.norms[name].cascade
        arrays.replace_group(store.path, name, variables, values, attributes)
    for name in {*NORMS, "cost", "measures", "shifts"} - set(groups):
        arrays.remove_group(store.path, name)
    store.set_attributes({"selection": selection.to_json(), "journal": journal})
    arrays.consolidate(store.path)


def compute(store: CubeStore, selection: Selection, *, withdraw: bool = False) -> dict[str, dict[str, Any]]:
    """Return the values of every aggregate group, by group and variable, without writing them.

    With `withdraw`, records whose stored values do not match are withdrawn.
    """
    _check(store, selection)
    labels = store.labels[: selection.samples]
    read = partial(_column, store, selection, withdraw)
    groups = {"clean": _clean(store, selection, labels, read)}
    costs: dict[tuple[str, str, str], list[State]] = {}
    for norm, chosen in selection.norms.items():
        groups[norm] = _norm(store, selection, norm, chosen, labels, costs, read)
    if selection.norms:
        groups["cost"] = _cost(selection, costs)
    if selection.measures:
        groups["measures"] = compute_measures(
            store.journal, selection.measures, selection.models, store.class_names
        )
    if selection.shifts:
        groups["shifts"] = shift_values(store, selection, partial(read, None))
    return groups


def _check(store: CubeStore, selection: Selection) -> None:
    missing = [f"model {name!r}" for name in selection.models if name not in store.models]
    if selection.samples > len(store.sample_ids):
        missing.append(f"{selection.samples} samples")
    for norm, chosen in selection.norms.items():
        if norm not in store.norms:
            missing.append(f"norm {norm!r}")
            continue
        missing += [
            f"attack {name!r} in {norm}" for name in chosen.attacks if name not in store.attacks(norm)
        ]
        missing += [f"stage {name!r} in {norm}" for name in chosen.stages if name not in store.stages(norm)]
        known = set(store.epsilons(norm).tolist())
        missing += [f"epsilon {epsilon!r} in {norm}" for epsilon in chosen.epsilons if epsilon not in known]
    missing += missing_shifts(store, selection)
    if missing:
        raise UsageError(f"the cube in {store.directory} does not have {', '.join(missing)}")


def _clean(store: CubeStore, selection: Selection, labels: Integer, read: _Read) -> dict[str, Any]:
    classes = store.class_names
    total = np.bincount(labels, minlength=len(classes)).astype(np.int64)
    correct = np.full((len(selection.models), len(classes)), UNKNOWN, dtype=np.int64)
    for position, model in enumerate(selection.models):
        slabs = store.arrays.slabs(model, CLEAN)
        _, values = read(slabs, model, CLEAN)
        predicted = np.full(len(labels), UNKNOWN, dtype=np.int64)
        for shard, stored in values.items():
            _fill(predicted, shard, stored["prediction"])
        evaluated = np.bincount(labels[predicted != UNKNOWN], minlength=len(classes))
        right = np.bincount(labels[predicted == labels], minlength=len(classes))
        correct[position] = np.where(evaluated == total, right, UNKNOWN)
    return {
        "model": list(selection.models),
        "class": classes,
        "accuracy": accuracy(correct, total),
        "correct": correct,
        "total": total,
    }


def _norm(
    store: CubeStore,
    selection: Selection,
    norm: str,
    chosen: NormSelection,
    labels: Integer,
    costs: dict[tuple[str, str, str], list[State]],
    read: _Read,
) -> dict[str, Any]:
    """Return the values of one norm's group, and note the records of its complete columns for the costs."""
    epsilons = sorted(chosen.epsilons)
    levels = store.levels(norm, epsilons)
    texts = store.epsilon_labels(norm)
    counts, states, warnings, stages = [], [], [], []
    settings, reduced = dict.fromkeys(chosen.attacks, ""), dict.fromkeys(chosen.attacks, "")
    for model in selection.models:
        slabs = store.arrays.slabs(model, norm)
        cells = np.zeros((len(chosen.attacks), len(labels), len(levels)), dtype=np.uint8)
        columns: dict[str, tuple[str, str]] = {}
        flags: list[dict[str, float]] = [{}]
        for position, attack in enumerate(chosen.attacks):
            tasks, values = read(slabs, model, norm, attack)
            for shard, stored in values.items():
                _fill(cells[position], shard, stored["cell"][:, levels])
            columns[attack] = column_state(tasks)
            if attack == chosen.cascade:
                stages.append(count_stages(tasks, values, len(labels), epsilons, chosen.stages))
            if columns[attack][0] == "ok":
                costs[model, norm, attack] = tasks
            records = [task.record for task in tasks if task.record is not None]
            flags.append({})
            for record in records:
                for name, value in record.flags.items():
                    flags[-1][name] = max(value, flags[-1].get(name, value))
                settings[attack] = settings[attack] or _json(record.settings)
                reduced[attack] = reduced[attack] or ", ".join(record.reduced)
        black_box = np.array([attack in chosen.black_box for attack in chosen.attacks], dtype=bool)
        for flag, share in zip(flags[1:], only_black_box(cells, black_box), strict=True):
            if not np.isnan(share):
                flag["only_black_box"] = float(share)
        members = np.array([columns[attack][0] != "skipped" for attack in chosen.attacks], dtype=bool)
        counts.append(aggregate_norm(cells, labels, len(store.class_names), members))
        states.append([worst_case_state(columns), *columns.values()])
        warnings.append(flags)
    names = sorted({name for rows in warnings for row in rows for name in row})
    status = np.array([[STATUS[state] for state, _ in row] for row in states], dtype=np.uint8)
    staged = stage_values(chosen.stages, stages) if chosen.cascade else {}
    return {
        **staged,
        "model": list(selection.models),
        "class": store.class_names,
        "epsilon": epsilons,
        "epsilon_label": [texts[level] for level in levels],
        "attack": [WORST_CASE, *chosen.attacks],
        "flag": names,
        "settings": ["", *settings.values()],
        "reduced": ["", *reduced.values()],
        "robust_accuracy": np.stack([count.robust_accuracy for count in counts]),
        "correct": np.stack([count.correct for count in counts]),
        "inferred": np.stack([count.inferred for count in counts]),
        "evaluated": np.stack([count.evaluated for count in counts]),
        "overruled": np.stack([count.overruled for count in counts]),
        "total": np.bincount(labels, minlength=len(store.class_names)),
        "status": status,
        "reason": [[reason for _, reason in row] for row in states],
        "members": (status != STATUS["skipped"]) & (np.arange(status.shape[1]) > 0),
        "flags": _grid(warnings, names),
    }


def _cost(selection: Selection, costs: Mapping[tuple[str, str, str], list[State]]) -> dict[str, Any]:
    norms = list(selection.norms)
    attacks = list(dict.fromkeys(attack for chosen in selection.norms.values() for attack in chosen.attacks))
    shape = (len(selection.models), len(norms), len(attacks), len(STAGES))
    seconds = np.full(shape, np.nan)
    forwards, backwards = np.full((2, *shape), UNKNOWN, dtype=np.int64)
    for (model, norm, attack), tasks in costs.items():
        index = selection.models.index(model), norms.index(norm), attacks.index(attack)
        records = [task.record for task in tasks if task.record is not None]
        seconds[index] = [
            sum(math.nan if record.seconds is None else record.seconds for record in records),
            sum(math.nan if r.verification_seconds is None else r.verification_seconds for r in records),
        ]
        forwards[index] = sum(r.forwards for r in records), sum(r.verification for r in records)
        backwards[index] = sum(record.backwards for record in records), 0
    return {
        "model": list(selection.models),
        "norm": norms,
        "attack": attacks,
        "stage": list(STAGES),
        "seconds": seconds,
        "forwards": forwards,
        "backwards": backwards,
    }


def _column(
    store: CubeStore,
    selection: Selection,
    withdraw: bool,
    slabs: _Values | None,
    model: str,
    norm: str,
    attack: str = "",
) -> tuple[list[State], dict[int, _Values]]:
    """Return the states of a column's tasks and, by shard, the arrays of those whose record holds true."""
    states = task_states(store, selection, model, norm, attack)
    values = {}
    for shard, state in enumerate(list(states)):
        task = Task(model, norm, attack, shard)
        if state.record is None:
            continue
        stored = store.arrays.read(task, state.record, slabs, evidence=False)  # no number rests on it here
        if stored is not None:
            values[shard] = stored
        else:
            if withdraw:
                store.journal.begin(task)
            status = "pending" if state.status == "ok" else state.status
            states[shard] = State(status, state.reason or DAMAGED)
    return states, values


def _fill(target: npt.NDArray[Any], shard: int, values: npt.NDArray[Any]) -> None:
    part = target[shard * SHARD : shard * SHARD + len(values)]
    part[...] = values[: len(part)]


def _grid(warnings: Sequence[Sequence[Mapping[str, float]]], names: Sequence[str]) -> npt.NDArray[np.float64]:
    grid = np.full((len(warnings), len(warnings[0]) if warnings else 0, len(names)), np.nan)
    for model, rows in enumerate(warnings):
        for attack, row in enumerate(rows):
            grid[model, attack] = [row.get(name, np.nan) for name in names]
    return grid


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)
