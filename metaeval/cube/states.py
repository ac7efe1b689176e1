"""What has become of a task and of a column, for the aggregates and for `metaeval status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from metaeval.cube.journal import CLEAN, Journal, Record, Task, covers
from metaeval.cube.layout import SHIFT
from metaeval.cube.selection import Selection
from metaeval.cube.store import CubeStore


@dataclass(frozen=True)
class State:
    """A task's status (a key of `layout.STATUS`), why it is not ok, and the record that counts, if any.

    A record may count though the status is not ok: what it covers is there, but the plan asks for more.
    """

    status: str
    reason: str = ""
    record: Record | None = None


def task_state(
    journal: Journal,
    task: Task,
    identity: str | None,
    sample_hashes: Sequence[str],
    epsilons: Iterable[float],
) -> State:
    """Return what has become of a task that should cover these samples and radii.

    Records, failures and skips of another identity do not count; with None any identity does.
    """
    record = journal.read(task)
    failure, skip = journal.failure(task), journal.skip(task)
    if identity is not None:
        record = record if record is not None and record.identity == identity else None
        failure = failure if failure is not None and failure.identity in ("", identity) else None
        skip = skip if skip is not None and skip.identity in ("", identity) else None
    elif record is not None and failure is not None and failure.identity not in ("", record.identity):
        record = None  # the latest attempt was at another column
    if record is not None and covers(record, record.identity, sample_hashes, epsilons):
        return State("ok", record=record)
    if failure is not None:
        return State("failed", failure.reason, record)
    if skip is not None:
        return State("skipped", skip.reason, record)
    return State("pending", record=record)


def task_states(
    store: CubeStore, selection: Selection, model: str, norm: str, attack: str = ""
) -> list[State]:
    """Return the states of a column's tasks, shard by shard.

    The norm is "clean" for the forward pass, "shift" for that on the shift which `attack` names.
    """
    hashes, samples = store.sample_hashes, selection.samples
    epsilons: Sequence[float] = ()
    if norm == SHIFT:
        hashes, samples = store.axes.shifts[attack].hashes, selection.shifts[attack].samples
        epsilons = selection.shifts[attack].severities
    elif norm != CLEAN:
        epsilons = selection.norms[norm].epsilons
    states = []
    for shard in range(store.shards(samples)):
        task, rows = Task(model, norm, attack, shard), store.rows(shard, samples)
        states.append(task_state(store.journal, task, selection.identity(task), hashes[rows], epsilons))
    return one_identity(states)


def column_state(states: Sequence[State]) -> tuple[str, str]:
    """Return a column's status and reason from those of its tasks.

    One failed task makes it failed; skipped means that every task was skipped; ok that every task is ok.
    """
    statuses = Counter(state.status for state in states)
    reasons = sorted({state.reason for state in states if state.status == "failed" and state.reason})
    if statuses["failed"]:
        return "failed", "; ".join(reasons)
    if states and statuses["skipped"] == len(states):
        return "skipped", "; ".join(sorted({state.reason for state in states if state.reason}))
    if states and statuses["ok"] == len(states):
        return "ok", ""
    return "pending", "; ".join(sorted({state.reason for state in states if state.reason}))


def worst_case_state(columns: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Return the worst case's status and reason, given its attacks'; skipped attacks are no members."""
    members = {attack: state for attack, state in columns.items() if state[0] != "skipped"}
    if not members:
        return "skipped", "no attack applies"
    for status in ("failed", "pending"):
        named = [
            f"{attack}: {reason}" if reason else attack
            for attack, (s, reason) in members.items()
            if s == status
        ]
        if named:
            return status, "; ".join(named)
    return "ok", ""


def one_identity(states: Sequence[State]) -> list[State]:
    """Return tasks' states of one column with none counted if their records are of different identities."""
    identities = {state.record.identity for state in states if state.record is not None}
    if len(identities) <= 1:
        return list(states)
    reason = "its parts were computed with different settings or weights"
    return [State(s.status if s.status == "failed" else "pending", s.reason or reason) for s in states]
