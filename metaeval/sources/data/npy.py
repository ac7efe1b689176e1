"""Arrays in two ``.npy`` files per split."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.errors import StudyError
from metaeval.sources.data.archives import DAMAGE
from metaeval.sources.data.arrays import Labels, Named, array_dataset, integer_labels
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.opening import of_split, refuse
from metaeval.study import Study
from metaeval.study.data_tables import NpyData


def open_npy(study: Study, split: str) -> Dataset:
    """Open a file of inputs and a file of labels, which hold what the arrays of an ``.npz`` file hold.

    Raises
    ------
    StudyError
        If a file is missing, damaged or a pickle, or the arrays are not what they should be.
    """
    data = study.data
    assert isinstance(data, NpyData)
    x_path, y_path = of_split(data.x, split), of_split(data.y, split)
    names = (Named(x_path.name, "x"), Named(y_path.name, "y"))
    x, y = _array(study, x_path, "x"), _array(study, y_path, "y")
    return array_dataset(study, split, x, y, names=names, others=_other_labels(study, data, y_path))


def _array(study: Study, path: Path, key: str) -> npt.NDArray[Any]:
    if not path.is_file():
        raise StudyError([study.problem(("data", key), f"there is no file {path}")], missing=True)
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.ndarray):
                raise ValueError("it holds several arrays; source 'npz' reads those")
            return found
    except DAMAGE as error:
        reason = "it holds Python objects, which can run code" if "allow_pickle" in str(error) else str(error)
        raise refuse(study, key, f"{path.name} is no .npy file, or damaged: {reason}") from None


def _other_labels(study: Study, data: NpyData, known: Path) -> list[Labels]:
    """Return the labels of the other split, which may hold other classes."""
    found = []
    for split in (data.split, data.train_split):
        path = of_split(data.y, split)
        if path != known and path.is_file():
            with suppress(StudyError):  # reported when that split is opened
                found.append(integer_labels(study, _array(study, path, "y"), Named(path.name, "y")))
    return found
