"""Which part of a store the aggregates cover: the current study's models, attacks, epsilons and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from metaeval.cube.journal import CLEAN, Task
from metaeval.cube.measures import MeasureSelection


@dataclass(frozen=True)
class NormSelection:
    """One norm's attacks and epsilons, in the study's order.

    `identities` maps model to attack to the identity of the column that the study wants; a stored column
    of another identity counts as pending. None: any identity will do, as long as it is one per column.
    `black_box` names the attacks that use outputs only: what they alone break speaks against the others.
    `cascade` is the one of the attacks that is a cascade, "" without one, and `stages` are its attacks.
    """

    attacks: tuple[str, ...]
    epsilons: tuple[float, ...]
    identities: Mapping[str, Mapping[str, str]] | None = None
    black_box: tuple[str, ...] = ()
    cascade: str = ""
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """What the aggregates cover; stored in the cube, so that they can be rebuilt from the cube alone.

    `samples` is the number of first samples; `clean_identities` maps model to the identity of its clean
    forward pass, as `NormSelection.identities` does for columns; `measures` is None if none are asked for.
    """

    models: tuple[str, ...]
    samples: int
    norms: Mapping[str, NormSelection] = field(default_factory=dict)
    clean_identities: Mapping[str, str] | None = None
    measures: MeasureSelection | None = None

    def identity(self, task: Task) -> str | None:
        """Return the identity that a task should have; None if any will do, "" (no record's) if not known."""
        if task.norm == CLEAN:
            return None if self.clean_identities is None else self.clean_identities.get(task.model, "")
        identities = self.norms[task.norm].identities
        return None if identities is None else identities.get(task.model, {}).get(task.attack, "")

    def to_json(self) -> str:
        """Return the selection as the text that the cube's root attribute `selection` holds."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """Return the selection that `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Selection:
        """Return the selection that a plain dictionary of the same keys describes."""
        norms = {
            norm: NormSelection(
                tuple(value["attacks"]),
                tuple(float(epsilon) for epsilon in value["epsilons"]),
                value.get("identities"),
                tuple(value.get("black_box", ())),
                value.get("cascade", ""),
                tuple(value.get("stages", ())),
            )
            for norm, value in content.get("norms", {}).items()
        }
        measures = content.get("measures")
        return cls(
            tuple(content["models"]),
            int(content["samples"]),
            norms,
            content.get("clean_identities"),
            None if measures is None else MeasureSelection.from_dict(measures),
        )
