"""What a shifted test set gives: labels and hashes at once, inputs a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metaeval.sources.data.dataset import Inputs
from metaeval.study.shift_inputs import AttackedShift


class Content(NamedTuple):
    """Labels int64 (n,), and a content hash per sample of all that the shift is made from."""

    labels: npt.NDArray[np.int64]
    hashes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Shift:
    """One shifted test set.

    Attributes
    ----------
    name, kind : str
        Its name in the study, and what it is: "corruption", "test set", "transformed" or "attacked".
    severities : tuple of int
        (0,) where the shift has none.
    ids : tuple of str
        One name per sample.
    clean : tuple of int
        Positions of the originals among the study's samples, -1 without one.
    settings : mapping
        What decides the inputs beyond the samples' hashes, as JSON can say it.
    describe : callable
        Returns the `Content`; may read or transform every sample.
    read : callable
        From a severity and a slice of samples to float32 inputs in [0, 1].
    attack : AttackedShift, optional
        The attack whose copies these are: `read` then gives the originals.
    """

    name: str
    kind: str
    severities: tuple[int, ...]
    ids: tuple[str, ...]
    clean: tuple[int, ...]
    settings: Mapping[str, Any]
    describe: Callable[[], Content] = field(repr=False)
    read: Callable[[int, slice], Inputs] = field(repr=False)
    attack: AttackedShift | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def content(self) -> Content:
        """Labels and hashes, read once."""
        return self.describe()
