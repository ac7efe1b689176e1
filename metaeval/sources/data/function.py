"""Arrays from a callable of the user."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval import registry
from metaeval.errors import StudyError, UsageError
from metaeval.sources.data.arrays import Labels, Named, array_dataset, integer_labels
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.opening import refuse
from metaeval.study import Study
from metaeval.study.data_tables import CallableData

KEY = "function"


def open_callable(study: Study, split: str) -> Dataset:
    """Open what ``function(split)`` returns: inputs and labels as the arrays of an ``.npz`` file.

    Raises
    ------
    StudyError
        If there is no such callable, it raises, or returns something else.
    """
    data = study.data
    assert isinstance(data, CallableData)
    x, y = _call(study, data, split)
    others: list[Labels] = []
    for other in {data.split, data.train_split} - {split}:
        with suppress(StudyError):  # reported when that split is opened
            others.append(integer_labels(study, _call(study, data, other)[1], Named("labels", KEY)))
    said = f"{data.function}({split!r})"
    names = (Named(f"inputs of {said}", KEY), Named(f"labels of {said}", KEY))
    return array_dataset(study, split, x, y, names=names, others=others)


def _call(study: Study, data: CallableData, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        function = registry.resolve(data.function)
    except UsageError as error:
        raise refuse(study, KEY, str(error)) from None
    said = f"{data.function}({split!r})"
    try:
        found = function(split)
    except Exception as error:
        raise refuse(study, KEY, f"{said} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, tuple) or len(found) != 2:
        message = f"{said} returned {type(found).__name__}, not a pair of inputs and labels"
        raise refuse(study, KEY, message)
    return np.asarray(found[0]), np.asarray(found[1])
