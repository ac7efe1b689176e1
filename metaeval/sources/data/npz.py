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
from metaeval.sources.data.dataset import Dataset, Indices, Inputs
from metaeval.sources.data.opening import refuse, split_key
from metaeval.study import Study
from metaeval.study.inputs import NpzData

CHANNELS = (1, 3)  # what the size of an axis must be for it to be taken as channels


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
    labels = _labels(study, arrays.read(y_key, "y"), y_key)
    x = arrays.read(x_key, "x")
    if len(x) != len(labels):
        raise refuse(study, "y", f"{y_key!r} has {len(labels)} labels for {len(x)} inputs in {x_key!r}")
    if len(x) == 0:
        raise refuse(study, "x", f"{x_key!r} holds no samples")
    _check_range(study, x, x_key)
    x = _channels_first(study, data, x, x_key)
    class_names = _class_names(study, data, max(arrays.highest_labels([labels], data)) + 1)

    def read(indices: Indices) -> Inputs:
        chosen = x[indices]
        # Divided in float32, as torchvision does: the published networks saw exactly these numbers.
        return (
            chosen.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else chosen.astype(np.float32)
        )

    return Dataset(
        name=data.name,
        split=split,
        labels=labels,
        sample_ids=tuple(f"{split}/{i}" for i in range(len(labels))),
        class_names=class_names,
        shape=x.shape[1:],
        read=read,
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

    def highest_labels(self, known: list[npt.NDArray[np.int64]], data: NpzData) -> list[int]:
        """Return the highest label of known labels and of the other split's, which may hold more classes."""
        highest = [int(labels.max()) for labels in known]
        for split in {data.split, data.train_split}:
            name = data.y.replace("{split}", split)
            # A fault in the other split's labels is reported when that split is opened.
            if name in self.names:
                with suppress(StudyError):
                    highest.append(int(_labels(self._study, self.read(name, "y"), name).max(initial=-1)))
        return highest


def _labels(study: Study, y: npt.NDArray[Any], key: str) -> npt.NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:  # the layout of Keras' CIFAR files
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        hint = "; one class index per sample was expected, not one-hot rows" if y.ndim == 2 else ""
        raise refuse(study, "y", f"labels must be integers with shape (n,); {key!r} is {_describe(y)}{hint}")
    labels = y.astype(np.int64)
    if labels.size and labels.min() < 0:
        at = int(np.argmax(labels < 0))
        raise refuse(study, "y", f"labels start at 0; {key!r} has {labels[at]} at index {at}")
    return labels


def _check_range(study: Study, x: npt.NDArray[Any], key: str) -> None:
    """Refuse what is neither uint8 nor floats in [0, 1]: a guess would go unnoticed into every number."""
    if x.dtype == np.uint8:
        return
    if not np.issubdtype(x.dtype, np.floating):
        message = f"inputs must be uint8 or floats in [0, 1]; {key!r} is {_describe(x)}"
        raise refuse(study, "x", message)
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise refuse(study, "x", f"inputs must be finite; {key!r} has {x[at]} at index {list(at)}")
    if low < 0 or high > 1:
        message = f"inputs must lie in [0, 1]; {key!r} goes from {low:g} to {high:g}"
        if low >= 0 and 1 < high <= 255:
            message += "; divide by 255, or store 8-bit images as uint8"
        elif low < 0:
            message += "; store the data without normalisation and set normalize of the models instead"
        raise refuse(study, "x", message)


def _channels_first(study: Study, data: NpzData, x: npt.NDArray[Any], key: str) -> npt.NDArray[Any]:
    """Return inputs as (n, channels, height, width), or (n, features) as they are."""
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        message = f"inputs must be (n, features), (n, h, w) or have channels; {key!r} is {_describe(x)}"
        raise refuse(study, "x", message)
    layout: str = data.layout
    if layout == "auto":
        first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
        if first == last:
            said = (
                "channels could be first or last"
                if first
                else "neither first nor last axis has 1 or 3 channels"
            )
            raise refuse(study, "layout", f"{key!r} is {_describe(x)}: {said}; set layout", "channels_first")
        layout = "channels_first" if first else "channels_last"
    return x if layout == "channels_first" else x.transpose(0, 3, 1, 2)


def _class_names(study: Study, data: NpzData, classes: int) -> tuple[str, ...]:
    names = data.class_names or tuple(str(label) for label in range(classes))
    if len(names) < classes:
        message = f"{len(names)} names for {classes} classes: the highest label is {classes - 1}"
        raise refuse(study, "class_names", message)
    return tuple(names)


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} with shape {array.shape}"
