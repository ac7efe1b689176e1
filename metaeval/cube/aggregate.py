"""From sample arrays and records to the published aggregates: `/clean`, one group per norm, `/cost`."""

from __future__ import annotations

from metaeval.cube.selection import Selection
from metaeval.cube.store import CubeStore


def rebuild(store: CubeStore, selection: Selection) -> None:
    """Rebuild every aggregate from the records and the arrays they vouch for, and consolidate last.

    Needs the layout lock exclusively. A task whose stored values do not match its record counts as pending,
    and its record is withdrawn, so that the next run computes it again.
    """
