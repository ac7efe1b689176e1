"""The cube while it grows: axes, columns, records.

Locks are the caller's (`metaeval.cube.locks`): whoever changes axes, models, attributes or aggregates holds the layout
lock exclusively; whoever writes columns holds it shared, and no two write the same task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.cube.journal import Record

Real = npt.NDArray[np.float64]
Integer = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One attack's results for one model on the samples of one shard, rows in the order of the samples.

    `distance` and `searched` are float64 norms, `forwards` and `backwards` int64 counts (each `(sample,)`),
    `cell` is uint8 `(sample, level)` with the levels in the store's order; 0 where a level was not asked for.
    """

    distance: Real
    searched: Real
    forwards: Integer
    backwards: Integer
    cell: npt.NDArray[np.uint8]


class CubeStore:
    """A cube being written, at `directory` (`cube.zarr` and `journal/` inside it)."""

    @classmethod
    def open_or_create(cls, directory: str | os.PathLike[str]) -> CubeStore:
        """Open the cube in a folder, creating what is missing and finishing an interrupted growth.

        Raises
        ------
        UsageError
            If the folder holds a cube of another format version.
        """

    directory: Path
    path: Path
    """The zarr folder, `directory / "cube.zarr"`."""

    # Axes, read only.
    @property
    def models(self) -> list[str]: ...
    @property
    def sample_hashes(self) -> list[str]: ...
    @property
    def labels(self) -> Integer: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def norms(self) -> list[str]: ...
    def attacks(self, norm: str) -> list[str]: ...
    def epsilons(self, norm: str) -> Real:
        """Radii of the store's levels, in order of arrival: the second axis of `Column.cell`."""
    def rows(self, shard: int, samples: int | None = None) -> slice:
        """Samples of a shard, of the first `samples` (default: all in the store)."""
    def shards(self, samples: int | None = None) -> int:
        """Number of shards that the first `samples` fall into."""

    # Growing (layout lock held exclusively). All are idempotent and append only.
    def set_attributes(self, attributes: Mapping[str, str | int | float | list[str]]) -> None: ...
    def ensure_samples(
        self, ids: Sequence[str], hashes: Sequence[str], labels: npt.ArrayLike, class_names: Sequence[str], logits: int
    ) -> None: ...
    def ensure_models(self, names: Sequence[str]) -> None: ...
    def ensure_norm(self, norm: str, attacks: Sequence[str], epsilons: Sequence[tuple[float, str]]) -> None: ...
    def write_models(self, names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None: ...

    # Clean forward pass.
    def write_clean(
        self, model: str, shard: int, prediction: npt.ArrayLike, logits: npt.ArrayLike, *, identity: str,
        seconds: float | None = None, versions: Mapping[str, str] | None = None,
    ) -> Record: ...
    def clean_record(self, model: str, shard: int) -> Record | None: ...
    def read_clean(self, model: str, shard: int, identity: str) -> tuple[Integer, npt.NDArray[np.float32], Record] | None: ...
    def fail_clean(self, model: str, shard: int, reason: str, *, identity: str = "") -> None: ...

    # Columns.
    def write_column(
        self, model: str, norm: str, attack: str, shard: int, column: Column, *, identity: str,
        settings: Mapping[str, Any], reduced: Sequence[str] = (), seconds: float | None = None,
        verification: int = 0, verification_seconds: float | None = None,
        flags: Mapping[str, float] | None = None, versions: Mapping[str, str] | None = None,
    ) -> Record: ...
    def record(self, model: str, norm: str, attack: str, shard: int) -> Record | None: ...
    def read_column(self, model: str, norm: str, attack: str, shard: int, identity: str) -> tuple[Column, Record] | None: ...
    def fail_column(self, model: str, norm: str, attack: str, shard: int, reason: str, *, identity: str = "") -> None: ...
    def skip_column(self, model: str, norm: str, attack: str, shard: int, reason: str, *, identity: str = "") -> None: ...
