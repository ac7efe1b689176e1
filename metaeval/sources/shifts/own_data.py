"""A test set of its own as a shift: any table like ``[data]``, with the study's classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaeval.errors import Problem, StudyError
from metaeval.sources.data import Dataset, Samples, open_data, take
from metaeval.sources.data.dataset import Indices
from metaeval.sources.shifts.shift import Content, Shift
from metaeval.study import Study
from metaeval.study.origin import Origin
from metaeval.study.positions import Loc
from metaeval.study.schema import DataShift


@dataclass(frozen=True)
class _Within(Origin):
    """An origin whose ``data`` is the one of a shift."""

    shift: int = 0

    def problem(self, loc: Loc, message: str, suggestion: str | None = None) -> Problem:
        place = ("shifts", self.shift, *loc) if loc[:1] == ("data",) else loc
        return super().problem(place, message, suggestion)


def within(study: Study, i: int, table: DataShift) -> Study:
    """Return a study whose ``[data]`` is that of ``shifts[i]``, where its problems are placed."""
    inner = study.model_copy(update={"data": table.data})
    origin = study.origin
    inner._origin = _Within(origin.path, origin.document, origin.positions, shift=i)
    return inner


def open_test_set(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Open the test set of ``shifts[i]``.

    Raises
    ------
    StudyError
        If the data are missing or damaged, or inputs and classes are not those of the study.
    """
    table = study.shifts[i]
    assert isinstance(table, DataShift)
    inner = within(study, i, table)
    data = open_data(inner, table.data.split)
    if data.shape != samples.x.shape[1:]:
        message = f"its inputs have the shape {data.shape}, and those of the study {samples.x.shape[1:]}"
        raise StudyError([inner.problem(("data", "source"), message)])
    labels = _labels(inner, data, samples.class_names)
    taken = take(inner, data, limit=limit)
    return [
        Shift(
            name=table.name,
            kind="test set",
            severities=(0,),
            ids=taken.ids,
            clean=(-1,) * len(taken.y),
            settings={"source": "data"},
            describe=lambda: Content(labels[taken.y], taken.hashes),
            read=lambda _severity, rows: taken.x[rows],
        )
    ]


def _labels(study: Study, data: Dataset, class_names: tuple[str, ...]) -> Indices:
    """Return the study's label for each label of the data: by the classes' names where they have some."""
    names, numbers = data.class_names, tuple(str(label) for label in range(len(data.class_names)))
    if set(names) <= set(class_names):
        return np.array([class_names.index(name) for name in names], dtype=np.int64)
    if names == numbers and len(names) <= len(class_names):
        return np.arange(len(names), dtype=np.int64)
    other = next(name for name in names if name not in class_names)
    message = f"the class {other!r} is none of the study's: {', '.join(class_names[:10])}"
    raise StudyError([study.problem(("data", "source"), message)])
