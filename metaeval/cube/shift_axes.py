"""The axes of one shifted test set: its samples and severities, and what its group of arrays looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metaeval.cube.layout import SAMPLES_SHIFT, SHIFT_GROUP, Variable

KINDS = ("corruption", "test set", "transformed", "attacked")


@dataclass
class ShiftAxes:
    """Samples and severities of one shift, in order of arrival.

    `clean` holds, for each sample, the position of its original among the cube's samples, -1 without one.
    `norm` is that of the perturbations of attacked copies, else empty.
    """

    kind: str
    norm: str = ""
    ids: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    clean: list[int] = field(default_factory=list)
    severities: list[int] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Return what identifies each sample."""
        return list(zip(self.ids, self.hashes, self.labels, self.clean, strict=True))

    def merged(self, other: ShiftAxes) -> ShiftAxes | None:
        """Return the axes grown to hold the other's; None if these are other samples or another kind."""
        mine, others = self.rows(), other.rows()
        shared = min(len(mine), len(others))
        if (self.kind, self.norm) != (other.kind, other.norm) or mine[:shared] != others[:shared]:
            return None
        longer = self if len(mine) >= len(others) else other
        severities = self.severities + [s for s in other.severities if s not in self.severities]
        return ShiftAxes(
            self.kind, self.norm, longer.ids, longer.hashes, longer.labels, longer.clean, severities
        )

    def variables(self) -> dict[str, Variable]:
        """Return the arrays of the shift's group."""
        return {name: v for name, v in SAMPLES_SHIFT.items() if self.norm or name != "distance"}

    def coordinates(self) -> dict[str, Sequence[Any]]:
        """Return the coordinates of the shift's group that its axes decide."""
        return {
            "severity": self.severities,
            "sample": range(len(self.ids)),
            "label": self.labels,
            "sample_id": self.ids,
            "input_hash": self.hashes,
            "clean": self.clean,
        }

    def to_json(self, ids: Sequence[str], hashes: Sequence[str], labels: Sequence[int]) -> dict[str, Any]:
        """Return the axes as JSON says them: what equals the beginning of the cube's own is its length."""
        positions = range(len(ids))
        return {
            "kind": self.kind,
            "norm": self.norm,
            "severities": self.severities,
            "ids": _packed(self.ids, ids),
            "hashes": _packed(self.hashes, hashes),
            "labels": _packed(self.labels, labels),
            "clean": _packed(self.clean, positions),
        }

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], ids: Sequence[str], hashes: Sequence[str], labels: Sequence[int]
    ) -> ShiftAxes:
        """Return the axes that `to_json` wrote."""
        return cls(
            content["kind"],
            content["norm"],
            _unpacked(content["ids"], ids),
            _unpacked(content["hashes"], hashes),
            _unpacked(content["labels"], labels),
            _unpacked(content["clean"], range(len(ids))),
            content["severities"],
        )


def shift_of(group: str) -> str | None:
    """Return the shift whose samples a group holds, None for another group."""
    return group.removeprefix(SHIFT_GROUP) if group.startswith(SHIFT_GROUP) else None


def _packed(values: Sequence[Any], base: Sequence[Any]) -> int | list[Any]:
    return len(values) if list(values) == list(base[: len(values)]) else list(values)


def _unpacked(content: int | list[Any], base: Sequence[Any]) -> list[Any]:
    return list(base[:content]) if isinstance(content, int) else list(content)
