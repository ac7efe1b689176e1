"""Data in one NumPy ``.npz`` file: an array of inputs and an array of labels per split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from metaeval.errors import StudyError, nearest
from metaeval.sources.data.archives import DAMAGE
from metaeval.sources.data.arrays import Named, array_dataset, integer_labels
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.opening import refuse, split_key
from metaeval.study import Study
from metaeval.study.inputs import NpzData


def open_npz(study: Study, split: str) -> Dataset:
    """Open the arrays of one split.

    Inputs are uint8 images (divided by 255) or floats in [0, 1] with shape (n, features), (n, height, width)
    or (n, height, width, channels) in either order of the channels; labels are integers from 0.

    Raises
    ------
    StudyError
        If the file is missing, damaged or a pickle, an array is missing, or shapes, range, labels or layout
        are not as said above.
    """
    data = study.data
    assert isinstance(data, NpzData)
    arrays = _Arrays(study, data)
    x_key, y_key = data.x.replace("{split}", split), data.y.replace("{split}", split)
    arrays.require(x_key, "x", split)
    arrays.require(y_key, "y", split)
    named = (Named(repr(x_key), "x"), Named(repr(y_key), "y"))
    y = arrays.read(y_key, "y")
    return array_dataset(
        study, split, arrays.read(x_key, "x"), y, names=named, others=arrays.other_labels(data, y_key)
    )


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    """Open a file of arrays; it is closed whatever happens, which `numpy.load` alone does not see to."""
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, NpzFile):
            raise ValueError("it holds one array, without a name")
        with arrays:
            yield arrays


class _Arrays:
    """The arrays of an ``.npz`` file, read one by one; damage is a problem of the study."""

    def __init__(self, study: Study, data: NpzData) -> None:
        self._study, self._path = study, data.path
        if not data.path.exists():
            problem = study.problem(("data", "path"), f"there is no file {data.path}")
            raise StudyError([problem], missing=True)
        try:
            with _opened(data.path) as arrays:
                self.names = list(arrays.files)
        except DAMAGE as error:
            raise refuse(study, "path", f"{data.path.name} is no .npz file, or damaged: {error}") from None

    def require(self, name: str, key: str, split: str) -> None:
        if name not in self.names:
            written = key in self._study.data.model_fields_set
            place = ("data", key) if written else split_key(self._study, split)
            message = f"{self._path.name} has no array {name!r}; it has: {', '.join(self.names)}"
            if not written:
                message += f" (data.{key} names another array)"
            near = nearest(name, self.names) if written else None
            raise StudyError([self._study.problem(place, message, near)])

    def read(self, name: str, key: str) -> npt.NDArray[Any]:
        try:
            with _opened(self._path) as arrays:
                array: npt.NDArray[Any] = arrays[name]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise refuse(self._study, key, f"{name!r} of {self._path.name} is damaged: {error}") from None
            message = (
                f"{name!r} of {self._path.name} holds Python objects, which are not read: they can run code"
            )
            raise refuse(self._study, key, message) from None
        except DAMAGE as error:
            raise refuse(self._study, key, f"{name!r} of {self._path.name} is damaged: {error}") from None
        return array

    def other_labels(self, data: NpzData, known: str) -> list[npt.NDArray[np.int64]]:
        """Return the labels of the other split, which may hold other classes."""
        found = []
        for split in (data.split, data.train_split):
            name = data.y.replace("{split}", split)
            # A fault in the other split's labels is reported when that split is opened.
            if name in self.names and name != known:
                with suppress(StudyError):
                    found.append(integer_labels(self._study, self.read(name, "y"), Named(repr(name), "y")))
        return found
