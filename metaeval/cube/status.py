"""How far a study's tasks are, from the journal alone."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from metaeval.cube.journal import CLEAN, Task
from metaeval.cube.measures import MEASURES, measure_states
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.states import column_state, task_states
from metaeval.cube.store import CubeStore


@dataclass(frozen=True)
class ColumnStatus:
    """One column's tasks by status; the clean forward pass has the norm "clean" and no attack, a measure the
    norm "measures", its name for an attack, and scopes for tasks (undefined or unsupported ones are skipped).

    `interrupted` are those of `pending` that were being written when their process ended.
    """

    model: str
    norm: str
    attack: str
    status: str
    pending: int
    ok: int
    failed: int
    skipped: int
    interrupted: int
    reason: str


def status(directory: str | os.PathLike[str]) -> list[ColumnStatus]:
    """Return how far each column is, in the order of the study.

    Covers what the study last run here asks for, or everything in the store if that is not known. Records are
    believed; `metaeval.cube.verify` compares them with what is stored.

    Raises
    ------
    MissingInputError
        If there is no cube in the folder.
    """
    store = CubeStore.open(directory)
    selection = store.selection() or everything(store)
    rows = []
    for model in selection.models:
        rows.append(_column(store, selection, model, CLEAN, ""))
        for norm, chosen in selection.norms.items():
            rows += [_column(store, selection, model, norm, attack) for attack in chosen.attacks]
        rows += _measures(store, selection, model)
    return rows


def everything(store: CubeStore) -> Selection:
    """Return the selection of all that a store has."""
    norms = {
        norm: NormSelection(tuple(store.attacks(norm)), tuple(store.epsilons(norm).tolist()))
        for norm in store.norms
    }
    return Selection(tuple(store.models), len(store.sample_hashes), norms)


def _measures(store: CubeStore, selection: Selection, model: str) -> list[ColumnStatus]:
    if selection.measures is None:
        return []
    rows = []
    for name, counts, reason in measure_states(store.journal, selection.measures, model):
        skipped = counts["skipped"] + counts["undefined"] + counts["unsupported"]
        states = {"failed": counts["failed"], "pending": counts["pending"], "ok": counts["ok"]}
        state = next((word for word, count in states.items() if count), "skipped")
        rows.append(
            ColumnStatus(
                model, MEASURES, name, state, **states, skipped=skipped, interrupted=0, reason=reason
            )
        )
    return rows


def _column(store: CubeStore, selection: Selection, model: str, norm: str, attack: str) -> ColumnStatus:
    states = task_states(store, selection, model, norm, attack)
    counts = Counter(state.status for state in states)
    interrupted = sum(store.journal.is_open(Task(model, norm, attack, shard)) for shard in range(len(states)))
    state, reason = column_state(states)
    return ColumnStatus(
        model,
        norm,
        attack,
        state,
        counts["pending"],
        counts["ok"],
        counts["failed"],
        counts["skipped"],
        interrupted,
        reason,
    )
