"""From the ``[[shifts]]`` tables of a study to shifted test sets."""

from __future__ import annotations

from collections.abc import Callable

from metaeval.errors import Problem, StudyError
from metaeval.registry import resolve
from metaeval.sources.data import Samples
from metaeval.sources.shifts.shift import Shift
from metaeval.study import Study

SOURCES = {
    "cifar10.1": "metaeval.sources.shifts.published:open_cifar101",
    "cifar10-c": "metaeval.sources.shifts.published:open_cifar_c",
    "cifar100-c": "metaeval.sources.shifts.published:open_cifar_c",
    "imagenet-c": "metaeval.sources.shifts.imagenet_c:open_imagenet_c",
    "corruptions": "metaeval.sources.shifts.own:open_corruptions",
    "data": "metaeval.sources.shifts.own_data:open_test_set",
    "callable": "metaeval.sources.shifts.own:open_callable",
    "attacked": "metaeval.sources.shifts.own:open_attacked",
}


def open_shifts(study: Study, samples: Samples, *, limit: int | None = None) -> tuple[Shift, ...]:
    """Open all shifts of a study, in its order; inputs are not read.

    Parameters
    ----------
    limit : int, optional
        Use at most so many samples of each.

    Raises
    ------
    StudyError
        With every problem found.
    """
    shifts: list[Shift] = []
    problems: list[Problem] = []
    missing = True
    for i, table in enumerate(study.shifts):
        source: Callable[..., list[Shift]] = resolve(SOURCES[table.source])
        try:
            shifts += source(study, i, samples, limit)
        except StudyError as error:
            problems += error.problems
            missing = missing and error.exit_code == 4
    if problems:
        raise StudyError(problems, missing=missing)
    return tuple(shifts)
