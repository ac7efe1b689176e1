"""What evaluating shifts will cost, for `metaeval.runner.forecast`."""

from __future__ import annotations

from typing import Any

from metaeval.cube.journal import Journal
from metaeval.cube.shift_store import shift_task
from metaeval.runner.prepare import Prepared
from metaeval.runner.shift_plan import ShiftTask


def shift_rows(prepared: Prepared) -> list[dict[str, Any]]:
    """Return one row per shift: what it is, how many samples, and passes for each sample and model."""
    return [
        {
            "shift": plan.shift.name,
            "kind": plan.shift.kind,
            "severities": [severity for severity in plan.shift.severities if severity],
            "samples": len(plan.shift),
            "paired": all(position >= 0 for position in plan.shift.clean),
            "forwards": plan.cost.forwards,
            "backwards": plan.cost.backwards,
        }
        for plan in prepared.shifts
    ]


def shift_cells(row: dict[str, Any]) -> list[Any]:
    """Return a row as the command line prints it, in the order of `HEADER`."""
    severities = ",".join(map(str, row["severities"])) or "-"
    samples = f"{row['samples']:,}" + (" paired" if row["paired"] else "")
    return [
        row["shift"],
        row["kind"],
        severities,
        samples,
        f"{row['forwards']:,.0f}",
        f"{row['backwards']:,.0f}",
    ]


HEADER = ["shift", "kind", "severities", "samples", "forwards/sample", "backwards/sample"]


def is_recorded(journal: Journal, task: ShiftTask) -> bool:
    """Tell whether a task's record holds enough samples and severities; their content is not read."""
    record = journal.read(shift_task(task.model, task.plan.shift.name, task.shard))
    needed = task.stop - task.start
    return record is not None and all(
        record.epsilons.get(float(severity), 0) >= needed for severity in task.plan.shift.severities
    )
